"""The lens model: unit values, published models, other codes, and any chunking."""

import pickle

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdask.errors import InputError
from gcdask.grid import Field, Grid
from gcdask.kernels import dpie
from gcdask.lensing import (
    LenstoolModel,
    distance_ratio,
    enclosed_mass,
    read_lenstool,
    rescale,
    rescale_factor,
)

UNIT = {
    "x_centre": 0.0,
    "y_centre": 0.0,
    "ellipticity": 0.5,
    "angle_pos": 30.0,
    "core_radius": 5.0,
    "cut_radius": 100.0,
    "v_disp": 1000.0,
}
CENTER = (342.18322, -44.530889)


def plain_kappa(x, y, p):
    """The formula as it is printed, in NumPy."""
    theta, e = np.deg2rad(p["angle_pos"]), p["ellipticity"]
    eps = (1 - np.sqrt(1 - e**2)) / e if e else 0.0
    dx, dy = x - p["x_centre"], y - p["y_centre"]
    major = dx * np.cos(theta) + dy * np.sin(theta)
    minor = -dx * np.sin(theta) + dy * np.cos(theta)
    r2 = major**2 / (1 + eps) ** 2 + minor**2 / (1 - eps) ** 2
    b0 = 6 * 648000 / 299792.458**2 * p["v_disp"] ** 2
    core, cut = p["core_radius"], p["cut_radius"]
    return b0 / 2 * cut / (cut - core) * ((core**2 + r2) ** -0.5 - (cut**2 + r2) ** -0.5)


def some_potentials(n, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "x_centre": rng.normal(0, 30, n),
            "y_centre": rng.normal(0, 30, n),
            "ellipticity": rng.uniform(0, 0.9, n),
            "angle_pos": rng.uniform(-180, 360, n),
            "core_radius": rng.uniform(0.01, 10, n),
            "cut_radius": rng.uniform(15, 300, n),
            "v_disp": rng.uniform(50, 1200, n),
        }
    )


@pytest.fixture(scope="module")
def model():
    return LenstoolModel.from_potentials(some_potentials(12), CENTER, 0.348)


@pytest.fixture(scope="module")
def smacs(shared_data):
    return read_lenstool(shared_data / "smacs0723" / "mahler2022_iclv2_best.par")


@pytest.fixture(scope="module")
def as1063(shared_data):
    return read_lenstool(shared_data / "as1063" / "cats_gold_best.par")


# -- the formula ------------------------------------------------------------------------------
def test_unit_potential():
    assert dpie.epsilon(0.5) == pytest.approx(0.2679491924, rel=1e-9)
    assert dpie.einstein_b0(1000.0) == pytest.approx(43.25983418, rel=1e-9)
    table = LenstoolModel.from_potentials([UNIT], CENTER, 0.348).table
    kappa = dpie.kappa_infinity(np.array([0.0, 10, 0, -10]), np.array([0.0, 0, 10, 10]), table)
    expected = [4.3259834179, 1.8666958923, 1.4687558896, 0.9419038980]
    np.testing.assert_allclose(kappa, expected, rtol=1e-9)


def test_kernel_is_the_printed_formula():
    potentials = some_potentials(40)
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 60, (2, 37, 53))
    table = LenstoolModel.from_potentials(potentials, CENTER, 0.348).table
    expected = sum(plain_kappa(x, y, p) for p in potentials.to_dict("records"))
    np.testing.assert_allclose(dpie.kappa_infinity(x, y, table), expected, rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 700))
def test_bits_do_not_depend_on_the_positions_around(start, length):
    table = LenstoolModel.from_potentials(some_potentials(5), CENTER, 0.348).table
    x, y = np.random.default_rng(2).normal(0, 60, (2, 1000))
    whole = dpie.kappa_infinity(x, y, table)
    part = dpie.kappa_infinity(x[start : start + length], y[start : start + length], table)
    np.testing.assert_array_equal(part, whole[start : start + length])


def test_a_zero_ellipticity_is_a_circle():
    table = LenstoolModel.from_potentials([{**UNIT, "ellipticity": 0}], CENTER, 0.348).table
    angle = np.linspace(0, 6, 9)
    kappa = dpie.kappa_infinity(7 * np.cos(angle), 7 * np.sin(angle), table)
    np.testing.assert_allclose(kappa, kappa[0], rtol=1e-14)


