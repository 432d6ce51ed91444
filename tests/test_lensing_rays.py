"""Ray tracing: images, magnifications, critical curves and Einstein radii, and the real models."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st
from mocks import AS1063 as CENTER
from mocks import HALO

from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.lensing import LenstoolModel, distance_ratio, enclosed_mass, read_lenstool
from gcdask.lensing.images import ImagePlane

GALAXY = {
    "x_centre": 14.0,
    "y_centre": 9.0,
    "core_radius": 0.1,
    "cut_radius": 20.0,
    "v_disp": 220.0,
}
SHEAR = {"profile": 14, "gamma": 0.05, "angle_pos": 20.0}
SPARKLER = np.array([(110.83846, -73.45102), (110.84051, -73.45487), (110.83614, -73.45879)])
CHUNKS = [(60, 70), (17, 40), ((1, 58, 1), (3, 60, 7)), (60, 1)]
QUANTITIES = ["kappa", "shear", "deflection", "magnification"]


@pytest.fixture(scope="module")
def lens():
    return LenstoolModel.from_potentials([HALO, GALAXY, SHEAR], CENTER, 0.348)


@pytest.fixture(scope="module", params=["iclv0", "iclv2"])
def smacs(request, shared_data):
    return read_lenstool(shared_data / "smacs0723" / f"mahler2022_{request.param}_best.par")


def positions(lens, n=50, seed=0, scale=25.0):
    return lens.sky(*np.random.default_rng(seed).normal(0, scale, (2, n)))


# -- at positions -----------------------------------------------------------------------------
def test_magnification_is_the_area_of_a_traced_patch(lens):
    """Signed: of the ratio of a small triangle's area on the sky and in the source plane."""
    ra, dec = positions(lens)
    x, y = lens.xy(ra, dec)
    h = 1e-4
    corners = [
        lens.xy(*lens.trace(*lens.sky(x + i, y + j), 2.0)) for i, j in ((0, 0), (h, 0), (0, h))
    ]
    (x0, y0), (x1, y1), (x2, y2) = corners
    area = ((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)) / h**2
    np.testing.assert_allclose(lens.determinant_at(ra, dec, 2.0), area, atol=3e-4)
    np.testing.assert_allclose(1 / lens.magnification_at(ra, dec, 2.0), area, atol=3e-4)
    assert (area < 0).any()
    assert (area > 0).any()


def test_everything_scales_with_the_distance_ratio(lens):
    ra, dec = positions(lens)
    factor = distance_ratio(0.348, 1.2)
    for method in ("deflection_at", "jacobian_at", "shear_at", "kappa_at"):
        near, far = (np.array(getattr(lens, method)(ra, dec, z)) for z in (1.2, np.inf))
        np.testing.assert_allclose(near, far * factor, rtol=1e-12)


def test_no_position_no_answer(lens):
    ra, dec = np.array([np.nan, CENTER[0], np.inf]), np.array([CENTER[1], CENTER[1], np.nan])
    with np.errstate(invalid="ignore"):
        for method in ("magnification_at", "kappa_at", "determinant_at"):
            assert np.isfinite(getattr(lens, method)(ra, dec, 3.0)).tolist() == [False, True, False]
        assert np.isnan(np.array(lens.trace(ra, dec, 3.0))).all(0).tolist() == [True, False, True]


def test_a_shear_alone_has_no_answer_either_where_there_is_no_position():
    shear = LenstoolModel.from_potentials([{"profile": 14, "gamma": 0.1}], CENTER, 0.348)
    ra, dec = np.array([np.nan, CENTER[0]]), np.full(2, CENTER[1])
    for method in ("magnification_at", "kappa_at", "shear_at"):
        values = np.atleast_2d(getattr(shear, method)(ra, dec, 3.0))
        assert np.isfinite(values).tolist() == [[False, True]] * len(values)


@pytest.mark.parametrize("z", [0.348, 0.1])
def test_sources_in_front_of_the_lens(lens, z):
    grid = Grid.tangent(CENTER, (9, 9), 1.0)
    calls = [
        lambda m=m: getattr(lens, m)(grid, z) for m in [*QUANTITIES, "determinant", "caustics"]
    ]
    at = ("magnification_at", "trace", "deflection_at", "shear_at", "counter_images")
    calls += [lambda m=m: getattr(lens, m)(*CENTER, z) for m in at]
    calls += [lambda: lens.einstein_radius(z), lambda: lens.critical_curves(grid, z)]
    for call in calls:
        with pytest.raises(InputError, match="not behind the lens"):
            call()


