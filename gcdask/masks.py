"""Which pixels do not count, and why: one bit for each cause (paper, section 3).

Bits that depend on pixels around (bright, extended) need a window; those that depend on the field
(edge frame, spikes) need the survey; regions and mask files are looked up. `mask_window` makes
them all for one window, and both roads call it: the pipeline's tiles and `build_mask`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntFlag
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import xarray as xr
from astropy.utils.exceptions import AstropyUserWarning
from regions import PixCoord, PixelRegion, Regions, SkyRegion

from gcdask import mosaic as mosaics
from gcdask.errors import InputError
from gcdask.grid import Grid, Tile
from gcdask.kernels import highpass as hp
from gcdask.survey import Survey, SurveyPlan, combine, survey_window
from gcdask.tiles import dask_image, map_windows, windows


class Flag(IntFlag):
    """Bits of a mask; a pixel counts where no bit is set."""

    NODATA = 1  #: no band has, or not every band has, a finite value
    EDGE = 2  #: within the frame along the footprint's edge, or outside the footprint
    BRIGHT = 4  #: near a bright peak of the filtered image
    LUMINOUS = 8  #: near a luminous peak that was left after masking
    SPIKE = 16  #: diffraction spikes and core of a bright star
    EXTENDED = 32  #: core of a galaxy, or an arc
    REGION = 64  #: inside a region of a DS9 file
    USER = 128  #: set in a mask file


#: Attributes of a mask variable after the CF conventions.
FLAG_ATTRS = {
    "flag_masks": [int(f) for f in Flag],
    "flag_meanings": " ".join(f.name.lower() for f in Flag if f.name),
}


@dataclass(frozen=True)
class Rule:
    """Mask what a band-passed image shows above ``nsigma``, grown by ``dilate`` px.

    ``fwhm`` are the two Gaussians in px, sigma is the local noise of the survey.
    """

    nsigma: float
    dilate: int
    fwhm: tuple[float, float] = (0.5, 5.0)


@dataclass(frozen=True)
class Spikes:
    """Mask stars and their spikes.

    Parameters
    ----------
    auto : bool
        Whether stars are looked for.
    nsigma : float
        Candidates are band-passed maxima above this many sigma.
    contrast : float
        How many sigma the spikes of a candidate must stand out to call it a star.
    angles : tuple of float, or None
        Position angles of the spikes in deg, north through east; None takes JWST's six at the
        angle that the field's stars agree on.
    length, core, width : float
        Arcsec: length of a spike and radius of the core of a star of S/N 1000 (they grow with
        the square and the cubic root of S/N), and width of a spike.
    stars : tuple of (ra, dec, length)
        Stars given by hand (deg, deg, arcsec), masked whatever the image shows.
    """

    auto: bool = True
    nsigma: float = 300.0
    contrast: float = 6.0
    angles: tuple[float, ...] | None = None
    length: float = 1.2
    core: float = 0.45
    width: float = 0.25
    stars: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class MaskRules:
    """What to mask; ``edge`` in arcsec, None switches a cause off."""

    edge: float = 6.6
    bright: Rule | None = Rule(nsigma=150.0, dilate=6)
    luminous: Rule | None = Rule(nsigma=150.0, dilate=5)
    extended: Rule | None = Rule(nsigma=25.0, dilate=6, fwhm=(4.0, 25.0))
    spikes: Spikes | None = Spikes()
    regions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def survey_plan(self, shape: tuple[int, int], **options: Any) -> SurveyPlan:
        """The survey that these rules need on a field of ``shape``."""
        if self.extended:
            options["extended"] = self.extended.fwhm
        star_nsigma = self.spikes.nsigma if self.spikes and self.spikes.auto else None
        return SurveyPlan(shape, star_nsigma=star_nsigma, **options)

    @property
    def halo(self) -> int:
        """Pixels around a core that its mask depends on."""
        return max(
            (hp.halo(r.fwhm) + r.dilate for r in (self.bright, self.extended) if r), default=0
        )


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
    if not Path(path).is_file():
        raise InputError(f"region file {path} does not exist; check mask.regions")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", AstropyUserWarning)
            found = Regions.read(path, format="ds9")
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
    source, there = mosaics.open_plane(path)
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


# -- one window ----------------------------------------------------------------------------------
def mask_window(tile: Tile, image: np.ndarray, plan: MaskPlan, survey: Survey) -> np.ndarray:
    """Bits of one window, right in all pixels at least `MaskRules.halo` from its inner borders.

    Parameters
    ----------
    image : (h, w) float32 array
        Sum over bands, NaN where there are no data.

    Returns
    -------
    (h, w) uint16 array
        Every cause but ``LUMINOUS``, which needs the masked image (`gcdask.detect.chain`).
    """
    good = np.isfinite(image)
    bits = np.where(good, 0, Flag.NODATA).astype(np.uint16)
    row, column = (np.arange(s.start, s.stop) for s in tile.slices)
    y, x = plan.grid.y[row], plan.grid.x[column]  # global, where a cut-out counts from elsewhere
    rules, scale = plan.rules, plan.grid.pixel_scale
    distance = survey.edge_distance(row, column)
    # the coarse distance reaches less than a cell beyond the footprint
    outside = ~good & (distance < survey.plan.footprint_cell)
    bits[(distance * scale < rules.edge) | (distance <= 0) | outside] |= np.uint16(Flag.EDGE)
    for rule, flag, noise in (
        (rules.bright, Flag.BRIGHT, "first"),
        (rules.extended, Flag.EXTENDED, "extended"),
    ):
        if rule:
            filtered = hp.highpass(image, good, rule.fwhm)
            with np.errstate(invalid="ignore"):
                above = filtered > rule.nsigma * survey.noise(noise, row, column)
            bits[hp.dilate(above, rule.dilate)] |= np.uint16(flag)
    if rules.spikes:
        bits[_spikes(y, x, plan, survey)] |= np.uint16(Flag.SPIKE)
    if plan.regions:
        bits[_inside(y, x, plan.regions)] |= np.uint16(Flag.REGION)
    for source in plan.files:
        values = source[tile.slices]
        bits[~np.isfinite(values) | (values != 0)] |= np.uint16(Flag.USER)
    return bits


def _inside(y: np.ndarray, x: np.ndarray, regions: Sequence[PixelRegion]) -> np.ndarray:
    """Pixels whose centre lies in a region; excluded regions (``-circle(...)``) take away."""
    out = np.zeros((y.size, x.size), bool)
    ordered = sorted(regions, key=lambda r: not r.meta.get("include", True))
    for region in ordered:
        box = region.bounding_box
        ys = slice(*np.clip([box.iymin - y[0], box.iymax - y[0]], 0, y.size))
        xs = slice(*np.clip([box.ixmin - x[0], box.ixmax - x[0]], 0, x.size))
        if ys.stop <= ys.start or xs.stop <= xs.start:
            continue
        yy, xx = np.meshgrid(y[ys], x[xs], indexing="ij")
        include = region.meta.get("include", True)
        shape = region.copy()
        shape.meta["include"] = True
        hit = shape.contains(PixCoord(xx, yy))
        out[ys, xs] = (out[ys, xs] | hit) if include else (out[ys, xs] & ~hit)
    return out


def star_table(plan: MaskPlan, survey: Survey) -> pd.DataFrame:
    """Stars that are masked: ``x``, ``y`` and, in px, ``length`` of spikes and ``core`` radius."""
    spikes, scale = plan.rules.spikes, plan.grid.pixel_scale
    if spikes is None:
        return pd.DataFrame({k: np.array([]) for k in ("x", "y", "length", "core")})
    given = pd.DataFrame(plan.stars, columns=["x", "y", "length"], dtype=float)
    given["core"] = spikes.core / scale
    if survey.stars is None:
        return given
    found = survey.stars[survey.stars["contrast"] >= spikes.contrast]
    s = found["snr"].to_numpy() / 1000
    y0, x0 = plan.grid.origin
    auto = pd.DataFrame(
        {
            "x": found["x"].to_numpy() + x0,
            "y": found["y"].to_numpy() + y0,
            "length": spikes.length / scale * np.sqrt(s),
            "core": spikes.core / scale * np.cbrt(s),
        }
    )
    return pd.concat([given, auto], ignore_index=True)


def _spikes(y: np.ndarray, x: np.ndarray, plan: MaskPlan, survey: Survey) -> np.ndarray:
    """Pixels of the stars' cores and spikes in a window at global ``y``, ``x``."""
    out = np.zeros((y.size, x.size), bool)
    assert plan.rules.spikes is not None
    given = plan.rules.spikes.angles
    phase = survey.angle if np.isfinite(survey.angle) else 30.0
    angles = phase + 60 * np.arange(6)
    half = plan.rules.spikes.width / plan.grid.pixel_scale / 2
    table = star_table(plan, survey)[["x", "y", "length", "core"]].to_numpy(float)
    for at_x, at_y, length, core in table:
        reach = max(length, core) + half
        ys = slice(*np.searchsorted(y, [at_y - reach, at_y + reach]))
        xs = slice(*np.searchsorted(x, [at_x - reach, at_x + reach]))
        if ys.stop <= ys.start or xs.stop <= xs.start:
            continue
        dy, dx = (y[ys] - at_y)[:, None], x[xs] - at_x
        hit = dy**2 + dx**2 <= core**2
        if given is not None:
            angles = _pixel_angles(given, plan.grid, at_x, at_y)
        for angle in np.deg2rad(angles):
            cos, sin = np.cos(angle), np.sin(angle)
            along, across = dx * cos + dy * sin, dy * cos - dx * sin
            hit |= (along >= 0) & (along <= length) & (np.abs(across) <= half)
        out[ys, xs] |= hit
    return out


