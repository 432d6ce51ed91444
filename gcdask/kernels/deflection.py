"""Deflection and shear of the potentials in a table of `gcdask.kernels.dpie`.

A dPIE is the difference of two pseudo-isothermal elliptical masses, one with the core radius and
one with the cut radius. Each deflects by Kassiola & Kovner (1993, eq. 4.1.2)

    I'(r) = -i (1-eps^2) / (2 s) ln(A / D),   s = sqrt(eps),
    A = q X + i (2 s w - Y/q),  D = X + i (2 s r - Y),  w^2 = r^2 + R^2,  q = (1-eps)/(1+eps),

real part along the major axis X, imaginary part along Y, R as in `dpie.kappa_infinity`. Written so,
it has a branch cut, 0/0 at X = 0, Y = 2 s r, and cancels for eps -> 0. All three go away with

* Y < 0 alone (the others follow by symmetry): A and D then lie in the first quadrant and neither
  vanishes outside the centre, so that the angle of A/D stays within 90 deg;
* A - D = 2 s N, N = -s X/(1+eps) + i (g - s Y/(1-eps)), g = w - r = R^2 / (w + r), so that
  ln(A/D) = log1p(2 s N/D) keeps its digits, and at s = 0 is its first term;
* core and cut in one logarithm, whose argument minus one is likewise proportional to s.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gcdask.kernels.dpie import (
    CORE,
    COS,
    CUT,
    DPIE,
    EPS,
    PROFILE,
    SIN,
    STRENGTH,
    X,
    Y,
)

ROUND = 1e-12  # s below which an ellipse is a circle: what it leaves out is of order s^2
CENTRE = 1e-100  # arcsec^2; nearer than this squares underflow


def deflection_infinity(
    x: np.ndarray, y: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Deflection (west, north) in arcsec for D_LS/D_S = 1: light at x, y comes from x - alpha.

    Parameters
    ----------
    x, y : array, same shape
        Positions in arcsec (west, north).
    table : array, shape (n, 9)
        From `gcdask.kernels.dpie.make_table`.

    Returns
    -------
    alpha_x, alpha_y : ndarray, float64, shape of ``x``
        NaN where a position is.
    """
    return _sums(_sum_deflections, x, y, table)


