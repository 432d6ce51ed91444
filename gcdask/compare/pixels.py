"""beta rho against kappa, pixel by pixel, in bins of kappa."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.compare.beta import aligned
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import fits, rings, sums

EDGES = np.geomspace(0.01, 10, 31)  # 10 bins a decade
QUANTILES = {"low": 0.16, "median": 0.5, "high": 0.84}


def _relation_block(
    kappa: np.ndarray,
    rho: np.ndarray,
    good: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    grid: Grid,
    center: tuple[float, float],
    radius: float,
    edges: np.ndarray,
) -> sums.Sums:
    if math.isfinite(radius):
        disk = np.array([0.0, radius])
        good = good & (rings.rings(reduce.offsets(grid, y, x, center), disk, None) == 0)
    positive = good & (kappa > 0) & (rho > 0) & np.isfinite(kappa) & np.isfinite(rho)
    k, ratio = kappa[positive], rho[positive] / kappa[positive]
    which = np.searchsorted(edges, k, side="right") - 1
    inside = (which >= 0) & (which < edges.size - 1)
    which, ratio = which[inside], ratio[inside]
    table = sums.group_moments(which, np.log10(ratio), edges.size - 1)
    places = sums.group_moments(which, np.log10(k[inside]), edges.size - 1)
    code, count = np.unique(which << 32 | sums.log_bins(ratio), return_counts=True)
    return {
        "moments": table,
        "places": places,
        "histogram": {"code": code, "count": count},
        "n_dropped": int(good.sum()) - ratio.size,
    }


def _merge(parts: Any) -> sums.Sums:
    parts = list(parts)
    return {
        "moments": sums.merge_moments(p["moments"] for p in parts),
        "places": sums.merge_moments(p["places"] for p in parts),
        "histogram": sums.merge_counts(p["histogram"] for p in parts),
        "n_dropped": sum(p["n_dropped"] for p in parts),
    }


def _relation_table(total: sums.Sums, beta: Any, *, size: int) -> fits.Fit:
    shift = math.log10(beta) if beta > 0 else math.nan
    m = total["moments"]
    n = m["n"]
    blank = np.where(n > 0, 1.0, np.nan)
    out: fits.Fit = {
        "n_pixels": n.astype(np.int64),
        "kappa_mean": blank * 10 ** total["places"]["mean"],
        "mean": blank * m["mean"] + shift,
        "std": np.where(n > 1, np.sqrt(m["m2"] / np.maximum(n - 1, 1)), np.nan),
        "n_dropped": total["n_dropped"],
    }
    for name, q in QUANTILES.items():
        out[name] = np.full(size, np.nan)
        for k in np.flatnonzero(n):
            found = np.log10(sums.bin_quantile(total["histogram"], int(k), q))
            out[name][k] = found + shift
    return out


def pixel_relation(
    kappa: xr.DataArray,
    rho: xr.DataArray,
    beta: Any = 1.0,
    center: tuple[float, float] | None = None,
    where: xr.DataArray | None = None,
    *,
    edges: Any = None,
    radius: float | None = None,
) -> xr.Dataset:
    """Beta rho over kappa, pixel by pixel, in logarithmic bins of kappa (Diego et al., figure 5).

    Bins of kappa, which has no shot noise: a trend of the ratio with kappa says that rho is flatter
    or steeper than kappa, whatever the noise of rho.

    Parameters
    ----------
    kappa, rho, center, where, radius
        As in `fit_beta`. Pixels where a map is not positive or not finite are left out, counted.
    beta : float or DataArray
        Factor of rho, e.g. ``fit_beta(...).beta``.
    edges : array (n + 1,), optional
        Edges of the bins, increasing; default 10 a decade from 0.01 to 10.

    Returns
    -------
    Dataset, lazy where an input is, dim ``bin``, coords ``kappa`` (geometric middle),
    ``kappa_low``, ``kappa_high``
        ``n_pixels``, ``kappa_mean`` (geometric); of log10(beta rho / kappa) in dex: ``median``,
        ``low``, ``high`` (16 and 84 %; from a histogram of 256 bins per factor of 2), ``mean``,
        ``std`` (sample). NaN in bins without pixels. ``n_dropped``, the usable pixels in no bin.

    Raises
    ------
    InputError
        If edges do not increase from above 0; else as in `fit_beta`.
    """
    edges = EDGES if edges is None else np.asarray(edges, float)
    if edges.ndim != 1 or edges.size < 2 or not edges[0] > 0 or not (np.diff(edges) > 0).all():
        raise InputError(
            f"edges = {edges.tolist()} do not increase from above 0; give e.g. "
            "np.geomspace(0.1, 3, 16)"
        )
    grid, maps, center = aligned(kappa, rho, where, center, radius)
    kernel = partial(
        _relation_block,
        grid=grid,
        center=center,
        radius=math.inf if radius is None else radius,
        edges=edges,
    )
    total = reduce.reduce_maps(kernel, grid, maps, _merge)
    size = edges.size - 1
    fit = reduce.apply(partial(_relation_table, size=size), total=total, beta=beta)
    by: tuple[Any, ...] = (("bin",), (size,))
    spec: reduce.Spec = {
        "n_pixels": (*by, np.int64, "", "pixels in the bin"),
        "kappa_mean": (*by, float, "", "geometric mean of kappa"),
        "median": (*by, float, "dex", "median of log10(beta rho / kappa)"),
        "low": (*by, float, "dex", "16 % of log10(beta rho / kappa)"),
        "high": (*by, float, "dex", "84 % of log10(beta rho / kappa)"),
        "mean": (*by, float, "dex", "mean of log10(beta rho / kappa)"),
        "std": (*by, float, "dex", "sample standard deviation of log10(beta rho / kappa)"),
        "n_dropped": ((), (), np.int64, "", "usable pixels in no bin or not positive"),
    }
    places = {
        "kappa": (np.sqrt(edges[1:] * edges[:-1]), "geometric middle of the bin"),
        "kappa_low": (edges[:-1], "lower edge"),
        "kappa_high": (edges[1:], "upper edge"),
    }
    result = xr.Dataset(
        reduce.variables(fit, spec),
        coords={k: ("bin", v, {"units": "", "long_name": t}) for k, (v, t) in places.items()},
        attrs={"center": list(center), "radius": "none" if radius is None else radius},
    )
    return reduce.finish(result, kappa, rho, where, beta)
