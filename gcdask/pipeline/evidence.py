"""What the comparison rests on: errors, mocks, likelihoods, other kernels, transfer, profiles.

Lazy results for one `Scene`, like those of `gcdask.pipeline.science`, in two steps: `first` needs
nothing but the maps, `second` what was measured with them (contamination, beta, g).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask import compare, density, lensing, luminosity, profiles, reduce
from gcdask.grid import Grid
from gcdask.pipeline.lenses import OpenLens
from gcdask.pipeline.science import Scene, count_profiles, relation_boxes

POWERS = (1.0, 1.5, 2.0, 2.5)  # of kappa, among the maps that are ranked
FACTORS = (1, 2, 4, 8)  # by which beta's maps are coarsened
PLATEAU_ANNULI, OUTER_ANNULI = 24, 8
MU_MAX = 100.0  # beyond which a contaminant would have to be smaller than it is
SIMULATIONS = 500  # of counts in boxes


def contaminants(
    scene: Scene, kappa: xr.DataArray, level: float, lensed: Mapping[str, Any]
) -> xr.DataArray:
    """Contaminants per arcsec^2 in the cells where sources were looked for or inpainted.

    ``lensed`` is what `magnified` gives.
    """
    grid = Grid.of(kappa)
    there = reduce.usable(scene.where, kappa)
    if scene.mask is not None and not scene.config.inpaint.iterations:
        there = there * reduce.fraction(reduce.unmasked(scene.mask), grid, "mask")
    rate = there * level
    if lensed:
        mu = abs(lensed["magnification"].data).clip(max=MU_MAX)
        rate = rate * mu ** (2.5 * lensed["slope"] - 1)
    return grid.wrap(rate, "contamination", "arcsec-2")


def light_map(scene: Scene, kappa: xr.DataArray) -> xr.DataArray | None:
    """Light of unmasked pixels averaged over boxes, on the cells of kappa that are compared.

    What is below the noise of a box's mean is set to it: an intensity is positive.
    """
    if scene.light is None or scene.mask is None:
        return None
    cell = max(round(scene.coarse.pixel_scale / scene.grid.pixel_scale), 1)
    box = max(round(scene.config.compare.box / scene.coarse.pixel_scale), 1)
    good = scene.mask == 0
    light = scene.light.where(good, 0.0)
    # floats: padding would make objects of bools
    n, total, squares = (
        m.coarsen(y=cell * box, x=cell * box, boundary="pad").sum().data.astype(float)
        for m in (good.astype(np.float32), light, light**2)
    )
    number = da.where(n > 0, n, np.nan)
    mean = total / number
    error = da.sqrt(da.maximum(squares / number - mean**2, 0) / number)
    floor = da.nanmedian(error.ravel().rechunk(-1), axis=0)
    fine = da.maximum(mean, floor).repeat(box, 0).repeat(box, 1)
    cut = fine[: kappa.shape[0], : kappa.shape[1]].rechunk(kappa.data.chunks)
    return Grid.of(kappa).wrap(cut, "light", scene.light.attrs["units"])


def first(scene: Scene, kappa: xr.DataArray, light: xr.DataArray | None) -> dict[str, xr.Dataset]:
    """Likelihoods of the sources under maps, and how they trace kappa."""
    c, d = scene.config.compare, scene.config.density
    if not c.likelihood:
        return {}
    maps: dict[str, Any] = compare.kappa_powers(kappa, POWERS)
    if light is not None:
        maps["light"] = light
    maps["other sources"] = compare.LeaveOneOut(d.alpha, d.softening)
    options: dict[str, Any] = {**scene.options, "jackknife": c.jackknife}
    options["where"] = scene.where if scene.mask is None else None
    return {
        "likelihood": compare.poisson_loglike(scene.detected, maps, scene.mask, **options),
        "tracer": compare.fit_tracer_power(
            scene.detected, kappa, scene.mask, contamination="fit", **options
        ),
    }


def second(
    scene: Scene,
    kappa: xr.DataArray,
    rho: xr.DataArray,
    measured: Mapping[str, Any],
    lensed: Mapping[str, Any],
) -> dict[str, xr.Dataset]:
    """What needs beta, the contamination or g: errors, mocks, the kernel, the transfer test."""
    c = scene.config.compare
    level = _sound(measured["contamination"]["value"])
    others = contaminants(scene, kappa, level, lensed)
    out = {
        "law": compare.fit_power_law(measured["boxes"], c.n_range, method="poisson"),
        **_betas(scene, kappa, rho, others, level, measured),
    }
    if "tracer" in measured:
        out["goodness"] = _goodness(scene, kappa, measured["tracer"])
    if c.kernel is not None:
        out["kernel"] = compare.fit_kernel(
            scene.everything, kappa, c.kernel.alphas, c.kernel.softenings, c.kernel.radii,
            scene.field.center, scene.where, contamination=others,
        )  # fmt: skip
    if c.transfer is not None:
        boxes = relation_boxes(scene, kappa, c.transfer.box)
        out["transfer"] = compare.transfer_test(
            boxes, center=scene.field.center, axis=c.transfer.axis, n_range=c.n_range
        )
    return out


def _sound(value: Any) -> float:
    """A number, or 0 where it is NaN."""
    number = float(value)
    return number if math.isfinite(number) else 0.0


def _betas(
    scene: Scene,
    kappa: xr.DataArray,
    rho: xr.DataArray,
    others: xr.DataArray,
    level: float,
    measured: Mapping[str, Any],
) -> dict[str, xr.Dataset]:
    """Beta without contaminants, with bootstrap errors, among mocks, by resolution and kappa."""
    c, d = scene.config.compare, scene.config.density
    kernel: dict[str, Any] = {"alpha": d.alpha, "softening": d.softening}
    where: dict[str, Any] = {**scene.options, "where": scene.where}
    wedges: dict[str, Any] = {"sectors": c.sectors, "half_width": c.half_width}
    background = density.smooth_map(others, kappa, **kernel)
    clean = (rho - background).rename(rho.name).assign_attrs(rho.attrs)
    beta = float(measured["beta"]["beta"])
    out = {
        "beta_clean": compare.fit_beta(kappa, clean, **where, **wedges, jackknife=c.jackknife),
        "pixels": compare.pixel_relation(kappa, rho, beta, **where),
        "resolution": compare.beta_by_resolution(
            kappa, rho, FACTORS, **where, **wedges, jackknife=c.jackknife
        ),
    }
    if c.bootstrap:
        out["bootstrap"] = compare.bootstrap_beta(
            scene.everything, kappa, c.bootstrap, c.seed, **where, **wedges, **kernel
        )
    if c.mocks:
        # as many sources as on the cells that the mocks are drawn on
        seen = kappa.copy(data=reduce.usable(scene.where, kappa) & da.isfinite(kappa.data))
        n = reduce.cell_counts(seen, scene.everything, Grid.of(kappa)).sum()
        out["expected"] = compare.expected_dispersion(
            kappa, n, **where, **wedges, **kernel,
            observed=out["beta_clean"]["dispersion_relative"],
            contamination=level,
            power=c.mock_power,
            n_mocks=c.mocks, seed=c.seed,
        )  # fmt: skip
    return out


def _goodness(scene: Scene, kappa: xr.DataArray, fit: xr.Dataset) -> xr.Dataset:
    """Counts in boxes against A kappa^g + c with the values of the fit, or against kappa."""
    rate = kappa.clip(min=0)
    if np.isfinite(fit["g"]):
        rate = float(fit["amplitude"]) * rate ** float(fit["g"]) + _sound(fit["contamination"])
    intensity = rate.rename("intensity").assign_attrs(kappa.attrs)
    return compare.goodness_of_fit(
        scene.detected, intensity, scene.mask, box=scene.config.compare.box,
        n_simulations=SIMULATIONS, seed=scene.config.compare.seed, **scene.options,
        where=scene.where if scene.mask is None else None,
    )  # fmt: skip


def lens_checks(scene: Scene, lens: OpenLens) -> dict[str, Any]:
    """Critical curves and Einstein radii, and how well multiple images come together; computed."""
    out: dict[str, Any] = {}
    section = scene.config.lens
    if lens.model is None or section is None:
        return out
    out["critical"] = {
        z: {
            "curves": lens.model.critical_curves(None, z),
            "ring": lens.model.einstein_radius(z, scene.field.center),
        }
        for z in section.critical
    }
    if lens.images is not None:
        out["images"] = {
            name: lensing.image_scatter(model, lens.images) for name, model in lens.models.items()
        }
    return out


# -- profiles and luminosities -----------------------------------------------------------------
def magnified(scene: Scene, model: lensing.Lens | None) -> dict[str, Any]:
    """Options of `gcdask.profiles.subtract` for contaminants that the lens magnifies."""
    slope = scene.config.profiles.contamination.count_slope
    if slope is None or model is None:
        return {}
    return {"magnification": model.magnification(scene.coarse, scene.field.z_source),
            "slope": slope}  # fmt: skip


def more_counts(scene: Scene) -> dict[str, dict[str, xr.Dataset]]:
    """Lazy profiles in the annuli of the plateau and of the outer slope."""
    p = scene.config.profiles
    out = {"plateau": count_profiles(scene, profiles.log_edges(*p.plateau_range, PLATEAU_ANNULI))}
    if p.outer_range is not None:
        out["outer"] = count_profiles(scene, profiles.log_edges(*p.outer_range, OUTER_ANNULI))
    return out


def outskirts(
    scene: Scene,
    counts: Mapping[str, Mapping[str, xr.Dataset]],
    level: xr.Dataset,
    lensed: dict[str, Any],
) -> dict[str, xr.Dataset]:
    """Plateau, outer slope, and the excess and gradient of the second field, lazily."""
    p = scene.config.profiles
    after = {name: profiles.subtract(by["sources"], level, **lensed) for name, by in counts.items()}
    corrected: dict[str, Any] = {"variable": "n_corrected"}
    out = {"plateau": profiles.fit_plateau(after["plateau"], p.plateau_range, **corrected)}
    if p.outer_range is not None:
        out["slope_outer"] = profiles.fit_slope(after["outer"], p.outer_range, **corrected)
    if scene.reference is not None:
        found, mask = scene.reference
        known = np.isfinite(level["value"]) & np.isfinite(level["error"])
        given = level if p.contamination.method != "reference" and bool(known) else None
        out["gradient"] = profiles.gradient(
            found, mask, towards=scene.field.center, contamination=given, field=scene.field
        )
    return out


def luminosities(scene: Scene) -> dict[str, xr.Dataset]:
    """Lazy luminosity function and the Gaussian fitted to it."""
    section = scene.config.luminosity
    if section is None:
        return {}
    n = round((section.edges[1] - section.edges[0]) / section.width)
    edges = np.linspace(*section.edges, n + 1)
    column: dict[str, Any] = {"flux": section.flux, "mag": section.mag}
    column["zero_point"] = section.zero_point
    reference = None
    if scene.reference is not None:
        found, mask = scene.reference
        reference = luminosity.luminosity_function(found, edges, mask=mask, **column)
    area: dict[str, Any] = {"mask": scene.mask}
    if scene.mask is None and scene.config.catalog is not None:
        radius = scene.config.catalog.radius
        area = {} if radius is None else {"area": math.pi * radius**2}
    function = luminosity.luminosity_function(
        scene.detected, edges, **column, **area, contamination=reference, field=scene.field,
        completeness=tuple(zip(*section.completeness, strict=True)) or None,
    )  # fmt: skip
    modulus = float(scene.field.cosmology.distmod(scene.field.z_lens).value) + section.offset
    turnover = None if section.turnover is None else section.turnover + modulus
    fit = luminosity.fit_gclf(
        function, limit=section.limit, turnover=turnover, distance_modulus=modulus
    )
    return {"luminosity": function, "gclf": fit}
