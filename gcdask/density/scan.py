"""Densities of one catalogue for many kernels, made together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.density import graphs
from gcdask.density.kernelsum import Extent, KernelSum, Layout, Share, box_of, reach
from gcdask.density.replicates import merge_shares
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.tiles import layout

# Kernels in one group: at most so many, so many numbers of their far fields (about one a pixel of
# the map) and of the maps of one chunk
GROUP, FIELDS, MAPS = 40, 60_000_000, 20_000_000

Kernels = Sequence[tuple[float, float]]


def _layouts(extent: Extent, *, grid: Grid, kernels: Kernels) -> list[Layout]:
    """Lay out all kernels by the radius that suits one of them, without a middle part."""
    alpha, softening = kernels[0]
    plan = Layout.of(extent, grid=grid, alpha=alpha, softening=softening, r_c=None).plan
    r_c = None if plan is None else plan.r_c * grid.global_scale
    return [Layout.of(extent, grid=grid, alpha=a, softening=s, r_c=r_c) for a, s in kernels]


def _shares(layouts: list[Layout], points: np.ndarray) -> list[Share]:
    first = layouts[0].share(points)
    return [first, *(other.share(points, first.nodes) for other in layouts[1:])]


def _sums(layouts: list[Layout], shares: list[Share]) -> list[KernelSum]:
    return [KernelSum.of(*pair) for pair in zip(layouts, shares, strict=True)]


def _maps(ys: np.ndarray, xs: np.ndarray, near: np.ndarray, fields: np.ndarray) -> np.ndarray:
    return KernelSum.at_kernels(fields.item(), ys, xs, near.item())


def density_scan(catalog: Any, like: Any, kernels: Kernels) -> xr.DataArray:
    """`density_map` of a catalogue for several kernels, lazily.

    Kernels share the sources' weights on the coarse grid and, pair by pair, distances and the
    window of the near part.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
        Sources.
    like : DataArray, Dataset or Grid
        Pixels of the maps; to gain by it, pixels no larger than some softenings.
    kernels : sequence of (float, float)
        alpha and softening (arcsec) of each.

    Returns
    -------
    DataArray of float64, dims (kernel, y, x)
        ``density`` in arcsec^-alpha, in the chunks of ``like`` and some kernels each; with
        ``alpha`` and ``softening`` by kernel.

    Raises
    ------
    InputError
        If there is no kernel, or one of its numbers is not positive.
    """
    kernels = [(float(alpha), float(softening)) for alpha, softening in kernels]
    if not kernels:
        raise InputError("kernels is empty; give pairs of alpha and softening (arcsec)")
    for alpha, softening in kernels:
        graphs.positive(alpha=alpha, softening=softening)
    grid, chunks = layout(like)
    sources = graphs.Sources.of(catalog, grid)
    near = sources.near(grid, chunks, reach(grid, sources.boxes, None))
    merges: Any = Extent.merge, merge_shares
    extents = graphs.per_element(partial(Extent.of, box=box_of(grid)), sources.parts)
    extent = reduce.tree(extents, merges[0])
    ys, xs = graphs.lines(grid, chunks)
    pixels, block = math.prod(grid.shape), math.prod(max(c, default=1) for c in chunks)
    size = int(np.clip(min(FIELDS // max(pixels, 1), MAPS // block), 1, GROUP))
    groups = []
    for first in range(0, len(kernels), size):
        some = kernels[first : first + size]
        plans = graphs.once(partial(_layouts, grid=grid, kernels=some), extent)
        shares = graphs.per_element(_shares, plans, sources.parts)
        fields = graphs.once(_sums, plans, reduce.tree(shares, merges[1]))
        groups.append(
            da.blockwise(
                _maps, "kij", ys, "i", xs, "j", near, "ij", fields, "", dtype=float,
                new_axes={"k": len(some)}, meta=np.empty((0, 0, 0)), align_arrays=False,
            )
        )  # fmt: skip
    alphas, softenings = np.array(kernels).T
    units = {f"arcsec(-{alpha:g})" for alpha in alphas}
    return xr.DataArray(
        da.concatenate(groups),
        dims=("kernel", "y", "x"),
        coords={
            "alpha": ("kernel", alphas, {"units": ""}),
            "softening": ("kernel", softenings, {"units": "arcsec"}),
            **grid.coords,
        },
        name="density",
        attrs={"wcs": grid.header, "units": units.pop() if len(units) == 1 else "arcsec(-alpha)"},
    )
