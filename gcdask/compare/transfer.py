"""The relation in another cluster, and a test of how well it predicts there."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.compare.prediction import NUMBERS, check_relation, poisson_noise
from gcdask.compare.relation import PARAMETERS, fit_power_law, law_spec, sky_blocks
from gcdask.errors import InputError
from gcdask.grid import Field, tangent_offsets
from gcdask.kernels import prediction
from gcdask.luminosity.population import Population


def transfer_relation(
    relation: xr.Dataset,
    source: Field,
    target: Field,
    *,
    source_population: Population,
    target_population: Population,
    contamination: Any = None,
    population_error: float = 0.0,
) -> xr.Dataset:
    """Bring a relation from the cluster where it was fitted to one of other distance and depth.

    What two clusters share is taken to be the power law between the surface density of mass,
    Sigma = kappa Sigma_cr, and the density per kpc2 of *all* their clusters,
    N = (n - n0) / (f s^2), with s kpc an arcsec and f the share of the luminosity function that is
    seen. Then the relation keeps its form and b, and with primes for the target
    a' = a (Sigma_cr / Sigma_cr') [f s^2 / (f' s'^2)]^b.

    Parameters
    ----------
    relation : Dataset
        From `fit_power_law`.
    source, target : Field
        Lens, redshift of the sources and cosmology of both.
    source_population, target_population : Population
        Their clusters and how deep these are seen; only the ratio of the fractions counts.
    contamination : float, (float, float) or Dataset, optional
        Contaminants of the target (arcsec-2) and their error, or the result of
        `gcdask.profiles.contamination`. Default: the n0 of the source, which is right where both
        catalogues are equally deep.
    population_error : float
        Relative standard error of f / f'.

    Returns
    -------
    Dataset, lazy where ``relation`` is
        ``a``, ``b``, ``n0``, ``cov``, errors, ``correlation``, ``ab``, ``degeneracy``, ``scatter``,
        ``n_low``, ``n_high`` and ``status`` as of `fit_power_law`, and ``factor`` = a' / a.

    Raises
    ------
    InputError
        If a population sees nothing, or a number makes no sense.
    """
    check_relation(relation)
    seen = [p.fraction() for p in (source_population, target_population)]
    if min(seen) <= 0:
        raise InputError(
            f"the fraction {min(seen):.3g} of a population is seen; check its limit and "
            "distance_modulus"
        )
    if not population_error >= 0:
        raise InputError(f"population_error = {population_error} is negative; give 0 or more")
    level = reduce.density_level(contamination)
    function = partial(
        prediction.transfer,
        sigma_ratio=source.sigma_cr / target.sigma_cr,
        ratio=seen[0] * source.kpc_per_arcsec**2 / (seen[1] * target.kpc_per_arcsec**2),
        level=level,
        ratio_error=population_error,
    )
    names = ("a", "b", "n0", "cov", "n_low", "n_high")
    fit = reduce.apply(function, **{k: relation[k] for k in names})
    keep = {k: v for k, v in relation.attrs.items() if k in ("model", "method", "box", "errors")}
    out = xr.Dataset(
        reduce.variables(fit, _transfer_spec()),
        coords={"parameter": PARAMETERS, "parameter_2": PARAMETERS},
        attrs={**keep, "fractions_seen": seen, "z_lens": [source.z_lens, target.z_lens]},
    )
    out["scatter"] = relation["scatter"]
    out = reduce.finish(out, relation)
    if not reduce.is_lazy(out):
        out.attrs["n_range"] = [out["n_low"].item(), out["n_high"].item()]
    return out


def _transfer_spec() -> reduce.Spec:
    names = [*PARAMETERS, *(f"{k}_error" for k in PARAMETERS)]
    names += ["cov", "correlation", "ab", "ab_error", "degeneracy", "status"]
    spec = {k: v for k, v in law_spec(0).items() if k in names}
    for end in ("low", "high"):
        spec[f"n_{end}"] = ((), (), float, "arcsec-2", f"{end}est density it holds for")
    spec["factor"] = ((), (), float, "", "a of the target over a of the source")
    return spec


# -- the test -----------------------------------------------------------------------------------
def transfer_test(
    boxes: xr.Dataset,
    relation: xr.Dataset | None = None,
    *,
    center: tuple[float, float] | None = None,
    axis: float | None = None,
    half_width: float = 90.0,
    contamination: Any = None,
    kappa_range: tuple[float, float] | None = None,
    jackknife: float = 12.0,
    **fit_options: Any,
) -> xr.Dataset:
    """Predict the convergence where it is known, from clusters alone: bias and scatter.

    Either with a ``relation`` from elsewhere (another cluster), or, without one, calibrated on the
    boxes on one side of the cluster (``axis``) and tested on the others.

    Parameters
    ----------
    boxes : Dataset
        From `box_relation`: clusters and true convergence of the field to predict.
    relation : Dataset, optional
        From `fit_power_law` or `transfer_relation`.
    center, axis, half_width : (float, float), float, float
        Calibrate on boxes whose position angle about ``center`` (RA, Dec) lies within
        ``half_width`` of ``axis`` (deg, north through east); 90 deg: one half of the field.
    contamination : float, (float, float) or Dataset, optional
        As in `predict_kappa`.
    kappa_range : (float, float), optional
        Test boxes with a true convergence in this range (a cut in the noisy n would bias).
    jackknife : float
        Side (arcsec) of the blocks of sky whose scatter gives the error of the bias.
    **fit_options
        To `fit_power_law` for the calibration; by default ``method="poisson"``.

    Returns
    -------
    Dataset, lazy where an input is
        ``bias`` = sum(area kappa_pred) / sum(area kappa) - 1 with ``bias_error`` (blocks of sky
        and the errors of the relation), ``scatter`` (area-weighted rms of kappa_pred -
        (1 + bias) kappa over the mean kappa) and ``scatter_expected`` from the predictions'
        errors, ``bias_log`` (area-weighted mean of ln kappa_pred / kappa) where both are positive,
        ``extrapolated`` (share of the area), ``n_boxes``, ``n_calibration``, ``status``; by
        ``box`` ``kappa``, ``kappa_pred``, ``kappa_pred_error``, ``tested``.

    Raises
    ------
    InputError
        If neither or both of ``relation`` and ``axis`` are given, or boxes lack a variable.
    """
    needed = {"n", "area", "n_gc", "kappa", "good", *(("ra", "dec") if axis is not None else ())}
    missing = sorted(needed - set(boxes.variables))
    if missing:
        raise InputError(f"boxes lacks {missing}; give the result of box_relation")
    if (relation is None) == (axis is None):
        raise InputError("give a relation from elsewhere, or center= and axis= to calibrate here")
    tested = np.ones(boxes.sizes["box"], bool)
    if axis is not None:
        side = _side(boxes, center, axis, half_width)
        options = {"method": "poisson", **fit_options}
        relation = fit_power_law(boxes.assign(good=boxes["good"] & side), **options)
        tested = ~side
    elif fit_options:
        raise InputError(f"{sorted(fit_options)} are for a calibration here; relation is given")
    assert relation is not None
    check_relation(relation)
    low, high = (-math.inf, math.inf) if kappa_range is None else kappa_range
    table = reduce.apply(
        partial(
            prediction.compare_predicted,
            level=reduce.density_level(contamination),
            low=low,
            high=high,
        ),
        n=boxes["n_gc"],
        s=poisson_noise(boxes["n"], boxes["area"]),
        good=boxes["good"] & tested,
        blocks=sky_blocks(boxes, jackknife),
        fit_status=relation["status"],
        **{k: boxes[k] for k in ("kappa", "area")},
        **{k: relation[k] for k in NUMBERS},
    )
    out = xr.Dataset(reduce.variables(table, _test_spec(boxes.sizes["box"])))
    out = out.assign_coords({k: boxes[k] for k in ("x", "y", "ra", "dec") if k in boxes})
    out["kappa"], out["n_gc"] = boxes["kappa"], boxes["n_gc"]
    out["n_calibration"] = relation["n_boxes"] if axis is not None else xr.DataArray(0)
    out["n_calibration"].attrs = {"units": "", "long_name": "boxes of this field calibrated on"}
    out.attrs = {"route": "one field" if axis is not None else "relation from elsewhere"}
    out.attrs |= {k: relation.attrs[k] for k in ("model", "z_lens") if k in relation.attrs}
    return reduce.finish(out, boxes, relation)


def _side(boxes: xr.Dataset, center: Any, axis: float | None, half_width: float) -> np.ndarray:
    """Boxes within ``half_width`` of a position angle."""
    if center is None:
        raise InputError("axis needs center = (RA, Dec) in deg, e.g. that of the brightest galaxy")
    center = reduce.check_center(center)
    if not (axis is not None and math.isfinite(axis) and 0 < half_width < 180):
        raise InputError(
            f"axis = {axis}, half_width = {half_width}: give a position angle in deg, and more "
            "than 0 and less than 180 deg"
        )
    east, north = tangent_offsets(boxes["ra"].values, boxes["dec"].values, center)
    turn = (np.degrees(np.arctan2(east, north)) - axis + 180) % 360 - 180
    return np.asarray((turn >= -half_width) & (turn < half_width))


def _test_spec(n: int) -> reduce.Spec:
    by: tuple[Any, ...] = (("box",), (n,))
    one: tuple[Any, ...] = ((), (), float, "")
    return {
        "bias": (*one, "area-weighted mean of the predicted over the true convergence, less 1"),
        "bias_error": (*one, "standard error of the bias"),
        "bias_log": (*one, "area-weighted mean of ln(predicted / true)"),
        "scatter": (*one, "rms of predicted - (1 + bias) true over the mean true convergence"),
        "scatter_expected": (*one, "scatter expected from the errors of the predictions"),
        "extrapolated": (*one, "share of the area outside the range of the relation"),
        "n_boxes": ((), (), np.int64, "", "boxes tested"),
        "kappa_pred": (*by, float, "", "predicted convergence"),
        "kappa_pred_error": (*by, float, "", "its standard error"),
        "tested": (*by, bool, "", "whether the box is in the test"),
        "status": ((), (), object, "", "empty if sound"),
    }
