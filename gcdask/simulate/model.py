"""What a mock field is made of: options, geometry, lens potentials, colours and units."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np

from gcdask.grid import ARCSEC, Field, Grid
from gcdask.kernels import dpie, highpass
from gcdask.simulate.psf import OVER, RADIUS, Psf, UserPsf, make_psf

CENTER = (342.183220, -44.530889)  # the BCG, RA and Dec in deg
Z_LENS, Z_SOURCE = 0.348, 3.0
DISTANCE_MODULUS = 41.32
SCALE = 0.03  # arcsec/px
MJYSR_PER_NJY = 1e-15 / (SCALE / ARCSEC) ** 2  # surface brightness of 1 nJy on one pixel
APERTURE = 0.1 / SCALE  # radius (px) in which the depth is given
TURNOVER, WIDTH = -7.4, 1.3  # M_V and sigma (mag) of the luminosity function
FAR = 6000  # px from the centre of the first module to that of the second: 3 arcmin
BORDER = 24  # px without data along the array's edges, at least
TILT = 1.5  # deg, of the footprint in its array

# AB colours band - V of an old, moderately metal-poor SSP, at the rest wavelengths that the band
# sees from z = 0.348 (typical of published SSP models; their scatter between models is 0.1).
COLOUR = {
    "F070W": 0.0,
    "F090W": -0.28,
    "F115W": -0.55,
    "F150W": -0.84,
    "F200W": -0.98,
    "F277W": -0.90,
    "F356W": -0.45,
    "F444W": -0.05,
}

SHAPES = {
    "small": ((1984, 2048), (1024, 1024)),
    "glimpse": ((4400, 4400), (4400, 4400)),
}


@dataclass(frozen=True)
class Options:
    """Everything a mock depends on; hashable and small, so that workers can remake it."""

    size: str
    seed: int
    bands: tuple[str, ...]
    n_gc: float
    profile: str
    g: float
    psf: tuple[UserPsf | None, ...]
    contamination: float
    depth: float
    correlated_noise: bool
    level: float
    faintest: float
    gain: float
    angle: float
    members: int
    background: float
    stars: int
    arcs: int
    hot: float

    # -- geometry -----------------------------------------------------------------------------
    def grid(self, module: int) -> Grid:
        """Grid of a module: same tangent plane and rotation, its own header and pixel (0, 0)."""
        return _grid(self.size, self.angle, module)

    def bcg(self, module: int) -> tuple[float, float]:
        """Pixel ``(x, y)`` of the cluster's centre in a module's pixels."""
        (ny, nx), (my, mx) = SHAPES[self.size]
        x, y = (nx - 1) / 2 + 37.3, (ny - 1) / 2 - 21.6
        if module == 1:
            x, y = x - (FAR + (nx - mx) // 2), y - (ny - my) // 2
        return x, y

    # -- random numbers -----------------------------------------------------------------------
    def rng(self, *name: Any) -> np.random.Generator:
        """Stream of random numbers for a named purpose."""
        key = crc32("/".join(map(str, name)).encode())
        return np.random.Generator(np.random.Philox(key=[self.seed % 2**64, key]))

    def stream(self, *name: Any) -> int:
        """Number of a named stream for `gcdask.kernels.counts`."""
        return crc32("/".join(map(str, name)).encode())

    # -- photometry ---------------------------------------------------------------------------
    def psfs(self) -> tuple[Psf, ...]:
        """PSF of each band."""
        return tuple(make_psf(b, SCALE, u) for b, u in zip(self.bands, self.psf, strict=True))

    @property
    def sigma_pixel(self) -> float:
        """Background noise of one pixel in nJy, the same in all bands.

        5 sigma in an aperture of 0.2" diameter is the magnitude ``depth``; with correlated noise
        the pixels' noise is smaller at the same noise in the aperture.
        """
        return flux_of(self.depth) / 5 / _aperture_noise(self.correlated_noise)

    @property
    def sigma_detection(self) -> float:
        """Background noise of the detection map (sum of the bands) in nJy."""
        return float(
            self.sigma_pixel * np.sqrt(len(self.bands)) * _filter_noise(self.correlated_noise)
        )

    @property
    def response(self) -> np.ndarray:
        """Response of the detection map to 1 nJy at sub-pixel phases; see `phase_response`."""
        return np.stack([phase_response(psf) for psf in map(_Key, self.psfs())])

    def signal(self, colour: np.ndarray) -> float:
        """S/N in the detection map of a source of AB 0 with magnitudes ``colour`` per band."""
        peak = self.response[:, :, :, 1:-1, 1:-1].max((3, 4)).mean((1, 2))
        return float((flux_of(np.asarray(colour)) * peak).sum() / self.sigma_detection)


class _Key:
    """A PSF as a key of a cache: by identity, as `make_psf` keeps them."""

    def __init__(self, psf: Psf):
        self.psf = psf

    def __hash__(self) -> int:
        return id(self.psf)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.psf is self.psf


def flux_of(mag: Any) -> Any:
    """Flux in nJy of an AB magnitude."""
    return 3631e9 * 10 ** (-0.4 * np.asarray(mag, float))


def magnitude_of(flux: Any) -> Any:
    """AB magnitude of a flux in nJy."""
    return -2.5 * np.log10(np.asarray(flux, float) / 3631e9)


def gc_colours(bands: tuple[str, ...]) -> np.ndarray:
    """Apparent AB magnitudes (one per band) of a cluster of M_V = 0 at the lens."""
    shift = DISTANCE_MODULUS - 2.5 * np.log10(1 + Z_LENS)  # flux per unit frequency
    return np.array([COLOUR[b] for b in bands]) + shift


@lru_cache(maxsize=16)
def _grid(size: str, angle: float, module: int) -> Grid:
    options = SHAPES[size]
    (ny, nx), (my, mx) = options
    grid = Grid.tangent(CENTER, options[module], SCALE, angle=angle)
    wcs = grid.wcs.deepcopy()
    x, y = (nx - 1) / 2 + 37.3, (ny - 1) / 2 - 21.6
    if module == 1:
        x, y = x - (FAR + (nx - mx) // 2), y - (ny - my) // 2
    wcs.wcs.crpix = [x + 1, y + 1]
    return Grid.from_wcs(wcs, options[module])


# -- noise --------------------------------------------------------------------------------------
@lru_cache(maxsize=2)
def noise_kernel(correlated: bool) -> np.ndarray:
    """Taps that turn white noise into the mock's, unit variance: identity, or drizzle-like."""
    if not correlated:
        return np.ones((1, 1))
    taps = np.array([0.28, 1.0, 0.28])
    kernel = np.outer(taps, taps)
    return kernel / np.sqrt((kernel**2).sum())


