"""From the sources of a run to what it says: smooth maps, numbers, tables, figures, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from gcdask import catalog, lensing, mosaic, report, storage
from gcdask.config import Config
from gcdask.errors import InputError
from gcdask.pipeline import evidence, figures, results, science
from gcdask.pipeline.inputs import Inputs
from gcdask.pipeline.runner import Runner
from gcdask.pipeline.science import Found, Scene
from gcdask.pipeline.sources import MAIN
from gcdask.pipeline.truth import evaluate
from gcdask.pipeline.versions import Version, now

SMOOTH = "smooth"  # group of maps.zarr
MAGNIFIED = "magnified.parquet"


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
    if inputs.lens is not None:
        maps["kappa"] = inputs.lens.kappa(scene.coarse)
    lens, field = _kappa_depends(settings, work), settings["field"]
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
    sections = ("lens", "compare", "profiles", "mass", "luminosity", "magnification", "output",
                "name", "reference", "mosaic")  # fmt: skip
    work.stage(
        "results",
        [made["fingerprint"], depends, {k: settings[k] for k in sections},
         work.states("mosaic", "truth", "lens", "magnification")],
        ["results.json", "profiles.ecsv", "boxes.ecsv", MAGNIFIED, "figures", "report.html"],
        lambda: _numbers(scene, inputs, found, list(maps), work, runner),
        runner,
    )  # fmt: skip


def _kappa_depends(settings: dict[str, Any], work: Version) -> list[Any]:
    """What decides the map of convergence: not the images, curves and other models."""
    section, states = settings["lens"], work.states("lens")
    beside = ("images", "others", "critical")
    own = {k: v for k, v in (section or {}).items() if k not in beside}
    return [own, {k: v for k, v in states.items() if k.split(".")[1] not in beside}]


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
        "more": evidence.more_counts(scene),
    }
    if kappa is not None:
        assert inputs.lens is not None
        if not runner.compute("tracers", (science.compared(scene, kappa) > 0).any()):
            raise InputError(
                "the lens model has no positive convergence where the field is compared; check "
                "lens.path, field.center and compare.radius"
            )
        lazy |= science.comparison(scene, kappa, rho, science.smooth_density(scene, kappa))
        lazy["mass"] = science.masses(scene, inputs.lens.kappa)
        lazy["source_coverage"] = science.source_coverage(scene)
        lazy |= evidence.first(scene, kappa, evidence.light_map(scene, kappa))
    measured = runner.compute("compare", lazy)
    lensed = evidence.magnified(scene, inputs.lens.model if inputs.lens is not None else None)
    corrected = science.corrected(scene, measured["counts"], measured["inner"], lensed)
    corrected |= evidence.outskirts(scene, measured["more"], corrected["contamination"], lensed)
    corrected |= evidence.luminosities(scene)
    measured |= runner.compute("profiles", corrected)
    if kappa is not None:
        measured |= runner.compute("evidence", evidence.second(scene, kappa, rho, measured, lensed))
    if inputs.lens is not None:
        with runner.stage("lens"):
            measured |= evidence.lens_checks(scene, inputs.lens)
    return measured


def _magnify(config: Config, inputs: Inputs, work: Version, runner: Runner) -> None:
    """Write the catalogue of sources behind the lens with their magnifications."""
    section, lens = config.magnification, inputs.lens
    if section is None or lens is None or lens.model is None:
        return
    models = lens.models if lens.others else lens.model
    with runner.stage("magnification"):
        table = lensing.add_magnification(
            lens.behind, models, section.z_source, per_model=bool(lens.others)
        )
        catalog.write(table, work.path(MAGNIFIED), overwrite=True)


# -- shown ---------------------------------------------------------------------------------------
def _numbers(
    scene: Scene, inputs: Inputs, found: Found, maps: list[str], work: Version, runner: Runner
) -> None:
    """Measure, and write ``results.json``, tables, FITS, figures and the report."""
    measured = _measure(scene, inputs, maps, work, runner)
    _magnify(scene.config, inputs, work, runner)
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
