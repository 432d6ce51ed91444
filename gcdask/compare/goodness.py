"""Whether a catalogue looks like one that was drawn from a map."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from gcdask import reduce
from gcdask.compare.boxes import box_places, box_size
from gcdask.compare.footprint import footprint
from gcdask.compare.likelihood import block_sums
from gcdask.errors import InputError
from gcdask.kernels import likelihood, sums
from gcdask.tiles import as_map

STREAM = 0x2C600000  # random stream of the simulated counts (see gcdask.kernels.counts)
MOST = 2**20  # simulations that the streams from there on have room for


def _table(
    total: sums.Sums,
    *,
    element: float,
    size: int,
    min_area: float,
    absolute: bool,
    n_simulations: int,
    seed: int,
) -> dict[str, Any]:
    where = likelihood.columns(1)
    values = total["sums"]
    counts = values[..., where["n"]].astype(np.int64)
    share = values[..., where["used"]]
    good = share >= min_area * size**2 * (1 - 1e-9)
    mean = values[..., where["integral"].start] * element
    draw = partial(likelihood.box_draw, seed=seed, stream=STREAM, corner=total["corner"])
    out = likelihood.goodness(counts, mean, good & (share > 0), absolute, n_simulations, draw)
    flagged, used = values[..., where["flagged"]].sum(), share.sum()
    lost = int(values[..., where["n_flagged"]].sum())
    note = likelihood.flag_text(flagged / max(flagged + used, 1), lost, "the map is not positive")
    out["status"] = "; ".join(s for s in (out["status"], note) if s)
    return out | {"n_flagged": int(flagged), "n_flagged_sources": lost}


def goodness_of_fit(
    catalog: Any,
    intensity: xr.DataArray,
    mask: xr.DataArray | None = None,
    exposure: xr.DataArray | None = None,
    *,
    box: float = 3.0,
    absolute: bool = False,
    n_simulations: int = 1000,
    seed: int = 0,
    min_area: float = 0.5,
    where: xr.DataArray | None = None,
    center: tuple[float, float] | None = None,
    radius: float | None = None,
) -> xr.Dataset:
    """Test a map of intensity by counts in boxes: whether sources clump more than it allows.

    Counts in square boxes of sky against what the map expects there: the Poisson deviance D =
    2 sum [n ln(n / mu) - (n - mu)] and variance over mean, sum (n - mu)^2 / mu per degree of
    freedom. Counts are so few that neither follows chi^2, so both are compared with catalogues
    simulated from the map. D sees any misfit, of the map's shape too; the scale is that of the
    box: try several.

    Parameters
    ----------
    catalog, mask, exposure, where, center, radius
        As in `poisson_loglike`.
    intensity : DataArray, dims (y, x)
        The map, e.g. kappa^g with the best g. Pixels where it is not finite and positive are left
        out and counted.
    box : float
        Side in arcsec, rounded to a whole number of elements; boxes start at global pixel 0.
    absolute : bool
        The map is in sources per arcsec2. Otherwise only its shape is tested: it is scaled to the
        number of sources, in each simulation too.
    n_simulations, seed : int
        Simulated catalogues; draws belong to (seed, simulation, box).
    min_area : float
        Boxes with less than this usable share are left out.

    Returns
    -------
    Dataset, lazy where an input is
        ``deviance``, ``simulated_deviance`` (simulation), ``p_value`` (share of simulations, the
        data among them, whose deviance is as large), ``overdispersion`` (1 for a Poisson process),
        ``overdispersion_error`` (scatter of the simulations) and ``overdispersion_p_value``,
        ``dof``, ``n`` (sources in boxes used), ``n_boxes``, ``n_flagged``, ``n_flagged_sources``;
        by ``box`` ``counts``, ``expected``, ``good`` and the centres as in `box_relation`.
        ``status`` begins with "unconstrained" where nothing can be tested (then NaN). Parameters
        fitted to the same catalogue make p-values a little too large.

    Raises
    ------
    InputError
        If boxes, numbers or grids make no sense.
    """
    if not 1 <= n_simulations <= MOST:
        raise InputError(f"n_simulations = {n_simulations} is not from 1 to {MOST}; give e.g. 1000")
    if not 0 <= min_area <= 1:
        raise InputError(f"min_area = {min_area} is not a share; give a number from 0 to 1")
    if int(seed) != seed:
        raise InputError(f"seed = {seed} is not an integer")
    maps = {"intensity": as_map(intensity, "intensity")}
    place = footprint(catalog, maps, mask, exposure, where=where, center=center, radius=radius)
    size = box_size(box, place.grid)
    total = block_sums(place, size, (None,), uniform=False)
    element = place.grid.pixel_scale**2
    table = partial(
        _table, element=element, size=size, min_area=min_area, absolute=absolute,
        n_simulations=int(n_simulations), seed=int(seed),
    )  # fmt: skip
    places = box_places(place.grid, size)
    spec = _spec(places["x"][1].size, int(n_simulations))
    result = xr.Dataset(
        reduce.variables(reduce.apply(table, total=total), spec) | places,
        attrs={
            "box": size * place.grid.pixel_scale,
            "box_asked": box,
            "min_area": min_area,
            "seed": int(seed),
            "expected": "absolute" if absolute else "scaled to the number of sources",
        },
    )
    return reduce.finish(result, catalog, intensity, mask, exposure, where)


def _spec(n: int, n_simulations: int) -> reduce.Spec:
    by = (("box",), (n,))
    return {
        "deviance": ((), (), float, "", "Poisson deviance of the counts"),
        "simulated_deviance": (("simulation",), (n_simulations,), float, "", "simulated deviances"),
        "p_value": ((), (), float, "", "share of simulations with a deviance as large"),
        "overdispersion": ((), (), float, "", "variance over mean of the counts"),
        "overdispersion_error": ((), (), float, "", "its standard deviation in the simulations"),
        "overdispersion_p_value": ((), (), float, "", "share of simulations with one as large"),
        "dof": ((), (), np.int64, "", "degrees of freedom"),
        "n": ((), (), np.int64, "", "sources in the boxes used"),
        "n_boxes": ((), (), np.int64, "", "boxes used"),
        "n_flagged": ((), (), np.int64, "", "pixels left out though not masked"),
        "n_flagged_sources": ((), (), np.int64, "", "sources on them"),
        "counts": (*by, np.int64, "", "sources"),
        "expected": (*by, float, "", "expected sources"),
        "good": (*by, bool, "", "whether the box is used"),
        "status": ((), (), object, "", "empty if all is well"),
    }
