"""Ingest: any images into one zarr 3 store, shard by shard.

Strategy: one task per shard reads its own window and writes its own shard, so memory does not
depend on the field, and no two tasks share a shard. Files that are compressed row by row are read
in strips of full width instead: each window of them costs as much as whole rows. The group says
``complete: false`` until the last shard is written, so that no reader takes half a store.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dask
import numpy as np
import zarr
from dask.base import tokenize

from gcdask import storage
from gcdask.errors import InputError
from gcdask.mosaic import fitsio, shards
from gcdask.mosaic.opening import Paths, Sources, open_sources
from gcdask.mosaic.source import Source, address
from gcdask.mosaic.store import (
    check_room,
    clear,
    codecs,
    consolidate,
    inner_chunk,
    is_store,
    place,
    write_coordinates,
)


def ingest(
    out: str | os.PathLike,
    bands: Paths,
    *,
    err: Paths | None = None,
    weight: Paths | None = None,
    chunks: int = 2048,
    unit: str | Mapping[str, str] | None = None,
    align: str = "refuse",
    overwrite: bool = False,
    compressor: Any = "lz4",
) -> str:
    """Write a mosaic into a zarr 3 store, for fast reading in any window.

    Runs on the active dask scheduler. Gzipped FITS are unpacked, once, into a temporary folder
    beside the store. A worker needs the memory of a few shards (of one strip of ``chunks`` full
    rows for files that are compressed row by row).

    Parameters
    ----------
    out : path or URL
        The store to make; readable by `open_mosaic` and by plain ``xarray.open_zarr``.
    bands : path or {band: path}
        The images; this, ``err``, ``weight``, ``unit`` and ``align`` as in `open_sources`.
    chunks : int
        Side of the shards in pixels, a multiple of 256; inner chunks are 512 or 256.
    overwrite : bool
        Replace an existing store; a local one stays until the new one is complete.
    compressor : "lz4", "zstd", "none" or zarr codecs
        Lossless compression of the pixels: zstd gains 2 % of space and reads three times slower.

    Returns
    -------
    str
        ``out``.

    Raises
    ------
    InputError
        As `open_sources`; an existing store; a band without a single finite pixel.
    """
    store = address(out)
    if chunks < 256 or chunks % 256:
        raise InputError(f"chunks = {chunks} is not a multiple of 256; use e.g. 2048 or 4096")
    codecs(compressor)  # a mistake is told before the work
    used = [_real(p) for p in _all_paths(bands, err, weight) if is_store(p)]
    if _real(store) in used:
        raise InputError(f"{store} is input and output; give another output path")
    with _unpacked(store, bands, err, weight) as (images, errors, weights):
        sources = open_sources(images, err=errors, weight=weights, unit=unit, align=align)
        with _replacing(store, overwrite):
            create_mosaic(store, sources, chunks, compressor=compressor)
            try:
                _fill(store, sources, chunks)
            except InputError:
                clear(store, True)
                raise
            finish_mosaic(store)
    return store


def _real(path: str) -> str:
    return path.rstrip("/") if storage.is_remote(path) else os.path.realpath(path)


@contextmanager
def _replacing(store: str, overwrite: bool) -> Iterator[None]:
    """Make room for a store; a local one that is replaced is put back if anything goes wrong."""
    check_room(store, overwrite)
    if storage.is_remote(store) or not os.path.exists(store):
        clear(store, overwrite)
        yield
        return
    kept = f"{store.rstrip('/')}.old"
    if os.path.exists(kept):
        raise InputError(
            f"{kept} is there, left by an ingest that was killed; remove it, or move it back"
        )
    os.rename(store, kept)
    try:
        yield
    except BaseException:
        shutil.rmtree(store, ignore_errors=True)
        os.rename(kept, store)
        raise
    shutil.rmtree(kept)


def create_mosaic(
    store: str, sources: Sources, chunks: int = 2048, *, compressor: Any = "lz4"
) -> None:
    """Make an empty mosaic with the bands, grid and unit of ``sources``, still incomplete.

    Fill ``sci`` (and ``err``), one whole shard of ``chunks`` px a task, then call `finish_mosaic`.
    """
    compressors = codecs(compressor)
    wcs, token = sources.grid.header, tokenize(sources, chunks)
    group = zarr.open_group(
        **place(store), mode="w", zarr_format=3, attributes={"complete": False, "wcs": wcs}
    )
    write_coordinates(group, store, sources.grid)
    names: Any = np.array(sources.bands, np.dtypes.StringDType())
    band = group.create_array("band", shape=names.shape, dtype=str, dimension_names=("band",))
    band[:] = names
    for name in ("sci",) if sources.err is None else ("sci", "err"):
        group.create_array(
            name,
            shape=(len(sources.bands), *sources.grid.shape),
            dtype="float32",
            shards=(1, chunks, chunks),
            chunks=(1, inner_chunk(chunks), inner_chunk(chunks)),
            compressors=compressors,
            fill_value=np.nan,
            dimension_names=("band", "y", "x"),
            attributes={"units": sources.units, "wcs": wcs, "token": token},
        )


def finish_mosaic(store: str) -> None:
    """Mark a mosaic as complete: the last thing that is written."""
    group = zarr.open_group(**place(store), mode="r+", use_consolidated=False)
    held = {name: shards.stored(store, group[name]) for name in ("sci", "err") if name in group}
    known = {name: shards.pack(bits) for name, bits in held.items()}
    group.attrs.update({"complete": True, shards.HELD: known})
    consolidate(store)


def _fill(store: str, sources: Sources, chunks: int) -> None:
    """Copy all pixels; `InputError` for a band that has none."""
    ny, nx = sources.grid.shape
    copy = dask.delayed(_copy, pure=False, traverse=False)
    tasks, names = [], []
    for name in ("sci", "err"):
        for i, source in enumerate(getattr(sources, name) or ()):
            wide = nx if source.row_tiled else chunks
            shared = dask.delayed(source, traverse=False, name=f"{name}-{i}-{tokenize(source)}")
            for y in range(0, ny, chunks):
                for x in range(0, nx, wide):
                    window = (y, min(y + chunks, ny), x, min(x + wide, nx))
                    tasks.append(copy(shared, store, name, i, window))
                    names.append((name, i))
    good: dict[tuple[str, int], int] = {}
    for key, count in zip(names, dask.compute(*tasks), strict=True):
        good[key] = good.get(key, 0) + count
    for (name, i), count in good.items():
        if count == 0:
            source = (sources.sci if name == "sci" else sources.err or ())[i]
            raise InputError(
                f"band {sources.bands[i]} ({name}, {source.path}) has no finite pixel; "
                "give another file, or leave the band out"
            )


def _copy(
    source: Source, store: str, name: str, band: int, window: tuple[int, int, int, int]
) -> int:
    """Read one window of whole shards and write it; returns how many pixels are finite."""
    y0, y1, x0, x1 = window
    data = source.read(y0, y1, x0, x1)
    array: Any = zarr.open_array(**place(store), path=name, mode="r+")
    array[band, y0:y1, x0:x1] = data
    return int(np.isfinite(data).sum())


# -- gzip -----------------------------------------------------------------------------------------
def _all_paths(*groups: Paths | None) -> Iterator[str]:
    for group in groups:
        if isinstance(group, Mapping):
            yield from (address(path) for path in group.values())
        elif group is not None:
            yield address(group)


@contextmanager
def _unpacked(store: str, *groups: Paths | None) -> Iterator[list[Any]]:
    """Replace gzipped FITS by unpacked copies, which live as long as the context."""
    packed = []
    for path in dict.fromkeys(_all_paths(*groups)):
        if not is_store(path):
            file = fitsio.split_extension(path)[0]
            fitsio.check_file(file)
            if file not in packed and fitsio.is_gzip(file):
                packed.append(file)
    if not packed:
        yield list(groups)
        return
    beside = None if storage.is_remote(store) else os.path.dirname(os.path.abspath(store))
    if beside is not None:
        os.makedirs(beside, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".gcdask-unpacked-", dir=beside) as folder:
        copies = {
            file: _gunzip(file, os.path.join(folder, f"{i}-{storage.basename(file)}"))
            for i, file in enumerate(packed)
        }

        def swap(path: str | os.PathLike) -> str:
            file = fitsio.split_extension(address(path))[0]
            return copies.get(file, file) + address(path)[len(file) :]

        try:
            yield [
                {band: swap(path) for band, path in group.items()}
                if isinstance(group, Mapping)
                else None
                if group is None
                else swap(group)
                for group in groups
            ]
        except InputError as error:
            text = str(error)
            for file, unpacked in copies.items():
                text = text.replace(unpacked, file)  # name the user's file, not our copy
            raise InputError(text) from error


def _gunzip(file: str, copy: str) -> str:
    copy = copy.removesuffix(".gz")
    try:
        with (
            storage.told(file),
            storage.filesystem(file)[0].open(storage.filesystem(file)[1], "rb") as raw,
            gzip.open(raw) as stream,
            open(copy, "wb") as target,
        ):
            shutil.copyfileobj(stream, target, 1 << 22)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{file} is truncated or damaged gzip ({error}); fetch it again"
        ) from error
    return copy
