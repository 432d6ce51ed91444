"""Sources drawn where the mask hid them."""

from __future__ import annotations

import logging
from functools import partial
from operator import itemgetter
from typing import Any, Literal

import dask.array as da
import dask.dataframe as dd
import numpy as np
import xarray as xr

from gcdask import catalog as cat
from gcdask import reduce
from gcdask.catalog.points import join_points
from gcdask.density import graphs
from gcdask.density.drawing import draw, sources_of
from gcdask.density.kernelsum import KernelSum
from gcdask.density.local import Cells, LocalRatio, cell_of, inpaintable
from gcdask.density.points import Points
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.tiles import as_mask, layout, on_pixels

log = logging.getLogger(__name__)

STREAM = 0x1A9A0000  # random stream of the draws of iteration 0 (see gcdask.kernels.counts)

Estimator = Literal["density", "local"]


def _from_density(
    mask: np.ndarray, ys: np.ndarray, xs: np.ndarray, field: np.ndarray, near: np.ndarray,
    rate: np.ndarray,
) -> np.ndarray:  # fmt: skip
    holes = inpaintable(mask)
    if not holes.any():
        return np.zeros(mask.shape)
    rho: KernelSum = field.item()
    return np.where(holes, rho.at(ys, xs, near.item()) * rate.item(), 0)


def _from_ratio(mask: np.ndarray, ys: np.ndarray, xs: np.ndarray, field: np.ndarray) -> np.ndarray:
    holes = inpaintable(mask)
    ratio: LocalRatio = field.item()
    return np.where(holes, ratio.at(ys, xs), 0) if holes.any() else np.zeros(mask.shape)


# -- sources that are used -----------------------------------------------------------------------
def _on_good(
    mask: np.ndarray, ys: np.ndarray, xs: np.ndarray, points: Points, *, step: int
) -> tuple[np.ndarray, int]:
    """Sources on good pixels of a block, as an array, and how many are on masked ones."""
    k, i, j = points.inside(ys, xs, step)
    good = mask[i, j] == 0
    return points[k[good]].rows, int((~good).sum())


def _beyond(rows: np.ndarray, grid: Grid) -> np.ndarray:
    """Sources of a part that lie on no pixel of the grid, NaNs among them."""
    i, j = (
        np.floor((p - a[0]) / grid.step + 0.5) for p, a in ((rows[1], grid.y), (rows[0], grid.x))
    )
    on = (i >= 0) & (i < grid.shape[0]) & (j >= 0) & (j < grid.shape[1])
    return rows[:, ~on]


def _counts(part: tuple[np.ndarray, int]) -> tuple[int, int]:
    return part[0].shape[1], part[1]


