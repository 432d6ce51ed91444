"""Pass 0: the footprint, the noise and the stars of a field are the same for every cut of it."""

from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.signal import fftconvolve
from scipy.stats import median_abs_deviation

from gcdask import masks
from gcdask.grid import Grid
from gcdask.kernels import highpass as hp
from gcdask.kernels import render
from gcdask.kernels.noise import interpolate_cells, robust_sigma, sigma_around
from gcdask.mosaic import open_mosaic
from gcdask.simulate.psf import make_psf
from gcdask.survey import FILTERS, SurveyPlan, combine, survey_window
from gcdask.tiles import tile_grid

SHAPE = (300, 340)
CENTER = (342.18, -44.53)
STARS = ((92.3, 101.6), (233.0, 180.4))  # x, y
GALAXY = (150.0, 215.0)
PLAN = SurveyPlan(SHAPE, noise_cell=64, patch=32)


def noise(shape, seed=0, sigma=1.0):
    return np.random.default_rng(seed).normal(0, sigma, shape).astype(np.float32)


def star(shape, x, y, flux, angle):
    """A star of NIRCam's PSF, its six spikes turned to ``angle`` (deg from +x)."""
    psf = make_psf("F200W", 0.03)
    turn = np.deg2rad(angle) - np.arctan2(psf.spikes[0, 1], psf.spikes[0, 0])
    spikes = psf.spikes.copy()
    cos, sin = np.cos(turn), np.sin(turn)
    spikes[:, :2] = psf.spikes[:, :2] @ [[cos, sin], [-sin, cos]]
    dx, dy = np.arange(shape[1]) - x, np.arange(shape[0]) - y
    core = np.exp(-0.5 * (dx**2 + dy[:, None] ** 2)) / (2 * np.pi)
    return flux * (core + render.halo_image(dx, dy, psf.wing, spikes))


def galaxy(shape, x, y, peak, scale, q=0.6, angle=25.0):
    dy, dx = np.indices(shape) - np.reshape([y, x], (2, 1, 1))
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    r = np.hypot(dx * cos + dy * sin, (dy * cos - dx * sin) / q)
    return peak * np.exp(-r / scale)


def rotated(shape, angle=20.0, margin=30.0):
    """Footprint: a rectangle turned in its array."""
    ny, nx = shape
    dy, dx = np.indices(shape) - np.reshape([(ny - 1) / 2, (nx - 1) / 2], (2, 1, 1))
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    return (np.abs(u) < nx / 2 - margin) & (np.abs(v) < ny / 2 - margin)


def field(shape=SHAPE, angle=47.0):
    """Noise of 1, two stars, a bright galaxy, a rotated footprint with holes."""
    image = noise(shape) + galaxy(shape, *GALAXY, 4000, 5)
    for x, y in STARS:
        image = image + star(shape, x, y, 3e5, angle)
    image[~rotated(shape)] = np.nan
    image[140:160, 100:130] = np.nan
    image[200, 250:252] = np.nan
    return image.astype(np.float32)


def survey(image, plan=None, size=10**6):
    plan = plan or SurveyPlan(image.shape)
    tiles = tile_grid(image.shape, size, plan.halo)
    return combine([survey_window(t, image[t.slices], plan) for t in tiles], plan)


def assert_same(a, b):
    assert a.plan == b.plan
    assert np.array_equal(a.distance, b.distance)
    assert a.sigma.keys() == b.sigma.keys() == {"0.5-5", "detection", "4-25"}
    for name in a.sigma:
        assert np.array_equal(a.sigma[name], b.sigma[name])
    pd.testing.assert_frame_equal(a.stars, b.stars, check_exact=True)
    assert a.angle == b.angle or np.isnan([a.angle, b.angle]).all()
    assert a.area == b.area


# -- the same for every cut ----------------------------------------------------------------------
@pytest.fixture(scope="module")
def whole():
    found = survey(field(), PLAN)
    assert len(found.stars) >= len(STARS)
    return found


@pytest.mark.parametrize("size", [299, 170, 128, 64, 50])
def test_a_survey_does_not_depend_on_the_tiles(whole, size):
    assert_same(survey(field(), PLAN, size), whole)


@settings(max_examples=6, deadline=None)
@given(size=st.integers(41, 339))
def test_a_survey_does_not_depend_on_any_tile_size(whole, size):
    assert_same(survey(field(), PLAN, size), whole)


