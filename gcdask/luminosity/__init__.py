"""Luminosity functions of clusters, and how much of them is seen at a given depth."""

from gcdask.luminosity.counts import luminosity_function
from gcdask.luminosity.gaussian import fit_gclf
from gcdask.luminosity.population import Population

__all__ = ["Population", "fit_gclf", "luminosity_function"]
