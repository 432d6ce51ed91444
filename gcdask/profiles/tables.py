"""What a profile holds: densities from counts and areas, moments of maps, names and units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.kernels import fits, sums


def count_table(
    *,
    counts: np.ndarray,
    area: np.ndarray,
    full: np.ndarray,
    kpc: float,
    n_sources: Any,
    n_invalid: Any,
    n_beyond: Any,
    n_masked: Any,
) -> fits.Fit:
    """Densities of counts in areas (arcsec2); NaN where no area is left."""
    safe = np.where(area > 0, area, np.nan)
    low, high = fits.poisson_interval(counts)
    error = fits.poisson_error(counts)
    return {
        "counts": counts,
        "area": area,
        "coverage": area / full,
        "n": counts / safe,
        "n_error": error / safe,
        "n_low": low / safe,
        "n_high": high / safe,
        "n_kpc2": counts / safe / kpc**2,
        "n_kpc2_error": error / safe / kpc**2,
        "n_sources": int(n_sources),
        "n_invalid": int(n_invalid),
        "n_beyond": int(n_beyond),
        "n_masked": int(n_masked),
    }


def from_masked(
    block: sums.Sums, source: sums.Sums, pixel: float, full: np.ndarray, kpc: float
) -> fits.Fit:
    """Table of a profile over unmasked pixels of ``pixel`` arcsec2 each."""
    counts = np.asarray(block["counts"])
    return count_table(
        counts=counts,
        area=np.asarray(block["pixels"]) * pixel,
        full=full,
        kpc=kpc,
        n_sources=source["n_sources"],
        n_invalid=source["n_invalid"],
        n_beyond=source["rings"][-1],
        n_masked=source["rings"][:-1].sum() - counts.sum(),
    )


def from_sources(source: sums.Sums, full: np.ndarray, kpc: float) -> fits.Fit:
    """Table of a profile over whole annuli of area ``full`` (arcsec2)."""
    return count_table(
        counts=source["rings"][:-1],
        area=full,
        full=full,
        kpc=kpc,
        n_sources=source["n_sources"],
        n_invalid=source["n_invalid"],
        n_beyond=source["rings"][-1],
        n_masked=0,
    )


def map_table(total: sums.Sums) -> fits.Fit:
    """Table of a map's profile from its moments."""
    n = total["n"]
    blank = np.where(n > 0, 1.0, np.nan)
    variance = total["m2"] / np.where(n > 1, n - 1, np.nan)
    return {"mean": total["mean"] * blank, "std": np.sqrt(variance), "n_pixels": n}


def count_spec(size: int, kpc: bool) -> reduce.Spec:
    """Variables of a profile of counts; those per kpc2 if ``kpc``."""
    by: tuple[Any, ...] = (("annulus",), (size,))
    spec: dict[str, Any] = {
        "counts": (*by, np.int64, "", "sources on unmasked pixels"),
        "area": (*by, float, "arcsec2", "unmasked area"),
        "coverage": (*by, float, "", "unmasked share of the annulus"),
        "n": (*by, float, "arcsec-2", "number density"),
        "n_error": (*by, float, "arcsec-2", "Poisson error; 1.84 / area for no source"),
        "n_low": (*by, float, "arcsec-2", "lower end of the exact 68.3 % Poisson interval"),
        "n_high": (*by, float, "arcsec-2", "upper end of it; 84.1 % limit for no source"),
        "n_sources": ((), (), np.int64, "", "rows of the catalogue"),
        "n_invalid": ((), (), np.int64, "", "rows whose position is not finite"),
        "n_beyond": ((), (), np.int64, "", "sources outside all annuli"),
        "n_masked": ((), (), np.int64, "", "sources in an annulus on masked or no pixels"),
    }
    if kpc:
        spec["n_kpc2"] = (*by, float, "kpc-2", "number density")
        spec["n_kpc2_error"] = (*by, float, "kpc-2", "Poisson error of n_kpc2")
    return spec


