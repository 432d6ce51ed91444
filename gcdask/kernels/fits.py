"""Fits of small tables: the ratio beta with its jackknife, power laws, annuli under Poisson noise.

NumPy in, plain numbers out. A fit that the data cannot constrain gives NaN and says why in
``status``; it never raises.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import optimize, special, stats

Fit = dict[str, Any]

ONE_SIGMA = float(stats.norm.cdf(-1))
EMPTY = -math.log(ONE_SIGMA)  # 1-sigma (84.1 %) upper limit of the mean when nothing is counted
TINY = 1e-12  # smallest mean of a count
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


def poisson_error(counts: Any) -> np.ndarray:
    """sqrt(N), and for N = 0 the 1-sigma upper limit of the mean, 1.84: never zero."""
    counts = np.asarray(counts, float)
    return np.where(counts > 0, np.sqrt(np.maximum(counts, 0)), EMPTY)


def poisson_interval(counts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Exact central 68.3 % interval of the mean (Gehrels 1986); for N = 0 (0, 1.84)."""
    counts = np.asarray(counts, float)
    low = np.where(counts > 0, stats.chi2.ppf(ONE_SIGMA, 2 * counts) / 2, 0.0)
    high = np.where(counts > 0, stats.chi2.isf(ONE_SIGMA, 2 * counts + 2) / 2, EMPTY)
    return low, high


# -- beta ---------------------------------------------------------------------------------------
def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b > 0, a / b, np.nan)


def _dispersion(betas: np.ndarray) -> np.ndarray:
    """Sample standard deviation over the last axis (NaN unless all sectors have a value)."""
    return betas.std(-1, ddof=1) if betas.shape[-1] > 1 else np.full(betas.shape[:-1], np.nan)


def _jackknife(values: np.ndarray) -> np.ndarray:
    """Give the standard error of leave-one-out values (n_blocks, ...); NaN below two blocks."""
    n = values.shape[0]
    if n < 2:
        return np.full(values.shape[1:], np.nan)
    return np.sqrt((n - 1) / n * ((values - values.mean(0)) ** 2).sum(0))


def beta(blocks: np.ndarray) -> Fit:
    """Fit beta = sum(kappa rho) / sum(rho^2) with its delete-one-block jackknife.

    Parameters
    ----------
    blocks : ndarray (n_blocks, 1 + n_sectors, 4)
        Sums of kappa rho, rho^2, kappa^2 and 1 by sky block, for all pixels and by sector
        (`gcdask.kernels.sums.product_sums`).
    """
    total = blocks.sum(0)
    left = total - blocks[blocks[:, 0, 3] > 0]  # one block left out
    best, loo = _divide(total[:, 0], total[:, 1]), _divide(left[..., 0], left[..., 1])
    error = np.full(best.shape, np.nan)
    for s in range(best.size):
        # a block outside a sector changes nothing there and must not count as one of its blocks
        part = blocks[blocks[:, s, 3] > 0, s]
        rest = total[s] - part
        error[s] = _jackknife(_divide(rest[:, 0], rest[:, 1]))
    sectors = best[1:]
    dispersion = float(_dispersion(sectors))
    mean = sectors.mean() if sectors.size else math.nan
    n = total[0, 3]
    rms = math.sqrt(max(total[0, 2] - best[0] * total[0, 0], 0) / n) if n else math.nan
    return {
        "beta": best[0],
        "beta_error": error[0],
        "sector_beta": sectors,
        "sector_error": error[1:],
        "dispersion": dispersion,
        "dispersion_error": _jackknife(_dispersion(loo[:, 1:])),
        "dispersion_relative": dispersion / mean,
        "residual_rms": rms,
        "n_pixels": int(n),
        "sector_n_pixels": total[1:, 3].astype(np.int64),
        "n_blocks": int((blocks[:, 0, 3] > 0).sum()),
    }


# -- the n-kappa relation -----------------------------------------------------------------------
def bin_boxes(
    n: np.ndarray, kappa: np.ndarray, edges: np.ndarray, min_boxes: int
) -> dict[str, np.ndarray]:
    """Mean and sample standard deviation of kappa in bins of n (half-open, the last closed)."""
    k = np.searchsorted(edges, n, side="right") - 1
    k[n == edges[-1]] = edges.size - 2
    size = edges.size - 1
    ok = (k >= 0) & (k < size) & np.isfinite(kappa)
    k, n, kappa = k[ok], n[ok], kappa[ok]
    count = np.bincount(k, minlength=size)
    mean_n, mean = (_divide(np.bincount(k, v, size), count.astype(float)) for v in (n, kappa))
    spread = np.bincount(k, (kappa - mean[k]) ** 2, size)
    std = np.sqrt(_divide(spread, count - 1.0))
    enough = count >= min_boxes
    blank = np.where(enough, 1.0, np.nan)
    return {
        "bin_boxes": count,
        "bin_n": mean_n * blank,
        "bin_kappa": mean * blank,
        "bin_kappa_std": std * blank,
        "bin_kappa_sem": std * blank / np.sqrt(np.maximum(count, 1)),
    }


