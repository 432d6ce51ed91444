"""What a map says where the sources are: rows kept by a mask, a column sampled from a map.

Positions are small and pixels are many, so positions go to the blocks of the map: each block looks
up the sources that fall on it, and their values return to the partitions. A block reads only the
partitions that it can touch; where these are not known by place, it gets all positions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize

from gcdask.catalog.parts import (
    FAN,
    boxed,
    gathered,
    hand_made,
    keys_of,
    layer_of,
    per_part,
)
from gcdask.catalog.points import positions
from gcdask.catalog.schema import as_dask, pixel_positions
from gcdask.catalog.where import (
    EVERYWHERE,
    POSITION,
    beside,
    chunk_edges,
    part_boxes,
    parts_near,
    stays,
)
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.tiles import as_map

Found = tuple[np.ndarray, np.ndarray]  # rows of a partition, and values there


def unmasked(catalog: Any, mask: xr.DataArray) -> dd.DataFrame:
    """Keep sources on pixels where ``mask`` is zero (or False); outside it is masked.

    The mask may be lazy and coarse; positions on it come from ``ra``, ``dec``.
    """
    catalog = as_dask(catalog)
    values = _at_sources(catalog, mask.astype(bool), outside=True)
    return beside(catalog, values, _drop, catalog._meta)


@stays
def _drop(part: pd.DataFrame, masked: pd.DataFrame) -> pd.DataFrame:
    return part[~masked["value"].to_numpy()].reset_index(drop=True)


def sample(
    catalog: Any, image: xr.DataArray, name: str, *, outside: float = np.nan
) -> dd.DataFrame:
    """Add the column ``name``: the value of a map in the element below each source.

    Sources off the map get ``outside``; maps of whole numbers or booleans need one (NaN is none).
    """
    catalog = as_dask(catalog)
    if name in POSITION:
        raise InputError(f"{name} is a position in catalogues; give the column another name")
    if image.dtype.kind != "f" and np.isnan(outside):
        raise InputError(f"{name} is a map of {image.dtype}, which has no NaN; give outside=0")
    values = _at_sources(catalog, image, outside=outside)
    meta = catalog._meta.assign(**{name: np.empty(0, image.dtype)})
    return beside(catalog, values, partial(_sampled, name=name), meta)


@stays
def _sampled(part: pd.DataFrame, values: pd.DataFrame, *, name: str) -> pd.DataFrame:
    return part.assign(**{name: values["value"].to_numpy()})


# -- the graph -----------------------------------------------------------------------------------
def _at_sources(catalog: dd.DataFrame, image: xr.DataArray, *, outside: Any) -> da.Array:
    """Values of a map at the sources: for each partition a DataFrame of one column, ``value``."""
    grid = Grid.of(image)
    # all at once, not block by block: that would fuse tasks that neighbours share
    data = dask.optimize(as_map(image).data)[0]
    frame = positions(catalog, grid)
    boxes = part_boxes(frame, grid)
    cells = per_part(frame, partial(_cells, grid=grid), "cells")
    if boxes is not None:
        return _values_at(cells, boxes, data, grid, outside)
    together = _values_at(gathered(cells, np.hstack), np.array([EVERYWHERE]), data, grid, outside)
    ends = gathered(cells, _ends)
    tasks = [(_share, (together.name, 0), (ends.name, 0), k) for k in range(cells.size)]
    return layer_of("shares", tasks, [together, ends])


def _values_at(
    cells: da.Array, boxes: np.ndarray, data: da.Array, grid: Grid, outside: Any
) -> da.Array:
    """DataFrames of the values at each element of ``cells``, whose sources lie in ``boxes``."""
    near = parts_near(boxes, chunk_edges(grid, data.chunks))
    token = tokenize(cells.name, data.name, boxes, outside)
    look, merge, name = (f"{label}-{token}" for label in ("look-up", "merge", "values"))
    corners = [np.cumsum([0, *sizes[:-1]]).tolist() for sizes in data.chunks]
    layer: dict[Any, Any] = {}
    pieces: list[list[Any]] = [[] for _ in boxes]  # block and place in its result, by partition
    for i, j in np.ndindex(near.shape):
        if not near[i, j]:
            continue
        layer[look, i, j] = (
            _look_up, (data.name, i, j), keys_of(cells, near[i, j]), corners[0][i], corners[1][j]
        )  # fmt: skip
        for place, part in enumerate(near[i, j]):
            pieces[part].append(((look, i, j), place))
    for part, found in enumerate(pieces):
        level = 0
        while len(found) > FAN:
            groups = [found[k : k + FAN] for k in range(0, len(found), FAN)]
            for k, group in enumerate(groups):
                layer[merge, part, level, k] = (_merge, *map(list, zip(*group, strict=True)))
            found = [((merge, part, level, k), 0) for k in range(len(groups))]
            level += 1
        keys, places = [f[0] for f in found], [f[1] for f in found]
        layer[name, part] = (_values, (cells.name, part), keys, places, outside, data.dtype)
    return hand_made(name, layer, [cells, data], (len(boxes),))


# -- its tasks -----------------------------------------------------------------------------------
def _cells(part: pd.DataFrame, *, grid: Grid) -> np.ndarray:
    """Array indices (y, x) of the elements that hold the sources, -1 outside; shape (2, n)."""
    x, y = pixel_positions(part, grid)
    index = np.empty((2, len(part)), np.int32)
    for row, values, origin, n in zip((0, 1), (y, x), grid.origin, grid.shape, strict=True):
        cell = np.floor((values - origin) / grid.step + 0.5)
        with np.errstate(invalid="ignore"):
            index[row] = np.where((cell >= 0) & (cell < n), cell, -1)
    return index


def _look_up(block: np.ndarray, parts: list[np.ndarray], y0: int, x0: int) -> list[Found]:
    """Rows of each partition that fall on a block, and the block's values there."""
    block, found = np.asarray(block), []
    for cells in (part.item() for part in parts):
        y, x = cells[0] - y0, cells[1] - x0
        here = (cells >= 0).all(0) & (y >= 0) & (y < len(block)) & (x >= 0) & (x < block.shape[1])
        rows = np.flatnonzero(here)
        found.append((rows, block[y[rows], x[rows]]))
    return found


def _merge(found: list[list[Found]], places: list[int]) -> list[Found]:
    some = [f[k] for f, k in zip(found, places, strict=True)]
    return [(np.concatenate([s[0] for s in some]), np.concatenate([s[1] for s in some]))]


def _values(
    cells: np.ndarray, found: list[list[Found]], places: list[int], outside: Any, dtype: np.dtype
) -> np.ndarray:
    values = np.full(cells.item().shape[1], outside, dtype)
    for piece, k in zip(found, places, strict=True):
        rows, seen = piece[k]
        values[rows] = seen
    return boxed(pd.DataFrame({"value": values}), 1)


def _ends(cells: list[np.ndarray]) -> np.ndarray:
    return np.cumsum([0, *(c.shape[1] for c in cells)])


def _share(values: np.ndarray, ends: np.ndarray, number: int) -> pd.DataFrame:
    lo, hi = ends.item()[number : number + 2]
    return values.item().iloc[lo:hi]
