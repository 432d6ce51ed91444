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


def sigma_around(
    image: np.ndarray, y: np.ndarray, x: np.ndarray, half: int, step: int = 1
) -> np.ndarray:
    """`robust_sigma` of squares of an image, clipped at its ends.

    Parameters
    ----------
    image : (ny, nx) float array
        NaN = no data.
    y, x : (n,) int arrays
        Middle of each square: its pixels are ``y - half`` to ``y + half``, every ``step`` px.

    Returns
    -------
    (n,) float64 array
    """
    out = np.empty(len(y))
    side = -(-(2 * half + 1) // step)
    stack = np.empty((min(len(y), 256), side * side), image.dtype)
    for start in range(0, len(y), 256):  # sorted by rows in one call, and still in the cache
        rows = slice(start, min(start + 256, len(y)))
        part = stack[: rows.stop - start]
        _gather(part, image, y[rows], x[rows], half, step)
        part.sort(axis=1)
        for k in range(len(part)):
            out[start + k] = _clipped_mad(part[k])
    return out


@njit(cache=True, nogil=True)
def _gather(out, image, y, x, half, step):  # type: ignore[no-untyped-def]
    ny, nx = image.shape
    for i in range(y.size):
        k = 0
        for a in range(y[i] - half, y[i] + half + 1, step):
            for b in range(x[i] - half, x[i] + half + 1, step):
                inside = 0 <= a < ny and 0 <= b < nx
                out[i, k] = image[a, b] if inside else np.nan
                k += 1


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
        last, before = _middle_deviations(v[low:high], centre)
        sigma = 1.4826 * (last if n % 2 else (before + last) / 2)
        while v[high - 1] - centre > 4 * sigma:
            high -= 1
        while centre - v[low] > 4 * sigma:
            low += 1
    return sigma


@njit(cache=True, nogil=True)
def _middle_deviations(v, centre):  # type: ignore[no-untyped-def]
    """The two largest of the n // 2 + 1 smallest |v - centre| of sorted values, largest first.

    Deviations ascend from the centre to either side; how many of them come from the left is found
    by halving.
    """
    n = v.size
    k, right = n // 2 + 1, np.searchsorted(v, centre)
    few, many = max(0, k - (n - right)), min(k, right)
    while few < many:
        left = (few + many) // 2
        if centre - v[right - left - 1] < v[right + k - left - 1] - centre:
            few = left + 1
        else:
            many = left
    last = before = 0.0
    for i in range(max(right - few, 0), min(right - few + 2, right)):
        deviation = centre - v[i]
        if deviation >= last:
            before, last = last, deviation
        elif deviation > before:
            before = deviation
    end = right + k - few
    for i in range(max(end - 2, right), end):
        deviation = v[i] - centre
        if deviation >= last:
            before, last = last, deviation
        elif deviation > before:
            before = deviation
    return last, before


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
    out = np.empty((iy.size, ix.size), np.float32)
    if out.size:
        y0, x0 = iy.min(), ix.min()
        used = np.array(cells[y0 : iy.max() + 2, x0 : ix.max() + 2], np.float32)
        _bilinear(out, used, iy - y0, fy, ix - x0, fx)
    return out


def cell_span(position: np.ndarray, cell: float, n: int) -> slice:
    """The cells along an axis of ``n`` that `interpolate_cells` uses for rising positions."""
    low, _ = _nodes(position[[0, -1]], cell, n)
    return slice(int(low[0]), int(low[1]) + 2)


@njit(cache=True, nogil=True)
def _bilinear(out, cells, iy, fy, ix, fx):  # type: ignore[no-untyped-def]
    ny, nx = cells.shape
    one = np.float32(1)
    line = np.empty((2, ix.size), np.float32)
    at = -1
    for i in range(iy.size):
        if iy[i] != at:  # the two rows of cells about it, at the columns that are wanted
            at = iy[i]
            for k in range(2):
                row = cells[min(at + k, ny - 1)]
                for j in range(ix.size):
                    right = row[min(ix[j] + 1, nx - 1)]
                    line[k, j] = row[ix[j]] * (one - fx[j]) + right * fx[j]
        lower, upper = line[0], line[1]
        for j in range(ix.size):
            out[i, j] = lower[j] * (one - fy[i]) + upper[j] * fy[i]


def _nodes(position: np.ndarray, cell: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Cell below each position and the weight of the next one (0 beyond the last centre)."""
    t = np.clip((np.asarray(position, float) + 0.5) / cell - 0.5, 0, n - 1)
    low = np.floor(t).astype(np.intp)
    return low, (t - low).astype(np.float32)
