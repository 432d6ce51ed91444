"""Where detections begin to be noise: counts of peaks on the map and on its negative."""

from __future__ import annotations

from typing import Any

import numpy as np

from gcdask.errors import InputError

RING = 5  # peaks this many times above a level have rings that count as detections at it


def level_counts(values: np.ndarray, near: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Peaks at or above each level, without those near much brighter ones; adds up over tiles.

    Parameters
    ----------
    values, near : arrays (n,)
        ``peak`` and ``near`` of `peaks_in_window`, of either sign.
    levels : array (m,)
        Ascending. A peak counts at level L if ``values >= L`` and ``near <= 5 L``: the negative
        rings of brighter peaks are no noise.

    Returns
    -------
    int64 array (m,)
    """
    levels = np.asarray(levels, float)
    near = np.where(np.isnan(near), -np.inf, near).astype(float)
    first = np.searchsorted(RING * levels, near, side="left")
    stop = np.searchsorted(levels, np.asarray(values, float), side="right")
    counted = first < stop
    steps = np.zeros(levels.size + 1, np.int64)
    np.add.at(steps, first[counted], 1)
    np.subtract.at(steps, stop[counted], 1)
    return np.cumsum(steps[:-1])


def auto_threshold(
    levels: np.ndarray,
    n_pos: np.ndarray,
    n_neg: np.ndarray,
    *,
    fraction: float = 0.1,
    floor: float = 3.0,
) -> float:
    """Threshold T such that at the catalogue level 2T few detections are noise.

    2T is the smallest level where the negated map gives at most `fraction` as many peaks as the
    map, and above which it never gives significantly more. A few negative peaks among few
    positive ones far up (an artefact) are within their Poisson error and do not move it.

    Parameters
    ----------
    levels : array (m,)
        Ascending, in units of the local noise.
    n_pos, n_neg : arrays (m,)
        Counts of `level_counts` on the map and on the negated map.
    fraction : float
        Largest share of noise.
    floor : float
        Smallest T.

    Returns
    -------
    float
        T, in the units of `levels`.

    Raises
    ------
    InputError
        If the highest level is not high enough.
    """
    levels, n_pos, n_neg = (np.asarray(a, float) for a in (levels, n_pos, n_neg))
    expected = fraction * n_pos
    excess = n_neg > expected + 2 * np.sqrt(expected + 1)
    settled = np.cumsum(excess[::-1])[::-1] == 0  # nothing above speaks against it
    fit = np.flatnonzero(settled & (n_neg <= expected))
    if not fit.size:
        top = (f"{n_neg[-1]:.0f} of {n_pos[-1]:.0f} at {levels[-1]:.3g}") if levels.size else "none"
        raise InputError(
            f"no level has at most {fraction:.0%} of noise peaks ({top}); "
            "give the threshold as a number, or mask the artefacts"
        )
    return max(float(levels[fit[0]]) / 2, floor)


def purity(n_pos: Any, n_neg: Any) -> Any:
    """Share of detections that are not noise, 1 - n_neg / n_pos in [0, 1]; NaN without any."""
    n_pos, n_neg = np.asarray(n_pos, float), np.asarray(n_neg, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(1 - n_neg / np.where(n_pos > 0, n_pos, np.nan), 0, 1)[()]
