"""Pass 0: the small things of a field that no tile can know alone.

A survey reads every window once and keeps a coarse footprint with its distance to the edge, the
robust noise of the filtered images on a lattice of cells, and the bright stars with the angle of
their diffraction spikes. It is small (a few numbers per cell), so every tile gets all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage

from gcdask.grid import Tile
from gcdask.kernels import highpass as hp
from gcdask.kernels import sums
from gcdask.kernels.noise import cell_span, interpolate_cells, robust_sigma, sigma_around

FILTERS = ((0.5, 5.0), (1.0, 3.0))
DETECTION = "detection"  # name of the noise after both high-pass steps
STAR_FILTER = (4.0, 25.0)  # FWHM in px of the band-pass whose maxima may be stars
STAR_BOX = 16  # px: a star is the brightest pixel of a smoothed image within this distance
SPIKE_RADII = (12, 60)  # px: annulus in which spikes are looked for
NOISE_BOX = 48  # px: half side of the square whose noise judges a candidate
SPIKE_BIN = 1  # deg
SPIKE_CONTRAST = 5  # sigma: candidates below it have no say in the angle
SECTOR = 60  # deg between the spikes of JWST's hexagonal pupil

Filtered = dict[tuple[float, float], np.ndarray]


@dataclass(frozen=True)
class SurveyPlan:
    """What a survey measures on a field of ``shape`` (ny, nx).

    Parameters
    ----------
    noise_cell, patch : int
        Side in px of a noise cell, and of the square at its centre that is measured.
    filters : two pairs of FWHM in px
        The high-pass steps.
    bandpass : tuple of pairs of FWHM in px
        More filters whose noise is measured.
    offset : (int, int)
        Rows and columns by which the first noise cell begins before the field: cells start at
        global pixel 0, so that a cut-out has the noise of its mosaic.
    star_nsigma : float or None
        Stars are looked for among maxima of the band-passed image above this many sigma of the
        first high-pass about them; None looks for none.
    """

    shape: tuple[int, int]
    noise_cell: int = 128
    patch: int = 64
    filters: tuple[tuple[float, float], tuple[float, float]] = FILTERS
    bandpass: tuple[tuple[float, float], ...] = ((4.0, 25.0),)
    offset: tuple[int, int] = (0, 0)
    star_nsigma: float | None = 300.0

    @property
    def footprint_cell(self) -> int:
        """Side of a footprint cell: 4 px for a module, up to 32 px for the largest fields."""
        cell = 4
        while cell < 32 and self.shape[0] * self.shape[1] > 4_000_000 * cell**2:
            cell *= 2
        return cell

    @property
    def halo(self) -> int:
        """Pixels around a core that its survey looks at."""
        pairs = [*self.bandpass, *([STAR_FILTER] if self.star_nsigma else [])]
        reach = max([hp.halo(*self.filters), *(hp.halo(pair) for pair in pairs)])
        stars = max(SPIKE_RADII[1], NOISE_BOX, STAR_BOX) + reach
        return max(reach + self.patch // 2, stars if self.star_nsigma else 0)

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Number of noise cells along y and x."""
        ny, nx = (
            -(-(n + o) // self.noise_cell) for n, o in zip(self.shape, self.offset, strict=True)
        )
        return ny, nx

    @property
    def names(self) -> list[str]:
        """Names of the noises: after the first high-pass, after both, of each band-pass."""
        return [noise_name(self.filters[0]), DETECTION, *map(noise_name, self.bandpass)]


def noise_name(pair: tuple[float, float]) -> str:
    """Name of the noise of an image filtered with these FWHM (px)."""
    return f"{pair[0]:g}-{pair[1]:g}"


@dataclass(frozen=True)
class Survey:
    """What pass 0 found.

    Attributes
    ----------
    distance : 2-D float32
        Distance in px of each footprint cell's centre to the outside of the footprint (0 there).
    sigma : dict of 2-D float32
        Robust noise per cell, by `SurveyPlan.names`, in the units of the image; NaN if none of
        the field's cells has enough data.
    stars : DataFrame or None
        ``x``, ``y``, ``snr`` of the band-passed maximum, ``contrast`` of the spikes in sigma.
    angle : float
        Angle of the spikes in deg, counter-clockwise from +x, modulo 60; NaN if no candidate
        has spikes.
    area : float
        Share of the pixels that have data.
    """

    plan: SurveyPlan
    distance: np.ndarray
    sigma: dict[str, np.ndarray]
    stars: pd.DataFrame | None = field(repr=False)
    angle: float
    area: float

    def noise(self, name: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Noise ``name`` at rows ``y``, columns ``x`` of the field, shape (len(y), len(x))."""
        oy, ox = self.plan.offset
        return interpolate_cells(self.sigma[name], self.plan.noise_cell, y + oy, x + ox)

    def around(self, y: np.ndarray, x: np.ndarray, margin: float) -> list[np.ndarray]:
        """All that rows ``y``, columns ``x`` can take of noise and distance.

        Distances that are larger than ``margin`` px for sure count as equal.
        """
        side = self.plan.footprint_cell
        ys, xs = (slice(max(a[0] // side - 1, 0), a[-1] // side + 2) for a in (y, x))
        # distances of neighbouring cells differ by at most their own
        out = [np.minimum(self.distance[ys, xs], np.float32(margin + 3 * side))]
        cell = self.plan.noise_cell
        for cells in self.sigma.values():
            spans = (
                cell_span(a + o, cell, n)
                for a, o, n in zip((y, x), self.plan.offset, cells.shape, strict=True)
            )
            out.append(cells[tuple(spans)])
        return out

    def is_inside(self, y: np.ndarray, x: np.ndarray, margin: float) -> bool:
        """Whether rows ``y``, columns ``x`` are surely more than ``margin`` px inside."""
        cell, (ny, nx) = self.plan.footprint_cell, self.plan.shape
        near = self.distance[
            max(y[0] // cell - 1, 0) : y[-1] // cell + 2,
            max(x[0] // cell - 1, 0) : x[-1] // cell + 2,
        ]
        ends = min(y[0], x[0], ny - 1 - y[-1], nx - 1 - x[-1]) + 0.5
        return bool(min(near.min(), ends) > margin)

    def edge_distance(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Distance in px from rows ``y``, columns ``x`` to the outside of the footprint.

        Exact at the ends of the array, elsewhere good to a footprint cell.
        """
        coarse = interpolate_cells(self.distance, self.plan.footprint_cell, y, x)
        ends = [
            np.minimum(a + 0.5, n - 0.5 - a).astype(np.float32)
            for a, n in zip((y, x), self.plan.shape, strict=True)
        ]
        return np.minimum(coarse, np.minimum(ends[0][:, None], ends[1]))


def filter_window(image: np.ndarray, plan: SurveyPlan) -> Filtered:
    """A window (NaN = no data) after the first high-pass and after each band-pass, by FWHM."""
    good = np.isfinite(image)
    pairs = dict.fromkeys([plan.filters[0], *plan.bandpass])
    return {pair: hp.highpass(image, good, pair) for pair in pairs}


def survey_window(
    tile: Tile, image: np.ndarray, plan: SurveyPlan, filtered: Filtered | None = None
) -> dict[str, Any]:
    """What one window (sum over bands, NaN = no data) adds to the survey.

    ``filtered`` is the window's `filter_window`, if that is known already.
    """
    good = np.isfinite(image)
    filtered = filter_window(image, plan) if filtered is None else filtered
    first = filtered[plan.filters[0]]
    detection = hp.highpass(first, good, plan.filters[1])
    wider = [filtered[pair] for pair in plan.bandpass]
    piece = {
        "footprint": _footprint(tile, good, plan.footprint_cell),
        "noise": noise_cells(tile, plan, first, detection, *wider),
    }
    if plan.star_nsigma:
        smooth = filtered.get(STAR_FILTER)
        smooth = hp.highpass(image, good, STAR_FILTER) if smooth is None else smooth
        piece["stars"] = _stars(tile, first, smooth, plan)
    return piece


def combine(pieces: Sequence[dict[str, Any]], plan: SurveyPlan) -> Survey:
    """The survey of a field from the pieces of all its tiles, in any order."""
    cell = plan.footprint_cell
    counts = np.zeros([-(-n // cell) for n in plan.shape], np.int64)
    for y, x, n in (p["footprint"] for p in pieces):
        counts[y : y + n.shape[0], x : x + n.shape[1]] += n
    size = [np.minimum(cell, n - cell * np.arange(-(-n // cell))) for n in plan.shape]
    inside = ndimage.binary_fill_holes(2 * counts >= size[0][:, None] * size[1])
    # cell centres to the nearest outside centre; the border lies half a cell before that
    distance = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    distance = np.maximum(distance - 0.5, 0) * cell
    sigma = dict(zip(plan.names, lattices([p["noise"] for p in pieces], plan), strict=True))
    stars, angle = _spiked([p["stars"] for p in pieces]) if plan.star_nsigma else (None, np.nan)
    area = float(counts.sum() / (plan.shape[0] * plan.shape[1]))
    return Survey(plan, distance.astype(np.float32), sigma, stars, angle, area)


def _footprint(tile: Tile, good: np.ndarray, cell: int) -> tuple[int, int, np.ndarray]:
    """Valid pixels of the core in each global cell that it touches."""
    y0, y1, x0, x1 = tile.core
    rows, columns = np.arange(y0, y1) // cell, np.arange(x0, x1) // cell
    n = sums.count_cells(good[tile.inner], rows - rows[0], columns - columns[0])
    return int(rows[0]), int(columns[0]), n


def noise_cells(tile: Tile, plan: SurveyPlan, *images: np.ndarray) -> np.ndarray:
    """Rows (i, j, sigma of each image) of the noise cells whose centre the core owns.

    A cell whose centre is beyond the field is measured at the field's end, so that a field
    smaller than half a cell has a noise too.
    """
    half, cell = plan.patch // 2, plan.noise_cell
    y0, y1, x0, x1 = tile.core
    wy, _, wx, _ = tile.window
    centres = [
        [
            (k, min(max(k * cell + cell // 2 - o, 0), n - 1))
            for k in range((a + o) // cell, -(-(b + o) // cell))
        ]
        for a, b, n, o in zip((y0, x0), (y1, x1), plan.shape, plan.offset, strict=True)
    ]
    rows = []
    for i, cy in ((i, c) for i, c in centres[0] if y0 <= c < y1):
        ys = slice(max(cy - half - wy, 0), cy + half - wy)
        for j, cx in ((j, c) for j, c in centres[1] if x0 <= c < x1):
            xs = slice(max(cx - half - wx, 0), cx + half - wx)
            rows.append([i, j, *(robust_sigma(image[ys, xs]) for image in images)])
    return np.array(rows, float).reshape(-1, 2 + len(images))


def lattices(pieces: Sequence[np.ndarray], plan: SurveyPlan) -> list[np.ndarray]:
    """Noise of all cells, one array for each image, from the rows of `noise_cells` of all tiles.

    Cells without an estimate take the nearest one's; NaN where there is none at all.
    """
    cells = np.concatenate(pieces)
    i, j = cells[:, :2].astype(int).T
    out = []
    for column in cells[:, 2:].T:
        lattice = np.full(plan.noise_shape, np.nan, np.float32)
        lattice[i, j] = column
        bad = ~(lattice > 0)
        if bad.all():
            out.append(np.full_like(lattice, np.nan))
            continue
        near = ndimage.distance_transform_edt(bad, return_distances=False, return_indices=True)
        out.append(lattice[tuple(near)])
    return out


# -- stars ---------------------------------------------------------------------------------------
def _stars(
    tile: Tile, first: np.ndarray, smooth: np.ndarray, plan: SurveyPlan
) -> dict[str, np.ndarray]:
    """Candidates in the core: band-passed maxima within 16 px, with their spike profiles.

    The noise is that around the candidate itself, so that no other tile's cut matters.
    """
    value = np.where(smooth > 0, smooth, np.float32(0))
    box = np.ones((2 * STAR_BOX + 1, 2 * STAR_BOX + 1), np.uint8)
    largest, core = cv2.dilate(value, box)[tile.inner], value[tile.inner]
    ys, xs = tile.inner
    y, x = np.nonzero((core == largest) & (core > 0))
    y, x = y + ys.start, x + xs.start
    sigma = sigma_around(first, y, x, NOISE_BOX, 3)
    with np.errstate(invalid="ignore"):
        bright = (sigma > 0) & (value[y, x] > plan.star_nsigma * sigma)
    y, x = y[bright], x[bright]
    profile = [_angular_profile(first, a, b) for a, b in zip(y, x, strict=True)]
    return {
        "x": (x + tile.window[2]).astype(float),
        "y": (y + tile.window[0]).astype(float),
        "snr": value[y, x] / sigma[bright],
        "profile": np.reshape(profile, (len(y), SECTOR // SPIKE_BIN)),
    }


def _angular_profile(first: np.ndarray, y: int, x: int) -> np.ndarray:
    """Mean filtered flux against angle modulo 60 deg, in 1 deg bins, 12-60 px from a source.

    Pixels are clipped to their ring's scatter first: a neighbour is bright but in few pixels,
    a spike is in all rings.
    """
    inner, outer = SPIKE_RADII
    y0, x0 = max(y - outer, 0), max(x - outer, 0)
    stamp = first[y0 : y + outer + 1, x0 : x + outer + 1]
    dy, dx = np.ogrid[y0 - y : y0 - y + stamp.shape[0], x0 - x : x0 - x + stamp.shape[1]]
    r = np.hypot(dy, dx)
    use = (r >= inner) & (r <= outer) & np.isfinite(stamp)
    if not use.any():
        return np.zeros(SECTOR // SPIKE_BIN)
    limit = 5 * robust_sigma(stamp[use]) if use.sum() > 64 else np.inf
    value = np.clip(stamp[use], -limit, limit)
    angle = np.rad2deg(np.arctan2(dy, dx))[use] % SECTOR
    k = np.minimum((angle / SPIKE_BIN).astype(int), SECTOR // SPIKE_BIN - 1)
    n = np.bincount(k, minlength=SECTOR // SPIKE_BIN)
    return np.bincount(k, value, minlength=SECTOR // SPIKE_BIN) / np.maximum(n, 1)


def _spiked(tables: Sequence[dict[str, np.ndarray]]) -> tuple[pd.DataFrame, float]:
    """The candidates with the contrast of their spikes at the one angle the field agrees on."""
    columns = {k: np.concatenate([t[k] for t in tables]) for k in ("x", "y", "snr", "profile")}
    order = np.lexsort((columns["x"], columns["y"]))
    columns = {k: v[order] for k, v in columns.items()}
    profile = columns.pop("profile")
    if not len(profile):
        return pd.DataFrame({**columns, "contrast": np.array([])}), float("nan")
    profile = profile - np.median(profile, axis=1, keepdims=True)
    scatter = 1.4826 * np.median(np.abs(profile), axis=1, keepdims=True)
    strength = profile / np.maximum(scatter, np.finfo(float).tiny)
    spiked = strength.max(axis=1) >= SPIKE_CONTRAST
    if not spiked.any():
        return pd.DataFrame({**columns, "contrast": strength.max(axis=1)}), float("nan")
    votes = np.clip(strength[spiked], 0, 10).sum(axis=0)  # no single star decides
    k = int(np.argmax(votes + np.roll(votes, 1) + np.roll(votes, -1)))
    near = np.arange(-2, 3)
    weight = np.maximum(votes[(k + near) % votes.size], 0)
    # to a tenth: one star more or less in a large field must not turn all spikes by a hair
    angle = np.round((k + 0.5 + np.average(near, weights=weight)) * SPIKE_BIN, 1)
    contrast = np.max([np.roll(strength, s, axis=1)[:, k] for s in (-1, 0, 1)], axis=0)
    return pd.DataFrame({**columns, "contrast": contrast}), float(angle % SECTOR)
