"""Densities of many bootstrap replicates of one catalogue, made together."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from gcdask import reduce
from gcdask.catalog import stays
from gcdask.catalog.schema import LOW, as_dask, unpack
from gcdask.density import graphs
from gcdask.density.kernelsum import Extent, KernelSum, Layout, Share, box_of, reach
from gcdask.density.points import Points
from gcdask.errors import InputError
from gcdask.kernels import counts
from gcdask.tiles import layout

STREAM = 0x1C9A0000  # random stream of replicate 0 (see gcdask.kernels.counts)
KEYS = 0x1CFFFFFF  # that of the sources' own numbers
MOST = 30  # a Poisson(1) weight is above this once in 1e33 draws
RADIUS = 12  # pixels in which sources are summed directly: a cell of the far part is one pixel
BUDGET = 6_000_000  # numbers that the maps of one group of replicates hold
GROUP = 25  # replicates in one group at most
KEY = "bootstrap_key"


@stays
def _with_key(part: pd.DataFrame) -> pd.DataFrame:
    """Add a number from 0 to 1 that a source's id and the bits of its position determine."""
    names = ("ra", "dec") if {"ra", "dec"} <= set(part.columns) else ("x", "y")
    bits = [np.ascontiguousarray(part[n].to_numpy(float)).view(np.int64) for n in names]
    if "id" in part.columns:
        y, x = unpack(part["id"].to_numpy())
    else:
        y, x = (b >> 20 & LOW for b in bits)
    # two sources drawn in one pixel share their id, not their position
    tie = (bits[0] ^ bits[1] << 3 ^ bits[0] >> 25 ^ bits[1] >> 22) & 0xFFFFFF
    return part.assign(**{KEY: counts.uniform(0, y, x, KEYS, word=tie)})


def with_keys(catalog: Any) -> Any:
    """Add to a catalogue what its bootstrap weights are a function of, whatever its partitions."""
    frame = as_dask(catalog)
    meta = frame._meta.assign(**{KEY: np.empty(0)})
    return frame.map_partitions(_with_key, meta=meta)


def weights(keys: np.ndarray, seed: int, replicates: range) -> np.ndarray:
    """Poisson weights of mean 1, (replicates, sources), of sources with these keys."""
    whole = (keys * 2.0**52).astype(np.int64)
    streams = [counts.poisson(1.0, seed, whole >> 32, whole & LOW, STREAM + k) for k in replicates]
    return np.array(streams, float).reshape(len(replicates), keys.size)


def _extent(points: np.ndarray, *, box: Any) -> Extent:
    """Extent of sources with any weights that the bootstrap gives them."""
    return Extent.of(np.concatenate([points[:2], MOST + 0 * points[2:]]), box)


def _shares(layout: Layout, points: np.ndarray, *, seed: int, replicates: range) -> list[Share]:
    good = points[:, np.isfinite(points).all(axis=0)]
    drawn = weights(good[2], seed, replicates)
    return [layout.share(np.stack([*good[:2, w > 0], w[w > 0]])) for w in drawn]


def merge_shares(parts: list[list[Share]]) -> list[Share]:
    """Merge the shares of several sums, each for itself."""
    return [Share.merge(each) for each in zip(*parts, strict=True)]


def _sums(layout: Layout, shares: list[Share]) -> list[KernelSum]:
    return KernelSum.of_many(layout, shares)


def _maps(
    ys: np.ndarray, xs: np.ndarray, near: np.ndarray, fields: np.ndarray, *, seed: int,
    replicates: range,
) -> np.ndarray:  # fmt: skip
    points: Points = near.item()
    return KernelSum.at_many(fields.item(), ys, xs, points, weights(points.w, seed, replicates))


def bootstrap_maps(
    catalog: Any,
    like: Any,
    n: int = 100,
    seed: int = 0,
    *,
    alpha: float = 1.6,
    softening: float = 0.9,
) -> xr.DataArray:
    """`density_map` of ``n`` Poisson bootstrap replicates of a catalogue, lazily.

    In each replicate a source has a Poisson weight of mean 1: a function of the seed, the
    replicate, the source's ``id`` and (as sources inpainted in one pixel share it) its position,
    so that no partitioning or order changes it. Replicates share the near part of the kernel sum,
    in which W is evaluated once for all of a group, and the far part's transforms.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
        Sources; without ``id`` they are known by their position.
    like : DataArray, Dataset or Grid
        Pixels of the maps. Coarse ones will do: see `gcdask.compare.bootstrap_beta`.
    n, seed : int
        Number of replicates (1 to 65 535), and what all draws are a function of.
    alpha, softening : float
        Of `density_map`.

    Returns
    -------
    DataArray of float64, dims (replicate, y, x)
        ``density`` in arcsec^-alpha, in the chunks of ``like`` and some replicates each.

    Raises
    ------
    InputError
        If a parameter is not positive or ``n`` or ``seed`` not an integer in its range.
    """
    graphs.positive(alpha=alpha, softening=softening)
    if int(n) != n or not 1 <= n < 2**16:
        raise InputError(f"n = {n} is not an integer from 1 to 65535")
    if int(seed) != seed:
        raise InputError(f"seed = {seed} is not an integer")
    grid, chunks = layout(like)
    r_c = RADIUS * grid.pixel_scale
    sources = graphs.Sources.of(with_keys(catalog), grid, KEY)
    near = sources.near(grid, chunks, reach(grid, sources.boxes, r_c))
    merges: Any = Extent.merge, merge_shares
    extents = graphs.per_element(partial(_extent, box=box_of(grid)), sources.parts)
    lay_out = partial(Layout.of, grid=grid, alpha=alpha, softening=softening, r_c=r_c)
    plan = graphs.once(lay_out, reduce.tree(extents, merges[0]))
    ys, xs = graphs.lines(grid, chunks)
    size = int(np.clip(BUDGET // max(grid.shape[0] * grid.shape[1], 1), 1, GROUP))
    groups = []
    for first in range(0, int(n), size):
        replicates = range(first, min(first + size, int(n)))
        some: dict[str, Any] = {"seed": int(seed), "replicates": replicates}
        shares = graphs.per_element(partial(_shares, **some), plan, sources.parts)
        fields = graphs.once(_sums, plan, reduce.tree(shares, merges[1]))
        groups.append(
            da.blockwise(
                _maps, "rij", ys, "i", xs, "j", near, "ij", fields, "", **some, dtype=float,
                new_axes={"r": len(replicates)}, meta=np.empty((0, 0, 0)),
                align_arrays=False,
            )
        )  # fmt: skip
    return xr.DataArray(
        da.concatenate(groups),
        dims=("replicate", "y", "x"),
        coords={"replicate": np.arange(int(n)), **grid.coords},
        name="density",
        attrs={"wcs": grid.header, "units": f"arcsec(-{alpha:g})", "alpha": alpha,
               "softening": softening, "seed": int(seed)},
    )  # fmt: skip
