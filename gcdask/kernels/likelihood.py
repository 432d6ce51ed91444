"""Likelihood of sources under maps of intensity: sums of one block, and what follows from them.

Sources are an inhomogeneous Poisson process of intensity lambda, of which a map gives the shape.
Given their number N, lnL = sum_i ln lambda(x_i) - N ln integral(lambda), in which any factor of
the map cancels (Cox & Isham 1980, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import special

from gcdask.kernels import counts
from gcdask.kernels.fits import Fit, jackknife
from gcdask.kernels.poisson import TINY
from gcdask.kernels.sums import Sums

SOME = 0.01  # share of the footprint from which flagged elements are spoken of in ``status``


def columns(n: int) -> dict[str, Any]:
    """Where the sums of ``n`` maps are in the last axis of what `map_sums` gives."""
    ends = np.cumsum([4, n, n, n * n])
    names = ("logs", "integral", "products")
    where: dict[str, Any] = {k: i for i, k in enumerate(("n", "used", "flagged", "n_flagged"))}
    return where | {k: slice(*ends[i : i + 2]) for i, k in enumerate(names)}


def usable(area: np.ndarray, inside: np.ndarray, maps: Sequence[np.ndarray]) -> np.ndarray:
    """Elements of positive effective area on which every map is finite and positive."""
    use = inside & (area > 0)
    for m in maps:
        with np.errstate(invalid="ignore"):
            use &= (m > 0) & (m < math.inf)
    return use


def flags(area: np.ndarray, inside: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Elements left out though nothing masks them (an area of 0 is a mask)."""
    return inside & ~use & (area != 0)


def map_sums(
    area: np.ndarray,
    use: np.ndarray,
    flagged: np.ndarray,
    maps: Sequence[np.ndarray],
    at: tuple[np.ndarray, np.ndarray],
    rates: np.ndarray,
    by: np.ndarray,
    bx: np.ndarray,
) -> Sums:
    """Sum what the likelihood needs by sky block.

    Parameters
    ----------
    area, use, flagged : ndarray (ny, nx)
        Effective area of each element (in elements), those used, those left out.
    maps : sequence of ndarray (ny, nx)
        The intensities.
    at : (ndarray, ndarray)
        Element (iy, ix) of each source on used or flagged elements.
    rates : ndarray (n_maps, n)
        Exposure times intensity at each source.
    by, bx : ndarray of int, shapes (ny,), (nx,)
        Global block of each row and column, ascending.

    Returns
    -------
    dict
        ``corner`` (y, x) of the first block and ``sums`` (n_by, n_bx, `columns`): the sources, the
        elements used and left out, sources on these, sums of ln rate, integrals, and sums of
        products of two ln rates.
    """
    corner = (int(by[0]), int(bx[0]))
    rows, cols = by - corner[0], bx - corner[1]
    shape = (int(rows[-1]) + 1, int(cols[-1]) + 1)
    n = len(maps)
    where = columns(n)
    out = np.zeros((*shape, where["products"].stop))
    starts = [np.flatnonzero(np.diff(v, prepend=-1)) for v in (rows, cols)]

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values, starts[0], 0), starts[1], 1)

    out[..., where["used"]] = total(use.astype(float))
    out[..., where["flagged"]] = total(flagged.astype(float))
    for k, m in enumerate(maps):
        out[..., where["integral"].start + k] = total(np.where(use, m * area, 0.0))
    iy, ix = at
    good = use[iy, ix]
    block = rows[iy] * shape[1] + cols[ix]
    with np.errstate(divide="ignore"):
        logs = np.log(rates[:, good])
    block, bad = block[good], block[~good]
    flat, size = out.reshape(-1, out.shape[-1]), shape[0] * shape[1]
    flat[:, where["n"]] = np.bincount(block, minlength=size)
    for i in range(n):
        flat[:, where["logs"].start + i] = np.bincount(block, logs[i], size)
        for j in range(n):
            k = where["products"].start + i * n + j
            flat[:, k] = np.bincount(block, logs[i] * logs[j], size)
    flat[:, where["n_flagged"]] = np.bincount(bad, minlength=size)
    return {"corner": corner, "sums": out}


