"""The density for 30 kernels, as `gcdask.fit_kernel` scans them, against one map after the other.

24 000 sources on 700^2 pixels of 0.15 arcsec. The peer is `gcdask.density.density_map` for each
kernel; ours is checked against it.
"""

from __future__ import annotations

from functools import partial
from statistics import median

import dask
import numpy as np
import pandas as pd
from common import Result, alternate, peak_memory, ratio, reset_peak

from gcdask import catalog as cat
from gcdask.density import density_map, density_scan
from gcdask.grid import Grid

SIDE, SOURCES, SCALE = 700, 24_000, 0.15
KERNELS = [(a, s) for a in (1.2, 1.4, 1.6, 1.8, 2.0, 2.2) for s in (0.3, 0.6, 0.9, 1.5, 2.5)]
BAR, TOLERANCE = 1.5, 1e-4


def this(catalog: pd.DataFrame, grid: Grid) -> np.ndarray:
    """All kernels at once."""
    with dask.config.set(scheduler="synchronous"):
        return density_scan(catalog, grid, KERNELS).values


def peer(catalog: pd.DataFrame, grid: Grid) -> np.ndarray:
    """A map for each kernel."""
    with dask.config.set(scheduler="synchronous"):
        return np.stack([density_map(catalog, grid, *kernel).values for kernel in KERNELS])


def run() -> Result:
    grid = Grid.tangent((342.18, -44.53), (SIDE, SIDE), SCALE)
    catalog = cat.make_catalog(*np.random.default_rng(0).uniform(0, SIDE - 1, (2, SOURCES)), grid)
    found, each = this(catalog, grid), peer(catalog, grid)  # compiles
    error = float(np.abs(found / each - 1).max())
    reset_peak()
    this(catalog, grid)
    peak = peak_memory()
    mine, others = alternate(partial(this, catalog, grid), partial(peer, catalog, grid))
    gain = ratio(others, mine)
    return Result(
        name="scan",
        work=f"density of {SOURCES} sources on {SIDE}^2 for {len(KERNELS)} kernels, one thread",
        this=median(mine),
        peer=median(others),
        ratio=gain,
        unit="x one map after the other",
        bar=f">= {BAR}",
        reached=gain >= BAR,
        accuracy=f"difference from these {error:.1e} <= {TOLERANCE:g}",
        passed=error <= TOLERANCE,
        peak=peak,
        details={"error": error, "seconds": mine, "peer_seconds": others},
    )
