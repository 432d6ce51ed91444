"""From a mosaic to its catalogue of peaks: survey, tiles, settling, threshold.

One task takes a tile from the stored pixels to its map shard and its Parquet part; what comes back
to the client is a small row of counts and the few pixels that neighbours have to settle.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gcdask import catalog, detect, masks, mosaic
from gcdask._version import __version__
from gcdask.config import Config
from gcdask.errors import InputError
from gcdask.grid import Grid, Tile
from gcdask.pipeline.runner import Runner
from gcdask.pipeline.store import digest, input_state, read_json, write_json
from gcdask.survey import (
    DETECTION,
    Filtered,
    Survey,
    SurveyPlan,
    filter_window,
    noise_name,
    survey_window,
)
from gcdask.survey import combine as combine_survey
from gcdask.tiles import read_sum, real_ends, tile_grid, with_halo

LEVELS_PER_OCTAVE = 32  # so that twice a level is a level too
OCTAVES = 6
#: Type, fill value and attributes of the maps that tiles write.
MAPS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "detection": ("float32", np.nan, {}),
    "mask": ("uint16", 1, masks.FLAG_ATTRS),
}


@dataclass(frozen=True)
class FieldJob:
    """What every tile of one field has to know."""

    bands: tuple[Any, ...]
    grid: Grid
    mask: masks.MaskPlan
    filters: tuple[tuple[float, float], tuple[float, float]]
    radius: int
    rim: int
    in_sigma: bool  # peaks are found on detection / noise rather than on detection
    threshold: float
    folder: str
    maps: str
    units: str
    written: tuple[str, ...]  # which of `MAPS`
    fingerprint: str

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


@dataclass(frozen=True)
class Detected:
    """A field after its tiles: where the products are and what was counted.

    ``shares`` are fractions of all pixels by cause; ``counts`` are peaks at the job's levels on
    the map (``positive``) and on its negative.
    """

    job: FieldJob
    survey: Survey
    parts: list[dict[str, Any]]
    shares: dict[str, float]
    counts: dict[str, np.ndarray]


def make_job(
    config: Config, sources: mosaic.Sources, rules: masks.MaskRules, folder: Path, maps: Path
) -> FieldJob:
    """The job of a field; raises `InputError` for a mask or region file that does not fit."""
    d = config.detect
    lowest = d.floor if d.threshold_kind == "auto" else d.threshold_value
    assert lowest is not None
    assert config.mosaic is not None
    wanted = list(config.mosaic.use or sources.bands)
    settings = config.canonical()
    content = {k: settings[k] for k in ("noise", "detect", "tiles")}
    job = FieldJob(
        bands=tuple(sources.sci[sources.bands.index(b)] for b in wanted),
        grid=sources.grid,
        mask=masks.plan_mask(sources.grid, rules),
        filters=d.filters,
        radius=d.radius,
        rim=d.rim,
        in_sigma=d.threshold_kind != "value",
        threshold=float(lowest),
        folder=str(folder),
        maps=str(maps),
        units=sources.units,
        written=tuple(name for name in MAPS if name != "detection" or config.output.detection),
        fingerprint="",
    )
    # all images: the survey ties every tile to the whole field
    images = ("mosaic.", "reference.")
    files = [input_state(p) for p in (*rules.regions, *rules.files)]
    files += [input_state(p) for key, p in config.local_paths() if key.startswith(images)]
    identity = digest([content, __version__, repr(job.bands), repr(rules), files])
    return replace(job, fingerprint=identity)


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


# -- one task ------------------------------------------------------------------------------------
def survey_tile(tile: Tile, job: FieldJob, plan: SurveyPlan) -> dict[str, Any]:
    """Read a tile's window and survey it."""
    return survey_and_keep(tile, job, plan)[0]


def survey_and_keep(tile: Tile, job: FieldJob, plan: SurveyPlan) -> tuple[dict[str, Any], Kept]:
    """Read a tile's window and survey it; also returns what the search can use again."""
    image = read_sum(job.bands, tile)
    filtered = filter_window(image, plan)
    return survey_window(tile, image, plan, filtered), Kept(tile, image, filtered)


