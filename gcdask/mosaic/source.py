"""Sources: 2-D arrays that live in a file and read just the window they are asked for.

A source is a small frozen dataclass, so it can be pickled to workers and hashed to a dask token.
It opens its file for each window and closes it again. Its values are native float32 with NaN
where there is no data.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gcdask import storage
from gcdask.errors import InputError

if TYPE_CHECKING:
    from gcdask.mosaic.shards import Listing


STORES = (*storage.NEEDS, "memory")  # kinds of stores that inputs may be on


class Source:
    """Base: the array interface (``shape``, ``dtype``, ``ndim``, indexing) around `read`."""

    shape: tuple[int, int]
    ndim = 2

    @property
    def dtype(self) -> np.dtype:
        """Type of the values that `read` returns."""
        return np.dtype("float32")

    @property
    def native(self) -> tuple[int, int] | None:
        """Shape of the blocks that the file is made of; None if any window costs the same."""
        return None

    @property
    def row_tiled(self) -> bool:
        """Whether narrow windows cost as much as full-width ones (compressed row by row)."""
        native = self.native
        return native is not None and native[0] < 16 and native[1] >= self.shape[1] > 512

    @property
    def path(self) -> str:
        """The file, for messages."""
        raise NotImplementedError

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Values of the half-open, non-empty window ``[y0:y1, x0:x1]``."""
        raise NotImplementedError

    def stamp(
        self, y0: int, y1: int, x0: int, x1: int, listing: Listing | None = None
    ) -> list[Any]:
        """Identity of what is stored under a window, as plain JSON; no pixel is read.

        It changes when a file or shard that `read` would use is written again, appears or goes,
        and does not when others do (or when an array grows).

        Parameters
        ----------
        y0, y1, x0, x1 : int
            As for `read`.
        listing : Listing, optional
            What is known of the store already; give one for all windows of a mosaic.

        Raises
        ------
        InputError
            If the store cannot be asked.
        """
        raise NotImplementedError

    def __getitem__(self, key: Any) -> np.ndarray:
        """Window ``source[ys, xs]`` of slices or integers, as a new native array."""
        windows, posts = zip(
            *(_bounds(k, n) for k, n in zip(full_key(key, 2), self.shape, strict=True)), strict=True
        )
        (y0, y1), (x0, x1) = windows
        if y1 <= y0 or x1 <= x0:
            block = np.empty((max(y1 - y0, 0), max(x1 - x0, 0)), self.dtype)
        else:
            block = self.read(y0, y1, x0, x1)
        return block[posts]


def address(path: Any) -> str:
    """Path or URL of an input as text, a local one without ``file://``.

    Raises
    ------
    InputError
        If it holds credentials, or names a kind of store that is not meant to be opened: among
        those of fsspec are some that run what they read (templates), and some that chain others.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else str(path)
    try:
        storage.check_url(text)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{storage.redact(text)} is no address ({error}); correct it") from None
    if storage.is_remote(text) and ("::" in text or storage.protocol(text) not in STORES):
        raise InputError(
            f"{storage.redact(text)} is on an unknown kind of store; give a local path or one of "
            + ", ".join(f"{name}://" for name in STORES)
        )
    return re.sub(r"^(file|local)://", "", text)


def full_key(key: Any, ndim: int) -> tuple[Any, ...]:
    """Spell an index out to ``ndim`` entries."""
    key = key if isinstance(key, tuple) else (key,)
    if any(k is Ellipsis for k in key):
        at = next(i for i, k in enumerate(key) if k is Ellipsis)
        key = key[:at] + (slice(None),) * (ndim - len(key) + 1) + key[at + 1 :]
    if len(key) > ndim:
        raise IndexError(f"{len(key)} indices for {ndim} dimensions")
    return key + (slice(None),) * (ndim - len(key))


def _bounds(key: Any, size: int) -> tuple[tuple[int, int], Any]:
    """Bounding window of one index, and the index that is left within that window."""
    if isinstance(key, slice):
        span = range(*key.indices(size))
        if not span:
            return (0, 0), slice(None)
        low, high = min(span[0], span[-1]), max(span[0], span[-1]) + 1
        return (low, high), slice(span[0] - low, None, span.step)
    index = int(key)
    if not -size <= index < size:
        raise IndexError(f"index {index} is outside an axis of {size}")
    index %= size
    return (index, index + 1), 0


@dataclass(frozen=True)
class Wrapped(Source):
    """Base of what changes the values of another ``source``, on the same pixels."""

    source: Source

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """``(ny, nx)``."""
        return self.source.shape

    @property
    def native(self) -> tuple[int, int] | None:
        """See `Source.native`."""
        return self.source.native

    @property
    def path(self) -> str:
        """See `Source.path`."""
        return self.source.path


@dataclass(frozen=True)
class Scaled(Wrapped):
    """A source times a factor (a change of units)."""

    factor: float

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """See `Source.read`."""
        return self.source.read(y0, y1, x0, x1) * np.float32(self.factor)

    def stamp(
        self, y0: int, y1: int, x0: int, x1: int, listing: Listing | None = None
    ) -> list[Any]:
        """See `Source.stamp`."""
        return ["scaled", self.factor, self.source.stamp(y0, y1, x0, x1, listing)]


@dataclass(frozen=True)
class Weighted(Wrapped):
    """A source without data (NaN) where its weight is not finite and positive."""

    weight: Source

    @property
    def native(self) -> tuple[int, int] | None:
        """See `Source.native`."""
        return self.weight.native if self.weight.row_tiled else self.source.native

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """See `Source.read`."""
        weight = self.weight.read(y0, y1, x0, x1)
        good = np.isfinite(weight) & (weight > 0)
        return np.where(good, self.source.read(y0, y1, x0, x1), np.float32(np.nan))

    def stamp(
        self, y0: int, y1: int, x0: int, x1: int, listing: Listing | None = None
    ) -> list[Any]:
        """See `Source.stamp`."""
        both = (part.stamp(y0, y1, x0, x1, listing) for part in (self.source, self.weight))
        return ["weighted", *both]


@dataclass(frozen=True)
class Stack:
    """The sources of all bands as one array ``(band, y, x)``, for `dask.array.from_array`."""

    layers: tuple[Source, ...]
    ndim = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(band, y, x)``."""
        return (len(self.layers), *self.layers[0].shape)

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return self.layers[0].dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read the window of the bands asked for."""
        band, *window = full_key(key, 3)
        if not isinstance(band, slice):
            return self.layers[int(band)][tuple(window)]
        chosen = self.layers[band]
        if not chosen:
            return np.empty((0, *self.layers[0][tuple(window)].shape), self.dtype)
        return np.stack([layer[tuple(window)] for layer in chosen])
