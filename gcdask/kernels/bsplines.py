"""Quintic B-splines on a square mesh: sharing points out to its nodes, and values between them.

A spline with coefficients c has the value sum_kl c[k, l] b(v - k) b(u - l) at the place (v, u), in
cells from the node [0, 0]; b is the quintic B-spline, which spans six cells. It takes given values
at the nodes if c is these divided, in Fourier space, by the transform of b sampled at the nodes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numba.extending import intrinsic

BEHIND, AHEAD = 2, 3  # nodes before and after the one just below a place that it depends on
TAPS = 24  # on each side of the inverse filter, which falls by 0.43 a node: to 2e-9


@intrinsic  # type: ignore[misc]
def _multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    return a(a, a, a), lambda context, builder, signature, args: builder.fma(*args)


fma: Any = _multiply_add  # a b + c rounded once, in scalars and in vectors alike


@njit(cache=True, nogil=True, inline="always")
def _weights(t: Any) -> Any:
    """Weights of the six nodes around a place at the fraction ``t`` of a cell."""
    s = 1 - t
    t2, s2 = t * t, s * s
    return (
        s2 * s2 * s / 120,
        (1 + 5 * s * (1 + s * (2 + s * (2 + s * (1 - s))))) / 120,
        (66 + t2 * (-60 + t2 * (30 - 10 * t))) / 120,
        (66 + s2 * (-60 + s2 * (30 - 10 * s))) / 120,
        (1 + 5 * t * (1 + t * (2 + t * (2 + t * (1 - t))))) / 120,
        t2 * t2 * t / 120,
    )


@njit(cache=True, nogil=True)
def assign(
    out: Any, x: Any, y: Any, w: Any, origin: Any, cell: Any, corner: Any
) -> None:  # fmt: skip
    """Share points out to the nodes about them, in integers: the sum is exact in any order.

    Parameters
    ----------
    out : ndarray of int64
        Nodes from ``corner`` on, to be added to.
    x, y, w : ndarray of float64
        Points and their weights; a share of one is rounded to a whole number.
    origin, cell : (float, float), float
        ``(y, x)`` of the node [0, 0], and the side of a cell.
    corner : (int, int)
        Which node ``out[0, 0]`` is.
    """
    for i in range(x.size):
        v, u = (y[i] - origin[0]) / cell, (x[i] - origin[1]) / cell
        a, b = math.floor(v), math.floor(u)
        wy, wx = _weights(v - a), _weights(u - b)
        a -= corner[0] + BEHIND
        b -= corner[1] + BEHIND
        for p in range(6):
            for q in range(6):
                out[a + p, b + q] += np.int64(np.rint(w[i] * (wy[p] * wx[q])))


@njit(cache=True, nogil=True)
def add_values(
    out: Any, coeffs: Any, ys: Any, xs: Any, origin: Any, cell: Any, corner: Any
) -> None:  # fmt: skip
    """Add the spline's values at rows ``ys`` and columns ``xs`` (ascending) to ``out``.

    The other arguments are those of `assign`. Every value is made by the same operations whatever
    part of the mesh is given, so that its bits are the same.
    """
    nx = xs.size
    first, weights = np.empty(nx, np.int64), np.empty((6, nx))
    for j in range(nx):
        u = (xs[j] - origin[1]) / cell
        b = math.floor(u)
        first[j] = b - BEHIND - corner[1]
        w = _weights(u - b)
        for q in range(6):
            weights[q, j] = w[q]
    w0, w1, w2, w3, w4, w5 = weights
    # rows of nodes at the columns asked for: made once each, the last six are kept
    rows = np.empty((6, nx))
    made = -1
    for i in range(ys.size):
        v = (ys[i] - origin[0]) / cell
        a = math.floor(v)
        v0, v1, v2, v3, v4, v5 = _weights(v - a)
        a -= BEHIND + corner[0]
        for k in range(max(made + 1, a), a + 6):
            nodes, row = coeffs[k], rows[k % 6]
            for j in range(nx):
                b = first[j]
                s = fma(w2[j], nodes[b + 2], w0[j] * nodes[b] + w1[j] * nodes[b + 1])
                t = fma(w3[j], nodes[b + 3], w4[j] * nodes[b + 4] + w5[j] * nodes[b + 5])
                row[j] = s + t
        made = a + 5
        r0, r1, r2 = rows[a % 6], rows[(a + 1) % 6], rows[(a + 2) % 6]
        r3, r4, r5 = rows[(a + 3) % 6], rows[(a + 4) % 6], rows[(a + 5) % 6]
        for j in range(nx):
            s = fma(v2, r2[j], v0 * r0[j] + v1 * r1[j])
            t = fma(v3, r3[j], v4 * r4[j] + v5 * r5[j])
            out[i, j] += s + t


def inverse_transform(half: int) -> np.ndarray:
    """Inverse of b's transform at ``half + 1`` frequencies from zero to the highest."""
    k = np.arange(half + 1) * (np.pi / half)
    return 60 / (33 + 26 * np.cos(k) + np.cos(2 * k))


@lru_cache(maxsize=1)
def _inverse_filter() -> np.ndarray:
    """Inverse filter in real space, lag 0 first, so that it keeps a constant."""
    taps = np.fft.irfft(inverse_transform(128))[: TAPS + 1]
    return np.asarray(taps / (taps[0] + 2 * taps[1:].sum()))


@njit(cache=True, nogil=True)
def _filter(values: Any, taps: Any) -> Any:
    n = taps.size - 1
    ny, nx = values.shape
    rows = np.empty((ny - 2 * n, nx))
    for i in range(ny - 2 * n):
        for j in range(nx):
            rows[i, j] = taps[0] * values[i + n, j]
        for k in range(1, n + 1):
            for j in range(nx):
                pair = values[i + n - k, j] + values[i + n + k, j]
                rows[i, j] = fma(taps[k], pair, rows[i, j])
    out = np.empty((ny - 2 * n, nx - 2 * n))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = taps[0] * rows[i, j + n]
        for k in range(1, n + 1):
            for j in range(out.shape[1]):
                pair = rows[i, j + n - k] + rows[i, j + n + k]
                out[i, j] = fma(taps[k], pair, out[i, j])
    return out


def coefficients(values: np.ndarray) -> np.ndarray:
    """Spline through values at nodes: coefficients of all but `TAPS` nodes at each side.

    The filter is as long everywhere, so that coefficients have the same bits whatever part of the
    mesh they are made from.
    """
    return np.asarray(_filter(values, _inverse_filter()))
