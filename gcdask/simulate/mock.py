"""The mock itself: lazy images, maps and tables of one simulated field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from gcdask.errors import InputError
from gcdask.grid import Field, Grid
from gcdask.lensing import LenstoolModel
from gcdask.masks import Flag
from gcdask.mosaic import Sources
from gcdask.mosaic.dataset import lazy
from gcdask.mosaic.source import Stack
from gcdask.simulate import intensity, model
from gcdask.simulate.model import Options
from gcdask.simulate.psf import FWHM, UserPsf, load_user_psf
from gcdask.simulate.render import Kind, Rendered
from gcdask.simulate.truth import truth_table

UNITS = "MJy / sr"


@dataclass(frozen=True)
class Mock:
    """A simulated field of two modules; all images are rendered where they are read.

    Made by `as1063`. Modules are numbered 0 (on the cluster) and 1 (3 arcmin away).

    Attributes
    ----------
    options : Options
        All parameters; small, hashable, picklable.
    """

    options: Options

    @property
    def seed(self) -> int:
        """Seed of all random numbers."""
        return self.options.seed

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return self.options.bands

    @property
    def field(self) -> Field:
        """Centre, redshifts and cosmology."""
        return model.lens_field()

    @property
    def noise(self) -> float:
        """Background noise (1 sigma, MJy/sr) of the detection map, the sum over the bands."""
        return self.options.sigma_detection * model.MJYSR_PER_NJY

    def grid(self, module: int = 0) -> Grid:
        """Grid of a module, which starts at pixel (0, 0) of its own header."""
        return self.options.grid(_check_module(module))

    @cached_property
    def lens(self) -> LenstoolModel:
        """The lens model whose convergence the clusters follow."""
        rows = model.potentials(intensity.members(self.options))
        return LenstoolModel.from_potentials(rows, model.CENTER, model.Z_LENS, name="mock")

    @cached_property
    def truth(self) -> pd.DataFrame:
        """Every source of both modules.

        Columns: id, module (1 or 2), class (gc, contaminant, star, bcg, icl, member, background,
        arc, hot), x, y (px of the module), ra, dec (deg), ``mag_<band>`` (AB) and
        ``flux_<band>`` (nJy), mu (magnification, 1), peak (MJy/sr: the detection map's noise-free
        peak if the source were alone; NaN for extended ones) and snr (peak over background
        noise). A source in the gap or border is listed too.
        """
        return truth_table(self.options)

    def sources(self, module: int = 0) -> Sources:
        """Images of a module as sources for window-by-window processing; nothing is stored."""
        _check_module(module)
        grid = self.options.grid(module)
        sci, err = (
            tuple(Rendered(self.options, module, b, kind, grid) for b in range(len(self.bands)))
            for kind in _IMAGES
        )
        return Sources(sci, err, self.bands, grid, UNITS)

    def mosaic(self, module: int = 0, chunks: int | tuple[int, int] = 2048) -> xr.Dataset:
        """Lazy mosaic of a module: ``sci`` and ``err`` (MJy/sr), dims ``(band, y, x)``.

        The pixels do not depend on ``chunks``, bit for bit.
        """
        found = self.sources(module)
        sizes = _pair(chunks)
        attrs = {"units": UNITS, "wcs": found.grid.header}
        dims = ("band", "y", "x")
        assert found.err is not None
        data = {
            "sci": (dims, lazy(Stack(found.sci), "sci", sizes), attrs),
            "err": (dims, lazy(Stack(found.err), "err", sizes), attrs),
        }
        coords = {"band": ("band", np.array(self.bands, object)), **found.grid.coords}
        return xr.Dataset(data, coords=coords, attrs={"wcs": found.grid.header})

    def intensity(
        self,
        module: int = 0,
        like: xr.DataArray | xr.Dataset | Grid | None = None,
        *,
        chunks: int | tuple[int, int] = 512,
    ) -> xr.Dataset:
        """Lazy maps of the true number density per arcsec^2 above the catalogue level.

        ``clusters`` is that of globular clusters, ``total`` adds the contaminants. They are
        point values, or averages over elements of 8 px and more. ``like`` gives the grid; by
        default cells of 16 px of the module.
        """
        _check_module(module)
        if like is None:
            grid = self.options.grid(module).coarsen(16)
        else:
            grid = like if isinstance(like, Grid) else Grid.of(like)
        kinds: tuple[Kind, Kind] = ("total", "clusters")
        maps = {
            kind: grid.wrap(
                lazy(Rendered(self.options, module, 0, kind, grid), kind, _pair(chunks)),
                kind,
                "arcsec-2",
            )
            for kind in kinds
        }
        return xr.Dataset(maps, attrs={"wcs": grid.header, "level_sigma": self.options.level})

    def objects_mask(self, module: int = 0, chunks: int | tuple[int, int] = 2048) -> xr.DataArray:
        """Lazy true mask of objects (uint16 bits EXTENDED, BRIGHT and SPIKE).

        Galaxies to the radius where their own light disturbs the detection map by one sigma,
        arcs and stars where they exceed five sigma of a pixel; intracluster light is not masked.
        """
        grid = self.grid(module)
        data = lazy(Rendered(self.options, module, 0, "objects", grid), "objects", _pair(chunks))
        bits = (Flag.BRIGHT, Flag.SPIKE, Flag.EXTENDED)
        meanings = " ".join(str(b.name) for b in bits)
        return grid.wrap(
            data, "mask", "", flag_masks=[int(b) for b in bits], flag_meanings=meanings
        )


_IMAGES: tuple[Kind, Kind] = ("sci", "err")


def as1063(
    size: str = "small",
    seed: int = 0,
    *,
    bands: Sequence[str] = ("F090W", "F115W", "F150W", "F200W"),
    n_gc: float | None = None,
    profile: str = "kappa",
    g: float = 1.6,
    psf: Mapping[str, Any] | None = None,
    psf_scale: float | Mapping[str, float] = 0.02,
    contamination: float = 0.363,
    depth: float = 30.9,
    correlated_noise: bool = False,
    level: float = 7.0,
    faintest: float = 0.25,
    gain: float = 3e4,
    angle: float = 40.0,
    members: int = 200,
    background: float = 100.0,
    stars: int = 7,
    arcs: int = 6,
    hot: float = 2e-6,
) -> Mock:
    """Simulate a field like JWST's of the cluster AS1063, with known truth.

    Two NIRCam-like modules of 0.03" pixels, three arcmin apart: globular clusters that follow the
    lens model's convergence (Diego et al. 2026; the mass is a rounded version of the CATS gold
    model), uniform point-like contaminants, the BCG with intracluster light, members, background
    galaxies, arcs, stars with diffraction spikes, hot pixels, gaps and borders without data.
    Nothing is rendered here.

    Parameters
    ----------
    size : {"small", "glimpse"}
        Modules of 1984 x 2048 and 1024 x 1024 px, or two of 4400 x 4400 px.
    seed : int
        Of all random numbers.
    bands : sequence of str
        NIRCam filters, F070W to F444W.
    n_gc : float, optional
        Clusters above the catalogue level within 60" of the BCG; by default 23 800.
    profile : {"kappa", "cored"}
        Clusters per area as kappa^g (kappa at z_s = 3, capped at 2), or as 1 / (1 + (r/13")^2).
    g : float
        Exponent of kappa.
    psf : {band: path or array}, optional
        PSF images (square, odd side, centred, pixels of ``psf_scale``), taken as effective PSFs;
        built-in Gaussian cores with wings and spikes for the other bands.
    psf_scale : float or {band: float}
        Pixels of these images in arcsec.
    contamination : float
        Contaminants per arcsec^2 above the catalogue level, 10^(0.4 m) in magnitude.
    depth : float
        AB magnitude at 5 sigma in an aperture of 0.2" diameter, in each band.
    correlated_noise : bool
        Correlate the noise of neighbouring pixels as drizzling does.
    level : float
        The catalogue level 2T in sigma of the detection map, to which ``n_gc`` and
        ``contamination`` refer.
    faintest : float
        True S/N of the faintest injected sources in units of ``level`` (1.75 sigma): fainter
        ones would only add confusion noise.
    gain : float
        Electrons per MJy/sr and pixel, for the Poisson noise of the light.
    angle : float
        Position angle of +y in deg.
    members, stars, arcs : int
        Numbers of member galaxies, stars (of the first module) and arcs.
    background : float
        Background galaxies (AB 20.5-26.5) per arcmin^2.
    hot : float
        Hot pixels per pixel and band.

    Raises
    ------
    InputError
        For an unknown size, profile or band, a bad PSF or a number out of range.
    """
    if size not in model.SHAPES:
        raise InputError(f"size = {size!r} is unknown; use {' or '.join(map(repr, model.SHAPES))}")
    if profile not in ("kappa", "cored"):
        raise InputError(f"profile = {profile!r} is unknown; use 'kappa' or 'cored'")
    names = (bands,) if isinstance(bands, str) else tuple(bands)
    unknown = [b for b in names if b not in FWHM]
    if unknown or not names or len(set(names)) < len(names):
        raise InputError(f"bands {list(names)}: give different ones of {', '.join(FWHM)}")
    n_gc = 23800.0 if n_gc is None else n_gc
    positive = {"n_gc": n_gc, "g": g, "level": level, "gain": gain, "depth": depth}
    zero = {"contamination": contamination, "members": members, "background": background}
    zero |= {"stars": stars, "arcs": arcs, "hot": hot}
    for name, value in (positive | zero).items():
        if not np.isfinite(value) or value < 0 or (name in positive and value == 0):
            limit = "positive" if name in positive else "zero or more"
            raise InputError(f"{name} = {value} is not {limit}")
    if not 0 < faintest <= 1:
        raise InputError(f"faintest = {faintest} is not between 0 and 1; use e.g. 0.25")
    options = Options(
        size, int(seed), names, float(n_gc), profile, float(g), _user_psfs(psf, psf_scale, names),
        float(contamination), float(depth), bool(correlated_noise), float(level), float(faintest),
        float(gain), float(angle), int(members), float(background), int(stars), int(arcs),
        float(hot),
    )  # fmt: skip
    return Mock(options)


def _user_psfs(
    psf: Mapping[str, Any] | None, scale: float | Mapping[str, float], bands: tuple[str, ...]
) -> tuple[UserPsf | None, ...]:
    given = dict(psf or {})
    if strange := sorted(set(given) - set(bands)):
        raise InputError(f"psf has {strange[0]!r}, which is not among the bands {list(bands)}")
    scales = scale if isinstance(scale, Mapping) else dict.fromkeys(given, scale)
    if missing := sorted(set(given) - set(scales)):
        raise InputError(f"psf_scale lacks {missing[0]}; give the arcsec per pixel of its PSF")
    return tuple(load_user_psf(given[b], b, scales[b]) if b in given else None for b in bands)


def _check_module(module: int) -> int:
    if module not in (0, 1):
        raise InputError(f"module = {module}; there are 0 (on the cluster) and 1 (beside it)")
    return module


def _pair(chunks: int | tuple[int, int]) -> tuple[int, int]:
    pair = (chunks, chunks) if isinstance(chunks, int) else tuple(chunks)
    if len(pair) != 2 or min(pair) < 1:
        raise InputError(f"chunks = {chunks}; give one or two positive numbers of pixels")
    return pair[0], pair[1]