def test_read_only_input_and_shear():
    x = np.arange(4.0)
    x.flags.writeable = False
    shear = {"profile": 14, "gamma": 0.1, "angle_pos": 50.0}
    one = LenstoolModel.from_potentials([UNIT], CENTER, 0.348).table
    two = LenstoolModel.from_potentials([shear, UNIT], CENTER, 0.348).table
    assert two[0, dpie.STRENGTH] == 0.1
    np.testing.assert_array_equal(dpie.kappa_infinity(x, x, one), dpie.kappa_infinity(x, x, two))
    only = LenstoolModel.from_potentials([shear], CENTER, 0.348)
    assert (only.kappa(Grid.tangent(CENTER, (4, 5), 1.0), 3.0).compute() == 0).all()


def test_against_lenstronomy():
    lens_model = pytest.importorskip("lenstronomy.LensModel.lens_model")
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    p = {**UNIT, "x_centre": 1.5, "y_centre": -2.0}
    eps = float(dpie.epsilon(p["ellipticity"]))
    e1, e2 = phi_q2_ellipticity(np.deg2rad(p["angle_pos"]), (1 - eps) / (1 + eps))
    root = np.sqrt(1 - eps**2)
    core, cut = p["core_radius"], p["cut_radius"]
    theta_e = float(dpie.einstein_b0(p["v_disp"])) * cut / (cut - core) * root
    shape = {"e1": e1, "e2": e2, "center_x": p["x_centre"], "center_y": p["y_centre"]}
    parts = [
        {"theta_E": theta_e, "s_scale": core * root, **shape},
        {"theta_E": -theta_e, "s_scale": cut * root, **shape},
    ]
    theirs = lens_model.LensModel(["NIE", "NIE"])
    x, y = np.random.default_rng(3).uniform(-80, 80, (2, 200))
    # its own kappa is a difference over 1e-10 and noisy; its deflections are analytic
    step, expected = 0.1, np.zeros(200)
    for k, weight in ((1, 45 / 60), (2, -9 / 60), (3, 1 / 60)):
        for sign in (1, -1):
            h = sign * k * step
            expected += sign * weight * theirs.alpha(x + h, y, parts)[0] / step / 2
            expected += sign * weight * theirs.alpha(x, y + h, parts)[1] / step / 2
    table = LenstoolModel.from_potentials([p], CENTER, 0.348).table
    np.testing.assert_allclose(dpie.kappa_infinity(x, y, table), expected, rtol=1e-8)


# -- maps of a model --------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", [(64, 64), (17, 40), ((1, 62, 1), (3, 60, 8)), (1, 71), (7, 1)])
@pytest.mark.parametrize("angle", [0.0, 37.0])
def test_any_chunking_gives_the_same_bits(model, chunks, angle):
    grid = Grid.tangent(CENTER, (64, 71), 0.7, angle=angle)
    whole = model.kappa_at(*grid.sky(*grid.mesh()), 3.0)
    like = grid.wrap(da.zeros(grid.shape, chunks=chunks), "like", "")
    with no_compute():
        kappa = model.kappa(like, 3.0)
    assert kappa.chunks == like.chunks
    np.testing.assert_array_equal(kappa.compute().values, whole)


def test_a_map_says_what_it_is(model):
    grid = Grid.tangent(CENTER, (30, 40), 1.0, angle=20).cut(5, 25, 10, 40)
    with no_compute():
        kappa = model.kappa(grid, 2.0)
    assert kappa.dtype == kappa.compute().dtype == np.float64
    assert kappa.data._meta.dtype == np.float64
    assert kappa.attrs["units"] == ""
    assert (kappa.attrs["z_lens"], kappa.attrs["z_source"]) == (0.348, 2.0)
    assert kappa.attrs["model"] == "lens"
    assert Grid.of(kappa) == grid
    assert isinstance(kappa.data, da.Array)


def test_a_mosaic_lends_its_grid_and_chunks(model):
    grid = Grid.tangent(CENTER, (20, 30), 1.0)
    sci = xr.DataArray(
        da.zeros((2, 20, 30), chunks=(1, 8, 30)),
        dims=("band", "y", "x"),
        coords={"band": ["a", "b"], **grid.coords},
        attrs={"wcs": grid.header},
    )
    mosaic = xr.Dataset({"sci": sci}, attrs={"wcs": grid.header})
    kappa = model.kappa(mosaic, 3.0)
    assert kappa.chunks == ((8, 8, 4), (30,))
    xr.testing.assert_equal(kappa.compute(), model.kappa(grid, 3.0).compute())


