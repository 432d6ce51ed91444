"""Catalogues of sources: the schema; reading and writing; selecting, matching, adding by hand.

A catalogue is a dask DataFrame with the columns of `SCHEMA` first and whatever stages or foreign
tables add after them. Reading order: schema, parquet, formats, files; where, parts, points, which
say where partitions lie and bring them to maps; lookup, pairing, select.
"""

from gcdask.catalog.files import faisst2022, from_table, read, read_as_it_is, write
from gcdask.catalog.lookup import sample, unmasked
from gcdask.catalog.pairing import match, nearest_pairs
from gcdask.catalog.parquet import part_name, read_manifest, write_manifest, write_part
from gcdask.catalog.schema import (
    SCHEMA,
    Column,
    SourceFlag,
    as_dask,
    make_catalog,
    meta,
    pack,
    pixel_id,
    pixel_positions,
    tile_id,
    units,
    unpack,
)
from gcdask.catalog.select import add_manual, select, within
from gcdask.catalog.where import part_boxes, stays

__all__ = [
    "SCHEMA",
    "Column",
    "SourceFlag",
    "add_manual",
    "as_dask",
    "faisst2022",
    "from_table",
    "make_catalog",
    "match",
    "meta",
    "nearest_pairs",
    "pack",
    "part_boxes",
    "part_name",
    "pixel_id",
    "pixel_positions",
    "read",
    "read_as_it_is",
    "read_manifest",
    "sample",
    "select",
    "stays",
    "tile_id",
    "units",
    "unmasked",
    "unpack",
    "within",
    "write",
    "write_manifest",
    "write_part",
]
