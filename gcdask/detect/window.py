"""One window: NumPy in, NumPy and pandas out. The pipeline's tiles and the lazy road share it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from gcdask import catalog
from gcdask.grid import Grid, Tile
from gcdask.kernels import highpass as hp
from gcdask.kernels import peaks
from gcdask.masks import Flag, add_flag

Pair = tuple[float, float]
FILTERS: tuple[Pair, Pair] = ((0.5, 5.0), (1.0, 3.0))
PEAK_HALO = 16  # px: leaves no peak undecided where noise dominates
#: What grows by the rim: causes that cover light. (Not the frame, and not missing data.)
GROWN = (Flag.BRIGHT, Flag.LUMINOUS, Flag.EXTENDED, Flag.SPIKE, Flag.REGION, Flag.USER)
NEAR_RADIUS = 15  # px: reach of the filters' negative rings about a bright peak
_WORK = ["row", "col", "value", "undecided"]  # columns of pending rows only


def chain(
    image: np.ndarray,
    bits: np.ndarray | None = None,
    *,
    fwhm: tuple[Pair, Pair] = FILTERS,
    luminous: float | np.ndarray | None = None,
    luminous_dilate: float = 5,
    rim: float = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Filter one window into its detection map: high-pass, luminous peaks masked, high-pass.

    Parameters
    ----------
    image : float array (y, x)
        Equal-weight sum of the bands, NaN where any band has no data.
    bits : uint16 array (y, x), optional
        Mask (see `gcdask.masks.Flag`); only pixels without any bit count.
    fwhm : two pairs
        FWHM (px) of the Gaussians of the first and second high-pass.
    luminous : float or array (y, x), optional
        Pixels of the first filtered image above it are masked too; None for none.
    luminous_dilate : float
        Radius (px) of the disk about each of them.
    rim : float
        Sources and shapes that are masked grow by this many px after filtering: along the outline
        of a masked galaxy the normalised convolution sees its slope from one side only, which
        gives a bright rim.

    Returns
    -------
    detection : float32 array (y, x)
        NaN where masked.
    bits : uint16 array (y, x)
        The mask with `Flag.LUMINOUS` and, where the image is not finite, `Flag.NODATA` added:
        zero exactly where the detection map is finite.

    Notes
    -----
    The paper sums the bands' filtered images. With one mask m for all bands a normalised
    convolution, C[a] = conv(m a) / conv(m), is linear in the image: sum_b (C1 - C2)[a_b] =
    (C1 - C2)[sum_b a_b], and so is the second step. Hence the sum is filtered, once.
    """
    bits = np.zeros(image.shape, np.uint16) if bits is None else bits.astype(np.uint16)
    add_flag(bits, ~np.isfinite(image), Flag.NODATA)
    first = hp.highpass(image, bits == 0, fwhm[0])
    if luminous is not None:
        add_flag(bits, hp.dilate(first > luminous, luminous_dilate), Flag.LUMINOUS)
    detection = hp.highpass(first, bits == 0, fwhm[1])
    for flag in GROWN if rim >= 1 else ():
        add_flag(bits, hp.dilate((bits & np.uint16(flag)) != 0, rim), flag)
    np.copyto(detection, np.float32(np.nan), where=bits != 0)
    return detection, bits


def chain_halo(
    fwhm: tuple[Pair, Pair] = FILTERS, luminous_dilate: float = 0, rim: float = 0
) -> int:
    """Pixels around a core that `chain` needs to give the core the bits of the whole array.

    ``luminous_dilate`` is 0 where no luminous peaks are masked.
    """
    return hp.halo(*fwhm) + math.floor(luminous_dilate) + math.floor(rim)


