"""What is true of a mock: the table of its sources, and the score of a catalogue against it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial import cKDTree

from gcdask.catalog import pixel_positions
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels.pairs import first_come
from gcdask.simulate import sources
from gcdask.simulate.model import MJYSR_PER_NJY, Options, filtered, magnitude_of
from gcdask.simulate.psf import OVER

SHIFTS = ((23, 11), (-17, 29), (-31, -13), (13, -27), (37, 3), (-5, -41))
"""Offsets (px) of the shifted catalogues that tell the chance rate."""


# -- the table ----------------------------------------------------------------------------------
def isolated_peaks(options: Options, x: Any, y: Any, flux: Any) -> np.ndarray:
    """Peak (nJy) of the noise-free detection map of isolated point sources.

    Parameters
    ----------
    x, y : (n,) arrays
        Positions (px).
    flux : (bands, n) array
        Fluxes (nJy).
    """
    (iy, wy), (ix, wx) = _phase(y), _phase(x)
    jy, jx = np.minimum(iy + 1, OVER), np.minimum(ix + 1, OVER)
    total = np.zeros((3, 3, len(ix)))
    for f, table in zip(flux, options.response[:, :, :, 1:-1, 1:-1], strict=True):
        for a, v in ((iy, 1 - wy), (jy, wy)):
            for b, w in ((ix, 1 - wx), (jx, wx)):
                total += np.moveaxis(table[a, b], 0, -1) * (v * w * f)
    return total.max((0, 1)) if total.size else np.zeros(0)


def _phase(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Node and weight in the table of phases, as `gcdask.kernels.render.split`."""
    phase = (np.floor(position + 0.5) - position) * OVER
    node = np.floor(phase)
    return node.astype(int) + OVER // 2, phase - node


def truth_table(options: Options) -> pd.DataFrame:
    """Every source of a mock; see `gcdask.simulate.Mock.truth`."""
    parts = [part for module in (0, 1) for part in _module_table(options, module)]
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "id", np.arange(len(table), dtype=np.int64))
    table["class"] = pd.Categorical(table["class"], CLASSES)
    units = {"x": "pix", "y": "pix", "ra": "deg", "dec": "deg", "peak": "MJy/sr"}
    units |= {f"flux_{b}": "nJy" for b in options.bands}
    table.attrs["units"] = units | {f"mag_{b}": "mag(AB)" for b in options.bands}
    return table


CLASSES = ["gc", "contaminant", "star", "bcg", "icl", "member", "background", "arc", "hot"]


def _module_table(options: Options, module: int) -> list[pd.DataFrame]:
    scene = sources.scene(options, module)
    p = scene.points
    peaks = isolated_peaks(options, p.x, p.y, p.flux)
    point_class = np.where(p.gc, "gc", "contaminant")
    out = [_rows(options, module, point_class, p.x, p.y, p.flux, peaks)]

    outside = np.array([psf.outside for psf in options.psfs()])
    x, y = scene.stars.T
    peaks = isolated_peaks(options, x, y, scene.star_flux.T * (1 - outside)[:, None])
    out.append(_rows(options, module, "star", x, y, scene.star_flux.T, peaks))

    x, y = scene.galaxies[:, 0], scene.galaxies[:, 1]
    out.append(_rows(options, module, scene.kind, x, y, scene.galaxy_flux.T, np.nan))
    x = scene.arcs[:, 0] + scene.arcs[:, 2] * scene.arcs[:, 4]
    y = scene.arcs[:, 1] + scene.arcs[:, 3] * scene.arcs[:, 4]
    out.append(_rows(options, module, "arc", x, y, scene.arc_flux.T, np.nan))

    image = np.zeros((41, 41), np.float32)
    image[20, 20] = 1
    response = float(filtered(image)[20, 20])
    for band, hot in enumerate(scene.hot):
        flux = np.zeros((len(options.bands), len(hot)))
        flux[band] = hot[:, 2]
        out.append(_rows(options, module, "hot", hot[:, 1], hot[:, 0], flux, response * hot[:, 2]))
    return out


