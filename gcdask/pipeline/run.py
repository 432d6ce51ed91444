"""The stages of a run in their order: detect, catalogue, inpaint, maps, compare, profiles, report.

A stage takes what the stages before it wrote, and writes its own products into the output folder.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import xarray as xr
from distributed import Client

from gcdask import catalog, density, mosaic, report
from gcdask._version import __version__
from gcdask.config import Config
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.masks import star_table
from gcdask.pipeline import detection, figures, results, science, store
from gcdask.pipeline.detection import FieldJob
from gcdask.pipeline.inputs import Inputs, mosaic_options, open_inputs, rules_of
from gcdask.pipeline.runner import Progress, Runner, silent
from gcdask.pipeline.science import Scene
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
    """
    out = Path(out).absolute()  # workers may have another working directory
    inputs = open_inputs(config)
    jobs = _jobs(config, inputs, out)  # mask files are refused before the folder is touched
    identity = identify(config)
    record = {
        "config": identity["config"],
        "inputs": identity["inputs"],
        "versions": {"python": sys.version.split()[0], **{p: version(p) for p in PACKAGES}},
    }
    store.claim(out, identity["fingerprint"], record, config.local_paths(), force=force)
    runner = Runner(client, progress)
    with runner.current():
        runner.check_folder(out / store.RUN)
        return _run(config, inputs, jobs, out, runner)


def _run(
    config: Config, inputs: Inputs, jobs: dict[str, FieldJob], out: Path, runner: Runner
) -> RunResult:
    """Run the stages, in a folder that is claimed."""
    found, scene = _sources(config, inputs, jobs, out, runner)
    measured = _measure(scene, inputs, out, runner)
    numbers = _numbers(scene, found, measured)
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
    """Raise `InputError` if `run` would refuse the output folder; writes nothing."""
    fingerprint = identify(config)["fingerprint"]
    store.check(Path(out), fingerprint, config.local_paths(), force=force)


# -- sources -------------------------------------------------------------------------------------
def _sources(
    config: Config, inputs: Inputs, jobs: dict[str, FieldJob], out: Path, runner: Runner
) -> tuple[dict[str, Any], Scene]:
    """Detect (or take the catalogue) and inpaint; the scene that is left to be measured."""
    found: dict[str, Any] = {}
    mask = reference = light = None
    if inputs.sources is not None:
        found = _detect(config, inputs, jobs, out, runner)
        mask = mosaic.open_map(out / "maps.zarr" / MAIN, "mask")
        light = _light(config)
        if "reference" in found:
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
    found["n_detected"] = len(detected)
    away = config.catalog is not None and _count_on(detected, inputs.grid) == 0
    if found["n_detected"] == 0 or away:
        raise InputError(_nothing_found(config, found, out))
    everything = detected
    if mask is not None and config.inpaint.iterations > 0:
        drawn = _inpaint(config, detected, mask, out, runner, found)
        everything = dd.concat([detected, drawn])
    scene = Scene(config, inputs.field, inputs.grid, detected, everything, mask, reference, light)
    return found, scene


def _count_on(table: Any, grid: Grid) -> int:
    """How many sources lie on a grid."""
    x, y = catalog.pixel_positions(table[["ra", "dec"]].compute(), grid)
    i, j = (y - grid.origin[0]) / grid.step, (x - grid.origin[1]) / grid.step
    inside = (np.abs(2 * i + 1 - grid.shape[0]) <= grid.shape[0]) & (
        np.abs(2 * j + 1 - grid.shape[1]) <= grid.shape[1]
    )
    return int(np.count_nonzero(inside))


def _nothing_found(config: Config, found: dict[str, Any], out: Path) -> str:
    """What to say of an empty catalogue."""
    if config.catalog is not None:
        c, center = config.catalog, config.catalog.center or config.field.center
        return (
            f"catalog.path: {c.path} has no source on the maps ({c.size:g} arcsec about "
            f"{list(center)}{f', within {c.radius:g} arcsec' if c.radius else ''}); correct "
            "catalog.center, catalog.size, catalog.radius or the catalogue"
        )
    level, unit = (found["threshold"][k] for k in ("level", "unit"))
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
) -> dict[str, Any]:
    files = {MAIN: "catalog.parquet", REFERENCE: "reference.parquet"}
    found: dict[str, Any] = {}
    for name, job in jobs.items():
        label = config.name if name == MAIN else getattr(config.reference, "name", name)
        field = detection.detect_field(label, job, config, runner)
        if name == MAIN:
            found["threshold"] = detection.choose_threshold(field, config)
        table = detection.catalogue_of(field, found["threshold"]["level"])
        if name == MAIN and inputs.manual is not None:
            table = catalog.add_manual(table, inputs.manual, inputs.grid)
        with runner.stage(f"catalogue {label}"):
            catalog.write(table, out / files[name], overwrite=True, grid=job.grid)
        found[name] = field
    return found


