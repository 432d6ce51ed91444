"""Convergence from clusters alone, by a relation that was calibrated elsewhere."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.compare.boxes import unmasked_cells
from gcdask.errors import InputError
from gcdask.grid import Field, Grid
from gcdask.kernels import prediction
from gcdask.tiles import CHUNK

WHAT = (
    "a catalogue (with like= or mask=), a map of number density, the result of box_relation, or "
    "densities"
)
NUMBERS = ("a", "b", "n0", "cov", "scatter", "n_low", "n_high")


def predict_kappa(
    sources: Any,
    relation: xr.Dataset,
    *,
    like: Any = None,
    mask: xr.DataArray | None = None,
    box: float | None = None,
    contamination: Any = None,
    n_error: Any = None,
    min_area: float = 0.5,
    field: Field | None = None,
) -> xr.Dataset:
    """Predict the convergence from the density of clusters: kappa = a (n - n0)^b.

    The relation holds for the depth, distance and critical density of the field it was fitted in;
    bring it to another with `transfer_relation`. Diego et al. (2026), section 4.

    A noisy n lowers the mean of (n - n0)^b, b < 1. To second order this is corrected: with
    s = n_error and x = max(n - n0, 0), kappa = a x^b [1 + b (1 - b) / 2 min(s^2 / x^2, 1)]. For
    boxes of 9 arcsec2 and n0 = 0.36 the bias is below 2 % where the clusters themselves exceed
    0.14 arcsec-2 (8 % without correction); below, where x is noise, it grows: use larger boxes.

    Parameters
    ----------
    sources : dask or pandas DataFrame, DataArray, Dataset or array
        A catalogue, counted in boxes; or densities in arcsec-2 that are known already: a map,
        the result of `box_relation` (with its errors), an array or a number.
    relation : Dataset
        From `fit_power_law` or `transfer_relation`.
    like : Grid, DataArray or Dataset, optional
        For a catalogue: the pixels of the field. Default those of ``mask``.
    mask : DataArray, optional
        For a catalogue: mask (nonzero = masked) on these pixels or finer; sources and area on
        masked pixels do not count.
    box : float, optional
        For a catalogue: side of the boxes in arcsec, rounded to whole pixels; they begin at the
        first pixel of ``like``. Default that of the relation.
    contamination : float, (float, float) or Dataset, optional
        Density of contaminants (arcsec-2) and its error, instead of the relation's n0; or the
        result of `gcdask.profiles.contamination`.
    n_error : float, array or DataArray, optional
        Standard error of densities given as such (default: none, and no correction).
    min_area : float
        Boxes with less than this unmasked share are NaN.
    field : Field, optional
        Adds the surface density of mass, kappa Sigma_cr.

    Returns
    -------
    Dataset, lazy where an input is
        ``kappa`` (0 where n <= n0; NaN without area), ``kappa_error`` (Poisson noise of n, the
        covariance of a, b and n0, and the scatter about the relation), its parts
        ``error_poisson``, ``error_relation``, ``error_scatter``, ``extrapolated`` (n outside the
        fitted range), ``n`` and ``n_error`` (arcsec-2), with ``field`` ``sigma`` and its error
        (Msun / kpc2); NaN where the relation is, and ``status`` then says why.

    Raises
    ------
    InputError
        If ``sources`` or the relation are something else, or an option does not fit.
    """
    check_relation(relation)
    n, error, lazy = _densities(sources, relation, like, mask, box, n_error, min_area)
    level = reduce.density_level(contamination)
    result = xr.apply_ufunc(
        partial(prediction.table, level=level),
        n, error, *(relation[k] for k in NUMBERS),
        input_core_dims=[[], [], [], [], [], ["parameter", "parameter_2"], [], [], []],
        output_core_dims=[["value"]], dask="parallelized", output_dtypes=[float],
        dask_gufunc_kwargs={"output_sizes": {"value": len(_VALUES)}},
    )  # fmt: skip
    places = {k: n.attrs[k] for k in ("wcs",) if k in n.attrs}
    out = xr.Dataset(attrs={"model": relation.attrs.get("model", ""), **places})
    for i, (name, text) in enumerate(_VALUES.items()):
        out[name] = result.isel(value=i).assign_attrs(units="", long_name=text, **places)
    out["extrapolated"] = (out["extrapolated"] > 0).assign_attrs(out["extrapolated"].attrs)
    out["n"] = n.assign_attrs(units="arcsec-2", long_name="number density of sources")
    out["n_error"] = error.assign_attrs(units="arcsec-2", long_name="its standard error", **places)
    if field is not None:
        for name, kappa in (("sigma", "kappa"), ("sigma_error", "kappa_error")):
            text = f"{out[kappa].attrs['long_name']} times Sigma_cr"
            out[name] = (out[kappa] * field.sigma_cr).assign_attrs(
                units="Msun / kpc2", long_name=text, **places
            )
    out["status"] = relation["status"].assign_attrs(
        units="", long_name="empty if the relation is sound, else why kappa may be NaN"
    )
    return reduce.finish(out, *lazy, relation)


_VALUES = {
    "kappa": "predicted convergence",
    "kappa_error": "standard error of kappa",
    "error_poisson": "of it from the noise of n",
    "error_relation": "of it from the errors of a, b and n0",
    "error_scatter": "of it from the scatter about the relation",
    "extrapolated": "whether n is outside the range of the fit",
}


def check_relation(relation: xr.Dataset) -> None:
    """Raise `InputError` for anything but a relation."""
    missing = sorted({*NUMBERS, "status"} - set(relation.variables))
    if missing:
        raise InputError(f"relation lacks {missing}; give the result of fit_power_law")


# -- densities ----------------------------------------------------------------------------------
def _densities(
    sources: Any, relation: xr.Dataset, like: Any, mask: Any, box: float | None, n_error: Any,
    min_area: float,
) -> tuple[xr.DataArray, xr.DataArray, tuple[Any, ...]]:  # fmt: skip
    """Densities, their errors, and what they were made of."""
    if hasattr(sources, "columns"):
        n, error = _counted(sources, relation, like, mask, box, min_area)
        return n, error, (sources, like, mask)
    if like is not None or mask is not None or box is not None:
        raise InputError("like, mask and box are for catalogues; give the densities alone")
    if isinstance(sources, xr.Dataset):
        if not {"n", "area", "n_gc"} <= set(sources.variables):
            raise InputError(f"sources has {list(sources.data_vars)}; give {WHAT}")
        n = sources["n_gc"]
        noise = poisson_noise(sources["n"], sources["area"]) if n_error is None else n_error
        return n, (xr.zeros_like(n) + noise).astype(float), (n, n_error)
    try:
        n = sources if hasattr(sources, "dims") else xr.DataArray(np.asarray(sources, float))
    except (TypeError, ValueError):
        raise InputError(f"sources is a {type(sources).__name__}; give {WHAT}") from None
    units = str(n.attrs.get("units", ""))
    if units not in ("", "arcsec-2", "1 / arcsec2"):
        raise InputError(
            f"sources is a map in {units!r}; give a number density in arcsec-2, e.g. "
            "density_map(..., normalise=True)"
        )
    noise = 0.0 if n_error is None else n_error
    return n, (xr.zeros_like(n, float) + noise).astype(float), (n, n_error)


def poisson_noise(counts: Any, area: Any) -> Any:
    """Error of a density of counts, of one source where there is none."""
    return (counts.clip(min=1) ** 0.5 / area.where(area > 0)).rename(None)


def _counted(
    catalog: Any, relation: xr.Dataset, like: Any, mask: Any, box: float | None, min_area: float
) -> tuple[xr.DataArray, xr.DataArray]:
    """Densities of a catalogue in boxes of the pixels of ``like`` or ``mask``."""
    if like is None and mask is None:
        raise InputError("a catalogue needs the pixels of its field; give like= or mask=")
    pixels = mask if like is None else like
    grid = pixels if isinstance(pixels, Grid) else Grid.of(pixels)
    side = relation.attrs.get("box") if box is None else box
    size = round(side / grid.pixel_scale) if side and math.isfinite(side) else 0
    if size < 1:
        raise InputError(
            f"box = {side} arcsec is smaller than a pixel ({grid.pixel_scale:.3g} arcsec); give "
            "larger boxes or finer pixels"
        )
    boxes = grid.coarsen(size)
    if mask is None:
        mask = grid.wrap(da.zeros(grid.shape, dtype=bool, chunks=CHUNK), "mask", "")
    share, counts = unmasked_cells(catalog, boxes, mask)
    area = boxes.wrap(share, "area", "arcsec2") * boxes.pixel_scale**2
    n = boxes.wrap(counts, "n", "arcsec-2")
    attrs = n.attrs
    good = area >= min_area * boxes.pixel_scale**2 * (1 - 1e-9)
    n, area = n.where(good), area.where(good & (area > 0))
    return (n / area).assign_attrs(attrs), poisson_noise(n, area)
