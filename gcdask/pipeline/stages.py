"""The stages of a run in their order: detect, catalogue, inpaint, maps, compare, profiles, report.

A stage takes what the stages before it wrote, and writes its own products into the output folder.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr
from distributed import Client

from gcdask import catalog, density, mosaic, report
from gcdask._version import __version__
from gcdask.config import Config
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.pipeline import detection, figures, lock, results, science, store
from gcdask.pipeline.detection import FieldJob
from gcdask.pipeline.inputs import Inputs, mosaic_options, open_inputs, rules_of
from gcdask.pipeline.runner import Progress, Runner, silent
from gcdask.pipeline.science import Found, Scene
from gcdask.pipeline.truth import evaluate

PACKAGES = ("numpy", "scipy", "dask", "distributed", "xarray", "zarr", "astropy", "pandas")
MAIN, REFERENCE, SMOOTH = "image", "reference", "smooth"  # groups of maps.zarr


@dataclass(frozen=True)
class RunResult:
    """What a run left behind: its folder, the content of ``results.json``, the report."""

    out: Path
    results: dict[str, Any]
    report: Path | None


def identify(config: Config) -> dict[str, Any]:
    """Everything that decides a run's results, and its fingerprint."""
    settings = config.canonical()
    science_settings = {k: v for k, v in settings.items() if k not in ("cluster", "output")}
    inputs = {key: store.input_state(path) for key, path in config.local_paths()}
    fingerprint = store.digest([science_settings, inputs, __version__])
    return {"fingerprint": fingerprint, "config": settings, "inputs": inputs}


