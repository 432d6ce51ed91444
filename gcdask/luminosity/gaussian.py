"""The Gaussian luminosity function of globular clusters, fitted up to a limit."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.kernels import gclf


def fit_gclf(
    function: xr.Dataset,
    *,
    limit: float | None = None,
    turnover: float | None = None,
    sigma: float | None = None,
    distance_modulus: float | None = None,
) -> xr.Dataset:
    """Fit a Gaussian to a luminosity function by Poisson maximum likelihood, truncated at a limit.

    mu_i = N c_i [Phi((faint_i - m0) / sigma) - Phi((bright_i - m0) / sigma)] + contaminants, c the
    completeness, for the bins down to the limit: nothing fainter is used or assumed to be seen.
    (Bins of 0.1 mag lose nothing against the magnitudes themselves.)

    Parameters
    ----------
    function : Dataset
        From `luminosity_function`.
    limit : float, optional
        Faintest magnitude to use, an edge of a bin (default: all bins with completeness above
        ``min_completeness`` of the luminosity function).
    turnover, sigma : float, optional
        Fixed values (mag): turnovers are M_V about -7.4, at 41 to 42 mag of distance modulus
        beyond the reach of any survey, and then turnover, sigma and N are degenerate.
    distance_modulus : float, optional
        Adds the absolute magnitude of the turnover.

    Returns
    -------
    Dataset, lazy where ``function`` is
        ``turnover``, ``sigma`` (mag; error 0 where fixed), ``n_total`` (whole population, the
        integral of the Gaussian), ``fraction`` (of it above the limit, at full completeness), each
        with ``_error``; ``limit`` (mag), the faint end of the faintest bin used; ``chi2``
        (deviance), ``dof``, ``n_used`` (sources), ``status``: empty, or "unconstrained: ..." with
        too few sources, contaminants of an unknown area, or where only the bright tail is seen.

    Raises
    ------
    InputError
        If no bin is left, or a fixed value makes no sense.
    """
    needed = {"counts", "completeness", "expected_contaminants", "bright", "faint"}
    missing = sorted(needed - set(function.variables))
    if missing:
        raise InputError(f"function lacks {missing}; give the result of luminosity_function")
    senseless = (turnover is not None and not math.isfinite(turnover)) or (
        sigma is not None and not sigma > 0
    )
    if senseless:
        raise InputError(f"turnover = {turnover}, sigma = {sigma}: give mag, sigma above 0")
    part = function
    if limit is not None:
        part = function.isel(bin=np.flatnonzero(function["faint"].values <= limit + 1e-9))
    if part.sizes["bin"] == 0:
        raise InputError(
            f"limit = {limit} leaves no bin; give a magnitude above {function['faint'].values[0]}"
        )
    least = float(function.attrs.get("min_completeness", 0.0))
    fit = reduce.apply(
        partial(_fit, turnover=turnover, sigma=sigma, least=least),
        counts=part["counts"],
        bright=part["bright"],
        faint=part["faint"],
        completeness=part["completeness"],
        contaminants=part["expected_contaminants"],
    )
    out = xr.Dataset(
        reduce.variables(fit, _spec()),
        attrs={
            "fixed": [k for k, v in (("turnover", turnover), ("sigma", sigma)) if v is not None]
        },
    )
    if distance_modulus is not None:
        out["absolute_turnover"] = (out["turnover"] - distance_modulus).assign_attrs(
            units="mag", long_name="absolute magnitude of the turnover"
        )
    out = reduce.finish(out, function)
    if not reduce.is_lazy(out["limit"]):
        out.attrs["limit"] = out["limit"].item()
    return out


def _fit(completeness: np.ndarray, *, least: float, **rest: Any) -> Any:
    seen = np.where(completeness >= least, completeness, 0.0)
    return gclf.gaussian(completeness=seen, **rest)


def _spec() -> reduce.Spec:
    named = {
        "turnover": ("mag", "peak of the Gaussian"),
        "sigma": ("mag", "standard deviation of the Gaussian"),
        "n_total": ("", "number of the whole population"),
        "fraction": ("", "share of the population above the limit"),
    }
    spec: dict[str, Any] = {}
    for name, (units, text) in named.items():
        spec[name] = ((), (), float, units, text)
        spec[f"{name}_error"] = ((), (), float, units, f"standard error of {name}")
    return spec | {
        "limit": ((), (), float, "mag", "limit of the fit"),
        "chi2": ((), (), float, "", "Poisson deviance"),
        "dof": ((), (), np.int64, "", "degrees of freedom"),
        "n_used": ((), (), np.int64, "", "sources used"),
        "status": ((), (), object, "", "empty if the fit is sound"),
    }
