"""Logarithmic slope of a profile, and the plateau inside of which there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.kernels import annuli, fits
from gcdask.profiles.tables import within


def _fit(
    counts: np.ndarray,
    area: np.ndarray,
    inner: np.ndarray,
    outer: np.ndarray,
    background: np.ndarray,
    background_error: np.ndarray,
    *,
    kernel: Callable[..., fits.Fit],
) -> fits.Fit:
    """A fit of `gcdask.kernels.annuli` to the annuli that have area."""
    use = area > 0
    rings = [v[use] for v in (counts, area, inner, outer)]
    known = [np.broadcast_to(v, counts.shape)[use] for v in (background, background_error)]
    if not np.isfinite(known).all():
        nothing = kernel(*[v[:0] for v in rings], background=0.0, background_error=0.0)
        return nothing | {"status": "unconstrained: the contamination is NaN"}
    return kernel(*rings, background=known[0], background_error=known[1])


def _counted(part: xr.Dataset, variable: str, kernel: Callable[..., fits.Fit]) -> Any:
    """Lazy fit to counts; for ``n_corrected`` over their contamination."""
    fixed = variable == "n_corrected"
    return reduce.apply(
        partial(_fit, kernel=kernel),
        counts=part["counts"],
        area=part["area"],
        inner=part["r_inner"],
        outer=part["r_outer"],
        background=part["contamination"] if fixed else np.array(0.0),
        background_error=part["contamination_error"] if fixed else np.array(0.0),
    )


def _part(profile: xr.Dataset, r_range: Any, variable: str, allowed: tuple[str, ...]) -> xr.Dataset:
    """Annuli within the range, once range and variable are sound."""
    try:
        low, high = (float(v) for v in r_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low < high:
        raise InputError(f"r_range = {r_range!r} is not 0 <= low < high; give radii in arcsec")
    if variable not in allowed:
        raise InputError(
            f"variable = {variable!r} is unknown; use {' or '.join(map(repr, allowed))}"
        )
    if variable not in profile:
        remedy = {"n_corrected": "subtract(profile, contamination)", "mean": "a profile of a map"}
        raise InputError(
            f"profile has no {variable!r}; give {remedy.get(variable, 'a profile of a catalogue')}"
        )
    return profile.isel(annulus=within(profile, low, high))


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
    part = _part(profile, r_range, variable, ("n", "n_corrected", "mean"))
    low, high = (float(v) for v in r_range)
    if low == 0 and part.sizes["annulus"] and float(part["r_inner"][0]) == 0:
        part = part.isel(
            annulus=slice(1, None)
        )  # a power law has no mean over a disk at slope <= -2
    if variable == "mean":
        fit = reduce.apply(annuli.log_slope, value=part["mean"], r=part["r"])
        units = str(part["mean"].attrs.get("units", ""))
    else:
        fit = _counted(part, variable, annuli.slope)
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


def fit_plateau(
    profile: xr.Dataset, r_range: tuple[float, float] = (3.0, 60.0), *, variable: str = "n"
) -> xr.Dataset:
    """Radius of the core in which the density of clusters is flat.

    Defined by n = A min(1, (r / R)^slope) (+ contamination): flat out to R, a power law beyond,
    fitted by Poisson maximum likelihood to counts in annuli. (Diego et al. 2026, section 6, see
    the clusters of AS1063 flat from 3 to 13 arcsec.) `fit_slope` within the plateau tests how
    flat it is.

    Parameters
    ----------
    profile : Dataset
        From `radial_profile`, `combine` or `subtract`, in narrow annuli: R is found between them.
    r_range : (float, float)
        Radii in arcsec; annuli that lie entirely inside are used.
    variable : {"n", "n_corrected"}
        The latter adds the subtracted contamination as a fixed background, and its error.

    Returns
    -------
    Dataset, lazy where ``profile`` is
        ``radius`` (arcsec), ``slope`` beyond it and ``density`` (arcsec-2) within, each with
        ``_error``; ``chi2`` (deviance), ``dof``, ``n_annuli``, ``counts``; ``status``, empty or
        "unconstrained: ..." where the profile has no plateau, no decline or too few annuli.
    """
    part = _part(profile, r_range, variable, ("n", "n_corrected"))
    fit = _counted(part, variable, annuli.plateau)
    spec: reduce.Spec = {
        "radius": ((), (), float, "arcsec", "radius of the plateau"),
        "radius_error": ((), (), float, "arcsec", "standard error of radius"),
        "slope": ((), (), float, "", "d log n / d log r beyond the plateau"),
        "slope_error": ((), (), float, "", "standard error of slope"),
        "density": ((), (), float, "arcsec-2", "density of clusters on the plateau"),
        "density_error": ((), (), float, "arcsec-2", "standard error of density"),
        "chi2": ((), (), float, "", "Poisson deviance"),
        "dof": ((), (), np.int64, "", "degrees of freedom"),
        "n_annuli": ((), (), np.int64, "", "annuli used"),
        "counts": ((), (), np.int64, "", "sources used"),
        "status": ((), (), object, "", "empty if the fit is sound"),
    }
    attrs = {"variable": variable, "r_range": [float(v) for v in r_range]}
    return reduce.finish(xr.Dataset(reduce.variables(fit, spec), attrs=attrs), profile)
