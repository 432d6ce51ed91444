"""The split sum against the plain one."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdask.kernels import nearfar

SCALE = 0.03
BAR = 1e-4


def direct(x, y, w, px, py, alpha, softening):
    """Every pair, no split: the oracle."""
    d = np.hypot(px[:, None] - x, py[:, None] - y) * SCALE
    return (softening + d) ** -alpha @ w


def split(x, y, w, ys, xs, alpha, softening, **options):
    """The whole chain on one block."""
    x, y, w = nearfar.sort_points(x, y, w)
    bounds = (min(ys[0], y.min()), max(ys[-1], y.max()), min(xs[0], x.min()), max(xs[-1], x.max()))
    plan = nearfar.plan(bounds, alpha, softening, SCALE, **{"n_points": x.size} | options)
    coeffs = nearfar.far_field(nearfar.assign(x, y, w, plan), plan)
    return nearfar.evaluate(coeffs, x, y, w, ys, xs, plan), plan, coeffs


def cluster(n, size, seed=0):
    """Points crowded in the middle, at subpixel places, some beyond the array."""
    rng = np.random.default_rng(seed)
    r, a = 0.7 * size * rng.random(n) ** 1.5, 2 * np.pi * rng.random(n)
    return size / 2 + r * np.cos(a), size / 2 + r * np.sin(a), rng.uniform(0.5, 2, n)


def error_at_all(size, n, alpha, softening, step=1, **options):
    x, y, w = cluster(n, size)
    ys = xs = np.arange(0, size, step) + (step - 1) / 2
    found, plan, _ = split(x, y, w, ys, xs, alpha, softening, step=step, **options)
    px, py = (a.ravel() for a in np.meshgrid(xs, ys))
    expected = direct(x, y, w, px, py, alpha, softening)
    return np.abs(found.ravel() / expected - 1).max(), plan


@pytest.mark.parametrize("alpha", [1.4, 1.6, 1.8, 3.0])
@pytest.mark.parametrize("softening", [0.1, 0.9, 5.0])
def test_every_pixel_agrees_with_the_direct_sum(alpha, softening):
    error, _ = error_at_all(150, 300, alpha, softening)
    assert error < BAR / 4


@pytest.mark.parametrize("r_c", [4.0, 16.0, 50.0, 400.0])
def test_the_near_radius_does_not_matter(r_c):
    error, plan = error_at_all(120, 200, 1.6, 0.9, r_c=r_c)
    assert plan.r_c == r_c
    assert error < BAR / 4


@pytest.mark.parametrize("step", [2, 5, 32])
def test_coarse_grids_are_evaluated_at_the_centres_of_their_cells(step):
    error, _ = error_at_all(600, 500, 1.6, 0.9, step=step)
    assert error < BAR / 4


def test_a_small_budget_of_cells_makes_the_near_radius_larger_but_no_error():
    error, plan = error_at_all(300, 100, 1.6, 0.9, max_cells=50**2)
    assert plan.shape[0] * plan.shape[1] <= 50**2
    assert error < BAR


# -- the middle part -----------------------------------------------------------------------------
def large_field(n, alpha=1.6, softening=0.9, seed=0):
    """Few cells for the field's size: all three parts; the points, the plan, and its far part."""
    x, y, w = nearfar.sort_points(*cluster(n, 1500, seed))
    plan = nearfar.plan(
        (-300, 1800, -300, 1800), alpha, softening, SCALE, n_points=n, weight=2.0, max_cells=80**2
    )
    assert plan.r_c > 5 * plan.r_near
    return x, y, w, plan, nearfar.far_field(nearfar.assign(x, y, w, plan), plan)


@pytest.mark.parametrize(("alpha", "softening"), [(1.6, 0.9), (1.6, 0.1), (3.0, 10.0), (0.5, 0.9)])
@pytest.mark.parametrize("n", [1, 300])
def test_three_parts_agree_with_the_direct_sum(n, alpha, softening):
    x, y, w, plan, coeffs = large_field(n, alpha, softening)
    ys = xs = np.arange(0, 1500, 11.0)
    parts = [nearfar.evaluate(coeffs, x, y, w, ys[k : k + 1], xs, plan) for k in range(ys.size)]
    gx, gy = (a.ravel() for a in np.meshgrid(xs, ys))
    expected = direct(x, y, w, gx, gy, alpha, softening)
    assert np.abs(np.concatenate(parts).ravel() / expected - 1).max() < BAR / (1.5 if n == 1 else 4)


def test_blocks_of_a_large_field_have_the_bits_of_the_whole():
    x, y, w, plan, coeffs = large_field(300)
    ys, xs = np.arange(600.0, 800), np.arange(650.0, 750)
    whole = nearfar.evaluate(coeffs, x, y, w, ys, xs, plan)
    for a, b, c, d in ((0, 200, 0, 1), (7, 8, 0, 100), (0, 64, 30, 77), (100, 200, 99, 100)):
        block = nearfar.evaluate(coeffs, x, y, w, ys[a:b], xs[c:d], plan)
        np.testing.assert_array_equal(block, whole[a:b, c:d])


def test_points_beyond_the_reach_do_not_matter_and_those_within_do():
    x, y, w, plan, coeffs = large_field(3000)
    ys, xs = np.arange(740.0, 760), np.arange(700.0, 730)
    far = nearfar.reach(plan.r_c, plan.r_near)
    whole = nearfar.evaluate(coeffs, x, y, w, ys, xs, plan)
    for distance, same in ((far, True), (plan.r_c - 30, False)):
        k = (np.abs(y - 749.5) <= 9.5 + distance) & (np.abs(x - 714.5) <= 14.5 + distance)
        assert not k.all()
        assert (
            np.array_equal(nearfar.evaluate(coeffs, x[k], y[k], w[k], ys, xs, plan), whole) is same
        )


