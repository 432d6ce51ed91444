"""Numbers of `gcdask.pipeline.evidence` as plain sections of ``results.json``, with their units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

#: Units by dotted name (see `gcdask.pipeline.results.UNITS`); those of beta are added there.
UNITS = {
    "beta.by_resolution.pixel": "arcsec",
    "beta.clean.contamination": "arcsec-2",
    "likelihood.area": "arcsec2",
    "tracer.amplitude": "arcsec-2",
    "tracer.amplitude_error": "arcsec-2",
    "tracer.contamination": "arcsec-2",
    "tracer.contamination_error": "arcsec-2",
    "goodness.box": "arcsec",
    "kernel.softening": "arcsec",
    "kernel.softening_error": "arcsec",
    "kernel.softening_error_chi2": "arcsec",
    "kernel.radii": "arcsec",
    "relation.poisson.n0": "arcsec-2",
    "relation.poisson.n0_error": "arcsec-2",
    "transfer.axis": "deg",
    "transfer.box": "arcsec",
    "profile.plateau_radius": "arcsec",
    "profile.plateau_radius_error": "arcsec",
    "profile.plateau_density": "arcsec-2",
    "profile.plateau_density_error": "arcsec-2",
    "profile.outer_range": "arcsec",
    "second_field.n": "arcsec-2",
    "second_field.n_error": "arcsec-2",
    "second_field.towards": "arcsec-2 arcmin-1",
    "second_field.towards_error": "arcsec-2 arcmin-1",
    "second_field.across": "arcsec-2 arcmin-1",
    "second_field.across_error": "arcsec-2 arcmin-1",
    "second_field.excess": "arcsec-2",
    "second_field.excess_error": "arcsec-2",
    "luminosity.turnover": "mag",
    "luminosity.turnover_error": "mag",
    "luminosity.absolute_turnover": "mag",
    "luminosity.sigma": "mag",
    "luminosity.sigma_error": "mag",
    "luminosity.limit": "mag",
    "lens.critical.theta_e": "arcsec",
    "lens.critical.radius_kpc": "kpc",
    "lens.critical.mass": "Msun",
    "lens.images.source_rms": "arcsec",
    "lens.images.image_rms": "arcsec",
}
#: Entries of ``beta`` in its own unit.
OF_BETA = (
    "bootstrap_error",
    "sector_bootstrap_errors",
    "clean.value",
    "clean.error",
    "clean.sectors",
    "by_resolution.beta",
    "by_resolution.beta_error",
)


def number(value: Any) -> Any:
    """A 0-d result as a plain Python number or string."""
    content = np.asarray(value)[()]
    return content.item() if isinstance(content, np.generic) else content


def some(fit: xr.Dataset, *names: str, **renamed: str) -> dict[str, Any]:
    """Numbers of a result by name (``new=old`` for other names), those that it has."""
    wanted = {**{n: n for n in names}, **renamed}
    return {new: number(fit[old]) for new, old in wanted.items() if old in fit}


def status(fit: xr.Dataset) -> str:
    """``ok``, or why a fit is not."""
    return str(number(fit["status"])) or "ok"


def evidence_numbers(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Sections ``likelihood``, ``tracer``, ``goodness``, ``kernel``, ... for what was measured."""
    makers = {
        "likelihood": _likelihood,
        "tracer": _tracer,
        "goodness": _goodness,
        "kernel": _kernel,
        "transfer": _transfer,
        "second_field": _gradient,
        "luminosity": _luminosity,
    }
    lens = _lens(measured)
    source = {"second_field": "gradient", "luminosity": "gclf"}
    return {
        name: make(measured[source.get(name, name)])
        for name, make in makers.items()
        if source.get(name, name) in measured
    } | ({"lens": lens} if lens else {})


