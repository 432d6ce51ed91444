"""Errors of beta from the Poisson bootstrap over sources."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask import density, reduce
from gcdask.catalog.parts import boxed
from gcdask.compare.beta import aligned, center_of, check_sectors, per_density
from gcdask.compare.resolution import coarsened, factor_for
from gcdask.density.graphs import lines
from gcdask.grid import Grid
from gcdask.kernels import fits, rings
from gcdask.tiles import as_map, check_pixels


def _replicate_sums(
    rho: np.ndarray,
    kappa: np.ndarray,
    background: np.ndarray,
    good: np.ndarray,
    number: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    grid: Grid,
    center: tuple[float, float],
    wedges: list[tuple[float, float] | None],
    radius: float,
) -> np.ndarray:
    """Sums (wedges, 4) as of `product_sums` of each replicate of a block, by its number."""
    lattice, disk = reduce.offsets(grid, y, x, center), np.array([0.0, radius])
    good = good & np.isfinite(kappa) & np.isfinite(background)
    inside = np.stack([good & (rings.rings(lattice, disk, w) == 0) for w in wedges])
    use = inside.reshape(len(wedges), -1).T.astype(float)
    k = np.where(good, kappa, 0.0)
    rho = np.where(good, rho - background, 0.0)
    size = len(rho)
    found = [(rho * k).reshape(size, -1) @ use, (rho * rho).reshape(size, -1) @ use]
    found += [np.broadcast_to(v, found[0].shape) for v in ((k * k).ravel() @ use, use.sum(0))]
    return boxed(dict(zip(number.tolist(), np.stack(found, -1), strict=True)), 3)


def _merge(parts: Any) -> dict[int, np.ndarray]:
    out: dict[int, np.ndarray] = {}
    for part in parts:
        for number, value in part.items():
            out[number] = out[number] + value if number in out else value
    return out


def _bootstrap_fit(total: dict[int, np.ndarray]) -> fits.Fit:
    return fits.bootstrap_beta(np.stack([total[k] for k in sorted(total)]))


def _bootstrap_spec(n: int, sectors: int, per: str) -> reduce.Spec:
    one: tuple[Any, ...] = ((), ())
    by: tuple[Any, ...] = (("sector",), (sectors,))
    each: tuple[Any, ...] = (("replicate",), (n,))
    return {
        "beta_boot_error": (*one, float, per, "standard deviation of beta between replicates"),
        "sector_boot_error": (*by, float, per, "standard deviation of the sectors' beta"),
        "dispersion_boot_error": (*one, float, per, "standard deviation of the dispersion"),
        "dispersion_relative_boot_error": (
            *one, float, "", "standard deviation of the relative dispersion",
        ),
        "beta_replicate": (*each, float, per, "beta of each replicate"),
        "sector_beta_replicate": (
            ("replicate", "sector"), (n, sectors), float, per, "beta by sector of each replicate",
        ),
        "dispersion_relative_replicate": (*each, float, "", "relative dispersion of each"),
        "status": (*one, object, "", "empty if the errors are sound"),
    }  # fmt: skip


def bootstrap_beta(
    catalog: Any,
    kappa: xr.DataArray,
    n: int = 100,
    seed: int = 0,
    center: tuple[float, float] | None = None,
    where: xr.DataArray | None = None,
    *,
    alpha: float = 1.6,
    softening: float = 0.9,
    background: xr.DataArray | None = None,
    sectors: Mapping[str, float] | None = None,
    half_width: float = 45.0,
    radius: float | None = None,
    pixel: float | None = None,
) -> xr.Dataset:
    """Errors of `fit_beta` from shot noise of the sources: a Poisson bootstrap.

    Each replicate gives every source a Poisson weight of mean 1 (`gcdask.density.bootstrap_maps`)
    and fits beta to the density of the weighted sources. Sources stay where they are, so that
    their clumping is in the errors as it is in the catalogue. Replicates are noisier than the
    catalogue, and the mean of their beta is biased low by it; their spread is the error.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
        Sources whose `density_map` beta was fitted to; with inpainted ones, if it held them.
    kappa, center, where, sectors, half_width, radius
        As in `fit_beta`.
    n, seed : int
        Number of replicates, and what their weights are a function of. The error itself has a
        relative error of 1 / sqrt(2 n): 7 % for 100.
    alpha, softening : float
        Of the density's kernel.
    background : DataArray, optional
        Density that was subtracted before the fit, on the pixels of ``kappa``: that of
        contaminants (`gcdask.density.smooth_map`).
    pixel : float, optional
        Largest side (arcsec) of the pixels on which replicates are fitted; default softening / 2:
        relative errors do not depend on it, time does.

    Returns
    -------
    Dataset, lazy where an input is
        ``beta_boot_error``, ``sector_boot_error`` (sector), ``dispersion_boot_error`` and
        ``dispersion_relative_boot_error`` (sample standard deviations), and of the replicates
        ``beta_replicate``, ``sector_beta_replicate`` (replicate, sector),
        ``dispersion_relative_replicate``. ``status`` begins with "unconstrained" and the numbers
        are NaN where fewer than two replicates have a beta.

    Raises
    ------
    InputError
        As `fit_beta` and `gcdask.density.bootstrap_maps`.
    """
    axes = check_sectors(sectors, half_width)
    k = as_map(kappa, "kappa")
    full = Grid.of(k)
    center = center_of(full, center)
    none = k.copy(data=da.zeros_like(k.data, dtype=float))
    extra = none if background is None else as_map(background, "background")
    check_pixels(extra, full, "background", "kappa")
    size = softening / 2 if pixel is None else pixel
    k, extra = coarsened([k, extra], where, factor_for(full, size))
    grid, (k_data, extra_data, good), center = aligned(k, extra, None, center, radius)
    maps = density.bootstrap_maps(
        catalog, grid.wrap(k_data, "kappa", ""), n, seed, alpha=alpha, softening=softening
    )
    y, x = lines(grid, k_data.chunks)
    kernel = partial(
        _replicate_sums, grid=grid, center=center,
        wedges=[None, *((axis, half_width) for axis in axes.values())],
        radius=math.inf if radius is None else radius,
    )  # fmt: skip
    parts = da.blockwise(
        kernel, "ryx", maps.data, "ryx", k_data, "yx", extra_data.rechunk(k_data.chunks), "yx",
        good.rechunk(k_data.chunks), "yx",
        da.from_array(np.arange(int(n)), chunks=(maps.data.chunks[0],)), "r", y, "y", x, "x",
        adjust_chunks={"r": 1, "y": 1, "x": 1}, align_arrays=False, dtype=object,
        meta=np.empty((0, 0, 0), object),
    )  # fmt: skip
    merge: Any = _merge
    total = reduce.apply(_bootstrap_fit, total=reduce.tree(parts, merge))
    result = xr.Dataset(
        reduce.variables(total, _bootstrap_spec(int(n), len(axes), per_density(maps))),
        coords={
            "sector": np.array(list(axes), object),
            "position_angle": ("sector", list(axes.values()), {"units": "deg"}),
        },
        attrs={
            "center": list(center),
            "radius": "none" if radius is None else radius,
            "n": int(n),
            "seed": int(seed),
            "pixel": grid.pixel_scale,
            "alpha": alpha,
            "softening": softening,
        },
    )
    return reduce.finish(result, catalog, kappa, where, background)
