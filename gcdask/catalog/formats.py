"""Catalogues of other programs: FITS, ECSV, CSV and Parquet tables to the schema."""

from __future__ import annotations

import gzip
import io
import itertools
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from astropy import units as u
from astropy.coordinates import Angle, SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.utils.exceptions import AstropyUserWarning

from gcdask import storage
from gcdask.catalog.parquet import filesystem, from_arrow, is_bytes
from gcdask.catalog.schema import SCHEMA, SourceFlag, pixel_positions, tile_id
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic import fitsio
from gcdask.mosaic.ranges import HeaderFile, RangeFile, remote_info

log = logging.getLogger(__name__)

# Suffixes of tables.
TABLES = r"\.(parquet|pq|fits?|fits?\.gz|fits?\.fz|ecsv|csv|csv\.gz)$"

# Names of coordinates, lower case and without punctuation, most specific first.
COORDINATES = [
    ("ra", "dec"),
    ("radeg", "decdeg"),
    ("radeg", "dedeg"),
    ("raicrs", "deicrs"),
    ("raicrs", "decicrs"),
    ("raj2000", "dej2000"),
    ("raj2000", "decj2000"),
    ("alphaj2000", "deltaj2000"),
    ("alphawinj2000", "deltawinj2000"),
    ("alphapeakj2000", "deltapeakj2000"),
    ("rightascension", "declination"),
    ("ra2000", "dec2000"),
    ("alpha", "delta"),
]


@dataclass(frozen=True)
class RawTable:
    """A table as its file holds it: what columns there are, and a way to read some rows.

    ``rows`` are half-open slices that can be read one by one; ``load(start, stop)`` returns them
    as a DataFrame in native byte order, with NaN for missing numbers.
    """

    empty: pd.DataFrame
    units: dict[str, str]
    rows: list[tuple[int, int]]
    load: Callable[[int, int], pd.DataFrame]
    descriptions: dict[str, str] = field(default_factory=dict)
    in_memory: bool = False

    def __len__(self) -> int:
        return self.rows[-1][1] if self.rows else 0


# -- from a file to a RawTable ------------------------------------------------------------------
def open_table(path: Any, *, hdu: int | str | None, block: int) -> RawTable:
    """Open a table by the suffix of its name; large FITS and Parquet tables by slices of rows."""
    found, (fs, root) = re.search(TABLES, str(path).lower()), filesystem(path)
    if storage.is_remote(path):
        remote_info(str(path))
    elif not fs.exists(root):
        raise InputError(f"{path} does not exist; check the path of the catalogue")
    storage.check_regular(path)
    if not found:
        raise InputError(f"{path}: unknown kind of catalogue; use .parquet, .fits, .ecsv or .csv")
    with _readable(path):
        if found[1] in ("parquet", "pq"):
            table = _open_parquet(path)
        elif found[1] == "ecsv":
            table = _in_memory(
                QTable.read(_content(path).decode().splitlines(), format="ascii.ecsv")
            )
        elif found[1].startswith("csv"):
            table = _open_csv(path)
        else:
            table = _open_fits(path, hdu, block)
    return replace(table, load=partial(_load, path, table.load))


def _load(path: Any, load: Callable[[int, int], pd.DataFrame], start: int, stop: int) -> Any:
    with _readable(path):
        return load(start, stop)


