"""Positions of a catalogue's sources as arrays: by partition, and by chunk of a map.

Arrays of points are float64 with rows ``x, y`` and, where asked for, a weight, sorted by y, then
x, then weight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.base import tokenize

from gcdask.catalog.parts import boxed, gathered, hand_made, keys_of, per_part
from gcdask.catalog.schema import as_dask, pixel_positions
from gcdask.catalog.where import EVERYWHERE, chunk_edges, part_boxes, parts_near
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.tiles import Chunks

Box = tuple[float, float, float, float]

SLACK = 1e-6  # px by which `near_points` gives more than was asked, so that rounding loses none


# -- by partition --------------------------------------------------------------------------------
def positions(catalog: Any, grid: Grid | None, weights: str | None = None) -> dd.DataFrame:
    """Columns of a catalogue that give positions on a grid (RA, Dec without one), and weights.

    Raises
    ------
    InputError
        If it has none, or no such weights.
    """
    frame = as_dask(catalog)
    names = set(map(str, frame.columns))
    if weights is not None and weights not in names:
        raise InputError(
            f"weights = {weights!r} is no column of the catalogue; it has {list(frame.columns)}"
        )
    sky = {"ra", "dec"} <= names
    if not sky and (grid is None or not {"x", "y"} <= names):
        raise InputError(
            f"the catalogue has no ra, dec (columns: {', '.join(map(str, frame.columns))}); read "
            "it with gcdask.catalog.read(path, columns={'ra': ..., 'dec': ...})"
        )
    wanted = {*(("ra", "dec") if sky else ("x", "y")), weights}
    return frame[[c for c in frame.columns if c in wanted]]


def part_points(catalog: Any, grid: Grid | None, weights: str | None = None) -> da.Array:
    """Points of each partition (RA, Dec without a grid), those that are not finite *among them*.

    A lazy object array with one element per partition. Only the WCS of the grid counts: cut-outs
    of a map share the tasks.
    """
    frame = positions(catalog, grid, weights)
    there = None if grid is None else Grid((1, 1), grid.header)
    return per_part(frame, partial(_points, grid=there, weights=weights), "part-points")


def _points(part: pd.DataFrame, *, grid: Grid | None, weights: str | None) -> np.ndarray:
    if grid is None:
        x, y = (part[n].to_numpy(float, na_value=np.nan) for n in ("ra", "dec"))
    else:
        x, y = pixel_positions(part, grid)
    rows = [x, y]
    if weights is not None:
        rows.append(part[weights].to_numpy(float, na_value=np.nan))
    return join_points([np.stack(rows)])


def join_points(parts: list[np.ndarray]) -> np.ndarray:
    """Points of several arrays, sorted by y, x, weight (NaN last)."""
    points = np.concatenate(parts, axis=1)
    return points[:, np.lexsort((*points[2:], points[0], points[1]))]


# -- by chunk ------------------------------------------------------------------------------------
def near_points(
    catalog: Any, grid: Grid, chunks: Chunks, reach: float = 0.0, weights: str | None = None
) -> da.Array:
    """Sources in each chunk of a map and up to ``reach`` px around it.

    A chunk reads only the partitions that it can touch. Where these are not known by place (see
    `part_boxes`), all points are brought together first and each chunk cuts its own out of them.
    Both roads give the same arrays.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
    grid, chunks : Grid, ((int, ...), (int, ...))
        Pixels of the map and its chunks along (y, x).
    reach : float
        Global px along each axis. A trifle more is given.
    weights : str, optional
        Column of weights, the third row of the points.

    Returns
    -------
    dask array of object, one element per chunk, shape (ny chunks, nx chunks)
        Each an array (2 or 3, n): finite positions x, y (global px) and weights, sorted by y, x,
        weight.

    Raises
    ------
    InputError
        If the catalogue has no positions, or no such weights.
    """
    parts = part_points(catalog, grid, weights)
    boxes = part_boxes(positions(catalog, grid, weights), grid)
    if boxes is None:
        parts, boxes = gathered(parts, join_points), np.array([EVERYWHERE])
    cut = partial(cut_points, rows=2 if weights is None else 3)
    return by_chunk(parts, boxes, grid, chunks, reach + SLACK, cut)


def by_chunk(
    parts: da.Array,
    boxes: np.ndarray,
    grid: Grid,
    chunks: Chunks,
    reach: float,
    cut: Callable[[list[np.ndarray], Box], Any],
) -> da.Array:
    """``cut(points of the parts near a chunk, the chunk's box)`` of each chunk: an object array.

    ``parts`` has one element for each row of ``boxes``; boxes (y_lo, y_hi, x_lo, x_hi) of chunks
    are grown by ``reach`` px.
    """
    edges = chunk_edges(grid, chunks)
    near = parts_near(boxes, edges, reach)
    (y0, y1), (x0, x1) = (((e[:-1] - reach).tolist(), (e[1:] + reach).tolist()) for e in edges)
    name = f"near-points-{tokenize(parts.name, edges, reach, boxes, cut)}"
    layer = {
        (name, i, j): (_cut, keys_of(parts, near[i, j]), (y0[i], y1[i], x0[j], x1[j]), cut)
        for i, j in np.ndindex(near.shape)
    }
    return hand_made(name, layer, [parts], near.shape)


def _cut(parts: list[np.ndarray], box: Box, cut: Callable[[list[np.ndarray], Box], Any]) -> Any:
    return boxed(cut([part.item() for part in parts], box), 2)


def cut_points(parts: list[np.ndarray], box: Box, rows: int) -> np.ndarray:
    """Points of sorted arrays that lie in a box, sorted; ``rows`` of them, weights of 1 added."""
    y_lo, y_hi, x_lo, x_hi = box
    found = [np.empty((rows, 0))]
    for points in parts:
        # NaNs are last, beyond what is found
        low, high = (
            np.searchsorted(points[1], y_lo, "left"),
            np.searchsorted(points[1], y_hi, "right"),
        )
        some = points[:, low:high]
        some = some[:, (some[0] >= x_lo) & (some[0] <= x_hi)]
        found.append(np.pad(some, ((0, rows - len(some)), (0, 0)), constant_values=1))
    return join_points(found)
