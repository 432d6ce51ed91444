"""What a fitted relation kappa = a (n - n0)^b predicts, here and in another cluster.

NumPy in, NumPy out; covariances are of (a, b, n0).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gcdask.kernels.fits import Fit
from gcdask.kernels.laws import degeneracy, law, verdict

Level = tuple[float, float] | None  # contaminants and their error; None: the relation's own


def value_and_slope(x: np.ndarray, s: np.ndarray, a: float, b: float) -> tuple[Any, Any]:
    """Give a x^b corrected for noise s in x, and d kappa / d x at x, or at s where x is noise."""
    noisy = x < s
    ratio = np.where(noisy, 1.0, s / np.where(noisy | (x <= 0), 1.0, x))
    bend = b * (1 - b) / 2 * np.where(x > 0, ratio, 0.0) ** 2
    reach = np.maximum(x, s)
    slope = np.where(reach > 0, a * b * np.where(reach > 0, reach, 1.0) ** (b - 1), 0.0)
    return a * x**b * np.maximum(1 + bend, 0), slope


def known_level(n0: Any, cov: np.ndarray, level: Level) -> tuple[Any, np.ndarray]:
    """n0 and the covariance, with n0 and its error replaced by what is known from elsewhere."""
    if level is None:
        return n0, cov
    cov = np.array(cov, float)
    cov[2, :], cov[:, 2] = 0.0, 0.0
    cov[2, 2] = level[1] ** 2
    return level[0], cov


def predict(
    n: np.ndarray, s: np.ndarray, a: Any, b: Any, n0: Any, cov: np.ndarray, level: Level = None
) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Convergence at densities ``n`` with errors ``s``.

    Returns
    -------
    kappa, noise : ndarray
        Convergence and its error from the noise of n.
    gradient : ndarray (3, ...)
        Derivatives of kappa by a, b, n0.
    cov : ndarray (3, 3)
        Covariance of these.
    """
    n0, cov = known_level(n0, cov, level)
    x = np.where(np.isnan(n), np.nan, np.maximum(n - n0, 0))
    kappa, slope = value_and_slope(x, s, a, b)
    gradient = np.stack([kappa / a, kappa * np.log(np.where(x > 0, x, 1.0)), -slope])
    return kappa, slope * s, gradient, cov


def table(
    n: np.ndarray, s: np.ndarray, a: Any, b: Any, n0: Any, cov: np.ndarray, scatter: Any, low: Any,
    high: Any, *, level: Level,
) -> np.ndarray:  # fmt: skip
    """kappa, its error, the parts of it (noise, relation, scatter), 1 where n is out of range.

    Along a last axis.
    """
    kappa, noise, gradient, known = predict(n, s, a, b, n0, cov, level)
    variance = np.einsum("i...,ij,j...->...", gradient, known, gradient)
    parts = [noise, np.sqrt(np.maximum(variance, 0)), scatter * kappa]
    shift = 0.0 if level is None else level[0] - n0
    outside = ((n < low + shift) | (n > high + shift)).astype(float)
    total = np.sqrt(sum(p**2 for p in parts))
    return np.stack([kappa, total, *parts, outside], -1)


# -- another cluster ----------------------------------------------------------------------------
def transfer(
    a: float,
    b: float,
    n0: float,
    cov: np.ndarray,
    n_low: float,
    n_high: float,
    *,
    sigma_ratio: float,
    ratio: float,
    level: Level,
    ratio_error: float,
) -> Fit:
    """Give the law where kappa is ``sigma_ratio`` times as large for the same mass.

    ``ratio`` is n - n0 here over that there, for equally many clusters per kpc2. ``level`` are the
    contaminants there and their error (None: n0).
    """
    a, b, n0 = float(a), float(b), float(n0)
    factor = sigma_ratio * ratio**b
    jac = np.diag([factor, 1.0, 1.0])
    jac[0, 1] = a * factor * math.log(ratio)
    moved = jac @ cov @ jac.T
    moved[0, 0] += (a * factor * b * ratio_error) ** 2
    there, moved = known_level(n0, moved, level)
    out = law([a * factor, b, there], moved) | degeneracy(a * factor, b, moved)
    out |= {k: there + (float(v) - n0) / ratio for k, v in (("n_low", n_low), ("n_high", n_high))}
    return out | {"factor": factor, "status": verdict(out)}


# -- the test ------------------------------------------------------------------------------------
def compare_predicted(
    n: np.ndarray,
    s: np.ndarray,
    kappa: np.ndarray,
    area: np.ndarray,
    good: np.ndarray,
    blocks: np.ndarray,
    a: float,
    b: float,
    n0: float,
    cov: np.ndarray,
    scatter: float,
    n_low: float,
    n_high: float,
    fit_status: Any,
    *,
    level: Level,
    low: float,
    high: float,
) -> Fit:
    """Bias and scatter of predicted against true convergence in boxes, weighted by area."""
    use = good & np.isfinite(kappa) & (kappa >= low) & (kappa <= high) & (area > 0)
    names = ("bias", "bias_error", "bias_log", "scatter", "scatter_expected", "extrapolated")
    out: Fit = dict.fromkeys(names, math.nan) | {"n_boxes": int(use.sum()), "tested": use}
    rows = table(n, s, a, b, n0, cov, scatter, n_low, n_high, level=level)
    out |= {"kappa_pred": rows[..., 0], "kappa_pred_error": rows[..., 1]}
    status = str(np.asarray(fit_status).item())
    n, s, k, weight, blocks, rows = (v[use] for v in (n, s, kappa, area, blocks, rows))
    total = float(weight @ k)
    if not math.isfinite(a):
        return out | {"status": status or "unconstrained: the relation is NaN"}
    if k.size < 2 or not total > 0:
        return out | {"status": f"unconstrained: {k.size} boxes with a convergence to compare"}
    p, noise, gradient, known = predict(n, s, a, b, n0, cov, level)
    bias = float(weight @ p) / total - 1
    rest = p - (1 + bias) * k
    kinds, which = np.unique(blocks, return_inverse=True)
    by_block = np.bincount(which, weight * rest) / total
    variance = kinds.size / max(kinds.size - 1, 1) * float((by_block**2).sum())
    shared = gradient @ weight / total  # what the parameters' errors do to all boxes together
    out |= {"bias": bias, "bias_error": math.sqrt(variance + float(shared @ known @ shared))}
    mean = total / weight.sum()
    out["scatter"] = math.sqrt(np.average(rest**2, weights=weight)) / mean
    expected = noise**2 + (scatter * p) ** 2
    out["scatter_expected"] = math.sqrt(np.average(expected, weights=weight)) / mean
    both = (p > 0) & (k > 0)
    if both.any():
        out["bias_log"] = float(np.average(np.log(p[both] / k[both]), weights=weight[both]))
    out["extrapolated"] = float(np.average(rows[:, -1], weights=weight))
    return out | {"status": status}