def test_the_map_points_west_and_north():
    """One clump 10" west and 4" north of the reference is brightest there."""
    clump = {**UNIT, "x_centre": 10.0, "y_centre": 4.0, "core_radius": 0.5}
    model = LenstoolModel.from_potentials([clump], CENTER, 0.348)
    grid = Grid.tangent(CENTER, (101, 101), 0.5, angle=70)
    kappa = model.kappa(grid, 3.0).compute()
    row, col = np.unravel_index(int(np.argmax(kappa.values)), grid.shape)
    east, north = grid.offsets(grid.x[col], grid.y[row], CENTER)
    assert (east, north) == pytest.approx((-10, 4), abs=0.4)


def test_graph_is_light_and_travels(model):
    big = LenstoolModel.from_potentials(some_potentials(300), CENTER, 0.348)
    kappa = big.kappa(Grid.tangent(CENTER, (20000, 20000), 0.03), 3.0)
    tasks = dict(kappa.__dask_graph__())
    assert len(tasks) < 600
    one = next(v for k, v in tasks.items() if isinstance(k, tuple) and "kappa" in k[0])
    assert len(pickle.dumps(one)) < 5000  # the table of 300 potentials is not in each task
    again = pickle.loads(pickle.dumps(big))
    assert again.names == big.names
    assert big.kappa(Grid.tangent(CENTER, (9, 9), 1.0), 3.0).name == "kappa"


def test_same_graph_same_name(model):
    grid = Grid.tangent(CENTER, (9, 9), 1.0)
    assert model.kappa(grid, 3.0).data.name == model.kappa(grid, 3.0).data.name
    assert model.kappa(grid, 3.0).data.name != model.kappa(grid, 2.0).data.name


def test_some_potentials_only(model):
    grid = Grid.tangent(CENTER, (9, 9), 1.0)
    parts = [model.kappa(grid, 3.0, potentials=[n]) for n in model.names]
    np.testing.assert_allclose(sum(dask.compute(*parts)), model.kappa(grid, 3.0).compute())
    with pytest.raises(InputError, match="no potential 'halo'"):
        model.kappa(grid, 3.0, potentials=["halo"])


def test_offsets_and_sky_are_inverse(model):
    x, y = np.array([0.0, 50, -90]), np.array([0.0, -70, 20])
    np.testing.assert_allclose(model.xy(*model.sky(x, y)), (x, y), atol=1e-7)
    across = LenstoolModel.from_potentials([UNIT], (0.001, 10.0), 0.3)
    assert across.xy(359.999, 10.0)[0] == pytest.approx(0.002 * np.cos(np.deg2rad(10)) * 3600)
    np.testing.assert_allclose(across.sky(*across.xy(359.999, 10.0)), (359.999, 10.0))


# -- published models -------------------------------------------------------------------------
def test_smacs0723_values(smacs):
    assert smacs.z_lens == 0.39
    assert smacs.center == (110.826989, -73.454723)
    assert len(smacs.names) == 149
    kappa = smacs.kappa_at(*smacs.sky([0, 10, 30], [0, 0, -20]), 3.0)
    np.testing.assert_allclose(kappa, [6.09669, 1.296187, 0.513044], rtol=2e-6)
    assert smacs.field(3.0).sigma_cr == pytest.approx(2.00164e9, rel=1e-5)
    assert smacs.position("O2") == pytest.approx(smacs.center)


def test_smacs0723_masses(smacs):
    field = smacs.field(3.0)
    radii = np.array([128, 400]) / field.kpc_per_arcsec
    kappa = smacs.kappa(Grid.tangent(smacs.center, (400, 400), 0.4, angle=25), 3.0)
    with no_compute():
        result = enclosed_mass(kappa, field, radii)
    np.testing.assert_allclose(result.mass, [8.19e13, 3.61e14], rtol=0.01)
    np.testing.assert_allclose(result.coverage, 1, atol=2e-3)


def test_as1063_mass(as1063):
    kappa = as1063.kappa(Grid.tangent(as1063.center, (300, 300), 0.42), 3.0)
    result = enclosed_mass(kappa, as1063.field(3.0), 60.0).compute()
    assert result.mass.item() == pytest.approx(3.22e14, rel=5e-3)
    assert result.mass.attrs["units"] == "Msun"


