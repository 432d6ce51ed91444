"""Contamination of a profile, and the profile without it."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.kernels import annuli, fits, sums
from gcdask.profiles.annuli import radial_profile
from gcdask.profiles.tables import within
from gcdask.tiles import as_map


def _contamination_table(fit: fits.Fit, kpc: float) -> fits.Fit:
    value, error = float(fit["value"]), float(fit["error"])
    return {
        "status": "",
        "amplitude": math.nan,
        "core": math.nan,
        "outer_slope": math.nan,
        "chi2": math.nan,
        "shape": "",
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
    fit = annuli.profile_and_constant(counts[use], area[use], inner[use], outer[use])
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
        ``joint``: Poisson maximum likelihood of a declining profile plus a constant over the
        annuli within ``r_range`` (default all): the estimate. Two shapes, a cored power law
        A (1 + (r / core)^2)^(-g / 2) and a cored Sersic law, which steepens outwards, are averaged
        by how well they fit; the error holds their difference, and is widened where neither does.
        The annuli must reach to where the clusters are fewer than the contaminants: a constant
        cannot be told from a profile that is still falling as a power law at the last of them.

    Returns
    -------
    Dataset, lazy where the inputs are
        ``value``, ``error`` (arcsec-2), ``value_kpc2``, ``error_kpc2`` (NaN without a field),
        ``is_upper_limit``, ``counts`` and ``area`` it rests on, ``status`` (empty if sound), and
        for ``joint`` of the likelier ``shape`` the ``amplitude`` and ``core`` (arcsec) of the
        clusters' profile, ``outer_slope``, its logarithmic slope at the last radius, and ``chi2``
        (deviance).

    Raises
    ------
    InputError
        If the method is unknown or what it needs is missing.
    """
    if "counts" not in profile:
        raise InputError("profile has no counts; give radial_profile of a catalogue")
    kpc = float(profile.attrs.get("kpc_per_arcsec", math.nan))
    used: list[Any] = [profile]
    first = math.nan
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
        result.attrs["r_min"] = first
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
            "outer_slope": ((), (), float, "", "logarithmic slope at the last radius"),
            "shape": ((), (), object, "", "the likelier shape of the clusters' profile"),
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


def subtract(
    profile: xr.Dataset,
    contamination: xr.Dataset,
    *,
    magnification: Any = None,
    slope: float = 0.4,
) -> xr.Dataset:
    """Profile without its contamination: ``n_corrected`` = n - contamination.

    Parameters
    ----------
    profile : Dataset
        Counts by annulus.
    contamination : Dataset
        From `contamination`.
    magnification : DataArray or Dataset, optional
        Map of the magnification of the contaminants, or its `radial_profile` in the same annuli:
        the lens changes their density by mu^(2.5 slope - 1) (Broadhurst, Taylor & Peacock 1995).
        Of a map the power is averaged over the profile's annuli and sector, masked pixels too (set
        them to NaN to leave them out); of a profile the power of the average is taken, which is
        not the same where critical curves cross an annulus. The contamination itself is taken to
        be that without a lens.
    slope : float
        d log10 N / d mag of the contaminants' counts; 0.4, the paper's case, changes nothing.

    Returns
    -------
    Dataset, lazy where an input is
        ``profile`` with ``n_corrected``, ``contamination`` and their ``_error``s (arcsec-2; per
        kpc2 too where the profile is). Errors add in quadrature. With the method "outer" the
        annuli that it used are not independent of it, which is taken into account: where it rests
        on one annulus alone, nothing is left there, 0 +- 0. ``n_corrected`` may be negative where
        the excess is noise.

    Raises
    ------
    InputError
        If the slope is not finite, or a profile of mu has other annuli.
    """
    bias = magnification_bias(profile, magnification, slope)
    c, e = contamination["value"] * bias, contamination["error"] * bias
    share = 0.0
    if "r_min" in contamination.attrs:
        part = profile["r_inner"] >= contamination.attrs["r_min"] * (1 - 1e-9)
        share = (profile["area"] / contamination["area"] * bias).where(part, 0.0)
    variance = profile["n_error"] ** 2 * (1 - 2 * share) + e**2
    error: xr.DataArray = (variance.clip(min=0) ** 0.5).rename(None)
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
    return reduce.finish(out, profile, contamination, magnification)


def magnification_bias(profile: xr.Dataset, magnification: Any, slope: float) -> Any:
    """mu^(2.5 slope - 1) by annulus of a profile; 1 without a magnification."""
    power = 2.5 * slope - 1
    if not math.isfinite(power):
        raise InputError(f"slope = {slope} is not finite; give d log10 N / d mag, e.g. 0.4")
    if magnification is None:
        return 1.0
    if isinstance(magnification, xr.Dataset):
        same = "mean" in magnification and np.array_equal(
            magnification["r_inner"].values, profile["r_inner"].values
        )
        if not same:
            raise InputError(
                "magnification is no profile of mu in the annuli of the profile; make it with "
                "radial_profile(mu, center, edges) of the same edges"
            )
        return abs(magnification["mean"]) ** power
    mu = as_map(magnification, "magnification")
    edges = [*profile["r_inner"].values, float(profile["r_outer"][-1])]
    center = tuple(profile.attrs["center"])
    sector = profile.attrs.get("sector", "all")
    lensed = mu.copy(data=abs(mu.data) ** power)
    return radial_profile(lensed, center, edges, sector=None if sector == "all" else sector)["mean"]
