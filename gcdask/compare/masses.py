"""Masses from the lens beside the number of clusters."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.grid import Field, tangent_offsets
from gcdask.kernels import fits, sums
from gcdask.lensing.scale import enclosed_mass

GC_MASS_FRACTION = 2.9e-5  # Harris, Blakeslee & Harris (2017): mass in GCs over halo mass
HALO_MASS_PER_GC = 5e9  # Msun; Burkert & Forbes (2020): virial mass per globular cluster


def _count_block(
    ra: np.ndarray, dec: np.ndarray, *, center: tuple[float, float], radius: float
) -> sums.Sums:
    return {"n": int((np.hypot(*tangent_offsets(ra, dec, center)) < radius).sum())}


def _n(total: sums.Sums) -> int:
    return total["n"]


def mass_numbers(
    kappa: xr.DataArray,
    sources: Any,
    field: Field,
    radius: float = 60.0,
    *,
    center: tuple[float, float] | None = None,
    counted: str = "sources of the catalogue within the radius, not corrected for completeness",
) -> xr.Dataset:
    """Mass within a radius, number of clusters there, and what two scaling relations make of them.

    M(<R) = Sigma_cr x integral of kappa; mass per cluster 2.9e-5 M / N (Harris et al. 2017);
    M_vir = 5e9 Msun N (Burkert & Forbes 2020). Both relations mean the *whole* population,
    completed over the luminosity function and out to the virial radius; say what N is.

    Diego et al. (2026, section 4) print M(<60") = 4.23e14 Msun and 8.47e9 Msun in clusters. These
    disagree: 8.47e9 / 2.9e-5 = 2.92e14, and 2.9e-5 x 4.23e14 = 1.23e10. Nothing here is copied.

    Parameters
    ----------
    kappa : DataArray, dims (y, x)
        Convergence for sources at ``field.z_source`` (or at its attribute ``z_source``).
    sources : dask or pandas DataFrame, or number
        A catalogue (counted within the radius), or N.
    field : Field
        Lens redshift, cosmology, default centre.
    radius : float
        R in arcsec.
    counted : str
        What N is, in words; kept in ``attrs``.

    Returns
    -------
    Dataset, lazy where an input is
        ``mass`` (Msun; a lower limit where ``coverage`` of the disk is below 1), ``n`` and
        ``n_error`` (Poisson), ``mass_in_clusters`` = 2.9e-5 M, ``mass_per_cluster`` and its error,
        ``m_vir`` and its error (Msun; Poisson only), ``radius``, ``radius_kpc``.
    """
    center = reduce.check_center(field.center if center is None else center)
    inside = enclosed_mass(kappa, field, radius, center)
    if isinstance(sources, (int, float, np.number)):
        if not (math.isfinite(sources) and sources >= 0):
            raise InputError(f"sources = {sources} is not a number of clusters; give 0 or more")
        n: Any = xr.DataArray(float(sources))
    else:
        kernel = partial(_count_block, center=center, radius=radius)
        total = reduce.reduce_sources(sources, None, kernel, sums.add)
        n = xr.DataArray(reduce.pick(total, _n))
    error = xr.apply_ufunc(fits.poisson_error, n, dask="parallelized", output_dtypes=[float])
    mass = inside["mass"]
    some = n.where(n > 0)
    per = GC_MASS_FRACTION * mass / some
    values = {
        "mass": (mass, "Msun", "mass within the radius"),
        "coverage": (inside["coverage"], "", "share of the disk with data"),
        "n": (n, "", "number of clusters"),
        "n_error": (error, "", "Poisson error of n"),
        "mass_in_clusters": (GC_MASS_FRACTION * mass, "Msun", "2.9e-5 M (Harris et al. 2017)"),
        "mass_per_cluster": (per, "Msun", "2.9e-5 M / n"),
        "mass_per_cluster_error": (per * error / some, "Msun", "its Poisson error"),
        "m_vir": (HALO_MASS_PER_GC * n, "Msun", "5e9 n (Burkert & Forbes 2020)"),
        "m_vir_error": (HALO_MASS_PER_GC * error, "Msun", "its Poisson error"),
        "radius": (xr.DataArray(float(radius)), "arcsec", "radius"),
        "radius_kpc": (xr.DataArray(radius * field.kpc_per_arcsec), "kpc", "radius"),
    }
    result = xr.Dataset(
        {
            k: xr.DataArray(v.data, attrs={"units": units, "long_name": text})
            for k, (v, units, text) in values.items()
        },
        attrs={"n_is": counted, "center": list(center), **inside.attrs},
    )
    result.attrs["relations_mean"] = "the whole population, all luminosities, to the virial radius"
    return reduce.finish(result, kappa, None if np.isscalar(sources) else sources)
