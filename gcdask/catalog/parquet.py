"""A catalogue on disk: a folder of Parquet parts that counts once its manifest is written.

Parts are written under unique names, each by its own task; `_manifest.json`, written last, lists
those that are valid, and readers trust nothing else. A killed write therefore leaves either the
old catalogue or none, never half a new one. Units and descriptions are in the metadata of the
Parquet fields.
"""

from __future__ import annotations

import io
import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.dataframe as dd
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from gcdask import storage
from gcdask.catalog.parts import per_part
from gcdask.catalog.schema import SCHEMA, as_dask, units
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic.source import address

MANIFEST = "_manifest.json"  # other readers of Parquet folders skip names with an underscore
FORMAT = "gcdask-catalog"


def filesystem(path: Any) -> tuple[fsspec.AbstractFileSystem, str]:
    """Find the file system of a path or URL (one that may be opened), and the path on it."""
    text = address(path)
    if not storage.is_remote(text):  # not by its name, in which fsspec finds protocols too
        return fsspec.filesystem("file"), os.path.abspath(text)
    return storage.filesystem(text)


# -- one part -----------------------------------------------------------------------------------
def arrow_schema(empty: pd.DataFrame, grid: Grid | None = None) -> pa.Schema:
    """Arrow schema of a catalogue: schema columns in their own types, units in the fields."""
    known = {name: SCHEMA[name].dtype for name in empty.columns if name in SCHEMA}
    text = {name: "str" for name, kind in empty.dtypes.items() if kind == np.dtype(object)}
    empty = empty.iloc[:0].astype({**known, **text})
    stated, told = units(empty), empty.attrs.get("descriptions", {})
    schema = pa.Schema.from_pandas(empty, preserve_index=False)
    fields = []
    for field in schema:
        what = SCHEMA[field.name].description if field.name in SCHEMA else ""
        about = {"unit": stated[field.name], "description": told.get(field.name, what)}
        fields.append(field.with_metadata({k: v for k, v in about.items() if v}))
    info = dict(schema.metadata or {})
    if grid is not None:
        info[b"wcs"] = grid.header.encode()
    return pa.schema(fields, metadata=info)


def to_arrow(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Convert a partition to an Arrow table of exactly this schema."""
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False, safe=False)
    return table.replace_schema_metadata(schema.metadata)


def from_arrow(table: pa.Table) -> pd.DataFrame:
    """Convert an Arrow table to a partition, with the units of its fields in ``attrs``.

    Columns of bytes are left out: a catalogue has none, and anything may be packed in them.
    """
    table = table.drop_columns([f.name for f in table.schema if is_bytes(f.type)])
    frame = table.to_pandas(ignore_metadata=True)  # what pandas would read into it is for others
    about = {f.name: f.metadata or {} for f in table.schema}
    frame.attrs.clear()
    for key, name in ((b"unit", "units"), (b"description", "descriptions")):
        frame.attrs[name] = {c: about[c].get(key, b"").decode() for c in frame.columns}
    return frame


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type is one of bytes, rather than of text."""
    types = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_one(kind) for is_one in types)


def write_part(
    part: pd.DataFrame,
    folder: Any,
    name: str,
    *,
    schema: pa.Schema | None = None,
    grid: Grid | None = None,
) -> dict[str, Any]:
    """Write one partition as ``folder/name`` and return its row for `write_manifest`.

    Parameters
    ----------
    part : pandas.DataFrame
        One partition of a catalogue; it may be empty.
    folder : path or URL
        Must exist.
    name : str
        Unique name, ``.parquet`` is added if it is not there (see `part_name`).
    schema : pyarrow.Schema, optional
        From `arrow_schema`; by default that of the partition.
    grid : Grid, optional
        Puts the WCS into the metadata of the file (where ``schema`` is not given), and makes the
        bounds hold the places of ``ra``, ``dec`` on it too, whatever ``x``, ``y`` say. Only with
        it do readers know where on the sky a part lies (see `gcdask.catalog.where`).

    Returns
    -------
    dict
        ``name``, ``rows``, ``bytes`` and, where there are sources, the ``bounds``
        ``[x_min, x_max, y_min, y_max]`` in global pixels of all that have finite positions, and
        ``on_sky``, whether they hold ``ra``, ``dec``.
    """
    fs, root = filesystem(folder)
    name = name if name.endswith(".parquet") else f"{name}.parquet"
    buffer = io.BytesIO()
    pq.write_table(to_arrow(part, arrow_schema(part, grid) if schema is None else schema), buffer)
    _write(fs, root, name, buffer.getvalue())
    return {"name": name, "rows": len(part), "bytes": buffer.tell(), **_bounds(part, grid)}


