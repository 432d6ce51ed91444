"""Galaxies, arcs, stars and hot pixels of a mock."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import gammaincinv

from gcdask.simulate import intensity, model
from gcdask.simulate.model import SCALE, Options, flux_of, gc_colours
from gcdask.simulate.psf import RADIUS

NODES = 512  # of a galaxy's radial profile
SOFT = 0.8  # px: softening of galaxies' cusps, in place of the PSF
FAINT_SB = 0.05  # galaxies end where they fall below this part of a pixel's noise


def galaxies(options: Options, module: int) -> tuple[np.ndarray, ...]:
    """Shapes, profiles, fluxes and classes of the galaxies that reach into a module."""
    red = gc_colours(options.bands)
    red = red - (model.DISTANCE_MODULUS + model.COLOUR["F150W"] - 0.3242)
    halo = _direction(options, module, -36.0)
    west = [np.zeros(2), intensity.members(options)["west"]]
    north = [np.zeros(2), intensity.members(options)["north"]]
    m = intensity.members(options)
    rng, n = options.rng("shapes"), options.members
    root = np.sqrt(m["luminosity"])
    px, py = intensity.pixels_of(options, module, np.concatenate(west), np.concatenate(north))
    q = np.append([0.75, 0.55], np.sqrt((1 - m["e"]) / (1 + m["e"])))
    turn = np.append([halo, halo], [_direction(options, module, a) for a in m["angle"]])
    radius = np.append([4.5, 26.0], 0.75 * root * 10 ** rng.normal(0, 0.12, n))
    index = np.append([4.0, 1.4], rng.choice([1.5, 2.5, 4.0], n, p=[0.3, 0.4, 0.3]))
    mag = np.append([16.7, 16.4], 19.3 - 2.5 * np.log10(m["luminosity"]))[:, None] + red
    kind = np.array(["bcg", "icl"] + ["member"] * n)
    parts: list[tuple[Any, ...]] = [(px, py, turn, q, radius / SCALE, index, mag, kind)]

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
    x, y = intensity.pixels_of(options, module, [0, west], [0, north])
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


def arcs(options: Options, module: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tangential strips about the cluster's centre, 1-4" long and 0.1-0.2" wide."""
    rng, n = options.rng("arcs"), options.arcs
    distance = rng.uniform(9, 32, n) / SCALE
    phi = rng.uniform(0, 2 * np.pi, n)
    half = rng.uniform(0.6, 2.0, n) / SCALE
    width = rng.uniform(0.1, 0.2, n) / 2 / 0.51 / SCALE  # FWHM is 1.02 widths
    mag = rng.uniform(23.0, 24.5, n)[:, None] + np.linspace(0.1, -0.1, len(options.bands))
    curvature = np.maximum(distance * rng.uniform(0.3, 0.8, n), 1.5 * half)
    ux, uy = np.cos(phi), np.sin(phi)
    bx, by = options.bcg(module)
    x, y = bx + (distance - curvature) * ux, by + (distance - curvature) * uy
    # integral of (1 + d^2)^-3 across: 3 pi / 8 width; of (1 - s^2)^2 along the circle, where s
    # is the sine: by quadrature
    s = np.linspace(-1, 1, 401)
    along = (1 - s**2) ** 2 / np.sqrt(1 - (half / curvature)[:, None] ** 2 * s**2)
    length = half * np.trapezoid(along, s, axis=1)
    flux = flux_of(mag)
    peak = flux / (length * 3 * np.pi / 8 * width)[:, None]
    shape = np.stack([x, y, ux, uy, curvature, half, width], axis=1)
    ny, nx = options.grid(module).shape
    mx, my = bx + distance * ux, by + distance * uy
    reach = half + 6 * width
    near = (mx + reach > 0) & (mx - reach < nx) & (my + reach > 0) & (my - reach < ny)
    return np.ascontiguousarray(shape[near]), flux[near], peak[near]


def stars(options: Options, module: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def hot(options: Options, module: int) -> tuple[np.ndarray, ...]:
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
