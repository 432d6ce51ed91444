"""How much of the clusters' luminosity function a survey sees: what depth and distance do to n."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from gcdask.errors import InputError
from gcdask.grid import Field


@dataclass(frozen=True)
class Population:
    """Globular clusters with a Gaussian luminosity function, of which those above a limit are seen.

    Parameters
    ----------
    limit : float
        Apparent magnitude down to which sources are detected.
    distance_modulus : float
        m - M at the lens.
    turnover, sigma : float
        Peak and standard deviation of the luminosity function in absolute magnitudes (M_V = -7.4
        and 1.2 to 1.4 mag in massive galaxies).
    offset : float
        What else is to be subtracted from an apparent magnitude: K-correction, colour from the
        observed to the rest-frame band, extinction.
    """

    limit: float
    distance_modulus: float
    turnover: float = -7.4
    sigma: float = 1.3
    offset: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.limit, self.distance_modulus, self.turnover, self.sigma, self.offset)
        if not all(math.isfinite(v) for v in numbers):
            raise InputError(f"{self} has a number that is not finite; give magnitudes")
        if not self.sigma > 0:
            raise InputError(f"sigma = {self.sigma} mag is not positive; give e.g. 1.3")

    @classmethod
    def at(
        cls,
        field: Field,
        limit: float,
        *,
        turnover: float = -7.4,
        sigma: float = 1.3,
        offset: float = 0.0,
    ) -> Population:
        """Population at the redshift of a field's lens, in its cosmology."""
        modulus = float(field.cosmology.distmod(field.z_lens).value)
        return cls(limit, modulus, turnover, sigma, offset)

    @property
    def absolute_limit(self) -> float:
        """Absolute magnitude of the faintest clusters that are seen."""
        return self.limit - self.distance_modulus - self.offset

    def fraction(self, limit: float | None = None) -> float:
        """Share of the whole population above an apparent limit (default: its own)."""
        end = self.limit if limit is None else float(limit)
        bright = end - self.distance_modulus - self.offset
        return float(stats.norm.cdf((bright - self.turnover) / self.sigma))
