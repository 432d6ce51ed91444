"""Fits of counts in annuli under Poisson noise, and of the profiles of maps.

NumPy in, plain numbers out; what the annuli cannot constrain is NaN with the reason in ``status``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from gcdask.kernels.fits import Fit
from gcdask.kernels.poisson import fisher, maximise

Rings = tuple[np.ndarray, np.ndarray]  # inner and outer radii
NO_PLATEAU = 9.0  # deviance by which a plateau must improve on a power law: 3 sigma
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


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
    background: Any,
    background_error: Any,
) -> Fit:
    """Poisson fit of n = A (r / r0)^s + background to counts in annuli.

    The background and its error are numbers or one for each annulus. r0 is the geometric middle of
    the range. The error of s adds, in quadrature, half the change of s when the background moves
    by plus and minus its error.
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

    def fit(level: Any) -> tuple[np.ndarray, float, Any]:
        def model(p: np.ndarray) -> np.ndarray:
            shape = ring_mean(lambda r: (r / r0) ** p[1], inner, outer)
            return area * (level + math.exp(p[0]) * shape)

        excess = max(mean - np.mean(level), 0.01 * mean)
        starts = [[math.log(excess), s] for s in (-1.0, -3.0)]
        return *maximise(counts, model, starts, [(-60, 60), (-15, 15)]), model

    best, deviance, model = fit(background)
    cov = fisher(model, best)
    variance = cov[1, 1]
    if np.any(background_error):
        ends = [fit(np.maximum(background + s * background_error, 0))[0][1] for s in (-1, 1)]
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


# -- a plateau ----------------------------------------------------------------------------------
def plateau(
    counts: np.ndarray,
    area: np.ndarray,
    inner: np.ndarray,
    outer: np.ndarray,
    *,
    background: Any,
    background_error: Any,
) -> Fit:
    """Poisson fit of n = A min(1, (r / R)^s) + background: flat out to R, a power law beyond.

    Errors are widened by sqrt(chi2 / dof) where that exceeds 1, and add in quadrature half the
    change when the background moves by its error.
    """
    names = ("radius", "radius_error", "slope", "slope_error", "density", "density_error", "chi2")
    out: Fit = dict.fromkeys(names, math.nan)
    out |= {"n_annuli": int(counts.size), "counts": int(counts.sum()), "dof": counts.size - 3}
    occupied = int((counts > 0).sum())
    if occupied < 4:
        return out | {
            "status": f"unconstrained: {occupied} of {counts.size} annuli in the range hold a "
            "source, a plateau and a slope need 4"
        }
    reach = (math.log(outer[0]), math.log(inner[-1]))
    peak = math.log(float((counts / area).max()))
    limits: list[Any] = [(peak - 12, peak + 3), reach, (-8, 0)]

    def model_of(level: Any) -> Callable[[np.ndarray], np.ndarray]:
        def model(p: np.ndarray) -> np.ndarray:
            radius = math.exp(p[1])
            shape = ring_mean(lambda r: np.maximum(r / radius, 1) ** p[2], inner, outer)
            return area * (level + math.exp(p[0]) * shape)

        return model

    def fit(level: Any) -> tuple[np.ndarray, float, Any]:
        starts = [[peak, reach[0] + f * (reach[1] - reach[0]), -1.5] for f in (0.2, 0.5, 0.8)]
        model = model_of(level)
        return *maximise(counts, model, starts, limits), model

    best, deviance, model = fit(background)
    variance = np.diag(fisher(model, best)) * max(deviance / max(counts.size - 3, 1), 1.0)
    if np.any(background_error):
        ends = [fit(np.maximum(background + s * background_error, 0))[0] for s in (-1, 1)]
        variance = variance + ((ends[1] - ends[0]) / 2) ** 2
    density, radius = math.exp(best[0]), math.exp(best[1])
    out |= {"radius": radius, "radius_error": radius * math.sqrt(variance[1])}
    out |= {"slope": best[2], "slope_error": math.sqrt(variance[2]), "chi2": deviance}
    out |= {"density": density, "density_error": density * math.sqrt(variance[0])}
    # a power law through the whole range: its plateau ends before the first annulus
    within = math.log(max(inner[0], 0.1 * outer[0]))
    _, without = maximise(
        counts,
        lambda p: model(np.array([p[0], within, p[1]])),
        [[peak, -1.5], [peak, -0.5]],
        [(peak - 12, peak + 30), limits[2]],
    )
    if without - deviance < NO_PLATEAU or reach[1] - best[1] < 1e-3:
        return out | {"status": "unconstrained: a power law without a plateau fits as well"}
    if not out["slope_error"] < -best[2]:
        return out | {"status": "unconstrained: no decline beyond the plateau"}
    return out | {"status": "" if math.isfinite(variance[1]) else "unconstrained: no curvature"}


