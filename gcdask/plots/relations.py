"""Figures of numbers: density against convergence, radial profiles, counts against threshold."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter

from gcdask.plots import canvas
from gcdask.plots.canvas import BLACK, BLUE, GREEN, GREY, ORANGE, RED

MISSING: dict[str, Any] = {"color": GREY, "ha": "center", "va": "center", "fontsize": 10}


def box_relation(relation: xr.Dataset, fit: xr.Dataset | None, path: Any) -> Path:
    """Mean convergence of boxes against their density of clusters, and the fit (figure 3).

    Parameters
    ----------
    relation : Dataset
        From `gcdask.box_relation`: ``n_gc`` (arcsec-2), ``kappa``, ``good``.
    fit : Dataset or None
        From `gcdask.fit_power_law`; without one only the boxes are shown.
    path : path
        PNG to write.
    """
    good = np.asarray(relation["good"], bool)
    n, kappa = (np.asarray(relation[name])[good] for name in ("n_gc", "kappa"))
    shown = (n > 0) & (kappa > 0)
    with canvas.figure(path, 5.6, 4.6) as fig:
        ax = fig.add_subplot()
        box = float(relation.attrs.get("box", np.nan))
        label = f"{shown.sum()} boxes" + (f" of {box:.3g}″" if np.isfinite(box) else "")
        ax.scatter(n[shown], kappa[shown], s=7, c=GREY, alpha=0.45, lw=0, label=label)
        if fit is not None:
            _draw_fit(ax, fit, n[shown])
        log_axes(ax, n[shown], kappa[shown])
        empty = int((n == 0).sum())
        if empty:
            text = f"{empty} boxes without a source are not shown"
            ax.text(0.98, 0.02, text, transform=ax.transAxes, ha="right", fontsize=7.5, color=GREY)
        ax.set_xlabel("n$_{GC}$  [arcsec$^{-2}$]")
        ax.set_ylabel("⟨κ⟩ in the box")
        ax.legend(loc="upper left")
    return Path(path)


def _draw_fit(ax: Axes, fit: xr.Dataset, n: np.ndarray) -> None:
    low, high = fit.attrs["n_range"]
    ax.axvspan(
        low, high, color="#f2e6c9", lw=0, zorder=0, label=f"range of the fit: {low:g} to {high:g}"
    )
    if "bin_n" in fit:
        used = np.asarray(fit["bin_boxes"]) > 1
        label = "mean and dispersion" if used.any() else None
        ax.errorbar(
            np.asarray(fit["bin_n"])[used],
            np.asarray(fit["bin_kappa"])[used],
            np.asarray(fit["bin_kappa_std"])[used],
            fmt="o",
            ms=4.5,
            color=BLUE,
            capsize=2,
            lw=1.2,
            label=label,
            zorder=4,
        )
    a, b, n0 = (float(fit[k]) if k in fit else 0.0 for k in ("a", "b", "n0"))
    errors = [float(fit[k]) if k in fit else np.nan for k in ("a_error", "b_error")]
    if np.isfinite([a, b]).all():
        reach = np.geomspace(min(low, n.min(initial=low)), max(high, n.max(initial=high)), 200)
        reach = reach[reach > n0]
        law = f"(n − {n0:.2g})" if n0 else "n"
        label = f"κ = {a:.2f} {law}$^{{{b:.2f}}}$  (± {errors[0]:.2f}, ± {errors[1]:.2f})"
        ax.plot(reach, a * (reach - n0) ** b, color=RED, lw=1.6, ls="--", label=label, zorder=5)
    status = str(fit["status"].values) if "status" in fit else ""
    if status:
        ax.set_title(textwrap.fill(status, 85), fontsize=8, color=RED)


def kappa_rho_scatter(
    kappa: Any,
    rho: Any,
    path: Any,
    *,
    beta: float = 1.0,
    where: Any = None,
    n_bins: int = 25,
    relation: xr.Dataset | None = None,
) -> Path:
    """Convergence against beta times the density, pixel by pixel (figure 5).

    Parameters
    ----------
    kappa, rho : array-like of one shape
        Maps on the same pixels, in memory.
    path : path
        PNG to write.
    beta : float
        Factor of the density.
    where : array-like of bool, optional
        Pixels to use.
    n_bins : int
        Bins of the mean.
    relation : Dataset, optional
        From `gcdask.compare.pixel_relation` with the same beta: its median and 68 % in bins of
        kappa are drawn instead of the mean of kappa in bins of rho.
    """
    k, r = np.asarray(kappa, float), beta * np.asarray(rho, float)
    good = (k > 0) & (r > 0) & np.isfinite(k) & np.isfinite(r)
    if where is not None:
        good &= np.asarray(where, bool)
    k, r = k[good], r[good]
    with canvas.figure(path, 5.4, 4.8) as fig:
        ax = fig.add_subplot()
        ax.set_xlabel("β ρ$_{GC}$")
        ax.set_ylabel("κ")
        if k.size < 2:
            ax.text(0.5, 0.5, "no pixels with κ > 0 and ρ > 0", transform=ax.transAxes, **MISSING)
            return Path(path)
        low, high = (np.percentile(np.concatenate([k, r]), q) for q in (0.05, 99.95))
        edges = np.geomspace(low * 0.8, high * 1.25, 121)
        counts = np.histogram2d(r, k, bins=[edges, edges])[0].T
        counts[counts == 0] = np.nan
        norm = LogNorm(1, max(np.nanmax(counts, initial=2), 2))
        mesh = ax.pcolormesh(edges, edges, counts, norm=norm, cmap="cividis", rasterized=True)
        canvas.color_bar(ax, mesh, "pixels")
        ax.plot(edges[[0, -1]], edges[[0, -1]], color=BLACK, lw=1.2, label="κ = β ρ")
        dots: dict[str, Any] = {"fmt": "o", "ms": 3.5, "color": RED, "lw": 1, "capsize": 1.5}
        if relation is None:
            middle, mean, spread = _binned_log(r, k, n_bins)
            label = "mean and dispersion of log κ"
            ax.errorbar(middle, mean, spread, **dots, label=label, zorder=4)
        else:
            label = "median and 68 % of β ρ in bins of κ"
            ax.errorbar(*_binned_ratio(relation), **dots, label=label, zorder=4)
        log_axes(ax, edges, edges)
        ax.set_aspect("equal")
        ax.legend(loc="upper left")
    return Path(path)


def _binned_ratio(relation: xr.Dataset) -> tuple[np.ndarray, np.ndarray, None, np.ndarray]:
    """Median of beta rho, kappa, and bars of beta rho in bins of kappa that hold 10 pixels."""
    some = relation.isel(bin=np.flatnonzero(np.asarray(relation["n_pixels"]) >= 10))
    kappa = np.asarray(some["kappa_mean"], float)
    low, middle, high = (
        kappa * 10 ** np.asarray(some[name], float) for name in ("low", "median", "high")
    )
    return middle, kappa, None, np.array([middle - low, high - middle])


def _binned_log(x: np.ndarray, y: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Geometric mean of y and its dispersion in equal bins of log x that hold 10 points."""
    lx, ly = np.log10(x), np.log10(y)
    edges = np.linspace(np.percentile(lx, 0.1), np.percentile(lx, 99.9), n + 1)
    which = np.clip(np.searchsorted(edges, lx) - 1, 0, n - 1)
    counts = np.bincount(which, minlength=n)
    safe = np.maximum(counts, 1)
    mean = np.bincount(which, ly, n) / safe
    std = np.sqrt(np.maximum(np.bincount(which, (ly - mean[which]) ** 2, n) / safe, 0))
    keep = counts >= 10
    middle = 10 ** ((edges[1:] + edges[:-1]) / 2)[keep]
    value = 10 ** mean[keep]
    bars = np.array([value - 10 ** (mean - std)[keep], 10 ** (mean + std)[keep] - value])
    return middle, value, bars


