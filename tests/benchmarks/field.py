"""One field from pixels to its Parquet catalogue, as `gcdask run` does it, on the synthetic sky."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sky
from common import peak_memory

from gcdask import catalog, mosaic
from gcdask.cluster import client as open_client
from gcdask.config import Config
from gcdask.pipeline import detection
from gcdask.pipeline.inputs import rules_of
from gcdask.pipeline.records import Place
from gcdask.pipeline.runner import Runner
from gcdask.pipeline.tile import FieldJob
from gcdask.sections import Cluster

MEMORY = "4GiB"  # of each worker
TILE = 4096
WRITTEN = {
    "peaks": "work/peaks",
    "rows": "work/rows",
    "survey": "work/survey",
    "maps": "maps.zarr",
    "catalogue": "catalog.parquet",
}


@dataclass(frozen=True)
class Measured:
    """Seconds and bytes of one field.

    ``stages`` are the runner's, ``building`` is the time of graphs and submits, ``written`` are the
    bytes of what is on disk at the end.
    """

    pixels: int
    wall: float
    building: float
    peak: int
    sources: int
    stages: dict[str, float]
    written: dict[str, int]
    tiles: int


def config(tile: int = TILE, **sections: Any) -> Config:
    """5-sigma peaks behind the default masks; a survey knows the angles of its spikes."""
    angles = [-108.0, -48.0, 12.0, 72.0, 132.0, 192.0]  # of the stars of `sky`
    raw: dict[str, Any] = {
        "mosaic": {"path": "sky.zarr"},
        "field": {"center": [150.0, 2.0], "z_lens": 0.348, "z_source": 3.0},
        "mask": {"spikes": {"angles": angles}},
        "detect": {"threshold": "5 sigma", "level": 1.0},
        "tiles": {"size": tile},
        "output": {"detection": False},
    }
    return Config.model_validate({**raw, **sections})


def job_of(settings: Config, sources: mosaic.Sources, folder: Path) -> FieldJob:
    """What the tiles of a field have to know."""
    rules = rules_of(settings.mask)
    place = Place(str(folder / "work"), str(folder / "maps.zarr"))
    return detection.make_job(settings, sources, rules, place)


def lazy(side: int) -> mosaic.Sources:
    """One band of ``side`` x ``side`` px of the sky, never stored."""
    return mosaic.Sources((sky.Sky(side),), None, ("SKY",), sky.grid(side), "MJy / sr")


def measure(
    sources: mosaic.Sources, folder: Path, runner: Runner, settings: Config | None = None
) -> Measured:
    """Detect in a field and write its catalogue."""
    settings = settings or config()
    submitted = _timed_submits(runner.client) if runner.client is not None else []
    start = time.perf_counter()
    job = job_of(settings, sources, folder)
    with runner.current():
        found = detection.detect_field("sky", job, runner)
        middle = time.perf_counter()
        table = detection.catalogue_of(found, job.threshold)
        dict(table.optimize().__dask_graph__())
        graph = time.perf_counter() - middle
        catalog.write(table, folder / "catalog.parquet", overwrite=True, grid=job.grid)
    wall = time.perf_counter() - start
    peak = peak_memory()
    if runner.client is not None:
        peak = max(runner.client.run(peak_memory).values())
    rows = catalog.read_manifest(folder / "catalog.parquet")["rows"]
    return Measured(
        pixels=int(np.prod(job.grid.shape)),
        wall=wall,
        building=graph + sum(submitted),
        peak=peak,
        sources=rows,
        stages=runner.timings,
        written={name: _bytes(folder / path) for name, path in WRITTEN.items()},
        tiles=len(found.parts) - 1,
    )


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _timed_submits(client: Any) -> list[float]:
    """Make a client note the seconds of each of its submits."""
    plain, spent = type(client).submit, []

    def submit(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return plain(client, *args, **options)
        finally:
            spent.append(time.perf_counter() - start)

    client.submit = submit
    return spent


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """Worker processes of one thread and 4 GiB each, warmed up on a small field."""
    settings = Cluster.model_validate({"workers": workers, "memory": MEMORY})
    with open_client(settings) as client:
        yield client
