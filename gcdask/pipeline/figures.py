"""What a run shows: the paper's figures 1-7 for this field, the threshold, the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from gcdask import catalog, mosaic, plots, reduce, report, storage
from gcdask.grid import Grid
from gcdask.masks import Flag
from gcdask.pipeline.evidence_figures import draw_evidence
from gcdask.pipeline.science import Found, Scene

MAX_SIDE = 1500  # px of a map in a figure
MAX_DOTS = 200_000  # sources drawn one by one
ZOOM = 400  # px of a cut-out of the detection map


def small(image: xr.DataArray) -> xr.DataArray:
    """A map block-averaged (bits: every n-th pixel) to at most 1500 px a side, in memory."""
    factor = max(int(np.ceil(max(image.shape) / MAX_SIDE)), 1)
    if factor == 1:
        return image.compute()
    if image.dtype.kind in "ub":
        return image.isel(y=slice(None, None, factor), x=slice(None, None, factor)).compute()
    means = image.coarsen(y=factor, x=factor, boundary="trim").mean().compute()
    return means.assign_attrs(image.attrs)


def dots(table: Any) -> pd.DataFrame:
    """Positions of a catalogue's sources in memory, thinned evenly by ``id`` if there are many."""
    n = len(table)
    if n > MAX_DOTS:
        keep = MAX_DOTS / n
        # a multiplicative hash of the pixel: as good as random, and the same for all chunkings
        table = table[(table["id"] * 2654435761) % (1 << 32) < keep * (1 << 32)]
    return table[["ra", "dec"]].compute()


def draw(
    scene: Scene, home: str, folder: Path, found: Found, measured: dict[str, Any]
) -> list[report.Figure]:
    """Write all figures that the run in ``home`` has data for, in the paper's order."""
    folder.mkdir(exist_ok=True)
    return [
        report.Figure(path, title, caption)
        for path, title, caption in _all(scene, home, folder, found, measured)
    ]


def _all(
    scene: Scene, home: str, folder: Path, found: Found, measured: dict[str, Any]
) -> Iterator[tuple[Path, str, str]]:
    kpc, center = scene.field.kpc_per_arcsec, scene.field.center
    detected = dots(scene.detected)
    drawn = None
    if found.inpainted is not None:
        drawn = dots(catalog.read(storage.join(home, "inpainted.parquet")))
    if scene.mask is not None:
        yield from _detection_figures(scene, home, folder, found, detected)
    frames = [scene.grid, *([Grid.of(scene.reference[1])] if scene.reference else [])]
    yield (
        plots.source_map(
            detected, folder / "sources.png", inpainted=drawn, center=center, frames=frames[:1],
            kpc_per_arcsec=kpc,
        ),
        "Sources",
        "Detected sources and those inpainted where the mask hides them (paper, figure 2).",
    )  # fmt: skip
    smooth = storage.join(home, "maps.zarr", "smooth")
    rho = mosaic.open_map(smooth, "density")
    kappa = mosaic.open_map(smooth, "kappa") if "beta" in measured else None
    if kappa is not None:
        yield from _lens_figures(scene, folder, measured, rho, kappa)
    yield from draw_evidence(folder, measured)
    if scene.mask is not None:
        yield from _mask_figures(scene, folder, detected, drawn)
    yield _profile_figure(scene, folder, measured, kappa is not None)


def _detection_figures(
    scene: Scene, home: str, folder: Path, found: Found, detected: Any
) -> Iterator[tuple[Path, str, str]]:
    assert scene.mask is not None
    if scene.config.output.detection:
        detection = mosaic.open_map(storage.join(home, "maps.zarr", "image"), "detection")
        cuts = [_cut(scene.grid, x, y) for x, y in _places(scene)]
        yield (
            plots.detection_panels(
                [detection.isel(c).compute() for c in cuts],
                small(scene.mask),
                detected,
                folder / "detection.png",
                zoom_masks=[scene.mask.isel(c).compute() for c in cuts],
                center=scene.field.center,
                radius=scene.config.detect.radius,
            ),
            "Detection",
            "Cut-outs of the detection map with the catalogue's sources and the outline of the "
            "mask, and the whole mask (paper, figure 1).",
        )
    t = found.threshold
    assert t is not None
    yield (
        plots.threshold_curve(
            t["curve"]["level"], t["curve"]["positive"], t["curve"]["negative"],
            folder / "threshold.png", threshold=t["value"], catalog_level=t["level"],
            unit=t["unit"],
        ),
        "Threshold",
        "Peaks of the detection map and of its negative above a level; T and the catalogue's "
        "level. Surroundings of much brighter peaks are left out of both counts.",
    )  # fmt: skip


def _places(scene: Scene) -> list[tuple[float, float]]:
    """Middle of four cut-outs: the centre, and three around it half-way to the edge."""
    x0, y0 = (float(v) for v in scene.grid.pixel(*scene.field.center))
    ny, nx = scene.grid.shape
    if not (0 <= x0 < nx and 0 <= y0 < ny):
        x0, y0 = scene.grid.center
    reach = min(ny, nx) / 4
    around = [(x0 + reach * np.cos(a), y0 + reach * np.sin(a)) for a in np.deg2rad([90, 210, 330])]
    return [(x0, y0), *around]


