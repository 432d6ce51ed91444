"""The work of one task: a tile from stored pixels to its map shards and its Parquet part.

Two tasks a tile: its piece of the survey, then, when the survey of the field is known, its peaks.
What comes back to the client is small; what is large stays in files, or on the worker.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from gcdask import catalog, detect, masks, mosaic
from gcdask._version import __version__
from gcdask.errors import InputError
from gcdask.grid import Grid, Tile
from gcdask.pipeline import records
from gcdask.pipeline.identity import digest, pixel_digest, plain
from gcdask.pipeline.records import Place
from gcdask.survey import (
    DETECTION,
    Filtered,
    Survey,
    SurveyPlan,
    filter_window,
    noise_name,
    survey_window,
)
from gcdask.tiles import read_what_can_be, real_ends, with_halo

log = logging.getLogger(__name__)

LEVELS_PER_OCTAVE = 32  # so that twice a level is a level too
OCTAVES = 6


@dataclass(frozen=True)
class FieldJob:
    """What every tile of one field has to know."""

    bands: tuple[Any, ...]
    grid: Grid
    mask: masks.MaskPlan
    plan: SurveyPlan
    filters: tuple[tuple[float, float], tuple[float, float]]
    radius: int
    rim: int
    in_sigma: bool  # peaks are found on detection / noise rather than on detection
    threshold: float
    size: int  # side of a tile
    retries: int
    units: str
    written: tuple[str, ...]  # which maps
    place: Place
    bases: tuple[Place, ...] = ()  # of earlier runs, whose tiles are taken over if they still hold
    states: tuple[Any, ...] = ()  # of files beside the images: masks, regions

    @property
    def levels(self) -> np.ndarray:
        """Levels at which peaks are counted: the threshold and up, 32 to an octave."""
        return self.threshold * 2 ** (
            np.arange(OCTAVES * LEVELS_PER_OCTAVE + 1) / LEVELS_PER_OCTAVE
        )

    @property
    def halo(self) -> int:
        """Pixels around a core that the whole chain needs, exchanged once."""
        luminous = self.mask.rules.luminous
        return (
            self.mask.rules.halo
            + detect.chain_halo(self.filters, luminous.dilate if luminous else 0, self.rim)
            + self.peak_halo
        )

    @property
    def peak_halo(self) -> int:
        """Pixels around a core in which the detection map has to be right."""
        return max(detect.PEAK_HALO, detect.NEAR_RADIUS)

    @property
    def survey_settings(self) -> str:
        """What a piece of the survey depends on besides pixels and place."""
        plan = self.plan
        return digest(
            [__version__, plan.noise_cell, plan.patch, plan.filters, plan.bandpass, plan.offset,
             plan.star_nsigma, plan.footprint_cell]
        )  # fmt: skip

    @property
    def settings(self) -> str:
        """What a tile depends on besides pixels, place and survey."""
        rules = repr(replace(self.mask.rules, regions=(), files=()))  # their states are there
        return digest(
            [__version__, self.grid.header, self.grid.origin, self.grid.step, rules, self.states,
             self.filters, self.radius, self.rim, self.in_sigma, self.threshold, self.size,
             self.units, self.written]
        )  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """What the survey of a window leaves to the search of its tile, where memory allows."""

    tile: Tile
    image: np.ndarray
    filtered: Filtered

    def cut(self, tile: Tile) -> tuple[np.ndarray, Filtered]:
        """Image and filtered images of a smaller window of the same tile."""
        part = tile.within(self.tile)
        image = np.ascontiguousarray(self.image[part])
        return image, {pair: values[part] for pair, values in self.filtered.items()}


# -- survey --------------------------------------------------------------------------------------
def survey_tile(item: tuple[Tile, str], job: FieldJob) -> dict[str, Any]:
    """Survey a tile's window; ``item`` is the tile and the stamp of what is stored under it."""
    return survey_and_keep(item, job)[0]