@settings(max_examples=200, deadline=None)
@given(
    side=st.tuples(st.floats(1, 2e5), st.floats(1, 2e5)),
    more=st.tuples(st.floats(1, 3), st.floats(1, 3)),
    n=st.integers(0, 10**9),
    step=st.sampled_from([1, 4, 32]),
    r_c=st.none() | st.floats(1, 1000),
)
def test_the_reach_is_bounded_by_that_of_a_larger_box_without_points(side, more, n, step, r_c):
    wider = [a * b for a, b in zip(side, more, strict=True)]
    options = {"step": step, "r_c": r_c}
    found = nearfar.reach(*nearfar.radii(*side, n_points=n, **options))
    assert found <= nearfar.reach(*nearfar.radii(*wider, n_points=0, **options))


@settings(max_examples=25, deadline=None)
@given(
    px=st.floats(-300, 400),
    py=st.floats(-300, 400),
    r_c=st.floats(5, 100),
    alpha=st.floats(0.5, 4),
    softening=st.floats(0.05, 10),
)
def test_a_single_point_anywhere_is_within_the_bar(px, py, r_c, alpha, softening):
    # the hardest case: with many points the errors average out
    x, y, w = np.array([px]), np.array([py]), np.array([2.0])
    ys, xs = np.arange(80.0), np.arange(100.0)
    found, _, _ = split(x, y, w, ys, xs, alpha, softening, r_c=r_c)
    gx, gy = (a.ravel() for a in np.meshgrid(xs, ys))
    expected = direct(x, y, w, gx, gy, alpha, softening)
    assert np.abs(found.ravel() / expected - 1).max() < BAR


def test_a_large_field_at_random_pixels_and_at_the_points():
    x, y, w = cluster(5000, 2048, seed=1)
    ys = xs = np.arange(2048.0)
    found, _, _ = split(x, y, w, ys, xs, 1.6, 0.9)
    rng = np.random.default_rng(2)
    i, j = rng.integers(0, 2048, (2, 400))
    i[:4], j[:4] = [0, 0, 2047, 2047], [0, 2047, 0, 2047]
    at = rng.integers(0, x.size, 400)
    i = np.r_[i, np.rint(y[at]).clip(0, 2047).astype(int)]
    j = np.r_[j, np.rint(x[at]).clip(0, 2047).astype(int)]
    expected = direct(x, y, w, j.astype(float), i.astype(float), 1.6, 0.9)
    assert np.abs(found[i, j] / expected - 1).max() < BAR / 10


def test_nothing_comes_around_the_back():
    x, y, w = np.array([3.2]), np.array([250.0]), np.ones(1)
    ys = xs = np.arange(500.0)
    found, _, _ = split(x, y, w, ys, xs, 1.6, 0.9, r_c=40)
    assert np.all(np.diff(found[250, 5:]) < 0)
    assert found[250, 499] == pytest.approx((0.9 + (499 - 3.2) * SCALE) ** -1.6, rel=BAR)


@pytest.mark.parametrize("sizes", [(60, 60), (60, 59, 1), (7,) * 17, (100, 20)])
def test_every_block_has_the_bits_of_the_whole(sizes):
    ys = xs = np.arange(sum(sizes), dtype=float) + 1000
    x, y, w = cluster(400, sum(sizes), seed=4)
    x, y = x + 1000, y + 1000
    whole, plan, coeffs = split(x, y, w, ys, xs, 1.6, 0.9)
    x, y, w = nearfar.sort_points(x, y, w)
    ends = np.cumsum((0, *sizes))
    for a, b in pairwise(ends):
        for c, d in pairwise(ends):
            block = nearfar.evaluate(coeffs, x, y, w, ys[a:b], xs[c:d], plan)
            np.testing.assert_array_equal(block, whole[a:b, c:d])


def test_points_are_put_in_one_order_whatever_theirs_was():
    x, y, w = np.array([1.0, 1.0, 0.5, 1.0]), np.array([2.0, 1.0, 2.0, 2.0]), np.arange(4.0)[::-1]
    expected = ([1.0, 0.5, 1.0, 1.0], [1.0, 2.0, 2.0, 2.0], [2.0, 1.0, 0.0, 3.0])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        found = nearfar.sort_points(x[order], y[order], w[order])
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_assignment_keeps_the_weight_and_is_exact_in_any_shares():
    x, y, w = cluster(50, 100)
    plan = nearfar.plan((-50, 150, -50, 150), 1.6, 0.9, SCALE, n_points=50, weight=2.0)
    whole = nearfar.assign(x, y, w, plan)
    assert whole.counts.sum() * plan.unit == pytest.approx(w.sum(), rel=1e-15)
    order = np.random.default_rng(3).permutation(50)
    for ends in ([0, 50], [0, 20, 50], [0, 1, 1, 7, 49, 50]):
        cuts = (order[a:b] for a, b in pairwise(ends))
        merged = nearfar.merge([nearfar.assign(x[k], y[k], w[k], plan) for k in cuts])
        assert merged.corner == whole.corner
        np.testing.assert_array_equal(merged.counts, whole.counts)


def test_the_default_near_radius_shrinks_with_the_number_of_points():
    few, many = (nearfar.plan((0, 1e4, 0, 1e4), 1.6, 0.9, SCALE, n_points=n) for n in (100, 10**6))
    assert few.r_c > many.r_c >= 16
    assert few.cell == few.r_c / 12
