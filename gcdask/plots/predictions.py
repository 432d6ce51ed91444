"""Figures of what clusters predict: luminosity functions and convergence by the relation."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from scipy import stats

from gcdask.errors import InputError
from gcdask.plots import canvas
from gcdask.plots.canvas import BLACK, BLUE, GREY, ORANGE, RED


def luminosity_function(function: xr.Dataset, fit: xr.Dataset | None, path: Any) -> Path:
    """Sources per magnitude as counted and corrected, and the Gaussian fitted to them.

    Parameters
    ----------
    function : Dataset
        From `gcdask.luminosity.luminosity_function`.
    fit : Dataset or None
        From `gcdask.luminosity.fit_gclf`.
    path : path
        PNG to write.
    """
    m = np.asarray(function["magnitude"])
    width = np.asarray(function["faint"]) - np.asarray(function["bright"])
    counts = np.asarray(function["counts"], float) / width
    corrected, error = (
        np.asarray(function[k]) / width for k in ("n_corrected", "n_corrected_error")
    )
    with canvas.figure(path, 5.8, 4.4) as fig:
        ax = fig.add_subplot()
        edges = np.append(function["bright"], function["faint"][-1])
        ax.stairs(
            counts, edges, color=GREY, lw=1.2, label=f"{int(function['counts'].sum())} sources"
        )
        expected = np.asarray(function["expected_contaminants"]) / width
        if np.nanmax(expected, initial=0) > 0:
            ax.stairs(expected, edges, color=BLUE, lw=1.2, ls=":", label="contaminants")
        some = np.isfinite(corrected) & (np.asarray(function["counts"]) > 0)
        if some.any() and not np.allclose(corrected[some], counts[some]):
            text = "less contaminants, completed"
        else:
            text = "with Poisson errors"
        ax.errorbar(m[some], corrected[some], error[some], fmt="o", ms=3.5, color=BLACK, lw=1,
                    capsize=1.5, label=text)  # fmt: skip
        if fit is not None:
            _gaussian(ax, fit, edges)
        if some.any():
            ax.set_yscale("log")
            ax.set_ylim(
                0.4 * counts[counts > 0].min(), 2 * np.nanmax(np.maximum(corrected, counts))
            )
            first, last = np.flatnonzero(counts)[[0, -1]]
            ax.set_xlim(edges[first] - 0.5, edges[last + 1] + 0.5)
        ax.set_xlabel("magnitude  [AB]")
        ax.set_ylabel("sources per magnitude")
        fig.legend(loc="outside lower center", ncols=2, frameon=False)
    return Path(path)


def _gaussian(ax: Axes, fit: xr.Dataset, edges: np.ndarray) -> None:
    turnover, sigma, total = (float(fit[k]) for k in ("turnover", "sigma", "n_total"))
    limit = float(fit["limit"])
    ax.axvline(limit, color=ORANGE, ls="--", lw=1, label=f"limit of the fit: {limit:.4g}")
    if np.isfinite([turnover, sigma, total]).all():
        m = np.linspace(edges[0], edges[-1], 300)
        error = float(fit["turnover_error"])
        label = f"m$_0$ = {turnover:.2f}" + (f" ± {error:.2f}" if error else " (fixed)")
        label += f", σ = {sigma:.2f}, N = {total:.3g}"
        curve = total * stats.norm.pdf(m, turnover, sigma)
        ax.plot(m[m <= limit], curve[m <= limit], color=RED, lw=1.8, label=label)
        ax.plot(m[m > limit], curve[m > limit], color=RED, lw=1.2, ls=":")
    _status(ax, fit)


def _status(ax: Axes, table: xr.Dataset) -> None:
    status = str(table["status"].values) if "status" in table else ""
    if status:
        ax.set_title(textwrap.fill(status, 80), fontsize=8, color=RED)


def transfer(tests: Any, path: Any) -> Path:
    """Predicted against true convergence in boxes, one panel for each route.

    Parameters
    ----------
    tests : mapping of str to Dataset, or Dataset
        By name of the route, from `gcdask.compare.transfer_test`.
    path : path
        PNG to write.
    """
    tests = {"": tests} if isinstance(tests, xr.Dataset) else dict(tests)
    if not tests:
        raise InputError("tests is empty; give the result of transfer_test, or several by name")
    with canvas.figure(path, 0.8 + 3.7 * len(tests), 4.2) as fig:
        axes = fig.subplots(1, len(tests), sharex=True, sharey=True, squeeze=False)[0]
        used = [np.asarray(t["kappa"])[np.asarray(t["tested"], bool)] for t in tests.values()]
        true = np.concatenate(used)
        true = true[np.isfinite(true) & (true > 0)]
        low, high = (true.min() / 1.5, true.max() * 1.6) if true.size else (0.1, 1.0)
        for ax, (name, test) in zip(axes, tests.items(), strict=True):
            _compared(ax, test, low, high)
            ax.set_title("\n".join([*filter(None, [name]), _verdict(test)]), fontsize=8.5)
            ax.set_xlim(low, high)
            ax.set_ylim(low, high)
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_aspect("equal")
            for axis in (ax.xaxis, ax.yaxis):
                canvas.plain_ticks(axis)
            ax.set_xlabel("true ⟨κ⟩ in the box")
        axes[0].set_ylabel("⟨κ⟩ predicted from the clusters")
        axes[0].legend(loc="upper left")
    return Path(path)


def _compared(ax: Axes, test: xr.Dataset, low: float, high: float) -> None:
    used = np.asarray(test["tested"], bool)
    k, p = (np.asarray(test[v])[used] for v in ("kappa", "kappa_pred"))
    k, p = k[np.isfinite(p)], p[np.isfinite(p)]
    below = int((p <= low).sum())
    ax.scatter(k, np.maximum(p, low * 1.04), s=6, c=GREY, alpha=0.4, lw=0, label="boxes")
    ax.plot([low, high], [low, high], color=BLACK, lw=1.2, label="equal")
    edges = np.geomspace(low, high, 13)
    which = np.clip(np.searchsorted(edges, k) - 1, 0, 11)
    n = np.bincount(which, minlength=12)
    some = n >= 8
    if some.any():
        x, y = (np.bincount(which, v, 12)[some] / n[some] for v in (k, p))
        ax.plot(x, y, "o-", color=RED, ms=4, lw=1.2, label="mean")
    if below:
        ax.text(0.98, 0.02, f"{below} boxes below the axes", transform=ax.transAxes, ha="right",
                fontsize=7.5, color=GREY)  # fmt: skip


def _verdict(test: xr.Dataset) -> str:
    status = str(test["status"].values) if "status" in test else ""
    if status:
        return textwrap.fill(status, 45)
    bias, error, scatter = (100 * float(test[k]) for k in ("bias", "bias_error", "scatter"))
    return f"bias {bias:+.1f} ± {error:.1f} %, scatter {scatter:.0f} %"
