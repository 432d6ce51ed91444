"""How many clusters where: the lens's convergence, and the intensity that follows it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gcdask.kernels import dpie
from gcdask.lensing.model import offsets as lenstool_offsets
from gcdask.lensing.model import sky_of as lenstool_sky
from gcdask.simulate import model
from gcdask.simulate.model import Options

KAPPA_MAX = 2.0  # convergence above which the clusters' intensity grows no more
CORE_RADIUS, NORM_RADIUS = 13.0, 60.0  # arcsec: of `cored`; of the circle that holds n_gc


@lru_cache(maxsize=8)
def members(options: Options) -> dict[str, np.ndarray]:
    """Member galaxies, brightest first: arrays ``west, north, e, angle, luminosity``.

    Positions are in arcsec from the BCG, luminosities in L* (F150W 19.3 at this redshift). They
    follow a cored profile elongated like the halo; their magnitudes are distributed as
    10^(0.25 m) over six magnitudes, from 0.9 mag above L*.
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
    return lenstool_offsets(*options.grid(module).sky(x, y), model.CENTER)


def pixels_of(options: Options, module: int, west: Any, north: Any) -> tuple[Any, Any]:
    """Pixels ``(x, y)`` of offsets from the BCG; inverse of `offsets`."""
    return options.grid(module).pixel(*lenstool_sky(west, north, model.CENTER))


def gc_intensity(options: Options, module: int, x: Any, y: Any) -> np.ndarray:
    """GCs above the catalogue level per arcsec^2 at pixels of a module."""
    west, north = offsets(options, module, x, y)
    return intensity_factor(options) * shape_of_intensity(options, west, north)
