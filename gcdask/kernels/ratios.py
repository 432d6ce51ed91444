"""The ratio of the fluxes of two images, from several bands with errors in both."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

ANGLES = np.arctan(np.geomspace(1e-4, 1e4, 721))  # of the ratios that are tried first


class FluxRatio(NamedTuple):
    """What `flux_ratio` finds."""

    ratio: float
    error: float
    color_chi2: float
    chi2: float


def flux_ratio(
    flux: np.ndarray,
    error: np.ndarray,
    other: np.ndarray,
    other_error: np.ndarray,
    predicted: float,
    systematic: float = 0.0,
) -> FluxRatio:
    """Fit one ratio A > 0 to two images, other = A flux in all bands.

    chi^2(A) = sum (other - A flux)^2 / (other_error^2 + A^2 error^2): true fluxes are free in each
    band. It is minimised over the angle arctan A, in which the two images are alike.

    Parameters
    ----------
    flux, error, other, other_error : array, shape (n_bands,)
        Finite, errors positive.
    predicted : float
        A that is to be tested.
    systematic : float
        Its fractional error.

    Returns
    -------
    FluxRatio
        ``ratio`` and its ``error`` (from the curvature of chi^2), ``color_chi2`` at the best ratio
        (n_bands - 1 degrees of freedom) and ``chi2``, its increase at the predicted ratio (one
        degree of freedom), which is (ln A - ln predicted)^2 over a variance: ``systematic``^2 is
        added to that. Without bands all but ``color_chi2`` = 0 are NaN.
    """
    if flux.size == 0:
        return FluxRatio(np.nan, np.nan, 0.0, np.nan)

    def chi2(angle: np.ndarray | float) -> np.ndarray:
        cos, sin = np.cos(np.asarray(angle))[..., None], np.sin(np.asarray(angle))[..., None]
        spread = (other_error * cos) ** 2 + (error * sin) ** 2
        return ((other * cos - flux * sin) ** 2 / spread).sum(-1)

    k = int(np.clip(np.argmin(chi2(ANGLES)), 1, ANGLES.size - 2))
    bounds = ANGLES[k - 1], ANGLES[k + 1]
    best = float(minimize_scalar(chi2, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x)
    lowest, step = float(chi2(best)), 1e-4
    curvature = float(chi2(best + step) + chi2(best - step) - 2 * lowest) / step**2
    ratio = float(np.tan(best))
    error_angle = np.sqrt(2 / curvature) if curvature > 0 else np.nan
    increase, off = float(chi2(np.arctan(predicted))) - lowest, np.log(ratio / predicted)
    if increase > 0 and systematic > 0:
        increase = 1 / (1 / increase + (systematic / off) ** 2)
    return FluxRatio(ratio, float(error_angle * (1 + ratio**2)), lowest, increase)
