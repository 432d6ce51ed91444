"""Blocks of a mock's images: footprint, light, noise. Nothing is kept, nothing is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gcdask.grid import Grid
from gcdask.kernels import counts, render
from gcdask.masks import Flag
from gcdask.mosaic.source import Source
from gcdask.simulate import intensity, sources
from gcdask.simulate.model import BORDER, MJYSR_PER_NJY, TILT, Options, noise_kernel
from gcdask.simulate.psf import RADIUS

Kind = Literal["sci", "err", "objects", "total", "clusters"]
_STAR_SB = 5.0  # sigma of a pixel: surface brightness that belongs to a star or an arc
_OWN = 0.72  # of the Laplacian (px^-2): what G(1) - G(3) leaves of a smooth profile
_RIM = 0.3  # px, of the gradient: what the filters leave of it at the rim of a mask


def footprint(options: Options, module: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Whether pixels hold data: a tilted rectangle with two gaps that do not reach its border.

    ``y`` (n, 1) and ``x`` (1, m) are pixel indices; returns bool (n, m).
    """
    ny, nx = options.grid(module).shape
    cos, sin = np.cos(np.deg2rad(TILT)), np.sin(np.deg2rad(TILT))
    dx, dy = x - (nx - 1) / 2, y - (ny - 1) / 2
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    half_u = (nx / 2 - BORDER) / (cos + sin * ny / nx)
    half_v = (ny / 2 - BORDER) / (cos + sin * nx / ny)
    inside = (np.abs(u) < half_u) & (np.abs(v) < half_v)
    wide = 12.0
    upright = (np.abs(u - 0.06 * half_u) < wide) & (v > 0.3 * half_v) & (v < 0.8 * half_v)
    level = (np.abs(v + 0.22 * half_v) < wide) & (u > 0.35 * half_u) & (u < 0.82 * half_u)
    return inside & ~upright & ~level


