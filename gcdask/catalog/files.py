"""Read and write catalogues, whatever the format."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pandas as pd

from gcdask import storage
from gcdask.catalog.formats import (
    TABLES,
    Plan,
    RawTable,
    catalog_units,
    of_object,
    open_table,
    plan,
)
from gcdask.catalog.parquet import MANIFEST, filesystem, read_dataset, write_dataset
from gcdask.catalog.schema import as_dask
from gcdask.catalog.writing import write_table
from gcdask.errors import InputError
from gcdask.grid import Grid

log = logging.getLogger(__name__)

BUILTIN = "builtin:"
FAISST2022 = "builtin:faisst2022"
FILES = (".fits", ".ecsv", ".csv", ".parquet")
BLOCK = 500_000  # rows read at once: about 100 MB for 25 columns


def read(
    path: Any,
    *,
    columns: Mapping[str, str] | None = None,
    grid: Grid | None = None,
    hdu: int | str | None = None,
    block: int = BLOCK,
) -> dd.DataFrame:
    """Open a catalogue lazily: a folder of ours, or a Parquet, FITS, ECSV or CSV table.

    Parameters
    ----------
    path : path or URL
        A folder that `write` made (only the parts in its manifest are read), a file whose suffix
        tells its format, or ``"builtin:faisst2022"``.
    columns : mapping, optional
        Column of the catalogue to column of the file, ``{"ra": "RA_deg"}``; also renames other
        columns. Without it, coordinates are found by their usual names in any case.
    grid : Grid, optional
        Gives foreign tables ``x``, ``y``, ``tile``, and ``ra``, ``dec`` where ``columns`` names
        only ``x`` and ``y`` (0-based pixels of this grid).
    hdu : int or str, optional
        Extension of a FITS file; by default its first table.
    block : int
        Rows per partition of FITS tables. Text tables, and FITS tables of at most this many
        rows, are read at once; larger ones by slices when computed.

    Returns
    -------
    dask.dataframe.DataFrame
        The columns of `SCHEMA` first, then those of the file. A table that holds the whole schema
        is taken as ours and kept as it is. Any other is *foreign*: ``id`` is the row number in the
        file (so it does not depend on the grid), `SourceFlag.EXTERNAL` is set in ``flags``,
        coordinates are converted to degrees by their unit (degrees without one; text is
        sexagesimal), ``x``, ``y`` are NaN and ``tile`` is -1 without a grid, missing numbers are
        NaN, columns named like one of the schema get the suffix ``_file``, and rows without finite
        coordinates are left out and counted in a warning.

    Raises
    ------
    InputError
        If there is no such file, its format is unknown, it is damaged, it has no coordinates, or
        it is empty. (A folder of ours may hold no sources: a stage may have found none.)
    """
    if str(path).startswith(BUILTIN):
        if str(path) != FAISST2022:
            raise InputError(f"no built-in catalogue {path!s}; there is {FAISST2022}")
        columns = {"name": "ID"} | dict(columns or {})
        path = Path(__file__).parents[1] / "data" / "faisst2022_table1.csv"
    if _is_folder(path):
        return read_dataset(path)
    return _from_raw(open_table(path, hdu=hdu, block=block), str(path), columns, grid, block)


def read_as_it_is(path: Any) -> pd.DataFrame:
    """Read a table that is no catalogue: its own columns, all in memory; a file as for `read`."""
    table = open_table(path, hdu=None, block=BLOCK)
    parts = [table.load(*rows) for rows in table.rows]
    return pd.concat(parts or [table.empty], ignore_index=True)


def from_table(
    table: Any,
    *,
    columns: Mapping[str, str] | None = None,
    grid: Grid | None = None,
) -> dd.DataFrame:
    """Make a catalogue of a pandas or astropy table, by the rules of `read` for foreign ones."""
    return _from_raw(of_object(table), "the table", columns, grid, BLOCK)


def faisst2022() -> dd.DataFrame:
    """Open the 178 compact star clusters of SMACS J0723.3-7327 (Faisst et al. 2022, table 1).

    Fluxes ``f090w`` ... ``f444w`` and errors ``e_...`` in nJy, corrected for Galactic extinction;
    ``logm``, ``e_logm`` the log10 of the stellar mass in Msun; ``name`` their number.
    """
    return read(FAISST2022)


def write(
    catalog: Any,
    path: Any,
    *,
    overwrite: bool = False,
    grid: Grid | None = None,
    single_file: bool = False,
) -> str:
    """Compute a catalogue and write it.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
    path : path or URL
        With suffix .fits, .ecsv or .csv: one file. Any other path, also one that ends in
        .parquet, becomes a folder with one Parquet part per partition and a manifest written
        last, so that a killed write leaves what was there.
    overwrite : bool
        Replace a catalogue that exists. The old one stays valid until the new one is complete.
    grid : Grid, optional
        Its WCS goes into the metadata.
    single_file : bool
        Write .parquet as one file too, for programs that do not know manifests; the catalogue
        must then fit in memory.

    Returns
    -------
    str
        The path.

    Raises
    ------
    InputError
        If the path exists, holds something else, or cannot be written.
    """
    if Path(str(path)).suffix.lower() not in FILES[: None if single_file else -1]:
        if single_file:
            raise InputError(f"{path} is no file that can be written; use {', '.join(FILES)}")
        write_dataset(catalog, path, overwrite=overwrite, grid=grid)
        return str(path)
    _check_target(path, overwrite)
    frame = as_dask(catalog).compute()
    write_table(frame.reset_index(drop=True), path, grid)
    return str(path)


def _is_folder(path: Any) -> bool:
    fs, root = filesystem(path)
    with storage.told(path):
        if storage.protocol(path) not in ("http", "https"):
            return bool(fs.isdir(root))
        plain = re.search(TABLES, str(path).lower())
        return not plain and storage.exists(storage.join(path, MANIFEST))


def _check_target(path: Any, overwrite: bool) -> None:
    if _is_folder(path):
        raise InputError(f"{path} is a folder; give the name of a file")
    if storage.exists(path) and not overwrite:
        raise InputError(f"{path} exists; use overwrite=True or another path")
    if not storage.is_remote(path) and not Path(path).parent.is_dir():
        raise InputError(f"folder {Path(path).parent} does not exist; create it first")


def _from_raw(
    table: RawTable,
    name: str,
    columns: Mapping[str, str] | None,
    grid: Grid | None,
    block: int,
) -> dd.DataFrame:
    if not len(table.empty.columns) or not len(table):
        raise InputError(f"{name} is an empty catalogue (no rows); give one with sources")
    made = plan(table, columns, grid, name)
    stated, told = catalog_units(table, made)
    rows = partial(_rows, table=table, made=made, grid=grid, attrs=(stated, told))
    empty = rows((0, 0))
    if len(table.rows) == 1 and (table.in_memory or len(table) <= block):
        try:
            frame = rows(table.rows[0])
        except InputError as error:
            text = str(error)
            raise InputError(text if name in text else f"{name}: {text}") from error
        if not len(frame):
            raise InputError(
                f"none of the {len(table)} rows of {name} has finite coordinates; "
                "check the columns and their units"
            )
        return as_dask(frame)
    return dd.from_map(rows, table.rows, meta=empty, label="read-table", enforce_metadata=False)


def _rows(
    span: tuple[int, int],
    *,
    table: RawTable,
    made: Plan,
    grid: Grid | None,
    attrs: tuple[dict[str, str], dict[str, str]],
) -> pd.DataFrame:
    raw = table.empty if span == (0, 0) else table.load(*span)
    frame = made(raw[list(made.source.values())], span[0], grid)
    left_out = len(raw) - len(frame)
    if left_out and len(frame):  # a table without any is refused instead
        log.warning("%d of %d rows have no finite coordinates: left out", left_out, len(raw))
    frame.attrs = {"units": dict(attrs[0]), "descriptions": dict(attrs[1])}
    return frame
