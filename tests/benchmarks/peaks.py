"""Peaks of a filtered 4096^2 map, against photutils.find_peaks with the same disk as footprint.

The rules differ: ours takes the brightest pixel, blanks a disk, and repeats; photutils takes every
pixel that is the maximum of its disk, so that what lies beside a peak's flank but outside its disk
is found by us alone. `details` tell how many both find, and the time of photutils' option
``min_separation``, another way to the same local maxima.
"""

from __future__ import annotations

from functools import partial
from statistics import median

import numpy as np
from common import Result, alternate, peak_memory, ratio, reset_peak
from highpass import mock, this
from photutils.detection import find_peaks

from gcdask.kernels import peaks

RADIUS, NSIGMA, BAR = 3, 5, 20


def serial(image: np.ndarray, threshold: float, radius: int) -> np.ndarray:
    """Rows (y, x) by the rule as it is written: the brightest pixel, a disk blanked, again.

    Of equal pixels `argmax` takes the first in raster order.
    """
    y, x = np.nonzero(image > threshold)
    value, found = image[y, x].copy(), []
    while value.size and value[k := int(np.argmax(value))] > threshold:
        found.append((y[k], x[k]))
        value[(y - y[k]) ** 2 + (x - x[k]) ** 2 <= radius**2] = -np.inf
    return np.array(found).reshape(-1, 2)


def disk(radius: int) -> np.ndarray:
    d2 = np.arange(-radius, radius + 1) ** 2
    return d2[:, None] + d2 <= radius**2


def run() -> Result:
    image = this(*mock())
    good = image[np.isfinite(image)]
    threshold = NSIGMA * 1.4826 * float(np.median(np.abs(good - np.median(good))))
    # not NaN: that takes photutils longer
    filled = np.where(np.isnan(image), np.float32(-np.inf), image)
    mine = partial(peaks.greedy, image, threshold, RADIUS)
    theirs = partial(find_peaks, filled, threshold, footprint=disk(RADIUS))

    reset_peak()
    y, x, value, undecided = mine()
    peak = peak_memory()
    expected = serial(image, threshold, RADIUS)
    same = (
        np.array_equal(np.column_stack([y, x]), expected)
        and np.array_equal(value, image[y, x])
        and not undecided.any()
    )
    table = theirs()
    ours = set(zip(y.tolist(), x.tolist(), strict=True))
    maxima = set(zip(table["y_peak"].tolist(), table["x_peak"].tolist(), strict=True))
    spent, photutils = alternate(mine, theirs)
    again, fast = alternate(mine, partial(find_peaks, filled, threshold, min_separation=RADIUS))
    nan = alternate(mine, partial(find_peaks, image, threshold, footprint=disk(RADIUS)), 1)[1]
    gain = ratio(photutils, spent)
    return Result(
        name="peaks",
        work=f"{NSIGMA} sigma peaks of that map, disk of {RADIUS} px, one thread",
        this=median(spent),
        peer=median(photutils),
        ratio=gain,
        unit="x photutils.find_peaks",
        bar=f">= {BAR}",
        reached=gain >= BAR,
        accuracy=f"{len(y)} peaks identical to the serial rule",
        passed=bool(same),
        peak=peak,
        details={
            "peaks": len(y),
            "peer_peaks": len(maxima),
            "common_peaks": len(ours & maxima),
            "seconds": spent,
            "peer_seconds": photutils,
            "peer_seconds_nan": nan,
            "min_separation_seconds": fast,
            "min_separation_ratio": ratio(fast, again),
        },
    )
