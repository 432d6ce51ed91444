"""Figures of a run, after those of Diego et al. (2026): small data in memory to a PNG file."""

from gcdask.plots.kernelfit import kernel_fit
from gcdask.plots.likelihood import likelihood_ranking, tracer_power
from gcdask.plots.maps import density_kappa, detection_panels, mask_map, source_map
from gcdask.plots.predictions import luminosity_function, transfer
from gcdask.plots.relations import box_relation, kappa_rho_scatter, profiles, threshold_curve

__all__ = [
    "box_relation",
    "density_kappa",
    "detection_panels",
    "kappa_rho_scatter",
    "kernel_fit",
    "likelihood_ranking",
    "luminosity_function",
    "mask_map",
    "profiles",
    "source_map",
    "threshold_curve",
    "tracer_power",
    "transfer",
]
