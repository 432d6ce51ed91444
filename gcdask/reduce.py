"""Reductions of maps and catalogues to small tables: chunk -> combine -> finalise, all lazy.

Every table of `gcdask.compare` and `gcdask.profiles` is made alike. `reduce_maps` calls a kernel
of `gcdask.kernels.sums` on each chunk of aligned maps; it returns *named partial sums* (a dict),
one per chunk, in an object array with one element per chunk. `tree` merges neighbours, sixteen at
a time, into one dict, which is all that is ever held of the field. `pick` turns its entries into
arrays of known shape, so that a lazy ``xr.Dataset`` can be built before anything runs.

Sources come to the pixels: `points` gives every chunk of a mask the positions of the sources on it,
so a catalogue may have any partitions, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from gcdask.catalog.parts import boxed
from gcdask.catalog.points import near_points, part_points
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import rings, sums
from gcdask.kernels.lattice import Lattice
from gcdask.tiles import as_mask

LATTICE = 16  # elements between the nodes where the WCS is evaluated
Merge = Callable[[Any], sums.Sums]


# -- the tree -----------------------------------------------------------------------------------
def _flat(parts: Any) -> Iterator[sums.Sums]:
    if isinstance(parts, list):
        for part in parts:
            yield from _flat(part)
    else:
        yield from parts.ravel()


def partial_sums(parts: np.ndarray, axis: Any = None, keepdims: Any = None) -> np.ndarray:
    """Return what a chunk's kernel made: the first step of `tree`."""
    return parts


def merge_sums(
    parts: Any, axis: Any = None, keepdims: Any = None, *, merge: Merge, ndim: int
) -> Any:
    """Merge nested lists of partial sums: the other steps of `tree`."""
    return boxed(merge(list(_flat(parts))), ndim if keepdims else 0)


def tree(parts: da.Array, merge: Merge) -> da.Array:
    """Merge the partial sums in an object array (one per chunk) into one, a 0-d object array."""
    step = partial(merge_sums, merge=merge, ndim=parts.ndim)
    return da.reduction(
        parts,
        partial_sums,
        step,
        combine=step,
        concatenate=False,
        dtype=object,
        meta=np.empty((), object),
    )


def _pick(total: np.ndarray, *, finalise: Callable[..., Any], dtype: Any) -> np.ndarray:
    return np.asarray(finalise(total[()]), dtype)


def pick(
    total: da.Array, finalise: Callable[[Any], Any], shape: tuple[int, ...] = (), dtype: Any = float
) -> da.Array:
    """Array of known shape: ``finalise`` of what a 0-d object array holds."""
    axes = {f"k{i}": n for i, n in enumerate(shape)}
    return da.blockwise(
        partial(_pick, finalise=finalise, dtype=dtype),
        tuple(axes),
        total,
        (),
        new_axes=axes,
        dtype=dtype,
        meta=np.empty((0,) * len(shape), dtype),
    )


def _get(result: Mapping[str, Any], name: str) -> Any:
    return result[name]


Spec = Mapping[str, tuple[Sequence[str], tuple[int, ...], Any, str, str]]


def variables(total: da.Array, spec: Spec) -> dict[str, Any]:
    """Variables of a Dataset from a 0-d object array that holds a dict.

    ``spec`` says for each name ``(dims, shape, dtype, units, long_name)``.
    """
    return {
        name: (
            tuple(dims),
            pick(total, partial(_get, name=name), shape, dtype),
            {"units": units, "long_name": text},
        )
        for name, (dims, shape, dtype, units, text) in spec.items()
    }


def _call(*values: Any, function: Callable[..., Any], names: tuple[str, ...]) -> np.ndarray:
    given = dict(zip(names, values, strict=True))
    given.pop("nothing", None)
    return boxed(
        function(**{k: v[()] if v.dtype == object else np.asarray(v) for k, v in given.items()}), 0
    )


def apply(function: Callable[..., Any], **inputs: Any) -> da.Array:
    """One task: ``function`` of whole small arrays (DataArrays or dask arrays, by keyword)."""
    inputs = inputs or {"nothing": np.zeros(())}
    arguments: list[Any] = []
    for i, value in enumerate(inputs.values()):
        data = value.data if isinstance(value, xr.DataArray) else value
        data = data if isinstance(data, da.Array) else da.from_array(np.asarray(data), chunks=-1)
        arguments += [data, tuple(f"a{i}_{k}" for k in range(data.ndim))]
    return da.blockwise(
        partial(_call, function=function, names=tuple(inputs)),
        (),
        *arguments,
        concatenate=True,
        dtype=object,
        meta=np.empty((), object),
    )