# -- scales and masses ------------------------------------------------------------------------
def test_distance_ratios():
    from astropy.cosmology import FlatLambdaCDM

    cosmo = FlatLambdaCDM(H0=70, Om0=0.3)
    d_ls = (cosmo.comoving_distance(3.0) - cosmo.comoving_distance(0.348)) / (1 + 3.0)
    expected = float(d_ls / cosmo.angular_diameter_distance(3.0))
    assert distance_ratio(0.348, 3.0) == pytest.approx(expected, rel=1e-9)
    assert distance_ratio(0.3475, 0.611) == pytest.approx(0.390, abs=5e-4)
    assert rescale_factor(0.3475, 0.611, 3.0) == pytest.approx(2.013, abs=5e-4)
    assert distance_ratio(0.348, np.inf) == 1
    with pytest.raises(InputError, match="not behind the lens"):
        distance_ratio(0.5, 0.5)


def test_rescaled_map_is_the_model_at_that_redshift(model):
    grid = Grid.tangent(CENTER, (9, 12), 1.0)
    kappa = model.kappa(grid, 0.6)
    with no_compute():
        moved = rescale(kappa, 3.0, field=model.field())
    xr.testing.assert_allclose(moved.compute(), model.kappa(grid, 3.0).compute(), rtol=1e-12)
    assert moved.attrs["z_source"] == 3.0
    assert moved.attrs["units"] == ""
    assert kappa.attrs["z_source"] == 0.6
    del kappa.attrs["z_source"]
    with pytest.raises(InputError, match="does not say its z_source"):
        rescale(kappa, 3.0, field=model.field())


@pytest.mark.parametrize("chunks", [(80, 90), (17, 33), ((1, 78, 1), (2, 86, 2)), None])
def test_mass_is_the_plain_sum(model, chunks):
    grid = Grid.tangent(CENTER, (80, 90), 1.0, angle=10)
    values = model.kappa(grid, 3.0).compute().values
    values[30:33, 40:44] = np.nan
    field = model.field(3.0)
    data = values if chunks is None else da.from_array(values, chunks=chunks)
    kappa = grid.wrap(data, "kappa", "", z_source=3.0)
    radii = [30.0, 7.5, 60.0]
    with no_compute():
        result = enclosed_mass(kappa, field, radii, center=(342.185, -44.531))
    result = result.compute()
    r = np.hypot(*grid.offsets(*grid.mesh(), (342.185, -44.531)))
    per_px = field.sigma_cr * field.kpc_per_arcsec**2 * grid.pixel_scale**2
    for i, radius in enumerate(radii):
        inside = (r <= radius) & np.isfinite(values)
        assert result.mass[i].item() == pytest.approx(values[inside].sum() * per_px, rel=1e-10)
        fraction = inside.sum() * grid.pixel_scale**2 / (np.pi * radius**2)
        assert result.coverage[i].item() == pytest.approx(min(fraction, 1), rel=1e-6)
    assert result.coverage[2] < 0.7  # this disk reaches over the map's edge


def test_mass_does_not_depend_on_the_source_redshift(model):
    grid = Grid.tangent(CENTER, (60, 60), 1.0)
    masses = [
        enclosed_mass(model.kappa(grid, z), model.field(3.0), 20.0).mass.compute().item()
        for z in (0.6, 3.0, np.inf)
    ]
    np.testing.assert_allclose(masses, masses[0], rtol=1e-9)


def test_mass_off_the_map_and_bad_radii(model):
    kappa = model.kappa(Grid.tangent(CENTER, (60, 60), 1.0), 3.0)
    away = enclosed_mass(kappa, model.field(), 5.0, center=(CENTER[0], CENTER[1] + 1))
    assert (away.mass.item(), away.coverage.item()) == (0, 0)
    for radius in (0.0, -1.0, np.nan, []):
        with pytest.raises(InputError, match="radius_arcsec"):
            enclosed_mass(kappa, model.field(), radius)
    with pytest.raises(InputError, match=r"lens at z_lens = 0\.348"):
        enclosed_mass(kappa, Field(CENTER, 0.5), 10.0)


def test_sources_in_front_of_the_lens(model):
    grid = Grid.tangent(CENTER, (9, 9), 1.0)
    for call in (lambda: model.kappa(grid, 0.3), lambda: model.kappa_at(*CENTER, 0.348)):
        with pytest.raises(InputError, match="not behind the lens"):
            call()
