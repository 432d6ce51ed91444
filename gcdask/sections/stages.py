"""How sources are found and smoothed: noise, detection, inpainting, density."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gcdask.configio import mistake
from gcdask.sections.types import (
    Natural,
    Number,
    Positive,
    Section,
    Span,
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
