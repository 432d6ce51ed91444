"""Maps ranked by the likelihood of a catalogue drawn from each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask import density, reduce
from gcdask.compare.footprint import Footprint, footprint, weighted
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import likelihood, nearfar, sums
from gcdask.tiles import as_map

UNIFORM = "uniform"
WHY = "a map is not finite and positive there, or the exposure not from 0 to 1"


@dataclass(frozen=True)
class LeaveOneOut:
    """The catalogue's own density as a map: at each source, that of all *other* sources.

    rho = sum_j (softening + d_j)^-alpha (`gcdask.density_map`) of all sources holds each source
    itself, and so would win over any map. Here the value at a source is rho at the centre of its
    pixel, where maps have theirs, less the source's own kernel there; and the integral is that of
    rho times 1 - 1 / n for n sources in the catalogue, on average what one source less leaves
    (exact in lnL to below 1). Sources of the catalogue that are masked or off the map add to rho,
    too: select before if they should not.

    Parameters
    ----------
    alpha, softening : float
        Exponent and softening (arcsec) of the kernel.
    """

    alpha: float = 1.6
    softening: float = 0.9


def kappa_powers(
    kappa: xr.DataArray, powers: Iterable[float] = (1.0, 1.5, 2.0, 2.5)
) -> dict[str, xr.DataArray]:
    """Maps kappa^g for `poisson_loglike`, by name (``kappa``, ``kappa^1.5``, ...).

    Negative convergences become NaN, also for even powers: they are flagged, not mirrored.
    """
    sound = kappa.where(kappa >= 0).assign_attrs(kappa.attrs)
    return {
        "kappa" if g == 1 else f"kappa^{g:g}": (sound**g).assign_attrs(kappa.attrs) for g in powers
    }


def loglike_block(
    share: np.ndarray,
    found: np.ndarray,
    *arrays: np.ndarray,
    grid: Grid,
    size: int,
    exposed: bool,
    kernels: tuple[tuple[float, float] | None, ...],
    uniform: bool,
) -> sums.Sums:
    """Sums of a block: by sky blocks of ``size`` elements (0: one for all).

    ``kernels`` tells for each map alpha and softening if it is a density of which a source's own
    part is to be taken away. A uniform map comes first if asked for.
    """
    *maps, y, x = arrays
    exposure = maps.pop(0) if exposed else None
    area, inside = weighted(share, exposure)
    use = likelihood.usable(area, inside, maps)
    flagged = likelihood.flags(area, inside, use)
    iy, ix, sy, sx = reduce.on_unmasked(found, use | flagged, y, x, grid.step)
    rates = [m[iy, ix] for m in maps]
    distance = np.hypot(sx - x[ix], sy - y[iy]) * grid.global_scale
    for k, own in enumerate(kernels):
        if own is not None:
            rates[k] = np.maximum(rates[k] - nearfar.kernel(distance, *own), 0)
    if uniform:
        maps, rates = [np.ones((1, 1)), *maps], [np.ones(iy.size), *rates]
    by, bx = (reduce.element_index(v, grid.step) // size if size else np.zeros(v.size, int)
              for v in (y, x))  # fmt: skip
    seen = 1.0 if exposure is None else exposure[iy, ix]
    return likelihood.map_sums(area, use, flagged, maps, (iy, ix), np.array(rates) * seen, by, bx)


def block_sums(
    place: Footprint, size: int, kernels: tuple[tuple[float, float] | None, ...], *, uniform: bool
) -> da.Array:
    """`loglike_block` of all of a footprint, merged."""
    kernel = partial(
        loglike_block, grid=place.grid, size=size, exposed=place.exposure is not None,
        kernels=kernels, uniform=uniform,
    )  # fmt: skip
    return reduce.reduce_maps(kernel, place.grid, place.arrays, sums.merge_windows)


def _no_sums(x: np.ndarray, y: np.ndarray) -> sums.Sums:
    return {}


def _table(
    total: sums.Sums, source: sums.Sums, *, element: float, alone: tuple[bool, ...]
) -> dict[str, Any]:
    n = source["n_sources"] - source["n_invalid"]
    factors = np.where(alone, 1 - 1 / n if n else 0.0, 1.0)
    blocks = total["sums"].reshape(-1, total["sums"].shape[-1])
    return likelihood.ranking(blocks, element, factors, 0, WHY)


def jackknife_size(jackknife: float | None, grid: Grid) -> int:
    """Side of the blocks in elements; 0 for one block that holds everything."""
    if jackknife is None:
        return 0
    if not jackknife > 0:
        raise InputError(f"jackknife = {jackknife} is not positive; give arcsec, or None")
    return max(1, round(jackknife / grid.pixel_scale))


def poisson_loglike(
    catalog: Any,
    maps: Mapping[str, xr.DataArray | LeaveOneOut],
    mask: xr.DataArray | None = None,
    exposure: xr.DataArray | None = None,
    *,
    where: xr.DataArray | None = None,
    center: tuple[float, float] | None = None,
    radius: float | None = None,
    jackknife: float | None = 10.0,
) -> xr.Dataset:
    """Rank maps by the likelihood that a catalogue is drawn from each.

    Sources are an inhomogeneous Poisson process of intensity lambda proportional to a map and to
    the exposure E. Given their number N, lnL = sum_i ln[lambda(x_i) E(x_i)] - N ln
    integral(lambda E dA) (Cox & Isham 1980; SCIENCE, "beyond the paper"), so that units and
    normalisation of a map do not matter. A source takes the value of the pixel that it lies on.
    Uniform contaminants favour flat maps: add their density to a map that is in arcsec-2, e.g.
    A kappa^g + c of `fit_tracer_power`.

    Parameters
    ----------
    catalog : dask or pandas DataFrame
        Sources, at ``ra``, ``dec``.
    maps : mapping of str to DataArray, dims (y, x), or `LeaveOneOut`
        Intensities on one grid: kappa, powers of it (`kappa_powers`), light, ... ``uniform`` is
        always added.
    mask : DataArray, optional
        Mask (nonzero = masked) on the maps' pixels or an integer number of times finer; area and
        sources are taken at its own resolution.
    exposure : DataArray, optional
        Completeness, 0 to 1, on the maps' pixels. Where it is 0 nothing counts.
    where : DataArray, optional
        Elements to use, as in `fit_beta`.
    center, radius : (float, float), float, optional
        Use pixels whose centre is less than ``radius`` arcsec from ``center`` (RA, Dec; default
        the middle of the map).
    jackknife : float or None
        Side (arcsec) of the square blocks of sky left out in turn for the errors, rounded to whole
        elements and aligned to the global pixel grid; None: no such errors.

    Returns
    -------
    Dataset, lazy where an input is, dim ``map`` (``uniform`` first)
        ``lnL`` (per arcsec2 and source), ``rank`` (1 = best), ``dlnL`` against uniform with
        ``dlnL_error`` and ``dlnL_error_poisson``; ``dlnL_pair`` (map, map_2), lnL of ``map`` less
        that of ``map_2``, with ``dlnL_pair_error`` and ``dlnL_pair_error_poisson``: this decides
        between two maps. ``n`` sources, ``area`` (arcsec2, times exposure), ``n_blocks``; pixels
        and sources left out for *all* maps because one of them is not finite and positive or the
        exposure not in [0, 1]: ``n_flagged``, ``n_flagged_sources``. ``status`` is empty if all is
        well, begins with "unconstrained" if there is no likelihood (then NaN), with "flagged" if
        more than 1 % of the footprint was left out.

        Errors are those of the mean difference per source, times N. ``_error``: block jackknife,
        in which the mean may differ from place to place, as it does also for a Poisson process
        whose density varies from block to block; it is too large then. ``_error_poisson``: scatter
        between sources, right for a Poisson process, too small if sources clump.

    Raises
    ------
    InputError
        If there is no map, a name is taken, or grids, disk or exposure make no sense.
    """
    if not maps:
        raise InputError("maps is empty; give {name: map}, e.g. {'kappa': kappa}")
    if UNIFORM in maps:
        raise InputError(f"the name {UNIFORM!r} stands for a uniform density; rename that map")
    images, alone = _densities(catalog, maps)
    place = footprint(catalog, images, mask, exposure, where=where, center=center, radius=radius)
    size = jackknife_size(jackknife, place.grid)
    total = block_sums(place, size, tuple(alone.values()), uniform=True)
    source = reduce.reduce_sources(catalog, place.grid, _no_sums, sums.add)
    table = partial(
        _table,
        element=place.grid.pixel_scale**2,
        alone=(False, *(v is not None for v in alone.values())),
    )
    names = [UNIFORM, *maps]
    result = xr.Dataset(
        reduce.variables(reduce.apply(table, total=total, source=source), _spec(len(names))),
        coords={k: np.array(names, object) for k in ("map", "map_2")},
        attrs={
            "jackknife_block": size * place.grid.pixel_scale if size else "none",
            "radius": "none" if radius is None else radius,
            "exposure": "none" if exposure is None else str(exposure.name or "given"),
            "flagged": f"left out for all maps: {WHY}",
        },
    )
    given = (m for m in maps.values() if not isinstance(m, LeaveOneOut))
    return reduce.finish(result, catalog, mask, exposure, where, *given)


def _densities(
    catalog: Any, maps: Mapping[str, Any]
) -> tuple[dict[str, xr.DataArray], dict[str, tuple[float, float] | None]]:
    """Maps, densities of the catalogue among them, and which of these have what kernel."""
    images = {k: as_map(m, k) for k, m in maps.items() if not isinstance(m, LeaveOneOut)}
    if not images:
        raise InputError(
            "maps holds no map whose pixels LeaveOneOut could be evaluated on; give one beside it"
        )
    like = next(iter(images.values()))
    alone: dict[str, tuple[float, float] | None] = dict.fromkeys(maps)
    for name, m in maps.items():
        if isinstance(m, LeaveOneOut):
            images[name] = density.density_map(catalog, like, m.alpha, m.softening)
            alone[name] = (m.alpha, m.softening)
    return {name: images[name] for name in maps}, alone


def _spec(n: int) -> reduce.Spec:
    by, pair = (("map",), (n,)), (("map", "map_2"), (n, n))
    return {
        "lnL": (*by, float, "", "log-likelihood given the number of sources"),
        "rank": (*by, np.int64, "", "1 for the most likely map"),
        "dlnL": (*by, float, "", "lnL less that of a uniform density"),
        "dlnL_error": (*by, float, "", "block jackknife standard error of dlnL"),
        "dlnL_error_poisson": (*by, float, "", "error of dlnL if sources are independent"),
        "dlnL_pair": (*pair, float, "", "lnL of map less that of map_2"),
        "dlnL_pair_error": (*pair, float, "", "block jackknife standard error of dlnL_pair"),
        "dlnL_pair_error_poisson": (*pair, float, "", "its error if sources are independent"),
        "n": ((), (), np.int64, "", "sources used"),
        "area": ((), (), float, "arcsec2", "unmasked area times exposure"),
        "n_flagged": ((), (), np.int64, "", "pixels left out though not masked"),
        "n_flagged_sources": ((), (), np.int64, "", "sources on them"),
        "n_blocks": ((), (), np.int64, "", "jackknife blocks with pixels"),
        "status": ((), (), object, "", "empty if all is well"),
    }
