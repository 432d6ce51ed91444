"""The density map that a map of expected sources would give: rho without shot noise."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.catalog.points import join_points
from gcdask.density import graphs
from gcdask.errors import InputError
from gcdask.grid import Grid, same_wcs
from gcdask.kernels.sums import block_totals
from gcdask.tiles import as_map, layout


def _tracers(
    intensity: np.ndarray, ys: np.ndarray, xs: np.ndarray, *, factor: int, area: float
) -> np.ndarray:
    """Points (3, n) of global x, y and weight: one at the centroid of each block of pixels."""
    # all that is finite and positive, as `draw_sources` draws it
    weight = np.where(np.isfinite(intensity) & (intensity > 0), intensity, 0.0) * area
    total, by_y, by_x = (
        block_totals(w, factor) for w in (weight, weight * ys[:, None], weight * xs)
    )
    some = total > 0
    total = total[some]
    return join_points([np.stack([by_x[some] / total, by_y[some] / total, total])])


def smooth_map(
    intensity: xr.DataArray,
    like: Any = None,
    alpha: float = 1.6,
    softening: float = 0.9,
    *,
    r_c: float | None = None,
) -> xr.DataArray:
    """Expected `density_map` of sources with a given intensity: the kernel W convolved with it.

    What `density_map(draw_sources(intensity), ...)` is on average: rho without shot noise. Two
    uses in the comparison with a lens: the geometric floor of beta's dispersion (intensity =
    kappa), and what contaminants add to rho (intensity = their number per arcsec^2 where sources
    were looked for, 0 elsewhere), to be subtracted before `gcdask.compare.fit_beta`.

    Parameters
    ----------
    intensity : DataArray, dims (y, x)
        Sources per arcsec^2, or any map that they follow. What is NaN or negative counts as 0.
    like : DataArray, Dataset or Grid, optional
        Pixels of the result: of the same WCS as ``intensity``, as cut-outs and coarsened maps are.
        Default: those of ``intensity``.
    alpha, softening, r_c : float
        Of `density_map`.

    Returns
    -------
    DataArray of float64, dims (y, x)
        ``density`` in the units of the intensity times arcsec^(2-alpha). Blocks of pixels
        up to softening / 4 wide are one point each, with an error of order 1e-3.

    Raises
    ------
    InputError
        If a parameter is not positive or the two have different WCSs.
    """
    graphs.positive(alpha=alpha, softening=softening, r_c=r_c)
    intensity = as_map(intensity, "intensity")
    fine = Grid.of(intensity)
    grid, chunks = layout(intensity if like is None else like)
    if grid.header != fine.header and not same_wcs(grid.wcs, fine.wcs):
        raise InputError(
            "intensity and like have different WCSs; bring the intensity onto it first, e.g. with "
            "gcdask.lensing.on_grid(intensity, like)"
        )
    factor = max(1, int(softening / 4 / fine.pixel_scale))
    data = reduce.align_chunks(intensity.data, factor)
    parts = graphs.per_block(
        partial(_tracers, factor=factor, area=fine.pixel_scale**2),
        data,
        *graphs.lines(fine, data.chunks),
    )
    sources = graphs.Sources.by_chunk(parts, fine, data.chunks)
    field, near = sources.kernel_sum(grid, chunks, alpha=alpha, softening=softening, r_c=r_c)
    unit = f"arcsec({2 - alpha:g})"
    if str(intensity.attrs.get("units", "")) == "arcsec-2":
        unit = f"arcsec(-{alpha:g})"
    data = graphs.evaluated(field, near, grid, chunks)
    return grid.wrap(data, "density", unit, alpha=alpha, softening=softening)
