"""Zarr 3 stores: maps and mosaics on disk, written in whole shards.

One shard is one task's work: two tasks that write parts of the same shard lose pixels silently,
so everything here is aligned with shards, and refused where it is not.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from gcdask import storage
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic import shards
from gcdask.mosaic.source import Source, address

INNER = (512, 256)  # preferred inner chunks (px): what one small read decodes


@dataclass(frozen=True)
class ZarrSource(Source):
    """A ``(y, x)`` array of a zarr store, or one band of a ``(band, y, x)`` array.

    ``made`` makes the dask token of an array that was written again a new one; ``form`` is the key
    of its shards and ``layout`` how they are encoded; ``held`` says which of them hold data
    (empty: not known), see `gcdask.mosaic.shards`.
    """

    store: str
    name: str
    band: int | None
    shape: tuple[int, int]
    block: tuple[int, int]
    made: str
    kind: str = "float32"
    form: str = ""
    layout: str = ""
    held: str = ""

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return np.dtype(self.kind)

    @property
    def native(self) -> tuple[int, int] | None:
        """Shape of the shards (chunks, if not sharded)."""
        return self.block

    @property
    def path(self) -> str:
        """The store and the name within."""
        return storage.join(self.store, self.name)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """See `Source.read`."""
        key = (slice(y0, y1), slice(x0, x1))
        try:
            array: Any = zarr.open_array(**place(self.store), path=self.name, mode="r")
            window = array[key] if self.band is None else array[(self.band, *key)]
            self._check_held(window, (y0, y1, x0, x1), array.fill_value)
        except MemoryError:
            raise
        except Exception as error:  # every store and codec has its own
            raise InputError(
                f"{self.path}: pixels [{y0}:{y1}, {x0}:{x1}] (y, x) cannot be read "
                f"({reason(error)}); the store is damaged, copy it again or make it anew"
            ) from error
        return np.asarray(window, self.dtype)

    def stamp(
        self, y0: int, y1: int, x0: int, x1: int, listing: shards.Listing | None = None
    ) -> list[Any]:
        """See `Source.stamp`: each shard's key with its size and time or ETag."""
        listing = shards.Listing() if listing is None else listing
        keys = [self.form.format(i, j) for i, j, _ in self._touched((y0, y1, x0, x1))]
        return [self.layout, [[key, listing.shard(self.path, key)] for key in keys]]

    def _touched(self, window: tuple[int, int, int, int]) -> Iterator[Any]:
        return shards.touched(window, self.block)

    def _check_held(self, window: Any, where: tuple[int, int, int, int], fill: Any) -> None:
        """Raise if a shard that held data is gone: zarr reads it as if it had none."""
        if not self.held:
            return
        counts = tuple(-(-n // b) for n, b in zip(self.shape, self.block, strict=True))
        held, listing = shards.unpack(self.held, (counts[0], counts[1])), shards.Listing()
        for i, j, part in self._touched(where):
            if held[i, j] and _is_fill(window[part], fill):
                key = self.form.format(i, j)
                if shards.is_empty(listing.shard(self.path, key)):
                    raise FileNotFoundError(f"shard {key} is missing or empty")


def _is_fill(part: np.ndarray, fill: Any) -> bool:
    """Whether there is nothing but the fill value; a look at a few pixels mostly tells."""
    for pixels in (part[::64, ::64], part):
        same = np.isnan(pixels) if pixels.dtype.kind == "f" and np.isnan(fill) else pixels == fill
        if not same.all():
            return False
    return True


def place(store: str) -> dict[str, Any]:
    """Where a store is, as arguments of zarr's functions."""
    return {"store": store, "storage_options": storage.options(store) or None}


def is_store(path: str) -> bool:
    """Whether the path names a zarr store (by what it holds, or else by its name)."""
    if path.rstrip("/").endswith(".zarr"):
        return True
    if storage.is_remote(path):
        file = storage.split_part(path)[0].lower()
        plain = re.search(r"\.(fits?|fz|gz|parquet|pq|ecsv|csv|par|reg)$", file)
        return not plain and storage.exists(storage.join(path, "zarr.json"))
    return any(os.path.exists(os.path.join(path, f)) for f in ("zarr.json", ".zgroup"))


def open_group(store: str) -> zarr.Group:
    """Open a store for reading; `InputError` if it is none or was never finished."""
    storage.check_url(store)
    if not storage.is_remote(store) and not os.path.exists(store):
        raise InputError(f"{store} does not exist; check the path")
    try:
        with storage.told(store, missing=storage.is_remote(store)):
            # web servers list nothing: there the copy of all metadata says what the group holds
            group = zarr.open_group(
                **place(store), mode="r", use_consolidated=not shards.lists(store)
            )
            for name in array_names(group):  # reads the arrays' metadata
                check_codecs(store, group[name])
    except InputError:
        raise
    except Exception as error:  # every kind of store has its own
        raise InputError(
            f"{store} is not a readable zarr group ({reason(error)}); check the path, or copy the "
            "store again"
        ) from error
    if group.attrs.get("complete", True) is False:
        raise InputError(
            f"{store} is incomplete: its writing was interrupted; write it again with overwrite"
        )
    return group


def check_codecs(store: str, array: Any) -> None:
    """Raise `InputError` for an array of Python objects: reading one may run what is in it."""
    known = array.metadata.to_dict()
    codecs: list[Any] = [known.get("compressor"), *(known.get("filters") or ())]
    codecs += known.get("codecs") or ()
    text = json.dumps(codecs, default=str).lower()
    if "pickle" in text:
        raise InputError(
            f"{store}: {array.path} holds pickled Python objects, which are never read; "
            "write it again with plain numbers or text"
        )


def array_names(group: zarr.Group) -> list[str]:
    """Names of the arrays of a group, sorted; other files beside them are passed over."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at .* is not recognized as a component")
        return sorted(group.array_keys())


def reason(error: Exception) -> str:
    """First clause of another library's message."""
    return " ".join(storage.redact(str(error)).split())[:80] or type(error).__name__


def source_of(store: str, group: zarr.Group, name: str, band: int | None, kind: str) -> ZarrSource:
    """Source for one 2-D array of an open group, or one band of a 3-D one."""
    array: Any = group[name]
    block = array.shards or array.chunks
    return ZarrSource(
        store,
        name,
        band,
        tuple(array.shape[-2:]),
        tuple(block[-2:]),
        _made(store, array),
        kind,
        shards.key_form(array, band),
        shards.layout(array),
        shards.held_of(group, name, band),
    )


def grid_of(group: zarr.Group, name: str, store: str) -> Grid:
    """Grid of an array of a group, from its WCS and the coordinates beside it."""
    array: Any = group[name]
    wcs = array.attrs.get("wcs", group.attrs.get("wcs"))
    if not wcs:
        raise InputError(f"{store}: {name} has no WCS (attribute wcs); write it with gcdask.ingest")
    if not {"x", "y"} <= set(array_names(group)):
        return Grid(tuple(array.shape[-2:]), str(wcs))
    for axis in ("y", "x"):
        check_codecs(store, group[axis])
    y, x = (np.asarray(group[axis][:]) for axis in ("y", "x"))  # type: ignore[index]
    step = round(float(y[1] - y[0])) if y.size > 1 else 1
    if step < 1 or any(np.any(np.diff(axis) != step) for axis in (y, x)):
        raise InputError(
            f"{store}: its coordinates y and x do not count pixels; the store is damaged, copy it "
            "again or make it anew"
        )
    return Grid((y.size, x.size), str(wcs), (y[0].item(), x[0].item()), step)


def create_array(
    store: str | os.PathLike,
    name: str,
    grid: Grid,
    dtype: Any,
    units: str,
    shard: int = 4096,
    fill: Any = None,
    *,
    attrs: dict[str, Any] | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Make an empty map in a zarr 3 group, to be filled tile by tile with `write_tile`.

    The group gets the coordinates ``y`` and ``x`` with its first map; all maps of a group share
    them. Readable by `open_map` and by plain ``xarray.open_zarr``.

    Parameters
    ----------
    store : str
        Path or URL of the group; it is made if it does not exist.
    grid : Grid
        Shape ``(ny, nx)``, coordinates and WCS.
    shard : int
        Side of a shard in pixels, i.e. of the tiles that will be written.
    fill : optional
        Value of what is never written; NaN for floats and 0 otherwise by default.
    overwrite, resume : bool
        An existing array is replaced, or kept with what it holds if it is alike.

    Raises
    ------
    InputError
        If the array exists, or the group is on another grid.
    """
    store, dtype = address(store), np.dtype(dtype)
    if shard < 1:
        raise InputError(
            f"shard = {shard} is not positive; give the tile size in pixels, e.g. 4096"
        )
    group = zarr.open_group(**place(store), mode="a", zarr_format=3, use_consolidated=False)
    if name in group and not overwrite:
        array: Any = group[name]
        alike = (
            array.shape == grid.shape and array.dtype == dtype and array.shards == (shard, shard)
        )
        if not resume:
            raise InputError(f"{store} has {name} already; give overwrite=True or another name")
        if alike and array.attrs.get("wcs") == grid.header:
            return
        raise InputError(
            f"{store}: {name} was made with another shape, type, shard or WCS; give overwrite=True"
        )
    write_coordinates(group, store, grid)
    if fill is None:
        fill = np.nan if dtype.kind == "f" else 0
    group.create_array(
        name,
        shape=grid.shape,
        dtype=dtype,
        shards=(shard, shard),
        chunks=(inner_chunk(shard),) * 2,
        compressors=codecs("lz4", dtype.itemsize),
        fill_value=fill,
        dimension_names=("y", "x"),
        attributes={"wcs": grid.header, "units": units, **(attrs or {})},
        overwrite=overwrite,
    )
    consolidate(store)


def write_tile(store: str | os.PathLike, name: str, where: tuple[slice, slice], data: Any) -> None:
    """Write one tile (whole shards) of an array of `create_array`.

    ``where`` are array indices, e.g. ``Tile.core_slices``; ``data`` has that shape. Different
    tiles may be written at the same time, by different processes.
    """
    array: Any = zarr.open_array(**place(address(store)), path=name, mode="r+")
    shards = array.shards or array.chunks
    for part, size, shard in zip(where, array.shape, shards, strict=True):
        start, stop, _ = part.indices(size)
        if start % shard or (stop % shard and stop != size):
            raise InputError(
                f"{store}: tile {start}:{stop} cuts through the shards ({shard} px) of {name}; "
                "use tiles of that size"
            )
    array[where] = np.asarray(data)


def consolidate(store: str) -> None:
    """Copy all metadata into the group, where xarray looks for them first.

    Readers here do not trust that copy (``use_consolidated=False``): it can be older than an array.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says that it is not yet in the specification
        group = zarr.open_group(**place(store), mode="r+", use_consolidated=False)
        zarr.consolidate_metadata(group.store_path, zarr_format=3)


def map_attrs(store: str, name: str) -> dict[str, Any]:
    """Attributes of a map of a store."""
    return dict(zarr.open_array(**place(store), path=name, mode="r").attrs)


def set_complete(store: str, name: str, complete: bool) -> None:
    """Say whether a map of `create_array` is whole: `open_map` refuses it while it is not."""
    zarr.open_array(**place(store), path=name, mode="r+").attrs["complete"] = complete


def inner_chunk(shard: int) -> int:
    """Side of the inner chunks of a shard."""
    return next((n for n in INNER if shard % n == 0), shard)


def codecs(compressor: Any, itemsize: int = 4) -> Any:
    """Compressors of an array, from their name or as they are.

    Bits of the same significance go side by side: noise sits in the last ones only. That makes
    lz4 as tight as plain zstd and reads three times faster.
    """
    if compressor in ("lz4", "zstd"):
        blosc = BloscCodec(cname=compressor, clevel=1, shuffle="bitshuffle", typesize=itemsize)
        return (blosc, Crc32cCodec())  # lz4 has no checksum: a flipped bit would pass for pixels
    if compressor in ("none", None):
        return (Crc32cCodec(),)
    if isinstance(compressor, str):
        raise InputError(f"compressor = {compressor!r} is unknown; use 'lz4', 'zstd' or 'none'")
    return compressor


def write_coordinates(group: zarr.Group, store: str, grid: Grid) -> None:
    """Write ``y`` and ``x`` of a new group, or check those of an old one."""
    for name, values in (("y", grid.y), ("x", grid.x)):
        values = values.astype("int64" if np.all(values == np.round(values)) else "float64")
        if name in group:
            there = np.asarray(group[name][:])  # type: ignore[index]
            if there.shape != values.shape or not np.array_equal(there, values):
                raise InputError(
                    f"{store} holds maps with other {name} coordinates; write this one to another "
                    "store or group"
                )
            continue
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(max(values.size, 1),),
            dimension_names=(name,),
            attributes={"long_name": f"global pixel index along {name}"},
        )
        array[:] = values
    if "wcs" not in group.attrs:
        group.attrs["wcs"] = grid.header


def clear(store: str, overwrite: bool) -> None:
    """Make room for a new store: nothing there, or a zarr store and leave to replace it."""
    check_room(store, overwrite)
    storage.remove(store)


def check_room(store: str, overwrite: bool) -> None:
    """Raise `InputError` where a new store may not be written; removes nothing."""
    storage.check_url(store)
    if not shards.lists(store):
        raise InputError(f"{store} cannot be written: the web is read-only; give a local path, "
                         "s3://... or gs://...")  # fmt: skip
    if not storage.exists(store):
        return
    if not overwrite:
        try:
            open_group(store)
            state = "exists"
        except InputError:
            state = "exists and is not a complete store"
        raise InputError(
            f"{store} {state}; give overwrite=True (--overwrite) to replace it, or another path"
        )
    if storage.names(store) and not storage.exists(storage.join(store, "zarr.json")):
        raise InputError(f"{store} is not a zarr store and will not be replaced; give another path")


def _made(store: str, array: Any) -> str:
    """Name of the content, for dask tokens: changes when the array is written again."""
    token = str(array.attrs.get("token", ""))
    files = (storage.join(store, array.path, name) for name in ("zarr.json", ".zarray"))
    return "-".join([token, *(storage.state(file).get("stamp", "") for file in files)])
