"""A run on a mock against what was put into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from gcdask import catalog, compare, density, mosaic, profiles, simulate, storage
from gcdask.config import Config
from gcdask.grid import Field, Grid
from gcdask.masks import Flag
from gcdask.pipeline.identity import plain
from gcdask.pipeline.science import SLOPE_ANNULI

POINTS = ("gc", "contaminant")


def evaluate(out: str, config: Config, truth: pd.DataFrame) -> dict[str, Any]:
    """Compare the outputs of a run with the truth table of its mock.

    Parameters
    ----------
    out : path or URL
        Folder of a finished run with thresholds in sigma.
    config : Config
        Of the run.
    truth : DataFrame
        `gcdask.simulate.Mock.truth`; module 1 is the mosaic.

    Returns
    -------
    dict
        ``completeness``, ``purity`` (chance matches subtracted), ``n_truth`` and ``n_found``
        outside the edge frame; ``inpainted`` and ``masked_truth`` (sources above the level on
        inpainted pixels) with the estimators' ``expected`` numbers and their ``inpainting_bias``
        (expected / truth - 1); ``beta`` and ``beta_truth`` by sector; ``slope`` and
        ``slope_truth`` with errors; ``contamination`` and ``contamination_truth`` (arcsec-2).
    """
    results = storage.read_json(storage.join(out, "results.json"))
    level = results["threshold"]["level"]
    mask = mosaic.open_map(storage.join(out, "maps.zarr", "image"), "mask").compute()
    noise = mosaic.open_map(storage.join(out, "maps.zarr", "image", "noise"), "detection").compute()
    found = catalog.read(storage.join(out, "catalog.parquet")).compute()
    here = truth[truth["module"] == 1]
    points = above(here[here["class"].isin(POINTS)], noise, level)
    points = points[~at(points, mask, Flag.EDGE)]  # the frame is neither searched nor inpainted
    score = simulate.score(found, here, noise, mask, level=level)
    hidden = at(points, mask, ~Flag.EDGE)
    expected = results.get("inpainting", {}).get("expected", {}) if hidden.any() else {}
    answer = {
        "completeness": float(score["completeness"]),
        "purity": float(score["purity"]),
        "n_truth": len(points),
        "n_found": len(found),
        "inpainted": results["n_inpainted"],
        "expected": results.get("inpainting", {}).get("expected"),
        "masked_truth": int(hidden.sum()),
        "inpainting_bias": {k: v / hidden.sum() - 1 for k, v in expected.items()},
        **_betas(config, results, points, mask, out),
        **_profiles(config, results, points, mask),
    }
    return plain(answer)


def above(table: pd.DataFrame, noise: xr.DataArray, level: float) -> pd.DataFrame:
    """Sources whose noise-free peak exceeds ``level`` times the local noise."""
    near = noise.sel(
        x=xr.DataArray(table["x"].to_numpy()), y=xr.DataArray(table["y"].to_numpy()),
        method="nearest",
    )  # fmt: skip
    return table[table["peak"].to_numpy() > level * near.to_numpy()]


def at(table: pd.DataFrame, mask: xr.DataArray, flags: Flag) -> np.ndarray:
    """Which sources lie on pixels with one of these bits; beyond the mask is edge."""
    y, x = (np.floor(table[k].to_numpy() + 0.5).astype(int) for k in ("y", "x"))
    ny, nx = mask.shape
    inside = (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
    bits = np.where(inside, mask.values[y.clip(0, ny - 1), x.clip(0, nx - 1)], int(Flag.EDGE))
    return (bits & (int(flags) & 0xFFFF)) != 0


def _betas(
    config: Config, results: dict, points: pd.DataFrame, mask: xr.DataArray, out: str
) -> dict[str, Any]:
    """Get beta by sector from the run, and from all sources of the truth with nothing masked."""
    d, c = config.density, config.compare
    kappa = mosaic.open_map(storage.join(out, "maps.zarr", "smooth"), "kappa")
    rho = density.density_map(points, Grid.of(kappa), d.alpha, d.softening)
    fit = compare.fit_beta(
        kappa, rho, config.field.center, (mask & int(Flag.EDGE)) == 0, radius=c.radius,
        sectors=c.sectors, half_width=c.half_width, jackknife=None,
    ).compute()  # fmt: skip
    names = [str(s) for s in fit["sector"].values]
    return {
        "beta": {"all": results["beta"]["value"], **results["beta"]["sectors"]},
        "beta_truth": {
            "all": float(fit["beta"]),
            **dict(zip(names, fit["sector_beta"].values.tolist(), strict=True)),
        },
    }


def _profiles(
    config: Config, results: dict, points: pd.DataFrame, mask: xr.DataArray
) -> dict[str, Any]:
    """Slope of the clusters alone, without mask, and the contaminants' density."""
    f, p = config.field, config.profiles
    field = Field(f.center, f.z_lens, f.z_source, f.h0, f.om0)
    edge = (mask & int(Flag.EDGE)) != 0
    clusters = points[points["class"] == "gc"]
    low, high = p.slope_range
    edges = profiles.log_edges(low, high, SLOPE_ANNULI)
    true = profiles.radial_profile(clusters, field.center, edges, edge, field=field).compute()
    slope = profiles.fit_slope(true, p.slope_range).compute()
    area = float((~edge).sum()) * Grid.of(mask).pixel_scale ** 2
    found = results["profile"]
    return {
        "slope": {"value": found["slope"], "error": found["slope_error"]},
        "slope_truth": {"value": float(slope["slope"]), "error": float(slope["slope_error"])},
        "contamination": {
            "value": found["contamination_arcsec2"],
            "error": found["contamination_arcsec2_error"],
        },
        "contamination_truth": float((points["class"] == "contaminant").sum() / area),
    }
