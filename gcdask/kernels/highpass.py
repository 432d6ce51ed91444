"""Difference-of-Gaussians filters that leave masked pixels out, and dilation by a disk.

The result at a pixel is the same, bit for bit, in every window that holds the pixel with
`halo` pixels around it (on one type of CPU). That is why arrays are widened before OpenCV sees
them: its vector loop and its scalar loop for the end of a row round differently, so that an
unpadded result would depend on where a window ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np

FWHM_PER_SIGMA = 2.354820045
_LANES = 64  # columns: a multiple of every vector width, unrolled
_SPARE = 16  # columns that keep the last wanted one out of the scalar loop
_STRIP = 256  # rows filtered at a time, so that all passes over them stay in the cache


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
    narrow, wide = fwhm
    out = np.empty(image.shape, np.float32)
    for rows, value, weight, ok in _strips(image, good, halo(fwhm)):
        kept = _ratio(value, weight, narrow, rows, ok.shape)
        kept -= _ratio(value, weight, wide, rows, ok.shape)
        out[rows] = np.where(ok, kept, np.nan)
    return out


def _strips(
    image: np.ndarray, good: np.ndarray | None, reach: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """Rows, and about them ``image * good`` and ``good`` as float32 with `reach` rows of margin.

    Both are zero in the margin and in the spare columns, which is what "outside does not count"
    means to the convolution; ``ok`` is the mask of the strip itself.
    """
    ny, nx = image.shape
    width = -(-(nx + _SPARE) // _LANES) * _LANES
    for start in range(0, ny, _STRIP):
        rows = slice(start, min(start + _STRIP, ny))
        low, high = max(0, start - reach), min(ny, rows.stop + reach)
        part = image[low:high]
        ok = np.isfinite(part)
        if good is not None:
            ok &= good[low:high]
        value = np.zeros((rows.stop - start + 2 * reach, width), np.float32)
        weight = np.zeros_like(value)
        first = low - (start - reach)
        inside = np.s_[first : first + high - low, :nx]
        np.copyto(value[inside], part, where=ok, casting="same_kind")
        weight[inside] = ok
        yield rows, value, weight, ok[start - low : rows.stop - low]


def _ratio(
    value: np.ndarray, weight: np.ndarray, fwhm: float, rows: slice, shape: tuple[int, int]
) -> np.ndarray:
    """conv(value) / conv(weight) over the strip of `shape`; any number where weights vanish."""
    taps = kernel1d(fwhm)
    margin = (value.shape[0] - shape[0]) // 2
    wanted = np.s_[margin : margin + shape[0], : shape[1]]
    border = cv2.BORDER_CONSTANT
    above = cv2.sepFilter2D(value, cv2.CV_32F, taps, taps, borderType=border)[wanted]
    below = cv2.sepFilter2D(weight, cv2.CV_32F, taps, taps, borderType=border)[wanted]
    # a good pixel's own weight keeps `below` above zero wherever the ratio is used
    return above / np.maximum(below, np.finfo(np.float32).tiny)


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