def is_lazy(*objects: Any) -> bool:
    """Whether any of the maps, tables or catalogues waits to be computed."""
    held: list[Any] = []
    for o in objects:
        arrays = o.variables.values() if isinstance(o, xr.Dataset) else [o]
        held += [a.data if isinstance(a, xr.DataArray | xr.Variable) else a for a in arrays]
    return any(
        bool(getattr(o, "chunks", None)) or (hasattr(o, "npartitions") and hasattr(o, "dask"))
        for o in held
    )


def finish(result: xr.Dataset, *inputs: Any) -> xr.Dataset:
    """Compute the Dataset unless an input is lazy; its status then goes to ``attrs`` too."""
    if is_lazy(*inputs):
        return result
    result = result.compute()
    if "status" in result and result["status"].item():
        result.attrs["status"] = result["status"].item()
    return result


# -- maps ---------------------------------------------------------------------------------------
def check_center(center: Any) -> tuple[float, float]:
    """(RA, Dec) in deg as floats; raises `InputError` if it is not a position."""
    try:
        ra, dec = (float(v) for v in center)
    except (TypeError, ValueError):
        raise InputError(f"center = {center!r} is not (RA, Dec) in deg; give two numbers") from None
    if not (np.isfinite(ra) and -90 <= dec <= 90):
        raise InputError(f"center = ({ra}, {dec}) is not a position; give (RA, Dec) in deg")
    return ra, dec


def density_level(contamination: Any) -> tuple[float, float] | None:
    """Contamination and its error as numbers: of a number, a pair or the table of a method.

    A table that is lazy is computed here, both its numbers together.

    Raises
    ------
    InputError
        If it is no density, as that of a method which the data do not constrain.
    """
    if contamination is None:
        return None
    given = contamination
    if isinstance(given, xr.Dataset):
        given = tuple(float(v) for v in dask.compute(given["value"], given["error"]))
    pair = np.atleast_1d(np.asarray(given, float))
    if pair.shape not in ((1,), (2,)) or not (np.isfinite(pair) & (pair >= 0)).all():
        raise InputError(
            f"contamination = {given} is no density; give arcsec-2 of 0 or more, and its error, "
            "or the result of profiles.contamination"
        )
    return float(pair[0]), float(pair[1]) if pair.size == 2 else 0.0


def element_index(positions: np.ndarray, step: int) -> np.ndarray:
    """Global index of elements of ``step`` px from their global coordinates."""
    return np.floor((np.asarray(positions, float) - (step - 1) / 2) / step + 0.5).astype(np.int64)


