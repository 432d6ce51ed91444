"""Difference-of-Gaussians filters that leave masked pixels out, and dilation by a disk.

The result at a pixel is the same, bit for bit, in every window that holds the pixel with
`halo` pixels around it: each pixel's sums are taken in one order, by a loop of our own. (OpenCV's
separable filters round differently at the end of a row, and are slower for long kernels.)
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numba import njit

FWHM_PER_SIGMA = 2.354820045
_STRIP = 128  # rows filtered at a time, so that all passes over them stay in the cache
_BLOCK = 2048  # columns, for the same reason


def radius(fwhm: float) -> int:
    """Pixels on either side where the Gaussian is cut: 4 sigma, scipy.ndimage's convention."""
    return int(4 * fwhm / FWHM_PER_SIGMA + 0.5)


@lru_cache(maxsize=64)
def kernel1d(fwhm: float) -> np.ndarray:
    """Taps of the Gaussian of this FWHM (px), cut at 4 sigma and normalised: float32, read-only.

    It is sampled at the pixel centres, not integrated over pixels, so that a FWHM of 0.5 px is
    nearly the identity (its neighbouring tap is 1.5e-5).
    """
    sigma, r = fwhm / FWHM_PER_SIGMA, radius(fwhm)
    taps = np.exp(-0.5 * (np.arange(-r, r + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    taps.flags.writeable = False
    return taps


def halo(*pairs: tuple[float, float]) -> int:
    """Pixels that a chain of high-pass filters with these pairs of FWHM reaches."""
    return sum(max(radius(f) for f in pair) for pair in pairs)


def highpass(
    image: np.ndarray, good: np.ndarray | None = None, fwhm: tuple[float, float] = (0.5, 5.0)
) -> np.ndarray:
    """High-pass G(fwhm[0]) - G(fwhm[1]) with masked pixels left out of both Gaussians.

    Parameters
    ----------
    image : array (y, x)
        Any float; pixels that are not finite count as not good.
    good : bool array (y, x), optional
        Pixels that count; all if None. What lies outside the array does not count.
    fwhm : (float, float)
        FWHM (px) of the Gaussian that is kept and of that which is subtracted. Kernels are
        sampled and cut at 4 sigma, so G(0.5) is nearly the identity (see `kernel1d`).

    Returns
    -------
    float32 array (y, x)
        NaN where not good.

    Notes
    -----
    Diego et al. 2026, section 3; the normalised convolution is ours (the paper does not say how
    masked pixels enter). Filtering is float32: the error is about 1e-7 of the local level.
    """
    if image.dtype not in (np.float32, np.float64):  # bytes in FITS order, small floats, integers
        image = image.astype(np.float32)
    out = np.empty(image.shape, np.float32)
    ny, nx = image.shape
    reach = halo(fwhm)
    narrow, wide = (kernel1d(f)[radius(f) :] for f in fwhm)
    value = np.empty((min(_STRIP, ny) + 2 * reach, nx + 2 * reach), np.float32)
    weight = np.empty_like(value)
    counts = np.ones((1, 1), bool) if good is None else good
    for start in range(0, ny, _STRIP):
        rows = out[start : start + _STRIP]
        high = len(rows) + 2 * reach
        bad = _fill(value[:high], weight[:high], image, counts, start - reach, reach)
        _difference(rows, value[:high], weight[:high], narrow, wide, reach, bad)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(value, weight, image, good, start, reach):  # type: ignore[no-untyped-def]
    """Rows from `start` of ``image * good`` and ``good``, with a margin of `reach` around them.

    Both are zero outside the image, which is what "outside does not count" means to the
    convolution. Returns how many rows before each one hold a pixel that does not count.
    """
    ny, nx = image.shape
    everywhere = good.shape != image.shape
    bad = np.zeros(value.shape[0] + 1, np.int64)
    for i in range(value.shape[0]):
        y = start + i
        value[i] = 0
        weight[i] = 0
        bad[i + 1] = bad[i] + 1
        if y < 0 or y >= ny:
            continue
        line, ones, row = value[i, reach : reach + nx], weight[i, reach : reach + nx], image[y]
        if everywhere:
            for j in range(nx):
                ok = np.isfinite(row[j])
                line[j] = row[j] if ok else 0
                ones[j] = ok
        else:
            counts = good[y]
            for j in range(nx):
                ok = np.isfinite(row[j]) & counts[j]
                line[j] = row[j] if ok else 0
                ones[j] = ok
        if nx == 0 or ones.min() > 0:
            bad[i + 1] = bad[i]
    return bad


@njit(cache=True, nogil=True, error_model="numpy")
def _difference(out, value, weight, narrow, wide, reach, bad):  # type: ignore[no-untyped-def]
    """Difference of two normalised convolutions of a strip; NaN where the weight is zero.

    Where all pixels about a row count, its weights are those of the last such row.
    """
    size = max(min(_BLOCK, out.shape[1]), 1)
    line = np.empty(size + 2 * reach, np.float32)
    above, above_wide = np.empty(size, np.float32), np.empty(size, np.float32)
    below, below_wide = np.empty(size, np.float32), np.empty(size, np.float32)
    for start in range(0, out.shape[1], size):
        n = min(size, out.shape[1] - start)
        whole = False  # whether `below` holds the weights of a row about which all pixels count
        for i in range(out.shape[0]):
            y, x = i + reach, start + reach
            _gaussian(above[:n], value, narrow, y, x, line)
            _gaussian(above_wide[:n], value, wide, y, x, line)
            clean = bad[y + reach + 1] == bad[y - reach]
            if not (clean and whole):
                _gaussian(below[:n], weight, narrow, y, x, line)
                _gaussian(below_wide[:n], weight, wide, y, x, line)
            whole = clean
            counts, row = weight[y, x : x + n], out[i, start : start + n]
            for j in range(n):
                # a good pixel's own weight keeps both convolutions of weights above zero
                difference = above[j] / below[j] - above_wide[j] / below_wide[j]
                row[j] = difference if counts[j] > 0 else np.float32(np.nan)


@njit(cache=True, nogil=True, error_model="numpy")
def _gaussian(out, image, half, y, x, line):  # type: ignore[no-untyped-def]
    """Separable convolution of one row's pixels from (y, x), with the taps from the centre on."""
    r, n = half.size - 1, out.size
    m = n + 2 * r
    centre = image[y, x - r : x - r + m]
    for j in range(m):
        line[j] = half[0] * centre[j]
    for k in range(1, r + 1):
        tap, low, high = half[k], image[y - k, x - r : x - r + m], image[y + k, x - r : x - r + m]
        for j in range(m):
            line[j] += tap * (low[j] + high[j])
    for j in range(n):
        out[j] = half[0] * line[r + j]
    for k in range(1, r + 1):
        tap, left, right = half[k], line[r - k : r - k + n], line[r + k : r + k + n]
        for j in range(n):
            out[j] += tap * (left[j] + right[j])


def disk(r: float) -> np.ndarray:
    """Boolean disk dx^2 + dy^2 <= r^2 in the smallest odd square that holds it."""
    n = math.floor(r)
    d2 = np.arange(-n, n + 1) ** 2
    return d2[:, None] + d2[None, :] <= r * r


def dilate(mask: np.ndarray, r: float) -> np.ndarray:
    """Grow a boolean mask (y, x) by the disk dx^2 + dy^2 <= r^2; outside is False."""
    if r < 1 or not mask.any():
        return mask.astype(bool)
    image = np.ascontiguousarray(mask, dtype=np.uint8)
    if r <= 24:
        kernel, border = disk(r).view(np.uint8), cv2.BORDER_CONSTANT
        return cv2.dilate(image, kernel, borderType=border, borderValue=0).astype(bool)
    # the cost of a kernel grows with its area, that of the exact distance does not; distances
    # are roots of integers, so that half a unit between r^2 and the next one is safe
    distance = cv2.distanceTransform(1 - image, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= math.sqrt(math.floor(r * r) + 0.5)
