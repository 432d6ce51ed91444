"""The point-spread function of a mock: a table of sub-pixel phases, wings and spikes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from scipy.ndimage import map_coordinates

from gcdask.errors import InputError
from gcdask.kernels import render

OVER = 10  # phases per pixel: between them bilinear interpolation is good to 1 %
RADIUS = 13  # px: where the stamp of a faint source ends
FWHM = {
    "F070W": 0.029,
    "F090W": 0.033,
    "F115W": 0.040,
    "F150W": 0.050,
    "F200W": 0.066,
    "F277W": 0.092,
    "F356W": 0.116,
    "F444W": 0.145,
}
"""FWHM of the optical PSF in arcsec."""

_WING, _SPIKES = 0.26, 0.05  # shares of the light
_WING_SCALE = 1.6  # in FWHM
_SPIKE_ANGLE = 17.0  # deg from +x
_SPIKE_SCALE, _SPIKE_WIDTH = 8.0, 0.55  # px, FWHM


@dataclass(frozen=True)
class UserPsf:
    """A PSF image given by the user: ``(n, n)``, n odd, centred, ``scale`` arcsec/px."""

    scale: float
    digest: str
    image: np.ndarray = field(compare=False, repr=False)


@dataclass(frozen=True)
class Psf:
    """PSF of one band on the pixels of the mock.

    Attributes
    ----------
    table : (OVER + 1, OVER + 1, 2 RADIUS + 1, 2 RADIUS + 1) array
        Effective PSF (integrated over pixels) at the sub-pixel phases; sums to 1.
    wing, spikes : arrays
        What `gcdask.kernels.render.stars` wants.
    """

    table: np.ndarray
    wing: np.ndarray
    spikes: np.ndarray

    @property
    def outside(self) -> float:
        """Share of a star's light beyond the table's radius."""
        wing = self.wing[0] / np.sqrt(1 + (RADIUS / self.wing[1]) ** 2)
        return float(wing + (self.spikes[:, 2] / (1 + RADIUS / self.spikes[:, 4])).sum())


def load_user_psf(value: Any, band: str, scale: float) -> UserPsf:
    """Read a PSF from an array or FITS file; see `gcdask.simulate.as1063`."""
    if isinstance(value, (str, Path)):
        try:
            value = fits.getdata(value)
        except (OSError, IndexError) as error:
            raise InputError(f"cannot read the PSF of {band} from {value}: {error}") from None
    image = np.array(value, np.float64)
    if image.ndim != 2 or image.shape[0] != image.shape[1] or image.shape[0] % 2 == 0:
        raise InputError(f"PSF of {band} has shape {image.shape}; give a square of odd side")
    if not np.isfinite(image).all() or image.sum() <= 0:
        raise InputError(f"PSF of {band} is not finite or not positive; clean it first")
    if not scale > 0:
        raise InputError(f"psf_scale = {scale} of {band} is not positive; give arcsec per pixel")
    return UserPsf(float(scale), hashlib.sha256(image.tobytes()).hexdigest(), image)


@lru_cache(maxsize=32)
def make_psf(band: str, scale: float, user: UserPsf | None = None) -> Psf:
    """PSF of ``band`` on pixels of ``scale`` arcsec.

    The built-in one is a Gaussian core of the band's FWHM, wings that fall as r^-3 and a
    six-fold set of spikes (with JWST's weak horizontal pair), integrated over the pixel. A
    user's image is taken as an effective PSF (empirical PSFs hold their pixel already) and
    interpolated with cubic splines. Either is cut at `RADIUS` and normalised there.
    """
    width = FWHM.get(band, 0.06) / scale
    wing, spikes = np.array([_WING, _WING_SCALE * width]), _spikes(width)
    half = (RADIUS + 0.5) * OVER
    fine = np.arange(-half, half + 1) / OVER
    if user is None:
        grid = _built_in(fine, width, wing, spikes)
    else:
        middle = (user.image.shape[0] - 1) / 2
        at = middle + fine * scale / user.scale
        grid = map_coordinates(user.image, np.meshgrid(at, at, indexing="ij"), order=3, cval=0)
    grid[np.hypot(fine[:, None], fine[None, :]) > RADIUS + 0.25] = 0
    side = 2 * RADIUS + 1
    # fine[p + OVER * k] is the offset (k - RADIUS) + (p - OVER / 2) / OVER
    at = np.arange(OVER + 1)[:, None] + OVER * np.arange(side)
    table = grid[at[:, None, :, None], at[None, :, None, :]]
    table /= table.sum((2, 3), keepdims=True)
    return Psf(np.ascontiguousarray(table), wing, spikes)


def _spikes(width: float) -> np.ndarray:
    angles = _SPIKE_ANGLE + 30 + 60 * np.arange(6)
    angles = np.deg2rad(np.append(angles, [_SPIKE_ANGLE, _SPIKE_ANGLE + 180]))
    share = np.append(np.full(6, 0.92 / 6), [0.04, 0.04]) * _SPIKES
    rows = [np.cos(angles), np.sin(angles), share]
    rows += [np.full(8, max(_SPIKE_WIDTH * width, 0.8)), np.full(8, _SPIKE_SCALE)]
    return np.ascontiguousarray(np.stack(rows, axis=1))


def _built_in(fine: np.ndarray, width: float, wing: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    pad = OVER // 2
    step = 1 / OVER
    wide = np.arange(fine[0] - pad * step, fine[-1] + (pad + 0.5) * step, step)
    sigma = width / 2.354820045
    core = np.exp(-0.5 * (wide / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
    optical = (1 - _WING - _SPIKES) * core[:, None] * core
    optical += render.halo_image(wide, wide, wing, spikes)
    box = np.full(OVER + 1, step)
    box[[0, -1]] /= 2  # trapezoid over one pixel
    for axis in (0, 1):
        optical = np.apply_along_axis(np.convolve, axis, optical, box, "valid")
    return optical
