"""Radial profiles about the cluster's centre: counts, maps, contamination, slopes, plateau.

Diego et al. (2026), sections 5 and 6 (their figure 7). Profiles carry counts and areas, so that
those of several fields add up (`combine`) and fits can use the Poisson likelihood.
"""

from gcdask.profiles.annuli import log_edges, radial_profile
from gcdask.profiles.background import contamination, subtract
from gcdask.profiles.gradient import gradient
from gcdask.profiles.slope import fit_plateau, fit_slope
from gcdask.profiles.tables import combine

__all__ = [
    "combine",
    "contamination",
    "fit_plateau",
    "fit_slope",
    "gradient",
    "log_edges",
    "radial_profile",
    "subtract",
]
