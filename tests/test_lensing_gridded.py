"""A lens from deflection maps: the model that it was made from, at any position and chunking."""

import pickle

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from astropy.io import fits
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st
from mocks import AS1063 as CENTER
from mocks import HALO

from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels.hermite import local_spline
from gcdask.lensing import (
    DeflectionLens,
    LenstoolModel,
    on_grid,
    open_deflection,
    read_deflection,
    read_lenstool,
    rescale,
)
from gcdask.mosaic import write_zarr_map

MODEL = LenstoolModel.from_potentials([HALO], CENTER, 0.348)


def maps(grid, z=3.0, axes="west", chunks=None, unit="arcsec"):
    """Components of the model's deflection as a map maker would write them."""
    alpha = MODEL.deflection(grid, z).compute()
    west, north = alpha.alpha_x.values, alpha.alpha_y.values
    if axes == "east":
        west = -west
    if axes == "pixel":
        matrix = grid.wcs.pixel_scale_matrix * 3600 * grid.step / grid.pixel_scale
        west, north = np.tensordot(np.linalg.inv(matrix), np.array([-west, north]), 1)
    data = [v / (60 if unit == "arcmin" else 1) for v in (west, north)]
    data = data if chunks is None else [da.from_array(v, chunks=chunks) for v in data]
    return [grid.wrap(v, n, unit) for v, n in zip(data, "xy", strict=True)]


def lens_of(grid, axes="west", outside="error", **options):
    pair = maps(grid, axes=axes, **options)
    return read_deflection(
        *pair, z_lens=0.348, z_source=3.0, axes=axes, name="maps", outside=outside
    )


def inside(grid, n=200, seed=0, margin=3):
    rng = np.random.default_rng(seed)
    y, x = (rng.uniform(margin, k - 1 - margin, n) for k in grid.shape)
    return grid.sky(grid.origin[1] + x * grid.step, grid.origin[0] + y * grid.step)


# -- between pixels ---------------------------------------------------------------------------
def test_the_spline_is_exact_for_cubics():
    y, x = np.mgrid[0:9, 0:11].astype(float)

    def cubic(y, x):
        return 1 + y - 2 * x + y**3 - 0.5 * x**3 + x**2 * y + x * y**3

    row, col = np.random.default_rng(0).uniform(2, [5.999, 7.999], (50, 2)).T
    value, along_y, along_x = local_spline(cubic(y, x), row, col)
    np.testing.assert_allclose(value, cubic(row, col), rtol=1e-12)
    np.testing.assert_allclose(along_y, 1 + 3 * row**2 + col**2 + 3 * col * row**2, rtol=1e-11)
    expected = -2 - 1.5 * col**2 + 2 * col * row + row**3
    np.testing.assert_allclose(along_x, expected, rtol=1e-11, atol=1e-10)


def test_the_spline_keeps_pixels_and_never_extrapolates():
    data = np.random.default_rng(0).normal(size=(7, 8))
    row, col = np.mgrid[0:7, 0:8].reshape(2, -1)
    np.testing.assert_array_equal(local_spline(data, row, col)[0], data.ravel())
    out = np.array([[-0.01, 3], [6.01, 3], [3, -0.01], [3, 7.01], [np.nan, 3], [3, np.inf]]).T
    assert np.isnan(np.array(local_spline(data, *out))).all()
    holed = data.copy()
    holed[3, 3] = np.nan
    found = local_spline(holed, np.array([3.5, 3.5, 5.5]), np.array([3.5, 4.5, 6.5]))[0]
    assert np.isnan(found).tolist() == [True, False, False]
    # beside the hole, and at the border, it is linear between the four pixels around
    four = data[3:5, 4:6].mean(), data[5:7, 6:8].mean()
    np.testing.assert_allclose(found[1:], four, rtol=1e-12)
    assert np.isnan(local_spline(np.zeros((0, 3)), np.zeros(1), np.zeros(1))[0]).all()


# -- the lens ---------------------------------------------------------------------------------
@pytest.mark.parametrize("axes", ["pixel", "west", "east"])
@pytest.mark.parametrize("angle", [0.0, 37.0])
def test_a_lens_from_maps_is_the_lens_they_were_made_from(axes, angle):
    grid = Grid.tangent(CENTER, (300, 320), 0.25, angle=angle)
    lens = lens_of(grid, axes, unit="arcmin")
    ra, dec = inside(grid)
    for z in (3.0, 1.2):
        np.testing.assert_allclose(
            lens.deflection_at(ra, dec, z), MODEL.deflection_at(ra, dec, z), atol=2e-5
        )
        np.testing.assert_allclose(
            lens.jacobian_at(ra, dec, z), MODEL.jacobian_at(ra, dec, z), atol=2e-4
        )
    # offsets here are those of the tangent plane, Lenstool's those of a flat sky
    off = np.array(lens.trace(ra, dec, 3.0)) - MODEL.trace(ra, dec, 3.0)
    assert np.abs(off * 3600).max() < 0.02


