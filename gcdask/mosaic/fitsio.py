"""FITS images: which HDU, its grid and unit, and reading windows of it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import log as astropy_log
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS

from gcdask import storage
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic.ranges import HeaderFile, RangeFile, merged, remote_info
from gcdask.mosaic.shards import Listing
from gcdask.mosaic.source import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitsSource(Source):
    """A 2-D image of a FITS file, plain or tile-compressed.

    BSCALE, BZERO and BLANK are applied; infinite pixels become NaN unless ``as_is``. ``made``
    (size with time of change or ETag) and ``head`` (digest of the headers) make the dask token of
    an altered file a new one. ``cut`` says that the file ends before its pixels do.
    """

    file: str
    hdu: int
    shape: tuple[int, int]
    made: str
    size: int
    head: str
    block: tuple[int, int] | None = None
    leading: int = 0
    kind: str = "float32"
    as_is: bool = False
    cut: bool = False

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return np.dtype(self.kind)

    @property
    def native(self) -> tuple[int, int] | None:
        """Shape of the compressed tiles."""
        return self.block

    @property
    def path(self) -> str:
        """The file."""
        return self.file

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """See `Source.read`."""
        # `.section` reads the rows' pieces only; `.data` would map or decompress all of it
        try:
            stream = RangeFile(self.file, self.size) if storage.is_remote(self.file) else None
            quiet = _quiet() if self.cut else contextlib.nullcontext()  # it was told when opened
            with quiet, _hdus(self.file if stream is None else stream) as hdus:
                if stream is not None and self.block is None:
                    stream.fetch(_rows(hdus[self.hdu], (y0, y1, x0, x1), self.shape[1]))
                section = hdus[self.hdu].section
                window = section[(0,) * self.leading + (slice(y0, y1), slice(x0, x1))]
                with np.errstate(over="ignore"):
                    out = np.array(window, self.dtype)  # native byte order, and free of the file
        except (MemoryError, InputError):
            raise
        except Exception as error:  # astropy's, cfitsio's, the file system's
            raise InputError(
                f"{self.file}: pixels [{y0}:{y1}, {x0}:{x1}] (y, x) cannot be read "
                f"({_reason(error)}); fetch it again"
            ) from error
        if not self.as_is and out.dtype.kind == "f":
            out[np.isinf(out)] = np.nan
        return out

    def stamp(
        self, y0: int, y1: int, x0: int, x1: int, listing: Listing | None = None
    ) -> list[Any]:
        """See `Source.stamp`: the file's size with its time or ETag; any window is all of it."""
        listing = Listing() if listing is None else listing
        return [self.hdu, self.head, listing.state(self.file)]


@dataclass(frozen=True)
class Image:
    """What the header of an image tells: its source, WCS, unit (raw BUNIT) and filter."""

    source: FitsSource
    label: str
    grid: Grid | None
    unit: str | None
    filter: str | None


def inspect(
    path: str,
    *,
    prefer: tuple[str, ...] = ("SCI",),
    natural: bool = False,
    need_wcs: bool = True,
    damaged: str = "refuse",
) -> Image:
    """Find the image of a FITS file and check all that its headers tell; no pixel is read.

    Parameters
    ----------
    path : str
        File, with ``[EXTNAME]`` or ``[number]`` behind it to choose an HDU. Without: the first
        2-D image, but rather one whose EXTNAME is in ``prefer``.
    natural : bool
        Keep type and values of the file (maps, masks) instead of float32 with NaN = no data.
    need_wcs : bool
        Whether a missing WCS is an error.
    damaged : {"refuse", "keep", "look"}
        A file that is cut off in its pixels: refuse it, or warn, and refuse windows of what it
        lacks when they are read. With "look" nothing is said.

    Raises
    ------
    InputError
        Missing, not FITS, gzipped, truncated, no such HDU, not 2-D, no celestial WCS.
    """
    file, extension = split_extension(path)
    made, size = check_file(file)
    if is_gzip(file):
        raise InputError(
            f"{file} is gzipped and cannot be read in windows; run `gcdask ingest` on it first "
            "(or gunzip it)"
        )
    try:
        with _quiet():  # headers are mended while they are read
            index, hdu, names, needs = _look(file, size, extension, prefer)
            header, full = hdu.header, tuple(int(n) for n in hdu.shape)
            tiles = tuple(int(n) for n in getattr(hdu, "tile_shape", ()))[-2:]
            kind = _natural_type(header) if natural else "float32"
            unit, band = header.get("BUNIT"), header.get("FILTER", names.get("FILTER"))
            head = _digest(names, header)
    except InputError:
        raise
    except Exception as error:  # as in `open_fits`
        raise _unreadable(file, error) from error
    if cut := size < needs:
        _tell_cut(file, size, needs, damaged)
    label = file if extension is None else f"{file}[{extension}]"
    shape, leading = (full[-2], full[-1]), len(full) - 2
    block = (tiles[0], tiles[1]) if tiles else None
    source = FitsSource(file, index, shape, made, size, head, block, leading, kind, natural, cut)
    return Image(
        source,
        label,
        _grid(header, shape, label, need_wcs),
        None if unit is None else str(unit),
        None if band is None else str(band).strip().lower(),
    )


