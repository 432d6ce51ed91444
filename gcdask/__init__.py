"""Globular clusters as tracers of dark matter, from JWST mosaics of any size, on Dask."""

from gcdask import catalog, lensing, simulate
from gcdask._version import __version__
from gcdask.compare import box_relation, fit_beta, fit_power_law
from gcdask.density import density_map, inpaint
from gcdask.detect import auto_threshold, detect_peaks, detection_map, highpass, noise_map
from gcdask.errors import GcdaskError, InputError
from gcdask.grid import Field, Grid
from gcdask.masks import build_mask
from gcdask.mosaic import ingest, open_mosaic, write_map
from gcdask.profiles import radial_profile

__all__ = [
    "Field",
    "GcdaskError",
    "Grid",
    "InputError",
    "__version__",
    "auto_threshold",
    "box_relation",
    "build_mask",
    "catalog",
    "density_map",
    "detect_peaks",
    "detection_map",
    "fit_beta",
    "fit_power_law",
    "highpass",
    "ingest",
    "inpaint",
    "lensing",
    "noise_map",
    "open_mosaic",
    "radial_profile",
    "simulate",
    "write_map",
]
