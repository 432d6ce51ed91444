"""What dispersion of beta between sectors tracers of the lens show by themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from gcdask import density, reduce
from gcdask.compare.beta import center_of, check_sectors, fit_beta
from gcdask.compare.resolution import coarsened, factor_for
from gcdask.density.graphs import positive
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import fits
from gcdask.tiles import as_map

UNUSUAL = 0.05  # share of mocks beyond which the observed dispersion is called above or below


def _intensity(
    kappa: xr.DataArray, n: Any, contamination: float, power: float
) -> tuple[xr.DataArray, xr.DataArray]:
    """Sources and contaminants per arcsec^2: kappa^power plus a constant, ``n`` in all."""
    grid = Grid.of(kappa)
    seen = da.isfinite(kappa.data)
    shape = da.where(kappa.data > 0, kappa.data, 0.0) ** power
    pixel = grid.pixel_scale**2
    uniform = contamination * seen
    tracers = da.maximum(n - uniform.sum() * pixel, 0.0)
    rate = shape * (tracers / (shape.sum() * pixel)) + uniform
    wrapped = grid.wrap(rate, "intensity", "arcsec-2")
    return wrapped, grid.wrap(uniform, "contamination", "arcsec-2")


def _summary(
    mocks: np.ndarray, floor: float, observed: float, n: float, *, power: float
) -> fits.Fit:
    good = mocks[np.isfinite(mocks)]
    out: fits.Fit = {
        "dispersion_mock": mocks,
        "expected": good.mean() if good.size else math.nan,
        "expected_std": fits.sample_std(mocks),
        "floor": float(floor),
        "observed": float(observed),
        "p_value": math.nan,
        "percentile": math.nan,
        "n_sources": float(n),
        "status": "",
        "verdict": "",
    }
    if good.size < 2:
        out["status"] = (
            f"unconstrained: {good.size} of {mocks.size} mocks have a beta in every sector, "
            "2 needed"
        )
        return out | {"verdict": out["status"]}
    text = (
        f"{100 * out['expected']:.1f} +- {100 * out['expected_std']:.1f} % expected of {n:.0f} "
        f"tracers of {'kappa' if power == 1 else f'kappa^{power:g}'} themselves"
    )
    floor_text = f"geometric floor {100 * floor:.1f} %"
    if not math.isfinite(observed):
        return out | {"verdict": f"{text}; {floor_text}"}
    above = int((good >= observed).sum())
    p = (1 + above) / (1 + good.size)
    out |= {"p_value": p, "percentile": 100 * float((good < observed).mean())}
    less = (1 + int((good <= observed).sum())) / (1 + good.size)
    word = "above" if p < UNUSUAL else "below" if less < UNUSUAL else "within"
    meaning = "significant" if word == "above" else "not significant"
    return out | {
        "verdict": f"the observed {100 * observed:.1f} % is {word} the {text} ({above} of "
        f"{good.size} mocks reach it, p = {p:.2g}; {floor_text}): a scatter beyond shot noise "
        f"and geometry is {meaning}"
    }


def _check(n_mocks: int, contamination: float) -> None:
    if int(n_mocks) != n_mocks or not 2 <= n_mocks < 2**16:
        raise InputError(f"n_mocks = {n_mocks} is not an integer from 2 to 65535")
    if not 0 <= contamination < math.inf:
        raise InputError(f"contamination = {contamination} is no number per arcsec-2, 0 or more")


def expected_dispersion(
    kappa: xr.DataArray,
    n: Any,
    center: tuple[float, float] | None = None,
    where: xr.DataArray | None = None,
    *,
    observed: Any = None,
    contamination: float = 0.0,
    power: float = 1.0,
    extent: float | None = None,
    n_mocks: int = 50,
    seed: int = 0,
    alpha: float = 1.6,
    softening: float = 0.9,
    sectors: Mapping[str, float] | None = None,
    half_width: float = 45.0,
    radius: float | None = None,
    pixel: float | None = None,
) -> xr.Dataset:
    """Dispersion of beta between sectors that tracers drawn from kappa itself show.

    Mocks of as many sources, drawn from kappa^power (`gcdask.density.draw_sources`), are treated
    like the catalogue: density, contamination subtracted, beta by sector. Beside them stands the
    geometric floor, the dispersion of noise-free tracers (`gcdask.density.smooth_map`): rho is
    kappa^power smoothed with a wide kernel, so that beta differs between sectors even then. Is the
    dispersion observed more than these? ``verdict`` says it in words.

    Parameters
    ----------
    kappa : DataArray, dims (y, x)
        Convergence.
    n : int or lazy scalar
        Sources in the catalogue, on the usable pixels of ``kappa`` (within ``extent``).
    center, where, sectors, half_width, radius
        As in `fit_beta`. Sources of the mocks lie on usable pixels.
    observed : float or DataArray, optional
        ``fit_beta(...).dispersion_relative``.
    contamination : float
        Uniform contaminants per arcsec^2 among the ``n``. Their density is subtracted from that
        of the mocks, as it should be from the one observed.
    power : float
        Exponent of kappa that the sources follow (``fit_tracer_power``).
    extent : float, optional
        Sources lie less than this many arcsec from ``center``; default: wherever kappa is usable.
    n_mocks, seed : int
        Number of mocks, and what their draws are a function of.
    alpha, softening : float
        Of the density's kernel.
    pixel : float, optional
        Largest side (arcsec) of the pixels of the mocks; default softening / 2.

    Returns
    -------
    Dataset, lazy where an input is
        ``expected``, ``expected_std`` (mean and sample standard deviation of the relative
        dispersion between mocks), ``floor``, ``observed``, ``p_value`` (share of mocks with at
        least the observed one, counting itself), ``percentile``, ``dispersion_mock`` (mock),
        ``n_sources``, ``verdict`` in words, ``status`` ("unconstrained: ..." and NaN where mocks
        have no beta).

    Raises
    ------
    InputError
        If a number is out of its range; else as in `fit_beta`.
    """
    axes = check_sectors(sectors, half_width)
    positive(power=power, extent=extent, alpha=alpha, softening=softening)
    _check(n_mocks, contamination)
    k = as_map(kappa, "kappa")
    center = center_of(Grid.of(k), center)
    factor = factor_for(Grid.of(k), softening / 2 if pixel is None else pixel)
    (k,) = coarsened([k], where, factor)
    there = k if extent is None else reduce.within_disk(k, center, extent)
    rate, uniform = _intensity(there, n, contamination, power)
    kernel: dict[str, Any] = {"alpha": alpha, "softening": softening}
    background = density.smooth_map(uniform, k, **kernel) if contamination else 0.0
    fit = partial(
        fit_beta, k, center=center, sectors=axes, half_width=half_width, radius=radius,
        jackknife=None,
    )  # fmt: skip

    def dispersion(rho: xr.DataArray) -> xr.DataArray:
        return fit((rho - background).assign_attrs(rho.attrs)).dispersion_relative

    drawn = (density.draw_sources(rate, seed, realisation=i) for i in range(int(n_mocks)))
    mocks = [dispersion(density.density_map(one, k, **kernel)).data for one in drawn]
    summary = reduce.apply(
        partial(_summary, power=power),
        mocks=da.stack(mocks).rechunk(-1),
        floor=dispersion(density.smooth_map(rate, k, **kernel)),
        observed=math.nan if observed is None else observed,
        n=n,
    )
    result = xr.Dataset(
        reduce.variables(summary, _spec(int(n_mocks))),
        attrs={
            "center": list(center),
            "radius": "none" if radius is None else radius,
            "extent": "none" if extent is None else extent,
            "contamination": contamination,
            "power": power,
            "seed": int(seed),
            "pixel": Grid.of(k).pixel_scale,
            **kernel,
        },
    )
    return _spoken(reduce.finish(result, kappa, where, n, observed))


def _spoken(result: xr.Dataset) -> xr.Dataset:
    """Repeat the verdict in the attributes of a result that is not lazy."""
    if not reduce.is_lazy(result["verdict"]):
        result.attrs["verdict"] = result["verdict"].item()
    return result


def _spec(n: int) -> reduce.Spec:
    one: tuple[Any, ...] = ((), ())
    return {
        "dispersion_mock": (("mock",), (n,), float, "", "relative dispersion of each mock"),
        "expected": (*one, float, "", "mean relative dispersion of the mocks"),
        "expected_std": (*one, float, "", "standard deviation between mocks"),
        "floor": (*one, float, "", "relative dispersion of tracers without noise"),
        "observed": (*one, float, "", "relative dispersion observed"),
        "p_value": (*one, float, "", "share of mocks with at least the observed dispersion"),
        "percentile": (*one, float, "", "share of mocks (%) below the observed dispersion"),
        "n_sources": (*one, float, "", "sources expected in each mock"),
        "verdict": (*one, object, "", "whether the observed dispersion is more than expected"),
        "status": (*one, object, "", "empty if the expectation is sound"),
    }
