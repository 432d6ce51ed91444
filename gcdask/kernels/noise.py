"""Robust local noise: one number per cell of a global lattice, and its interpolation."""

import numpy as np
from numba import njit

MIN_PIXELS = 64  # below this a cell has no estimate of its own


def robust_sigma(values: np.ndarray) -> float:
    """Standard deviation from the median absolute deviation, NaN if fewer than 64 are finite.

    A second pass leaves out what lies beyond 4 sigma, so that the sources of a crowded cell,
    which are all on one side, bias the median and the width less.
    """
    # sorted once, all medians are a walk: what is not finite lies at the ends
    return float(_clipped_mad(np.sort(values, axis=None)))


@njit(cache=True, nogil=True)
def _clipped_mad(v):  # type: ignore[no-untyped-def]
    low, high = 0, v.size
    while high > low and not np.isfinite(v[high - 1]):
        high -= 1
    while low < high and not np.isfinite(v[low]):
        low += 1
    sigma = np.nan
    for _ in range(2):
        n = high - low
        if n < MIN_PIXELS:
            break
        centre = v[low + n // 2]
        if n % 2 == 0:
            centre = (v[low + n // 2 - 1] + centre) / 2
        # the n // 2 + 1 smallest deviations, taken in turn from both sides of the centre
        right = low + np.searchsorted(v[low:high], centre)
        left, last, before = right - 1, 0.0, 0.0
        for _ in range(n // 2 + 1):
            below = centre - v[left] if left >= low else np.inf
            above = v[right] - centre if right < high else np.inf
            before = last
            if below <= above:
                last, left = below, left - 1
            else:
                last, right = above, right + 1
        sigma = 1.4826 * (last if n % 2 else (before + last) / 2)
        while v[high - 1] - centre > 4 * sigma:
            high -= 1
        while centre - v[low] > 4 * sigma:
            low += 1
    return sigma


def interpolate_cells(cells: np.ndarray, cell: float, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear interpolation of cell values at the pixels ``y`` (rows) and ``x`` (columns).

    Parameters
    ----------
    cells : (n, m) array
        Value of cell ``[i, j]``, which covers ``[i * cell, (i + 1) * cell)`` along y; finite.
    cell : float
        Side of a cell in global pixels.
    y, x : 1-D arrays
        Global pixel coordinates.

    Returns
    -------
    (len(y), len(x)) float32 array
        Constant beyond the outermost cell centres. A pixel's value depends on its own
        coordinates alone, hence on no chunking.
    """
    iy, fy = _nodes(y, cell, cells.shape[0])
    ix, fx = _nodes(x, cell, cells.shape[1])
    used = np.arange(iy.min(), iy.max() + 2) if y.size else np.arange(0)
    rows = np.asarray(cells, np.float32)[np.minimum(used, cells.shape[0] - 1)]
    right = np.minimum(ix + 1, cells.shape[1] - 1)
    along_x = rows[:, ix] * (1 - fx) + rows[:, right] * fx
    low = iy - (iy.min() if y.size else 0)
    return along_x[low] * (1 - fy)[:, None] + along_x[low + 1] * fy[:, None]


def _nodes(position: np.ndarray, cell: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Cell below each position and the weight of the next one (0 beyond the last centre)."""
    t = np.clip((np.asarray(position, float) + 0.5) / cell - 0.5, 0, n - 1)
    low = np.floor(t).astype(np.intp)
    return low, (t - low).astype(np.float32)
