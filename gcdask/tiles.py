"""Cutting a field into tiles and running one NumPy function on each window.

Two roads lead to a window, and the same function runs on both:

* **stored mosaics**: `read_sum` opens the files inside the task and reads the tile's window from
  each band, so a tile costs one task and no array graph;
* **any dask array**: `windows` cuts each chunk with its halo out of the array, whatever the
  chunks, and hands out one delayed block for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from gcdask.errors import InputError
from gcdask.grid import Grid, Tile


def tile_grid(shape: tuple[int, int], size: int, halo: int) -> list[Tile]:
    """Tiles of ``size`` px that cover ``shape``, in raster order, with windows of ``halo`` px.

    The cut depends on the size alone, so a mosaic that grows at its far ends keeps its tiles.
    """
    if size < 1:
        raise InputError(f"tile size {size} px is below 1; use e.g. 4096")
    edges = [[*range(0, n, size), n] for n in shape]
    return _tiles(edges, shape, halo)


def chunk_tiles(chunks: Sequence[Sequence[int]], halo: int) -> list[Tile]:
    """One tile for each chunk of a dask array with ``chunks`` along (y, x)."""
    edges = [[0, *np.cumsum(c).tolist()] for c in chunks]
    return _tiles(edges, (edges[0][-1], edges[1][-1]), halo)


def _tiles(edges: list[list[int]], shape: tuple[int, int], halo: int) -> list[Tile]:
    ys, xs = edges
    return [
        with_halo(Tile((i, j), core := (y0, y1, x0, x1), core), shape, halo)
        for i, (y0, y1) in enumerate(itertools.pairwise(ys))
        for j, (x0, x1) in enumerate(itertools.pairwise(xs))
    ]


def with_halo(tile: Tile, shape: tuple[int, int], halo: int) -> Tile:
    """The tile with another halo, clipped at the ends of the field."""
    y0, y1, x0, x1 = tile.core
    window = (
        max(y0 - halo, 0),
        min(y1 + halo, shape[0]),
        max(x0 - halo, 0),
        min(x1 + halo, shape[1]),
    )
    return Tile(tile.index, tile.core, window)


def real_ends(tile: Tile, shape: tuple[int, int]) -> tuple[bool, bool, bool, bool]:
    """Whether the window's top, bottom, left and right borders are ends of the field."""
    y0, y1, x0, x1 = tile.window
    return y0 == 0, y1 == shape[0], x0 == 0, x1 == shape[1]


def read_sum(bands: Sequence[Any], tile: Tile) -> np.ndarray:
    """Equal-weight sum over bands of a tile's window, NaN where any band has no data.

    Parameters
    ----------
    bands : sequence of 2-D array-likes
        Each read once with ``band[ys, xs]``; one band is in memory at a time.
    tile : Tile

    Returns
    -------
    (h, w) float32 array
        Summed in the order of ``bands``, hence the same bits for every tiling.
    """
    total = np.array(bands[0][tile.slices], dtype=np.float32)
    for band in bands[1:]:
        total += band[tile.slices]
    return total


def windows(arrays: Sequence[da.Array], halo: int) -> list[tuple[Tile, list[Any]]]:
    """Each chunk of 2-D dask arrays with ``halo`` px around it, as delayed NumPy blocks.

    Plain slicing rather than `dask.array.overlap`: a halo may then span any number of chunks, so
    chunks smaller than the halo work and are never merged. The blocks are not optimised one by one:
    that would fuse tasks that neighbours share, under names that they share too.

    Parameters
    ----------
    arrays : sequence of (ny, nx) dask arrays
        The first one's chunks define the tiles.
    """
    tiles = chunk_tiles(arrays[0].chunks, halo)
    return [
        (tile, [a[tile.slices].rechunk(-1).to_delayed(optimize_graph=False).item() for a in arrays])
        for tile in tiles
    ]


def map_windows(
    func: Callable[..., np.ndarray],
    arrays: Sequence[da.Array],
    halo: int,
    *args: Any,
    dtype: Any,
) -> da.Array:
    """``func(tile, *windows, *args)`` of every chunk, trimmed by ``func`` to its core.

    The result has the chunks of the first array. ``func`` returns the core alone.
    """
    task = dask.delayed(func, pure=True)
    chunks = arrays[0].chunks
    rows: list[list[da.Array]] = [[] for _ in chunks[0]]
    for tile, blocks in windows(arrays, halo):
        y0, y1, x0, x1 = tile.core
        block = da.from_delayed(
            task(tile, *blocks, *args), (y1 - y0, x1 - x0), meta=np.empty((0, 0), dtype)
        )
        rows[tile.index[0]].append(block)
    return da.block(rows)


def dask_image(array: xr.DataArray, like: xr.DataArray | None = None) -> da.Array:
    """Dask array of a 2-D map (one chunk if it is in memory), on the chunks of ``like``."""
    data = array.data if isinstance(array.data, da.Array) else da.from_array(array.data, chunks=-1)
    if like is not None:
        if array.shape != like.shape or Grid.of(array).origin != Grid.of(like).origin:
            raise InputError(
                f"{array.name or 'the map'} has shape {array.shape} at "
                f"{Grid.of(array).origin}, the other {like.shape} at {Grid.of(like).origin}; "
                "give maps of the same pixels"
            )
        data = data.rechunk(dask_image(like).chunks)
    return data