def process_tile(item: tuple[Tile, Kept | None], job: FieldJob, survey: Survey) -> dict[str, Any]:
    """One tile from stored pixels to map shards and Parquet part; returns its row.

    A row that an earlier run left for the same inputs and settings is returned as it is.
    """
    tile, kept = item
    row_path = Path(job.folder) / "rows" / f"{tile.index[0]:05d}-{tile.index[1]:05d}.json"
    row = read_json(row_path)
    if row is not None and is_done(row, tile, job):
        return row
    detection, bits, peaks = search(tile, job, survey, kept)
    label = f"{tile.index[0]:05d}-{tile.index[1]:05d}"
    part = catalog.write_part(
        peaks["positive"][0], f"{job.folder}/peaks", catalog.part_name(label), grid=job.grid
    )
    for name in job.written:
        values = detection if name == "detection" else bits
        mosaic.write_tile(job.maps, name, tile.core_slices, values[tile.inner])
    row = {
        "fingerprint": job.fingerprint,
        "tile": list(tile.index),
        "part": part,
        "shards": shards(tile, job),
        "pending": {sign: left.to_dict("list") for sign, (_, left) in peaks.items()},
        "counts": {sign: _counts(found, job) for sign, (found, _) in peaks.items()},
        "pixels": masks.shares(bits[tile.inner]),
    }
    write_json(row_path, row, indent=None)
    return read_json(row_path)  # what a resumed run would see, to the last digit


def search(
    tile: Tile, job: FieldJob, survey: Survey, kept: Kept | None = None
) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[pd.DataFrame, pd.DataFrame]]]:
    """Read a tile's window, mask and filter it, and find its peaks.

    Returns
    -------
    detection, bits : arrays (y, x)
        Detection map and mask of the window.
    peaks : dict
        Of the map (``positive``) and of its negative: decided and pending peaks of the core.
    """
    image, filtered = (read_sum(job.bands, tile), None) if kept is None else kept.cut(tile)
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
    return detection, bits, _peaks(detection, noise, tile, job)


def is_done(row: dict[str, Any], tile: Tile, job: FieldJob) -> bool:
    """Whether a row is of this job and what it tells of is still there, whole."""
    if row["fingerprint"] != job.fingerprint or row["shards"] != shards(tile, job):
        return False
    part = row["part"]
    return _size(f"{job.folder}/peaks/{part['name']}") == part["bytes"]


def shards(tile: Tile, job: FieldJob) -> dict[str, list[Any]]:
    """Of each map: the identity that its array got when it was made, and its shard's size."""
    i, j = tile.index
    return {
        name: [mosaic.map_attrs(job.maps, name)["made"], _size(f"{job.maps}/{name}/c/{i}/{j}")]
        for name in job.written
    }


def _size(path: str) -> int | None:
    """Bytes of a file; None if there is none (a shard that holds only its fill value)."""
    return os.path.getsize(path) if os.path.exists(path) else None


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


def _counts(found: pd.DataFrame, job: FieldJob) -> list[int]:
    value = found["snr" if job.in_sigma else "peak"].to_numpy()
    return detect.level_counts(value, found["near"].to_numpy(), job.levels).tolist()


