"""The peer of the pipeline benchmark: one serial script from a zarr mosaic to its catalogue.

What an astronomer who knows NumPy and SciPy well would write for one field: whole arrays in
memory, scratch arrays used again, small masks grown by stamping disks. It does what `gcdask run`
does up to the catalogue, with the same settings and definitions, and shares no code with it.

    python tests/benchmarks/plain.py field.zarr OUT
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from scipy import ndimage, sparse

FWHM = 2.354820045  # of a Gaussian of sigma 1
BITS = NODATA, EDGE, BRIGHT, LUMINOUS, SPIKE, EXTENDED = 1, 2, 4, 8, 16, 32
ANY = sum(BITS)
STAR_BOX, NOISE_BOX, SPIKE_RADII, SECTOR = 16, 48, (12, 60), 60
NEAR, RING, LEVELS_PER_OCTAVE, OCTAVES = 15, 5, 32, 6


@dataclass(frozen=True)
class Settings:
    """Widths are FWHM in px, ``dilate`` radii in px, angles and lengths in deg and arcsec."""

    filters: tuple = ((0.5, 5.0), (1.0, 3.0))
    band: tuple = (4.0, 25.0)  # of extended sources, and of stars
    edge: float = 6.6
    bright: tuple = (150.0, 6)  # sigma, dilate
    luminous: tuple = (100.0, 5)
    extended: tuple = (25.0, 6)
    star: tuple = (300.0, 6.0)  # sigma, contrast of the spikes
    spike: tuple = (1.2, 0.45, 0.25)  # length, core, width
    cell: int = 128
    patch: int = 64
    radius: int = 3
    floor: float = 3.0
    fraction: float = 0.1
    level: float = 2.0


def detect(
    store: str, out: str, s: Settings, dtype: Any = np.float32
) -> tuple[pd.DataFrame, dict[int, float]]:
    """Detection map, mask and noise to ``OUT/maps.zarr``, catalogue to ``OUT/catalog.parquet``.

    Returns the catalogue and the share of the pixels that each bit (or any) masks.
    """
    image, wcs = read(store, dtype)
    scale = float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs) * 3600)))
    good = np.isfinite(image)
    filters = Filters(image.shape, dtype)

    # what the unmasked images say: noise, stars, bright and extended sources
    filters.load(image, good)
    wide = filters.highpass(s.band)
    first = filters.highpass(s.filters[0])
    filters.load(first, good)
    second = filters.highpass(s.filters[1])
    cells = [noise_cells(a, s.cell, s.patch) for a in (first, second, wide)]
    first_noise = bilinear(cells[0], s.cell, image.shape)
    stars, angle = find_stars(first, wide, float(cells[0].min()), s)

    bits = edge_bits(good, scale, s.edge)
    bits[grow(first > s.bright[0] * first_noise, s.bright[1])] |= BRIGHT
    limit = s.extended[0] * bilinear(cells[2], s.cell, image.shape)
    bits[grow(wide > limit, s.extended[1])] |= EXTENDED
    draw_spikes(bits, stars, angle, scale, s)

    # the masked filters
    filters.load(image, bits == 0)
    first = filters.highpass(s.filters[0])
    bits[grow(first > s.luminous[0] * first_noise, s.luminous[1])] |= LUMINOUS
    filters.load(first, bits == 0)
    detection = filters.highpass(s.filters[1])

    noise = bilinear(cells[1], s.cell, image.shape)
    snr = detection / noise
    y, x = greedy(snr, s.floor, s.radius)
    level = s.level * threshold(snr, {1: (y, x), -1: greedy(-snr, s.floor, s.radius)}, s)
    keep = snr[y, x] > level
    table = catalogue(y[keep], x[keep], detection, snr, wcs)
    save(out, detection, bits, cells[1], table)
    causes = np.bincount(bits.ravel(), minlength=64) / bits.size
    return table, {b: causes[np.arange(causes.size) & b != 0].sum() for b in (*BITS, ANY)}


def read(store: str, dtype: Any) -> tuple[np.ndarray, WCS]:
    """Sum over the bands, NaN where one has no data; and the WCS."""
    bands: Any = zarr.open_array(store, path="sci", mode="r")
    image = np.array(bands[0], dtype)
    for k in range(1, bands.shape[0]):
        image += bands[k]
    return image, WCS(fits.Header.fromstring(bands.attrs["wcs"], sep="\n"))


# -- filters -------------------------------------------------------------------------------------
class Filters:
    """Normalised Gaussian filters of one image, in scratch arrays that are allocated once."""

    def __init__(self, shape: tuple[int, int], dtype: Any) -> None:
        self.value, self.weight, self.above, self.below = np.empty((4, *shape), dtype)

    def load(self, image: np.ndarray, good: np.ndarray) -> None:
        self.good = good
        self.value.fill(0)
        np.copyto(self.value, image, where=good)
        np.copyto(self.weight, good)

    def smooth(self, fwhm: float) -> np.ndarray:
        for source, target in ((self.value, self.above), (self.weight, self.below)):
            ndimage.gaussian_filter(source, fwhm / FWHM, output=target, mode="constant", truncate=4)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.divide(self.above, self.below, out=self.above)

    def highpass(self, pair: tuple[float, float]) -> np.ndarray:
        out = self.smooth(pair[0]).copy()
        out -= self.smooth(pair[1])
        np.copyto(out, np.nan, where=~self.good)
        return out


def offsets(radius: int) -> tuple[np.ndarray, np.ndarray]:
    """dy, dx of a disk."""
    dy, dx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    inside = dy**2 + dx**2 <= radius**2
    return dy[inside], dx[inside]


def grow(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilate by a disk: stamp it on the outlines (few pixels), which beats binary_dilation."""
    core = mask[1:-1, 1:-1]
    inner = core & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    rim = mask.copy()
    rim[1:-1, 1:-1] &= ~inner
    y, x = np.nonzero(rim)
    out = mask.copy()
    for dy, dx in zip(*offsets(radius), strict=True):
        out[np.clip(y + dy, 0, out.shape[0] - 1), np.clip(x + dx, 0, out.shape[1] - 1)] = True
    return out