def run(
    config: Config,
    out: str | Path,
    *,
    client: Client | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> RunResult:
    """Do everything that a configuration asks for.

    Parameters
    ----------
    config : Config
        From `gcdask.config.load`.
    out : path
        Output folder: new, empty, or of the same run, which is then continued or repeated.
    client : distributed.Client, optional
        Where tasks run; this process without one.
    force : bool
        Start anew in a folder that holds another run: its outputs are removed.
    progress : callable
        ``progress(stage, done, total)``.

    Returns
    -------
    RunResult

    Raises
    ------
    InputError
        For anything wrong with the input, in one line; nothing valid is lost.
    LockError
        If another run is at work in ``out``.
    """
    given, out = Path(out), Path(out).absolute()  # workers may have another working directory
    inputs = open_inputs(config)
    jobs = _jobs(config, inputs, out)  # mask files are refused before the folder is touched
    identity = identify(config)
    record = {
        "config": identity["config"],
        "inputs": identity["inputs"],
        "versions": {"python": sys.version.split()[0], **{p: version(p) for p in PACKAGES}},
    }
    claim = given, identity["fingerprint"], record, config.local_paths()
    store.prepare(given, identity["fingerprint"], config.local_paths(), force=force)
    runner = Runner(client, progress)
    with lock.hold(given) as gone:
        record["took_over"] = gone
        store.claim(*claim, force=force)
        with runner.current():
            runner.check_folder(out / store.RUN)
            result = _run(config, inputs, jobs, out, runner)
    report = given / result.report.name if result.report else None
    return RunResult(given, result.results, report)


def _run(
    config: Config, inputs: Inputs, jobs: dict[str, FieldJob], out: Path, runner: Runner
) -> RunResult:
    """Run the stages, in a folder that is claimed."""
    found, scene = _sources(config, inputs, jobs, out, runner)
    measured = _measure(scene, inputs, out, runner)
    numbers = results.numbers(scene, found, measured)
    store.write_json(out / "results.json", numbers)
    if inputs.truth is not None:
        with runner.stage("truth"):
            numbers["truth"] = evaluate(out, config, inputs.truth)
        store.write_json(out / "results.json", numbers)
    results.write_table(measured["profile"], out / "profiles.ecsv", {"field": config.name})
    if "boxes" in measured:
        results.write_table(measured["boxes"], out / "boxes.ecsv", {"field": config.name})
    page = _show(scene, out, runner, found, measured, numbers)
    store.finish(out, {"timings": runner.timings})
    return RunResult(out, numbers, page)


def check_folder(config: Config, out: str | Path, *, force: bool = False) -> None:
    """Raise what `run` would if it refuses the output folder; writes nothing."""
    fingerprint = identify(config)["fingerprint"]
    store.check(Path(out), fingerprint, config.local_paths(), force=force)
    lock.check(Path(out))


# -- sources -------------------------------------------------------------------------------------
def _sources(
    config: Config, inputs: Inputs, jobs: dict[str, FieldJob], out: Path, runner: Runner
) -> tuple[Found, Scene]:
    """Detect (or take the catalogue) and inpaint; the scene that is left to be measured."""
    found = Found()
    mask = reference = light = None
    if inputs.sources is not None:
        found = _detect(config, inputs, jobs, out, runner)
        mask = mosaic.open_map(out / "maps.zarr" / MAIN, "mask")
        light = _light(config)
        if REFERENCE in found.fields:
            reference = (
                catalog.read(out / "reference.parquet"),
                mosaic.open_map(out / "maps.zarr" / REFERENCE, "mask"),
            )
    else:
        with runner.stage("catalogue"):
            table = inputs.catalog
            if inputs.manual is not None:
                table = catalog.add_manual(table, inputs.manual, inputs.grid)
            catalog.write(table, out / "catalog.parquet", overwrite=True, grid=inputs.grid)
    detected = catalog.read(out / "catalog.parquet")
    found.n_detected = len(detected)
    away = config.catalog is not None and _count_on(detected, inputs.grid) == 0
    if found.n_detected == 0 or away:
        raise InputError(_nothing_found(config, found, out))
    everything = detected
    if mask is not None and config.inpaint.iterations > 0:
        drawn = _inpaint(config, detected, mask, out, runner, found)
        everything = dd.concat([detected, drawn])
    scene = Scene(config, inputs.field, inputs.grid, detected, everything, mask, reference, light)
    return found, scene


def _count_on(table: Any, grid: Grid) -> int:
    """How many sources lie on a grid."""
    counts = [dask.delayed(_on_grid)(part, grid) for part in table[["ra", "dec"]].to_delayed()]
    return sum(dask.compute(*counts))


def _on_grid(part: pd.DataFrame, grid: Grid) -> int:
    x, y = catalog.pixel_positions(part, grid)
    i, j = (y - grid.origin[0]) / grid.step, (x - grid.origin[1]) / grid.step
    ny, nx = grid.shape
    inside = (i >= -0.5) & (i < ny - 0.5) & (j >= -0.5) & (j < nx - 0.5)
    return int(np.count_nonzero(inside))


def _nothing_found(config: Config, found: Found, out: Path) -> str:
    """What to say of an empty catalogue."""
    if config.catalog is not None:
        c, center = config.catalog, config.catalog.center or config.field.center
        return (
            f"catalog.path: {c.path} has no source on the maps ({c.size:g} arcsec about "
            f"{list(center)}{f', within {c.radius:g} arcsec' if c.radius else ''}); correct "
            "catalog.center, catalog.size, catalog.radius or the catalogue"
        )
    assert found.threshold is not None
    level, unit = (found.threshold[k] for k in ("level", "unit"))
    return (
        f"the catalogue is empty: no source above the level {level:g} {unit}; lower "
        f"detect.threshold or check the masks (maps are in {out / 'maps.zarr'})"
    )


def _jobs(config: Config, inputs: Inputs, out: Path) -> dict[str, FieldJob]:
    """What has to be detected: the mosaic, and the second field if there is one."""
    fields: dict[str, tuple[mosaic.Sources, Any]] = {}
    if inputs.sources is not None:
        fields[MAIN] = (inputs.sources, config.mask)
    if inputs.reference is not None:
        assert config.reference is not None
        fields[REFERENCE] = (inputs.reference, config.reference.mask or config.mask)
    return {
        name: detection.make_job(
            config, sources, rules_of(section), out / store.WORK / name, out / "maps.zarr" / name
        )
        for name, (sources, section) in fields.items()
    }


def _detect(
    config: Config, inputs: Inputs, jobs: dict[str, FieldJob], out: Path, runner: Runner
) -> Found:
    """Detect in all fields and write their catalogues."""
    files = {MAIN: "catalog.parquet", REFERENCE: "reference.parquet"}
    found = Found()
    for name, job in jobs.items():
        label = config.name if name == MAIN else getattr(config.reference, "name", name)
        field = detection.detect_field(label, job, config, runner)
        found.fields[name] = field
        if found.threshold is None:  # that of the main field, which comes first
            found.threshold = detection.choose_threshold(field, config)
        table = detection.catalogue_of(field, found.threshold["level"])
        if name == MAIN and inputs.manual is not None:
            table = catalog.add_manual(table, inputs.manual, inputs.grid)
        with runner.stage(f"catalogue {label}"):
            catalog.write(table, out / files[name], overwrite=True, grid=job.grid)
    return found


def _light(config: Config) -> xr.DataArray:
    """The last band (the reddest, in the usual order), lazily: its profile is the light's."""
    assert config.mosaic is not None
    opened = mosaic.open_mosaic(**mosaic_options(config.mosaic), chunks=config.tiles.size)
    band = str(opened["band"].values[-1])
    return opened["sci"].sel(band=band).drop_vars("band").assign_attrs(band=band)


def _inpaint(
    config: Config, detected: Any, mask: xr.DataArray, out: Path, runner: Runner, found: Found
) -> Any:
    """Write the inpainted sources; what both estimators expect goes into ``found``."""
    c, d = config.inpaint, config.density
    kernel = {"alpha": d.alpha, "softening": d.softening}
    with runner.stage("inpaint"):
        drawn = density.inpaint(
            detected, mask, seed=c.seed, iterations=c.iterations, estimator=c.estimator, **kernel
        )
        catalog.write(drawn, out / "inpainted.parquet", overwrite=True, grid=Grid.of(mask))
    expected = {
        estimator: density.inpaint_intensity(
            detected, mask, seed=c.seed, iterations=c.iterations, estimator=estimator, **kernel
        ).sum()
        for estimator in ("density", "local")
    }
    sums = runner.compute("inpaint: expected", expected)
    drawn = catalog.read(out / "inpainted.parquet")
    found.inpainted = {
        "n": len(drawn),
        "estimator": c.estimator,
        "iterations": c.iterations,
        "expected": {k: float(v) for k, v in sums.items()},
    }
    return drawn


# -- measurements --------------------------------------------------------------------------------
def _measure(scene: Scene, inputs: Inputs, out: Path, runner: Runner) -> dict[str, Any]:
    """Write the smooth maps, then compute all small results."""
    maps = science.density_maps(scene)
    if inputs.kappa is not None:
        maps["kappa"] = inputs.kappa(scene.coarse)
    folder = out / "maps.zarr" / SMOOTH
    shard = min(scene.config.tiles.size, 1024)
    writes = [
        mosaic.write_zarr_map(m, folder, name, shard=shard, overwrite=True, compute=False)
        for name, m in maps.items()
    ]
    runner.compute("maps", writes)
    mosaic.store.consolidate(str(folder))
    stored = {name: mosaic.open_map(folder, name) for name in maps}
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
def _show(
    scene: Scene,
    out: Path,
    runner: Runner,
    found: Found,
    measured: dict[str, Any],
    numbers: dict[str, Any],
) -> Path | None:
    """FITS of the maps, figures and the report, as far as they are asked for."""
    wanted = scene.config.output
    if wanted.fits:
        with runner.stage("FITS"):
            for name, group in _maps(out):
                image = mosaic.open_map(out / "maps.zarr" / group, name)
                stem = name if group != REFERENCE else f"{REFERENCE}_{name}"
                mosaic.write_map(image, out / f"{stem}.fits", overwrite=True)
    if not wanted.figures:
        return None
    with runner.stage("figures"):
        drawn = figures.draw(scene, out / "maps.zarr", out / "figures", found, measured)
    if not wanted.report:
        return None
    with runner.stage("report"):
        return report.write_report(
            out / "report.html",
            title=scene.config.name,
            results={k: v for k, v in numbers.items() if k != "notes"},
            run=store.read_json(out / store.RUN) or {},
            figures=drawn,
            notes=numbers["notes"],
        )


def _maps(out: Path) -> list[tuple[str, str]]:
    """``(name, group)`` of the maps that a run wrote."""
    folder = out / "maps.zarr"
    return [
        (p.name, group)
        for group in (MAIN, REFERENCE, SMOOTH)
        for p in sorted((folder / group).glob("*"))
        if p.is_dir() and p.name not in ("x", "y", "noise")
    ]
