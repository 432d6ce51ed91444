"""What a path holds (for ``gcdask inspect``): a mosaic, a map, a catalogue, a lens, or a run.

Only headers, metadata and row counts are read, never pixels.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gcdask.errors import InputError
from gcdask.grid import Grid

Rows = list[tuple[str, str]]
TABLES = (".csv", ".ecsv", ".parquet", ".pq", ".txt", ".tsv", ".dat", ".cat", ".vot", ".xml")
FITS = (".fits", ".fit", ".fits.fz", ".fits.gz", ".fit.gz", ".fz")


def describe(path: str | os.PathLike) -> Rows:
    """Describe what ``path`` holds as rows ``(what, value)``.

    Raises
    ------
    InputError
        If there is nothing, or nothing that gcdask knows.
    """
    from gcdask.mosaic.store import is_store

    text = os.fspath(path)
    if text.startswith("builtin:"):
        return _catalog(text)
    file = text.rsplit("[", 1)[0] if text.endswith("]") else text
    if "://" not in text and not os.path.exists(file):
        raise InputError(f"{text} does not exist; check the path")
    folder = Path(text)
    if (folder / "run.json").is_file():
        return _run(folder)
    if is_store(text):
        return _store(text)
    if folder.is_dir():
        if (folder / "_manifest.json").is_file():
            return _catalog(text)
        raise InputError(
            f"{text} is a folder, but no zarr store, catalogue or run; give one of these or a file"
        )
    name = file.lower()
    if name.endswith(".par"):
        return _lens(text)
    if name.endswith(FITS):
        return _fits(text)
    if name.endswith(TABLES):
        return _catalog(text)
    raise InputError(
        f"{text} is of no known kind; give a zarr store, a FITS image or table, a catalogue "
        "(Parquet, ECSV, CSV), a Lenstool .par file, or the folder of a run"
    )


# -- images -----------------------------------------------------------------------------------
def _grid(grid: Grid) -> Rows:
    """Size, pixel, centre and orientation of a grid."""
    ny, nx = grid.shape
    x, y = grid.center
    ra, dec = (float(v) for v in grid.sky(x, y))
    up_ra, up_dec = grid.sky(x, y + grid.step)
    east = (float(up_ra) - ra + 180) % 360 - 180
    angle = np.degrees(np.arctan2(east * np.cos(np.radians(dec)), float(up_dec) - dec))
    scale = grid.pixel_scale
    return [
        ("size", f'{nx} x {ny} px (x, y), {nx * scale:.1f}" x {ny * scale:.1f}"'),
        ("pixel", f'{scale:.5g}"'),
        ("centre", f"RA {ra:.6f}, Dec {dec:+.6f} deg"),
        ("orientation", f"+y at position angle {angle:.2f} deg (north through east)"),
        ("projection", ", ".join(str(c) for c in grid.wcs.wcs.ctype)),
    ]


def _layout(array: Any) -> str:
    shards = f"shards {_shape(array.shards)}, " if array.shards else ""
    return f"{array.dtype} {_shape(array.shape)}, {shards}chunks {_shape(array.chunks)}"


def _shape(shape: Any) -> str:
    return " x ".join(str(n) for n in shape)


def _roots(path: str) -> dict[str, str]:
    """Groups of a store: the store itself, or those in its folder if it has no metadata."""
    folder = Path(path)
    inside = [p for p in folder.glob("*") if (p / "zarr.json").is_file()]
    if (folder / "zarr.json").is_file() or not inside:
        return {"": path}
    return {f"{p.name}/": str(p) for p in sorted(inside)}


def _arrays(root: str) -> dict[str, Any]:
    """All arrays of a group and of the groups in it, by name."""
    import zarr

    found: dict[str, Any] = {}
    # each by its own metadata: those that a parent has consolidated may be older
    group = zarr.open_group(root, mode="r", use_consolidated=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at .* is not recognized as a component")
        members = dict(group.members())
    for name, member in members.items():
        if isinstance(member, zarr.Group):
            found |= {f"{name}/{inner}": a for inner, a in _arrays(f"{root}/{name}").items()}
        else:
            found[name] = member
    return found


def _store(path: str) -> Rows:
    import zarr

    from gcdask.mosaic import open_sources, store

    arrays: dict[str, Any] = {}
    for prefix, root in _roots(path).items():
        store.open_group(root)  # says what is wrong with the store, if anything
        found = _arrays(root)
        arrays |= {prefix + n: found[n] for n in sorted(found) if len(found[n].shape) >= 2}
    if not arrays:
        raise InputError(f"{path} is a zarr group without images; give a mosaic or maps")
    if "sci" in arrays and arrays["sci"].ndim == 3:
        sources = open_sources(path)
        rows = [("kind", "mosaic (zarr)"), ("bands", ", ".join(sources.bands))]
        rows += [("units", sources.units or "none"), *_grid(sources.grid)]
    else:
        rows = [("kind", f"maps (zarr): {', '.join(arrays)}")]
        inside, _, first = next(iter(arrays)).rpartition("/")
        part: Any = zarr.open_group(
            f"{path}/{inside}".rstrip("/"), mode="r", use_consolidated=False
        )
        rows += _grid(store.grid_of(part, first, path))
    for name, array in arrays.items():
        unit = array.attrs.get("units")
        rows.append((name, _layout(array) + (f", {unit}" if unit else "")))
    size = sum(int(array.nbytes) for array in arrays.values())
    return [*rows, ("bytes", f"{size / 1e6:,.1f} MB uncompressed")]


def _fits(path: str) -> Rows:
    from astropy.io import fits as io

    from gcdask.mosaic import fitsio

    file, _ = fitsio.split_extension(path)
    fitsio.check_file(file)
    try:
        with io.open(file) as hdus:
            kinds = [type(hdu).__name__ for hdu in hdus]
            images = [h for h in hdus if h.is_image and h.header.get("NAXIS", 0) >= 2]
    except (OSError, io.VerifyError) as error:
        raise InputError(
            f"{file} is not a readable FITS file ({str(error).splitlines()[0][:80]}); "
            "check the path, or fetch it again"
        ) from None
    if not images and "BinTableHDU" in kinds:
        return _catalog(path)
    if fitsio.is_gzip(file):
        shape = images[0].shape if images else ()
        about = "gzipped FITS: run gcdask ingest on it to read it in windows"
        return [("kind", f"image ({about})"), ("size", f"{_shape(shape[::-1])} px (x, y)")]
    image = fitsio.inspect(path, natural=True, need_wcs=False)
    ny, nx = image.source.shape
    rows = [("kind", "image (FITS)"), ("HDU", f"{image.source.hdu} of {len(kinds)}")]
    rows += [("filter", image.filter)] if image.filter else []
    rows += [("units", "no BUNIT" if image.unit is None else image.unit or "none")]
    rows += [("type", str(image.source.dtype))]
    tiles = image.source.native
    rows += [("tiles", f"compressed in {_shape(tiles)}")] if tiles else []
    if image.grid is None:
        return [*rows, ("size", f"{nx} x {ny} px (x, y)"), ("WCS", "none")]
    return rows + _grid(image.grid)


# -- tables, lenses, runs ---------------------------------------------------------------------
def _catalog(path: str) -> Rows:
    from gcdask import catalog
    from gcdask.catalog import files, formats

    if not path.startswith(files.BUILTIN) and not os.path.isdir(path):
        raw = formats.open_table(path, hdu=None, block=files.BLOCK)
        try:
            formats.plan(raw, None, None, path)
        except InputError:  # no coordinates: a table, but no catalogue
            return _table(raw)
    frame = catalog.read(path)
    units = catalog.units(frame)
    rows = [("kind", "catalogue"), ("rows", f"{len(frame):,}")]
    rows += [("partitions", str(frame.npartitions))]
    if {"ra", "dec"} <= set(frame.columns) and rows[1][1] != "0":
        import dask

        ra, dec = frame["ra"], frame["dec"]
        low_ra, high_ra, low_dec, high_dec = dask.compute(ra.min(), ra.max(), dec.min(), dec.max())
        rows.append(
            ("sky", f"RA {low_ra:.5f} to {high_ra:.5f}, Dec {low_dec:+.5f} to {high_dec:+.5f} deg")
        )
    for name, kind in frame.dtypes.items():
        unit = units.get(str(name))
        rows.append((f"column {name}", f"{kind}{f', {unit}' if unit else ''}"))
    return rows


def _table(raw: Any) -> Rows:
    rows = [("kind", "table (no sky coordinates)"), ("rows", f"{len(raw):,}")]
    for name, kind in raw.empty.dtypes.items():
        unit = raw.units.get(str(name))
        rows.append((f"column {name}", f"{kind}{f', {unit}' if unit else ''}"))
    return rows


def _lens(path: str) -> Rows:
    from gcdask.lensing import read_lenstool

    model = read_lenstool(path)
    ra, dec = model.center
    rows = [
        ("kind", "lens model (Lenstool)"),
        ("potentials", f"{len(model.potentials)}"),
        ("z_lens", f"{model.z_lens:g}"),
        ("centre", f"RA {ra:.6f}, Dec {dec:+.6f} deg"),
        ("cosmology", f"H0 {model.h0:g} km/s/Mpc, Om0 {model.om0:g}"),
    ]
    if len(model.set_aside):
        rows.append(("set aside", f"{len(model.set_aside)} potentials at other redshifts"))
    return rows


def _run(folder: Path) -> Rows:
    from gcdask.pipeline.store import is_valid, read_json

    run, results = read_json(folder / "run.json") or {}, read_json(folder / "results.json") or {}
    done = is_valid(folder)
    rows = [
        ("kind", "run of gcdask"),
        ("status", "finished" if done else "not finished (the same command continues it)"),
    ]
    rows += [(key, str(run[key])) for key in ("version", "started", "finished") if run.get(key)]
    told = ("n_detected", "n_inpainted", "threshold", "masked_fraction", "beta")
    rows += [(key, show_value(results[key])) for key in told if results.get(key) is not None]
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    return [*rows, ("holds", ", ".join(names))]


def show_value(value: Any) -> str:
    """Write a number, or a result ``{value, error, unit}``, shortly."""
    if isinstance(value, dict):
        error, unit = value.get("error"), value.get("unit") or ""
        text = show_value(value.get("value"))
        return f"{text}{f' +- {show_value(error)}' if error is not None else ''} {unit}".strip()
    return f"{value:.5g}" if isinstance(value, float) else str(value)