# -- maps -------------------------------------------------------------------------------------
@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("chunks", CHUNKS)
def test_maps_are_the_values_at_their_pixels_for_any_chunking(lens, quantity, chunks):
    grid = Grid.tangent(CENTER, (60, 70), 1.0, angle=25)
    like = grid.wrap(da.zeros(grid.shape, chunks=chunks), "like", "")
    with no_compute():
        found = getattr(lens, quantity)(like, 3.0)
    expected = getattr(lens, f"{quantity}_at")(*grid.sky(*grid.mesh()), 3.0)
    values = found.to_dataarray() if isinstance(found, xr.Dataset) else found
    np.testing.assert_array_equal(values.values, np.array(expected))
    for one in found.data_vars.values() if isinstance(found, xr.Dataset) else [found]:
        assert one.chunks == like.chunks
        assert one.dtype == one.data._meta.dtype == np.float64
        assert one.attrs["units"] == ("arcsec" if quantity == "deflection" else "")
        assert one.attrs["long_name"]
        assert (one.attrs["z_lens"], one.attrs["z_source"]) == (0.348, 3.0)
        assert Grid.of(one) == grid


def test_convergence_is_half_the_divergence_of_the_deflection_map(lens):
    grid = Grid.tangent(CENTER, (80, 90), 0.2)
    kappa, alpha = dask.compute(lens.kappa(grid, 3.0), lens.deflection(grid, 3.0))
    # pixel x points west on a grid with north up
    divergence = np.gradient(alpha.alpha_x, 0.2, axis=1) + np.gradient(alpha.alpha_y, 0.2, axis=0)
    inner = slice(2, -2), slice(2, -2)
    np.testing.assert_allclose(divergence[inner] / 2, kappa.values[inner], rtol=1e-3)


# -- images -----------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(st.floats(-12, 12), st.floats(-12, 12), st.floats(0.8, 6))
def test_images_are_complete_and_exact(x, y, z):
    """Burke's theorem: minima and maxima outnumber saddles by one. All map to one place."""
    lens = LenstoolModel.from_potentials([HALO, SHEAR], CENTER, 0.348)
    ra, dec = lens.sky(x, y)
    found = lens.counter_images(ra, dec, z)
    assert found.attrs["index"] == 1
    assert len(found) % 2 == 1
    assert (found["ra"][0], found["dec"][0]) == pytest.approx((float(ra), float(dec)))
    assert (found["residual"] < 1e-4).all()
    traced = np.array(lens.xy(*lens.trace(found["ra"].to_numpy(), found["dec"].to_numpy(), z)))
    np.testing.assert_allclose(traced - traced[:, :1], 0, atol=1e-6)
    mu = lens.magnification_at(found["ra"].to_numpy(), found["dec"].to_numpy(), z)
    np.testing.assert_allclose(found["mu"], mu, rtol=1e-9)
    assert ((found["mu"] < 0) == (found["kind"] == "saddle")).all()


def test_twins_across_a_critical_curve_are_told_apart():
    """Two images 0.02" apart, each magnified 860 times."""
    lens = LenstoolModel.from_potentials([HALO, SHEAR], CENTER, 0.348)
    z = 2.9934821186613023
    found = lens.counter_images(*lens.sky(6.340371275651538, 6.264867001355011), z)
    assert found.attrs["index"] == 1
    assert found["kind"].tolist() == ["maximum", "saddle", "minimum"]
    assert found["separation"][1] == pytest.approx(0.0214, abs=1e-3)
    assert found["mu"][0] == pytest.approx(-found["mu"][1], rel=0.02)


def test_images_behind_a_small_galaxy(shared_data):
    """Without the pair that a member of 0.3" makes, Burke's count would be zero."""
    lens = read_lenstool(shared_data / "smacs0723" / "mahler2022_iclv2_best.par")
    found = lens.counter_images(*lens.sky(-11.072963, -7.173029), 3.65)
    assert found.attrs["index"] == 1
    assert len(found) > 4


def test_each_image_finds_the_others(lens):
    start = lens.counter_images(*lens.sky(18.0, 10.0), 3.0)
    assert len(start) >= 3
    for k in range(len(start)):
        again = lens.counter_images(start["ra"][k], start["dec"][k], 3.0)
        assert len(again) == len(start)
        pairs = np.hypot(
            *[
                a[:, None] - b[None]
                for a, b in zip(
                    lens.xy(again["ra"], again["dec"]),
                    lens.xy(start["ra"], start["dec"]),
                    strict=True,
                )
            ]
        )
        assert pairs.min(axis=0).max() < 1e-5


