"""Mock fields: the same pixels in any chunks, the light that was asked for, the truth told."""

import pickle
from functools import lru_cache

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st
from photutils.aperture import CircularAperture, aperture_photometry
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from gcdask import simulate
from gcdask.errors import InputError
from gcdask.kernels import render as kernel
from gcdask.lensing import read_lenstool
from gcdask.masks import Flag
from gcdask.mosaic import open_map, open_mosaic
from gcdask.simulate import intensity, model, psf, render, sources, truth

BAND = ("F150W",)


@lru_cache(maxsize=32)
def mock(**options):
    """A small mock of one band with little in it, so that it is quick."""
    sparse = {"bands": BAND, "n_gc": 2000, "members": 20, "background": 20, "stars": 3, "arcs": 4}
    return simulate.as1063("small", **(sparse | options))


def whole(options, module=1):
    ny, nx = options.grid(module).shape
    return (0, ny, 0, nx)


# -- the same pixels in any chunks --------------------------------------------------------------
@pytest.fixture(scope="module")
def full_image():
    return mock().sources(0).sci[0][:, :], mock().sources(0).err[0][:, :]


@pytest.mark.parametrize("chunks", [512, (700, 333), (1984, 37), (61, 2048)])
def test_pixels_do_not_depend_on_chunks(full_image, chunks):
    mosaic = mock().mosaic(0, chunks)
    for name, expected in zip(("sci", "err"), full_image, strict=True):
        found = mosaic[name].isel(band=0).values
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1983), st.integers(0, 2047), st.integers(1, 40), st.integers(1, 40))
def test_any_window_holds_the_same_bits(y, x, ny, nx):
    expected = _large(correlated_noise=True)[y : y + ny, x : x + nx]
    window = mock(correlated_noise=True).sources(0).sci[0][y : y + ny, x : x + nx]
    np.testing.assert_array_equal(window.view(np.int32), expected.view(np.int32))


@lru_cache(maxsize=2)
def _large(**options):
    return mock(**options).sources(0).sci[0][:, :]


@pytest.mark.parametrize("chunks", [400, (77, 1024)])
def test_objects_mask_does_not_depend_on_chunks(chunks):
    field = mock()
    expected = render.objects_block(field.options, 1, whole(field.options))
    np.testing.assert_array_equal(field.objects_mask(1, chunks).values, expected)


def test_intensity_does_not_depend_on_chunks():
    field = mock()
    a, b = (field.intensity(0, chunks=c).compute() for c in (512, (13, 50)))
    xr.testing.assert_identical(a, b)


def test_building_computes_nothing_and_pickles_small():
    with no_compute():
        field = mock()
        field.mosaic(0), field.mosaic(1, 300)
        field.intensity(0), field.objects_mask(1)
    images = field.sources(0)
    data = pickle.dumps(images)
    assert len(data) < 20_000
    np.testing.assert_array_equal(
        pickle.loads(data).sci[0][100:120, 200:230], images.sci[0][100:120, 200:230]
    )


def test_bands_are_the_same_pixels_whatever_bands_are_made_with_them():
    both = simulate.as1063(bands=("F090W", "F150W"), n_gc=500, members=5)
    box = (400, 430, 300, 340)
    noise = [render.noise(m.options, 0, b, box) for m, b in ((both, 1), (mock(), 0))]
    np.testing.assert_array_equal(*noise)


