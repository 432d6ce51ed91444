"""Sums of a slowly falling kernel over points, rho(x) = sum_i w_i W(|x - x_i|), by near and far.

``W(d) = (softening + d)**-alpha`` has no cut-off, so it is split exactly, by a smooth step from 0
at d = 0 to 1 at a radius (`gcdask.kernels.nearby.rise`, of degree 13):

    W = W [1 - rise(d / r_near)] + W [rise(d / r_near) - rise(d / r_c)] + W rise(d / r_c).

- The near part is summed directly at the pixels.
- The far part varies on the scale of ``r_c`` only: points are assigned to a coarse grid with
  quintic B-splines, convolved there by FFT (zero padded: no periodic images) and evaluated with
  quintic B-splines again. Dividing by both splines' transforms makes the result interpolate the
  far kernel at the coarse nodes, with an error of the sixth order of the cell.
- Where memory, not speed, sets ``r_c`` (fields of more than about 20 000 px a side), a middle part
  between the two radii is summed directly on a mesh of cells of r_near/12, and splines go through
  it to the pixels. Elsewhere r_near = r_c and there is none.

With cells of r/12 no single pair is wrong by more than 5e-5 of W, and sums over thousands of points
by about 1e-6. (Cubic splines need cells of r/16 for 6e-5; steps of degree 9 and 11 give up to 1e-4.
Transforms in float32 would add 5e-4 of W to what a single far pair gives.)

Positions are pixels (y, x); ``d`` is in arcsec through ``scale``. A pixel's value is the same in
bits whatever block it is computed in and however the points are shared out: the coarse grid holds
integers, which add exactly in any order, and sums over points are taken in their order (sort them
with `sort_points`), all pixels by the same operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct, fft, ifft, irfft, next_fast_len, rfft

from gcdask.kernels import bsplines, nearby

MAX_CELLS = 4096**2  # 134 MB an array; 0.55 GB at the peak of the convolution
FEW = 1000  # points below which radii grow no more
_PARTS = 12  # cells in a radius
_MARGIN = 4  # coarse cells around the points and pixels: what the splines reach, and some
_RING = 26  # cells after which the inverse B-spline filter has fallen to 1e-9
# Costs of the parts, ns: a near pair, and a coarse cell (two padded transforms and the kernel's)
_PAIR, _CELL = 1.2, 50.0
_MIDDLE = 100  # a middle part pays from this radius on, in steps of the output
_BLOCK = 16  # rows or columns transformed at once: they stay in the cache
_BAND = 64  # rows of pixels evaluated at once, for the same reason
_BITS = 62  # of the integers on the coarse grid, so that the sum of all points is one of them


@dataclass(frozen=True)
class Plan:
    """How one field is summed; lengths in pixels unless said otherwise.

    Parameters
    ----------
    alpha, softening : float
        The kernel, softening in arcsec.
    scale : float
        Arcsec per pixel.
    r_c, r_near : float
        The radii of the split; equal where there is no middle part.
    origin : (float, float)
        ``(y, x)`` of the coarse node ``[0, 0]``.
    shape : (int, int)
        Coarse nodes ``(ny, nx)``.
    unit : float
        Weight that one count of the integers on the coarse nodes stands for.
    """

    alpha: float
    softening: float
    scale: float
    r_c: float
    r_near: float
    origin: tuple[float, float]
    shape: tuple[int, int]
    unit: float

    @property
    def cell(self) -> float:
        """Side of a coarse cell."""
        return self.r_c / _PARTS

    @property
    def mesh(self) -> float:
        """Side of a cell of the middle part's mesh."""
        return self.r_near / _PARTS

    @property
    def kernel(self) -> tuple[float, float, float]:
        """Exponent, softening in pixels, and what turns W of lengths in pixels into W."""
        return self.alpha, self.softening / self.scale, self.scale**-self.alpha


@dataclass(frozen=True)
class Nodes:
    """Weights on a box of coarse nodes: ``counts`` (int64) of units; ``corner`` its first node."""

    counts: np.ndarray
    corner: tuple[int, int]


