"""Shapes that a user gives: DS9 regions, mask files, stars; on the pixels of one grid."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from regions import PixelRegion, Regions, SkyRegion

from gcdask import mosaic, storage
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.masks.rules import MaskRules


@dataclass(frozen=True)
class MaskPlan:
    """Rules made concrete for one grid: regions in pixels, opened mask files, stars in pixels."""

    rules: MaskRules
    grid: Grid
    regions: tuple[PixelRegion, ...]
    files: tuple[Any, ...]
    stars: tuple[tuple[float, float, float], ...]


def plan_mask(grid: Grid, rules: MaskRules) -> MaskPlan:
    """Read region and mask files once; raises `InputError` where one cannot be used."""
    stars: tuple[tuple[float, float, float], ...] = ()
    if rules.spikes and rules.spikes.stars:
        ra, dec, length = np.array(rules.spikes.stars, float).T
        x, y = grid.pixel(ra, dec)
        stars = tuple(
            zip(x.tolist(), y.tolist(), (length / grid.pixel_scale).tolist(), strict=True)
        )
    regions = tuple(r for path in rules.regions for r in read_regions(path, grid))
    files = tuple(_mask_file(path, grid) for path in rules.files)
    return MaskPlan(rules, grid, regions, files, stars)


def read_regions(path: str, grid: Grid) -> list[PixelRegion]:
    """Regions of a DS9 file in global pixels of ``grid``; those that it cannot show are left out.

    Raises
    ------
    InputError
        If the file does not exist, has a line that is not understood, or holds no region.
    """
    try:
        text = storage.read_bytes(path).decode()
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"region file {path} does not exist; check mask.regions") from None
    except UnicodeDecodeError as error:
        raise InputError(f"region file {path} is not a DS9 region file: {error}") from error
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", AstropyUserWarning)
            found = Regions.parse(text, format="ds9")
    except Exception as error:
        raise InputError(f"region file {path} is not a DS9 region file: {error}") from error
    # the reader skips what it does not know: pixels would silently stay unmasked
    notes = [str(w.message) for w in told]
    skipped = [n for n in notes if "metadata" not in n and "ignored" not in n]
    if skipped or not found:
        raise InputError(
            f"region file {path} is not usable: {skipped[0] if skipped else 'it has no region'}; "
            "save the regions from DS9 in image or sky (fk5, icrs) coordinates"
        )
    pixel = [_on_pixels(r, grid) for r in found]
    return [r for r in pixel if r is not None]


def _on_pixels(region: SkyRegion | PixelRegion, grid: Grid) -> PixelRegion | None:
    """A region in global pixels, None where the projection does not reach."""
    try:
        with np.errstate(invalid="ignore"):
            out = region.to_pixel(grid.wcs) if isinstance(region, SkyRegion) else region
            return out if out.bounding_box is not None else None
    except (ValueError, np.linalg.LinAlgError):  # of NaN coordinates
        return None


@dataclass(frozen=True)
class _Part:
    """A mask file on pixels that start ``y``, ``x`` px before the mosaic's."""

    source: Any
    y: int
    x: int

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        ys, xs = key
        part = (
            slice(ys.start + self.y, ys.stop + self.y),
            slice(xs.start + self.x, xs.stop + self.x),
        )
        return np.asarray(self.source[part])


def _mask_file(path: str, grid: Grid) -> _Part:
    """Open a mask file, which may cover more than ``grid`` (that of a cut-out)."""
    source, there = mosaic.open_plane(path)
    ny, nx = grid.shape
    y, x = np.array([0, 0, ny - 1, ny - 1]), np.array([0, nx - 1, 0, nx - 1])
    at_x, at_y = there.pixel(*grid.sky(grid.x[x], grid.y[y]))
    shift_y = (at_y - there.origin[0]) / there.step - y
    shift_x = (at_x - there.origin[1]) / there.step - x
    both = np.stack([shift_y, shift_x])
    first = np.round(both[:, 0]) if np.isfinite(both).all() else np.array([-1, -1])
    aligned = np.allclose(both, first[:, None], rtol=0, atol=1e-3)
    if not aligned or (first < 0).any() or (first + grid.shape > there.shape).any():
        raise InputError(
            f"mask file {path} has {there.shape} px on another grid than the mosaic "
            f"({grid.shape} px); reproject it onto the mosaic's pixels"
        )
    return _Part(source, int(first[0]), int(first[1]))
