"""The same kernels and reads in a bare loop: no dask, no rows of tiles, no maps.

What `gcdask run` adds to this is its overhead. With two processes the loop shows what a second
core of this machine is worth.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gcdask import detect
from gcdask.cluster import THREADS, keep_freed_memory
from gcdask.config import Config
from gcdask.pipeline.tile import search
from gcdask.survey import combine, survey_window
from gcdask.tiles import read_sum, tile_grid


def _start() -> None:
    import cv2
    import zarr

    cv2.setNumThreads(1)
    keep_freed_memory()
    zarr.config.set({"threading.max_workers": 1})


@contextmanager
def processes(n: int) -> Iterator[Any]:
    """``n`` fresh processes, whose kernels use one thread each."""
    import os

    os.environ.update(THREADS)
    with multiprocessing.get_context("spawn").Pool(n, _start) as pool:
        yield pool


def _survey(tiles: list[Any], job: Any, plan: Any) -> list[Any]:
    return [survey_window(t, read_sum(job.bands, t), plan) for t in tiles]


def _search(tiles: list[Any], job: Any, survey: Any) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    return [search(t, job, survey)[2]["positive"] for t in tiles]


def loop(job: Any, settings: Config, file: Path, pool: Any, n: int) -> int:
    """Survey, search and settle a field, each process its share of the tiles; rows written."""
    shape, size = job.grid.shape, settings.tiles.size
    plan = job.mask.rules.survey_plan(
        job.grid, noise_cell=settings.noise.cell, patch=settings.noise.patch, filters=job.filters
    )

    def shared(function: Any, halo: int, common: Any) -> list[Any]:
        tiles = tile_grid(shape, size, halo)
        parts = pool.starmap(function, [(tiles[k::n], job, common) for k in range(n)], 1)
        return [piece for part in parts for piece in part]

    survey = combine(shared(_survey, plan.halo, plan), plan)
    found = shared(_search, job.halo, survey)
    settled = detect.settle_peaks([pending for _, pending in found], job.radius)
    table = pd.concat([*(accepted for accepted, _ in found), settled], ignore_index=True)
    table = table[table["snr"] > np.float32(job.threshold)].drop(columns="near")
    table.attrs.clear()
    table.to_parquet(file)
    return len(table)
