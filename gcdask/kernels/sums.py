"""Partial sums of one block: what the reductions of `gcdask.compare` and `gcdask.profiles` add up.

Each function takes the arrays of one block and gives *named* sums (a dict of arrays) that a
function of the same module merges in pairs of any order: the law "chunk, combine, finalise".
Means and variances travel as (n, mean, sum of squared deviations), which unlike sums of squares
lose no digits (Chan, Golub & LeVeque 1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import njit

from gcdask.kernels.lattice import Lattice, fill_line

Sums = dict[str, Any]

SHIFT = 15  # float32 bits dropped by `log_bins`: 8 of 23 mantissa bits stay


def count_bits(bits: np.ndarray) -> tuple[list[int], int]:
    """How often each of the 16 bits is set in a uint16 array (y, x), and how many are not 0."""
    values = _histogram(bits)
    kinds = np.flatnonzero(values)
    counts = [int(values[kinds[(kinds >> k) & 1 == 1]].sum()) for k in range(16)]
    return counts, int(values[1:].sum())


def count_cells(good: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """True pixels of a bool array (y, x) by cell; int64 of shape (rows[-1] + 1, columns[-1] + 1).

    Row i of the array belongs to the row of cells ``rows[i]`` (ascending from 0), and so on.
    """
    out = np.zeros((int(rows[-1]) + 1, int(columns[-1]) + 1), np.int64)
    _count_cells(out, good, rows, columns)
    return out


def block_totals(values: np.ndarray, factor: int) -> np.ndarray:
    """Sums (float64) over blocks of ``factor`` x ``factor`` elements; ragged ends have fewer."""
    ny, nx = (-(-n // factor) for n in values.shape)
    if (ny * factor, nx * factor) != values.shape:
        whole = np.zeros((ny * factor, nx * factor), values.dtype)
        whole[: values.shape[0], : values.shape[1]] = values
        values = whole
    return values.reshape(ny, factor, nx, factor).sum((1, 3), dtype=float)


@njit(cache=True, nogil=True)
def _count_cells(out: Any, good: Any, rows: Any, columns: Any) -> None:
    for i in range(rows.size):
        line = out[rows[i]]
        for j in range(columns.size):
            line[columns[j]] += good[i, j]


@njit(cache=True, nogil=True)
def _histogram(bits: Any) -> Any:
    out = np.zeros(2**16, np.int64)
    for i in range(bits.shape[0]):
        for j in range(bits.shape[1]):
            out[bits[i, j]] += 1
    return out


@njit(cache=True, nogil=True)
def _product_sums(
    kappa: Any, rho: Any, good: Any, lattice: Any, by: Any, bx: Any, shape: Any, centers: Any,
    half_width: float, radius: float,
) -> Any:  # fmt: skip
    out = np.zeros((shape[0], shape[1], centers.size + 1, 4))
    nodes, line = np.empty((2, lattice.east.shape[1])), np.empty((2, lattice.ix.size))
    for i in range(kappa.shape[0]):
        fill_line(lattice, i, nodes, line)
        for j in range(kappa.shape[1]):
            k, r = kappa[i, j], rho[i, j]
            if not (good[i, j] and math.isfinite(k) and math.isfinite(r)):
                continue
            if not math.hypot(line[0, j], line[1, j]) < radius:
                continue
            angle = math.degrees(math.atan2(line[0, j], line[1, j]))
            for s in range(centers.size + 1):
                if s > 0:
                    turn = (angle - centers[s - 1] + 180) % 360 - 180
                    if not -half_width <= turn < half_width:
                        continue
                out[by[i], bx[j], s, 0] += k * r
                out[by[i], bx[j], s, 1] += r * r
                out[by[i], bx[j], s, 2] += k * k
                out[by[i], bx[j], s, 3] += 1
    return out


def product_sums(
    kappa: np.ndarray,
    rho: np.ndarray,
    good: np.ndarray,
    lattice: Lattice,
    by: np.ndarray,
    bx: np.ndarray,
    *,
    centers: tuple[float, ...],
    half_width: float,
    radius: float,
) -> Sums:
    """Sum kappa rho, rho^2, kappa^2 and 1 by sky block, for all pixels and for each sector.

    Parameters
    ----------
    kappa, rho, good : ndarray (ny, nx)
        The maps and the pixels to use.
    lattice : Lattice
        Offsets of the pixels from the centre (arcsec).
    by, bx : ndarray of int, shapes (ny,), (nx,)
        Global block of each row and column.
    centers : tuple of float
        Position angles (deg, north through east) of the sectors' axes.
    half_width : float
        A sector holds PA in [centre - half_width, centre + half_width) deg.
    radius : float
        Pixels at this many arcsec or more are not used.

    Returns
    -------
    dict
        ``corner`` (y, x) of the first block and ``sums`` (n_by, n_bx, 1 + n_sectors, 4).
    """
    corner = (int(by[0]), int(bx[0]))
    shape = (int(by[-1]) - corner[0] + 1, int(bx[-1]) - corner[1] + 1)
    sums = _product_sums(
        np.ascontiguousarray(kappa, np.float64),
        np.ascontiguousarray(rho, np.float64),
        np.ascontiguousarray(good),
        lattice,
        by - corner[0],
        bx - corner[1],
        shape,
        np.asarray(centers, float),
        float(half_width),
        float(radius),
    )
    return {"corner": corner, "sums": sums}


def box_sums(
    kappa: np.ndarray, area: np.ndarray, n: np.ndarray, by: np.ndarray, bx: np.ndarray
) -> Sums:
    """Sum kappa, area, sources and kappa^2 by box; NaN pixels of kappa count in none of them.

    The sums over kappa and kappa^2 are weighted by area.

    Parameters
    ----------
    kappa, area, n : ndarray (ny, nx)
        Map, unmasked fraction of each element, sources on its unmasked part.
    by, bx : ndarray of int
        Global box of each row and column.

    Returns
    -------
    dict
        ``corner`` of the first box and ``sums`` (n_by, n_bx, 4).
    """
    corner = (int(by[0]), int(bx[0]))
    shape = (int(by[-1]) - corner[0] + 1, int(bx[-1]) - corner[1] + 1)
    label = (by[:, None] - corner[0]) * shape[1] + (bx - corner[1])
    use = np.isfinite(kappa) & (area > 0)
    label, a = label[use], np.asarray(area, float)[use]
    k = np.asarray(kappa, float)[use]
    weights = (k * a, a, np.asarray(n, float)[use], k**2 * a)
    sums = [np.bincount(label, w, shape[0] * shape[1]).reshape(shape) for w in weights]
    return {"corner": corner, "sums": np.stack(sums, -1)}


def merge_windows(parts: Iterable[Sums]) -> Sums:
    """Add sums that are given on windows of one global array of boxes: their union's window."""
    parts = list(parts)
    y0, x0 = (min(p["corner"][k] for p in parts) for k in (0, 1))
    y1, x1 = (max(p["corner"][k] + p["sums"].shape[k] for p in parts) for k in (0, 1))
    out = np.zeros((y1 - y0, x1 - x0, *parts[0]["sums"].shape[2:]))
    for p in parts:
        (y, x), (ny, nx) = p["corner"], p["sums"].shape[:2]
        out[y - y0 : y - y0 + ny, x - x0 : x - x0 + nx] += p["sums"]
    return {"corner": (y0, x0), "sums": out}


