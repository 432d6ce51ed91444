"""The sum of the kernel over all sources: laid out, shared out, and evaluated; NumPy only.

Each partition of a catalogue gives its `Extent`; the `Layout` follows from all of them; by it each
gives its `Share` of the far field; the shares add up to a `KernelSum`, which any block of the grid
evaluates with the points about it. All merging is exact, so nothing depends on the partitions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcdask.density.points import Points, with_weights
from gcdask.grid import Grid
from gcdask.kernels import distant, nearfar

log = logging.getLogger(__name__)

HALF = 26  # bits of each half of the integers that sum a map exactly


def box_of(grid: Grid) -> distant.Box:
    """Box (y_lo, y_hi, x_lo, x_hi) of a grid's pixels, global."""
    return (float(grid.y[0]), float(grid.y[-1]), float(grid.x[0]), float(grid.x[-1]))


def reach(grid: Grid, boxes: np.ndarray, r_c: float | None) -> float:
    """Upper bound of `nearfar.reach` (global pixels), before anything of the sources is known.

    Parameters
    ----------
    grid : Grid
    boxes : ndarray (n, 4)
        Boxes around sources (y_lo, y_hi, x_lo, x_hi), infinite where they could be anywhere and
        NaN where there are none.
    r_c : float or None
        In arcsec, see `Layout.of`.
    """
    box = np.array(box_of(grid))
    frame = distant.width_of_frame(box_of(grid))
    ends = np.concatenate([boxes[~np.isnan(boxes).any(axis=1)], box[None]])
    low = np.maximum(ends[:, [0, 2]].min(axis=0), box[[0, 2]] - frame)
    high = np.minimum(ends[:, [1, 3]].max(axis=0), box[[1, 3]] + frame)
    radius = None if r_c is None else r_c / grid.global_scale
    height, width = (high - low).tolist()
    return nearfar.reach(*nearfar.radii(height, width, n_points=0, step=grid.step, r_c=radius))


@dataclass(frozen=True)
class Extent:
    """What must be known of some sources before the far field can be laid out.

    Attributes
    ----------
    rows, good, near : int
        Sources in all, those that are finite, and those of them that are not outlying (see
        `gcdask.kernels.distant`).
    weight : float
        The largest in absolute value.
    bounds : (y_lo, y_hi, x_lo, x_hi)
        Box around the near ones, in global pixels.
    gap : float
        Distance (px) of the nearest outlying one from the grid's box.
    """

    rows: int = 0
    good: int = 0
    near: int = 0
    weight: float = 0.0
    bounds: tuple[float, ...] = (np.inf, -np.inf, np.inf, -np.inf)
    gap: float = np.inf

    @classmethod
    def of(cls, points: np.ndarray, box: distant.Box) -> Extent:
        """Look at an array (2 or 3, n) of x, y and weights; ``box`` is that of the grid."""
        x, y, w = rows = with_weights(points[:, np.isfinite(points).all(axis=0)])
        away = distant.outlying(x, y, box)
        weight, gap = float(np.abs(w).max(initial=0)), distant.gap(x[away], y[away], box)
        bounds = cls().bounds
        if not away.all():
            bounds = tuple(float(f(v[~away])) for v in (y, x) for f in (np.min, np.max))
        near = int((~away).sum())
        return cls(points.shape[1], rows.shape[1], near, weight, bounds, gap)

    @classmethod
    def merge(cls, parts: Sequence[Extent]) -> Extent:
        """Extent of all sources together."""
        ends = np.array([p.bounds for p in parts]).T
        bounds = tuple(float(f(e)) for f, e in zip((min, max, min, max), ends, strict=True))
        rows, good, near = (sum(getattr(p, n) for p in parts) for n in ("rows", "good", "near"))
        weight, gap = max(p.weight for p in parts), min(p.gap for p in parts)
        return cls(rows, good, near, weight, bounds, gap)


@dataclass(frozen=True)
class Share:
    """Some sources' part of the far field, in integers: shares add exactly, in any order."""

    nodes: nearfar.Nodes
    outlying: np.ndarray

    @classmethod
    def merge(cls, parts: Sequence[Share]) -> Share:
        """Far field of all parts' sources."""
        outlying = np.sum([p.outlying for p in parts], axis=0)
        return cls(nearfar.merge(p.nodes for p in parts), outlying)


