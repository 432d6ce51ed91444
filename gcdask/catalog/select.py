"""Parts of catalogues, pairs of catalogues, and sources added by hand; all of it lazy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial import cKDTree

from gcdask.catalog.files import from_table, read
from gcdask.catalog.schema import SourceFlag, as_dask, make_catalog, pixel_positions
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels.pairs import first_come
from gcdask.tiles import as_map

log = logging.getLogger(__name__)

ARCSEC = np.pi / 180 / 3600
NO_MATCH = -1


# -- rows by their values ------------------------------------------------------------------------
def select(
    catalog: Any,
    condition: str | Callable[[pd.DataFrame], Any] | None = None,
    *,
    min_peak: float | None = None,
    min_snr: float | None = None,
    with_flags: int = 0,
    without_flags: int = 0,
    mask: xr.DataArray | None = None,
) -> dd.DataFrame:
    """Keep the sources that meet all of the conditions.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
    condition : str or callable, optional
        Expression of `pandas.DataFrame.query` (``"peak > 3 and ra < 110"``), or a function of a
        partition that returns one boolean per row.
    min_peak, min_snr : float, optional
        Smallest ``peak``, ``snr`` kept.
    with_flags, without_flags : int
        Bits of `SourceFlag` of which one at least must, or none may, be set.
    mask : DataArray, optional
        Keep sources on unmasked pixels, see `unmasked`.

    Raises
    ------
    InputError
        If the condition fails on the columns of this catalogue.
    """
    catalog = as_dask(catalog)
    keep = partial(
        _select,
        condition=condition,
        least={k: v for k, v in {"peak": min_peak, "snr": min_snr}.items() if v is not None},
        bits=(int(with_flags), int(without_flags)),
    )
    try:
        keep(catalog._meta)
    except Exception as error:  # whatever the user's expression raises
        raise InputError(
            f"the selection {condition!r} does not work on this catalogue ({error}); "
            f"its columns are {', '.join(map(str, catalog.columns))}"
        ) from error
    chosen = catalog.map_partitions(keep, meta=catalog._meta, enforce_metadata=False)
    return chosen if mask is None else unmasked(chosen, mask)


def _select(part: pd.DataFrame, *, condition: Any, least: dict, bits: tuple[int, int]):
    keep = np.ones(len(part), bool)
    for name, value in least.items():
        keep &= part[name].to_numpy() >= value
    if any(bits):
        flags = part["flags"].to_numpy().astype(np.int64)
        keep &= ((flags & bits[0]) != 0) | (bits[0] == 0)
        keep &= (flags & bits[1]) == 0
    if isinstance(condition, str):
        keep &= np.asarray(part.eval(condition), bool)
    elif condition is not None:
        keep &= np.asarray(condition(part), bool)
    return part[keep].reset_index(drop=True)


def within(catalog: Any, center: tuple[float, float], radius: float) -> dd.DataFrame:
    """Keep sources at most ``radius`` arcsec from ``center`` (RA, Dec in deg) on the sky."""
    if not radius > 0:
        raise InputError(f"radius = {radius} arcsec is not positive; give a positive one")
    catalog = as_dask(catalog)
    keep = partial(_within, center=_vectors(*center), chord=2 * np.sin(radius * ARCSEC / 2))
    return catalog.map_partitions(keep, meta=catalog._meta, enforce_metadata=False)


def _within(part: pd.DataFrame, *, center: np.ndarray, chord: float) -> pd.DataFrame:
    apart = np.linalg.norm(_vectors(part["ra"], part["dec"]) - center, axis=-1)
    return part[apart <= chord].reset_index(drop=True)


def _vectors(ra: Any, dec: Any) -> np.ndarray:
    a, d = np.deg2rad(np.asarray(ra, float)), np.deg2rad(np.asarray(dec, float))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], -1)


# -- rows by a map -------------------------------------------------------------------------------
def unmasked(catalog: Any, mask: xr.DataArray) -> dd.DataFrame:
    """Keep sources on pixels where ``mask`` is zero (or False); outside it is masked.

    The mask may be lazy and coarse; positions on it come from ``ra``, ``dec``.
    """
    catalog = as_dask(catalog)
    values = _at_sources(catalog, mask.astype(bool), outside=True)
    parts = [
        dask.delayed(_drop)(p, v) for p, v in zip(catalog.to_delayed(False), values, strict=True)
    ]
    return dd.from_delayed(parts, meta=catalog._meta)


def _drop(part: pd.DataFrame, masked: np.ndarray) -> pd.DataFrame:
    return part[~masked].reset_index(drop=True)


def sample(
    catalog: Any, image: xr.DataArray, name: str, *, outside: float = np.nan
) -> dd.DataFrame:
    """Add the column ``name``: the value of a map in the element below each source.

    Sources off the map get ``outside``; maps of whole numbers or booleans need one (NaN is none).
    """
    catalog = as_dask(catalog)
    if image.dtype.kind != "f" and np.isnan(outside):
        raise InputError(f"{name} is a map of {image.dtype}, which has no NaN; give outside=0")
    values = _at_sources(catalog, image, outside=outside)
    meta = catalog._meta.assign(**{name: np.empty(0, image.dtype)})
    parts = [
        dask.delayed(pd.DataFrame.assign)(p, **{name: v})
        for p, v in zip(catalog.to_delayed(False), values, strict=True)
    ]
    return dd.from_delayed(parts, meta=meta)


def _at_sources(catalog: dd.DataFrame, image: xr.DataArray, *, outside: Any) -> list[Any]:
    """Values of a map at the sources, one lazy array per partition.

    Positions are small and pixels are many, so positions go to the blocks: every block looks up
    the sources that fall on it, and one task puts their values in order. The number of tasks is
    blocks + partitions, not their product, and no block leaves its worker.
    """
    grid = Grid.of(image)
    data = as_map(image).data
    cells = [dask.delayed(_cells)(part, grid) for part in catalog.to_delayed(False)]
    everywhere = dask.delayed(_join)(cells)
    corners = [np.cumsum([0, *sizes[:-1]]) for sizes in data.chunks]
    blocks = data.to_delayed(optimize_graph=False)
    found = [
        dask.delayed(_look_up)(blocks[i, j], everywhere, int(y0), int(x0))
        for i, y0 in enumerate(corners[0])
        for j, x0 in enumerate(corners[1])
    ]
    while len(found) > 16:  # a tree, so that no task has thousands of inputs
        found = [dask.delayed(_merge)(found[i : i + 16]) for i in range(0, len(found), 16)]
    values = dask.delayed(_gather)(found, everywhere, outside, data.dtype)
    shares = dask.delayed(_split)(values, dask.delayed(_lengths)(cells))
    return [shares[i] for i in range(len(cells))]


def _cells(part: pd.DataFrame, grid: Grid) -> np.ndarray:
    """Array indices (y, x) of the elements that hold the sources, -1 outside; shape (2, n)."""
    x, y = pixel_positions(part, grid)
    index = np.empty((2, len(part)), np.int32)
    for row, values, origin, n in zip((0, 1), (y, x), grid.origin, grid.shape, strict=True):
        cell = np.floor((values - origin) / grid.step + 0.5)
        with np.errstate(invalid="ignore"):
            index[row] = np.where((cell >= 0) & (cell < n), cell, -1)
    return index


def _join(cells: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(cells, axis=1)


def _look_up(block: np.ndarray, cells: np.ndarray, y0: int, x0: int):
    y, x = cells[0] - y0, cells[1] - x0
    here = (cells >= 0).all(0) & (y >= 0) & (y < block.shape[0]) & (x >= 0) & (x < block.shape[1])
    rows = np.flatnonzero(here)
    return rows, np.asarray(block)[y[rows], x[rows]]


def _merge(found: list[tuple[np.ndarray, np.ndarray]]):
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def _gather(found: list, cells: np.ndarray, outside: Any, dtype: np.dtype) -> np.ndarray:
    values = np.full(cells.shape[1], outside, dtype)
    rows, seen = _merge(found)
    values[rows] = seen
    return values


def _lengths(cells: list[np.ndarray]) -> list[int]:
    return [c.shape[-1] for c in cells]


def _split(values: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1])


# -- pairs ---------------------------------------------------------------------------------------
def match(a: Any, b: Any, radius: float) -> dd.DataFrame:
    """Nearest one-to-one pairs of two catalogues on the sky.

    Pairs are made closest first: a source of either catalogue has one partner at most, and of two
    rivals the nearer wins (then the smaller id). Only positions and ids are brought together, so
    memory grows with the number of sources and the result does not depend on partitions.

    Parameters
    ----------
    a, b : dask or pandas DataFrame
        Catalogues with ``ra``, ``dec``, ``id``.
    radius : float
        Largest separation in arcsec.

    Returns
    -------
    dask.dataframe.DataFrame
        ``a`` with the columns ``match_id`` (int64, id in ``b``, -1 without a partner) and
        ``match_sep`` (float64, arcsec, NaN without a partner), lazily.
    """
    if not radius > 0:
        raise InputError(f"radius = {radius} arcsec is not positive; give a positive one")
    a, b = as_dask(a), as_dask(b)
    meta = a._meta.assign(match_id=np.empty(0, np.int64), match_sep=np.empty(0))
    meta.attrs = {**a._meta.attrs}
    meta.attrs["units"] = {**a._meta.attrs.get("units", {}), "match_sep": "arcsec"}
    places = [[dask.delayed(_place)(p) for p in c.to_delayed(False)] for c in (a, b)]
    ids, apart = (dask.delayed(_partners)(*places, radius)[k] for k in (0, 1))
    parts = [
        dask.delayed(_attach)(part, ids[i], apart[i], meta.attrs)
        for i, part in enumerate(a.to_delayed(False))
    ]
    return dd.from_delayed(parts, meta=meta)


def _place(part: pd.DataFrame) -> np.ndarray:
    kind = [("ra", "f8"), ("dec", "f8"), ("id", "i8")]
    out = np.empty(len(part), kind)
    for name, _ in kind:
        out[name] = part[name].to_numpy()
    return out


def _partners(a: list[np.ndarray], b: list[np.ndarray], radius: float):
    first, second = np.concatenate(a), np.concatenate(b)
    i, j, apart = nearest_pairs(
        (first["ra"], first["dec"]),
        (second["ra"], second["dec"]),
        radius,
        (first["id"], second["id"]),
    )
    ids = np.full(first.size, NO_MATCH, np.int64)
    separation = np.full(first.size, np.nan)
    ids[i], separation[i] = second["id"][j], apart
    sizes = _lengths(a)
    return _split(ids, sizes), _split(separation, sizes)


def _attach(part: pd.DataFrame, ids: np.ndarray, apart: np.ndarray, attrs: dict) -> pd.DataFrame:
    out = part.assign(match_id=ids, match_sep=apart)
    out.attrs = attrs
    return out


def nearest_pairs(
    a: tuple[Any, Any], b: tuple[Any, Any], radius: float, ids: tuple[Any, Any] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers ``i`` of ``a`` and ``j`` of ``b`` (RA, Dec in deg) of one-to-one pairs.

    Closest pairs first, ties by ``ids`` (row numbers by default); ``separation`` in arcsec, at
    most ``radius``. Returns ``(i, j, separation)``, sorted by ``i``.
    """
    one, two = _vectors(*a), _vectors(*b)
    ids = (np.arange(len(one)), np.arange(len(two))) if ids is None else ids
    if not len(one) or not len(two):
        return np.empty(0, int), np.empty(0, int), np.empty(0)
    pairs = cKDTree(one).sparse_distance_matrix(
        cKDTree(two), 2 * np.sin(radius * ARCSEC / 2), output_type="coo_matrix"
    )
    i, j, chord = pairs.row, pairs.col, pairs.data
    order = np.lexsort((np.asarray(ids[1])[j], np.asarray(ids[0])[i], chord))
    final = order[first_come(i[order], j[order])]
    final = final[np.argsort(i[final], kind="stable")]
    return i[final], j[final], 2 * np.arcsin(np.minimum(chord[final] / 2, 1)) / ARCSEC


