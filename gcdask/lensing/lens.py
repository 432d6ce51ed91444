"""What any lens in one plane can tell, from its deflection and its Jacobian alone.

Axes are Lenstool's everywhere: x to the *west*, y to the north, in arcsec from the lens's centre.
Light seen at theta comes from beta = theta - alpha(theta), where alpha scales as D_LS/D_S; the
Jacobian d beta / d theta is [[1 - kappa - gamma1, -gamma2], [-gamma2, 1 - kappa + gamma1]].
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize

from gcdask.catalog.parts import boxed, hand_made
from gcdask.errors import InputError
from gcdask.grid import Field, Grid
from gcdask.lensing import curves, images
from gcdask.lensing.scale import distance_ratio
from gcdask.tiles import layout

STRIP = 128  # rows of a block that are evaluated at a time
Like = xr.DataArray | xr.Dataset | Grid
Pair = tuple[np.ndarray, np.ndarray]


class Lens(ABC):
    """A lens in one plane; `LenstoolModel` and `DeflectionLens` are the kinds there are.

    Every method takes ``z_source``, the redshift of the sources (``inf``: D_LS/D_S = 1), and
    raises `InputError` if it is not behind the lens. Functions of positions (RA, Dec in deg, any
    shape) return float64 arrays of that shape at once, NaN where a position is not finite or the
    lens is not known; functions of a grid return lazy maps.

    Attributes
    ----------
    center : (float, float)
        RA, Dec (deg) of the origin of `xy`.
    z_lens : float
        Redshift of the plane.
    h0, om0 : float
        Flat cosmology.
    name : str
        Goes into the attributes of maps.
    """

    center: tuple[float, float]
    z_lens: float
    h0: float
    om0: float
    name: str

    # -- what a lens must know ----------------------------------------------------------------
    @abstractmethod
    def xy(self, ra: Any, dec: Any) -> Pair:
        """Offsets (west, north) in arcsec of RA, Dec in deg."""

    @abstractmethod
    def sky(self, x: Any, y: Any) -> Pair:
        """RA, Dec (deg) of offsets (west, north) in arcsec: the inverse of `xy`."""

    @abstractmethod
    def deflection_at(self, ra: Any, dec: Any, z_source: float) -> Pair:
        """Deflection (west, north) in arcsec."""

    @abstractmethod
    def jacobian_at(
        self, ra: Any, dec: Any, z_source: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Convergence and the two components of the shear (gamma1 > 0: stretched east-west)."""

    # -- at positions -------------------------------------------------------------------------
    def kappa_at(self, ra: Any, dec: Any, z_source: float) -> np.ndarray:
        """Convergence."""
        return self.jacobian_at(ra, dec, z_source)[0]

    def shear_at(self, ra: Any, dec: Any, z_source: float) -> Pair:
        """Shear (gamma1, gamma2) in the axes west, north."""
        return self.jacobian_at(ra, dec, z_source)[1:]

    def magnification_at(self, ra: Any, dec: Any, z_source: float) -> np.ndarray:
        """Magnification mu = 1 / ((1 - kappa)^2 - gamma^2), negative for images of odd parity."""
        with np.errstate(divide="ignore"):
            return 1 / self.determinant_at(ra, dec, z_source)

    def determinant_at(self, ra: Any, dec: Any, z_source: float) -> np.ndarray:
        """Determinant of the Jacobian, 1/mu: zero on critical curves."""
        kappa, gamma1, gamma2 = self.jacobian_at(ra, dec, z_source)
        return (1 - kappa) ** 2 - gamma1**2 - gamma2**2

    def trace(self, ra: Any, dec: Any, z_source: float) -> Pair:
        """RA, Dec (deg) in the source plane of what is seen at ``ra``, ``dec``."""
        x, y = self.xy(ra, dec)
        alpha_x, alpha_y = self.deflection_at(ra, dec, z_source)
        return self.sky(x - alpha_x, y - alpha_y)

    def counter_images(
        self,
        ra: float,
        dec: float,
        z_source: float,
        *,
        radius: float | None = None,
        step: float = images.STEP,
        tolerance: float = images.TOLERANCE,
    ) -> pd.DataFrame:
        """All images of the source that is seen at one position.

        Cells of a grid are mapped to the source plane; those that cover the source, or come
        nearer to it than their neighbours, are refined by Newton's method; then twins are sought
        close about each image, as there are across critical curves.

        Parameters
        ----------
        ra, dec : float
            One of the images, deg.
        radius : float, optional
            Half the side (arcsec) of the square about the source that is searched; by default as
            far as the lens can deflect (the largest |alpha| within `images.EXTENT` of its centre).
        step : float
            Grid step in arcsec: pairs of images behind galaxies smaller than this may be missed.
        tolerance : float
            Largest distance (arcsec, in the source plane) of an image from the source.

        Returns
        -------
        pandas.DataFrame
            One row per image, the given one first, the others by decreasing absolute mu: ``ra``,
            ``dec`` (deg), ``mu`` (signed), ``kind`` ("minimum", "saddle", "maximum" of the
            arrival time), ``residual`` (arcsec, source plane), ``separation`` from the given image
            (arcsec). ``attrs``: ``z_source``, ``model``, ``source`` (RA, Dec), and ``index``,
            minima + maxima - saddles: 1 for the complete set of a smooth lens without end (Burke
            1981); another number says that images were missed, or lie off the lens's maps.

        Raises
        ------
        InputError
            If the position is not finite or off the lens's maps, or an option is not positive.
        """
        return images.counter_images(
            self, ra, dec, z_source, radius=radius, step=step, tolerance=tolerance
        )

    def einstein_radius(
        self, z_source: float, center: tuple[float, float] | None = None
    ) -> xr.Dataset:
        """Radius within which the mean convergence is 1; see `curves.einstein_radius`."""
        return curves.einstein_radius(self, z_source, center)

    # -- on a grid ----------------------------------------------------------------------------
    def kappa(self, like: Like, z_source: float) -> xr.DataArray:
        """Convergence at the pixel centres of ``like`` (map, mosaic or Grid), lazily.

        It has the chunks of ``like`` (2048 px if that has none), and ``z_lens``, ``z_source``,
        ``model`` in its attributes; so have all maps below.
        """
        return self._map(like, z_source, "kappa_at", "kappa", "", "convergence")

    def magnification(self, like: Like, z_source: float) -> xr.DataArray:
        """Magnification, signed."""
        return self._map(
            like, z_source, "magnification_at", "magnification", "", "magnification, signed"
        )

    def determinant(self, like: Like, z_source: float) -> xr.DataArray:
        """Determinant of the Jacobian, which is smooth where the magnification diverges."""
        return self._map(
            like, z_source, "determinant_at", "determinant", "", "determinant of the Jacobian, 1/mu"
        )

    def shear(self, like: Like, z_source: float) -> xr.Dataset:
        """Shear as ``gamma1``, ``gamma2`` in the axes west, north."""
        text = "shear along the axes", "shear along the diagonals"
        return self._maps(like, z_source, "shear_at", ("gamma1", "gamma2"), "", text)

    def deflection(self, like: Like, z_source: float) -> xr.Dataset:
        """Deflection as ``alpha_x`` (west), ``alpha_y`` (north) in arcsec."""
        text = "deflection to the west", "deflection to the north"
        return self._maps(like, z_source, "deflection_at", ("alpha_x", "alpha_y"), "arcsec", text)

    def critical_curves(self, like: Like | None, z_source: float) -> list[np.ndarray]:
        """Critical curves on a grid; see `curves.critical_curves`."""
        return curves.critical_curves(self, like, z_source)

    def caustics(self, like: Like | None, z_source: float) -> list[np.ndarray]:
        """Caustics, the critical curves in the source plane: a list of (n, 2) RA, Dec in deg."""
        curved = self.critical_curves(like, z_source)
        return [np.stack(self.trace(c[:, 0], c[:, 1], z_source), axis=1) for c in curved]

    def own_grid(self) -> Grid:
        """Where critical curves are sought by default: 0.3" pixels within 90" of the centre."""
        n = round(curves.SIDE / curves.PIXEL)
        return Grid.tangent(self.center, (n, n), curves.PIXEL)

    # -- scales -------------------------------------------------------------------------------
    def field(self, z_source: float = 3.0) -> Field:
        """Make the field about the centre, for sources at ``z_source``."""
        return Field(self.center, self.z_lens, z_source, self.h0, self.om0)

    def ratio(self, z_source: float) -> float:
        """D_LS / D_S; `InputError` if the source is not behind the lens."""
        try:
            z_source = float(z_source)
        except (TypeError, ValueError):
            raise InputError(f"z_source = {z_source!r} is no redshift; give a number") from None
        return distance_ratio(self.z_lens, z_source, h0=self.h0, om0=self.om0)

    # -- graphs -------------------------------------------------------------------------------
    def node(self) -> da.Array:
        """Make this lens a 0-d object array, so that a graph holds it once and not in each task."""
        name = f"lens-{tokenize(self)}"
        return hand_made(name, {(name,): boxed(self, 0)}, [], ())

    def _map(
        self, like: Like, z_source: float, method: str, name: str, units: str, text: str
    ) -> xr.DataArray:
        return self._maps(like, z_source, method, (name,), units, (text,))[name]

    def _maps(
        self,
        like: Like,
        z_source: float,
        method: str,
        names: tuple[str, ...],
        units: str,
        texts: tuple[str, ...],
    ) -> xr.Dataset:
        self.ratio(z_source)  # errors now, not in a task
        grid, chunks = layout(like)
        block = partial(lens_block, grid=grid, z_source=float(z_source), method=method)
        with warnings.catch_warnings():  # more chunks than y or x has alone: that is the idea
            warnings.simplefilter("ignore", da.PerformanceWarning)
            data = da.blockwise(
                block,
                "kyx",
                da.from_array(grid.y, chunks=(chunks[0],)),
                "y",
                da.from_array(grid.x, chunks=(chunks[1],)),
                "x",
                self.node(),
                "",
                new_axes={"k": len(names)},
                concatenate=True,
                name=f"{names[0]}-{tokenize(self, grid, chunks, z_source, method)}",
                dtype=np.float64,
                meta=np.empty((0, 0, 0)),
            )
        attrs = {"z_lens": self.z_lens, "z_source": float(z_source), "model": self.name}
        out = {
            name: grid.wrap(data[k], name, units, long_name=text, **attrs)
            for k, (name, text) in enumerate(zip(names, texts, strict=True))
        }
        return xr.Dataset(out, attrs={"wcs": grid.header, **attrs})


def lens_block(
    y: np.ndarray, x: np.ndarray, lens: np.ndarray, *, grid: Grid, z_source: float, method: str
) -> np.ndarray:
    """One or two quantities at the global pixels ``y`` (rows), ``x`` (columns).

    Parameters
    ----------
    lens : object array, shape ()
        Holds the `Lens`.
    method : str
        Which of its functions of RA, Dec and redshift.

    Returns
    -------
    ndarray, float64, shape (1 or 2, ny, nx)
    """
    at = getattr(lens.item(), method)
    strips = []
    for start in range(0, max(y.size, 1), STRIP):  # what goes on in between is many times as large
        rows = y[start : start + STRIP].astype(float)
        yy, xx = np.meshgrid(rows, x.astype(float), indexing="ij")
        strips.append(np.reshape(at(*grid.sky(xx, yy), z_source), (-1, *xx.shape)))
    return np.concatenate(strips, axis=1)