@lru_cache(maxsize=2)
def _aperture_noise(correlated: bool) -> float:
    n = 60
    fine = (np.arange(n) + 0.5) / n - 0.5
    at = np.arange(-5, 6)[:, None] + fine
    y = at[:, None, :, None]
    x = at[None, :, None, :]
    weight = (y**2 + x**2 <= APERTURE**2).mean((2, 3))
    return float(np.sqrt((_convolve(weight, noise_kernel(correlated)) ** 2).sum()))


@lru_cache(maxsize=2)
def _filter_noise(correlated: bool) -> float:
    image = np.zeros((81, 81), np.float32)
    image[40, 40] = 1
    return float(np.sqrt((_convolve(filtered(image), noise_kernel(correlated)) ** 2).sum()))


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    n = kernel.shape[0]
    wide = np.pad(np.asarray(image, float), n - 1)
    view = np.lib.stride_tricks.sliding_window_view(wide, (n, n))
    return np.einsum("ijkl,kl->ij", view, kernel[::-1, ::-1])


def filtered(image: np.ndarray) -> np.ndarray:
    """Both high-pass filters of Diego et al. 2026, section 3, on a small image."""
    once = highpass.highpass(image, None, (0.5, 5.0))
    return np.asarray(highpass.highpass(once, None, (1.0, 3.0)))


@lru_cache(maxsize=32)
def phase_response(key: _Key) -> np.ndarray:
    """Filtered PSF near its peak: ``(OVER + 1, OVER + 1, 5, 5)`` for the table's phases.

    The filters are linear and stamps are bilinear in the table, so interpolating this table is
    exact for sources between its phases.
    """
    table = key.psf.table
    pad = highpass.halo((0.5, 5.0), (1.0, 3.0)) + 3
    middle = np.s_[pad + RADIUS - 2 : pad + RADIUS + 3, pad + RADIUS - 2 : pad + RADIUS + 3]
    out = np.empty((OVER + 1, OVER + 1, 5, 5))
    for i in range(OVER + 1):
        for j in range(OVER + 1):
            out[i, j] = filtered(np.pad(table[i, j], pad).astype(np.float32))[middle]
    return out


# -- the lens -----------------------------------------------------------------------------------
def potentials(members: Any) -> list[dict[str, Any]]:
    """Potentials of the lens (rounded CATS gold model of AS1063), for `LenstoolModel`.

    ``members`` has the columns ``west, north`` (arcsec), ``e, angle`` and ``luminosity`` (in
    L*); v_disp grows as L^1/4, core and cut radius as L^1/2.
    """
    base = {"profile": 81, "z_lens": Z_LENS}
    names = ("x_centre", "y_centre", "ellipticity", "angle_pos", "core_radius", "cut_radius")
    main = [
        ("halo", 0.0, 0.0, 0.517, -36.0, 20.1, 203.0, 1224.0),
        ("bcg", 0.0, 0.0, 0.271, -35.0, 0.10, 34.5, 291.0),
        ("clump", -20.2, 29.3, 0.0, 0.0, 10.0, 102.0, 203.0),
    ]
    out: list[dict[str, Any]] = []
    for name, *values, v_disp in main:
        out.append(
            {"name": name, **base, **dict(zip(names, values, strict=True)), "v_disp": v_disp}
        )
    shear = {"profile": 14, "x_centre": 0.0, "y_centre": 0.0, "gamma": 0.104, "angle_pos": 50.8}
    out.append({"name": "shear", **shear, "z_lens": Z_LENS})
    for k in range(len(members["west"])):
        root = float(np.sqrt(members["luminosity"][k]))
        own = [float(members[key][k]) for key in ("west", "north", "e", "angle")]
        row = dict(zip(names, (*own, 0.03 * root, 9.0 * root), strict=True))
        out.append({"name": f"m{k + 1}", **base, **row, "v_disp": 158.0 * root**0.5})
    return out


def potential_table(rows: list[dict[str, Any]]) -> np.ndarray:
    """Table for `gcdask.kernels.dpie` of `potentials`."""

    def column(key: str) -> np.ndarray:
        return np.array([row.get(key, 0.0) for row in rows])

    return dpie.make_table(
        column("profile"),
        column("x_centre"),
        column("y_centre"),
        column("ellipticity"),
        column("angle_pos"),
        column("core_radius"),
        column("cut_radius"),
        column("v_disp"),
        column("gamma"),
    )


@lru_cache(maxsize=1)
def lens_field() -> Field:
    """The field: AS1063's BCG, lens and source redshifts."""
    return Field(CENTER, Z_LENS, Z_SOURCE)