def _bounds(part: pd.DataFrame, grid: Grid | None) -> dict[str, Any]:
    """Entries of `write_part`'s row that say where the sources are; none if that is not sure."""
    names, places = set(part.columns), []
    on_sky = grid is not None and {"ra", "dec"} <= names
    if {"x", "y"} <= names:
        places.append(_floats(part, "x", "y"))
    if grid is not None and on_sky:
        ra, dec = (sky := _floats(part, "ra", "dec"))[:, np.isfinite(sky).all(axis=0)]
        if ra.size:
            places.append(np.stack(grid.pixel(ra, dec)))
            if not np.isfinite(places[-1]).all():  # beyond this projection, but maybe not others
                return {}
    x, y = np.concatenate([np.empty((2, 0)), *places], axis=1)
    use = np.isfinite(x) & np.isfinite(y)
    if not use.any():
        return {}
    x_min, x_max, y_min, y_max = (f(v[use]) for v in (x, y) for f in (np.min, np.max))
    return {"bounds": [float(v) for v in (x_min, x_max, y_min, y_max)], "on_sky": on_sky}


def _floats(part: pd.DataFrame, *names: str) -> np.ndarray:
    return np.stack([part[n].to_numpy(float, na_value=np.nan) for n in names])


def part_name(index: int | str) -> str:
    """Make a name for a part that no earlier or concurrent write has used."""
    label = f"{index:06d}" if isinstance(index, int) else index
    return f"part-{label}-{uuid.uuid4().hex[:8]}.parquet"


# -- the folder ---------------------------------------------------------------------------------
def write_manifest(folder: Any, rows: Iterable[Mapping[str, Any]], **about: Any) -> dict[str, Any]:
    """Make the parts valid: write ``folder/_manifest.json``, the last act of writing a catalogue.

    Parameters
    ----------
    folder : path or URL
    rows : iterable of dict
        What `write_part` returned, in the order of the partitions.
    **about
        More entries of the manifest (JSON values), for example a fingerprint.
    """
    fs, root = filesystem(folder)
    parts = [dict(row) for row in rows]
    schema = _part_schema(fs, f"{root}/{parts[0]['name']}") if parts else None
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": 1,
        "rows": sum(p["rows"] for p in parts),
        "schema": _describe(schema),
        **about,
        "parts": parts,
    }
    if schema is not None and b"wcs" in (schema.metadata or {}):
        manifest.setdefault("wcs", schema.metadata[b"wcs"].decode())
    _write(fs, root, MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def _write(fs: fsspec.AbstractFileSystem, root: str, name: str, data: bytes) -> None:
    """Write a file of a catalogue whole or not at all, and never through a link of that name."""
    local = isinstance(fs, LocalFileSystem)
    path = f"{root}/{name}" if local else f"{fs.unstrip_protocol(root)}/{name}"
    try:
        storage.write_bytes(path, data)
    except OSError as error:
        raise InputError(f"cannot write {root}/{name} ({error}); choose another folder") from error


def read_manifest(folder: Any) -> dict[str, Any]:
    """Read the manifest of a catalogue folder.

    Raises
    ------
    InputError
        If there is none, it is not one of a catalogue, or a part that it lists is missing.
    """
    fs, root = filesystem(folder)
    try:
        with storage.told(folder, missing=False):
            manifest = json.loads(fs.cat_file(f"{root}/{MANIFEST}"))
    except FileNotFoundError:
        raise InputError(
            f"{root} has no {MANIFEST}: no catalogue, or one whose writing did not finish; "
            "write it again (a single .parquet file of another program can be read directly)"
        ) from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{root}/{MANIFEST} is damaged ({error}); write it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{root} is not a catalogue of gcdask; give a folder with its manifest")
    _check_parts(root, manifest)
    if storage.protocol(folder) not in ("http", "https"):  # web servers list nothing
        there = set(storage.names(folder))
        missing = [p["name"] for p in manifest["parts"] if p["name"] not in there]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(manifest['parts'])} parts of {root} are missing "
                f"(first: {missing[0]}); restore them or write the catalogue again"
            )
    return manifest


def _check_parts(root: str, manifest: dict[str, Any]) -> None:
    """Raise `InputError` if a manifest is not as `write_manifest` wrote it.

    The names of parts become paths: one like ``../other`` would lead out of the folder.
    """
    parts = manifest.get("parts")
    for row in parts if isinstance(parts, list) else [None]:
        part = row if isinstance(row, dict) else {}
        name = part.get("name")
        if not storage.is_name(name):
            what = repr(name)[:60] if name is not None else "a part without a name"
            raise InputError(f"{root}/{MANIFEST} lists {what}; write the catalogue again")
        bounds = part.get("bounds", [0, 0, 0, 0])
        sound = isinstance(bounds, list) and len(bounds) == 4 and type(part.get("rows")) is int
        if not sound or not all(type(b) in (int, float) and math.isfinite(b) for b in bounds):
            raise InputError(f"{root}/{MANIFEST} is damaged (part {name}); write it again")


