"""Maps on coarser pixels, and what becomes of beta on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.compare.beta import center_of, fit_beta
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels.sums import block_totals
from gcdask.tiles import as_map, check_pixels


def _means(values: np.ndarray, good: np.ndarray, *, factor: int) -> np.ndarray:
    """Mean of the good pixels of each block; NaN where they are fewer than half of it."""
    n = block_totals(good, factor)
    total = block_totals(np.where(good, values, 0.0), factor)
    return np.where(n >= factor**2 / 2, total / np.maximum(n, 1), np.nan)


def coarsened(maps: Sequence[xr.DataArray], where: Any, factor: int) -> list[xr.DataArray]:
    """Means over blocks of ``factor`` x ``factor`` pixels of maps on the same pixels, lazily.

    The same pixels count in all maps: usable ones (see `fit_beta`) that are finite in each. Blocks
    of which less than half counts are NaN.
    """
    grid = Grid.of(maps[0])
    good = reduce.usable(where, maps[0])
    for m in maps:
        good = good & da.isfinite(m.data)
    good = reduce.align_chunks(good, factor)
    return [
        grid.coarsen(factor).wrap(
            da.map_blocks(
                partial(_means, factor=factor),
                m.data.rechunk(good.chunks),
                good,
                chunks=reduce.cell_chunks(good, factor),
                dtype=float,
                meta=np.empty((0, 0)),
            ),
            str(m.name),
            str(m.attrs.get("units", "")),
        )
        for m in maps
    ]


def factor_for(grid: Grid, size: float) -> int:
    """How many pixels make one of at most ``size`` arcsec (1 where they are larger already)."""
    return max(1, int(size / grid.pixel_scale * (1 + 1e-9)))


def beta_by_resolution(
    kappa: xr.DataArray,
    rho: xr.DataArray,
    factors: Sequence[int] = (1, 2, 4, 8),
    center: tuple[float, float] | None = None,
    where: xr.DataArray | None = None,
    *,
    sectors: Mapping[str, float] | None = None,
    half_width: float = 45.0,
    radius: float | None = None,
    jackknife: float | None = 10.0,
) -> xr.Dataset:
    """`fit_beta` of maps that are coarsened by several factors.

    kappa and rho are averaged over the usable pixels of each block, so that ratios are taken of
    sums and never averaged. A beta that depends on the pixel says that the two maps differ on its
    scale (cores of galaxies in kappa, clumps of clusters in rho).

    Parameters
    ----------
    factors : sequence of int
        Pixels along a side of each block.
    kappa, rho, center, where, sectors, half_width, radius, jackknife
        As in `fit_beta`.

    Returns
    -------
    Dataset, lazy where an input is, dim ``factor``
        What `fit_beta` returns for each factor, and ``pixel``, the side of a pixel in arcsec.

    Raises
    ------
    InputError
        If a factor is not a whole number of 1 or more; else as in `fit_beta`.
    """
    sizes = [int(f) for f in factors]
    if not sizes or any(f < 1 or f != g for f, g in zip(sizes, factors, strict=True)):
        raise InputError(f"factors = {tuple(factors)} are not whole numbers of 1 or more")
    maps = [as_map(kappa, "kappa"), as_map(rho, "rho")]
    grid = Grid.of(maps[0])
    check_pixels(maps[1], grid, "rho", "kappa")
    center = center_of(grid, center)
    fit = partial(
        fit_beta, center=center, sectors=sectors, half_width=half_width, radius=radius,
        jackknife=jackknife,
    )  # fmt: skip
    fits = [fit(*coarsened(maps, where, f)) for f in sizes]
    result = xr.concat(fits, "factor", coords="minimal", compat="override", join="override",
                       combine_attrs="drop_conflicts")  # fmt: skip
    pixel = [grid.coarsen(f).pixel_scale for f in sizes]
    result = result.assign_coords(
        factor=("factor", sizes, {"units": "", "long_name": "pixels along a side of a block"}),
        pixel=("factor", pixel, {"units": "arcsec", "long_name": "side of a pixel"}),
    )
    return reduce.finish(result, kappa, rho, where)
