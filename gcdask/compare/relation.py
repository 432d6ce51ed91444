"""The n-kappa relation: its fit to boxes of sky."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.kernels import laws

PARAMETERS = np.array(laws.PARAMETERS, object)


def fit_power_law(
    relation: xr.Dataset,
    n_range: tuple[float, float] = (0.67, 5.67),
    *,
    method: str = "bins",
    n_bins: int = 10,
    min_boxes: int = 3,
    kappa_range: tuple[float, float] | None = None,
    jackknife: float = 12.0,
) -> xr.Dataset:
    """Fit <kappa> = a n_gc^b to a `box_relation` (Diego et al. 2026, figure 3).

    ``method="bins"``, the paper's: good boxes with n_gc in ``n_range`` are put into logarithmic
    bins of n, and <kappa> = a n^b is fitted (scipy ``curve_fit``) to the bins' means of kappa at
    their mean n, weighted by the dispersion of kappa in each. Dispersion is not the error of a
    mean, so these errors of b are about 3 times too large; the same fit weighted by the standard
    error of the mean is given beside it. A selection in the noisy n, and contamination, change the
    exponent: of clusters that follow kappa^1.6 (b = 0.625) this fit makes b = 0.72 in AS1063.

    ``method="poisson"``: maximum likelihood of the counts of all good boxes with kappa > 0 under
    n = n0 + <(kappa / a)^(1/b)>, i.e. kappa = a (n - n0)^b, with Fisher errors. The variance of
    kappa within a box is part of the model. ``n_range`` then only says where `predict_kappa`
    extrapolates; ``kappa_range`` leaves out boxes, which biases nothing as kappa has no noise.

    Parameters
    ----------
    relation : Dataset
        From `box_relation`.
    n_range : (float, float)
        Densities (arcsec-2), both ends included.
    n_bins, min_boxes : int
        Number of bins, and boxes that a bin (or, for "poisson", the fit) needs to count.
    kappa_range : (float, float), optional
        For "poisson": convergences to use, e.g. below those of galaxies' cores, where clusters
        are destroyed.
    jackknife : float
        Side (arcsec, rounded to whole boxes) of the blocks of sky whose scatter gives the
        ``_block_error``s: clusters that clump beyond Poisson noise are in these.

    Returns
    -------
    Dataset, lazy where ``relation`` is
        ``a``, ``b``, ``n0`` (arcsec-2; 0 for "bins") with ``_error``, ``cov`` (parameter,
        parameter_2) in the order a, b, n0, and ``_block_error`` from ``n_blocks`` blocks;
        ``correlation`` of a and b, ``ab`` = a b with its error, and ``degeneracy`` = d ln b /
        d ln a along the major axis of their errors: -1 where the data fix a b (the paper finds a b
        about 0.28); ``scatter`` of kappa about the relation beyond Poisson noise, as a fraction;
        for "bins" ``a_mean``, ``b_mean`` with errors and ``cov_mean`` of the fit by errors of the
        mean. ``chi2`` (of the ``_mean`` fit; for "poisson" the deviance) and ``dof``, ``n_boxes``
        used and ``n_left_out`` for kappa <= 0, ``n_bins`` used, and by ``bin``: ``bin_n``,
        ``bin_kappa``, ``bin_kappa_std``, ``bin_kappa_sem``, ``bin_boxes``; ``n_low``, ``n_high``,
        the densities it holds for. ``status``, a string, is empty for a good fit and begins with
        "unconstrained" for one with too few boxes (all NaN), with a singular covariance or with
        b's error above b; it is repeated in ``attrs`` if the result is not lazy.

    Raises
    ------
    InputError
        If a range, the method or a number makes no sense, or ``relation`` lacks a variable.
    """
    low, high = _range(n_range, "n_range", "densities in arcsec-2")
    if method not in ("bins", "poisson"):
        raise InputError(f"method = {method!r} is unknown; use 'bins' or 'poisson'")
    if n_bins < 3 or min_boxes < 2:
        raise InputError(
            f"n_bins = {n_bins}, min_boxes = {min_boxes}: a and b need 3 bins, a dispersion 2 boxes"
        )
    if kappa_range is not None and method == "bins":
        raise InputError("kappa_range is for method='poisson'; the bins are limited by n_range")
    kappas = _range(kappa_range, "kappa_range", "convergences") if kappa_range else (0.0, math.inf)
    inputs = _inputs(relation, jackknife)
    if method == "bins":
        edges = np.geomspace(low, high, n_bins + 1)
        inputs = {k: v for k, v in inputs.items() if k not in ("counts", "std")}
        function: Any = partial(laws.power_law, edges=edges, min_boxes=min_boxes)
    else:
        inputs.pop("n")
        function = partial(laws.poisson_law, min_boxes=min_boxes, kappa_range=kappas)
    fit = reduce.apply(function, **inputs)
    result = xr.Dataset(
        reduce.variables(fit, law_spec(n_bins if method == "bins" else 0)),
        coords={"parameter": PARAMETERS, "parameter_2": PARAMETERS},
        attrs={
            "model": "kappa = a (n_gc - n0)^b" if method == "poisson" else "kappa = a n_gc^b",
            "method": method,
            "n_range": [low, high],
            "errors": "Poisson likelihood" if method == "poisson" else "dispersion in each bin",
        },
    )
    if "box" in relation.attrs:
        result.attrs["box"] = relation.attrs["box"]
    result["n_low"], result["n_high"] = (
        xr.DataArray(v, attrs={"units": "arcsec-2", "long_name": f"{end} density it holds for"})
        for v, end in ((low, "lowest"), (high, "highest"))
    )
    return reduce.finish(result, relation)


def _range(given: Any, name: str, what: str) -> tuple[float, float]:
    low, high = (float(v) for v in given)
    if not 0 < low < high < math.inf:
        raise InputError(f"{name} = {given} is not 0 < low < high; give {what}")
    return low, high


def _inputs(relation: xr.Dataset, jackknife: float) -> dict[str, Any]:
    """Columns of boxes for the kernels; without numbers of boxes each is a block of its own."""
    names = {"counts": "n", "n": "n_gc", "kappa": "kappa", "area": "area", "good": "good"}
    missing = sorted(set(names.values()) - set(relation.variables))
    if missing:
        raise InputError(f"relation lacks {missing}; give the result of box_relation")
    if not jackknife > 0:
        raise InputError(f"jackknife = {jackknife} is not positive; give arcsec")
    inputs: dict[str, Any] = {k: relation[v] for k, v in names.items()}
    size = relation.sizes["box"]
    inputs["std"] = relation["kappa_std"] if "kappa_std" in relation else np.zeros(size)
    inputs["blocks"] = sky_blocks(relation, jackknife)
    return inputs


def sky_blocks(relation: xr.Dataset, side: float) -> np.ndarray:
    """Block of sky of ``side`` arcsec that each box is in, numbered from 0."""
    if "ix" not in relation or "box" not in relation.attrs:
        return np.arange(relation.sizes["box"])
    size = max(1, round(side / relation.attrs["box"]))
    pairs = np.stack([np.asarray(relation[k]) // size for k in ("iy", "ix")])
    return np.unique(pairs, axis=1, return_inverse=True)[1].ravel()


def law_spec(n_bins: int) -> reduce.Spec:
    """Variables of a fitted relation; of its ``n_bins`` bins where there are some."""

    def one(units: str, text: str) -> tuple[Any, ...]:
        return (), (), float, units, text

    def several(text: str) -> tuple[Any, ...]:
        return ("parameter", "parameter_2"), (3, 3), float, "", text

    named = {
        "a": ("", "kappa at n_gc - n0 = 1 arcsec-2"),
        "b": ("", "exponent"),
        "n0": ("arcsec-2", "density of contaminants"),
    }
    spec: dict[str, Any] = {}
    for k, (units, text) in named.items():
        spec[k] = one(units, text)
        spec[f"{k}_error"] = one(units, f"standard error of {k}")
        spec[f"{k}_block_error"] = one(units, f"standard error of {k} from blocks of sky")
    spec["cov"] = several("covariance of a, b, n0")
    spec |= {
        "correlation": one("", "correlation of a and b"),
        "ab": one("", "a times b"),
        "ab_error": one("", "standard error of a times b"),
        "degeneracy": one("", "d ln b / d ln a along the major axis of the errors"),
        "scatter": one("", "fractional scatter of kappa about the relation beyond Poisson noise"),
        "chi2": one("", "chi^2 by errors of the mean, or Poisson deviance"),
        "dof": ((), (), np.int64, "", "degrees of freedom"),
        "n_boxes": ((), (), np.int64, "", "boxes used"),
        "n_left_out": ((), (), np.int64, "", "good boxes left out because kappa <= 0"),
        "n_blocks": ((), (), np.int64, "", "blocks of sky"),
        "n_bins": ((), (), np.int64, "", "bins used"),
        "status": ((), (), object, "", "empty if the fit is sound"),
    }
    if n_bins:
        weighted = ", bins weighted by the error of the mean"
        for k in "ab":
            spec[f"{k}_mean"] = one("", named[k][1] + weighted)
            spec[f"{k}_mean_error"] = one("", f"standard error of {k}_mean")
        spec["cov_mean"] = several("covariance of a_mean, b_mean, 0")
        by_bin = {
            "bin_boxes": (np.int64, "", "boxes in the bin"),
            "bin_n": (float, "arcsec-2", "mean density"),
            "bin_kappa": (float, "", "mean convergence"),
            "bin_kappa_std": (float, "", "sample standard deviation of kappa between boxes"),
            "bin_kappa_sem": (float, "", "standard error of the mean convergence"),
        }
        spec |= {k: (("bin",), (n_bins,), *v) for k, v in by_bin.items()}
    return spec
