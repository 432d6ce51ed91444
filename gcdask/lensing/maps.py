"""Convergence maps: read from files or from deflection maps, and rescaled."""

from __future__ import annotations

from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from astropy import units as u

from gcdask.errors import InputError
from gcdask.grid import Field, Grid
from gcdask.lensing.scale import check_lens, rescale_factor
from gcdask.mosaic import fitsio, open_map, store
from gcdask.mosaic.source import address
from gcdask.tiles import as_map, check_pixels

Axes = Literal["pixel", "west", "east"]

_CARDS = {
    "z_lens": ("Z_LENS", "ZLENS", "Z_L", "ZL", "LENS_Z", "Z_CLUST"),
    "z_source": ("Z_SOURCE", "ZSOURCE", "Z_S", "ZS", "SOURCE_Z", "ZSRC"),
}


# -- reading ----------------------------------------------------------------------------------
def open_kappa(
    path: Any,
    *,
    z_lens: float | None = None,
    z_source: float | None = None,
    name: str | None = None,
    unit: str | None = None,
) -> xr.DataArray:
    """Open a convergence map (FITS or zarr) lazily.

    Parameters
    ----------
    path : str or path
        The map, with a celestial WCS of its own.
    z_lens, z_source : float, optional
        Redshifts it was made for; default from the header (``Z_LENS``, ``Z_SOURCE`` and common
        variants) or the zarr attributes. ``z_source=inf`` for a map "for D_LS/D_S = 1".
    name : str, optional
        Which map of a zarr group.
    unit : str, optional
        In place of the file's own, which must say "dimensionless" or nothing.

    Returns
    -------
    DataArray, dims (y, x), lazy
        Dimensionless, with the attributes ``wcs``, ``units`` and, where known, ``z_lens`` and
        ``z_source``.

    Raises
    ------
    InputError
        If the file has no WCS, has units, or the source is not behind the lens.
    """
    kappa = _open(path, name, unit, "")
    if kappa.attrs["units"]:
        raise InputError(
            f"{path} is in {kappa.attrs['units']!r}, but a convergence has no unit; divide a "
            "surface density by Sigma_cr first"
        )
    return _labelled(kappa, path, z_lens, z_source)


def open_deflection(
    x: Any,
    y: Any,
    *,
    z_lens: float | None = None,
    z_source: float | None = None,
    axes: Axes = "pixel",
    names: tuple[str | None, str | None] = (None, None),
    unit: str | None = None,
) -> xr.DataArray:
    """Convergence, half the divergence of a pair of deflection maps, lazily.

    Central differences, one-sided at the map's ends and beside pixels without data.

    Parameters
    ----------
    x, y : str or path
        FITS or zarr maps on one grid, in arcsec (or an angular unit that they name).
    z_lens, z_source : float, optional
        As for `open_kappa`.
    axes : {"pixel", "west", "east"}
        Where the components point: along increasing pixel x and y (Lenstool's own maps, north
        up); or y north and x west (Lenstool's axes) or east, whatever the map's rotation.
    names : (str, str), optional
        Which maps of a zarr group.
    unit : str, optional
        In place of the files' own.

    Returns
    -------
    DataArray, dims (y, x), lazy
        As from `open_kappa`, with the chunks of ``x``.

    Raises
    ------
    InputError
        If the two maps are on different grids or in a unit that is not an angle.
    """
    ax, ay = open_pair(x, y, axes=axes, names=names, unit=unit)
    kappa = half_divergence(ax, ay, axes=axes)
    return _labelled(kappa, x, z_lens, z_source)