def offsets(grid: Grid, y: np.ndarray, x: np.ndarray, center: tuple[float, float]) -> Lattice:
    """Offsets (east, north) in arcsec of the elements at global ``y``, ``x``, for loops over them.

    `Grid.offsets` on a lattice of nodes 16 elements apart, bilinear between them: the nodes belong
    to the grid, not to the chunk, so every chunking gives the same numbers. The error, below
    1e-6 arcsec a degree from the tangent point, is that of a straight line over 16 elements.
    """
    nodes, where = [], []
    for positions in (y, x):
        element = element_index(positions, grid.step)
        phase = float(positions[0]) - float(element[0]) * grid.step
        first = int(element[0]) // LATTICE
        node = np.arange(first, int(element[-1]) // LATTICE + 2)
        nodes.append(node * LATTICE * grid.step + phase)
        where += [element // LATTICE - first, element % LATTICE / LATTICE]
    mesh = np.meshgrid(*nodes, indexing="ij")
    east, north = grid.offsets(mesh[1], mesh[0], center)
    return Lattice(east, north, *where)


def around(data: xr.DataArray, center: tuple[float, float], radius: float) -> xr.DataArray | None:
    """Cut out what may lie within ``radius`` arcsec; None if there is nothing."""
    grid = Grid.of(data)
    x, y = (float(v) for v in grid.pixel(*center))
    if not (np.isfinite(x) and np.isfinite(y)):
        return None
    reach = 1.02 * radius / grid.global_scale + 2 * grid.step
    rows = np.flatnonzero(np.abs(grid.y - y) <= reach)
    cols = np.flatnonzero(np.abs(grid.x - x) <= reach)
    if rows.size == 0 or cols.size == 0:
        return None
    return data.isel(y=slice(rows[0], rows[-1] + 1), x=slice(cols[0], cols[-1] + 1))


def _disk_block(
    values: np.ndarray, y: np.ndarray, x: np.ndarray, *, grid: Grid, center: tuple[float, float],
    radius: float,
) -> np.ndarray:  # fmt: skip
    lattice = offsets(grid, y.ravel(), x.ravel(), center)
    inside = rings.rings(lattice, np.array([0.0, radius]), None) == 0
    return np.where(inside, values, np.nan)


def within_disk(image: xr.DataArray, center: tuple[float, float], radius: float) -> xr.DataArray:
    """Map that is NaN at ``radius`` arcsec or more from (RA, Dec), lazily."""
    grid = Grid.of(image)
    data = da.asarray(image.data)
    y, x = (
        da.from_array(np.asarray(v, float), chunks=(c,))
        for v, c in zip((grid.y, grid.x), data.chunks, strict=True)
    )
    block = partial(_disk_block, grid=grid, center=center, radius=radius)
    out = da.blockwise(block, "yx", data, "yx", y, "y", x, "x", dtype=float, meta=np.empty((0, 0)))
    return image.copy(data=out)


def ratio(fine: Grid, coarse: Grid) -> int:
    """How many elements of ``fine`` make one of ``coarse`` along an axis; 0 if they do not fit."""
    if fine.same_pixels(coarse):
        return 1
    factor, rest = divmod(coarse.step, fine.step)
    return factor if rest == 0 and fine.coarsen(factor).same_pixels(coarse) else 0


def unmasked(mask: Any, name: str = "mask", *, where: bool = False) -> xr.DataArray:
    """Tell where a mask (uint16 bits or bool, nonzero = masked) lets a pixel count.

    With ``where`` a *bool* array means the opposite, True = use; bits keep their meaning.
    """
    mask = as_mask(mask, name)
    attrs = mask.attrs
    good = mask if where and mask.dtype.kind == "b" else mask == 0
    return good.assign_attrs(attrs)


def _block_mean(good: np.ndarray, *, factor: int) -> np.ndarray:
    return sums.block_totals(good, factor) / factor**2


def align_chunks(data: da.Array, factor: int) -> da.Array:
    """Chunk borders moved to multiples of ``factor`` (the last stays)."""
    chunks = []
    for size, axis in zip(data.shape, data.chunks, strict=True):
        cuts = np.unique(-(-np.cumsum(axis)[:-1] // factor) * factor)
        chunks.append(tuple(np.diff([0, *cuts[cuts < size], size]).tolist()))
    return data if tuple(chunks) == data.chunks else data.rechunk(tuple(chunks))


def cell_chunks(data: da.Array, factor: int) -> tuple[tuple[int, ...], ...]:
    """Chunks of the coarse map whose cells are ``factor`` elements of aligned chunks."""
    return tuple(tuple(-(-n // factor) for n in axis) for axis in data.chunks)


def fraction(good: xr.DataArray, like: Grid, name: str) -> da.Array:
    """Share of each element of ``like`` that is unmasked; ``good`` may be an integer times finer.

    Raises `InputError` if the grids do not fit.
    """
    fine = Grid.of(good)
    factor = ratio(fine, like)
    if factor == 0:
        raise InputError(
            f"{name} ({fine.shape[0]} x {fine.shape[1]}, step {fine.step} px) does not fit the map "
            f"({like.shape[0]} x {like.shape[1]}, step {like.step} px); give both on one grid or "
            "the map on a grid coarsened from that of the mask"
        )
    if factor == 1:
        return good.data
    data = align_chunks(good.data, factor)
    return da.map_blocks(
        partial(_block_mean, factor=factor),
        data,
        chunks=cell_chunks(data, factor),
        dtype=float,
        meta=np.empty((0, 0)),
    )


def usable(where: Any, like: xr.DataArray, name: str = "where") -> da.Array:
    """Pixels of a map to use, bool: all, or at least half of them unmasked in a finer mask."""
    if where is None:
        return da.ones(like.shape, dtype=bool, chunks=like.chunks)
    good = unmasked(where, name, where=name == "where")
    part = fraction(good, Grid.of(like), name)
    return part if part.dtype == bool else part >= 0.5


def _call_kernel(*blocks: np.ndarray, kernel: Callable[..., sums.Sums]) -> np.ndarray:
    return boxed(kernel(*(b.item() if b.dtype == object else b for b in blocks)), 2)


def reduce_maps(
    kernel: Callable[..., sums.Sums], grid: Grid, arrays: Sequence[da.Array], merge: Merge
) -> da.Array:
    """Partial sums of aligned maps, merged.

    ``kernel(*blocks, y, x)`` gets a block of each array (of an object array, such as `points`, what
    it holds for that chunk of the first) and the global pixel coordinates of its rows and columns.
    """
    first = arrays[0]
    arguments: list[Any] = []
    for a in arrays:
        if a.dtype != object and a.chunks != first.chunks:
            a = a.rechunk(first.chunks)
        arguments += [a, "yx"]
    for values, axis, chunks in zip((grid.y, grid.x), "yx", first.chunks, strict=True):
        arguments += [da.from_array(np.asarray(values, float), chunks=(chunks,)), axis]
    parts = da.blockwise(
        partial(_call_kernel, kernel=kernel),
        "yx",
        *arguments,
        adjust_chunks={"y": 1, "x": 1},
        align_arrays=False,
        dtype=object,
        meta=np.empty((0, 0), object),
    )
    return tree(parts, merge)


# -- catalogues ---------------------------------------------------------------------------------
def _part(points: np.ndarray, kernel: Callable[..., sums.Sums]) -> np.ndarray:
    x, y = points.item()
    ok = np.isfinite(x) & np.isfinite(y)
    return boxed(kernel(x[ok], y[ok]) | {"n_invalid": int((~ok).sum()), "n_sources": ok.size}, 1)


def reduce_sources(
    catalog: Any, grid: Grid | None, kernel: Callable[..., sums.Sums], merge: Merge
) -> da.Array:
    """Partial sums of a catalogue's partitions, merged.

    ``kernel(x, y)`` gets finite global pixel positions on ``grid``, or RA, Dec without one; the
    numbers ``n_sources`` and ``n_invalid`` (positions that are not finite) join its sums.
    """
    parts = da.map_blocks(
        partial(_part, kernel=kernel),
        part_points(catalog, grid),
        dtype=object,
        meta=np.empty(0, object),
    )
    return tree(parts, merge)


def points(catalog: Any, good: da.Array, grid: Grid) -> da.Array:
    """Sources on each chunk of a map on ``grid``: an object array, to go with it to a kernel."""
    return near_points(catalog, grid, good.chunks)


def on_unmasked(
    found: np.ndarray, good: np.ndarray, y: np.ndarray, x: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the sources on unmasked pixels of a block: array indices (iy, ix) and positions (y, x).

    ``found`` is an element of `points`. A source is on the pixel whose half-open cell holds it, so
    no two blocks share one.
    """
    half = step / 2
    lo, hi = np.searchsorted(found[1], [y[0] - half, y[-1] + half])
    sx, sy = found[:, lo:hi]
    inside = (sx >= x[0] - half) & (sx < x[-1] + half)
    sy, sx = sy[inside], sx[inside]
    iy = np.floor((sy - y[0]) / step + 0.5).astype(np.int64)
    ix = np.floor((sx - x[0]) / step + 0.5).astype(np.int64)
    keep = good[iy, ix]
    return iy[keep], ix[keep], sy[keep], sx[keep]


def _cell_counts(
    good: np.ndarray, found: np.ndarray, y: np.ndarray, x: np.ndarray, *, factor: int, step: int
) -> np.ndarray:
    iy, ix, _, _ = on_unmasked(found.item(), good, y, x, step)
    ny, nx = (-(-n // factor) for n in good.shape)
    return np.bincount((iy // factor) * nx + ix // factor, minlength=ny * nx).reshape(ny, nx)


def cell_counts(good: xr.DataArray, catalog: Any, like: Grid) -> da.Array:
    """Count a catalogue's sources on unmasked pixels, by element of ``like``.

    The grid ``like`` is that of the mask, or coarser by an integer.
    """
    grid = Grid.of(good)
    factor = ratio(grid, like)
    data = align_chunks(good.data, factor)
    return da.blockwise(
        partial(_cell_counts, factor=factor, step=grid.step),
        "yx",
        data,
        "yx",
        points(catalog, data, grid),
        "yx",
        da.from_array(np.asarray(grid.y, float), chunks=(data.chunks[0],)),
        "y",
        da.from_array(np.asarray(grid.x, float), chunks=(data.chunks[1],)),
        "x",
        adjust_chunks=dict(zip("yx", cell_chunks(data, factor), strict=True)),
        align_arrays=False,
        dtype=np.int64,
        meta=np.empty((0, 0), np.int64),
    )