def test_the_lens_of_a_coarse_cut():
    grid = Grid.tangent(CENTER, (600, 640), 0.1).cut(20, 580, 40, 600).coarsen(2)
    lens = lens_of(grid, "pixel")
    ra, dec = inside(grid)
    np.testing.assert_allclose(
        lens.jacobian_at(ra, dec, 3.0), MODEL.jacobian_at(ra, dec, 3.0), atol=2e-4
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 90), st.integers(5, 90), st.integers(0, 99))
def test_bits_do_not_depend_on_chunks_or_the_positions_around(cy, cx, seed):
    grid = Grid.tangent(CENTER, (90, 80), 0.8)
    whole, parts = lens_of(grid), lens_of(grid, chunks=(cy, cx))
    ra, dec = inside(grid, 40, seed, margin=-2)
    expected = np.array(whole.jacobian_at(ra, dec, 3.0))
    np.testing.assert_array_equal(parts.jacobian_at(ra, dec, 3.0), expected)
    np.testing.assert_array_equal(parts.jacobian_at(ra[7:9], dec[7:9], 3.0), expected[:, 7:9])
    assert np.isnan(expected).any() == (~whole.covers(ra, dec)).any()


def test_large_maps_are_read_in_parts(monkeypatch):
    grid = Grid.tangent(CENTER, (90, 80), 0.8)
    lens, (ra, dec) = lens_of(grid), inside(grid)
    expected = lens.jacobian_at(ra, dec, 3.0)
    monkeypatch.setattr("gcdask.lensing.gridded.SIDE", 16)
    np.testing.assert_array_equal(lens.jacobian_at(ra, dec, 3.0), expected)


def test_outside_the_maps_nothing_is_known():
    grid = Grid.tangent(CENTER, (90, 80), 0.8)
    lens = lens_of(grid)
    ra, dec = CENTER[0] + np.array([0, 1, np.nan]), np.full(3, CENTER[1])
    for method in ("magnification_at", "kappa_at"):
        assert np.isfinite(getattr(lens, method)(ra, dec, 3.0)).tolist() == [True, False, False]
    assert np.isfinite(np.array(lens.trace(ra, dec, 3.0))).all(0).tolist() == [True, False, False]
    with pytest.raises(InputError, match="not known at RA, Dec"):
        lens.counter_images(CENTER[0] + 1, CENTER[1], 3.0)
    ring = lens.einstein_radius(3.0, center=(CENTER[0] + 1, CENTER[1]))
    assert np.isnan(ring.theta_e)
    assert ring.status.item().startswith("unconstrained: the lens is not known")
    small = lens_of(Grid.tangent(CENTER, (20, 20), 0.8)).einstein_radius(3.0)
    assert small.status.item().startswith("unconstrained: the lens is known to")


def test_a_grid_beyond_the_maps_is_refused_unless_told():
    source = Grid.tangent(CENTER, (90, 80), 0.8)
    like = Grid.tangent(CENTER, (90, 160), 0.8)
    lens = lens_of(source)
    with no_compute():
        for method in ("kappa", "shear", "deflection", "magnification", "critical_curves"):
            with pytest.raises(InputError, match=r"maps cover only \d\d\.\d % of the grid"):
                getattr(lens, method)(like, 3.0)
        assert lens.kappa(source, 3.0).shape == (90, 80)
    kappa = lens_of(source, outside="nan").kappa(like, 3.0).compute()
    x, y = like.mesh()
    covered = lens.covers(*like.sky(x, y))
    assert 0.45 < covered.mean() < 0.55
    np.testing.assert_array_equal(np.isfinite(kappa), covered)
    assert lens.critical_curves(None, 3.0)
    away = Grid.tangent((CENTER[0], 40.0), (30, 30), 1.0)
    with pytest.raises(InputError, match="not known anywhere on the grid"):
        lens_of(source, outside="nan").critical_curves(away, 3.0)
    with pytest.raises(InputError, match="outside = 'clip'"):
        read_deflection(*maps(source), z_lens=0.348, z_source=3.0, outside="clip")


