"""All bits of one window: NumPy in, NumPy out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from regions import PixCoord, PixelRegion

from gcdask.grid import Tile
from gcdask.kernels import highpass as hp
from gcdask.kernels import sums
from gcdask.masks.rules import Flag
from gcdask.masks.shapes import MaskPlan
from gcdask.masks.stars import spike_pixels
from gcdask.survey import Filtered, Survey, noise_name


def mask_window(
    tile: Tile,
    image: np.ndarray,
    plan: MaskPlan,
    survey: Survey,
    filtered: Filtered | None = None,
) -> np.ndarray:
    """Bits of one window, right in all pixels at least `MaskRules.halo` from its inner borders.

    Parameters
    ----------
    image : (h, w) float32 array
        Sum over bands, NaN where there are no data.
    filtered : dict, optional
        What is known of the window's `gcdask.survey.filter_window`; the rest is filtered here.

    Returns
    -------
    (h, w) uint16 array
        Every cause but ``LUMINOUS``, which needs the masked image (`gcdask.detect.chain`).
    """
    good = np.isfinite(image)
    bits = np.zeros(image.shape, np.uint16)
    add_flag(bits, ~good, Flag.NODATA)
    row, column = (np.arange(s.start, s.stop) for s in tile.slices)
    y, x = plan.grid.y[row], plan.grid.x[column]  # global, where a cut-out counts from elsewhere
    rules, scale = plan.rules, plan.grid.pixel_scale
    cell = survey.plan.footprint_cell
    if not survey.is_inside(row, column, edge_margin(plan, survey)):
        distance = survey.edge_distance(row, column)
        # the coarse distance reaches less than a cell beyond the footprint
        edge = ~good & (distance < cell)
        edge |= (distance * scale < rules.edge) | (distance <= 0)
        add_flag(bits, edge, Flag.EDGE)
        del distance, edge
    for rule, flag in ((rules.bright, Flag.BRIGHT), (rules.extended, Flag.EXTENDED)):
        if rule:
            shown = (filtered or {}).get(rule.fwhm)
            shown = hp.highpass(image, good, rule.fwhm) if shown is None else shown
            level = survey.noise(noise_name(rule.fwhm), row, column)
            level *= np.float32(rule.nsigma)
            above = shown > level
            del shown, level
            add_flag(bits, hp.dilate(above, rule.dilate), flag)
    if rules.spikes:
        add_flag(bits, spike_pixels(y, x, plan, survey), Flag.SPIKE)
    if plan.regions:
        add_flag(bits, _inside(y, x, plan.regions), Flag.REGION)
    for source in plan.files:
        values = source[tile.slices]
        add_flag(bits, ~np.isfinite(values) | (values != 0), Flag.USER)
    return bits


def edge_margin(plan: MaskPlan, survey: Survey) -> float:
    """Pixels that are this far inside the footprint have nothing to do with its edge."""
    return max(plan.rules.edge / plan.grid.pixel_scale, survey.plan.footprint_cell)


def add_flag(bits: np.ndarray, where: np.ndarray, flag: Flag) -> None:
    """Set a bit of the pixels ``where``, in place and without an index array."""
    np.bitwise_or(bits, np.uint16(flag), out=bits, where=where)


def _inside(y: np.ndarray, x: np.ndarray, regions: Sequence[PixelRegion]) -> np.ndarray:
    """Pixels whose centre lies in a region; excluded regions (``-circle(...)``) take away."""
    out = np.zeros((y.size, x.size), bool)
    ordered = sorted(regions, key=lambda r: not r.meta.get("include", True))
    for region in ordered:
        box = region.bounding_box
        ys = slice(*np.clip([box.iymin - y[0], box.iymax - y[0]], 0, y.size))
        xs = slice(*np.clip([box.ixmin - x[0], box.ixmax - x[0]], 0, x.size))
        if ys.stop <= ys.start or xs.stop <= xs.start:
            continue
        yy, xx = np.meshgrid(y[ys], x[xs], indexing="ij")
        include = region.meta.get("include", True)
        shape = region.copy()
        shape.meta["include"] = True
        hit = shape.contains(PixCoord(xx, yy))
        out[ys, xs] = (out[ys, xs] | hit) if include else (out[ys, xs] & ~hit)
    return out


def shares(bits: np.ndarray) -> dict[str, int]:
    """Pixels per cause (a pixel can have several), masked pixels and all pixels of ``bits``."""
    bit, masked = sums.count_bits(bits)
    counts = {f.name.lower(): int(bit[int(f).bit_length() - 1]) for f in Flag if f.name}
    return {**counts, "masked": masked, "pixels": int(bits.size)}