def _least_squares(n: np.ndarray, kappa: np.ndarray, sigma: np.ndarray) -> Fit:
    """Fit kappa = a n^b with weights 1 / sigma^2; the log-linear solution is the first guess."""
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
    chi2 = float((((kappa - best[0] * n ** best[1]) / sigma) ** 2).sum())
    return {"a": best[0], "b": best[1], "cov": cov, "chi2": chi2}


def _law(a: float, b: float, cov: np.ndarray, suffix: str = "") -> Fit:
    error = np.sqrt(np.diag(cov)) if np.isfinite(cov).all() else np.full(2, np.nan)
    return {
        f"a{suffix}": a,
        f"b{suffix}": b,
        f"a{suffix}_error": error[0],
        f"b{suffix}_error": error[1],
        f"cov{suffix}": cov,
    }


def _no_law(suffix: str = "") -> Fit:
    return _law(math.nan, math.nan, np.full((2, 2), np.nan), suffix)


def _verdict(b: float, error: float) -> str:
    if not math.isfinite(error) or error > abs(b):
        return f"unconstrained: b = {b:.3g} +- {error:.3g} does not differ from 0"
    return ""


def power_law(
    n: np.ndarray, kappa: np.ndarray, good: np.ndarray, edges: np.ndarray, min_boxes: int
) -> Fit:
    """Fit kappa = a n^b to binned boxes, weighted by the dispersion and by the error of the mean.

    A dispersion of zero (noise-free maps) is replaced by 1e-3 of the bin's mean.
    """
    inside = good & np.isfinite(n) & np.isfinite(kappa) & (n >= edges[0]) & (n <= edges[-1])
    n, kappa = n[inside], kappa[inside]
    bins = bin_boxes(n, kappa, edges, min_boxes)
    use = np.isfinite(bins["bin_kappa_std"]) & (bins["bin_kappa"] > 0) & (bins["bin_n"] > 0)
    count = int(use.sum())
    out: Fit = bins | _no_law() | _no_law("_mean")
    out |= {"chi2": math.nan, "dof": count - 2, "n_boxes": int(n.size), "n_bins": count}
    out |= {"n0": 0.0, "n0_error": 0.0}
    if count < 3:
        out["status"] = (
            f"unconstrained: only {n.size} boxes in {count} bins of n between {edges[0]:.3g} and "
            f"{edges[-1]:.3g}, a and b need 3 bins of {min_boxes} boxes"
        )
        return out
    x, y = bins["bin_n"][use], bins["bin_kappa"][use]
    try:
        for kind, suffix in (("std", ""), ("sem", "_mean")):
            sigma = np.maximum(bins[f"bin_kappa_{kind}"][use], 1e-3 * y)
            fit = _least_squares(x, y, sigma)
            out |= _law(fit["a"], fit["b"], fit["cov"], suffix)
            out["chi2"] = fit["chi2"]  # of the last: the error of the mean, the usual chi^2
    except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        return out | _no_law() | _no_law("_mean") | {"status": f"unconstrained: {error}"}
    return out | {"status": _verdict(out["b"], out["b_error"])}


def _jacobian(model: Any, best: np.ndarray) -> np.ndarray:
    """Central differences of the means, shape (n, parameters); parameters are of order one."""
    columns = []
    for i in range(best.size):
        up, down = best.copy(), best.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        columns.append((model(up) - model(down)) / 2e-5)
    return np.stack(columns, -1)


def _fisher(model: Any, best: np.ndarray) -> np.ndarray:
    """Covariance from the Fisher matrix of Poisson counts with means ``model(parameters)``."""
    jacobian = _jacobian(model, best)
    try:
        cov = np.linalg.inv(jacobian.T @ (jacobian / np.maximum(model(best), TINY)[:, None]))
    except np.linalg.LinAlgError:
        return np.full((best.size, best.size), np.nan)
    return cov if np.diag(cov).min() >= 0 else np.full(cov.shape, np.nan)


