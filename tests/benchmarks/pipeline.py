"""From a stored mosaic to its catalogue: the first module of ``gcdask simulate --size glimpse``.

Timed is what `gcdask run` does up to the catalogue: configuration, survey, tiles with their maps,
settling, threshold, Parquet. The peer is `plain`: the same field, settings and products in one
serial script. One thread means one core: this process is tied to one while it and the peer are
timed, so that the threads with which zarr decodes do not count as more. Two workers, and what the
client does for them, have both cores. Making the field and starting the workers is not timed, and
everything is warmed up once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import dask
import numpy as np
import pandas as pd
import plain
import yaml
import zarr
from common import RUNS, Result, peak_memory, ratio, reset_peak, seconds

from gcdask import catalog, cluster, config, simulate
from gcdask.pipeline import detection
from gcdask.pipeline.inputs import open_inputs, rules_of
from gcdask.pipeline.records import Place
from gcdask.pipeline.runner import Runner

TILE = 2200  # px: four tiles, two for each worker; smaller ones cost more in halos
SAME, PEAKS = 0.999, 1e-4  # least share of common pixels, largest relative difference of peaks
BARS = {"pipeline": 4, "pipeline2": 7}
MAPS = "maps.zarr"


def make_field(folder: Path) -> config.Config:
    """Simulate the field; the configuration for it."""
    with dask.config.set(scheduler="threads", num_workers=os.cpu_count()):
        paths = simulate.write(simulate.as1063(size="glimpse", seed=0), folder / "field.zarr")
    settings = {
        "mosaic": {"path": paths["mosaic"]},
        "field": {"center": [342.183220, -44.530889], "z_lens": 0.348, "z_source": 3.0},
        "tiles": {"size": TILE},
    }
    file = folder / "field.yaml"
    file.write_text(yaml.safe_dump(settings))
    return config.load(file)


def this(settings: config.Config, client: Any, out: Path) -> None:
    """What `gcdask run` does up to the catalogue, on a client's workers or in this process."""
    if client is not None:
        return _detect(settings, Runner(client), out)
    with cluster.client(settings.cluster, workers=0):  # as `gcdask run --workers 0`
        _detect(settings, Runner(None), out)


def _detect(settings: config.Config, runner: Runner, out: Path) -> None:
    sources = open_inputs(settings).sources
    assert sources is not None
    place = Place(str(out / "work" / "image"), str(out / MAPS / "image"))
    job = detection.make_job(settings, sources, rules_of(settings.mask), place)
    with runner.current():
        found = detection.detect_field("field", job, runner)
        level = detection.choose_threshold(found, settings)["level"]
        table = detection.catalogue_of(found, level)
        catalog.write(table, out / "catalog.parquet", overwrite=True, grid=job.grid)


def peer(settings: config.Config, dtype: type, out: Path) -> None:
    """The plain script, with the settings of the configuration."""
    m, d, n = settings.mask, settings.detect, settings.noise
    assert m.bright.fwhm == d.filters[0], "the script takes bright sources from the first filter"
    assert d.threshold == "auto"
    out.mkdir()
    plain.detect(
        settings.mosaic.path,
        str(out),
        plain.Settings(
            filters=d.filters,
            band=m.extended.fwhm,
            edge=m.edge,
            bright=(m.bright.nsigma, m.bright.dilate),
            luminous=(m.luminous.nsigma, m.luminous.dilate),
            extended=(m.extended.nsigma, m.extended.dilate),
            star=(m.spikes.nsigma, m.spikes.contrast),
            spike=(m.spikes.length, m.spikes.core, m.spikes.width),
            cell=n.cell,
            patch=n.patch,
            radius=d.radius,
            floor=d.floor,
            fraction=d.fraction,
            level=d.level,
        ),
        dtype,
    )


@contextmanager
def one_core() -> Iterator[None]:
    """Tie all threads of this process to one core."""
    before = os.sched_getaffinity(0)
    _tie({max(before)})
    try:
        yield
    finally:
        _tie(before)


def _tie(cores: set[int]) -> None:
    for task in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setaffinity(int(task), cores)


