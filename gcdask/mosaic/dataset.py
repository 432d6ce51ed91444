"""Sources as lazy xarray containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask.base import tokenize

from gcdask.errors import InputError
from gcdask.mosaic import store
from gcdask.mosaic.opening import Names, Paths, Sources, open_sources
from gcdask.mosaic.source import Source, Stack


def open_mosaic(
    paths: Paths,
    chunks: int | tuple[int, int] | None = None,
    *,
    err: Paths | None = None,
    weight: Paths | None = None,
    unit: str | Mapping[str, str] | None = None,
    align: str = "refuse",
    bands: Names | None = None,
) -> xr.Dataset:
    """Open a mosaic as a lazy Dataset with dims ``(band, y, x)``.

    Parameters
    ----------
    paths, err, weight, unit, align, bands
        See `open_sources`.
    chunks : int or (int, int), optional
        Pixels per chunk, ``(y, x)``. By default the shards of a zarr store, 2048 for FITS, and
        strips of full width for FITS compressed row by row (any other window costs as much).

    Returns
    -------
    xarray.Dataset
        ``sci`` (float32, NaN = no data), ``err`` and ``mask`` (uint16 bits) where there are any;
        coordinates ``band``, and ``y``, ``x`` = global pixel indices; the WCS in
        ``attrs["wcs"]``, units in ``sci.attrs["units"]``.
    """
    sources = open_sources(paths, err=err, weight=weight, unit=unit, align=align, bands=bands)
    sizes = _chunks(sources, chunks)
    attrs = {"units": sources.units, "wcs": sources.grid.header}
    dims = ("band", "y", "x")
    data: dict[str, Any] = {"sci": (dims, lazy(Stack(sources.sci), "sci", sizes), attrs)}
    if sources.err is not None:
        data["err"] = (dims, lazy(Stack(sources.err), "err", sizes), attrs)
    if sources.mask is not None:
        flags = {**_attributes(sources.mask), "wcs": sources.grid.header}
        data["mask"] = (("y", "x"), lazy(sources.mask, "mask", sizes), flags)
    coords = {"band": ("band", np.array(sources.bands, object)), **sources.grid.coords}
    return xr.Dataset(data, coords=coords, attrs={"wcs": sources.grid.header})


def lazy(source: Source | Stack, name: str, chunks: tuple[int, int]) -> da.Array:
    """Wrap a source as a dask array; nothing is read, and the name tells what it holds."""
    full = chunks if source.ndim == 2 else (1, *chunks)
    return da.from_array(
        source,
        chunks=full,
        name=f"{name}-{tokenize(source, full)}",
        meta=np.empty((0,) * source.ndim, source.dtype),
        fancy=False,
    )


def _attributes(mask: Source) -> dict[str, Any]:
    assert isinstance(mask, store.ZarrSource)
    return dict(zarr.open_array(**store.place(mask.store), path=mask.name, mode="r").attrs)


def _chunks(sources: Sources, chunks: int | tuple[int, int] | None) -> tuple[int, int]:
    if chunks is not None:
        y, x = (chunks, chunks) if isinstance(chunks, int | np.integer) else chunks
        if min(y, x) < 1:
            raise InputError(f"chunks = {chunks} is not positive; give pixels, e.g. 2048")
        return int(y), int(x)
    ny, nx = sources.grid.shape
    if sources.row_tiled:
        return max(1, min(ny, 2048 * 2048 // nx)), nx
    first = sources.sci[0]
    if isinstance(first, store.ZarrSource) and first.native is not None:
        return first.native
    return 2048, 2048
