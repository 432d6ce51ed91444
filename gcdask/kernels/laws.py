"""Fits of the n-kappa relation kappa = a (n - n0)^b to boxes of sky, and what their errors mean.

NumPy in, plain numbers out; a fit that the boxes cannot constrain is NaN and says why in
``status``. Covariances are of (a, b, n0) in that order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import optimize

from gcdask.kernels.fits import Fit, divide
from gcdask.kernels.poisson import TINY, fisher, jacobian, maximise

PARAMETERS = ("a", "b", "n0")
EXPONENTS = (0.05, 20.0)  # bounds of 1 / b in the likelihood


# -- parameters and their errors ----------------------------------------------------------------
def law(values: Any, cov: np.ndarray, suffix: str = "") -> Fit:
    """a, b, n0 with errors and covariance (those of the ``_mean`` fit without n0)."""
    known = np.isfinite(cov).all() and np.diag(cov).min() >= 0
    error = np.sqrt(np.diag(cov)) if known else np.full(3, np.nan)
    kept = PARAMETERS[: 2 if suffix else 3]
    out: Fit = {f"{k}{suffix}": float(v) for k, v in zip(kept, values, strict=False)}
    out |= {f"{k}{suffix}_error": float(v) for k, v in zip(kept, error, strict=False)}
    return out | {f"cov{suffix}": cov}


def no_law() -> Fit:
    """Give NaN for all that a fit of the relation gives."""
    nothing = np.full((3, 3), np.nan)
    names = [f"{k}_block_error" for k in PARAMETERS]
    names += ["correlation", "ab", "ab_error", "degeneracy", "scatter", "chi2"]
    out: Fit = dict.fromkeys(names, math.nan) | {"n_blocks": 0, "n_bins": 0}
    return out | law([math.nan] * 3, nothing) | law([math.nan] * 2, nothing, "_mean")


def verdict(fit: Fit) -> str:
    """Say in words why a and b mean nothing; empty if they do."""
    b, error = fit["b"], fit["b_error"]
    if not math.isfinite(error):
        return "unconstrained: the covariance of a, b and n0 is singular"
    if error > abs(b):
        return f"unconstrained: b = {b:.3g} +- {error:.3g} does not differ from 0"
    return ""


def degeneracy(a: float, b: float, cov: np.ndarray) -> Fit:
    """Correlation of a and b, their product, and the direction in which both are uncertain.

    ``degeneracy`` is d ln b / d ln a along the major axis of the covariance of (ln a, ln b): -1
    where the data fix a b.
    """
    scale = np.array([a, b])
    log = cov[:2, :2] / np.outer(scale, scale)
    if not (np.isfinite(log).all() and (np.diag(log) > 0).all()):
        return dict.fromkeys(("correlation", "ab", "ab_error", "degeneracy"), math.nan)
    _, axes = np.linalg.eigh(log)
    along = axes[:, -1]
    variance = max(float(log.sum()), 0.0)
    return {
        "correlation": float(log[0, 1] / math.sqrt(log[0, 0] * log[1, 1])),
        "ab": a * b,
        "ab_error": abs(a * b) * math.sqrt(variance),
        "degeneracy": float(along[1] / along[0]) if along[0] else math.inf,
    }


def block_errors(influence: np.ndarray, blocks: np.ndarray) -> Fit:
    """Errors of a, b, n0 from the scatter of whole blocks of sky: infinitesimal jackknife.

    Parameters
    ----------
    influence : ndarray (n, 3)
        What each box adds to a, b, n0 (to first order).
    blocks : ndarray of int (n,)
        Block of each box. Whatever makes neighbouring boxes alike is in the errors, if the
        blocks are larger than it; Fisher errors know Poisson noise alone.
    """
    kinds, which = np.unique(blocks, return_inverse=True)
    n = kinds.size
    if n < 4:
        error = np.full(3, np.nan)
    else:
        sums = np.stack([np.bincount(which, column, n) for column in influence.T])
        error = np.sqrt(n / (n - 1) * (sums**2).sum(1))
    return {f"{k}_block_error": float(v) for k, v in zip(PARAMETERS, error, strict=True)} | {
        "n_blocks": n
    }


# -- the paper's bins ---------------------------------------------------------------------------
def bin_of(n: np.ndarray, kappa: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bin of each box (half-open, the last closed); -1 for those in none."""
    k = np.searchsorted(edges, n, side="right") - 1
    k[n == edges[-1]] = edges.size - 2
    return np.where((k >= 0) & (k < edges.size - 1) & np.isfinite(kappa), k, -1)