def annuli_coords(edges: np.ndarray, kpc: float) -> dict[str, Any]:
    """Radii of the annuli; ``r`` is the area-weighted mean."""
    inner, outer = edges[:-1], edges[1:]
    r = 2 / 3 * (outer**3 - inner**3) / (outer**2 - inner**2)
    out = {"r": r, "r_inner": inner, "r_outer": outer}
    coords = {k: ("annulus", v, {"units": "arcsec"}) for k, v in out.items()}
    if math.isfinite(kpc):
        coords["r_kpc"] = ("annulus", r * kpc, {"units": "kpc"})
    return coords


def combine(profiles: Sequence[xr.Dataset]) -> xr.Dataset:
    """One profile from those of several fields in the same annuli (two modules with a gap).

    Counts and areas (for maps: means weighted by pixels and pooled variances) add up; densities
    and errors are made anew.

    Raises
    ------
    InputError
        If the profiles differ in annuli or kind.
    """
    profiles = list(profiles)
    if not profiles:
        raise InputError("no profiles to combine; give a list of results of radial_profile")
    first = profiles[0]
    for p in profiles[1:]:
        same = all(
            p[k].shape == first[k].shape and np.allclose(p[k], first[k], rtol=1e-12)
            for k in ("r_inner", "r_outer")
        )
        if not same or p.attrs.get("kind") != first.attrs.get("kind"):
            raise InputError("profiles differ in their annuli or kind; make them with equal edges")
    size = first.sizes["annulus"]
    kpc = float(first.attrs["kpc_per_arcsec"])
    is_map = first.attrs["kind"] == "map"
    names = ("mean", "std", "n_pixels") if is_map else (
        "counts", "area", "coverage", "n_sources", "n_invalid", "n_beyond", "n_masked"
    )  # fmt: skip
    inputs = {f"{k}_{i}": p[k] for i, p in enumerate(profiles) for k in names}
    function = partial(_combine_maps if is_map else _combine_counts, n=len(profiles))
    if is_map:
        spec: reduce.Spec = {
            k: (("annulus",), (size,), first[k].dtype, first[k].attrs["units"],
                first[k].attrs["long_name"])
            for k in names
        }  # fmt: skip
    else:
        spec = count_spec(size, math.isfinite(kpc))
        function = partial(function, kpc=kpc)
    result = xr.Dataset(
        reduce.variables(reduce.apply(function, **inputs), spec),
        coords=first.coords,
        attrs={**first.attrs, "combined": len(profiles)},
    )
    return reduce.finish(result, *profiles)


def _combine_counts(*, n: int, kpc: float, **values: np.ndarray) -> fits.Fit:
    total = {
        k: sum(values[f"{k}_{i}"] for i in range(n))
        for k in ("counts", "area", "coverage", "n_sources", "n_invalid", "n_beyond", "n_masked")
    }
    coverage = total.pop("coverage")
    out = count_table(full=np.ones_like(coverage), kpc=kpc, **total)  # type: ignore[arg-type]
    return out | {"coverage": coverage}


def _combine_maps(*, n: int, **values: np.ndarray) -> fits.Fit:
    parts = []
    for i in range(n):
        count = values[f"n_pixels_{i}"].astype(float)
        m2 = np.nan_to_num(values[f"std_{i}"]) ** 2 * np.maximum(count - 1, 0)
        parts.append({"n": count, "mean": np.nan_to_num(values[f"mean_{i}"]), "m2": m2})
    return map_table(sums.merge_moments(parts))


def within(profile: xr.Dataset, low: float, high: float) -> np.ndarray:
    """Annuli that lie inside a range of radii, to rounding."""
    inner, outer = profile["r_inner"].values, profile["r_outer"].values
    return np.flatnonzero((inner >= low * (1 - 1e-9)) & (outer <= high * (1 + 1e-9)))