def test_the_order_of_the_tiles_does_not_matter(whole):
    image = field()
    tiles = tile_grid(SHAPE, 100, PLAN.halo)
    pieces = [survey_window(t, image[t.slices], PLAN) for t in tiles]
    shuffled = [pieces[k] for k in np.random.default_rng(3).permutation(len(pieces))]
    assert_same(combine(shuffled, PLAN), whole)


@pytest.mark.parametrize("chunks", [SHAPE, (150, 170), ((7, 200, 93), (300, 1, 39)), (37, 90)])
def test_a_dask_array_has_the_survey_of_its_tiles(whole, chunks):
    grid = Grid.tangent(CENTER, SHAPE, 0.03, angle=30)
    with no_compute():
        image = grid.wrap(da.from_array(field(), chunks=chunks), "sum", "nJy")
        lazy = masks.survey_image(image, masks.MaskRules(), noise_cell=64, patch=32)
    assert_same(dask.compute(lazy)[0], whole)


# -- footprint -----------------------------------------------------------------------------------
class Coarse(SurveyPlan):
    """A survey with the footprint cells of a much larger field."""

    footprint_cell = 16


def exact_distance(good):
    """Distance of pixel centres to the outside's border, holes filled, at full resolution."""
    inside = np.pad(ndimage.binary_fill_holes(good), 1)
    return np.maximum(ndimage.distance_transform_edt(inside)[1:-1, 1:-1] - 0.5, 0)


@pytest.mark.parametrize("angle", [0.0, 13.0, 45.0])
@pytest.mark.parametrize(("plan", "cell"), [(SurveyPlan, 4), (Coarse, 16)])
def test_the_distance_to_the_edge_is_exact_to_a_cell(plan, cell, angle):
    shape = (430, 517)  # no multiple of a cell
    good = rotated(shape, angle, margin=70.0)
    good[150:230, 200:330] = False  # a hole is no edge
    good[100:110, 250:252] = False
    image = np.where(good, np.float32(1), np.float32(np.nan))
    found = survey(image, plan(shape, star_nsigma=None), 200)
    assert found.plan.footprint_cell == cell
    got = found.edge_distance(np.arange(shape[0]), np.arange(shape[1]))
    expected = exact_distance(good)
    assert expected.max() > 60
    assert np.abs(got - expected).max() < cell
    assert got[190, 260] > 60  # in the hole
    assert (got[expected > cell] > 0).all()
    assert (got[~ndimage.binary_dilation(expected > 0, iterations=2 * cell)] == 0).all()


def test_a_full_array_ends_at_its_borders():
    found = survey(noise((203, 150)), SurveyPlan((203, 150), star_nsigma=None), 64)
    got = found.edge_distance(np.arange(203), np.arange(150))
    assert np.abs(got - exact_distance(np.ones((203, 150), bool))).max() < 4
    assert found.area == 1.0


def test_the_area_is_the_share_of_pixels_with_data():
    image = field()
    assert survey(image, PLAN, 77).area == np.isfinite(image).mean()


def test_footprint_cells_grow_with_the_field():
    sides = {n: SurveyPlan((n, n)).footprint_cell for n in (500, 4400, 20_000, 100_000, 300_000)}
    assert sides == {500: 4, 4400: 4, 20_000: 16, 100_000: 32, 300_000: 32}


# -- noise ---------------------------------------------------------------------------------------
def response(*pairs):
    """The filters' kernel, from their Gaussians' taps."""
    out = np.ones((1, 1))
    for narrow, wide in pairs:
        taps = hp.kernel1d(wide).astype(float)
        kernel = -np.outer(taps, taps)
        taps = hp.kernel1d(narrow).astype(float)
        n = (len(kernel) - len(taps)) // 2
        kernel[n : n + len(taps), n : n + len(taps)] += np.outer(taps, taps)
        out = fftconvolve(out, kernel)
    return out


@pytest.mark.parametrize(
    ("name", "pairs", "tolerance"),
    [
        ("0.5-5", FILTERS[:1], 0.01),
        ("detection", FILTERS, 0.01),
        ("4-25", [(4.0, 25.0)], 0.06),  # few independent pixels in a patch
    ],
)
def test_the_noise_is_that_of_white_noise_after_the_filters(name, pairs, tolerance):
    sigma = 3.7
    found = survey(noise((900, 900), sigma=sigma), SurveyPlan((900, 900), star_nsigma=None))
    expected = sigma * np.sqrt((response(*pairs) ** 2).sum())
    assert np.mean(found.sigma[name]) == pytest.approx(expected, rel=tolerance)


