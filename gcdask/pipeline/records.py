"""What tiles leave behind, by which later runs know what is done.

A tile leaves a *piece* of the survey and, when its map shards and its Parquet part are there, a
*row*. Both say what they were made from, so that a run which was stopped, and a new run beside an
old one, takes over what still holds: by hard links (or server-side copies), as shard, part and
record are files of that one tile. Nothing that a run wrote is ever written again by another one.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gcdask import storage
from gcdask.grid import Tile
from gcdask.pipeline.identity import plain
from gcdask.survey import Survey, SurveyPlan


@dataclass(frozen=True)
class Place:
    """Where a run keeps a field's tiles: records and parts in ``folder``, shards in ``maps``."""

    folder: str
    maps: str

    def piece(self, tile: Tile) -> str:
        """File of a tile's piece of the survey."""
        return storage.join(self.folder, "survey", f"{label(tile)}.npz")

    def row(self, tile: Tile) -> str:
        """File of a tile's row."""
        return storage.join(self.folder, "rows", f"{label(tile)}.json")

    def part(self, name: str) -> str:
        """File of a Parquet part."""
        return storage.join(self.folder, "peaks", name)

    def shard(self, name: str, tile: Tile) -> str:
        """File of a tile's shard of a map."""
        return storage.join(self.maps, name, "c", *map(str, tile.index))


def label(tile: Tile) -> str:
    """Name of a tile: its row and column in the grid of tiles."""
    return f"{tile.index[0]:05d}-{tile.index[1]:05d}"


# -- arrays in a file ----------------------------------------------------------------------------
def pack(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays with something JSON about them, as one file (.npz)."""
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(plain(about)).encode(), np.uint8)
    np.savez(buffer, about=text, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Undo `pack`; raises ValueError for a file that is not whole, or no such file."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(arrays.pop("about").tobytes()), arrays
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, AttributeError) as error:
        raise ValueError(f"not a file of ours, or cut off ({error})") from error


# -- pieces of the survey ------------------------------------------------------------------------
def read_piece(place: Place, tile: Tile) -> dict[str, Any] | None:
    """A tile's piece of the survey with ``about`` (what it was made from), if there is one."""
    try:
        about, arrays = unpack(storage.read_bytes(place.piece(tile)))
        columns = about.pop("stars")
        counts = arrays["counts"].astype(np.int64)
        piece = {"footprint": (*about.pop("footprint"), counts), "noise": arrays["noise"]}
        if columns is not None:
            piece["stars"] = {name: arrays[f"star-{name}"] for name in columns}
    except (FileNotFoundError, ValueError, KeyError):  # cut off, or not ours
        return None
    return {**piece, "about": about}


def write_piece(place: Place, tile: Tile, piece: dict[str, Any]) -> None:
    """Keep a piece (of `gcdask.survey.survey_window`, with ``about``)."""
    y, x, counts = piece["footprint"]
    stars = piece.get("stars")
    about = {**piece["about"], "footprint": [y, x], "stars": None if stars is None else [*stars]}
    arrays = {"counts": counts.astype(np.uint16), "noise": piece["noise"]}  # of at most 32^2 px
    arrays |= {f"star-{name}": values for name, values in (stars or {}).items()}
    storage.write_bytes(place.piece(tile), pack(about, arrays))


# -- rows ----------------------------------------------------------------------------------------
def read_row(place: Place, tile: Tile, fingerprint: str) -> dict[str, Any] | None:
    """A tile's row, if it is of this fingerprint, undamaged, and its products are there, whole.

    The names in it become paths, to be linked and replaced: one with ``..`` is none of ours.
    """
    row = storage.read_json(place.row(tile))
    if not isinstance(row, dict) or row.get("fingerprint") != fingerprint or row["damage"]:
        return None
    if not all(map(storage.is_name, (row["part"]["name"], *row["shards"]))):
        return None
    if any(shard_size(place, name, tile) != size for name, size in row["shards"].items()):
        return None
    part = row["part"]
    return row if storage.size(place.part(part["name"])) == part["bytes"] else None


def shard_size(place: Place, name: str, tile: Tile) -> int | None:
    """Bytes of a shard; None if there is none (it holds only its fill value)."""
    return storage.size(place.shard(name, tile))


def take_over(base: Place, place: Place, tile: Tile, row: dict[str, Any]) -> None:
    """Link a tile's products and its row from an earlier run."""
    for name, size in row["shards"].items():
        storage.remove(place.shard(name, tile))
        if size is not None:
            storage.link(base.shard(name, tile), place.shard(name, tile))
    part = row["part"]["name"]
    storage.link(base.part(part), place.part(part))
    storage.link(base.row(tile), place.row(tile))


def find_row(
    place: Place, bases: Iterable[Place], tile: Tile, fingerprint: str
) -> dict[str, Any] | None:
    """A row of this run or else of an earlier one, which is then taken over."""
    row = read_row(place, tile, fingerprint)
    if row is not None:
        return row
    for base in bases:
        row = read_row(base, tile, fingerprint)
        if row is not None:
            take_over(base, place, tile, row)
            return row
    return None


# -- the whole survey ----------------------------------------------------------------------------
def write_survey(place: Place, survey: Survey) -> str:
    """Put a field's survey where all workers see it; returns its path."""
    stars = survey.stars
    about = {"angle": survey.angle, "area": survey.area, "noises": [*survey.sigma]}
    arrays = {"distance": survey.distance}
    arrays |= {f"noise-{k}": v for k, v in enumerate(survey.sigma.values())}
    if stars is not None:
        arrays |= {f"star-{name}": stars[name].to_numpy() for name in stars.columns}
    data = pack({**about, "stars": None if stars is None else [*stars.columns]}, arrays)
    name = f"survey-{hashlib.sha256(data).hexdigest()[:12]}.npz"
    path = storage.join(place.folder, name)
    storage.write_bytes(path, data)
    return path


@functools.lru_cache(maxsize=2)  # a worker reads it once, not for each tile; never a changed one
def read_survey(path: str, plan: SurveyPlan) -> Survey:
    """The survey that `write_survey` kept."""
    about, arrays = unpack(storage.read_bytes(path))
    sigma = {name: arrays[f"noise-{k}"] for k, name in enumerate(about["noises"])}
    stars = about["stars"]
    table = None if stars is None else pd.DataFrame({c: arrays[f"star-{c}"] for c in stars})
    angle = np.nan if about["angle"] is None else about["angle"]
    return Survey(plan, arrays["distance"], sigma, table, angle, about["area"])
