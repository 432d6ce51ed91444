"""Clusters and convergence in square boxes of sky."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import fits, sums
from gcdask.tiles import as_map


def _box_block(
    kappa: np.ndarray,
    area: np.ndarray,
    n: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    step: int,
    size: int,
) -> sums.Sums:
    by, bx = (reduce.element_index(v, step) // size for v in (y, x))
    return sums.box_sums(kappa, area, n, by, bx)


def _box_table(
    total: sums.Sums, *, element: float, size: int, min_area: float, inside: np.ndarray
) -> fits.Fit:
    weighted, share, n, squares = total["sums"].reshape(-1, 4).T
    area = share * element
    good = inside & (area >= min_area * element * size**2 * (1 - 1e-9)) & (area > 0)
    blank = np.where(good, 1.0, np.nan)
    safe = np.where(area > 0, area, 1.0)
    mean, square = (v / np.where(share > 0, share, 1.0) for v in (weighted, squares))
    variance = np.where(square - mean**2 > 1e-12 * square, square - mean**2, 0.0)
    return {
        "n": n,
        "area": area,
        "n_gc": blank * n / safe,
        "n_error": blank * fits.poisson_error(n) / safe,
        "kappa": blank * mean,
        "kappa_std": blank * np.sqrt(variance),
        "good": good,
    }


def box_relation(
    catalog: Any,
    kappa: xr.DataArray,
    box: float = 3.0,
    mask: xr.DataArray | None = None,
    *,
    min_area: float = 0.5,
    center: tuple[float, float] | None = None,
    radius: float | None = None,
    where: xr.DataArray | None = None,
) -> xr.Dataset:
    """Measure the density of clusters and the mean convergence in square boxes of sky.

    Boxes are aligned to the global pixel grid, so that they do not depend on the cut-out. Sources
    on masked pixels (inpainted ones among them) do not count; neither does their area. Diego et
    al. (2026), section 4, boxes of 3 arcsec.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
        Sources, at ``ra``, ``dec``.
    kappa : DataArray, dims (y, x)
        Convergence.
    box : float
        Side in arcsec, rounded to a whole number of elements of ``kappa`` (attrs["box"] says it).
    mask : DataArray, optional
        Mask (nonzero = masked) on the pixels of ``kappa`` or an integer number of times finer;
        area and sources are taken at its own resolution.
    min_area : float
        Boxes with less than this unmasked share are not ``good``: density and kappa are NaN.
    center, radius : (float, float), float, optional
        Only boxes whose centre lies less than ``radius`` arcsec from ``center`` (RA, Dec) are good.
    where : DataArray, optional
        Elements of ``kappa`` to use, as in `fit_beta`.

    Returns
    -------
    Dataset, lazy where an input is, dim ``box``
        ``n`` (sources), ``area`` (unmasked arcsec2 with a finite kappa), ``n_gc`` (arcsec-2),
        ``n_error`` (Poisson; for n = 0 the 1-sigma upper limit 1.84 / area), ``kappa`` (mean over
        the unmasked area: elements weigh by their unmasked share), ``kappa_std`` (standard
        deviation of the elements), ``good``, the boxes' centres ``x``, ``y`` (global px), ``ra``,
        ``dec`` (deg), and their numbers ``ix``, ``iy`` from global pixel 0.

    Raises
    ------
    InputError
        If a box is smaller than an element, or the grids of mask and kappa do not fit.
    """
    k = as_map(kappa, "kappa")
    grid = Grid.of(k)
    size = box_size(box, grid)
    if not 0 <= min_area <= 1:
        raise InputError(f"min_area = {min_area} is not a share; give a number from 0 to 1")
    if (center is None) != (radius is None):
        raise InputError("center and radius select boxes together; give both or neither")
    area, n = _cells(catalog, k, mask, where)
    kernel = partial(_box_block, step=grid.step, size=size)
    total = reduce.reduce_maps(
        kernel, grid, [k.data.rechunk(area.chunks), area, n], sums.merge_windows
    )
    places = box_places(grid, size)
    x, y = (places[k][1] for k in "xy")
    inside = np.ones(x.size, bool)
    if center is not None and radius is not None:
        center = reduce.check_center(center)
        inside = np.hypot(*grid.offsets(x, y, center)) < radius
    table = partial(
        _box_table, element=grid.pixel_scale**2, size=size, min_area=min_area, inside=inside
    )
    result = xr.Dataset(
        reduce.variables(reduce.apply(table, total=total), _box_spec(inside.size)) | places,
        attrs={
            "box": size * grid.pixel_scale,
            "box_asked": box,
            "box_elements": size,
            "min_area": min_area,
            "note": "boxes have a whole number of elements of kappa and start at global pixel 0",
        },
    )
    return reduce.finish(result, catalog, kappa, mask, where)


def _cells(catalog: Any, k: xr.DataArray, mask: Any, where: Any) -> tuple[da.Array, da.Array]:
    """Unmasked share of each element of the map, and the sources on it."""
    grid = Grid.of(k)
    if mask is None:
        mask = grid.wrap(da.zeros(k.shape, dtype=bool, chunks=k.chunks), "mask", "")
    area, n = unmasked_cells(catalog, grid, mask)
    if where is not None:
        use = reduce.usable(where, k).rechunk(area.chunks)
        area, n = area * use, n * use
    return area, n


def unmasked_cells(catalog: Any, grid: Grid, mask: Any) -> tuple[da.Array, da.Array]:
    """Unmasked share of each element of a grid, and the sources on unmasked pixels of it."""
    good = reduce.unmasked(mask)
    return reduce.fraction(good, grid, "mask"), reduce.cell_counts(good, catalog, grid)


def _box_spec(n: int) -> reduce.Spec:
    dims, shape = ("box",), (n,)
    return {
        "n": (dims, shape, np.int64, "", "sources on unmasked pixels"),
        "area": (dims, shape, float, "arcsec2", "unmasked area"),
        "n_gc": (dims, shape, float, "arcsec-2", "number density of sources"),
        "n_error": (dims, shape, float, "arcsec-2", "Poisson error of n_gc"),
        "kappa": (dims, shape, float, "", "mean convergence over the unmasked area"),
        "kappa_std": (dims, shape, float, "", "standard deviation of the elements' convergence"),
        "good": (dims, shape, bool, "", "whether the box is unmasked and inside enough"),
    }


def box_size(box: float, grid: Grid) -> int:
    """Side of a box of ``box`` arcsec in whole elements; raises `InputError` below one."""
    size = round(box / grid.pixel_scale) if math.isfinite(box) else 0
    if size < 1:
        raise InputError(
            f"box = {box} arcsec is smaller than an element of the map ({grid.pixel_scale:.3g} "
            "arcsec); give larger boxes or a finer map"
        )
    return size


def box_places(grid: Grid, size: int) -> dict[str, tuple[str, np.ndarray, dict[str, str]]]:
    """Centres (global x, y and RA, Dec) and numbers of the boxes that overlap a grid, by row.

    As variables of a Dataset.
    """
    axes, numbers = [], []
    for positions in (grid.y, grid.x):
        element = reduce.element_index(positions, grid.step)
        phase = float(positions[0]) - float(element[0]) * grid.step
        number = np.arange(element[0] // size, element[-1] // size + 1)
        axes.append((number * size + (size - 1) / 2) * grid.step + phase)
        numbers.append(number)
    y, x, iy, ix = (
        v.ravel() for pair in (axes, numbers) for v in np.meshgrid(*pair, indexing="ij")
    )
    ra, dec = grid.sky(x, y)
    found = {
        **{"x": (x, "pix", "centre of the box"), "y": (y, "pix", "centre of the box")},
        **{"ra": (ra, "deg", "right ascension"), "dec": (dec, "deg", "declination")},
        **{"ix": (ix, "", "number of the box along x"), "iy": (iy, "", "number along y")},
    }
    return {
        name: ("box", v, {"units": units, "long_name": text})
        for name, (v, units, text) in found.items()
    }
