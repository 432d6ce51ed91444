"""What the graphs of this package share: checked arguments, delayed points, the normalisation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from gcdask import catalog as cat
from gcdask.density.fields import HALF, KernelSum, Points
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.tiles import Chunks

log = logging.getLogger(__name__)


def _partition(frame: pd.DataFrame, grid: Grid, weights: str | None) -> np.ndarray:
    x, y = cat.pixel_positions(frame, grid)
    return np.stack([x, y, frame[weights].to_numpy(float) if weights else np.ones(len(frame))])


def _total(mask: np.ndarray, ys: np.ndarray, xs: np.ndarray, field: KernelSum) -> np.ndarray:
    """Sum of rho over the good pixels in two halves of integers, exact in any order; (1, 1, 2)."""
    good = mask == 0
    if not good.any():
        return np.zeros((1, 1, 2), np.int64)
    whole = np.rint(field.at(ys, xs)[good] / field.unit).astype(np.int64)
    halves = (whole >> HALF).sum(), (whole & (2**HALF - 1)).sum()
    return np.array(halves, np.int64).reshape(1, 1, 2)


def _rate(halves: np.ndarray, number: int, field: KernelSum) -> float:
    """Return what turns rho into a number per pixel."""
    total = ((int(halves[0]) << HALF) + int(halves[1])) * field.unit
    return number / total if total > 0 else 0.0


def _masked(
    mask: np.ndarray, ys: np.ndarray, xs: np.ndarray, step: int, points: Points
) -> tuple[np.ndarray, int]:
    """Find the points of a block on masked pixels (indices), and count those on good ones."""
    k, i, j = points.inside(ys, xs, step)
    hit = mask[i, j] != 0
    return k[hit], int((~hit).sum())


def _unmasked(points: Points, parts: np.ndarray) -> tuple[Points, int]:
    """All points but those on masked pixels, and how many lie on good pixels of the mask."""
    keep = np.ones(points.x.size, bool)
    for k, _ in parts.ravel():
        keep[k] = False
    if not keep.all():
        log.info("%d sources on masked pixels are not used to inpaint", (~keep).sum())
    return points[keep], sum(n for _, n in parts.ravel())


def positive(**values: float | None) -> None:
    """Refuse named values that are not finite and above 0 (None passes)."""
    for name, value in values.items():
        if value is not None and not 0 < value < np.inf:
            raise InputError(f"{name} = {value} is not a positive number; give one above 0")


def lines(grid: Grid, chunks: Chunks) -> tuple[da.Array, da.Array]:
    """Rows and columns (global pixels) of a grid in these chunks."""
    ys, xs = (da.from_array(a, chunks=(c,)) for a, c in zip((grid.y, grid.x), chunks, strict=True))
    return ys, xs


def delayed_points(catalog: Any, grid: Grid, weights: str | None = None) -> Delayed:
    """Delayed `Points` of a catalogue; missing columns raise `InputError` here and now."""
    frame = cat.as_dask(catalog)
    cat.pixel_positions(frame._meta, grid)
    if weights is not None and weights not in frame.columns:
        raise InputError(
            f"weights = {weights!r} is no column of the catalogue; it has {list(frame.columns)}"
        )
    position = {"ra", "dec"} if {"ra", "dec"} <= set(frame.columns) else {"x", "y"}
    frame = frame[[c for c in frame.columns if c in position | {weights}]]
    return _gathered(frame, partial(_partition, grid=grid, weights=weights))


def _gathered(frame: dd.DataFrame, func: Callable[[pd.DataFrame], np.ndarray]) -> Delayed:
    """Delayed `Points` from ``func`` of each partition, all in one layer of the graph.

    A delayed object per partition would make every later layer carry thousands of others. The
    tasks of `dask.dataframe.from_delayed(verify_meta=False)` are aliases under a wrong key (seen
    in dask 2026.8), on which `dask.array` stops with a missing dependency: mended here.
    """
    frame = frame.optimize()
    graph: dict[Any, Any] = {
        key: type(task)(key, task.target) if getattr(task, "key", key) != key else task
        for key, task in dict(frame.__dask_graph__()).items()
    }
    token = tokenize(frame, func)
    name, parts = f"points-{token}", [(f"positions-{token}", i) for i in range(frame.npartitions)]
    graph |= {part: (func, key) for part, key in zip(parts, frame.__dask_keys__(), strict=True)}
    graph[name] = (Points.gather, parts)
    return Delayed(name, HighLevelGraph.from_collections(name, graph))


def per_block(
    func: Callable[..., Any], blocks: da.Array, ys: da.Array, xs: da.Array, **options: Any
) -> da.Array:
    """``func(block, ys, xs, **options)`` of each chunk, as an array of objects, one per chunk.

    One blockwise layer, however many chunks. ``options`` may be delayed.
    """
    return da.blockwise(
        partial(_boxed, func), "ij", blocks, "ij", ys, "i", xs, "j", **options, dtype=object,
        adjust_chunks={"i": 1, "j": 1}, meta=np.empty((0, 0), object), token=func.__name__,
    )  # fmt: skip


def _boxed(
    func: Callable[..., Any], block: np.ndarray, ys: np.ndarray, xs: np.ndarray, **options: Any
) -> np.ndarray:
    out = np.empty((1, 1), object)
    out[0, 0] = func(block, ys, xs, **options)
    return out


def detected(points: Delayed, mask: da.Array, ys: Any, xs: Any, step: int) -> Any:
    """Give the delayed points without those on masked pixels, and the number on good pixels."""
    hits = per_block(_masked, mask, ys, xs, step=step, points=points)
    both = dask.delayed(_unmasked, pure=True, nout=2)(points, hits)
    return both[0], both[1]


def normalisation(field: Delayed, number: Any, mask: da.Array, ys: Any, xs: Any) -> Delayed:
    """Give the delayed factor that makes the integral of rho over good pixels equal ``number``.

    The map is evaluated for this alone and dropped chunk by chunk: sharing its tasks with the
    scaled map would hold all of it in memory until the sum is known.
    """
    halves = da.blockwise(
        _total, "ijk", mask, "ij", ys, "i", xs, "j", field=field, new_axes={"k": 2},
        adjust_chunks={"i": 1, "j": 1}, dtype=np.int64, meta=np.empty((0, 0, 0), np.int64),
    ).sum(axis=(0, 1))  # fmt: skip
    return dask.delayed(_rate, pure=True)(halves, number, field)
