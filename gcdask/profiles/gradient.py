"""The gradient of a density across a field away from the cluster: the second module."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.grid import Field, Grid
from gcdask.kernels import fits, plane, sums


def _cell_block(
    good: np.ndarray, found: np.ndarray, y: np.ndarray, x: np.ndarray, *, step: int, size: int
) -> sums.Sums:
    row, column, _, _ = reduce.on_unmasked(found, good, y, x, step)
    cells = (reduce.element_index(v, step) // size for v in (y, x))
    return plane.cell_sums(good, row, column, y, x, *cells)


def _plane(
    total: sums.Sums,
    level: np.ndarray,
    level_error: np.ndarray,
    *,
    grid: Grid,
    center: tuple[float, float],
    kpc: float,
) -> fits.Fit:
    cells = total["sums"].reshape(-1, 4)
    pixels, x, y, counts = cells[cells[:, 0] > 0].T
    area = pixels * grid.pixel_scale**2
    places = np.zeros((2, pixels.size))
    distance, angle = math.nan, math.nan
    if pixels.size:
        places = np.stack(grid.offsets(x / pixels, y / pixels, center)) / 60  # arcmin
        middle = np.average(places, axis=1, weights=area)
        distance = float(np.hypot(*middle))
        if distance > 0:
            turned = np.array([[-middle[0], -middle[1]], [-middle[1], middle[0]]]) / distance
            places = turned @ places
            angle = math.degrees(math.atan2(-middle[0], -middle[1])) % 360
    fit = plane.gradient(counts, area, *places)
    if not distance > 0 and not fit["status"]:
        fit |= {"status": "unconstrained: the field is centred on what it should point to"}
    excess, error = fit["n"] - float(level), math.hypot(fit["n_error"], float(level_error))
    fit |= {"excess": excess, "excess_error": error, "distance": distance, "position_angle": angle}
    for name in ("n", "towards", "across", "excess"):
        fit |= {f"{name}_kpc2{e}": fit[f"{name}{e}"] / kpc**2 for e in ("", "_error")}
    return fit


def gradient(
    catalog: Any,
    mask: xr.DataArray,
    *,
    towards: tuple[float, float] | None = None,
    contamination: Any = None,
    field: Field | None = None,
    cell: float = 6.0,
) -> xr.Dataset:
    """Density of a field beside the cluster, its excess, and whether it grows towards the cluster.

    Poisson maximum likelihood of n = n0 exp(g . x) over the unmasked area: for small changes a
    plane. Clusters of the lens leave a gradient, contaminants do not (Diego et al. 2026, section
    5: "a slight increase in number density in the direction of the cluster center").

    Parameters
    ----------
    catalog : dask or pandas DataFrame
        Sources.
    mask : DataArray, dims (y, x)
        Mask (nonzero = masked) of the field: its unmasked pixels are the area.
    towards : (float, float), optional
        RA, Dec (deg) of the cluster; default ``field.center``.
    contamination : float, (float, float) or Dataset, optional
        Density of contaminants (arcsec-2) and its error, or the result of `contamination`, to
        give the excess (NaN where that is).
    field : Field, optional
        Adds densities per kpc2.
    cell : float
        Side (arcsec) of the cells in which sources and area are summed, rounded to whole pixels;
        the density must not change much across one.

    Returns
    -------
    Dataset, lazy where an input is
        ``n`` (arcsec-2) at the mean position of the area, ``towards`` and ``across`` (arcsec-2
        per arcmin; across: to the left of the direction to the cluster on the sky), each with
        ``_error``; ``significance`` = g / error of the component towards the cluster, ``relative``
        = d ln n per arcmin towards it, ``excess`` = n - contamination with error; ``distance``
        (arcmin) and ``position_angle`` (deg) of the cluster, ``counts``, ``area``, ``n_cells``,
        ``chi2`` (Pearson), ``status``; with ``field`` densities ``_kpc2`` too. Errors are widened
        where chi2 exceeds its degrees of freedom.

    Raises
    ------
    InputError
        If no cluster is named, or a cell is smaller than a pixel.
    """
    if towards is None and field is None:
        raise InputError("towards is None and no field is given; give (RA, Dec) in deg or a Field")
    center = reduce.check_center(field.center if towards is None and field else towards)
    good = reduce.unmasked(mask)
    grid = Grid.of(good)
    size = round(cell / grid.pixel_scale) if math.isfinite(cell) else 0
    if size < 1:
        raise InputError(
            f"cell = {cell} arcsec is smaller than a pixel ({grid.pixel_scale:.3g} arcsec); give "
            "larger cells"
        )
    if isinstance(contamination, xr.Dataset):  # as lazy, and as unconstrained, as it is
        level: tuple[Any, Any] = contamination["value"], contamination["error"]
    else:
        level = reduce.density_level(contamination) or (math.nan, 0.0)
    kernel = partial(_cell_block, step=grid.step, size=size)
    arrays = [good.data, reduce.points(catalog, good.data, grid)]
    total = reduce.reduce_maps(kernel, grid, arrays, sums.merge_windows)
    kpc = field.kpc_per_arcsec if field else math.nan
    finalise = partial(_plane, grid=grid, center=center, kpc=kpc)
    fit = reduce.apply(finalise, total=total, level=level[0], level_error=level[1])
    attrs = {"towards": list(center), "cell": size * grid.pixel_scale, "kpc_per_arcsec": kpc}
    result = xr.Dataset(reduce.variables(fit, _gradient_spec(field is not None)), attrs=attrs)
    return reduce.finish(result, catalog, mask, level[0])


def _gradient_spec(kpc: bool) -> reduce.Spec:
    texts = {
        "n": ("", "number density at the mean position"),
        "towards": (" arcmin-1", "gradient towards the cluster"),
        "across": (" arcmin-1", "gradient to the left of that direction"),
        "excess": ("", "number density over the contamination"),
    }
    spec: dict[str, Any] = {}
    for name, (per, text) in texts.items():
        for suffix, unit in (("", "arcsec-2"), ("_kpc2", "kpc-2"))[: 2 if kpc else 1]:
            spec[name + suffix] = ((), (), float, unit + per, text)
            spec[f"{name}{suffix}_error"] = ((), (), float, unit + per, f"standard error of {name}")
    return spec | {
        "relative": ((), (), float, "arcmin-1", "d ln n towards the cluster"),
        "significance": ((), (), float, "", "gradient towards the cluster over its error"),
        "distance": ((), (), float, "arcmin", "distance of the cluster from the mean position"),
        "position_angle": ((), (), float, "deg", "direction of the cluster, north through east"),
        "counts": ((), (), np.int64, "", "sources used"),
        "area": ((), (), float, "arcsec2", "unmasked area"),
        "n_cells": ((), (), np.int64, "", "cells with unmasked area"),
        "chi2": ((), (), float, "", "Pearson's chi^2"),
        "status": ((), (), object, "", "empty if the fit is sound"),
    }