@contextmanager
def _readable(path: Any) -> Iterator[None]:
    """Turn what readers say of a damaged file into one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)  # truncation is refused
            yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # astropy's, pandas', Arrow's
        what = " ".join(storage.redact(str(error)).split())[:200] or type(error).__name__
        raise InputError(f"{path} cannot be read as a table ({what}); check the file") from error


def _content(path: Any) -> bytes:
    """Content of a file, unpacked if it is gzipped."""
    data = storage.read_bytes(path)
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _open_parquet(path: Any) -> RawTable:
    fs, root = filesystem(path)
    with fs.open(root, "rb") as file:
        footer = pq.ParquetFile(file)
        schema, info = footer.schema_arrow, footer.metadata
    edges = np.cumsum([0, *(info.row_group(i).num_rows for i in range(info.num_row_groups))])
    rows = [(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    flat = [f.name for f in schema if not pa.types.is_nested(f.type) and not is_bytes(f.type)]
    _warn_left_out(set(schema.names) - set(flat))
    holes = set()  # whole numbers with missing values are read as floats in every row group
    for i in range(info.num_row_groups):
        for j in range(info.num_columns):
            column = info.row_group(i).column(j)
            stats = column.statistics
            if stats is None or not stats.has_null_count or stats.null_count:
                holes.add(column.path_in_schema)
    numbers = [
        f.name
        for f in schema
        if f.name in holes and (pa.types.is_integer(f.type) or pa.types.is_boolean(f.type))
    ]
    url = fs.unstrip_protocol(root)

    def load(start: int, stop: int) -> pd.DataFrame:
        fs, root = filesystem(url)
        with fs.open(root, "rb") as file:
            table = pq.ParquetFile(file).read_row_group(rows.index((start, stop)), columns=flat)
        return _plain(from_arrow(table).astype(dict.fromkeys(numbers, "float64")))

    empty = from_arrow(schema.empty_table().select(flat)).astype(dict.fromkeys(numbers, "float64"))
    about = empty.attrs
    return RawTable(_plain(empty), about["units"], rows, load, about["descriptions"])


def _open_fits(path: Any, hdu: int | str | None, block: int) -> RawTable:
    size = fitsio.check_file(str(path))[1]
    with fitsio.opened(str(path), size) as raw, fits.open(HeaderFile(raw)) as file:
        tables = [h for h in file if isinstance(h, fits.BinTableHDU | fits.TableHDU)]
        if hdu is not None:
            tables = [h for h in tables if h in (file[hdu],)]
        tables = [h for h in tables if not isinstance(h, fits.CompImageHDU)]
        if not tables:
            raise InputError(f"{path} holds no table (hdu={hdu}); give the extension with hdu=")
        table, index = tables[0], file.index(tables[0])
        n = int(table.header["NAXIS2"])
        end = table.fileinfo()["datLoc"] + table.header["NAXIS1"] * n
        if not _is_packed(path) and end > size:
            raise InputError(f"{path} is truncated ({size} of {end} bytes)")
        flat = [c.name for c in table.columns if table.columns.dtype[c.name].shape == ()]
        _warn_left_out({c.name for c in table.columns} - set(flat))
        stated = {c.name: c.unit or "" for c in table.columns if c.name in flat}
        names = [c.name for c in table.columns]
        comments = (table.header.get(f"TCOMM{i + 1}", "") for i in range(len(names)))
        told = dict(zip(names, comments, strict=True))
    rows = [(i, min(i + block, n)) for i in range(0, n, block)]

    def load(start: int, stop: int) -> pd.DataFrame:
        with _fits_file(path) as (file, stream):
            table, span = file[index], slice(start, stop)
            if stream is not None:
                table, span = _cut(table, stream, start, stop), slice(None)
            part = table.data[span]
            return pd.DataFrame({c: _fits_column(table.columns[c], part[c]) for c in flat})

    return RawTable(load(0, 0), stated, rows, load, told)


@contextmanager
def _fits_file(path: Any) -> Iterator[tuple[fits.HDUList, RangeFile | None]]:
    """Open a FITS file, and give the stream of a remote one whose rows can be read apart."""
    what, stream = path, None
    if storage.is_remote(path) and _is_packed(path):
        what = io.BytesIO(_content(path))
    elif storage.is_remote(path):
        what = stream = RangeFile(str(path), storage.size(path) or 0)
    with fits.open(what, memmap=not storage.is_remote(path)) as file:
        yield file, stream


def _is_packed(path: Any) -> bool:
    return str(path).lower().endswith((".gz", ".fz"))


def _cut(table: fits.BinTableHDU, stream: RangeFile, start: int, stop: int) -> fits.BinTableHDU:
    """Some rows of a remote table as a table in memory: astropy would fetch all of them."""
    header, width = table.header.copy(), table.header["NAXIS1"]
    begin = table.fileinfo()["datLoc"] + start * width
    stream.fetch([(begin, begin + (stop - start) * width)])
    stream.seek(begin)
    header["NAXIS2"], header["PCOUNT"] = stop - start, 0
    header.remove("THEAP", ignore_missing=True)
    data = stream.read((stop - start) * width)
    content = header.tostring().encode() + data + bytes(-len(data) % 2880)
    return type(table).fromstring(content, uint=True)


def _fits_column(column: fits.Column, values: np.ndarray) -> np.ndarray | pd.Series:
    values = np.asarray(values)
    if values.dtype.kind in "SU":
        return pd.Series(np.char.strip(values.astype(str)), dtype="str")
    native = values.astype(values.dtype.newbyteorder("="))
    if column.null is not None and native.dtype.kind in "iu":
        return np.where(values == column.null, np.nan, native.astype(float))
    return native


def _open_csv(path: Any) -> RawTable:
    stated, told, kinds, skip, text = {}, {}, {}, 0, io.StringIO(_content(path).decode())
    for line in text:
        if not line.startswith("#"):
            break
        skip += 1
        if found := re.match(r"# column (\S+) \[(.*?)\]( <\w+>)? ?(.*)", line):
            name, stated[name], told[name] = found[1], found[2], found[4].strip()
            if found[3]:
                kinds[name] = found[3].strip(" <>")
    text.seek(0)
    frame = pd.read_csv(text, skiprows=skip, skipinitialspace=True, dtype=kinds)
    frame = _plain(frame)
    return _of_frame(frame, {c: stated.get(c, "") for c in frame.columns}, told)


def _in_memory(table: Table) -> RawTable:
    """Split an astropy table into columns, its sky positions as columns ra and dec."""
    columns, stated, told, left = {}, {}, {}, set()
    for name in table.colnames:
        column = table[name]
        if isinstance(column, SkyCoord):
            names = ("ra", "dec") if "ra" not in table.colnames else (f"{name}.ra", f"{name}.dec")
            for key, angle in zip(names, (column.icrs.ra, column.icrs.dec), strict=True):
                columns[key], stated[key] = np.asarray(angle.deg), "deg"
            continue
        if len(getattr(column, "shape", (0,))) > 1:
            left.add(name)
            continue
        unit = getattr(column, "unit", None)
        stated[name] = "" if unit is None else unit.to_string()
        told[name] = getattr(column.info, "description", None) or ""
        columns[name] = _unmasked(getattr(column, "value", column))
    _warn_left_out(left)
    return _of_frame(_plain(pd.DataFrame(columns)), stated, told)


def _unmasked(values: Any) -> np.ndarray:
    mask = np.asarray(getattr(values, "mask", False))
    data = np.asarray(getattr(values, "unmasked", getattr(values, "data", values)))
    if data.dtype.kind in "iufb" and mask.any():
        return np.where(mask, np.nan, data.astype(float))
    return data


def _of_frame(frame: pd.DataFrame, stated: dict, told: dict | None = None) -> RawTable:
    def load(start: int, stop: int) -> pd.DataFrame:
        return frame.iloc[start:stop].reset_index(drop=True)

    rows = [(0, len(frame))] if len(frame) else []
    return RawTable(frame.iloc[:0], stated, rows, load, told or {}, in_memory=True)


def of_object(table: Any) -> RawTable:
    """Wrap a table in memory: pandas or astropy."""
    if isinstance(table, pd.DataFrame):
        return _of_frame(_plain(table.reset_index(drop=True)), dict(table.attrs.get("units", {})))
    if isinstance(table, Table):
        return _in_memory(table)
    raise InputError(
        f"a table is a path, a pandas DataFrame or an astropy Table, not {type(table).__name__}"
    )


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """NumPy numbers and pandas strings only, so that every slice has the same data types."""
    kinds = {}
    for name, kind in frame.dtypes.items():
        if kind.kind == "O" and not isinstance(kind, pd.api.extensions.ExtensionDtype):
            kinds[name] = "str"
        elif isinstance(kind, pd.api.extensions.ExtensionDtype) and hasattr(kind, "numpy_dtype"):
            kinds[name] = "float64" if kind.numpy_dtype.kind in "iufb" else "str"
    return frame.astype(kinds)


def _warn_left_out(names: set[str]) -> None:
    if names:
        log.warning("columns that hold arrays are left out: %s", ", ".join(sorted(names)))


# -- from a RawTable to the schema --------------------------------------------------------------
@dataclass(frozen=True)
class Plan:
    """Which column of a file becomes which of the catalogue, and how coordinates convert."""

    source: dict[str, str]
    factor: dict[str, float | None]
    own: bool

    def __call__(self, raw: pd.DataFrame, start: int, grid: Grid | None) -> pd.DataFrame:
        """Rows of the file, the first being number ``start``, as rows of a catalogue."""
        if self.own:
            return raw.astype({name: c.dtype for name, c in SCHEMA.items()})
        taken = {new: raw[old] for new, old in self.source.items()}
        out: dict[str, Any] = {"id": start + np.arange(len(raw), dtype=np.int64)}
        if "ra" in taken:
            for name in ("ra", "dec"):
                out[name] = _degrees(taken.pop(name), self.factor[name], name)
            x, y = out["ra"] * np.nan, out["dec"] * np.nan
            if grid is not None:
                x, y = pixel_positions(pd.DataFrame(out), grid)
        else:
            x, y = (taken[name].to_numpy(float) for name in ("x", "y"))
            out["ra"], out["dec"] = grid.sky(x, y) if grid and x.size else (x, y)
        out["x"], out["y"] = x, y
        for name in ("peak", "snr"):
            out[name] = taken[name] if name in taken else np.full(len(raw), np.nan)
        bits = taken.pop("flags", pd.Series(0, raw.index)).fillna(0).to_numpy().astype(int)
        out["flags"] = bits | int(SourceFlag.EXTERNAL)
        known = np.isfinite(x) & np.isfinite(y)
        out["tile"] = np.where(known, tile_id(np.where(known, x, 0), np.where(known, y, 0)), -1)
        good = np.isfinite(out["ra"]) & np.isfinite(out["dec"]) & (np.abs(out["dec"]) <= 90)
        extra = {name: taken[name] for name in taken if name not in SCHEMA}
        frame = pd.DataFrame({name: out[name] for name in SCHEMA} | extra)
        frame = frame.astype({name: c.dtype for name, c in SCHEMA.items()})
        return frame[good].reset_index(drop=True)


def plan(table: RawTable, columns: Mapping[str, str] | None, grid: Grid | None, name: str) -> Plan:
    """Decide the columns; raises `InputError` if there are no coordinates or unknown names."""
    present = list(table.empty.columns)
    wanted = dict(columns or {})
    for new, old in wanted.items():
        if old not in present:
            raise InputError(
                f"{name} has no column {old!r} (columns={{{new!r}: {old!r}}}); "
                f"it has {_listed(present)}"
            )
    if not wanted and set(SCHEMA) <= set(present):
        ordered = [*SCHEMA, *(c for c in present if c not in SCHEMA)]
        return Plan({c: c for c in ordered}, {}, own=True)
    if not {"ra", "dec"} <= set(wanted) and not (grid and {"x", "y"} <= set(wanted)):
        ra, dec = _find_coordinates(present, name)
        wanted = {"ra": ra, "dec": dec} | wanted
    for new in ("peak", "snr"):
        if new in present and new not in wanted and table.empty[new].dtype.kind in "iuf":
            wanted[new] = new
    used = set(wanted.values())
    for old in present:  # a foreign column must not pass for one of the schema
        if old not in used:
            wanted[f"{old}_file" if old.lower() in SCHEMA else old] = old
    wanted.pop("id", None), wanted.pop("tile", None)
    factor: dict[str, float | None] = {
        c: _factor(table.empty[wanted[c]], table.units.get(wanted[c], ""), c)
        for c in ("ra", "dec")
        if c in wanted
    }
    return Plan(wanted, factor, own=False)


def catalog_units(table: RawTable, made: Plan) -> tuple[dict[str, str], dict[str, str]]:
    """Units and descriptions of the columns that a plan makes."""
    names = {new: old for new, old in made.source.items() if new not in SCHEMA}
    stated = {c: SCHEMA[c].unit for c in SCHEMA}
    told = {c: SCHEMA[c].description for c in SCHEMA}
    if made.own:
        stated |= {c: table.units[c] for c in SCHEMA if table.units.get(c)}
    stated |= {new: table.units.get(old, "") for new, old in names.items()}
    told |= {new: table.descriptions.get(old, "") for new, old in names.items()}
    return stated, told


def _find_coordinates(present: list[str], name: str) -> tuple[str, str]:
    plain = {re.sub("[^a-z0-9]", "", str(c).lower()): c for c in reversed(present)}
    for ra, dec in COORDINATES:
        if ra in plain and dec in plain:
            return plain[ra], plain[dec]
    raise InputError(
        f"{name} has no coordinates: looked for ra/dec, RAJ2000/DEJ2000, ALPHA_J2000/DELTA_J2000 "
        f"and the like, found {_listed(present)}; use columns={{'ra': ..., 'dec': ...}} "
        "(catalog.columns in a configuration)"
    )


def _listed(names: list[str], most: int = 20) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def _factor(column: pd.Series, unit: str, name: str) -> float | None:
    """Degrees per unit of a coordinate; None for sexagesimal text."""
    if column.dtype.kind not in "iuf":
        return None
    try:
        # "h" of a right ascension is an angle; astropy takes it for time
        known = u.hourangle if unit in ("h", "hr", "hour", "hours") else u.Unit(unit or "deg")
        return float(known.to(u.deg))
    except (ValueError, TypeError, u.UnitConversionError):
        raise InputError(
            f"unit {unit!r} of {name} is not an angle; use deg, rad or hourangle in the file"
        ) from None


def _degrees(column: pd.Series, factor: float | None, name: str) -> np.ndarray:
    if factor is not None:
        return column.to_numpy(float, na_value=np.nan) * factor
    text = column.to_numpy(object)
    out = np.full(len(text), np.nan)
    full = np.array([isinstance(t, str) and t.strip() != "" for t in text], bool)
    try:
        angle = Angle(list(text[full]), u.hourangle if name == "ra" else u.deg)
    except (ValueError, u.UnitsError) as error:
        raise InputError(
            f"{name} is neither numbers nor sexagesimal text ({error}); mend the table"
        ) from error
    out[full] = angle.deg if full.any() else []
    return out
