"""Figures on the sky: detections, sources, masks, density against convergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch

from gcdask.catalog import pixel_positions
from gcdask.grid import Grid, tangent_offsets
from gcdask.masks import Flag
from gcdask.plots import canvas
from gcdask.plots.canvas import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, YELLOW

# cause, label, colour; of several causes of one pixel the last one is drawn
CAUSES = [
    (Flag.EDGE, "edge frame", "#4d4d4d"),
    (Flag.NODATA, "no data", "#bdbdbd"),
    (Flag.EXTENDED, "extended", BLUE),
    (Flag.LUMINOUS, "luminous peaks", ORANGE),
    (Flag.BRIGHT, "bright sources", YELLOW),
    (Flag.SPIKE, "diffraction spikes", PURPLE),
    (Flag.REGION, "regions", GREEN),
    (Flag.USER, "user mask", "#7f5539"),
]


def source_map(
    catalog: pd.DataFrame,
    path: Any,
    *,
    inpainted: pd.DataFrame | None = None,
    center: tuple[float, float],
    frames: Sequence[Grid] = (),
    members: Any = None,
    kpc_per_arcsec: float | None = None,
) -> Path:
    """Positions of detected (red) and inpainted (black) sources (Diego et al. 2026, figure 2).

    Parameters
    ----------
    catalog, inpainted : pandas.DataFrame
        With ``ra``, ``dec`` (deg).
    path : path
        PNG to write.
    center : (float, float)
        RA, Dec (deg) of the offsets' zero, the brightest cluster galaxy.
    frames : sequence of Grid
        Mosaics whose outlines are drawn.
    members : array-like, shape (n, 2), optional
        RA, Dec (deg) of galaxies to ring in blue.
    kpc_per_arcsec : float, optional
        For a scale bar.
    """
    with canvas.figure(path, 6.2, 6.2) as fig:
        ax = fig.add_subplot()
        reach = [np.zeros((2, 1))]
        for grid in frames:
            east, north = canvas.outline(grid, center)
            ax.plot(east, north, color=GREY, lw=0.8)
            reach.append(np.array([east, north]))
        drawn = [(catalog, RED, "detected")]
        if inpainted is not None:
            drawn.append((inpainted, BLACK, "inpainted"))
        size = canvas.dot_size(sum(len(table) for table, _, _ in drawn))
        for table, color, label in drawn:
            east, north = _offsets(table, center)
            ax.scatter(east, north, s=size, c=color, lw=0, label=f"{label} ({len(table)})")
            reach.append(np.array([east, north]))
        if members is not None and len(members):
            spots = np.atleast_2d(np.asarray(members, float))
            east, north = tangent_offsets(spots[:, 0], spots[:, 1], center)
            ax.scatter(
                east, north, s=90, fc="none", ec=BLUE, lw=1.3, label=f"members ({len(spots)})"
            )
        canvas.fit_sky(ax, *np.concatenate(reach, axis=1))
        _finish(ax, kpc_per_arcsec, legend=True)
    return Path(path)


def detection_panels(
    zooms: Sequence[xr.DataArray],
    mask: xr.DataArray,
    catalog: pd.DataFrame,
    path: Any,
    *,
    zoom_masks: Sequence[xr.DataArray | None] | None = None,
    center: tuple[float, float] | None = None,
    radius: float = 3,
) -> Path:
    """Zooms into the detection map with the sources found, and the whole mask (figure 1).

    Parameters
    ----------
    zooms : sequence of DataArray, at most 4
        Cut-outs (y, x) of the detection map at full resolution, in memory.
    mask : DataArray
        Mask of the whole field, bits or bool; may be coarse.
    catalog : pandas.DataFrame
        Sources with ``ra``, ``dec``.
    path : path
        PNG to write.
    zoom_masks : sequence of DataArray, optional
        Mask of each cut-out, drawn as an outline.
    center : (float, float), optional
        RA, Dec (deg) of the zero of the offsets in the last panel.
    radius : float
        Radius in pixels of the circles around sources.
    """
    zooms = list(zooms)[:4]
    masks = list(zoom_masks or []) + [None] * len(zooms)
    center = canvas.sky_center(Grid.of(mask), center)
    with canvas.figure(path, 9.6, 5.0) as fig:
        left, right = _split(fig)
        for i, (zoom, hidden) in enumerate(zip(zooms, masks, strict=False)):
            ax = left.add_subplot(2, 2, i + 1)
            _zoom(ax, zoom, hidden, catalog, "ABCD"[i], radius)
        ax = right.add_subplot()
        binary = ListedColormap(["white", BLACK])
        canvas.sky_image(ax, mask != 0, center, cmap=binary, vmin=0, vmax=1)
        for i, zoom in enumerate(zooms):
            east, north = canvas.outline(Grid.of(zoom), center)
            ax.plot(east, north, color=RED, lw=1.3)
            ax.annotate(
                "ABCD"[i],
                (east.min(), north.max()),
                xytext=(2, 1),
                textcoords="offset points",
                color=RED,
                weight="bold",
                path_effects=canvas.HALO,
            )
        ax.set_title(f"mask: {100 * float((mask != 0).mean()):.1f} % of the array")
        canvas.compass(ax)
    return Path(path)


def mask_map(
    mask: xr.DataArray,
    path: Any,
    *,
    catalog: pd.DataFrame | None = None,
    inpainted: pd.DataFrame | None = None,
    center: tuple[float, float] | None = None,
    kpc_per_arcsec: float | None = None,
) -> Path:
    """Mask by cause, with the sources detected (red) and inpainted (cyan) (figure 6).

    Parameters
    ----------
    mask : DataArray
        Bits of `gcdask.masks.Flag`, (y, x), in memory, may be coarse; a bool mask is one cause.
    path : path
        PNG to write.
    catalog, inpainted : pandas.DataFrame, optional
        With ``ra``, ``dec``.
    center : (float, float), optional
        RA, Dec (deg) of the zero of the offsets; the middle of the map by default.
    kpc_per_arcsec : float, optional
        For a scale bar.
    """
    bits = mask.astype(np.uint16) * int(Flag.USER) if mask.dtype == bool else mask
    center = canvas.sky_center(Grid.of(mask), center)
    values = np.asarray(bits.transpose("y", "x"))
    cause = np.zeros(values.shape, np.uint8)
    handles: list[Any] = []
    for i, (flag, label, color) in enumerate(CAUSES, 1):
        hit = (values & int(flag)) != 0
        cause[hit] = i
        if hit.any():
            handles.append(Patch(fc=color, ec="none", label=f"{label} ({100 * hit.mean():.1f} %)"))
    colors = ListedColormap(["white", *(color for _, _, color in CAUSES)])
    with canvas.figure(path, 6.4, 6.8) as fig:
        ax = fig.add_subplot()
        shown = bits.transpose("y", "x").copy(data=cause)
        norm = BoundaryNorm(np.arange(len(CAUSES) + 2) - 0.5, colors.N)
        canvas.sky_image(ax, shown, center, cmap=colors, norm=norm)
        total = sum(len(t) for t in (catalog, inpainted) if t is not None)
        for table, color, label in (
            (catalog, "#d7191c", "detected"),
            (inpainted, SKY, "inpainted"),
        ):
            if table is not None:
                east, north = _offsets(table, center)
                ax.scatter(east, north, s=canvas.dot_size(total), c=color, lw=0)
                handles.append(_dot(color, f"{label} ({len(table)})"))
        _finish(ax, kpc_per_arcsec)
        if handles:
            fig.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return Path(path)


def density_kappa(
    rho: xr.DataArray,
    kappa: xr.DataArray | None,
    path: Any,
    *,
    center: tuple[float, float] | None = None,
    kappa_levels: Sequence[float] = (0.2, 0.3, 0.5, 0.8, 1.2, 1.8),
    thick: Sequence[float] = (0.3, 1.8),
    rho_levels: Any = None,
    critical: Sequence[np.ndarray] = (),
    critical_label: str = "critical curves",
    kpc_per_arcsec: float | None = None,
) -> Path:
    """Density in grey with its contours (green) and those of the convergence (cyan) (figure 4).

    Parameters
    ----------
    rho, kappa : DataArray
        Maps (y, x) in memory, each on its own grid; ``kappa`` may be absent.
    path : path
        PNG to write.
    center : (float, float), optional
        RA, Dec (deg) of the zero of the offsets; the middle of ``rho`` by default.
    kappa_levels, thick : sequence of float
        Contours of the convergence, and which of them are drawn thick.
    rho_levels : sequence of float, optional
        Contours of the density; by default those that enclose as much of the map as the contours
        of the convergence do, so that the shapes compare.
    critical : sequence of ndarray, shape (n, 2)
        Curves of RA, Dec (deg) drawn in red, such as a lens's ``critical_curves``.
    critical_label : str
        What the legend calls them.
    kpc_per_arcsec : float, optional
        For a scale bar.
    """
    center = canvas.sky_center(Grid.of(rho), center)
    with canvas.figure(path, 6.6, 5.8) as fig:
        ax = fig.add_subplot()
        grey = canvas.stretch(rho, 2, 99.9)
        shown = canvas.sky_image(ax, rho, center, cmap="Greys", norm=grey)
        limits = ax.get_xlim(), ax.get_ylim()
        unit = canvas.unit_label(str(rho.attrs.get("units", "")))
        bar = canvas.color_bar(ax, shown, f"ρ  [{unit or 'sum of W'}]")
        ticks = grey.inverse(np.linspace(0, 1, 6))
        bar.set_ticks(ticks, labels=[f"{t:.3g}" for t in ticks])
        bar.minorticks_off()
        handles = []
        if kappa is not None:
            levels = sorted(kappa_levels)
            if rho_levels is None:
                rho_levels = _same_area(rho, kappa, levels)
            widths = [2.0 if k in thick else 1.0 for k in levels]
            label = "κ = " + ", ".join(f"{k:g}" for k in levels)
            handles.append(_contours(ax, kappa, center, levels, "#00a9c7", widths, "--", label))
        if rho_levels is None:
            rho_levels = np.nanpercentile(rho, [50, 70, 85, 95, 99])
        handles.insert(0, _contours(ax, rho, center, rho_levels, GREEN, 1.2, "-", "ρ"))
        for curve in critical:
            ra, dec = np.asarray(curve, float).T
            ax.plot(*tangent_offsets(ra, dec, center), color=RED, lw=1.1)
        if len(critical):
            handles.append(Line2D([], [], color=RED, lw=1.4, label=critical_label))
        ax.set_xlim(limits[0])
        ax.set_ylim(limits[1])
        _finish(ax, kpc_per_arcsec)
        ax.legend(handles=handles, loc="upper left")
    return Path(path)


def _contours(
    ax: Axes,
    image: xr.DataArray,
    center: tuple[float, float],
    levels: Sequence[float],
    color: str,
    widths: Any,
    style: str,
    label: str,
) -> Line2D:
    grid = Grid.of(image)
    values = np.asarray(image.transpose("y", "x"), float)
    if min(values.shape) >= 2 and np.isfinite(values).any():
        east, north = grid.offsets(*grid.mesh(), center)
        levels = sorted(set(map(float, levels)))
        ax.contour(
            east, north, values, levels=levels, colors=color, linewidths=widths, linestyles=style
        )
    return Line2D([], [], color=color, lw=1.4, ls=style, label=label)


def _same_area(rho: xr.DataArray, kappa: xr.DataArray, levels: Sequence[float]) -> np.ndarray:
    """Levels of rho that enclose the solid angles which the contours of kappa enclose."""
    k, r = (np.asarray(m, float)[np.isfinite(m)] for m in (kappa, rho))
    cell = (Grid.of(kappa).pixel_scale / Grid.of(rho).pixel_scale) ** 2
    above = np.array([(k > level).sum() * cell for level in levels])
    share = above[(above > 0) & (above < r.size)] / max(r.size, 1)
    return np.unique(np.quantile(r, 1 - share)) if share.size else np.quantile(r, [0.5, 0.9])


def _zoom(
    ax: Axes,
    zoom: xr.DataArray,
    hidden: xr.DataArray | None,
    catalog: pd.DataFrame,
    label: str,
    radius: float,
) -> None:
    """Cut-out in its own pixels, so that circles are those of the peak rule."""
    grid = Grid.of(zoom)
    values = np.asarray(zoom.transpose("y", "x"), float)
    box = (grid.x[0] - 0.5, grid.x[-1] + 0.5, grid.y[0] - 0.5, grid.y[-1] + 0.5)
    ax.imshow(values, origin="lower", cmap="Greys", norm=canvas.stretch(values), extent=box)
    if hidden is not None and 0 < float((hidden != 0).mean()) < 1:
        flags = np.asarray((hidden != 0).transpose("y", "x"), float)
        at = Grid.of(hidden)
        ax.contour(at.x, at.y, flags, levels=[0.5], colors=BLUE, linewidths=1.1)
    x, y = pixel_positions(catalog, grid)
    near = (x > box[0]) & (x < box[1]) & (y > box[2]) & (y < box[3])
    for cx, cy in zip(x[near][:2000], y[near][:2000], strict=True):
        ax.add_patch(_ring(cx, cy, radius))
    ax.set_xlim(box[:2])
    ax.set_ylim(box[2:])
    ax.set_xticks([])
    ax.set_yticks([])
    ax.text(
        0.04, 0.96, f"{label}   {near.sum()}", transform=ax.transAxes, va="top", weight="bold",
        path_effects=canvas.HALO,
    )  # fmt: skip
    arcsec = grid.global_scale
    length = max(v for v in (0.5, 1, 2, 5, 10, 20) if v <= max(0.3 * (box[1] - box[0]) * arcsec, 1))
    canvas.scale_bar(ax, length / arcsec, f"{length:g}″")
    east, north = grid.offsets(*_step(grid), canvas.sky_center(grid, None))
    jacobian = np.linalg.inv(np.array([np.diff(east[:2])[0], np.diff(east[::2])[0],
                                       np.diff(north[:2])[0], np.diff(north[::2])[0]])
                             .reshape(2, 2))  # fmt: skip
    ways = [column / np.linalg.norm(column) for column in jacobian.T]
    canvas.compass(ax, directions=(ways[0], ways[1]))


def _ring(x: float, y: float, radius: float) -> Any:
    return Circle((x, y), radius, fc="none", ec=ORANGE, lw=0.9)


def _step(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    x, y = grid.center
    return np.array([x, x + 1, x]), np.array([y, y, y + 1])


def _split(fig: Figure) -> tuple[Any, Any]:
    made: Any = fig.subfigures(1, 2, width_ratios=[1, 1])
    return made[0], made[1]


def _offsets(table: pd.DataFrame | Mapping, center: tuple[float, float]) -> tuple:
    return tangent_offsets(np.asarray(table["ra"]), np.asarray(table["dec"]), center)


def _dot(color: str, label: str) -> Line2D:
    return Line2D([], [], marker="o", ls="none", ms=4, color=color, label=label)


def _finish(ax: Axes, kpc_per_arcsec: float | None, *, legend: bool = False) -> None:
    ax.plot(0, 0, marker="+", color=BLACK, ms=7, mew=1, ls="none")
    canvas.compass(ax)
    canvas.kpc_bar(ax, kpc_per_arcsec)
    if legend:
        shown = ax.legend(loc="upper right", markerscale=1)
        for handle in shown.legend_handles:
            if handle is not None and hasattr(handle, "set_sizes"):
                handle.set_sizes([18])
