"""Radial profiles of catalogues and maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.errors import InputError
from gcdask.grid import Field, Grid, tangent_offsets
from gcdask.kernels import rings, sums
from gcdask.profiles.tables import annuli_coords, count_spec, from_masked, from_sources, map_table
from gcdask.tiles import as_map

Center = tuple[float, float]
Sector = tuple[float, float]


def log_edges(r_min: float, r_max: float, n: int) -> np.ndarray:
    """Edges (n + 1,) of ``n`` annuli of equal logarithmic width, in arcsec."""
    if not 0 < r_min < r_max < math.inf or n < 1:
        raise InputError(
            f"r_min = {r_min}, r_max = {r_max}, n = {n}: give 0 < r_min < r_max (arcsec), n >= 1"
        )
    return np.geomspace(r_min, r_max, n + 1)


def check_edges(edges: Any) -> np.ndarray:
    """Edges as an increasing float array; raises `InputError` otherwise."""
    edges = np.asarray(edges, float)
    if edges.ndim != 1 or edges.size < 2 or not np.isfinite(edges).all():
        raise InputError(
            f"edges = {edges.tolist()}: give two or more radii in arcsec, e.g. log_edges(1, 60, 15)"
        )
    if edges[0] < 0 or (np.diff(edges) <= 0).any():
        raise InputError(f"edges = {edges.tolist()} do not increase from 0 or more; sort them")
    return edges


def ring_of(east: Any, north: Any, edges: np.ndarray, sector: Sector | None) -> np.ndarray:
    """Annulus of each offset (half-open); the number of annuli for those in none."""
    size = edges.size - 1
    ring = np.searchsorted(edges, np.hypot(east, north), side="right") - 1
    ring = np.where((ring < 0) | (ring >= size), size, ring)
    if sector is not None:
        turn = (np.degrees(np.arctan2(east, north)) - sector[0] + 180) % 360 - 180
        ring = np.where((turn >= -sector[1]) & (turn < sector[1]), ring, size)
    return ring


def _area_block(
    good: np.ndarray,
    found: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    grid: Grid,
    center: Center,
    edges: np.ndarray,
    sector: Sector | None,
) -> sums.Sums:
    """Unmasked pixels and the sources on them, by annulus."""
    size = edges.size - 1
    ring = rings.rings(reduce.offsets(grid, y, x, center), edges, sector)
    _, _, sy, sx = reduce.on_unmasked(found, good, y, x, grid.step)
    counts = np.zeros(size, np.int64)
    if sy.size:
        where = ring_of(*grid.offsets(sx, sy, center), edges, sector)
        counts = np.bincount(where, minlength=size + 1)[:size]
    return {"pixels": rings.count(ring, good, size), "counts": counts}


def _map_block(
    values: np.ndarray,
    good: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    grid: Grid,
    center: Center,
    edges: np.ndarray,
    sector: Sector | None,
) -> sums.Sums:
    ring = rings.rings(reduce.offsets(grid, y, x, center), edges, sector)
    return rings.moments(ring, good, values, edges.size - 1)


def _source_block(
    a: np.ndarray,
    b: np.ndarray,
    *,
    grid: Grid | None,
    center: Center,
    edges: np.ndarray,
    sector: Sector | None,
) -> sums.Sums:
    """Count sources by annulus whatever the mask; the last element counts those in none."""
    if a.size == 0:
        return {"rings": np.zeros(edges.size, np.int64)}
    east, north = tangent_offsets(a, b, center) if grid is None else grid.offsets(a, b, center)
    return {"rings": np.bincount(ring_of(east, north, edges, sector), minlength=edges.size)}


def radial_profile(
    source: Any,
    center: Center | None,
    edges: Sequence[float] | np.ndarray,
    mask: xr.DataArray | None = None,
    *,
    like: xr.DataArray | None = None,
    field: Field | None = None,
    sector: Sector | None = None,
) -> xr.Dataset:
    """Profile of a catalogue's number density, or of a map's values, in annuli about a centre.

    Parameters
    ----------
    source : dask or pandas DataFrame, or DataArray with dims (y, x)
        A catalogue to count, or a map (convergence, rho, light, ...) to average.
    center : (float, float) or None
        RA, Dec (deg); None: ``field.center``.
    edges : array (n + 1,)
        Radii in arcsec, increasing, from 0 or more; annulus i holds edges[i] <= r < edges[i + 1].
    mask : DataArray, optional
        Mask (nonzero = masked). For a catalogue at any resolution: its unmasked pixels are the
        area, and only sources on them count. For a map on the map's pixels or an integer number of
        times finer (then elements at least half unmasked count).
    like : DataArray, optional
        Catalogue without mask: the pixels of this map (its finite ones) are the area. Without
        either, whole annuli are.
    field : Field, optional
        Adds densities and radii in kpc at the lens.
    sector : (float, float), optional
        Position angle of a sector's axis and its half width (deg, north through east).

    Returns
    -------
    Dataset, lazy where an input is, dim ``annulus``, coords ``r`` (area-weighted mean radius),
    ``r_inner``, ``r_outer`` (arcsec), ``r_kpc``
        Catalogue: ``counts``, ``area`` (arcsec2), ``coverage``, ``n`` (arcsec-2), ``n_error``
        (sqrt(N) / area; 1.84 / area where N = 0, which is a limit), the exact interval ``n_low``,
        ``n_high``; with ``field`` ``n_kpc2``, ``n_kpc2_error``; the numbers ``n_sources``,
        ``n_invalid`` (not finite), ``n_beyond`` (in no annulus), ``n_masked``. Map: ``mean``,
        ``std`` (sample), ``n_pixels``. NaN where an annulus has no unmasked pixel.

    Raises
    ------
    InputError
        If edges, centre or sector make no sense, or mask and map do not fit.
    """
    edges = check_edges(edges)
    if center is None and field is None:
        raise InputError("center is None and no field is given; give (RA, Dec) in deg or a Field")
    center = reduce.check_center(field.center if center is None and field else center)
    if sector is not None and not (len(sector) == 2 and 0 < sector[1] <= 180):
        raise InputError(f"sector = {sector} is not (position angle, half width <= 180) in deg")
    kpc = field.kpc_per_arcsec if field else math.nan
    options = {"center": center, "edges": edges, "sector": sector}
    is_map = isinstance(source, (xr.DataArray, xr.Dataset))
    if is_map:
        spec: reduce.Spec
        table, spec, units = _profile_of_map(source, mask, options)
        kind = "map"
    else:
        table, spec, units = _profile_of_catalog(source, mask, like, options, kpc)
        kind = "catalogue"
    attrs = {"kind": kind, "center": list(center), "kpc_per_arcsec": kpc, "quantity": units}
    attrs["sector"] = "all" if sector is None else list(sector)
    attrs["flagged"] = "NaN in annuli without unmasked pixels"
    result = xr.Dataset(
        reduce.variables(table, spec), coords=annuli_coords(edges, kpc), attrs=attrs
    )
    return reduce.finish(result, source, mask, like)


def _profile_of_map(
    source: Any, mask: Any, options: dict[str, Any]
) -> tuple[da.Array, reduce.Spec, str]:
    values = as_map(source, "the map")
    size = options["edges"].size - 1
    good = values.copy(data=reduce.usable(mask, values, "mask"))
    cut = [reduce.around(m, options["center"], options["edges"][-1]) for m in (values, good)]
    units = str(values.attrs.get("units", ""))
    parts = [m for m in cut if m is not None]
    if parts:
        grid = Grid.of(parts[0])
        kernel = partial(_map_block, grid=grid, **options)
        total = reduce.reduce_maps(kernel, grid, [m.data for m in parts], sums.merge_moments)
        table = reduce.apply(map_table, total=total)
    else:
        nothing = {k: np.zeros(size) for k in ("n", "mean", "m2")}
        table = reduce.apply(partial(map_table, nothing))
    by: tuple[Any, ...] = (("annulus",), (size,))
    spec: reduce.Spec = {
        "mean": (*by, float, units, "mean over unmasked pixels"),
        "std": (*by, float, units, "sample standard deviation of the pixels"),
        "n_pixels": (*by, np.int64, "", "unmasked, finite pixels"),
    }
    return table, spec, str(values.name or "map")


def _profile_of_catalog(
    catalog: Any, mask: Any, like: Any, options: dict[str, Any], kpc: float
) -> tuple[da.Array, reduce.Spec, str]:
    edges, sector, center = options["edges"], options["sector"], options["center"]
    full = np.pi * np.diff(edges**2) * (1.0 if sector is None else sector[1] / 180)
    spec = count_spec(edges.size - 1, math.isfinite(kpc))
    if mask is None and like is None:
        kernel = partial(_source_block, grid=None, **options)
        source = reduce.reduce_sources(catalog, None, kernel, sums.add)
        table = reduce.apply(partial(from_sources, full=full, kpc=kpc), source=source)
        return table, spec, "number density"
    good = _footprint(like) if mask is None else reduce.unmasked(mask)
    if like is not None and mask is not None:
        good = good.copy(data=good.data & reduce.usable(_footprint(like), good, "where"))
    grid = Grid.of(good)
    source = reduce.reduce_sources(
        catalog, grid, partial(_source_block, grid=grid, **options), sums.add
    )
    part = reduce.around(good, center, edges[-1])
    finalise = partial(from_masked, pixel=grid.pixel_scale**2, full=full, kpc=kpc)
    if part is None:
        nothing = {k: np.zeros(edges.size - 1, np.int64) for k in ("pixels", "counts")}
        return reduce.apply(partial(finalise, nothing), source=source), spec, "number density"
    near = Grid.of(part)
    kernel = partial(_area_block, grid=near, **options)
    arrays = [part.data, reduce.points(catalog, part.data, near)]
    block = reduce.reduce_maps(kernel, near, arrays, sums.add)
    return reduce.apply(finalise, block=block, source=source), spec, "number density"


def _footprint(like: Any) -> xr.DataArray:
    """Tell where a map has data: finite, whatever its type."""
    like = as_map(like, "like")
    data = da.isfinite(like.data) if like.dtype.kind == "f" else da.ones_like(like.data, dtype=bool)
    return like.copy(data=data)