# -- noise ---------------------------------------------------------------------------------------
def robust_sigma(values: np.ndarray) -> float:
    """From the median absolute deviation; a second time without what lies beyond 4 sigma."""
    v = values[np.isfinite(values)]
    sigma = np.nan
    for _ in range(2):
        if v.size < 64:
            break
        away = np.abs(v - np.median(v))
        sigma = 1.4826 * np.median(away)
        v = v[away <= 4 * sigma]
    return sigma


def noise_cells(image: np.ndarray, cell: int, patch: int) -> np.ndarray:
    """Noise of the patch in the middle of each cell; where there is none, of the nearest cell."""
    half = patch // 2
    centres = [np.minimum(np.arange(0, n, cell) + cell // 2, n - 1) for n in image.shape]
    cells = np.array(
        [
            [
                robust_sigma(image[max(y - half, 0) : y + half, max(x - half, 0) : x + half])
                for x in centres[1]
            ]
            for y in centres[0]
        ],
        np.float32,
    )
    near = ndimage.distance_transform_edt(~(cells > 0), return_distances=False, return_indices=True)
    return cells[tuple(near)]


def bilinear(cells: np.ndarray, cell: int, shape: tuple[int, int]) -> np.ndarray:
    """Cell values at pixels: a sparse matrix of weights for each axis."""
    matrices = []
    for n, m in zip(shape, cells.shape, strict=True):
        t = np.clip((np.arange(n) + 0.5) / cell - 0.5, 0, m - 1)
        low = t.astype(int)
        f = (t - low).astype(np.float32)
        where = np.tile(np.arange(n), 2), np.concatenate([low, np.minimum(low + 1, m - 1)])
        matrices.append(sparse.csr_array((np.concatenate([1 - f, f]), where), (n, m)))
    return matrices[0] @ (matrices[1] @ cells.T).T


# -- masks ---------------------------------------------------------------------------------------
def edge_bits(good: np.ndarray, scale: float, edge: float, cell: int = 4) -> np.ndarray:
    """Mask with the bits of missing data and of the frame, from a footprint in cells of 4 px."""
    ny, nx = good.shape
    starts = [np.arange(0, n, cell) for n in good.shape]
    counts = np.add.reduceat(good, starts[1], axis=1, dtype=np.uint8)
    counts = np.add.reduceat(counts, starts[0], axis=0)
    size = [np.minimum(cell, n - a) for n, a in zip(good.shape, starts, strict=True)]
    inside = ndimage.binary_fill_holes(2 * counts >= size[0][:, None] * size[1])
    far = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    far = (np.maximum(far - 0.5, 0) * cell).astype(np.float32)
    y, x = np.arange(ny), np.arange(nx)
    distance = bilinear(far, cell, good.shape)
    to_end = [np.minimum(a + 0.5, n - 0.5 - a).astype(np.float32) for a, n in ((y, ny), (x, nx))]
    np.minimum(distance, to_end[0][:, None], out=distance)
    np.minimum(distance, to_end[1], out=distance)
    bits = np.where(good, 0, NODATA).astype(np.uint16)
    outside = ~good & (distance < cell)
    bits[(distance * scale < edge) | (distance <= 0) | outside] |= EDGE
    return bits


def find_stars(
    first: np.ndarray, wide: np.ndarray, least: float, s: Settings
) -> tuple[np.ndarray, float]:
    """Rows (x, y, S/N) of the stars, and the angle of all spikes (deg); ``least`` noise anywhere.

    Candidates are maxima of the band-passed image; stars those with spikes at the angle on which
    the bright candidates agree.
    """
    value = np.where(np.isfinite(wide), wide, -np.inf)
    top = ndimage.maximum_filter(value, 2 * STAR_BOX + 1, mode="nearest")
    top = (value == top) & (value > s.star[0] * least / 2)  # most maxima are noise
    found, profiles = [], []
    for y, x in zip(*np.nonzero(top), strict=True):
        box = first[
            max(y - NOISE_BOX, 0) : y + NOISE_BOX + 1, max(x - NOISE_BOX, 0) : x + NOISE_BOX + 1
        ]
        sigma = robust_sigma(box[::3, ::3])
        if sigma > 0 and value[y, x] > s.star[0] * sigma:
            found.append((x, y, value[y, x] / sigma))
            profiles.append(angular_profile(first, y, x))
    if not found:
        return np.empty((0, 3)), np.nan
    profile = np.array(profiles)
    profile -= np.median(profile, axis=1, keepdims=True)
    strength = profile / (1.4826 * np.median(np.abs(profile), axis=1, keepdims=True))
    spiked = strength.max(axis=1) >= 5
    if not spiked.any():
        return np.empty((0, 3)), np.nan
    votes = np.clip(strength[spiked], 0, 10).sum(axis=0)
    k = np.argmax(votes + np.roll(votes, 1) + np.roll(votes, -1))
    near = np.arange(-2, 3)
    angle = k + 0.5 + np.average(near, weights=np.maximum(votes[(k + near) % SECTOR], 0))
    contrast = strength[:, (k + np.arange(-1, 2)) % SECTOR].max(axis=1)
    return np.array(found)[contrast >= s.star[1]], float(np.round(angle, 1) % SECTOR)


def angular_profile(first: np.ndarray, y: int, x: int) -> np.ndarray:
    """Mean clipped flux in an annulus against angle modulo 60 deg."""
    inner, outer = SPIKE_RADII
    y0, x0 = max(y - outer, 0), max(x - outer, 0)
    stamp = first[y0 : y + outer + 1, x0 : x + outer + 1]
    dy, dx = np.indices(stamp.shape) + np.array([y0 - y, x0 - x])[:, None, None]
    r = np.hypot(dy, dx)
    use = (r >= inner) & (r <= outer) & np.isfinite(stamp)
    value = stamp[use]
    limit = 5 * robust_sigma(value) if value.size > 64 else np.inf
    k = np.minimum((np.rad2deg(np.arctan2(dy[use], dx[use])) % SECTOR).astype(int), SECTOR - 1)
    n = np.bincount(k, minlength=SECTOR)
    total = np.bincount(k, np.clip(value, -limit, limit), minlength=SECTOR)
    return total / np.maximum(n, 1)


def draw_spikes(
    bits: np.ndarray, stars: np.ndarray, angle: float, scale: float, s: Settings
) -> None:
    """Cores of the stars and six spikes each; longer for brighter ones."""
    half = s.spike[2] / scale / 2
    for at_x, at_y, snr in stars:
        length = s.spike[0] / scale * np.sqrt(snr / 1000)
        core = s.spike[1] / scale * np.cbrt(snr / 1000)
        reach = int(np.ceil(max(length, core) + half))
        y0, x0 = max(int(at_y) - reach, 0), max(int(at_x) - reach, 0)
        part = bits[y0 : int(at_y) + reach + 1, x0 : int(at_x) + reach + 1]
        dy = np.arange(y0, y0 + part.shape[0])[:, None] - at_y
        dx = np.arange(x0, x0 + part.shape[1]) - at_x
        hit = dy**2 + dx**2 <= core**2
        for spike in np.deg2rad(angle + 60 * np.arange(6)):
            along, across = dx * np.cos(spike) + dy * np.sin(spike), dy * np.cos(spike)
            across = across - dx * np.sin(spike)
            hit |= (along >= 0) & (along <= length) & (np.abs(across) <= half)
        part[hit] |= SPIKE


# -- peaks ---------------------------------------------------------------------------------------
def greedy(snr: np.ndarray, limit: float, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the peaks: the brightest pixel first, each blanks a disk.

    (photutils and scipy find local maxima, which is another rule.)
    """
    flat = np.flatnonzero(snr > limit)
    flat = flat[np.argsort(-snr.ravel()[flat], kind="stable")]
    rows, columns = np.divmod(flat, snr.shape[1])
    disk = np.zeros((2 * radius + 1, 2 * radius + 1), bool)
    dy, dx = offsets(radius)
    disk[dy + radius, dx + radius] = True
    taken = np.zeros([n + 2 * radius for n in snr.shape], bool)
    found = []
    for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
        if not taken[y + radius, x + radius]:
            taken[y : y + 2 * radius + 1, x : x + 2 * radius + 1] |= disk
            found.append((y, x))
    y, x = np.array(found, int).reshape(-1, 2).T
    return y, x


def threshold(snr: np.ndarray, peaks: dict[int, tuple], s: Settings) -> float:
    """T: at ``level`` T few peaks are noise, from the peaks of the map (1) and its negative (-1).

    Peaks near one that is five times brighter than a level do not count at it (rings).
    """
    levels = s.floor * 2 ** (np.arange(OCTAVES * LEVELS_PER_OCTAVE + 1) / LEVELS_PER_OCTAVE)
    padded = np.pad(snr, NEAR, constant_values=-np.inf)
    padded[np.isnan(padded)] = -np.inf
    counts = []
    for sign, (y, x) in peaks.items():
        centre = (y + NEAR) * padded.shape[1] + x + NEAR
        near = np.full(y.size, -np.inf)
        for dy, dx in zip(*offsets(NEAR), strict=True):
            np.maximum(near, padded.ravel()[centre + (dy * padded.shape[1] + dx)], out=near)
        start = np.searchsorted(RING * levels, near, side="left")
        stop = np.searchsorted(levels, sign * snr[y, x].astype(float), side="right")
        stop = np.maximum(stop, start)
        counts.append([np.count_nonzero((start <= k) & (k < stop)) for k in range(levels.size)])
    positive, negative = np.array(counts, float)
    expected = s.fraction * positive
    excess = negative > expected + 2 * np.sqrt(expected + 1)
    settled = np.cumsum(excess[::-1])[::-1] == 0
    return max(levels[np.flatnonzero(settled & (negative <= expected))[0]] / s.level, s.floor)


def catalogue(
    y: np.ndarray, x: np.ndarray, detection: np.ndarray, snr: np.ndarray, wcs: WCS
) -> pd.DataFrame:
    order = np.lexsort((x, y))
    y, x = y[order], x[order]
    ra, dec = wcs.all_pix2world(x, y, 0)
    return pd.DataFrame(
        {
            "id": (y << 32) | x,
            "x": x.astype(float),
            "y": y.astype(float),
            "ra": ra,
            "dec": dec,
            "peak": detection[y, x].astype(np.float32),
            "snr": snr[y, x].astype(np.float32),
            "flags": np.zeros(y.size, np.uint16),
            "tile": ((y // 4096) << 32) | (x // 4096),
        }
    )


def save(
    out: str, detection: np.ndarray, bits: np.ndarray, noise: np.ndarray, table: pd.DataFrame
) -> None:
    group = zarr.open_group(f"{out}/maps.zarr", mode="w")
    for name, data in (("detection", detection), ("mask", bits), ("noise", noise)):
        array = group.create_array(name, shape=data.shape, dtype=data.dtype, chunks=(1100, 1100))
        array[:] = data
    table.to_parquet(f"{out}/catalog.parquet", index=False)


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    found, _ = detect(sys.argv[1], sys.argv[2], Settings())
    print(f"{len(found)} sources in {sys.argv[2]}/catalog.parquet")
