"""What a run computes: one section per stage, from the noise map to the masses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gcdask.configio import mistake
from gcdask.sections.types import (
    Natural,
    Number,
    Positive,
    Radii,
    Section,
    Span,
    Text,
    Threshold,
    option,
)


class Noise(Section):
    """The map of robust local noise."""

    cell: Annotated[int, Field(strict=True, ge=8)] = option(
        128, "side of a cell of the noise map (px)"
    )
    patch: Annotated[int, Field(strict=True, ge=8)] = option(
        64, "side of the patch in each cell that is measured (px), at most cell"
    )

    @model_validator(mode="after")
    def _check(self) -> Noise:
        if self.patch > self.cell:
            raise mistake(
                f"{self.patch} px is larger than the cell ({self.cell} px); give at most that",
                "patch",
            )
        return self


class Detect(Section):
    """Filters, threshold and peaks (brightest first, a disk blanked around each)."""

    filters: tuple[Span, Span] = option(
        ((0.5, 5.0), (1.0, 3.0)), "the two high-pass filters [narrow, wide] (FWHM, px)"
    )
    threshold: Threshold = option(
        "auto", "T: auto, a number > 0 (map units), or N sigma of the local noise"
    )
    floor: Positive = option(3.0, "auto: T is not below this many sigma")
    fraction: Annotated[Number, Field(gt=0, lt=1)] = option(
        0.1, "auto: rate of peaks of the negated map at level x T, over that of the map"
    )
    radius: Annotated[int, Field(strict=True, ge=1, le=12)] = option(
        3, "radius of the disk blanked around a peak (px)"
    )
    rim: Natural = option(0, "grow masks of sources after filtering (px): 3 hides bright rims")
    level: Annotated[Number, Field(ge=1)] = option(2.0, "the catalogue keeps peaks above level x T")

    @property
    def threshold_kind(self) -> Literal["auto", "value", "sigma"]:
        """How `threshold` is meant: found (auto), a number of map units, or of sigmas."""
        if isinstance(self.threshold, float):
            return "value"
        return "auto" if self.threshold == "auto" else "sigma"

    @property
    def threshold_value(self) -> float | None:
        """The number in `threshold` (map units or sigmas); None for auto."""
        if isinstance(self.threshold, float):
            return self.threshold
        return None if self.threshold == "auto" else float(self.threshold.split()[0])


class Inpaint(Section):
    """Sources drawn where the mask hides them."""

    iterations: Natural = option(1, "times density and inpainting are repeated; 0 = off")
    seed: Natural = option(0, "seed of the draws")
    estimator: Literal["density", "local"] = option(
        "density", "intensity: density (the paper's rho) or local (masked smoothing)"
    )


class Density(Section):
    """The smooth map rho = sum of (softening + d)^-alpha."""

    alpha: Positive = option(1.6, "exponent of the kernel")
    softening: Positive = option(0.9, "softening length of the kernel (arcsec)")
    pixel: Positive = option(0.12, "sampling of the density maps (arcsec)")
    alphas: tuple[Positive, ...] = option(
        (1.4, 1.8), "other exponents, for comparison in the profiles"
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
        if self.z_lens and self.z_source and self.z_source <= self.z_lens:
            raise mistake(
                f"{self.z_source:g} is not behind the lens (z_lens {self.z_lens:g}); "
                "give a larger z_source",
                "z_source",
            )
        return self


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


class Mass(Section):
    """Masses within apertures."""

    radius: Radii = option((60.0,), "radius or radii of the apertures (arcsec)")
    radius_kpc: Radii | None = option(None, "more radii, in kpc at the lens")
