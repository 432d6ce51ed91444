"""What shines in a mock: clusters, contaminants, galaxies, arcs, stars and hot pixels."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import gammaincinv
from scipy.stats import norm

from gcdask.kernels import dpie
from gcdask.simulate import model
from gcdask.simulate.model import SCALE, Options, flux_of, gc_colours
from gcdask.simulate.psf import RADIUS

CELL = 32  # px: point sources are sorted by cells of this size
KAPPA_MAX = 2.0  # convergence above which the clusters' intensity grows no more
CORE_RADIUS, NORM_RADIUS = 13.0, 60.0  # arcsec: of `cored`; of the circle that holds n_gc
NODES = 512  # of a galaxy's radial profile
SOFT = 0.8  # px: softening of galaxies' cusps, in place of the PSF
FAINT_SB = 0.05  # galaxies end where they fall below this part of a pixel's noise
_lock = threading.RLock()


@dataclass(frozen=True, eq=False)
class Points:
    """Point sources of a module, sorted by cell: positions (px) and fluxes (nJy; bands x n)."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    gc: np.ndarray
    start: np.ndarray


@dataclass(frozen=True, eq=False)
class Scene:
    """All light of one module.

    Attributes
    ----------
    points : Points
        Globular clusters and contaminants.
    galaxies, profiles, galaxy_flux, kind : arrays
        ``(n, 7)`` shapes and ``(n, NODES)`` radial profiles (total flux 1) as
        `gcdask.kernels.render.galaxies` wants them, fluxes ``(n, bands)`` in nJy, and the class
        of each: "bcg", "icl", "member" or "background".
    arcs, arc_flux, arc_peak : arrays
        Shapes ``(n, 7)``, total fluxes and central surface brightness ``(n, bands)`` in nJy.
    stars, star_flux, star_reach : arrays
        ``(n, 2)`` positions x, y, fluxes ``(n, bands)`` and radii (px) at which they end.
    hot : tuple of (k, 3) arrays
        Per band ``y, x`` and height (nJy).
    """

    points: Points
    galaxies: np.ndarray
    profiles: np.ndarray
    galaxy_flux: np.ndarray
    kind: np.ndarray
    arcs: np.ndarray
    arc_flux: np.ndarray
    arc_peak: np.ndarray
    stars: np.ndarray
    star_flux: np.ndarray
    star_reach: np.ndarray
    hot: tuple[np.ndarray, ...]


def scene(options: Options, module: int) -> Scene:
    """All light of a module; made once per process."""
    with _lock:
        return _scene(options, module)


@lru_cache(maxsize=8)
def _scene(options: Options, module: int) -> Scene:
    shape, profiles, flux, kind = _galaxies(options, module)
    arcs, arc_flux, arc_peak = _arcs(options, module)
    stars, star_flux, reach = _stars(options, module)
    points, hot = _points(options, module), _hot(options, module)
    return Scene(
        points, shape, profiles, flux, kind, arcs, arc_flux, arc_peak, stars, star_flux, reach, hot
    )


# -- the clusters' intensity --------------------------------------------------------------------
@lru_cache(maxsize=8)
def members(options: Options) -> dict[str, np.ndarray]:
    """Member galaxies, brightest first: arrays ``west, north, e, angle, luminosity``.

    Positions are in arcsec from the BCG, luminosities in L*. They follow a cored profile elongated like the halo; magnitudes rise as 10^(0.25 m) over six
    magnitudes below 0.9 mag brighter than L* (F150W 19.3 at this redshift).
    """
    rng, n = options.rng("members"), options.members
    u = rng.random(n)
    radius = 25.0 * np.sqrt((1 + (220 / 25.0) ** 2) ** u - 1)  # n ~ 1 / (r^2 + 25"^2) to 220"
    keep = np.maximum(radius, 2.5)  # none on top of the BCG
    phi = rng.uniform(0, 2 * np.pi, n)
    major, minor = keep * np.cos(phi) * 1.25, keep * np.sin(phi) * 0.8
    angle = np.deg2rad(-36.0)
    west = major * np.cos(angle) - minor * np.sin(angle)
    north = major * np.sin(angle) + minor * np.cos(angle)
    slope, span = 0.25, 6.0
    top = -0.9 + np.log10(1 + rng.random(n) * (10 ** (slope * span) - 1)) / slope
    e, turn = rng.uniform(0, 0.5, n), rng.uniform(0, 180, n)
    order = np.argsort(top, kind="stable")
    out = {"west": west, "north": north, "e": e, "angle": turn, "luminosity": 10 ** (-0.4 * top)}
    return {name: value[order] for name, value in out.items()}