@dataclass(frozen=True)
class Layout:
    """How rho is summed on a grid; all partitions and blocks must agree on it.

    Attributes
    ----------
    box : (y_lo, y_hi, x_lo, x_hi)
        The grid's, in global pixels. Sources that are further from it than it is long are
        `gcdask.kernels.distant`: they would stretch the coarse grid to where nobody looks.
    alpha, softening, scale : float
        The kernel, in arcsec, and arcsec per global pixel.
    plan : nearfar.Plan or None
        Near and far part of the others; None without any.
    unit : float
        That of the distant sources' sums.
    any_outlying : bool
        Whether there are distant ones.
    bound : float
        Upper bound of rho.
    """

    box: distant.Box
    alpha: float
    softening: float
    scale: float
    plan: nearfar.Plan | None
    unit: float
    any_outlying: bool
    bound: float

    @classmethod
    def of(
        cls, extent: Extent, *, grid: Grid, alpha: float, softening: float, r_c: float | None
    ) -> Layout:
        """Lay out the sum over sources of this extent; ``r_c`` in arcsec."""
        box, scale = box_of(grid), grid.global_scale
        if extent.rows > extent.good:
            log.warning(
                "%d of %d sources have no finite position or weight on this grid: ignored",
                extent.rows - extent.good,
                extent.rows,
            )
        plan = None
        if extent.near:
            ends = zip((min, max, min, max), box, extent.bounds, strict=True)
            y_lo, y_hi, x_lo, x_hi = (f(a, b) for f, a, b in ends)
            plan = nearfar.plan(
                (y_lo, y_hi, x_lo, x_hi),
                alpha,
                softening,
                scale,
                n_points=extent.near,
                weight=extent.weight,
                step=grid.step,
                r_c=None if r_c is None else r_c / scale,
            )
        largest = extent.good * extent.weight
        unit = nearfar.quantum(largest * (softening + extent.gap * scale) ** -alpha)
        away = extent.good > extent.near
        return cls(box, alpha, softening, scale, plan, unit, away, largest * softening**-alpha)

    def share(self, points: np.ndarray, nodes: nearfar.Nodes | None = None) -> Share:
        """Far field of an array (2 or 3, n) of x, y and weights.

        ``nodes`` are those of a layout that differs in the kernel alone.
        """
        rows = with_weights(points[:, np.isfinite(points).all(axis=0)])
        away = distant.outlying(rows[0], rows[1], self.box)
        if nodes is None:
            x, y, w = rows[:, ~away]
            nodes = nearfar.assign(x, y, w, self.plan) if self.plan else nearfar.merge([])
        x, y, w = rows[:, away]
        kernel = self.alpha, self.softening, self.scale
        return Share(nodes, distant.node_sums(x, y, w, self.box, *kernel, self.unit))


@dataclass(frozen=True)
class KernelSum:
    """The sum of W over all sources, ready to be evaluated on any block of a grid.

    ``coeffs`` are of the far part of ``layout.plan``, ``outlying`` of the distant sources.
    """

    layout: Layout
    coeffs: np.ndarray | None
    outlying: np.ndarray | None

    @classmethod
    def of(cls, layout: Layout, share: Share) -> KernelSum:
        """Far field of the merged shares of all sources."""
        coeffs = nearfar.far_field(share.nodes, layout.plan) if layout.plan else None
        away = distant.coefficients(share.outlying, layout.unit) if layout.any_outlying else None
        return cls(layout, coeffs, away)

    @classmethod
    def of_many(cls, layout: Layout, shares: Sequence[Share]) -> list[KernelSum]:
        """Far field for each of several weightings of the same sources (a layout with ``r_c``)."""
        plan = layout.plan
        transform = nearfar.far_transform(plan) if plan else None
        out = []
        for share in shares:
            coeffs = nearfar.far_field(share.nodes, plan, transform) if plan else None
            away = distant.coefficients(share.outlying, layout.unit)
            out.append(cls(layout, coeffs, away if layout.any_outlying else None))
        return out

    @staticmethod
    def at_many(
        many: Sequence[KernelSum], ys: np.ndarray, xs: np.ndarray, points: Points, w: np.ndarray
    ) -> np.ndarray:
        """Evaluate what `of_many` gives, float64 ``(n, ys.size, xs.size)``; ``w`` (n, points)."""
        plan, box = many[0].layout.plan, many[0].layout.box
        if many[0].layout.any_outlying:
            close = ~distant.outlying(points.x, points.y, box)
            points, w = points[close], w[:, close]
        coeffs = [one.coeffs for one in many if one.coeffs is not None]
        if plan is None:
            out = np.zeros((len(many), ys.size, xs.size))
        else:
            out = nearfar.evaluate_many(coeffs, points.x, points.y, w, ys, xs, plan)
        for rho, one in zip(out, many, strict=True):
            if one.outlying is not None:
                distant.add(rho, one.outlying, ys, xs, box)
        return out

    @staticmethod
    def at_kernels(
        many: Sequence[KernelSum], ys: np.ndarray, xs: np.ndarray, points: Points
    ) -> np.ndarray:
        """Evaluate sums that differ in the kernel alone, float64 ``(n, ys.size, xs.size)``."""
        plans, box = [one.layout.plan for one in many], many[0].layout.box
        if many[0].layout.any_outlying:
            points = points[~distant.outlying(points.x, points.y, box)]
        out = np.zeros((len(many), ys.size, xs.size))
        coeffs = [one.coeffs for one in many if one.coeffs is not None]
        if coeffs:
            known = [plan for plan in plans if plan is not None]
            x, y, w = points.x, points.y, points.w
            out = nearfar.evaluate_kernels(coeffs, x, y, w, ys, xs, known)
        for rho, one in zip(out, many, strict=True):
            if one.outlying is not None:
                distant.add(rho, one.outlying, ys, xs, box)
        return out

    def at(self, ys: np.ndarray, xs: np.ndarray, points: Points) -> np.ndarray:
        """Evaluate rho at rows ``ys`` and columns ``xs`` of the grid, float64.

        ``points`` are all that are as near them as `reach`, others do not matter.
        """
        plan, box = self.layout.plan, self.layout.box
        if self.layout.any_outlying:
            points = points[~distant.outlying(points.x, points.y, box)]
        if plan is None or self.coeffs is None:
            out = np.zeros((ys.size, xs.size))
        else:
            out = nearfar.evaluate(self.coeffs, points.x, points.y, points.w, ys, xs, plan)
        if self.outlying is not None:
            distant.add(out, self.outlying, ys, xs, box)
        return out

    @property
    def unit(self) -> float:
        """Quantum of exact sums: 2**-52 of an upper bound of rho."""
        bound = self.layout.bound
        return float(2.0 ** (np.ceil(np.log2(bound)) - 2 * HALF)) if bound > 0 else 1.0
