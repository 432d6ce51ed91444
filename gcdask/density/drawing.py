"""Poisson sources of a map of expected numbers: a catalogue that no chunking changes."""

from __future__ import annotations

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr

from gcdask import catalog as cat
from gcdask.density import graphs
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import counts
from gcdask.tiles import as_map

STREAM = 0x1B9A0000  # random stream of `draw_sources` (see gcdask.kernels.counts)


def draw(
    expected: np.ndarray, ys: np.ndarray, xs: np.ndarray, step: int, seed: int, stream: int
) -> np.ndarray:
    """Poisson sources of a block, ``(3, n)`` of global x, y (uniform within a pixel) and weight 1.

    A function of (seed, stream, global pixel) and of the pixel's expected number alone.
    """
    y0, x0 = int(ys[0] // step), int(xs[0] // step)
    n = counts.poisson_block(expected, seed, stream, y0, x0)
    i, j = np.nonzero(n)
    n = n[i, j]
    which = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)  # 0, 1, ... within a pixel
    i, j = np.repeat(i, n), np.repeat(j, n)
    u, v = (counts.uniform(seed, y0 + i, x0 + j, stream, word=2 * which + k) for k in (0, 1))
    return np.stack([xs[j] + (u - 0.5) * step, ys[i] + (v - 0.5) * step, np.ones(i.size)])


def _rows(
    expected: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    grid: Grid,
    seed: int,
    stream: int,
    flags: int,
) -> pd.DataFrame:
    x, y, _ = draw(expected, ys, xs, grid.step, seed, stream)
    return cat.make_catalog(x, y, grid, flags=flags)


def sources_of(expected: xr.DataArray, seed: int, stream: int, *, flags: int = 0) -> dd.DataFrame:
    """Draw from a map of sources per pixel; one partition per chunk, in the catalogue's schema."""
    grid = Grid.of(expected)
    ys, xs = graphs.lines(grid, expected.data.chunks)
    # "chunks" that are tables, which is why they are taken out of the array at once
    tables = da.blockwise(
        _rows, "ij", expected.data, "ij", ys, "i", xs, "j", grid=grid, seed=seed, stream=stream,
        flags=flags, dtype=object, meta=np.empty((0, 0), object),
    )  # fmt: skip
    return dd.from_delayed(tables.to_delayed().ravel().tolist(), meta=cat.meta(), prefix="draw")


def draw_sources(intensity: xr.DataArray, seed: int = 0, *, realisation: int = 0) -> dd.DataFrame:
    """Draw a catalogue: an inhomogeneous Poisson process of a given intensity, lazily.

    Mocks for whatever is measured on a catalogue. A pixel's number is Poisson, its sources lie
    anywhere within it.

    Parameters
    ----------
    intensity : DataArray, dims (y, x)
        Expected sources per arcsec^2 (``attrs["units"]`` empty or ``arcsec-2``), 0 or more; NaN
        counts as 0. Put 0 where a mask hides sources.
    seed, realisation : int
        The draws are a function of both and of the global pixel: the same for every chunking and
        cluster, independent for each realisation (0 to 65 535).

    Returns
    -------
    dask DataFrame
        Schema of `gcdask.catalog` (peak and snr NaN), one partition per chunk. Two sources of one
        pixel share its ``id``.

    Raises
    ------
    InputError
        If the map has another unit, or a number is out of range.
    """
    intensity = as_map(intensity, "intensity")
    units = str(intensity.attrs.get("units", ""))
    if units not in ("", "arcsec-2"):
        raise InputError(f"intensity is in {units!r}; give sources per arcsec-2")
    if int(seed) != seed:
        raise InputError(f"seed = {seed} is not an integer")
    if not 0 <= realisation < 2**16 or int(realisation) != realisation:
        raise InputError(f"realisation = {realisation} is not an integer from 0 to 65535")
    area = Grid.of(intensity).pixel_scale ** 2
    expected = intensity.copy(data=intensity.data.astype(float) * area)
    return sources_of(expected, int(seed), STREAM + int(realisation))
