"""The density of 30 000 sources on 4096^2 pixels, against `scipy.signal.fftconvolve`.

Both start from the catalogue (a pandas table with RA, Dec) and end with the map in memory. The
peer puts every source on the pixel below it, samples the kernel at all 8191^2 offsets that pixels
of the field can have, and crops the convolution to the field: the same sum but for the places
within pixels, which is why its accuracy is not compared. Ours is checked at random pixels against
the direct sum over the sources' true places.

``region``: 1e7 sources in 625 stored parts on 100 000^2 pixels, and the values of 4096^2 of these.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import dask
import numpy as np
import pandas as pd
from common import Result, alternate, peak_memory, ratio, reset_peak, seconds
from dask.callbacks import Callback
from scipy.signal import fftconvolve

from gcdask import catalog as cat
from gcdask.density import density_map
from gcdask.grid import Grid

SIDE, SOURCES = 4096, 30_000
ALPHA, SOFTENING, SCALE = 1.6, 0.9, 0.03
CHECKED = 2000
BAR, TOLERANCE = 10, 1e-4

WIDE, PARTS, PER_PART = 100_000, 25, 16_000  # px a side, parts a side, sources a part
CORNER = 48_000, 30_500  # (y, x) of the region, somewhere within chunks and parts
CHECKED_WIDE = 40
MEMORY = 1.5  # GiB


def mock(side: int = SIDE, sources: int = SOURCES) -> tuple[pd.DataFrame, Grid]:
    """Two thirds of the sources crowd about the middle, some of them beyond the field."""
    grid = Grid.tangent((342.18, -44.53), (side, side), SCALE)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, side - 1, (2, sources))
    r, a = 0.6 * side * rng.random(sources) ** 1.5, rng.uniform(0, 2 * np.pi, sources)
    crowd = np.arange(sources) % 3 < 2
    x[crowd], y[crowd] = (side / 2 + (r * f(a))[crowd] for f in (np.cos, np.sin))
    return cat.make_catalog(x, y, grid), grid


def this(catalog: pd.DataFrame, grid: Grid) -> np.ndarray:
    """The public call."""
    with dask.config.set(scheduler="synchronous"):
        return density_map(catalog, grid, ALPHA, SOFTENING).values


def peer(catalog: pd.DataFrame, grid: Grid) -> np.ndarray:
    """Sources on pixels, convolved with the whole kernel in float64."""
    ny, nx = grid.shape
    x, y = (np.rint(p) for p in cat.pixel_positions(catalog, grid))
    on = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    index = y[on].astype(int) * nx + x[on].astype(int)
    image = np.bincount(index, minlength=ny * nx).reshape(ny, nx).astype(float)
    dy, dx = (np.arange(1 - n, n) * SCALE for n in (ny, nx))
    kernel = np.hypot(dy[:, None], dx)
    kernel += SOFTENING
    np.power(kernel, -ALPHA, out=kernel)
    whole = fftconvolve(image, kernel, mode="full")
    return whole[ny - 1 : 2 * ny - 1, nx - 1 : 2 * nx - 1]


def direct(catalog: pd.DataFrame, grid: Grid, px: np.ndarray, py: np.ndarray) -> np.ndarray:
    """Every source, at global pixels px, py."""
    x, y = cat.pixel_positions(catalog, grid)
    scale = grid.global_scale
    return np.array(
        [
            ((SOFTENING + scale * np.hypot(x - a, y - b)) ** -ALPHA).sum()
            for a, b in zip(px, py, strict=True)
        ]
    )


def run() -> list[Result]:
    return [field(), region()]


def field() -> Result:
    catalog, grid = mock()
    this(catalog, grid)  # compiles
    reset_peak()
    found = this(catalog, grid)
    peak = peak_memory()
    py, px = np.random.default_rng(2).integers(0, SIDE, (2, CHECKED))
    error = float(np.abs(found[py, px] / direct(catalog, grid, px, py) - 1).max())
    del found
    mine, scipy = alternate(partial(this, catalog, grid), partial(peer, catalog, grid))
    gain = ratio(scipy, mine)
    details: dict[str, Any] = {"error": error, "seconds": mine, "peer_seconds": scipy}
    return Result(
        name="density",
        work=f"density of {SOURCES} sources on {SIDE}^2, float64, catalogue to map, one thread",
        this=median(mine),
        peer=median(scipy),
        ratio=gain,
        unit="x scipy.signal.fftconvolve",
        bar=f">= {BAR}",
        reached=gain >= BAR,
        accuracy=f"error at {CHECKED} pixels {error:.1e} <= {TOLERANCE:g} of the direct sum",
        passed=error <= TOLERANCE,
        peak=peak,
        details=details,
    )


# -- a region of a large field -------------------------------------------------------------------
def write(folder: Path, grid: Grid) -> np.ndarray:
    """Store a catalogue by tiles, a fifth of its sources in clumps; returns all x and y."""
    side, rows, places = WIDE // PARTS, [], []
    for k, (i, j) in enumerate(np.ndindex(PARTS, PARTS)):
        rng = np.random.default_rng((i, j))
        x, y = rng.uniform(-0.5, side - 0.5, (2, PER_PART))
        clump = rng.random(PER_PART) < 0.2
        x[clump], y[clump] = (
            (np.floor(v / 500) * 500 + 250 + rng.normal(0, 40, v.size))[clump] for v in (x, y)
        )
        table = cat.make_catalog(x + j * side, y + i * side, grid)
        rows.append(cat.write_part(table, folder, cat.part_name(k), grid=grid))
        places.append(np.stack(cat.pixel_positions(table, grid)))
    cat.write_manifest(folder, rows)
    return np.concatenate(places, axis=1)


class Tasks(Callback):
    """Number and seconds of the tasks that ran, by what they do."""

    def __init__(self) -> None:
        super().__init__(pretask=self._begin, posttask=self._end)
        self.number: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def _begin(self, key: Any, *rest: Any) -> None:
        self.start = time.perf_counter()

    def _end(self, key: Any, *rest: Any) -> None:
        name = str(key[0] if isinstance(key, tuple) else key).rsplit("-", 1)[0]
        self.number[name] += 1
        self.seconds[name] += time.perf_counter() - self.start


def region() -> Result:
    grid = Grid.tangent((342.18, -44.53), (WIDE, WIDE), SCALE)
    (y0, x0), tasks = CORNER, Tasks()
    with tempfile.TemporaryDirectory() as folder:
        x, y = write(Path(folder), grid)
        n = x.size
        catalog = cat.read(folder)
        maps: list[Any] = []
        building = seconds(lambda: maps.append(density_map(catalog, grid, ALPHA, SOFTENING)))
        part = maps[0][y0 : y0 + SIDE, x0 : x0 + SIDE]
        part[:8, :8].compute()  # compiles
        reset_peak()
        with dask.config.set(scheduler="synchronous"), tasks:
            spent = seconds(lambda: maps.append(part.values))
        peak = peak_memory()
    py, px = np.random.default_rng(3).integers(0, SIDE, (2, CHECKED_WIDE))
    exact = [
        ((SOFTENING + grid.global_scale * np.hypot(x - x0 - b, y - y0 - a)) ** -ALPHA).sum()
        for a, b in zip(py, px, strict=True)
    ]
    error = float(np.abs(maps[1][py, px] / exact - 1).max())
    gib = peak / 2**30
    return Result(
        name="region",
        work=f"density of {n:.0e} sources on {WIDE}^2: {SIDE}^2 of it, from {PARTS**2} parts",
        this=spent,
        peer=math.nan,
        ratio=gib,
        unit="GiB",
        bar=f"<= {MEMORY}",
        reached=gib <= MEMORY,
        accuracy=f"error at {CHECKED_WIDE} pixels {error:.1e} <= {TOLERANCE:g} of the direct sum",
        passed=error <= TOLERANCE,
        peak=peak,
        details={
            "error": error,
            "graph_seconds": building,
            "chunks_of_all": int(np.prod(maps[0].data.numblocks)),
            "tasks": dict(tasks.number),
            "task_seconds": dict(tasks.seconds),
        },
    )
