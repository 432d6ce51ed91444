"""The local estimator: sources per good pixel, smoothed on coarse cells; NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcdask.density.points import Points
from gcdask.grid import Grid
from gcdask.kernels import sums
from gcdask.kernels.noise import interpolate_cells
from gcdask.kernels.smoothing import smooth_ratio
from gcdask.masks import Flag

MAX_CELLS = 8192**2  # about 1.3 GiB


@dataclass(frozen=True)
class Cells:
    """What a block has on each cell: ``good`` pixels and ``number`` of sources; ``first`` (y, x).

    Cells start at multiples of their side, so that blocks may share some.
    """

    first: tuple[int, int]
    good: np.ndarray
    number: np.ndarray

    @classmethod
    def of(
        cls, mask: np.ndarray, ys: np.ndarray, xs: np.ndarray, points: Points, *, step: int,
        cell: int, redrawn: bool,
    ) -> Cells:  # fmt: skip
        """Count; masked pixels are good too where they hold ``redrawn`` sources."""
        good = mask == 0
        if redrawn:
            good |= inpaintable(mask)
        _, *element = points.inside(ys, xs, step)
        index, shape, cells = [], [], []
        for axis, coordinate in ((0, ys), (1, xs)):
            k = (coordinate // step).astype(int) // cell
            cells.append(k - k[0])
            index.append(k[element[axis]] - k[0])
            shape.append(int(k[-1] - k[0]) + 1)
        number = np.bincount(index[0] * shape[1] + index[1], minlength=shape[0] * shape[1])
        first = tuple(int(a[0] // step) // cell for a in (ys, xs))
        return cls((first[0], first[1]), sums.count_cells(good, *cells), number.reshape(shape))


@dataclass(frozen=True)
class LocalRatio:
    """Sources per pixel on cells of ``cell`` pixels; ``corner`` is the first cell ``(y, x)``."""

    ratio: np.ndarray
    corner: tuple[int, int]
    cell: int
    step: int

    @classmethod
    def build(cls, parts: Sequence[Cells], *, grid: Grid, sigma: float) -> LocalRatio:
        """Smooth what `Cells` of all blocks hold; ``sigma`` in arcsec."""
        cell = cell_of(grid, sigma)
        (i0, i1), (j0, j1) = (
            ((a[[0, -1]] // grid.step) // cell).astype(int) for a in (grid.y, grid.x)
        )
        area = np.zeros((i1 - i0 + 1, j1 - j0 + 1), np.float32)
        n = np.zeros(area.shape, np.int64)
        for part in parts:
            (i, j), (ny, nx) = part.first, part.good.shape
            where = slice(i - i0, i - i0 + ny), slice(j - j0, j - j0 + nx)
            area[where] += part.good
            n[where] += part.number
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


def inpaintable(mask: np.ndarray) -> np.ndarray:
    """Masked pixels outside the edge frame (a bool mask knows no edge)."""
    if mask.dtype == bool:
        return mask
    return (mask != 0) & ((mask & mask.dtype.type(Flag.EDGE)) == 0)
