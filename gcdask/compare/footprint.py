"""Where sources can be seen, and those that were: what every likelihood of a catalogue needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.catalog.parts import boxed
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import rings
from gcdask.tiles import as_map, check_pixels

REMEDY = "bring it there with gcdask.lensing.on_grid(map, like)"


@dataclass(frozen=True)
class Footprint:
    """Elements of a map on which sources count, and these sources, chunk by chunk.

    Attributes
    ----------
    grid : Grid
        Of the elements, cut to the disk if there is one.
    share : dask array (ny, nx)
        Unmasked share of each element (bool where the mask has the same pixels).
    exposure : dask array (ny, nx) or None
        Completeness of each element; not checked to lie in [0, 1].
    found : dask array of object
        Sources on unmasked pixels: positions (2, n) of global x, y, one array for each chunk of
        ``share`` (see `gcdask.reduce.on_unmasked`).
    maps : tuple of dask arrays (ny, nx)
        Further maps, cut alike, in the chunks of ``share``.
    """

    grid: Grid
    share: da.Array
    exposure: da.Array | None
    found: da.Array
    maps: tuple[da.Array, ...]

    @property
    def arrays(self) -> list[da.Array]:
        """Arguments of a kernel: ``share, found, [exposure,] *maps``."""
        exposure = [] if self.exposure is None else [self.exposure]
        return [self.share, self.found, *exposure, *self.maps]


def footprint(
    catalog: Any,
    maps: dict[str, Any],
    mask: Any = None,
    exposure: Any = None,
    *,
    where: Any = None,
    center: Any = None,
    radius: float | None = None,
) -> Footprint:
    """Check that maps, mask and exposure fit together, cut them, and bring the sources.

    ``maps`` are named DataArrays on one grid; for the rest see `gcdask.compare.poisson_loglike`.

    Raises
    ------
    InputError
        If grids do not fit, an exposure in memory leaves [0, 1], or the disk holds no pixel.
    """
    given = {name: as_map(m, name) for name, m in maps.items()}
    first, like = next(iter(given.items()))
    grid = Grid.of(like)
    for name, image in given.items():
        check_pixels(image, grid, name, first, remedy=REMEDY)
    seen = None
    if exposure is not None:
        _check_exposure(exposure, grid, first)
        seen = as_map(exposure, "exposure")
    good = reduce.unmasked(_nothing(like) if mask is None else mask)
    factor = reduce.ratio(Grid.of(good), grid)
    reduce.fraction(good, grid, "mask")  # raises where the grids do not fit
    use = like.copy(data=reduce.usable(where, like))
    if radius is not None:
        center = _center(center, grid, radius)
        rows, columns = _reach(grid, center, radius)
        cut = {"y": rows, "x": columns}
        given = {name: image.isel(cut) for name, image in given.items()}
        seen = None if seen is None else seen.isel(cut)
        use, good = use.isel(cut), good.isel({k: _finer(s, factor) for k, s in cut.items()})
        grid = Grid.of(use)
    share = reduce.fraction(good, grid, "mask")
    keep = use.data.rechunk(share.chunks)
    if radius is not None:
        keep = keep & _disk(grid, share.chunks, center, radius)
    # a product with True keeps the type: bool stays bool
    return Footprint(
        grid,
        share * keep,
        None if seen is None else seen.data.rechunk(share.chunks),
        _found(catalog, good, factor),
        tuple(image.data.rechunk(share.chunks) for image in given.values()),
    )


def _nothing(like: xr.DataArray) -> xr.DataArray:
    """A mask that masks nothing."""
    return like.copy(data=da.zeros(like.shape, dtype=bool, chunks=like.chunks))


def _check_exposure(exposure: Any, grid: Grid, first: str) -> None:
    image = as_map(exposure, "exposure")
    check_pixels(image, grid, "exposure", first, remedy=REMEDY)
    if not reduce.is_lazy(exposure) and image.size:
        low, high = float(exposure.min()), float(exposure.max())
        if low < 0 or high > 1:
            raise InputError(
                f"exposure runs from {low:g} to {high:g}; give the completeness, 0 to 1"
            )


def _center(center: Any, grid: Grid, radius: float) -> tuple[float, float]:
    if not radius > 0:
        raise InputError(f"radius = {radius} is not positive; give arcsec above 0")
    if center is None:
        ra, dec = grid.sky(*grid.center)
        center = (float(ra), float(dec))
    return reduce.check_center(center)


def _reach(grid: Grid, center: tuple[float, float], radius: float) -> tuple[slice, slice]:
    """Rows and columns of a grid that may lie within ``radius`` of a centre."""
    blank = grid.wrap(da.zeros(grid.shape, chunks=-1), "map", "")
    part = reduce.around(blank, center, radius)
    if part is None:
        raise InputError(
            f"no pixel of the map lies within {radius} arcsec of center = ({center[0]:.5f}, "
            f"{center[1]:.5f}); check the centre (RA, Dec in deg) or enlarge radius"
        )
    y0, x0 = (int(np.searchsorted(a, part[k].values[0])) for k, a in (("y", grid.y), ("x", grid.x)))
    return slice(y0, y0 + part.sizes["y"]), slice(x0, x0 + part.sizes["x"])


def _finer(part: slice, factor: int) -> slice:
    return slice(part.start * factor, part.stop * factor)


def _disk(grid: Grid, chunks: Any, center: tuple[float, float], radius: float) -> da.Array:
    """Elements whose centres lie less than ``radius`` from a centre, bool."""
    ys, xs = (
        da.from_array(np.asarray(v, float), chunks=(c,))
        for v, c in zip((grid.y, grid.x), chunks, strict=True)
    )
    return da.blockwise(
        partial(_in_disk, grid=grid, center=center, radius=radius), "yx", ys, "y", xs, "x",
        dtype=bool, meta=np.empty((0, 0), bool),
    )  # fmt: skip


def _in_disk(
    y: np.ndarray, x: np.ndarray, *, grid: Grid, center: tuple[float, float], radius: float
) -> np.ndarray:
    lattice = reduce.offsets(grid, y, x, center)
    return rings.rings(lattice, np.array([0.0, radius]), None) == 0


def _found(catalog: Any, good: xr.DataArray, factor: int) -> da.Array:
    """Sources on each chunk of the map: those on unmasked pixels of a finer mask."""
    grid = Grid.of(good)
    data = reduce.align_chunks(good.data, factor)
    found = reduce.points(catalog, data, grid)
    if factor == 1:
        return found  # the share itself tells a kernel which of them count
    ys, xs = (
        da.from_array(np.asarray(v, float), chunks=(c,))
        for v, c in zip((grid.y, grid.x), data.chunks, strict=True)
    )
    return da.blockwise(
        partial(_unmasked, step=grid.step), "yx", data, "yx", found, "yx", ys, "y", xs, "x",
        adjust_chunks={"y": 1, "x": 1}, align_arrays=False, dtype=object,
        meta=np.empty((0, 0), object),
    )  # fmt: skip


def _unmasked(
    good: np.ndarray, found: np.ndarray, y: np.ndarray, x: np.ndarray, *, step: int
) -> np.ndarray:
    _, _, sy, sx = reduce.on_unmasked(found.item(), good, y, x, step)
    return boxed(np.stack([sx, sy]), 2)


def weighted(share: np.ndarray, exposure: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Effective area of a block's elements (in elements), and which lie on the footprint.

    NaN marks an exposure that is none; 0 elements that count nowhere.
    """
    inside = share > 0
    if exposure is None:
        return share.astype(float), inside
    sound = (exposure >= 0) & (exposure <= 1)
    return np.where(inside, share * np.where(sound, exposure, math.nan), 0.0), inside
