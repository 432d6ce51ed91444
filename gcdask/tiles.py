"""Cutting a field into tiles and running one NumPy function on each window.

Two roads lead to a window, and the same function runs on both:

* **stored mosaics**: `read_sum` opens the files inside the task and reads the tile's window from
  each band, so a tile costs one task and no array graph;
* **any dask array**: `windows` cuts each chunk with its halo out of the array, whatever the
  chunks, and hands out one delayed block for each.

At the end stands what every later module does with the maps that it is given: check them, see
that two are on the same pixels, and have them as dask arrays (`as_map`, `on_pixels`, `layout`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from gcdask.errors import InputError
from gcdask.grid import Grid, Tile
from gcdask.mosaic.source import Wrapped

BLOCK = 256  # px: parts of a damaged window that are given up; inner chunks are multiples of it
PAUSE = 0.25  # s before a window is read again, twice as long each time
CHUNK = 2048  # px: side of the chunks of maps that have none of their own

Chunks = tuple[tuple[int, ...], ...]


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
        Summed in the order of ``bands``, each rounded to float32 first: the same bits for every
        tiling, and those of `band_sum`.
    """
    total = np.array(bands[0][tile.slices], dtype=np.float32)
    for band in bands[1:]:
        total += np.asarray(band[tile.slices], np.float32)
    return total


def read_what_can_be(
    bands: Sequence[Any], tile: Tile, retries: int = 0
) -> tuple[np.ndarray, list[str]]:
    """`read_sum` that goes on where pixels cannot be read: they have no data.

    Parameters
    ----------
    retries : int
        Times that the window is read again, after a moment, before its parts are tried.

    Returns
    -------
    image : (h, w) float32 array
    damage : list of str
        What could not be read, in one line each; empty if all was well.
    """
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(PAUSE * 2**attempt)  # a store that was busy may have recovered
        with suppress(InputError):
            return read_sum(bands, tile), []
    damage: list[str] = []
    image = np.full([s.stop - s.start for s in tile.slices], np.nan, np.float32)
    _salvage(bands, tile, tile.window, image, damage)
    return image, damage