def _tell_cut(file: str, size: int, needs: int, damaged: str) -> None:
    """Refuse a file that ends before its pixels do, or warn of it."""
    text = f"{file} is truncated: {size} bytes, but its header announces {needs}"
    if damaged == "refuse":
        raise InputError(f"{text}; fetch it again")
    if damaged == "keep":
        log.warning("%s; what is there is used", text)


def _look(
    file: str, size: int, extension: str | int | None, prefer: tuple[str, ...]
) -> tuple[int, Any, fits.Header, int]:
    """The HDU of the image: its number, itself, the primary header, and where its data end."""
    with opened(file, size) as stream:
        with _hdus(HeaderFile(stream)) as hdus:
            index = _choose(hdus, file, extension, prefer)
            hdu, names = hdus[index], hdus[0].header
        stream.seek(0)
        with _hdus(HeaderFile(stream), disable_image_compression=True) as hdus:
            table, tiles = hdus[index], getattr(hdu, "tile_shape", None)
            if tiles and table.header["NAXIS2"] != math.prod(map(_ceil_div, hdu.shape, tiles)):
                raise ValueError(f"{table.header['NAXIS2']} tiles for an image of {hdu.shape}")
            return index, hdu, names, table.fileinfo()["datLoc"] + table.size


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def opened(file: str, size: int) -> Any:
    """The bytes of a file, unpacked if it is gzipped."""
    raw: Any = RangeFile(file, size) if storage.is_remote(file) else io.FileIO(file)
    return gzip.open(raw) if is_gzip(file) else raw


def _reason(error: Exception) -> str:
    """First clause of astropy's message, without its advice."""
    text = re.split(r"[,;\n]|\. ", str(error).strip())[0][:80]
    return "".join(c if c.isprintable() else "?" for c in text) or type(error).__name__


def _digest(*headers: fits.Header) -> str:
    text = "\n".join(header.tostring(sep="\n") for header in headers)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def split_extension(path: str) -> tuple[str, str | int | None]:
    """Split ``"x.fits[SCI]"`` into the file and the HDU (name or number, None if not given)."""
    file, part = storage.split_part(path)
    if part is None:
        return file, None
    name = part.strip().strip("'\"")
    return file, int(name) if name.isdigit() else name


def check_file(file: str) -> tuple[str, int]:
    """Identity (size with time of change or ETag) and size of a file, or `InputError`."""
    storage.check_url(file)
    if storage.is_remote(file):
        info = remote_info(file)
        if info.get("type") == "directory":
            raise InputError(f"{file} is a folder, neither a FITS file nor a zarr store")
        if info.get("size") is None:
            raise InputError(f"the server of {file} does not tell its size; copy it to a disk")
        return storage.stamp(info), int(info["size"])
    if not os.path.exists(file):
        raise InputError(f"{file} does not exist; check the path")
    if os.path.isdir(file):
        raise InputError(
            f"{file} is a folder, neither a FITS file nor a zarr store; check the path"
        )
    storage.check_regular(file)
    return storage.state(file)["stamp"], os.path.getsize(file)


