"""The bits of a mask, and the rules that set them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Any

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


@dataclass(frozen=True)
class MaskRules:
    """What to mask; ``edge`` in arcsec, None switches a cause off."""

    edge: float = 6.6
    bright: Rule | None = Rule(nsigma=150.0, dilate=6)
    luminous: Rule | None = Rule(nsigma=100.0, dilate=5)
    extended: Rule | None = Rule(nsigma=25.0, dilate=6, fwhm=(4.0, 25.0))
    spikes: Spikes | None = Spikes()
    regions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

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
        return max(
            (hp.halo(r.fwhm) + r.dilate for r in (self.bright, self.extended) if r), default=0
        )
