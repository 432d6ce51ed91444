"""From the inputs of a run to its sources: detection, catalogues, inpainting."""

from __future__ import annotations

import logging
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr

from gcdask import catalog, density, mosaic, storage
from gcdask.config import Config
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic.dataset import lazy
from gcdask.pipeline import detection, versions
from gcdask.pipeline.inputs import Inputs, rules_of
from gcdask.pipeline.records import Place
from gcdask.pipeline.runner import Runner
from gcdask.pipeline.science import Found, Scene
from gcdask.pipeline.tile import FieldJob
from gcdask.pipeline.versions import Version
from gcdask.tiles import Forgiving

log = logging.getLogger(__name__)

MAIN, REFERENCE = "image", "reference"  # the fields: groups of maps.zarr, folders of tiles


# -- detection -----------------------------------------------------------------------------------
def field_jobs(
    config: Config, inputs: Inputs, place: Any, bases: Any = lambda name: ()
) -> dict[str, FieldJob]:
    """What has to be detected: the mosaic, and the second field if there is one."""
    fields: dict[str, tuple[mosaic.Sources, Any]] = {}
    if inputs.sources is not None:
        fields[MAIN] = (inputs.sources, config.mask)
    if inputs.reference is not None:
        assert config.reference is not None
        fields[REFERENCE] = (inputs.reference, config.reference.mask or config.mask)
    return {
        name: detection.make_job(config, sources, rules_of(section), place(name), bases(name))
        for name, (sources, section) in fields.items()
    }


def place_of(folder: str, name: str) -> Place:
    """Where the run in a folder keeps the tiles of a field."""
    maps = storage.join(folder, "maps.zarr", name)
    return Place(storage.join(folder, versions.TILES, name), maps)


