"""Figures show the data that they are given: north up, east left, different for different data."""

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.image import imread

from gcdask import compare, density, plots
from gcdask.catalog import make_catalog
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.masks import Flag
from gcdask.plots import canvas

CENTER = (342.183, -44.531)
GRID = Grid.tangent(CENTER, (400, 400), 0.3, angle=30)
COARSE = GRID.coarsen(8)


def kappa_map(core=8.0):
    east, north = COARSE.offsets(*COARSE.mesh(), CENTER)
    return COARSE.wrap(20 / np.hypot(np.hypot(east, 1.4 * north), core), "kappa", "")


def catalogue(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return make_catalog(*rng.normal(200, 50, (2, n)).clip(5, 394), GRID)


def mask_map(seed=0):
    bits = np.random.default_rng(seed).choice([0, 0, 0, *map(int, Flag)], COARSE.shape)
    return COARSE.wrap(bits.astype(np.uint16), "mask", "")


def relation(seed=0):
    rng = np.random.default_rng(seed)
    n = rng.uniform(0, 6, 300).round(1)
    kappa = 0.45 * n**0.62 * rng.lognormal(0, 0.2, 300)
    good = rng.random(300) < 0.9
    boxes = {"n": n, "n_gc": n, "kappa": kappa, "good": good}
    return xr.Dataset({k: ("box", v) for k, v in boxes.items()}, attrs={"box": 3.0})


def law(a=0.45):
    values = {"a": a, "b": 0.62, "a_error": 0.12, "b_error": 0.18, "n0": 0.0, "status": ""}
    bins = {"bin_n": [1, 2, 4.0], "bin_kappa": [0.4, 0.7, 1.0], "bin_kappa_std": [0.1] * 3}
    return xr.Dataset(
        values | {k: ("bin", v) for k, v in (bins | {"bin_boxes": [9, 9, 1]}).items()},
        attrs={"n_range": [0.67, 5.67]},
    )


def luminosities(seed=0):
    edges = np.arange(24, 31, 0.5)
    counts = np.array([0, 0, 1, 3, 9, 22, 40, 60, 50, 30, 12, 3, 0][:13]) + 20 * seed
    table = {"counts": counts, "n_corrected": 1.5 * counts - 1, "n_corrected_error": counts**0.5}
    table["expected_contaminants"] = np.full(13, 1.0)
    places = {"magnitude": edges[:-1] + 0.25, "bright": edges[:-1], "faint": edges[1:]}
    return xr.Dataset(
        {k: ("bin", v) for k, v in table.items()}, {k: ("bin", v) for k, v in places.items()}
    )


def gaussian(turnover=27.6):
    values = {"turnover": turnover, "turnover_error": 0.1, "sigma": 1.0, "n_total": 350.0}
    return xr.Dataset(values | {"limit": 29.5, "status": ""})


def compared(factor=1.0):
    rng = np.random.default_rng(5)
    kappa = rng.uniform(0.1, 2, 300)
    boxes = {"kappa": kappa, "kappa_pred": factor * kappa * rng.lognormal(0, 0.3, 300)}
    numbers = {"bias": factor - 1, "bias_error": 0.02, "scatter": 0.3, "status": ""}
    return xr.Dataset(
        numbers | {k: ("box", v) for k, v in boxes.items()} | {"tested": ("box", kappa < 1.9)}
    )


def curve(power=-1.0, **more):
    r = np.geomspace(1, 100, 12)
    n = 50 * r**power
    found = {"n": n, "n_low": 0.9 * n, "n_high": 1.1 * n, "counts": np.arange(12)} | more
    return xr.Dataset({k: ("annulus", v) for k, v in found.items()}, coords={"r": ("annulus", r)})


def radial(power=-0.8):
    return curve(power).rename(n="mean")


def power(g=1.5, contamination=0.4):
    kappa = np.geomspace(0.1, 2, 12)
    area = 100 / kappa**2
    rate = 4 * kappa ** np.nan_to_num(g) + contamination
    counts = np.random.default_rng(0).poisson(rate * area)
    values = {"g": g, "error": 0.05, "amplitude": 4.0, "contamination": contamination,
              "contamination_error": 0.03, "n": counts.sum(), "status": ""}  # fmt: skip
    bins = {"bin_kappa": kappa, "bin_area": area, "bin_counts": counts}
    return xr.Dataset(values | {k: ("bin", v) for k, v in bins.items()})


def ranked(seed=0):
    names = ["uniform", "κ", "κ^2", "light"]
    value = np.array([0, 300, 420 + 300 * seed, 150.0]) + 0 * seed
    pair = value[:, None] - value
    by = {"dlnL": value, "dlnL_error": 0.2 * value, "dlnL_error_poisson": 0.1 * value}
    by["rank"] = np.argsort(np.argsort(-value)) + 1
    two = {"dlnL_pair": pair, "dlnL_pair_error": np.abs(pair) / 5}
    return xr.Dataset(
        {k: ("map", v) for k, v in by.items()}
        | {k: (("map", "map_2"), v) for k, v in two.items()}
        | {"n": 900, "status": ""},
        coords={k: np.array(names, object) for k in ("map", "map_2")},
    )


def scanned(seed=0, alone=False):
    """A kernel fit to a kappa that is a little more than beta rho."""
    rho = density.density_map(catalogue(), COARSE)
    kappa = COARSE.wrap(0.02 * rho.values ** (1.1 + 0.1 * seed), "kappa", "")
    softenings = (0.9,) if alone else (0.5, 0.9, 1.6)
    return compare.fit_kernel(
        catalogue(), kappa, (1.2, 1.6, 2.0), softenings, (5, 50), CENTER, n_annuli=8
    )


def draw(name, path, seed=0):
    """Each of the figures, of data that depend on ``seed``."""
    if name == "source_map":
        return plots.source_map(
            catalogue(seed=seed), path, inpainted=catalogue(50, 9), center=CENTER, frames=[GRID],
            members=[CENTER], kpc_per_arcsec=4.9,
        )  # fmt: skip
    if name == "detection_panels":
        rng = np.random.default_rng(seed)
        cuts = [GRID.cut(100 + 40 * i, 160 + 40 * i, 120, 200) for i in range(4)]
        zooms = [g.wrap(rng.normal(size=g.shape), "detection", "MJy/sr") for g in cuts]
        masks = [zooms[0] > 1, None, zooms[2] > 9, zooms[3] > 1]
        return plots.detection_panels(zooms, mask_map(), catalogue(), path, zoom_masks=masks)
    if name == "mask_map":
        return plots.mask_map(
            mask_map(seed), path, catalog=catalogue(), inpainted=catalogue(30, 4), center=CENTER
        )
    if name == "density_kappa":
        rho = kappa_map(8 + 4 * seed)
        return plots.density_kappa(rho, kappa_map(), path, center=CENTER, kpc_per_arcsec=4.9)
    if name == "kappa_rho_scatter":
        rho = kappa_map(9 + 4 * seed)
        return plots.kappa_rho_scatter(kappa_map(), rho, path, beta=1.1, where=rho > 0.1)
    if name == "kappa_rho_scatter:binned":
        rho = kappa_map(9 + 4 * seed)
        binned = compare.pixel_relation(kappa_map(), rho, 1.1)
        return plots.kappa_rho_scatter(kappa_map(), rho, path, beta=1.1, relation=binned)
    if name.startswith("kernel_fit"):
        return plots.kernel_fit(scanned(seed, alone=name.endswith("alone")), path)
    if name == "box_relation":
        return plots.box_relation(relation(seed), law(), path)
    if name == "profiles":
        return plots.profiles(
            path,
            gc=curve(-1 - seed, n_corrected=50 * np.geomspace(1, 100, 12) ** -1.0 - 1),
            kappa=radial(),
            rho={a: radial(-a / 2) for a in (1.4, 1.6, 1.8)},
            light=radial(-2),
            contamination=xr.Dataset({"value": 0.36}),
            slope=xr.Dataset({"slope": -1.0, "slope_error": 0.1, "amplitude": 2.0, "r0": 25.0}),
            lensing_range=(3, 50),
            kpc_per_arcsec=4.9,
        )
    if name == "luminosity_function":
        return plots.luminosity_function(luminosities(seed), gaussian(), path)
    if name == "transfer":
        return plots.transfer({"physical": compared(), "naive": compared(0.5 - 0.2 * seed)}, path)
    if name == "tracer_power":
        return plots.tracer_power(power(1.5 + seed), path)
    if name == "likelihood_ranking":
        return plots.likelihood_ranking(ranked(seed), path)
    level = np.geomspace(1, 50, 30)
    return plots.threshold_curve(
        level, 1e4 / level, 1e4 / level ** (3 + seed), path, threshold=3, catalog_level=6
    )


NAMES = [
    "source_map",
    "detection_panels",
    "mask_map",
    "density_kappa",
    "kappa_rho_scatter",
    "kappa_rho_scatter:binned",
    "kernel_fit",
    "kernel_fit:alone",
    "box_relation",
    "profiles",
    "threshold_curve",
    "luminosity_function",
    "transfer",
    "tracer_power",
    "likelihood_ranking",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_a_png_that_responds_to_its_data(tmp_path, name):
    assert {n.split(":")[0] for n in NAMES} == set(plots.__all__)
    first = draw(name, tmp_path / "a.png")
    assert first == tmp_path / "a.png"
    one, two = imread(first), imread(draw(name, tmp_path / "b.png", seed=1))
    assert min(one.shape[:2]) > 350
    assert (one[..., :3] < 0.5).mean() > 0.003, "nearly blank"
    ny, nx = np.minimum(one.shape, two.shape)[:2]
    changed = np.abs(one[:ny, :nx] - two[:ny, :nx]).max(axis=-1) > 0.2
    assert changed.sum() > 200, "the data do not matter"


@pytest.mark.parametrize("name", ["mask_map", "profiles"])
def test_the_same_data_give_the_same_picture(tmp_path, name):
    one, two = (draw(name, tmp_path / f"{i}.png").read_bytes() for i in "ab")
    assert one == two


def test_pyplot_is_not_needed():
    code = "import sys, gcdask.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("angle", [0, 30, 200])
def test_north_is_up_and_east_is_left(angle):
    """A bright pixel appears where its sky offset says, whatever the rotation of the mosaic."""
    grid = Grid.tangent(CENTER, (60, 80), 0.5, angle=angle)
    image = np.zeros(grid.shape)
    image[50, 13] = 1
    ax = Figure(figsize=(5, 5)).add_subplot()
    shown = canvas.sky_image(ax, grid.wrap(image, "map", ""), CENTER)
    east, north = grid.offsets(13, 50, CENTER)
    to_screen = shown.get_transform().transform((13, 50))
    np.testing.assert_allclose(to_screen, ax.transData.transform((east, north)), atol=1e-2)
    origin = ax.transData.transform((0, 0))
    assert ax.transData.transform((5, 0))[0] < origin[0]
    assert ax.transData.transform((0, 5))[1] > origin[1]


def test_coarse_maps_and_cut_outs_keep_their_place():
    transform = canvas.affine(COARSE.cut(5, 30, 9, 40), CENTER)
    east, north = GRID.offsets(8 * (9 + 2) + 3.5, 8 * (5 + 7) + 3.5, CENTER)
    np.testing.assert_allclose(transform.transform((2, 7)), [east, north], atol=1e-4)


def test_contours_of_density_enclose_the_area_of_those_of_convergence():
    from gcdask.plots.maps import _same_area

    kappa = kappa_map()
    rho = kappa.copy(data=7 * kappa.values**3)
    levels = [0.3, 0.5, 0.8]
    found = _same_area(rho, kappa, levels)
    np.testing.assert_allclose(found, 7 * np.array(levels) ** 3, rtol=0.1)


def test_critical_curves_are_drawn_where_they_are(tmp_path):
    """Red pixels appear, and on the right, west, for a curve in the west."""
    angle = np.linspace(0, 2 * np.pi, 60)
    cos = np.cos(np.deg2rad(CENTER[1]))
    curve = np.stack(
        [CENTER[0] + (5 * np.sin(angle) - 12) / 3600 / cos, CENTER[1] + 5 * np.cos(angle) / 3600], 1
    )
    rho = COARSE.wrap(np.ones(COARSE.shape), "rho", "")
    red = []
    for name, curves in (("a", []), ("b", [curve])):
        path = plots.density_kappa(
            rho, None, tmp_path / f"{name}.png", center=CENTER, critical=curves, critical_label="z"
        )
        image = imread(path)[..., :3]
        legend = image.shape[0] // 4
        off = np.abs(image[legend:] - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=-1)
        red.append(np.nonzero(off < 0.1)[1])
    assert red[0].size == 0
    assert red[1].size > 100
    assert np.median(red[1]) > image.shape[1] * 0.48


EMPTY = pd.DataFrame({"ra": np.empty(0), "dec": np.empty(0)})


def test_units_of_axes():
    assert canvas.unit_label("1 / arcsec(8/5)") == "arcsec$^{-1.6}$"
    assert canvas.unit_label("MJy/sr") == "MJy sr$^{-1}$"
    assert canvas.unit_label("what is this") == "what is this"


def test_poor_data_still_make_a_figure(tmp_path):
    flat = COARSE.wrap(np.ones(COARSE.shape), "rho", "")
    blank = COARSE.wrap(np.full(COARSE.shape, np.nan), "kappa", "")
    none = curve() * np.nan
    unconstrained = law(np.nan).assign(status="unconstrained: 2 boxes")
    made = [
        plots.source_map(EMPTY, tmp_path / "1.png", center=CENTER),
        plots.mask_map(mask_map() > 0, tmp_path / "2.png", catalog=EMPTY),
        plots.density_kappa(flat, None, tmp_path / "3.png"),
        plots.density_kappa(flat, blank, tmp_path / "4.png"),
        plots.kappa_rho_scatter(blank, flat, tmp_path / "5.png"),
        plots.box_relation(relation().isel(box=slice(0, 0)), None, tmp_path / "6.png"),
        plots.box_relation(relation(), unconstrained, tmp_path / "7.png"),
        plots.profiles(tmp_path / "8.png", gc=none, kappa=radial() * np.nan, light=radial()),
        plots.threshold_curve([1, 2], [0, 0], [0, 0], tmp_path / "9.png", threshold=1.5),
        plots.detection_panels([], mask_map(), EMPTY, tmp_path / "10.png"),
        plots.luminosity_function(luminosities() * 0, None, tmp_path / "11.png"),
        plots.luminosity_function(luminosities(), gaussian(np.nan), tmp_path / "12.png"),
        plots.transfer(compared(np.nan).assign(status="unconstrained: NaN"), tmp_path / "13.png"),
        plots.tracer_power(power(np.nan), tmp_path / "14.png"),
        plots.tracer_power(power().assign(bin_counts=("bin", [0] * 12)), tmp_path / "15.png"),
        plots.likelihood_ranking(ranked(np.nan), tmp_path / "16.png"),
    ]
    fit = scanned()
    lost = fit.copy()
    for name in ("chi2", "chi2_min", "alpha_best", "softening_best", "best_profile"):
        lost[name] = fit[name] * np.nan
    lost["status"] = xr.DataArray("unconstrained: no source lies within the radii")
    made.append(plots.kernel_fit(lost, tmp_path / "17.png"))
    assert all(p.stat().st_size > 2000 for p in made)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        plots.threshold_curve([1, 2], [2, 1], [1, 0], tmp_path / "no" / "a.png")
    with pytest.raises(InputError, match="tests is empty"):
        plots.transfer({}, tmp_path / "a.png")
