"""Counterparts of catalogue sources in other images of one source, and what they say of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial import cKDTree
from scipy.stats import chi2 as chi_square

from gcdask.catalog import as_dask
from gcdask.errors import InputError
from gcdask.kernels.ratios import flux_ratio
from gcdask.lensing.images import STEP, ImagePlane
from gcdask.lensing.lens import Lens
from gcdask.lensing.magnify import Models, lenses_of, need

MAX_SOURCES = 2000  # of a catalogue whose counter images are sought, at 0.3 s each
PAIR_COLUMNS = {
    "model": "object",
    "id": "int64",
    "counter_id": "int64",
    "family": "int64",
    "reference": "bool",
    "separation": "float64",
    "mu": "float64",
    "mu_counter": "float64",
    "color_chi2": "float64",
    "color_dof": "int64",
    "ratio": "float64",
    "ratio_error": "float64",
    "ratio_predicted": "float64",
    "chi2": "float64",
}
"""Columns of `match_counter_images`."""


def match_counter_images(
    catalog: Any,
    models: Models,
    z_source: float,
    *,
    flux: Sequence[str],
    flux_error: Sequence[str],
    radius: float = 1.0,
    sigmas: float = 3.0,
    systematic: float = 0.0,
    step: float = STEP,
) -> pd.DataFrame:
    """Find pairs of catalogue sources that are images of one source, by position and colour.

    For each model the images of each source are predicted; a catalogue source within ``radius``
    of one is its counterpart if their colours agree. Lensing is achromatic: of two images the
    fluxes in all bands have one ratio A, which is fitted with the errors of both; the chi^2 of that
    fit (bands - 1 degrees of freedom) tests the colours, and its increase from the best A to that
    of the model, abs(mu_counter / mu), tests the model.

    Parameters
    ----------
    catalog : pandas or dask DataFrame
        ``id``, ``ra``, ``dec`` and the fluxes of the sources, all at ``z_source``; only these
        columns are read, at once. At most 20 000 sources: select those of the lensed galaxy first.
    models : Lens or mapping of str to Lens
        The models to predict with and to test.
    z_source : float
        Redshift of the sources.
    flux, flux_error : sequence of str
        Columns, one per band, in one linear unit (negative fluxes are data). Bands without a
        finite flux and a positive error of both images do not count; pairs without any are not
        tested (``color_dof`` 0) and match by position alone.
    radius : float
        Largest distance (arcsec) from a predicted image: the model's rms in the image plane, at
        least.
    sigmas : float
        Colours that are less likely than this two-sided Gaussian deviation do not match.
    systematic : float
        Fractional error of a predicted ratio, added in quadrature to that of the fluxes. With 0
        the test is of the fluxes' errors alone, and near critical curves even the true model fails
        it by the errors of the positions at which mu is taken.
    step : float
        Grid step in arcsec of the search for images.

    Returns
    -------
    pandas.DataFrame
        `PAIR_COLUMNS`, one row per model and pair (each pair once, the brighter image first):
        ``id``, ``counter_id``; ``family``, the number of the group of linked images in this model,
        and ``reference``, whether ``id`` is its brightest image (the pairs that
        `flux_ratio_test` adds up); ``separation`` from the predicted image (arcsec); magnifications
        ``mu``, ``mu_counter`` at the two sources (signed); ``color_chi2``, ``color_dof``;
        ``ratio``, ``ratio_error`` of the fluxes (counter_id / id, all bands), ``ratio_predicted``
        and ``chi2`` (one degree of freedom). ``attrs``: ``n_sources``, and ``n_unplaced`` per
        model: sources without a position on that model's maps.

    Raises
    ------
    InputError
        If there is no model, a column is missing or unpaired, an option is not positive, or there
        are too many sources.
    """
    lenses = lenses_of(models)
    _check_options(flux, flux_error, radius, sigmas)
    if not 0 <= systematic < np.inf:
        raise InputError(f"systematic = {systematic} is not a fraction; give 0 or more, as 0.1")
    catalog = as_dask(catalog)
    need(catalog, ["id", "ra", "dec", *flux, *flux_error])
    columns = list(dict.fromkeys(["id", "ra", "dec", *flux, *flux_error]))
    table = catalog[columns].compute().sort_values("id", kind="stable", ignore_index=True)
    if len(table) > MAX_SOURCES:
        raise InputError(
            f"the catalogue has {len(table)} sources, above {MAX_SOURCES} for counter images; "
            "select those of the lensed galaxy first"
        )
    values = table[list(flux)].to_numpy(float), table[list(flux_error)].to_numpy(float)
    found, unplaced = [], {}
    for name, lens in lenses.items():
        lens.ratio(z_source)
        pairs, unplaced[name] = _predicted(lens, table, z_source, radius, step)
        found.append(_tested(name, lens, table, pairs, values, z_source, sigmas, systematic))
    out = pd.concat(found, ignore_index=True).astype(PAIR_COLUMNS)
    out.attrs = {"n_sources": len(table), "n_unplaced": unplaced, "z_source": float(z_source)}
    return out


def flux_ratio_test(pairs: pd.DataFrame, models: Sequence[str] | None = None) -> xr.Dataset:
    """How well each model predicts the flux ratios of the counter images.

    Parameters
    ----------
    pairs : pandas.DataFrame
        From `match_counter_images`.
    models : sequence of str, optional
        Names to report on; by default those that occur, a model without pairs does not.

    Returns
    -------
    Dataset
        Along ``model``: ``n_pairs`` found, ``n_families``, ``chi2`` summed over the pairs with the
        brightest image of each family, ``dof`` (their number) and ``p_value``. Errors of the
        model count only as far as ``systematic`` says.
        ``status`` begins with "unconstrained" for a model without such pairs.
    """
    names = list(dict.fromkeys(pairs["model"])) if models is None else list(models)
    used = pairs[pairs["reference"] & np.isfinite(pairs["chi2"])]
    count = {n: int((pairs["model"] == n).sum()) for n in names}
    dof = np.array([(used["model"] == n).sum() for n in names], np.int64)
    total = np.array([used["chi2"][used["model"] == n].sum() for n in names], float)
    families = [pairs["family"][pairs["model"] == n].nunique() for n in names]
    some = dof > 0
    status = [
        "" if ok else f"unconstrained: {count[n]} pairs, none with measured fluxes"
        for n, ok in zip(names, some, strict=True)
    ]
    out = {
        "n_pairs": (np.array([count[n] for n in names], np.int64), "pairs matched"),
        "n_families": (np.array(families, np.int64), "groups of linked images"),
        "chi2": (np.where(some, total, np.nan), "chi^2 of the flux ratios"),
        "dof": (dof, "pairs with the brightest image of their family"),
        "p_value": (
            np.where(some, chi_square.sf(total, np.maximum(dof, 1)), np.nan),
            "chance of a larger chi^2 if the model holds",
        ),
        "status": (np.array(status, object), "empty if sound"),
    }
    return xr.Dataset(
        {k: ("model", v, {"units": "", "long_name": text}) for k, (v, text) in out.items()},
        coords={"model": np.array(names, object)},
    )


def _predicted(
    lens: Lens, table: pd.DataFrame, z_source: float, radius: float, step: float
) -> tuple[dict[tuple[int, int], float], int]:
    """Rows (i < j) of sources that this lens sees as one, and how far the prediction is off."""
    x, y = lens.xy(table["ra"].to_numpy(float), table["dec"].to_numpy(float))
    beta = lens.xy(*lens.trace(table["ra"].to_numpy(float), table["dec"].to_numpy(float), z_source))
    known = np.flatnonzero(np.isfinite(np.array(beta)).all(axis=0))
    pairs: dict[tuple[int, int], float] = {}
    if known.size < 2:
        return pairs, len(table) - known.size
    ra, dec = (table[c].to_numpy(float)[known] for c in ("ra", "dec"))
    plane = ImagePlane.of(lens, ra, dec, z_source, step=step)
    tree = cKDTree(np.stack([x[known], y[known]], axis=1))
    for i, one_ra, one_dec in zip(known, ra, dec, strict=True):
        images = plane.images(one_ra, one_dec)[1:]
        places = np.stack(lens.xy(images["ra"], images["dec"]), axis=1).reshape(-1, 2)
        for place, near in zip(places, tree.query_ball_point(places, radius), strict=True):
            for k in near:
                j = int(known[k])
                if j != i:
                    off = float(np.hypot(x[j] - place[0], y[j] - place[1]))
                    key = (min(int(i), j), max(int(i), j))
                    pairs[key] = min(off, pairs.get(key, np.inf))
    return pairs, len(table) - known.size


def _tested(
    name: str,
    lens: Lens,
    table: pd.DataFrame,
    pairs: Mapping[tuple[int, int], float],
    values: tuple[np.ndarray, np.ndarray],
    z_source: float,
    sigmas: float,
    systematic: float,
) -> pd.DataFrame:
    """Pairs of one model whose colours agree, with the test of their flux ratio."""
    flux, error = values
    good = np.isfinite(flux) & (error > 0) & np.isfinite(error)
    weight = np.where(good, 1 / np.where(good, error, 1) ** 2, 0)
    bright = (np.where(good, flux, 0) * weight).sum(1) / np.maximum(weight.sum(1), 1e-300)
    mu = lens.magnification_at(table["ra"].to_numpy(float), table["dec"].to_numpy(float), z_source)
    ids = table["id"].to_numpy(np.int64)
    rows, links = [], []
    for (i, j), separation in sorted(pairs.items()):
        i, j = (i, j) if bright[i] >= bright[j] else (j, i)
        both = good[i] & good[j]
        predicted = float(abs(mu[j] / mu[i]))
        one, two = ((flux[k, both], error[k, both]) for k in (i, j))
        fit = flux_ratio(*one, *two, predicted=predicted, systematic=systematic)
        dof = max(int(both.sum()) - 1, 0)
        if dof and chi_square.sf(fit.color_chi2, dof) < chi_square.sf(sigmas**2, 1):
            continue
        links.append((i, j))
        rows.append(
            {
                "model": name,
                "id": ids[i],
                "counter_id": ids[j],
                "separation": separation,
                "mu": mu[i],
                "mu_counter": mu[j],
                "color_chi2": fit.color_chi2,
                "color_dof": dof,
                "ratio": fit.ratio,
                "ratio_error": fit.error,
                "ratio_predicted": predicted,
                "chi2": fit.chi2,
            }
        )
    family, reference = _families(links, bright)
    for row, number, is_reference in zip(rows, family, reference, strict=True):
        row |= {"family": number, "reference": is_reference}
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS))


def _families(links: Sequence[tuple[int, int]], bright: np.ndarray) -> tuple[list[int], list[bool]]:
    """Connected group of each link, numbered from 0, and whether its brightest member is first."""
    group: dict[int, set[int]] = {}
    for i, j in links:
        joined = group.get(i, {i}) | group.get(j, {j})
        group.update(dict.fromkeys(joined, joined))
    first = {id(g): max(g, key=lambda k: (bright[k], -k)) for g in group.values()}
    order = {head: n for n, head in enumerate(sorted(first.values()))}
    heads = [first[id(group[i])] for i, _ in links]
    return [order[h] for h in heads], [h == i for h, (i, _) in zip(heads, links, strict=True)]


def _check_options(
    flux: Sequence[str], flux_error: Sequence[str], radius: float, sigmas: float
) -> None:
    if isinstance(flux, str) or isinstance(flux_error, str) or len(flux) != len(flux_error):
        raise InputError(
            f"flux = {flux!r} and flux_error = {flux_error!r} are not lists of one column per "
            "band; give as many errors as fluxes"
        )
    if not flux:
        raise InputError("flux is empty; give the columns of at least one band")
    for name, value in (("radius", radius), ("sigmas", sigmas)):
        if not 0 < value < np.inf:
            raise InputError(f"{name} = {value} is not positive; give a positive number")
