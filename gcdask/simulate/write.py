"""A mock on disk: two mosaics as zarr stores, the truth as Parquet and zarr, the lens as .par."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import dask
import zarr

from gcdask.errors import InputError
from gcdask.lensing import write_lenstool
from gcdask.mosaic import create_array, write_tile
from gcdask.mosaic.ingestion import create_mosaic, finish_mosaic
from gcdask.mosaic.source import Source
from gcdask.mosaic.store import clear
from gcdask.simulate.mock import Mock
from gcdask.simulate.render import Rendered, render_block
from gcdask.tiles import tile_grid

STEP = 16  # px: cells of the written intensity maps


def write(
    mock: Mock, out: str | os.PathLike, *, chunks: int = 2048, overwrite: bool = False
) -> dict[str, str]:
    """Write a mock, tile by tile on the active dask scheduler.

    Parameters
    ----------
    mock : Mock
        From `as1063`.
    out : path
        ``OUT`` or ``OUT.zarr``. Written are ``OUT.zarr`` and ``OUT_module2.zarr`` (mosaics, as
        of `gcdask.ingest`), ``OUT_truth.parquet``, ``OUT_truth.zarr`` (groups ``module1`` and
        ``module2``, each with the mask ``objects``, and below it ``coarse`` with the intensities
        ``total`` and ``clusters`` in cells of 16 px) and ``OUT_lens.par``.
    chunks : int
        Side of the shards in px, a multiple of 256.
    overwrite : bool
        Replace what is there.

    Returns
    -------
    dict
        The paths: ``mosaic``, ``module2``, ``truth``, ``maps``, ``lens``.

    Raises
    ------
    InputError
        If something is there already, or ``chunks`` does not fit.
    """
    if chunks < 256 or chunks % 256:
        raise InputError(f"chunks = {chunks} is not a multiple of 256; use e.g. 2048 or 4096")
    base = os.fspath(out).rstrip("/").removesuffix(".zarr")
    names = {"mosaic": ".zarr", "module2": "_module2.zarr", "truth": "_truth.parquet"}
    names |= {"maps": "_truth.zarr", "lens": "_lens.par"}
    paths = {key: base + end for key, end in names.items()}
    _make_room(paths, overwrite)
    tasks: list[Any] = []
    for module, key in enumerate(("mosaic", "module2")):
        create_mosaic(paths[key], mock.sources(module), chunks)
        tasks += _mosaic_tasks(mock, module, paths[key], chunks)
        tasks += _truth_tasks(mock, module, paths["maps"], chunks)
    dask.compute(*tasks)
    mock.truth.to_parquet(paths["truth"], index=False)
    write_lenstool(mock.lens, paths["lens"])
    for key in ("mosaic", "module2"):  # last: an interrupted store is known as such
        finish_mosaic(paths[key])
    zarr.open_group(paths["maps"], mode="r+").attrs["complete"] = True
    return paths


def _make_room(paths: dict[str, str], overwrite: bool) -> None:
    there = [p for p in paths.values() if os.path.exists(p)]
    if there and not overwrite:
        raise InputError(f"{there[0]} exists; give overwrite=True (--overwrite) or another path")
    for path in paths.values():
        if path.endswith(".zarr"):
            clear(path, overwrite)
        elif os.path.isdir(path):
            shutil.rmtree(path)
    Path(paths["mosaic"]).parent.mkdir(parents=True, exist_ok=True)


def _mosaic_tasks(mock: Mock, module: int, store: str, chunks: int) -> list[Any]:
    task = dask.delayed(_write_mosaic_tile, pure=False, traverse=False)
    tiles = tile_grid(mock.grid(module).shape, chunks, 0)
    return [
        task(mock, module, band, store, tile.core)
        for tile in tiles
        for band in range(len(mock.bands))
    ]


def _write_mosaic_tile(
    mock: Mock, module: int, band: int, store: str, box: tuple[int, int, int, int]
) -> None:
    """Render a tile of a band once and write both of its arrays."""
    y0, y1, x0, x1 = box
    for name, data in zip(
        ("sci", "err"), render_block(mock.options, module, band, box), strict=True
    ):
        array: Any = zarr.open_array(store, path=name, mode="r+")
        array[band, y0:y1, x0:x1] = data


def _truth_tasks(mock: Mock, module: int, store: str, chunks: int) -> list[Any]:
    group = f"{store}/module{module + 1}"
    if module == 0:
        zarr.open_group(store, mode="w", zarr_format=3, attributes={"complete": False})
    grid = mock.grid(module)
    coarse = grid.coarsen(STEP)
    maps: list[tuple[str, str, Source, str]] = [
        (group, "objects", Rendered(mock.options, module, 0, "objects", grid), ""),
        (
            f"{group}/coarse",
            "total",
            Rendered(mock.options, module, 0, "total", coarse),
            "arcsec-2",
        ),
        (
            f"{group}/coarse",
            "clusters",
            Rendered(mock.options, module, 0, "clusters", coarse),
            "arcsec-2",
        ),
    ]
    task = dask.delayed(_write_map_tile, pure=False, traverse=False)
    tasks = []
    for where, name, source, units in maps:
        side = chunks if name == "objects" else 512
        own = source.grid  # type: ignore[attr-defined]
        create_array(where, name, own, source.dtype, units, side)
        for tile in tile_grid(own.shape, side, 0):
            tasks.append(task(source, where, name, tile.core_slices))
    return tasks


def _write_map_tile(source: Source, store: str, name: str, where: tuple[slice, slice]) -> None:
    write_tile(store, name, where, source[where])