def test_the_noise_follows_the_exposure():
    image = noise((400, 640))
    image[:, 320:] *= 5
    found = survey(image, SurveyPlan(image.shape, star_nsigma=None))
    y, x = np.array([200]), np.array([100, 550])
    left, right = found.noise("detection", y, x)[0]
    assert right / left == pytest.approx(5, rel=0.1)


def test_cells_without_data_take_the_nearest_noise():
    image = noise((256, 384))
    image[:, 128:] = np.nan
    lattice = survey(image, SurveyPlan(image.shape, star_nsigma=None)).sigma["0.5-5"]
    assert lattice.shape == (2, 3)
    assert (lattice[:, 1:] == lattice[:, :1]).all()


@pytest.mark.parametrize("shape", [(60, 60), (50, 200), (150, 40), (63, 129)])
def test_a_field_smaller_than_a_noise_cell_has_a_noise(shape):
    sigma = 5.0
    image = noise(shape, seed=4, sigma=sigma)
    found = survey(image, SurveyPlan(shape, star_nsigma=None))
    expected = sigma * np.sqrt((response(*FILTERS) ** 2).sum())
    assert found.sigma["detection"] == pytest.approx(expected, rel=0.15)
    cut = survey(image, SurveyPlan(shape, star_nsigma=None), 23).sigma
    assert all(np.array_equal(cut[k], v) for k, v in found.sigma.items())


def test_a_field_without_data_has_no_footprint_and_no_stars():
    found = survey(np.full((200, 180), np.nan, np.float32), size=90)
    assert found.area == 0
    assert not found.distance.any()
    assert found.stars.empty
    assert np.isnan(found.angle)
    assert all(np.isnan(v).all() for v in found.sigma.values())


def test_a_field_of_a_few_pixels_is_surveyed():
    found = survey(np.ones((3, 5), np.float32))
    assert found.area == 1
    assert found.stars.empty


# -- stars ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("angle", [0.2, 17.0, 31.6, 47.0, 59.7])
def test_stars_are_found_with_the_angle_of_their_spikes(angle):
    found = survey(field(angle=angle))
    stars = found.stars[found.stars["contrast"] > 6]
    assert np.abs(np.sort(stars["x"]) - [x for x, _ in STARS]).max() < 1
    assert np.abs(np.sort(stars["y"]) - [y for _, y in STARS]).max() < 1
    assert abs((found.angle - angle + 30) % 60 - 30) < 0.7


def test_a_bright_galaxy_is_a_candidate_but_no_star():
    stars = survey(field()).stars
    x, y = GALAXY
    at = stars[np.hypot(stars["x"] - x, stars["y"] - y) < 3]
    assert len(at) == 1
    assert (at["contrast"] < 6).all()


def test_stars_of_the_mock_are_found_and_nothing_else(demo):
    image = masks.band_sum(open_mosaic(demo.mosaic), ["F150W", "F200W"]).values
    found = survey(image)
    truth = pd.read_parquet(demo.mosaic.with_name("field_truth.parquet"))
    truth = truth[(truth["class"] == "star") & (truth["module"] == 1)]
    stars = found.stars[found.stars["contrast"] >= masks.Spikes().contrast]
    assert len(stars) == len(truth) == 7
    apart = np.hypot(
        stars["x"].to_numpy()[:, None] - truth["x"].to_numpy(),
        stars["y"].to_numpy()[:, None] - truth["y"].to_numpy(),
    )
    assert (apart.min(axis=0) < 1.5).all()
    assert abs(found.angle - 47) < 0.7  # NIRCam's spikes as the mock draws them
    assert len(found.stars) > 30  # cores of galaxies, knots of arcs: candidates all


def test_noise_alone_has_no_stars():
    found = survey(noise((250, 250)))
    assert found.stars.empty
    assert list(found.stars) == ["x", "y", "snr", "contrast"]
    assert np.isnan(found.angle)


def test_without_noise_there_is_no_signal_to_noise():
    image = np.zeros((200, 200), np.float32)
    image[100, 100] = 5
    assert survey(image).stars.empty