def is_gzip(file: str) -> bool:
    """Whether the file begins like gzip, whatever its name."""
    if storage.is_remote(file):
        with storage.told(file):
            system, root = storage.filesystem(file)
            return system.cat_file(root, start=0, end=2) == b"\x1f\x8b"
    with open(file, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextlib.contextmanager
def open_fits(file: str) -> Iterator[fits.HDUList]:
    """Open a FITS file for looking at its headers; any failure there is an `InputError`."""
    try:
        with _quiet(), opened(file, check_file(file)[1]) as stream, _hdus(HeaderFile(stream)) as h:
            yield h
    except (InputError, MemoryError):
        raise
    except Exception as error:  # astropy fails in many ways on a damaged header
        raise _unreadable(file, error) from error


@contextlib.contextmanager
def _hdus(what: Any, **options: Any) -> Iterator[fits.HDUList]:
    # memmap stays at its default: explicitly True refuses images with BZERO or BLANK
    with fits.open(what, mode="readonly", **options) as hdus:
        yield hdus


def _unreadable(file: str, error: Exception) -> InputError:
    return InputError(
        f"{file} is not a readable FITS file ({_reason(error)}); check the path, or fetch it again"
    )


def _rows(hdu: Any, window: tuple[int, int, int, int], width: int) -> list[tuple[int, int]]:
    """Byte ranges of a window of a plain image, to be fetched at once rather than row by row."""
    y0, y1, x0, x1 = window
    begin, size = hdu.fileinfo()["datLoc"], abs(int(hdu.header["BITPIX"])) // 8
    rows = (begin + y * width * size for y in range(y0, y1))
    return merged((row + x0 * size, row + x1 * size) for row in rows)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without astropy's warnings: what matters (truncation) is an error here, dates do not."""
    level = astropy_log.level
    astropy_log.setLevel(logging.ERROR)  # below it writes to standard output
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            yield
    finally:
        astropy_log.setLevel(level)


def _choose(
    hdus: fits.HDUList, file: str, extension: str | int | None, prefer: tuple[str, ...]
) -> int:
    """Index of the HDU to read."""
    count = len(hdus)
    names = [f"{i}:{hdus[i].name}" for i in range(count)]
    if extension is not None:
        found = [
            i for i in range(count) if extension in (i, hdus[i].name) or _same(hdus[i], extension)
        ]
        if not found:
            raise InputError(f"{file} has no HDU [{extension}]; it has {', '.join(names)}")
        if _plane(hdus[found[0]]) is None:
            raise InputError(
                f"{file}[{extension}] is not a 2-D image ({_describe(hdus[found[0]])}); "
                f"choose another of {', '.join(names)}"
            )
        return found[0]
    planes = [i for i in range(count) if _plane(hdus[i]) is not None]
    if not planes:
        found_there = "; ".join(f"{n} {_describe(hdus[i])}" for i, n in enumerate(names))
        raise InputError(f"{file} has no 2-D image ({found_there}); give a file with one")
    preferred = [i for i in planes if hdus[i].name in prefer]
    return (preferred or planes)[0]


def _same(hdu: Any, extension: str | int) -> bool:
    """Whether ``"NAME"`` or ``"NAME,version"`` names this HDU."""
    name, _, version = str(extension).upper().partition(",")
    return hdu.name == name.strip() and (not version or hdu.ver == int(version))


def _plane(hdu: Any) -> tuple[int, int] | None:
    """Shape of a 2-D image (longer axes of length 1 squeezed), or None."""
    shape = tuple(getattr(hdu, "shape", None) or ()) if hdu.is_image else ()
    if len(shape) < 2 or any(n != 1 for n in shape[:-2]) or min(shape) < 1:
        return None
    return int(shape[-2]), int(shape[-1])


def _describe(hdu: Any) -> str:
    shape = tuple(int(n) for n in getattr(hdu, "shape", None) or ()) if hdu.is_image else None
    return "a table" if shape is None else f"shape {shape}" if shape else "empty"


def _grid(header: fits.Header, shape: tuple[int, int], label: str, need_wcs: bool) -> Grid | None:
    """Grid of an image from its header."""
    tables = [k for k in header if re.match(r"(CPDIS|CQDIS|D2IMDIS)\d", k)]
    if tables:
        raise InputError(
            f"{label}: its WCS has distortion tables ({tables[0]}), which a mosaic cannot keep; "
            "drizzle or resample the image first"
        )
    try:
        with _quiet():
            wcs = WCS(header)
            names = [str(name)[:8] for name in wcs.wcs.ctype]
            if wcs.sip is not None and names[:2] != ["RA---TAN", "DEC--TAN"]:
                raise InputError(
                    f"its WCS has SIP terms, but CTYPE {names}; mend the header, SIP is for TAN"
                )
            grid = Grid.from_wcs(wcs, shape)
            _ = grid.wcs  # cards that cannot be read back fail here rather than later
            return grid
    except InputError as error:
        if not need_wcs:
            return None
        raise InputError(f"{label}: {error}") from error
    except Exception as error:  # wcslib raises a family of its own
        reason = str(error).strip().splitlines()[-1][:100]
        raise InputError(f"{label}: its WCS cannot be read ({reason}); mend the header") from error


def _natural_type(header: fits.Header) -> str:
    """Type that keeps the values of the file as they are."""
    bitpix, zero = int(header["BITPIX"]), float(header.get("BZERO", 0))
    if bitpix < 0:
        return "float32" if bitpix == -32 else "float64"
    if "BLANK" in header or float(header.get("BSCALE", 1)) != 1:
        return "float32" if bitpix <= 16 else "float64"
    signed = {8: "uint8", 16: "int16", 32: "int32", 64: "int64"}[bitpix]
    if zero == 0:
        return signed
    if bitpix > 8 and zero == 2.0 ** (bitpix - 1):
        return f"u{signed}"
    return "float32" if bitpix <= 16 else "float64"