def _salvage(
    bands: Sequence[Any],
    tile: Tile,
    part: tuple[int, int, int, int],
    image: np.ndarray,
    damage: list[str],
) -> None:
    """Read a part of a window in ever smaller parts, cut where chunks of stores are."""
    piece = Tile(tile.index, part, part)
    try:
        image[piece.within(tile)] = read_sum(bands, piece)
        return
    except InputError as error:
        reason = str(error)
    cuts = [[*range((a // BLOCK + 1) * BLOCK, b, BLOCK)] for a, b in (part[:2], part[2:])]
    if not any(cuts):
        damage.append(reason)
        return
    y0, y1, x0, x1 = part
    if len(cuts[0]) >= len(cuts[1]):
        middle = cuts[0][len(cuts[0]) // 2]
        halves = [(y0, middle, x0, x1), (middle, y1, x0, x1)]
    else:
        middle = cuts[1][len(cuts[1]) // 2]
        halves = [(y0, y1, x0, middle), (y0, y1, middle, x1)]
    for half in halves:
        _salvage(bands, tile, half, image, damage)


@dataclass(frozen=True)
class Forgiving(Wrapped):
    """A source without data (NaN) where its file cannot be read, by the rule of the tiles."""

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """See `Source.read`."""
        window = (y0, y1, x0, x1)
        return read_what_can_be([self.source], Tile((0, 0), window, window))[0]


def band_sum(mosaic: xr.Dataset, bands: Sequence[str] | None = None) -> xr.DataArray:
    """Lazy equal-weight sum over bands, NaN where any band has no data: `read_sum` of a mosaic.

    Parameters
    ----------
    mosaic : Dataset
        ``sci`` with dims ``(band, y, x)``.
    bands : sequence of str, optional
        The bands to add, in this order; all by default.

    Returns
    -------
    DataArray (y, x)
        float32, in the chunks and units of ``sci``.

    Raises
    ------
    InputError
        For anything but a mosaic, or a band that it does not have.
    """
    if not isinstance(mosaic, xr.Dataset) or "sci" not in mosaic:
        found = sorted(map(str, getattr(mosaic, "data_vars", [])))
        raise InputError(
            f"the mosaic ({type(mosaic).__name__} of {found}) has no variable 'sci'; open it with "
            "gcdask.open_mosaic"
        )
    sci = as_map(mosaic["sci"], "sci", ("band", "y", "x"))
    first, *rest = _band_indices(sci, bands)
    total = sci.data[first].astype(np.float32)
    for k in rest:
        total = total + sci.data[k].astype(np.float32)
    coords = {name: sci.coords[name] for name in ("y", "x") if name in sci.coords}
    attrs = {"wcs": mosaic.attrs["wcs"]} if "wcs" in mosaic.attrs else {}
    return xr.DataArray(total, coords, ("y", "x"), name="sci", attrs=attrs | sci.attrs)


def _band_indices(sci: xr.DataArray, bands: Sequence[str] | None) -> list[int]:
    names = [str(b) for b in (sci["band"].values if "band" in sci.coords else range(len(sci)))]
    if bands is None and names:
        return list(range(len(names)))
    wanted = list(bands or ())
    missing = [b for b in wanted if b not in names]
    if missing or not wanted:
        what = f"band {missing[0]!r} is not in the mosaic" if missing else "no band is named"
        raise InputError(f"{what}; it has {names}")
    return [names.index(b) for b in wanted]


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


# -- maps ---------------------------------------------------------------------------------------
def as_map(data: Any, what: str = "the map", dims: tuple[str, ...] = ("y", "x")) -> xr.DataArray:
    """Return a map backed by dask, its dimensions in the order ``dims``.

    A map in memory gets chunks of 2048 px (of one band); others keep theirs.

    Raises
    ------
    InputError
        For anything but a DataArray with these dimensions; ``what`` names it.
    """
    wanted = f"({', '.join(dims)})"
    if not isinstance(data, xr.DataArray):
        raise InputError(
            f"{what} is a {type(data).__name__}; give an xarray DataArray with dims {wanted}"
        )
    if set(data.dims) != set(dims):
        raise InputError(
            f"{what} has dims {tuple(data.dims)}; select or rename them to get dims {wanted}"
        )
    data = data.transpose(*dims)
    return data if data.chunks else data.chunk({d: 1 if d == "band" else CHUNK for d in dims})


def as_mask(mask: Any, what: str = "mask") -> xr.DataArray:
    """`as_map` of a mask: bool or integer bits, masked where nonzero; `InputError` otherwise."""
    mask = as_map(mask, what)
    if mask.dtype.kind not in "bui":
        raise InputError(
            f"{what} has dtype {mask.dtype}; give mask bits (uint16) or a bool DataArray "
            "(nonzero = masked)"
        )
    return mask


def check_pixels(
    image: xr.DataArray,
    like: xr.DataArray | Grid,
    what: str,
    other: str = "the map",
    *,
    remedy: str = "cut both alike, or reproject one onto the other",
) -> None:
    """Raise `InputError` unless two maps have the same shape, origin, step and WCS.

    What a map does not say of itself (WCS, coordinates) is not compared.
    """
    if isinstance(like, Grid):
        there = like
    else:
        unsaid = image.attrs.get("wcs") or ""
        there = Grid.of(like.assign_attrs(wcs=like.attrs.get("wcs") or unsaid))
    own = {
        name: values
        for name, values in there.coords.items()
        if name not in image.coords and image.sizes[name] == values.size
    }
    said = image.attrs.get("wcs") or there.header
    here = Grid.of(image.assign_coords(own).assign_attrs(wcs=said))
    if not here.same_pixels(there):
        raise InputError(
            f"{what} ({_place(here)}) and {other} ({_place(there)}) are not on the same pixels; "
            f"{remedy}"
        )


def _place(grid: Grid) -> str:
    """Where a grid lies, in words: pixels, and the sky at its two ends."""
    y, x = (f"{a[0]:g} .. {a[-1]:g}" if a.size else "none" for a in (grid.y, grid.x))
    text = f"{grid.shape[0]} x {grid.shape[1]}, y {y}, x {x}"
    text += f" every {grid.step} px" if grid.step != 1 else ""
    if not grid.header or 0 in grid.shape:
        return text
    ra, dec = grid.sky(grid.x[[0, -1]], grid.y[[0, -1]])
    return f"{text}, RA, Dec {ra[0]:.5f}, {dec[0]:.5f} to {ra[1]:.5f}, {dec[1]:.5f}"


def on_pixels(
    image: Any, like: xr.DataArray | Grid, what: str, chunks: Chunks | None = None
) -> da.Array:
    """Return the data of a map that must be on the pixels of ``like``, in these chunks or its own.

    See `as_map` and `check_pixels` for what raises `InputError`.
    """
    image = as_map(image, what)
    check_pixels(image, like, what)
    return image.data if chunks is None else image.data.rechunk(chunks)


def layout(like: xr.DataArray | xr.Dataset | Grid) -> tuple[Grid, Chunks]:
    """Grid and chunks ``(y, x)`` of a map that is to be like this (2048 px if it has none)."""
    if isinstance(like, Grid):
        grid, arrays = like, []
    elif isinstance(like, xr.DataArray | xr.Dataset):
        grid = Grid.of(like)
        arrays = list(like.data_vars.values()) if isinstance(like, xr.Dataset) else [like]
    else:
        raise InputError(f"like is a {type(like).__name__}; give a map, a mosaic or a Grid")
    for array in arrays:
        if array.chunks and {"y", "x"} <= set(array.dims):
            return grid, (array.chunksizes["y"], array.chunksizes["x"])
    return grid, da.core.normalize_chunks((CHUNK, CHUNK), shape=grid.shape)
