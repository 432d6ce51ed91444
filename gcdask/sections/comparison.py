"""The comparison with the lens: models, relations, profiles, luminosities, masses."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gcdask.configio import mistake
from gcdask.sections.types import (
    Natural,
    Number,
    Positive,
    Radii,
    Rising,
    Section,
    Span,
    Switch,
    Text,
    option,
)


class Lens(Section):
    """The lens model that the sources are compared with."""

    path: Text = Field(description="Lenstool .par file, or FITS of kappa or of the x deflection")
    kind: Literal["lenstool", "kappa", "deflection"] | None = option(
        None, "null = from the name (.par: lenstool; path_y given: deflection; kappa)"
    )
    path_y: Text | None = option(None, "FITS of the y deflection (arcsec)")
    z_lens: Positive | None = option(None, "lens redshift of the map; null = from the file")
    z_source: Positive | None = option(
        None, "source redshift that the map holds for; null = from the file"
    )
    outside: Literal["error", "nan"] = option(
        "error", "where a map does not cover the field: error, or nan (compare the rest)"
    )
    images: Text | None = option(
        None, "multiple images (Lenstool's arcs file): how well the model brings them together"
    )
    others: dict[str, Text] = option(
        {}, "other Lenstool models of the lens, NAME: .par; their spread is the error of mu"
    )
    critical: tuple[Positive, ...] = option(
        (), "source redshifts whose critical curves are drawn and measured"
    )

    @property
    def resolved_kind(self) -> Literal["lenstool", "kappa", "deflection"]:
        """`kind`, or what the file's name says."""
        if self.kind is not None:
            return self.kind
        if self.path_y is not None:
            return "deflection"
        return "lenstool" if self.path.lower().endswith(".par") else "kappa"

    @model_validator(mode="after")
    def _check(self) -> Lens:
        if self.resolved_kind == "deflection" and self.path_y is None:
            raise mistake("is missing; give the FITS file of the y deflection", "path_y")
        if self.path_y is not None and self.resolved_kind != "deflection":
            raise mistake(f"is not used by kind {self.kind}; remove path_y or kind", "path_y")
        if "lens" in self.others:
            raise mistake("the name lens stands for the model of path; rename it", "others")
        if self.z_lens and self.z_source and self.z_source <= self.z_lens:
            raise mistake(
                f"{self.z_source:g} is not behind the lens (z_lens {self.z_lens:g}); "
                "give a larger z_source",
                "z_source",
            )
        return self


class KernelFit(Section):
    """Which kernel of the density gives the convergence's profile: a scan."""

    alphas: Rising = option((1.2, 1.4, 1.6, 1.8, 2.0, 2.2), "exponents (three or more, increasing)")
    softenings: Rising = option((0.3, 0.6, 0.9, 1.5, 2.5), "softening lengths (arcsec, increasing)")
    radii: Span = option((3.0, 50.0), "radii that the lens model is constrained in (arcsec)")


class Transfer(Section):
    """A relation calibrated on one half of the field and tested on the other."""

    axis: Number = option(90.0, "position angle of the half that calibrates (deg, 90 = east)")
    box: Positive = option(6.0, "side of the boxes in which kappa is predicted (arcsec)")


class Compare(Section):
    """Where and how density and convergence are compared."""

    radius: Positive | None = option(
        None, "compare within this distance of the centre (arcsec); null = everywhere"
    )
    sectors: dict[str, Number] = option(
        {"E": 90.0, "W": 270.0, "S": 180.0, "N": 0.0},
        "wedges about the centre: NAME: position angle (deg, north through east)",
    )
    half_width: Annotated[Number, Field(gt=0, le=180)] = option(
        45.0, "half the opening of a wedge (deg)"
    )
    box: Positive = option(3.0, "side of the boxes of the n-kappa relation (arcsec)")
    n_range: Span = option((0.67, 5.67), "densities that are fitted [low, high] (arcsec^-2)")
    jackknife: Positive = option(10.0, "side of the jackknife blocks (arcsec)")
    bootstrap: Natural = option(100, "Poisson bootstraps over sources for beta's errors; 0 = off")
    mocks: Natural = option(
        40, "mocks drawn from kappa, for the scatter of the wedges that is expected; 0 = off"
    )
    mock_power: Positive = option(1.0, "the mocks follow kappa to this power")
    seed: Natural = option(0, "seed of bootstraps and mocks")
    likelihood: Switch = option(
        True, "rank uniform, kappa, powers of it, light and density as Poisson intensities"
    )
    kernel: KernelFit | None = option(None, "scan of the density's kernel; null = off")
    transfer: Transfer | None = option(None, "transfer test of the n-kappa relation; null = off")

    @model_validator(mode="after")
    def _check(self) -> Compare:
        for key in ("mocks", "bootstrap"):
            if getattr(self, key) == 1:
                raise mistake("1 shows no scatter; give 2 or more, or 0 for none", key)
        return self


