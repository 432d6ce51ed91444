"""The numbers of a run as one plain tree (``results.json``), with units, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.table import Table

from gcdask.grid import Grid
from gcdask.masks import star_table
from gcdask.pipeline import detection
from gcdask.pipeline import numbers as more
from gcdask.pipeline.identity import plain
from gcdask.pipeline.numbers import evidence_numbers, more_beta, number, plateau, poisson_law
from gcdask.pipeline.science import Found, Scene

#: Units of the entries of ``results.json`` by dotted name; what is not here is a pure number. A
#: name stands for all entries of a section or list of that name.
UNITS = {
    "field.center": "deg",
    "field.kpc_per_arcsec": "kpc arcsec-1",
    "field.sigma_cr": "Msun kpc-2",
    "field.pixel_scale": "arcsec",
    "spikes.angle": "deg",
    "profile.slope_range": "arcsec",
    "profile.contamination_arcsec2": "arcsec-2",
    "profile.contamination_arcsec2_error": "arcsec-2",
    "profile.contamination_kpc2": "kpc-2",
    "profile.contamination_kpc2_error": "kpc-2",
    "relation.box": "arcsec",
    "relation.n_min": "arcsec-2",
    "relation.n_max": "arcsec-2",
    "truth.contamination": "arcsec-2",
    "truth.contamination_truth": "arcsec-2",
}
MASS_UNITS = {
    "within_arcsec": "arcsec",
    "within_kpc": "kpc",
    "msun": "Msun",
    "per_gc_msun": "Msun",
    "per_gc_msun_error": "Msun",
    "in_gcs_msun": "Msun",
    "virial_msun": "Msun",
    "virial_msun_error": "Msun",
}
OF_BETA = ("value", "error", "sectors", "sector_errors", "dispersion", "dispersion_error")
NEAR_LENS = 3000  # kpc: a reference field nearer than this has clusters of the lens too


def numbers(scene: Scene, found: Found, measured: dict[str, Any]) -> dict[str, Any]:
    """Everything that goes into ``results.json``, as plain JSON values."""
    inpainted = found.inpainted
    drawn = inpainted["n"] if inpainted else 0
    tree: dict[str, Any] = {
        "name": scene.config.name,
        "n_detected": found.n_detected,
        "n_detected_error": float(np.sqrt(found.n_detected)),
        "n_inpainted": drawn,
        "n_inpainted_error": float(np.sqrt(drawn)),
        "field": {
            "center": list(scene.field.center),
            "z_lens": scene.field.z_lens,
            "z_source": scene.field.z_source,
            "kpc_per_arcsec": scene.field.kpc_per_arcsec,
            "sigma_cr": scene.field.sigma_cr,
            "pixel_scale": scene.grid.pixel_scale,
        },
        **dict.fromkeys(
            ("threshold", "purity", "masked_fraction", "beta", "correlation", "relation", "mass")
        ),
    }
    if found.threshold is not None:
        tree |= detection_numbers(found, found.threshold)
    if inpainted:
        tree["inpainting"] = {k: v for k, v in inpainted.items() if k != "n"}
    if "beta" in measured:
        tree["beta"] = beta_numbers(measured["beta"], measured["floor"]) | more_beta(measured)
        c = measured["correlation"]
        tree["correlation"] = {
            "pearson_log": number(c["pearson"]),
            "spearman": number(c["spearman"]),
            "n_pixels": number(c["n_pixels"]),
        }
        tree["relation"] = relation_numbers(measured["relation"], measured["boxes"])
        tree["relation"]["poisson"] = poisson_law(measured["law"])
        tree["mass"] = mass_numbers(measured["mass"], measured["source_coverage"])
    tree["profile"] = profile_numbers(measured, scene) | plateau(measured)
    tree |= evidence_numbers(measured)
    tree["units"] = units_of(scene.config.density.alpha)
    tree = plain(tree)
    tree["notes"] = notes(tree)
    return tree


def detection_numbers(found: Found, threshold: dict[str, Any]) -> dict[str, Any]:
    """Threshold, purity, mask shares, and the noise of the field (over that of the second one)."""
    main, *others = found.fields.values()
    noise = detection.typical_noise(main)
    shown = ("value", "level", "unit", "kind")
    out: dict[str, Any] = {
        "threshold": {k: threshold[k] for k in shown},
        "purity": threshold["purity"],
        "masked_fraction": main.shares["masked"],
        "mask_shares": {name: f.shares for name, f in found.fields.items()},
        "spikes": {
            "angle": main.survey.angle,
            "n_stars": len(star_table(main.job.mask, main.survey)),
        },
    }
    out["noise"] = {"median": noise, "unit": main.job.units}
    if others:
        out["noise"]["over_reference"] = noise / detection.typical_noise(others[0])
    return out


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


def profile_numbers(fits: dict[str, Any], scene: Scene) -> dict[str, Any]:
    """``profile`` of the results: slopes and contamination."""
    before, after, level = fits["slope"], fits["slope_corrected"], fits["contamination"]
    return {
        "slope": number(after["slope"]),
        "slope_error": number(after["slope_error"]),
        "slope_status": number(after["status"]) or _reach(scene, fits["inner"]["sources"]),
        "slope_uncorrected": number(before["slope"]),
        "slope_uncorrected_error": number(before["slope_error"]),
        "slope_range": list(scene.config.profiles.slope_range),
        "contamination_arcsec2": number(level["value"]),
        "contamination_arcsec2_error": number(level["error"]),
        "contamination_kpc2": number(level["value_kpc2"]),
        "contamination_kpc2_error": number(level["error_kpc2"]),
        "contamination_method": level.attrs["method"],
        "contamination_is_upper_limit": bool(level["is_upper_limit"]) or _near_lens(scene, level),
        "contamination_status": number(level["status"]) or "ok",
    }


def _reach(scene: Scene, profile: xr.Dataset) -> str:
    """Whether the slope's range was seen: ``ok``, or how far it was."""
    seen = profile["r_outer"].values[np.asarray(profile["coverage"]) >= 0.05]
    low, high = scene.config.profiles.slope_range
    if seen.size == profile.sizes["annulus"]:
        return "ok"
    far = f"{seen.max():.3g}" if seen.size else "none"
    return (
        f"only {seen.size} of {profile.sizes['annulus']} annuli from {low:g} to {high:g} arcsec "
        f"were seen (outermost: {far}); give profiles.slope_range inside the field"
    )