def _cut(grid: Grid, x: float, y: float) -> dict[str, slice]:
    """Slices of a cut-out about global pixel ``(x, y)``, inside the field."""
    ny, nx = grid.shape
    side = min(ZOOM, ny, nx)
    y0 = int(np.clip(y - grid.origin[0] - side / 2, 0, ny - side))
    x0 = int(np.clip(x - grid.origin[1] - side / 2, 0, nx - side))
    return {"y": slice(y0, y0 + side), "x": slice(x0, x0 + side)}


def _lens_figures(
    scene: Scene, folder: Path, measured: dict[str, Any], rho: xr.DataArray, kappa: xr.DataArray
) -> Iterator[tuple[Path, str, str]]:
    yield (
        plots.box_relation(measured["boxes"], measured["relation"], folder / "relation.png"),
        "Number density and convergence",
        f"Boxes of {measured['boxes'].attrs['box']:.3g}″ and the power law fitted to them "
        "(paper, figure 3).",
    )
    yield (
        plots.density_kappa(
            small(rho), small(kappa), folder / "density.png", center=scene.field.center,
            kpc_per_arcsec=scene.field.kpc_per_arcsec, **_critical(measured),
        ),
        "Density and lens model",
        "Smoothed density of all sources (grey, logarithmic; green contours) and convergence of "
        "the lens model (cyan contours) (paper, figure 4). Beyond the outermost sources the "
        "density only shows the kernel's wings.",
    )  # fmt: skip
    used = rho.copy(data=reduce.usable(scene.where, rho))
    part = [small(m) for m in (kappa, rho, used.astype(np.float32))]
    yield (
        plots.kappa_rho_scatter(
            part[0], part[1], folder / "scatter.png", beta=float(measured["beta"]["beta"]),
            where=part[2].values > 0.5, relation=measured["pixels"],
        ),
        "Pixel by pixel",
        "Convergence against beta times the density (paper, figure 5); in bins of convergence, "
        "which has no shot noise.",
    )  # fmt: skip


def _critical(measured: dict[str, Any]) -> dict[str, Any]:
    """Critical curves for `plots.density_kappa`."""
    by_redshift = measured.get("critical") or {}
    if not by_redshift:
        return {}
    names = ", ".join(f"{z:g}" for z in by_redshift)
    curves = [curve for one in by_redshift.values() for curve in one["curves"]]
    return {"critical": curves, "critical_label": f"critical curves, z = {names}"}


def _mask_figures(
    scene: Scene, folder: Path, detected: Any, drawn: Any
) -> Iterator[tuple[Path, str, str]]:
    fields: list[tuple[str, Any, Any, Any, str]] = [("mask", scene.mask, detected, drawn, "Mask")]
    if scene.reference is not None:
        table, mask = scene.reference
        fields.append(("reference", mask, dots(table), None, "Mask of the second field"))
    for name, mask, found, filled, title in fields:
        yield (
            plots.mask_map(
                small(mask), folder / f"{name}.png", catalog=found, inpainted=filled,
                center=scene.field.center, kpc_per_arcsec=scene.field.kpc_per_arcsec,
            ),
            title,
            "Masked pixels by cause, detected and inpainted sources (paper, figure 6). The frame "
            f"along the edge ({Flag.EDGE.name.lower()}) is not inpainted.",
        )  # fmt: skip


def _profile_figure(
    scene: Scene, folder: Path, measured: dict[str, Any], lens: bool
) -> tuple[Path, str, str]:
    d, by = scene.config.density, measured["maps"]
    rho = {alpha: by["density" if alpha == d.alpha else f"density_{alpha:g}"] for alpha in
           (d.alpha, *d.alphas)}  # fmt: skip
    scale = {a: _match(by["kappa"], p) if lens else 1.0 for a, p in rho.items()}
    return (
        plots.profiles(
            folder / "profiles.png",
            gc=measured["profile"],
            kappa=by.get("kappa"),
            rho=dict(sorted(rho.items())),
            light=by.get("light"),
            contamination=measured["contamination"],
            beta=scale,
            slope_range=scene.config.profiles.slope_range,
            slope=measured["slope_corrected"],
            kpc_per_arcsec=scene.field.kpc_per_arcsec,
        ),
        "Radial profiles",
        "Sources before and after subtraction of the contamination (dashed: fitted slope of the "
        "latter), convergence, densities for "
        "three exponents (each scaled to the convergence) and light (paper, figure 7).",
    )


def _match(kappa: xr.Dataset, rho: xr.Dataset) -> float:
    """The factor that brings a density's profile nearest to that of kappa, by annulus."""
    k, r = kappa["mean"].values, rho["mean"].values
    good = np.isfinite(k) & np.isfinite(r)
    return float((k[good] * r[good]).sum() / (r[good] ** 2).sum()) if good.any() else 1.0
