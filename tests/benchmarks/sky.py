"""A band of any size that is never stored: every pixel is made from its own coordinates.

Noise, about 1e-3 point sources per pixel (1e7 in 1e10), galaxies, spiked stars and dead pixels are
drawn by hashing global cells, so that a pixel is the same in every window and every size of the
field. The sky is made for timing, not for science: see `gcdask.simulate` for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from gcdask.grid import Grid
from gcdask.mosaic.source import Source

CELL = 64  # px: of point sources, 4 in each
WIDE = 1024  # px: of galaxies and stars, one of them in each
REACH = 300  # px: how far a galaxy or star goes
SIGMA = 0.9  # px, of the point sources
SCALE = 0.03  # arcsec per pixel


@dataclass(frozen=True)
class Sky(Source):
    """One band of ``side`` x ``side`` pixels with noise of unit standard deviation."""

    side: int

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """``(ny, nx)``."""
        return (self.side, self.side)

    @property
    def path(self) -> str:
        """For messages."""
        return "sky"

    def stamp(self, *window: object) -> list[object]:
        """See `Source.stamp`: nothing ever changes."""
        return [self.side]

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """See `Source.read`."""
        out = np.empty((y1 - y0, x1 - x0), np.float32)
        _noise(out, y0, x0)
        _objects(out, y0, x0)
        _points(out, y0, x0)
        return out


def grid(side: int) -> Grid:
    """Pixels of 0.03 arcsec about a point on the sky that does not depend on ``side``."""
    header = Grid.tangent((150.0, 2.0), (100_000, 100_000), SCALE).header
    return Grid((side, side), header)


@njit(cache=True, nogil=True, inline="always")
def _hash(y, x, salt):  # type: ignore[no-untyped-def]
    """64 well mixed bits of a cell (splitmix64)."""
    z = np.uint64(y) * np.uint64(0x9E3779B97F4A7C15) ^ (np.uint64(x) + np.uint64(salt)) * np.uint64(
        0xD1B54A32D192ED03
    )
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def _noise(out, y0, x0):  # type: ignore[no-untyped-def]
    """Sum of twelve 10-bit numbers: normal to 5 sigma; one pixel in 2**20 is dead."""
    mean, norm = 12 * 1023 / 2, 1 / math.sqrt(12 * (1024**2 - 1) / 12)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            a, b = _hash(y0 + i, x0 + j, 1), _hash(y0 + i, x0 + j, 2)
            total = np.uint64(0)
            for k in range(6):
                shift = np.uint64(10 * k)
                total += ((a >> shift) & np.uint64(1023)) + ((b >> shift) & np.uint64(1023))
            dead = ((a >> np.uint64(60)) | ((b >> np.uint64(60)) << np.uint64(4))) == 0
            low = dead and (_hash(y0 + i, x0 + j, 3) & np.uint64(4095)) == 0
            out[i, j] = np.float32(np.nan) if low else np.float32((total - mean) * norm)


@njit(cache=True, nogil=True)
def _points(out, y0, x0):  # type: ignore[no-untyped-def]
    """Four sources in each cell, with fluxes n(>f) ~ 1/f from 4 sigma in the peak."""
    ny, nx = out.shape
    taps = np.empty(9)
    unit = 2.0**-16
    for a in range(y0 // CELL - 1, (y0 + ny) // CELL + 2):
        for b in range(x0 // CELL - 1, (x0 + nx) // CELL + 2):
            for k in range(4):
                h = _hash(a, b, 16 + k)
                y = a * CELL + CELL * unit * (h & np.uint64(65535)) - y0
                x = b * CELL + CELL * unit * ((h >> np.uint64(16)) & np.uint64(65535)) - x0
                flux = 4.0 / (unit * (((h >> np.uint64(32)) & np.uint64(65535)) + 64))
                i, j = math.floor(y + 0.5), math.floor(x + 0.5)
                if i < -4 or j < -4 or i >= ny + 4 or j >= nx + 4:
                    continue
                for q in range(9):
                    taps[q] = math.exp(-0.5 * ((j + q - 4 - x) / SIGMA) ** 2)
                for p in range(max(0, 4 - i), min(9, ny + 4 - i)):
                    row = flux * math.exp(-0.5 * ((i + p - 4 - y) / SIGMA) ** 2)
                    for q in range(max(0, 4 - j), min(9, nx + 4 - j)):
                        out[i + p - 4, j + q - 4] += np.float32(row * taps[q])


@njit(cache=True, nogil=True)
def _objects(out, y0, x0):  # type: ignore[no-untyped-def]
    """A galaxy (exponential disc), or in one of eight cells a star with six spikes, in each."""
    ny, nx = out.shape
    unit = 2.0**-16
    for a in range((y0 - REACH) // WIDE, (y0 + ny + REACH) // WIDE + 1):
        for b in range((x0 - REACH) // WIDE, (x0 + nx + REACH) // WIDE + 1):
            h = _hash(a, b, 7)
            y = a * WIDE + WIDE * unit * (h & np.uint64(65535)) - y0
            x = b * WIDE + WIDE * unit * ((h >> np.uint64(16)) & np.uint64(65535)) - x0
            size = 1 + unit * ((h >> np.uint64(32)) & np.uint64(65535))
            star = ((h >> np.uint64(48)) & np.uint64(7)) == 0
            reach = REACH if star else int(120 * size)
            for i in range(max(0, int(y) - reach), min(ny, int(y) + reach + 1)):
                for j in range(max(0, int(x) - reach), min(nx, int(x) + reach + 1)):
                    dy, dx = i - y, j - x
                    r = math.sqrt(dy * dy + dx * dx)
                    if r > reach:
                        continue
                    if star:
                        value = 2e4 * size / (1 + (r / 1.5) ** 2) ** 2
                        across = REACH
                        for k in range(3):
                            turn = math.pi * (k / 3 + 0.1)
                            d = abs(dy * math.cos(turn) - dx * math.sin(turn))
                            across = min(across, d)
                        value += 60 * size * math.exp(-r / 80) * math.exp(-0.5 * across * across)
                    else:
                        value = 300 * size * math.exp(-r / (6 * size))
                    out[i, j] += np.float32(value)