def survey_and_keep(item: tuple[Tile, str], job: FieldJob) -> tuple[dict[str, Any], Kept | None]:
    """A tile's piece of the survey, and what the search can use again (None if it was not read).

    A piece that this run or an earlier one made of the same files is taken as it is; one made of
    the same pixels (files that were only touched or copied) after reading them.
    """
    tile, stamp = item
    made = [job.survey_settings, tile.core, tile.window]
    fingerprint = digest(made)
    known = _known_piece(tile, job, fingerprint)
    if known is not None and known["about"]["stamp"] == stamp:
        return {**known, "how": "unchanged"}, None
    image, damage = read_what_can_be(job.bands, tile, job.retries)
    content = pixel_digest(image)
    about = {"settings": fingerprint, "stamp": stamp, "content": content, "damage": damage}
    if known is not None and known["about"]["content"] == content:
        piece, kept, how = {**known, "about": about}, None, "unchanged"
    else:
        filtered = filter_window(image, job.plan)
        piece = {**survey_window(tile, image, job.plan, filtered), "about": about}
        kept, how = Kept(tile, image, filtered), "done"
    records.write_piece(job.place, tile, piece)
    return {**piece, "how": how}, kept


def _known_piece(tile: Tile, job: FieldJob, fingerprint: str) -> dict[str, Any] | None:
    for place in (job.place, *job.bases):
        piece = records.read_piece(place, tile)
        if piece is None:
            continue
        about = piece["about"]
        if about.get("settings") == fingerprint and not about["damage"]:
            if place is not job.place:
                records.storage.link(place.piece(tile), job.place.piece(tile))
            return piece
    return None


# -- search --------------------------------------------------------------------------------------
def process_tile(
    item: tuple[Tile, dict[str, Any], Kept | None], job: FieldJob, survey_path: str
) -> dict[str, Any]:
    """One tile from stored pixels to map shards and Parquet part; returns its row.

    ``item`` is the tile, ``about`` of its piece of the survey, and what that kept. A row that this
    run or an earlier one left for the same pixels and settings is returned as it is.
    """
    start = time.perf_counter()
    tile, about, kept = item
    survey = records.read_survey(survey_path, job.plan)
    fingerprint = _fingerprint(tile, about, job, survey)
    row = records.find_row(job.place, job.bases, tile, fingerprint)
    if row is not None:
        return {**row, "how": "unchanged"}
    detection, bits, peaks, damage = search(tile, job, survey, kept)
    row = _write(tile, detection, bits, peaks, job)
    row |= {"fingerprint": fingerprint, "damage": about["damage"] or damage}
    row["seconds"] = round(time.perf_counter() - start, 3)
    records.storage.write_json(job.place.row(tile), plain(row), indent=None)
    log.debug("tile %s: %d peaks", records.label(tile), row["part"]["rows"])
    # what a resumed run would see, to the last digit
    return {**records.storage.read_json(job.place.row(tile)), "how": "done"}


def _fingerprint(tile: Tile, about: dict[str, Any], job: FieldJob, survey: Survey) -> str:
    """Identity of everything that a tile's products depend on."""
    row, column = (np.arange(s.start, s.stop) for s in tile.slices)
    stars: list[Any] = []
    if job.mask.rules.spikes:
        y, x = job.grid.y[row], job.grid.x[column]
        near = masks.stars_near(y, x, job.mask, survey)
        stars = [near, survey.angle if len(near) else None]
    seen = pixel_digest(*survey.around(row, column, masks.edge_margin(job.mask, survey)))
    ends = real_ends(tile, job.grid.shape)
    return digest([job.settings, tile.core, tile.window, ends, about["content"], seen, stars])


