"""What a row of a catalogue holds, and how rows are made from pixel positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd

from gcdask.errors import InputError
from gcdask.grid import Grid

TILE = 4096  # side in px of the cells that `tile` counts, whatever the chunks or tiles of a run
LOW = 0xFFFFFFFF


class SourceFlag(IntFlag):
    """Bits of the column ``flags``: where a source comes from (0: found by `detect_peaks`)."""

    MANUAL = 1
    INPAINTED = 2
    EXTERNAL = 4


@dataclass(frozen=True)
class Column:
    """Data type (NumPy name), unit (astropy string, "" without) and meaning of a column."""

    dtype: str
    unit: str
    description: str


SCHEMA: dict[str, Column] = {
    "id": Column("int64", "", "(y << 32) | x of the rounded pixel; row number in foreign tables"),
    "x": Column("float64", "pix", "global pixel coordinate along axis 1, 0 at a pixel's centre"),
    "y": Column("float64", "pix", "global pixel coordinate along axis 0, 0 at a pixel's centre"),
    "ra": Column("float64", "deg", "right ascension (ICRS)"),
    "dec": Column("float64", "deg", "declination (ICRS)"),
    "peak": Column("float32", "", "value of the detection map, in the units of that map"),
    "snr": Column("float32", "", "peak over the local noise of the detection map"),
    "flags": Column("uint16", "", "origin: 1 manual, 2 inpainted, 4 external table"),
    "tile": Column("int64", "", "(y // 4096) << 32 | (x // 4096) of the rounded pixel"),
}


def meta() -> pd.DataFrame:
    """Empty catalogue with the columns and data types of `SCHEMA`."""
    empty = pd.DataFrame({name: np.empty(0, c.dtype) for name, c in SCHEMA.items()})
    empty.attrs["units"] = {name: c.unit for name, c in SCHEMA.items()}
    return empty


def pack(y: Any, x: Any) -> np.ndarray:
    """``(y << 32) | x`` of integers as int64.

    Both halves are two's complement, so negative pixels (a window that starts before the mosaic)
    stay unique between -2^31 and 2^31 - 1; non-negative ones sort by (y, x).
    """
    high = np.asarray(y, np.int64) << 32
    return np.asarray(high | (np.asarray(x, np.int64) & LOW))


def unpack(key: Any) -> tuple[np.ndarray, np.ndarray]:
    """``(y, x)`` integers of `pack`'s numbers."""
    key = np.asarray(key, np.int64)
    low = key & LOW
    return key >> 32, np.where(low > LOW >> 1, low - (LOW + 1), low)


def pixel_id(x: Any, y: Any) -> np.ndarray:
    """``id`` of global pixel positions: the pixel whose half-open cell holds them."""
    return pack(_round(y), _round(x))


def tile_id(x: Any, y: Any) -> np.ndarray:
    """``tile`` of global pixel positions (cells of 4096 px, independent of any chunking)."""
    return pack(_round(y) // TILE, _round(x) // TILE)


def _round(value: Any) -> np.ndarray:
    return np.floor(np.asarray(value, float) + 0.5).astype(np.int64)


def make_catalog(
    x: Any,
    y: Any,
    grid: Grid,
    *,
    peak: Any = np.nan,
    snr: Any = np.nan,
    flags: Any = 0,
    extra: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Catalogue of sources at global pixel positions, sorted by ``id``.

    Parameters
    ----------
    x, y : array-like, shape (n,)
        Finite global pixel coordinates (0-based, integer at pixel centres).
    grid : Grid
        Gives ``ra``, ``dec``; positions may lie outside it.
    peak, snr, flags : scalar or array-like, shape (n,)
        Columns of that name (see `SCHEMA`).
    extra : mapping, optional
        More columns, name to array of shape (n,).

    Returns
    -------
    pandas.DataFrame
        All columns of `SCHEMA`, then ``extra``. The index counts from 0. Sources of one pixel
        are ordered by y, x, so the table does not depend on the order of the input.

    Raises
    ------
    InputError
        If a position is not finite.
    """
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    bad = ~(np.isfinite(x) & np.isfinite(y))
    if bad.any():
        raise InputError(
            f"{bad.sum()} of {x.size} source positions are not finite; drop these rows first"
        )
    ra, dec = grid.sky(x, y) if x.size else (x, y)
    columns = {
        "id": pixel_id(x, y),
        "x": x,
        "y": y,
        "ra": ra,
        "dec": dec,
        "peak": peak,
        "snr": snr,
        "flags": flags,
        "tile": tile_id(x, y),
    }
    table = {
        name: np.broadcast_to(np.asarray(value), x.shape).astype(SCHEMA[name].dtype)
        for name, value in columns.items()
    }
    order = np.lexsort((x, y, table["id"]))
    frame = pd.DataFrame(table | dict(extra or {})).iloc[order].reset_index(drop=True)
    frame.attrs["units"] = {name: c.unit for name, c in SCHEMA.items()}
    return frame


def pixel_positions(catalog: pd.DataFrame, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Global ``(x, y)`` on ``grid`` of a catalogue (or of one partition of it).

    Taken from ``ra``, ``dec``, so that sources of any mosaic or table land on any map; only a
    table without these columns is read by its own ``x``, ``y``.

    Returns
    -------
    x, y : ndarray of float64, shape (n,)

    Raises
    ------
    InputError
        If the catalogue has neither.
    """
    names = set(catalog.columns)
    if {"ra", "dec"} <= names:
        ra, dec = (catalog[name].to_numpy(float) for name in ("ra", "dec"))
        # wcslib refuses empty arrays
        return grid.pixel(ra, dec) if ra.size else (ra.copy(), dec.copy())
    if {"x", "y"} <= names:
        return catalog["x"].to_numpy(float), catalog["y"].to_numpy(float)
    raise InputError(
        f"the catalogue has neither ra, dec nor x, y (columns: {', '.join(map(str, names))}); "
        "read it with gcdask.catalog.read(path, columns={'ra': ..., 'dec': ...})"
    )


def as_dask(catalog: Any) -> dd.DataFrame:
    """Any catalogue as a dask DataFrame; a pandas one becomes one partition."""
    if isinstance(catalog, pd.DataFrame):
        # not from_pandas: its name ignores attrs, and dask then hands out an older twin's units
        attrs = dict(catalog.attrs)
        empty = _with_attrs(catalog.iloc[:0], attrs)
        return dd.from_map(_with_attrs, [catalog], attrs=attrs, meta=empty, label="catalog")
    if isinstance(catalog, dd.DataFrame):
        return catalog
    raise InputError(
        f"a catalogue is a dask or pandas DataFrame, got {type(catalog).__name__}; "
        "read it with gcdask.catalog.read(path)"
    )


def _with_attrs(frame: pd.DataFrame, attrs: dict) -> pd.DataFrame:
    frame = frame.copy(deep=False)
    frame.attrs = dict(attrs)
    return frame


def units(catalog: Any) -> dict[str, str]:
    """Look up the unit (astropy string) of each column of a catalogue; "" where none is."""
    frame = catalog if isinstance(catalog, pd.DataFrame) else as_dask(catalog)._meta
    stated = frame.attrs.get("units", {})
    known = {name: c.unit for name, c in SCHEMA.items()}
    return {str(n): stated.get(n, known.get(n, "")) for n in frame.columns}