def _maximise(
    counts: np.ndarray, model: Any, starts: list[list[float]], bounds: list[tuple[float, float]]
) -> tuple[np.ndarray, float]:
    """Best parameters of a Poisson likelihood over several starts, and its deviance.

    The squares of the deviance residuals sum to the deviance, so that least squares on them is
    maximum likelihood, in far fewer steps than a general minimiser needs.
    """

    def parts(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mu = np.maximum(model(p), TINY)
        deviance = 2 * (mu - counts + special.xlogy(counts, counts / mu))
        return mu, np.sign(mu - counts) * np.sqrt(np.maximum(deviance, 0))

    def slope_of(p: np.ndarray) -> np.ndarray:
        mu, d = parts(p)
        near = np.abs(d) < 1e-4 * np.sqrt(mu)  # 0 / 0 there; the limit is 1 / sqrt(mu)
        factor = np.where(near, 1 / np.sqrt(mu), (1 - counts / mu) / np.where(near, 1.0, d))
        return factor[:, None] * _jacobian(model, p)

    low, high = np.transpose(bounds)
    margin = 1e-6 * (high - low)
    fits = [
        optimize.least_squares(
            lambda p: parts(p)[1],
            np.clip(start, low + margin, high - margin),
            slope_of,
            bounds=(low, high),
            x_scale="jac",
            ftol=1e-12,
            xtol=1e-10,
            gtol=1e-10,
            max_nfev=300,
        )
        for start in starts
    ]
    best = min(fits, key=lambda f: f.cost)
    return best.x, 2 * float(best.cost)


def poisson_law(
    counts: np.ndarray, area: np.ndarray, kappa: np.ndarray, good: np.ndarray, min_boxes: int
) -> Fit:
    """Poisson likelihood of box counts under n = n0 + (kappa / a)^(1/b): kappa = a (n - n0)^b.

    kappa is taken as known and the counts carry the noise, so that no selection in n is made.
    """
    use = good & np.isfinite(kappa) & (kappa > 0) & (area > 0)
    counts, area, kappa = counts[use].astype(float), area[use], kappa[use]
    out: Fit = _no_law() | _no_law("_mean")
    out |= {"n0": math.nan, "n0_error": math.nan, "chi2": math.nan, "dof": counts.size - 3}
    out |= {"n_boxes": int(counts.size), "n_bins": 0}
    occupied = int((counts > 0).sum())
    if occupied < max(min_boxes, 4) or np.ptp(np.log(kappa)) == 0:
        out["status"] = f"unconstrained: only {occupied} boxes hold a source, a, b and n0 need more"
        return out
    pivot = float(np.exp(np.average(np.log(kappa), weights=counts)))
    mean = counts.sum() / area.sum()

    def model(p: np.ndarray) -> np.ndarray:
        return area * (p[2] * mean + math.exp(p[0]) * (kappa / pivot) ** p[1])

    starts = [[math.log(mean * (1 - c)), g, c] for g, c in ((1.6, 0.1), (3.0, 0.3))]
    best, deviance = _maximise(counts, model, starts, [(-30, 30), (0.05, 20), (0, 10)])
    cov = _fisher(model, best)
    g = best[1]
    a, b = pivot * math.exp(-best[0] / g), 1 / g
    # a = pivot exp(-p0 / g), b = 1 / g: errors by the derivatives with respect to p0 and g
    jac = np.array([[-a / g, a * best[0] / g**2, 0], [0, -1 / g**2, 0]])
    out |= _law(a, b, jac @ cov @ jac.T)
    out |= {"n0": best[2] * mean, "n0_error": math.sqrt(cov[2, 2]) * mean, "chi2": deviance}
    return out | {"status": _verdict(out["b"], out["b_error"])}


# -- annuli -------------------------------------------------------------------------------------
def ring_mean(function: Any, inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Area-weighted mean over annuli of a function of radius (8-point Gauss-Legendre in r^2)."""
    half = (outer**2 - inner**2) / 2
    r = np.sqrt(half[:, None] * _NODES + (outer**2 + inner**2)[:, None] / 2)
    return function(r) @ _WEIGHTS / 2


def slope(
    counts: np.ndarray,
    area: np.ndarray,
    inner: np.ndarray,
    outer: np.ndarray,
    *,
    background: float,
    background_error: float,
) -> Fit:
    """Poisson fit of n = A (r / r0)^s + background to counts in annuli.

    r0 is the geometric middle of the range. The error of s adds, in quadrature, half the change of
    s when the background moves by plus and minus its error.
    """
    out: Fit = dict.fromkeys(
        ("slope", "slope_error", "amplitude", "amplitude_error", "r0", "chi2"), math.nan
    )
    out |= {"n_annuli": int(counts.size), "counts": int(counts.sum()), "dof": counts.size - 2}
    occupied = int((counts > 0).sum())
    if counts.size < 3 or occupied < 3:
        out["status"] = (
            f"unconstrained: {occupied} of {counts.size} annuli in the range hold a source, a "
            "slope needs 3"
        )
        return out
    r0 = math.sqrt(inner[0] * outer[-1])
    mean = counts.sum() / area.sum()

    def fit(level: float) -> tuple[np.ndarray, float, Any]:
        def model(p: np.ndarray) -> np.ndarray:
            shape = ring_mean(lambda r: (r / r0) ** p[1], inner, outer)
            return area * (level + math.exp(p[0]) * shape)

        excess = max(mean - level, 0.01 * mean)
        starts = [[math.log(excess), s] for s in (-1.0, -3.0)]
        return *_maximise(counts, model, starts, [(-60, 60), (-15, 15)]), model

    best, deviance, model = fit(background)
    cov = _fisher(model, best)
    variance = cov[1, 1]
    if background_error > 0:
        ends = [fit(max(background + s * background_error, 0))[0][1] for s in (-1, 1)]
        variance += ((ends[1] - ends[0]) / 2) ** 2
    amplitude = math.exp(best[0])
    out |= {"slope": best[1], "slope_error": math.sqrt(variance), "r0": r0, "chi2": deviance}
    out |= {"amplitude": amplitude, "amplitude_error": amplitude * math.sqrt(cov[0, 0])}
    if not out["amplitude_error"] < amplitude:
        return out | {"status": "unconstrained: no excess over the contamination"}
    return out | {"status": ""}


def log_slope(value: np.ndarray, r: np.ndarray) -> Fit:
    """Unweighted straight line of log value against log r, error from the residuals."""
    out: Fit = dict.fromkeys(
        ("slope", "slope_error", "amplitude", "amplitude_error", "r0", "chi2"), math.nan
    )
    use = np.isfinite(value) & (value > 0)
    n = int(use.sum())
    out |= {"n_annuli": n, "counts": 0, "dof": n - 2}
    if n < 3:
        out["status"] = f"unconstrained: {n} annuli in the range have a positive value, 3 needed"
        return out
    r0 = math.exp(np.log(r[use]).mean())
    fit = stats.linregress(np.log(r[use] / r0), np.log(value[use]))
    amplitude = math.exp(fit.intercept)
    out |= {"slope": fit.slope, "slope_error": fit.stderr, "amplitude": amplitude, "r0": r0}
    out["amplitude_error"] = amplitude * fit.intercept_stderr
    return out | {"status": ""}


def core_and_constant(
    counts: np.ndarray, area: np.ndarray, inner: np.ndarray, outer: np.ndarray
) -> Fit:
    """Poisson fit of n = A (1 + (r / r_core)^2)^(-g / 2) + C to counts in annuli.

    Returns C as ``value`` with ``error``, then A, r_core and g; g is kept between 0.5 and 8.
    """
    names = ("value", "error", "amplitude", "core", "outer_slope", "chi2")
    out: Fit = dict.fromkeys(names, math.nan)
    out |= {"counts": int(counts.sum()), "area": float(area.sum())}
    occupied = int((counts > 0).sum())
    if occupied < 5:
        return out | {
            "status": f"unconstrained: {occupied} annuli hold a source, a profile with core and a "
            "constant needs 5"
        }
    mean = counts.sum() / area.sum()

    def model(p: np.ndarray) -> np.ndarray:
        core = math.exp(p[1])
        shape = ring_mean(lambda r: (1 + (r / core) ** 2) ** (-p[2] / 2), inner, outer)
        return area * (math.exp(p[0]) * shape + p[3] * mean)

    lowest = float((counts / area).min() / mean)
    peak = math.log(float((counts / area).max()))
    cores = np.log(np.geomspace(max(outer[0], 1e-3), outer[-1] / 3, 3))
    starts = [[peak, c, g, f * lowest] for c in cores for g, f in ((1.5, 0.3), (3.0, 0.9))]
    bounds = [
        (peak - 12, peak + 12),
        (math.log(outer[0]) - 5, math.log(outer[-1]) + 2),
        (0.5, 8.0),
        (0.0, 10.0),
    ]
    best, deviance = _maximise(counts, model, starts, bounds)
    cov = _fisher(model, best)
    out |= {"value": best[3] * mean, "error": math.sqrt(cov[3, 3]) * mean, "chi2": deviance}
    out |= {"amplitude": math.exp(best[0]), "core": math.exp(best[1]), "outer_slope": -best[2]}
    if not out["error"] < out["value"]:
        return out | {"status": "unconstrained: the constant does not differ from 0"}
    return out | {"status": ""}
