"""`overhead` and `scaling`: a stored mosaic through workers and through a bare loop, in one run."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import bare
import field
import sky
import zarr
from common import Result, ratio, seconds

from gcdask import mosaic
from gcdask.mosaic.ingestion import create_mosaic, finish_mosaic
from gcdask.pipeline.runner import Runner
from gcdask.tiles import read_sum, tile_grid

SIDE = 3 * field.TILE  # nine tiles
ROUNDS = 5


def store(folder: Path, side: int = SIDE) -> str:
    """Write one band of the sky as `gcdask ingest` would, in shards of a tile."""
    band, path = sky.Sky(side), str(folder / "sky.zarr")
    folder.mkdir(parents=True, exist_ok=True)
    create_mosaic(path, field.lazy(side), field.TILE)
    array = zarr.open_array(path, path="sci", mode="r+")
    for y, x in itertools.product(range(0, side, field.TILE), repeat=2):
        window = slice(y, min(y + field.TILE, side)), slice(x, min(x + field.TILE, side))
        array[(0, *window)] = band[window]
    finish_mosaic(path)
    return path


class Roads:
    """The same stored field by workers and by bare processes; both write the same sources."""

    def __init__(self, folder: Path, size: int = field.TILE, side: int = SIDE) -> None:
        self.folder = folder
        self.settings = field.config(size)
        self.sources = mosaic.open_sources(store(folder, side))
        self.attempt = itertools.count()
        self.rows: dict[str, set[int]] = {"workers": set(), "bare": set()}
        self.peak = 0

    def workers(self, client: object) -> None:
        """Run by the workers of a client, into a folder of its own."""
        folder = self.folder / f"run-{next(self.attempt)}"
        measured = field.measure(self.sources, folder, Runner(client), self.settings)  # type: ignore[arg-type]
        self.rows["workers"].add(measured.sources)
        self.peak = max(self.peak, measured.peak)

    def bare(self, pool: object, n: int) -> None:
        """Run by bare processes."""
        job = field.job_of(self.settings, self.sources, self.folder)
        file = self.folder / "bare.parquet"
        self.rows["bare"].add(bare.loop(job, self.settings, file, pool, n))

    @property
    def same(self) -> bool:
        """Whether all roads found the same number of sources, every time."""
        return len(self.rows["workers"] | self.rows["bare"]) == 1


def interleaved(functions: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of several functions, one call of each a round, in turning order, after a warm-up."""
    for function in functions.values():
        function()
    spent: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            spent[name].append(seconds(functions[name]))
    return spent


def _reading(sources: mosaic.Sources) -> float:
    """Nanoseconds to read a pixel of a band once, by windows of tiles with their halo."""
    tiles = tile_grid(sources.grid.shape, field.TILE, 100)
    spent = seconds(lambda: [read_sum(sources.sci, t) for t in tiles])
    return spent / SIDE**2 * 1e9


def overhead() -> Result:
    """One worker of one thread against a bare loop in one process."""
    with (
        tempfile.TemporaryDirectory(dir=".") as temporary,
        field.cluster(1) as client,
        bare.processes(1) as pool,
    ):
        roads = Roads(Path(temporary).absolute())
        spent = interleaved(
            {"this": lambda: roads.workers(client), "bare": lambda: roads.bare(pool, 1)}, ROUNDS
        )
        reading = median(pool.apply(_reading, (roads.sources,)) for _ in range(3))
    over = ratio(spent["this"], spent["bare"])
    return Result(
        name="overhead",
        work=f"a stored mosaic of {SIDE} x {SIDE} px in tiles of {field.TILE}, one worker",
        this=median(spent["this"]),
        peer=median(spent["bare"]),
        ratio=over,
        unit="x a bare loop",
        bar="<= 1.15",
        reached=over <= 1.15,
        accuracy=f"sources found {sorted(roads.rows['workers'] | roads.rows['bare'])}",
        passed=roads.same,
        peak=roads.peak,
        details={**spent, "read_ns": reading},
    )


def scaling() -> Result:
    """What a second worker gains against what a second bare process gains."""
    with (
        tempfile.TemporaryDirectory(dir=".") as temporary,
        field.cluster(1) as one,
        field.cluster(2) as two,
        bare.processes(1) as alone,
        bare.processes(2) as pair,
    ):
        roads = Roads(Path(temporary).absolute(), 2048, 2 * field.TILE)  # 16 tiles share evenly
        spent = interleaved(
            {
                "worker": lambda: roads.workers(one),
                "workers": lambda: roads.workers(two),
                "process": lambda: roads.bare(alone, 1),
                "processes": lambda: roads.bare(pair, 2),
            },
            ROUNDS,
        )
    ours = ratio(spent["worker"], spent["workers"])
    theirs = ratio(spent["process"], spent["processes"])
    return Result(
        name="scaling",
        work="a stored mosaic of 8192 x 8192 px in tiles of 2048, two workers against one",
        this=median(spent["workers"]),
        peer=median(spent["processes"]),
        ratio=ours / theirs,
        unit="x the gain of two bare processes",
        bar=">= 0.92",
        reached=ours / theirs >= 0.92,
        accuracy=f"sources found {sorted(roads.rows['workers'] | roads.rows['bare'])}",
        passed=roads.same,
        peak=roads.peak,
        details={"gain": ours, "bare_gain": theirs, **spent},
    )
