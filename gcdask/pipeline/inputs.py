"""From a configuration to opened inputs: everything that can be refused is refused here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gcdask import catalog, masks, mosaic
from gcdask.config import Config
from gcdask.errors import InputError
from gcdask.grid import Field, Grid, tangent_offsets
from gcdask.luminosity.counts import magnitude_column
from gcdask.pipeline.lenses import OpenLens, open_lens


@dataclass(frozen=True)
class Inputs:
    """What a run works on; only headers and small tables have been read.

    ``sources`` and ``reference`` are None where the run starts from a catalogue (``sources_of``).
    """

    field: Field
    grid: Grid
    sources: mosaic.Sources | None
    reference: mosaic.Sources | None
    catalog: Any | None
    manual: str | None
    lens: OpenLens | None
    truth: pd.DataFrame | None


def open_inputs(config: Config) -> Inputs:
    """Open all inputs of a run.

    Raises
    ------
    InputError
        For a file that is missing or cannot be used, a band that is not there, a lens model of
        another redshift or that does not cover the field.
    """
    config.check_paths()
    f = config.field
    field = Field(f.center, f.z_lens, f.z_source, f.h0, f.om0)
    sources = reference = table = None
    if config.mosaic is not None:
        sources = open_field(config.mosaic)
        grid = sources.grid
        if config.reference is not None:
            reference = open_field(config.reference)
            _check_same_bands(sources, reference)
    else:
        grid = map_grid(config)
        table = open_catalog(config)
    if sources is not None:
        _check_center(field, grid)
    manual = None
    if config.manual is not None:
        catalog.read(config.manual, grid=grid)  # refused now rather than after the detection
        manual = config.manual
    _check_luminosity(config, catalog.meta() if table is None else table)
    lens = open_lens(config, field, grid) if config.lens is not None else None
    truth = open_truth(config.truth) if config.truth is not None else None
    return Inputs(field, grid, sources, reference, table, manual, lens, truth)


def _check_luminosity(config: Config, table: Any) -> None:
    """Refuse a column of fluxes or magnitudes that the catalogue does not have."""
    section = config.luminosity
    if section is None:
        return
    key = "flux" if section.mag is None else "mag"
    try:
        magnitude_column(table, section.flux, section.mag, section.zero_point)
    except InputError as error:
        raise InputError(f"luminosity.{key}: {error}") from None


def _check_center(field: Field, grid: Grid) -> None:
    """Refuse a centre that the field cannot have: far off, or RA and Dec mixed up."""
    ra, dec = grid.sky(*grid.center)
    away = float(np.hypot(*tangent_offsets(*field.center, (float(ra), float(dec)))))
    behind = np.cos(np.deg2rad(field.center[1] - dec)) <= 0
    size = max(grid.shape) * grid.pixel_scale
    if behind or not away < 1.5 * size:
        raise InputError(
            f"field.center: {list(field.center)} is far from the field about "
            f"[{float(ra):.5f}, {float(dec):.5f}] ({size:.3g} arcsec wide); give [RA, Dec] in deg"
        )


def open_truth(path: str) -> pd.DataFrame:
    """The truth table of a mock."""
    try:
        table = catalog.read_as_it_is(path)
    except InputError as error:
        raise InputError(f"truth: {error}") from error
    missing = [c for c in ("module", "class", "ra", "dec", "x", "y", "peak") if c not in table]
    if missing:
        raise InputError(f"truth: {path} has no column {missing[0]}; give that of a simulated mock")
    words = [c for c in ("ra", "dec", "x", "y", "peak") if table[c].dtype.kind not in "iuf"]
    if words:
        raise InputError(
            f"truth: column {words[0]} of {path} is no number; give the table of a simulated mock"
        )
    if not (table["module"] == 1).any():
        raise InputError(
            f"truth: {path} has no sources in module 1; give the table of the mosaic's own mock"
        )
    return table


def open_field(section: Any) -> mosaic.Sources:
    """The sources of a mosaic section, of the bands that it uses.

    Files that are damaged are opened: what cannot be read of them fails tile by tile.
    """
    return mosaic.open_sources(
        section.path if section.path is not None else section.bands,
        err=section.err,
        weight=section.weight,
        unit=section.unit,
        align=section.align,
        bands=section.use,
        damaged="keep",
    )


def _check_same_bands(sources: mosaic.Sources, reference: mosaic.Sources) -> None:
    if set(sources.bands) != set(reference.bands) or sources.units != reference.units:
        raise InputError(
            f"reference: bands {list(reference.bands)} in {reference.units} are not those of the "
            f"mosaic ({list(sources.bands)} in {sources.units}); one threshold holds for both, so "
            "use the same bands and unit (reference.use, reference.unit)"
        )


def map_grid(config: Config) -> Grid:
    """The grid of the maps where a run starts from a catalogue: tangent about its centre."""
    section = config.catalog
    assert section is not None
    n = max(round(section.size / section.pixel), 4)
    return Grid.tangent(section.center or config.field.center, (n, n), section.pixel)


def open_catalog(config: Config) -> Any:
    """The catalogue that a run starts from, within its radius."""
    section = config.catalog
    assert section is not None
    table = catalog.read(section.path, columns=section.columns)
    if section.radius is not None:
        table = catalog.within(table, section.center or config.field.center, section.radius)
    return table


def rules_of(section: Any) -> masks.MaskRules:
    """Mask rules of a mask section."""

    def rule(part: Any) -> masks.Rule | None:
        return None if part is None else masks.Rule(**part.model_dump())

    spikes = None
    if section.spikes is not None:
        s = section.spikes
        spikes = masks.Spikes(
            auto=s.auto,
            nsigma=s.nsigma,
            contrast=s.contrast,
            angles=None if s.angles == "jwst" else s.angles,
            length=s.length,
            core=s.core,
            width=s.width,
            stars=tuple((star.ra, star.dec, star.length or 2 * s.length) for star in s.stars),
        )
    return masks.MaskRules(
        edge=section.edge,
        bright=rule(section.bright),
        luminous=rule(section.luminous),
        extended=rule(section.extended),
        spikes=spikes,
        regions=section.regions,
        files=section.files,
    )
