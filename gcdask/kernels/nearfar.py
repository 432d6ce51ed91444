"""Sums of a slowly falling kernel over points, rho(x) = sum_i w_i W(|x - x_i|), by near and far.

``W(d) = (softening + d)**-alpha`` has no cut-off, so it is split exactly (SCIENCE.md 2):

    W = W chi(d / r_c) + W [1 - chi(d / r_c)],    chi = 1 - smooth step of degree 9 on [0, 1].

The near part ends at ``r_c`` and is summed directly at the pixels. The far part varies on the
scale of ``r_c`` only: points are assigned to a coarse grid with cubic B-splines, convolved there
by FFT (zero padded: no periodic images) and evaluated with cubic B-splines again. Dividing by
both splines' transforms makes the result interpolate the far kernel at the coarse nodes, with an
error of the fourth order of the cell. With cells of r_c/16 no single pair is wrong by more than
6e-5 of W, and sums over thousands of points by about 2e-6 (with r_c/8: 1e-3 and 5e-5, hence not
used).

Positions are pixels (y, x); ``d`` is in arcsec through ``scale``. All sums are float64 and taken
in the order of the points: sort them (`sort_points`) and a pixel's value is the same in bits
whatever block it is computed in. Nothing here is compiled with fastmath, for the same reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from scipy.fft import dctn, fft, ifft, irfft, next_fast_len, rfft
from scipy.interpolate import CubicSpline

MAX_CELLS = 4096**2  # 1.2 GiB at the peak of the convolution
_PARTS = 16  # cells in r_c
_MARGIN = 4  # cells around the points and pixels: what the splines reach, and some
_RING = 16  # the inverse B-spline filter falls by 0.27 a cell: 1e-9 after this many
# Costs of the parts, ns: a near pair, and a coarse cell (two padded transforms)
_PAIR, _CELL = 3.0, 150.0


@dataclass(frozen=True)
class Plan:
    """How one field is summed; lengths in pixels unless said otherwise.

    Parameters
    ----------
    alpha, softening : float
        The kernel, softening in arcsec.
    scale : float
        Arcsec per pixel.
    r_c : float
        Support of the near part.
    cell : float
        Side of a coarse cell.
    origin : (float, float)
        ``(y, x)`` of the coarse node ``[0, 0]``.
    shape : (int, int)
        Coarse nodes ``(ny, nx)``.
    """

    alpha: float
    softening: float
    scale: float
    r_c: float
    cell: float
    origin: tuple[float, float]
    shape: tuple[int, int]


def plan(
    bounds: tuple[float, float, float, float],
    alpha: float,
    softening: float,
    scale: float,
    *,
    n_points: int = 10_000,
    step: float = 1,
    r_c: float | None = None,
    max_cells: int = MAX_CELLS,
) -> Plan:
    """Choose the near radius and lay the coarse grid.

    Parameters
    ----------
    bounds : (y_lo, y_hi, x_lo, x_hi)
        Box around all points and all output pixels, in pixels.
    alpha, softening, scale : float
        See `Plan`.
    n_points : int
        Number of points. With ``step`` it tells the cost of the near part,
        ``n_points pi (r_c / step)**2`` pairs, against that of the coarse grid, which falls as
        ``r_c**-2``: the default ``r_c`` makes both equal (and is at least 16 px).
    step : float
        Distance of output pixels.
    r_c : float, optional
        Near radius in pixels instead of that choice.
    max_cells : int
        Most coarse nodes, which bounds the memory. Cells are r_c/16 always; ``r_c`` grows until
        they fit.
    """
    y_lo, y_hi, x_lo, x_hi = bounds
    height, width = max(y_hi - y_lo, 1.0), max(x_hi - x_lo, 1.0)
    if r_c is None:
        cells = _PARTS**2 * height * width  # times r_c**-2
        pairs = math.pi * max(n_points, 1) / step**2  # times r_c**2
        r_c = max(16.0, (_CELL * cells / (_PAIR * pairs)) ** 0.25)

    def nodes(cell: float) -> tuple[int, int]:
        ny, nx = (math.ceil(length / cell) + 1 + 2 * _MARGIN for length in (height, width))
        return ny, nx

    while math.prod(nodes(r_c / _PARTS)) > max_cells:
        r_c *= 1.05
    cell = r_c / _PARTS
    origin = (y_lo - _MARGIN * cell, x_lo - _MARGIN * cell)
    return Plan(alpha, softening, scale, r_c, cell, origin, nodes(cell))


def kernel(d: np.ndarray, alpha: float, softening: float) -> np.ndarray:
    """W(d) = (softening + d)**-alpha, both lengths in arcsec."""
    return (softening + d) ** -alpha


def _step(t: np.ndarray) -> np.ndarray:
    """Rise from 0 to 1 on [0, 1] with four vanishing derivatives at both ends."""
    t = np.clip(t, 0, 1)
    return t**5 * (126 + t * (-420 + t * (540 + t * (-315 + t * 70))))


def sort_points(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    """``x, y, w`` (float64) in the order of (y, x, w): the one order in which sums are taken."""
    order = np.lexsort((w, x, y))
    return tuple(np.ascontiguousarray(np.asarray(a, np.float64)[order]) for a in (x, y, w))


# -- far part ------------------------------------------------------------------------------------
@njit(cache=True, nogil=True, inline="always")
def _spline(t: Any) -> Any:
    """Weights of the four nodes around a point at fraction ``t`` of a cell."""
    s = 1 - t
    return (
        s * s * s / 6,
        (4 - 6 * t * t + 3 * t * t * t) / 6,
        (4 - 6 * s * s + 3 * s * s * s) / 6,
        t * t * t / 6,
    )


@njit(cache=True, nogil=True)
def _assign(out: Any, x: Any, y: Any, w: Any, y0: Any, x0: Any, cell: Any) -> None:
    for i in range(x.size):
        v, u = (y[i] - y0) / cell, (x[i] - x0) / cell
        a, b = math.floor(v), math.floor(u)
        wy, wx = _spline(v - a), _spline(u - b)
        for p in range(4):
            for q in range(4):
                out[a - 1 + p, b - 1 + q] += w[i] * wy[p] * wx[q]


def assign(x: np.ndarray, y: np.ndarray, w: np.ndarray, plan: Plan) -> np.ndarray:
    """Weights of the points on the coarse nodes, float64 of ``plan.shape``; additive."""
    out = np.zeros(plan.shape)
    _assign(out, x, y, w, *plan.origin, plan.cell)
    return out


def far_field(coarse: np.ndarray, plan: Plan) -> np.ndarray:
    """B-spline coefficients of the far part from the assigned weights, both ``plan.shape``."""
    ny, nx = plan.shape
    # even lengths, at least twice the field: distances in it never meet those around the back
    py, px = (2 * next_fast_len(n + _RING, real=True) for n in (ny, nx))
    y, x = np.arange(py // 2 + 1) * plan.cell, np.arange(px // 2 + 1) * plan.cell
    d = np.hypot(y[:, None], x)
    far = kernel(d * plan.scale, plan.alpha, plan.softening) * _step(d / plan.r_c)
    del d
    # the far kernel is even in both axes: a cosine transform of one quadrant is its DFT
    transfer = dctn(far, type=1, overwrite_x=True)
    del far
    for axis, size in ((0, py), (1, px)):
        k = np.arange(size // 2 + 1) * (2 * np.pi / size)
        spline = ((2 + np.cos(k)) / 3) ** 2  # once for the assignment, once for the evaluation
        transfer /= spline[:, None] if axis == 0 else spline
    spectrum = fft(rfft(coarse, px, axis=1), py, axis=0, overwrite_x=True)
    half = py // 2
    spectrum[: half + 1] *= transfer
    spectrum[half + 1 :] *= transfer[half - 1 : 0 : -1]
    del transfer
    rows = ifft(spectrum, axis=0, overwrite_x=True)[:ny]
    return np.ascontiguousarray(irfft(rows, px, axis=1)[:, :nx])


@njit(cache=True, nogil=True)
def _evaluate(out: Any, coeffs: Any, ys: Any, xs: Any, y0: Any, x0: Any, cell: Any) -> None:
    line = np.empty(coeffs.shape[1])
    lo = max(math.floor((xs[0] - x0) / cell) - 2, 0)
    hi = min(math.floor((xs[-1] - x0) / cell) + 4, coeffs.shape[1])
    for i in range(ys.size):
        v = (ys[i] - y0) / cell
        a = math.floor(v)
        w0, w1, w2, w3 = _spline(v - a)
        for k in range(lo, hi):
            line[k] = (w0 * coeffs[a - 1, k] + w1 * coeffs[a, k]) + (
                w2 * coeffs[a + 1, k] + w3 * coeffs[a + 2, k]
            )
        for j in range(xs.size):
            u = (xs[j] - x0) / cell
            b = math.floor(u)
            w0, w1, w2, w3 = _spline(u - b)
            out[i, j] = (w0 * line[b - 1] + w1 * line[b]) + (w2 * line[b + 1] + w3 * line[b + 2])


def evaluate_far(coeffs: np.ndarray, ys: np.ndarray, xs: np.ndarray, plan: Plan) -> np.ndarray:
    """Far part at rows ``ys`` and columns ``xs`` (pixels, ascending), ``(ys.size, xs.size)``."""
    out = np.empty((ys.size, xs.size))
    if out.size:
        ys, xs = np.array(ys, np.float64), np.array(xs, np.float64)
        _evaluate(out, coeffs, ys, xs, *plan.origin, plan.cell)
    return out


# -- near part -----------------------------------------------------------------------------------
@lru_cache(maxsize=8)
def _table(alpha: float, softening: float, scale: float, r_c: float) -> np.ndarray:
    """Cubics of the near kernel on equal intervals of d, ``(n + 1, 4)``; the last one is zero.

    Intervals of softening/64 and r_c/1024 or less keep the error below 1e-8 of W.
    """
    n = max(1024, math.ceil(64 * r_c * scale / softening))
    t = np.linspace(0, 1, n + 1)
    near = kernel(t * r_c * scale, alpha, softening) * (1 - _step(t))
    near[-1] = 0
    table = np.zeros((n + 1, 4))
    table[:n] = CubicSpline(np.arange(n + 1.0), near).c[::-1].T
    return table


@njit(cache=True, nogil=True)
def _near(out: Any, x: Any, y: Any, w: Any, ys: Any, xs: Any, r_c: Any, table: Any) -> None:
    ny, nx = out.shape
    last = table.shape[0] - 1
    inverse = last / r_c
    step_y = ys[1] - ys[0] if ny > 1 else 1.0
    step_x = xs[1] - xs[0] if nx > 1 else 1.0
    for i in range(x.size):
        # one pixel more on each side than needed: beyond r_c the table adds an exact zero, so
        # that rounding here cannot matter
        a0 = max(math.floor((y[i] - r_c - ys[0]) / step_y), 0)
        a1 = min(math.ceil((y[i] + r_c - ys[0]) / step_y) + 1, ny)
        for a in range(a0, a1):
            dy = ys[a] - y[i]
            dy2 = dy * dy
            half = math.sqrt(max(r_c * r_c - dy2, 0.0))
            b0 = max(math.floor((x[i] - half - xs[0]) / step_x) - 1, 0)
            b1 = min(math.ceil((x[i] + half - xs[0]) / step_x) + 2, nx)
            for b in range(b0, b1):
                dx = xs[b] - x[i]
                t = math.sqrt(dx * dx + dy2) * inverse
                k = min(int(t), last)
                t -= k
                c = table[k]
                out[a, b] += w[i] * (((c[3] * t + c[2]) * t + c[1]) * t + c[0])


def near_sum(
    x: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    plan: Plan,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Near part at rows ``ys`` and columns ``xs`` (equally spaced pixels, ascending).

    Parameters
    ----------
    x, y, w : ndarray of float64
        Points sorted by `sort_points`; those further than r_c from the block cost nothing.
    ys, xs : ndarray
        Output rows and columns.
    plan : Plan
        The split.
    out : ndarray of float64, ``(ys.size, xs.size)``, optional
        Where to add the sums, in place.
    """
    ys, xs = np.array(ys, np.float64), np.array(xs, np.float64)
    out = np.zeros((ys.size, xs.size)) if out is None else out
    if not out.size:
        return out
    rows = slice(*np.searchsorted(y, [ys[0] - plan.r_c - 1, ys[-1] + plan.r_c + 1]))
    reach = (x[rows] > xs[0] - plan.r_c - 1) & (x[rows] < xs[-1] + plan.r_c + 1)
    x, y, w = (np.array(a[rows][reach]) for a in (x, y, w))
    _near(out, x, y, w, ys, xs, plan.r_c, _table(plan.alpha, plan.softening, plan.scale, plan.r_c))
    return out