def test_stars_are_looked_for_only_if_wanted(whole):
    found = survey(field(), replace(PLAN, star_nsigma=None))
    assert found.stars is None
    assert np.isnan(found.angle)
    assert found.plan.halo < PLAN.halo
    assert np.array_equal(found.sigma["0.5-5"], whole.sigma["0.5-5"])


# -- kernels -------------------------------------------------------------------------------------
def test_robust_sigma_is_the_scaled_deviation_clipped_once():
    rng = np.random.default_rng(8)
    values = np.append(rng.normal(10, 2, 5000), rng.uniform(15, 200, 300))
    first = median_abs_deviation(values, scale=1 / 1.4826)
    kept = values[np.abs(values - np.median(values)) <= 4 * first]
    expected = median_abs_deviation(kept, scale=1 / 1.4826)
    assert robust_sigma(values) == pytest.approx(expected, rel=1e-12)
    assert abs(robust_sigma(values) - 2) < abs(first - 2) < 0.2 < abs(np.std(values) - 2)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(64, 300), seed=st.integers(0, 10**6), kind=st.sampled_from(["f4", "f8"]),
    ties=st.booleans(), tail=st.floats(0, 3),
)  # fmt: skip
def test_robust_sigma_is_that_of_medians(n, seed, kind, ties, tail):
    rng = np.random.default_rng(seed)
    values = np.exp(tail * rng.normal(size=n)) * rng.choice([-1, 1], n)
    values = (np.round(values) if ties else values).astype(kind)
    kept, expected = values, np.nan
    for _ in range(2):
        expected = median_abs_deviation(kept, scale=1 / 1.4826)
        kept = kept[np.abs(kept - np.median(kept)) <= 4 * expected]
        if kept.size < 64:
            break
    assert robust_sigma(values) == pytest.approx(expected, rel=1e-6)
    assert robust_sigma(rng.permutation(values)) == robust_sigma(values)


def test_squares_about_pixels_have_their_robust_sigma():
    rng = np.random.default_rng(1)
    image = np.where(rng.random((150, 120)) < 0.1, np.nan, rng.normal(size=(150, 120)))
    y, x = rng.integers(0, 150, 600), rng.integers(0, 120, 600)
    got = sigma_around(image, y, x, 20, 3)
    for k in range(600):
        rows, columns = np.arange(y[k] - 20, y[k] + 21, 3), np.arange(x[k] - 20, x[k] + 21, 3)
        rows, columns = rows[(rows >= 0) & (rows < 150)], columns[(columns >= 0) & (columns < 120)]
        assert np.array_equal(got[k], robust_sigma(image[np.ix_(rows, columns)]), equal_nan=True)
    assert np.isfinite(got).any()
    assert sigma_around(image, y[:0], x[:0], 20).shape == (0,)


def test_robust_sigma_needs_64_finite_values():
    values = np.full(200, np.nan)
    values[:63] = np.arange(63)
    assert np.isnan(robust_sigma(values))
    values[70] = 63
    assert robust_sigma(values) == pytest.approx(1.4826 * 16)
    assert robust_sigma(np.where(np.isnan(values), np.inf, values)) == robust_sigma(values)
    assert robust_sigma(np.zeros(100)) == 0


@pytest.mark.parametrize("cell", [4, 32, 7])
def test_cells_are_interpolated_between_their_centres(cell):
    cells = np.random.default_rng(2).uniform(1, 2, (6, 5)).astype(np.float32)
    y, x = np.arange(6 * cell), np.arange(5 * cell)
    at = np.meshgrid((y + 0.5) / cell - 0.5, (x + 0.5) / cell - 0.5, indexing="ij")
    expected = ndimage.map_coordinates(cells.astype(float), at, order=1, mode="nearest")
    got = interpolate_cells(cells, cell, y, x)
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() < 1e-6
    if cell % 2:
        assert np.array_equal(got[cell // 2 :: cell, cell // 2 :: cell], cells)
    part = interpolate_cells(cells, cell, y[cell + 1 : 3 * cell], x[::-1][:9])
    assert np.array_equal(part, got[cell + 1 : 3 * cell, ::-1][:, :9])


def test_a_single_cell_is_constant():
    got = interpolate_cells(np.array([[2.5]]), 128, np.arange(40), np.arange(300))
    assert (got == 2.5).all()
    assert interpolate_cells(np.array([[2.5]]), 128, np.arange(0), np.arange(3)).shape == (0, 3)
