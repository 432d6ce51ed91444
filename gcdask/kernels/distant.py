"""The sum of the kernel of `gcdask.kernels.nearfar` over points far away from a field.

Seen from a distance D of at least the field's size the kernel is smooth over all of the field: the
sum over such points is evaluated directly on `NODES` x `NODES` Chebyshev nodes and interpolated by
the polynomial through them. Its error falls by 4.2 a node (the ellipse that reaches the nearest
point has the semi-axes 2 and 5**0.5 in half fields): 4e-8 of W for a single point just at that
distance with alpha = 1.6, 1e-7 with alpha = 3, less for all that are further.

A point costs as much as the near part of one with r_c = 7 px, wherever it is, while on the coarse
grid of the near-far split a single one would cost the square of its distance. The sums at the
nodes are kept in integers: they add exactly, in whatever order and shares the points come.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from scipy.fft import dctn

NODES = 12

Box = tuple[float, float, float, float]


def width_of_frame(box: Box) -> float:
    """Distance (pixels) from a field beyond which points are `outlying`: its longer side."""
    y_lo, y_hi, x_lo, x_hi = box
    return max(y_hi - y_lo, x_hi - x_lo, 1.0)


def outlying(x: np.ndarray, y: np.ndarray, box: Box) -> np.ndarray:
    """Which points lie beyond a frame about a field as wide as the field's longer side.

    ``box`` is (y_lo, y_hi, x_lo, x_hi) of the field, in the pixels of ``x`` and ``y``.
    """
    y_lo, y_hi, x_lo, x_hi = box
    frame = width_of_frame(box)
    within = (y >= y_lo - frame) & (y <= y_hi + frame) & (x >= x_lo - frame) & (x <= x_hi + frame)
    return ~within


def gap(x: np.ndarray, y: np.ndarray, box: Box) -> float:
    """Distance (pixels) of the nearest of these points from a field; infinite without any."""
    y_lo, y_hi, x_lo, x_hi = box
    dy, dx = np.maximum(y_lo - y, y - y_hi), np.maximum(x_lo - x, x - x_hi)
    return float(np.hypot(np.maximum(dy, 0), np.maximum(dx, 0)).min(initial=np.inf))


@njit(cache=True, nogil=True)
def _at_nodes(
    out: Any, x: Any, y: Any, w: Any, ys: Any, xs: Any, alpha: Any, softening: Any, scale: Any
) -> None:
    for i in range(x.size):
        for a in range(ys.size):
            dy = (ys[a] - y[i]) * scale
            for b in range(xs.size):
                dx = (xs[b] - x[i]) * scale
                value = w[i] * (softening + math.sqrt(dx * dx + dy * dy)) ** -alpha
                out[a, b] += np.int64(np.rint(value))


def node_sums(
    x: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    box: Box,
    alpha: float,
    softening: float,
    scale: float,
    unit: float,
) -> np.ndarray:
    """Sum w_i W(|x - x_i|) at the Chebyshev nodes (y, x) of a field.

    Parameters
    ----------
    x, y, w : ndarray of float64
        Points (pixels) that are `outlying`.
    box : (y_lo, y_hi, x_lo, x_hi)
        The field, in pixels.
    alpha, softening, scale : float
        See `gcdask.kernels.nearfar.Plan`.
    unit : float
        What one count of the result stands for.

    Returns
    -------
    ndarray of int64, shape (12, 12)
        Sums over shares of the points add up to that over all, exactly.
    """
    nodes = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
    (y_mid, y_half), (x_mid, x_half) = _spans(box)
    sums = np.zeros((NODES, NODES), np.int64)
    x, y, w = (np.array(a, np.float64) for a in (x, y, w))
    ys, xs = y_mid + y_half * nodes, x_mid + x_half * nodes
    _at_nodes(sums, x, y, w / unit, ys, xs, float(alpha), float(softening), float(scale))
    return sums


def coefficients(sums: np.ndarray, unit: float) -> np.ndarray:
    """Chebyshev coefficients (y, x) of the sum over a field from that at the nodes, (12, 12)."""
    out = dctn(sums * unit, type=2) / NODES**2
    out[0] /= 2
    out[:, 0] /= 2
    return out


@njit(cache=True, nogil=True)
def _add(out: Any, coeffs: Any, ty: Any, tx: Any) -> None:
    for i in range(out.shape[0]):
        for b in range(coeffs.shape[1]):
            c = 0.0
            for a in range(coeffs.shape[0]):
                c += coeffs[a, b] * ty[a, i]
            for j in range(out.shape[1]):
                out[i, j] += c * tx[b, j]


def add(out: np.ndarray, coeffs: np.ndarray, ys: np.ndarray, xs: np.ndarray, box: Box) -> None:
    """Add the sum at rows ``ys`` and columns ``xs`` of the field to ``out``, in place.

    Every pixel's terms are added in one order, so that it has the same bits in every block.
    """
    ty, tx = (_polynomials(a, *span) for a, span in zip((ys, xs), _spans(box), strict=True))
    _add(out, coeffs, ty, tx)


def _spans(box: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """Middle and half length of the field along y and x; a line of pixels has some width too."""
    y_lo, y_hi, x_lo, x_hi = box
    (y, x) = ((lo + hi) / 2 for lo, hi in ((y_lo, y_hi), (x_lo, x_hi)))
    return (y, max(y_hi - y_lo, 1.0) / 2), (x, max(x_hi - x_lo, 1.0) / 2)


def _polynomials(positions: np.ndarray, middle: float, half: float) -> np.ndarray:
    """Chebyshev polynomials of degree 0 .. 11 at each position, (12, n)."""
    t = (np.asarray(positions, float) - middle) / half
    out = np.ones((NODES, t.size))
    out[1] = t
    for k in range(2, NODES):
        out[k] = 2 * t * out[k - 1] - out[k - 2]
    return out