@dataclass(frozen=True)
class Part:
    """What the manifest says of a part: ``bounds`` is None where it does not say a place."""

    name: str
    rows: int
    bounds: tuple[float, ...] | None
    on_sky: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Part:
        """Take what is needed of a row of the manifest."""
        bounds = tuple(row["bounds"]) if "bounds" in row else None
        return cls(row["name"], row["rows"], bounds, bool(row.get("on_sky")))

    def __dask_tokenize__(self) -> Any:  # the way of dataclasses takes seconds for 1e5 parts
        return repr(self)


@dataclass(frozen=True)
class PartReader:
    """Reads parts of a catalogue; tells `gcdask.catalog.where` where they are.

    Attributes
    ----------
    folder : str
        URL of the catalogue.
    wcs : str or None
        Cards of the WCS in whose pixels the bounds of its parts are (as `Grid.header`).
    """

    folder: str
    wcs: str | None

    def __call__(self, part: Part, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read one part, or some of its columns."""
        fs, path = filesystem(f"{self.folder}/{part.name}")
        names = None if columns is None else list(columns)
        with _readable(path), fs.open(path, "rb") as file:
            return from_arrow(pq.read_table(file, columns=names))


def read_dataset(folder: Any) -> dd.DataFrame:
    """Open the catalogue in a folder, one partition per part of its manifest, lazily."""
    manifest = read_manifest(folder)
    fs, root = filesystem(folder)
    parts = [Part.of(row) for row in manifest["parts"]]
    if not parts:
        raise InputError(f"{root} lists no parts: an empty catalogue; write it again")
    meta = from_arrow(_part_schema(fs, f"{root}/{parts[0].name}").empty_table())
    # url, not fs: file systems of remote stores hold connections that do not travel
    reader = PartReader(fs.unstrip_protocol(root), manifest.get("wcs"))
    return dd.from_map(reader, parts, meta=meta, label="read-catalog", enforce_metadata=False)


def write_dataset(catalog: Any, folder: Any, *, overwrite: bool, grid: Grid | None) -> None:
    """Write a catalogue as a folder of parts; the old one stays valid until the new one is."""
    catalog = as_dask(catalog)
    fs, root = filesystem(folder)
    stale = _stale_parts(fs, root, overwrite)
    try:
        with storage.told(folder):
            fs.makedirs(root, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create {root} ({error}); choose another folder") from error
    schema = arrow_schema(catalog._meta, grid)
    url = fs.unstrip_protocol(root)
    names = [part_name(k) for k in range(catalog.npartitions)]
    write = partial(_write_part, folder=url, schema=schema, grid=grid)
    write_manifest(url, per_part(catalog, write, "write-catalog", names).compute())
    for name in stale:  # only now: until here they were the valid catalogue
        fs.rm_file(name)


def _write_part(part: pd.DataFrame, name: str, *, folder: str, schema: Any, grid: Any) -> Any:
    return write_part(part, folder, name, schema=schema, grid=grid)


def _stale_parts(fs: fsspec.AbstractFileSystem, root: str, overwrite: bool) -> list[str]:
    """Files of an earlier catalogue in the folder; refuses what is not one."""
    with storage.told(root if storage.is_remote(root) else fs.unstrip_protocol(root)):
        fs.invalidate_cache()
        if not fs.exists(root):
            return []
    if not fs.isdir(root):
        raise InputError(f"{root} is a file, not a folder; give another path")
    files = [name for name in fs.ls(root, detail=False) if name.rstrip("/") != root]
    names = [name.rsplit("/", 1)[-1] for name in files]
    foreign = [n for n in names if n != MANIFEST and not n.endswith(".parquet")]
    if foreign:
        raise InputError(f"{root} holds other files ({foreign[0]}); give an empty folder")
    if MANIFEST in names and not overwrite:
        raise InputError(f"{root} exists; use overwrite=True or another path")
    return [f for f, name in zip(files, names, strict=True) if name != MANIFEST]


def _part_schema(fs: fsspec.AbstractFileSystem, path: str) -> pa.Schema:
    with _readable(path), fs.open(path, "rb") as file:
        return pq.read_schema(file)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turn what Parquet readers say of a damaged file into one line."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Arrow's, Thrift's, the store's
        what = " ".join(storage.redact(str(error)).split())[:100] or type(error).__name__
        raise InputError(
            f"{path} is not a readable Parquet file ({what}); restore it or write it again"
        ) from error


def _describe(schema: pa.Schema | None) -> dict[str, dict[str, str]]:
    if schema is None:
        return {}
    about = {
        f.name: {k.decode(): v.decode() for k, v in (f.metadata or {}).items()} for f in schema
    }
    return {f.name: {"dtype": str(f.type), **about[f.name]} for f in schema}
