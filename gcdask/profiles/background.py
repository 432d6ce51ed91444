"""Contamination of a profile, and the profile without it."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.kernels import fits, sums
from gcdask.profiles.tables import within


def _contamination_table(fit: fits.Fit, kpc: float) -> fits.Fit:
    value, error = float(fit["value"]), float(fit["error"])
    return {
        "status": "",
        "amplitude": math.nan,
        "core": math.nan,
        "outer_slope": math.nan,
        "chi2": math.nan,
        **fit,
        "value_kpc2": value / kpc**2,
        "error_kpc2": error / kpc**2,
    }


def _pool(counts: np.ndarray, area: np.ndarray, kpc: float) -> fits.Fit:
    n, total = int(np.sum(counts)), float(np.sum(area))
    safe = total if total > 0 else math.nan
    fit = {"value": n / safe, "error": float(fits.poisson_error(n)) / safe}
    status = "" if total > 0 else "unconstrained: no unmasked area"
    return _contamination_table(fit | {"counts": n, "area": total, "status": status}, kpc)


def _joint(
    counts: np.ndarray, area: np.ndarray, inner: np.ndarray, outer: np.ndarray, kpc: float
) -> fits.Fit:
    use = area > 0
    fit = fits.core_and_constant(counts[use], area[use], inner[use], outer[use])
    return _contamination_table(fit, kpc)


def contamination(
    profile: xr.Dataset,
    *,
    method: str = "outer",
    r_min: float | None = None,
    reference: Any = None,
    reference_area: float | None = None,
    value: float | None = None,
    error: float = 0.0,
    per: str = "arcsec2",
    r_range: tuple[float, float] | None = None,
) -> xr.Dataset:
    """Density of sources that are not clusters of the lens (Diego et al. 2026, section 5).

    Parameters
    ----------
    profile : Dataset
        Counts by annulus, from `radial_profile` or `combine`.
    method : {"outer", "reference", "given", "joint"}
        ``outer``, the paper's: the density in annuli that begin at ``r_min`` or beyond (default
        the last annulus). Clusters of the lens are there too: an *upper limit*.
        ``reference``: the density in another field, where there is no lens: a profile (its
        ``counts`` and ``area``), or a catalogue with its unmasked ``reference_area`` (arcsec2).
        ``given``: ``value`` and ``error``, per arcsec2 or (``per="kpc2"``) kpc2.
        ``joint``: Poisson maximum likelihood of n(r) = A (1 + (r / core)^2)^(slope / 2) + constant
        over the annuli within ``r_range`` (default all), with Fisher errors: the estimate.

    Returns
    -------
    Dataset, lazy where the inputs are
        ``value``, ``error`` (arcsec-2), ``value_kpc2``, ``error_kpc2`` (NaN without a field),
        ``is_upper_limit``, ``counts`` and ``area`` it rests on, ``status`` (empty if sound), and
        for ``joint`` ``amplitude``, ``core`` (arcsec), ``outer_slope``, ``chi2`` (deviance).

    Raises
    ------
    InputError
        If the method is unknown or what it needs is missing.
    """
    if "counts" not in profile:
        raise InputError("profile has no counts; give radial_profile of a catalogue")
    kpc = float(profile.attrs.get("kpc_per_arcsec", math.nan))
    used: list[Any] = [profile]
    if method == "outer":
        first = float(profile["r_inner"][-1]) if r_min is None else r_min
        part = profile.isel(annulus=np.flatnonzero(profile["r_inner"].values >= first * (1 - 1e-9)))
        if part.sizes["annulus"] == 0:
            raise InputError(
                f"r_min = {first} lies beyond the last annulus (starts at "
                f"{float(profile['r_inner'][-1]):.4g} arcsec); give a smaller r_min"
            )
        fit = reduce.apply(partial(_pool, kpc=kpc), counts=part["counts"], area=part["area"])
    elif method == "reference":
        counts, area = _reference(reference, reference_area)
        used = [reference]
        fit = reduce.apply(partial(_pool, kpc=kpc), counts=counts, area=area)
    elif method == "given":
        fit = reduce.apply(_given(value, error, per, kpc))
        used = []
    elif method == "joint":
        low, high = r_range or (0.0, math.inf)
        part = profile.isel(annulus=within(profile, low, high))
        rings = {k: part[k] for k in ("counts", "area")}
        rings |= {"inner": part["r_inner"], "outer": part["r_outer"]}
        fit = reduce.apply(partial(_joint, kpc=kpc), **rings)
    else:
        raise InputError(
            f"method = {method!r} is unknown; use 'outer', 'reference', 'given' or 'joint'"
        )
    upper = method == "outer"
    result = xr.Dataset(reduce.variables(fit, _contamination_spec(method == "joint")))
    result["is_upper_limit"] = xr.DataArray(upper, attrs={"units": ""})
    result.attrs = {"method": method, "kpc_per_arcsec": kpc}
    if upper:
        result.attrs["note"] = "upper limit: clusters of the lens are at these radii too"
    return reduce.finish(result, *used)


def _contamination_spec(joint: bool) -> reduce.Spec:
    spec: dict[str, Any] = {
        "value": ((), (), float, "arcsec-2", "density of contaminants"),
        "error": ((), (), float, "arcsec-2", "standard error of value"),
        "value_kpc2": ((), (), float, "kpc-2", "density of contaminants"),
        "error_kpc2": ((), (), float, "kpc-2", "standard error of value_kpc2"),
        "counts": ((), (), np.int64, "", "sources it rests on"),
        "area": ((), (), float, "arcsec2", "area it rests on"),
        "status": ((), (), object, "", "empty if sound"),
    }
    if joint:
        spec |= {
            "amplitude": ((), (), float, "arcsec-2", "central density of the clusters"),
            "core": ((), (), float, "arcsec", "core radius"),
            "outer_slope": ((), (), float, "", "logarithmic slope far outside the core"),
            "chi2": ((), (), float, "", "Poisson deviance"),
        }
    return spec


def _reference(reference: Any, area: float | None) -> tuple[Any, Any]:
    """Take counts and area of a reference field: a table of both, or a catalogue and an area."""
    if isinstance(reference, xr.Dataset):
        name = "counts" if "counts" in reference else "n"
        if name not in reference or "area" not in reference:
            raise InputError("reference has no counts and area; give a radial_profile of it")
        return reference[name], reference["area"]
    if reference is None or area is None or not area > 0:
        raise InputError(
            f"method 'reference' needs reference= (a catalogue) and reference_area= in arcsec2 "
            f"(got {area}), or a profile as reference"
        )
    total = reduce.reduce_sources(reference, None, _nothing, sums.add)
    return reduce.pick(total, _valid), np.array([area])


def _nothing(ra: np.ndarray, dec: np.ndarray) -> sums.Sums:
    return {}


def _valid(total: sums.Sums) -> int:
    return total["n_sources"] - total["n_invalid"]


def _given(value: float | None, error: float, per: str, kpc: float) -> Any:
    if value is None or not (math.isfinite(value) and value >= 0 and error >= 0):
        raise InputError(f"value = {value}, error = {error}: give a density of 0 or more")
    if per not in ("arcsec2", "kpc2"):
        raise InputError(f"per = {per!r} is unknown; use 'arcsec2' or 'kpc2'")
    if per == "kpc2" and not math.isfinite(kpc):
        raise InputError(
            "per = 'kpc2' needs a profile made with field=; give the value per arcsec2"
        )
    scale = kpc**2 if per == "kpc2" else 1.0
    fit = {"value": value * scale, "error": error * scale, "counts": 0, "area": math.nan}
    return partial(_contamination_table, fit, kpc)


def subtract(profile: xr.Dataset, contamination: xr.Dataset) -> xr.Dataset:
    """Profile with ``n_corrected`` = n - contamination and its error (also per kpc2).

    Errors add in quadrature; with the method "outer" the two are not independent in the annuli
    that it used. ``n_corrected`` may be negative where the excess is noise.
    """
    c, e = contamination["value"], contamination["error"]
    error: xr.DataArray = ((profile["n_error"] ** 2 + e**2) ** 0.5).rename(None)
    out = profile.assign(
        n_corrected=(profile["n"] - c).assign_attrs(units="arcsec-2"),
        n_corrected_error=error.assign_attrs(units="arcsec-2"),
        contamination=c.assign_attrs(units="arcsec-2"),
        contamination_error=e.assign_attrs(units="arcsec-2"),
    )
    if "n_kpc2" in profile:
        kpc = float(profile.attrs["kpc_per_arcsec"])
        for name in ("n_corrected", "n_corrected_error"):
            kpc_name = name.replace("corrected", "corrected_kpc2")
            out[kpc_name] = (out[name] / kpc**2).assign_attrs(units="kpc-2")
    upper = bool(contamination["is_upper_limit"])
    out.attrs["contamination_method"] = contamination.attrs.get("method", "")
    if upper:
        out.attrs["note"] = "n_corrected is a lower limit: an upper limit was subtracted"
    return out