def _near_lens(scene: Scene, level: xr.Dataset) -> bool:
    """Whether the contamination is that of a reference field which the lens still reaches."""
    if level.attrs["method"] != "reference" or scene.reference is None:
        return False
    grid = Grid.of(scene.reference[1])
    apart = float(np.hypot(*grid.offsets(*grid.center, scene.field.center)))
    return apart * scene.field.kpc_per_arcsec < NEAR_LENS


def mass_numbers(
    found: dict[float, xr.Dataset], looked: dict[float, xr.DataArray]
) -> dict[str, Any]:
    """``mass`` of the results: the first radius, and all of them under ``radii``."""
    rows = [
        {
            "within_arcsec": radius,
            "within_kpc": number(m["radius_kpc"]),
            "msun": number(m["mass"]),
            "coverage": number(m["coverage"]),
            "source_coverage": number(looked[radius]),
            "n": number(m["n"]),
            "n_error": number(m["n_error"]),
            "per_gc_msun": number(m["mass_per_cluster"]),
            "per_gc_msun_error": number(m["mass_per_cluster_error"]),
            "in_gcs_msun": number(m["mass_in_clusters"]),
            "virial_msun": number(m["m_vir"]),
            "virial_msun_error": number(m["m_vir_error"]),
        }
        for radius, m in found.items()
    ]
    return {**rows[0], "n_is": next(iter(found.values())).attrs["n_is"], "radii": rows}


def units_of(alpha: float) -> dict[str, str]:
    """Units of ``results.json`` by dotted name."""
    mass = {f"mass.{p}{k}": unit for p in ("", "radii.") for k, unit in MASS_UNITS.items()}
    betas = [f"beta.{k}" for k in (*OF_BETA, *more.OF_BETA)] + ["truth.beta", "truth.beta_truth"]
    return UNITS | more.UNITS | mass | dict.fromkeys(betas, f"arcsec{alpha:g}")


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


def notes(tree: dict[str, Any]) -> list[str]:
    """What a reader must know about these numbers, in words."""
    out = []
    relation, profile = tree.get("relation"), tree["profile"]
    if relation and relation["status"] != "ok":
        out.append(
            f"n-kappa relation: {relation['status']} ({relation['n_boxes_occupied']} of "
            f"{relation['n_boxes_unmasked']} boxes hold a source)."
        )
    if profile["contamination_is_upper_limit"]:
        out.append(
            "Contamination is an upper limit: clusters of the lens are at the radii (or in the "
            "reference field) that it was measured at too, so the corrected profile is a lower "
            "limit."
        )
    ratio = (tree.get("noise") or {}).get("over_reference")
    if ratio is not None and abs(np.log(ratio)) > np.log(1.1):
        out.append(
            f"The noise of the field is {ratio:.2f} times that of the reference field; with a "
            "threshold in sigma they are not equally deep, which biases the contamination."
        )
    if tree.get("spikes") and tree["spikes"]["n_stars"] and tree["spikes"]["angle"] is None:
        out.append(
            "No star shows spikes, so that only the cores of the given stars are masked; give "
            "mask.spikes.angles to mask their spikes."
        )
    for key in ("slope_status", "contamination_status"):
        if profile[key] != "ok":
            out.append(f"Profile: {profile[key]}.")
    if tree.get("mass"):
        thin = [m for m in tree["mass"]["radii"] if m["coverage"] < 0.99]
        out += [
            f"Sources were looked for in {m['source_coverage']:.0%} of the disk of "
            f"{m['within_arcsec']:.4g} arcsec only: its number of sources is a lower limit, and "
            "the mass per source an upper limit."
            for m in tree["mass"]["radii"]
            if m["source_coverage"] < 0.98
        ]
        out += [
            f"Mass within {m['within_arcsec']:g} arcsec is a lower limit: the lens map covers "
            f"{m['coverage']:.0%} of the disk."
            for m in thin
        ]
    if tree.get("correlation"):
        out.append(
            "Pixel correlations are high whatever the lens, because neighbouring pixels of rho "
            "share the kernel's sources; compare them with mocks."
        )
    return out + more.notes(tree)
