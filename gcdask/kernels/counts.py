"""Random numbers that belong to a pixel: counter-based streams keyed by (seed, global pixel).

A value is a pure function of ``(seed, stream, y, x)``, so draws do not depend on chunks, tiles,
workers or order. The generator is Philox4x32-10 (Salmon et al. 2011, SC11,
doi:10.1145/2063384.2063405): key = the 64 bits of the seed, counter = (x, y, stream, kind and
block). *Kind* keeps uniform, normal and Poisson draws of one stream independent of each other.

``y``, ``x`` are global pixel indices (int, may be negative, taken modulo 2**32), ``stream`` an
integer below 2**32 that names the use (give each purpose its own), ``seed`` any integer (modulo
2**64). The ``*_block`` forms fill the array of the pixels ``y0 <= y < y0 + ny``,
``x0 <= x < x0 + nx`` and hold exactly the values of the pointwise forms.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _32, _6, _26 = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(6), np.uint64(26)
_2PI = 2 * math.pi
# The top byte of the last counter word.
_UNIFORM, _NORMAL, _POISSON = np.uint64(0), np.uint64(1 << 24), np.uint64(2 << 24)
_SMALL = 10.0  # below: inversion; above: transformed rejection is faster
_LARGEST = 2.0e9  # what an int32 count can hold


@njit(cache=True, nogil=True, inline="always")
def _round(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    p0, p1 = _M0 * c0, _M1 * c2
    return (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW


@njit(cache=True, nogil=True)
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Philox4x32-10: four 32-bit words (as uint64) of a counter and a key of 32-bit words."""
    for _ in range(10):
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@njit(cache=True, nogil=True, inline="always")
def _unit(a: Any, b: Any) -> Any:
    # 52 bits and a half: never 0 nor 1, and exactly representable
    return (np.float64(((a >> _6) << _26) | (b >> _6)) + 0.5) * 2.0**-52


@njit(cache=True, nogil=True, inline="always")
def _words(k0: Any, k1: Any, stream: Any, y: Any, x: Any, block: Any) -> Any:
    return philox(np.uint64(x) & _LOW, np.uint64(y) & _LOW, stream, block, k0, k1)


