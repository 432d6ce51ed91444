"""Where on the sky the partitions of a catalogue lie, so that a map's chunk reads only its own.

The manifest of a stored catalogue gives the bounds of every part. `part_boxes` follows them through
the expression of a lazy catalogue, `parts_near` pairs the boxes with the chunks of a map. Where
nothing is known the answer is None, and callers bring all positions together instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from gcdask.catalog.parquet import Part, PartReader
from gcdask.catalog.parts import as_frame, elements, keys_of, layer_of
from gcdask.catalog.schema import as_dask
from gcdask.grid import Grid
from gcdask.tiles import Chunks

POSITION = {"ra", "dec", "x", "y"}
EVERYWHERE = (-np.inf, np.inf, -np.inf, np.inf)
MAX_UNPLACED = 8  # partitions of unknown place that a catalogue may have beside known ones
OUTWARD = np.array([-1, 1, -1, 1])
MARGIN = 1.0  # px around bounds: positions that go through the sky and back are not exact
EDGE = 8  # steps along a side of a box on its way to another WCS

Function = TypeVar("Function", bound=Callable[..., Any])
Placed = tuple[str | None, Part] | None  # WCS and part of the manifest; None: could be anywhere


def stays(function: Function) -> Function:
    """Mark a function of a partition that moves no source: for use in ``map_partitions``.

    It may drop, sort and repeat the rows of its first argument and change any column but
    ``ra``, ``dec``, ``x`` and ``y``.
    """
    function.stays = True  # type: ignore[attr-defined]
    return function


# -- partitions on the sky -----------------------------------------------------------------------
def part_boxes(catalog: Any, grid: Grid) -> np.ndarray | None:
    """Boxes that surely hold the positions of each partition's sources on a grid.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
        Known by place are catalogues of `read` whose manifest has bounds and a WCS (those that
        `write` with a grid, or a pipeline, made), with any of: columns selected, dropped, renamed,
        added or converted, rows filtered, partitions chosen, `dask.dataframe.concat`, and the
        functions of this package. Whatever might move a source is not followed: operations that
        touch ``ra``, ``dec``, ``x`` or ``y``, shuffles, and ``map_partitions`` of a function that
        is not marked by `stays`.
    grid : Grid
        Boxes are in its global pixels, whatever the WCS of the catalogue; only its WCS counts.

    Returns
    -------
    ndarray of float, shape (npartitions, 4), or None
        ``y_lo, y_hi, x_lo, x_hi``: all finite `pixel_positions` of a partition's sources on
        ``grid`` lie within. NaN for a partition without sources; infinite for the few (such as
        `add_manual`'s) that could be anywhere. None where the partitions are not known by place.
    """
    catalog = as_dask(catalog)
    parts = _placed(catalog)
    if parts is None:
        return None
    boxes = np.array([EVERYWHERE] * len(parts))
    on_sky = {"ra", "dec"} <= set(catalog.columns)  # else positions are x, y, whatever the WCS
    boxes[[p is not None and p[1].rows == 0 for p in parts]] = np.nan
    for header, rows, bounds in _groups(parts):
        elsewhere = on_sky and header != grid.header
        boxes[rows] = _on(bounds, Grid((1, 1), header), grid) if elsewhere else bounds
    return boxes + MARGIN * OUTWARD


def _groups(parts: list[Placed]) -> Iterator[tuple[str, list[int], np.ndarray]]:
    """Partitions of known place by their WCS: its cards, their numbers, their bounds as boxes."""
    groups: dict[str, dict[int, Any]] = {}
    for k, placed in enumerate(parts):
        if placed is not None and placed[1].rows:
            groups.setdefault(placed[0] or "", {})[k] = placed[1].bounds
    for header, bounds in groups.items():
        yield header, list(bounds), np.array(list(bounds.values()), float)[:, [2, 3, 0, 1]]


def outlines(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points on the four sides of boxes (n, 4): ``x``, ``y``, each (n, 4, EDGE + 1)."""
    y_lo, y_hi, x_lo, x_hi = boxes.T[:, :, None, None]
    t = np.linspace(0, 1, EDGE + 1)
    low, high = np.zeros_like(t), np.ones_like(t)
    along_y, along_x = np.array([low, t, high, 1 - t]), np.array([t, high, 1 - t, low])
    return x_lo + (x_hi - x_lo) * along_x, y_lo + (y_hi - y_lo) * along_y


def _on(boxes: np.ndarray, own: Grid, grid: Grid) -> np.ndarray:
    """Boxes on one grid to boxes around them on another.

    A side that bends between its points leaves their range by less than the points' own bend.
    """
    x, y = outlines(boxes)
    ra, dec = own.sky(x.ravel(), y.ravel())
    moved = np.stack(grid.pixel(ra, dec)[::-1]).reshape(2, len(boxes), 4, EDGE + 1)
    with np.errstate(invalid="ignore"):
        bend = np.abs(np.diff(moved, n=2, axis=-1)).max(axis=(0, 2, 3))[:, None]
    lo, hi = (f(moved, axis=(2, 3)).T for f in (np.min, np.max))
    out = np.stack([lo - bend, hi + bend], axis=-1).reshape(-1, 4)
    sure = np.isfinite(out).all(axis=1)  # else the grid's projection does not reach some of it
    return np.where(sure[:, None], out, EVERYWHERE)


# -- through the expression ----------------------------------------------------------------------
def _placed(catalog: dd.DataFrame) -> list[Placed] | None:
    """WCS and manifest row of each partition; None if too few are known."""
    parts = _walk(catalog.expr)
    if parts is None or len(parts) != catalog.npartitions:
        return None
    on_sky = {"ra", "dec"} <= set(catalog.columns)
    sure = [p if p is not None and _is_sure(*p, on_sky) else None for p in parts]
    unplaced = sum(p is None for p in sure)
    return sure if unplaced < len(sure) and unplaced <= MAX_UNPLACED else None


def _is_sure(header: str | None, part: Part, on_sky: bool) -> bool:
    """Whether the bounds hold what `pixel_positions` takes: ra, dec, or else x, y."""
    if part.rows == 0:
        return True
    return part.bounds is not None and (not on_sky or (part.on_sky and bool(header)))


def _walk(expr: Any) -> list[Placed] | None:
    """Parts behind the partitions of an expression of `dask.dataframe`, or None."""
    kind = type(expr).__name__
    if not type(expr).__module__.startswith("dask.dataframe."):
        return None
    if kind in ("FromMap", "FromMapProjectable"):
        reader = expr.operand("func")
        rows = expr.operand("iterables")[0]
        if not isinstance(reader, PartReader):
            return None
        return [(reader.wcs, rows[k]) for k in expr._partitions]
    if kind == "Fused":
        return _walk(expr.operand("exprs")[0])
    if kind == "Partitions":
        parts = _walk(expr.frame)
        return None if parts is None else [parts[k] for k in expr.partitions]
    if kind in ("Concat", "StackPartition"):
        return _concatenated(expr)
    if kind in ROW_WISE and ROW_WISE[kind](expr):
        return _walk(expr.frame)
    return None


def _concatenated(expr: Any) -> list[Placed] | None:
    if expr.axis != 0 or expr.interleave_partitions:
        return None
    parts: list[Placed] = []
    for frame in expr._frames:
        known = _walk(frame)
        parts += [None] * frame.npartitions if known is None else known
    return parts


def _always(expr: Any) -> bool:
    return True


def _spares_positions(names: Any) -> bool:
    return isinstance(names, Sequence | dict) and POSITION.isdisjoint(map(str, names))


def _renames_others(expr: Any) -> bool:
    names = expr.operand("columns")
    return (
        isinstance(names, dict)
        and _spares_positions(names)
        and _spares_positions(list(names.values()))
    )


def _function_stays(expr: Any) -> bool:
    function = expr.operand("func")
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "stays", False) is True


