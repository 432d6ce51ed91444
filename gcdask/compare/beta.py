"""The factor between the density of clusters and the convergence, and its spread over the sky."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from astropy import units as u

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import fits, sums
from gcdask.tiles import as_map, check_pixels

SECTORS = {"E": 90.0, "W": 270.0, "S": 180.0, "N": 0.0}
FLOOR = (
    "tracers without noise still show 1.9-2.7 % between 90-degree sectors, from the geometry of "
    "the kernel of rho"
)


def center_of(grid: Grid, center: Any) -> tuple[float, float]:
    """(RA, Dec) in deg to measure from: the middle of the grid unless given."""
    return reduce.check_center(grid.sky(*grid.center) if center is None else center)


def aligned(
    kappa: Any, rho: Any, where: Any, center: Any, radius: float | None
) -> tuple[Grid, list[da.Array], tuple[float, float]]:
    """Two aligned maps and the pixels to use, cut to the disk; with the centre they refer to."""
    kappa, rho = as_map(kappa, "kappa"), as_map(rho, "rho")
    grid = Grid.of(kappa)
    remedy = "bring one onto the other's, e.g. gcdask.lensing.on_grid(kappa, rho)"
    check_pixels(rho, grid, "rho", "kappa", remedy=remedy)
    center = center_of(grid, center)
    good = kappa.copy(data=reduce.usable(where, kappa))
    maps = [kappa, rho, good]
    if radius is not None:
        if not radius > 0:
            raise InputError(f"radius = {radius} is not positive; give arcsec above 0")
        cut = [reduce.around(m, center, radius) for m in maps]
        maps = [m for m in cut if m is not None]
        if not maps:
            raise InputError(
                f"no pixel of the map lies within {radius} arcsec of center = ({center[0]:.5f}, "
                f"{center[1]:.5f}); check the centre (RA, Dec in deg) or enlarge radius"
            )
    if not maps[0].size:
        raise InputError("kappa is an empty map; give one with pixels")
    return Grid.of(maps[0]), [m.data for m in maps], center


def _beta_block(
    kappa: np.ndarray,
    rho: np.ndarray,
    good: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    grid: Grid,
    center: tuple[float, float],
    size: int,
    **options: Any,
) -> sums.Sums:
    lattice = reduce.offsets(grid, y, x, center)
    index = [reduce.element_index(v, grid.step) for v in (y, x)]
    by, bx = (i // size if size else 0 * i for i in index)
    return sums.product_sums(kappa, rho, good, lattice, by, bx, **options)


def _beta_fit(total: sums.Sums) -> fits.Fit:
    return fits.beta(total["sums"].reshape(-1, *total["sums"].shape[2:]))


def per_density(rho: xr.DataArray) -> str:
    """Unit of beta: one over that of the density."""
    units = rho.attrs.get("units", "")
    return str((1 / u.Unit(units)).unit) if units else ""


def check_sectors(sectors: Mapping[str, float] | None, half_width: float) -> dict[str, float]:
    """Position angles of the sectors' axes by name; raises `InputError` if they are senseless."""
    axes = dict(SECTORS if sectors is None else sectors)
    if not 0 < half_width <= 180:
        raise InputError(f"half_width = {half_width} is not in (0, 180]; give degrees, e.g. 45")
    if not axes or not all(np.isfinite(v) for v in axes.values()):
        raise InputError(f"sectors = {axes} name no position angles; give e.g. {{'E': 90}}")
    return {name: float(v) for name, v in axes.items()}


def _beta_spec(rho: xr.DataArray, n: int) -> reduce.Spec:
    per = per_density(rho)
    return {
        "beta": ((), (), float, per, "sum(kappa rho) / sum(rho^2)"),
        "beta_error": ((), (), float, per, "block jackknife standard error of beta"),
        "sector_beta": (("sector",), (n,), float, per, "beta within each sector"),
        "sector_error": (("sector",), (n,), float, per, "block jackknife error by sector"),
        "dispersion": ((), (), float, per, "sample standard deviation of the sectors' beta"),
        "dispersion_error": ((), (), float, per, "block jackknife error of the dispersion"),
        "dispersion_relative": ((), (), float, "", "dispersion over the mean of the sectors"),
        "residual_rms": ((), (), float, "", "rms of kappa - beta rho"),
        "n_pixels": ((), (), np.int64, "", "pixels used"),
        "sector_n_pixels": (("sector",), (n,), np.int64, "", "pixels used in each sector"),
        "n_blocks": ((), (), np.int64, "", "jackknife blocks with pixels"),
    }


