"""Maps put onto another grid by bilinear interpolation, block by block."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.tiles import as_map, layout


def on_grid(
    kappa: xr.DataArray,
    like: xr.DataArray | xr.Dataset | Grid,
    *,
    outside: Literal["error", "nan"] = "error",
) -> xr.DataArray:
    """Resample a map onto another grid by bilinear interpolation, lazily.

    Every pixel takes the value at its centre, so a much coarser grid samples the map rather
    than averaging it. The outer half pixel of the map is extrapolated as constant.

    Parameters
    ----------
    kappa : DataArray, dims (y, x)
        The map.
    like : DataArray, Dataset or Grid
        What to put it on; the result has its chunks.
    outside : {"error", "nan"}
        Whether ``like`` may reach beyond the map; pixels there become NaN.

    Raises
    ------
    InputError
        If ``like`` reaches beyond the map and ``outside`` is "error".
    """
    if outside not in ("error", "nan"):
        raise InputError(f'outside = {outside!r} is unknown; use "error" or "nan"')
    source, (grid, chunks) = Grid.of(kappa), layout(like)
    covered = _covered(source, grid)
    if outside == "error" and covered < 1:
        raise InputError(
            f"the map {kappa.name or 'kappa'} covers only {100 * covered:.1f} % of the grid; "
            'cut the mosaic to the map, or give outside="nan" '
            "(lens.outside in a configuration)"
        )
    data = as_map(kappa).data
    dtype = np.result_type(data.dtype, np.float32)
    starts = [np.concatenate([[0], np.cumsum(c)]) for c in chunks]
    name = f"on-grid-{tokenize(data.name, source, grid, chunks)}"
    graph: dict[Any, Any] = {}
    for i in range(len(chunks[0])):
        for j in range(len(chunks[1])):
            bounds = (starts[0][i], starts[0][i + 1], starts[1][j], starts[1][j + 1])
            block = grid.cut(*(int(b) for b in bounds))
            keys, corner = _needed(data, source, block)
            sample = partial(bilinear_block, source=source, block=block, corner=corner, dtype=dtype)
            graph[name, i, j] = (sample, keys)
    out = da.Array(
        HighLevelGraph.from_collections(name, graph, dependencies=[data]),  # type: ignore[list-item]
        name,
        chunks,
        meta=np.empty((0, 0), dtype),
    )
    attrs = {k: v for k, v in kappa.attrs.items() if k not in ("wcs", "units")}
    return grid.wrap(out, str(kappa.name or "kappa"), kappa.attrs.get("units", ""), **attrs)


def bilinear_block(
    parts: list[list[np.ndarray]],
    *,
    source: Grid,
    block: Grid,
    corner: tuple[int, int],
    dtype: np.dtype,
) -> np.ndarray:
    """Values of a map at the pixel centres of ``block``.

    Parameters
    ----------
    parts : nested list of arrays
        Neighbouring chunks of the map that hold all that is needed; empty if it is far away.
    source, block : Grid
        Of the whole map and of the block.
    corner : (int, int)
        Array index in the map of the first element of the parts.

    Returns
    -------
    ndarray, shape of ``block``
        NaN outside the map and where a pixel that counts is NaN.
    """
    if not parts:
        return np.full(block.shape, np.nan, dtype)
    data = np.block(parts)
    total = np.zeros(block.shape)
    inside, corners = _stencil(source, block)
    for row, col, weight in corners:
        value = data[
            np.clip(row - corner[0], 0, data.shape[0] - 1),
            np.clip(col - corner[1], 0, data.shape[1] - 1),
        ]
        total += np.where(weight > 0, value * weight, 0)  # weight 0 must not pass a NaN on
    return np.where(inside, total, np.nan).astype(dtype)


def _stencil(source: Grid, block: Grid) -> tuple[np.ndarray, list[tuple[np.ndarray, ...]]]:
    """Which pixels of ``block`` lie in ``source``; row, column and weight of four neighbours."""
    inside, indices = _locate(source, *block.mesh(), block)
    pairs = []
    for index, n in zip(indices, source.shape, strict=True):
        index = np.clip(np.where(inside, index, 0), 0, n - 1)
        low = np.minimum(np.floor(index).astype(np.int64), max(n - 2, 0))
        pairs.append(((low, 1 - (index - low)), (np.minimum(low + 1, n - 1), index - low)))
    rows, cols = pairs
    return inside, [(r, c, wr * wc) for r, wr in rows for c, wc in cols]


def _locate(
    source: Grid, x: np.ndarray, y: np.ndarray, grid: Grid
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Fractional array indices (row, column) in ``source`` of global pixels of ``grid``.

    Also whether they lie on one of its pixels. Rounding of the projections must not carry a
    pixel of the very same grid off its centre, hence the snap to 1e-7 px.
    """
    px, py = source.pixel(*grid.sky(x, y))
    inside = np.isfinite(px) & np.isfinite(py)
    indices = []
    for p, origin, n in zip((py, px), source.origin, source.shape, strict=True):
        index = (p - origin) / source.step
        near = np.rint(index)
        index = np.where(np.abs(index - near) < 1e-7, near, index)
        with np.errstate(invalid="ignore"):
            inside &= (index >= -0.5 - 1e-7) & (index <= n - 0.5 + 1e-7)
        indices.append(index)
    return inside, (indices[0], indices[1])


def sampled(grid: Grid, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Global x and y of a lattice of pixel centres that includes the grid's ends."""
    y, x = (np.unique(np.rint(np.linspace(0, n - 1, samples))) for n in grid.shape)
    yy, xx = np.meshgrid(grid.origin[0] + grid.step * y, grid.origin[1] + grid.step * x)
    return xx, yy


def _needed(data: da.Array, source: Grid, block: Grid) -> tuple[list, tuple[int, int]]:
    """Keys of the map's chunks under a block, as nested lists, and the corner of the first."""
    _, indices = _locate(source, *sampled(block, 9), block)
    if not all(np.isfinite(index).any() for index in indices):
        return [], (0, 0)
    spans, corner = [], []
    for index, chunks in zip(indices, data.chunks, strict=True):
        starts = np.concatenate([[0], np.cumsum(chunks)])
        low, high = np.nanmin(index), np.nanmax(index)
        # between the sampled points a curved edge can bulge: a hundredth of the span is plenty
        margin = 2 + 0.01 * (high - low)
        low, high = np.floor(low - margin), np.ceil(high + margin)
        if high < 0 or low >= starts[-1]:
            return [], (0, 0)
        ends = np.clip([low, high], 0, starts[-1] - 1)
        first, last = (int(k) for k in np.searchsorted(starts, ends, side="right") - 1)
        spans.append(range(first, last + 1))
        corner.append(int(starts[first]))
    return [[(data.name, i, j) for j in spans[1]] for i in spans[0]], (corner[0], corner[1])


def _covered(source: Grid, grid: Grid) -> float:
    """Fraction of the grid's pixel centres, sampled with its ends, that lie in the map."""
    return float(_locate(source, *sampled(grid, 129), grid)[0].mean())
