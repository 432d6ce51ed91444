"""Files between astropy and the bytes of a FITS file: remote ones, and headers of strangers."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from fsspec.asyn import sync

from gcdask import storage
from gcdask.errors import InputError

BLOCK = 1 << 15  # bytes that a read fetches at least: a header and the one behind it
AT_ONCE = 16  # requests; small servers turn more away
AHEAD = 1 << 22  # bytes that it fetches at most beyond what was asked, when reads follow each other
GAP = 1 << 14  # bytes between two pieces that are rather fetched than asked around
# Sizes that nobody means: too many axes or columns, or less than nothing
ODD = re.compile(
    rb"(?:(?:Z?NAXIS|TFIELDS) *= *\+?\d{4,}|(?:Z?NAXIS\d*|[PG]COUNT|TFIELDS|THEAP) *= *-\d+)", re.I
)
PATIENCE = 30.0  # seconds that a store has to say what it knows of a file


class RangeFile(io.RawIOBase):
    """A file on a remote store, open for reading; it keeps what it has fetched.

    Parameters
    ----------
    path : str
        URL of the file.
    size : int
        Its size in bytes.
    """

    def __init__(self, path: str, size: int):
        self._path, self._size = path, size
        self._fs, self._root = storage.filesystem(path)
        self._at, self._ahead = 0, BLOCK
        self._starts: list[int] = []
        self._pieces: list[bytes] = []

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Bytes from the position on; fewer at the end of the file."""
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        data = self._known(self._at, end)
        if data is None:
            follows = self._known(self._at - 1, self._at) is not None
            self._ahead = min(2 * self._ahead, AHEAD) if follows else BLOCK
            self.fetch([(self._at, min(max(end, self._at + self._ahead), self._size))])
            data = self._known(self._at, end)
            assert data is not None
        self._at = end
        return data

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Get byte ranges ``(start, stop)``, many at the same time."""
        wanted = [(a, b) for a, b in ((a, min(b, self._size)) for a, b in ranges) if a < b]
        if not wanted:
            return
        with storage.told(self._path):
            found = self._fs.cat_ranges(
                [self._root] * len(wanted),
                *map(list, zip(*wanted, strict=True)),
                on_error="raise",
                batch_size=AT_ONCE,
            )
        for (start, stop), data in zip(wanted, found, strict=True):
            if len(data) != stop - start:
                raise InputError(
                    f"{storage.redact(self._path)}: {len(data)} bytes came for {stop - start}: its "
                    "server sends no ranges, or the file changed; copy it to a disk"
                )
            at = bisect_right(self._starts, start)
            self._starts.insert(at, start)
            self._pieces.insert(at, data)

    def _known(self, start: int, stop: int) -> bytes | None:
        at = bisect_right(self._starts, start) - 1
        if at < 0:
            return None
        first, data = self._starts[at], self._pieces[at]
        return data[start - first : stop - first] if stop <= first + len(data) else None


class HeaderFile(io.RawIOBase):
    """A FITS file whose headers are looked at before astropy has them.

    It counts to ``NAXIS`` and ``TFIELDS`` whatever they are, which takes minutes for 1e9, and goes
    backwards in the file, again and again, where a size is negative.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._stream.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        return self._stream.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        """Bytes from the position on."""
        data = self._stream.read(size)
        if found := ODD.search(data):
            raise ValueError(f"its header says {' '.join(found[0].decode().split())}")
        return data


def remote_info(path: str, *, missing: bool = True) -> dict[str, Any]:
    """What a store says of a file or folder, within bounded time.

    Raises
    ------
    InputError
        If there is none (FileNotFoundError without ``missing``), its store refuses to tell, or
        cannot be reached.
    """
    fs, root = storage.filesystem(path)
    with storage.told(path, missing=missing):
        try:
            if getattr(fs, "async_impl", False) and not fs.asynchronous:
                return sync(fs.loop, fs._info, root, timeout=PATIENCE)
            return fs.info(root)
        except FileNotFoundError as error:
            # of a web server: whatever went wrong is told as a missing file
            cause = error.__cause__
            status = getattr(cause, "status", 404)
            if status in (401, 403):
                raise PermissionError(f"{status} {getattr(cause, 'message', '')}") from None
            if cause is not None and status not in (404, 410):
                raise OSError(f"{status} {getattr(cause, 'message', '')}") from None
            if isinstance(cause, OSError):  # no connection
                raise cause from None
            raise


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join sorted ranges where the gap between two is small, or no larger than they are."""
    out: list[tuple[int, int]] = []
    for start, stop in ranges:
        if out and start - out[-1][1] <= max(stop - start, GAP) and stop - out[-1][0] <= AHEAD:
            out[-1] = (out[-1][0], stop)
        else:
            out.append((start, stop))
    return out