def _pixel_angles(position_angles: Sequence[float], grid: Grid, x: float, y: float) -> np.ndarray:
    """Directions on the pixels at ``x``, ``y``, deg from +x to +y, of position angles."""
    ra, dec = grid.sky(x, y)
    pa, far = np.deg2rad(position_angles), 1 / 3600
    to_x, to_y = grid.pixel(ra + far * np.sin(pa) / np.cos(np.deg2rad(dec)), dec + far * np.cos(pa))
    return np.asarray(np.rad2deg(np.arctan2(to_y - y, to_x - x)))


# -- any dask array ------------------------------------------------------------------------------
def build_mask(
    mosaic: xr.Dataset,
    *,
    rules: MaskRules | None = None,
    bands: Sequence[str] | None = None,
    **changes: Any,
) -> xr.DataArray:
    """Mask of a mosaic by cause: no-data, edge frame, bright and extended sources, spikes, regions.

    Parameters
    ----------
    mosaic : Dataset
        ``sci`` with dims ``(band, y, x)``; a pixel has data where every band is finite.
    rules : MaskRules, optional
        What to mask; the defaults suit deep NIRCam mosaics at 0.03 arcsec/px.
    bands : sequence of str, optional
        The bands that are summed (all).
    **changes
        Fields of `MaskRules` to change, e.g. ``edge=0``, ``regions=("stars.reg",)``.

    Returns
    -------
    DataArray
        uint16 bits (`Flag`), dims ``(y, x)``, chunks of the mosaic; CF flag attributes. Lazy: the
        coarse survey of the whole field is one of its tasks. `detection_map` adds the luminous
        peaks, which need the masked image.

    Raises
    ------
    InputError
        For a region or mask file that cannot be read or lies on another grid, an unknown band, or
        an option that `MaskRules` does not have.
    """
    image = band_sum(mosaic, bands)
    grid = Grid.of(image)
    known = [f.name for f in fields(MaskRules)]
    for name in changes:
        if name not in known:
            raise InputError(f"build_mask has no option {name!r}; it has {', '.join(known)}")
    chosen = replace(rules or MaskRules(), **changes)
    plan = plan_mask(grid, chosen)
    survey = survey_image(image, chosen)
    data = map_windows(_mask_core, [image.data], chosen.halo, plan, survey, dtype=np.uint16)
    return grid.wrap(data, "mask", "", **FLAG_ATTRS)


