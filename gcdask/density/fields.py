"""Densities that can be evaluated on any block: from points to numbers, NumPy only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcdask.grid import Grid
from gcdask.kernels import distant, nearfar
from gcdask.kernels.noise import interpolate_cells
from gcdask.kernels.smoothing import smooth_ratio
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
        # the points are sorted by y: only those of the block's rows are looked at
        low, high = np.searchsorted(self.y, [ys[0] - step, ys[-1] + step])
        near = slice(low, high)
        i, j = (np.floor((p[near] - a[0]) / step + 0.5) for p, a in ((self.y, ys), (self.x, xs)))
        k = np.flatnonzero((i >= 0) & (i < ys.size) & (j >= 0) & (j < xs.size))
        return k + low, i[k].astype(int), j[k].astype(int)

    def __getitem__(self, rows: np.ndarray) -> Points:
        """Some of the points, in their order."""
        return Points(self.x[rows], self.y[rows], self.w[rows])


@dataclass(frozen=True)
class KernelSum:
    """The sum of W over all points, ready to be evaluated on any block of a grid.

    ``points`` are those on the grid and about it, whose far field has the ``coeffs`` of ``plan``.
    Points that are further away than the grid is long (``outlying``: their coefficients on the
    grid's ``box``) are no part of it: they would stretch the coarse grid to where nobody looks.
    ``bound`` is an upper bound of rho.
    """

    points: Points
    plan: nearfar.Plan | None = None
    coeffs: np.ndarray | None = None
    box: distant.Box = (0, 0, 0, 0)
    outlying: np.ndarray | None = None
    bound: float = 0.0

    @classmethod
    def build(
        cls, points: Points, grid: Grid, alpha: float, softening: float, r_c: float | None
    ) -> KernelSum:
        """Far field of the points on a coarse grid that covers the near ones and ``grid``."""
        if not points.x.size:
            return cls(points)
        box = (float(grid.y[0]), float(grid.y[-1]), float(grid.x[0]), float(grid.x[-1]))
        scale, bound = grid.global_scale, float(np.abs(points.w).sum() * softening**-alpha)
        away, outlying = distant.outlying(points.x, points.y, box), None
        if away.any():
            far, points = points[away], points[~away]
            outlying = distant.coefficients(far.x, far.y, far.w, box, alpha, softening, scale)
            if not points.x.size:
                return cls(points, None, None, box, outlying, bound)
        ends = ((box[:2], points.y), (box[2:], points.x))
        lo_hi = [float(f(np.concatenate(e))) for e in ends for f in (np.min, np.max)]
        plan = nearfar.plan(
            (lo_hi[0], lo_hi[1], lo_hi[2], lo_hi[3]),
            alpha,
            softening,
            scale,
            n_points=points.x.size,
            step=grid.step,
            r_c=None if r_c is None else r_c / scale,
        )
        coarse = nearfar.assign(points.x, points.y, points.w, plan)
        return cls(points, plan, nearfar.far_field(coarse, plan), box, outlying, bound)

    def at(self, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
        """Evaluate rho at rows ``ys`` and columns ``xs`` of the grid, float64."""
        out = np.zeros((ys.size, xs.size))
        if self.plan is not None and self.coeffs is not None:
            out = nearfar.evaluate_far(self.coeffs, ys, xs, self.plan)
            p = self.points
            nearfar.near_sum(p.x, p.y, p.w, ys, xs, self.plan, out=out)
        if self.outlying is not None:
            distant.add(out, self.outlying, ys, xs, self.box)
        return out

    @property
    def unit(self) -> float:
        """Quantum of exact sums: 2**-52 of an upper bound of rho."""
        return float(2.0 ** (np.ceil(np.log2(self.bound)) - 2 * HALF)) if self.bound > 0 else 1.0


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
        rows, columns = (
            np.floor(a / self.step) - k * self.cell
            for a, k in zip((ys, xs), self.corner, strict=True)
        )
        return interpolate_cells(self.ratio, self.cell, rows, columns).astype(float)


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
