"""Parts of catalogues, and sources added by hand; all of it lazy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial import cKDTree

from gcdask.catalog.files import from_table, read
from gcdask.catalog.lookup import unmasked
from gcdask.catalog.pairing import chord_of
from gcdask.catalog.parts import as_frame, gathered, keys_of, layer_of, per_part
from gcdask.catalog.points import part_points
from gcdask.catalog.schema import SourceFlag, as_dask, make_catalog, pixel_positions
from gcdask.catalog.where import caps_near, part_caps, stays, vectors
from gcdask.errors import InputError
from gcdask.grid import Grid

log = logging.getLogger(__name__)


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


@stays
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
        # of a copy: columns that it sets must not reach the catalogue
        keep &= np.asarray(condition(part.copy(deep=False)), bool)
    return part[keep].reset_index(drop=True)


def within(catalog: Any, center: tuple[float, float], radius: float) -> dd.DataFrame:
    """Keep sources at most ``radius`` arcsec from ``center`` (RA, Dec in deg) on the sky.

    Partitions that are known to lie elsewhere (see `gcdask.catalog.part_boxes`) are left out.
    """
    if not radius > 0:
        raise InputError(f"radius = {radius} arcsec is not positive; give a positive one")
    catalog = as_dask(catalog)
    place, chord = vectors(*center), chord_of(radius)
    caps = part_caps(catalog)
    if caps is not None:
        near = caps_near((place[None], np.array([chord])), caps, 0)[0]
        catalog = catalog.partitions[near or [0]]
    keep = partial(_within, center=place, chord=chord)
    return catalog.map_partitions(keep, meta=catalog._meta, enforce_metadata=False)


@stays
def _within(part: pd.DataFrame, *, center: np.ndarray, chord: float) -> pd.DataFrame:
    apart = np.linalg.norm(vectors(part["ra"], part["dec"]) - center, axis=-1)
    return part[apart <= chord].reset_index(drop=True)


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
    manual = gathered(
        per_part(opened(table, columns=columns, grid=grid), _itself, "manual"), pd.concat
    )
    points = part_points(catalog, grid)
    distance = float(min_distance)
    tasks = [(_close, key, (manual.name, 0), grid, distance) for key in keys_of(points)]
    close = layer_of("close", tasks, [points, manual], distance)
    last = (_new_sources, (manual.name, 0), keys_of(close), grid, catalog._meta, int(flags))
    part = layer_of("new-sources", [last], [manual, close], grid, int(flags), catalog._name)
    return dd.concat([catalog, as_frame(part, catalog._meta)])


def _itself(part: pd.DataFrame) -> pd.DataFrame:
    return part


def _pixels(part: pd.DataFrame, grid: Grid) -> np.ndarray:
    return np.stack(pixel_positions(part, grid), axis=1)


def _close(points: np.ndarray, manual: np.ndarray, grid: Grid, min_distance: float) -> np.ndarray:
    """Whether each manual source has one of a partition within the distance."""
    there, place = points.item().T, _pixels(manual.item(), grid)
    there = there[np.isfinite(there).all(axis=1)]
    return cKDTree(there).query(place)[0] < min_distance  # inf where there are none


def _new_sources(
    manual: np.ndarray, close: list[np.ndarray], grid: Grid, meta: pd.DataFrame, flags: int
) -> pd.DataFrame:
    table: pd.DataFrame = manual.item()
    known = np.any([c.item() for c in close], axis=0)
    if known.any():
        log.warning(
            "%d of %d manual sources are in the catalogue already: left out",
            known.sum(),
            len(table),
        )
    table = table[~known]
    place = _pixels(table, grid)
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