def light(options: Options, module: int, band: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Noise-free light of a block ``(y0, y1, x0, x1)`` in nJy per pixel, float64."""
    y0, y1, x0, x1 = box
    scene, psf = sources.scene(options, module), options.psfs()[band]
    image = np.zeros((y1 - y0, x1 - x0))
    flux = np.ascontiguousarray(scene.galaxy_flux[:, band])
    render.galaxies(image, y0, x0, scene.galaxies, flux, scene.profiles)
    render.arcs(image, y0, x0, scene.arcs, np.ascontiguousarray(scene.arc_peak[:, band]))
    _add_stars(image, scene, psf, band, y0, x0)
    p = scene.points
    render.points(image, y0, x0, p.x, p.y, p.flux[band], p.start, sources.CELL, psf.table)
    return image


def _add_stars(
    image: np.ndarray, scene: sources.Scene, psf: Any, band: int, y0: int, x0: int
) -> None:
    flux = np.ascontiguousarray(scene.star_flux[:, band])
    x, y = (np.ascontiguousarray(scene.stars[:, k]) for k in (0, 1))
    core = flux * (1 - psf.outside)
    render.stars(image, y0, x0, x, y, core, flux, scene.star_reach, psf.table, psf.wing, psf.spikes)


def noise(options: Options, module: int, band: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Noise of unit variance for a block, keyed by the pixel; correlated if so wanted."""
    y0, y1, x0, x1 = box
    kernel = noise_kernel(options.correlated_noise)
    r = kernel.shape[0] // 2
    stream = options.stream("noise", module, options.bands[band])
    shape = (y1 - y0 + 2 * r, x1 - x0 + 2 * r)
    white = counts.normal_block(options.seed, stream, y0 - r, x0 - r, shape)
    if r == 0:
        return white.astype(np.float64)
    out = np.zeros((y1 - y0, x1 - x0))
    for i in range(2 * r + 1):
        for j in range(2 * r + 1):
            out += kernel[i, j] * white[i : i + out.shape[0], j : j + out.shape[1]]
    return out


def render_block(
    options: Options, module: int, band: int, box: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """``sci`` and ``err`` (MJy/sr, float32, NaN = no data) of a block ``(y0, y1, x0, x1)``.

    The variance is that of the background plus the Poisson noise of the light, with ``gain``
    electrons per MJy/sr.
    """
    y0, y1, x0, x1 = box
    flux = light(options, module, band, box) * MJYSR_PER_NJY
    background = (options.sigma_pixel * MJYSR_PER_NJY) ** 2
    err = np.sqrt(background + flux / options.gain)
    sci = flux + err * noise(options, module, band, box)
    hot = sources.scene(options, module).hot[band]
    y, x = hot[:, 0].astype(int), hot[:, 1].astype(int)
    near = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    np.add.at(sci, (y[near] - y0, x[near] - x0), hot[near, 2] * MJYSR_PER_NJY)
    bad = ~footprint(options, module, np.arange(y0, y1)[:, None], np.arange(x0, x1)[None])
    sci[bad] = np.nan
    err[bad] = np.nan
    return sci.astype(np.float32), err.astype(np.float32)


def objects_block(options: Options, module: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """True mask of objects (uint16 bits of `gcdask.masks.Flag`) of a block.

    EXTENDED: galaxies to the radius where their own profile leaves one sigma in the detection
    map, from its Laplacian and, but for the BCG, from its gradient, of which a mask's rim lets
    some through the filters; arcs where they are brighter than five sigma of a pixel;
    BRIGHT and SPIKE: the core of a star, and what is brighter than five sigma beyond it.
    """
    y0, y1, x0, x1 = box
    scene = sources.scene(options, module)
    flags = np.zeros((y1 - y0, x1 - x0), np.uint16)
    radius = galaxy_radii(options, scene)
    render.ellipses(flags, y0, x0, scene.galaxies, radius, int(Flag.EXTENDED))
    limit = _STAR_SB * options.sigma_pixel
    for band, psf in enumerate(options.psfs()):
        image = np.zeros(flags.shape)
        render.arcs(image, y0, x0, scene.arcs, np.ascontiguousarray(scene.arc_peak[:, band]))
        flags[image > limit] |= int(Flag.EXTENDED)
        image[:] = 0
        _add_stars(image, scene, psf, band, y0, x0)
        flags[image > limit] |= int(Flag.SPIKE)
    core = np.zeros((len(scene.stars), 7))
    core[:, :2], core[:, 2], core[:, 4] = scene.stars, 1, 1
    render.ellipses(flags, y0, x0, core, np.full(len(core), 2.0 * RADIUS), int(Flag.BRIGHT))
    return flags


def galaxy_radii(options: Options, scene: sources.Scene) -> np.ndarray:
    """Radius (px, along the major axis) to which each galaxy disturbs the detection map."""
    low, end = np.sqrt(scene.galaxies[:, 5:6]), np.sqrt(scene.galaxies[:, 6:7])
    r = (low + (end - low) * np.linspace(0, 1, scene.profiles.shape[1])) ** 2
    value = scene.profiles * scene.galaxy_flux.sum(1)[:, None]
    first = np.stack([np.gradient(v, s) for v, s in zip(value, r, strict=True)])
    second = np.stack([np.gradient(v, s) for v, s in zip(first, r, strict=True)])
    left = _OWN * np.abs(second + first / r)
    rim = np.where(np.isin(scene.kind, ["bcg", "icl"])[:, None], 0.0, _RIM * np.abs(first))
    left = np.maximum(left, rim) > options.sigma_detection
    last = left.shape[1] - 1 - np.argmax(left[:, ::-1], axis=1)
    return np.where(left.any(1), np.take_along_axis(r, last[:, None], 1)[:, 0], 0.0)


def intensity_block(options: Options, module: int, grid: Grid, kind: Kind) -> np.ndarray:
    """Sources above the catalogue level per arcsec^2 (float64) at the elements of ``grid``.

    Elements larger than 8 px are averages over 4 x 4 points.
    """
    k = 4 if grid.step >= 8 else 1
    part = ((np.arange(k) + 0.5) / k - 0.5) * grid.step
    y = (grid.y[:, None] + part).ravel()
    x = (grid.x[:, None] + part).ravel()
    px, py = np.meshgrid(x, y)
    if grid.header != options.grid(module).header:
        px, py = options.grid(module).pixel(*grid.sky(px, py))
    value = intensity.gc_intensity(options, module, px, py)
    value = value.reshape(grid.shape[0], k, grid.shape[1], k).mean((1, 3))
    return value + options.contamination if kind == "total" else value


@dataclass(frozen=True)
class Rendered(Source):
    """An image of a mock as a source: rendered where it is read, never stored.

    It holds the options only, so that it pickles to a few hundred bytes; each process makes its
    source lists once. ``kind`` is ``sci`` or ``err`` (of ``band``), ``objects``, or ``total`` or
    ``clusters`` (intensities on ``grid``).
    """

    options: Options
    module: int
    band: int
    kind: Kind
    grid: Grid

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """``(ny, nx)``."""
        return self.grid.shape

    @property
    def dtype(self) -> np.dtype:
        """float32 for images and intensities, uint16 for the objects."""
        return np.dtype(np.uint16 if self.kind == "objects" else np.float32)

    @property
    def path(self) -> str:
        """A name for messages."""
        return f"{self.kind} of module {self.module + 1} of a simulated field"

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Render the half-open window ``[y0:y1, x0:x1]``."""
        box = (y0, y1, x0, x1)
        if self.kind == "objects":
            return objects_block(self.options, self.module, box)
        if self.kind in ("sci", "err"):
            pair = render_block(self.options, self.module, self.band, box)
            return pair[self.kind == "err"]
        value = intensity_block(self.options, self.module, self.grid.cut(*box), self.kind)
        return value.astype(np.float32)
