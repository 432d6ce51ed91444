"""What the lazy functions of detection accept, and how they wrap their results."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask.masks import Flag
from gcdask.tiles import as_mask, on_pixels


def axes(image: xr.DataArray) -> dict[str, Any]:
    """Coordinates along y and x, where there are any."""
    return {name: image.coords[name] for name in ("y", "x") if name in image.coords}


def aligned(other: Any, image: xr.DataArray, what: str) -> da.Array:
    """Return the data of a map that must be on the pixels of `image`, on the chunks of that."""
    return on_pixels(other, image, what, (image.chunksizes["y"], image.chunksizes["x"]))


def masked(data: da.Array, mask: Any, image: xr.DataArray) -> da.Array:
    """Float32 plane with NaN where `mask` is nonzero, so that one array carries both."""
    data = data.astype(np.float32)
    if mask is None:
        return data
    bits = aligned(as_mask(mask), image, "mask")
    return da.where(bits != 0, np.float32(np.nan), data)


def bits_of(mask: Any, image: xr.DataArray) -> da.Array:
    """Mask bits (uint16) on the pixels of `image`; those of a bool mask, or none, as ``USER``."""
    if mask is None:
        return da.zeros(image.shape, np.uint16, chunks=image.data.chunks)
    bits = aligned(as_mask(mask), image, "mask")
    if bits.dtype.kind == "b":
        return bits.astype(np.uint16) * np.uint16(Flag.USER)
    return bits.astype(np.uint16)


def wrap(data: da.Array, like: xr.DataArray, name: str) -> xr.DataArray:
    """Map `name` with the dimensions, coordinates, WCS and units of `like`."""
    coords = axes(like)
    if "band" in like.dims and "band" in like.coords:
        coords["band"] = like.coords["band"]
    attrs = {k: like.attrs[k] for k in ("wcs", "units") if like.attrs.get(k) is not None}
    return xr.DataArray(data, dims=like.dims, coords=coords, name=name, attrs=attrs)