# -- a profile and a constant -------------------------------------------------------------------
def power_shape(r: Any, p: Any) -> Any:
    """Logarithm of (1 + (r / core)^2)^(-g / 2); p = ln core, g."""
    return -p[1] / 2 * np.log1p((r / math.exp(p[0])) ** 2)


def sersic_shape(r: Any, p: Any) -> Any:
    """Logarithm of Sersic's law with a core, 0 in the centre; p = ln core, ln scale, index."""
    core, power = math.exp(p[0]), 1 / p[2]
    reach = (r**2 + core**2) ** (power / 2) - core**power
    return -reach / math.exp(p[1]) ** power


def _shapes(inner: np.ndarray, outer: np.ndarray) -> dict[str, tuple[Callable, list, list]]:
    """Each shape with first guesses and bounds of its parameters."""
    edge = math.log(max(outer[0], 1e-3))
    cores = np.log(np.geomspace(max(outer[0], 1e-3), outer[-1] / 3, 3))
    core, far = (edge - 5, math.log(outer[-1]) + 2), math.log(outer[-1])
    scales = [[edge, far - 2.0, m] for m in (1.0, 2.0)] + [[edge + 1, far - 3.0, 2.0]]
    return {
        "cored power law": (
            power_shape, [[c, g] for c in cores for g in (1.5, 3.0)], [core, (0.5, 8.0)]
        ),
        "cored Sersic": (sersic_shape, scales, [core, (far - 14, far + 2), (0.2, 8.0)]),
    }  # fmt: skip


def profile_and_constant(
    counts: np.ndarray, area: np.ndarray, inner: np.ndarray, outer: np.ndarray
) -> Fit:
    """Poisson fit of a declining profile and a constant C to counts in annuli.

    Two shapes are fitted, a cored power law and a cored Sersic law, and averaged with Akaike
    weights, so that the error of C holds what the choice between them makes where the data do not
    decide. Errors are widened by sqrt(chi2 / dof) where that exceeds 1. Returns C as ``value``
    with ``error``, and amplitude, core and slope at the last radius of the likelier shape.
    """
    names = ("value", "error", "amplitude", "core", "outer_slope", "chi2")
    out: Fit = dict.fromkeys(names, math.nan) | {"shape": ""}
    out |= {"counts": int(counts.sum()), "area": float(area.sum())}
    occupied = int((counts > 0).sum())
    if occupied < 6:
        return out | {
            "status": f"unconstrained: {occupied} annuli hold a source, a profile with core and a "
            "constant needs 6"
        }
    found = {
        name: _with_constant(counts, area, inner, outer, *parts)
        for name, parts in _shapes(inner, outer).items()
    }
    found = {k: f for k, f in found.items() if math.isfinite(f["error"])}
    if not found:
        return out | {"status": "unconstrained: profile and constant are degenerate"}
    best = min(found, key=lambda k: found[k]["akaike"])
    likelihood = {k: math.exp((found[best]["akaike"] - f["akaike"]) / 2) for k, f in found.items()}
    total = sum(likelihood.values())
    value = sum(w * found[k]["value"] for k, w in likelihood.items()) / total
    spread = [found[k]["error"] ** 2 + (found[k]["value"] - value) ** 2 for k in found]
    error = math.sqrt(sum(w * s for w, s in zip(likelihood.values(), spread, strict=True)) / total)
    out |= {k: found[best][k] for k in ("amplitude", "core", "outer_slope", "chi2")}
    out |= {"value": value, "error": error, "shape": best}
    if not error < value:
        return out | {"status": "unconstrained: the constant does not differ from 0"}
    return out | {"status": ""}


def _with_constant(
    counts: np.ndarray, area: np.ndarray, inner: np.ndarray, outer: np.ndarray,
    shape: Callable, guesses: list, limits: list,
) -> Fit:  # fmt: skip
    mean, n = counts.sum() / area.sum(), counts / area
    lowest, peak = float(n.min() / mean), math.log(float(n.max()))

    def model(p: np.ndarray) -> np.ndarray:
        profile = ring_mean(lambda r: np.exp(shape(r, p[1:-1])), inner, outer)
        return area * (math.exp(p[0]) * profile + p[-1] * mean)

    starts = [[peak, *g, f * lowest] for g in guesses for f in (0.3, 0.9)]
    best, deviance = maximise(counts, model, starts, [(peak - 12, peak + 12), *limits, (0, 10)])
    variance = float(fisher(model, best)[-1, -1])
    widen = max(deviance / max(counts.size - best.size, 1), 1.0)
    ends = shape(outer[-1] * np.array([0.999, 1.001]), best[1:-1])
    return {
        "value": best[-1] * mean,
        "error": math.sqrt(widen * variance) * mean,
        "chi2": deviance,
        "akaike": deviance + 2 * best.size,
        "amplitude": math.exp(best[0]),
        "core": math.exp(best[1]),
        "outer_slope": float(np.diff(ends)[0] / math.log(1.001 / 0.999)),
    }
