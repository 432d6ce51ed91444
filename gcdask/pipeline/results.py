"""The numbers of a run as one plain tree (``results.json``), with units, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.table import Table

from gcdask.pipeline.science import Scene
from gcdask.pipeline.store import plain

#: Units of the entries of ``results.json``; what is not here is a pure number.
UNITS = {
    "beta.value": "arcsec1.6",
    "profile.contamination_arcsec2": "arcsec-2",
    "profile.contamination_arcsec2_error": "arcsec-2",
    "profile.contamination_kpc2": "kpc-2",
    "profile.contamination_kpc2_error": "kpc-2",
    "mass.within_arcsec": "arcsec",
    "mass.within_kpc": "kpc",
    "mass.msun": "Msun",
    "mass.per_gc_msun": "Msun",
    "mass.per_gc_msun_error": "Msun",
    "mass.in_gcs_msun": "Msun",
    "mass.virial_msun": "Msun",
    "density.integral_arcsec2": "arcsec2",
    "relation.box": "arcsec",
    "relation.n_min": "arcsec-2",
    "relation.n_max": "arcsec-2",
    "field.kpc_per_arcsec": "kpc arcsec-1",
    "field.sigma_cr": "Msun kpc-2",
    "field.pixel_scale": "arcsec",
    "inpainting.sigma": "arcsec",
}


def number(value: Any) -> Any:
    """A 0-d result as a plain Python number or string."""
    content = np.asarray(value)[()]
    return content.item() if isinstance(content, np.generic) else content


def beta_numbers(fit: xr.Dataset, floor: xr.Dataset) -> dict[str, Any]:
    """``beta`` of the results: value, error, sectors, dispersion and its geometric floor."""
    names = [str(s) for s in fit["sector"].values]
    return {
        "value": number(fit["beta"]),
        "error": number(fit["beta_error"]),
        "sectors": dict(zip(names, fit["sector_beta"].values.tolist(), strict=True)),
        "sector_errors": dict(zip(names, fit["sector_error"].values.tolist(), strict=True)),
        "dispersion": number(fit["dispersion"]),
        "dispersion_error": number(fit["dispersion_error"]),
        "dispersion_relative": number(fit["dispersion_relative"]),
        "geometric_floor_relative": number(floor["dispersion_relative"]),
        "residual_rms": number(fit["residual_rms"]),
        "n_pixels": number(fit["n_pixels"]),
    }


def relation_numbers(fit: xr.Dataset, boxes: xr.Dataset) -> dict[str, Any]:
    """``relation`` of the results: <kappa> = a n^b in boxes."""
    low, high = fit.attrs["n_range"]
    return {
        **{k: number(fit[k]) for k in ("a", "b", "a_error", "b_error")},
        "cov": fit["cov"].values,
        "b_error_of_mean": number(fit["b_mean_error"]),
        "n_boxes": number(fit["n_boxes"]),
        "n_boxes_unmasked": int(np.count_nonzero(boxes["good"])),
        "n_boxes_occupied": int(np.count_nonzero(boxes["good"] & (boxes["n"] > 0))),
        "box": float(boxes.attrs["box"]),
        "n_min": low,
        "n_max": high,
        "status": number(fit["status"]) or "ok",
    }


def profile_numbers(fits: dict[str, xr.Dataset], scene: Scene) -> dict[str, Any]:
    """``profile`` of the results: slopes and contamination."""
    before, after, level = fits["slope"], fits["slope_corrected"], fits["contamination"]
    return {
        "slope": number(after["slope"]),
        "slope_error": number(after["slope_error"]),
        "slope_status": number(after["status"]) or "ok",
        "slope_uncorrected": number(before["slope"]),
        "slope_uncorrected_error": number(before["slope_error"]),
        "slope_range": list(scene.config.profiles.slope_range),
        "contamination_arcsec2": number(level["value"]),
        "contamination_arcsec2_error": number(level["error"]),
        "contamination_kpc2": number(level["value_kpc2"]),
        "contamination_kpc2_error": number(level["error_kpc2"]),
        "contamination_method": level.attrs["method"],
        "contamination_is_upper_limit": bool(level["is_upper_limit"]),
        "contamination_status": number(level["status"]) or "ok",
    }


def mass_numbers(found: dict[float, xr.Dataset]) -> dict[str, Any]:
    """``mass`` of the results: the first radius, and all of them under ``radii``."""
    rows = [
        {
            "within_arcsec": radius,
            "within_kpc": number(m["radius_kpc"]),
            "msun": number(m["mass"]),
            "coverage": number(m["coverage"]),
            "n": number(m["n"]),
            "per_gc_msun": number(m["mass_per_cluster"]),
            "per_gc_msun_error": number(m["mass_per_cluster_error"]),
            "in_gcs_msun": number(m["mass_in_clusters"]),
            "virial_msun": number(m["m_vir"]),
        }
        for radius, m in found.items()
    ]
    return {**rows[0], "n_is": next(iter(found.values())).attrs["n_is"], "radii": rows}


def units_of(results: dict[str, Any], alpha: float) -> dict[str, str]:
    """Units of the entries that are there, by dotted name."""
    beta = f"arcsec{alpha:g}"
    known = UNITS | {
        f"beta.{k}": beta for k in ("value", "error", "dispersion", "dispersion_error")
    }
    return {name: unit for name, unit in known.items() if _has(results, name.split("."))}


def _has(tree: Any, path: list[str]) -> bool:
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


def write_table(data: xr.Dataset, path: Path, about: dict[str, Any]) -> None:
    """Write the one-dimensional variables of a Dataset as an ECSV table with units."""
    (dim,) = data.dims
    table = Table(meta=plain(about))
    for name in (*data.coords, *data.data_vars):
        column = data[name]
        if column.dims != (dim,):
            continue
        table[str(name)] = np.asarray(column.values)
        text = str(column.attrs.get("units", ""))
        if text:
            table[str(name)].unit = u.Unit(text)
        table[str(name)].description = str(column.attrs.get("long_name", "")) or None
    table.write(path, format="ascii.ecsv", overwrite=True)
