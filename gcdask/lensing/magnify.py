"""Magnifications of the sources of a catalogue."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.base import tokenize

from gcdask.catalog import as_dask, stays
from gcdask.errors import InputError
from gcdask.lensing.lens import Lens

Models = Lens | Mapping[str, Lens]


def add_magnification(
    catalog: Any, models: Models, z_source: float, *, per_model: bool = False
) -> dd.DataFrame:
    """Add the magnification at each source's position, lazily.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
        With ``ra``, ``dec`` (deg).
    models : Lens or mapping of str to Lens
        One model, or several of the same lens by name.
    z_source : float
        Redshift of the sources.
    per_model : bool
        Add each model's own signed magnification too, as ``mu_NAME``.

    Returns
    -------
    dask.dataframe.DataFrame
        With ``mu``, the absolute magnification, or its median over models: what fluxes and masses
        are divided by. For a mapping also ``mu_error``, the sample standard deviation of the
        models' absolute magnifications (NaN if fewer than two are finite there), which is their
        disagreement and not the error of any. NaN for sources without a position and off the maps
        of all models. All are float64, without unit.

    Raises
    ------
    InputError
        If there is no model, a column is missing, or the sources are not behind the lens.
    """
    lenses = lenses_of(models)
    for lens in lenses.values():
        lens.ratio(z_source)
    catalog = as_dask(catalog)
    need(catalog, ["ra", "dec"])
    several = not isinstance(models, Lens)
    names = [f"mu_{re.sub(r'[^A-Za-z0-9_]+', '_', k)}" for k in lenses] if per_model else []
    if len(set(names)) < len(names):
        raise InputError(f"models {list(lenses)} give the same columns; name them differently")
    add = partial(with_magnification, z_source=float(z_source), names=names, several=several)
    columns = ["mu", *(["mu_error"] if several else []), *names]
    meta = catalog._meta.assign(**{c: np.empty(0) for c in columns})
    meta.attrs = {**catalog._meta.attrs}
    meta.attrs["units"] = {**meta.attrs.get("units", {}), **dict.fromkeys(columns, "")}
    # an argument of its own: one copy for the graph, not one for each partition
    given = list(lenses.values())
    node = dask.delayed(given, name=f"lenses-{tokenize(given)}", traverse=False)
    return catalog.map_partitions(add, node, meta=meta)


@stays
def with_magnification(
    part: pd.DataFrame,
    lenses: Sequence[Lens],
    *,
    z_source: float,
    names: Sequence[str],
    several: bool,
) -> pd.DataFrame:
    """One partition with its magnifications; see `add_magnification`."""
    ra, dec = part["ra"].to_numpy(float), part["dec"].to_numpy(float)
    mu = np.array([lens.magnification_at(ra, dec, z_source) for lens in lenses])
    size = np.where(np.isfinite(mu), np.abs(mu), np.nan)
    known = np.isfinite(size)
    new = {"mu": _column_median(size, known)}
    if several:
        count = known.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(known, size, 0).sum(0) / count
            square = np.where(known, (size - mean) ** 2, 0).sum(0)
            new["mu_error"] = np.where(count > 1, np.sqrt(square / (count - 1)), np.nan)
    return part.assign(**new, **dict(zip(names, mu, strict=False)))


def _column_median(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Median over axis 0 of what is known, NaN where nothing is."""
    out = np.full(values.shape[1], np.nan)
    some = known.any(0)
    out[some] = np.nanmedian(values[:, some], axis=0)
    return out


def lenses_of(models: Models) -> dict[str, Lens]:
    """Models by name; `InputError` if there is none or one is not a lens."""
    lenses = {models.name: models} if isinstance(models, Lens) else dict(models)
    if not lenses:
        raise InputError("models is empty; give a lens, or a mapping of names to lenses")
    for name, lens in lenses.items():
        if not isinstance(lens, Lens):
            raise InputError(
                f"model {name!r} is a {type(lens).__name__}; give what read_lenstool or "
                "read_deflection return"
            )
    return lenses


def need(catalog: dd.DataFrame, columns: Sequence[str]) -> None:
    """Raise `InputError` unless the catalogue has these columns."""
    missing = [c for c in columns if c not in catalog.columns]
    if missing:
        raise InputError(
            f"the catalogue has no {', '.join(missing)} (columns: "
            f"{', '.join(map(str, catalog.columns))}); name columns that it has"
        )
    text = [c for c in columns if catalog[c].dtype.kind not in "biuf"]
    if text:
        raise InputError(f"column {text[0]!r} has dtype {catalog[text[0]].dtype}; give numbers")
