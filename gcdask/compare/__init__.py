"""How well globular clusters follow the lens: beta, correlations, the n-kappa relation, masses.

All tables are ``xr.Dataset``s, lazy where an input is lazy: reductions chunk -> combine -> finalise
(`gcdask.reduce`) over chunks of any shape. Formulas: Diego et al. (2026), sections 4 to 6.
"""

from gcdask.compare.beta import SECTORS, fit_beta
from gcdask.compare.boxes import box_relation
from gcdask.compare.correlation import correlation
from gcdask.compare.masses import GC_MASS_FRACTION, HALO_MASS_PER_GC, mass_numbers
from gcdask.compare.relation import fit_power_law, predict

__all__ = [
    "GC_MASS_FRACTION",
    "HALO_MASS_PER_GC",
    "SECTORS",
    "box_relation",
    "correlation",
    "fit_beta",
    "fit_power_law",
    "mass_numbers",
    "predict",
]
