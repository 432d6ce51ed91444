"""Lazy maps: high-pass, detection map, noise. Validate, build the graph, wrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from gcdask.detect.inputs import aligned, bits_of, masked, wrap
from gcdask.detect.window import FILTERS, Pair, chain, chain_halo
from gcdask.errors import InputError
from gcdask.grid import Grid, Tile
from gcdask.kernels import highpass as hp
from gcdask.kernels.noise import interpolate_cells
from gcdask.masks.rules import check_fwhm
from gcdask.survey import SurveyPlan, lattices, noise_cells
from gcdask.tiles import as_map, band_sum, map_windows, windows

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
    check_fwhm(fwhm)
    dims = ("band", "y", "x") if "band" in getattr(image, "dims", ()) else ("y", "x")
    image = as_map(image, "the image", dims)
    data = image.data
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
    rim: float = 0,
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
    rim : float
        Masked sources and shapes grow by this many px after filtering, which hides the bright
        rims along the outlines of masked galaxies (a bool mask grows as a whole).
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
        check_fwhm(pair)
    image = band_sum(mosaic, bands)
    if mask is None:
        mask = mosaic.get("mask")
    arrays = [image.data, bits_of(mask, image)]
    level = luminous
    if isinstance(luminous, xr.DataArray):
        arrays.append(aligned(luminous, image, "luminous"))
        level = None
    out = map_windows(
        _chain_core,
        arrays,
        chain_halo(fwhm, 0 if luminous is None else luminous_dilate, rim),
        {"fwhm": fwhm, "luminous": level, "luminous_dilate": luminous_dilate, "rim": rim},
        dtype=np.float32,
    )
    return wrap(out, image, "detection")


def noise_map(
    detection_map: xr.DataArray, cell: int = 128, *, patch: int | None = None
) -> xr.DataArray:
    """Robust local noise of a map: sigma in the middle of each cell, bilinear between them.

    The noise of a detection map is measured best before sources are masked, where patches are
    whole: ``noise_map(detection_map(mosaic))`` is, bit for bit, that of `gcdask run`.

    Parameters
    ----------
    detection_map : DataArray (y, x)
        NaN = masked.
    cell, patch : int
        Side (px) of the cells of a lattice that starts at global pixel 0, and of the square in the
        middle of each that is measured (by default half the cell).
        Cells with fewer than 64 good pixels there take the nearest cell's value.

    Returns
    -------
    DataArray (y, x)
        Lazy, float32, named ``noise``, chunks and units of the map; NaN if no cell is good.
    """
    patch = cell // 2 if patch is None else patch
    if not 8 <= patch <= cell:
        raise InputError(
            f"cell = {cell} px with patch = {patch} px; a patch has 8 px or more and is no larger "
            "than its cell: use e.g. cell=128, patch=64"
        )
    image = as_map(detection_map, "the detection map")
    data, grid = image.data, Grid.of(image)
    start = [int(o) // grid.step for o in grid.origin]
    plan = SurveyPlan(
        grid.shape, cell, patch, bandpass=(), offset=(start[0] % cell, start[1] % cell),
        star_nsigma=None,
    )  # fmt: skip
    measure, collect = (dask.delayed(f, pure=True) for f in (noise_cells, lattices))
    rows = [measure(tile, plan, block) for tile, (block,) in windows([data], patch // 2)]
    cells = da.from_delayed(collect(rows, plan)[0], plan.noise_shape, meta=META)
    y, x = (
        da.from_array(np.arange(n) + o, chunks=(c,))
        for n, o, c in zip(grid.shape, plan.offset, data.chunks, strict=True)
    )
    out = da.blockwise(
        _interpolate, "yx", y, "y", x, "x", cells, "ab", cell=cell,
        concatenate=True, dtype=np.float32, meta=META,
    )  # fmt: skip
    return wrap(out, image, "noise")


# -- tasks ---------------------------------------------------------------------------------------
def _highpass_core(tile: Tile, window: np.ndarray, fwhm: Pair) -> np.ndarray:
    return hp.highpass(window, None, fwhm)[tile.inner]


def _chain_core(tile: Tile, window: np.ndarray, bits: np.ndarray, *rest: Any) -> np.ndarray:
    *level, options = rest
    if level:
        options = options | {"luminous": level[0]}
    return chain(window, bits, **options)[0][tile.inner]


def _interpolate(y: np.ndarray, x: np.ndarray, cells: np.ndarray, cell: int) -> np.ndarray:
    return interpolate_cells(cells, cell, y, x)
