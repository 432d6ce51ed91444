"""How well globular clusters follow the lens: beta, correlations, the n-kappa relation, masses.

All tables are ``xr.Dataset``s, lazy where an input is lazy: reductions chunk -> combine -> finalise
(`gcdask.reduce`) over chunks of any shape. Formulas: Diego et al. (2026), sections 4 to 6.
"""

from gcdask.compare.beta import SECTORS, fit_beta
from gcdask.compare.bootstrap import bootstrap_beta
from gcdask.compare.boxes import box_relation
from gcdask.compare.correlation import correlation
from gcdask.compare.expected import expected_dispersion
from gcdask.compare.goodness import goodness_of_fit
from gcdask.compare.kernel import fit_kernel
from gcdask.compare.likelihood import LeaveOneOut, kappa_powers, poisson_loglike
from gcdask.compare.masses import GC_MASS_FRACTION, HALO_MASS_PER_GC, mass_numbers
from gcdask.compare.pixels import pixel_relation
from gcdask.compare.prediction import predict_kappa
from gcdask.compare.relation import fit_power_law
from gcdask.compare.resolution import beta_by_resolution
from gcdask.compare.tracer import fit_tracer_power
from gcdask.compare.transfer import transfer_relation, transfer_test

__all__ = [
    "GC_MASS_FRACTION",
    "HALO_MASS_PER_GC",
    "SECTORS",
    "LeaveOneOut",
    "beta_by_resolution",
    "bootstrap_beta",
    "box_relation",
    "correlation",
    "expected_dispersion",
    "fit_beta",
    "fit_kernel",
    "fit_power_law",
    "fit_tracer_power",
    "goodness_of_fit",
    "kappa_powers",
    "mass_numbers",
    "pixel_relation",
    "poisson_loglike",
    "predict_kappa",
    "transfer_relation",
    "transfer_test",
]
