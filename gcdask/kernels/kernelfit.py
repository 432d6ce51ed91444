"""Which kernel makes the profile of beta rho that of kappa: a fit of small arrays, NumPy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.optimize import least_squares

from gcdask.kernels.fits import Fit, jackknife

NOISELESS = 1e-3  # of kappa: the least error of an annulus, where kappa is beta rho exactly
EDGE = 1e-4  # of the range scanned: nearer to its ends a minimum is at the edge


def profile(mean: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Mean over wedges (the last axis), weighted with their pixels; NaN without any."""
    total = pixels.sum(-1)
    weighted = np.where(pixels > 0, mean * pixels, 0.0).sum(-1)
    return np.where(total > 0, weighted / np.maximum(total, 1), np.nan)


@dataclass(frozen=True)
class Match:
    """kappa in annuli, its errors, and rho there for the kernels of a scan.

    Attributes
    ----------
    kappa, sigma : (annuli,) ndarray
    rho : (alphas, softenings, annuli) ndarray, positive
    axes : two ndarrays
        The alphas and softenings, increasing.
    """

    kappa: np.ndarray
    sigma: np.ndarray
    rho: np.ndarray
    axes: tuple[np.ndarray, np.ndarray]

    def beta(self, rho: np.ndarray) -> np.ndarray:
        """Best factor of profiles (..., annuli)."""
        weight = self.sigma**-2
        return np.asarray((weight * self.kappa * rho).sum(-1) / (weight * rho**2).sum(-1))

    def residuals(self, rho: np.ndarray) -> np.ndarray:
        """(kappa - beta rho) / sigma at the best factor of each profile."""
        return np.asarray((self.kappa - self.beta(rho)[..., None] * rho) / self.sigma)

    @property
    def free(self) -> list[int]:
        """Axes along which there is more than one value."""
        return [k for k, a in enumerate(self.axes) if a.size > 1]

    def at(self, values: np.ndarray) -> np.ndarray:
        """Profile of a kernel within the scan: splines of log rho through the kernels scanned.

        ``values`` are those of the free axes.
        """
        table, values = np.log(self.rho), np.asarray(values, float)
        given = dict(zip(self.free, values, strict=True))
        for k, axis in enumerate(self.axes):
            if k in given:
                spline = make_interp_spline(axis, table, k=min(3, axis.size - 1), axis=0)
                table = spline(given[k])
            else:
                table = table[0]
        return np.asarray(np.exp(table))

    def best(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Free values at the least chi^2 within the scan, and their covariance (delta chi^2 = 1).

        The factor beta is eliminated, so that the errors allow for its own.
        """
        low, high = np.transpose([(self.axes[k][0], self.axes[k][-1]) for k in self.free])
        inner = 1e-6 * (high - low)
        fit = least_squares(
            lambda v: self.residuals(self.at(v)),
            np.clip(start, low + inner, high - inner),
            jac="3-point",
            bounds=(low, high),
            x_scale=high - low,
            xtol=1e-10,
            ftol=1e-12,
            gtol=1e-12,
        )
        try:
            cov = np.linalg.inv(fit.jac.T @ fit.jac)
        except np.linalg.LinAlgError:
            cov = np.full((start.size, start.size), np.nan)
        return fit.x, cov


def errors_of_annuli(
    kappa: np.ndarray, rho: np.ndarray, pixels: np.ndarray, beta: float
) -> np.ndarray:
    """Standard error of kappa - beta rho in each annulus, from its scatter between wedges.

    Arrays are (annuli, wedges). NaN where fewer than two wedges have pixels.
    """
    seen = pixels > 0
    n = seen.sum(-1)
    rest = np.where(seen, kappa - beta * rho, 0.0)
    mean = rest.sum(-1) / np.maximum(n, 1)
    variance = np.where(seen, (rest - mean[:, None]) ** 2, 0.0).sum(-1) / np.maximum(n - 1, 1)
    return np.where(n > 1, np.sqrt(variance / np.maximum(n, 1)), np.nan)


def kernel_fit(
    kappa: np.ndarray,
    rho: np.ndarray,
    pixels: np.ndarray,
    alphas: np.ndarray,
    softenings: np.ndarray,
) -> Fit:
    """Scan, best kernel and errors.

    Parameters
    ----------
    kappa : (annuli, wedges) ndarray
        Mean convergence.
    rho : (alphas, softenings, annuli, wedges) ndarray
        Mean density for each kernel.
    pixels : (annuli, wedges) ndarray
        Pixels that the means were taken of.
    alphas, softenings : ndarray
        Increasing.

    Returns
    -------
    dict
        See `gcdask.compare.fit_kernel`.
    """
    k, r = profile(kappa, pixels), profile(rho, pixels)
    # the scatter between a few wedges, such as those of a corner of the field, is no error
    seen = (pixels > 0).sum(-1) >= max(2, pixels.shape[1] / 2)
    usable = np.isfinite(k) & (r > 0).all((0, 1)) & seen
    shape = r.shape[:2]
    out: Fit = {
        "chi2": np.full(shape, np.nan),
        "beta": np.full(shape, np.nan),
        "kappa_profile": k,
        "kappa_sigma": np.full(k.shape, np.nan),
        "rho_profile": r,
        "best_profile": np.full(k.shape, np.nan),
        "n_annuli": int(usable.sum()),
        "chi2_min": math.nan,
        "beta_best": math.nan,
        "correlation": math.nan,
    } | _values({})
    free = sum(a.size > 1 for a in (alphas, softenings))
    out["dof"] = out["n_annuli"] - 1 - free
    if out["dof"] < 1:
        return out | {
            "status": f"unconstrained: {out['n_annuli']} annuli have pixels in half of their "
            f"wedges and a positive rho, beta and {free} parameters of the kernel need {free + 2}"
        }
    pilot = Match(k[usable], np.abs(k[usable]) + 1e-300, r[..., usable], (alphas, softenings))
    first = np.unravel_index(np.argmin((pilot.residuals(pilot.rho) ** 2).sum(-1)), shape)
    factor = float(pilot.beta(pilot.rho)[first])
    errors = errors_of_annuli(kappa, rho[first], pixels, factor)
    sigma = np.where(usable, np.maximum(errors, NOISELESS * np.abs(k)), np.nan)
    match = Match(k[usable], sigma[usable], r[..., usable], (alphas, softenings))
    chi2 = (match.residuals(match.rho) ** 2).sum(-1)
    out |= {"chi2": chi2, "beta": match.beta(match.rho), "kappa_sigma": sigma}
    if not np.isfinite(chi2).all():
        return out | {"status": "unconstrained: kappa is zero in an annulus; leave it out"}
    return out | _best(match, chi2, kappa, rho, pixels, usable)


def _values(found: dict[int, tuple[float, float, float]]) -> Fit:
    """Best value, its error and that by delta chi^2 of the parameters, by axis."""
    out: Fit = {}
    for k, name in enumerate(("alpha", "softening")):
        value, error, by_chi2 = found.get(k, (math.nan,) * 3)
        out |= {
            f"{name}_best": value,
            f"{name}_error": error,
            f"{name}_error_chi2": by_chi2,
        }
    return out


def _best(
    match: Match,
    chi2: np.ndarray,
    kappa: np.ndarray,
    rho: np.ndarray,
    pixels: np.ndarray,
    usable: np.ndarray,
) -> Fit:
    node = np.unravel_index(np.argmin(chi2), chi2.shape)
    free, axes = match.free, match.axes
    start = np.array([axes[k][node[k]] for k in free])
    value, cov = match.best(start) if free else (start, np.zeros((0, 0)))
    left = []
    for w in range(pixels.shape[1]):
        part = np.delete(pixels, w, -1)
        less, rest = (profile(np.delete(v, w, -1), part)[..., usable] for v in (kappa, rho))
        if free and np.isfinite(less).all() and (rest > 0).all():
            left.append(Match(less, match.sigma, rest, axes).best(value)[0])
    error = jackknife(np.array(left).reshape(len(left), len(free)))
    spread = np.sqrt(np.diag(cov))
    edges = []
    for i, k in enumerate(free):
        margin = EDGE * (axes[k][-1] - axes[k][0])
        name = ("alpha", "softening")[k]
        for end, word in ((axes[k][0], "smallest"), (axes[k][-1], "largest")):
            if abs(value[i] - end) < margin:
                value[i] = end
                edges.append(f"{name} = {end:g} is the {word} tried")
    if edges:
        error, spread = np.full(len(free), np.nan), np.full(len(free), np.nan)
    found = {k: (axes[k][0], 0.0, 0.0) for k in range(2) if k not in free}
    found |= {k: (value[i], error[i], spread[i]) for i, k in enumerate(free)}
    profiles = match.at(value)
    out = _values(found) | {
        "beta_best": float(match.beta(profiles)),
        "chi2_min": float((match.residuals(profiles) ** 2).sum()),
        "best_profile": np.full(usable.shape, np.nan),
        "status": "",
    }
    out["best_profile"][usable] = out["beta_best"] * profiles
    if len(free) == 2 and not edges:
        out["correlation"] = float(cov[0, 1] / (spread[0] * spread[1]))
    if edges:
        out["status"] = (
            f"unconstrained: the least chi^2 lies at the edge of the scan ({', '.join(edges)}); "
            "widen it"
        )
    return out