def test_a_lens_reaches_as_far_as_its_convergence_map():
    """To the outer ends of the pixels, where a map on another grid ends too."""
    source = Grid.tangent(CENTER, (60, 70), 1.0)
    fine = Grid.tangent(CENTER, (250, 290), 0.25)
    lens = lens_of(source, outside="nan")
    ours = lens.kappa(fine, 3.0).compute()
    theirs = on_grid(lens.kappa(source, 3.0), fine, outside="nan").compute()
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(theirs))
    assert int(np.isfinite(ours).sum()) == 240 * 280
    x, y = np.array([-0.4, 69.3]), np.array([20.0, 59.4])
    sky = source.sky(x, y)
    np.testing.assert_allclose(
        lens.deflection_at(*sky, 3.0), MODEL.deflection_at(*sky, 3.0), atol=0.01
    )


@pytest.mark.parametrize("chunks", [(50, 60), (13, 17), (1, 60)])
def test_maps_on_another_grid_are_lazy(chunks):
    source = Grid.tangent(CENTER, (200, 220), 0.4)
    lens = lens_of(source, chunks=(70, 90))
    grid = Grid.tangent(CENTER, (50, 60), 1.0, angle=30)
    like = grid.wrap(da.zeros(grid.shape, chunks=chunks), "like", "")
    with no_compute():
        kappa, mu = lens.kappa(like, 1.5), lens.magnification(like, 1.5)
        pickle.loads(pickle.dumps(lens))
    kappa, mu = dask.compute(kappa, mu)
    sky = grid.sky(*grid.mesh())
    np.testing.assert_array_equal(kappa, lens.kappa_at(*sky, 1.5))
    np.testing.assert_array_equal(mu, lens.magnification_at(*sky, 1.5))
    np.testing.assert_allclose(kappa, MODEL.kappa_at(*sky, 1.5), atol=2e-3)
    assert (kappa.attrs["model"], kappa.attrs["z_source"]) == ("maps", 1.5)


def test_images_and_curves_are_the_models():
    grid = Grid.tangent(CENTER, (500, 500), 0.25)
    lens = lens_of(grid)
    position = MODEL.sky(18.0, 10.0)
    ours, theirs = lens.counter_images(*position, 3.0), MODEL.counter_images(*position, 3.0)
    assert ours.attrs["index"] == 1
    np.testing.assert_allclose(ours[["ra", "dec"]], theirs[["ra", "dec"]], atol=0.01 / 3600)
    np.testing.assert_allclose(ours["mu"], theirs["mu"], rtol=0.01)
    assert (ours["residual"] < 1e-4).all()
    ring = float(MODEL.einstein_radius(3.0).theta_e)
    assert float(lens.einstein_radius(3.0).theta_e) == pytest.approx(ring, rel=1e-4)
    like = Grid.tangent(CENTER, (200, 200), 0.4)
    lengths = [[len(c) for c in m.critical_curves(like, 3.0)] for m in (lens, MODEL)]
    assert len(lengths[0]) == len(lengths[1])
    np.testing.assert_allclose(*lengths, rtol=0.1)


def test_from_files_with_redshifts_of_their_own(tmp_path):
    grid = Grid.tangent(CENTER, (60, 70), 1.0)
    paths = []
    for image in maps(grid):
        header = grid.array_wcs().to_header()
        header["Z_LENS"], header["Z_SOURCE"] = 0.348, 3.0
        paths.append(tmp_path / f"{image.name}.fits")
        fits.PrimaryHDU(image.values.astype(np.float32), header).writeto(paths[-1])
        write_zarr_map(image, tmp_path / "maps.zarr", f"alpha_{image.name}", shard=64)
    with no_compute():
        lens = read_deflection(*paths, axes="west")
        stored = read_deflection(
            tmp_path / "maps.zarr",
            tmp_path / "maps.zarr",
            names=("alpha_x", "alpha_y"),
            axes="west",
            z_lens=0.348,
            z_source=3.0,
        )
    assert isinstance(lens, DeflectionLens)
    assert (lens.z_lens, lens.z_map) == (0.348, 3.0)
    assert lens.center == pytest.approx(CENTER)
    ra, dec = inside(grid)
    exact = MODEL.deflection_at(ra, dec, 3.0)
    for one in (lens, stored):
        np.testing.assert_allclose(one.deflection_at(ra, dec, 3.0), exact, atol=5e-3)


