"""Stars and their diffraction spikes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from gcdask.grid import Grid
from gcdask.masks.shapes import MaskPlan
from gcdask.survey import Survey


def star_table(plan: MaskPlan, survey: Survey) -> pd.DataFrame:
    """Stars that are masked: ``x``, ``y`` and, in px, ``length`` of spikes and ``core`` radius."""
    spikes, scale = plan.rules.spikes, plan.grid.pixel_scale
    if spikes is None:
        return pd.DataFrame({k: np.array([]) for k in ("x", "y", "length", "core")})
    given = pd.DataFrame(plan.stars, columns=["x", "y", "length"], dtype=float)
    given["core"] = spikes.core / scale
    if survey.stars is None:
        return given
    found = survey.stars[survey.stars["contrast"] >= spikes.contrast]
    s = found["snr"].to_numpy() / 1000
    y0, x0 = plan.grid.origin
    auto = pd.DataFrame(
        {
            "x": found["x"].to_numpy() + x0,
            "y": found["y"].to_numpy() + y0,
            "length": spikes.length / scale * np.sqrt(s),
            "core": spikes.core / scale * np.cbrt(s),
        }
    )
    return pd.concat([given, auto], ignore_index=True)


def stars_near(y: np.ndarray, x: np.ndarray, plan: MaskPlan, survey: Survey) -> np.ndarray:
    """Rows (x, y, length, core, reach), all in px, of the stars that reach a window's pixels."""
    assert plan.rules.spikes is not None
    half = plan.rules.spikes.width / plan.grid.pixel_scale / 2
    table = star_table(plan, survey)[["x", "y", "length", "core"]].to_numpy(float)
    reaches = np.maximum(table[:, 2], table[:, 3]) + half
    near = np.ones(len(table), bool)  # a field has many stars, a window few
    for at, window in ((table[:, 1], y), (table[:, 0], x)):
        near &= (at + reaches >= window[0]) & (at - reaches <= window[-1])
    return np.column_stack([table, reaches])[near]


def spike_pixels(y: np.ndarray, x: np.ndarray, plan: MaskPlan, survey: Survey) -> np.ndarray:
    """Pixels of the stars' cores and spikes in a window at global ``y``, ``x``."""
    out = np.zeros((y.size, x.size), bool)
    assert plan.rules.spikes is not None
    given = plan.rules.spikes.angles
    known = np.isfinite(survey.angle)
    angles = survey.angle + 60 * np.arange(6) if known else np.array([])
    half = plan.rules.spikes.width / plan.grid.pixel_scale / 2
    for at_x, at_y, length, core, reach in stars_near(y, x, plan, survey):
        ys = slice(*np.searchsorted(y, [at_y - reach, at_y + reach]))
        xs = slice(*np.searchsorted(x, [at_x - reach, at_x + reach]))
        if ys.stop <= ys.start or xs.stop <= xs.start:
            continue
        dy, dx = (y[ys] - at_y)[:, None], x[xs] - at_x
        hit = dy**2 + dx**2 <= core**2
        if given is not None:
            angles = _pixel_angles(given, plan.grid, at_x, at_y)
        for angle in np.deg2rad(angles):
            cos, sin = np.cos(angle), np.sin(angle)
            along, across = dx * cos + dy * sin, dy * cos - dx * sin
            hit |= (along >= 0) & (along <= length) & (np.abs(across) <= half)
        out[ys, xs] |= hit
    return out


def _pixel_angles(position_angles: Sequence[float], grid: Grid, x: float, y: float) -> np.ndarray:
    """Directions on the pixels at ``x``, ``y``, deg from +x to +y, of position angles."""
    ra, dec = grid.sky(x, y)
    pa, far = np.deg2rad(position_angles), 1 / 3600
    to_x, to_y = grid.pixel(ra + far * np.sin(pa) / np.cos(np.deg2rad(dec)), dec + far * np.cos(pa))
    return np.asarray(np.rad2deg(np.arctan2(to_y - y, to_x - x)))