def bin_boxes(
    n: np.ndarray, kappa: np.ndarray, edges: np.ndarray, min_boxes: int
) -> dict[str, np.ndarray]:
    """Mean and sample standard deviation of kappa in bins of n."""
    k, size = bin_of(n, kappa, edges), edges.size - 1
    k, n, kappa = k[k >= 0], n[k >= 0], kappa[k >= 0]
    count = np.bincount(k, minlength=size)
    mean_n, mean = (divide(np.bincount(k, v, size), count.astype(float)) for v in (n, kappa))
    spread = np.bincount(k, (kappa - mean[k]) ** 2, size)
    std = np.sqrt(divide(spread, count - 1.0))
    enough = count >= min_boxes
    blank = np.where(enough, 1.0, np.nan)
    return {
        "bin_boxes": count,
        "bin_n": mean_n * blank,
        "bin_kappa": mean * blank,
        "bin_kappa_std": std * blank,
        "bin_kappa_sem": std * blank / np.sqrt(np.maximum(count, 1)),
    }


def _least_squares(n: np.ndarray, kappa: np.ndarray, sigma: np.ndarray) -> tuple[Any, np.ndarray]:
    """Fit kappa = a n^b with weights 1 / sigma^2: (a, b, 0) and the covariance (3, 3).

    The log-linear solution is the first guess.
    """
    slope, offset = np.polyfit(np.log(n), np.log(kappa), 1)
    best, cov = optimize.curve_fit(
        lambda x, a, b: a * x**b,
        n,
        kappa,
        p0=(math.exp(offset), slope),
        sigma=sigma,
        absolute_sigma=True,
        maxfev=10_000,
    )
    return [*best, 0.0], np.pad(cov, (0, 1))


def power_law(
    n: np.ndarray,
    kappa: np.ndarray,
    area: np.ndarray,
    good: np.ndarray,
    blocks: np.ndarray,
    edges: np.ndarray,
    min_boxes: int,
) -> Fit:
    """Fit kappa = a n^b to binned boxes, weighted by the dispersion and by the error of the mean.

    A dispersion of zero (noise-free maps) is replaced by 1e-3 of the bin's mean.
    """
    inside = good & np.isfinite(n) & np.isfinite(kappa) & (n >= edges[0]) & (n <= edges[-1])
    n, kappa, area, blocks = n[inside], kappa[inside], area[inside], blocks[inside]
    bins = bin_boxes(n, kappa, edges, min_boxes)
    use = np.isfinite(bins["bin_kappa_std"]) & (bins["bin_kappa"] > 0) & (bins["bin_n"] > 0)
    count = int(use.sum())
    out: Fit = no_law() | bins
    out |= {"dof": count - 2, "n_boxes": int(n.size), "n_bins": count, "n_left_out": 0}
    out |= {"n0": 0.0, "n0_error": 0.0}
    if count < 3:
        out["status"] = (
            f"unconstrained: only {n.size} boxes in {count} bins of n between {edges[0]:.3g} and "
            f"{edges[-1]:.3g}, a and b need 3 bins of {min_boxes} boxes"
        )
        return out
    x, y = bins["bin_n"][use], bins["bin_kappa"][use]
    try:
        for kind, suffix in (("sem", "_mean"), ("std", "")):
            sigma = np.maximum(bins[f"bin_kappa_{kind}"][use], 1e-3 * y)
            best, cov = _least_squares(x, y, sigma)
            out |= law(best, cov, suffix)
            if suffix:
                out["chi2"] = float((((y - best[0] * x ** best[1]) / sigma) ** 2).sum())
    except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        return out | no_law() | bins | {"status": f"unconstrained: {error}"}
    out |= degeneracy(out["a"], out["b"], out["cov"])
    # what a box moves its bin's mean by, in kappa and (through n) along the law
    member = np.where(use, np.cumsum(use) - 1, -1)[bin_of(n, kappa, edges)]
    n, kappa, area, blocks, k = (v[member >= 0] for v in (n, kappa, area, blocks, member))
    a, b = out["a"], out["b"]
    steep = a * b * n ** (b - 1)
    moved = (kappa - y[k] - a * b * x[k] ** (b - 1) * (n - x[k])) / bins["bin_boxes"][use][k]
    tangent = np.stack([x**b, a * x**b * np.log(x), 0 * x])[:, k]
    influence = (out["cov"] @ tangent * (moved / sigma[k] ** 2)).T
    out |= block_errors(influence, blocks)
    expected = a * n**b
    excess = ((kappa - expected) ** 2 - steep**2 * n / area).sum() / (expected**2).sum()
    out["scatter"] = math.sqrt(max(float(excess), 0.0))
    return out | {"status": verdict(out)}


