"""Annuli of pixels and their sums against plain NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdask.kernels import rings
from gcdask.kernels.lattice import Lattice
from gcdask.profiles.annuli import ring_of

PIXELS = np.arange(-20.0, 25)


def plane(ny, nx):
    """A lattice with nodes at every pixel: offsets are the pixels' own."""
    north, east = np.meshgrid(PIXELS[:ny], PIXELS[:nx], indexing="ij")
    rows, columns = (np.minimum(np.arange(n), n - 2) for n in (ny, nx))
    last = [(np.arange(n) == n - 1).astype(float) for n in (ny, nx)]
    return Lattice(east, north, rows, last[0], columns, last[1]), east, north


@settings(deadline=None)
@given(
    edges=st.lists(st.integers(0, 30), min_size=2, max_size=8, unique=True).map(sorted),
    sector=st.none() | st.tuples(st.floats(-400, 400), st.floats(1, 180)),
    shape=st.tuples(st.integers(2, 45), st.integers(2, 45)),
)
def test_annuli_of_pixels_are_those_of_sources_there(edges, sector, shape):
    lattice, east, north = plane(*shape)
    got = rings.rings(lattice, np.array(edges, float), sector)
    expected = ring_of(east, north, np.array(edges, float), sector)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_sums_are_those_of_good_finite_pixels(dtype):
    rng = np.random.default_rng(0)
    ring = rng.integers(0, 5, (40, 30)).astype(np.int16)  # 4: in none
    good, values = rng.random((40, 30)) < 0.7, rng.normal(1e3, 1, (40, 30)).astype(dtype)
    if dtype != "int16":
        values[::7] = np.nan
    np.testing.assert_array_equal(
        rings.count(ring, good, 4), [(good & (ring == k)).sum() for k in range(4)]
    )
    got = rings.moments(ring, good, values, 4)
    for k in range(4):
        some = values[good & (ring == k) & np.isfinite(values)].astype(float)
        assert got["n"][k] == some.size
        assert got["mean"][k] == pytest.approx(some.mean(), rel=1e-13)
        assert got["m2"][k] == pytest.approx(((some - some.mean()) ** 2).sum(), rel=1e-9)


def test_an_empty_annulus_has_no_mean_deviation():
    got = rings.moments(np.zeros((3, 3), np.int16), np.zeros((3, 3), bool), np.ones((3, 3)), 2)
    assert {name: v.tolist() for name, v in got.items()} == {k: [0, 0] for k in ("n", "mean", "m2")}
