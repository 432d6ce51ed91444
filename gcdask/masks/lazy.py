"""The mask of any lazy mosaic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import dask
import numpy as np
import xarray as xr

from gcdask.errors import InputError
from gcdask.grid import Grid, Tile
from gcdask.masks.rules import FLAG_ATTRS, MaskRules
from gcdask.masks.shapes import MaskPlan, plan_mask
from gcdask.masks.window import mask_window
from gcdask.survey import Survey, combine, survey_window
from gcdask.tiles import band_sum, map_windows, windows


def build_mask(
    mosaic: xr.Dataset,
    *,
    rules: MaskRules | None = None,
    bands: Sequence[str] | None = None,
    **changes: Any,
) -> xr.DataArray:
    """Mask of a mosaic by cause: no-data, edge frame, bright and extended sources, spikes, regions.

    Parameters
    ----------
    mosaic : Dataset
        ``sci`` with dims ``(band, y, x)``; a pixel has data where every band is finite.
    rules : MaskRules, optional
        What to mask; the defaults suit deep NIRCam mosaics at 0.03 arcsec/px.
    bands : sequence of str, optional
        The bands that are summed (all).
    **changes
        Fields of `MaskRules` to change, e.g. ``edge=0``, ``regions=("stars.reg",)``.

    Returns
    -------
    DataArray
        uint16 bits (`Flag`), dims ``(y, x)``, chunks of the mosaic; CF flag attributes. Lazy: the
        coarse survey of the whole field is one of its tasks. `detection_map` adds the luminous
        peaks, which need the masked image.

    Raises
    ------
    InputError
        For a region or mask file that cannot be read or lies on another grid, an unknown band, or
        an option that `MaskRules` does not have.
    """
    image = band_sum(mosaic, bands)
    grid = Grid.of(image)
    known = [f.name for f in fields(MaskRules)]
    for name in changes:
        if name not in known:
            raise InputError(f"build_mask has no option {name!r}; it has {', '.join(known)}")
    chosen = replace(rules or MaskRules(), **changes)
    plan = plan_mask(grid, chosen)
    survey = survey_image(image, chosen)
    data = map_windows(_mask_core, [image.data], chosen.halo, plan, survey, dtype=np.uint16)
    return grid.wrap(data, "mask", "", **FLAG_ATTRS)


def survey_image(image: xr.DataArray, rules: MaskRules, **options: Any) -> Any:
    """The survey of a lazy 2-D image, as one delayed object."""
    plan = rules.survey_plan(Grid.of(image), **options)
    task = dask.delayed(survey_window, pure=True)
    pieces = [task(tile, block, plan) for tile, (block,) in windows([image.data], plan.halo)]
    return dask.delayed(combine, pure=True)(pieces, plan)


def _mask_core(tile: Tile, image: np.ndarray, plan: MaskPlan, survey: Survey) -> np.ndarray:
    return mask_window(tile, image, plan, survey)[tile.inner]
