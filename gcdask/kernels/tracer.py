"""How strongly sources follow a map: the exponent of A kappa^g + c under a Poisson likelihood.

All that the likelihood needs of map and sources are a few sums in fine bins of ln kappa. A bin is
so narrow (1/256 of a factor of 2) that its mean stands for it, in the sum over sources by theirs
and in the integral by that over the area: no digit of g that could matter is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gcdask.kernels.fits import Fit, jackknife
from gcdask.kernels.poisson import TINY, fisher, maximise
from gcdask.kernels.sums import Sums, log_bins

BITS = 16  # that a bin takes of a code, the block has those before
BAND = 256  # rows of a block that are sorted at once
POWERS = (-10.0, 20.0)  # range of g
NO_LEVEL = "unconstrained: the contamination does not differ from 0 (g is fitted all the same)"
WIDEST = 1.0  # error of g from which it is not known


def _grouped(code: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (rows of ``values``) by code, sorted."""
    kinds, where = np.unique(code, return_inverse=True)
    return kinds, np.stack([np.bincount(where, v, kinds.size) for v in values])


def _histogram(kappa: np.ndarray, block: np.ndarray, values: np.ndarray) -> Sums:
    code, values = _grouped(block << BITS | log_bins(kappa), values)
    return {"code": code, "values": values}


def area_histogram(kappa: np.ndarray, area: np.ndarray, use: np.ndarray, block: np.ndarray) -> Sums:
    """Sparse histogram of area over sky block and bin of ln kappa.

    Parameters
    ----------
    kappa, area, use, block : ndarray (ny, nx)
        The map, the effective area of its elements, those used, and their sky block (0 or more).

    Returns
    -------
    dict
        ``code`` (block and bin, sorted) and ``values`` (4, n_codes): sums of area, of area times
        ln kappa, of sources, and of ln kappa over these (here 0).
    """
    parts = [_histogram(np.empty(0), np.empty(0, np.int64), np.empty((4, 0)))]
    for first in range(0, len(kappa), BAND):  # sorting takes ten times the memory of what it sorts
        band = slice(first, first + BAND)
        good = use[band]
        k, weight = np.asarray(kappa[band][good], float), area[band][good]
        zero = np.broadcast_to(0.0, k.shape)
        sums = np.stack([weight, weight * np.log(k), zero, zero])
        parts.append(_histogram(k, block[band][good], sums))
    return merge_histograms(parts)


def source_histogram(kappa: np.ndarray, block: np.ndarray) -> Sums:
    """Histogram like `area_histogram` of sources: kappa at each, and its block."""
    kappa = np.asarray(kappa, float)
    zero = np.zeros(kappa.size)
    return _histogram(kappa, block, np.stack([zero, zero, zero + 1, np.log(kappa)]))


def merge_histograms(parts: Iterable[Sums]) -> Sums:
    """Add sparse histograms; scalars beside them too."""
    parts = list(parts)
    code, values = _grouped(
        *(np.concatenate([p[k] for p in parts], -1) for k in ("code", "values"))
    )
    rest = {k: sum(p[k] for p in parts) for k in parts[0] if k not in ("code", "values")}
    return {"code": code, "values": values, **rest}


@dataclass(frozen=True)
class Bins:
    """Sums by bin of kappa, in all and by block (sparse: ``block``, ``bin`` and sums ``part``).

    ``s``, ``t`` are the means of ln(kappa / pivot) over the sources and the area of each bin.
    """

    area: np.ndarray
    n: np.ndarray
    s: np.ndarray
    t: np.ndarray
    pivot: float
    block: np.ndarray
    bin: np.ndarray
    part: np.ndarray

    @classmethod
    def of(cls, code: np.ndarray, values: np.ndarray) -> Bins:
        """Take apart what the histograms hold."""
        _, block = np.unique(code >> BITS, return_inverse=True)
        kinds, where = np.unique(code & (2**BITS - 1), return_inverse=True)
        area, area_log, n, n_log = (np.bincount(where, v, kinds.size) for v in values)
        pivot = n_log.sum() / n.sum() if n.sum() else 0.0
        t = area_log / np.maximum(area, TINY) - pivot
        s = np.where(n > 0, n_log / np.maximum(n, 1) - pivot, t)
        return cls(area, n, s, t, math.exp(pivot), block, where, values[[0, 2]])