# -- by hand -------------------------------------------------------------------------------------
def add_manual(
    catalog: Any,
    table: Any,
    grid: Grid,
    *,
    columns: dict[str, str] | None = None,
    flags: int = SourceFlag.MANUAL,
    min_distance: float = 2.0,
) -> dd.DataFrame:
    """Append sources found by eye as one more partition.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
    table : path, pandas.DataFrame or astropy Table
        Anything that `read` reads, with ``ra``, ``dec``, or with ``x``, ``y`` named in
        ``columns``.
    grid : Grid
        Gives the pixel positions and, with them, the ids.
    columns : dict, optional
        As in `read`.
    flags : int
        Set in the column ``flags``.
    min_distance : float
        Sources of the table closer than this many pixels to one of the catalogue are already in
        it: they are left out and their number is logged.

    Returns
    -------
    dask.dataframe.DataFrame
        Columns that the table lacks are NaN (0 for whole numbers, "" for text).
    """
    catalog = as_dask(catalog)
    opened = read if isinstance(table, str) or hasattr(table, "__fspath__") else from_table
    manual = opened(table, columns=columns, grid=grid).to_delayed()
    known = [dask.delayed(_pixels)(part, grid) for part in catalog.to_delayed(False)]
    part = dask.delayed(_new_sources)(
        manual, known, grid, catalog._meta, int(flags), float(min_distance)
    )
    return dd.concat([catalog, dd.from_delayed([part], meta=catalog._meta)])