@lru_cache(maxsize=8)
def lens_table(options: Options) -> np.ndarray:
    """Potentials for `gcdask.kernels.dpie`."""
    return model.potential_table(model.potentials(members(options)))


def shape_of_intensity(options: Options, west: np.ndarray, north: np.ndarray) -> np.ndarray:
    """The clusters' intensity up to a factor, at offsets (arcsec) of Lenstool's kind."""
    if options.profile == "cored":
        angle = np.deg2rad(-36.0)
        major = west * np.cos(angle) + north * np.sin(angle)
        minor = north * np.cos(angle) - west * np.sin(angle)
        return 1 / (1 + ((major * 0.85) ** 2 + (minor / 0.85) ** 2) / CORE_RADIUS**2)
    kappa = dpie.kappa_infinity(west, north, lens_table(options))
    kappa = kappa * model.lens_field().distance_ratio(model.Z_SOURCE)
    return np.minimum(kappa, KAPPA_MAX) ** options.g


@lru_cache(maxsize=8)
def intensity_factor(options: Options) -> float:
    """GCs above the catalogue level per arcsec^2 for `shape_of_intensity` = 1."""
    step = 0.4
    side = np.arange(-NORM_RADIUS + step / 2, NORM_RADIUS, step)
    west, north = np.meshgrid(side, side)
    inside = west**2 + north**2 < NORM_RADIUS**2
    total = shape_of_intensity(options, west[inside], north[inside]).sum() * step**2
    return float(options.n_gc / total)


