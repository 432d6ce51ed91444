"""Logarithmic slope of a profile."""

from __future__ import annotations

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.kernels import fits
from gcdask.profiles.tables import within


def _slope(
    counts: np.ndarray,
    area: np.ndarray,
    inner: np.ndarray,
    outer: np.ndarray,
    background: np.ndarray,
    background_error: np.ndarray,
) -> fits.Fit:
    use = area > 0
    rings = [v[use] for v in (counts, area, inner, outer)]
    if not np.isfinite(background):
        nothing = fits.slope(*[v[:0] for v in rings], background=0, background_error=0)
        return nothing | {"status": "unconstrained: the contamination is NaN"}
    return fits.slope(
        *rings, background=float(background), background_error=float(background_error)
    )


def fit_slope(
    profile: xr.Dataset, r_range: tuple[float, float] = (13.0, 60.0), *, variable: str = "n"
) -> xr.Dataset:
    """Logarithmic slope of a profile between two radii.

    For counts, a Poisson maximum-likelihood fit of A (r / r0)^slope, averaged over each annulus by
    area, to counts in areas: unbiased at low counts, where log n is not. ``n_corrected`` adds the
    subtracted contamination as a fixed background and its error to the slope's. For ``mean`` of a
    map, an unweighted line through log value, with its error from the residuals (pixels of a map
    are not independent).

    Parameters
    ----------
    profile : Dataset
        From `radial_profile`, `combine` or `subtract`.
    r_range : (float, float)
        Radii in arcsec; annuli that lie entirely inside are used.
    variable : {"n", "n_corrected", "mean"}

    Returns
    -------
    Dataset, lazy where ``profile`` is
        ``slope``, ``slope_error``, ``amplitude`` (density or value at ``r0``), its error, ``r0``
        (arcsec), ``chi2`` (deviance; NaN for maps) and ``dof``, ``n_annuli``, ``counts``;
        ``status`` is empty, or begins with "unconstrained" (NaN) below three occupied annuli.
    """
    low, high = (float(v) for v in r_range)
    if not 0 <= low < high:
        raise InputError(f"r_range = {r_range} is not 0 <= low < high; give radii in arcsec")
    if variable not in ("n", "n_corrected", "mean"):
        raise InputError(f"variable = {variable!r} is unknown; use 'n', 'n_corrected' or 'mean'")
    if variable not in profile:
        remedy = {"n_corrected": "subtract(profile, contamination)", "mean": "a profile of a map"}
        raise InputError(
            f"profile has no {variable!r}; give {remedy.get(variable, 'a profile of a catalogue')}"
        )
    part = profile.isel(annulus=within(profile, low, high))
    if low == 0 and part.sizes["annulus"] and float(part["r_inner"][0]) == 0:
        part = part.isel(
            annulus=slice(1, None)
        )  # a power law has no mean over a disk at slope <= -2
    if variable == "mean":
        fit = reduce.apply(fits.log_slope, value=part["mean"], r=part["r"])
        units = str(part["mean"].attrs.get("units", ""))
    else:
        fixed = variable == "n_corrected"
        fit = reduce.apply(
            _slope,
            counts=part["counts"],
            area=part["area"],
            inner=part["r_inner"],
            outer=part["r_outer"],
            background=part["contamination"] if fixed else np.array(0.0),
            background_error=part["contamination_error"] if fixed else np.array(0.0),
        )
        units = "arcsec-2"
    spec: reduce.Spec = {
        "slope": ((), (), float, "", "d log value / d log r"),
        "slope_error": ((), (), float, "", "standard error of slope"),
        "amplitude": ((), (), float, units, "value at r0"),
        "amplitude_error": ((), (), float, units, "standard error of amplitude"),
        "r0": ((), (), float, "arcsec", "pivot radius"),
        "chi2": ((), (), float, "", "Poisson deviance"),
        "dof": ((), (), np.int64, "", "degrees of freedom"),
        "n_annuli": ((), (), np.int64, "", "annuli used"),
        "counts": ((), (), np.int64, "", "sources used"),
        "status": ((), (), object, "", "empty if the fit is sound"),
    }
    attrs = {"variable": variable, "r_range": [low, high]}
    return reduce.finish(xr.Dataset(reduce.variables(fit, spec), attrs=attrs), profile)