def shear_infinity(
    x: np.ndarray, y: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shear for D_LS/D_S = 1, from the analytic derivatives of the deflection.

    gamma1 = (d alpha_x/dx - d alpha_y/dy) / 2, gamma2 = d alpha_x/dy = d alpha_y/dx; the third
    element of the Hessian is `gcdask.kernels.dpie.kappa_infinity`. Parameters and shapes as for
    `deflection_infinity`.
    """
    return _sums(_sum_shears, x, y, table)


def _sums(kernel, x, y, table):
    xs, ys = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    out = np.zeros((2, xs.size))
    flat = [np.ascontiguousarray(v).ravel() for v in (xs, ys)]
    kernel(*flat, np.ascontiguousarray(table), out)
    return out[0].reshape(xs.shape), out[1].reshape(xs.shape)


@njit(cache=True, nogil=True, error_model="numpy")
def _ratio(top, bottom):
    """Quotient of complex numbers far from overflow: three times faster than the careful one."""
    re, im = bottom.real, bottom.imag
    scale = 1 / (re * re + im * im)
    return complex((top.real * re + top.imag * im) * scale, (top.imag * re - top.real * im) * scale)


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_deflections(x, y, table, out):
    for k in range(table.shape[0]):
        row = table[k]
        cos, sin, strength = row[COS], row[SIN], row[STRENGTH]
        for i in range(x.size):
            dx, dy = x[i] - row[X], y[i] - row[Y]
            major, minor = dx * cos + dy * sin, dy * cos - dx * sin
            if row[PROFILE] == DPIE:
                a, b = _dpie_deflection(abs(major), abs(minor), row[EPS], row[CORE], row[CUT])
                a, b = np.copysign(a, major) * strength, np.copysign(b, minor) * strength
            else:
                a, b = strength * major, -strength * minor
            out[0, i] += a * cos - b * sin
            out[1, i] += a * sin + b * cos


@njit(cache=True, nogil=True, error_model="numpy")
def _dpie_deflection(x, y, eps, core, cut):
    """Deflection of a dPIE with b0 = 1 at |X|, |Y| in its own axes.

    With D of the core, A of the cut and G = (g_core - g_cut) / (cut - core) the argument of the
    logarithm is 1 + 2 i s (cut - core) (G D + 2 s N) / (D A).
    """
    r2 = (x / (1 + eps)) ** 2 + (y / (1 - eps)) ** 2
    if r2 < CENTRE:
        return 0.0, 0.0
    s, q = np.sqrt(eps), (1 - eps) / (1 + eps)
    w_core, w_cut = np.sqrt(core * core + r2), np.sqrt(cut * cut + r2)
    both = (w_core + core) * (w_cut + cut)
    g = r2 * (1 + (cut + core) / (w_cut + w_core)) / both
    d = complex(x, y + 2 * s * core)
    n = complex(-s * x / (1 + eps), r2 / (w_core + core) + s * y / (1 - eps))
    a = complex(q * x, y / q + 2 * s * w_cut)
    m = _ratio(g * d + 2 * s * n, d * a)
    scale = cut * (1 - eps * eps)
    if s < ROUND:
        return scale * m.real, -scale * m.imag
    step = 2 * s * (cut - core)
    re, im = -step * m.imag, step * m.real
    scale /= step
    return scale * np.arctan2(im, 1 + re), scale * 0.5 * np.log1p(re * (2 + re) + im * im)


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_shears(x, y, table, out):
    for k in range(table.shape[0]):
        row = table[k]
        cos, sin = row[COS], row[SIN]
        cos2, sin2 = cos * cos - sin * sin, 2 * sin * cos
        eps, core, cut, scale = row[EPS], row[CORE], row[CUT], row[STRENGTH]
        if row[PROFILE] == DPIE:
            scale *= cut / (cut - core)
        for i in range(x.size):
            dx, dy = x[i] - row[X], y[i] - row[Y]
            major, minor = dx * cos + dy * sin, dy * cos - dx * sin
            if row[PROFILE] == DPIE:
                a1, b1 = _piemd_shear(abs(major), abs(minor), eps, core)
                a2, b2 = _piemd_shear(abs(major), abs(minor), eps, cut)
                a, b = a1 - a2, np.copysign(1.0, major) * np.copysign(1.0, minor) * (b1 - b2)
            else:
                a, b = 1.0, 0.0
            out[0, i] += scale * (a * cos2 - b * sin2)
            out[1, i] += scale * (a * sin2 + b * cos2)


@njit(cache=True, nogil=True, error_model="numpy")
def _piemd_shear(x, y, eps, r):
    """Shear of I'(r) at |X|, |Y| in its own axes; its convergence is 1 / (2 w).

    d I'/dX = -i (1-eps^2) (P D - N) / (A D), P = -s/(1+eps) + i X/((1+eps)^2 w).
    """
    r2 = (x / (1 + eps)) ** 2 + (y / (1 - eps)) ** 2
    if r2 < CENTRE:
        return -eps / (2 * r), 0.0
    s, q = np.sqrt(eps), (1 - eps) / (1 + eps)
    w = np.sqrt(r * r + r2)
    slope = x / ((1 + eps) ** 2 * w)
    low = y + 2 * s * r
    d, a = complex(x, low), complex(q * x, y / q + 2 * s * w)
    # the real part of P D - N without the two terms s X/(1+eps), which cancel
    top = complex(-slope * low, slope * x - s * low / (1 + eps) - r2 / (w + r) - s * y / (1 - eps))
    z = (1 - eps * eps) * _ratio(top, a * d)
    # -i z = (Im z, -Re z); the sign of the second changes with that of Y
    return z.imag - 0.5 / w, z.real
