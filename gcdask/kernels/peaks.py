"""Peaks brightest first: the greedy rule on one window, and what several windows leave open.

The serial rule (SCIENCE: take the brightest pixel, blank a disk, repeat) is equivalent to: in
order of brightness, accept a pixel unless an accepted one lies within the disk. A decision thus
depends on brighter pixels nearby only, and a window can tell which of its decisions would need
a pixel that it does not hold.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_REJECTED, _TAINTED = 1, 2


def _offsets(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """(dy, dx) of the pixels in the disk dx^2 + dy^2 <= radius^2."""
    n = math.floor(radius)
    dy, dx = np.mgrid[-n : n + 1, -n : n + 1]
    inside = dy * dy + dx * dx <= radius * radius
    return dy[inside].astype(np.int64), dx[inside].astype(np.int64)


def greedy(
    window: np.ndarray,
    threshold: float,
    radius: float = 3,
    *,
    ends: tuple[bool, bool, bool, bool] = (True, True, True, True),
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Peaks above `threshold`, brightest first, each blanking a disk about it.

    Parameters
    ----------
    window : float array (y, x)
        NaN = masked.
    threshold : float
        Pixels strictly above it take part.
    radius : float
        A peak blanks dx^2 + dy^2 <= radius^2 (px).
    ends : (bool, bool, bool, bool)
        Whether the top, bottom, left and right border of the window are true ends of the array
        (top is the first row, left the first column). Beyond the others there may be brighter
        pixels that the window does not show.

    Returns
    -------
    y, x : int64 arrays
        Pixels accepted or undecided, brightest first; ties by the smaller (y, x).
    value : array of the window's dtype
        Their values.
    undecided : bool array
        True where the decision needs a pixel outside the window, itself or through others.
    """
    flat = np.flatnonzero(window > threshold)  # raster order, which breaks ties
    value = window.ravel()[flat]
    order = np.argsort(-value, kind="stable")
    flat, value = flat[order], value[order]
    status = np.empty(flat.size, np.int8)
    dy, dx = _offsets(radius)
    state = np.zeros(window.shape, np.uint8)
    top, bottom, left, right = (bool(end) for end in ends)
    _decide(flat, state, dy, dx, math.floor(radius), top, bottom, left, right, status)
    kept = status != _REJECTED
    y, x = np.divmod(flat[kept], max(window.shape[1], 1))
    return y, x, value[kept], status[kept] == _TAINTED


@njit(cache=True, nogil=True)
def _decide(flat, state, dy, dx, reach, top, bottom, left, right, status):  # type: ignore[no-untyped-def]
    """Status of the pixels `flat` (brightest first): 0 accepted, 1 rejected, 2 undecided."""
    ny, nx = state.shape
    for i in range(flat.size):
        y, x = flat[i] // nx, flat[i] % nx
        if state[y, x] & 1:  # an accepted one is brighter: final, whatever else is open
            status[i] = 1
            continue
        hidden = (
            (y < reach and not top)
            or (y >= ny - reach and not bottom)
            or (x < reach and not left)
            or (x >= nx - reach and not right)
        )
        status[i] = 2 if hidden or state[y, x] & 2 else 0
        mark = np.uint8(2 if status[i] == 2 else 1)
        for k in range(dy.size):
            yy, xx = y + dy[k], x + dx[k]
            if 0 <= yy < ny and 0 <= xx < nx:
                state[yy, xx] |= mark


def near_max(
    window: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    radius: float = 15,
    above: float = -math.inf,
) -> np.ndarray:
    """Largest finite value of `window` (y, x) within `radius` px of each pixel ``(y, x)``.

    Returns
    -------
    float32 array
        -inf where nothing finite that is larger than ``above`` is near.
    """
    out = np.empty(len(y), np.float32)
    tops = _block_tops(window)
    _near_max(window, tops, np.asarray(y, np.int64), np.asarray(x, np.int64), radius, above, out)
    return out


