"""Points far from a field against the plain sum."""

import numpy as np
import pytest

from gcdask.kernels import distant

SCALE = 0.03
BOX = (100.0, 400.0, 50.0, 250.0)
YS, XS = np.arange(100.0, 401), np.arange(50.0, 251)


def direct(x, y, w, alpha, softening):
    out = np.zeros((YS.size, XS.size))
    for a, b, c in zip(x, y, w, strict=True):
        out += c * (softening + np.hypot(YS[:, None] - b, XS - a) * SCALE) ** -alpha
    return out


def summed(x, y, w, alpha, softening, ys=YS, xs=XS):
    nearest = softening + distant.gap(x, y, BOX) * SCALE
    unit = 2.0**-62 * np.abs(w).sum() * nearest**-alpha
    sums = distant.node_sums(x, y, w, BOX, alpha, softening, SCALE, unit)
    coeffs = distant.coefficients(sums, unit)
    out = np.zeros((ys.size, xs.size))
    distant.add(out, coeffs, ys, xs, BOX)
    return out


@pytest.mark.parametrize(("alpha", "bar"), [(1.4, 1e-7), (1.6, 1e-7), (1.8, 1e-7), (3.0, 5e-7)])
@pytest.mark.parametrize("softening", [0.05, 0.9, 20.0])
@pytest.mark.parametrize(
    "place", [(551, 250), (551, 100), (551, 701), (150, 701), (-251, 333), (0, -1e4), (1e6, 1e6)]
)
def test_a_single_point_beyond_the_frame_is_exact_to_a_millionth(alpha, bar, softening, place):
    x, y, w = (np.array([v], float) for v in (*place, 2))
    assert distant.outlying(x, y, BOX).all()
    error = summed(x, y, w, alpha, softening) / direct(x, y, w, alpha, softening) - 1
    assert np.abs(error).max() < bar


def test_the_frame_is_as_wide_as_the_field_is_long():
    x = np.array([-250, -250.5, 550, 550.5, 150, 150, 150, 150, 150])
    y = np.array([250, 250, 250, 250, -200, -200.5, 700, 700.5, 250])
    expected = [False, True, False, True, False, True, False, True, False]
    assert distant.outlying(x, y, BOX).tolist() == expected


def test_the_gap_is_the_distance_of_the_nearest_point_from_the_field():
    x, y = np.array([0.0, 260.0, 900.0]), np.array([440.0, 200.0, 250.0])
    assert distant.gap(x[:1], y[:1], BOX) == pytest.approx(np.hypot(50, 40))
    assert distant.gap(x, y, BOX) == 10
    assert distant.gap(np.array([150.0]), np.array([150.0]), BOX) == 0
    assert distant.gap(x[:0], y[:0], BOX) == np.inf


def test_sums_over_shares_add_exactly():
    rng = np.random.default_rng(2)
    x, y, w = rng.uniform(600, 5000, 60), rng.uniform(-9000, 9000, 60), rng.normal(size=60)
    kernel = BOX, 1.6, 0.9, SCALE, 1e-15
    whole = distant.node_sums(x, y, w, *kernel)
    order = rng.permutation(60)
    parts = [distant.node_sums(x[k], y[k], w[k], *kernel) for k in (order[:7], order[7:])]
    np.testing.assert_array_equal(parts[0] + parts[1], whole)


def test_weights_of_both_signs_add():
    rng = np.random.default_rng(0)
    x, y, w = rng.uniform(600, 5000, 200), rng.uniform(-9000, 9000, 200), rng.normal(size=200)
    expected = direct(x, y, w, 1.6, 0.9)
    error = np.abs(summed(x, y, w, 1.6, 0.9) - expected).max()
    assert error < 1e-7 * direct(x, y, np.abs(w), 1.6, 0.9).max()


@pytest.mark.parametrize("size", [1, 7, 64, 130])
def test_every_block_has_the_bits_of_the_whole(size):
    rng = np.random.default_rng(1)
    x, y, w = rng.uniform(600, 5000, 50), rng.uniform(-9000, 9000, 50), np.ones(50)
    whole = summed(x, y, w, 1.6, 0.9)
    for a in range(0, YS.size, 64):
        for b in range(0, XS.size, size):
            part = summed(x, y, w, 1.6, 0.9, YS[a : a + 64], XS[b : b + size])
            np.testing.assert_array_equal(part, whole[a : a + 64, b : b + size])


def test_a_field_of_one_pixel():
    x, y, w = np.array([9.0]), np.array([4.0]), np.ones(1)
    box = (3.0, 3.0, 4.0, 4.0)
    assert distant.outlying(x, y, box).all()
    out = np.zeros((1, 1))
    sums = distant.node_sums(x, y, w, box, 1.6, 0.9, SCALE, 1e-12)
    coeffs = distant.coefficients(sums, 1e-12)
    distant.add(out, coeffs, np.array([3.0]), np.array([4.0]), box)
    assert out[0, 0] == pytest.approx((0.9 + np.hypot(5, 1) * SCALE) ** -1.6, rel=1e-7)