def band_sum(mosaic: xr.Dataset, bands: Sequence[str] | None = None) -> xr.DataArray:
    """Lazy equal-weight sum over bands, NaN where any band has no data; dims ``(y, x)``."""
    if "sci" not in mosaic:
        raise InputError(
            f"the mosaic has no variable 'sci' ({list(mosaic)}); open it with gcdask.open_mosaic"
        )
    sci = mosaic["sci"]
    if bands is not None:
        there = [str(b) for b in sci["band"].values]
        missing = [b for b in bands if b not in there]
        if missing or not len(bands):
            what = f"band {missing[0]!r} is not in the mosaic" if missing else "no band is named"
            raise InputError(f"{what}; it has {there}")
        sci = sci.sel(band=list(bands))
    total = sci.isel(band=0).drop_vars("band")
    for k in range(1, sci.sizes["band"]):  # in this order, as tiles.read_sum adds them
        total = total + sci.isel(band=k).drop_vars("band")
    total = total.astype(np.float32)
    total.attrs = {**sci.attrs, "wcs": Grid.of(mosaic).header}
    return total.copy(data=dask_image(total))


def survey_image(image: xr.DataArray, rules: MaskRules, **options: Any) -> Any:
    """The survey of a lazy 2-D image, as one delayed object."""
    plan = rules.survey_plan(Grid.of(image).shape, **options)
    task = dask.delayed(survey_window, pure=True)
    pieces = [task(tile, block, plan) for tile, (block,) in windows([image.data], plan.halo)]
    return dask.delayed(combine, pure=True)(pieces, plan)


def _mask_core(tile: Tile, image: np.ndarray, plan: MaskPlan, survey: Survey) -> np.ndarray:
    return mask_window(tile, image, plan, survey)[tile.inner]


def shares(bits: np.ndarray) -> dict[str, int]:
    """Pixels per cause (a pixel can have several), masked pixels and all pixels of ``bits``."""
    counts = {f.name.lower(): int(np.count_nonzero(bits & f)) for f in Flag if f.name}
    return {**counts, "masked": int(np.count_nonzero(bits)), "pixels": int(bits.size)}