class Contamination(Section):
    """How the density of sources that do not belong to the cluster is found."""

    method: Literal["outer", "reference", "given", "joint"] = option(
        "outer",
        "outer (mean beyond r_min), reference (mean of the reference field), given "
        "(value), joint (fit of a profile plus a constant)",
    )
    r_min: Positive | None = option(
        None, "outer, reference: use radii beyond this (arcsec); null = the outermost"
    )
    count_slope: Annotated[Number, Field(ge=0)] | None = option(
        None,
        "slope s of the contaminants' counts (d log N / d mag): their density is scaled by the "
        "lens model's mu^(2.5 s - 1); null = not lensed (as for s = 0.4)",
    )
    value: Annotated[Number, Field(ge=0)] | None = option(None, "given: arcsec^-2")
    error: Annotated[Number, Field(ge=0)] | None = option(None, "given: its error (arcsec^-2)")

    @model_validator(mode="after")
    def _check(self) -> Contamination:
        if self.method == "given" and self.value is None:
            raise mistake("is missing; method given needs a value (arcsec^-2)", "value")
        for key in ("value", "error"):
            if self.method != "given" and getattr(self, key) is not None:
                raise mistake(f"is not used by method {self.method}; use method: given", key)
        return self


class Profiles(Section):
    """Radial profiles about the centre in logarithmic annuli."""

    r_min: Positive = option(1.0, "inner edge of the first annulus (arcsec)")
    r_max: Positive | None = option(None, "outer edge (arcsec); null = the farthest corner")
    n: Annotated[int, Field(strict=True, ge=2)] = option(24, "number of annuli")
    slope_range: Span = option((13.0, 60.0), "radii of the slope's fit (arcsec)")
    outer_range: Span | None = option(
        None, "radii of a second slope, after subtraction (arcsec); null = none"
    )
    plateau_range: Span = option((1.0, 60.0), "radii in which the plateau is looked for (arcsec)")
    contamination: Contamination = option(Contamination(), "contaminating sources")

    @model_validator(mode="after")
    def _check(self) -> Profiles:
        if self.r_max is not None and self.r_max <= self.r_min:
            raise mistake(
                f"{self.r_max:g} is not beyond r_min ({self.r_min:g}); give a larger one", "r_max"
            )
        if self.r_max is not None and self.slope_range[0] >= self.r_max:
            raise mistake(
                f"{list(self.slope_range)} starts beyond r_max ({self.r_max:g}); "
                "give smaller radii or a larger r_max",
                "slope_range",
            )
        return self


class Luminosity(Section):
    """The luminosity function of the catalogue, from a column of it."""

    flux: Text | None = option(None, "column of fluxes (this or mag)")
    mag: Text | None = option(None, "column of AB magnitudes (this or flux)")
    zero_point: Number | None = option(
        None, "AB magnitude of a flux of 1, where the catalogue names no unit (nJy: 31.4)"
    )
    edges: tuple[Number, Number] = option((24.0, 31.0), "brightest and faintest magnitude")
    width: Positive = option(0.25, "width of a bin (mag)")
    limit: Number | None = option(None, "magnitude to which the catalogue is complete; null = edge")
    completeness: tuple[tuple[Number, Number], ...] = option(
        (), "share of sources found, as pairs [magnitude, share]; none = all are"
    )
    offset: Number = option(
        0.0, "absolute V magnitude = magnitude - distance modulus - offset (K correction, colour)"
    )
    turnover: Number | None = option(-7.4, "turnover of the Gaussian (M_V); null = fitted")

    @model_validator(mode="after")
    def _check(self) -> Luminosity:
        if (self.flux is None) == (self.mag is None):
            raise mistake("needs either flux or mag; name one column of the catalogue")
        shares = [share for _, share in self.completeness]
        if any(a >= b for a, b in pairwise(m for m, _ in self.completeness)) or not all(
            0 <= share <= 1 for share in shares
        ):
            raise mistake(
                "is no table of increasing magnitudes and shares from 0 to 1; give e.g. "
                "[[27, 1.0], [29, 0.5]]",
                "completeness",
            )
        if self.limit is not None and self.limit < self.edges[0] + self.width:
            raise mistake(
                f"{self.limit:g} leaves no bin of {self.width:g} mag from {self.edges[0]:g} on; "
                "give a fainter one",
                "limit",
            )
        if not self.edges[0] + 3 * self.width <= self.edges[1]:
            raise mistake(
                f"{list(self.edges)} holds fewer than three bins of {self.width:g} mag; give "
                "[brighter, fainter]",
                "edges",
            )
        return self


class Magnification(Section):
    """Magnifications of the sources of a catalogue behind the lens."""

    path: Text = Field(description="catalogue with ra, dec (Parquet, FITS, ECSV, CSV)")
    z_source: Positive = Field(description="their redshift")


class Mass(Section):
    """Masses within apertures."""

    radius: Radii = option((60.0,), "radius or radii of the apertures (arcsec)")
    radius_kpc: Radii | None = option(None, "more radii, in kpc at the lens")
