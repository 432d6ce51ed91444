"""What all figures share: style, colours, sky axes in arcsec with north up and east left.

Figures are made with matplotlib's objects alone (no pyplot), so that they can be drawn in any
thread of any process and leave no state behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy import units as u
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Affine2D

from gcdask.errors import InputError
from gcdask.grid import Grid

# Okabe & Ito (2008): told apart with any colour vision
BLACK, GREY, RED, BLUE = "#1a1a1a", "#8c8c8c", "#d55e00", "#0072b2"
SKY, GREEN, ORANGE, PURPLE, YELLOW = "#56b4e9", "#009e73", "#e69f00", "#cc79a7", "#f0e442"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "mathtext.fontset": "dejavusans",
    "axes.labelsize": 9.5,
    "axes.titlesize": 10,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#333333",
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "#cccccc",
    "savefig.dpi": 150,
    "savefig.bbox": "tight",  # square axes can outgrow what the layout foresees
    "savefig.pad_inches": 0.06,
}
HALO = [withStroke(linewidth=2.2, foreground="white")]


@contextmanager
def figure(path: Any, width: float, height: float) -> Iterator[Figure]:
    """Figure of ``width`` x ``height`` inches that is written to ``path`` as PNG at the end.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    with rc_context(STYLE):
        made = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(made)
        yield made
        try:
            made.savefig(Path(path), format="png", metadata={"Software": None})
        except OSError as error:
            raise InputError(f"cannot write {path} ({error}); choose another folder") from error


# -- the sky ------------------------------------------------------------------------------------
def sky_center(grid: Grid, center: tuple[float, float] | None) -> tuple[float, float]:
    """RA, Dec (deg) from which offsets are measured: ``center`` or the middle of the grid."""
    if center is not None:
        return center
    ra, dec = grid.sky(*grid.center)
    return float(ra), float(dec)


def affine(grid: Grid, center: tuple[float, float]) -> Affine2D:
    """Transform from array indices (x, y) to offsets (east, north) in arcsec.

    Exact to the curvature of the sky over the field (1e-6 of an arcminute field).
    """
    ny, nx = grid.shape
    x, y = np.array([0.0, nx, 0.0]), np.array([0.0, 0.0, ny])
    gx, gy = grid.origin[1] + grid.step * x, grid.origin[0] + grid.step * y
    east, north = grid.offsets(gx, gy, center)
    (a, b), (c, d) = (((v[1] - v[0]) / nx, (v[2] - v[0]) / ny) for v in (east, north))
    return Affine2D(np.array([[a, b, east[0]], [c, d, north[0]], [0, 0, 1]]))


