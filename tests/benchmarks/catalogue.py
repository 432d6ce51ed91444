"""A stored catalogue of 1e7 rows on 100 000 x 100 000 px: selection, match, profile, boxes.

625 parts, one per tile of 4096 px, with a perturbed copy to match. Two workers of one thread and
4 GiB read, select, pair and write them by partition; the peer does the same on whole arrays in one
process that holds everything, and its results must be the same: every pair, every count.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from common import Result, peak_memory, reset_peak, seconds

from gcdask import catalog, compare, profiles
from gcdask.cluster import client as open_client
from gcdask.grid import Grid, tangent_offsets
from gcdask.sections import Cluster

TILE, STEP = 4096, 32  # px: of a part, and of an element of the coarse maps
RADIUS, ERROR = 0.1, 0.03  # arcsec: of the match, and of the copy's positions
MIN_SNR = 6.0
EDGES = np.geomspace(10, 300, 16)  # arcsec
BOX = 30.0  # arcsec
BAR = 1.2  # GiB a worker, that of the survey


class Field:
    """Where the catalogues are, and how large."""

    def __init__(self, folder: Path, side: int = 100_000, rows: int = 10_000_000) -> None:
        self.grid = Grid.tangent((150.0, 2.0), (side, side), 0.03)
        self.tiles = -(-side // TILE)
        self.per_tile = rows / self.tiles**2
        self.folder = folder

    def write(self, client: Any) -> None:
        """Write both catalogues, a part per task."""
        for name in ("a", "b"):
            where = self.folder / name
            where.mkdir(parents=True)
            tiles = [(i, j) for i in range(self.tiles) for j in range(self.tiles)]
            job = partial(write_tile, grid=self.grid, mean=self.per_tile, folder=where)
            catalog.write_manifest(where, client.gather(client.map(job, tiles)))

    def read(self, name: str) -> Any:
        return catalog.read(self.folder / name)


def write_tile(tile: tuple[int, int], grid: Grid, mean: float, folder: Path) -> dict[str, Any]:
    """Write one part of ``a``, or of its copy ``b``: a tenth lost, a tenth new, all moved."""
    rng = np.random.default_rng(tile)
    ends = [min((k + 1) * TILE, n) for k, n in zip(tile, grid.shape, strict=True)]
    low, high = (np.array(v)[:, None] - 0.5 for v in ([k * TILE for k in tile], ends))
    n = rng.poisson(mean)
    y, x = rng.uniform(low, high, (2, n))
    clump = rng.random(n) < 0.2  # crowds, where pairs have rivals
    y[clump], x[clump] = (
        np.round(v[clump] / 256) * 256 + rng.normal(0, 20, clump.sum()) for v in (y, x)
    )
    snr = rng.exponential(3, n) + 4
    if folder.name == "b":
        kept = rng.random(n) < 0.9
        y[~kept], x[~kept] = rng.uniform(low, high, (2, (~kept).sum()))
        y, x = (v + rng.normal(0, ERROR / 0.03, n) for v in (y, x))
    part = catalog.make_catalog(x, y, grid, peak=snr / 10, snr=snr)
    name = catalog.part_name(f"{tile[0]:03d}-{tile[1]:03d}")
    return catalog.write_part(part, folder, name, grid=grid)


# -- what is timed -------------------------------------------------------------------------------
def select(field: Field) -> Any:
    return catalog.select(field.read("a"), min_snr=MIN_SNR)


def match(field: Field) -> Any:
    return catalog.match(field.read("a"), field.read("b"), RADIUS)


def center(field: Field) -> tuple[float, float]:
    ra, dec = field.grid.sky(*(n * 0.47 for n in field.grid.shape))
    return float(ra), float(dec)


def nothing_masked(field: Field, step: int) -> Any:
    grid = field.grid.coarsen(step)
    return grid.wrap(da.zeros(grid.shape, dtype=np.uint16, chunks=TILE // step), "mask", "")


def profile(field: Field, step: int) -> Any:
    mask = nothing_masked(field, step)
    return profiles.radial_profile(field.read("a"), center(field), EDGES, mask)


def boxes(field: Field) -> Any:
    kappa = nothing_masked(field, STEP).astype(float) + 1
    return compare.box_relation(field.read("a"), kappa, BOX)


@contextmanager
def workers(number: int = 2) -> Iterator[Any]:
    settings = Cluster.model_validate({"workers": number, "memory": "4GiB"})
    with open_client(settings) as client:
        yield client


def timed(
    name: str, build: Callable[[], Any], finish: Callable[[Any], Any], client: Any
) -> tuple[Any, dict[str, Any]]:
    """Result of a stage; seconds to build its graph and in all, its tasks, its peak memory."""
    client.run(reset_peak)
    start = time.perf_counter()
    lazy = build()
    built = time.perf_counter() - start
    result = finish(lazy)
    wall = time.perf_counter() - start
    peak = max(client.run(peak_memory).values())
    tasks = len(dict(dask.optimize(lazy)[0].__dask_graph__()))
    return result, {"stage": name, "wall": wall, "building": built, "tasks": tasks, "peak": peak}


def stages(field: Field, client: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All stages one after the other: their results, and what they cost."""
    out = field.folder
    work = {
        "select": (partial(select, field), partial(catalog.write, path=out / "s", grid=field.grid)),
        "match": (partial(match, field), partial(catalog.write, path=out / "m", grid=field.grid)),
        "profile": (partial(profile, field, STEP), lambda lazy: lazy.compute()),
        "profile of all pixels": (partial(profile, field, 1), lambda lazy: lazy.compute()),
        "boxes": (partial(boxes, field), lambda lazy: lazy.compute()),
    }
    results, costs = {}, []
    for name, (build, finish) in work.items():
        results[name], cost = timed(name, build, finish, client)
        costs.append(cost)
    return results, costs


