"""Quintic splines: they go through their values, add exactly, and know no blocks."""

import numpy as np
import pytest

from gcdask.kernels import bsplines

T = bsplines.TAPS


def spline_of(function, ny, nx, cell=2.0, origin=(0.0, 0.0)):
    """Coefficients of the spline through a function at nodes -T - 4 .. n + T + 4."""
    rows, columns = (np.arange(-T - 4, n + T + 4) for n in (ny, nx))
    values = function(origin[0] + cell * rows[:, None], origin[1] + cell * columns[None, :])
    return bsplines.coefficients(np.broadcast_to(values, (rows.size, columns.size)).copy())


def values_at(coeffs, ys, xs, cell=2.0, origin=(0.0, 0.0), corner=(-4, -4)):
    out = np.zeros((ys.size, xs.size))
    bsplines.add_values(out, coeffs, ys, xs, origin, cell, corner)
    return out


@pytest.mark.parametrize("power", range(6))
def test_polynomials_up_to_the_fifth_degree_are_their_own_splines(power):
    def function(y, x):
        return (y / 30 - 0.4) ** power + (x / 50 - 0.7) ** power

    ys, xs = np.linspace(0, 40, 57), np.linspace(3, 80, 91)
    found = values_at(spline_of(function, 22, 42), ys, xs)
    np.testing.assert_allclose(found, function(ys[:, None], xs), atol=2e-7)


def test_a_spline_goes_through_its_values():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30 + 2 * T, 24 + 2 * T))
    coeffs = bsplines.coefficients(values)
    assert coeffs.shape == (30, 24)
    ys, xs = np.arange(2.0, 26), np.arange(2.0, 20)
    found = values_at(coeffs, ys, xs, cell=1.0, corner=(0, 0))
    np.testing.assert_allclose(found, values[T + 2 : T + 26, T + 2 : T + 20], atol=1e-6)


def test_values_are_the_same_in_bits_for_every_block_of_nodes_and_places():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(90, 80))  # of nodes -T .. 90 - T
    origin, cell = (100.25, -7.5), 2.9
    ys, xs = np.arange(115.0, 190), np.arange(5.0, 60)
    whole = values_at(bsplines.coefficients(values), ys, xs, cell, origin, corner=(0, 0))
    for a, b, c, d in ((0, 75, 0, 55), (0, 7, 30, 55), (33, 34, 5, 6), (40, 75, 0, 3)):
        spans = []
        for places, o in ((ys[a:b], origin[0]), (xs[c:d], origin[1])):
            lo, hi = (int((places[k] - o) // cell) for k in (0, -1))
            spans.append((lo - bsplines.BEHIND, hi + bsplines.AHEAD + 1))
        (i0, i1), (j0, j1) = spans
        part = bsplines.coefficients(values[i0 : i1 + 2 * T, j0 : j1 + 2 * T])
        found = values_at(part, ys[a:b], xs[c:d], cell, origin, corner=(i0, j0))
        np.testing.assert_array_equal(found, whole[a:b, c:d])


def test_a_point_is_shared_out_by_the_splines_weights():
    unit = 2.0**-40
    out = np.zeros((9, 9), np.int64)
    place = np.array([33.2]), np.array([52.1]), np.array([1 / unit])
    bsplines.assign(out, *place, (10.0, 0.0), 10.0, (1, 0))
    # what the spline with one coefficient of 1 has at the point, node by node
    for i, j in np.ndindex(9, 9):
        one = np.zeros((9, 9))
        one[i, j] = 1
        value = values_at(one, place[1], place[0], 10.0, (10.0, 0.0), (1, 0)).item()
        assert out[i, j] * unit == pytest.approx(value, abs=unit)
    assert out.sum() * unit == pytest.approx(1, abs=36 * unit)