def outline(grid: Grid, center: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (east, north) of the four corners of a grid, the first one twice."""
    ny, nx = grid.shape
    corners = np.array([[0, 0], [nx, 0], [nx, ny], [0, ny], [0, 0]], float) - 0.5
    east, north = affine(grid, center).transform(corners).T
    return east, north


def sky_image(ax: Axes, image: xr.DataArray, center: tuple[float, float], **options: Any) -> Any:
    """Draw a map on sky axes, whatever its rotation, and fit the axes to it."""
    grid = Grid.of(image)
    shown = ax.imshow(
        np.asarray(image.transpose("y", "x")), origin="lower", interpolation="nearest", **options
    )
    shown.set_transform(affine(grid, center) + ax.transData)
    east, north = outline(grid, center)
    fit_sky(ax, east, north, pad=0)
    return shown


def fit_sky(ax: Axes, east: Any, north: Any, *, pad: float = 0.03) -> None:
    """Limit sky axes to these offsets (arcsec), north up and east to the left."""
    east, north = (np.asarray(v, float)[np.isfinite(v)] for v in (east, north))
    if not east.size:
        east = north = np.array([-1.0, 1.0])
    half = (1 + 2 * pad) * max(np.ptp(east), np.ptp(north), 1e-3) / 2
    x, y = (east.min() + east.max()) / 2, (north.min() + north.max()) / 2
    ax.set_xlim(x + half, x - half)
    ax.set_ylim(y - half, y + half)
    ax.set_aspect("equal")
    ax.set_xlabel("ΔRA cos δ  [arcsec]")
    ax.set_ylabel("ΔDec  [arcsec]")


def compass(ax: Axes, *, directions: tuple | None = None, color: str = BLACK) -> None:
    """Arrows N and E in the lower left corner; ``directions`` if they are not up and left."""
    east, north = directions or ((-1.0, 0.0), (0.0, 1.0))
    corner = np.array([0.165, 0.055])
    corner = corner + 0.09 * np.clip(-np.minimum(east, north), 0, None) * [0.3, 1]
    for label, way in (("E", np.asarray(east)), ("N", np.asarray(north))):
        tip = corner + 0.09 * way
        ax.annotate(
            "",
            tip,
            corner,
            xycoords="axes fraction",
            arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.1, "shrinkA": 0, "shrinkB": 0},
        )
        ax.text(
            float(corner[0] + 0.125 * way[0]),
            float(corner[1] + 0.125 * way[1]),
            label,
            transform=ax.transAxes,
            ha="center",
            va="center",
            fontsize=8,
            color=color,
            path_effects=HALO if color == BLACK else None,
        )


def scale_bar(ax: Axes, length: float, label: str, *, color: str = BLACK) -> None:
    """Bar of ``length`` data units in the lower right corner."""
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    sign = np.sign(x1 - x0)
    right, low = x1 - 0.05 * (x1 - x0), y0 + 0.05 * (y1 - y0)
    effects = HALO if color == BLACK else None
    ax.plot([right - sign * length, right], [low, low], color=color, lw=2, path_effects=effects)
    ax.text(
        right - sign * length / 2,
        low + 0.015 * (y1 - y0),
        label,
        ha="center",
        va="bottom",
        fontsize=8,
        color=color,
        path_effects=effects,
    )


def kpc_bar(ax: Axes, kpc_per_arcsec: float | None) -> None:
    """Scale bar of a round number of kpc, about a fifth of the axes; none without a scale."""
    if not kpc_per_arcsec:
        return
    room = abs(np.subtract(*ax.get_xlim())) / 4 * kpc_per_arcsec
    power = 10.0 ** np.floor(np.log10(room))
    kpc = max(m * power for m in (1, 2, 5) if m * power <= room)
    scale_bar(ax, kpc / kpc_per_arcsec, f"{kpc:g} kpc")


def stretch(values: Any, low: float = 1, high: float = 99.5) -> Normalize:
    """Asinh stretch between two percentiles of the finite values."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not values.size:
        return Normalize(0, 1)
    lo, hi = np.percentile(values, [low, high])
    if not hi > lo:
        return Normalize(lo - 0.5, lo + 0.5)
    return AsinhNorm(linear_width=max((hi - lo) / 20, 1e-30), vmin=lo, vmax=hi)


def color_bar(ax: Axes, shown: Any, label: str) -> Any:
    """Colour bar as high as the axes, also where these are square."""
    bar = ax.figure.colorbar(shown, cax=ax.inset_axes((1.02, 0, 0.035, 1)))
    bar.set_label(label)
    return bar


def unit_label(text: str) -> str:
    """A unit for an axis: ``1 / arcsec(8/5)`` becomes arcsec with exponent -1.6."""
    try:
        unit = u.Unit(text)
        names = [b.to_string() for b in unit.bases]
        powers = [f"$^{{{float(p):.3g}}}$" if p != 1 else "" for p in unit.powers]
    except (ValueError, TypeError):
        return text
    scale = "" if unit.scale == 1 else f"{unit.scale:.3g} "
    return scale + " ".join(n + p for n, p in zip(names, powers, strict=True))


def plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers, between the decades too where it is short."""
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low) if low > 0 else 9
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    shown = {1: range(2, 10), 2: (2, 5)}.get(int(np.ceil(decades * 1.3)), ())

    def minor(value: float, _: int) -> str:
        digit = value / 10 ** np.floor(np.log10(value) + 1e-9)
        return f"{value:g}" if round(digit) in shown else ""

    axis.set_minor_formatter(FuncFormatter(minor))


def dot_size(n: int) -> float:
    """Marker area (pt^2) at which ``n`` dots show density rather than a blot."""
    return float(np.clip(6000 / max(n, 1), 0.6, 14))