def test_a_point_like_lens_has_the_two_images_of_the_textbook():
    """An isothermal sphere of Einstein radius b: images at beta + b and beta - b."""
    sphere = {**HALO, "ellipticity": 0.0, "core_radius": 1e-3, "cut_radius": 1e5, "v_disp": 500.0}
    lens = LenstoolModel.from_potentials([sphere], CENTER, 0.348)
    r = 12.0
    b = float(lens.einstein_radius(3.0).theta_e)
    found = lens.counter_images(*lens.sky(r, 0.0), 3.0)
    beta = r - float(lens.deflection_at(*lens.sky(r, 0.0), 3.0)[0])
    x, y = lens.xy(found["ra"], found["dec"])
    outer = found["kind"].isin(["minimum", "saddle"]).to_numpy()
    np.testing.assert_allclose(sorted(x[outer]), [beta - b, beta + b], atol=0.02)
    np.testing.assert_allclose(y, 0, atol=1e-6)
    np.testing.assert_allclose(found["mu"][0], 1 / (1 - b / r), rtol=5e-3)


def test_search_options(lens):
    ra, dec = lens.sky(10.0, 5.0)
    whole = lens.counter_images(ra, dec, 3.0)
    assert len(lens.counter_images(ra, dec, 3.0, radius=1.0, step=0.2)) < len(whole)
    for name in ("radius", "step"):
        for value in (0.0, -1.0, np.nan, np.inf):
            with pytest.raises(InputError, match=name):
                lens.counter_images(ra, dec, 3.0, **{name: value})
    with pytest.raises(InputError, match="not known at RA"):
        lens.counter_images(np.nan, dec, 3.0)
    with pytest.raises(InputError, match="not one position"):
        lens.counter_images([ra, ra], [dec, dec], 3.0)


def test_a_search_that_would_fill_the_memory_is_refused(lens):
    ra, dec = lens.sky(10.0, 5.0)
    with pytest.raises(InputError, match="select sources near the lens, or give a larger step"):
        lens.counter_images(ra, dec, 3.0, radius=1e5)
    with pytest.raises(InputError, match="images are sought on"):
        ImagePlane.of(lens, [ra, ra + 1], [dec, dec + 1], 3.0)  # one row far away


def test_maps_do_not_depend_on_the_strips_they_are_made_in(lens, monkeypatch):
    grid = Grid.tangent(CENTER, (50, 30), 1.0)
    mu = lens.magnification(grid, 3.0).compute()
    monkeypatch.setattr("gcdask.lensing.lens.STRIP", 7)
    np.testing.assert_array_equal(lens.magnification(grid, 3.0), mu)


# -- curves -----------------------------------------------------------------------------------
def test_critical_curves_of_a_circle():
    lens = LenstoolModel.from_potentials([{**HALO, "ellipticity": 0.0}], CENTER, 0.348)
    grid = Grid.tangent(CENTER, (300, 320), 0.4, angle=40)
    theta = lens.einstein_radius(3.0)
    curves = lens.critical_curves(grid, 3.0)
    assert len(curves) == 2
    radii = [np.hypot(*lens.xy(*c.T)) for c in curves]
    np.testing.assert_allclose(radii[0], theta.theta_e, atol=0.02)  # tangential
    assert radii[1].max() < radii[0].min()
    np.testing.assert_array_equal(curves[0][0], curves[0][-1])
    caustics = [np.hypot(*lens.xy(*c.T)) for c in lens.caustics(grid, 3.0)]
    assert caustics[0].max() < 0.1  # of the tangential curve: a point
    assert np.ptp(caustics[1]) < 0.1


