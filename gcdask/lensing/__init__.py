"""Lens models: convergence maps from files or from Lenstool, on any grid, for any source."""

from gcdask.lensing.lenstool import read_lenstool, write_lenstool
from gcdask.lensing.maps import open_deflection, open_kappa, rescale
from gcdask.lensing.model import LenstoolModel
from gcdask.lensing.resample import on_grid
from gcdask.lensing.scale import distance_ratio, enclosed_mass, rescale_factor

__all__ = [
    "LenstoolModel",
    "distance_ratio",
    "enclosed_mass",
    "on_grid",
    "open_deflection",
    "open_kappa",
    "read_lenstool",
    "rescale",
    "rescale_factor",
    "write_lenstool",
]