def _light(config: Config) -> xr.DataArray:
    """The last band (the reddest, in the usual order), lazily: its profile is the light's."""
    assert config.mosaic is not None
    opened = mosaic.open_mosaic(**mosaic_options(config.mosaic), chunks=config.tiles.size)
    band = str(opened["band"].values[-1])
    return opened["sci"].sel(band=band).drop_vars("band").assign_attrs(band=band)


def _inpaint(
    config: Config, detected: Any, mask: xr.DataArray, out: Path, runner: Runner, found: dict
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
    found["inpainted"] = {
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
        "counts": science.count_profiles(scene),
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
    measured = runner.compute("compare", lazy)
    corrected = science.corrected(scene, measured["counts"])
    corrected = runner.compute("profiles", corrected)
    return {**measured, **corrected}


def _numbers(scene: Scene, found: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """The tree of ``results.json``."""
    config, inpainted = scene.config, found.get("inpainted")
    numbers: dict[str, Any] = {
        "name": config.name,
        "n_detected": found["n_detected"],
        "n_inpainted": inpainted["n"] if inpainted else 0,
        "field": {
            "center": list(scene.field.center),
            "z_lens": scene.field.z_lens,
            "z_source": scene.field.z_source,
            "kpc_per_arcsec": scene.field.kpc_per_arcsec,
            "sigma_cr": scene.field.sigma_cr,
            "pixel_scale": scene.grid.pixel_scale,
        },
        "threshold": None,
        "purity": None,
        "masked_fraction": None,
        "beta": None,
        "correlation": None,
        "relation": None,
        "mass": None,
    }
    if "threshold" in found:
        numbers |= _detection_numbers(found)
    if inpainted:
        numbers["inpainting"] = {k: v for k, v in inpainted.items() if k != "n"}
    if "beta" in measured:
        c = measured["correlation"]
        numbers["beta"] = results.beta_numbers(measured["beta"], measured["floor"])
        numbers["correlation"] = {
            "pearson_log": results.number(c["pearson"]),
            "spearman": results.number(c["spearman"]),
            "n_pixels": results.number(c["n_pixels"]),
        }
        numbers["relation"] = results.relation_numbers(measured["relation"], measured["boxes"])
        numbers["mass"] = results.mass_numbers(measured["mass"])
    numbers["profile"] = results.profile_numbers(measured, scene)
    numbers["units"] = results.units_of(numbers, config.density.alpha)
    return store.plain(numbers)


def _detection_numbers(found: dict[str, Any]) -> dict[str, Any]:
    t, main = found["threshold"], found[MAIN]
    fields = {name: found[name] for name in (MAIN, REFERENCE) if name in found}
    return {
        "threshold": {k: t[k] for k in ("value", "level", "unit", "kind")},
        "purity": t["purity"],
        "masked_fraction": main.shares["masked"],
        "mask_shares": {name: f.shares for name, f in fields.items()},
        "spikes": {
            "angle": main.survey.angle,
            "n_stars": len(star_table(main.job.mask, main.survey)),
        },
    }


# -- shown ---------------------------------------------------------------------------------------
def _show(
    scene: Scene,
    out: Path,
    runner: Runner,
    found: dict[str, Any],
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
            results=numbers,
            run=store.read_json(out / store.RUN) or {},
            figures=drawn,
            notes=notes(numbers),
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


def notes(numbers: dict[str, Any]) -> list[str]:
    """What a reader must know about these numbers, in words."""
    out = []
    relation, profile = numbers.get("relation"), numbers["profile"]
    if relation and relation["status"] != "ok":
        out.append(
            f"n-kappa relation: {relation['status']} ({relation['n_boxes_occupied']} of "
            f"{relation['n_boxes_unmasked']} boxes hold a source)."
        )
    if profile["contamination_is_upper_limit"]:
        out.append(
            "Contamination is an upper limit: clusters of the lens are at the outer radii too, "
            "and the corrected profile is a lower limit."
        )
    for key in ("slope_status", "contamination_status"):
        if profile[key] != "ok":
            out.append(f"Profile: {profile[key]}.")
    if numbers.get("mass"):
        thin = [m for m in numbers["mass"]["radii"] if m["coverage"] < 0.99]
        out += [
            f"Mass within {m['within_arcsec']:g} arcsec is a lower limit: the lens map covers "
            f"{m['coverage']:.0%} of the disk."
            for m in thin
        ]
    if numbers.get("correlation"):
        out.append(
            "Pixel correlations are high whatever the lens, because neighbouring pixels of rho "
            "share the kernel's sources; compare them with mocks."
        )
    return out