def find(config: Config, inputs: Inputs, work: Version, runner: Runner) -> Found:
    """Detect in all fields; tiles that still hold are taken over."""
    earlier = (
        [] if work.force == "detect" else [versions.folder_of(work.out, b) for b in work.bases]
    )
    jobs = field_jobs(
        config,
        inputs,
        lambda name: place_of(work.folder, name),
        lambda name: [place_of(folder, name) for folder in earlier],
    )
    found = Found()
    about: dict[str, Any] = {}
    for name, job in jobs.items():
        label = config.name if name == MAIN else getattr(config.reference, "name", name)
        total = -(-job.grid.shape[0] // job.size) * -(-job.grid.shape[1] // job.size)
        about[name] = {"total": total, "label": label}
        work.note_stage("detect", state="running", fields=about)
        detected = detection.detect_field(label, job, runner)
        seconds = sum(runner.timings[f"{step} {label}"] for step in ("survey", "detect"))
        about[name] |= {**detected.tiles, "seconds": round(seconds, 3)}
        found.fields[name] = detected
        log.info(
            "detect %s: %d of %d tiles done, %d unchanged, %d failed", label,
            *(about[name][k] for k in ("done", "total", "unchanged")), len(about[name]["failed"]),
            extra={"stage": "detect", "field": label},
        )  # fmt: skip
    work._forced |= work.force == "detect"
    all_unchanged = all(f["unchanged"] == f["total"] for f in about.values())
    work.note_stage(
        "detect", state="unchanged" if all_unchanged else "done", fields=about,
        seconds=sum(f["seconds"] for f in about.values()), finished=versions.now(),
    )  # fmt: skip
    # that of the main field, which comes first
    found.threshold = detection.choose_threshold(found.fields[MAIN], config)
    return found


# -- sources -------------------------------------------------------------------------------------
def find_sources(
    config: Config, inputs: Inputs, found: Found, work: Version, runner: Runner
) -> tuple[Scene, dict[str, Any]]:
    """Write the catalogues and inpaint; the scene to be measured, and the stages it depends on."""
    settings = config.deciding()
    fields = {name: detected.fingerprint for name, detected in found.fields.items()}
    made = _catalogue(config, inputs, found, MAIN, work, runner)
    found.n_detected = made["n"]
    detected = catalog.read(work.path("catalog.parquet"))
    mask = reference = light = None
    if inputs.sources is not None:
        mask = mosaic.open_map(work.path("maps.zarr", MAIN), "mask")
        light = _light(config, inputs)
    second = None
    if REFERENCE in found.fields:
        second = _catalogue(config, inputs, found, REFERENCE, work, runner)["fingerprint"]
        reference = (
            catalog.read(work.path("reference.parquet")),
            mosaic.open_map(work.path("maps.zarr", REFERENCE), "mask"),
        )
    everything, drawn = detected, {"fingerprint": None}
    if mask is not None and config.inpaint.iterations > 0:
        kernel = [settings["density"][k] for k in ("alpha", "softening")]
        drawn = work.stage(
            "inpaint",
            [made["fingerprint"], fields[MAIN], settings["inpaint"], kernel],
            ["inpainted.parquet"],
            lambda: _inpaint(config, detected, mask, work, runner),
            runner,
        )
        found.inpainted = {k: v for k, v in drawn.items() if k != "fingerprint"}
        everything = dd.concat([detected, catalog.read(work.path("inpainted.parquet"))])
    scene = Scene(config, inputs.field, inputs.grid, detected, everything, mask, reference, light)
    sources = [made["fingerprint"], drawn["fingerprint"], fields.get(MAIN)]
    return scene, {"sources": sources, "reference": second, "fields": fields}


def _catalogue(
    config: Config, inputs: Inputs, found: Found, name: str, work: Version, runner: Runner
) -> dict[str, Any]:
    """Write the catalogue of a field, or the one that the run starts from."""
    settings = config.deciding()
    cut = [settings["detect"][k] for k in ("threshold", "floor", "fraction", "level")]
    # an automatic threshold is that of the main field
    fields = [found.fields[k].fingerprint for k in dict.fromkeys((MAIN, name)) if found.fields]
    depends: list[Any] = [fields, cut]
    if name == MAIN:
        depends += [settings["catalog"], settings["field"]["center"]]
        depends += [work.states("manual", "catalog")]
    file = "catalog.parquet" if name == MAIN else "reference.parquet"

    def make() -> dict[str, Any]:
        table, grid = inputs.catalog, inputs.grid
        if found.threshold is not None:
            field = found.fields[name]
            table, grid = detection.catalogue_of(field, found.threshold["level"]), field.job.grid
        if name == MAIN and inputs.manual is not None:
            table = catalog.add_manual(table, inputs.manual, inputs.grid)
        with runner.stage(f"catalogue {name}"):
            catalog.write(table, work.path(file), overwrite=True, grid=grid)
        written = catalog.read(work.path(file))
        n = len(written)
        empty = n == 0 or (config.catalog is not None and _count_on(written, grid) == 0)
        if name == MAIN and empty:
            raise InputError(_nothing_found(config, found, work))
        return {"n": n}

    stage = "catalogue" if name == MAIN else f"catalogue {name}"
    return work.stage(stage, depends, [file], make, runner)


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


def _nothing_found(config: Config, found: Found, work: Version) -> str:
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
        f"detect.threshold or check the masks (maps are in {work.path('maps.zarr')})"
    )


def _light(config: Config, inputs: Inputs) -> xr.DataArray:
    """The last band (the reddest, in the usual order), lazily: its profile is the light's."""
    assert inputs.sources is not None
    sources, size = inputs.sources, config.tiles.size
    pixels = lazy(Forgiving(sources.sci[-1]), "light", (size, size))
    light = sources.grid.wrap(pixels, "light", sources.units)
    return light.assign_attrs(band=sources.bands[-1])


def _inpaint(
    config: Config, detected: Any, mask: xr.DataArray, work: Version, runner: Runner
) -> dict[str, Any]:
    """Write the inpainted sources; how many, and how many both estimators expect."""
    c, d = config.inpaint, config.density
    kernel = {"alpha": d.alpha, "softening": d.softening}
    path = work.path("inpainted.parquet")
    with runner.stage("inpaint"):
        drawn = density.inpaint(
            detected, mask, seed=c.seed, iterations=c.iterations, estimator=c.estimator, **kernel
        )
        catalog.write(drawn, path, overwrite=True, grid=Grid.of(mask))
    expected = {
        estimator: density.inpaint_intensity(
            detected, mask, seed=c.seed, iterations=c.iterations, estimator=estimator, **kernel
        ).sum()
        for estimator in ("density", "local")
    }
    sums = runner.compute("inpaint: expected", expected)
    return {
        "n": len(catalog.read(path)),
        "estimator": c.estimator,
        "iterations": c.iterations,
        "expected": {k: float(v) for k, v in sums.items()},
    }
