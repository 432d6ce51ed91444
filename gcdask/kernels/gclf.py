"""Luminosity functions in bins, and the Gaussian fitted to them up to a limit; NumPy only."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from gcdask.kernels.fits import Fit, poisson_error
from gcdask.kernels.poisson import fisher, maximise
from gcdask.kernels.sums import Sums

FAINTEST = 12.0  # mag beyond the limit at which a turnover is no longer looked for
WIDTHS = (0.2, 5.0)  # mag
BRIGHT_TAIL = 0.16  # of a population, one sigma from its peak: below, nothing shows where that is


def bin_magnitudes(values: np.ndarray, edges: np.ndarray, zero_point: float | None) -> Sums:
    """Count magnitudes (or, with a zero point, fluxes) in half-open bins.

    What is in no bin is counted too: not finite, not positive, brighter, fainter.
    """
    values = np.asarray(values, float)
    finite = np.isfinite(values)
    invalid = int((~finite).sum())
    values, nonpositive = values[finite], 0
    if zero_point is not None:
        nonpositive = int((values <= 0).sum())
        values = zero_point - 2.5 * np.log10(values[values > 0])
    which = np.searchsorted(edges, values, side="right")
    counts = np.bincount(which, minlength=edges.size + 1)
    return {
        "counts": counts[1:-1],
        "n_brighter": int(counts[0]),
        "n_fainter": int(counts[-1]),
        "n_nonpositive": nonpositive,
        "n_invalid": invalid,
    }


def function_table(
    counts: np.ndarray,
    area: float,
    width: np.ndarray,
    completeness: np.ndarray,
    contamination: np.ndarray,
    contamination_error: np.ndarray,
    min_completeness: float,
) -> Fit:
    """Numbers and densities (mag-1 arcsec-2), as counted and corrected (NaN where too incomplete).

    Without an area numbers are known, unless there are contaminants, and densities are not.
    """
    bins = width * (area if area > 0 else math.nan)
    # no contaminants are none in any area, even an unknown one
    expected, expected_error = (
        np.where(v == 0, 0.0, v * bins) for v in (contamination, contamination_error)
    )
    error = poisson_error(counts)
    seen = np.where((completeness > 0) & (completeness >= min_completeness), completeness, np.nan)
    corrected = (counts - expected) / seen
    corrected_error = np.hypot(error, expected_error) / seen
    return {
        "density": counts / bins,
        "density_error": error / bins,
        "density_corrected": corrected / bins,
        "density_corrected_error": corrected_error / bins,
        "n_corrected": corrected,
        "n_corrected_error": corrected_error,
        "expected_contaminants": expected,
    }


def gaussian(
    counts: np.ndarray,
    bright: np.ndarray,
    faint: np.ndarray,
    completeness: np.ndarray,
    contaminants: np.ndarray,
    turnover: float | None,
    sigma: float | None,
) -> Fit:
    """Poisson likelihood of counts in bins of magnitude under a Gaussian and contaminants.

    The bins end where the data do, so that nothing is assumed beyond. ``turnover`` and ``sigma``
    are fixed where given. The whole number is the integral of the Gaussian.
    """
    names = ("turnover", "sigma", "n_total", "fraction")
    out: Fit = dict.fromkeys([f"{k}{e}" for k in names for e in ("", "_error")], math.nan)
    free = [turnover is None, sigma is None]
    use = completeness > 0
    counts, bright, faint, seen, known = (
        v[use].astype(float) for v in (counts, bright, faint, completeness, contaminants)
    )
    n, needed = counts.sum() - known.sum(), 2 + sum(free)
    out |= {"chi2": math.nan, "n_used": int(counts.sum()), "dof": counts.size - 1 - sum(free)}
    limit, middle = faint.max(initial=-math.inf), (bright + faint) / 2
    out["limit"] = limit if counts.size else math.nan
    if not np.isfinite(known).all():
        return out | {"status": "unconstrained: the number of contaminants is NaN (no area?)"}
    if counts.size <= 1 + sum(free) or (counts > 0).sum() < needed or n <= 0:
        return out | {
            "status": f"unconstrained: {int((counts > 0).sum())} of {counts.size} bins hold a "
            f"source, {needed} are needed, and more sources than contaminants"
        }

    def share(p: np.ndarray) -> np.ndarray:
        """Of the whole population, what each bin holds and shows; p = turnover, ln sigma."""
        width = math.exp(p[1])
        cuts = [stats.norm.cdf((e - p[0]) / width) for e in (faint, bright)]
        return seen * (cuts[0] - cuts[1])

    held = [limit if turnover is None else turnover, math.log(1.3 if sigma is None else sigma)]

    def whole(p: np.ndarray) -> np.ndarray:
        q = iter(p)
        return np.array([next(q) if f else v for f, v in zip(free, held, strict=True)])

    def model(p: np.ndarray) -> np.ndarray:
        part = share(whole(p[1:]))
        return known + math.exp(p[0]) * part / max(part.sum(), 1e-300)

    first = [[float(counts @ middle / counts.sum()), limit, limit + 2.0], [0.0, math.log(1.3)]]
    guesses = [
        [math.log(n), *([t] if free[0] else []), *([w] if free[1] else [])]
        for t in first[0][: 3 if free[0] else 1]
        for w in first[1][: 2 if free[1] else 1]
    ]
    limits = [(bright.min() - 5, limit + FAINTEST), tuple(map(math.log, WIDTHS))]
    bounds = [(-30.0, 30.0), *(b for b, f in zip(limits, free, strict=True) if f)]
    best, chi2 = maximise(counts, model, guesses, bounds)
    cov = fisher(model, best)
    return out | _gaussian_result(best, cov, chi2, share, whole, free, bounds, limit)


def _gaussian_result(
    best: np.ndarray,
    cov: np.ndarray,
    chi2: float,
    share: Callable[[np.ndarray], np.ndarray],
    whole: Callable[[np.ndarray], np.ndarray],
    free: list[bool],
    bounds: list[tuple[float, float]],
    limit: float,
) -> Fit:
    """Parameters of the Gaussian and what follows from them, with errors."""
    place = whole(best[1:])

    def log_total(p: np.ndarray) -> float:
        return float(p[0] - math.log(max(share(whole(p[1:])).sum(), 1e-300)))

    def log_fraction(p: np.ndarray) -> float:
        q = whole(p[1:])
        return float(stats.norm.logcdf((limit - q[0]) / math.exp(q[1])))

    error = {k: _spread(f, best, cov) for k, f in (("n", log_total), ("f", log_fraction))}
    variance = iter(np.diag(cov)[1:])
    sides = [math.sqrt(next(variance)) if f else 0.0 for f in free]
    total, fraction = math.exp(log_total(best)), math.exp(log_fraction(best))
    out: Fit = {
        "turnover": place[0],
        "turnover_error": sides[0],
        "sigma": math.exp(place[1]),
        "sigma_error": math.exp(place[1]) * sides[1],
        "n_total": total,
        "n_total_error": total * error["n"],
        "fraction": fraction,
        "fraction_error": fraction * error["f"],
        "chi2": chi2,
    }
    at_limit = any(
        min(v - lo, hi - v) < 1e-3 for v, (lo, hi) in zip(best[1:], bounds[1:], strict=True)
    )
    if at_limit or not error["n"] < 1 or (free[0] and fraction < BRIGHT_TAIL):
        reason = (
            f"only the bright tail ({100 * fraction:.2g} %) is seen, in which turnover, sigma and "
            "the whole number are degenerate; fix turnover (and sigma)"
        )
        return out | {"status": f"unconstrained: {reason}"}
    return out | {"status": ""}


def _spread(function: Callable[[np.ndarray], float], best: np.ndarray, cov: np.ndarray) -> float:
    """Standard error of a function of the parameters, to first order."""
    steps = 1e-4 * np.eye(best.size)
    slope = np.array([(function(best + s) - function(best - s)) / 2e-4 for s in steps])
    variance = slope @ cov @ slope
    return math.sqrt(variance) if variance >= 0 else math.nan