def _loglike(n: np.ndarray, logs: np.ndarray, integral: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return logs - n[..., None] * np.log(integral)


def flag_text(share: float, n: int, why: str) -> str:
    """Status of a footprint of which too much was left out; empty if it was little."""
    if share <= SOME:
        return ""
    return f"flagged: {100 * share:.3g} % of the footprint and {n} sources left out, {why}"


def ranking(
    blocks: np.ndarray, element: float, factors: np.ndarray, reference: int, why: str
) -> Fit:
    """Log-likelihoods of maps, their differences, and these differences' errors.

    Parameters
    ----------
    blocks : ndarray (n_blocks, columns)
        From `map_sums`.
    element : float
        Area of an element (arcsec2).
    factors : ndarray (n_maps,)
        What the integrals are to be multiplied by.
    reference : int
        Map that is uniform.
    why : str
        What is wrong with flagged elements.

    Returns
    -------
    dict
        ``lnL``, ``rank``, ``dlnL`` and two errors against the reference, ``dlnL_pair``,
        ``dlnL_pair_error``, ``dlnL_pair_error_poisson`` (n_maps, n_maps), numbers, and ``status``.

        The jackknife is that of the mean difference *per source*, times N: leaving out a block
        takes sources from both likelihoods, which says nothing of the maps. The Poisson error is
        sqrt(sum_i (f_i - mean f)^2) of f = ln(lambda_1 / lambda_2) at the sources.
    """
    m = factors.size
    where = columns(m)
    n_b, logs_b = blocks[:, where["n"]], blocks[:, where["logs"]]
    integral_b = blocks[:, where["integral"]] * (element * factors)
    n, logs, integral = n_b.sum(), logs_b.sum(0), integral_b.sum(0)
    value = _loglike(n, logs, integral)
    filled = blocks[:, where["used"]] > 0
    left = n - n_b[filled]
    rest = _loglike(left, logs - logs_b[filled], integral - integral_b[filled])
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = rest / np.where(left > 0, left, np.nan)[:, None]
    with np.errstate(invalid="ignore"):
        spread = jackknife(mean[:, :, None] - mean[:, None, :]) * n
    products = blocks[:, where["products"]].sum(0).reshape(m, m)
    square = products.diagonal()
    tilt = logs[:, None] - logs
    variance = square[:, None] + square - 2 * products - tilt**2 / max(n, 1)
    used, flagged = blocks[:, where["used"]].sum(), blocks[:, where["flagged"]].sum()
    out: Fit = {
        "n": int(n),
        "area": integral[reference],
        "n_blocks": int(filled.sum()),
        "n_flagged": int(flagged),
        "n_flagged_sources": int(blocks[:, where["n_flagged"]].sum()),
    }
    out["status"] = flag_text(flagged / max(used + flagged, 1), out["n_flagged_sources"], why)
    sound = np.isfinite(value)
    if n == 0 or not sound.any():
        value, spread, variance = (np.full_like(v, np.nan) for v in (value, spread, variance))
        reason = "no pixel of the footprint is usable" if used == 0 else "no source is on it"
        out["status"] = f"unconstrained: {reason}" + (f"; {out['status']}" if flagged else "")
    elif not sound.all():
        value = np.where(sound, value, np.nan)
        out["status"] = "unconstrained: a density without each source needs two of them"
    order = np.argsort(np.argsort(-np.nan_to_num(value, nan=-np.inf), kind="stable"))
    poisson = np.sqrt(np.maximum(variance, 0))
    return out | {
        "lnL": value,
        "rank": order + 1,
        "dlnL": value - value[reference],
        "dlnL_error": spread[:, reference],
        "dlnL_error_poisson": poisson[:, reference],
        "dlnL_pair": value[:, None] - value,
        "dlnL_pair_error": spread,
        "dlnL_pair_error_poisson": poisson,
    }


# -- counts in boxes ----------------------------------------------------------------------------
Draw = Callable[[np.ndarray, int], np.ndarray]


def box_draw(
    mean: np.ndarray, k: int, *, seed: int, stream: int, corner: tuple[int, int]
) -> np.ndarray:
    """Poisson counts (n_by, n_bx) of simulation ``k``: draws belong to the global box."""
    return counts.poisson_block(mean, seed, stream + k, *corner)


def _misfit(n: np.ndarray, mean: np.ndarray, absolute: bool) -> tuple[float, float]:
    """Deviance and sum of (n - mean)^2 / mean, of the mean scaled to the sum of n if relative."""
    if not absolute:
        mean = mean * (n.sum() / mean.sum())
    if not mean.sum() > 0:
        return 0.0, 0.0
    deviance = 2 * (special.xlogy(n, n / mean) - n + mean).sum()
    return float(deviance), float(((n - mean) ** 2 / mean).sum())


def goodness(
    n: np.ndarray,
    mean: np.ndarray,
    good: np.ndarray,
    absolute: bool,
    n_simulations: int,
    draw: Draw,
) -> Fit:
    """Compare counts in boxes (n_by, n_bx) with simulated ones: deviance and overdispersion.

    ``draw(mean, k)`` makes the counts of simulation k. Relative means are scaled to the number of
    sources, also of each simulation, which amounts to multinomial counts.
    """
    found = n[good].astype(float)
    out: Fit = dict.fromkeys(
        ("deviance", "p_value", "overdispersion", "overdispersion_error", "overdispersion_p_value"),
        math.nan,
    )
    scale = 1.0 if absolute else found.sum() / max(mean[good].sum(), TINY)
    expected = np.where(good, mean * scale, 0.0)
    dof = max(found.size - (not absolute), 0)
    out |= {"n": int(found.sum()), "n_boxes": found.size, "dof": dof, "good": good.ravel()}
    out |= {"counts": n.ravel(), "expected": np.where(good, expected, np.nan).ravel()}
    out["simulated_deviance"] = np.full(n_simulations, np.nan)
    if found.size < 2 or (found.sum() == 0 and not absolute):
        what = "fewer than two boxes are usable" if found.size < 2 else "no source is in a box used"
        return out | {"status": f"unconstrained: {what}"}
    real = _misfit(found, expected[good], absolute)
    simulated = np.array(
        [_misfit(draw(expected, k)[good], expected[good], absolute) for k in range(n_simulations)]
    )
    as_large = (1 + (simulated >= np.array(real)).sum(0)) / (1 + n_simulations)
    return out | {
        "deviance": real[0],
        "simulated_deviance": simulated[:, 0],
        "p_value": as_large[0],
        "overdispersion": real[1] / dof,
        "overdispersion_error": simulated[:, 1].std(ddof=1) / dof if n_simulations > 1 else np.nan,
        "overdispersion_p_value": as_large[1],
        "status": "",
    }
