"""What shines in a mock: the scene of a module, and its point sources."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import norm

from gcdask.kernels import dpie
from gcdask.simulate import extended, model
from gcdask.simulate.intensity import gc_intensity, lens_table, pixels_of
from gcdask.simulate.model import SCALE, Options, flux_of, gc_colours
from gcdask.simulate.psf import RADIUS

CELL = 32  # px: point sources are sorted by cells of this size
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
    shape, profiles, flux, kind = extended.galaxies(options, module)
    arcs, arc_flux, arc_peak = extended.arcs(options, module)
    stars, star_flux, reach = extended.stars(options, module)
    points, hot = _points(options, module), extended.hot(options, module)
    return Scene(
        points, shape, profiles, flux, kind, arcs, arc_flux, arc_peak, stars, star_flux, reach, hot
    )


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