def offsets(options: Options, module: int, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (west, north) in arcsec of pixels from the BCG, as Lenstool has them."""
    ra, dec = options.grid(module).sky(x, y)
    ra0, dec0 = model.CENTER
    turn = (ra - ra0 + 180) % 360 - 180
    return -turn * np.cos(np.deg2rad(dec0)) * 3600, (dec - dec0) * 3600


def pixels_of(options: Options, module: int, west: Any, north: Any) -> tuple[Any, Any]:
    """Pixels ``(x, y)`` of offsets from the BCG; inverse of `offsets`."""
    ra0, dec0 = model.CENTER
    ra = ra0 - np.asarray(west) / 3600 / np.cos(np.deg2rad(dec0))
    return options.grid(module).pixel(ra, dec0 + np.asarray(north) / 3600)


def gc_intensity(options: Options, module: int, x: Any, y: Any) -> np.ndarray:
    """GCs above the catalogue level per arcsec^2 at pixels of a module."""
    west, north = offsets(options, module, x, y)
    return intensity_factor(options) * shape_of_intensity(options, west, north)


# -- point sources ------------------------------------------------------------------------------
@lru_cache(maxsize=8)
def luminosity_functions(options: Options) -> dict[str, float]:
    """Faint limits (reference-band magnitudes) and injected sources per catalogued one.

    A source of true S/N ``s`` is catalogued above ``level`` with the probability that noise of
    unit variance lifts it there, Phi(s - level); sources are injected down to ``faintest`` times
    the level. ``gc`` and ``other`` multiply the intensities above the catalogue level.
    """
    colours = gc_colours(options.bands)
    m_level = 2.5 * np.log10(options.signal(colours) / options.level)  # M_V at the level
    m_faint = m_level - 2.5 * np.log10(options.faintest)
    m = np.linspace(m_level - 12, m_faint, 20001)
    s = options.level * 10 ** (-0.4 * (m - m_level))
    seen = norm.cdf(s - options.level)
    gclf = norm.pdf(m, model.TURNOVER, model.WIDTH)
    power = np.where(m > m_level - 5, 10 ** (0.4 * m), 0.0)
    return {
        "level": float(m_level),
        "faint": float(m_faint),
        "gc": float(gclf.sum() / (gclf * seen).sum()),
        "other": float(power.sum() / (power * seen).sum()),
    }


def _points(options: Options, module: int) -> Points:
    lf = luminosity_functions(options)
    colours = gc_colours(options.bands)
    rng = options.rng("gc", module)
    x, y = _thin(options, module, rng, lf["gc"])
    low = norm.cdf((lf["faint"] - model.TURNOVER) / model.WIDTH)
    mag = model.TURNOVER + model.WIDTH * norm.ppf(low * (1 - rng.random(x.size)))
    flux = flux_of(mag[:, None] + colours + _scatter(options, "gc", module, x.size, 0.05))

    rng = options.rng("contaminant", module)
    ny, nx = options.grid(module).shape
    wide = 2 * (RADIUS + 1)
    expected = options.contamination * lf["other"] * (ny + wide) * (nx + wide) * SCALE**2
    n = rng.poisson(expected)
    cx, cy = (rng.uniform(-RADIUS - 1.5, size + RADIUS + 0.5, n) for size in (nx, ny))
    bright = 10 ** (0.4 * (lf["level"] - 5 - lf["faint"]))  # 5 mag above the level, none beyond
    cmag = lf["faint"] + 2.5 * np.log10(bright + (1 - bright) * (1 - rng.random(n)))
    other = flux_of(cmag[:, None] + colours + _scatter(options, "contaminant", module, n, 0.2))

    x, y = np.append(x, cx), np.append(y, cy)
    flux, gc = np.concatenate([flux, other]), np.append(np.ones(mag.size, bool), np.zeros(n, bool))
    return _sorted(x, y, flux, gc, (ny, nx))


def _scatter(options: Options, name: str, module: int, n: int, sigma: float) -> np.ndarray:
    """Scatter of colours, from a stream per band so that it does not depend on which are made."""
    draws = [options.rng(name, module, b).normal(0, sigma, n) for b in options.bands]
    return np.stack(draws, axis=1)


def _sorted(x: Any, y: Any, flux: Any, gc: Any, shape: tuple[int, int]) -> Points:
    rows, columns = (-(-n // CELL) + 2 for n in shape)
    cell = (np.floor(y / CELL) + 1).astype(np.int64) * columns
    cell += (np.floor(x / CELL) + 1).astype(np.int64)
    order = np.lexsort((x, y, cell))
    first = np.searchsorted(cell[order], np.arange(rows * columns + 1))
    start = first[np.arange(rows)[:, None] * columns + np.arange(columns + 1)]
    flux = np.ascontiguousarray(flux[order].T)
    return Points(x[order], y[order], flux, gc[order], start.astype(np.int64))


def _thin(
    options: Options, module: int, rng: np.random.Generator, factor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of an inhomogeneous Poisson process of `gc_intensity` times ``factor``.

    Candidates come from a bound per cell of 16 px (the maximum over its corners, edges, middle
    and the lens's potentials in it, where kappa peaks, plus a tenth) and are thinned with the
    intensity itself, so that kappa is never evaluated on all pixels.
    """
    ny, nx = options.grid(module).shape
    cell, margin = 16, 16
    my, mx = (-(-(n + 2 * margin) // cell) for n in (ny, nx))
    y = np.arange(2 * my + 1) * cell / 2 - margin - 0.5
    x = np.arange(2 * mx + 1) * cell / 2 - margin - 0.5
    value = gc_intensity(options, module, *np.meshgrid(x, y))
    view = np.lib.stride_tricks.sliding_window_view(value, (3, 3))[::2, ::2]
    bound = view.max((2, 3))
    table = lens_table(options)
    px, py = pixels_of(options, module, table[:, dpie.X], table[:, dpie.Y])
    top = gc_intensity(options, module, px, py)
    i, j = (np.floor((p + margin + 0.5) / cell).astype(int) for p in (py, px))
    inside = (i >= 0) & (i < my) & (j >= 0) & (j < mx)
    np.maximum.at(bound, (i[inside], j[inside]), top[inside])
    bound = 1.1 * factor * bound * SCALE**2  # per px^2
    counts = rng.poisson(bound * cell**2).ravel()
    k = np.repeat(np.arange(counts.size), counts)
    cy = (k // mx + rng.random(k.size)) * cell - margin - 0.5
    cx = (k % mx + rng.random(k.size)) * cell - margin - 0.5
    intensity = factor * SCALE**2 * gc_intensity(options, module, cx, cy)
    keep = rng.random(k.size) * bound.ravel()[k] < intensity
    keep &= (np.maximum(-cy, cy - ny) < RADIUS + 1) & (np.maximum(-cx, cx - nx) < RADIUS + 1)
    return cx[keep], cy[keep]


# -- extended sources ---------------------------------------------------------------------------
def _galaxies(options: Options, module: int) -> tuple[np.ndarray, ...]:
    """Shapes, profiles, fluxes and classes of the galaxies that reach into a module."""
    red = gc_colours(options.bands)
    red = red - (model.DISTANCE_MODULUS + model.COLOUR["F150W"] - 0.3242)
    halo = _direction(options, module, -36.0)
    west = [np.zeros(2), members(options)["west"]]
    north = [np.zeros(2), members(options)["north"]]
    m = members(options)
    rng, n = options.rng("shapes"), options.members
    root = np.sqrt(m["luminosity"])
    px, py = pixels_of(options, module, np.concatenate(west), np.concatenate(north))
    q = np.append([0.75, 0.55], np.sqrt((1 - m["e"]) / (1 + m["e"])))
    turn = np.append([halo, halo], [_direction(options, module, a) for a in m["angle"]])
    radius = np.append([4.5, 26.0], 0.75 * root * 10 ** rng.normal(0, 0.12, n))
    index = np.append([4.0, 1.4], rng.choice([1.5, 2.5, 4.0], n, p=[0.3, 0.4, 0.3]))
    mag = np.append([16.7, 16.4], 19.3 - 2.5 * np.log10(m["luminosity"]))[:, None] + red
    kind = np.array(["bcg", "icl"] + ["member"] * n)
    parts = [(px, py, turn, q, radius / SCALE, index, mag, kind)]

    rng = options.rng("background", module)
    ny, nx = options.grid(module).shape
    pad = 100
    area = (ny + 2 * pad) * (nx + 2 * pad) * SCALE**2 / 3600
    k = rng.poisson(options.background * area)
    bx, by = (rng.uniform(-pad, size + pad, k) for size in (nx, ny))
    bmag = 20.5 + np.log10(1 + rng.random(k) * (10 ** (0.3 * 6) - 1)) / 0.3
    size = 0.35 * 10 ** (-0.08 * (bmag - 23) + rng.normal(0, 0.15, k)) / SCALE
    blue = rng.normal(0.1, 0.25, k)[:, None] * np.linspace(1, -0.5, len(options.bands))
    colour = blue + 0 * red
    sersic = rng.choice([1.0, 1.5, 2.5], k, p=[0.6, 0.25, 0.15])
    bturn, bq = rng.uniform(0, np.pi, k), rng.uniform(0.3, 1, k)
    parts.append((bx, by, bturn, bq, size, sersic, bmag[:, None] + colour, ["background"] * k))
    columns = [np.concatenate(c) for c in zip(*parts, strict=True)]
    return _profiles(options, module, *columns)


def _direction(options: Options, module: int, angle: float) -> float:
    """Angle (rad) from +x of a direction ``angle`` (deg) from west towards north on the sky."""
    west, north = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    x, y = pixels_of(options, module, [0, west], [0, north])
    return float(np.arctan2(y[1] - y[0], x[1] - x[0]))


def sersic_b(index: Any) -> Any:
    """b_n of the Sersic profile: half of the light inside the effective radius."""
    return gammaincinv(2 * np.asarray(index, float), 0.5)


def _profiles(
    options: Options, module: int, x: Any, y: Any, turn: Any, q: Any, radius: Any, index: Any,
    mag: Any, kind: Any,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Tabulate truncated Sersic profiles of unit flux; keep those that reach the module.

    A profile ends, smoothly (the value there is subtracted), where its brightest band falls below
    `FAINT_SB` of a pixel's noise.
    """
    flux = flux_of(mag)
    b = sersic_b(index)
    grid = np.geomspace(SOFT, 6000, 600)
    curve = np.exp(-b[:, None] * ((grid / radius[:, None]) ** (1 / index[:, None])))
    total = 2 * np.pi * q * np.trapezoid(curve * grid, grid, axis=1)
    bright = curve * (flux.max(1) / total)[:, None] > FAINT_SB * options.sigma_pixel
    end = grid[np.maximum(bright.sum(1) - 1, 0)] + 2
    ny, nx = options.grid(module).shape
    near = (x + end > 0) & (x - end < nx) & (y + end > 0) & (y - end < ny)
    x, y, turn, q, radius, index, b, end, flux, kind = (
        v[near] for v in (x, y, turn, q, radius, index, b, end, flux, kind)
    )
    low = np.sqrt(SOFT)
    t = low + (np.sqrt(end) - low)[:, None] * np.linspace(0, 1, NODES)
    r = t**2
    value = np.exp(-b[:, None] * (r / radius[:, None]) ** (1 / index[:, None]))
    value -= value[:, -1:]
    # r is softened: r dr of the plane is r dr of the table, from SOFT outwards
    value /= (2 * np.pi * q * np.trapezoid(value * 2 * t**3, t, axis=1))[:, None]
    shape = np.stack([x, y, np.cos(turn), np.sin(turn), q, np.full(x.size, SOFT), end], axis=1)
    return np.ascontiguousarray(shape), np.ascontiguousarray(value), flux, kind


def _arcs(options: Options, module: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tangential strips about the cluster's centre, 1-4" long and 0.1-0.2" wide."""
    rng, n = options.rng("arcs"), options.arcs
    distance = rng.uniform(9, 32, n) / SCALE
    phi = rng.uniform(0, 2 * np.pi, n)
    half = rng.uniform(0.6, 2.0, n) / SCALE
    width = rng.uniform(0.1, 0.2, n) / 2 / 0.51 / SCALE  # FWHM is 1.02 widths
    mag = rng.uniform(23.0, 24.5, n)[:, None] + np.linspace(0.1, -0.1, len(options.bands))
    curvature = distance * rng.uniform(0.3, 0.8, n)
    ux, uy = np.cos(phi), np.sin(phi)
    bx, by = options.bcg(module)
    x, y = bx + (distance - curvature) * ux, by + (distance - curvature) * uy
    # integral of (1 - s^2)^2: 16/15 half; of (1 + d^2)^-3: 3 pi / 8 width
    flux = flux_of(mag)
    peak = flux / (16 / 15 * half * 3 * np.pi / 8 * width)[:, None]
    shape = np.stack([x, y, ux, uy, curvature, half, width], axis=1)
    ny, nx = options.grid(module).shape
    mx, my = bx + distance * ux, by + distance * uy
    reach = half + 6 * width
    near = (mx + reach > 0) & (mx - reach < nx) & (my + reach > 0) & (my - reach < ny)
    return np.ascontiguousarray(shape[near]), flux[near], peak[near]


def _stars(options: Options, module: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Foreground stars of AB 17-21, none within a sixth of the field of the BCG."""
    rng = options.rng("stars", module)
    ny, nx = options.grid(module).shape
    first = options.grid(0).shape
    # the number is that of the first module; the second has as many per area
    n = options.stars if module == 0 else rng.poisson(options.stars * ny * nx / np.prod(first))
    tries = rng.uniform(0.08, 0.92, (20 * n + 1, 2)) * [nx, ny]
    bx, by = options.bcg(module)
    far = np.hypot(tries[:, 0] - bx, tries[:, 1] - by) > max(nx, ny) / 6
    at = np.ascontiguousarray(tries[far][:n])
    mag = np.sort(rng.uniform(17, 21, len(at)))[:, None]
    flux = flux_of(mag + np.linspace(0.1, -0.1, len(options.bands)))
    # along a spike: share F / (scale width pi/2) / (r/scale)^2 reaches a third of the noise
    from_spike = np.zeros(len(at))
    for b, psf in enumerate(options.psfs()):
        _, _, share, width, scale = psf.spikes[0]
        peak = flux[:, b] * share / (scale * width * np.pi / 2)
        from_spike = np.maximum(from_spike, scale * np.sqrt(3 * peak / options.sigma_pixel))
    return at, flux, np.clip(from_spike, RADIUS + 1, 1500)


def _hot(options: Options, module: int) -> tuple[np.ndarray, ...]:
    """Single pixels of 30-300 sigma, different in each band."""
    ny, nx = options.grid(module).shape
    out = []
    for band in options.bands:
        rng = options.rng("hot", module, band)
        n = rng.poisson(options.hot * ny * nx)
        at = np.floor(rng.random((n, 2)) * [ny, nx])
        height = options.sigma_pixel * 10 ** rng.uniform(1.5, 2.5, n)
        out.append(np.column_stack([at, height]))
    return tuple(out)