def fit_beta(
    kappa: xr.DataArray,
    rho: xr.DataArray,
    center: tuple[float, float] | None = None,
    where: xr.DataArray | None = None,
    *,
    sectors: Mapping[str, float] | None = None,
    half_width: float = 45.0,
    radius: float | None = None,
    jackknife: float | None = 10.0,
) -> xr.Dataset:
    """Factor beta that makes beta rho closest to kappa, in all pixels and by sector of the sky.

    beta = sum(kappa rho) / sum(rho^2) minimises the sum of (kappa - beta rho)^2 (Diego et al.
    2026, eq. 4). Its size depends on the units of rho: compare dispersions, not betas.

    Contaminants that do not follow the lens flatten rho and lower beta most where kappa is low.
    Where their number per arcsec^2 n0 is known, subtract what they add: ``fit_beta(kappa, rho -
    gcdask.density.smooth_map(n0 * footprint, rho))`` with a ``footprint`` of 1 where sources were
    looked for or inpainted and 0 elsewhere.

    The jackknife errors hold the scatter of kappa / rho between blocks, whatever its cause; those
    from shot noise alone are `bootstrap_beta`'s.

    Parameters
    ----------
    kappa, rho : DataArray, dims (y, x)
        Convergence and density of clusters on the same pixels.
    center : (float, float), optional
        RA, Dec (deg) about which sectors and radius are taken; default the middle of the map.
    where : DataArray, optional
        Pixels to use: bool, True = use; or mask bits, 0 = use. May be an integer number of times
        finer than the maps: then elements at least half unmasked are used.
    sectors : mapping of str to float
        Position angle (deg, north through east) of each sector's axis; default E, W, S, N.
    half_width : float
        A sector holds PA in [axis - half_width, axis + half_width) deg.
    radius : float, optional
        Use pixels less than this many arcsec from ``center``.
    jackknife : float or None
        Side (arcsec) of the square blocks of sky left out in turn for the errors, rounded to whole
        elements and aligned to the global pixel grid; None: no errors.

    Returns
    -------
    Dataset, lazy where an input is
        ``beta``, ``beta_error``, ``sector_beta`` (sector), ``sector_error`` (sector),
        ``dispersion`` (sample standard deviation of the sectors), ``dispersion_error``,
        ``dispersion_relative`` (over the sectors' mean), ``residual_rms`` of kappa - beta rho,
        ``n_pixels``, ``sector_n_pixels``, ``n_blocks``. NaN where no pixel was used
        (``n_pixels`` = 0) and for errors from fewer than two blocks.

    Raises
    ------
    InputError
        If the maps differ in pixels, an angle is senseless, or no pixel lies within ``radius``.
    """
    axes = check_sectors(sectors, half_width)
    if jackknife is not None and not jackknife > 0:
        raise InputError(f"jackknife = {jackknife} is not positive; give arcsec, or None")
    grid, maps, center = aligned(kappa, rho, where, center, radius)
    size = max(1, round(jackknife / grid.pixel_scale)) if jackknife else 0
    kernel = partial(
        _beta_block,
        grid=grid,
        center=center,
        size=size,
        centers=tuple(axes.values()),
        half_width=half_width,
        radius=math.inf if radius is None else radius,
    )
    total = reduce.reduce_maps(kernel, grid, maps, sums.merge_windows)
    result = xr.Dataset(
        reduce.variables(reduce.apply(_beta_fit, total=total), _beta_spec(rho, len(axes))),
        coords={
            "sector": np.array(list(axes), object),
            "position_angle": ("sector", list(axes.values()), {"units": "deg"}),
        },
        attrs={
            "center": list(center),
            "half_width": half_width,
            "radius": "none" if radius is None else radius,
            "jackknife_block": size * grid.pixel_scale if jackknife else "none",
            "floor": FLOOR,
            "flagged": "NaN where no pixel was used (n_pixels = 0) or below two jackknife blocks",
        },
    )
    return reduce.finish(result, kappa, rho, where)
