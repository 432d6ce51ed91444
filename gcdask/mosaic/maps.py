"""Maps to and from files: FITS for others, zarr for large ones."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
import zarr
from astropy.io import fits

from gcdask import storage
from gcdask._version import __version__
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic import fitsio, store, units
from gcdask.mosaic.dataset import lazy
from gcdask.mosaic.source import Source, address


def write_map(array: xr.DataArray, path: str | os.PathLike, *, overwrite: bool = False) -> str:
    """Write a map to FITS, block by block: memory does not depend on its size.

    The file, local or of another store, appears under its name when it is complete. A path that
    ends in ``.fz`` is tile-compressed without loss; then the compressed image is held in memory.

    Parameters
    ----------
    array : DataArray, shape (y, x)
        With ``wcs`` and ``units`` attributes; a ``history`` attribute becomes HISTORY cards.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    str
        ``path``.

    Raises
    ------
    InputError
        Not 2-D, no WCS, an existing file, or a folder that does not exist.
    """
    path = address(path)
    array, grid = _check_map(array)
    if not overwrite and storage.exists(path):
        raise InputError(f"{path} exists; give overwrite=True or another path")
    if not storage.is_remote(path) and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise InputError(f"folder {os.path.dirname(path)} of the map does not exist; make it first")
    header, kind = _header(array, grid)
    with storage.writing(path) as local:
        part = os.path.abspath(local)
        offset = _allocate(part, header, array.shape, kind)
        target = _FitsTarget(part, offset, (grid.shape[0], grid.shape[1]), kind)
        blocks = da.asarray(array.data)
        if storage.is_remote(path):  # workers elsewhere do not see this file: strip by strip
            stops = np.cumsum(blocks.chunks[0]).tolist()
            for start, stop in zip([0, *stops], stops, strict=False):
                target[start:stop] = blocks[start:stop].compute()
        else:
            # blocks are disjoint byte ranges
            da.store(blocks, target, lock=False)  # type: ignore[arg-type]
        if path.endswith(".fz"):
            _compress(part)
    return path


def write_zarr_map(
    array: xr.DataArray,
    path: str | os.PathLike,
    name: str,
    *,
    shard: int = 4096,
    overwrite: bool = False,
    compute: bool = True,
) -> Any:
    """Write a lazy map into a zarr 3 group, one task per shard.

    Parameters
    ----------
    array : DataArray, shape (y, x)
        With ``wcs`` and ``units`` attributes; it is rechunked to whole shards.
    path : path or URL
        The group; maps of one group share their coordinates.
    name : str
        Name of the map in the group.
    shard : int
        Side of a shard in pixels.
    overwrite : bool
        Replace an existing map of this name.
    compute : bool
        False returns a `dask.delayed.Delayed` that writes; `store.consolidate` the group then.

    Returns
    -------
    str or Delayed
        The path of the group.

    Raises
    ------
    InputError
        Not 2-D, no WCS, an existing map, or other coordinates than the group has.
    """
    group = address(path)
    array, grid = _check_map(array)
    extra = {k: v for k, v in array.attrs.items() if isinstance(v, str | int | float | list)}
    store.create_array(
        group,
        name,
        grid,
        array.dtype,
        array.attrs.get("units", ""),
        shard,
        attrs={**extra, "complete": False},
        overwrite=overwrite,
    )
    blocks = da.asarray(array.data).rechunk((shard, shard))
    target: Any = zarr.open_array(group, path=name, mode="r+")
    written = da.store(blocks, target, lock=False, compute=False)
    done = dask.delayed(_finish)(written, group, name)
    if not compute:
        return done
    done.compute()
    store.consolidate(group)  # here rather than in a task: tasks of one group would race
    return group


def open_map(
    path: str | os.PathLike,
    name: str | None = None,
    *,
    chunks: int | tuple[int, int] | None = None,
    unit: str | None = None,
) -> xr.DataArray:
    """Open a map lazily, from FITS or from a zarr group.

    Parameters
    ----------
    path : path or URL
        FITS file (``[EXTNAME]`` chooses an HDU) or zarr group.
    name : str, optional
        Name in the group (needed if it holds several maps), or of the DataArray.
    chunks : int or (int, int), optional
        Pixels per chunk; the shards of zarr and 2048 by default.
    unit : str, optional
        In place of BUNIT; ``""`` for none. An empty BUNIT means dimensionless.

    Returns
    -------
    DataArray, shape (y, x)
        In the type of the file.

    Raises
    ------
    InputError
        As `open_sources`; an unknown name; several maps and no name.
    """
    file = address(path)
    source: Source
    if store.is_store(file):
        stored, grid, attrs = _stored_map(file, name)
        source, title, default = stored, stored.name, stored.block
        text = str(attrs.get("units", "")) if unit is None else unit
    else:
        image = fitsio.inspect(file, natural=True)
        assert image.grid is not None
        source, grid, attrs = image.source, image.grid, {}
        title = name or os.path.basename(source.path).split(".")[0]
        default = (2048, grid.shape[1]) if source.row_tiled else (2048, 2048)
        found = image.unit if unit is None else unit
        if found is None:
            raise InputError(
                f"{image.label} has no BUNIT; give the unit of the map with unit=... ('' for none)"
            )
        text = found
    text = units.canonical(text, file) if text.strip().strip("'\" ") else ""
    sizes = default if chunks is None else (chunks, chunks) if isinstance(chunks, int) else chunks
    out = grid.wrap(lazy(source, title, sizes), title, text)
    out.attrs = {**{k: v for k, v in attrs.items() if k != "complete"}, **out.attrs}
    return out


def open_plane(path: str | os.PathLike, name: str | None = None) -> tuple[Source, Grid]:
    """Source and grid of a map, to be read by window; parameters and errors as in `open_map`.

    No unit is asked for: a plane of mask bits has none.
    """
    file = address(path)
    if store.is_store(file):
        return _stored_map(file, name)[:2]
    image = fitsio.inspect(file, natural=True)
    assert image.grid is not None
    return image.source, image.grid


def _stored_map(file: str, name: str | None) -> tuple[store.ZarrSource, Grid, dict[str, Any]]:
    group = store.open_group(file)
    maps = [k for k in store.array_names(group) if len(group[k].shape) == 2]  # type: ignore[union-attr]
    if name is None and len(maps) == 1:
        name = maps[0]
    if name not in maps:
        raise InputError(
            f"{file} has no map {name!r}; it has {maps}"
            if name
            else f"{file} has {len(maps)} maps {maps}; give the name of one"
        )
    attrs = dict(group[name].attrs)
    if attrs.get("complete") is False:
        raise InputError(f"map {name} of {file} is incomplete; write it again with overwrite=True")
    source = store.source_of(file, group, name, None, str(group[name].dtype))  # type: ignore[union-attr]
    return source, store.grid_of(group, name, file), attrs


def _finish(written: Any, path: str, name: str) -> str:
    """Mark a map as complete once all shards are written."""
    zarr.open_array(path, path=name, mode="r+").attrs["complete"] = True
    return path


def _check_map(array: xr.DataArray) -> tuple[xr.DataArray, Grid]:
    if set(array.dims) != {"y", "x"}:
        raise InputError(
            f"{array.name or 'the array'} has dimensions {tuple(array.dims)}; a map has (y, x): "
            "select a band first"
        )
    return array.transpose("y", "x"), Grid.of(array)


# -- FITS -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _FitsTarget:
    """The data of a FITS file to be filled in any order, from threads or processes."""

    path: str
    offset: int
    shape: tuple[int, int]
    kind: str

    def __setitem__(self, key: Any, block: Any) -> None:
        block = np.asarray(block)
        if block.dtype.kind == "u" and block.dtype.itemsize > 1:  # FITS: signed, shifted by BZERO
            block = (block ^ (1 << (8 * block.dtype.itemsize - 1))).view(f"i{block.dtype.itemsize}")
        image = np.memmap(self.path, self.kind, "r+", self.offset, self.shape)
        image[key] = block
        image.flush()


def _header(array: xr.DataArray, grid: Grid) -> tuple[fits.Header, str]:
    """FITS header of a map, and the big-endian type of its data."""
    kind = np.dtype(array.dtype)
    code = {"b": "u1", "i1": "i2", "f2": "f4"}.get(
        "b" if kind.kind == "b" else kind.str[1:], kind.str[1:]
    )
    bits = {
        "u1": 8,
        "i2": 16,
        "u2": 16,
        "i4": 32,
        "u4": 32,
        "i8": 64,
        "u8": 64,
        "f4": -32,
        "f8": -64,
    }
    if code not in bits:
        raise InputError(f"a map of type {kind} cannot be written to FITS; convert it to float32")
    header = fits.Header()
    header["SIMPLE"] = True
    header["BITPIX"] = bits[code]
    header["NAXIS"] = 2
    header["NAXIS1"], header["NAXIS2"] = grid.shape[1], grid.shape[0]
    if code[0] == "u" and code != "u1":
        header["BSCALE"] = 1
        header["BZERO"] = 1 << (bits[code] - 1)
        code = f"i{code[1]}"
    cards = Grid.from_wcs(grid.array_wcs(), grid.shape).header
    header.extend(fits.Header.fromstring(cards, sep="\n").cards, unique=True)
    header["BUNIT"] = str(array.attrs.get("units", "")).replace(" / ", "/")
    for line in str(array.attrs.get("history", "")).splitlines():
        header["HISTORY"] = line.encode("ascii", "replace").decode()
    header["HISTORY"] = f"{array.name or 'map'} written by gcdask {__version__}"
    return header, f">{code}"


def _allocate(path: str, header: fits.Header, shape: tuple[int, ...], kind: str) -> int:
    """Make the file with its header and empty data; returns where the data begin."""
    head = header.tostring().encode("ascii")
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    with open(path, "wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + -(-size // 2880) * 2880)
    return len(head)


def _compress(path: str) -> None:
    """Replace a FITS file by its tile-compressed form, exact to the bit."""
    packed = f"{path}.fz"
    try:
        with fits.open(path) as hdus:
            header, data = hdus[0].header, hdus[0].data
            side = tuple(min(256, n) for n in data.shape)
            image = fits.CompImageHDU(
                data,
                header,
                compression_type="GZIP_2",
                tile_shape=side,
                quantize_level=0,  # the default would round floats
            )
            fits.HDUList([fits.PrimaryHDU(), image]).writeto(packed, overwrite=True)
        os.replace(packed, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(packed)
