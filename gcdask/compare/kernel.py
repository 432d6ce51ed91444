"""The kernel of the density: alpha and softening that make beta rho the profile of kappa."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask import density, reduce
from gcdask.compare.beta import center_of, per_density
from gcdask.compare.resolution import coarsened, factor_for
from gcdask.density.graphs import lines
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import fits, rings, sums
from gcdask.kernels.kernelfit import kernel_fit
from gcdask.tiles import as_map

Center = tuple[float, float]


# -- annuli and wedges --------------------------------------------------------------------------
def _cells(
    kappa: np.ndarray,
    good: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    grid: Grid,
    center: Center,
    edges: np.ndarray,
    wedges: int,
) -> np.ndarray:
    """Annulus and wedge of each pixel, int16; beyond the last one for those that do not count.

    These are one number more where the pixel would count but for kappa, which is NaN.
    """
    lattice = reduce.offsets(grid, y.ravel(), x.ravel(), center)
    n, width = edges.size - 1, 360 / wedges
    out = np.full(kappa.shape, n * wedges, np.int16)
    for w in range(wedges):
        ring = rings.rings(lattice, edges, (w * width, width / 2))
        out = np.where(ring < n, ring * wedges + w, out)
    bad = ~np.isfinite(kappa) & (out < n * wedges)
    return np.where(good, np.where(bad, n * wedges + 1, out), n * wedges).astype(np.int16)


def _moments(
    cell: np.ndarray, values: np.ndarray, y: np.ndarray, x: np.ndarray, *, size: int
) -> sums.Sums:
    return rings.moments(cell, cell < size, values, size)


def _census(
    cell: np.ndarray, kappa: np.ndarray, y: np.ndarray, x: np.ndarray, *, size: int
) -> sums.Sums:
    return {
        "n_invalid": int((cell == size + 1).sum()),
        "n_negative": int(((cell < size) & (kappa < 0)).sum()),
    }


def _within(x: np.ndarray, y: np.ndarray, *, grid: Grid, center: Center, reach: float) -> sums.Sums:
    if not x.size:
        return {"n_inside": 0}
    return {"n_inside": int((np.hypot(*grid.offsets(x, y, center)) < reach).sum())}


def _table(
    kappa: sums.Sums,
    census: sums.Sums,
    sources: sums.Sums,
    alphas: np.ndarray,
    softenings: np.ndarray,
    shape: tuple[int, int],
    **rho: sums.Sums,
) -> fits.Fit:
    """Put the means of all kernels side by side, and fit."""
    scan = (alphas.size, softenings.size, *shape)
    means = np.stack([rho[f"rho{i}"]["mean"] for i in range(len(rho))]).reshape(scan)
    pixels = kappa["n"].reshape(shape)
    fit = kernel_fit(kappa["mean"].reshape(shape), means, pixels, alphas, softenings)
    fit |= census | {"n_sources": sources["n_inside"]}
    if fit["n_sources"] == 0:
        nothing = np.full(shape, np.nan)
        blank = kernel_fit(nothing, means * np.nan, 0 * pixels, alphas, softenings)
        kept = ("kappa_profile", "rho_profile", "n_annuli", "dof")
        fit |= {name: value for name, value in blank.items() if name not in kept}
        fit["status"] = "unconstrained: no source lies within the radii, rho there tells nothing"
    return fit


# -- the fit ------------------------------------------------------------------------------------
def fit_kernel(
    catalog: Any,
    kappa: xr.DataArray,
    alphas: Sequence[float] = (1.2, 1.4, 1.6, 1.8, 2.0, 2.2),
    softenings: Sequence[float] = (0.3, 0.6, 0.9, 1.5, 2.5),
    radii: tuple[float, float] = (3.0, 50.0),
    center: Center | None = None,
    where: xr.DataArray | None = None,
    *,
    contamination: xr.DataArray | None = None,
    n_annuli: int = 12,
    wedges: int = 8,
    pixel: float | None = None,
) -> xr.Dataset:
    """Find the kernel (softening + d)^-alpha for which beta rho has the radial profile of kappa.

    For each kernel of the scan the mean of rho in logarithmic annuli is compared with that of
    kappa: chi^2 = sum ((kappa - beta rho) / sigma)^2 with beta at its best value (Diego et al.
    2026, section 6 and figure 7). ``sigma`` is the standard error over wedges of the mean of kappa
    - beta rho, taken once at a pilot fit with errors proportional to kappa and then held fixed, at
    least 1e-3 of kappa. Between the kernels of the scan log rho is interpolated by splines; the
    least chi^2 is found there.

    Annuli of a smooth rho are not independent, so that delta chi^2 = 1 understates errors; those
    called ``_error`` are from the jackknife over wedges, which makes no such assumption. alpha and
    the softening trade against each other (``correlation``).

    Parameters
    ----------
    catalog : dask or pandas DataFrame
        Sources, with inpainted ones where the mask hid some.
    kappa : DataArray, dims (y, x)
        Convergence.
    alphas, softenings : sequence of float
        Kernels of the scan, increasing; softenings in arcsec. One value: it is not fitted.
    radii : (float, float)
        Innermost and outermost radius (arcsec): where lensing constrains kappa.
    center, where
        As in `fit_beta`.
    contamination : DataArray, optional
        Contaminants per arcsec^2, 0 where no sources were looked for: what they add to rho
        (`gcdask.density.smooth_map`) is subtracted. On the WCS of ``kappa``.
    n_annuli, wedges : int
        Annuli, and wedges of each for the errors (the first is centred on north).
    pixel : float, optional
        Largest side (arcsec) of the pixels; default half the least softening, at least two pixels
        across the innermost annulus.

    Returns
    -------
    Dataset, lazy where an input is, dims ``alpha``, ``softening``, ``annulus``
        ``chi2``, ``beta`` (alpha, softening); ``alpha_best``, ``alpha_error`` (jackknife),
        ``alpha_error_chi2`` (delta chi^2 = 1, the other parameters at their best), the same of
        ``softening``, their ``correlation``, ``beta_best``, ``chi2_min``, ``dof``; profiles
        ``kappa_profile`` with ``kappa_sigma``, ``rho_profile`` (alpha, softening, annulus; times
        ``beta`` the red lines of figure 7) and ``best_profile`` (beta rho of the best kernel);
        ``n_annuli`` used, ``n_sources`` within the outer radius, ``n_invalid`` pixels left out
        because kappa is NaN, ``n_negative`` pixels used with kappa < 0. ``status`` begins with
        "unconstrained" where there are too few annuli or no sources (all NaN) or where the minimum
        is at the edge of the scan (values there, errors NaN).

    Raises
    ------
    InputError
        If the scan, radii or numbers make no sense, or no pixel lies within the radii.
    """
    axes = _scan(alphas, softenings)
    low, high = _radii(radii, n_annuli, wedges)
    k = as_map(kappa, "kappa")
    fine = Grid.of(k)
    center = center_of(fine, center)
    edges = np.geomspace(low, high, n_annuli + 1)
    finest = min(axes[1][0], edges[1] - edges[0]) / 2 if pixel is None else pixel
    (k,) = coarsened([k], where, factor_for(fine, finest))
    good = k.copy(data=reduce.usable(where, k))
    cut = [m for m in (reduce.around(v, center, high) for v in (k, good)) if m is not None]
    if not cut:
        raise InputError(
            f"no pixel of the map lies within {high} arcsec of center = ({center[0]:.5f}, "
            f"{center[1]:.5f}); check the centre (RA, Dec in deg) or the radii"
        )
    k, good = cut
    fit, maps = _graph(catalog, k, good.data, contamination, axes, edges, wedges, center)
    result = xr.Dataset(
        reduce.variables(fit, _spec(axes, n_annuli, maps)),
        coords={
            "alpha": ("alpha", axes[0], {"units": ""}),
            "softening": ("softening", axes[1], {"units": "arcsec"}),
            "r": ("annulus", _mean_radius(edges), {"units": "arcsec"}),
            "r_inner": ("annulus", edges[:-1], {"units": "arcsec"}),
            "r_outer": ("annulus", edges[1:], {"units": "arcsec"}),
        },
        attrs={
            "center": list(center),
            "radii": [low, high],
            "wedges": wedges,
            "pixel": Grid.of(k).pixel_scale,
            "errors": "_error: jackknife over wedges; _error_chi2: delta chi^2 = 1",
        },
    )
    return reduce.finish(result, catalog, kappa, where, contamination)


def _graph(
    catalog: Any,
    k: xr.DataArray,
    good: da.Array,
    contamination: Any,
    axes: tuple[np.ndarray, np.ndarray],
    edges: np.ndarray,
    wedges: int,
    center: Center,
) -> tuple[da.Array, xr.DataArray]:
    """Lazy fit (a 0-d object array), and the density maps, for their unit."""
    grid, size = Grid.of(k), (edges.size - 1) * wedges
    y, x = lines(grid, k.data.chunks)
    label = partial(_cells, grid=grid, center=center, edges=edges, wedges=wedges)
    cells = da.blockwise(
        label, "yx", k.data, "yx", good.rechunk(k.chunks), "yx", y, "y", x, "x", dtype=np.int16,
        meta=np.empty((0, 0), np.int16),
    )  # fmt: skip

    def means(values: xr.DataArray) -> da.Array:
        kernel = partial(_moments, size=size)
        return reduce.reduce_maps(kernel, grid, [cells, values.data], sums.merge_moments)

    rho = {}
    kernels = [(float(a), float(s)) for a in axes[0] for s in axes[1]]
    maps = density.density_scan(catalog, k, kernels)
    for i, kernel in enumerate(kernels):
        one = maps.isel(kernel=i)
        if contamination is not None:
            one = one - density.smooth_map(contamination, k, *kernel)
        rho[f"rho{i}"] = means(one)
    inside = partial(_within, grid=grid, center=center, reach=float(edges[-1]))
    table = partial(_table, alphas=axes[0], softenings=axes[1], shape=(edges.size - 1, wedges))
    fit = reduce.apply(
        table,
        kappa=means(k),
        census=reduce.reduce_maps(partial(_census, size=size), grid, [cells, k.data], sums.add),
        sources=reduce.reduce_sources(catalog, grid, inside, sums.add),
        **rho,
    )
    return fit, maps


def _scan(alphas: Any, softenings: Any) -> tuple[np.ndarray, np.ndarray]:
    axes = []
    for name, values in (("alphas", alphas), ("softenings", softenings)):
        axis = np.atleast_1d(np.asarray(values, float))
        if axis.ndim != 1 or not axis.size or not (axis > 0).all() or (np.diff(axis) <= 0).any():
            raise InputError(f"{name} = {np.asarray(values).tolist()} do not increase from above 0")
        axes.append(axis)
    return axes[0], axes[1]


def _radii(radii: Any, n_annuli: int, wedges: int) -> tuple[float, float]:
    try:
        low, high = (float(r) for r in radii)
    except (TypeError, ValueError):
        raise InputError(f"radii = {radii!r} are not (r_min, r_max) in arcsec") from None
    if not 0 < low < high < np.inf:
        raise InputError(f"radii = ({low}, {high}) are not 0 < r_min < r_max in arcsec")
    if n_annuli < 1 or wedges < 2 or n_annuli * wedges > 30_000:
        raise InputError(
            f"n_annuli = {n_annuli}, wedges = {wedges}: give one annulus and two wedges or more"
        )
    return low, high


def _mean_radius(edges: np.ndarray) -> np.ndarray:
    """Area-weighted mean radius of annuli."""
    inner, outer = edges[:-1], edges[1:]
    return np.asarray(2 / 3 * (outer**3 - inner**3) / (outer**2 - inner**2))


def _spec(axes: tuple[np.ndarray, np.ndarray], n_annuli: int, rho: xr.DataArray) -> reduce.Spec:
    one: tuple[Any, ...] = ((), ())
    scan: tuple[Any, ...] = (("alpha", "softening"), (axes[0].size, axes[1].size))
    ring: tuple[Any, ...] = (("annulus",), (n_annuli,))
    whole = (*scan[0], *ring[0]), (*scan[1], *ring[1])
    # the unit of rho depends on alpha: beta's and rho's are those of each alpha
    unit, per = "arcsec(-alpha)", "arcsec(alpha)"
    if axes[0].size == 1:
        unit, per = str(rho.attrs["units"]), per_density(rho)
    spec: dict[str, Any] = {
        "chi2": (*scan, float, "", "chi^2 of the profile of beta rho against that of kappa"),
        "beta": (*scan, float, per, "factor of rho for each kernel"),
        "kappa_profile": (*ring, float, "", "mean convergence"),
        "kappa_sigma": (*ring, float, "", "error of kappa - beta rho from the wedges"),
        "rho_profile": (*whole, float, unit, "mean density for each kernel"),
        "best_profile": (*ring, float, "", "beta rho of the best kernel"),
        "beta_best": (*one, float, per, "factor of rho for the best kernel"),
        "chi2_min": (*one, float, "", "chi^2 of the best kernel"),
        "dof": (*one, np.int64, "", "degrees of freedom"),
        "correlation": (*one, float, "", "correlation of alpha and softening"),
        "n_annuli": (*one, np.int64, "", "annuli used"),
        "n_sources": (*one, np.int64, "", "sources within the outer radius"),
        "n_invalid": (*one, np.int64, "", "pixels left out because kappa is not finite"),
        "n_negative": (*one, np.int64, "", "pixels used with negative kappa"),
        "status": (*one, object, "", "empty if the fit is sound"),
    }
    for name, units in (("alpha", ""), ("softening", "arcsec")):
        spec |= {
            f"{name}_best": (*one, float, units, f"{name} of the least chi^2"),
            f"{name}_error": (*one, float, units, f"jackknife error of {name} over wedges"),
            f"{name}_error_chi2": (*one, float, units, f"error of {name} by delta chi^2 = 1"),
        }
    return spec
