"""Which shards of a zarr array are stored: what tells a lost shard from one without data.

Zarr does not store a shard that holds nothing but the fill value, and reads a missing shard as
such. A copy that was cut off would therefore pass for a mosaic with holes. So a mosaic keeps, when
it is completed, one bit for each shard that holds data (the group's attribute ``held``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr

from gcdask import storage
from gcdask.errors import InputError

HELD = "held"  # {array: one text per band, the bits of its shards row by row in base64}


class Listing:
    """What a store says of its files, asked for once: pass one to many calls of `Source.stamp`.

    Object stores list a whole array at once. A local disk, and a web server (which lists nothing),
    are asked for each file.
    """

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def state(self, file: str) -> str | None:
        """Size of a file and its time or ETag; None if there is none."""
        if file not in self._known:
            self._known[file] = storage.state(file).get("stamp")
        return self._known[file]

    def shard(self, array: str, key: str) -> str | None:
        """The same of one shard (or chunk) of an array."""
        if not lists(array):
            return self.state(storage.join(array, key))
        if not storage.is_remote(array):
            try:
                stat = os.stat(os.path.join(array, key))
            except (FileNotFoundError, NotADirectoryError):
                return None
            return f"{stat.st_size}-{stat.st_mtime_ns}"
        if array not in self._known:
            self._known[array] = storage.find(array)
        return self._known[array].get(key)


def is_empty(state: str | None) -> bool:
    """Whether what a `Listing` (or `storage.find`) says of a file is that it holds nothing."""
    return state is None or state.startswith("0-")


def lists(path: str) -> bool:
    """Whether the store of a path can say what it holds; web servers cannot."""
    return storage.protocol(path) not in ("http", "https")


def key_form(array: Any, band: int | None) -> str:
    """Key of the shards of a 2-D array, or of one band, with ``{}`` for row and column of shards.

    It is taken from the array's metadata: formats and stores differ in it.
    """
    first = () if band is None else (band // (array.shards or array.chunks)[0],)
    key = array.metadata.encode_chunk_key((*first, 0, 0))
    return f"{key[:-3]}{{}}{key[-2]}{{}}"


def layout(array: Any) -> str:
    """Digest of how an array is encoded; its size does not count, as mosaics grow."""
    known = array.metadata.to_dict()
    keys = ("data_type", "dtype", "chunk_grid", "chunks", "fill_value", "codecs", "compressor",
            "filters", "order")  # fmt: skip
    text = json.dumps({k: known.get(k) for k in keys}, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def touched(
    window: tuple[int, int, int, int], block: tuple[int, int]
) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    """Shards under a window ``(y0, y1, x0, x1)``: row, column, and their part of the window."""
    y0, y1, x0, x1 = window
    for i in range(y0 // block[0], -(-y1 // block[0])):
        for j in range(x0 // block[1], -(-x1 // block[1])):
            yield (
                i,
                j,
                (
                    slice(max(i * block[0], y0) - y0, min((i + 1) * block[0], y1) - y0),
                    slice(max(j * block[1], x0) - x0, min((j + 1) * block[1], x1) - x0),
                ),
            )


# -- which hold data ------------------------------------------------------------------------------
def stored(store: str, array: Any) -> np.ndarray:
    """Which shards of an array are there and not empty: bool ``(bands, rows, columns)``."""
    there = storage.find(storage.join(store, array.path))
    counts, bands = _counts(array), _bands(array)
    held = np.zeros((len(bands), *counts), bool)
    for k, band in enumerate(bands):
        form = key_form(array, band)
        for i, j in np.ndindex(*counts):
            held[k, i, j] = not is_empty(there.get(form.format(i, j)))
    return held


def pack(held: np.ndarray) -> list[str]:
    """Bits of each band as text, ``rows,columns:base64``: 170 characters for a thousand shards."""
    rows, columns = held.shape[1:]
    bits = (base64.b64encode(np.packbits(band).tobytes()).decode() for band in held)
    return [f"{rows},{columns}:{text}" for text in bits]


def unpack(text: str, counts: tuple[int, int]) -> np.ndarray:
    """Bits ``(rows, columns)`` of one band; no bit for what an array has grown since."""
    shape, _, code = text.partition(":")
    rows, columns = (int(n) for n in shape.split(","))
    bits = np.frombuffer(base64.b64decode(code, validate=True), np.uint8)
    if min(rows, columns) < 1 or not 0 <= 8 * bits.size - rows * columns < 8:
        raise ValueError(f"{rows} x {columns} shards are not {8 * bits.size} bits")
    held = np.unpackbits(bits, count=rows * columns).astype(bool).reshape(rows, columns)
    out = np.zeros(counts, bool)
    out[:rows, :columns] = held[: counts[0], : counts[1]]
    return out


def held_of(group: zarr.Group, name: str, band: int | None) -> str:
    """What a group knows of the shards of a band, as `pack` wrote it; empty if it does not say."""
    known: Any = group.attrs.get(HELD)
    try:
        text = known[name][band or 0]
        unpack(text, _counts(group[name]))
        return text
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return ""


def missing(store: str, group: zarr.Group, name: str) -> tuple[int, int, bool]:
    """How many shards are missing and how many there should be, and whether it is known which.

    Older stores know the number only; a web server cannot be asked (none counts as missing).
    """
    if name not in group or not lists(store):
        return 0, 0, True
    array: Any = group[name]
    texts = [held_of(group, name, k) for k in range(len(_bands(array)))]
    if all(texts):
        wanted = np.stack([unpack(text, _counts(array)) for text in texts])
        if not wanted.any():
            return 0, 0, True
        return int((wanted & ~stored(store, array)).sum()), int(wanted.sum()), True
    counted: Any = group.attrs.get("shards", {})
    number = counted.get(name) if isinstance(counted, dict) else None
    if not isinstance(number, int):
        return 0, 0, True
    return max(number - int(stored(store, array).sum()), 0), number, False


def check(store: str, group: zarr.Group, name: str, *, keep: bool = False) -> str:
    """Raise `InputError` if shards are missing that were there when the store was completed.

    With ``keep`` a store that knows which is let pass, and what is wrong with it is returned:
    `ZarrSource.read` refuses the windows that they held.
    """
    lost, number, which = missing(store, group, name)
    if not lost:
        return ""
    text = f"{store}: {lost} of {number} shards of {name} are missing"
    if keep and which:
        return text
    raise InputError(f"{text}; the store is damaged, copy it again or make it anew")


def _bands(array: Any) -> list[int | None]:
    """The bands of an array that are stored apart; None for an array without bands."""
    if array.ndim == 2:
        return [None]
    return list(range(array.shape[0]))


def _counts(array: Any) -> tuple[int, int]:
    """Rows and columns of shards."""
    block = (array.shards or array.chunks)[-2:]
    rows, columns = (-(-n // b) for n, b in zip(array.shape[-2:], block, strict=True))
    return rows, columns
