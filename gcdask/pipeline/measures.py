"""From the sources of a run to what it says: smooth maps, numbers, tables, figures, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from gcdask import density, mosaic, report, storage
from gcdask.config import Config
from gcdask.errors import InputError
from gcdask.pipeline import figures, results, science
from gcdask.pipeline.inputs import Inputs
from gcdask.pipeline.runner import Runner
from gcdask.pipeline.science import Found, Scene
from gcdask.pipeline.sources import MAIN
from gcdask.pipeline.truth import evaluate
from gcdask.pipeline.versions import Version, now

SMOOTH = "smooth"  # group of maps.zarr


# -- measurements --------------------------------------------------------------------------------
def measure(
    config: Config,
    inputs: Inputs,
    found: Found,
    scene: Scene,
    depends: dict[str, Any],
    work: Version,
    runner: Runner,
) -> None:
    """Write the smooth maps, then all numbers, tables, figures and the report."""
    settings = config.deciding()
    maps = science.density_maps(scene)
    if inputs.kappa is not None:
        maps["kappa"] = inputs.kappa(scene.coarse)
    lens, field = [settings["lens"], work.states("lens")], settings["field"]
    made = work.stage(
        "maps",
        [depends["sources"], settings["density"], lens, field, settings["catalog"],
         settings["tiles"]["size"]],
        [f"maps.zarr/{SMOOTH}"],
        lambda: _maps(maps, config, work, runner),
        runner,
    )  # fmt: skip
    files = _fits_of(config, found, maps)
    fits = [made["fingerprint"], depends["fields"], list(files)]
    work.stage("fits", fits, files, lambda: _write_fits(files, work, runner), runner)
    sections = ("compare", "profiles", "mass", "output", "name", "reference", "mosaic")
    work.stage(
        "results",
        [made["fingerprint"], depends, {k: settings[k] for k in sections}, lens,
         work.states("mosaic", "truth")],
        ["results.json", "profiles.ecsv", "boxes.ecsv", "figures", "report.html"],
        lambda: _numbers(scene, inputs, found, list(maps), work, runner),
        runner,
    )  # fmt: skip


def _maps(
    maps: dict[str, xr.DataArray], config: Config, work: Version, runner: Runner
) -> dict[str, Any]:
    folder = work.path("maps.zarr", SMOOTH)
    shard = min(config.tiles.size, 1024)
    writes = [
        mosaic.write_zarr_map(m, folder, name, shard=shard, overwrite=True, compute=False)
        for name, m in maps.items()
    ]
    runner.compute("maps", writes)
    mosaic.store.consolidate(folder)
    return {"maps": list(maps)}


def _fits_of(config: Config, found: Found, maps: Any) -> dict[str, tuple[str, str]]:
    """File, group and name of the maps that are written as FITS."""
    if not config.output.fits:
        return {}
    files: dict[str, tuple[str, str]] = {}
    for group, detected in found.fields.items():
        stem = "" if group == MAIN else f"{group}_"
        files |= {f"{stem}{name}.fits": (group, name) for name in detected.job.written}
    return files | {f"{name}.fits": (SMOOTH, name) for name in maps}


def _write_fits(files: dict[str, tuple[str, str]], work: Version, runner: Runner) -> None:
    with runner.stage("FITS"):
        for file, (group, name) in files.items():
            image = mosaic.open_map(work.path("maps.zarr", group), name)
            mosaic.write_map(image, work.path(file), overwrite=True)


def _measure(scene: Scene, inputs: Inputs, names: list[str], work: Version, runner: Runner) -> Any:
    """Compute all small results."""
    stored = {name: mosaic.open_map(work.path("maps.zarr", SMOOTH), name) for name in names}
    kappa, rho = stored.pop("kappa", None), stored["density"]
    lazy: dict[str, Any] = {
        "counts": science.count_profiles(scene, science.annuli(scene)),
        "inner": science.count_profiles(scene, science.slope_annuli(scene)),
        "maps": science.map_profiles(scene, kappa, stored),
    }
    if kappa is not None:
        assert inputs.kappa is not None
        blocks = runner.compute("tracers", science.tracer_blocks(kappa, scene.where))
        points, d = science.tracers(blocks), scene.config.density
        if not len(points):
            raise InputError(
                "the lens model has no positive convergence where the field is compared; check "
                "lens.path, field.center and compare.radius"
            )
        smooth = density.density_map(points, scene.coarse, d.alpha, d.softening, weights="weight")
        lazy |= science.comparison(scene, kappa, rho, smooth)
        lazy["mass"] = science.masses(scene, inputs.kappa)
        lazy["source_coverage"] = science.source_coverage(scene)
    measured = runner.compute("compare", lazy)
    corrected = science.corrected(scene, measured["counts"], measured["inner"])
    corrected = runner.compute("profiles", corrected)
    return {**measured, **corrected}


# -- shown ---------------------------------------------------------------------------------------
def _numbers(
    scene: Scene, inputs: Inputs, found: Found, maps: list[str], work: Version, runner: Runner
) -> None:
    """Measure, and write ``results.json``, tables, FITS, figures and the report."""
    measured = _measure(scene, inputs, maps, work, runner)
    numbers = results.numbers(scene, found, measured)
    numbers["notes"] += _damage(found)
    storage.write_json(work.path("results.json"), numbers)
    if inputs.truth is not None:
        with runner.stage("truth"):
            numbers["truth"] = evaluate(work.folder, scene.config, inputs.truth)
        storage.write_json(work.path("results.json"), numbers)
    with storage.folder(work.folder) as local:
        about = {"field": scene.config.name}
        results.write_table(measured["profile"], local / "profiles.ecsv", about)
        if "boxes" in measured:
            results.write_table(measured["boxes"], local / "boxes.ecsv", about)
        _show(scene, local, found, measured, numbers, work, runner)


def _damage(found: Found) -> list[str]:
    """Notes on tiles that failed."""
    return [
        f"{len(failed)} of {field.tiles['total']} tiles of {name} failed (first: "
        f"{failed[0]['tile']}, {failed[0]['reason']}): pixels there count as without data."
        for name, field in found.fields.items()
        if (failed := field.tiles["failed"])
    ]


def _show(
    scene: Scene,
    local: Path,
    found: Found,
    measured: dict[str, Any],
    numbers: dict[str, Any],
    work: Version,
    runner: Runner,
) -> None:
    """Figures and the report, as far as they are asked for."""
    wanted = scene.config.output
    if not wanted.figures:
        return
    with runner.stage("figures"):
        drawn = figures.draw(scene, work.folder, local / "figures", found, measured)
    if not wanted.report:
        return
    with runner.stage("report"):
        report.write_report(
            local / "report.html",
            title=scene.config.name,
            results={k: v for k, v in numbers.items() if k != "notes"},
            run={**work.record, "finished": now(), "timings": runner.timings},
            figures=drawn,
            notes=numbers["notes"],
        )