def profiles(
    path: Any,
    *,
    gc: xr.Dataset,
    kappa: xr.Dataset | None = None,
    rho: Mapping[float, xr.Dataset] | None = None,
    light: xr.Dataset | None = None,
    contamination: xr.Dataset | None = None,
    beta: Mapping[float, float] | float = 1.0,
    gc_scale: float | None = None,
    slope_range: tuple[float, float] | None = (13.0, 60.0),
    slope: xr.Dataset | None = None,
    lensing_range: tuple[float, float] | None = None,
    kpc_per_arcsec: float | None = None,
) -> Path:
    """Radial profiles of clusters, convergence, density and light (figure 7).

    Parameters
    ----------
    path : path
        PNG to write.
    gc : Dataset
        Profile of the catalogue (`gcdask.radial_profile`): ``r``, ``n``, ``n_low``, ``n_high``;
        with ``n_corrected`` (`profiles.subtract`) that is drawn too. Annuli without area are gaps.
    kappa, light : Dataset, optional
        Profiles of maps (``r``, ``mean``). Light is scaled to the convergence at its median
        radius, or to the clusters.
    rho : mapping of float to Dataset, optional
        Profiles of density maps by the alpha of their kernel; the middle one is drawn solid.
    contamination : Dataset, optional
        ``value`` in arcsec-2.
    beta : float or mapping of float to float
        Factors of the densities (one for all, or by alpha).
    gc_scale : float, optional
        The densities of clusters are divided by this; by default the power of two that brings
        them nearest to the convergence.
    slope_range : (float, float), optional
        Radii between which the slope was fitted: shaded.
    slope : Dataset, optional
        From `profiles.fit_slope`: ``slope``, ``slope_error``, ``amplitude``, ``r0``.
    lensing_range : (float, float), optional
        Radii with lensing constraints, marked by dotted lines.
    kpc_per_arcsec : float, optional
        For an axis in kpc at the top.
    """
    scale = _scale(gc, kappa) if gc_scale is None else gc_scale
    divided = "" if scale == 1 else f" / {scale:g}" if scale > 1 else f" × {1 / scale:g}"
    with canvas.figure(path, 6.6, 6.0) as fig:
        ax = fig.add_subplot()
        if slope_range is not None:
            ax.axvspan(*slope_range, color="#f2e6c9", lw=0, zorder=0, label="range of the slope")
        for limit, label in zip(lensing_range or (), ("lensing constraints", None), strict=False):
            ax.axvline(limit, color=BLUE, ls=":", lw=1, label=label)
        r = np.asarray(gc["r"])
        low, high = (_value(gc, k, "n") / scale for k in ("n_low", "n_high"))
        found = np.asarray(gc["counts"] if "counts" in gc else gc["n"]) > 0
        ax.fill_between(r, low, high, where=found, color=BLACK, alpha=0.18, lw=0)
        _curve(ax, r, gc["n"] / scale, BLACK, 2.2, "-", f"n$_{{GC}}${divided}", marker="o")
        if "n_corrected" in gc:
            label = f"n$_{{GC}}${divided}, contamination subtracted"
            _curve(ax, r, gc["n_corrected"] / scale, BLACK, 1, "-", label)
        if contamination is not None and np.isfinite(float(contamination["value"])):
            level = float(contamination["value"]) / scale
            ax.axhline(level, color=BLACK, ls=":", lw=1.2, label=f"contamination{divided}")
        if kappa is not None:
            _curve(ax, kappa["r"], kappa["mean"], BLUE, 2.0, "-", "κ (lens model)")
        alphas = sorted(rho or {})
        for i, alpha in enumerate(alphas):
            factor = beta[alpha] if isinstance(beta, Mapping) else beta
            main = i == len(alphas) // 2
            style = "-" if main else (":" if i < len(alphas) // 2 else "-.")
            label = f"β ρ, α = {alpha:g}"
            one = (rho or {})[alpha]
            _curve(ax, one["r"], factor * one["mean"], RED, 1.8 if main else 1.2, style, label)
        if light is not None:
            factor = _light_factor(light, kappa if kappa is not None else gc / scale)
            _curve(ax, light["r"], factor * light["mean"], ORANGE, 1.6, "-", "light (scaled)")
        if slope is not None and slope_range is not None:
            _draw_slope(ax, slope, slope_range, scale)
        log_axes(ax, *_extent(ax))
        ax.set_xlabel("distance from the centre  [arcsec]")
        ax.set_ylabel(f"κ,  β ρ,  n$_{{GC}}${divided} [arcsec$^{{-2}}$]")
        if kpc_per_arcsec:
            _kpc_axis(ax, kpc_per_arcsec)
        fig.legend(loc="outside lower center", ncols=3, frameon=False)
    return Path(path)


def _value(table: xr.Dataset, name: str, instead: str) -> np.ndarray:
    return np.asarray(table[name] if name in table else table[instead], float)


def _scale(gc: xr.Dataset, kappa: xr.Dataset | None) -> float:
    """Power of two (the paper: 4) that brings the densities to the convergence."""
    if kappa is None:
        return 1.0
    n = np.asarray(gc["n"], float)
    k = np.interp(np.asarray(gc["r"]), np.asarray(kappa["r"]), np.asarray(kappa["mean"], float))
    good = (n > 0) & (k > 0)
    return float(2.0 ** np.round(np.median(np.log2(n[good] / k[good])))) if good.any() else 1.0


def _light_factor(light: xr.Dataset, other: xr.Dataset) -> float:
    name = "mean" if "mean" in other else "n"
    value = np.interp(
        np.asarray(light["r"]), np.asarray(other["r"]), np.asarray(other[name], float)
    )
    mean = np.asarray(light["mean"], float)
    good = (mean > 0) & (value > 0)
    return float(np.median(value[good] / mean[good])) if good.any() else 1.0


def _curve(
    ax: Axes, r: Any, value: Any, color: str, lw: float, ls: str, label: str, *, marker: str = ""
) -> None:
    value = np.asarray(value, float)
    value = np.where(value > 0, value, np.nan)  # gaps, not plunges, on logarithmic axes
    ax.plot(np.asarray(r), value, color=color, lw=lw, ls=ls, marker=marker, ms=3, label=label)


def _draw_slope(ax: Axes, slope: xr.Dataset, reach: tuple[float, float], scale: float) -> None:
    names = ("slope", "slope_error", "amplitude", "r0")
    power, error, amplitude, r0 = (float(slope[k]) for k in names)
    if not np.isfinite([power, amplitude, r0]).all():
        return
    radii = np.asarray(reach, float)
    label = f"n ∝ r$^{{{power:.2f} ± {error:.2f}}}$"
    ax.plot(
        radii, amplitude / scale * (radii / r0) ** power, color=GREEN, lw=2, ls="--", label=label
    )


def _extent(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Positive values of the curves, whatever shades and lines stretch over the whole axes."""
    xs, ys = [], []
    for line in ax.get_lines():
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        if x.size > 2:
            xs.append(x)
            ys.append(y)
    return (np.concatenate(v) if v else np.array([1.0, 10.0]) for v in (xs, ys))  # type: ignore


def _kpc_axis(ax: Axes, kpc: float) -> None:
    top = ax.secondary_xaxis(
        "top", functions=(lambda r: np.asarray(r) * kpc, lambda d: np.asarray(d) / kpc)
    )
    top.set_xlabel("distance  [kpc]")
    top.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.tick_params(axis="x", which="both", top=False)


def threshold_curve(
    level: Any,
    positive: Any,
    negative: Any,
    path: Any,
    *,
    threshold: float | None = None,
    catalog_level: float | None = None,
    unit: str = "",
) -> Path:
    """Peaks above a level on the detection map and on its negative, and the purity.

    Parameters
    ----------
    level : array-like, shape (m,)
        Levels, increasing.
    positive, negative : array-like, shape (m,)
        Number of peaks above each level on the map and on the negated map.
    path : path
        PNG to write.
    threshold, catalog_level : float, optional
        T and the level of the catalogue (2T), marked.
    unit : str
        Unit of the levels.
    """
    level, pos, neg = (np.asarray(v, float) for v in (level, positive, negative))
    with canvas.figure(path, 5.8, 5.0) as fig:
        top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        for counts, color, label in ((pos, RED, "peaks"), (neg, BLUE, "peaks of the negated map")):
            top.step(level, np.where(counts > 0, counts, np.nan), where="mid", color=color, lw=1.6,
                     label=label)  # fmt: skip
        with np.errstate(invalid="ignore", divide="ignore"):
            purity = np.where(pos > 0, np.clip(1 - neg / pos, 0, 1), np.nan)
        bottom.plot(level, purity, color=GREEN, lw=1.8)
        marks = ((threshold, "T", "--"), (catalog_level, "catalogue", "-"))
        for value, label, style in marks:
            if value is None:
                continue
            for ax in (top, bottom):
                ax.axvline(value, color=BLACK, lw=1, ls=style)
            at = np.interp(value, level, np.nan_to_num(purity)) if level.size else np.nan
            top.plot([], [], color=BLACK, lw=1, ls=style,
                     label=f"{label} = {value:.3g}, purity {100 * at:.1f} %")  # fmt: skip
        if (pos > 0).any():
            top.set_yscale("log")
        if level.size and level[0] > 0:
            bottom.set_xscale("log")
            canvas.plain_ticks(bottom.xaxis)
        top.set_ylabel("peaks above the level")
        bottom.set_ylabel("purity")
        bottom.set_ylim(-0.03, 1.05)
        bottom.set_xlabel("level" + (f"  [{unit}]" if unit else ""))
        top.legend(loc="upper right")
    return Path(path)


def log_axes(ax: Axes, x: Any, y: Any) -> None:
    """Logarithmic axes around the positive values, with plain numbers at the ticks."""
    for values, scale, limit, axis in (
        (x, ax.set_xscale, ax.set_xlim, ax.xaxis),
        (y, ax.set_yscale, ax.set_ylim, ax.yaxis),
    ):
        values = np.asarray(values, float)
        values = values[np.isfinite(values) & (values > 0)]
        scale("log")
        low, high = (values.min(), values.max()) if values.size else (0.1, 10)
        limit(low / 1.3, high * 1.3)
        canvas.plain_ticks(axis)
