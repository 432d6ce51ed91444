"""What a path or URL holds (for ``gcdask inspect``): a mosaic, map, catalogue, lens, run or runs.

Only headers, metadata and row counts are read, never pixels.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from gcdask import storage
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
    text = os.fspath(path)
    if text.startswith("builtin:"):
        return _catalog(text)
    storage.check_url(text)
    file, _ = storage.split_part(text)
    if not storage.is_remote(text) and not os.path.exists(file):
        raise InputError(f"{text} does not exist; check the path")
    name = file.rstrip("/").lower()
    if os.path.isdir(text) or (storage.is_remote(text) and not name.endswith((*FITS, ".par"))):
        return _folder(text)
    if name.endswith(".par"):
        return _lens(text)
    if name.endswith(FITS):
        return _fits(text)
    if name.endswith(TABLES):
        return _catalog(text)
    raise _unknown(text)


def _folder(path: str) -> Rows:
    """Describe what a folder, or a URL, which may be one, holds."""
    from gcdask.mosaic.store import is_store
    from gcdask.pipeline import versions

    name = path.rstrip("/").lower()
    if is_store(path):
        return _store(path)
    if name.endswith(TABLES) or storage.exists(storage.join(path, "_manifest.json")):
        return _catalog(path)
    if storage.exists(storage.join(path, versions.RUN)):
        return _run(path)
    if storage.exists(storage.join(path, versions.LATEST)) or versions.ids(path):
        return _runs(path)
    if storage.is_remote(path):
        if not storage.exists(path):
            raise InputError(f"{path} does not exist; check the address")
        raise _unknown(path)
    raise InputError(
        f"{path} is a folder, but no zarr store, catalogue or run; give one of these or a file"
    )


def _unknown(path: str) -> InputError:
    return InputError(
        f"{path} is of no known kind; give a zarr store, a FITS image or table, a catalogue "
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
    if storage.exists(storage.join(path, "zarr.json")):
        return {"": path}
    groups = {name: storage.join(path, name) for name in storage.names(path)}
    inside = {n: g for n, g in groups.items() if storage.exists(storage.join(g, "zarr.json"))}
    return {f"{name}/": group for name, group in inside.items()} or {"": path}


def _arrays(root: str) -> dict[str, Any]:
    """All arrays of a group and of the groups in it, by name."""
    import zarr

    from gcdask.mosaic import shards

    found: dict[str, Any] = {}
    # each by its own metadata, as those that a parent has consolidated may be older; but web
    # servers list nothing, and only a copy of all metadata says what there is
    group = _group(root, use_consolidated=not shards.lists(root))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at .* is not recognized as a component")
        members = dict(group.members())
    for name, member in members.items():
        if isinstance(member, zarr.Group):
            below = _arrays(storage.join(root, name))
            found |= {f"{name}/{inner}": a for inner, a in below.items()}
        else:
            found[name] = member
    return found


def _group(root: str, **options: Any) -> Any:
    import zarr

    from gcdask.mosaic import store

    return zarr.open_group(**store.place(root), mode="r", **options)


def _store(path: str) -> Rows:
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
        part = _group(storage.join(path, *filter(None, inside.split("/"))), use_consolidated=False)
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
        with fitsio.open_fits(file) as hdus:
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

    foreign = not path.startswith(files.BUILTIN) and not os.path.isdir(path)
    if foreign and not storage.exists(storage.join(path, "_manifest.json")):
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


def _run(folder: str) -> Rows:
    """Describe a run by its folder."""
    from gcdask.pipeline import versions

    run = storage.read_json(storage.join(folder, versions.RUN))
    run = run if isinstance(run, dict) else {}
    results = storage.read_json(storage.join(folder, "results.json")) or {}
    failed = run.get("failed") or ()
    rows = [("kind", "run of gcdask"), ("status", _status(folder, run))]
    told = ("run", "version", "started", "finished")
    rows += [(key, str(run[key])) for key in told if run.get(key)]
    rows += [("failed tiles", _failed(failed))] if failed else []
    numbers = ("n_detected", "n_inpainted", "threshold", "masked_fraction", "beta")
    rows += [(key, show_value(results[key])) for key in numbers if results.get(key) is not None]
    names = [name for name in storage.names(folder) if not name.startswith(".")]
    return [*rows, ("holds", ", ".join(names))]


def _status(folder: str, run: dict[str, Any]) -> str:
    from gcdask.pipeline import versions

    if not versions.is_valid(folder):
        return "not finished (the same command continues it)"
    if run.get("failed"):
        return f"finished but for {len(run['failed'])} tiles (the same command does them alone)"
    return "finished"


def _failed(failed: Any, most: int = 5) -> str:
    tiles = [f"{f.get('field')} {f.get('tile')} ({f.get('reason')})" for f in failed[:most]]
    more = [f"{len(failed) - most} more"] if len(failed) > most else []
    return "; ".join([*tiles, *more])


def _runs(out: str, most: int = 20) -> Rows:
    """Describe an output folder: its runs, the newest first, and the latest complete one."""
    from gcdask.pipeline import versions

    there, latest = versions.ids(out), versions.latest(out)
    rows = [("kind", "runs of gcdask"), ("runs", str(len(there))), ("latest", latest or "none")]
    for run in there[::-1][:most]:
        record = versions.record_of(out, run)
        folder = versions.folder_of(out, run)
        when = [f"{k} {record[k]}" for k in ("started", "finished") if record.get(k)]
        rows.append((f"run {run}", ", ".join([_status(folder, record), *when])))
    if len(there) > most:
        rows.append(("older", f"{len(there) - most} runs"))
    if latest is not None:
        rows += [(k, v) for k, v in _run(versions.folder_of(out, latest)) if k not in ("kind",
                 "run", "status", "started", "finished", "holds")]  # fmt: skip
    return rows


def show_value(value: Any) -> str:
    """Write a number, or a result ``{value, error, unit}``, shortly."""
    if isinstance(value, dict):
        error, unit = value.get("error"), value.get("unit") or ""
        text = show_value(value.get("value"))
        return f"{text}{f' +- {show_value(error)}' if error is not None else ''} {unit}".strip()
    return f"{value:.5g}" if isinstance(value, float) else str(value)