# -- the plan ------------------------------------------------------------------------------------
def radii(
    height: float,
    width: float,
    *,
    n_points: int,
    step: float = 1,
    r_c: float | None = None,
    max_cells: int = MAX_CELLS,
) -> tuple[float, float]:
    """Choose ``r_c`` and ``r_near`` (pixels) for a box with all points and all output pixels.

    Radii, and their `reach`, grow with the box and fall with the number of points: upper bounds
    follow from a box that is too large and no points.

    Parameters
    ----------
    height, width : float
        Of the box, in pixels.
    n_points : int
        With ``step`` it tells the cost of the near part, ``n_points pi (r_c / step)**2`` pairs,
        against that of the coarse grid, which falls as ``r_c**-2``: the default makes both equal
        (and is at least 16 px). With a middle part, on a mesh of cells of r_near/12, its pairs
        and those of the near part are as many.
    step : float
        Distance of output pixels.
    r_c : float, optional
        Radius instead of that choice, without a middle part.
    max_cells : int
        Most coarse nodes, which bounds the memory: ``r_c`` grows until they fit.
    """
    height, width = max(height, 1.0), max(width, 1.0)
    # (height q + k) (width q + k) nodes with q cells a pixel, rounded up
    k = 2 + 2 * _MARGIN
    half, area = k * (height + width) / 2, height * width
    q = (math.sqrt(half * half + area * (max_cells - k * k)) - half) / area
    if r_c is not None:
        r_c = max(r_c, _PARTS / q)
        return r_c, r_c
    cells = _PARTS**2 * height * width  # times r_c**-2
    pairs = math.pi * max(n_points, FEW) / step**2  # times r_c**2
    r_c = max(16.0, (_CELL * cells / (_PAIR * pairs)) ** 0.25, _PARTS / q)
    return r_c, math.sqrt(_PARTS * step * r_c) if r_c > _MIDDLE * step else r_c


def reach(r_c: float, r_near: float) -> float:
    """How far (pixels) from a block the points lie that `evaluate` needs."""
    if r_near == r_c:
        return r_c
    return r_c + (bsplines.TAPS + bsplines.AHEAD + 1) * r_near / _PARTS


def plan(
    bounds: tuple[float, float, float, float],
    alpha: float,
    softening: float,
    scale: float,
    *,
    n_points: int = 10_000,
    weight: float = 1.0,
    step: float = 1,
    r_c: float | None = None,
    max_cells: int = MAX_CELLS,
) -> Plan:
    """Choose the radii and lay the coarse grid.

    Parameters
    ----------
    bounds : (y_lo, y_hi, x_lo, x_hi)
        Box around all points and all output pixels, in pixels.
    alpha, softening, scale : float
        See `Plan`.
    n_points : int
        Number of points.
    weight : float
        No point has a larger one (nor a more negative one).
    step, r_c, max_cells
        See `radii`.
    """
    y_lo, y_hi, x_lo, x_hi = bounds
    sides = max(y_hi - y_lo, 1.0), max(x_hi - x_lo, 1.0)
    r_c, r_near = radii(*sides, n_points=n_points, step=step, r_c=r_c, max_cells=max_cells)
    cell = r_c / _PARTS
    origin = (y_lo - _MARGIN * cell, x_lo - _MARGIN * cell)
    ny, nx = (math.ceil(side / cell) + 1 + 2 * _MARGIN for side in sides)
    unit = quantum(max(n_points, 1) * weight)
    return Plan(alpha, softening, scale, r_c, r_near, origin, (ny, nx), unit)


def quantum(largest: float) -> float:
    """Power of two in units of which numbers up to ``largest`` (in absolute value) fit an int64."""
    return 2.0 ** (math.ceil(math.log2(largest)) - _BITS) if largest > 0 else 1.0


def kernel(d: np.ndarray, alpha: float, softening: float) -> np.ndarray:
    """W(d) = (softening + d)**-alpha, both lengths in arcsec."""
    return (softening + d) ** -alpha


