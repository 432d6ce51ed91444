"""One band: its image with error and weight maps, and how it compares with another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs.utils import proj_plane_pixel_area

from gcdask import storage
from gcdask.errors import InputError
from gcdask.grid import Grid, same_wcs
from gcdask.mosaic import fitsio, units
from gcdask.mosaic.source import Scaled, Source, Weighted


@dataclass(frozen=True)
class Layer:
    """One band as it is on disk."""

    sci: Source
    err: Source | None
    grid: Grid
    unit: str
    label: str


def open_layer(
    path: str,
    *,
    err: str | None = None,
    weight: str | None = None,
    unit: str | None = None,
    damaged: str = "refuse",
) -> Layer:
    """Open the FITS image of one band; ``unit`` replaces BUNIT."""
    image = fitsio.inspect(path, damaged=damaged)
    assert image.grid is not None
    sci: Source = image.source
    if weight is not None:
        sci = Weighted(sci, _beside(image, weight, "weight", "WHT", damaged).source)
    errors = None
    text = pixel_unit(image, unit)
    if err is not None:
        source = _beside(image, err, "err", "ERR", damaged)
        ratio = ratio_of(
            pixel_unit(source, unit), text, image.grid, image.grid, source.label, image.label
        )
        errors = scaled(source.source, ratio)
    return Layer(sci, errors, image.grid, text, image.label)


def _beside(image: fitsio.Image, path: str, what: str, name: str, damaged: str) -> fitsio.Image:
    """Open the error or weight map of an image: its WCS may be missing, but not differ."""
    other = fitsio.inspect(path, prefer=(name,), need_wcs=False, damaged=damaged)
    if (other.source.file, other.source.hdu) == (image.source.file, image.source.hdu):
        raise InputError(
            f"{what} = {path} is the image itself; name the right HDU, e.g. {path}[{name}]"
        )
    if other.source.shape != image.source.shape:
        raise InputError(
            f"{other.label} has shape {other.source.shape}, but its image {image.label} "
            f"{image.source.shape}; give the {what} map of this image"
        )
    assert image.grid is not None
    if other.grid is not None and not same_grid(image.grid, other.grid):
        raise InputError(
            f"{other.label} ({what}) and its image {image.label} have different WCS: "
            f"{difference(image.grid, other.grid)}; give the {what} map of this image"
        )
    return other


def pixel_unit(image: fitsio.Image, given: str | None) -> str:
    """Return the unit of an image: the one given, or its BUNIT."""
    if given is not None:
        return units.canonical(given, image.label) if given.strip() else ""
    if image.unit is None or not image.unit.strip().strip("'\" "):
        state = "no BUNIT" if image.unit is None else f"an empty BUNIT ({image.unit!r})"
        raise InputError(
            f"{image.label} has {state}; give the unit of its pixels with unit=... (--unit, or "
            "mosaic.unit in a configuration), e.g. 'MJy/sr'"
        )
    return units.canonical(image.unit, image.label)


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether two grids have the same WCS; their shapes may differ."""
    return a.origin == b.origin and (a.header == b.header or same_wcs(a.wcs, b.wcs))


def difference(a: Grid, b: Grid) -> str:
    """Say how far apart two grids are."""
    x, y = a.center
    (bx, by), scales = b.pixel(*a.sky(x, y)), [np.sqrt(_area(g)) * 206264.806 for g in (a, b)]
    if not np.isfinite(bx + by):
        return "they do not overlap on the sky"
    text = f"the centre is off by {float(np.hypot(bx - x, by - y)):.4g} px"
    if abs(scales[0] / scales[1] - 1) > 1e-5:
        text += f", the pixel scale is {scales[1]:.5g} against {scales[0]:.5g} arcsec"
    corner = b.pixel(*a.sky(a.x[-1], a.y[-1]))
    far = float(np.hypot(corner[0] - a.x[-1], corner[1] - a.y[-1]))
    return f"{text} and the corner by {far:.4g} px"


def _area(grid: Grid) -> float:
    """Area of a pixel in sr."""
    return float(proj_plane_pixel_area(grid.wcs)) * (np.pi / 180) ** 2


def ratio_of(unit: str, reference: str, grid: Grid, onto: Grid, label: str, first: str) -> float:
    """Return the factor from ``unit`` on ``grid`` to ``reference`` on ``onto``, or raise."""
    ratio = units.factor(unit, reference, _area(grid), _area(onto))
    if ratio is None:
        raise InputError(
            f"{label} is in {unit or 'no unit'}, which does not convert to "
            f"{reference or 'no unit'} of {first}; convert the image, or give its true unit with "
            "unit=... (--unit)"
        )
    return ratio


def scaled(source: Source, ratio: float) -> Source:
    """Multiply a source, unless by one."""
    return source if ratio == 1 else Scaled(source, ratio)


def band_name(path: str) -> str:
    """Name a band after its FILTER keyword, or else after its file."""
    found = fitsio.inspect(path, damaged="look").filter
    if found and found != "clear":
        return found
    return storage.basename(fitsio.split_extension(path)[0]).split(".")[0]
