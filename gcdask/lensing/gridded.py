"""A lens known from a pair of deflection maps."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import dask
import numpy as np
import xarray as xr

from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels.hermite import AHEAD, BEHIND, local_spline
from gcdask.lensing.lens import Lens, Like
from gcdask.lensing.maps import Axes, directions, open_pair, pixel_steps, redshifts, unit_factor
from gcdask.lensing.model import sky_position
from gcdask.lensing.resample import sampled
from gcdask.lensing.scale import check_cosmology, rescale_factor
from gcdask.tiles import layout

SIDE = 1024  # px: parts of a map that are read at a time


def read_deflection(
    x: Any,
    y: Any,
    *,
    z_lens: float | None = None,
    z_source: float | None = None,
    axes: Axes = "pixel",
    names: tuple[str | None, str | None] = (None, None),
    unit: str | None = None,
    center: tuple[float, float] | None = None,
    h0: float = 70.0,
    om0: float = 0.3,
    name: str = "deflection",
    outside: Literal["error", "nan"] = "error",
) -> DeflectionLens:
    """Open a pair of deflection maps as a lens: ray tracing, magnification, curves.

    Parameters
    ----------
    x, y : str, path or DataArray
        FITS or zarr maps on one grid, or open ones, in arcsec (or an angular unit they name).
    z_lens, z_source, axes, names, unit
        As for `open_deflection`. Both redshifts are needed, here or in the files;
        ``z_source=inf`` for maps "for D_LS/D_S = 1".
    center : (float, float), optional
        RA, Dec (deg) that offsets are from, and about which an Einstein radius is sought; the
        reference position of the maps' WCS by default.
    h0, om0 : float
        Flat cosmology.
    name : str
        Goes into the attributes of maps.
    outside : {"error", "nan"}
        Whether maps may be asked for on a grid that reaches beyond; pixels there become NaN.

    Raises
    ------
    InputError
        If the maps are on different grids, not of angles, persisted on a cluster, or a redshift is
        missing.
    """
    if outside not in ("error", "nan"):
        raise InputError(f'outside = {outside!r} is unknown; use "error" or "nan"')
    ax, ay = open_pair(x, y, axes=axes, names=names, unit=unit)
    found = redshifts(ax, x, z_lens, z_source)
    missing = [k for k in ("z_lens", "z_source") if k not in found]
    if missing:
        raise InputError(f"the maps {x}, {y} do not say their {missing[0]}; give {missing[0]}=...")
    if "distributed" in sys.modules:
        from distributed import futures_of

        if futures_of([ax.data, ay.data]):
            raise InputError(
                f"the maps {ax.name}, {ay.name} are persisted on a cluster, where a lens cannot "
                "read them; give the lazy maps, or maps in memory (.compute())"
            )
    factors = [unit_factor(a) for a in (ax, ay)]
    grid = Grid.of(ax)
    ra, dec = grid.wcs.wcs.crval if center is None else center
    return DeflectionLens(
        sky_position((ra, dec)),
        found["z_lens"],
        found["z_source"],
        ax.rename("alpha_x"),
        ay.rename("alpha_y"),
        tuple(map(tuple, directions(grid, axes) * factors)),
        *check_cosmology(h0, om0),
        name,
        outside,
    )


@dataclass(frozen=True, eq=False)
class DeflectionLens(Lens):
    """A lens known from deflection maps, made by `read_deflection`.

    Between pixels the deflection is a spline of local support and the Jacobian its slopes
    (`gcdask.kernels.hermite`); only the parts of the maps near the positions asked for are read.
    In the outer half pixel of the maps the slopes are those at the pixel centres there. Outside
    the maps and beside missing pixels everything is NaN.

    Attributes
    ----------
    center, z_lens, h0, om0, name
        See `Lens`.
    outside : str
        See `read_deflection`.
    z_map : float
        Redshift of the sources that the maps were made for.
    alpha_x, alpha_y : DataArray, dims (y, x)
        The maps.
    matrix : ((float, float), (float, float))
        Deflection (west, north) in arcsec of the two components.
    """

    center: tuple[float, float]
    z_lens: float
    z_map: float
    alpha_x: xr.DataArray = field(repr=False)
    alpha_y: xr.DataArray = field(repr=False)
    matrix: tuple[tuple[float, ...], ...] = field(repr=False)
    h0: float = 70.0
    om0: float = 0.3
    name: str = "deflection"
    outside: str = "error"

    # -- where it is known --------------------------------------------------------------------
    @cached_property
    def grid(self) -> Grid:
        """Grid of the maps."""
        return Grid.of(self.alpha_x)

    @cached_property
    def _plane(self) -> Grid:
        return Grid.tangent(self.center, (1, 1), 1.0)

    def xy(self, ra: Any, dec: Any) -> tuple[np.ndarray, np.ndarray]:
        """Offsets (west, north) in arcsec, in the tangent plane at the centre."""
        return self._plane.pixel(ra, dec)

    def sky(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """RA, Dec (deg) of offsets (west, north) in arcsec: the inverse of `xy`."""
        return self._plane.sky(*np.broadcast_arrays(x, y))

    def covers(self, ra: Any, dec: Any) -> np.ndarray:
        """Whether positions lie on pixels of the maps (which may be NaN), as `on_grid` has it."""
        row, col = self._place(ra, dec)
        ny, nx = self.grid.shape
        half = 0.5 + 1e-7
        return (row >= -half) & (row <= ny - 1 + half) & (col >= -half) & (col <= nx - 1 + half)

    def own_grid(self) -> Grid:
        """Grid of the maps; see `Lens`."""
        return self.grid

    def _maps(self, like: Like, *args: Any, **options: Any) -> xr.Dataset:
        grid, _ = layout(like)
        covered = float(self.covers(*grid.sky(*sampled(grid, 129))).mean())
        if self.outside == "error" and covered < 1:
            raise InputError(
                f"the maps of the lens {self.name} cover only {100 * covered:.1f} % of the grid; "
                'cut the mosaic to them, or open them with outside="nan"'
            )
        return super()._maps(like, *args, **options)

    # -- lensing ------------------------------------------------------------------------------
    def deflection_at(self, ra: Any, dec: Any, z_source: float) -> tuple[np.ndarray, np.ndarray]:
        """Deflection (west, north) in arcsec; see `Lens`."""
        factor = self._factor(z_source)
        values = np.tensordot(np.array(self.matrix), self._sample(ra, dec)[:, 0], 1) * factor
        return values[0], values[1]

    def jacobian_at(
        self, ra: Any, dec: Any, z_source: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Convergence and shear (gamma1, gamma2) from the slopes of the maps; see `Lens`.

        Maps of noisy pixels have a curl; half of the sum of the off-diagonal slopes is gamma2.
        """
        factor = self._factor(z_source)
        slopes = self._sample(ra, dec)[:, 1:]  # component, pixel axis (x, y), position
        to_pixels = np.linalg.inv(pixel_steps(self.grid))
        along = np.einsum("ac,cp...,pb->ab...", np.array(self.matrix), slopes, to_pixels) * factor
        kappa, gamma1 = (along[0, 0] + along[1, 1]) / 2, (along[0, 0] - along[1, 1]) / 2
        return kappa, gamma1, (along[0, 1] + along[1, 0]) / 2

    def _factor(self, z_source: float) -> float:
        return rescale_factor(self.z_lens, self.z_map, float(z_source), h0=self.h0, om0=self.om0)

    def _place(self, ra: Any, dec: Any) -> tuple[np.ndarray, np.ndarray]:
        """Fractional array indices (row, column); NaN for positions that are not finite."""
        x, y = self.grid.pixel(ra, dec)
        origin, step = self.grid.origin, self.grid.step
        row, col = (y - origin[0]) / step, (x - origin[1]) / step
        near_row, near_col = np.rint(row), np.rint(col)
        # a pixel of the maps' own grid must not leave them by the rounding of projections
        row = np.where(np.abs(row - near_row) < 1e-7, near_row, row)
        return row, np.where(np.abs(col - near_col) < 1e-7, near_col, col)

    def _sample(self, ra: Any, dec: Any) -> np.ndarray:
        """Components, and their slopes along pixel x and y; shape (2, 3, *positions)."""
        row, col = self._place(ra, dec)
        shape, (row, col) = row.shape, (row.ravel(), col.ravel())
        out = np.full((2, 3, row.size), np.nan)
        inside = np.flatnonzero(self.covers(ra, dec).ravel())
        if inside.size:
            part = [np.maximum(v[inside] // SIDE, 0).astype(int) for v in (row, col)]
            key = part[0] * (self.grid.shape[1] // SIDE + 1) + part[1]
            order = np.argsort(key, kind="stable")
            for some in np.split(inside[order], np.flatnonzero(np.diff(key[order])) + 1):
                out[:, :, some] = self._sample_part(row[some], col[some])
        return out.reshape(2, 3, *shape)

    def _sample_part(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
        window, starts = {}, []
        for name, index, n in zip("yx", (row, col), self.grid.shape, strict=True):
            start = max(int(index.min()) - BEHIND, 0)
            window[name] = slice(start, min(int(index.max()) + AHEAD + 1, n))
            starts.append(start)
        parts = [a.isel(window).data for a in (self.alpha_x, self.alpha_y)]
        # in this thread: a task of a cluster must not ask the cluster to work
        values = dask.compute(*parts, scheduler="synchronous")
        near_row, near_col = (
            np.clip(v, 0, n - 1) for v, n in zip((row, col), self.grid.shape, strict=True)
        )
        found = [local_spline(v, near_row - starts[0], near_col - starts[1]) for v in values]
        y, x = row - near_row, col - near_col  # beyond the outer pixel centres: a straight line
        return np.array([(v + down * y + along * x, along, down) for v, down, along in found])
