"""Lazy peaks: one task for each chunk, one that settles what no chunk can decide."""

from __future__ import annotations

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr

from gcdask import catalog
from gcdask.detect.inputs import aligned, masked
from gcdask.detect.window import PEAK_HALO, peaks_in_window, settle_peaks
from gcdask.errors import InputError
from gcdask.grid import Grid, Tile
from gcdask.tiles import as_map, real_ends, windows


def detect_peaks(
    detection_map: xr.DataArray,
    threshold: float,
    radius: float = 3,
    mask: xr.DataArray | None = None,
    *,
    noise: xr.DataArray | float | None = None,
    in_sigma: bool = False,
    halo: int = PEAK_HALO,
) -> dd.DataFrame:
    """Peaks of a map, brightest first, each blanking a disk about it (greedy rule).

    The result is that of the serial rule on the whole map, whatever the chunks and the halo.

    Parameters
    ----------
    detection_map : DataArray (y, x)
        NaN = masked; taken as float32.
    threshold : float
        Pixels strictly above it can be peaks. In the units of the map.
    radius : float
        A peak blanks dx^2 + dy^2 <= radius^2 (px).
    mask : DataArray (y, x), optional
        Bits or bool, masked where nonzero.
    noise : DataArray (y, x) or float, optional
        For the column ``snr``, which is NaN without; e.g. `noise_map`.
    in_sigma : bool
        The threshold is in units of `noise`, and brightest means of the largest S/N.
    halo : int
        Pixels seen beyond a chunk. Fewer leave more to the last step, which runs in one task.

    Returns
    -------
    dask DataFrame
        A catalogue (see `gcdask.catalog`) with one partition for each chunk, sorted by ``id``,
        and a last one of the peaks that no chunk could decide alone.

    Raises
    ------
    InputError
        For a threshold that is not positive, other dimensions, a map without WCS, or a mask or
        noise on other pixels, or ``in_sigma`` without noise.
    """
    if not threshold > 0:
        raise InputError(f"threshold = {threshold} is not positive; give it in units of the map")
    if not radius >= 0 or halo < 0:
        raise InputError(f"radius = {radius}, halo = {halo} px: both must not be negative")
    image = as_map(detection_map, "the detection map")
    if in_sigma and noise is None:
        raise InputError("in_sigma needs the noise; give noise=noise_map(detection_map)")
    grid = Grid.of(image)
    arrays = [masked(image.data, mask, image)]
    if isinstance(noise, xr.DataArray):
        arrays.append(aligned(noise, image, "noise"))
        noise = None
    elif noise is not None and not float(noise) > 0:
        raise InputError(f"noise = {noise} is not positive; give it in units of the map")
    find = dask.delayed(_find_peaks, pure=True, nout=2)
    shared = dask.delayed(grid, traverse=False, pure=True)  # one copy in the graph
    pairs = [
        find(tile, shared, threshold, radius, in_sigma, noise, *blocks)
        for tile, blocks in windows(arrays, halo)
    ]
    settled = dask.delayed(_settled, pure=True)([pending for _, pending in pairs], radius)
    parts = [accepted for accepted, _ in pairs] + [settled]
    return dd.from_delayed(parts, meta=catalog.meta(), prefix="detect-peaks")


# -- tasks ---------------------------------------------------------------------------------------
def _find_peaks(
    tile: Tile,
    grid: Grid,
    threshold: float,
    radius: float,
    in_sigma: bool,
    noise: float | None,
    window: np.ndarray,
    *noise_window: np.ndarray,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    accepted, pending = peaks_in_window(
        window,
        noise_window[0] if noise_window else noise,
        threshold,
        radius,
        tile=tile,
        ends=real_ends(tile, grid.shape),
        grid=grid,
        in_sigma=in_sigma,
        near=0,
    )
    return accepted.drop(columns="near"), pending


def _settled(pending: list[pd.DataFrame], radius: float) -> pd.DataFrame:
    return settle_peaks(pending, radius).drop(columns="near")
