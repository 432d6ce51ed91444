"""Lens models: convergence maps from files or from Lenstool, on any grid, for any source."""

from gcdask.lensing.arcs import image_scatter, read_images
from gcdask.lensing.counterparts import flux_ratio_test, match_counter_images
from gcdask.lensing.gridded import DeflectionLens, read_deflection
from gcdask.lensing.lens import Lens
from gcdask.lensing.lenstool import read_lenstool, write_lenstool
from gcdask.lensing.magnify import add_magnification
from gcdask.lensing.maps import open_deflection, open_kappa, rescale
from gcdask.lensing.model import LenstoolModel
from gcdask.lensing.resample import on_grid
from gcdask.lensing.scale import distance_ratio, enclosed_mass, rescale_factor

__all__ = [
    "DeflectionLens",
    "Lens",
    "LenstoolModel",
    "add_magnification",
    "distance_ratio",
    "enclosed_mass",
    "flux_ratio_test",
    "image_scatter",
    "match_counter_images",
    "on_grid",
    "open_deflection",
    "open_kappa",
    "read_deflection",
    "read_images",
    "read_lenstool",
    "rescale",
    "rescale_factor",
    "write_lenstool",
]