def more_beta(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What ``beta`` says beside its value: bootstrap, contamination, mocks, resolution."""
    out: dict[str, Any] = {}
    names = [str(s) for s in measured["beta"]["sector"].values]

    def by_sector(values: xr.DataArray) -> dict[str, float]:
        return dict(zip(names, values.values.tolist(), strict=True))

    if "bootstrap" in measured:
        fit = measured["bootstrap"]
        out["bootstrap_error"] = number(fit["beta_boot_error"])
        out["sector_bootstrap_errors"] = by_sector(fit["sector_boot_error"])
    if "beta_clean" in measured:
        clean = measured["beta_clean"]
        out["clean"] = {
            **some(clean, "dispersion_relative", value="beta", error="beta_error"),
            "sectors": by_sector(clean["sector_beta"]),
            "contamination": number(measured["contamination"]["value"]),
        }
    if "expected" in measured:
        mocks = measured["expected"]
        out["expected"] = {
            **some(
                mocks, "p_value", dispersion_relative="expected", std="expected_std", floor="floor"
            ),
            "n_mocks": int(mocks.sizes["mock"]),
            "verdict": number(mocks["verdict"]),
        }
    if "resolution" in measured:
        by = measured["resolution"]
        columns = [by[name].values.tolist() for name in ("pixel", "beta", "beta_error")]
        out["by_resolution"] = [
            {"pixel": pixel, "beta": beta, "beta_error": error}
            for pixel, beta, error in zip(*columns, strict=True)
        ]
    return out


def poisson_law(fit: xr.Dataset) -> dict[str, Any]:
    """``relation.poisson``: kappa = a (n - n0)^b by the likelihood of counts."""
    names = ("a", "b", "n0", "a_error", "b_error", "n0_error")
    return {
        **some(fit, *names, "b_block_error", "correlation", "ab", "degeneracy", "scatter"),
        "status": status(fit),
    }


def plateau(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Plateau and outer slope, for ``profile``."""
    fit = measured["plateau"]
    out = some(
        fit,
        plateau_radius="radius",
        plateau_radius_error="radius_error",
        plateau_density="density",
        plateau_density_error="density_error",
    )
    out["plateau_status"] = status(fit)
    if "slope_outer" in measured:
        outer = measured["slope_outer"]
        out |= some(outer, slope_outer="slope", slope_outer_error="slope_error")
        out |= {"outer_range": outer.attrs["r_range"], "slope_outer_status": status(outer)}
    return out


def _likelihood(table: xr.Dataset) -> dict[str, Any]:
    order = np.argsort(table["rank"].values, kind="stable")
    rows = [
        {
            "name": str(one["map"].item()),
            **some(one, "rank", "dlnL", "dlnL_error", "dlnL_error_poisson"),
        }
        for one in (table.isel(map=int(i), map_2=0) for i in order)
    ]
    counted = some(table, "n", "area", "n_flagged", "n_flagged_sources")
    best = rows[0]["name"] if np.isfinite(rows[0]["dlnL"]) else None
    return {"best": best, **counted, "maps": rows, "status": status(table)}


def _tracer(fit: xr.Dataset) -> dict[str, Any]:
    values = some(
        fit, "g", "amplitude", "amplitude_error", "contamination", "contamination_error", "dlnL",
        "n", g_error="error", g_error_poisson="error_poisson",
    )  # fmt: skip
    return {**values, "status": status(fit)}


def _goodness(fit: xr.Dataset) -> dict[str, Any]:
    values = some(
        fit, "deviance", "dof", "p_value", "overdispersion", "overdispersion_error",
        "overdispersion_p_value", "n_boxes",
    )  # fmt: skip
    return {**values, "box": float(fit.attrs["box"]), "status": status(fit)}


def _kernel(fit: xr.Dataset) -> dict[str, Any]:
    values = some(
        fit, "alpha_error", "alpha_error_chi2", "softening_error", "softening_error_chi2",
        "correlation", "chi2_min", "dof", alpha="alpha_best", softening="softening_best",
    )  # fmt: skip
    return {**values, "radii": list(fit.attrs.get("radii", [])), "status": status(fit)}


def _transfer(fit: xr.Dataset) -> dict[str, Any]:
    names = ("bias", "bias_error", "scatter", "scatter_expected", "bias_log", "extrapolated")
    return {**some(fit, *names, "n_boxes", "n_calibration"), "status": status(fit)}


def _gradient(fit: xr.Dataset) -> dict[str, Any]:
    names = ("n", "towards", "across", "excess")
    both = [k for n in names for k in (n, f"{n}_error")]
    return {**some(fit, *both, "significance"), "status": status(fit)}


def _luminosity(fit: xr.Dataset) -> dict[str, Any]:
    names = ("turnover", "sigma", "n_total", "fraction")
    both = [k for n in names for k in (n, f"{n}_error")]
    return {
        **some(fit, *both, "absolute_turnover", "limit", "n_used", "chi2", "dof"),
        "fixed": list(fit.attrs["fixed"]),
        "status": status(fit),
    }


def _lens(measured: Mapping[str, Any]) -> dict[str, Any]:
    """``lens``: Einstein radii by source redshift, and scatter of multiple images by model."""
    out: dict[str, Any] = {}
    if measured.get("critical"):
        out["critical"] = [
            {
                "z_source": z,
                **some(one["ring"], "theta_e", "radius_kpc", "mass"),
                "status": status(one["ring"]),
            }
            for z, one in measured["critical"].items()
        ]
    if measured.get("images"):
        out["images"] = [
            {
                "model": name,
                "n_systems": int(fit.sizes["system"]),
                **some(
                    fit, "n_skipped", source_rms="source_rms_total", image_rms="image_rms_total"
                ),
                "status": status(fit),
            }
            for name, fit in measured["images"].items()
        ]
    return out


def notes(tree: Mapping[str, Any]) -> list[str]:
    """What a reader must know about these numbers, in words."""
    out = []
    verdict = ((tree.get("beta") or {}).get("expected") or {}).get("verdict")
    if verdict:
        out.append(f"Beta by sector: {verdict[0].lower()}{verdict[1:].rstrip('.')}.")
    labels = {
        "likelihood": "Likelihood of maps",
        "tracer": "Exponent of kappa",
        "goodness": "Counts in boxes",
        "kernel": "Kernel of the density",
        "transfer": "Transfer of the n-kappa relation",
        "second_field": "Second field",
        "luminosity": "Luminosity function",
    }
    for key, label in labels.items():
        said = (tree.get(key) or {}).get("status", "ok")
        if said != "ok":
            out.append(f"{label}: {said}.")
    relation = tree.get("relation") or {}
    law = relation.get("poisson") or {}
    if law.get("status", "ok") != "ok":
        out.append(f"n-kappa relation by likelihood: {law['status']}.")
    elif law and relation["n_boxes_occupied"] < 0.25 * relation["n_boxes_unmasked"]:
        out.append(
            "n-kappa relation by likelihood: most boxes hold no source; it says how sources follow "
            "kappa on the whole, but the density of a box predicts nothing."
        )
    transfer = tree.get("transfer") or {}
    if (transfer.get("extrapolated") or 0) > 0.5:
        out.append(
            f"Transfer of the n-kappa relation: {transfer['extrapolated']:.0%} of the area is "
            "outside the densities that it was fitted at; larger boxes have less noise."
        )
    clumped = tree.get("goodness") or {}
    if (clumped.get("overdispersion_p_value") or 1) < 0.01:
        out.append(
            f"Sources clump more than kappa^g allows: their counts in boxes of "
            f"{clumped['box']:.3g} arcsec vary {clumped['overdispersion']:.2f} times as much as a "
            "Poisson process; errors that assume one are too small."
        )
    for key in ("plateau_status", "slope_outer_status"):
        said = tree["profile"].get(key, "ok")
        if said != "ok":
            out.append(f"Profile, {key.removesuffix('_status').replace('_', ' ')}: {said}.")
    return out
