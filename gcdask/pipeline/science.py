"""From catalogue and lens to numbers: inpainting, density, comparison, profiles, masses.

Every function here builds lazy results for one `Scene`; `gcdask.pipeline.stages` computes them in a
few steps and keeps them as small in-memory Datasets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np
import xarray as xr

from gcdask import compare, density, profiles, reduce
from gcdask.config import Config
from gcdask.grid import Field, Grid
from gcdask.masks import Flag
from gcdask.pipeline.detection import Detected

SLOPE_ANNULI = 12


@dataclass
class Found:
    """What was found before anything was measured.

    ``fields`` are the detected fields by name, the main one first (none where the run started from
    a catalogue); ``threshold`` is that of `choose_threshold`, and ``inpainted`` says how many were
    drawn, and how many each estimator expects.
    """

    n_detected: int = 0
    fields: dict[str, Detected] = dataclass_field(default_factory=dict)
    threshold: dict[str, Any] | None = None
    inpainted: dict[str, Any] | None = None


@dataclass(frozen=True)
class Scene:
    """One field, ready to be measured.

    ``mask`` is None where the run started from a catalogue. ``everything`` are detected and
    inpainted sources; ``reference`` is the catalogue and mask of the second field.
    """

    config: Config
    field: Field
    grid: Grid
    detected: Any
    everything: Any
    mask: xr.DataArray | None
    reference: tuple[Any, xr.DataArray] | None
    light: xr.DataArray | None

    @property
    def coarse(self) -> Grid:
        """Grid of the smooth maps: cells of about ``density.pixel`` arcsec."""
        factor = max(round(self.config.density.pixel / self.grid.pixel_scale), 1)
        return self.grid if self.config.catalog is not None else self.grid.coarsen(factor)

    @property
    def frame(self) -> xr.DataArray:
        """Ones on the coarse grid; NaN beyond the radius that a catalogue was cut at."""
        ones = self.coarse.wrap(np.ones(self.coarse.shape, np.float32), "map", "")
        section = self.config.catalog
        if section is None or section.radius is None:
            return ones
        center = section.center or self.field.center
        return reduce.within_disk(ones, center, section.radius).assign_attrs(ones.attrs)

    @property
    def where(self) -> xr.DataArray | None:
        """Pixels in which maps are compared and sources were looked for (None: all).

        All but the edge frame, or those within the radius of the catalogue.
        """
        if self.mask is not None:
            return (self.mask & int(Flag.EDGE)) == 0
        section, frame = self.config.catalog, self.frame
        whole = section is None or section.radius is None
        return None if whole else frame.notnull().assign_attrs(frame.attrs)

    @property
    def options(self) -> dict[str, Any]:
        """Centre and radius of the comparison."""
        return {"center": self.field.center, "radius": self.config.compare.radius}


def density_maps(scene: Scene) -> dict[str, xr.DataArray]:
    """Maps of rho of all sources on the coarse grid: ``density``, ``density_ALPHA`` for others."""
    d = scene.config.density
    maps = {
        f"density_{alpha:g}": density.density_map(
            scene.everything, scene.coarse, alpha, d.softening
        )
        for alpha in d.alphas
        if alpha != d.alpha
    }
    maps["density"] = density.density_map(scene.everything, scene.coarse, d.alpha, d.softening)
    return maps


def compared(scene: Scene, kappa: xr.DataArray) -> xr.DataArray:
    """Convergence in the cells that are compared, NaN in others."""
    return kappa.where(reduce.usable(scene.where, kappa)).assign_attrs(kappa.attrs)


def smooth_density(scene: Scene, kappa: xr.DataArray) -> xr.DataArray:
    """Give rho of noise-free tracers of `compared` cells: the geometric floor of beta, lazily."""
    d = scene.config.density
    return density.smooth_map(compared(scene, kappa), scene.coarse, d.alpha, d.softening)


def comparison(
    scene: Scene, kappa: xr.DataArray, rho: xr.DataArray, smooth: xr.DataArray
) -> dict[str, xr.Dataset]:
    """Lazy results of the comparison of rho with kappa; ``smooth`` is rho of kappa's tracers."""
    c = scene.config.compare
    wedges: dict[str, Any] = {
        "sectors": c.sectors,
        "half_width": c.half_width,
        "jackknife": c.jackknife,
    }
    boxes = relation_boxes(scene, kappa, c.box)
    options: dict[str, Any] = {**scene.options, "where": scene.where}
    return {
        "beta": compare.fit_beta(kappa, rho, **options, **wedges),
        "floor": compare.fit_beta(kappa, smooth, **options, **wedges),
        "correlation": compare.correlation(kappa, rho, **options),
        "boxes": boxes,
        "relation": compare.fit_power_law(boxes, c.n_range),
    }


def relation_boxes(scene: Scene, kappa: xr.DataArray, box: float) -> xr.Dataset:
    """Boxes of the detected sources where maps are compared, lazily."""
    disk = scene.options if scene.options["radius"] is not None else {}
    where = scene.where if scene.mask is None else None  # sources on the edge frame are masked
    return compare.box_relation(scene.detected, kappa, box, scene.mask, where=where, **disk)


# -- profiles ------------------------------------------------------------------------------------
def annuli(scene: Scene) -> np.ndarray:
    """Edges of the annuli in arcsec: up to the farthest corner of the fields, unless given."""
    p = scene.config.profiles
    r_max = p.r_max
    if r_max is None:
        grids = [scene.grid, *([Grid.of(scene.reference[1])] if scene.reference else [])]
        r_max = max(_farthest(grid, scene.field.center) for grid in grids)
    return profiles.log_edges(p.r_min, r_max, p.n)