def add(parts: Iterable[Sums]) -> Sums:
    """Add every named sum."""
    parts = list(parts)
    return {name: sum(p[name] for p in parts) for name in parts[0]}


def join(parts: Iterable[Sums]) -> Sums:
    """Put named lists of values after each other; scalars are added."""
    parts = list(parts)
    return {
        name: np.concatenate([p[name] for p in parts])
        if np.ndim(v)
        else sum(p[name] for p in parts)
        for name, v in parts[0].items()
    }


def merge_moments(parts: Iterable[Sums]) -> Sums:
    """Pooled count, mean and sum of squared deviations, element by element."""
    stack = (
        {k: np.stack([p[k] for p in parts]) for k in ("n", "mean", "m2")}
        if (parts := list(parts))
        else {}
    )
    n = stack["n"].sum(0)
    mean = (stack["n"] * stack["mean"]).sum(0) / np.maximum(n, 1)
    m2 = (stack["m2"] + stack["n"] * (stack["mean"] - mean) ** 2).sum(0)
    return {"n": n, "mean": mean, "m2": m2}


def group_moments(which: np.ndarray, values: np.ndarray, size: int) -> Sums:
    """Count, mean and sum of squared deviations of values in each of ``size`` groups."""
    n = np.bincount(which, minlength=size).astype(float)
    mean = np.bincount(which, values, size) / np.maximum(n, 1)
    m2 = np.bincount(which, (values - mean[which]) ** 2, size)
    return {"n": n, "mean": mean, "m2": m2}