_BLOCK = 8  # px: side of the squares whose largest value is known beforehand


@njit(cache=True, nogil=True)
def _block_tops(window):  # type: ignore[no-untyped-def]
    """Largest finite value of each square of `window`; -inf without any."""
    ny, nx = window.shape
    tops = np.full((-(-ny // _BLOCK), -(-nx // _BLOCK)), -np.inf, window.dtype)
    for y in range(ny):
        for x in range(nx):
            v = window[y, x]
            if tops[y // _BLOCK, x // _BLOCK] < v < np.inf:
                tops[y // _BLOCK, x // _BLOCK] = v
    return tops


@njit(cache=True, nogil=True)
def _near_max(window, tops, y, x, radius, above, out):  # type: ignore[no-untyped-def]
    """Look only into squares that may hold a larger value than the best one so far."""
    ny, nx = window.shape
    reach = math.floor(radius)
    for i in range(y.size):
        best = above
        top, bottom = max(y[i] - reach, 0), min(y[i] + reach + 1, ny)
        left, right = max(x[i] - reach, 0), min(x[i] + reach + 1, nx)
        for a in range(top // _BLOCK, -(-bottom // _BLOCK)):
            for b in range(left // _BLOCK, -(-right // _BLOCK)):
                if not tops[a, b] > best:
                    continue
                for yy in range(max(top, a * _BLOCK), min(bottom, (a + 1) * _BLOCK)):
                    for xx in range(max(left, b * _BLOCK), min(right, (b + 1) * _BLOCK)):
                        v = window[yy, xx]
                        near = (yy - y[i]) ** 2 + (xx - x[i]) ** 2 <= radius * radius
                        if near and best < v < np.inf:
                            best = v
        out[i] = best if best > above else -np.inf


def settle(
    y: np.ndarray, x: np.ndarray, value: np.ndarray, undecided: np.ndarray, radius: float = 3
) -> np.ndarray:
    """Decide what windows left open, given every undecided pixel and all accepted near them.

    Parameters
    ----------
    y, x : int arrays
        Pixel indices on one common grid, each pixel once.
    value : array
        What decides the order.
    undecided : bool array
        False for accepted pixels.
    radius : float
        That of `greedy`.

    Returns
    -------
    bool array
        True for the undecided pixels that the serial rule accepts.
    """
    undecided = np.asarray(undecided, bool)
    accepted = np.zeros(len(y), bool)
    if not undecided.any():
        return accepted
    y, x = np.asarray(y, np.int64), np.asarray(x, np.int64)
    # brightest first, ties by (y, x); the accepted ones before all: they are final
    order = np.lexsort((x, y, -np.asarray(value), undecided))
    reach = math.floor(radius)
    cell = max(reach, 1)
    # a cell's key leaves room for its neighbours, so that no wrap joins two far ends
    cy, cx = (y - y.min()) // cell + 1, (x - x.min()) // cell + 1
    stride = int(cx.max()) + 2
    key = cy * stride + cx
    by_cell = np.argsort(key, kind="stable")
    _settle(order, y, x, undecided, key, by_cell, key[by_cell], stride, radius * radius, accepted)
    return accepted & undecided


@njit(cache=True, nogil=True)
def _settle(order, y, x, undecided, key, by_cell, keys, stride, r2, accepted):  # type: ignore[no-untyped-def]
    """Sequential rule over a hash of cells as wide as the disk's radius: 3 x 3 of them reach."""
    for i in order:
        free = True
        if undecided[i]:
            for row in range(-1, 2):
                first = key[i] + row * stride - 1
                lo = np.searchsorted(keys, first)
                hi = np.searchsorted(keys, first + 2, side="right")
                for k in range(lo, hi):
                    j = by_cell[k]
                    if accepted[j] and (y[i] - y[j]) ** 2 + (x[i] - x[j]) ** 2 <= r2:
                        free = False
                        break
                if not free:
                    break
        accepted[i] = free
