"""The filters against scipy, and their independence of the window, to the last bit."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gcdask.kernels import highpass as hp

PAIRS = [(0.5, 5.0), (1.0, 3.0), (2.0, 9.0)]


def oracle(image, good, fwhm):
    """Normalised convolution in float64 with scipy's own kernels."""
    good = good & np.isfinite(image)

    def smooth(f):
        def conv(a):
            return ndimage.gaussian_filter(a, f / 2.354820045, mode="constant", truncate=4.0)

        return conv(np.where(good, image, 0).astype(float)) / conv(good.astype(float))

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(good, smooth(fwhm[0]) - smooth(fwhm[1]), np.nan)


def sky(shape, seed=0, level=0.0):
    rng = np.random.default_rng(seed)
    image = rng.normal(level, 1, shape).astype(np.float32)
    image[rng.random(shape) < 0.01] += 200
    good = ndimage.uniform_filter(rng.random(shape), 9, mode="constant") > 0.42
    image[rng.random(shape) < 0.02] = np.nan
    return image, good


@pytest.mark.parametrize("fwhm", [0.5, 1.0, 3.0, 5.0, 20.0])
def test_the_kernel_is_the_one_of_scipy(fwhm):
    sigma = fwhm / 2.354820045
    spike = np.zeros(401)
    spike[200] = 1
    expected = ndimage.gaussian_filter1d(spike, sigma, truncate=4.0)
    r = hp.radius(fwhm)
    assert np.flatnonzero(expected).min() == 200 - r
    np.testing.assert_allclose(hp.kernel1d(fwhm), expected[200 - r : 201 + r], rtol=1e-6)


@pytest.mark.parametrize("fwhm", PAIRS)
@pytest.mark.parametrize("shape", [(300, 211), (513, 64), (1, 70), (70, 1), (3, 3), (257, 48)])
def test_matches_scipy_in_float64(shape, fwhm):
    image, good = sky(shape, level=100.0)
    expected = oracle(image, good, fwhm)
    got = hp.highpass(image, good, fwhm)
    assert got.dtype == np.float32
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    assert np.nanmax(np.abs(got - expected), initial=0) < 1e-3  # of the background's sigma


def test_a_flat_sky_stays_flat_up_to_masks_and_borders():
    _, good = sky((90, 130))
    got = hp.highpass(np.full((90, 130), 7, np.float32), good)
    assert np.nanmax(np.abs(got)) < 1e-5


def test_what_is_masked_does_not_leak():
    image, good = sky((80, 80))
    wild = np.where(good, image, np.where(np.arange(80) % 2, np.inf, 1e30)).astype(np.float32)
    assert np.array_equal(hp.highpass(image, good), hp.highpass(wild, good), equal_nan=True)


def test_nothing_good_gives_nan_and_an_empty_array_is_fine():
    assert np.isnan(hp.highpass(np.ones((20, 30)), np.zeros((20, 30), bool))).all()
    assert hp.highpass(np.ones((0, 30))).shape == (0, 30)
    assert hp.highpass(np.ones((30, 0))).shape == (30, 0)


def test_big_endian_and_strided_input():
    image, good = sky((64, 90))
    expected = hp.highpass(image, good)
    assert np.array_equal(hp.highpass(image.astype(">f4"), good), expected, equal_nan=True)
    wide = np.repeat(image, 2, axis=1)[:, ::2]
    assert np.array_equal(hp.highpass(wide, good), expected, equal_nan=True)


def test_halo_adds_up():
    assert hp.radius(5.0) == 8
    assert hp.radius(3.0) == 5
    assert hp.halo((0.5, 5.0)) == 8
    assert hp.halo((0.5, 5.0), (1.0, 3.0)) == 13


WHOLE, GOOD = sky((700, 900), seed=3, level=10.0)
WHOLE_FILTERED = {pair: hp.highpass(WHOLE, GOOD, pair) for pair in PAIRS}


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 699), st.integers(0, 899), st.integers(1, 700), st.integers(1, 900),
    st.sampled_from(PAIRS), st.integers(0, 3),
)  # fmt: skip
def test_every_window_gives_the_bits_of_the_whole(y0, x0, height, width, pair, extra):
    y1, x1 = min(700, y0 + height), min(900, x0 + width)
    r = hp.halo(pair) + extra
    wy, wx = max(0, y0 - r), max(0, x0 - r)
    window = np.s_[wy : min(700, y1 + r), wx : min(900, x1 + r)]
    got = hp.highpass(WHOLE[window], GOOD[window], pair)[y0 - wy : y1 - wy, x0 - wx : x1 - wx]
    assert got.tobytes() == WHOLE_FILTERED[pair][y0:y1, x0:x1].tobytes()


def test_every_narrow_window_gives_the_bits_of_the_whole():
    """All widths and offsets about the vector lanes, which random windows rarely hit."""
    for pair in PAIRS:
        r = hp.halo(pair)
        for x0 in range(r, r + 34):
            for width in (1, 2, 15, 16, 17, 47, 48, 49, 64):
                window = np.s_[100 - r : 103 + r, x0 - r : x0 + width + r]
                got = hp.highpass(WHOLE[window], GOOD[window], pair)[r : r + 3, r : r + width]
                want = WHOLE_FILTERED[pair][100:103, x0 : x0 + width]
                assert got.tobytes() == want.tobytes()


def test_the_bits_do_not_depend_on_threads():
    before = cv2.getNumThreads()
    try:
        for n in (1, 2, 5):
            cv2.setNumThreads(n)
            for pair in PAIRS:
                got = hp.highpass(WHOLE, GOOD, pair)
                assert got.tobytes() == WHOLE_FILTERED[pair].tobytes()
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("r", [0, 1, 2, 2.9, 5, 12, 24, 25, 37])
@pytest.mark.parametrize("shape", [(60, 83), (1, 50), (50, 2)])
def test_dilation_is_that_of_scipy(r, shape):
    mask = np.random.default_rng(1).random(shape) < 0.02
    n = int(r)
    y, x = np.mgrid[-n : n + 1, -n : n + 1]
    expected = ndimage.binary_dilation(mask, y * y + x * x <= r * r)
    assert np.array_equal(hp.dilate(mask, r), expected)
    assert not hp.dilate(np.zeros(shape, bool), r).any()
