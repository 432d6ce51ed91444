"""What the lazy functions of detection accept, and how they wrap their results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask.errors import InputError


def check_pair(fwhm: Any) -> None:
    """Refuse widths of a high-pass that are not two ascending positive numbers."""
    if len(fwhm) != 2 or not 0 < fwhm[0] < fwhm[1] < math.inf:
        raise InputError(f"fwhm = {fwhm} px: give two ascending widths, e.g. (0.5, 5.0)")


def with_dims(image: xr.DataArray, dims: tuple[str, ...], who: str) -> xr.DataArray:
    """Return `image` with its dimensions in the order `dims`; refuse any others."""
    if not isinstance(image, xr.DataArray):
        raise InputError(f"{who} needs a DataArray with dims {dims}, not {type(image).__name__}")
    if set(image.dims) != set(dims):
        raise InputError(
            f"{who} needs dims {dims}, this map has {tuple(image.dims)}; select or rename them"
        )
    return image.transpose(*dims)


def axes(image: xr.DataArray) -> dict[str, Any]:
    """Coordinates along y and x, where there are any."""
    return {name: image.coords[name] for name in ("y", "x") if name in image.coords}


def as_dask(image: xr.DataArray) -> da.Array:
    """Data as a dask array; in-memory data are chunked, not copied."""
    return image.data if isinstance(image.data, da.Array) else da.from_array(image.data)


def band_indices(sci: xr.DataArray, bands: Sequence[str] | None) -> list[int]:
    """Positions along ``band`` of `bands`, in their order; of all if None."""
    count = sci.sizes["band"]
    names = [str(b) for b in (sci["band"].values if "band" in sci.coords else range(count))]
    wanted = names if bands is None else list(bands)
    unknown = [b for b in wanted if b not in names]
    if unknown or not wanted:
        raise InputError(f"bands {unknown} of {wanted} are not in the mosaic; it has {names}")
    return [names.index(b) for b in wanted]


def on_pixels(other: xr.DataArray, image: xr.DataArray, what: str) -> da.Array:
    """Return the data of `other`, which must cover the pixels of `image`, on its chunks."""
    other = with_dims(other, ("y", "x"), what)
    for axis in ("y", "x"):
        same = other.sizes[axis] == image.sizes[axis]
        if same and axis in other.coords and axis in image.coords:
            same = np.array_equal(other[axis].values, image[axis].values)
        if not same:
            raise InputError(
                f"the {what} is not on the map's pixels along {axis} ({_span(other, axis)}, the "
                f"map {_span(image, axis)}); cut both alike"
            )
    chunks = image.chunksizes
    data = as_dask(other)
    return data.rechunk((chunks["y"], chunks["x"])) if chunks else data.rechunk(-1)


def _span(image: xr.DataArray, axis: str) -> str:
    n = image.sizes[axis]
    if axis not in image.coords or not n:
        return f"{n} px"
    values = image[axis].values
    return f"{n} px from {values[0]} to {values[-1]}"


def masked(data: da.Array, mask: xr.DataArray | None, image: xr.DataArray) -> da.Array:
    """Float32 plane with NaN where `mask` is nonzero, so that one array carries both."""
    data = data.astype(np.float32)
    if mask is None:
        return data
    if isinstance(mask, xr.DataArray) and mask.dtype.kind not in "bui":
        raise InputError(f"a mask is bool or bits (unsigned integers), not {mask.dtype}")
    bits = on_pixels(mask, image, "mask").rechunk(data.chunks)
    return da.where(bits != 0, np.float32(np.nan), data)


def wrap(data: da.Array, like: xr.DataArray, name: str) -> xr.DataArray:
    """Map `name` with the dimensions, coordinates, WCS and units of `like`."""
    coords = axes(like)
    if "band" in like.dims and "band" in like.coords:
        coords["band"] = like.coords["band"]
    attrs = {k: like.attrs[k] for k in ("wcs", "units") if like.attrs.get(k) is not None}
    return xr.DataArray(data, dims=like.dims, coords=coords, name=name, attrs=attrs)
