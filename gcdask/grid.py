"""Where pixels are: a `Grid` on the sky, a `Tile` of it, the `Field` it looks at.

Pixel coordinates are 0-based with integer pixel centres, x = axis 1, y = axis 0, and *global*:
a cut-out keeps the coordinates of the mosaic that it was cut from, so that one WCS serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.constants import G, c
from astropy.cosmology import FlatLambdaCDM
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from gcdask.errors import InputError

ARCSEC = 180 / np.pi * 3600


@lru_cache(maxsize=64)
def _wcs(header: str) -> WCS:
    wcs = WCS(fits.Header.fromstring(header, sep="\n")).celestial
    wcs.wcs.set()  # once, here: afterwards threads only read it
    return wcs


@dataclass(frozen=True)
class Grid:
    """A regular grid of pixels on the sky.

    Parameters
    ----------
    shape : (int, int)
        ``(ny, nx)``.
    header : str
        The cards of the celestial WCS (one per line), valid for *global* pixel coordinates.
    origin : (float, float)
        Global ``(y, x)`` of the centre of element ``[0, 0]``.
    step : int
        Distance of neighbouring elements in global pixels; above 1 for a coarsened map, whose
        coordinates are the centres of its cells in pixels of the mosaic.
    """

    shape: tuple[int, int]
    header: str
    origin: tuple[float, float] = (0, 0)
    step: int = 1

    # -- making one ---------------------------------------------------------------------------
    @classmethod
    def from_wcs(cls, wcs: WCS, shape: tuple[int, int]) -> Grid:
        """Grid of a whole image with this WCS; raises `InputError` if it is not celestial."""
        if not wcs.has_celestial:
            raise InputError(
                "no celestial WCS in the header (CTYPE1, CTYPE2 = "
                f"{list(wcs.wcs.ctype)}); give an image with RA/DEC axes"
            )
        sky = wcs.celestial
        header = sky.to_header(relax=True)
        if sky.sip is not None:  # to_header drops the suffix that announces the SIP terms
            for axis, name in ((1, "RA---TAN-SIP"), (2, "DEC--TAN-SIP")):
                if header[f"CTYPE{axis}"].startswith(name[:8]):
                    header[f"CTYPE{axis}"] = name
        ny, nx = (int(n) for n in shape)
        return cls((ny, nx), header.tostring(sep="\n").strip())

    @classmethod
    def tangent(
        cls, center: tuple[float, float], shape: tuple[int, int], scale: float, *, angle: float = 0
    ) -> Grid:
        """TAN grid about ``center`` (RA, Dec in deg), ``scale`` arcsec/px.

        ``angle`` (deg) is the position angle, north through east, of the +y axis.
        """
        ny, nx = shape
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crval = list(center)
        wcs.wcs.crpix = [(nx - 1) / 2 + 1, (ny - 1) / 2 + 1]
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        wcs.wcs.cdelt = [scale / 3600, scale / 3600]
        wcs.wcs.pc = [[-cos, sin], [sin, cos]]
        return cls.from_wcs(wcs, shape)

    @classmethod
    def of(cls, obj: xr.DataArray | xr.Dataset) -> Grid:
        """Grid of a map or mosaic from its ``x``, ``y`` coordinates and its WCS attribute."""
        if "wcs" not in obj.attrs:
            name = getattr(obj, "name", None) or "the array"
            raise InputError(
                f"{name} has no WCS (attrs['wcs'] is missing); open it with gcdask.open_mosaic "
                "or set attrs['wcs'] to FITS header cards"
            )
        missing = {"y", "x"} - set(obj.dims)
        if missing:
            raise InputError(f"dimensions {sorted(missing)} are missing in {tuple(obj.dims)}")
        y, x = (_axis(obj, name) for name in ("y", "x"))
        steps = {round(float(a[1] - a[0])) for a in (y, x) if a.size > 1} or {1}
        if len(steps) > 1:
            raise InputError(f"x and y are sampled differently (steps {sorted(steps)} px)")
        return cls((y.size, x.size), obj.attrs["wcs"], (y[0].item(), x[0].item()), steps.pop())

    def __reduce__(self) -> tuple[Any, ...]:
        # without the cached x and y: each task of a graph would carry megabytes of them
        return (Grid, (self.shape, self.header, self.origin, self.step))

    # -- properties ---------------------------------------------------------------------------
    @property
    def wcs(self) -> WCS:
        """The WCS of global pixel coordinates."""
        return _wcs(self.header)

    @cached_property
    def pixel_scale(self) -> float:
        """Side of one element in arcsec (the root of its area)."""
        return self.step * self.global_scale

    @cached_property
    def global_scale(self) -> float:
        """Side of one pixel of the mosaic in arcsec: what a unit of ``x`` is worth."""
        scales = proj_plane_pixel_scales(self.wcs) * 3600
        if abs(scales[0] / scales[1] - 1) > 1e-2:
            raise InputError(
                f"pixels are not square ({scales[0]:.4g} x {scales[1]:.4g} arcsec); "
                "reproject the image onto square pixels"
            )
        return float(np.sqrt(scales[0] * scales[1]))

    @cached_property
    def y(self) -> np.ndarray:
        """Global y of each row."""
        return self.origin[0] + self.step * np.arange(self.shape[0])

    @cached_property
    def x(self) -> np.ndarray:
        """Global x of each column."""
        return self.origin[1] + self.step * np.arange(self.shape[1])

    @property
    def center(self) -> tuple[float, float]:
        """Global ``(x, y)`` of the middle."""
        return (float(self.x[0] + self.x[-1]) / 2, float(self.y[0] + self.y[-1]) / 2)

    @property
    def coords(self) -> dict[str, Any]:
        """Coordinates for a DataArray with dims ``(y, x)``."""
        return {"y": self.y, "x": self.x}

    # -- sky <-> pixel ------------------------------------------------------------------------
    def sky(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """RA, Dec (deg) of global pixel coordinates."""
        ra, dec = self.wcs.all_pix2world(np.asarray(x, float), np.asarray(y, float), 0)
        return np.asarray(ra), np.asarray(dec)

    def pixel(self, ra: Any, dec: Any) -> tuple[np.ndarray, np.ndarray]:
        """Global ``(x, y)`` of RA, Dec (deg); NaN where the projection does not reach."""
        ra, dec = np.broadcast_arrays(np.asarray(ra, float), np.asarray(dec, float))
        if self.wcs.sip is None:
            x, y = self.wcs.wcs_world2pix(ra, dec, 0)
        else:
            x, y = self.wcs.all_world2pix(ra, dec, 0, quiet=True)
        return np.asarray(x), np.asarray(y)

    def offsets(self, x: Any, y: Any, center: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """Offsets (east, north) in arcsec of pixels from ``center`` (RA, Dec in deg).

        Gnomonic projection about the centre, whatever the projection and rotation of the grid.
        """
        return tangent_offsets(*self.sky(x, y), center)

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Global ``x`` and ``y`` of all elements, each of `shape`."""
        y, x = np.meshgrid(self.y.astype(float), self.x.astype(float), indexing="ij")
        return x, y

    # -- other grids --------------------------------------------------------------------------
    def cut(self, y0: int, y1: int, x0: int, x1: int) -> Grid:
        """The half-open part ``[y0:y1, x0:x1]`` (array indices)."""
        origin = (self.origin[0] + self.step * y0, self.origin[1] + self.step * x0)
        return replace(self, shape=(y1 - y0, x1 - x0), origin=origin)

    def coarsen(self, factor: int) -> Grid:
        """Grid of cells of ``factor`` x ``factor`` elements; a ragged end is one more cell."""
        if factor < 1:
            raise InputError(f"coarsening factor {factor} is below 1; use 1 or more")
        shape = (-(-self.shape[0] // factor), -(-self.shape[1] // factor))
        half = self.step * (factor - 1) / 2
        origin = (self.origin[0] + half, self.origin[1] + half) if half else self.origin
        return replace(self, shape=shape, origin=origin, step=self.step * factor)

    def array_wcs(self) -> WCS:
        """WCS of array indices (for a FITS file of this map), from that of global pixels."""
        if self.step == 1:
            wcs = self.wcs.deepcopy()
            shift = np.array([self.origin[1], self.origin[0]], float)
            wcs.wcs.crpix = wcs.wcs.crpix - shift
            if wcs.sip is not None:
                from astropy.wcs import Sip

                s = wcs.sip
                wcs.sip = Sip(s.a, s.b, s.ap, s.bp, np.asarray(s.crpix) - shift)
            return wcs
        if self.wcs.sip is not None:
            raise InputError(
                f"a map with SIP distortion cannot be sampled every {self.step} px in FITS; "
                "write it at full resolution or to zarr"
            )
        wcs = self.wcs.deepcopy()
        shift = np.array([self.origin[1], self.origin[0]], float)
        wcs.wcs.crpix = (wcs.wcs.crpix - 1 - shift) / self.step + 1
        wcs.wcs.cdelt = wcs.wcs.cdelt * self.step
        return wcs

    def same_pixels(self, other: Grid) -> bool:
        """Whether both sample the same sky positions in the same order."""
        return (
            self.shape == other.shape
            and self.origin == other.origin
            and self.step == other.step
            and (self.header == other.header or same_wcs(self.wcs, other.wcs))
        )

    def wrap(self, data: Any, name: str, units: str, **attrs: Any) -> xr.DataArray:
        """Map with dims ``(y, x)``, these coordinates, the WCS and ``units`` in its attributes."""
        extra: Mapping[str, Any] = {"wcs": self.header, "units": units, **attrs}
        return xr.DataArray(data, dims=("y", "x"), coords=self.coords, name=name, attrs=extra)


def _axis(obj: xr.DataArray | xr.Dataset, name: str) -> np.ndarray:
    if name not in obj.coords:
        return np.arange(obj.sizes[name])
    return np.asarray(obj[name].values)


def same_wcs(a: WCS, b: WCS) -> bool:
    """Whether two WCS put the corners of a large array on the same sky to 1e-3 px."""
    corners = np.array([[0, 0], [0, 4096], [4096, 0], [4096, 4096]], float)
    moved = b.all_world2pix(a.all_pix2world(corners, 0), 0, quiet=True)
    return bool(np.allclose(moved, corners, atol=1e-3))


def tangent_offsets(
    ra: Any, dec: Any, center: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Gnomonic offsets (east, north) in arcsec of ``ra``, ``dec`` (deg) from ``center`` (deg)."""
    ra0, dec0 = np.deg2rad(center[0]), np.deg2rad(center[1])
    a, d = np.deg2rad(np.asarray(ra, float)) - ra0, np.deg2rad(np.asarray(dec, float))
    depth = np.sin(d) * np.sin(dec0) + np.cos(d) * np.cos(dec0) * np.cos(a)
    east = np.cos(d) * np.sin(a) / depth
    north = (np.sin(d) * np.cos(dec0) - np.cos(d) * np.sin(dec0) * np.cos(a)) / depth
    return east * ARCSEC, north * ARCSEC


@dataclass(frozen=True)
class Tile:
    """One block of work: the ``core`` owns pixels and sources, the ``window`` adds the halo.

    Both are half-open ``(y0, y1, x0, x1)`` in array indices of the field; the window is clipped
    at the field's ends.
    """

    index: tuple[int, int]
    core: tuple[int, int, int, int]
    window: tuple[int, int, int, int]

    @property
    def slices(self) -> tuple[slice, slice]:
        """The window as slices ``(y, x)`` of the field."""
        y0, y1, x0, x1 = self.window
        return slice(y0, y1), slice(x0, x1)

    @property
    def core_slices(self) -> tuple[slice, slice]:
        """The core as slices ``(y, x)`` of the field."""
        y0, y1, x0, x1 = self.core
        return slice(y0, y1), slice(x0, x1)

    @property
    def window_pixels(self) -> int:
        """Number of pixels of the window."""
        y0, y1, x0, x1 = self.window
        return (y1 - y0) * (x1 - x0)

    def within(self, wider: Tile) -> tuple[slice, slice]:
        """The window as slices of a wider window of the same tile."""
        y0, y1, x0, x1 = self.window
        wy, _, wx, _ = wider.window
        return slice(y0 - wy, y1 - wy), slice(x0 - wx, x1 - wx)

    @property
    def inner(self) -> tuple[slice, slice]:
        """The core as slices of the window."""
        y0, y1, x0, x1 = self.core
        wy, _, wx, _ = self.window
        return slice(y0 - wy, y1 - wy), slice(x0 - wx, x1 - wx)


@lru_cache(maxsize=64)
def _flat(h0: float, om0: float) -> FlatLambdaCDM:
    """The universe, which takes astropy 50 ms to make."""
    return FlatLambdaCDM(H0=h0, Om0=om0)


@dataclass(frozen=True)
class Field:
    """What the mosaic looks at: a lens at ``z_lens`` about ``center``, sources at ``z_source``.

    Parameters
    ----------
    center : (float, float)
        RA, Dec (deg) of the brightest cluster galaxy.
    z_lens, z_source : float
        Redshifts; ``z_source`` is that for which convergences are given.
    h0, om0 : float
        Flat cosmology: Hubble constant (km/s/Mpc) and matter density.
    """

    center: tuple[float, float]
    z_lens: float
    z_source: float = 3.0
    h0: float = 70.0
    om0: float = 0.3

    def __post_init__(self) -> None:
        if not self.z_lens > 0:
            raise InputError(f"z_lens = {self.z_lens} is not positive; give the lens redshift")
        if not self.z_source > self.z_lens:
            raise InputError(
                f"z_source = {self.z_source} is not behind the lens (z_lens = {self.z_lens}); "
                "give a larger z_source"
            )

    @property
    def cosmology(self) -> FlatLambdaCDM:
        """The flat cosmology."""
        return _flat(self.h0, self.om0)

    @cached_property
    def kpc_per_arcsec(self) -> float:
        """Proper kpc per arcsec at the lens."""
        return float(1 / self.cosmology.arcsec_per_kpc_proper(self.z_lens).value)

    @cached_property
    def sigma_cr(self) -> float:
        """Critical surface density c^2 D_S / (4 pi G D_L D_LS) in Msun / kpc^2."""
        d_l = self.cosmology.angular_diameter_distance(self.z_lens)
        sigma = c**2 / (4 * np.pi * G) / (d_l * self.distance_ratio(self.z_source))
        return float(sigma.to_value(u.Msun / u.kpc**2))

    def distance_ratio(self, z_source: float) -> float:
        """D_LS / D_S for sources at ``z_source`` (flat space: comoving distances subtract)."""
        if not z_source > self.z_lens:
            raise InputError(
                f"z_source = {z_source} is not behind the lens (z_lens = {self.z_lens}); "
                "give a larger z_source"
            )
        chi = self.cosmology.comoving_distance
        return float(1 - chi(self.z_lens) / chi(z_source))
