"""From a mosaic to its catalogue of peaks: survey, tiles, settling, threshold.

The tasks are in `tile`; what comes back to the client is a small row of counts and the few pixels
that neighbours have to settle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from gcdask import catalog, detect, masks, mosaic, storage
from gcdask.config import Config
from gcdask.errors import InputError
from gcdask.grid import Tile
from gcdask.mosaic.shards import Listing
from gcdask.pipeline import records
from gcdask.pipeline.identity import digest
from gcdask.pipeline.records import Place
from gcdask.pipeline.runner import Failed, Runner
from gcdask.pipeline.tile import (
    FieldJob,
    check_not_empty,
    level_counts,
    process_tile,
    survey_and_keep,
    survey_tile,
)
from gcdask.survey import DETECTION, Survey
from gcdask.survey import combine as combine_survey
from gcdask.tiles import tile_grid

log = logging.getLogger(__name__)

#: Type, fill value and attributes of the maps that tiles write.
MAPS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "detection": ("float32", np.nan, {}),
    "mask": ("uint16", 1, masks.FLAG_ATTRS),
}


@dataclass(frozen=True)
class Detected:
    """A field after its tiles: where the products are and what was counted.

    ``shares`` are fractions of all pixels by cause; ``counts`` are peaks at the job's levels on
    the map (``positive``) and on its negative. ``tiles`` says how many were ``surveyed`` anew, how
    many ``done`` and how many ``unchanged``, and which ones ``failed`` and why; ``fingerprint`` is
    the identity of them all.
    """

    job: FieldJob
    survey: Survey
    parts: list[dict[str, Any]]
    shares: dict[str, float]
    counts: dict[str, np.ndarray]
    tiles: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""


def make_job(
    config: Config,
    sources: mosaic.Sources,
    rules: masks.MaskRules,
    place: Place,
    bases: Sequence[Place] = (),
) -> FieldJob:
    """The job of a field; raises `InputError` for a mask or region file that does not fit."""
    d = config.detect
    lowest = d.floor if d.threshold_kind == "auto" else d.threshold_value
    assert lowest is not None
    assert config.mosaic is not None
    wanted = list(config.mosaic.use or sources.bands)
    return FieldJob(
        bands=tuple(sources.sci[sources.bands.index(b)] for b in wanted),
        grid=sources.grid,
        mask=masks.plan_mask(sources.grid, rules),
        plan=rules.survey_plan(
            sources.grid,
            noise_cell=config.noise.cell,
            patch=config.noise.patch,
            filters=d.filters,
        ),
        filters=d.filters,
        radius=d.radius,
        rim=d.rim,
        in_sigma=d.threshold_kind != "value",
        threshold=float(lowest),
        size=config.tiles.size,
        retries=config.tiles.retries,
        units=sources.units,
        written=tuple(name for name in MAPS if name != "detection" or config.output.detection),
        place=place,
        bases=tuple(bases),
        states=tuple(str(storage.state(p)) for p in (*rules.regions, *rules.files)),
    )


# -- the field -----------------------------------------------------------------------------------
def detect_field(name: str, job: FieldJob, runner: Runner) -> Detected:
    """Survey a field, process its tiles and settle what is left; ``name`` goes into the progress.

    Tiles that this run or an earlier one finished, and that nothing they depend on has changed
    since, are taken as they are. A tile that fails for good leaves pixels without data.

    Raises
    ------
    InputError
        If no pixel has data, or no tile could be read.
    """
    for sub in ("rows", "peaks", "survey"):
        storage.make_folder(storage.join(job.place.folder, sub))
    pieces, kept = _survey(name, job, runner)
    good = [piece for piece in pieces if not isinstance(piece, Failed)]
    if not good:
        raise next(piece.error for piece in pieces)
    if all(piece["about"]["damage"] and not np.any(piece["footprint"][2]) for piece in good):
        raise InputError(f"{name}: no tile can be read; {good[0]['about']['damage'][0]}")
    survey = combine_survey(good, job.plan)
    check_not_empty(survey, job, name)
    for variable in job.written:
        dtype, fill, attrs = MAPS[variable]
        units = job.units if variable == "detection" else ""
        mosaic.create_array(
            job.place.maps, variable, job.grid, dtype, units, job.size, fill, attrs=attrs,
            resume=True,
        )  # fmt: skip
        mosaic.set_complete(job.place.maps, variable, False)
    _write_noise(job, survey)
    path = records.write_survey(job.place, survey)
    tiles = tile_grid(job.grid.shape, job.size, job.halo)
    surveyed = [k for k, piece in enumerate(pieces) if not isinstance(piece, Failed)]
    items = [(tiles[k], pieces[k]["about"], kept[k]) for k in surveyed]
    tell = _teller(name, [tiles[k] for k in surveyed])
    rows: list[Any] = list(pieces)  # those that failed in the survey stay
    found = runner.map(
        f"detect {name}", process_tile, items, job, path, keep_failures=True, each=tell
    )
    for k, row in zip(surveyed, found, strict=True):
        rows[k] = row
    del items, kept  # and with them what the workers kept
    for variable in job.written:
        mosaic.set_complete(job.place.maps, variable, True)
    new = sum(piece["how"] == "done" for piece in good)
    detected = _settle(job, survey, tiles, rows)
    return replace(detected, tiles={**detected.tiles, "surveyed": new})


def _survey(name: str, job: FieldJob, runner: Runner) -> tuple[list[Any], list[Any]]:
    """The pieces of a survey, and for each tile what was kept: all windows of a field, or none."""
    stage, tiles = f"survey {name}", survey_tiles(job)
    items = list(zip(tiles, stamps(job.bands, tiles), strict=True))
    if kept_bytes(job) <= runner.room:
        return runner.map_and_keep(stage, survey_and_keep, items, job, keep_failures=True)
    pieces = runner.map(stage, survey_tile, items, job, keep_failures=True)
    return pieces, [None] * len(tiles)


def survey_tiles(job: FieldJob) -> list[Tile]:
    """Tiles with the windows that both stages need: the survey's pixels are the search's too."""
    return tile_grid(job.plan.shape, job.size, max(job.plan.halo, job.halo))


def kept_bytes(job: FieldJob) -> int:
    """What the survey would leave on the workers: the image, the first high-pass and the others."""
    return 4 * (2 + len(job.plan.bandpass)) * sum(t.window_pixels for t in survey_tiles(job))


def stamps(bands: Sequence[Any], tiles: Sequence[Tile]) -> list[str]:
    """For each tile the identity of what is stored under its window: sizes, times, headers."""
    listing = Listing()
    return [digest([band.stamp(*tile.window, listing) for band in bands]) for tile in tiles]


def _teller(name: str, tiles: Sequence[Tile]) -> Callable[[int, Any], None]:
    """Log what became of each tile, under its id."""

    def tell(k: int, row: Any) -> None:
        extra: dict[str, Any] = {"field": name, "tile": records.label(tiles[k])}
        if isinstance(row, Failed):
            log.warning("tile %s of %s failed: %s", extra["tile"], name, row.reason, extra=extra)
        elif row["damage"]:
            reason = row["damage"][0]
            log.warning("tile %s of %s is damaged: %s", extra["tile"], name, reason, extra=extra)
        else:
            extra |= {"state": row["how"], "seconds": row["seconds"]}
            log.info("tile %s of %s: %s", extra["tile"], name, row["how"], extra=extra)

    return tell


def _write_noise(job: FieldJob, survey: Survey) -> None:
    """Keep the noise of the detection map, one value per cell, in the group ``noise``."""
    grid = job.grid.coarsen(survey.plan.noise_cell)
    group = storage.join(job.place.maps, "noise")
    mosaic.create_array(group, DETECTION, grid, "float32", job.units, 256, overwrite=True)
    ny, nx = grid.shape
    where = slice(0, ny), slice(0, nx)
    mosaic.write_tile(group, DETECTION, where, survey.sigma[DETECTION])


def _settle(job: FieldJob, survey: Survey, tiles: list[Tile], outcomes: list[Any]) -> Detected:
    """Decide the peaks that no tile could, and add up what the tiles counted."""
    rows = [row for row in outcomes if not isinstance(row, Failed)]
    if not rows:
        raise next(row.error for row in outcomes)
    parts, counts = [row["part"] for row in rows], {}
    folder = storage.join(job.place.folder, "peaks")
    for sign in ("positive", "negative"):
        pending = [pd.DataFrame(row["pending"][sign]) for row in rows]
        settled = detect.settle_peaks(pending, job.radius)
        own = np.sum([row["counts"][sign] for row in rows], axis=0)
        counts[sign] = level_counts(settled, job) + own
        if sign == "positive":
            name = catalog.part_name("settled")
            settled.attrs["units"] = {**settled.attrs.get("units", {}), "peak": job.units}
            parts.append(catalog.write_part(settled, folder, name, grid=job.grid))
    catalog.write_manifest(folder, parts)
    _remove_others(folder, parts)
    total = {k: sum(row["pixels"][k] for row in rows) for k in rows[0]["pixels"]}
    n = total.pop("pixels")
    shares = {k: v / n for k, v in total.items()}
    failed = [
        {"tile": records.label(tile), "reason": reason}
        for tile, row in zip(tiles, outcomes, strict=True)
        if (reason := _reason(row))
    ]
    how = [row["how"] for row in rows]
    about = {"total": len(tiles), "failed": failed}
    about |= {state: how.count(state) for state in ("done", "unchanged")}
    identity = digest([[row["fingerprint"] for row in rows], failed])
    return Detected(job, survey, parts, shares, counts, about, identity)


def _reason(row: Any) -> str:
    """Why a tile is not as it should be; empty if it is."""
    if isinstance(row, Failed):
        return row.reason
    more = len(row["damage"]) - 1
    return row["damage"][0] + (f" (and {more} more)" if more > 0 else "") if row["damage"] else ""


def _remove_others(folder: str, parts: list[dict[str, Any]]) -> None:
    """Remove parts of earlier attempts, which nothing refers to."""
    known = {p["name"] for p in parts}
    for name in storage.names(folder):
        if name.startswith("part-") and name not in known:
            storage.remove(storage.join(folder, name))


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
    peaks = catalog.read(storage.join(found.job.place.folder, "peaks"))
    column = "snr" if found.job.in_sigma else "peak"
    return peaks[peaks[column] > level].drop(columns="near")
