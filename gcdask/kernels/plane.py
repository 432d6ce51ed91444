"""A density that changes across a field: counts and area in cells, and the plane fitted to them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from gcdask.kernels.fits import Fit
from gcdask.kernels.poisson import fisher, maximise
from gcdask.kernels.sums import Sums

STEEPEST = 20.0  # bound of the change of ln n over the rms extent of the field


def cell_sums(
    good: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    by: np.ndarray,
    bx: np.ndarray,
) -> Sums:
    """Good pixels, the sums of their global x and y, and sources, by cell.

    Parameters
    ----------
    good : ndarray of bool (ny, nx)
        Pixels that count.
    row, column : ndarray of int
        Pixel of each source on them.
    y, x : ndarray
        Global coordinates of rows and columns.
    by, bx : ndarray of int
        Global cell of each row and column, ascending.

    Returns
    -------
    dict
        ``corner`` of the first cell and ``sums`` (n_by, n_bx, 4).
    """
    corner = (int(by[0]), int(bx[0]))
    rows, columns = by - corner[0], bx - corner[1]
    out = np.zeros((int(rows[-1]) + 1, int(columns[-1]) + 1, 4))
    first_row = np.searchsorted(rows, np.arange(out.shape[0]))
    ends = np.searchsorted(columns, np.arange(out.shape[1] + 1))
    for j, (lo, hi) in enumerate(pairwise(ends)):
        part = good[:, lo:hi]
        n = part.sum(1)
        for k, values in enumerate((n, part @ x[lo:hi], n * y)):
            out[:, j, k] = np.add.reduceat(np.asarray(values, float), first_row)
    np.add.at(out, (rows[row], columns[column], 3), 1.0)
    return {"corner": corner, "sums": out}


def gradient(counts: np.ndarray, area: np.ndarray, along: np.ndarray, across: np.ndarray) -> Fit:
    """Poisson fit of n = n0 exp(g . x) to counts in cells at ``along``, ``across``.

    The exponential is positive everywhere and for small changes the plane n0 (1 + g . x). x counts
    from the mean position of the area, where the density is n0 and its slopes n0 g. Errors are
    widened by Pearson's sqrt(chi2 / dof) where that exceeds 1.
    """
    names = ("n", "n_error", "towards", "towards_error", "across", "across_error")
    out: Fit = dict.fromkeys((*names, "relative", "significance", "chi2"), math.nan)
    use = area > 0
    counts, area, along, across = (v[use].astype(float) for v in (counts, area, along, across))
    out |= {"counts": int(counts.sum()), "area": float(area.sum()), "n_cells": int(counts.size)}
    if counts.size < 4 or counts.sum() < 4:
        return out | {
            "status": f"unconstrained: {int(counts.sum())} sources in {counts.size} cells; a "
            "density and two slopes need 4 of both"
        }
    places = np.stack([along, across])
    places -= np.average(places, axis=1, weights=area)[:, None]
    extent = np.sqrt(np.average(places**2, axis=1, weights=area))
    if not (extent > 0).all():
        return out | {"status": "unconstrained: the field has no extent in one direction"}
    unit, mean = places / extent[:, None], counts.sum() / area.sum()

    def model(p: np.ndarray) -> np.ndarray:
        return area * mean * np.exp(p[0] + p[1] * unit[0] + p[2] * unit[1])

    limit = (-STEEPEST, STEEPEST)
    best, _ = maximise(counts, model, [[0.0, 0.0, 0.0]], [limit] * 3)
    mu, n = model(best), mean * math.exp(best[0])
    chi2 = float(((counts - mu) ** 2 / mu).sum())
    cov = fisher(model, best) * max(chi2 / max(counts.size - 3, 1), 1.0)
    slope = best[1:] / extent
    # n g: errors by the derivatives with respect to ln n and g
    jac = n * np.array([[1, 0, 0], [slope[0], 1 / extent[0], 0], [slope[1], 0, 1 / extent[1]]])
    error = np.sqrt(np.diag(jac @ cov @ jac.T))
    out |= {"n": n, "n_error": error[0], "chi2": chi2, "relative": slope[0]}
    out |= {"towards": n * slope[0], "across": n * slope[1]}
    out |= {"towards_error": error[1], "across_error": error[2]}
    out["significance"] = float(best[1] / math.sqrt(cov[1, 1]))
    return out | {"status": "" if np.isfinite(error).all() else "unconstrained: no curvature"}