@njit(cache=True, nogil=True)
def _uniform1(k0: Any, k1: Any, stream: Any, y: Any, x: Any, word: Any) -> Any:
    """Uniform number ``word`` of a pixel; two come from each block of the counter."""
    a, b, c, d = _words(k0, k1, stream, y, x, _UNIFORM + np.uint64(word // 2))
    return _unit(c, d) if word % 2 else _unit(a, b)


@njit(cache=True, nogil=True)
def _normal2(k0: Any, k1: Any, stream: Any, y: Any, pair: Any) -> Any:
    """Box-Muller: the values of the pixels ``x = 2 pair`` and ``2 pair + 1``."""
    a, b, c, d = _words(k0, k1, stream, y, pair, _NORMAL)
    radius, angle = math.sqrt(-2 * math.log(_unit(a, b))), _2PI * _unit(c, d)
    return radius * math.cos(angle), radius * math.sin(angle)


@njit(cache=True, nogil=True)
def _inversion(lam: Any, u: Any) -> Any:
    p = math.exp(-lam)
    total, k = p, 0
    while u > total and p > 0:
        k += 1
        p *= lam / k
        total += p
    return k


@njit(cache=True, nogil=True)
def _rejection(lam: Any, k0: Any, k1: Any, stream: Any, y: Any, x: Any) -> Any:
    """PTRS of Hoermann (1993), Insurance: Mathematics and Economics 12, 39; for lam >= 10."""
    log_lam, root = math.log(lam), math.sqrt(lam)
    b = 0.931 + 2.53 * root
    a = -0.059 + 0.02483 * b
    inv_alpha, v_r = 1.1239 + 1.1328 / (b - 3.4), 0.9277 - 3.6224 / (b - 2)
    block = _POISSON
    while True:
        w0, w1, w2, w3 = _words(k0, k1, stream, y, x, block)
        block += np.uint64(1)
        u, v = _unit(w0, w1) - 0.5, _unit(w2, w3)
        us = 0.5 - abs(u)
        k = math.floor((2 * a / us + b) * u + lam + 0.43)
        if us >= 0.07 and v <= v_r:
            return k
        if k < 0 or (us < 0.013 and v > us):
            continue
        left = math.log(v * inv_alpha / (a / (us * us) + b))
        if left <= k * log_lam - lam - math.lgamma(k + 1.0):
            return k


@njit(cache=True, nogil=True)
def _poisson1(lam: Any, k0: Any, k1: Any, stream: Any, y: Any, x: Any) -> Any:
    if not lam > 0:  # NaN too
        return 0
    if lam >= _LARGEST:
        return np.int64(_LARGEST)
    if lam >= _SMALL:
        return np.int64(_rejection(lam, k0, k1, stream, y, x))
    a, b, _, _ = _words(k0, k1, stream, y, x, _POISSON)
    return _inversion(lam, _unit(a, b))


@njit(cache=True, nogil=True)
def _fill_uniform(out: Any, k0: Any, k1: Any, stream: Any, y: Any, x: Any, word: Any) -> None:
    for i in range(out.size):
        out[i] = _uniform1(k0, k1, stream, y[i], x[i], word[i])


@njit(cache=True, nogil=True)
def _fill_normal(out: Any, k0: Any, k1: Any, stream: Any, y: Any, x: Any) -> None:
    for i in range(out.size):
        even, odd = _normal2(k0, k1, stream, y[i], x[i] >> 1)
        out[i] = odd if x[i] & 1 else even


@njit(cache=True, nogil=True)
def _fill_poisson(out: Any, lam: Any, k0: Any, k1: Any, stream: Any, y: Any, x: Any) -> None:
    for i in range(out.size):
        out[i] = _poisson1(lam[i], k0, k1, stream, y[i], x[i])


@njit(cache=True, nogil=True)
def _block_normal(out: Any, k0: Any, k1: Any, stream: Any, y0: Any, x0: Any) -> None:
    nx = out.shape[1]
    for i in range(out.shape[0]):
        for pair in range(x0 >> 1, ((x0 + nx - 1) >> 1) + 1):
            even, odd = _normal2(k0, k1, stream, y0 + i, pair)
            j = 2 * pair - x0
            if j >= 0:
                out[i, j] = even
            if j + 1 < nx:
                out[i, j + 1] = odd


@njit(cache=True, nogil=True)
def _block_poisson(out: Any, lam: Any, k0: Any, k1: Any, stream: Any, y0: Any, x0: Any) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = _poisson1(lam[i, j], k0, k1, stream, y0 + i, x0 + j)


def _key(seed: int, stream: int) -> tuple[np.uint64, np.uint64, np.uint64]:
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream {stream} is outside 0 .. 2**32 - 1")
    seed = int(seed) % 2**64
    return np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32), np.uint64(stream)


def _flat(*arrays: Any) -> tuple[tuple[int, ...], list[np.ndarray]]:
    wide = np.broadcast_arrays(*arrays)
    return wide[0].shape, [np.array(a, np.int64).ravel() for a in wide]


def uniform(seed: int, y: Any, x: Any, stream: int = 0, *, word: Any = 0) -> np.ndarray:
    """Uniform numbers in the open interval (0, 1), float64 of 52 bits.

    Parameters
    ----------
    seed : int
        Any integer.
    y, x : array_like of int
        Global pixel indices (broadcast against each other and ``word``).
    stream : int
        Which use of the seed.
    word : array_like of int, optional
        Which of the pixel's numbers (0 .. 2**25 - 1), for uses that need several.
    """
    shape, (yy, xx, ww) = _flat(y, x, word)
    out = np.empty(yy.size)
    _fill_uniform(out, *_key(seed, stream), yy, xx, ww)
    return out.reshape(shape)


def normal(seed: int, y: Any, x: Any, stream: int = 0) -> np.ndarray:
    """Draw standard normal numbers (float64, Box-Muller, to 8.5 sigma) of pixels ``y, x``."""
    shape, (yy, xx) = _flat(y, x)
    out = np.empty(yy.size)
    _fill_normal(out, *_key(seed, stream), yy, xx)
    return out.reshape(shape)


def poisson(lam: Any, seed: int, y: Any, x: Any, stream: int = 0) -> np.ndarray:
    """Poisson counts (int64) of mean ``lam`` for global pixels ``y, x`` (all broadcast).

    Inversion below a mean of 10, transformed rejection above: both exact to rounding. A mean
    that is negative or NaN gives 0, one above 2e9 gives 2e9.
    """
    lam, y, x = np.broadcast_arrays(lam, y, x)
    shape, (yy, xx) = _flat(y, x)
    out = np.empty(yy.size, np.int64)
    _fill_poisson(out, np.array(lam, np.float64).ravel(), *_key(seed, stream), yy, xx)
    return out.reshape(shape)


def normal_block(seed: int, stream: int, y0: int, x0: int, shape: tuple[int, int]) -> np.ndarray:
    """Fill a block with `normal` of its pixels, float32 ``(ny, nx)``."""
    out = np.empty(shape, np.float32)
    _block_normal(out, *_key(seed, stream), int(y0), int(x0))
    return out


def poisson_block(lam: np.ndarray, seed: int, stream: int, y0: int, x0: int) -> np.ndarray:
    """Fill a block with `poisson` of its pixels, int32 of the shape ``(ny, nx)`` of ``lam``.

    A float32 ``lam`` is widened value by value, not copied.
    """
    lam = np.asarray(lam)
    if lam.dtype not in (np.float32, np.float64):
        lam = lam.astype(np.float64)
    out = np.empty(lam.shape, np.int32)
    _block_poisson(out, lam, *_key(seed, stream), int(y0), int(x0))
    return out
