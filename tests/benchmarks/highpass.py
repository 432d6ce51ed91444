"""Both high-pass steps of a masked 4096^2 image, against the same formula with scipy.ndimage.

The peer's scratch arrays are allocated once a call and used for all filters. With rows of 4096
floats its column filters wait for memory (the pixels of a column share few cache lines), so it is
also timed with rows that are a little longer; that is the best that could be made of it, and not
what a user's array looks like. `details` have both.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import numpy as np
from common import Result, alternate, peak_memory, ratio, reset_peak
from scipy import ndimage

from gcdask.kernels import highpass as hp

SIDE = 4096
FILTERS = ((0.5, 5.0), (1.0, 3.0))
SPARE = 64  # columns more in the rows of the peer's scratch arrays, the second time
BAR, TOLERANCE = 8, 1e-3


def mock(side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Noise (sigma 1), point sources, galaxies and a slope; and the good pixels, nine of ten."""
    rng = np.random.default_rng(1)
    image = rng.normal(size=(side, side)).astype(np.float32)
    image += np.linspace(0, 30, side, dtype=np.float32)
    for width, number, flux in ((0.9, 6000, 10.0), (12.0, 150, 40.0)):
        half = int(5 * width)
        d2 = np.arange(-half, half + 1) ** 2
        stamp = np.exp(-(d2[:, None] + d2) / (2 * width**2)).astype(np.float32)
        for y, x in rng.integers(half, side - half, (number, 2)):
            part = image[y - half : y + half + 1, x - half : x + half + 1]
            part += np.float32(flux * rng.pareto(1.5)) * stamp
    bad = rng.random(image.shape) < 0.005
    image[bad] = np.nan
    for y, x in rng.integers(0, side, (420, 2)):
        core = int(rng.gamma(3, 10))
        reach = 2 * core if core > 40 else core  # the largest have spikes
        y0, x0 = max(y - reach, 0), max(x - reach, 0)
        hole = bad[y0 : y + reach + 1, x0 : x + reach + 1]
        dy = np.arange(y0, y0 + hole.shape[0])[:, None] - y
        dx = np.arange(x0, x0 + hole.shape[1]) - x
        hole |= dy**2 + dx**2 <= core**2
        if reach > core:
            hole |= (np.abs(dy) <= 2) | (np.abs(dx) <= 2)
    return image, ~bad


def this(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Both steps with the package."""
    return hp.highpass(hp.highpass(image, good, FILTERS[0]), good, FILTERS[1])


def peer(image: np.ndarray, good: np.ndarray, dtype: Any = np.float32, spare: int = 0) -> Any:
    """Both steps with scipy.ndimage; its Gaussians are cut at 4 sigma too.

    Each Gaussian of the image is over that of the mask; the four Gaussians of the mask have four
    widths, so that none of them can be used twice.
    """
    ny, nx = image.shape
    value, weight, narrow, wide, below = (
        np.zeros((ny, nx + spare), dtype)[:, :nx] for _ in range(5)
    )
    np.copyto(weight, good)
    np.copyto(value, image, where=good)
    for step, pair in enumerate(FILTERS):
        if step:
            np.multiply(narrow, weight, out=value)
        for fwhm, out in zip(pair, (narrow, wide), strict=True):
            smooth = partial(
                ndimage.gaussian_filter, sigma=fwhm / 2.354820045, mode="constant", truncate=4
            )
            smooth(value, output=out)
            smooth(weight, output=below)
            np.maximum(below, np.finfo(np.float32).tiny, out=below)  # far from any good pixel
            out /= below
        narrow -= wide
    np.copyto(narrow, np.nan, where=~good)
    return narrow


def run() -> Result:
    image, good = mock()
    reset_peak()
    found = this(image, good)
    peak = peak_memory()
    theirs = peer(image, good)
    exact = peer(image, good, np.float64)
    sigma = 1.4826 * float(np.median(np.abs(exact[good] - np.median(exact[good]))))
    error, theirs_error, apart = (
        float(np.abs(a[good] - b[good]).max()) / sigma
        for a, b in ((found, exact), (theirs, exact), (found, theirs))
    )
    same_mask = bool(np.array_equal(np.isnan(found), ~good))
    del theirs, exact
    mine, scipy = alternate(partial(this, image, good), partial(peer, image, good))
    again, padded = alternate(partial(this, image, good), partial(peer, image, good, spare=SPARE))
    gain = ratio(scipy, mine)
    return Result(
        name="highpass",
        work=f"both high-pass steps, float32 {SIDE}^2, {1 - good.mean():.0%} masked, one thread",
        this=median(mine),
        peer=median(scipy),
        ratio=gain,
        unit="x scipy.ndimage",
        bar=f">= {BAR}",
        reached=gain >= BAR,
        accuracy=f"error against float64 {error:.1e} sigma <= {TOLERANCE:g}",
        passed=error <= TOLERANCE and same_mask,
        peak=peak,
        details={
            "masked": float(1 - good.mean()),
            "sigma": sigma,
            "error": error,
            "peer_error": theirs_error,
            "difference": apart,
            "same_mask": same_mask,
            "seconds": mine,
            "peer_seconds": scipy,
            "padded_peer_seconds": padded,
            "padded_ratio": ratio(padded, again),
        },
    )
