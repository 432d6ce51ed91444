"""Convergence maps: opened, differentiated, resampled; any chunking, and the published maps."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.lensing import (
    LenstoolModel,
    on_grid,
    open_deflection,
    open_kappa,
    read_lenstool,
    rescale,
)
from gcdask.lensing.maps import half_divergence
from gcdask.mosaic import write_zarr_map

CENTER = (342.18322, -44.530889)
CHUNKS = [(40, 50), (17, 23), ((1, 38, 1), (2, 45, 3)), (1, 50), (40, 1)]


def write_fits(path, grid, values, **cards):
    header = grid.array_wcs().to_header()
    for key, value in cards.items():
        header[key] = value
    fits.PrimaryHDU(np.asarray(values, np.float32), header).writeto(path)
    return path


def smooth(grid, seed=0):
    """A smooth map in float32: a few clumps."""
    rng = np.random.default_rng(seed)
    clumps = [
        {
            "x_centre": x,
            "y_centre": y,
            "core_radius": 8.0,
            "cut_radius": 60.0,
            "v_disp": 500.0,
        }
        for x, y in rng.uniform(-20, 20, (4, 2))
    ]
    return LenstoolModel.from_potentials(clumps, CENTER, 0.348).kappa(grid, 3.0).compute()


# -- reading ----------------------------------------------------------------------------------
def test_kappa_from_fits(tmp_path):
    grid = Grid.tangent(CENTER, (40, 50), 1.0, angle=15)
    values = np.random.default_rng(0).random(grid.shape, np.float32)
    path = write_fits(tmp_path / "kappa.fits", grid, values, Z_LENS=0.348, ZSOURCE=9.0)
    with no_compute():
        kappa = open_kappa(path)
    assert isinstance(kappa.data, da.Array)
    assert (kappa.name, kappa.attrs["units"]) == ("kappa", "")
    assert (kappa.attrs["z_lens"], kappa.attrs["z_source"]) == (0.348, 9.0)
    np.testing.assert_array_equal(kappa.compute(), values)
    assert kappa.compute().dtype == kappa.dtype
    assert Grid.of(kappa).same_pixels(grid)
    assert open_kappa(path, z_source=np.inf).attrs["z_source"] == np.inf


def test_kappa_without_redshifts_and_with_units(tmp_path):
    grid = Grid.tangent(CENTER, (5, 6), 1.0)
    path = write_fits(tmp_path / "kappa.fits", grid, np.ones(grid.shape))
    assert {"z_lens", "z_source"}.isdisjoint(open_kappa(path).attrs)
    with pytest.raises(InputError, match="not behind the lens"):
        open_kappa(path, z_lens=0.5, z_source=0.4)
    with pytest.raises(InputError, match="exist"):
        open_kappa(tmp_path / "none.fits")
    path = write_fits(tmp_path / "sigma.fits", grid, np.ones(grid.shape), BUNIT="Msun / kpc2")
    with pytest.raises(InputError, match="a convergence has no unit"):
        open_kappa(path)
    assert open_kappa(path, unit="").attrs["units"] == ""


def test_kappa_from_zarr(tmp_path):
    grid = Grid.tangent(CENTER, (40, 50), 1.0)
    kappa = smooth(grid).chunk({"y": 20, "x": 50})
    write_zarr_map(kappa, tmp_path / "maps.zarr", "cats", shard=32)
    again = open_kappa(tmp_path / "maps.zarr")
    assert (again.attrs["z_lens"], again.attrs["z_source"]) == (0.348, 3.0)
    np.testing.assert_array_equal(again.compute(), kappa.compute())


# -- deflections ------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", CHUNKS)
def test_divergence_for_any_chunking(chunks):
    grid = Grid.tangent(CENTER, (40, 50), 0.5)
    alpha = np.random.default_rng(0).normal(size=(2, 40, 50)).astype(np.float32)
    wide = alpha.astype(float)
    expected = (np.gradient(wide[0], axis=1) + np.gradient(wide[1], axis=0)) / 2 / 0.5
    ax, ay = (
        grid.wrap(da.from_array(a, chunks=c), n, "arcsec")
        for a, c, n in zip(alpha, (chunks, (40, 50)), "xy", strict=True)
    )
    with no_compute():
        kappa = half_divergence(ax, ay)
    assert kappa.chunks == ax.chunks
    np.testing.assert_allclose(kappa.compute(), expected, rtol=1e-8, atol=1e-10)
    whole = half_divergence(ax.chunk(-1), ay).compute()
    np.testing.assert_array_equal(kappa.compute(), whole)


def test_divergence_beside_missing_data():
    grid = Grid.tangent(CENTER, (5, 5), 1.0)
    x, y = grid.mesh()
    x[2, 2] = np.nan
    kappa = half_divergence(grid.wrap(3 * x, "x", ""), grid.wrap(y, "y", "")).compute()
    assert np.isnan(kappa[2, 2])
    np.testing.assert_allclose(np.delete(kappa.values.ravel(), 12), 2, rtol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 33.0, 180.0])
def test_sky_axes_on_a_rotated_map(angle):
    """A deflection that grows by 0.3 to the west and 0.1 to the north, with a curl."""
    grid = Grid.tangent(CENTER, (9, 11), 0.5, angle=angle)
    east, north = grid.offsets(*grid.mesh(), CENTER)
    west = 0.3 * -east + 0.2 * north
    up = 0.1 * north - 0.4 * -east
    for axes, sign in (("west", 1), ("east", -1)):
        ax, ay = grid.wrap(sign * west / 3600, "x", "deg"), grid.wrap(up, "y", "arcsec")
        np.testing.assert_allclose(half_divergence(ax, ay, axes=axes), 0.2, rtol=1e-6)


def test_cats_deflections_agree_with_the_model(shared_data):
    folder = shared_data / "as1063"
    paths = [folder / f"deflection_{a}_zs0611.fits" for a in "xy"]
    with no_compute():
        kappa = open_deflection(*paths, z_lens=0.3475, z_source=0.611)
        model = read_lenstool(folder / "cats_gold_best.par")
        moved = rescale(kappa, 3.0, field=model.field(3.0))
        few = kappa[::5, ::5]
        direct = model.kappa(few, 3.0)
    ours, theirs, low = dask.compute(direct, moved[::5, ::5], few)
    np.testing.assert_allclose(theirs / low, 2.013, rtol=3e-4)
    ratio = theirs.values / ours.values
    assert np.median(np.abs(ratio - 1)) < 0.02
    assert np.percentile(np.abs(ratio - 1), 90) < 0.06
    assert np.median(ratio) == pytest.approx(1, abs=0.015)
    sky = open_deflection(*paths, axes="west")[::5, ::5]
    np.testing.assert_allclose(sky.compute(), low, rtol=1e-6)


def test_deflection_errors(tmp_path):
    grid = Grid.tangent(CENTER, (5, 6), 1.0)
    x = write_fits(tmp_path / "x.fits", grid, np.ones(grid.shape))
    y = write_fits(tmp_path / "y.fits", grid.cut(0, 4, 0, 6), np.ones((4, 6)))
    with pytest.raises(InputError, match="not on the same pixels"):
        open_deflection(x, y)
    with pytest.raises(InputError, match="axes = 'up'"):
        open_deflection(x, x, axes="up")
    flux = write_fits(tmp_path / "flux.fits", grid, np.ones(grid.shape), BUNIT="Jy")
    with pytest.raises(InputError, match="not an angle"):
        open_deflection(flux, flux)


# -- onto another grid ------------------------------------------------------------------------
SOURCE = Grid.tangent(CENTER, (60, 70), 1.0)
INSIDE = Grid.tangent(CENTER, (40, 50), 0.7, angle=30)


def oracle(values, source, grid):
    x, y = source.pixel(*grid.sky(*grid.mesh()))
    index = ((y - source.origin[0]) / source.step, (x - source.origin[1]) / source.step)
    return map_coordinates(values, index, order=1, mode="nearest")


@pytest.mark.parametrize("source_chunks", [(60, 70), (16, 9), ((1, 58, 1), (5, 1, 64)), (2, 35)])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_resampled_for_any_chunking(chunks, source_chunks):
    values = np.random.default_rng(1).random(SOURCE.shape)
    kappa = SOURCE.wrap(da.from_array(values, chunks=source_chunks), "kappa", "", z_source=3.0)
    like = INSIDE.wrap(da.zeros(INSIDE.shape, chunks=chunks), "like", "")
    with no_compute():
        out = on_grid(kappa, like)
    assert out.chunks == like.chunks
    assert out.attrs["z_source"] == 3.0
    assert Grid.of(out) == INSIDE
    np.testing.assert_allclose(out.compute(), oracle(values, SOURCE, INSIDE), rtol=1e-11)
    whole = on_grid(SOURCE.wrap(values, "kappa", ""), INSIDE).compute()
    np.testing.assert_array_equal(out.compute(), whole)


@settings(max_examples=20, deadline=None)
@given(
    st.floats(0, 360),
    st.floats(0.3, 3),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(9, 70),
)
def test_resampled_for_any_grid(angle, scale, ny, nx, chunk):
    values = np.random.default_rng(1).random(SOURCE.shape, np.float32)
    kappa = SOURCE.wrap(da.from_array(values, chunks=chunk), "kappa", "")
    grid = Grid.tangent(SOURCE.sky(50, 40), (ny, nx), scale, angle=angle)
    with dask.config.set(scheduler="sync"):
        out = on_grid(kappa, grid, outside="nan").compute().values
    assert out.dtype == np.float32
    x, y = SOURCE.pixel(*grid.sky(*grid.mesh()))
    clear = np.minimum(np.minimum(x, 69 - x), np.minimum(y, 59 - y)) + 0.5
    sure = np.abs(clear) > 1e-5
    np.testing.assert_array_equal(np.isfinite(out)[sure], (clear > 0)[sure])
    both = sure & (clear > 0)
    np.testing.assert_allclose(out[both], oracle(values, SOURCE, grid)[both], rtol=1e-5)


def test_the_same_grid_gives_the_same_map_missing_pixels_and_all():
    values = np.random.default_rng(1).random(SOURCE.shape)
    values[10:12, 20] = np.nan
    values[0, 0] = np.nan
    kappa = SOURCE.wrap(da.from_array(values, chunks=16), "kappa", "")
    np.testing.assert_array_equal(on_grid(kappa, SOURCE).compute(), values)
    part = SOURCE.cut(5, 30, 7, 66)
    np.testing.assert_array_equal(on_grid(kappa, part).compute(), values[5:30, 7:66])
    np.testing.assert_array_equal(on_grid(kappa[5:30, 7:66], part).compute(), values[5:30, 7:66])


def test_resampled_model_is_the_model():
    grid = Grid.tangent(CENTER, (200, 220), 0.25, angle=50)
    on_other = on_grid(smooth(SOURCE), INSIDE).compute()
    xr.testing.assert_allclose(on_other, smooth(INSIDE), rtol=5e-3)
    coarse = on_grid(smooth(grid), grid.coarsen(4)).compute()
    np.testing.assert_allclose(coarse, smooth(grid.coarsen(4)), rtol=2e-3)


def test_a_grid_beyond_the_map():
    kappa = SOURCE.wrap(da.ones(SOURCE.shape, chunks=16), "kappa", "")
    wide = Grid.tangent(CENTER, (120, 70), 1.0)
    with pytest.raises(InputError, match=r"covers only 50\.\d % of the grid"):
        on_grid(kappa, wide)
    out = on_grid(kappa, wide, outside="nan").compute()
    assert int(out.notnull().sum()) == 60 * 70
    away = Grid.tangent((CENTER[0], 40.0), (30, 30), 1.0)
    with pytest.raises(InputError, match=r"covers only 0\.0 %"):
        on_grid(kappa, away)
    assert on_grid(kappa, away, outside="nan").isnull().all().compute()
    with pytest.raises(InputError, match="outside = 'zero'"):
        on_grid(kappa, wide, outside="zero")


def test_far_chunks_are_not_read():
    """A small cut of a large map touches only the chunks under it."""

    def explode(block, block_info=None):
        if block_info[0]["chunk-location"] != (0, 0):
            raise AssertionError("read a chunk that is not needed")
        return block

    data = da.map_blocks(explode, da.ones(SOURCE.shape, chunks=30), meta=np.empty((0, 0)))
    kappa = SOURCE.wrap(data, "kappa", "")
    assert (on_grid(kappa, SOURCE.cut(2, 20, 3, 22)).compute() == 1).all()
