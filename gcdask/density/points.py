"""Sources as arrays: what blocks do with the points about them, NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdask.catalog.points import Box, cut_points


@dataclass(frozen=True)
class Points:
    """Sources on a grid: global pixel ``x``, ``y``, weight ``w``, sorted by (y, x, w), finite."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Points:
        """Take a sorted array (2 or 3, n) of x, y and weights (1 without), but for NaNs."""
        good = np.isfinite(rows).all(axis=0)
        return cls(*with_weights(rows if good.all() else rows[:, good]))

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

    @property
    def rows(self) -> np.ndarray:
        """The array (3, n) of x, y and weights."""
        return np.stack([self.x, self.y, self.w])


def with_weights(rows: np.ndarray) -> np.ndarray:
    """Array (3, n) of x, y and weights, which are 1 where there are none."""
    return rows if len(rows) > 2 else np.concatenate([rows, np.ones((1, rows.shape[1]))])


def cut(parts: list[np.ndarray], box: Box) -> Points:
    """Points of sorted arrays that lie in a box (y_lo, y_hi, x_lo, x_hi)."""
    return Points.of(cut_points(parts, box, rows=3))