# -- seeds --------------------------------------------------------------------------------------
def test_seeds_reproduce_and_differ():
    box = np.s_[600:700, 600:700]
    first, again, other = (mock(seed=s).sources(0).sci[0][box] for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    a, b = mock(seed=5).truth, mock(seed=6).truth
    assert not np.isin(a.loc[a["class"] == "gc", "x"], b.loc[b["class"] == "gc", "x"]).any()


# -- photometry ---------------------------------------------------------------------------------
def difference(band=0, module=0, **without):
    """Light of the mock minus that of the mock without something."""
    full, less = mock(), mock(**without)
    box = whole(full.options, module)
    return full, render.light(full.options, module, band, box) - render.light(
        less.options, module, band, box
    )


def test_stars_sum_to_their_magnitudes():
    field, light = difference(stars=0)
    table = field.truth.query("module == 1 and `class` == 'star'")
    y, x = np.indices(light.shape)
    assert len(table) == 3
    assert table.mag_F150W.between(16.9, 21.1).all()
    np.testing.assert_allclose(light.sum(), table.flux_F150W.sum(), rtol=0.02)
    brightest = table.sort_values("mag_F150W").iloc[0]
    near = np.hypot(x - brightest.x, y - brightest.y) < 150
    magnitude = -2.5 * np.log10(light[near].sum() / 3631e9)
    assert abs(magnitude - brightest.mag_F150W) < 0.05


def test_stars_have_six_spikes():
    field, light = difference(stars=0)
    star = field.truth.query("module == 1 and `class` == 'star'").sort_values("mag_F150W").iloc[0]
    phi = np.deg2rad(np.arange(0, 360, 0.25))
    at = [np.rint(c + 60 * f(phi)).astype(int) for c, f in ((star.y, np.sin), (star.x, np.cos))]
    ring = light[tuple(at)]
    bright = ring > 0.5 * np.quantile(ring, 0.99)
    starts = np.flatnonzero(bright & ~np.roll(bright, 1))
    assert 6 <= len(starts) <= 8  # pixelisation may split one
    turn = np.rad2deg(phi[bright]) % 60
    assert np.ptp((turn - turn[0] + 30) % 60) < 6


def test_point_sources_sum_to_their_fluxes():
    field, light = difference(contamination=0)
    p = sources.scene(field.options, 0).points
    ny, nx = light.shape
    other = ~p.gc
    inside = other & (p.x > 20) & (p.x < nx - 20) & (p.y > 20) & (p.y < ny - 20)
    assert p.flux[0][inside].sum() < light.sum() < p.flux[0][other].sum() * (1 + 1e-9)
    image = np.zeros((60, 60))
    start = np.array([[0] * 5, [0] * 5, [0, 0, 0, 1, 1], [1] * 5], np.int64)  # in cell (2, 2)
    table = psf.make_psf("F090W", 0.03).table
    one = (np.array([40.3]), np.array([32.7]), np.array([2.5]))
    kernel.points(image, 0, 0, *one, start, 32, table)
    np.testing.assert_allclose(image.sum(), 2.5, rtol=1e-12)
    y, x = np.indices(image.shape)
    # spikes and wings are symmetric, so the centroid is the position
    np.testing.assert_allclose((image * x).sum() / 2.5, 40.3, atol=5e-3)
    np.testing.assert_allclose((image * y).sum() / 2.5, 32.7, atol=5e-3)


def test_galaxies_sum_to_their_magnitudes():
    field, light = difference(background=0, module=1)
    scene = sources.scene(field.options, 1)
    g = scene.galaxies[scene.kind == "background"]
    flux = scene.galaxy_flux[scene.kind == "background", 0]
    ny, nx = light.shape
    inside = (np.abs(g[:, 0] - nx / 2) + g[:, 6] < nx / 2) & (
        np.abs(g[:, 1] - ny / 2) + g[:, 6] < ny / 2
    )
    assert inside.sum() > 3
    assert 0.98 * flux[inside].sum() < light.sum() < flux.sum() * 1.02


def test_arcs_sum_to_their_magnitudes():
    field, light = difference(arcs=0)
    table = field.truth.query("module == 1 and `class` == 'arc'")
    table = table[table.x.between(80, 1960) & table.y.between(80, 1900)]
    assert len(table) >= 2
    for arc in table.itertuples():
        x, y = int(arc.x), int(arc.y)
        stamp = light[y - 80 : y + 80, max(x - 80, 0) : x + 80]
        np.testing.assert_allclose(stamp.sum(), arc.flux_F150W, rtol=2e-3)


@pytest.mark.parametrize("correlated", [False, True])
def test_noise_matches_the_depth(correlated):
    field = mock(correlated_noise=correlated)
    noise = render.noise(field.options, 1, 0, whole(field.options)) * field.options.sigma_pixel
    assert abs(noise.mean()) < 4 * noise.std() / 300
    np.testing.assert_allclose(noise.std(), field.options.sigma_pixel, rtol=0.01)
    centres = np.mgrid[10:1010:12, 10:1010:12].reshape(2, -1).T.astype(float)
    flux = aperture_photometry(noise, CircularAperture(centres, 0.1 / 0.03))["aperture_sum"]
    depth = -2.5 * np.log10(5 * np.std(flux) / 3631e9)
    assert abs(depth - 30.9) < 3 * 1.09 / np.sqrt(2 * len(centres)) + 0.005
    neighbours = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
    assert (neighbours > 0.3) if correlated else (abs(neighbours) < 0.01)


def test_error_map_is_the_scatter_of_the_image():
    field = mock()
    box = (800, 1150, 850, 1250)  # the BCG: Poisson noise dominates
    sci, err = render.render_block(field.options, 0, 0, box)
    light = render.light(field.options, 0, 0, box) * model.MJYSR_PER_NJY
    pull = (sci - light) / err
    pull = pull[np.isfinite(pull) & (pull < 20)]
    np.testing.assert_allclose(pull.std(), 1, atol=0.01)
    assert err.max() > 5 * err.min()


def test_noise_of_the_detection_map():
    field = simulate.as1063(correlated_noise=True, n_gc=100)
    for options in (field.options, simulate.as1063(n_gc=100).options):
        total = 0.0
        for band in range(4):
            image = render.noise(options, 1, band, (0, 400, 0, 400)) * options.sigma_pixel
            once = gaussian_filter(image, 0.5 / 2.3548) - gaussian_filter(image, 5 / 2.3548)
            total += gaussian_filter(once, 1 / 2.3548) - gaussian_filter(once, 3 / 2.3548)
        inner = total[20:-20, 20:-20]
        np.testing.assert_allclose(inner.std(), options.sigma_detection, rtol=0.01)


# -- the PSF ------------------------------------------------------------------------------------
def central_row(band, user=None):
    """The effective PSF along x through its centre, at steps of 1/OVER px."""
    table = psf.make_psf(band, 0.03, user).table
    row = table[psf.OVER // 2, : psf.OVER, psf.RADIUS]  # (phase, column)
    return row.T.ravel()


def fwhm(profile, step):
    above = np.flatnonzero(profile > profile.max() / 2)
    return (above[-1] - above[0] + 1) * step


@pytest.mark.parametrize("band", ["F090W", "F115W", "F150W", "F200W"])
def test_psf_has_the_width_of_its_band(band):
    found = fwhm(central_row(band), 0.03 / psf.OVER)
    fine = np.linspace(-4, 4, 8001)  # px
    core = np.exp(-4 * np.log(2) * (fine / (psf.FWHM[band] / 0.03)) ** 2)
    pixel = np.abs(fine) < 0.5
    expected = fwhm(np.convolve(core, pixel, "same"), 0.001 * 0.03)
    assert found == pytest.approx(expected, abs=0.006)


def test_user_psf_keeps_its_width_and_flux():
    y, x = np.indices((101, 101)) - 50
    image = np.exp(-(x**2 + y**2) / (2 * 3.0**2)) * 7  # sigma of 3 px of 0.02"
    user = psf.load_user_psf(image, "F150W", 0.02)
    table = psf.make_psf("F150W", 0.03, user).table
    np.testing.assert_allclose(table.sum((2, 3)), 1)
    assert fwhm(central_row("F150W", user), 0.003) == pytest.approx(2.3548 * 0.06, abs=0.006)


def test_real_psf_files(shared_data):
    files = {b: shared_data / f"smacs0723/{b.lower()}_psf.fits" for b in ("F090W", "F200W")}
    field = simulate.as1063(bands=tuple(files), psf=files, n_gc=500)
    assert np.isfinite(field.sources(1).sci[1][300:400, 300:400]).all()
    assert field.options != simulate.as1063(bands=tuple(files), n_gc=500).options


# -- truth --------------------------------------------------------------------------------------
def test_peak_is_that_of_the_filtered_image():
    options = mock().options
    rng = np.random.default_rng(3)
    x, y, flux = rng.uniform(39, 41, 20), rng.uniform(39, 41, 20), rng.uniform(1, 9, (1, 20))
    peaks = truth.isolated_peaks(options, x, y, flux)
    for k in range(20):
        image = np.zeros((96, 96))
        one = (x[k : k + 1], y[k : k + 1], flux[0, k : k + 1])
        row, column = int(y[k] // 32) + 1, int(x[k] // 32) + 1
        cells = np.zeros((5, 6), np.int64)
        cells.ravel()[row * 6 + column + 1 :] = 1
        kernel.points(image, 0, 0, *one, cells, 32, options.psfs()[0].table)
        assert image.sum() == pytest.approx(one[2][0])
        once = gaussian_filter(image, 0.5 / 2.3548) - gaussian_filter(image, 5 / 2.3548)
        twice = gaussian_filter(once, 1 / 2.3548) - gaussian_filter(once, 3 / 2.3548)
        assert twice.max() == pytest.approx(peaks[k], rel=1e-4)


def test_truth_table_lists_every_class_at_its_place():
    field = mock()
    table = field.truth
    assert set(table["class"]) == set(truth.CLASSES)
    assert table["id"].is_unique
    assert table.module.isin([1, 2]).all()
    grid = field.grid(1)
    rows = table[table.module == 2]
    x, y = grid.pixel(rows.ra, rows.dec)
    np.testing.assert_allclose(np.hypot(x - rows.x, y - rows.y), 0, atol=1e-6)
    bcg = table[(table["class"] == "bcg") & (table.module == 1)].iloc[0]
    np.testing.assert_allclose((bcg.ra, bcg.dec), model.CENTER, atol=1e-7)
    points = table[table["class"].isin(["gc", "contaminant"])]
    assert points.peak.gt(0).all()
    np.testing.assert_allclose(points.snr, points.peak / field.noise)
    # fainter than asked for only by scatter of colour and sub-pixel phase
    assert points.snr.quantile(0.01) > 0.6 * 7 * 0.25
    assert (points.mu == 1).all()


def test_modules_are_two_mosaics_three_arcmin_apart():
    field = simulate.as1063("glimpse")
    first, second = (field.grid(m) for m in (0, 1))
    assert first.shape == second.shape == (4400, 4400)
    east, north = second.offsets(*second.center, first.sky(*first.center))
    assert np.hypot(east, north) == pytest.approx(180, abs=0.1)
    # one tangent plane: their pixels differ by whole numbers
    x, y = first.pixel(*second.sky(0.0, 0.0))
    np.testing.assert_allclose([x, y], np.rint([x, y]), atol=1e-6)
    _, dec = first.sky(2200.0, np.array([2000.0, 2400.0]))
    assert abs(np.diff(dec)[0] * 3600) < 0.9 * 400 * 0.03  # north is not up


def test_footprint_has_border_and_inner_gaps():
    field = mock()
    good = np.isfinite(field.sources(0).sci[0][:, :])
    assert not good[:20].any()
    assert not good[:, -20:].any()
    from scipy.ndimage import binary_fill_holes, label

    _, holes = label(binary_fill_holes(good) & ~good)
    assert holes == 2
    assert 0.85 < good.mean() < 0.97
    np.testing.assert_array_equal(good, np.isfinite(field.sources(0).err[0][:, :]))


def test_clusters_follow_kappa():
    field = mock(n_gc=30000)
    rng = np.random.default_rng(1)
    grid = field.grid(0)
    x, y = rng.uniform(0, 2047, 300), rng.uniform(0, 1983, 300)
    kappa = field.lens.kappa_at(*grid.sky(x, y), 3.0)
    expected = np.minimum(kappa, intensity.KAPPA_MAX) ** 1.6
    found = intensity.gc_intensity(field.options, 0, x, y)
    np.testing.assert_allclose(found / found[0], expected / expected[0], rtol=1e-9)

    factor = sources.luminosity_functions(field.options)["gc"]
    cells = field.intensity(0)["clusters"].compute()
    area = (16 * 0.03) ** 2
    p = sources.scene(field.options, 0).points
    for low, high in ((0, 600), (600, 1200), (1200, 1984)):
        part = cells.sel(y=slice(low, high - 1))
        # cells are centred on 16 i + 7.5, and the ends are whole cells
        top, bottom = part.y[0] - 8, part.y[-1] + 8
        n = p.gc & (p.y >= float(top)) & (p.y < float(bottom)) & (p.x >= -0.5) & (p.x < 2047.5)
        mean = float(part.sum()) * area * factor
        assert abs(n.sum() - mean) < 3.5 * np.sqrt(mean) + 0.005 * mean


def test_contaminants_are_uniform_and_as_many_as_asked():
    field = mock()
    factor = sources.luminosity_functions(field.options)["other"]
    p = sources.scene(field.options, 0).points
    inside = ~p.gc & (p.x >= 0) & (p.x < 2048) & (p.y >= 0) & (p.y < 1984)
    mean = 0.363 * factor * 2048 * 1984 * 0.03**2
    assert abs(inside.sum() - mean) < 3 * np.sqrt(mean)
    left = inside & (p.x < 1024)
    assert abs(2 * left.sum() - inside.sum()) < 3 * np.sqrt(mean)


def test_default_numbers_are_those_of_the_paper():
    field = simulate.as1063("glimpse")
    maps = field.intensity(0).compute()
    grid = field.grid(0)
    y, x = np.meshgrid(maps.y, maps.x, indexing="ij")
    bx, by = field.options.bcg(0)
    inside = np.hypot(x - bx, y - by) * 0.03 < 60
    area = (16 * grid.pixel_scale) ** 2
    assert float(maps.clusters.values[inside].sum()) * area == pytest.approx(23800, rel=0.01)
    excess = float((maps.total - maps.clusters).values[inside].sum()) * area
    assert excess == pytest.approx(4105, rel=0.01)
    total = float(maps.total.sum()) * area
    assert 28000 < total < 40000


def test_cored_profile_is_steep():
    field = mock(profile="cored")
    value = intensity.shape_of_intensity(
        field.options, np.array([0.0, 30.0, 60.0]), np.array([0.0, 20.0, 40.0])
    )
    assert value[0] == 1
    assert value[1] / value[2] == pytest.approx(4, rel=0.15)


def test_luminosity_function_of_the_clusters():
    field = mock(n_gc=30000)
    lf = sources.luminosity_functions(field.options)
    p = sources.scene(field.options, 0).points
    mag = model.magnitude_of(p.flux[0][p.gc]) - model.gc_colours(BAND)[0]
    from scipy.stats import norm

    cuts = lf["faint"] - np.array([0.6, 1.2])
    for cut in cuts:
        share = norm.cdf((cut + 7.4) / 1.3) / norm.cdf((lf["faint"] + 7.4) / 1.3)
        n = len(mag)
        found = (mag < cut).sum()
        assert abs(found - n * share) < 4 * np.sqrt(n * share) + 0.02 * n * share


def test_hot_pixels_are_single_and_in_the_image():
    field = mock(hot=2e-5)
    hot = field.truth.query("module == 1 and `class` == 'hot'")
    assert len(hot) > 40
    sci = field.sources(0).sci[0]
    plain = mock(hot=0.0).sources(0).sci[0]
    extra = sci[:, :] - plain[:, :]
    y, x = np.nonzero(np.nan_to_num(extra) > 0)
    known = set(zip(hot.y.astype(int), hot.x.astype(int), strict=True))
    assert set(zip(y, x, strict=True)) <= known
    assert len(y) > 0.8 * len(known)


def test_objects_mask_covers_objects_not_the_intracluster_light():
    field = mock()
    mask = field.objects_mask(0).values
    table = field.truth[field.truth.module == 1]
    at = table.assign(i=table.y.round().astype(int), j=table.x.round().astype(int))
    ny, nx = mask.shape
    at = at[at.i.between(0, ny - 1) & at.j.between(0, nx - 1)]
    flags = mask[at.i, at.j]
    assert (flags[at["class"] == "star"] & Flag.BRIGHT).all()
    assert (flags[at["class"].isin(["bcg", "arc"])] & Flag.EXTENDED).all()
    assert (mask > 0).mean() < 0.06
    bx, by = (round(v) for v in field.options.bcg(0))
    y, x = np.indices(mask.shape)
    ring = np.abs(np.hypot(x - bx, y - by) - 170) < 30  # 5" from the BCG
    assert (mask[ring] > 0).mean() < 0.3


# -- on disk ------------------------------------------------------------------------------------
def test_write_and_open_again(tmp_path):
    field = mock()
    with dask.config.set(scheduler="threads", num_workers=2):
        paths = simulate.write(field, tmp_path / "run" / "mock.zarr", chunks=768)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == sorted(
        ["mock.zarr", "mock_module2.zarr", "mock_truth.parquet", "mock_truth.zarr", "mock_lens.par"]
    )
    for module, key in enumerate(("mosaic", "module2")):
        stored, live = open_mosaic(paths[key]), field.mosaic(module)
        assert list(stored.band.values) == list(live.band.values)
        assert stored.sci.attrs["units"] == "MJy / sr"
        for name in ("sci", "err"):
            np.testing.assert_array_equal(stored[name].values, live[name].values)
        assert stored.attrs["wcs"] == live.attrs["wcs"]
    objects = open_map(f"{paths['maps']}/module2", name="objects")
    np.testing.assert_array_equal(objects.values, field.objects_mask(1).values)
    total = open_map(f"{paths['maps']}/module1/coarse", name="total")
    np.testing.assert_array_equal(total.values, field.intensity(0).total.values)
    table = pd.read_parquet(paths["truth"])
    pd.testing.assert_frame_equal(table, field.truth, check_dtype=False, check_categorical=False)
    lens = read_lenstool(paths["lens"])
    ra, dec = field.grid(0).sky(np.array([900.0, 1500]), np.array([1000.0, 400]))
    np.testing.assert_allclose(lens.kappa_at(ra, dec, 3), field.lens.kappa_at(ra, dec, 3))
    with pytest.raises(InputError, match="overwrite"):
        simulate.write(field, tmp_path / "run" / "mock")
    simulate.write(field, tmp_path / "run" / "mock", chunks=1024, overwrite=True)
    assert open_mosaic(paths["mosaic"]).sci.data.chunksize == (1, 1024, 1024)


# -- scoring ------------------------------------------------------------------------------------
def _truth(x, y, snr, name="gc"):
    return pd.DataFrame({"class": name, "x": x, "y": y, "peak": np.asarray(snr, float) * 0.5})


def _catalog(x, y, snr):
    return pd.DataFrame({"x": x, "y": y, "snr": np.asarray(snr, float)})


def test_score_of_a_perfect_and_of_an_empty_catalogue():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 4000, (2, 200))
    known = _truth(x, y, np.full(200, 20.0))
    good = simulate.score(_catalog(x + 0.5, y, np.full(200, 20)), known, 0.5, level=7)
    assert float(good.completeness) == pytest.approx(1)
    assert float(good.purity) == pytest.approx(1)
    assert int(good.n_truth) == int(good.n_catalog) == 200
    empty = simulate.score(_catalog([], [], []), known, 0.5, level=7)
    assert float(empty.completeness) == 0
    assert np.isnan(empty.purity)


def test_score_counts_what_is_missed_false_and_masked():
    x = np.arange(10) * 100.0 + 50
    known = _truth(x, x, [20, 20, 20, 20, 20, 20, 20, 20, 8, 2])  # 8 is below 2T + 2, 2 too faint
    found = _catalog([*x[:6], x[9], 20.0], [*x[:6], x[9], 950.0], [21] * 8)
    grid = simulate.as1063().grid(1)
    flags = np.zeros(grid.shape, np.uint16)
    flags[:100] = 4  # masks the first source, in truth and catalogue
    result = simulate.score(found, known, 0.5, grid.wrap(flags, "mask", ""), level=7, T=7)
    assert int(result.n_truth) == 7
    assert float(result.completeness) == pytest.approx(5 / 7)
    # five true ones; one at a source fainter than T/2, one at nothing
    assert int(result.n_catalog) == 7
    assert float(result.purity) == pytest.approx(5 / 7)


def test_score_matches_one_to_one_and_prefers_what_could_be_seen():
    known = _truth([100.0, 101.0], [100.0, 100.0], [30.0, 3.6])
    result = simulate.score(_catalog([101.0], [100.0], [30]), known, 0.5, level=7)
    assert float(result.completeness) == 1  # not stolen by the faint neighbour at distance 0
    double = simulate.score(_catalog([100.0, 99.0], [100.0] * 2, [30, 9]), known[:1], 0.5, level=7)
    assert float(double.purity) == 0.5


def test_chance_matches_are_subtracted():
    rng = np.random.default_rng(2)
    known = _truth(*rng.uniform(0, 1000, (2, 8000)), np.full(8000, 20.0))
    found = _catalog(*rng.uniform(0, 1000, (2, 8000)), np.full(8000, 20.0))
    result = simulate.score(found, known, 0.5, level=7)
    assert float(result.chance_purity) == pytest.approx(0.09, abs=0.02)
    assert abs(float(result.purity)) < 0.015
    assert abs(float(result.completeness)) < 0.015


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_rounds_give_the_greedy_pairs(n, m, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 8, (n, 2)), rng.uniform(0, 8, (m, 2))
    bright, first = rng.random(m), rng.random(m) < 0.5
    i, j = truth.match_one_to_one(a, b, 2.0, first=first, bright=bright)
    pairs = []
    for p in range(n):
        for q in cKDTree(b).query_ball_point(a[p], 2.0):
            pairs.append((not first[q], np.hypot(*(a[p] - b[q])), -bright[q], p, q))
    used_a, used_b, expected = set(), set(), set()
    for *_, p, q in sorted(pairs):
        if p not in used_a and q not in used_b:
            used_a.add(p), used_b.add(q), expected.add((p, q))
    assert set(zip(i, j, strict=True)) == expected


def test_score_reads_noise_maps_at_the_sources():
    grid = simulate.as1063().grid(1).coarsen(64)
    noise = np.full(grid.shape, 0.5)
    noise[:, 8:] = 5.0
    known = _truth([100.0, 900.0], [100.0, 100.0], [20.0, 20.0])  # S/N 20 and 2
    found = _catalog([100.0], [100.0], [20.0])
    result = simulate.score(found, known, grid.wrap(noise, "noise", ""), level=7)
    assert int(result.n_truth) == 1
    assert float(result.completeness) == 1


# -- what a user may get wrong ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "large"}, "size = 'large'"),
        ({"profile": "nfw"}, "profile = 'nfw'"),
        ({"bands": ("F150W", "F606W")}, "F606W"),
        ({"bands": ("F150W", "F150W")}, "different"),
        ({"n_gc": -1}, "n_gc = -1"),
        ({"faintest": 2}, "faintest = 2"),
        ({"psf": {"F606W": np.ones((3, 3))}}, "F606W"),
        ({"psf": {"F150W": np.ones((4, 4))}}, "odd side"),
        ({"psf": {"F150W": "nowhere.fits"}}, "nowhere.fits"),
        ({"psf": {"F150W": np.ones((5, 5))}, "psf_scale": 0}, "psf_scale"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(InputError, match=message):
        simulate.as1063(**options)


def test_bad_calls_are_named(tmp_path):
    field = mock()
    with pytest.raises(InputError, match="module = 2"):
        field.mosaic(2)
    with pytest.raises(InputError, match="chunks"):
        field.mosaic(0, 0)
    with pytest.raises(InputError, match="multiple of 256"):
        simulate.write(field, tmp_path / "x", chunks=100)
    with pytest.raises(InputError, match="two modules"):
        simulate.score(_catalog([], [], []), field.truth, 1.0, level=7)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_glimpse_catalogue_size():
    """Injected sources above the level in the first module: about 28 000 where it is usable."""
    table = simulate.as1063("glimpse").truth
    first = table[(table.module == 1) & table["class"].isin(["gc", "contaminant"])]
    x, y = (first[c].between(220, 4180) for c in "xy")
    assert 24000 < (x & y & (first.snr > 7)).sum() < 33000