def _farthest(grid: Grid, center: tuple[float, float]) -> float:
    x, y = np.meshgrid([grid.x[0], grid.x[-1]], [grid.y[0], grid.y[-1]])
    return float(np.hypot(*grid.offsets(x, y, center)).max())


def slope_annuli(scene: Scene) -> np.ndarray:
    """Edges of the annuli in which the slope is fitted: they begin and end with its range."""
    return profiles.log_edges(*scene.config.profiles.slope_range, SLOPE_ANNULI)


def count_profiles(scene: Scene, edges: np.ndarray) -> dict[str, xr.Dataset]:
    """Lazy profiles of the sources: ``main``, ``reference`` and both together (``sources``)."""
    center = scene.field.center
    like = scene.frame
    out = {
        "main": profiles.radial_profile(
            scene.detected, center, edges, scene.mask, field=scene.field,
            like=None if scene.mask is not None else like,
        )
    }  # fmt: skip
    out["sources"] = out["main"]
    if scene.reference is not None:
        found, mask = scene.reference
        out["reference"] = profiles.radial_profile(found, center, edges, mask, field=scene.field)
        out["sources"] = profiles.combine([out["main"], out["reference"]])
    return out


def corrected(
    scene: Scene,
    counts: dict[str, xr.Dataset],
    inner: dict[str, xr.Dataset],
    lensed: dict[str, Any],
) -> dict[str, xr.Dataset]:
    """Contamination, the profile after its subtraction, and slopes before and after.

    ``counts`` are profiles in `annuli`, ``inner`` in `slope_annuli`; ``lensed`` are options of
    `gcdask.profiles.subtract`.
    """
    p, c = scene.config.profiles, scene.config.profiles.contamination
    options: dict[str, Any] = {"method": c.method}
    if c.method == "reference":
        part = counts["reference"]
        if c.r_min is not None:
            part = part.isel(annulus=np.flatnonzero(part["r_inner"].values >= c.r_min))
        options["reference"] = part
    elif c.method == "outer":
        options["r_min"] = c.r_min
    elif c.method == "given":
        options |= {"value": c.value, "error": c.error or 0.0}
    level = profiles.contamination(_reached(counts["sources"]), **options)
    after = profiles.subtract(counts["sources"], level, **lensed)
    return {
        "contamination": level,
        "profile": after,
        "slope": profiles.fit_slope(inner["sources"], p.slope_range),
        "slope_corrected": profiles.fit_slope(
            profiles.subtract(inner["sources"], level, **lensed),
            p.slope_range,
            variable="n_corrected",
        ),
    }


def _reached(profile: xr.Dataset) -> xr.Dataset:
    """The annuli up to the last one of which at least a tenth was seen unmasked.

    A corner of the field that pokes into the last annulus is no measurement of the outskirts.
    """
    seen = np.flatnonzero(np.asarray(profile["coverage"]) >= 0.1)
    return profile if not seen.size else profile.isel(annulus=slice(0, int(seen[-1]) + 1))


def map_profiles(
    scene: Scene, kappa: xr.DataArray | None, rhos: dict[str, xr.DataArray]
) -> dict[str, xr.Dataset]:
    """Lazy profiles of maps: rho for each alpha, kappa, and the light of the last band."""
    edges, center = annuli(scene), scene.field.center
    not_edge = None if scene.where is None else ~scene.where
    maps = {**rhos, **({"kappa": kappa} if kappa is not None else {})}
    out = {
        name: profiles.radial_profile(m, center, edges, not_edge, field=scene.field)
        for name, m in maps.items()
    }
    if scene.light is not None:
        out["light"] = profiles.radial_profile(
            scene.light, center, edges, scene.mask, field=scene.field
        )
    return out


# -- masses --------------------------------------------------------------------------------------
def mass_radii(scene: Scene) -> list[float]:
    """Radii of the masses in arcsec."""
    m = scene.config.mass
    return [*m.radius, *(r / scene.field.kpc_per_arcsec for r in m.radius_kpc or ())]


def source_coverage(scene: Scene) -> dict[float, xr.DataArray]:
    """Share of each mass radius' disk in which sources were looked for (or inpainted), lazily."""
    looked = None if scene.where is None else ~scene.where
    like = scene.frame if scene.mask is None else None
    out = {}
    for radius in mass_radii(scene):
        disk = profiles.radial_profile(
            scene.detected, scene.field.center, [0, radius], looked, like=like
        )
        out[radius] = disk["coverage"][0].clip(max=1)
    return out


def masses(scene: Scene, kappa_on: Callable[[Grid], xr.DataArray]) -> dict[float, xr.Dataset]:
    """Lazy masses and numbers of sources within each radius (arcsec), on a grid of their own."""
    what = "detected and inpainted sources within the radius, not completeness-corrected"
    out = {}
    for radius in mass_radii(scene):
        pixel = min(0.2, radius / 50)
        n = 2 * int(np.ceil(1.02 * radius / pixel)) + 1
        grid = Grid.tangent(scene.field.center, (n, n), pixel)
        out[radius] = compare.mass_numbers(
            kappa_on(grid), scene.everything, scene.field, radius, counted=what
        )
    return out