# Operations on one frame that move no source between partitions or on the sky, and when.
ROW_WISE: dict[str, Callable[[Any], bool]] = {
    "ArrowStringConversion": _always,
    "AsType": lambda e: (
        isinstance(e.operand("dtypes"), dict) and _spares_positions(e.operand("dtypes"))
    ),
    "Assign": lambda e: _spares_positions(list(e.keys)),
    "ClearDivisions": _always,
    "Drop": _always,
    "DropnaFrame": _always,
    "Filter": _always,
    "MapPartitions": _function_stays,
    "Projection": _always,
    "Query": _always,
    "RenameFrame": _renames_others,
    "ResetIndex": lambda e: e.operand("drop") is True,
}


# -- partitions and chunks -----------------------------------------------------------------------
def chunk_edges(grid: Grid, chunks: Chunks) -> tuple[np.ndarray, np.ndarray]:
    """Borders of the chunks of a map along (y, x) in global pixels, at the pixels' outer sides."""
    steps = (np.cumsum([0, *axis]) for axis in chunks)
    ys, xs = (first + grid.step * (k - 0.5) for first, k in zip(grid.origin, steps, strict=True))
    return ys, xs


def parts_near(boxes: np.ndarray, edges: tuple[np.ndarray, np.ndarray], reach: float = 0.0) -> Any:
    """Partitions that may have a source in each chunk, or within ``reach`` px around it.

    Parameters
    ----------
    boxes : ndarray, shape (npartitions, 4)
        From `part_boxes`.
    edges : (ndarray (ny + 1,), ndarray (nx + 1,))
        Increasing borders of the chunks along y and x, see `chunk_edges`.
    reach : float
        How far around a chunk sources matter, along each axis, in global pixels.

    Returns
    -------
    object ndarray, shape (ny, nx), of lists of int
        Numbers of partitions, ascending. Their number in all is what the boxes touch: nothing of
        size partitions x chunks is made.
    """
    shape = len(edges[0]) - 1, len(edges[1]) - 1
    near: Any = np.empty(shape, object)
    for index in np.ndindex(shape):
        near[index] = []
    spans = []
    for (lo, hi), borders in zip(((0, 1), (2, 3)), edges, strict=True):
        spans.append(np.searchsorted(borders[1:], boxes[:, lo] - reach, "left"))  # NaN: none
        spans.append(np.searchsorted(borders[:-1], boxes[:, hi] + reach, "right"))
    for part, (i0, i1, j0, j1) in enumerate(np.transpose(spans).tolist()):
        for i in range(i0, i1):
            for j in range(j0, j1):
                near[i, j].append(part)
    return near