def differences(out: Path, other: Path) -> dict[str, float]:
    """How far our products are from the peer's."""
    ours = catalog.read(out / "catalog.parquet").compute()
    theirs = pd.read_parquet(other / "catalog.parquet")
    both = ours.merge(theirs, on="id", suffixes=("", "_peer"))
    stores = out / MAPS / "image", other / MAPS
    detected, mask = (
        [np.asarray(zarr.open_array(store, path=name, mode="r")[:]) for store in stores]
        for name in ("detection", "mask")
    )
    sky = np.abs(both[["ra", "dec"]].to_numpy() - both[["ra_peer", "dec_peer"]].to_numpy())
    return {
        "sources": len(ours),
        "peer_sources": len(theirs),
        "common": len(both),
        "same": len(both) / (len(ours) + len(theirs) - len(both)),
        "peak": float(np.abs(both["peak"] / both["peak_peer"] - 1).max()),
        "sky": float(sky.max()),
        "map": float(np.nanmax(np.abs(detected[0] - detected[1]))),
        "mask": int(np.count_nonzero(mask[0] != mask[1])),
    }


def measure(folder: Path) -> dict[str, Any]:
    """Warm up, compare, and time in turns; seconds, bytes and differences by name."""
    settings = make_field(folder)
    number = iter(range(10_000))
    with cluster.client(settings.cluster, workers=2) as client:
        work: dict[str, Callable[[Path], None]] = {
            "one": partial(this, settings, None),
            "peer": partial(peer, settings, np.float32),
            "two": partial(this, settings, client),
        }
        workers = list(client.run(os.getpid).values())

        def once(name: str, keep: Path | None = None) -> float:
            out = keep or folder / f"{name}-{next(number)}"
            with nullcontext() if name == "two" else one_core():
                spent = seconds(partial(work[name], out))
            if keep is None:
                shutil.rmtree(out)
            return spent

        peaks = {}
        for name in work:
            once(name)
            for process in workers if name == "two" else ["self"]:
                reset_peak(process)
            once(name, keep=folder / name)
            peaks[name] = max(map(peak_memory, workers if name == "two" else ["self"]))
        spent: dict[str, list[float]] = {name: [] for name in work}
        names = list(work)
        for k in range(RUNS):
            for name in names[k % 3 :] + names[: k % 3]:
                spent[name].append(once(name))
        work["peer64"] = partial(peer, settings, np.float64)
        spent["peer64"] = [once("peer64", keep=folder / "peer64")]  # once, for comparison
    one, two = (catalog.read(folder / n / "catalog.parquet").compute() for n in ("one", "two"))
    return {
        "seconds": spent,
        "peak": peaks,
        "against": {n: differences(folder / "one", folder / n) for n in ("peer", "peer64")},
        "two_equal": bool(one.equals(two)),
    }


def run() -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="gcdask-pipeline-") as folder:
        measured = measure(Path(folder))
    spent, off = measured["seconds"], measured["against"]["peer"]
    right = off["same"] >= SAME and off["peak"] <= PEAKS
    text = f"{off['common']} of {off['sources']} and {off['peer_sources']} sources common"
    details = {
        "one": {**measured, "ratio_float64": spent["peer64"][0] / median(spent["one"])},
        "two": {"seconds": spent["two"], "peer_seconds": spent["peer"]},
    }
    results = []
    for name, key, how in (("pipeline", "one", "one thread"), ("pipeline2", "two", "two workers")):
        gain = ratio(spent["peer"], spent[key])
        results.append(
            Result(
                name=name,
                work=f"4400^2, 4 bands, zarr to catalogue, {how}",
                this=median(spent[key]),
                peer=median(spent["peer"]),
                ratio=gain,
                unit="x a plain script",
                bar=f">= {BARS[name]}",
                reached=gain >= BARS[name],
                accuracy=text if key == "one" else f"{text}, equal to one thread's",
                passed=right and (key == "one" or measured["two_equal"]),
                peak=measured["peak"][key],
                details=details[key],
            )
        )
    return results
