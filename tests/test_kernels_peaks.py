"""The greedy rule against its literal form, and windows against the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gcdask.kernels import peaks


def serial(image, threshold, radius=3):
    """The rule as it is written: take the brightest, blank its disk, repeat."""
    left = np.where(image > threshold, image, -np.inf).astype(float)
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    found = []
    while left.size and np.isfinite(left).any():
        y, x = divmod(int(np.argmax(left)), image.shape[1])  # the first of equals
        found.append((y, x))
        left[(yy - y) ** 2 + (xx - x) ** 2 <= radius * radius] = -np.inf
    return found


def kinds(kind, shape, rng):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return {
        "noise": lambda: rng.normal(size=shape),
        "smooth": lambda: ndimage.gaussian_filter(rng.normal(size=shape), 2) * 5,
        "tied": lambda: rng.integers(-2, 4, shape),
        "constant": lambda: np.ones(shape),
        "ramp x": lambda: 1 + x,
        "ramp y": lambda: 1 + 3 * y[::-1],
        "ramp diagonal": lambda: 1 + x + 1.001 * y,
        "masked": lambda: np.full(shape, np.nan),
        "holes": lambda: np.where(rng.random(shape) < 0.3, np.nan, rng.normal(size=shape)),
    }[kind]().astype(np.float32)


KINDS = ["noise", "smooth", "tied", "constant", "ramp x", "ramp y", "ramp diagonal", "masked",
         "holes"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [1, 2.5, 3, 5])
def test_greedy_is_the_serial_rule(kind, radius):
    rng = np.random.default_rng(5)
    for shape in [(40, 31), (1, 25), (7, 1), (0, 4)]:
        image = kinds(kind, shape, rng)
        y, x, value, undecided = peaks.greedy(image, 0.5, radius)
        assert list(zip(y, x, strict=True)) == serial(image, 0.5, radius)
        assert np.array_equal(value, image[y, x])
        assert not undecided.any()


def test_the_threshold_is_strict_and_the_disk_closed():
    image = np.zeros((9, 9), np.float32)
    image[4, 4], image[4, 7], image[4, 8], image[0, 0] = 9, 8, 7, 5
    y, x, _, _ = peaks.greedy(image, 5.0, 3)
    assert list(zip(y, x, strict=True)) == [(4, 4), (4, 8)]  # 3 px away is blanked, 4 px is not


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(0, 20), st.integers(0, 20),
    st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 2, 3, 4.5]),
)  # fmt: skip
def test_what_a_window_decides_is_what_the_whole_decides(kind, seed, y0, x0, h, w, radius):
    image = kinds(kind, (32, 36), np.random.default_rng(seed))
    truth = set(serial(image, 0.3, radius))
    y1, x1 = min(32, y0 + h), min(36, x0 + w)
    ends = (y0 == 0, y1 == 32, x0 == 0, x1 == 36)
    y, x, _, open_ = peaks.greedy(image[y0:y1, x0:x1], 0.3, radius, ends=ends)
    accepted = {(a + y0, b + x0) for a, b in zip(y[~open_], x[~open_], strict=True)}
    maybe = {(a + y0, b + x0) for a, b in zip(y[open_], x[open_], strict=True)}
    inside = {(a, b) for a, b in truth if y0 <= a < y1 and x0 <= b < x1}
    assert accepted <= inside <= accepted | maybe
    if all(ends):
        assert not maybe


def test_a_wide_enough_halo_leaves_nothing_open_in_noise():
    image = np.random.default_rng(2).normal(size=(400, 400)).astype(np.float32)
    y, x, _, open_ = peaks.greedy(image, 3.0, 3, ends=(False,) * 4)
    core = (y >= 16) & (y < 384) & (x >= 16) & (x < 384)
    assert open_.any()
    assert not (open_ & core).any()


def test_undecided_spreads_along_a_chain_but_an_accepted_neighbour_ends_it():
    ramp = np.arange(30, 0, -1, dtype=np.float32)[None, :]  # brightest at the left
    _, x, _, open_ = peaks.greedy(ramp, 0.5, 3, ends=(True, True, False, True))
    assert open_.all()  # every decision hangs on the one before
    assert x[0] == 0
    assert x.size == 30
    ramp[0, 10] = 99
    _, x, _, open_ = peaks.greedy(ramp, 0.5, 3, ends=(True, True, False, True))
    kept = set(x[~open_])
    assert 10 in kept
    assert not kept & {7, 8, 9, 11, 12, 13}
    assert not set(x[open_]) & set(range(7, 14))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [1, 3, 4.5])
def test_settle_decides_as_the_whole_does(kind, radius):
    """All pixels undecided, or some of the serial peaks given as accepted."""
    rng = np.random.default_rng(8)
    image = kinds(kind, (28, 33), rng)
    truth = serial(image, 0.3, radius)
    y, x = np.nonzero(image > 0.3)
    value = image[y, x]
    shift = np.array([2**33, 7])  # global indices may be large
    for share in (0.0, 0.4):
        known = {p for p in truth if rng.random() < share}
        open_ = np.array([(a, b) not in known for a, b in zip(y, x, strict=True)], bool)
        mixed = rng.permutation(y.size)
        got = np.zeros(y.size, bool)
        got[mixed] = peaks.settle(
            y[mixed] + shift[0], x[mixed] + shift[1], value[mixed], open_[mixed], radius
        )
        assert set(zip(y[got], x[got], strict=True)) == set(truth) - known


def test_nothing_to_settle():
    empty = np.zeros(0)
    assert peaks.settle(empty, empty, empty, empty.astype(bool)).size == 0
    assert not peaks.settle([3, 9], [1, 1], [5.0, 4.0], [False, False]).any()


def test_near_max_is_a_disk_filter_of_the_finite_values():
    rng = np.random.default_rng(3)
    image = np.where(rng.random((50, 40)) < 0.2, np.nan, rng.normal(size=(50, 40)))
    image[20, 20] = np.inf
    image = image.astype(np.float32)
    y, x = np.divmod(np.arange(50 * 40), 40)
    yy, xx = np.mgrid[-15:16, -15:16]
    finite = np.where(np.isfinite(image), image, -np.inf)
    expected = ndimage.maximum_filter(
        finite, footprint=yy**2 + xx**2 <= 225, mode="constant", cval=-np.inf
    )
    assert np.array_equal(peaks.near_max(image, y, x, 15), expected.ravel())
    told = np.where(expected.ravel() > 2.5, expected.ravel(), -np.inf)
    assert 0 < np.isinf(told).sum() < told.size
    assert np.array_equal(peaks.near_max(image, y, x, 15, above=2.5), told)
    alone = np.full((3, 3), np.nan, np.float32)
    assert peaks.near_max(alone, [1], [1])[0] == -np.inf


def test_read_only_and_other_types_are_accepted():
    image = np.random.default_rng(0).normal(size=(30, 30))
    image.flags.writeable = False
    y, x, value, _ = peaks.greedy(image, 1.0)
    assert value.dtype == np.float64
    y.flags.writeable = x.flags.writeable = False
    expected = peaks.near_max(image.astype(np.float32), y, x, 3)
    assert np.array_equal(peaks.near_max(image, y, x, 3), expected)
