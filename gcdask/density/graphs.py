"""What the graphs of this package share: checked arguments, lazy sources and sums over them.

Whatever is one thing for all chunks (a `KernelSum`, the number of sources, ...) is a 0-dimensional
object array, whatever is one thing for each is an object array with one element per chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from gcdask import reduce
from gcdask.catalog import points as places
from gcdask.catalog.parts import boxed, gathered, hand_made
from gcdask.catalog.where import EVERYWHERE, chunk_edges, part_boxes
from gcdask.density.kernelsum import HALF, Extent, KernelSum, Layout, Share, box_of, reach
from gcdask.density.points import Points, cut
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.tiles import Chunks

add: Any = sum  # how `gcdask.reduce.tree` merges whole numbers
SLACK = 1.0  # px by which a chunk gets more points than it needs, so that rounding loses none


def positive(**values: float | None) -> None:
    """Refuse named values that are not finite and above 0 (None passes)."""
    for name, value in values.items():
        if value is not None and not 0 < value < np.inf:
            raise InputError(f"{name} = {value} is not a positive number; give one above 0")


def lines(grid: Grid, chunks: Chunks) -> tuple[da.Array, da.Array]:
    """Rows and columns (global pixels) of a grid in these chunks."""
    ys, xs = (da.from_array(a, chunks=(c,)) for a, c in zip((grid.y, grid.x), chunks, strict=True))
    return ys, xs


# -- one task, or one for each chunk -------------------------------------------------------------
def once(function: Callable[..., Any], *arrays: da.Array) -> da.Array:
    """``function(*values)`` in one task, as a 0-dimensional object array.

    ``values`` are what 0-dimensional object arrays hold, lists of the elements of others. A layer
    of its own: dask fuses others into the chunks that they serve, and would run them for each.
    """
    keys: list[Any] = [
        [(a.name, *k) for k in np.ndindex(*a.numblocks)] if a.ndim else (a.name,) for a in arrays
    ]
    name = f"once-{tokenize(function, [a.name for a in arrays])}"
    return hand_made(name, {(name,): (_once, function, *keys)}, arrays, ())


def _once(function: Callable[..., Any], *values: Any) -> np.ndarray:
    return boxed(
        function(*([e.item() for e in v] if isinstance(v, list) else v.item() for v in values)), 0
    )


def per_element(function: Callable[..., Any], *arrays: da.Array) -> da.Array:
    """``function`` of the elements of object arrays, of which 0-dimensional ones serve all."""
    indices = ["ij"[: a.ndim] for a in arrays]
    longest = max(indices, key=len)
    pairs = [v for pair in zip(arrays, indices, strict=True) for v in pair]
    return da.blockwise(
        partial(_per_element, function, len(longest)), longest, *pairs, dtype=object,
        meta=np.empty((0,) * len(longest), object), token=getattr(function, "__name__", "element"),
    )  # fmt: skip


def _per_element(function: Callable[..., Any], ndim: int, *elements: np.ndarray) -> np.ndarray:
    return boxed(function(*(e.item() for e in elements)), ndim)


def per_block(
    function: Callable[..., Any], blocks: da.Array, ys: da.Array, xs: da.Array, *objects: da.Array,
    **options: Any,
) -> da.Array:  # fmt: skip
    """``function(block, ys, xs, *values, **options)`` of each chunk: an object array.

    One blockwise layer, however many chunks. ``values`` are what object arrays hold, one for each
    chunk or one for all.
    """
    pairs = [v for a in objects for v in (a, "ij"[: a.ndim])]
    return da.blockwise(
        partial(_per_block, function, **options), "ij", blocks, "ij", ys, "i", xs, "j", *pairs,
        dtype=object, adjust_chunks={"i": 1, "j": 1}, align_arrays=False,
        meta=np.empty((0, 0), object), token=getattr(function, "__name__", "block"),
    )  # fmt: skip


def _per_block(
    function: Callable[..., Any], block: np.ndarray, ys: np.ndarray, xs: np.ndarray,
    *objects: np.ndarray, **options: Any,
) -> np.ndarray:  # fmt: skip
    return boxed(function(block, ys, xs, *(o.item() for o in objects), **options), 2)


# -- sources -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Sources:
    """Lazy sources in parts, of which it is known where they lie.

    ``parts`` is an object array of sorted arrays (2 or 3, n) of global x, y and weights, with one
    element for each row of ``boxes`` (see `gcdask.catalog.part_boxes`).
    """

    parts: da.Array
    boxes: np.ndarray

    @classmethod
    def of(cls, catalog: Any, grid: Grid, weights: str | None = None) -> Sources:
        """Sources of a catalogue; of one part where its partitions are not known by place.

        Raises
        ------
        InputError
            If the catalogue has no positions, or no such weights.
        """
        parts = places.part_points(catalog, grid, weights)
        boxes = part_boxes(places.positions(catalog, grid, weights), grid)
        if boxes is None:
            return cls(gathered(parts, places.join_points), np.array([EVERYWHERE]))
        return cls(parts, boxes)

    @classmethod
    def by_chunk(cls, parts: da.Array, grid: Grid, chunks: Chunks) -> Sources:
        """Sources that lie on the chunks of a map, one array for each chunk."""
        (y, x), shape = chunk_edges(grid, chunks), parts.shape
        ends = [np.broadcast_to(e, shape) for e in (y[:-1, None], y[1:, None], x[:-1], x[1:])]
        return cls(parts.ravel(), np.stack([e.ravel() for e in ends], axis=1))

    def __add__(self, other: Sources) -> Sources:
        parts = da.concatenate([self.parts, other.parts])
        return Sources(parts, np.concatenate([self.boxes, other.boxes]))

    def near(self, grid: Grid, chunks: Chunks, distance: float = 0.0) -> da.Array:
        """`Points` in each chunk of a map and up to ``distance`` px around it, object array.

        A chunk reads only the parts that it can touch.
        """
        return places.by_chunk(self.parts, self.boxes, grid, chunks, distance + SLACK, cut)

    def kernel_sum(
        self, grid: Grid, chunks: Chunks, *, alpha: float, softening: float, r_c: float | None
    ) -> tuple[da.Array, da.Array]:
        """`KernelSum` of the sources, and the points that each chunk is to evaluate it with.

        Every part gives its extent, then, once the layout is known from all of them, its share of
        the far field; both are merged as trees.
        """
        extents = per_element(partial(Extent.of, box=box_of(grid)), self.parts)
        lay_out = partial(Layout.of, grid=grid, alpha=alpha, softening=softening, r_c=r_c)
        merges: Any = Extent.merge, Share.merge
        layout = once(lay_out, reduce.tree(extents, merges[0]))
        shares = per_element(Layout.share, layout, self.parts)
        total = once(KernelSum.of, layout, reduce.tree(shares, merges[1]))
        return total, self.near(grid, chunks, reach(grid, self.boxes, r_c))


# -- the map -------------------------------------------------------------------------------------
def _value(
    ys: np.ndarray, xs: np.ndarray, near: np.ndarray, field: np.ndarray, *per_pixel: np.ndarray,
    area: float,
) -> np.ndarray:  # fmt: skip
    rho: np.ndarray = field.item().at(ys, xs, near.item())
    for rate in per_pixel:
        rho *= rate.item() / area
    return rho


def evaluated(
    field: da.Array, near: da.Array, grid: Grid, chunks: Chunks, *per_pixel: da.Array
) -> da.Array:
    """Map of a `KernelSum` with the points of each chunk, times rates per pixel over its area."""
    ys, xs = lines(grid, chunks)
    rates = [v for rate in per_pixel for v in (rate, "")]
    return da.blockwise(
        _value, "ij", ys, "i", xs, "j", near, "ij", field, "", *rates, area=grid.pixel_scale**2,
        dtype=float, meta=np.empty((0, 0)), align_arrays=False,
    )  # fmt: skip


# -- the normalisation ---------------------------------------------------------------------------
def _total(
    mask: np.ndarray, ys: np.ndarray, xs: np.ndarray, field: KernelSum, points: Points
) -> int:
    """Sum of rho over the good pixels in integers, exact in any order."""
    good = mask == 0
    if not good.any():
        return 0
    whole = np.rint(field.at(ys, xs, points)[good] / field.unit).astype(np.int64)
    high, low = whole >> HALF, whole & (2**HALF - 1)
    return (int(high.sum()) << HALF) + int(low.sum())


def _rate(total: int, number: int, field: KernelSum) -> float:
    return number / (total * field.unit) if total > 0 else 0.0


def normalisation(
    field: da.Array, near: da.Array, number: da.Array, mask: da.Array, ys: da.Array, xs: da.Array
) -> da.Array:
    """Give what turns rho into a number per pixel: over good pixels these sum up to ``number``.

    The map is evaluated for this alone and dropped chunk by chunk: sharing its tasks with the
    scaled map would hold all of it in memory until the sum is known.
    """
    total = reduce.tree(per_block(_total, mask, ys, xs, field, near), add)
    return once(_rate, total, number, field)
