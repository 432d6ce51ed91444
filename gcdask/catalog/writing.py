"""A catalogue as one file for other programs: Parquet, FITS, ECSV or CSV."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning

from gcdask import storage
from gcdask.catalog.parquet import arrow_schema, to_arrow
from gcdask.catalog.schema import SCHEMA, units
from gcdask.errors import InputError
from gcdask.grid import Grid


def write_table(frame: pd.DataFrame, path: Any, grid: Grid | None) -> None:
    """Write a computed catalogue as one file: .parquet, .fits, .ecsv or .csv."""
    try:
        with storage.writing(path) as local:  # the old file stays until the new one is whole
            _write_local(frame, local, grid)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); choose another path") from error


def _write_local(frame: pd.DataFrame, path: Path, grid: Grid | None) -> None:
    kind = path.suffix.lower()
    if kind == ".parquet":
        pq.write_table(to_arrow(frame, arrow_schema(frame, grid)), path)
    elif kind == ".csv":
        _write_csv(frame, path)
    elif kind == ".ecsv":
        _astropy(frame, grid).write(path, format="ascii.ecsv", overwrite=True)
    else:
        table = _fits_table(_astropy(frame, grid), _descriptions(frame))
        table.writeto(path, overwrite=True)


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    told = _descriptions(frame)
    with path.open("w", encoding="utf-8", newline="") as file:
        for name, unit in units(frame).items():
            kind = f"<{frame[name].dtype.name}>" if frame[name].dtype.kind in "iufb" else "<str>"
            file.write(f"# column {name} [{unit}] {kind} {told[name]}".rstrip() + "\n")
        frame.to_csv(file, index=False)


def _fits_table(table: Table, told: dict[str, str]) -> fits.BinTableHDU:
    with warnings.catch_warnings():  # units outside the FITS standard stay as text
        warnings.simplefilter("ignore", AstropyUserWarning)
        hdu = fits.table_to_hdu(table)
    for number, text in enumerate(told.values(), 1):
        if text:
            hdu.header.set(f"TCOMM{number}", text, after=f"TFORM{number}")
    return hdu


def _astropy(frame: pd.DataFrame, grid: Grid | None) -> Table:
    table, told = Table(), _descriptions(frame)
    for name, unit in units(frame).items():
        column = frame[name]
        if column.dtype.kind in "iufbM":
            values = column.to_numpy()
        else:
            values = column.astype(object).where(column.notna(), "").to_numpy().astype(str)
        table[name] = values
        table[name].unit = u.Unit(unit, parse_strict="silent") if unit else None
        table[name].description = told[name] or None
    if grid is not None:
        table.meta["comments"] = ["WCS of x, y:", *map(str.rstrip, grid.header.split("\n"))]
    return table


def _descriptions(frame: pd.DataFrame) -> dict[str, str]:
    told = frame.attrs.get("descriptions", {})
    known = {name: c.description for name, c in SCHEMA.items()}
    return {str(c): told.get(c) or known.get(c, "") for c in frame.columns}
