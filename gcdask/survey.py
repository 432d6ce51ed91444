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
from gcdask.kernels.noise import interpolate_cells, robust_sigma

FILTERS = ((0.5, 5.0), (1.0, 3.0))
STAR_BOX = 16  # px: a star is the brightest pixel of a smoothed image within this distance
SPIKE_RADII = (12, 60)  # px: annulus in which spikes are looked for
NOISE_BOX = 48  # px: half side of the square whose noise judges a candidate
SPIKE_BIN = 1  # deg
SECTOR = 60  # deg between the spikes of JWST's hexagonal pupil


@dataclass(frozen=True)
class SurveyPlan:
    """What a survey measures on a field of ``shape`` (ny, nx).

    Parameters
    ----------
    noise_cell, patch : int
        Side in px of a noise cell, and of the square at its centre that is measured.
    filters, extended : pairs of FWHM in px
        The two high-pass steps, and the band-pass that finds extended sources.
    star_nsigma : float or None
        Stars are looked for among maxima of the band-passed image above this many sigma of the
        first high-pass about them; None looks for none.
    """

    shape: tuple[int, int]
    noise_cell: int = 128
    patch: int = 64
    filters: tuple[tuple[float, float], tuple[float, float]] = FILTERS
    extended: tuple[float, float] = (4.0, 25.0)
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
        reach = max(hp.halo(*self.filters), hp.halo(self.extended))
        stars = max(SPIKE_RADII[1], NOISE_BOX, STAR_BOX) + reach
        return max(reach + self.patch // 2, stars if self.star_nsigma else 0)


@dataclass(frozen=True)
class Survey:
    """What pass 0 found.

    Attributes
    ----------
    distance : 2-D float32
        Distance in px of each footprint cell's centre to the outside of the footprint (0 there).
    sigma : dict of 2-D float32
        Robust noise per cell of ``first`` (after the first high-pass), ``detection`` (after
        both) and ``extended``, in the units of the image.
    stars : DataFrame or None
        ``x``, ``y``, ``snr`` of the band-passed maximum, ``contrast`` of the spikes in sigma.
    angle : float
        Angle of the spikes in deg, counter-clockwise from +x, modulo 60; NaN without
        candidates.
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
        """Noise ``name`` at global pixels: float32 of shape (len(y), len(x))."""
        return interpolate_cells(self.sigma[name], self.plan.noise_cell, y, x)

    def edge_distance(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Distance in px to the outside of the footprint: float32 of shape (len(y), len(x))."""
        return interpolate_cells(self.distance, self.plan.footprint_cell, y, x)


def survey_window(tile: Tile, image: np.ndarray, plan: SurveyPlan) -> dict[str, Any]:
    """What one window (sum over bands, NaN = no data) adds to the survey."""
    good = np.isfinite(image)
    first = hp.highpass(image, good, plan.filters[0])
    detection = hp.highpass(first, good, plan.filters[1])
    extended = hp.highpass(image, good, plan.extended)
    piece = {
        "footprint": _footprint(tile, good, plan.footprint_cell),
        "noise": _noise(tile, plan, first, detection, extended),
    }
    if plan.star_nsigma:
        piece["stars"] = _stars(tile, first, extended, plan)
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
    cells = np.concatenate([p["noise"] for p in pieces])
    shape = [-(-n // plan.noise_cell) for n in plan.shape]
    sigma = {}
    for k, name in enumerate(("first", "detection", "extended")):
        lattice = np.full(shape, np.nan, np.float32)
        lattice[cells[:, 0].astype(int), cells[:, 1].astype(int)] = cells[:, 2 + k]
        sigma[name] = _fill(lattice)
    stars, angle = _spiked([p["stars"] for p in pieces]) if plan.star_nsigma else (None, np.nan)
    area = float(counts.sum() / (plan.shape[0] * plan.shape[1]))
    return Survey(plan, distance.astype(np.float32), sigma, stars, angle, area)


def _footprint(tile: Tile, good: np.ndarray, cell: int) -> tuple[int, int, np.ndarray]:
    """Valid pixels of the core in each global cell that it touches."""
    y0, y1, x0, x1 = tile.core
    core = good[tile.inner].astype(np.int64)
    ys = np.unique(np.maximum(np.arange(y0 // cell, -(-y1 // cell)) * cell, y0)) - y0
    xs = np.unique(np.maximum(np.arange(x0 // cell, -(-x1 // cell)) * cell, x0)) - x0
    n = np.add.reduceat(np.add.reduceat(core, ys, axis=0), xs, axis=1)
    return y0 // cell, x0 // cell, n


def _noise(tile: Tile, plan: SurveyPlan, *images: np.ndarray) -> np.ndarray:
    """Rows (i, j, sigma of each image) of the noise cells whose centre the core owns.

    A last cell that ends before its centre is measured at the field's end, so that a field
    smaller than half a cell has a noise too.
    """
    half, cell = plan.patch // 2, plan.noise_cell
    y0, y1, x0, x1 = tile.core
    wy, _, wx, _ = tile.window
    centres = [
        [(k, min(k * cell + cell // 2, n - 1)) for k in range(a // cell, -(-b // cell))]
        for a, b, n in ((y0, y1, plan.shape[0]), (x0, x1, plan.shape[1]))
    ]
    rows = []
    for i, cy in ((i, c) for i, c in centres[0] if y0 <= c < y1):
        ys = slice(max(cy - half - wy, 0), cy + half - wy)
        for j, cx in ((j, c) for j, c in centres[1] if x0 <= c < x1):
            xs = slice(max(cx - half - wx, 0), cx + half - wx)
            rows.append([i, j, *(robust_sigma(image[ys, xs]) for image in images)])
    return np.array(rows, float).reshape(-1, 2 + len(images))


def _fill(lattice: np.ndarray) -> np.ndarray:
    """Cells without an estimate take the nearest one's; 1 where there is none at all."""
    bad = ~(np.isfinite(lattice) & (lattice > 0))
    if bad.all():
        return np.ones_like(lattice)
    nearest = ndimage.distance_transform_edt(bad, return_distances=False, return_indices=True)
    return lattice[tuple(nearest)]


# -- stars ---------------------------------------------------------------------------------------
def _stars(
    tile: Tile, first: np.ndarray, extended: np.ndarray, plan: SurveyPlan
) -> dict[str, np.ndarray]:
    """Candidates in the core: band-passed maxima within 16 px, with their spike profiles.

    The noise is that around the candidate itself, so that no other tile's cut matters.
    """
    value = np.where(np.isfinite(extended), extended, -np.inf).astype(np.float32)
    box = np.ones((2 * STAR_BOX + 1, 2 * STAR_BOX + 1), np.uint8)
    top = (value == cv2.dilate(value, box)) & (value > 0)
    ys, xs = tile.inner
    y, x = np.nonzero(top[tile.inner])
    y, x = y + ys.start, x + xs.start
    sigma = np.array(
        [robust_sigma(_around(first, a, b)[::3, ::3]) for a, b in zip(y, x, strict=True)]
    )
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


def _around(image: np.ndarray, y: int, x: int) -> np.ndarray:
    """Square of 97 px about a pixel, clipped at the ends."""
    return image[
        max(y - NOISE_BOX, 0) : y + NOISE_BOX + 1, max(x - NOISE_BOX, 0) : x + NOISE_BOX + 1
    ]


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
    votes = np.clip(strength, 0, 10).sum(axis=0)  # no single star decides
    k = int(np.argmax(votes + np.roll(votes, 1) + np.roll(votes, -1)))
    near = np.arange(-2, 3)
    weight = np.maximum(votes[(k + near) % votes.size], 0)
    angle = (k + 0.5 + np.average(near, weights=weight if weight.any() else None)) * SPIKE_BIN
    contrast = np.max([np.roll(strength, s, axis=1)[:, k] for s in (-1, 0, 1)], axis=0)
    return pd.DataFrame({**columns, "contrast": contrast}), float(angle % SECTOR)