# -- the forward model --------------------------------------------------------------------------
def mean_power(kappa: Any, std: Any, g: float) -> Any:
    """Mean of kappa^g over a box with this mean and standard deviation of kappa.

    Exact where kappa is lognormal within the box. A box that holds a galaxy has more kappa^g than
    the g-th power of its mean: 15 % more in the worst of AS1063's boxes of 3 arcsec for g = 1.6.
    """
    return kappa**g * (1 + (std / kappa) ** 2) ** (g * (g - 1) / 2)


def poisson_law(
    counts: np.ndarray,
    area: np.ndarray,
    kappa: np.ndarray,
    std: np.ndarray,
    good: np.ndarray,
    blocks: np.ndarray,
    min_boxes: int,
    kappa_range: tuple[float, float],
) -> Fit:
    """Poisson likelihood of box counts under n = n0 + <(kappa / a)^(1/b)>: kappa = a (n - n0)^b.

    kappa is taken as known and the counts carry the noise, so that no selection in n is made. (A
    selection in kappa does no harm.)
    """
    known = good & np.isfinite(kappa) & (area > 0)
    use = known & (kappa > 0) & (kappa >= kappa_range[0]) & (kappa <= kappa_range[1])
    left_out = int((known & (kappa <= 0)).sum())
    counts, area, kappa, std, blocks = (v[use] for v in (counts, area, kappa, std, blocks))
    counts, std = counts.astype(float), np.nan_to_num(std)
    out: Fit = no_law() | {"dof": counts.size - 3, "n_boxes": int(counts.size)}
    out["n_left_out"] = left_out
    occupied = int((counts > 0).sum())
    if occupied < max(min_boxes, 4) or np.ptp(np.log(kappa)) == 0:
        out["status"] = f"unconstrained: only {occupied} boxes hold a source, a, b and n0 need more"
        return out
    pivot = float(np.exp(np.average(np.log(kappa), weights=counts)))
    mean = counts.sum() / area.sum()
    kappa, std = kappa / pivot, std / pivot

    def model(p: np.ndarray) -> np.ndarray:
        return area * (p[2] * mean + math.exp(p[0]) * mean_power(kappa, std, p[1]))

    starts = [[math.log(mean * (1 - c)), g, c] for g, c in ((1.6, 0.1), (3.0, 0.3))]
    best, deviance = maximise(counts, model, starts, [(-30, 30), EXPONENTS, (0, 10)])
    cov, mu, g = fisher(model, best), np.maximum(model(best), TINY), best[1]
    a, b, n0 = pivot * math.exp(-best[0] / g), 1 / g, best[2] * mean
    # from (p0, g, p2) to a = pivot exp(-p0 / g), b = 1 / g, n0
    jac = np.array([[-a / g, a * best[0] / g**2, 0], [0, -1 / g**2, 0], [0, 0, mean]])
    out |= law([a, b, n0], jac @ cov @ jac.T) | {"chi2": deviance}
    out |= degeneracy(a, b, out["cov"])
    score = jacobian(model, best) * (counts / mu - 1)[:, None]
    out |= block_errors(score @ cov @ jac.T, blocks)
    signal = mu - area * n0
    excess = ((counts - mu) ** 2 - mu).sum() / max(float((signal**2).sum()), TINY)
    out["scatter"] = b * math.sqrt(max(float(excess), 0.0))
    if min(g - EXPONENTS[0], EXPONENTS[1] - g) < 1e-3 * g:
        return out | {"status": f"unconstrained: 1/b = {g:.3g} is at its limit"}
    return out | {"status": verdict(out)}