@dataclass(frozen=True)
class Law:
    """Intensity exp(p0) k^p1 + p2 mean, its derivatives; p2 is fixed unless ``free``."""

    bins: Bins
    mean: float
    free: bool

    def rate(self, logs: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Intensity at ln(kappa / pivot)."""
        return np.exp(p[0] + p[1] * logs) + p[2] * self.mean

    def slopes(self, logs: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Its derivatives (n_parameters, n)."""
        power = np.exp(p[0] + p[1] * logs)
        return np.stack([power, power * logs, np.full(logs.size, self.mean)][: self.size])

    @property
    def size(self) -> int:
        """Number of free parameters."""
        return 3 if self.free else 2

    def scores(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score of a source and of a unit of area in each bin, (n_parameters, n_bins)."""
        b = self.bins
        return self.slopes(b.s, p) / np.maximum(self.rate(b.s, p), TINY), self.slopes(b.t, p)

    def information(self, p: np.ndarray) -> np.ndarray:
        """Fisher information of a unit of area in each bin, (n_parameters, n_parameters, n)."""
        d = self.slopes(self.bins.t, p)
        return d[:, None] * d / np.maximum(self.rate(self.bins.t, p), TINY)

    def polish(self, p: np.ndarray, steps: int = 3) -> np.ndarray:
        """Fisher scoring on the exact sums, from the optimum of the binned counts."""
        b, p = self.bins, p.copy()
        for _ in range(steps):
            per_source, per_area = self.scores(p)
            step = np.linalg.solve(
                self.information(p) @ b.area, per_source @ b.n - per_area @ b.area
            )
            p[: self.size] += step
        return p

    def leave_one_out(self, p: np.ndarray) -> np.ndarray:
        """Parameters (n_blocks, n_parameters) without each block, by one step of scoring."""
        b = self.bins
        per_source, per_area = self.scores(p)
        area, n = b.part
        n_blocks = int(b.block.max(initial=-1)) + 1
        score = np.stack(
            [
                np.bincount(b.block, s[b.bin] * n - a[b.bin] * area, n_blocks)
                for s, a in zip(per_source, per_area, strict=True)
            ]
        )
        if n_blocks < 2:
            return np.full((n_blocks, self.size), np.nan)
        each = self.information(p)
        total = each @ b.area
        left = np.empty((n_blocks, self.size, self.size))
        for i in range(self.size):
            for j in range(self.size):
                share = np.bincount(b.block, each[i, j][b.bin] * area, n_blocks)
                left[:, i, j] = total[i, j] - share
        try:
            step = np.linalg.solve(left, score.T[:, :, None])[:, :, 0]
        except np.linalg.LinAlgError:  # a block holds all that tells a parameter
            return np.full((n_blocks, self.size), np.nan)
        return p[: self.size] - step


def _blank() -> Fit:
    names = ("g", "error", "error_poisson", "amplitude", "amplitude_error", "lnL", "dlnL")
    return dict.fromkeys((*names, "contamination", "contamination_error"), math.nan)


def _trouble(bins: Bins, free: bool) -> str:
    """Why there is no fit, if so."""
    occupied = int((bins.n > 0).sum())
    if not bins.area.sum() > 0:
        return "no pixel of the footprint is usable"
    if occupied == 0:
        return "no source is on the footprint"
    if np.ptp(bins.t) < 1e-6:
        return "kappa is the same everywhere"
    need = 4 if free else 3
    return f"sources at {occupied} values of kappa, the fit needs {need}" if occupied < need else ""


def _start(bins: Bins, c: float | None) -> tuple[Law, np.ndarray]:
    """Optimum of the counts by bin."""
    mean = bins.n.sum() / bins.area.sum()
    law = Law(bins, mean, c is None)
    fixed = 0.0 if c is None else c / mean
    used = bins.area > 0
    area, t = bins.area[used], bins.t[used]

    def model(p: np.ndarray) -> np.ndarray:
        return area * law.rate(t, p if c is None else np.append(p, fixed))

    level = math.log(mean)
    starts = [[level, 1.0], [level, 2.5]]
    bounds = [(level - 40, level + 40), POWERS]
    if c is None:
        starts = [[level + math.log(1 - f), g, f] for g, f in ((1.0, 0.05), (2.5, 0.4))]
        bounds.append((0.0, 1.0 + 1e-6))
    best, _ = maximise(bins.n[used], model, starts, bounds)
    return law, best if c is None else np.append(best, fixed)


def fit_power(bins: Bins, contamination: float | None, element: float) -> Fit:
    """Fit n = A kappa^g + c: maximum likelihood, Fisher and block jackknife errors.

    Parameters
    ----------
    bins : Bins
        Areas in elements.
    contamination : float or None
        c in arcsec-2; None: free, 0 or more.
    element : float
        Area of an element in arcsec2.
    """
    out = _blank() | {"n_blocks": int(bins.block.max(initial=-1)) + 1}
    trouble = _trouble(bins, contamination is None)
    if trouble:
        return out | {"status": f"unconstrained: {trouble}"}
    c = None if contamination is None else contamination * element
    status = ""
    law, p = _start(bins, c)
    if c is None and p[2] < 1e-4:  # at its limit: the likelihood has no maximum in c there
        status = NO_LEVEL
        limit = _limit(law, p)
        law, p = _start(bins, 0.0)
        out["contamination_error"] = limit * law.mean / element
    try:
        p = law.polish(p)
        cov = np.linalg.inv(law.information(p) @ bins.area)
    except np.linalg.LinAlgError:
        return out | {"status": "unconstrained: the likelihood is flat in g"}
    left = law.leave_one_out(p)
    spread = jackknife(left)
    amplitude = np.array([1.0, -math.log(bins.pivot)])  # of ln A at kappa = 1
    out |= {
        "g": p[1],
        "error": spread[1],
        "error_poisson": math.sqrt(cov[1, 1]) if cov[1, 1] > 0 else math.nan,
        "amplitude": math.exp(p[0] + p[1] * amplitude[1]) / element,
        "contamination": p[2] * law.mean / element,
    }
    out["amplitude_error"] = out["amplitude"] * float(jackknife(left[:, :2] @ amplitude))
    if law.free:
        level = spread[2] if math.isfinite(spread[2]) else math.sqrt(max(cov[2, 2], 0.0))
        out["contamination_error"] = level * law.mean / element
        if not out["contamination_error"] < out["contamination"]:
            status = NO_LEVEL
    elif c is not None:
        out["contamination_error"] = 0.0
    out |= _loglike(law, p, element)
    error = out["error_poisson"]
    if not error < WIDEST or not POWERS[0] + 0.01 < p[1] < POWERS[1] - 0.01:
        status = f"unconstrained: g = {p[1]:.3g} +- {error:.3g}"
    return out | {"status": status}


def _limit(law: Law, p: np.ndarray) -> float:
    """Fisher error of the contamination at its limit 0, in units of the mean."""
    b = law.bins
    cov = fisher(lambda q: b.area * law.rate(b.t, q), p)
    return math.sqrt(cov[2, 2])


def _loglike(law: Law, p: np.ndarray, element: float) -> Fit:
    """Log-likelihood given the number of sources, as `gcdask.kernels.likelihood` has it."""
    b = law.bins
    n, area = b.n.sum(), b.area.sum()
    value = b.n @ np.log(np.maximum(law.rate(b.s, p), TINY))
    value -= n * math.log(law.rate(b.t, p) @ b.area)
    return {"lnL": value - n * math.log(element), "dlnL": value + n * math.log(area)}


def coarse_bins(bins: Bins, n_bins: int, element: float) -> dict[str, Any]:
    """Sources, area and mean kappa in equal bins of ln kappa, for a figure.

    From the value that 0.1 % of the area lies below, to the largest with a source.
    """
    empty = {"bin_counts": np.zeros(n_bins, np.int64), "bin_area": np.zeros(n_bins)}
    if not bins.area.sum() > 0:
        return empty | {"bin_kappa": np.full(n_bins, np.nan)}
    share = np.cumsum(bins.area) / bins.area.sum()  # codes, and so bins, ascend with kappa
    low = bins.t[np.searchsorted(share, 1e-3)]
    high = bins.t[bins.n > 0].max(initial=low)
    edges = np.linspace(low, max(high, low + 1e-6), n_bins + 1)
    which = np.clip(np.searchsorted(edges, bins.t, side="right") - 1, 0, n_bins - 1)
    inside = (bins.t >= low) & (bins.t <= edges[-1])
    area, counts, logs = (
        np.bincount(which[inside], v[inside], n_bins)
        for v in (bins.area, bins.n, bins.area * bins.t)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = bins.pivot * np.exp(logs / area)
    return {
        "bin_counts": np.rint(counts).astype(np.int64),
        "bin_area": area * element,
        "bin_kappa": np.where(area > 0, kappa, np.nan),
    }
