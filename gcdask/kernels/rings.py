"""Annuli of the pixels of one block, and what they sum up to; 2 bytes a pixel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from gcdask.kernels.lattice import Lattice, fill_line
from gcdask.kernels.sums import Sums


@njit(cache=True, nogil=True)
def _rings(lattice: Any, edges: Any, axis: float, half: float) -> Any:
    out = np.empty((lattice.iy.size, lattice.ix.size), np.int16)
    nodes, line = np.empty((2, lattice.east.shape[1])), np.empty((2, lattice.ix.size))
    size, ring = edges.size - 1, 0
    for i in range(out.shape[0]):
        fill_line(lattice, i, nodes, line)
        for j in range(out.shape[1]):
            east, north = line[0, j], line[1, j]
            radius = math.hypot(east, north)
            out[i, j] = size
            if not edges[0] <= radius < edges[size]:
                continue
            if half < 180:
                turn = (math.degrees(math.atan2(east, north)) - axis + 180) % 360 - 180
                if not -half <= turn < half:
                    continue
            while radius < edges[ring]:  # from the ring of the pixel before
                ring -= 1
            while radius >= edges[ring + 1]:
                ring += 1
            out[i, j] = ring
    return out


def rings(lattice: Lattice, edges: np.ndarray, sector: tuple[float, float] | None) -> np.ndarray:
    """Annulus of each pixel of a block, int16; the number of annuli for pixels in none.

    Parameters
    ----------
    lattice : Lattice
        Offsets of the block's pixels from the centre.
    edges : (n + 1,) ndarray
        Radii in arcsec, increasing; annulus i holds edges[i] <= r < edges[i + 1].
    sector : (float, float) or None
        Position angle of the axis and half width (deg, north through east), half-open.
    """
    axis, half = sector or (0.0, 180.0)
    return np.asarray(_rings(lattice, np.asarray(edges, float), float(axis), float(half)))


@njit(cache=True, nogil=True)
def _count(ring: Any, good: Any, size: int) -> Any:
    out = np.zeros(size + 1, np.int64)
    for i in range(ring.shape[0]):
        for j in range(ring.shape[1]):
            if good[i, j]:
                out[ring[i, j]] += 1
    return out[:size]


def count(ring: np.ndarray, good: np.ndarray, size: int) -> np.ndarray:
    """Good pixels in each of ``size`` annuli."""
    return np.asarray(_count(ring, good, size))


@njit(cache=True, nogil=True)
def _moments(ring: Any, good: Any, values: Any, size: int) -> Any:
    n, mean, m2 = np.zeros(size), np.zeros(size), np.zeros(size)
    for i in range(ring.shape[0]):
        for j in range(ring.shape[1]):
            if good[i, j] and ring[i, j] < size and math.isfinite(values[i, j]):
                n[ring[i, j]] += 1
                mean[ring[i, j]] += values[i, j]
    mean /= np.maximum(n, 1)
    for i in range(ring.shape[0]):
        for j in range(ring.shape[1]):
            if good[i, j] and ring[i, j] < size and math.isfinite(values[i, j]):
                m2[ring[i, j]] += (values[i, j] - mean[ring[i, j]]) ** 2
    return n, mean, m2


def moments(ring: np.ndarray, good: np.ndarray, values: np.ndarray, size: int) -> Sums:
    """Count, mean and sum of squared deviations of good, finite pixels in each annulus."""
    return dict(zip(("n", "mean", "m2"), _moments(ring, good, values, size), strict=True))
