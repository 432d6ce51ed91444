"""Figures of a run, after those of Diego et al. (2026): small data in memory to a PNG file."""

from gcdask.plots.maps import density_kappa, detection_panels, mask_map, source_map
from gcdask.plots.relations import box_relation, kappa_rho_scatter, profiles, threshold_curve

__all__ = [
    "box_relation",
    "density_kappa",
    "detection_panels",
    "kappa_rho_scatter",
    "mask_map",
    "profiles",
    "source_map",
    "threshold_curve",
]
