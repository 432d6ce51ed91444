"""Where a lens is critical: its critical curves and its Einstein radius."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from contourpy import contour_generator
from scipy.optimize import brentq

from gcdask.errors import InputError
from gcdask.lensing.scale import critical_density
from gcdask.reduce import check_center
from gcdask.tiles import layout

if TYPE_CHECKING:
    from gcdask.lensing.lens import Lens, Like

SIDE, PIXEL = 180.0, 0.3  # arcsec: the grid where none is given
MAX_PIXELS = 2e8  # of a grid on which curves are sought, which is in memory at once
ANGLES = 720  # directions of a mean over a circle
RADII = np.geomspace(0.05, 300.0, 61)  # arcsec, where an Einstein radius is bracketed


def critical_curves(lens: Lens, like: Like | None, z_source: float) -> list[np.ndarray]:
    """Critical curves: the contours of det A = 0 on a grid, computed at once.

    Parameters
    ----------
    lens : Lens
    like : DataArray, Dataset, Grid or None
        Where, and how finely: curves are straight between pixels, and those smaller than one are
        missed. By default 0.3" pixels within 90" of the lens's centre, or those of its maps.
    z_source : float
        Redshift of the sources.

    Returns
    -------
    list of ndarray, shape (n, 2)
        RA, Dec in deg along each curve, the longest first; closed curves repeat their first
        point, others end at the grid's border. Empty for a lens that is nowhere critical.

    Raises
    ------
    InputError
        If the source is not behind the lens, the grid has more than 2e8 pixels or a single row, or
        the lens is not known on it.
    """
    like = lens.own_grid() if like is None else like
    grid, _ = layout(like)
    if grid.shape[0] * grid.shape[1] > MAX_PIXELS:
        raise InputError(
            f"critical curves on {grid.shape[0]} x {grid.shape[1]} px would fill the memory; give "
            "a coarser grid, such as Grid.of(map).coarsen(8)"
        )
    if min(grid.shape) < 2:
        raise InputError(
            f"critical curves on {grid.shape[0]} x {grid.shape[1]} px lie between no pixels; give "
            "a grid of 2 x 2 or more"
        )
    determinant = np.ma.masked_invalid(lens.determinant(like, z_source).to_numpy())
    if determinant.mask.all():
        raise InputError(
            f"the lens {lens.name} is not known anywhere on the grid of the critical curves; give "
            "one on its maps"
        )
    found = contour_generator(z=determinant).lines(0.0)
    lines = sorted((np.asarray(line) for line in found), key=len, reverse=True)
    return [
        np.stack(grid.sky(*(o + grid.step * line).T), axis=1)
        for line in lines
        for o in [np.array([grid.origin[1], grid.origin[0]])]
    ]


def einstein_radius(
    lens: Lens, z_source: float, center: tuple[float, float] | None = None
) -> xr.Dataset:
    """Radius within which the mean convergence is 1.

    By Gauss's theorem the mean convergence inside R is the mean outward deflection on the circle,
    over R; the largest R at which it is 1 is taken, so that a centre between clumps does no harm.

    Parameters
    ----------
    lens : Lens
    z_source : float
        Redshift of the sources.
    center : (float, float), optional
        RA, Dec (deg); the lens's by default.

    Returns
    -------
    Dataset
        ``theta_e`` (arcsec), ``radius_kpc``, ``mass`` (Msun, inside), and ``status``: empty, or
        beginning with "unconstrained" where the lens is nowhere critical or its maps end inside
        the ring; then the numbers are NaN.

    Raises
    ------
    InputError
        If the source is not behind the lens, or ``center`` is not a position.
    """
    center = lens.center if center is None else check_center(center)
    lens.ratio(z_source)
    z_source = float(z_source)
    x0, y0 = (float(v) for v in lens.xy(*center))
    angle = 2 * np.pi * np.arange(ANGLES) / ANGLES
    cos, sin = np.cos(angle), np.sin(angle)

    def excess(radius: Any) -> np.ndarray:
        r = np.asarray(radius, float)[..., None]
        alpha = lens.deflection_at(*lens.sky(x0 + r * cos, y0 + r * sin), z_source)
        return (alpha[0] * cos + alpha[1] * sin).mean(-1) / r[..., 0] - 1

    values = excess(RADII)
    known = RADII[np.isfinite(values)]
    crossed = np.flatnonzero((values[:-1] >= 0) & (values[1:] < 0))
    theta, status = np.nan, ""
    if crossed.size:
        low, high = RADII[crossed[-1]], RADII[crossed[-1] + 1]
        theta = float(brentq(lambda r: float(excess(r)), low, high, xtol=1e-8))
    elif known.size == 0:
        status = "unconstrained: the lens is not known around the centre"
    elif values[np.isfinite(values)][-1] >= 0:
        status = f'unconstrained: the lens is known to {known[-1]:.3g}" only, inside the ring'
    else:
        status = (
            f"unconstrained: the mean convergence is below 1 at every radius (at most "
            f"{1 + np.nanmax(values):.3g}), the lens is not critical for z_source = {z_source:g}"
        )
    return _ring(lens, z_source, center, theta, status)


def _ring(
    lens: Lens, z_source: float, center: tuple[float, float], theta: float, status: str
) -> xr.Dataset:
    field = lens.field(z_source)
    kpc = theta * field.kpc_per_arcsec
    mass = np.pi * kpc**2 * critical_density(field, z_source)
    out = {
        "theta_e": (theta, "arcsec", "Einstein radius"),
        "radius_kpc": (kpc, "kpc", "Einstein radius"),
        "mass": (mass, "Msun", "projected mass inside the Einstein radius"),
    }
    attrs = {"z_lens": lens.z_lens, "z_source": float(z_source), "model": lens.name}
    return xr.Dataset(
        {k: ((), v, {"units": u, "long_name": t}) for k, (v, u, t) in out.items()}
        | {"status": ((), np.array(status, object), {"units": "", "long_name": "empty if sound"})},
        attrs={**attrs, "center": list(center), "status": status},
    )