# -- partitions and partitions -------------------------------------------------------------------
def vectors(ra: Any, dec: Any) -> np.ndarray:
    """Unit vectors (..., 3) of positions in deg; the chord between two tells their separation."""
    a, d = np.deg2rad(np.asarray(ra, float)), np.deg2rad(np.asarray(dec, float))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], -1)


def part_caps(catalog: dd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
    """Caps of the sky that surely hold each partition's sources: centres (n, 3), chords (n,).

    Known where `part_boxes` is, for catalogues with ``ra``, ``dec``. The chord is negative for a
    partition without sources and infinite for one that could be anywhere.
    """
    parts = _placed(catalog)
    if parts is None or not {"ra", "dec"} <= set(catalog.columns):
        return None
    centers, chords = np.zeros((len(parts), 3)), np.full(len(parts), np.inf)
    chords[[p is not None and p[1].rows == 0 for p in parts]] = -1
    for header, rows, boxes in _groups(parts):
        x, y = outlines(boxes + MARGIN * OUTWARD)
        line = vectors(*Grid((1, 1), header).sky(x.ravel(), y.ravel())).reshape(*x.shape, 3)
        middle = line.mean(axis=(1, 2))
        length = np.linalg.norm(middle, axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            centers[rows] = middle / length
        reach = np.linalg.norm(line - centers[rows][:, None, None], axis=-1).max(axis=(1, 2))
        bend = np.linalg.norm(np.diff(line, n=2, axis=2), axis=-1).max(axis=(1, 2))
        # half a sphere or more, or beyond the projection: a box's inside may leave its outline
        chords[rows] = np.where(reach < 1, reach + bend, np.inf)
    centers[~np.isfinite(chords)] = 0
    return centers, chords


def caps_near(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], reach: float
) -> list[list[int]]:
    """For each cap of ``one`` the caps of ``other`` (see `part_caps`) within a chord ``reach``."""
    (centers, chords), (there, spans) = one, other
    near: list[list[int]] = [[] for _ in chords]
    anywhere = np.flatnonzero(np.isinf(spans))
    placed = np.flatnonzero(np.isfinite(spans) & (spans >= 0))
    # by size, in powers of two: a few wide caps must not widen the search for all
    sizes = 2.0 ** np.ceil(np.log2(np.maximum(spans[placed], 1e-12)))
    trees = [(s, placed[sizes == s], cKDTree(there[placed[sizes == s]])) for s in np.unique(sizes)]
    for k, (center, chord) in enumerate(zip(centers, chords, strict=True)):
        if np.isinf(chord):
            near[k] = np.flatnonzero(spans >= 0).tolist()
        elif chord >= 0:
            found = [anywhere]
            for size, rows, tree in trees:
                close = rows[tree.query_ball_point(center, chord + size + reach)]
                apart = np.linalg.norm(there[close] - center, axis=-1)
                found.append(close[apart <= chord + spans[close] + reach])
            near[k] = sorted(np.concatenate(found).tolist())
    return near


# -- results beside partitions -------------------------------------------------------------------
def beside(
    catalog: dd.DataFrame, values: da.Array, function: Callable[..., pd.DataFrame], meta: Any
) -> dd.DataFrame:
    """``function(partition, element)`` of each partition and element of an object array.

    The elements are DataFrames. Where partitions are known by place and the function `stays`, those
    of the result are too. Not so the others, whose partitions `dask.dataframe` might merge (those
    of its own readers) without the elements beside them.
    """
    if _placed(catalog) is not None:
        other = as_frame(values, pd.DataFrame(index=pd.RangeIndex(0)))
        return catalog.map_partitions(
            function, other, meta=meta, enforce_metadata=False, align_dataframes=False
        )
    parts, dependencies = elements(catalog)
    pairs = zip(parts, keys_of(values), strict=True)
    tasks = [(_with_element, function, part, key) for part, key in pairs]
    token = catalog._name, function
    return as_frame(layer_of("beside", tasks, [*dependencies, values], *token), meta)


def _with_element(function: Callable[..., Any], part: pd.DataFrame, element: np.ndarray) -> Any:
    return function(part, element.item())
