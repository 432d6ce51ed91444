"""Maximum likelihood of counts under Poisson noise, for any model of their means."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize, special

TINY = 1e-12  # smallest mean of a count


def jacobian(model: Any, best: np.ndarray) -> np.ndarray:
    """Central differences of the means, shape (n, parameters); parameters are of order one."""
    columns = []
    for i in range(best.size):
        up, down = best.copy(), best.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        columns.append((model(up) - model(down)) / 2e-5)
    return np.stack(columns, -1)


def fisher(model: Any, best: np.ndarray) -> np.ndarray:
    """Covariance from the Fisher matrix of Poisson counts with means ``model(parameters)``."""
    slopes = jacobian(model, best)
    try:
        cov = np.linalg.inv(slopes.T @ (slopes / np.maximum(model(best), TINY)[:, None]))
    except np.linalg.LinAlgError:
        return np.full((best.size, best.size), np.nan)
    return cov if np.diag(cov).min() >= 0 else np.full(cov.shape, np.nan)


def maximise(
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
        return factor[:, None] * jacobian(model, p)

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
