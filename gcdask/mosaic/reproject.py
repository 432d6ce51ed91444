"""A source on the pixels of another grid, by bilinear interpolation, window by window.

Strategy: the position of each pixel in the source image is computed exactly, never interpolated,
in blocks that are fixed to the reference grid (`BLOCK`), because astropy's inversion of SIP stops
when *all* pixels of a call have converged: its last digits depend on who is in the call. The
integer origin of the section is then subtracted, which is exact. So the result is the same to the
bit however the frame is cut.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.wcs import WCS
from astropy.wcs.utils import pixel_to_pixel, wcs_to_celestial_frame
from scipy import ndimage

from gcdask.grid import Grid
from gcdask.mosaic.source import Source

if TYPE_CHECKING:
    from gcdask.mosaic.shards import Listing

BLOCK = 128
ROWS = 4 * BLOCK  # positions are held for that many rows at a time: two float64 per pixel
SNAP = 2.0**20  # positions are rounded to 1e-6 px, so that a whole-pixel shift copies pixels

_local = threading.local()


@dataclass(frozen=True)
class Reprojected(Source):
    """``source``, whose pixels are those of ``grid``, seen on the pixels of ``onto``.

    A pixel is NaN where it falls outside of the source, or where one of the (up to four) source
    pixels that contribute to it is NaN.
    """

    source: Source
    grid: Grid
    onto: Grid

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """``(ny, nx)`` of the reference."""
        return self.onto.shape

    @property
    def native(self) -> tuple[int, int] | None:
        """Full rows if the source is compressed in rows."""
        return (1, self.shape[1]) if self.source.row_tiled else None

    @property
    def path(self) -> str:
        """The file."""
        return self.source.path

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """See `Source.read`."""
        strips = [*range(y0, y1, ROWS), y1]
        return np.concatenate([self._strip(a, b, x0, x1) for a, b in pairwise(strips)])

    def stamp(
        self, y0: int, y1: int, x0: int, x1: int, listing: Listing | None = None
    ) -> list[Any]:
        """See `Source.stamp`; some shards more than `read` takes may count."""
        known = [g for grid in (self.grid, self.onto) for g in (grid.header, *grid.origin)]
        ys, xs = (np.unique([*range(a, b, BLOCK), b - 1]) for a, b in ((y0, y1), (x0, x1)))
        at = np.meshgrid(ys + self.onto.origin[0], xs + self.onto.origin[1], indexing="ij")
        x, y = _transform(_own_wcs(self.onto), _own_wcs(self.grid), at[1], at[0])
        y, x = y - self.grid.origin[0], x - self.grid.origin[1]
        steps = (np.nan_to_num(np.diff(v, axis=a)) for v in (y, x) for a in (0, 1))
        margin = int(max(np.abs(step).max(initial=0) for step in steps)) + 2
        window = self._section(y, x, margin)  # of what lies between the samples too
        return ["reprojected", *known, self.source.stamp(*window, listing) if window else []]

    def _section(
        self, y: np.ndarray, x: np.ndarray, margin: int = 0
    ) -> tuple[int, int, int, int] | None:
        """Window of the source that positions need; None if they are all outside of it."""
        ny, nx = self.source.shape
        with np.errstate(invalid="ignore"):
            inside = (y >= -margin) & (y <= ny - 1 + margin)
            inside &= (x >= -margin) & (x <= nx - 1 + margin)
        if not inside.any():
            return None
        top, left = (max(int(v[inside].min()) - margin, 0) for v in (y, x))
        bottom = min(int(y[inside].max()) + 2 + margin, ny)
        right = min(int(x[inside].max()) + 2 + margin, nx)
        return top, bottom, left, right

    def _strip(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        y, x = positions(self.onto, self.grid, (y0, y1, x0, x1))
        window = self._section(y, x)
        if window is None:
            return np.full(y.shape, np.nan, np.float32)
        ny, nx = self.source.shape
        with np.errstate(invalid="ignore"):
            inside = (y >= 0) & (y <= ny - 1) & (x >= 0) & (x <= nx - 1)
        top, bottom, left, right = window
        section = self.source.read(top, bottom, left, right)
        at = np.where(inside, y - top, -9.0), np.where(inside, x - left, -9.0)
        return interpolate(section, at)


def interpolate(section: np.ndarray, at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Bilinear values of ``section`` (2-D, float32) at positions ``(y, x)``; NaN spreads."""
    bad = ~np.isfinite(section)
    clean = np.where(bad, np.float32(0), section) if bad.any() else section
    options = {"order": 1, "mode": "constant", "prefilter": False}
    out = ndimage.map_coordinates(clean, at, output=np.float32, cval=np.nan, **options)
    if bad.any():
        # weights of bad neighbours: one that weighs nothing does no harm
        share = ndimage.map_coordinates(bad.astype(np.float32), at, cval=1.0, **options)
        out[share > 0] = np.nan
    return out


def positions(
    onto: Grid, grid: Grid, window: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Array positions ``(y, x)`` in ``grid`` of the pixels of a window of ``onto``."""
    y0, y1, x0, x1 = window
    here, there = _own_wcs(onto), _own_wcs(grid)
    out = np.empty((2, y1 - y0, x1 - x0))
    for by in range(y0 // BLOCK * BLOCK, y1, BLOCK):
        for bx in range(x0 // BLOCK * BLOCK, x1, BLOCK):
            block = np.mgrid[by : by + BLOCK, bx : bx + BLOCK].astype(float)
            x, y = _transform(here, there, block[1] + onto.origin[1], block[0] + onto.origin[0])
            ys = slice(max(by, y0), min(by + BLOCK, y1))
            xs = slice(max(bx, x0), min(bx + BLOCK, x1))
            part = slice(ys.start - by, ys.stop - by), slice(xs.start - bx, xs.stop - bx)
            target = slice(ys.start - y0, ys.stop - y0), slice(xs.start - x0, xs.stop - x0)
            out[0][target] = y[part] - grid.origin[0]
            out[1][target] = x[part] - grid.origin[1]
    out = np.round(out * SNAP) / SNAP
    return out[0], out[1]


def _transform(here: WCS, there: WCS, x: np.ndarray, y: np.ndarray) -> Any:
    """Pixels of ``here`` to pixels of ``there``."""
    frames = [wcs_to_celestial_frame(w) for w in (here, there)]
    if not frames[0].is_equivalent_frame(frames[1]) or here.wcs.lng or there.wcs.lng:
        return pixel_to_pixel(here, there, x, y)
    # same frame: no detour over SkyCoord, and no warning where SIP diverges far outside
    ra, dec = here.all_pix2world(x.ravel(), y.ravel(), 0)
    if there.sip is None:
        out = there.wcs_world2pix(ra, dec, 0)
    else:
        out = there.all_world2pix(ra, dec, 0, quiet=True)
    return out[0].reshape(x.shape), out[1].reshape(x.shape)


def _own_wcs(grid: Grid) -> WCS:
    """WCS of this thread: wcslib's structures are not meant to be shared while they compute."""
    cache = _local.__dict__.setdefault("wcs", {})
    if grid.header not in cache:
        if len(cache) > 16:
            cache.clear()
        cache[grid.header] = grid.wcs.deepcopy()
    return cache[grid.header]