def test_critical_curves_on_a_coarse_cut_and_where_there_are_none(lens):
    grid = Grid.tangent(CENTER, (400, 400), 0.2)
    fine = np.concatenate(lens.critical_curves(grid, 3.0))
    part = grid.cut(40, 360, 30, 390).coarsen(2)
    coarse = np.concatenate(lens.critical_curves(part, 3.0))
    # the first curve, walked in small steps, passes every point of its coarse version
    long = np.array(lens.xy(*lens.critical_curves(grid, 3.0)[0].T))
    steps = np.arange(0, long.shape[1] - 1, 0.05)
    long = np.array([np.interp(steps, np.arange(long.shape[1]), v) for v in long])
    points = np.array(lens.xy(*lens.critical_curves(part, 3.0)[0].T))
    away = np.hypot(*(points[:, :, None] - long[:, None])).min(axis=1)
    assert np.median(away) < 0.02
    np.testing.assert_allclose(np.median(lens.determinant_at(*coarse.T, 3.0)), 0, atol=0.01)
    # but for the galaxy's own, of a few pixels
    assert np.percentile(np.abs(lens.determinant_at(*fine.T, 3.0)), 98) < 0.05
    assert lens.critical_curves(grid, 0.36) == []
    with pytest.raises(InputError, match="between no pixels"):
        lens.critical_curves(Grid.tangent(CENTER, (1, 20), 1.0), 3.0)
    with pytest.raises(InputError, match="coarser grid"):
        lens.critical_curves(Grid.tangent(CENTER, (20000, 20000), 0.03), 3.0)


def test_einstein_radius_has_the_critical_mass(lens):
    found = lens.einstein_radius(3.0)
    kappa = lens.kappa(Grid.tangent(CENTER, (600, 600), 0.2), 3.0)
    mass = enclosed_mass(kappa, lens.field(3.0), float(found.theta_e)).mass.compute()
    assert float(mass) == pytest.approx(float(found.mass), rel=2e-3)
    assert found.status.item() == found.attrs["status"] == ""
    assert found.theta_e.attrs["units"] == "arcsec"
    assert float(lens.einstein_radius(1.0).theta_e) < float(found.theta_e)
    moved = lens.einstein_radius(3.0, center=lens.position("2"))
    assert float(moved.theta_e) != float(found.theta_e)


def test_a_weak_lens_has_no_einstein_radius():
    weak = LenstoolModel.from_potentials([{**HALO, "v_disp": 200.0}], CENTER, 0.348)
    found = weak.einstein_radius(3.0)
    assert np.isnan(found.theta_e)
    assert found.status.item().startswith("unconstrained: the mean convergence is below 1")
    assert weak.critical_curves(Grid.tangent(CENTER, (90, 90), 0.5), 3.0) == []
    with pytest.raises(InputError, match="center"):
        weak.einstein_radius(3.0, center=(np.nan, 0))


@pytest.mark.parametrize("z_source", [6.0, np.inf, "6"])
def test_a_distant_lens_has_an_einstein_radius(z_source):
    """Beyond the redshift of the sources that a field has by default."""
    far = LenstoolModel.from_potentials([{**HALO, "v_disp": 1300.0}], CENTER, 3.2)
    ring = far.einstein_radius(z_source)
    assert ring.status.item() == ""
    kappa = far.kappa(Grid.tangent(CENTER, (600, 600), 0.25), float(z_source))
    mass = enclosed_mass(kappa, far.field(6.0), float(ring.theta_e)).mass.compute()
    assert float(mass) == pytest.approx(float(ring.mass), rel=1e-2)
    with pytest.raises(InputError, match="z_source = 'far' is no redshift"):
        far.einstein_radius("far")


# -- published models -------------------------------------------------------------------------
def test_the_sparkler_is_magnified_as_published(smacs):
    expected = {
        "mahler2022_iclv0_best": (3.43, 14.16, 2.83),
        "mahler2022_iclv2_best": (5.22, 12.49, 4.92),
    }[smacs.name]
    mu = smacs.magnification_at(*SPARKLER.T, 1.378)
    np.testing.assert_allclose(np.abs(mu), expected, rtol=0.002)
    assert (np.sign(mu) == (1, -1, 1)).all()


def test_the_sparklers_images_find_each_other(smacs):
    found = smacs.counter_images(*SPARKLER[1], 1.378)
    assert len(found) == 3
    assert found.attrs["index"] == 1
    x, y = smacs.xy(found["ra"], found["dec"])
    for image in SPARKLER[[0, 2]]:
        x0, y0 = smacs.xy(*image)
        assert np.hypot(x - x0, y - y0).min() < 0.8


def test_as1063_ring(shared_data):
    lens = read_lenstool(shared_data / "as1063" / "cats_gold_best.par")
    ring = lens.einstein_radius(3.0)
    kappa = lens.kappa(Grid.tangent(lens.center, (360, 360), 0.25), 3.0)
    mass = enclosed_mass(kappa, lens.field(3.0), float(ring.theta_e)).mass.compute()
    assert float(mass) == pytest.approx(float(ring.mass), rel=3e-3)
    assert 25 < float(ring.theta_e) < 40
