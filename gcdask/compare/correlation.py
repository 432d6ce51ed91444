"""Correlation of convergence and density of clusters, pixel by pixel."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from gcdask import reduce
from gcdask.compare.beta import aligned
from gcdask.grid import Grid
from gcdask.kernels import fits, rings, sums


def _merge_correlation(parts: Any, *, exact: bool) -> sums.Sums:
    parts = list(parts)
    pairs = sums.join if exact else sums.merge_counts
    return {
        "moments": sums.merge_pairs(p["moments"] for p in parts),
        "pairs": pairs(p["pairs"] for p in parts),
        "n_dropped": sum(p["n_dropped"] for p in parts),
    }


def _correlation_block(
    kappa: np.ndarray,
    rho: np.ndarray,
    good: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    grid: Grid,
    center: tuple[float, float],
    radius: float,
    exact: bool,
) -> sums.Sums:
    if math.isfinite(radius):
        disk = np.array([0.0, radius])
        good = good & (rings.rings(reduce.offsets(grid, y, x, center), disk, None) == 0)
    positive = good & (kappa > 0) & (rho > 0) & np.isfinite(kappa) & np.isfinite(rho)
    k, r = kappa[positive], rho[positive]
    return {
        "moments": sums.pair_moments(np.log(k), np.log(r)),
        "pairs": {"kappa": k, "rho": r} if exact else sums.pair_counts(k, r),
        "n_dropped": int(good.sum()) - k.size,
    }


def _correlation_fit(total: sums.Sums, *, exact: bool) -> fits.Fit:
    m = total["moments"]
    norm = m["m2"][0, 0] * m["m2"][1, 1]
    if exact:
        k, r = (stats.rankdata(total["pairs"][name]) for name in ("kappa", "rho"))
        spearman = sums.pearson(k, r, np.ones(k.size))
    else:
        spearman = sums.rank_correlation(total["pairs"])
    return {
        "pearson": m["m2"][0, 1] / math.sqrt(norm) if m["n"] > 1 and norm > 0 else math.nan,
        "spearman": spearman,
        "n_pixels": m["n"],
        "n_dropped": total["n_dropped"],
    }


def correlation(
    kappa: xr.DataArray,
    rho: xr.DataArray,
    where: xr.DataArray | None = None,
    *,
    center: tuple[float, float] | None = None,
    radius: float | None = None,
    max_exact: int = 4_000_000,
) -> xr.Dataset:
    """Correlation of log kappa with log rho, pixel by pixel.

    Neighbouring pixels of rho share the kernel's sources, so coefficients are high whatever the
    lens (tracers drawn from kappa itself give 0.79 on one field): compare them with mocks.

    Parameters
    ----------
    kappa, rho, where, center, radius
        As in `fit_beta`. Pixels where a map is not positive or not finite are left out, counted.
    max_exact : int
        Largest map (elements) whose ranks are exact: it is gathered in one place. Above, ranks
        come from a sparse histogram with 256 bins per factor of 2 (mid-ranks within a bin), good
        to about 1e-4 for maps that vary by more than a tenth.

    Returns
    -------
    Dataset, lazy where an input is
        ``pearson`` (of the logarithms), ``spearman``, ``n_pixels`` used, ``n_dropped``. NaN for
        fewer than two pixels or a constant map.
    """
    grid, maps, center = aligned(kappa, rho, where, center, radius)
    exact = maps[0].size <= max_exact
    kernel = partial(
        _correlation_block,
        grid=grid,
        center=center,
        radius=math.inf if radius is None else radius,
        exact=exact,
    )
    total = reduce.reduce_maps(kernel, grid, maps, partial(_merge_correlation, exact=exact))
    spec: reduce.Spec = {
        "pearson": ((), (), float, "", "Pearson coefficient of log kappa and log rho"),
        "spearman": ((), (), float, "", "Spearman coefficient of kappa and rho"),
        "n_pixels": ((), (), np.int64, "", "pixels used"),
        "n_dropped": ((), (), np.int64, "", "pixels without two positive, finite values"),
    }
    fit = reduce.apply(partial(_correlation_fit, exact=exact), total=total)
    ranks = "exact" if exact else "histogram of 256 bins per factor of 2"
    attrs = {"center": list(center), "radius": "none" if radius is None else radius, "ranks": ranks}
    result = xr.Dataset(reduce.variables(fit, spec), attrs=attrs)
    return reduce.finish(result, kappa, rho, where)