def sort_points(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    """``x, y, w`` (float64) in the order of (y, x, w): the one order in which sums are taken."""
    order = np.lexsort((w, x, y))
    return tuple(np.ascontiguousarray(np.asarray(a, np.float64)[order]) for a in (x, y, w))


# -- far part ------------------------------------------------------------------------------------
def _nodes_about(values: np.ndarray, origin: float, cell: float) -> tuple[int, int]:
    """First and last but one of the nodes that values of a spline at these places depend on."""
    lo, hi = (math.floor((float(f(values)) - origin) / cell) for f in (np.min, np.max))
    return lo - bsplines.BEHIND, hi + bsplines.AHEAD + 1


def assign(x: np.ndarray, y: np.ndarray, w: np.ndarray, plan: Plan) -> Nodes:
    """Weights of points on the coarse nodes about them."""
    if not x.size:
        return Nodes(np.zeros((0, 0), np.int64), (0, 0))
    (row, end), (column, stop) = (
        _nodes_about(a, o, plan.cell) for a, o in zip((y, x), plan.origin, strict=True)
    )
    out = np.zeros((end - row, stop - column), np.int64)
    x, y, w = (np.array(a, np.float64) for a in (x, y, w))
    bsplines.assign(out, x, y, w / plan.unit, plan.origin, plan.cell, (row, column))
    return Nodes(out, (row, column))


def merge(parts: Iterable[Nodes]) -> Nodes:
    """Sum of weights on the smallest box of nodes around those of all parts."""
    parts = [p for p in parts if p.counts.size]
    if len(parts) < 2:
        return parts[0] if parts else Nodes(np.zeros((0, 0), np.int64), (0, 0))
    corner = np.min([p.corner for p in parts], axis=0)
    end = np.max([np.add(p.corner, p.counts.shape) for p in parts], axis=0)
    out = np.zeros(end - corner, np.int64)
    for part in parts:
        (i, j), (ny, nx) = part.corner - corner, part.counts.shape
        out[i : i + ny, j : j + nx] += part.counts
    return Nodes(out, (int(corner[0]), int(corner[1])))


def far_field(nodes: Nodes, plan: Plan, transform: np.ndarray | None = None) -> np.ndarray:
    """B-spline coefficients of the far part from the weights of all points, ``plan.shape``.

    A padded transform, but never in memory as a whole: rows are transformed block by block, then
    columns forth and back in place, then rows back. ``transform`` is `far_transform` of the plan,
    for several weightings of points.
    """
    ny, nx = plan.shape
    if transform is None:
        transform = far_transform(plan)
    hy, hx = (n - 1 for n in transform.shape)
    py, px = 2 * hy, 2 * hx
    spectrum = np.empty((ny, hx + 1), complex)
    (i, j), (n, m) = nodes.corner, nodes.counts.shape
    line = np.zeros((_BLOCK, nx))
    for rows in _blocks(ny):
        line[:] = 0
        lo, hi = max(rows.start, i), min(rows.stop, i + n)
        if lo < hi:
            line[lo - rows.start : hi - rows.start, j : j + m] = nodes.counts[lo - i : hi - i]
        spectrum[rows] = rfft(line[: rows.stop - rows.start], px, axis=1)
    for columns in _blocks(hx + 1):
        far = transform[:, columns]
        block = fft(spectrum[:, columns], py, axis=0)
        block[: hy + 1] *= far
        block[hy + 1 :] *= far[hy - 1 : 0 : -1]
        spectrum[:, columns] = ifft(block, axis=0, overwrite_x=True)[:ny]
    del transform
    out = np.empty((ny, nx))
    for rows in _blocks(ny):
        out[rows] = irfft(spectrum[rows], px, axis=1)[:, :nx]
    return out


def _blocks(n: int) -> Iterator[slice]:
    return (slice(k, min(k + _BLOCK, n)) for k in range(0, n, _BLOCK))


def far_transform(plan: Plan) -> np.ndarray:
    """Transform of the far kernel over that of both splines, at half the frequencies.

    The kernel is even: one quadrant and cosine transforms will do.
    """
    # even lengths, at least twice the field: distances in it never meet those around the back
    hy, hx = (next_fast_len(n + _RING, real=True) for n in plan.shape)
    out = np.empty((hy + 1, hx + 1))
    y, x = (np.arange(h + 1) * plan.cell for h in (hy, hx))
    # twice: once for the assignment, once for the evaluation
    by_row, by_column = (bsplines.inverse_transform(h) ** 2 for h in (hy, hx))
    near = _PARTS + 1  # nodes where the step is below one
    for rows in _blocks(hy + 1):
        d = np.sqrt(y[rows, None] ** 2 + x**2)
        far = kernel(d * plan.scale, plan.alpha, plan.softening)
        if rows.start < near:
            far[:, :near] *= nearby.rise(d[:, :near] / plan.r_c)
        out[rows] = dct(far, type=1, axis=1, overwrite_x=True) * by_column
    scaling = (by_row * plan.unit)[:, None]
    for columns in _blocks(hx + 1):
        out[:, columns] = dct(out[:, columns], type=1, axis=0) * scaling
    return out


# -- at the pixels -------------------------------------------------------------------------------
def evaluate(
    coeffs: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    plan: Plan,
) -> np.ndarray:
    """Sum of all three parts at rows ``ys`` and columns ``xs``, float64 ``(ys.size, xs.size)``.

    Parameters
    ----------
    coeffs : ndarray
        From `far_field`.
    x, y, w : ndarray of float64
        Points sorted by `sort_points`: all that are as near the block as `reach`; others cost
        nothing.
    ys, xs : ndarray
        Output rows and columns: equally spaced pixels, ascending.
    plan : Plan
        The split.
    """
    ys, xs = np.array(ys, np.float64), np.array(xs, np.float64)
    out = np.zeros((ys.size, xs.size))
    if not out.size:
        return out
    middle = _middle(x, y, w, ys, xs, plan) if plan.r_near < plan.r_c else None
    for first in range(0, ys.size, _BAND):
        band = slice(first, first + _BAND)
        bsplines.add_values(out[band], coeffs, ys[band], xs, plan.origin, plan.cell, (0, 0))
        if middle is not None:
            spline, corner = middle
            bsplines.add_values(out[band], spline, ys[band], xs, (0.0, 0.0), plan.mesh, corner)
        nearby.add_sums(out[band], x, y, w, ys[band], xs, kernel=plan.kernel, radius=plan.r_near)
    return out


def evaluate_many(
    coeffs: list[np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    plan: Plan,
) -> np.ndarray:
    """`evaluate` for several weights of each point, float64 ``(n, ys.size, xs.size)``.

    ``w`` is (n, points), ``coeffs`` the far parts of each; the plan has no middle part. The near
    part evaluates the kernel once for all weights.
    """
    if plan.r_near < plan.r_c:
        raise ValueError("give a plan with r_c, which has no middle part")
    ys, xs = np.array(ys, np.float64), np.array(xs, np.float64)
    out = np.zeros((len(coeffs), ys.size, xs.size))
    for rho, far in zip(out, coeffs, strict=True):
        bsplines.add_values(rho, far, ys, xs, plan.origin, plan.cell, (0, 0))
    nearby.add_sums_of_many(out, x, y, w, ys, xs, kernel=plan.kernel, radius=plan.r_near)
    return out


def evaluate_kernels(
    coeffs: list[np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    plans: list[Plan],
) -> np.ndarray:
    """`evaluate` for several kernels, float64 ``(n, ys.size, xs.size)``.

    ``plans`` differ in alpha and softening alone and have no middle part; ``coeffs`` are the far
    parts of each. The near part finds distances and the window once for all kernels.
    """
    one = plans[0]
    if one.r_near < one.r_c:
        raise ValueError("give plans with r_c, which have no middle part")
    ys, xs = np.array(ys, np.float64), np.array(xs, np.float64)
    out = np.zeros((len(plans), ys.size, xs.size))
    kernels = [plan.kernel for plan in plans]
    for first in range(0, ys.size, _BAND):
        band = slice(first, first + _BAND)
        rows, rho = ys[band], out[:, band]
        for each, far in zip(rho, coeffs, strict=True):
            bsplines.add_values(each, far, rows, xs, one.origin, one.cell, (0, 0))
        nearby.add_sums_of_kernels(rho, x, y, w, rows, xs, kernels=kernels, radius=one.r_near)
    return out


def _middle(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, ys: np.ndarray, xs: np.ndarray, plan: Plan
) -> tuple[np.ndarray, tuple[int, int]]:
    """Middle part around a block, as spline coefficients, and the first of their nodes.

    The mesh is that of all blocks: node [0, 0] is at pixel (0, 0).
    """
    (row, end), (column, stop) = (_nodes_about(a, 0.0, plan.mesh) for a in (ys, xs))
    more = bsplines.TAPS
    rows, columns = (
        np.arange(a - more, b + more) * plan.mesh for a, b in ((row, end), (column, stop))
    )
    sums = np.zeros((rows.size, columns.size))
    nearby.add_sums(
        sums, x, y, w, rows, columns, kernel=plan.kernel, radius=plan.r_c, hole=plan.r_near
    )
    return bsplines.coefficients(sums), (row, column)
