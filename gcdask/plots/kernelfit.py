"""Figure of the kernel fit: chi^2 over the scan, and the profiles of its kernels."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from gcdask.plots import canvas
from gcdask.plots.canvas import BLACK, BLUE, GREY, RED

STYLES = (":", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 2)))


def kernel_fit(fit: xr.Dataset, path: Any) -> Path:
    """Chi^2 over alpha and softening, and profiles of kappa and beta rho (figure 7's red lines).

    Parameters
    ----------
    fit : Dataset
        From `gcdask.compare.fit_kernel`, in memory.
    path : path
        PNG to write.
    """
    with canvas.figure(path, 9.4, 4.4) as fig:
        left, right = fig.subplots(1, 2, width_ratios=[1, 1.15])
        _surface(left, fit)
        _profiles(right, fit)
        status = str(fit["status"].item())
        if status:
            fig.suptitle(textwrap.fill(status, 130), fontsize=8, color=RED)
    return Path(path)


def _surface(ax: Axes, fit: xr.Dataset) -> None:
    """Delta chi^2 as cells, or as a curve where one parameter was scanned alone."""
    alpha, softening = (np.asarray(fit[k], float) for k in ("alpha", "softening"))
    chi2 = np.asarray(fit["chi2"], float)
    ax.set_xlabel("α")
    if not np.isfinite(chi2).any():
        ax.text(0.5, 0.5, "no χ²", transform=ax.transAxes, color=GREY, ha="center")
        return
    if min(chi2.shape) == 1:
        name, axis = ("alpha", alpha) if softening.size == 1 else ("softening", softening)
        ax.plot(axis, chi2.ravel(), color=BLACK, marker="o", ms=4)
        ax.axvline(float(fit[f"{name}_best"]), color=RED, lw=1.2, label=_text(fit, name))
        ax.set_xlabel("α" if name == "alpha" else "S$_L$  [arcsec]")
        ax.set_ylabel("χ²")
        ax.set_yscale("log")
        canvas.plain_ticks(ax.yaxis)
        ax.legend()
        return
    low = np.nanmin(chi2)
    least = float(fit["chi2_min"])
    excess = chi2 - (least if np.isfinite(least) else low)
    floor = max(np.nanmin(excess), 0.1)
    norm = LogNorm(floor, max(np.nanmax(excess), 10 * floor))
    # cells of equal size: scans are often spaced unevenly
    mesh = ax.pcolormesh(
        np.arange(alpha.size + 1) - 0.5, np.arange(softening.size + 1) - 0.5,
        np.maximum(excess, floor).T, norm=norm, cmap="cividis_r", rasterized=True,
    )  # fmt: skip
    canvas.color_bar(ax, mesh, "χ² − χ²$_{min}$")
    x, y = (
        np.interp(fit[f"{name}_best"], axis, np.arange(axis.size))
        for name, axis in (("alpha", alpha), ("softening", softening))
    )
    ax.errorbar(
        x, y, _bar(fit, "softening", softening), _bar(fit, "alpha", alpha), fmt="o", color=RED,
        mec="white", ms=7, capsize=3, label=f"{_text(fit, 'alpha')}, {_text(fit, 'softening')}",
    )  # fmt: skip
    ax.set_xticks(range(alpha.size), [f"{v:g}" for v in alpha])
    ax.set_yticks(range(softening.size), [f"{v:g}" for v in softening])
    ax.tick_params(which="minor", length=0)
    ax.set_ylabel("softening S$_L$  [arcsec]")
    ax.legend(loc="upper right")


def _bar(fit: xr.Dataset, name: str, axis: np.ndarray) -> Any:
    """Error in units of the cells, (2, 1)."""
    value, error = float(fit[f"{name}_best"]), float(fit[f"{name}_error"])
    if not np.isfinite(error):
        return None
    at = np.interp([value - error, value, value + error], axis, np.arange(axis.size))
    return np.diff(at)[:, None]


def _text(fit: xr.Dataset, name: str) -> str:
    value, error = float(fit[f"{name}_best"]), float(fit[f"{name}_error"])
    symbol, unit = ("α", "") if name == "alpha" else ("S$_L$", "″")
    spread = f" ± {error:.2g}" if np.isfinite(error) and error > 0 else ""
    return f"{symbol} = {value:.3g}{spread}{unit}"


def _profiles(ax: Axes, fit: xr.Dataset) -> None:
    r = np.asarray(fit["r"], float)
    kappa, sigma = (np.asarray(fit[k], float) for k in ("kappa_profile", "kappa_sigma"))
    ax.errorbar(r, kappa, sigma, fmt="o", ms=4.5, color=BLUE, capsize=2, label="κ", zorder=4)
    softening = np.asarray(fit["softening"], float)
    row = int(np.argmin(np.abs(softening - float(fit["softening_best"].fillna(softening[0])))))
    scan = fit.isel(softening=row)
    for i, alpha in enumerate(np.asarray(fit["alpha"], float)):
        one = scan.isel(alpha=i)
        curve = float(one["beta"]) * np.asarray(one["rho_profile"], float)
        ax.plot(r, curve, color=RED, lw=1, ls=STYLES[i % len(STYLES)], alpha=0.75,
                label=f"β ρ, α = {alpha:g}")  # fmt: skip
    best = np.asarray(fit["best_profile"], float)
    if np.isfinite(best).any():
        ax.plot(r, best, color=BLACK, lw=1.6, label="β ρ, best kernel")
    shown = np.concatenate([kappa, best])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    ax.set_xscale("log")
    ax.set_yscale("log")
    if shown.size:
        ax.set_ylim(shown.min() / 1.4, shown.max() * 1.4)
    for axis in (ax.xaxis, ax.yaxis):
        canvas.plain_ticks(axis)
    ax.set_title(f"scanned kernels with S$_L$ = {softening[row]:g}″", fontsize=9)
    ax.set_xlabel("distance from the centre  [arcsec]")
    ax.set_ylabel("κ,  β ρ")
    ax.legend(loc="lower left", fontsize=7.5)
