"""A smooth map between its pixels, with its slopes: cubic Hermite splines of local support.

Between two nodes the spline takes their values, and as slopes there the fourth-order differences
(f[-2] - 8 f[-1] + 8 f[1] - f[2]) / 12. It is exact for polynomials of degree 3, has continuous
slopes, and depends on six nodes along each axis: unlike an interpolating B-spline it gives the
same bits whatever part of the map is in memory, and a missing pixel spoils its neighbours only.
Where one of the 6 x 6 pixels is missing the four nearest are interpolated linearly; where one of
these is missing too, and outside the map, the result is NaN.
"""

from __future__ import annotations

import numpy as np
from numba import njit

BEHIND, AHEAD = 2, 3  # nodes before and after the one just below a place that it depends on


def local_spline(
    data: np.ndarray, row: np.ndarray, col: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and slopes of a map between its pixels.

    Parameters
    ----------
    data : array, shape (ny, nx)
        Map or part of one, NaN where there is none.
    row, col : array, shape (n,)
        Places in array indices; those outside [0, ny - 1] x [0, nx - 1] get NaN.

    Returns
    -------
    value, along_y, along_x : ndarray, float64, shape (n,)
        And the slopes per pixel along the two axes.
    """
    out = np.full((3, np.size(row)), np.nan)
    if min(np.shape(data)) > 0:
        _fill(np.asarray(data, np.float64), np.asarray(row, float), np.asarray(col, float), out)
    return out[0], out[1], out[2]


@njit(cache=True, nogil=True, error_model="numpy")
def _weights(t, value, slope):
    """Weights of the six nodes about a place at the fraction ``t`` of a step."""
    a, b = t * (1 - t) * (1 - t) / 12, t * t * (t - 1) / 12
    da, db = (1 - t) * (1 - 3 * t) / 12, t * (3 * t - 2) / 12
    low, dlow = (1 + 2 * t) * (1 - t) * (1 - t), 6 * t * (t - 1)
    value[:] = (a, b - 8 * a, low - 8 * b, 1 - low + 8 * a, 8 * b - a, -b)
    slope[:] = (da, db - 8 * da, dlow - 8 * db, 8 * da - dlow, 8 * db - da, -db)


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(data, rows, cols, out):
    ny, nx = data.shape
    wy, wx, sy, sx = np.empty(6), np.empty(6), np.empty(6), np.empty(6)
    for i in range(rows.size):
        row, col = rows[i], cols[i]
        if not (row >= 0 and row <= ny - 1 and col >= 0 and col <= nx - 1):
            continue
        j, k = min(int(row), max(ny - 2, 0)), min(int(col), max(nx - 2, 0))
        out[:, i] = np.nan
        if j >= BEHIND and j + AHEAD < ny and k >= BEHIND and k + AHEAD < nx:
            _weights(row - j, wy, sy)
            _weights(col - k, wx, sx)
            out[:, i] = 0
            for a in range(6):
                for b in range(6):
                    f = data[j - BEHIND + a, k - BEHIND + b]
                    out[0, i] += wy[a] * wx[b] * f
                    out[1, i] += sy[a] * wx[b] * f
                    out[2, i] += wy[a] * sx[b] * f
        if np.isnan(out[0, i]) and ny > 1 and nx > 1:
            u, v = row - j, col - k
            out[:, i] = 0
            for a in range(2):
                for b in range(2):
                    wa, wb = (u if a else 1 - u), (v if b else 1 - v)
                    f = data[j + a, k + b]
                    out[0, i] += wa * wb * f
                    out[1, i] += (wb if a else -wb) * f
                    out[2, i] += (wa if b else -wa) * f