def _rows(
    options: Options, module: int, name: Any, x: Any, y: Any, flux: Any, peak: Any
) -> pd.DataFrame:
    ra, dec = options.grid(module).sky(x, y) if len(x) else (np.zeros(0), np.zeros(0))
    table = pd.DataFrame(
        {"module": np.int8(module + 1), "class": name, "x": x, "y": y, "ra": ra, "dec": dec}
    )
    for band, f in zip(options.bands, flux, strict=True):
        with np.errstate(divide="ignore"):
            table[f"mag_{band}"] = magnitude_of(f)
        table[f"flux_{band}"] = f
    table["mu"] = 1.0
    table["peak"] = np.broadcast_to(np.asarray(peak) * MJYSR_PER_NJY, len(x))
    table["snr"] = table["peak"] / (options.sigma_detection * MJYSR_PER_NJY)
    return table


# -- scoring ------------------------------------------------------------------------------------
def match_one_to_one(
    a: np.ndarray, b: np.ndarray, radius: float, *, first: np.ndarray, bright: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of positions ``a`` and ``b`` (n, 2) within ``radius``, each used at most once.

    Greedy: pairs whose ``b`` is in ``first`` (bool) come first, then the closer ones, then those
    of the larger ``bright`` of ``b``.

    Returns
    -------
    (k,) int arrays
        Rows of ``a`` and of ``b``.
    """
    near = cKDTree(a).sparse_distance_matrix(cKDTree(b), radius, output_type="ndarray")
    if near.size == 0:
        return np.zeros(0, int), np.zeros(0, int)
    i, j, d = near["i"], near["j"], near["v"]
    order = np.lexsort((j, i, -bright[j], d, ~first[j]))
    pairs = order[first_come(i[order], j[order])]
    return i[pairs], j[pairs]


def score(
    catalog: Any,
    truth: pd.DataFrame,
    noise: float | xr.DataArray,
    mask: xr.DataArray | None = None,
    *,
    level: float,
    T: float | None = None,
    match_radius: float = 2.0,
    bins: Any = (3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 50, 100),
    grid: Grid | None = None,
) -> xr.Dataset:
    """Completeness and purity of a catalogue of a mock's module, chance matches subtracted.

    An entry is true if it has a partner: an injected point source (or star) of true S/N above
    ``T/2`` within ``match_radius``, one to one. Sources that could be in the catalogue by
    themselves (S/N above ``level - 2``) choose first, then distance decides, then brightness.
    The chance rate c comes from shifted catalogues; a matched fraction f becomes
    (f - c) / (1 - c).

    Parameters
    ----------
    catalog : DataFrame (dask or pandas)
        Columns x, y (or ra, dec with ``grid``) and ``snr``; without ``snr``, ``peak`` over the
        noise is used.
    truth : DataFrame
        `gcdask.simulate.Mock.truth` of that module (one module's rows).
    noise : float or DataArray (y, x)
        Noise of the detection map, in the units of ``peak`` (truth: MJy/sr). A coarse map is
        read at the nearest element.
    mask : DataArray (y, x), optional
        Nonzero where masked; entries and sources there do not count.
    level : float
        Catalogue level 2T in sigma.
    T : float, optional
        Detection threshold in sigma; half of ``level`` by default.
    match_radius : float
        In px.
    bins : sequence of float
        Edges of true S/N for ``completeness_bin`` and of measured S/N for ``purity_bin``.
    grid : Grid, optional
        Grid of the module, to place a catalogue by its ra, dec.

    Returns
    -------
    xarray.Dataset
        ``completeness`` (of true S/N above ``level + 2``), ``purity`` (of entries above
        ``level``), ``chance_completeness``, ``chance_purity``, ``n_catalog``, ``n_truth``, and
        over ``snr`` (middle of the bin): ``completeness_bin``, ``purity_bin`` and the numbers
        ``n_truth_bin``, ``n_catalog_bin`` in each. NaN where nothing is counted.
    """
    if not level > 0 or not match_radius > 0:
        raise InputError(f"level = {level}, match_radius = {match_radius}; both must be positive")
    if "module" in truth and truth["module"].nunique() > 1:
        raise InputError("truth has two modules; give the rows of one, truth[truth.module == 1]")
    half = (level / 2 if T is None else T) / 2
    found = catalog.compute() if hasattr(catalog, "compute") else catalog
    at, s_found = _positions(found, noise, mask, grid, "snr")
    keep = s_found >= level
    at, s_found = at[keep], s_found[keep]
    points = truth[truth["class"].isin(["gc", "contaminant", "star"])]
    spot, s_true = _positions(points, noise, mask, None, None)
    wanted = (points["class"] != "star").to_numpy()[_open(points, mask)]
    keep = s_true > half
    spot, s_true, wanted = spot[keep], s_true[keep], wanted[keep]
    hit_found, hit_true = _hits(at, spot, s_true, match_radius, level)
    lucky = [_hits(at + s, spot, s_true, match_radius, level) for s in np.array(SHIFTS, float)]
    luck_found = np.mean([h[0] for h in lucky], axis=0)
    luck_true = np.mean([h[1] for h in lucky], axis=0)

    edges = np.asarray(bins, float)
    bright = wanted & (s_true > level + 2)
    everything = np.ones(len(at), bool)
    values = {
        "completeness": _corrected(hit_true, luck_true, bright),
        "chance_completeness": _mean(luck_true, bright),
        "purity": _corrected(hit_found, luck_found, everything),
        "chance_purity": _mean(luck_found, everything),
        "n_catalog": len(at),
        "n_truth": int(bright.sum()),
    }
    cuts = list(pairwise(edges))
    in_true = [wanted & (s_true >= a) & (s_true < b) for a, b in cuts]
    in_found = [(s_found >= a) & (s_found < b) for a, b in cuts]
    binned = {
        "completeness_bin": [_corrected(hit_true, luck_true, k) for k in in_true],
        "n_truth_bin": [int(k.sum()) for k in in_true],
        "purity_bin": [_corrected(hit_found, luck_found, k) for k in in_found],
        "n_catalog_bin": [int(k.sum()) for k in in_found],
    }
    data: dict[str, Any] = {name: ((), value, {"units": ""}) for name, value in values.items()}
    data |= {name: ("snr", value, {"units": ""}) for name, value in binned.items()}
    attrs = {"level": level, "T": 2 * half, "match_radius": match_radius, "chance_shifts": SHIFTS}
    return xr.Dataset(data, coords={"snr": (edges[:-1] + edges[1:]) / 2}, attrs=attrs)


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    return float(values[where].mean()) if where.any() else float("nan")


def _corrected(hit: np.ndarray, luck: np.ndarray, where: np.ndarray) -> float:
    f, c = _mean(hit, where), _mean(luck, where)
    return (f - c) / (1 - c) if c < 1 else float("nan")


def _hits(
    at: np.ndarray, spot: np.ndarray, s_true: np.ndarray, radius: float, level: float
) -> tuple[np.ndarray, np.ndarray]:
    hit_found, hit_true = np.zeros(len(at)), np.zeros(len(spot))
    if len(at) and len(spot):
        i, j = match_one_to_one(at, spot, radius, first=s_true > level - 2, bright=s_true)
        hit_found[i], hit_true[j] = 1, 1
    return hit_found, hit_true


def _open(table: pd.DataFrame, mask: xr.DataArray | None) -> np.ndarray:
    """Rows whose pixel is inside the mask's array and not masked."""
    if mask is None:
        return np.ones(len(table), bool)
    value, inside = _sample(mask, table["x"].to_numpy(), table["y"].to_numpy())
    return inside & (value == 0)


def _positions(
    table: pd.DataFrame, noise: Any, mask: xr.DataArray | None, grid: Grid | None, snr: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 2) and S/N of the rows that count."""
    if grid is not None:
        x, y = pixel_positions(table, grid)
        table = table.assign(x=np.asarray(x), y=np.asarray(y))
    table = table[_open(table, mask)]
    x, y = table["x"].to_numpy(float), table["y"].to_numpy(float)
    if snr is not None and snr in table:
        return np.column_stack([x, y]), table[snr].to_numpy(float)
    local = noise if np.isscalar(noise) else _sample(noise, x, y)[0]
    return np.column_stack([x, y]), table["peak"].to_numpy(float) / np.asarray(local)


def _sample(image: xr.DataArray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest element of a map at global pixels, and whether the map reaches there."""
    grid = Grid.of(image)
    i = np.floor((y - grid.origin[0]) / grid.step + 0.5).astype(int)
    j = np.floor((x - grid.origin[1]) / grid.step + 0.5).astype(int)
    ny, nx = grid.shape
    inside = (i >= 0) & (i < ny) & (j >= 0) & (j < nx)
    return image.values[np.clip(i, 0, ny - 1), np.clip(j, 0, nx - 1)], inside
