"""Densities that can be evaluated on any block: from points to numbers, NumPy only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcdask.grid import Grid
from gcdask.kernels import nearfar
from gcdask.kernels.smoothing import bilinear, smooth_ratio
from gcdask.masks import Flag

log = logging.getLogger(__name__)

MAX_CELLS = 8192**2  # coarse cells of the local estimator: about 1.3 GiB
HALF = 26  # bits of each half of the integers that sum a map exactly


@dataclass(frozen=True)
class Points:
    """Sources on a grid: global pixel ``x``, ``y``, weight ``w``, sorted by (y, x, w)."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray

    @classmethod
    def gather(cls, parts: Sequence[np.ndarray]) -> Points:
        """Join arrays ``(3, n)`` of x, y, w; rows with a NaN are dropped and counted in the log."""
        x, y, w = np.concatenate([np.zeros((3, 0)), *parts], axis=1)
        good = np.isfinite(x) & np.isfinite(y) & np.isfinite(w)
        if not good.all():
            log.warning(
                "%d of %d sources have no finite position or weight on this grid: ignored",
                (~good).sum(),
                good.size,
            )
        return cls(*nearfar.sort_points(x[good], y[good], w[good]))

    def inside(self, ys: np.ndarray, xs: np.ndarray, step: int) -> tuple[np.ndarray, ...]:
        """Find the points in a block's (half-open) pixels: indices, rows, columns."""
        i, j = (np.floor((p - a[0]) / step + 0.5) for p, a in ((self.y, ys), (self.x, xs)))
        k = np.flatnonzero((i >= 0) & (i < ys.size) & (j >= 0) & (j < xs.size))
        return k, i[k].astype(int), j[k].astype(int)


@dataclass(frozen=True)
class KernelSum:
    """The sum of W over all points, ready to be evaluated on any block."""

    points: Points
    plan: nearfar.Plan | None = None
    coeffs: np.ndarray | None = None

    @classmethod
    def build(
        cls, points: Points, grid: Grid, alpha: float, softening: float, r_c: float | None
    ) -> KernelSum:
        """Far field of the points on a coarse grid that covers them and ``grid``."""
        if not points.x.size:
            return cls(points)
        ends = ((grid.y[[0, -1]], points.y), (grid.x[[0, -1]], points.x))
        lo_hi = [float(f(np.concatenate(e))) for e in ends for f in (np.min, np.max)]
        plan = nearfar.plan(
            (lo_hi[0], lo_hi[1], lo_hi[2], lo_hi[3]),
            alpha,
            softening,
            grid.global_scale,
            n_points=points.x.size,
            step=grid.step,
            r_c=None if r_c is None else r_c / grid.global_scale,
        )
        coarse = nearfar.assign(points.x, points.y, points.w, plan)
        return cls(points, plan, nearfar.far_field(coarse, plan))

    def at(self, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
        """Evaluate rho at rows ``ys`` and columns ``xs``, float64."""
        if self.plan is None or self.coeffs is None:
            return np.zeros((ys.size, xs.size))
        out = nearfar.evaluate_far(self.coeffs, ys, xs, self.plan)
        p = self.points
        return nearfar.near_sum(p.x, p.y, p.w, ys, xs, self.plan, out=out)

    @property
    def unit(self) -> float:
        """Quantum of exact sums: 2**-52 of an upper bound of rho."""
        bound = np.abs(self.points.w).sum() * (
            self.plan.softening**-self.plan.alpha if self.plan else 0
        )
        return float(2.0 ** (np.ceil(np.log2(bound)) - 2 * HALF)) if bound > 0 else 1.0


@dataclass(frozen=True)
class LocalRatio:
    """Sources per pixel on cells of ``cell`` pixels; ``corner`` is the first cell ``(y, x)``."""

    ratio: np.ndarray
    corner: tuple[int, int]
    cell: int
    step: int

    @classmethod
    def build(cls, good: np.ndarray, points: Points, grid: Grid, sigma: float) -> LocalRatio:
        """Smooth the points on good pixels and an array of what `good_cells` gave by block."""
        cell = cell_of(grid, sigma)
        (i0, i1), (j0, j1) = (
            ((a[[0, -1]] // grid.step) // cell).astype(int) for a in (grid.y, grid.x)
        )
        area = np.zeros((i1 - i0 + 1, j1 - j0 + 1), np.float32)
        for i, j, part in good.ravel():
            area[i - i0 : i - i0 + part.shape[0], j - j0 : j - j0 + part.shape[1]] += part
        _, row, column = points.inside(grid.y, grid.x, grid.step)
        i, j = (
            (k + int(a[0] // grid.step)) // cell - k0
            for k, a, k0 in ((row, grid.y, i0), (column, grid.x, j0))
        )
        n = np.bincount(i * area.shape[1] + j, minlength=area.size).reshape(area.shape)
        sigma_cells = sigma / (cell * grid.pixel_scale)
        return cls(smooth_ratio(n, area, sigma_cells, cell**2), (i0, j0), cell, grid.step)

    def at(self, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
        """Evaluate sources per pixel at rows ``ys`` and columns ``xs``, float64."""
        middle = (self.cell - 1) / 2
        v, u = (
            (np.floor(a / self.step) - middle) / self.cell - k
            for a, k in ((ys, self.corner[0]), (xs, self.corner[1]))
        )
        return bilinear(self.ratio, v, u)


def cell_of(grid: Grid, sigma: float) -> int:
    """Side in elements of the local estimator's cells: sigma/8, twice that in huge fields, ..."""
    cell = max(int(sigma / 8 / grid.pixel_scale), 1)
    while grid.shape[0] * grid.shape[1] > MAX_CELLS * cell**2:
        cell *= 2
    return cell


def good_cells(
    mask: np.ndarray, ys: np.ndarray, xs: np.ndarray, step: int, cell: int, redrawn: bool
) -> tuple[int, int, np.ndarray]:
    """First cell ``(y, x)`` of a block and its good pixels by cell (cells start at multiples)."""
    good = mask == 0
    if redrawn:  # masked pixels hold sources of the iteration before
        good |= inpaintable(mask)
    out = good.astype(np.int64)
    first = []
    for axis, coordinate in ((0, ys), (1, xs)):
        k = (coordinate // step).astype(int) // cell
        first.append(int(k[0]))
        out = np.add.reduceat(out, np.flatnonzero(np.diff(k, prepend=k[0] - 1)), axis=axis)
    return first[0], first[1], out


def inpaintable(mask: np.ndarray) -> np.ndarray:
    """Masked pixels outside the edge frame (a bool mask knows no edge)."""
    if mask.dtype == bool:
        return mask
    return (mask != 0) & ((mask & mask.dtype.type(Flag.EDGE)) == 0)
