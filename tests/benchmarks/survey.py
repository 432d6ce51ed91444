"""A band of 1e9, 4e9 and 1e10 pixels that is never stored, on two workers of 4 GiB.

Filter, mask and peaks to Parquet, in tiles of 4096 px, as `gcdask run` does it (both passes over
the pixels; without the detection map, which would be 40 GB). What must hold: memory stays flat,
time is linear in area, and the catalogue of the small field is that of the large one.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import field
import numpy as np
import sky
from common import Result, seconds

from gcdask import catalog
from gcdask.pipeline.runner import Runner

SIDES = (31_623, 63_246, 100_000)
MEMORY_BAR = 1.2 * 2**30
#: Sources farther than this from the cut must be the same: edge frame (220 px), the field's largest
#: star (spikes of up to 640 px), halo.
MARGIN = 1024


def run() -> Result:
    """Three fields, each on workers of its own."""
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        folders = {side: Path(temporary).absolute() / str(side) for side in SIDES}
        measured = {}
        for side, folder in folders.items():
            with field.cluster(2) as client:
                field.measure(field.lazy(2048), folder / "warm", Runner(client), field.config(1024))
                measured[side] = field.measure(field.lazy(side), folder, Runner(client))
        missing, compared = _differences(folders[SIDES[0]], folders[SIDES[-1]])
    small, large = measured[SIDES[0]], measured[SIDES[-1]]
    peaks = [m.peak for m in measured.values()]
    rates = [m.wall / m.pixels * 1e9 for m in measured.values()]
    flat = max(peaks) / peaks[0]
    linear = max(abs(r / rates[0] - 1) for r in rates)
    building = max(m.building / m.wall for m in measured.values())
    reached = max(peaks) <= MEMORY_BAR and abs(flat - 1) <= 0.1 and linear <= 0.15
    return Result(
        name="survey",
        work="100 000 x 100 000 px, never stored, to a Parquet catalogue on two workers",
        this=large.wall,
        peer=math.nan,
        ratio=large.wall / small.wall / (large.pixels / small.pixels),
        unit="x the time per pixel of 1e9",
        bar="within 15 %; <= 1.2 GiB a worker, +-10 %; graphs <= 2 %",
        reached=reached and building <= 0.02,
        accuracy=f"{missing} of {compared} sources differ from those of the smaller field",
        passed=missing == 0 and compared > 0,
        peak=max(peaks),
        details={
            "pixels": [m.pixels for m in measured.values()],
            "seconds": [m.wall for m in measured.values()],
            "ns_per_pixel": rates,
            "peak_bytes": peaks,
            "sources": [m.sources for m in measured.values()],
            "building_share": building,
            "generate_ns": _generating(),
            "tiles": [m.tiles for m in measured.values()],
            "written": [m.written for m in measured.values()],
            "stages": [m.stages for m in measured.values()],
        },
    )


def _generating() -> float:
    """Nanoseconds that making a pixel of the sky takes, which is no work of ours."""
    band, tile = sky.Sky(SIDES[-1]), field.TILE
    return min(seconds(lambda: band[:tile, :tile]) for _ in range(3)) / tile**2 * 1e9


def _differences(small: Path, large: Path) -> tuple[int, int]:
    """Sources of the smaller field, away from its cut, that the larger one has not alike."""
    end = SIDES[0] - MARGIN
    tables = []
    for folder in (small, large):
        table = catalog.read(folder / "catalog.parquet")
        inside = table[(table["x"] < end) & (table["y"] < end)]
        tables.append(inside.compute(scheduler="synchronous").sort_values("id"))
    a, b = tables
    if len(a) != len(b):
        return int(np.setxor1d(a["id"], b["id"]).size), len(a)
    columns = [c for c in a.columns if c != "tile"]
    unlike = ~(a[columns].to_numpy() == b[columns].to_numpy()).all(axis=1)
    return int(unlike.sum()), len(a)