# -- the same on whole arrays ----------------------------------------------------------------------
def whole(field: Field) -> dict[str, Any]:
    """Everything in one process on whole arrays."""
    a, b = (field.read(name).compute(scheduler="sync") for name in ("a", "b"))
    i, j, _ = catalog.nearest_pairs(
        (a["ra"], a["dec"]), (b["ra"], b["dec"]), RADIUS, (a["id"], b["id"])
    )
    partner = np.full(len(a), -1)
    partner[i] = b["id"].to_numpy()[j]
    east, north = tangent_offsets(a["ra"].to_numpy(), a["dec"].to_numpy(), center(field))
    cells = np.floor((a[["y", "x"]].to_numpy() + 0.5) / STEP).astype(int)
    cells = cells[((cells >= 0) & (cells < elements(field))).all(axis=1)]
    along = -(-elements(field) // box_elements(field))
    places = cells // box_elements(field) @ [along, 1]
    return {
        "select": a[a["snr"] >= MIN_SNR],
        "match": partner,
        "profile": np.histogram(np.hypot(east, north), EDGES)[0],
        "boxes": np.bincount(places, minlength=along**2),
    }


def box_elements(field: Field) -> int:
    return round(BOX / (field.grid.pixel_scale * STEP))


def elements(field: Field) -> int:
    return math.ceil(field.grid.shape[0] / STEP)


def differences(field: Field, results: dict[str, Any], truth: dict[str, Any]) -> dict[str, int]:
    """Rows, pairs and counts that differ."""
    chosen = catalog.read(results["select"]).compute(scheduler="sync").reset_index(drop=True)
    paired = catalog.read(results["match"])["match_id"].compute(scheduler="sync").to_numpy()
    same = chosen.equals(truth["select"].reset_index(drop=True))
    counts = [results[k]["counts"].values for k in ("profile", "profile of all pixels")]
    return {
        "select": 0 if same else abs(len(chosen) - len(truth["select"])) or 1,
        "match": int((paired != truth["match"]).sum()),
        "profile": int(sum(np.abs(c - truth["profile"]).sum() for c in counts)),
        "boxes": int(np.abs(results["boxes"]["n"].values - truth["boxes"]).sum()),
    }


def run(side: int = 100_000, rows: int = 10_000_000) -> Result:
    folder = Path(tempfile.mkdtemp(prefix="gcdask-catalogue-"))
    try:
        field = Field(folder, side, rows)
        with workers() as client:
            field.write(client)
            results, costs = stages(field, client)
        truth: dict[str, Any] = {}
        peer = seconds(lambda: truth.update(whole(field)))
        wrong = differences(field, results, truth)
        pairs = int((truth["match"] >= 0).sum())
    finally:
        shutil.rmtree(folder)
    wall, peak = sum(c["wall"] for c in costs), max(c["peak"] for c in costs)
    n = int(truth["match"].size)
    return Result(
        name="catalogue",
        work=f"select, match, profile and boxes of {n} stored rows, two 4 GiB workers",
        this=wall,
        peer=peer,
        ratio=peak / 2**30,
        unit="GiB a worker",
        bar=f"<= {BAR}",
        reached=peak <= BAR * 2**30,
        accuracy=f"{sum(wrong.values())} rows, pairs (of {pairs}) and counts differ",
        passed=not any(wrong.values()) and pairs > n // 2,
        peak=peak,
        details={"stages": costs, "differences": wrong, "pairs": pairs},
    )