# -- the field -----------------------------------------------------------------------------------
def detect_field(name: str, job: FieldJob, config: Config, runner: Runner) -> Detected:
    """Survey a field, process its tiles and settle what is left; ``name`` goes into the progress.

    Tiles that an earlier run of the same job finished are not done again.
    """
    shape, size = job.grid.shape, config.tiles.size
    plan = job.mask.rules.survey_plan(
        job.grid, noise_cell=config.noise.cell, patch=config.noise.patch, filters=job.filters
    )
    pieces, kept = _survey(name, job, plan, size, runner)
    survey = combine_survey(pieces, plan)
    if survey.area == 0:
        files = ", ".join(dict.fromkeys(band.path for band in job.bands))
        raise InputError(f"{name}: no pixel has data in every band; check the images {files}")
    folder = Path(job.folder)
    for sub in ("rows", "peaks"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for variable in job.written:
        dtype, fill, attrs = MAPS[variable]
        units = job.units if variable == "detection" else ""
        made = {**attrs, "made": uuid.uuid4().hex}
        mosaic.create_array(
            job.maps, variable, job.grid, dtype, units, size, fill, attrs=made, resume=True
        )
        mosaic.set_complete(job.maps, variable, False)
    _write_noise(job, survey)
    items = list(zip(tile_grid(shape, size, job.halo), kept, strict=True))
    rows = runner.map(f"detect {name}", process_tile, items, job, survey)
    del items, kept  # and with them what the workers kept
    for variable in job.written:
        mosaic.set_complete(job.maps, variable, True)
    return _settle(job, survey, rows)


def _survey(
    name: str, job: FieldJob, plan: SurveyPlan, size: int, runner: Runner
) -> tuple[list[dict[str, Any]], list[Any]]:
    """The pieces of a survey, and for each tile what was kept: all windows of a field, or none."""
    stage = f"survey {name}"
    tiles = tile_grid(plan.shape, size, max(plan.halo, job.halo))  # as both stages need
    per_pixel = 4 * (2 + len(plan.bandpass))  # the image, the first high-pass and the others
    if per_pixel * sum(t.window_pixels for t in tiles) <= runner.room:
        return runner.map_and_keep(stage, survey_and_keep, tiles, job, plan)
    tiles = tile_grid(plan.shape, size, plan.halo)
    return runner.map(stage, survey_tile, tiles, job, plan), [None] * len(tiles)


def _write_noise(job: FieldJob, survey: Survey) -> None:
    """Keep the noise of the detection map, one value per cell, in the group ``noise``."""
    grid, group = job.grid.coarsen(survey.plan.noise_cell), f"{job.maps}/noise"
    mosaic.create_array(group, DETECTION, grid, "float32", job.units, 256, overwrite=True)
    ny, nx = grid.shape
    where = slice(0, ny), slice(0, nx)
    mosaic.write_tile(group, DETECTION, where, survey.sigma[DETECTION])


def _settle(job: FieldJob, survey: Survey, rows: list[dict[str, Any]]) -> Detected:
    """Decide the peaks that no tile could, and add up what the tiles counted."""
    parts, counts = [row["part"] for row in rows], {}
    for sign in ("positive", "negative"):
        pending = [pd.DataFrame(row["pending"][sign]) for row in rows]
        settled = detect.settle_peaks(pending, job.radius)
        counts[sign] = _counts(settled, job) + np.sum([row["counts"][sign] for row in rows], axis=0)
        if sign == "positive":
            name = catalog.part_name("settled")
            settled.attrs["units"] = {**settled.attrs.get("units", {}), "peak": job.units}
            parts.append(catalog.write_part(settled, f"{job.folder}/peaks", name, grid=job.grid))
    catalog.write_manifest(f"{job.folder}/peaks", parts)
    _remove_others(Path(job.folder) / "peaks", parts)
    total = {k: sum(row["pixels"][k] for row in rows) for k in rows[0]["pixels"]}
    n = total.pop("pixels")
    return Detected(job, survey, parts, {k: v / n for k, v in total.items()}, counts)


def _remove_others(folder: Path, parts: list[dict[str, Any]]) -> None:
    """Remove parts of earlier attempts, which nothing refers to."""
    known = {p["name"] for p in parts}
    for path in folder.glob("part-*.parquet"):
        if path.name not in known:
            path.unlink()


def choose_threshold(found: Detected, config: Config) -> dict[str, Any]:
    """T and the level of the catalogue with their purities, from the counts of a field."""
    job, d = found.job, config.detect
    positive, negative = found.counts["positive"], found.counts["negative"]
    value = job.threshold
    if d.threshold_kind == "auto":
        value = detect.auto_threshold(
            job.levels, positive, negative, fraction=d.fraction, floor=d.floor
        )
    level = d.level * value
    at = [int(np.argmin(np.abs(job.levels - v))) for v in (value, level)]
    purity = [float(detect.purity(positive[k], negative[k])) for k in at]
    spread = [np.sqrt(negative[k] * (1 + negative[k] / max(positive[k], 1))) for k in at]
    error = [float(s / max(positive[k], 1)) for s, k in zip(spread, at, strict=True)]
    return {
        "value": value,
        "level": level,
        "unit": "sigma" if job.in_sigma else job.units,
        "kind": d.threshold_kind,
        "purity": {
            "at_threshold": purity[0],
            "at_threshold_error": error[0],
            "at_level": purity[1],
            "at_level_error": error[1],
        },
        "curve": {"level": job.levels, "positive": positive, "negative": negative},
    }


def typical_noise(found: Detected) -> float:
    """Median noise of a field's detection map, in its units."""
    return float(np.nanmedian(found.survey.sigma[DETECTION]))


def catalogue_of(found: Detected, level: float) -> Any:
    """Lazy catalogue of a field: its peaks above ``level``, one partition for each tile."""
    peaks = catalog.read(f"{found.job.folder}/peaks")
    column = "snr" if found.job.in_sigma else "peak"
    return peaks[peaks[column] > level].drop(columns="near")