def search(
    tile: Tile, job: FieldJob, survey: Survey, kept: Kept | None = None
) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[pd.DataFrame, pd.DataFrame]], list[str]]:
    """Read a tile's window (if it was not ``kept``), mask and filter it, and find its peaks.

    Returns
    -------
    detection, bits : arrays (y, x)
        Detection map and mask of the window.
    peaks : dict
        Of the map (``positive``) and of its negative: decided and pending peaks of the core.
    damage : list of str
        What could not be read, and counts as without data.
    """
    if kept is not None:
        damage: list[str] = []
        image, filtered = kept.cut(tile)
    else:
        image, damage = read_what_can_be(job.bands, tile, job.retries)
        filtered = {}
    bits = masks.mask_window(tile, image, job.mask, survey, filtered)
    y, x = (np.arange(s.start, s.stop) for s in tile.slices)
    luminous, level = job.mask.rules.luminous, None
    if luminous:
        level = luminous.nsigma * survey.noise(noise_name(job.filters[0]), y, x)
    detection, bits = detect.chain(
        image,
        bits,
        fwhm=job.filters,
        luminous=level,
        luminous_dilate=luminous.dilate if luminous else 0,
        rim=job.rim,
    )
    del image, filtered, level  # the window's arrays are what a worker needs its memory for
    noise = survey.noise(DETECTION, y, x)
    return detection, bits, _peaks(detection, noise, tile, job), damage


def _peaks(
    detection: np.ndarray, noise: np.ndarray, tile: Tile, job: FieldJob
) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Peaks of the part of the window where the detection map is right: the filters need the rest.

    A wrong pixel farther out would count as decided, and what hangs on it too.
    """
    exact = with_halo(tile, job.grid.shape, job.peak_halo)
    part = exact.within(tile)
    detection, noise = detection[part], noise[part]
    ratio = detect.signal_to_noise(detection, noise) if job.in_sigma else None
    out = {}
    for name, sign in (("positive", 1), ("negative", -1)):
        out[name] = detect.peaks_in_window(
            detection,
            noise,
            job.threshold,
            job.radius,
            in_sigma=job.in_sigma,
            tile=exact,
            ends=real_ends(exact, job.grid.shape),
            grid=job.grid,
            sign=sign,
            near_above=detect.RING * job.threshold,  # what `level_counts` can tell apart
            ratio=ratio,
        )
        for table in out[name]:
            table.attrs["units"] = {**table.attrs.get("units", {}), "peak": job.units}
    return out


def _write(
    tile: Tile,
    detection: np.ndarray,
    bits: np.ndarray,
    peaks: dict[str, tuple[pd.DataFrame, pd.DataFrame]],
    job: FieldJob,
) -> dict[str, Any]:
    """Write a tile's shards and its part; the beginning of its row."""
    part = catalog.write_part(
        peaks["positive"][0],
        records.storage.join(job.place.folder, "peaks"),
        catalog.part_name(records.label(tile)),
        grid=job.grid,
    )
    for name in job.written:
        values = detection if name == "detection" else bits
        mosaic.write_tile(job.place.maps, name, tile.core_slices, values[tile.inner])
    return {
        "tile": list(tile.index),
        "part": part,
        "shards": {name: records.shard_size(job.place, name, tile) for name in job.written},
        "pending": {sign: left.to_dict("list") for sign, (_, left) in peaks.items()},
        "counts": {sign: level_counts(found, job) for sign, (found, _) in peaks.items()},
        "pixels": masks.shares(bits[tile.inner]),
    }


def level_counts(found: pd.DataFrame, job: FieldJob) -> list[int]:
    """Peaks of a table at the job's levels."""
    value = found["snr" if job.in_sigma else "peak"].to_numpy()
    return detect.level_counts(value, found["near"].to_numpy(), job.levels).tolist()


def check_not_empty(survey: Survey, job: FieldJob, name: str) -> None:
    """Raise `InputError` for a field without any pixel that has data in every band."""
    if survey.area == 0:
        files = ", ".join(dict.fromkeys(band.path for band in job.bands))
        raise InputError(f"{name}: no pixel has data in every band; check the images {files}")
