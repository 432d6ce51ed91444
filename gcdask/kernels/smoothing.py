"""Mask-normalised smoothing of points, conv(points) / conv(good), on a grid of cells.

Where a hole of the mask is so large that the Gaussian hardly reaches good pixels, a Gaussian twice
as wide is used, and so on: a pyramid, in which each level halves the number of cells and the
width stays the same number of cells.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

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
        y, x = (np.arange(n) / 2 - 0.25 for n in good.shape)
        wide = bilinear(coarse, y, x)
    return np.where(ok, ratio, wide).astype(np.float32)


def _halve(cells: np.ndarray) -> np.ndarray:
    ny, nx = cells.shape
    cells = np.pad(cells, ((0, ny % 2), (0, nx % 2)))
    return cells[::2, ::2] + cells[1::2, ::2] + cells[::2, 1::2] + cells[1::2, 1::2]


def bilinear(cells: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values at the rows ``y`` and columns ``x`` (in cells, 0 = a centre), ``(y.size, x.size)``.

    Constant beyond the outermost centres; float64.
    """
    (y0, y1, v), (x0, x1, u) = (_bracket(t, n) for t, n in zip((y, x), cells.shape, strict=True))
    v = v[:, None]
    rows = cells[y0] * (1 - v) + cells[y1] * v
    return np.asarray(rows[:, x0] * (1 - u) + rows[:, x1] * u)


def _bracket(t: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t = np.clip(t, 0, n - 1)
    low = np.minimum(t.astype(int), max(n - 2, 0))
    return low, np.minimum(low + 1, n - 1), t - low