@pytest.mark.parametrize("chunks", [None, 15])
def test_a_unit_is_that_of_open_maps_too(chunks):
    grid = Grid.tangent(CENTER, (40, 50), 1.0)
    x, y = (m.assign_attrs(units="") for m in maps(grid, unit="arcmin", chunks=chunks))
    options = {"z_lens": 0.348, "z_source": 3.0, "axes": "west", "unit": "arcmin"}
    ra, dec = inside(grid)
    lens = read_deflection(x, y.transpose("x", "y"), **options)
    np.testing.assert_allclose(
        lens.deflection_at(ra, dec, 3.0), MODEL.deflection_at(ra, dec, 3.0), atol=5e-3
    )
    np.testing.assert_allclose(
        open_deflection(x, y, **options)[5:-5, 5:-5].mean(),
        MODEL.kappa(grid, 3.0)[5:-5, 5:-5].mean(),
        rtol=1e-3,
    )


def test_maps_persisted_on_a_cluster_are_refused():
    x, y = maps(Grid.tangent(CENTER, (20, 30), 1.0), chunks=10)
    options = {"z_lens": 0.348, "z_source": 3.0}
    with distributed.Client(processes=False, n_workers=1, dashboard_address=None):
        read_deflection(x, y, **options)
        with pytest.raises(InputError, match="persisted on a cluster"):
            read_deflection(x, y.persist(), **options)


def test_bad_maps():
    grid = Grid.tangent(CENTER, (20, 30), 1.0)
    x, y = maps(grid)
    with pytest.raises(InputError, match="do not say their z_lens"):
        read_deflection(x, y, z_source=3.0)
    with pytest.raises(InputError, match="do not say their z_source"):
        read_deflection(x, y, z_lens=0.3)
    with pytest.raises(InputError, match="not behind the lens"):
        read_deflection(x, y, z_lens=0.4, z_source=0.4)
    with pytest.raises(InputError, match="the deflection along y has dims"):
        read_deflection(x, y.rename(x="column"), z_lens=0.4, z_source=3)
    with pytest.raises(InputError, match="axes = 'up'"):
        read_deflection(x, y, z_lens=0.4, z_source=3, axes="up")
    with pytest.raises(InputError, match="not on the same pixels"):
        read_deflection(x, y[:-1], z_lens=0.4, z_source=3)
    with pytest.raises(InputError, match="not an angle"):
        read_deflection(x.assign_attrs(units="kpc"), y, z_lens=0.4, z_source=3)


# -- the published maps -----------------------------------------------------------------------
def test_cats_maps_and_model_of_as1063(shared_data):
    """Maps for z_s = 0.611, times 2.013, against the parameters of a later CATS model."""
    folder = shared_data / "as1063"
    paths = [folder / f"deflection_{a}_zs0611.fits" for a in "xy"]
    model = read_lenstool(folder / "cats_gold_best.par")
    lens = read_deflection(*paths, z_lens=0.3475, z_source=0.611)
    x, y = lens.grid.mesh()
    sky = lens.grid.sky(x[5::10, 5::10], y[5::10, 5::10])
    np.testing.assert_allclose(lens.ratio(3.0) / lens.ratio(0.611), 2.013, rtol=3e-4)

    ours, theirs = (np.array(m.jacobian_at(*sky, 3.0)) for m in (model, lens))
    smooth = np.array(model.only(model.names[:1]).kappa_at(*sky, 3.0))
    away = ours[0] - smooth < 0.1  # from galaxies
    assert 0.5 < away.mean() < 0.98
    relative = np.abs(theirs[0] / ours[0] - 1)
    assert np.median(relative) < 0.0125
    assert np.median(relative[away]) < 0.012
    assert np.percentile(relative[away], 90) < 0.04
    assert (np.median(np.abs(theirs[1:] - ours[1:]), axis=(1, 2)) < 0.013).all()

    # the same axes, and deflections without a free constant: 23" and 6" to within 0.15"
    a, b = (np.array(m.deflection_at(*sky, 3.0)) for m in (model, lens))
    assert np.hypot(*(a - b)).mean() < 0.15
    assert np.hypot(*a).mean() > 20
    turned = read_deflection(*paths, z_lens=0.3475, z_source=0.611, axes="east")
    assert np.hypot(*(np.array(turned.deflection_at(*sky, 3.0)) - a)).mean() > 20

    # and the divergence of the maps is the convergence of the lens
    kappa = open_deflection(*paths, z_lens=0.3475, z_source=0.611)[5::10, 5::10]
    moved = rescale(kappa, 3.0, field=model.field(3.0)).compute()
    np.testing.assert_allclose(np.median(np.abs(moved / theirs[0] - 1)), 0, atol=1e-3)
