"""Sums of W(d) = (softening + d)**-alpha over the points around each place, windowed to a radius.

This is where the time of a density map goes. W is written as a polynomial, so that places go
through one loop without branches or tables, which the compiler turns into vectors. It may not
reorder anything (no fastmath), so that a place's sum is the same in bits whatever its block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.polynomial import chebyshev

from gcdask.kernels.bsplines import fma

ERROR = 1e-6  # of W
_LANES = 16  # places summed at once: whole vectors, without a scalar rest (8 are not vectorised)
_DEGREES = (6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128)  # few, because each is compiled
_HORNER = 16  # highest degree at which powers lose no digits that matter

# Rise from 0 to 1 on [0, 1] with six vanishing derivatives at both ends: t**7 times this of t
_RISE = (924.0, -6006.0, 16380.0, -24024.0, 20020.0, -9009.0, 1716.0)


def rise(t: np.ndarray) -> np.ndarray:
    """Smooth step: 0 up to t = 0, 1 from t = 1 on; 1 - rise(d / r) is the window of radius r."""
    t = np.clip(t, 0, 1)
    return np.asarray(t**7 * np.polyval(_RISE, t))


@lru_cache(maxsize=32)
def _roots(
    kernels: tuple[tuple[float, float], ...], longest: float
) -> tuple[tuple[tuple[float, ...], ...], tuple[float, float, float]]:
    """Find W**(1/4) of each ``(alpha, softening)`` up to d = ``longest`` as a polynomial of z.

    z = (D - m) / (D + m) with D = s + d, s the least softening, and m the geometric mean of the
    least and largest D: the functions converge fast however far these are apart, and the fourth
    roots do so with a small *relative* error.

    Returns
    -------
    coefficients : tuple of tuple of float
        For each kernel, as many: highest first, of powers up to degree 16, else of Chebyshev
        polynomials, of z divided by its largest value.
    variable : (float, float, float)
        ``a, b, c`` that give this as ``a - b / (d + c)``.
    """
    least = min(softening for _, softening in kernels)
    ratio = 1 + max(longest / least, 1e-6)
    end, middle = (math.sqrt(ratio) - 1) / (math.sqrt(ratio) + 1), least * math.sqrt(ratio)

    def root(t: np.ndarray, alpha: float, softening: float) -> np.ndarray:
        d = middle * (1 + end * t) / (1 - end * t)
        return np.asarray((d + (softening - least)) ** (-alpha / 4))

    t = np.linspace(-1, 1, 1001)
    series: Any
    for degree in _DEGREES:
        series = [chebyshev.chebinterpolate(root, degree, k) for k in kernels]  # type: ignore[type-var]
        values = zip(series, kernels, strict=True)
        worst = max(np.abs(chebyshev.chebval(t, c) / root(t, *k) - 1).max() for c, k in values)
        if worst < ERROR / 4:
            break
    if degree <= _HORNER:
        series = [chebyshev.cheb2poly(c) for c in series]
    variable = 1 / end, 2 * middle / end, least + middle
    return tuple(tuple(c[::-1].tolist()) for c in series), variable


@njit(cache=True, nogil=True, inline="always")
def _series(c: Any, z: Any) -> Any:
    """Evaluate what `_roots` gives; the branch is taken when this is compiled."""
    p = c[0]
    if len(c) <= _HORNER + 1:
        for n in range(1, len(c)):
            p = fma(p, z, c[n])
        return p
    before = 0.0
    for n in range(1, len(c) - 1):
        p, before = fma(2 * z, p, c[n] - before), p
    return fma(z, p, c[-1] - before)


@njit(cache=True, nogil=True, inline="always")
def _rise(v: Any) -> Any:
    """Factors of rise(v) = s v**3 v**4 (v from 0 to 1): s and v**3."""
    c6, c5, c4, c3, c2, c1, c0 = _RISE
    v2 = v * v
    s = fma(fma(fma(c6, v, c5), v, c4), v, c3)
    s = fma(fma(fma(s, v, c2), v, c1), v, c0)
    return s, v2 * v


@njit(cache=True, nogil=True, error_model="numpy")
def _sum(
    out: Any, x: Any, y: Any, w: Any, ys: Any, xs: Any, step: Any, hole: Any, c: Any, variable: Any
) -> None:
    """Add to ``out``; lengths are in units of the radius.

    ``xs`` has `_LANES` columns more, ``hole`` is a tuple of the inverse of one radius or of none.
    The window at d is the rise of what is left to the radius, v = 1 - d.
    """
    ny, nx = out.shape
    line = np.zeros(xs.size)
    z0, z1, z2 = variable
    columns = 1 / step
    first = 0
    for i in range(ny):
        line[:nx] = out[i]
        while first < y.size and y[first] < ys[i] - 1:
            first += 1
        for k in range(first, y.size):
            dy, xk, wk = y[k] - ys[i], x[k], w[k]
            if dy > 1:
                break
            dy2 = dy * dy
            half = math.sqrt(max(1 - dy2, 0.0))
            # rounding may cost a place within 1e-9 of the radius, where the window is below 1e-59
            start = max(math.ceil((xk - half - xs[0]) * columns), 0)
            stop = min(math.floor((xk + half - xs[0]) * columns) + 1, nx)
            for j in range(start, stop, _LANES):
                sums, places = line[j : j + _LANES], xs[j : j + _LANES]
                for n in range(_LANES):
                    dx = places[n] - xk
                    d = math.sqrt(fma(dx, dx, dy2))
                    v = 1 - d
                    v = v if v > 0 else 0.0
                    root = _series(c, z0 - z1 / (d + z2))
                    s, v3 = _rise(v)
                    if len(hole):
                        u = 1 - d * hole[0]
                        u = u if u > 0 else 0.0
                        t, u3 = _rise(u)
                        u2, v2 = u * u, v * v
                        window = s * v3 * (v2 * v2) - t * u3 * (u2 * u2)
                        root *= root
                    else:
                        window = s * v3
                        root *= v
                        root *= root
                    sums[n] = fma(wk, root * root * window, sums[n])
        out[i] = line[:nx]


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_many(
    out: Any, x: Any, y: Any, w: Any, ys: Any, xs: Any, step: Any, c: Any, variable: Any
) -> None:
    """`_sum` without a hole for weights ``w`` (points, n) and ``out`` (n, rows, columns)."""
    n_weights, ny, nx = out.shape
    lines, values = np.zeros((n_weights, xs.size)), np.empty(_LANES)
    z0, z1, z2 = variable
    columns = 1 / step
    first = 0
    for i in range(ny):
        lines[:, :nx] = out[:, i]
        while first < y.size and y[first] < ys[i] - 1:
            first += 1
        for k in range(first, y.size):
            dy, xk = y[k] - ys[i], x[k]
            if dy > 1:
                break
            dy2 = dy * dy
            half = math.sqrt(max(1 - dy2, 0.0))
            start = max(math.ceil((xk - half - xs[0]) * columns), 0)
            stop = min(math.floor((xk + half - xs[0]) * columns) + 1, nx)
            for j in range(start, stop, _LANES):
                places = xs[j : j + _LANES]
                for n in range(_LANES):
                    dx = places[n] - xk
                    d = math.sqrt(fma(dx, dx, dy2))
                    v = 1 - d
                    v = v if v > 0 else 0.0
                    root = _series(c, z0 - z1 / (d + z2))
                    s, v3 = _rise(v)
                    root *= v
                    root *= root
                    values[n] = root * root * (s * v3)
                for m in range(n_weights):
                    wk = w[k, m]
                    if wk != 0:  # a third of the weights of a bootstrap are
                        sums = lines[m, j : j + _LANES]
                        for n in range(_LANES):
                            sums[n] = fma(wk, values[n], sums[n])
        out[:, i] = lines[:, :nx]


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_kernels(
    out: Any, x: Any, y: Any, w: Any, ys: Any, xs: Any, step: Any, c: Any, variable: Any
) -> None:
    """`_sum` without a hole for kernels ``c`` (n, powers) and ``out`` (n, rows, columns)."""
    n_kernels, ny, nx = out.shape
    lines = np.zeros((n_kernels, xs.size))
    z, weight = np.empty(_LANES), np.empty(_LANES)
    z0, z1, z2 = variable
    columns = 1 / step
    first = 0
    for i in range(ny):
        lines[:, :nx] = out[:, i]
        while first < y.size and y[first] < ys[i] - 1:
            first += 1
        for k in range(first, y.size):
            dy, xk, wk = y[k] - ys[i], x[k], w[k]
            if dy > 1:
                break
            dy2 = dy * dy
            half = math.sqrt(max(1 - dy2, 0.0))
            start = max(math.ceil((xk - half - xs[0]) * columns), 0)
            stop = min(math.floor((xk + half - xs[0]) * columns) + 1, nx)
            for j in range(start, stop, _LANES):
                places = xs[j : j + _LANES]
                for n in range(_LANES):
                    dx = places[n] - xk
                    d = math.sqrt(fma(dx, dx, dy2))
                    v = 1 - d
                    v = v if v > 0 else 0.0
                    z[n] = z0 - z1 / (d + z2)
                    s, v3 = _rise(v)
                    v *= v
                    weight[n] = wk * (v * v * (s * v3))
                for m in range(n_kernels):
                    powers = c[m]
                    sums = lines[m, j : j + _LANES]
                    for n in range(_LANES):
                        root = _series(powers, z[n])
                        root *= root
                        sums[n] = fma(root * root, weight[n], sums[n])
        out[:, i] = lines[:, :nx]


def add_sums(
    out: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    *,
    kernel: tuple[float, float, float],
    radius: float,
    hole: float | None = None,
) -> None:
    """Add sum_i w_i W(d_i) window(d_i) at rows ``ys`` and columns ``xs`` to ``out``.

    Parameters
    ----------
    out : ndarray of float64, ``(ys.size, xs.size)``
    x, y, w : ndarray of float64
        Points sorted by y; sums are taken in their order. Those out of reach cost nothing.
    ys, xs : ndarray of float64
        Ascending; columns are equally spaced.
    kernel : (float, float, float)
        alpha; the softening in the units of x and y; what W is to be multiplied by.
    radius : float
        The window is 1 - rise(d / radius),
    hole : float, optional
        minus 1 - rise(d / hole).
    """
    if not out.size:
        return
    (x, y, w), (ys, xs, step) = _scaled(x, y, w, ys, xs, radius)
    (c,), variable = _scaled_roots([kernel], radius)
    holes = () if hole is None else (radius / hole,)
    _sum(out, x, y, w, ys, xs, step, holes, c, variable)


def add_sums_of_many(
    out: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    *,
    kernel: tuple[float, float, float],
    radius: float,
) -> None:
    """`add_sums` for several weights of each point: W is evaluated once for all of them.

    Parameters
    ----------
    out : ndarray of float64, ``(n, ys.size, xs.size)``
    w : ndarray of float64, ``(n, x.size)``
    x, y, ys, xs, kernel, radius
        As in `add_sums`.
    """
    if not out.size:
        return
    (x, y, w), (ys, xs, step) = _scaled(x, y, w.T, ys, xs, radius)
    (c,), variable = _scaled_roots([kernel], radius)
    _sum_many(out, x, y, np.ascontiguousarray(w), ys, xs, step, c, variable)


def add_sums_of_kernels(
    out: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    *,
    kernels: Sequence[tuple[float, float, float]],
    radius: float,
) -> None:
    """`add_sums` for several kernels: distances and the window are found once for all of them.

    Parameters
    ----------
    out : ndarray of float64, ``(n, ys.size, xs.size)``
    kernels : sequence of (float, float, float)
        See ``kernel`` of `add_sums`.
    x, y, w, ys, xs, radius
        As in `add_sums`.
    """
    if not out.size:
        return
    series, variable = _scaled_roots(kernels, radius)
    if len(series[0]) > _HORNER + 1:  # softenings far below the radius: powers lose digits
        for each, kernel in zip(out, kernels, strict=True):
            add_sums(each, x, y, w, ys, xs, kernel=kernel, radius=radius)
        return
    (x, y, w), (ys, xs, step) = _scaled(x, y, w, ys, xs, radius)
    _sum_kernels(out, x, y, w, ys, xs, step, tuple(series), variable)


def _scaled(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, ys: np.ndarray, xs: np.ndarray, radius: float
) -> Any:
    """Points within reach and places, in units of the radius."""
    rows = slice(*np.searchsorted(y, [ys[0] - radius - 1, ys[-1] + radius + 1]))
    reach = (x[rows] > xs[0] - radius - 1) & (x[rows] < xs[-1] + radius + 1)
    step = float(xs[1] - xs[0]) if xs.size > 1 else 1.0
    padded = np.concatenate([xs, xs[-1] + step * np.arange(1, _LANES + 1)])
    points = x[rows][reach] / radius, y[rows][reach] / radius, np.array(w[rows][reach], float)
    return points, (ys / radius, padded / radius, step / radius)


def _scaled_roots(kernels: Sequence[tuple[float, float, float]], radius: float) -> Any:
    """Series of each kernel in units of the radius, and their variable."""
    series, variable = _roots(tuple((a, s / radius) for a, s, _ in kernels), 1.0)
    scales = [(factor * radius**-alpha) ** 0.25 for alpha, _, factor in kernels]
    return [tuple(k * a for a in c) for k, c in zip(scales, series, strict=True)], variable
