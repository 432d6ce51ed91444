"""The n-kappa relation: its fit, and what it predicts elsewhere."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.kernels import fits


def fit_power_law(
    relation: xr.Dataset,
    n_range: tuple[float, float] = (0.67, 5.67),
    *,
    method: str = "bins",
    n_bins: int = 10,
    min_boxes: int = 3,
) -> xr.Dataset:
    """Fit <kappa> = a n_gc^b to a `box_relation` (Diego et al. 2026, figure 3).

    ``method="bins"``, the paper's: good boxes with n_gc in ``n_range`` are put into logarithmic
    bins of n, and <kappa> = a n^b is fitted (scipy ``curve_fit``) to the bins' means of kappa at
    their mean n, weighted by the dispersion of kappa in each. Dispersion is not the error of a
    mean, so these errors of b are about 3 times too large; the same fit weighted by the standard
    error of the mean is given beside it. A selection in the noisy n flattens the relation, and
    contamination breaks it at low n.

    ``method="poisson"``: maximum likelihood of the counts of all good boxes with kappa > 0 under
    n = n0 + (kappa / a)^(1/b), i.e. kappa = a (n - n0)^b, with Fisher errors. ``n_range`` then
    only says where `predict` extrapolates. Neither model knows of clusters' clumping.

    Parameters
    ----------
    relation : Dataset
        From `box_relation`.
    n_range : (float, float)
        Densities (arcsec-2), both ends included.
    n_bins, min_boxes : int
        Number of bins, and boxes that a bin (or, for "poisson", the fit) needs to count.

    Returns
    -------
    Dataset, lazy where ``relation`` is
        ``a``, ``b``, ``a_error``, ``b_error``, ``cov`` (parameter, parameter_2); the same with
        ``_mean`` for the fit by errors of the mean; ``n0`` and its error (0 for "bins"),
        ``chi2`` (of the ``_mean`` fit; for "poisson" the deviance) and ``dof``, ``n_boxes``,
        ``n_bins`` used, and by ``bin``: ``bin_n``, ``bin_kappa``, ``bin_kappa_std``,
        ``bin_kappa_sem``, ``bin_boxes``. ``status``, a string, is empty for a good fit and begins
        with "unconstrained" for one with too few boxes (all NaN) or with b's error above b; it is
        repeated in ``attrs`` if the result is not lazy.
    """
    low, high = (float(v) for v in n_range)
    if not 0 < low < high < math.inf:
        raise InputError(f"n_range = {n_range} is not 0 < low < high; give densities in arcsec-2")
    if method not in ("bins", "poisson"):
        raise InputError(f"method = {method!r} is unknown; use 'bins' or 'poisson'")
    if n_bins < 3 or min_boxes < 2:
        raise InputError(
            f"n_bins = {n_bins}, min_boxes = {min_boxes}: a and b need 3 bins, a dispersion 2 boxes"
        )
    edges = np.geomspace(low, high, n_bins + 1)
    if method == "bins":
        inputs = {"n": "n_gc", "kappa": "kappa", "good": "good"}
        function = partial(fits.power_law, edges=edges, min_boxes=min_boxes)
    else:
        inputs = {"counts": "n", "area": "area", "kappa": "kappa", "good": "good"}
        function = partial(fits.poisson_law, min_boxes=min_boxes)
    missing = sorted(set(inputs.values()) - set(relation.variables))
    if missing:
        raise InputError(f"relation lacks {missing}; give the result of box_relation")
    fit = reduce.apply(function, **{k: relation[v] for k, v in inputs.items()})
    result = xr.Dataset(
        reduce.variables(fit, _law_spec(n_bins if method == "bins" else 0)),
        coords={k: np.array(["a", "b"], object) for k in ("parameter", "parameter_2")},
        attrs={
            "model": "kappa = a (n_gc - n0)^b" if method == "poisson" else "kappa = a n_gc^b",
            "method": method,
            "n_range": [low, high],
            "errors": "Poisson likelihood" if method == "poisson" else "dispersion in each bin",
        },
    )
    return reduce.finish(result, relation)


def _law_spec(n_bins: int) -> reduce.Spec:
    cov, shape = ("parameter", "parameter_2"), (2, 2)
    spec: dict[str, Any] = {}
    for suffix, text in (("", ""), ("_mean", ", bins weighted by the error of the mean")):
        spec |= {
            f"a{suffix}": ((), (), float, "", f"kappa at n_gc = 1 arcsec-2{text}"),
            f"a{suffix}_error": ((), (), float, "", f"standard error of a{text}"),
            f"b{suffix}": ((), (), float, "", f"exponent{text}"),
            f"b{suffix}_error": ((), (), float, "", f"standard error of b{text}"),
            f"cov{suffix}": (cov, shape, float, "", f"covariance of a, b{text}"),
        }
    spec |= {
        "n0": ((), (), float, "arcsec-2", "density of contaminants"),
        "n0_error": ((), (), float, "arcsec-2", "standard error of n0"),
        "chi2": ((), (), float, "", "chi^2 by errors of the mean, or Poisson deviance"),
        "dof": ((), (), np.int64, "", "degrees of freedom"),
        "n_boxes": ((), (), np.int64, "", "boxes used"),
        "n_bins": ((), (), np.int64, "", "bins used"),
        "status": ((), (), object, "", "empty if the fit is sound"),
    }
    if n_bins:
        by_bin = {
            "bin_boxes": (np.int64, "", "boxes in the bin"),
            "bin_n": (float, "arcsec-2", "mean density"),
            "bin_kappa": (float, "", "mean convergence"),
            "bin_kappa_std": (float, "", "sample standard deviation of kappa between boxes"),
            "bin_kappa_sem": (float, "", "standard error of the mean convergence"),
        }
        spec |= {k: (("bin",), (n_bins,), *v) for k, v in by_bin.items()}
    return spec


def predict(fit: xr.Dataset, n: Any) -> xr.Dataset:
    """Convergence at densities of clusters, by the relation calibrated elsewhere.

    It holds for the depth, distance and critical density of the field it was fitted on.

    Parameters
    ----------
    fit : Dataset
        From `fit_power_law`.
    n : float, array or DataArray
        Number densities (arcsec-2).

    Returns
    -------
    Dataset, lazy where an input is
        ``kappa`` (NaN where n < n0), ``kappa_error`` (from ``cov`` alone, not the scatter about
        the relation), ``extrapolated`` where n is outside the fitted range.
    """
    n = n if isinstance(n, xr.DataArray) else xr.DataArray(n)
    excess = (n - fit["n0"]).where(n >= fit["n0"])
    shape = excess ** fit["b"]
    kappa = fit["a"] * shape
    by_b = kappa * np.log(excess.where(excess > 0, 1.0))
    cov = {
        (i, j): fit["cov"].sel(parameter=i, parameter_2=j, drop=True) for i in "ab" for j in "ab"
    }
    variance = shape**2 * cov["a", "a"] + by_b**2 * cov["b", "b"] + 2 * shape * by_b * cov["a", "b"]
    low, high = fit.attrs["n_range"]
    places = {k: n.attrs[k] for k in ("wcs",) if k in n.attrs}
    return xr.Dataset(
        {
            "kappa": kappa.assign_attrs(units="", **places),
            "kappa_error": np.sqrt(variance.clip(min=0)).assign_attrs(units="", **places),
            "extrapolated": ((n < low) | (n > high)).assign_attrs(units="", **places),
        },
        attrs={"model": fit.attrs["model"], "n_range": [low, high], **places},
    )
