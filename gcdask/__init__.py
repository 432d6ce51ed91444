"""Globular clusters as tracers of dark matter, from JWST mosaics of any size, on Dask."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gcdask._version import __version__
from gcdask.errors import GcdaskError, InputError

if TYPE_CHECKING:
    from gcdask import catalog, compare, density, lensing, luminosity, profiles, simulate
    from gcdask.compare import (
        box_relation,
        fit_beta,
        fit_kernel,
        fit_power_law,
        fit_tracer_power,
        poisson_loglike,
        predict_kappa,
    )
    from gcdask.density import density_map, inpaint
    from gcdask.detect import auto_threshold, detect_peaks, detection_map, highpass, noise_map
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
    "compare",
    "density",
    "density_map",
    "detect_peaks",
    "detection_map",
    "fit_beta",
    "fit_kernel",
    "fit_power_law",
    "fit_tracer_power",
    "highpass",
    "ingest",
    "inpaint",
    "lensing",
    "luminosity",
    "noise_map",
    "open_mosaic",
    "poisson_loglike",
    "predict_kappa",
    "profiles",
    "radial_profile",
    "simulate",
    "write_map",
]

# Imported when first used: `gcdask --help` must not wait for the scientific stack.
_MODULES = ("catalog", "compare", "density", "lensing", "luminosity", "profiles", "simulate")
_HOME = {
    "compare": (
        "box_relation",
        "fit_beta",
        "fit_kernel",
        "fit_power_law",
        "fit_tracer_power",
        "poisson_loglike",
        "predict_kappa",
    ),
    "density": ("density_map", "inpaint"),
    "detect": ("auto_threshold", "detect_peaks", "detection_map", "highpass", "noise_map"),
    "grid": ("Field", "Grid"),
    "masks": ("build_mask",),
    "mosaic": ("ingest", "open_mosaic", "write_map"),
    "profiles": ("radial_profile",),
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"gcdask.{name}")
    for module, names in _HOME.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"gcdask.{module}"), name)
            return value
    raise AttributeError(f"module 'gcdask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
