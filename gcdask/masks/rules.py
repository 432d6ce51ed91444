"""The bits of a mask, and the rules that set them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from numbers import Real
from os import PathLike
from typing import Any

import numpy as np

from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import highpass as hp
from gcdask.survey import FILTERS, SurveyPlan


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


def check_fwhm(fwhm: Any) -> None:
    """Refuse widths of a high-pass that are not two ascending positive numbers."""
    pair = tuple(fwhm) if isinstance(fwhm, Sequence) and not isinstance(fwhm, str) else ()
    if len(pair) != 2 or not all(map(_is_number, pair)) or not 0 < pair[0] < pair[1]:
        raise InputError(f"fwhm = {fwhm!r} px: give two ascending widths, e.g. (0.5, 5.0)")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _check_positive(who: str, **values: Any) -> None:
    for name, value in values.items():
        if not _is_number(value) or not value > 0:
            raise InputError(
                f"{who}: {name} = {value!r} is not a positive number; give one above 0"
            )


@dataclass(frozen=True)
class Rule:
    """Mask what a band-passed image shows above ``nsigma``, grown by ``dilate`` px.

    ``fwhm`` are the two Gaussians in px, sigma is the local noise of the survey.
    """

    nsigma: float
    dilate: float
    fwhm: tuple[float, float] = (0.5, 5.0)

    def __post_init__(self) -> None:
        _check_positive("Rule", nsigma=self.nsigma)
        if not _is_number(self.dilate) or self.dilate < 0:
            raise InputError(f"Rule: dilate = {self.dilate!r} is no radius in px; give 0 or more")
        check_fwhm(self.fwhm)


def _is_listed(values: Any) -> bool:
    return isinstance(values, Sequence | np.ndarray) and not isinstance(values, str)


def _check_star(star: Any) -> None:
    """Refuse what is not (ra, dec, length) in deg, deg and arcsec."""
    good = _is_listed(star) and len(star) == 3 and all(map(_is_number, star))
    if not good or not (-90 <= star[1] <= 90 and star[2] > 0):
        raise InputError(
            f"Spikes: star {star!r} is not (ra, dec, length); give deg, deg and arcsec above 0, "
            "e.g. (342.18, -44.53, 3.0)"
        )


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
        angle that the field's stars agree on (only cores are masked if none shows spikes).
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

    def __post_init__(self) -> None:
        _check_positive("Spikes", nsigma=self.nsigma, contrast=self.contrast)
        _check_positive("Spikes", length=self.length, core=self.core, width=self.width)
        angles = () if self.angles is None else self.angles
        if not _is_listed(angles) or not all(map(_is_number, angles)):
            raise InputError(
                f"Spikes: angles = {self.angles!r}; give position angles in deg, e.g. (0.0, 60.0), "
                "or None for JWST's six"
            )
        if not _is_listed(self.stars):
            raise InputError(f"Spikes: stars = {self.stars!r}; give a list of (ra, dec, length)")
        for star in self.stars:
            _check_star(star)


@dataclass(frozen=True)
class MaskRules:
    """What to mask; ``edge`` in arcsec (0 = off), None switches another cause off."""

    edge: float = 6.6
    bright: Rule | None = Rule(nsigma=150.0, dilate=6)
    luminous: Rule | None = Rule(nsigma=100.0, dilate=5)
    extended: Rule | None = Rule(nsigma=25.0, dilate=6, fwhm=(4.0, 25.0))
    spikes: Spikes | None = Spikes()
    regions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _is_number(self.edge) or self.edge < 0:
            raise InputError(f"edge = {self.edge!r} is not a width in arcsec; give 0 (off) or more")
        for name in ("bright", "luminous", "extended"):
            rule = getattr(self, name)
            if not isinstance(rule, Rule | None):
                raise InputError(f"{name} = {rule!r} is not a Rule; give one, or None (off)")
        if not isinstance(self.spikes, Spikes | None):
            raise InputError(f"spikes = {self.spikes!r} is no Spikes; give them, or None (off)")
        for name in ("regions", "files"):
            paths = getattr(self, name)
            if not _is_listed(paths) or not all(isinstance(p, str | PathLike) for p in paths):
                raise InputError(f"{name} = {paths!r} is not a list of paths; give e.g. ('a',)")

    def survey_plan(self, grid: Grid, *, noise_cell: int = 128, **options: Any) -> SurveyPlan:
        """The survey that these rules need on a field; ``options`` are fields of `SurveyPlan`."""
        first = options.get("filters", FILTERS)[0]
        pairs = dict.fromkeys(r.fwhm for r in (self.bright, self.extended) if r)
        options["bandpass"] = tuple(pair for pair in pairs if pair != first)
        star_nsigma = self.spikes.nsigma if self.spikes and self.spikes.auto else None
        offset = (int(grid.origin[0]) % noise_cell, int(grid.origin[1]) % noise_cell)
        return SurveyPlan(grid.shape, noise_cell, offset=offset, star_nsigma=star_nsigma, **options)

    @property
    def halo(self) -> int:
        """Pixels around a core that its mask depends on."""
        rules = [rule for rule in (self.bright, self.extended) if rule]
        return max((hp.halo(r.fwhm) + math.floor(r.dilate) for r in rules), default=0)
