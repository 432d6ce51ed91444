"""Fits of small tables: the ratio beta with its jackknife, power laws, annuli under Poisson noise.

NumPy in, plain numbers out. A fit that the data cannot constrain gives NaN and says why in
``status``; it never raises.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

Fit = dict[str, Any]

ONE_SIGMA = float(stats.norm.cdf(-1))
EMPTY = -math.log(ONE_SIGMA)  # 1-sigma (84.1 %) upper limit of the mean when nothing is counted


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
def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quotient where b > 0, else NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b > 0, a / b, np.nan)


def _dispersion(betas: np.ndarray) -> np.ndarray:
    """Sample standard deviation over the last axis (NaN unless all sectors have a value)."""
    return betas.std(-1, ddof=1) if betas.shape[-1] > 1 else np.full(betas.shape[:-1], np.nan)


def jackknife(values: np.ndarray) -> np.ndarray:
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
    best, loo = divide(total[:, 0], total[:, 1]), divide(left[..., 0], left[..., 1])
    error = np.full(best.shape, np.nan)
    for s in range(best.size):
        # a block outside a sector changes nothing there and must not count as one of its blocks
        part = blocks[blocks[:, s, 3] > 0, s]
        rest = total[s] - part
        error[s] = jackknife(divide(rest[:, 0], rest[:, 1]))
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
        "dispersion_error": jackknife(_dispersion(loo[:, 1:])),
        "dispersion_relative": dispersion / mean,
        "residual_rms": rms,
        "n_pixels": int(n),
        "sector_n_pixels": total[1:, 3].astype(np.int64),
        "n_blocks": int((blocks[:, 0, 3] > 0).sum()),
    }


def bootstrap_beta(replicates: np.ndarray) -> Fit:
    """Spread of beta between replicates.

    Parameters
    ----------
    replicates : ndarray (n, 1 + n_sectors, 4)
        Sums as in `beta`, over all blocks, of each replicate.
    """
    betas = divide(replicates[..., 0], replicates[..., 1])
    sectors = betas[:, 1:]
    dispersion = _dispersion(sectors)
    relative = dispersion / sectors.mean(-1)
    spread = {
        "beta_boot_error": sample_std(betas[:, 0]),
        "sector_boot_error": np.array([sample_std(v) for v in sectors.T]),
        "dispersion_boot_error": sample_std(dispersion),
        "dispersion_relative_boot_error": sample_std(relative),
    }
    found = int(np.isfinite(betas[:, 0]).sum())
    status = f"unconstrained: {found} of {len(betas)} replicates have a beta, 2 needed"
    return spread | {
        "beta_replicate": betas[:, 0],
        "sector_beta_replicate": sectors,
        "dispersion_relative_replicate": relative,
        "status": status if found < 2 else "",
    }


def sample_std(values: np.ndarray) -> float:
    """Sample standard deviation of the finite values; NaN below two."""
    good = values[np.isfinite(values)]
    return float(good.std(ddof=1)) if good.size > 1 else math.nan
