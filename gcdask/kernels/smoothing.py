"""Mask-normalised smoothing of points, conv(points) / conv(good), on a grid of cells.

Where a hole of the mask is so large that the Gaussian hardly reaches good pixels, a Gaussian twice
as wide is used, and so on: a pyramid, in which each level halves the number of cells and the
width stays the same number of cells.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from gcdask.kernels.noise import interpolate_cells

SUPPORT = 0.1  # least part of the Gaussian's weight on good pixels


def smooth_ratio(
    counts: np.ndarray, good: np.ndarray, sigma: float, area: float, *, support: float = SUPPORT
) -> np.ndarray:
    """Points per good pixel about each cell.

    Parameters
    ----------
    counts, good : ndarray, shape (ny, nx)
        Points on good pixels, and good pixels, of each cell.
    sigma : float
        Standard deviation of the Gaussian in cells (cut at 4 sigma; 8 keeps its samples exact).
    area : float
        Pixels of a full cell.
    support : float
        A cell takes the next wider Gaussian if less than this part of the weight is good.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        Where no level is supported: the mean of the field (0 without any good pixel).
    """
    counts, good = (np.asarray(a, np.float32) for a in (counts, good))
    norm = gaussian_filter(good, sigma, mode="constant", truncate=4)
    ratio = gaussian_filter(counts, sigma, mode="constant", truncate=4)
    ok = norm >= support * area
    np.divide(ratio, norm, out=ratio, where=ok)
    if ok.all():
        return ratio
    if max(good.shape) <= 2:
        total = good.sum(dtype=float)
        wide = np.full(good.shape, counts.sum(dtype=float) / total if total else 0, np.float32)
    else:
        coarse = smooth_ratio(_halve(counts), _halve(good), sigma, 4 * area, support=support)
        wide = interpolate_cells(coarse, 2, *(np.arange(n) for n in good.shape))
    return np.where(ok, ratio, wide).astype(np.float32)


def _halve(cells: np.ndarray) -> np.ndarray:
    ny, nx = cells.shape
    cells = np.pad(cells, ((0, ny % 2), (0, nx % 2)))
    return cells[::2, ::2] + cells[1::2, ::2] + cells[::2, 1::2] + cells[1::2, 1::2]
