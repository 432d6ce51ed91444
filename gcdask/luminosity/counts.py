"""Luminosity functions of catalogues."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from astropy import units as u

from gcdask import catalog as cat
from gcdask import reduce
from gcdask.catalog.parts import per_part
from gcdask.errors import InputError
from gcdask.grid import Field, Grid
from gcdask.kernels import fits, gclf, sums

AB_NJY = 31.4  # AB magnitude of 1 nJy
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


def luminosity_function(
    catalog: Any,
    edges: Sequence[float] | np.ndarray,
    *,
    flux: str | None = None,
    mag: str | None = None,
    zero_point: float | None = None,
    mask: xr.DataArray | None = None,
    area: float | None = None,
    contamination: Any = None,
    completeness: Any = None,
    min_completeness: float = 0.1,
    field: Field | None = None,
) -> xr.Dataset:
    """Count a catalogue's sources in bins of magnitude, per area, less contaminants, completed.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
        Sources.
    edges : array (n + 1,)
        Magnitudes, increasing; bin i holds edges[i] <= m < edges[i + 1].
    flux, mag : str
        One column: fluxes, turned into AB magnitudes by their unit, or magnitudes.
    zero_point : float, optional
        Magnitude of a flux of 1, for fluxes without a unit (1 nJy is AB 31.4).
    mask : DataArray, optional
        Mask (nonzero = masked): only sources on unmasked pixels count, and these are the area.
    area : float, optional
        Area in arcsec2 of a catalogue without a mask; without either there are no densities, and
        contaminants cannot be subtracted.
    contamination : Dataset or array (n,), optional
        Luminosity function of a reference field in the same bins, or densities (mag-1 arcsec-2);
        both as *counted* at the depth of the catalogue: completeness corrects what is left.
    completeness : callable or (array, array), optional
        Share of sources found, by magnitude: a function of magnitudes, or a table of magnitudes
        and shares (interpolated; constant beyond its ends). Averaged over each bin.
    min_completeness : float
        Bins less complete than this are not corrected (NaN).
    field : Field, optional
        Adds densities per kpc2.

    Returns
    -------
    Dataset, lazy where an input is, dim ``bin``, coords ``magnitude`` (middle), ``bright``,
    ``faint``
        ``counts``, ``density`` (mag-1 arcsec-2, as counted), ``completeness``,
        ``density_corrected``, ``n_corrected`` (sources in the bin), each with ``_error``
        (Poisson; 1.84 sources where there is none); ``expected_contaminants`` (in the bin, as
        counted); with ``field`` densities ``_kpc2`` too; ``area`` (arcsec2), ``n_brighter``,
        ``n_fainter``, ``n_nonpositive`` (fluxes of 0 or less), ``n_invalid`` (not finite).

    Raises
    ------
    InputError
        If columns, units, bins or tables do not fit.
    """
    edges = _edges(edges)
    column, zero = magnitude_column(catalog, flux, mag, zero_point)
    if not 0 <= min_completeness <= 1:
        raise InputError(f"min_completeness = {min_completeness} is no share; give 0 to 1")
    frame = cat.as_dask(catalog)
    if frame[column].dtype.kind not in "iuf":
        raise InputError(f"column {column!r} has dtype {frame[column].dtype}; give numbers")
    if mask is not None:
        if area is not None:
            raise InputError("mask and area both tell the area; give one of them")
        frame = cat.unmasked(frame, mask)
    kernel = partial(_bin_part, column=column, edges=edges, zero_point=zero)
    total = reduce.tree(per_part(frame[[column]], kernel, "magnitudes"), sums.add)
    level, level_error, used = _contaminants(contamination, edges)
    if contamination is not None and mask is None and area is None:
        raise InputError(
            "contamination is a density, and the catalogue's area is not known; give mask or area"
        )
    table = reduce.apply(
        partial(_table, width=np.diff(edges), min_completeness=min_completeness, field=field),
        total=total,
        area=_area(mask, area),
        completeness=_share_found(completeness, edges),
        contamination=level,
        contamination_error=level_error,
    )
    middle = (edges[1:] + edges[:-1]) / 2
    coords = {"magnitude": middle, "bright": edges[:-1], "faint": edges[1:]}
    result = xr.Dataset(
        reduce.variables(table, _function_spec(edges.size - 1, field is not None)),
        coords={k: ("bin", v, {"units": "mag"}) for k, v in coords.items()},
        attrs={
            "column": column,
            "zero_point": "none" if zero is None else zero,
            "min_completeness": min_completeness,
            "flagged": "density_corrected is NaN where completeness < min_completeness",
        },
    )
    return reduce.finish(result, catalog, mask, *used)


def _edges(edges: Any) -> np.ndarray:
    edges = np.asarray(edges, float)
    sound = edges.ndim == 1 and edges.size > 1 and np.isfinite(edges).all()
    if not (sound and (np.diff(edges) > 0).all()):
        raise InputError(
            f"edges = {edges.tolist()} do not increase or are not finite; give magnitudes, e.g. "
            "25..31"
        )
    return edges


def magnitude_column(
    catalog: Any, flux: str | None, mag: str | None, zero_point: float | None
) -> tuple[str, float | None]:
    """Column of fluxes with their zero point, or of magnitudes with None, or `InputError`."""
    if (flux is None) == (mag is None):
        raise InputError(
            f"flux = {flux!r}, mag = {mag!r}: name one column, of fluxes or magnitudes"
        )
    name = str(flux if mag is None else mag)
    units = cat.units(catalog)
    if name not in units:
        raise InputError(f"the catalogue has no column {name!r}; it has {', '.join(units)}")
    if mag is not None:
        return name, None
    if zero_point is not None:
        if not math.isfinite(zero_point):
            raise InputError(f"zero_point = {zero_point} is not finite; give magnitudes")
        return name, float(zero_point)
    try:
        per = u.Unit(units[name]).to(u.nJy)
    except (u.UnitConversionError, ValueError, TypeError):
        raise InputError(
            f"fluxes {name!r} are in {units[name]!r}, which is no flux density; give zero_point="
        ) from None
    return name, AB_NJY - 2.5 * math.log10(per)


def _bin_part(
    part: pd.DataFrame, *, column: str, edges: np.ndarray, zero_point: float | None
) -> sums.Sums:
    values = part[column].to_numpy(float, na_value=np.nan)
    return gclf.bin_magnitudes(values, edges, zero_point)


def _area(mask: Any, area: float | None) -> Any:
    """Unmasked arcsec2; NaN if unknown."""
    if mask is not None:
        good = reduce.unmasked(mask)
        return good.data.sum() * Grid.of(good).pixel_scale ** 2
    if area is not None and not area > 0:
        raise InputError(f"area = {area} is not positive; give arcsec2")
    return np.array(math.nan if area is None else float(area))


def _contaminants(given: Any, edges: np.ndarray) -> tuple[Any, Any, tuple[Any, ...]]:
    """Density of contaminants in each bin, its error, and what it was made of."""
    size = edges.size - 1
    if given is None:
        return np.zeros(size), np.zeros(size), ()
    if isinstance(given, xr.Dataset):
        same = "density" in given and all(
            np.array_equal(given[k].values, v)
            for k, v in (("bright", edges[:-1]), ("faint", edges[1:]))
        )
        if not same:
            raise InputError(
                "contamination is no luminosity function in these bins; make it with "
                "luminosity_function(reference, edges, ...)"
            )
        if not reduce.is_lazy(given["density"]) and not np.isfinite(given["density"]).all():
            raise InputError(
                "contamination has no area, and so no densities; give its luminosity_function "
                "mask or area"
            )
        return given["density"], given["density_error"], (given,)
    level = np.asarray(given, float)
    if level.shape not in ((), (size,)) or not (level >= 0).all():
        raise InputError(
            f"contamination has shape {level.shape}; give {size} densities of 0 or more (mag-1 "
            "arcsec-2), or the luminosity function of a reference field"
        )
    return np.broadcast_to(level, (size,)).copy(), np.zeros(size), ()


def _share_found(completeness: Any, edges: np.ndarray) -> np.ndarray:
    """Completeness averaged over each bin."""
    if completeness is None:
        return np.ones(edges.size - 1)
    half = np.diff(edges) / 2
    at = (edges[:-1] + half)[:, None] + half[:, None] * _NODES
    if callable(completeness):
        function: Callable[..., Any] = completeness
        share = np.asarray(function(at), float)
    else:
        m, found = (np.asarray(v, float) for v in completeness)
        if m.shape != found.shape or m.ndim != 1 or not (np.diff(m) > 0).all():
            raise InputError("completeness is no table; give increasing magnitudes and shares")
        share = np.interp(at, m, found)
    if share.shape != at.shape or not ((share >= 0) & (share <= 1)).all():
        raise InputError("completeness is not between 0 and 1 everywhere; give shares of sources")
    return share @ _WEIGHTS / 2


def _table(
    total: sums.Sums, area: Any, completeness: np.ndarray, *, field: Field | None, **options: Any
) -> fits.Fit:
    known = gclf.function_table(total["counts"], float(area), completeness=completeness, **options)
    out: fits.Fit = {**total, **known, "area": float(area), "completeness": completeness}
    if field is not None:
        for name in ("density", "density_corrected"):
            for e in ("", "_error"):
                out[f"{name}_kpc2{e}"] = out[f"{name}{e}"] / field.kpc_per_arcsec**2
    return out


def _function_spec(n: int, kpc: bool) -> reduce.Spec:
    by: tuple[Any, ...] = (("bin",), (n,))
    spec: dict[str, Any] = {
        "counts": (*by, np.int64, "", "sources"),
        "completeness": (*by, float, "", "share of sources found"),
        "n_corrected": (*by, float, "", "sources less contaminants, completed"),
        "n_corrected_error": (*by, float, "", "standard error of n_corrected"),
        "expected_contaminants": (*by, float, "", "contaminants among the sources"),
    }
    texts = {"density": "as counted", "density_corrected": "less contaminants, completed"}
    for name, text in texts.items():
        for per, unit in (("", "arcsec-2"), ("_kpc2", "kpc-2"))[: 2 if kpc else 1]:
            spec[f"{name}{per}"] = (*by, float, f"mag-1 {unit}", f"sources per magnitude, {text}")
            error = f"standard error of {name}"
            spec[f"{name}{per}_error"] = (*by, float, f"mag-1 {unit}", error)
    numbers = {
        "n_brighter": "brighter than all bins",
        "n_fainter": "fainter than all bins",
        "n_nonpositive": "with a flux of 0 or less",
        "n_invalid": "without a finite value",
    }
    spec |= {k: ((), (), np.int64, "", f"sources {v}") for k, v in numbers.items()}
    return spec | {"area": ((), (), float, "arcsec2", "area")}