def open_pair(
    x: Any,
    y: Any,
    *,
    axes: Axes,
    names: tuple[str | None, str | None] = (None, None),
    unit: str | None = None,
) -> tuple[xr.DataArray, xr.DataArray]:
    """Open two components of a deflection lazily and check them; see `open_deflection`.

    Maps that are open already (DataArrays) keep their chunks; ``names`` are of maps in files.
    """
    if axes not in ("pixel", "west", "east"):
        raise InputError(f'axes = {axes!r} is unknown; use "pixel", "west" or "east"')
    ax, ay = (
        _opened(p, k, unit) if isinstance(p, xr.DataArray) else _open(p, n, unit, "arcsec")
        for p, n, k in zip((x, y), names, "xy", strict=True)
    )
    said = [getattr(p, "name", p) for p in (x, y)]
    check_pixels(ay, ax, str(said[1]), str(said[0]), remedy="give the two components of one model")
    return ax, ay


def half_divergence(ax: xr.DataArray, ay: xr.DataArray, *, axes: Axes = "pixel") -> xr.DataArray:
    """Half the divergence of deflection maps that are open already; see `open_deflection`."""
    grid = Grid.of(ax)
    factors = [unit_factor(a) for a in (ax, ay)]
    data = [as_map(a).data for a in (ax, ay)]
    data[1] = data[1].rechunk(data[0].chunks)
    inverse = _inverse_jacobian(grid, axes)
    # NaN beyond the ends: a difference that lacks one side there is then one-sided
    haloed = [da.overlap.overlap(d, depth=1, boundary=np.nan) for d in data]
    out = da.map_blocks(
        half_divergence_block,
        *haloed,
        inverse=inverse,
        factors=factors,
        chunks=data[0].chunks,
        dtype=np.float64,
        meta=np.empty((0, 0)),
    )
    return grid.wrap(out, "kappa", "")


def half_divergence_block(
    ax: np.ndarray, ay: np.ndarray, *, inverse: np.ndarray, factors: list[float]
) -> np.ndarray:
    """Half the divergence of one block with a halo of one pixel (NaN: no data), halo removed.

    Parameters
    ----------
    ax, ay : array, shape (ny + 2, nx + 2)
        Components of the deflection.
    inverse : array, shape (2, 2)
        Element ``[pixel axis, component]``: d(pixel x or y) / d(arcsec along the component).
    factors : list of float
        Unit of each component in arcsec.

    Returns
    -------
    ndarray, float64, shape (ny, nx)
    """
    total = np.zeros((ax.shape[0] - 2, ax.shape[1] - 2))
    for component, (alpha, factor) in enumerate(zip((ax, ay), factors, strict=True)):
        a = alpha.astype(np.float64) * factor
        middle = a[1:-1, 1:-1]
        for axis, (before, after) in enumerate(
            ((a[1:-1, :-2], a[1:-1, 2:]), (a[:-2, 1:-1], a[2:, 1:-1]))
        ):
            if inverse[axis, component] != 0:
                total += inverse[axis, component] * _slope(before, middle, after)
    return total / 2


