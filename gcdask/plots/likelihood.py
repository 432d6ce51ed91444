"""Figures of likelihoods: maps ranked, and the density of sources as a power of convergence."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from gcdask.kernels.fits import poisson_interval
from gcdask.plots import canvas
from gcdask.plots.canvas import BLACK, BLUE, GREY, ORANGE, RED
from gcdask.plots.relations import MISSING, log_axes


def tracer_power(fit: xr.Dataset, path: Any) -> Path:
    """Number density against convergence, and the power law of the likelihood.

    Parameters
    ----------
    fit : Dataset
        From `gcdask.fit_tracer_power`. Bins have exact Poisson intervals; empty ones an upper
        limit (84.1 %). They only show the fit, which knows no bins.
    path : path
        PNG to write.
    """
    kappa, area, counts = (
        np.asarray(fit[k], float) for k in ("bin_kappa", "bin_area", "bin_counts")
    )
    shown = (area > 0) & (kappa > 0)
    kappa, area, counts = kappa[shown], area[shown], counts[shown]
    with canvas.figure(path, 5.6, 4.6) as fig:
        ax = fig.add_subplot()
        ax.set_xlabel("κ")
        ax.set_ylabel("n$_{GC}$  [arcsec$^{-2}$]")
        _title(ax, fit)
        if not counts.any():
            ax.text(0.5, 0.5, "no sources", transform=ax.transAxes, **MISSING)
            return Path(path)
        density = counts / area
        low, high = (v / area for v in poisson_interval(counts))
        found = counts > 0
        ax.errorbar(
            kappa[found], density[found], [(density - low)[found], (high - density)[found]],
            fmt="o", ms=4.5, color=BLACK, capsize=2, lw=1.2, zorder=4,
            label=f"{int(fit['n'])} sources, Poisson errors",
        )  # fmt: skip
        if not found.all():
            ax.scatter(
                kappa[~found], high[~found], marker="v", s=22, color=GREY, zorder=4,
                label="no source: 84 % upper limit",
            )  # fmt: skip
        _draw_law(ax, fit, kappa)
        level = float(fit["contamination"])
        log_axes(ax, kappa, np.concatenate([low[low > 0], high, [level]]))
        ax.legend(loc="upper left")
    return Path(path)


def _draw_law(ax: Axes, fit: xr.Dataset, kappa: np.ndarray) -> None:
    names = ("g", "error", "amplitude", "contamination", "contamination_error")
    g, error, amplitude, level, level_error = (float(fit[k]) for k in names)
    if not np.isfinite([g, amplitude]).all():
        return
    reach = np.geomspace(kappa.min() / 1.2, kappa.max() * 1.2, 200)
    law = amplitude * reach**g
    label = f"n = {amplitude:.3g} κ$^g$" + (" + c" if level else "")
    label += f",  g = {g:.2f} ± {error:.2f}"
    ax.plot(reach, law + level, color=RED, lw=1.8, label=label, zorder=5)
    if level:
        given = fit.attrs.get("contamination") == "given"
        text = f"c = {level:.2g}" + (" (given)" if given else f" ± {level_error:.1g}")
        ax.axhline(level, color=ORANGE, lw=1.3, ls=":", label=f"contaminants, {text}")
        ax.plot(reach, law, color=RED, lw=1, ls="--", label="without contaminants")


def likelihood_ranking(table: xr.Dataset, path: Any) -> Path:
    """Log-likelihoods of maps against uniform, best on top, and their distances from the best.

    Parameters
    ----------
    table : Dataset
        From `gcdask.poisson_loglike`. Thick bars are errors of independent sources, thin ones of
        the block jackknife; numbers at the right give the distance from the best map with the
        latter.
    path : path
        PNG to write.
    """
    order = np.argsort(np.asarray(table["rank"]), kind="stable")
    names = [str(v) for v in np.asarray(table["map"])[order]]
    value, error, poisson = (
        np.asarray(table[k], float)[order] for k in ("dlnL", "dlnL_error", "dlnL_error_poisson")
    )
    behind = np.asarray(table["dlnL_pair"], float)[order][:, order[0]]
    behind_error = np.asarray(table["dlnL_pair_error"], float)[order][:, order[0]]
    with canvas.figure(path, 6.6, 1.5 + 0.34 * len(names)) as fig:
        ax = fig.add_subplot()
        _title(ax, table)
        y = np.arange(len(names))
        best = np.where(y == 0, RED, BLUE)
        ax.barh(y, np.nan_to_num(value), height=0.62, color=best, alpha=0.35, lw=0)
        for bars, width, label in (
            (poisson, 3.0, "error if sources are independent"),
            (error, 1.0, "block jackknife"),
        ):
            known = np.isfinite(value) & (np.nan_to_num(bars) > 0)
            if known.any():
                ax.errorbar(
                    value[known], y[known], xerr=bars[known], fmt="none", ecolor=BLACK,
                    elinewidth=width, capsize=2 if width < 2 else 0, label=label,
                )  # fmt: skip
        for i, (d, e) in enumerate(zip(behind, behind_error, strict=True)):
            text = "best" if i == 0 else f"{_minus(d)}" + (f" ± {e:.3g}" if np.isfinite(e) else "")
            text = text if np.isfinite(value[i]) else "no likelihood"
            ax.text(1.02, i, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8)
        ax.set_yticks(y, names)
        ax.tick_params(axis="y", which="both", left=False, right=False)
        ax.minorticks_off()
        ax.invert_yaxis()
        ax.axvline(0, color=BLACK, lw=0.8)
        ax.set_xlabel(f"Δ ln L against a uniform density  ({int(table['n'])} sources)")
        if ax.get_legend_handles_labels()[1]:
            fig.legend(loc="outside lower center", ncols=2, frameon=False)
    return Path(path)


def _minus(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _title(ax: Axes, table: xr.Dataset) -> None:
    status = str(table["status"].values) if "status" in table else ""
    if status:
        ax.set_title(textwrap.fill(status, 85), fontsize=8, color=RED)