def _sum_pairs(parts: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(p[0] for p in parts), sum(p[1] for p in parts)


def _number(both: tuple[int, int]) -> int:
    if both[1]:
        log.info("%d sources on masked pixels are not used to inpaint", both[1])
    return both[0]


def _unmasked(
    catalog: Any, grid: Grid, masked: da.Array, ys: da.Array, xs: da.Array
) -> tuple[graphs.Sources, da.Array]:
    """Sources that are not on masked pixels, by chunk or off the grid; how many are on good ones.

    A chunk drops its own, so the catalogue is nowhere all together.
    """
    sources = graphs.Sources.of(catalog, grid)
    near = sources.near(grid, masked.chunks)
    both = graphs.per_block(_on_good, masked, ys, xs, near, step=grid.step)
    kept = graphs.Sources.by_chunk(graphs.per_element(itemgetter(0), both), grid, masked.chunks)
    beyond = graphs.per_element(partial(_beyond, grid=grid), sources.parts)
    merge: Any = _sum_pairs
    number = graphs.once(_number, reduce.tree(graphs.per_element(_counts, both), merge))
    return kept + graphs.Sources(beyond, sources.boxes), number


def _drawn(
    expected: np.ndarray, ys: np.ndarray, xs: np.ndarray, *, step: int, seed: int, stream: int
) -> np.ndarray:
    return join_points([draw(expected, ys, xs, step, seed, stream)])


def _check_inpaint(estimator: str, seed: int, iterations: int, **lengths: float | None) -> None:
    graphs.positive(**lengths)
    if estimator not in ("density", "local"):
        raise InputError(f"estimator = {estimator!r} is unknown; use 'density' or 'local'")
    if int(iterations) != iterations or iterations < 1:
        raise InputError(f"iterations = {iterations} is not a whole number of 1 or more")
    if int(seed) != seed:
        raise InputError(f"seed = {seed} is not an integer")


def inpaint_intensity(
    catalog: Any,
    mask: xr.DataArray,
    like: Any = None,
    seed: int = 0,
    iterations: int = 1,
    *,
    estimator: Estimator = "density",
    alpha: float = 1.6,
    softening: float = 0.9,
    r_c: float | None = None,
    sigma: float = 2.0,
) -> xr.DataArray:
    """Give the expected number of sources in each pixel that `inpaint` fills, lazily.

    Takes the same arguments. The sum of the map is the expected number of inpainted sources; it
    is zero outside the pixels to fill. The seed matters from the second iteration on.

    Returns
    -------
    DataArray of float64, dims (y, x)
        ``expected`` in sources per pixel, in the chunks of ``mask``.
    """
    _check_inpaint(
        estimator, seed, iterations, alpha=alpha, softening=softening, r_c=r_c, sigma=sigma
    )
    grid = layout(as_mask(mask) if like is None else like)[0]
    masked = on_pixels(as_mask(mask), grid, "mask")
    ys, xs = graphs.lines(grid, masked.chunks)
    kept, number = _unmasked(catalog, grid, masked, ys, xs)

    def estimate(sources: graphs.Sources, redrawn: bool) -> da.Array:
        if estimator == "density":
            field, near = sources.kernel_sum(
                grid, masked.chunks, alpha=alpha, softening=softening, r_c=r_c
            )
            rate = graphs.normalisation(field, near, number, masked, ys, xs)
            function: Any = _from_density
            more = [field, "", near, "ij", rate, ""]
        else:
            cells = graphs.per_block(
                Cells.of, masked, ys, xs, sources.near(grid, masked.chunks), step=grid.step,
                cell=cell_of(grid, sigma), redrawn=redrawn,
            )  # fmt: skip
            build = partial(LocalRatio.build, grid=grid, sigma=sigma)
            function, more = _from_ratio, [graphs.once(build, cells), ""]
        return da.blockwise(
            function, "ij", masked, "ij", ys, "i", xs, "j", *more, dtype=float,
            align_arrays=False, meta=np.empty((0, 0)),
        )  # fmt: skip

    expected = estimate(kept, False)
    for iteration in range(int(iterations) - 1):
        drawn = graphs.per_block(
            _drawn, expected, ys, xs, step=grid.step, seed=seed, stream=STREAM + iteration
        )
        expected = estimate(kept + graphs.Sources.by_chunk(drawn, grid, masked.chunks), True)
    how: dict[str, Any] = {"estimator": estimator, "seed": seed, "iterations": iterations}
    kernel = (
        {"alpha": alpha, "softening": softening} if estimator == "density" else {"sigma": sigma}
    )
    return grid.wrap(expected, "expected", "pix-1", **how, **kernel)


def inpaint(
    catalog: Any,
    mask: xr.DataArray,
    like: Any = None,
    seed: int = 0,
    iterations: int = 1,
    *,
    estimator: Estimator = "density",
    alpha: float = 1.6,
    softening: float = 0.9,
    r_c: float | None = None,
    sigma: float = 2.0,
) -> dd.DataFrame:
    """Draw the sources that the masked areas would have shown from the density of the others.

    Every masked pixel outside the edge frame gets a Poisson number of sources at uniform places
    within it. The expected number follows from the sources on unmasked pixels and, for
    ``"density"``, those outside the mask's grid; sources on masked pixels are not used.

    - ``estimator="density"`` (the paper, section 3): `density_map`, scaled so that its integral
      over the unmasked pixels is the number of sources there. It is flatter than the sources, so
      it draws too few in a dense core (8-34 % in mocks).
    - ``estimator="local"``: conv(sources) / conv(unmasked pixels) with a Gaussian, on cells of
      sigma/8; nearly unbiased where the density is smooth over a hole. Where less than a tenth of
      the Gaussian lies on unmasked pixels, one of 2, 4, ... sigma is used.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
        Detected sources.
    mask : DataArray of uint16 bits or bool, dims (y, x)
        Bits of `gcdask.masks.Flag`: nonzero pixels without EDGE are filled. A bool mask knows no
        edge: all its pixels are filled.
    like : DataArray, Dataset or Grid, optional
        A map on the pixels of ``mask``, to be checked against it.
    seed : int
        The draws are a function of (seed, iteration, global pixel): the same for every chunking,
        partitioning and cluster.
    iterations : int
        Above 1: draw, estimate the density again from detected and drawn sources, draw anew.
    alpha, softening, r_c : float
        Of `density_map`.
    sigma : float
        Gaussian's standard deviation in arcsec of ``"local"``.

    Returns
    -------
    dask DataFrame
        The inpainted sources alone (schema of `gcdask.catalog`; flags INPAINTED, peak and snr
        NaN), one partition per chunk of ``mask``. Two sources of one pixel share its ``id``.

    Raises
    ------
    InputError
        If ``mask`` and ``like`` have different pixels, or for a bad parameter.
    """
    expected = inpaint_intensity(
        catalog, mask, like, seed, iterations, estimator=estimator, alpha=alpha,
        softening=softening, r_c=r_c, sigma=sigma,
    )  # fmt: skip
    stream = STREAM + int(iterations) - 1
    return sources_of(expected, seed, stream, flags=int(cat.SourceFlag.INPAINTED))
