"""Lazy maps: high-pass, detection map, noise. Validate, build the graph, wrap."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from scipy.ndimage import distance_transform_edt

from gcdask.detect.inputs import (
    as_dask,
    axes,
    band_indices,
    check_pair,
    masked,
    on_pixels,
    with_dims,
    wrap,
)
from gcdask.detect.window import FILTERS, Pair, chain, chain_halo
from gcdask.errors import InputError
from gcdask.grid import Grid, Tile
from gcdask.kernels import highpass as hp
from gcdask.kernels.noise import interpolate_cells, robust_sigma
from gcdask.tiles import map_windows

META = np.empty((0, 0), np.float32)


def highpass(
    image: xr.DataArray, fwhm: Pair = (0.5, 5.0), mask: xr.DataArray | None = None
) -> xr.DataArray:
    """High-pass G(fwhm[0]) - G(fwhm[1]) of a map, masked pixels left out of both Gaussians.

    Parameters
    ----------
    image : DataArray (y, x) or (band, y, x)
        NaN counts as masked, in each band by itself.
    fwhm : (float, float)
        FWHM of the Gaussians in px. They are sampled and cut at 4 sigma (scipy.ndimage's
        convention), so that G(0.5) is nearly the identity.
    mask : DataArray (y, x), optional
        Bits or bool, masked where nonzero.

    Returns
    -------
    DataArray
        Lazy, float32, with the coordinates, chunks and units of `image`; NaN where masked.

    Raises
    ------
    InputError
        For other dimensions, a mask on other pixels, or widths that are not ascending.
    """
    check_pair(fwhm)
    dims = ("band", "y", "x") if "band" in image.dims else ("y", "x")
    image = with_dims(image, dims, "highpass")
    data = as_dask(image)
    planes = [data[i] for i in range(data.shape[0])] if data.ndim == 3 else [data]
    halo = hp.halo(fwhm)
    done = [
        map_windows(_highpass_core, [masked(p, mask, image)], halo, fwhm, dtype=np.float32)
        for p in planes
    ]
    out = da.stack(done).rechunk(data.chunks) if data.ndim == 3 else done[0]
    return wrap(out, image, "highpass")


def detection_map(
    mosaic: xr.Dataset,
    mask: xr.DataArray | None = None,
    *,
    fwhm: tuple[Pair, Pair] = FILTERS,
    luminous: float | xr.DataArray | None = None,
    luminous_dilate: float = 5,
    bands: Sequence[str] | None = None,
) -> xr.DataArray:
    """Filter a mosaic into its detection map: the bands' sum after two high-passes (see `chain`).

    Parameters
    ----------
    mosaic : Dataset
        ``sci`` (band, y, x). Pixels without data in any band are masked.
    mask : DataArray (y, x), optional
        Bits or bool, masked where nonzero; by default ``mosaic["mask"]`` if there is one.
    fwhm : two pairs
        FWHM (px) of the Gaussians of the first and second high-pass.
    luminous : float or DataArray (y, x), optional
        Pixels of the first filtered image (sum of the bands) above it are masked before the
        second filter, with a disk of radius `luminous_dilate` px. In the units of ``sci``.
    bands : sequence of str, optional
        The bands to add; all by default.

    Returns
    -------
    DataArray (y, x)
        Lazy, float32, named ``detection``, in the units of ``sci``; NaN = masked.

    Raises
    ------
    InputError
        For a missing variable, dimension or band, or a mask on other pixels.
    """
    for pair in fwhm:
        check_pair(pair)
    if not isinstance(mosaic, xr.Dataset) or "sci" not in mosaic:
        raise InputError(
            f"a mosaic is a Dataset with the variable 'sci', not {type(mosaic).__name__}"
            f"{sorted(map(str, getattr(mosaic, 'data_vars', [])))}; open it with open_mosaic"
        )
    sci = with_dims(mosaic["sci"], ("band", "y", "x"), "detection_map")
    data = as_dask(sci).astype(np.float32)
    # a plain chain of additions: the same order, hence the same bits, for all chunks of bands
    total = reduce(add, [data[i] for i in band_indices(sci, bands)])
    image = xr.DataArray(total, dims=("y", "x"), coords=axes(sci), attrs=sci.attrs)
    image.attrs.setdefault("wcs", mosaic.attrs.get("wcs"))
    if mask is None:
        mask = mosaic.get("mask")
    arrays = [masked(total, mask, image)]
    level = luminous
    if isinstance(luminous, xr.DataArray):
        arrays.append(on_pixels(luminous, image, "luminous"))
        level = None
    out = map_windows(
        _chain_core,
        arrays,
        chain_halo(fwhm, 0 if luminous is None else luminous_dilate),
        {"fwhm": fwhm, "luminous": level, "luminous_dilate": luminous_dilate},
        dtype=np.float32,
    )
    return wrap(out, image, "detection")


def noise_map(detection_map: xr.DataArray, cell: int = 128) -> xr.DataArray:
    """Robust local noise of a map: sigma per global cell, bilinear between cell centres.

    Parameters
    ----------
    detection_map : DataArray (y, x)
        NaN = masked.
    cell : int
        Side (px) of the square cells; they are fixed to global pixel 0, not to chunks. Cells
        with fewer than 64 good pixels, or none that differ, take the nearest cell's value.

    Returns
    -------
    DataArray (y, x)
        Lazy, float32, named ``noise``, chunks and units of the map; NaN if no cell is good.
    """
    if cell < 8:
        raise InputError(f"cell = {cell} px is below 8; a cell needs 64 pixels, use e.g. 128")
    image = with_dims(detection_map, ("y", "x"), "noise_map")
    grid, data = Grid.of(image), as_dask(image)
    pixels = [np.floor_divide(a, grid.step).astype(np.int64) for a in (grid.y, grid.x)]
    first = [int(p[0]) // cell if p.size else 0 for p in pixels]
    offset = tuple(int(p[0]) % cell if p.size else 0 for p in pixels)
    aligned = tuple(_cell_chunks(c, o, cell) for c, o in zip(data.chunks, offset, strict=True))
    counts = tuple(
        tuple(-(-(n + (o if k == 0 else 0)) // cell) for k, n in enumerate(c))
        for c, o in zip(aligned, offset, strict=True)
    )
    cells = da.map_blocks(
        _cell_block, data.rechunk(aligned), cell, offset, chunks=counts, dtype=np.float32, meta=META
    )
    filled = cells.rechunk(-1).map_blocks(_fill, dtype=np.float32, meta=META)
    y, x = (
        da.from_array(p - f * cell, chunks=c)
        for p, f, c in zip(pixels, first, data.chunks, strict=True)
    )
    out = da.blockwise(
        _interpolate, "yx", y, "y", x, "x", filled, "ab", cell=cell,
        concatenate=True, align_arrays=False, dtype=np.float32, meta=META,
    )  # fmt: skip
    return wrap(out, image, "noise")


# -- tasks ---------------------------------------------------------------------------------------
def _highpass_core(tile: Tile, window: np.ndarray, fwhm: Pair) -> np.ndarray:
    return hp.highpass(window, None, fwhm)[tile.inner]


def _chain_core(tile: Tile, window: np.ndarray, *rest: Any) -> np.ndarray:
    *level, options = rest
    if level:
        options = options | {"luminous": level[0]}
    return chain(window, **options)[0][tile.inner]


def _cell_chunks(chunks: tuple[int, ...], offset: int, cell: int) -> tuple[int, ...]:
    """Chunks whose ends are ends of cells, as close below the given ones as can be."""
    total = sum(chunks)
    ends = (np.cumsum(chunks[:-1]) + offset) // cell * cell - offset
    edges = np.unique([0, *ends[(ends > 0) & (ends < total)], total])
    return tuple(int(n) for n in np.diff(edges)) or (0,)


def _cell_block(
    block: np.ndarray, cell: int, offset: tuple[int, int], block_id: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """Sigma of each cell of a block; only the field's first cells can start before the block."""
    edges = []
    for n, o, k in zip(block.shape, offset, block_id, strict=True):
        start = o if k == 0 else 0
        edges.append(np.unique([0, *np.arange(cell - start, n, cell), n]))
    ys, xs = edges
    out = np.empty((max(len(ys) - 1, 0), max(len(xs) - 1, 0)), np.float32)
    for i, j in np.ndindex(out.shape):
        out[i, j] = robust_sigma(block[ys[i] : ys[i + 1], xs[j] : xs[j + 1]])
    return out


def _fill(cells: np.ndarray) -> np.ndarray:
    bad = ~(cells > 0)
    if bad.all() or not bad.any():
        return np.where(bad, np.float32(np.nan), cells)
    nearest = distance_transform_edt(bad, return_distances=False, return_indices=True)
    return cells[tuple(nearest)]


def _interpolate(y: np.ndarray, x: np.ndarray, cells: np.ndarray, cell: int) -> np.ndarray:
    return interpolate_cells(cells, cell, y, x)