def _slope(before: np.ndarray, middle: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Difference per pixel: central, else from the side that has data, else NaN."""
    slope = (after - before) / 2
    for other in (after - middle, middle - before):
        slope = np.where(np.isnan(slope), other, slope)
    return np.where(np.isnan(middle), np.nan, slope)


def pixel_steps(grid: Grid) -> np.ndarray:
    """Offsets (west, north: rows) in arcsec of a step of one element along x and y (columns)."""
    return np.diag([-1, 1]) @ grid.wcs.pixel_scale_matrix * 3600 * grid.step


def directions(grid: Grid, axes: Axes) -> np.ndarray:
    """Matrix that turns components along these axes into (west, north)."""
    if axes == "pixel":
        return pixel_steps(grid) / grid.pixel_scale
    return np.diag([1 if axes == "west" else -1, 1])


def _inverse_jacobian(grid: Grid, axes: Axes) -> np.ndarray:
    if axes == "pixel":
        return np.eye(2) / grid.pixel_scale
    inverse = np.linalg.inv(pixel_steps(grid)) @ directions(grid, axes)
    inverse[np.abs(inverse) < 1e-12 * np.abs(inverse).max()] = 0
    return inverse


def unit_factor(alpha: xr.DataArray) -> float:
    """Unit of a deflection map in arcsec."""
    unit = str(alpha.attrs.get("units", "") or "arcsec")
    try:
        return float(u.Unit(unit).to(u.arcsec))
    except (ValueError, TypeError, u.UnitConversionError):
        raise InputError(
            f"deflection map {alpha.name} is in {unit!r}, which is not an angle; convert it "
            "to arcsec"
        ) from None


# -- to another redshift ----------------------------------------------------------------------
def rescale(kappa: xr.DataArray, z_source: float, *, field: Field) -> xr.DataArray:
    """Scale a convergence to sources at another redshift, by the ratio of D_LS/D_S.

    Parameters
    ----------
    kappa : DataArray
        With the attribute ``z_source`` and, unless it is the field's, ``z_lens``.
    z_source : float
        The redshift wanted; inf means D_LS/D_S = 1.
    field : Field
        Cosmology, and the lens redshift of a map that does not say its own.

    Raises
    ------
    InputError
        If the map does not say its ``z_source``, belongs to another lens, or the source is not
        behind the lens.
    """
    if "z_source" not in kappa.attrs:
        raise InputError(
            f"the map {kappa.name or 'kappa'} does not say its z_source; open it with z_source=..."
        )
    check_lens(kappa, field)
    z_lens = float(kappa.attrs.get("z_lens", field.z_lens))
    factor = rescale_factor(
        z_lens, float(kappa.attrs["z_source"]), float(z_source), h0=field.h0, om0=field.om0
    )
    out = kappa * kappa.dtype.type(factor)
    return out.rename(kappa.name).assign_attrs(
        {**kappa.attrs, "z_lens": z_lens, "z_source": float(z_source)}
    )


def _open(path: Any, name: str | None, unit: str | None, default: str) -> xr.DataArray:
    """Open a map; ``default`` is the unit of one that does not say its own."""
    file = address(path)
    if unit is None and not store.is_store(file):
        unit = default if fitsio.inspect(file, natural=True).unit is None else None
    return open_map(file, name, unit=unit)


def _opened(image: xr.DataArray, axis: str, unit: str | None) -> xr.DataArray:
    """Component of a deflection that is open already."""
    image = as_map(image, f"the deflection along {axis}")
    return image if unit is None else image.assign_attrs(units=unit)


def _labelled(
    kappa: xr.DataArray, path: Any, z_lens: float | None, z_source: float | None
) -> xr.DataArray:
    """Name, no unit, and the redshifts."""
    known = redshifts(kappa, path, z_lens, z_source)
    return kappa.rename("kappa").assign_attrs({**kappa.attrs, "units": "", **known})


def redshifts(
    image: xr.DataArray, path: Any, z_lens: float | None, z_source: float | None
) -> dict[str, float]:
    """``z_lens``, ``z_source`` as far as known: as given, else the map's own, else the header's.

    Raises
    ------
    InputError
        If the source is not behind the lens.
    """
    given = {"z_lens": z_lens, "z_source": z_source}
    found = {k: v if v is not None else image.attrs.get(k) for k, v in given.items()}
    if any(v is None for v in found.values()) and not isinstance(path, xr.DataArray):
        header = _redshift_cards(path)
        found = {k: header.get(k) if v is None else v for k, v in found.items()}
    known = {k: float(v) for k, v in found.items() if v is not None}
    if len(known) == 2:
        rescale_factor(known["z_lens"], known["z_source"], known["z_source"])  # validates them
    return known


def _redshift_cards(path: Any) -> dict[str, float]:
    """Redshifts named in the headers of a FITS file; empty for zarr."""
    file = address(path)
    if store.is_store(file):
        return {}
    found: dict[str, float] = {}
    with fitsio.open_fits(fitsio.split_extension(file)[0]) as hdus:
        for hdu in hdus:
            for key, cards in _CARDS.items():
                for card in cards:
                    value = hdu.header.get(card)
                    if type(value) in (int, float) and value > 0:
                        found.setdefault(key, float(value))
    return found
