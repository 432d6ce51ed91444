"""From one source redshift to another, and from convergence to mass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask.errors import InputError
from gcdask.grid import Field, Grid, tangent_offsets
from gcdask.reduce import around


def check_cosmology(h0: Any, om0: Any, of: str = "") -> tuple[float, float]:
    """H0 and Omega_m of a flat universe as floats; raises `InputError` naming ``of`` if none."""
    for key, value, most in (("h0", h0, math.inf), ("om0", om0, 1.0)):
        real = isinstance(value, Real) and math.isfinite(value)
        if not (real and 0 <= value <= most and (value or key == "om0")):
            raise InputError(f"{of}{key} = {value!r} makes no universe; give e.g. h0=70, om0=0.3")
    return float(h0), float(om0)


@lru_cache(maxsize=1024)
def distance_ratio(z_lens: float, z_source: float, *, h0: float = 70.0, om0: float = 0.3) -> float:
    """D_LS / D_S of a flat universe.

    Parameters
    ----------
    z_lens, z_source : float
        Redshifts. ``z_source = inf`` gives 1: the convention of published maps "for
        D_LS/D_S = 1" (Frontier Fields), not the ratio of a real source.
    h0, om0 : float
        Hubble constant (km/s/Mpc; the ratio does not depend on it) and matter density.

    Raises
    ------
    InputError
        If the source is not behind the lens.
    """
    if z_source == np.inf:
        Field((0.0, 0.0), z_lens, np.inf, h0, om0)  # validates them
        return 1.0
    return Field((0.0, 0.0), z_lens, z_source, h0, om0).distance_ratio(z_source)


def rescale_factor(
    z_lens: float, z_from: float, z_to: float, *, h0: float = 70.0, om0: float = 0.3
) -> float:
    """Give the factor from a convergence for sources at ``z_from`` to one for ``z_to``.

    The ratio of the two D_LS/D_S; see `distance_ratio` for parameters and errors.
    """
    ratio = distance_ratio(z_lens, z_to, h0=h0, om0=om0)
    return ratio / distance_ratio(z_lens, z_from, h0=h0, om0=om0)


def critical_density(field: Field, z_source: float) -> float:
    """Sigma_cr in Msun / kpc^2 of the field's lens for sources at ``z_source`` (inf allowed)."""
    ratio = distance_ratio(field.z_lens, z_source, h0=field.h0, om0=field.om0)
    return field.sigma_cr * field.distance_ratio(field.z_source) / ratio


def check_lens(kappa: xr.DataArray, field: Field) -> None:
    """Raise `InputError` if a map is of a lens at another redshift than the field's."""
    z_lens = kappa.attrs.get("z_lens")
    if z_lens is not None and abs(z_lens - field.z_lens) > 5e-3:
        raise InputError(
            f"the convergence is of a lens at z_lens = {z_lens:g}, the field is at "
            f"{field.z_lens:g}; use the field of that lens"
        )


def enclosed_mass(
    kappa: xr.DataArray,
    field: Field,
    radius_arcsec: float | Sequence[float],
    center: tuple[float, float] | None = None,
) -> xr.Dataset:
    """Projected mass M(<R) = Sigma_cr * integral of kappa over a disk.

    Parameters
    ----------
    kappa : DataArray, dims (y, x)
        Convergence. Its ``z_source`` attribute, if it has one, says for which sources, and
        Sigma_cr is taken for these; otherwise ``field.z_source`` is.
    field : Field
        Lens redshift, cosmology and default centre.
    radius_arcsec : float or sequence of float
        Radii R in arcsec; a pixel is inside if its centre is.
    center : (float, float), optional
        RA, Dec (deg); default ``field.center``.

    Returns
    -------
    Dataset, lazy where ``kappa`` is
        Along ``radius`` (absent for a single number): ``mass`` (Msun) of the pixels that have
        data, ``coverage``, the fraction of the disk's area that they make up (to the discreteness
        of pixels), and ``radius_kpc``. Where coverage is below 1 the mass is a lower limit.

    Raises
    ------
    InputError
        If a radius is not positive, or the map belongs to a lens at another redshift.
    """
    radii = np.atleast_1d(np.asarray(radius_arcsec, float))
    if radii.ndim != 1 or radii.size == 0 or not (np.isfinite(radii) & (radii > 0)).all():
        raise InputError(f"radius_arcsec = {radius_arcsec} is not positive; give arcsec above 0")
    check_lens(kappa, field)
    center = field.center if center is None else center
    z_source = float(kappa.attrs.get("z_source", field.z_source))
    sigma_cr = critical_density(field, z_source)
    sums = _disk_sums(kappa, center, radii)
    area = Grid.of(kappa).pixel_scale ** 2
    per_area = sigma_cr * field.kpc_per_arcsec**2 * area
    variables = {
        "mass": (sums[0] * per_area, "Msun"),
        "coverage": (np.minimum(sums[1] * area / (np.pi * radii**2), 1), ""),
        "radius_kpc": (radii * field.kpc_per_arcsec, "kpc"),
    }
    out = xr.Dataset(
        {k: ("radius", v, {"units": units}) for k, (v, units) in variables.items()},
        coords={"radius": ("radius", radii, {"units": "arcsec"})},
        attrs={
            "center": list(center),
            "z_lens": field.z_lens,
            "z_source": z_source,
            "sigma_cr": sigma_cr,
            "sigma_cr_units": "Msun / kpc2",
        },
    )
    return out.isel(radius=0) if np.ndim(radius_arcsec) == 0 else out


def _disk_sums(
    kappa: xr.DataArray, center: tuple[float, float], radii: np.ndarray
) -> da.Array | np.ndarray:
    """Sum of kappa and number of valid pixels within each radius, shape (2, n_radii).

    Only the chunks about the disk are read; each gives its partial sums, which are then added.
    """
    near = around(kappa.transpose("y", "x"), center, float(radii.max()))
    if near is None:
        return np.zeros((2, radii.size))
    part, grid = near.data, Grid.of(near)
    if not isinstance(part, da.Array):
        return disk_sums_block(part, grid.y, grid.x, grid, center, radii)[0, 0]
    partial = da.blockwise(
        disk_sums_block,
        "yxkr",
        part,
        "yx",
        da.from_array(grid.y, chunks=(part.chunks[0],)),
        "y",
        da.from_array(grid.x, chunks=(part.chunks[1],)),
        "x",
        grid=grid,
        center=center,
        radii=radii,
        new_axes={"k": 2, "r": radii.size},
        adjust_chunks={"y": 1, "x": 1},
        dtype=np.float64,
        meta=np.empty((0, 0, 0, 0)),
    )
    return partial.sum(axis=(0, 1))


def disk_sums_block(
    kappa: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    grid: Grid,
    center: tuple[float, float],
    radii: np.ndarray,
) -> np.ndarray:
    """Partial sums of one block at global pixels ``y``, ``x``; shape (1, 1, 2, n_radii).

    Each pixel falls into the ring of the smallest radius that holds it; rings are then summed
    outwards.
    """
    yy, xx = np.meshgrid(y.astype(float), x.astype(float), indexing="ij")
    r = np.hypot(*tangent_offsets(*grid.sky(xx, yy), center))
    order = np.argsort(radii, kind="stable")
    ring = np.searchsorted(radii[order], r, side="left")
    good = np.isfinite(kappa) & (ring < radii.size)
    rings = [
        np.bincount(ring[good], weights=w, minlength=radii.size)
        for w in (kappa[good].astype(np.float64), None)
    ]
    out = np.empty((2, radii.size))
    out[:, order] = np.cumsum(rings, axis=1)
    return out[None, None]