def _pixels(part: pd.DataFrame, grid: Grid) -> np.ndarray:
    return np.stack(pixel_positions(part, grid), axis=1)


def _new_sources(
    manual: list[pd.DataFrame],
    known: list[np.ndarray],
    grid: Grid,
    meta: pd.DataFrame,
    flags: int,
    min_distance: float,
) -> pd.DataFrame:
    table = pd.concat(manual, ignore_index=True)
    there = np.concatenate(known)
    there = there[np.isfinite(there).all(axis=1)]
    place = _pixels(table, grid)
    if len(there):
        apart = cKDTree(there).query(place)[0]
        if (apart < min_distance).any():
            log.warning(
                "%d of %d manual sources are in the catalogue already: left out",
                (apart < min_distance).sum(),
                len(table),
            )
        table, place = table[apart >= min_distance], place[apart >= min_distance]
    extra: dict[str, Any] = {}
    for name, kind in meta.dtypes.items():
        name = str(name)
        if name in table.columns:
            extra[name] = table[name].to_numpy()
        else:
            missing: dict[str, Any] = {"f": np.nan, "i": 0, "u": 0, "b": False}
            extra[name] = missing.get(kind.kind, "")
    fixed = {n: extra.pop(n, np.nan) for n in ("peak", "snr")}
    for name in ("id", "x", "y", "ra", "dec", "flags", "tile"):
        extra.pop(name, None)
    extra = {n: np.broadcast_to(v, len(table)) for n, v in extra.items()}
    made = make_catalog(place[:, 0], place[:, 1], grid, flags=flags, extra=extra, **fixed)
    out = made[list(meta.columns)].astype(meta.dtypes.to_dict())
    out.attrs = dict(meta.attrs)
    return out
