"""The exponent with which sources trace the convergence."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.compare.footprint import footprint, weighted
from gcdask.compare.likelihood import jackknife_size
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import fits, likelihood, sums, tracer

WHY = "kappa is not finite and positive there, or the exposure not from 0 to 1"
ROW, BLOCKS = 2**23, 2**46  # blocks along x, and in all, that a code has room for


def _block(
    share: np.ndarray, found: np.ndarray, *arrays: np.ndarray, grid: Grid, size: int, exposed: bool
) -> sums.Sums:
    *maps, y, x = arrays
    exposure = maps.pop(0) if exposed else None
    (kappa,) = maps
    area, inside = weighted(share, exposure)
    use = likelihood.usable(area, inside, maps)
    flagged = likelihood.flags(area, inside, use)
    iy, ix, _, _ = reduce.on_unmasked(found, use | flagged, y, x, grid.step)
    good = use[iy, ix]
    by, bx = ((reduce.element_index(v, grid.step) // size if size else np.zeros(v.size, np.int64))
              for v in (y, x))  # fmt: skip
    block = (by[:, None] * ROW + bx) % BLOCKS
    at = iy[good], ix[good]
    seen = 0.0 if exposure is None else float(np.log(exposure[at]).sum())
    parts = [
        tracer.area_histogram(kappa, area, use, block),
        tracer.source_histogram(kappa[at], block[at]),
    ]
    return {
        **tracer.merge_histograms(parts),
        "flagged": int(flagged.sum()),
        "used": int(use.sum()),
        "n_flagged": int((~good).sum()),
        "seen": seen,
    }


def _fit(
    total: sums.Sums, *, contamination: float | None, element: float, n_bins: int
) -> dict[str, Any]:
    bins = tracer.Bins.of(total["code"], total["values"])
    out = tracer.fit_power(bins, contamination, element)
    out |= tracer.coarse_bins(bins, n_bins, element)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = np.where(out["bin_area"] > 0, out["bin_area"], np.nan)
    out["bin_density"] = out["bin_counts"] / area
    out["bin_density_error"] = fits.poisson_error(out["bin_counts"]) / area
    out["lnL"] += total["seen"]
    flagged = total["flagged"] / max(total["flagged"] + total["used"], 1)
    note = likelihood.flag_text(flagged, total["n_flagged"], WHY)
    out["status"] = "; ".join(s for s in (out["status"], note) if s)
    return out | {
        "n": int(bins.n.sum()),
        "area": float(bins.area.sum()) * element,
        "n_flagged": total["flagged"],
        "n_flagged_sources": total["n_flagged"],
    }


def fit_tracer_power(
    catalog: Any,
    kappa: xr.DataArray,
    mask: xr.DataArray | None = None,
    exposure: xr.DataArray | None = None,
    *,
    contamination: float | Literal["fit"] = 0.0,
    where: xr.DataArray | None = None,
    center: tuple[float, float] | None = None,
    radius: float | None = None,
    jackknife: float | None = 10.0,
    n_bins: int = 12,
) -> xr.Dataset:
    """Fit the exponent g with which sources trace kappa: n = A kappa^g + c, by likelihood.

    Maximum of the likelihood of an inhomogeneous Poisson process (see `poisson_loglike`), source
    by source and pixel by pixel: no boxes, no selection in n. A is free, g too; c is given or
    fitted. g = 1 if sources follow mass.

    Parameters
    ----------
    catalog, mask, exposure, where, center, radius, jackknife
        As in `poisson_loglike`.
    kappa : DataArray, dims (y, x)
        Convergence. Pixels where it is not finite and positive are left out and counted.
    contamination : float or "fit"
        Uniform density c of contaminants (arcsec-2), which the exposure thins out as it does the
        sources.
    n_bins : int
        Bins of kappa in which the density is given for a figure (they are not used in the fit).

    Returns
    -------
    Dataset, lazy where an input is
        ``g`` with ``error`` (block jackknife, by one step of Fisher scoring from the best fit) and
        ``error_poisson`` (Fisher matrix: right for a Poisson process, too small if sources clump);
        ``amplitude`` A (arcsec-2 at kappa = 1) and ``contamination`` with their errors
        (jackknife); ``lnL`` as in `poisson_loglike` (to 1e-6 ``n``), ``dlnL`` against uniform;
        ``n``, ``area`` (arcsec2, times exposure), ``n_flagged``, ``n_flagged_sources``,
        ``n_blocks``; by ``bin`` of kappa ``bin_kappa``, ``bin_counts``, ``bin_area``,
        ``bin_density`` and its Poisson
        error. ``status`` is empty if all is well and begins with "unconstrained" if g (then NaN,
        or with an error above 1) or the contamination cannot be told; where the latter does not
        differ from 0, g is sound all the same.

    Raises
    ------
    InputError
        If grids, disk, exposure or contamination make no sense.
    """
    level = _contamination(contamination)
    if n_bins < 1:
        raise InputError(f"n_bins = {n_bins} is below 1; give e.g. 12")
    place = footprint(
        catalog, {"kappa": kappa}, mask, exposure, where=where, center=center, radius=radius
    )
    size = jackknife_size(jackknife, place.grid)
    kernel = partial(_block, grid=place.grid, size=size, exposed=place.exposure is not None)
    total = reduce.reduce_maps(kernel, place.grid, place.arrays, tracer.merge_histograms)
    fit = partial(_fit, contamination=level, element=place.grid.pixel_scale**2, n_bins=n_bins)
    result = xr.Dataset(
        reduce.variables(reduce.apply(fit, total=total), _spec(n_bins)),
        attrs={
            "model": "n = A kappa^g + c",
            "contamination": "fitted" if level is None else "given",
            "jackknife_block": size * place.grid.pixel_scale if size else "none",
            "radius": "none" if radius is None else radius,
            "flagged": f"left out: {WHY}",
        },
    )
    return reduce.finish(result, catalog, kappa, mask, exposure, where)


def _contamination(value: Any) -> float | None:
    if value == "fit":
        return None
    try:
        level = float(value)
    except (TypeError, ValueError):
        level = math.nan
    if not 0 <= level < math.inf:
        raise InputError(f'contamination = {value!r} is not a density; give arcsec-2, or "fit"')
    return level


def _spec(n_bins: int) -> reduce.Spec:
    by = (("bin",), (n_bins,))
    return {
        "g": ((), (), float, "", "exponent of kappa"),
        "error": ((), (), float, "", "block jackknife standard error of g"),
        "error_poisson": ((), (), float, "", "error of g if sources are independent"),
        "amplitude": ((), (), float, "arcsec-2", "density at kappa = 1 without contaminants"),
        "amplitude_error": ((), (), float, "arcsec-2", "block jackknife error of the amplitude"),
        "contamination": ((), (), float, "arcsec-2", "density of contaminants"),
        "contamination_error": ((), (), float, "arcsec-2", "block jackknife error of it"),
        "lnL": ((), (), float, "", "log-likelihood given the number of sources"),
        "dlnL": ((), (), float, "", "lnL less that of a uniform density"),
        "n": ((), (), np.int64, "", "sources used"),
        "area": ((), (), float, "arcsec2", "unmasked area times exposure"),
        "n_flagged": ((), (), np.int64, "", "pixels left out though not masked"),
        "n_flagged_sources": ((), (), np.int64, "", "sources on them"),
        "n_blocks": ((), (), np.int64, "", "jackknife blocks with pixels"),
        "bin_kappa": (*by, float, "", "mean convergence (geometric, by area)"),
        "bin_counts": (*by, np.int64, "", "sources"),
        "bin_area": (*by, float, "arcsec2", "unmasked area times exposure"),
        "bin_density": (*by, float, "arcsec-2", "number density"),
        "bin_density_error": (*by, float, "arcsec-2", "Poisson error of the density"),
        "status": ((), (), object, "", "empty if the fit is sound"),
    }
