"""Windowed sums against the plain formula."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdask.kernels import nearby


def direct(x, y, w, ys, xs, kernel, radius, hole=None):
    """The sum, and that of W without a window but for the radius: what errors are relative to."""
    alpha, softening, factor = kernel
    out, scale = np.zeros((2, ys.size, xs.size))
    for a, b, c in zip(x, y, w, strict=True):
        d = np.hypot(ys[:, None] - b, xs - a)
        window = 1 - nearby.rise(d / radius)
        if hole is not None:
            window -= 1 - nearby.rise(d / hole)
        value = c * factor * (softening + d) ** -alpha
        out += value * window
        scale += value * (d < radius)
    return out, scale


def found(x, y, w, ys, xs, kernel, radius, hole=None):
    out = np.zeros((ys.size, xs.size))
    nearby.add_sums(out, x, y, w, ys, xs, kernel=kernel, radius=radius, hole=hole)
    return out


def points(n, size, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-size / 4, 1.25 * size, (2, n))
    return x, np.sort(y), rng.uniform(0.5, 2, n)


@pytest.mark.parametrize("alpha", [0.5, 1.6, 4.0])
@pytest.mark.parametrize("ratio", [1e-7, 0.3, 1.0, 5.0, 30.0, 150.0, 1000.0])
def test_single_points_are_right_to_a_millionth_of_the_kernel(alpha, ratio):
    # from nearly constant to a sharp peak within the window
    radius, places = 40.0, np.arange(100.0)
    kernel = alpha, radius / ratio, 3.7
    for x, y in ((50.0, 50.0), (20.3, 61.7)):
        point = np.array([x]), np.array([y]), np.array([2.0])
        expected, scale = direct(*point, places, places, kernel, radius)
        error = np.abs(found(*point, places, places, kernel, radius) - expected)
        assert (error <= 1.1 * nearby.ERROR * scale + 1e-50).all()


@settings(max_examples=40, deadline=None)
@given(
    step=st.sampled_from([1.0, 2.5, 7.0, 40.0]),
    radius=st.floats(1, 90),
    hole=st.none() | st.floats(0.1, 0.9),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_sums_on_any_lattice(step, radius, hole, shape):
    x, y, w = points(40, 80)
    ys, xs = (5.5 + step * np.arange(n) for n in shape)
    kernel, inner = (1.6, 9.0, 1.0), None if hole is None else hole * radius
    expected, _ = direct(x, y, w, ys, xs, kernel, radius, inner)
    value = found(x, y, w, ys, xs, kernel, radius, inner)
    np.testing.assert_allclose(value, expected, atol=2e-6 * 9**-1.6 * 40)


@pytest.mark.parametrize("hole", [None, 11.0])
def test_every_block_has_the_bits_of_the_whole(hole):
    x, y, w = points(200, 120)
    places, options = np.arange(120.0), ((1.6, 30.0, 1.0), 33.3, hole)
    whole = found(x, y, w, places, places, *options)
    for a, b, c, d in ((0, 120, 0, 7), (3, 4, 5, 6), (17, 90, 33, 120), (100, 120, 0, 120)):
        block = found(x, y, w, places[a:b], places[c:d], *options)
        np.testing.assert_array_equal(block, whole[a:b, c:d])


def test_sums_are_added_to_what_is_there():
    x, y, w = points(20, 50)
    places = np.arange(50.0)
    out = np.full((50, 50), 7.0)
    options = {"kernel": (1.6, 9.0, 1.0), "radius": 8.0}
    nearby.add_sums(out, x, y, w, places, places, **options)
    nearest = np.hypot(places[:, None, None] - y, places[None, :, None] - x).min(axis=2)
    assert (out[nearest > 8] == 7).all()
    assert (out[nearest < 7] > 7).all()
    nearby.add_sums(out[:0], x, y, w, places[:0], places, **options)


def test_the_rise_is_smooth_and_symmetric():
    t = np.linspace(-0.5, 1.5, 2001)
    rise = nearby.rise(t)
    assert (rise[t <= 0] == 0).all()
    np.testing.assert_allclose(rise[t >= 1], 1, atol=1e-12)
    np.testing.assert_allclose(rise + rise[::-1], 1, atol=1e-12)
    assert (np.diff(rise) > -1e-11).all()
    # t**7 at both ends: six derivatives vanish
    for small in (1e-2, 1e-3):
        assert nearby.rise(np.array([small])) == pytest.approx(1716 * small**7, rel=6 * small)
