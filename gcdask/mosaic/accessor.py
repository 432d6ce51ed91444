"""The accessor ``.gc``: where a map or mosaic is on the sky."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from astropy.wcs import WCS

from gcdask.grid import Grid


@xr.register_dataset_accessor("gc")
@xr.register_dataarray_accessor("gc")
class SkyAccessor:
    """Sky positions of a map or mosaic, e.g. ``mosaic.gc.sky(x, y)``; valid for cut-outs too."""

    def __init__(self, obj: xr.Dataset | xr.DataArray):
        self._obj = obj

    @property
    def grid(self) -> Grid:
        """Shape, coordinates and WCS."""
        return Grid.of(self._obj)

    @property
    def wcs(self) -> WCS:
        """WCS of global pixel coordinates (the ``x``, ``y`` coordinates)."""
        return self.grid.wcs

    @property
    def pixel_scale(self) -> float:
        """Side of an element in arcsec."""
        return self.grid.pixel_scale

    def sky(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """RA, Dec (deg) of global pixel coordinates."""
        return self.grid.sky(x, y)

    def pixel(self, ra: Any, dec: Any) -> tuple[np.ndarray, np.ndarray]:
        """Global ``(x, y)`` of RA, Dec (deg)."""
        return self.grid.pixel(ra, dec)