def pair_moments(x: np.ndarray, y: np.ndarray) -> Sums:
    """Count, means (2,) and co-moment matrix (2, 2) of paired values."""
    both = np.stack([np.asarray(x, float).ravel(), np.asarray(y, float).ravel()])
    n = both.shape[1]
    mean = both.mean(1) if n else np.zeros(2)
    rest = both - mean[:, None]
    return {"n": n, "mean": mean, "m2": rest @ rest.T}


def merge_pairs(parts: Iterable[Sums]) -> Sums:
    """Pooled `pair_moments`."""
    parts = list(parts)
    n = sum(p["n"] for p in parts)
    mean = sum(p["n"] * p["mean"] for p in parts) / max(n, 1)
    m2 = sum(p["m2"] + p["n"] * np.outer(p["mean"] - mean, p["mean"] - mean) for p in parts)
    return {"n": n, "mean": mean, "m2": m2}


def log_bins(values: np.ndarray) -> np.ndarray:
    """Bin of positive values: 256 bins per factor of 2, the same for every block and map.

    They are the leading bits of the float32, so no pass over the map is needed to find its range.
    """
    return np.asarray(values, np.float32).view(np.int32).astype(np.int64) >> SHIFT


def pair_counts(x: np.ndarray, y: np.ndarray) -> Sums:
    """Sparse two-dimensional histogram of positive pairs: sorted codes and their counts."""
    code, count = np.unique(log_bins(x.ravel()) << 32 | log_bins(y.ravel()), return_counts=True)
    return {"code": code, "count": count}


def bin_quantile(histogram: Sums, high: int, q: float) -> float:
    """Quantile of the values whose code has ``high`` above the low 32 bits of their `log_bins`."""
    code, count = histogram["code"], histogram["count"]
    rows = slice(*np.searchsorted(code, [high << 32, (high + 1) << 32]))
    below = np.cumsum(count[rows])
    found = code[rows][np.searchsorted(below, q * below[-1])] & 0xFFFFFFFF
    lower = np.array([found << SHIFT, (found + 1) << SHIFT], np.int64).astype(np.int32)
    return float(np.sqrt(np.prod(lower.view(np.float32).astype(float))))


def merge_counts(parts: Iterable[Sums]) -> Sums:
    """Add sparse histograms."""
    both = join(parts)
    code, where = np.unique(both["code"], return_inverse=True)
    count = np.zeros(code.size, np.int64)
    np.add.at(count, where, both["count"])
    return {"code": code, "count": count}


def rank_correlation(histogram: Sums) -> float:
    """Spearman's coefficient of the pairs in a sparse histogram, mid-ranks within a bin."""
    code, count = histogram["code"], histogram["count"].astype(float)
    ranks = []
    for axis in (code >> 32, code & 0xFFFFFFFF):
        _, where = np.unique(axis, return_inverse=True)
        per_bin = np.bincount(where, count)
        ranks.append((np.cumsum(per_bin) - (per_bin - 1) / 2)[where])
    return pearson(ranks[0], ranks[1], count)


def pearson(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Pearson's coefficient of weighted pairs; NaN where one of them does not vary."""
    total = weight.sum()
    if total < 2:
        return math.nan
    dx, dy = x - (weight @ x) / total, y - (weight @ y) / total
    norm = (weight @ dx**2) * (weight @ dy**2)
    return float(weight @ (dx * dy) / math.sqrt(norm)) if norm > 0 else math.nan
