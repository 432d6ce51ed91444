"""Lens potentials of the Lenstool kind, evaluated at many positions.

All potentials of a model are rows of one float64 table (`make_table`), so that deflection and
shear can be evaluated from it by kernels next to this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

DPIE, SHEAR = 81, 14
"""Lenstool's numbers of the profiles that a table may hold."""

PROFILE, X, Y, COS, SIN, EPS, CORE, CUT, STRENGTH = range(9)
"""Columns of a table; STRENGTH is b0 in arcsec of a dPIE, gamma of a shear."""

SPEED_OF_LIGHT = 299792.458  # km/s
STRIP = 256  # positions at a time: the working set stays in the first-level cache


def epsilon(ellipticity: Any) -> np.ndarray:
    """Elongation (a-b)/(a+b) from Lenstool's ``ellipticite`` e = (a^2-b^2)/(a^2+b^2).

    epsilon = (1 - sqrt(1 - e^2)) / e, written so that e = 0 needs no exception.
    """
    e = np.asarray(ellipticity, float)
    return e / (1 + np.sqrt(1 - e**2))


def einstein_b0(v_disp: Any) -> np.ndarray:
    """Strength b0 = 6 (648000 / c^2) v_disp^2 in arcsec of a velocity dispersion in km/s.

    It is 6 pi (v_disp/c)^2 in radians: Lenstool's v_disp is not the isothermal sphere's.
    """
    return 6 * 648000 * (np.asarray(v_disp, float) / SPEED_OF_LIGHT) ** 2


def make_table(
    profile: Any,
    x: Any,
    y: Any,
    ellipticity: Any,
    angle: Any,
    core: Any,
    cut: Any,
    v_disp: Any,
    gamma: Any,
) -> np.ndarray:
    """Table of potentials from Lenstool's parameters, all of shape ``(n,)``.

    Parameters
    ----------
    profile : array of int
        `DPIE` or `SHEAR`.
    x, y : array
        Centres in arcsec (west, north).
    ellipticity : array
        (a^2-b^2)/(a^2+b^2) of the mass, 0 <= e < 1.
    angle : array
        Degrees, counter-clockwise from +x.
    core, cut : array
        Radii in arcsec; ignored for a shear.
    v_disp : array
        Velocity dispersion in km/s; ignored for a shear.
    gamma : array
        Strength of a shear; ignored for a dPIE.

    Returns
    -------
    ndarray, float64, shape (n, 9)
        Columns `PROFILE`, `X`, `Y`, `COS`, `SIN`, `EPS`, `CORE`, `CUT`, `STRENGTH`.
    """
    profile = np.asarray(profile)
    theta = np.deg2rad(np.asarray(angle, float))
    is_shear = profile == SHEAR
    strength = np.where(is_shear, np.asarray(gamma, float), einstein_b0(v_disp))
    eps = np.where(is_shear, 0.0, epsilon(ellipticity))
    columns = (profile, x, y, np.cos(theta), np.sin(theta), eps, core, cut, strength)
    return np.stack([np.asarray(c, np.float64) for c in columns], axis=1)


def kappa_infinity(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Convergence for D_LS/D_S = 1, summed over the potentials in the order of the table.

    kappa = (b0/2) cut/(cut-core) [(core^2+R^2)^-1/2 - (cut^2+R^2)^-1/2],
    R^2 = X^2/(1+eps)^2 + Y^2/(1-eps)^2 (Eliasdottir et al. 2007, appendix A; Lenstool's
    profile 81). A shear adds nothing.

    Parameters
    ----------
    x, y : array, same shape
        Positions in arcsec (west, north).
    table : array, shape (n, 9)
        From `make_table`.

    Returns
    -------
    ndarray, float64, shape of ``x``
        The same bits for a position whatever the positions around it.
    """
    xs, ys = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    out = np.zeros(xs.size)
    dpie = np.ascontiguousarray(table[table[:, PROFILE] == DPIE])
    _sum_dpie(np.ascontiguousarray(xs).ravel(), np.ascontiguousarray(ys).ravel(), dpie, out)
    return out.reshape(xs.shape)


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_dpie(x, y, table, out):
    """Fill ``out``, zero so far, strip by strip, so that a strip is read from memory once."""
    for start in range(0, x.size, STRIP):
        stop = min(start + STRIP, x.size)
        for k in range(table.shape[0]):
            _add_dpie(x[start:stop], y[start:stop], table[k], out[start:stop])


@njit(cache=True, nogil=True, error_model="numpy")
def _add_dpie(x, y, row, out):
    """Add one potential: a loop that compiles to vector instructions.

    No fast-math: it would let the bits depend on where a position stands in its strip.
    1/s - 1/w = (cut^2-core^2) / (s w (s+w)) spares a division and, far out, the cancellation.
    """
    x0, y0, cos, sin = row[X], row[Y], row[COS], row[SIN]
    along, across = 1 / (1 + row[EPS]) ** 2, 1 / (1 - row[EPS]) ** 2
    core, cut = row[CORE], row[CUT]
    core2, cut2 = core * core, cut * cut
    scale = row[STRENGTH] / 2 * cut * (cut + core)
    for i in range(out.size):
        dx, dy = x[i] - x0, y[i] - y0
        major = dx * cos + dy * sin
        minor = dy * cos - dx * sin
        r2 = major * major * along + minor * minor * across
        s, w = np.sqrt(core2 + r2), np.sqrt(cut2 + r2)
        out[i] += scale / (s * w * (s + w))