def peaks_in_window(
    detection: np.ndarray,
    noise: np.ndarray | float | None,
    threshold: float,
    radius: float = 3,
    *,
    tile: Tile,
    ends: tuple[bool, bool, bool, bool],
    grid: Grid,
    in_sigma: bool = False,
    sign: int = 1,
    near: float = NEAR_RADIUS,
    near_above: float = -math.inf,
    ratio: np.ndarray | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Peaks in a tile's core: those decided in its window, and what `settle_peaks` needs.

    Parameters
    ----------
    detection : float array (y, x)
        The tile's window; NaN = masked.
    noise : array (y, x), float or None
        Noise of the window, for ``snr``.
    threshold, radius : float
        See `gcdask.kernels.peaks.greedy`.
    tile : Tile
        Core and window in array indices of the field.
    ends : (bool, bool, bool, bool)
        Whether the window's top, bottom, left and right border end the field
        (`gcdask.tiles.real_ends`).
    grid : Grid
        Of the field.
    in_sigma : bool
        Threshold and order refer to detection / noise; pixels without a positive noise are
        masked. ``peak`` stays in the units of the map.
    sign : int
        -1 takes the peaks of the negated map (``peak`` and ``snr`` are then those of that).
    near : float
        Radius (px, at most the halo) for the column ``near``.
    near_above : float
        Smaller values are not told there (-inf instead), which is faster.
    ratio : array (y, x), optional
        `signal_to_noise` of the window, if that is known already; only used ``in_sigma``.

    Returns
    -------
    accepted : DataFrame
        Catalogue of the core's decided peaks, and ``near`` (float32): the largest value within
        that radius, of the map itself whatever ``sign`` (over the noise if ``in_sigma``).
    pending : DataFrame
        The same columns, then ``row``, ``col`` (pixel indices common to all windows), ``value``
        (what decides the order) and ``undecided``: all undecided pixels of the core, and the
        accepted ones that may reject an undecided one here or in a neighbouring core.
    """
    if not in_sigma:
        ratio = detection
    elif ratio is None:
        ratio = signal_to_noise(detection, noise)
    y, x, value, undecided = peaks.greedy(
        ratio if sign > 0 else -ratio, threshold, radius, ends=ends
    )
    core_y, core_x = tile.inner
    mine = (y >= core_y.start) & (y < core_y.stop) & (x >= core_x.start) & (x < core_x.stop)
    y, x, value, undecided = y[mine], x[mine], value[mine], undecided[mine]
    told = undecided | _may_reject(y, x, undecided, tile, ends, radius)
    window = grid.cut(*tile.window)
    peak = sign * detection[y, x]
    local = noise[y, x] if isinstance(noise, np.ndarray) else noise
    extra = {
        "near": peaks.near_max(ratio, y, x, near, near_above),
        "row": np.floor_divide(window.y, window.step).astype(np.int64)[y],
        "col": np.floor_divide(window.x, window.step).astype(np.int64)[x],
        "value": value,
        "undecided": undecided,
        "told": told,
    }
    rows = catalog.make_catalog(
        window.x[x], window.y[y], window, peak=peak, snr=signal_to_noise(peak, local), extra=extra
    )
    told = rows.pop("told").to_numpy(bool)
    accepted = rows[~rows["undecided"].to_numpy(bool)].drop(columns=_WORK)
    return accepted.reset_index(drop=True), rows[told].reset_index(drop=True)


def _may_reject(
    y: np.ndarray,
    x: np.ndarray,
    undecided: np.ndarray,
    tile: Tile,
    ends: tuple[bool, bool, bool, bool],
    radius: float,
) -> np.ndarray:
    """Pixels whose disk reaches another core or (a few more than) an undecided pixel."""
    reach = math.floor(radius)
    ys, xs = tile.inner
    y0, y1, x0, x1 = tile.window
    # beyond a border of the core that ends the field there is no neighbour to tell
    at_end = (ys.start == 0, ys.stop == y1 - y0, xs.start == 0, xs.stop == x1 - x0)
    close = (
        y < ys.start + reach,
        y >= ys.stop - reach,
        x < xs.start + reach,
        x >= xs.stop - reach,
    )
    out = np.zeros(y.size, bool)
    for end, at, near in zip(ends, at_end, close, strict=True):
        if not (end and at):
            out |= near
    if undecided.any():
        points = np.column_stack([y, x])
        distance, _ = cKDTree(points[undecided]).query(points, distance_upper_bound=reach + 1)
        out |= np.isfinite(distance)
    return out


def settle_peaks(pending: Sequence[pd.DataFrame], radius: float = 3) -> pd.DataFrame:
    """Peaks that no window could decide, from the pending rows of *all* windows of a field.

    Parameters
    ----------
    pending : sequence of DataFrame
        Of `peaks_in_window`, in any order; the types may have been lost on the way (JSON).
    radius : float
        That of the peaks.

    Returns
    -------
    DataFrame
        The columns of ``accepted`` of `peaks_in_window`, sorted by ``id``.
    """
    empty = catalog.meta().assign(near=np.empty(0, np.float32))
    frames = [frame for frame in pending if len(frame)]
    if not frames:
        return empty
    rows = pd.concat(frames, ignore_index=True)
    row, col, value, undecided = (rows[name].to_numpy() for name in _WORK)
    found = rows[peaks.settle(row, col, value.astype(np.float32), undecided, radius)]
    found = found[list(empty.columns)].astype(empty.dtypes.to_dict())
    found.attrs.update(empty.attrs)
    return found.sort_values("id", kind="stable", ignore_index=True)


def signal_to_noise(value: np.ndarray, noise: np.ndarray | float | None) -> np.ndarray:
    """Value / noise as float32; NaN where the noise is not positive or not known."""
    if noise is None:
        return np.full(value.shape, np.nan, np.float32)
    noise = np.asarray(noise, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(value / np.where(noise > 0, noise, np.float32(np.nan)), np.float32)
