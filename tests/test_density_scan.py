"""Densities for many kernels at once: those of `density_map`, whatever chunks, parts and groups."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from conftest import no_compute

from gcdask import catalog as cat
from gcdask.density import density_map, density_scan, scan
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import nearby

GRID = Grid.tangent((342.18, -44.53), (60, 70), 0.4, angle=30)
KERNELS = [(1.2, 0.3), (1.6, 0.9), (2.2, 2.5), (1.6, 30.0)]


def sources(n=300, seed=0, beyond=0.2):
    rng = np.random.default_rng(seed)
    y, x = (rng.uniform(-beyond * s, (1 + beyond) * s, n) for s in GRID.shape)
    return cat.make_catalog(x, y, GRID)


@pytest.mark.parametrize("group", [1, 3, 40])
@pytest.mark.parametrize("chunks", [(60, 70), (17, 70), (25, 31)])
def test_each_map_is_the_direct_sum_and_has_the_bits_of_any_chunking(chunks, group, monkeypatch):
    monkeypatch.setattr(scan, "GROUP", group)
    table = pd.concat([sources(), sources(5, 1, beyond=20)])  # some far outside
    like = GRID.wrap(da.zeros(GRID.shape, chunks=chunks), "map", "")
    with no_compute():
        maps = density_scan(dd.from_pandas(table, npartitions=3), like, KERNELS)
    assert maps.chunks[1:] == like.chunks
    assert (maps.dims, maps.attrs["units"]) == (("kernel", "y", "x"), "arcsec(-alpha)")
    np.testing.assert_array_equal(maps.softening, [s for _, s in KERNELS])
    got = maps.compute()
    y, x = np.mgrid[: GRID.shape[0], : GRID.shape[1]]
    d = np.hypot(x[..., None] - table["x"].values, y[..., None] - table["y"].values) * 0.4
    for rho, (alpha, softening) in zip(got.values, KERNELS, strict=True):
        np.testing.assert_allclose(rho, ((softening + d) ** -alpha).sum(-1), rtol=1e-4)
        one = density_map(table, GRID, alpha, softening)
        np.testing.assert_allclose(rho, one, rtol=1e-6)
    np.testing.assert_array_equal(got, density_scan(table, GRID, KERNELS).compute())


@pytest.mark.parametrize(
    "kernels",
    [
        [(1.6, 2.0, 0.7)],
        [(0.5, 0.4, 1.0), (1.6, 0.9, 2.0), (4.0, 90.0, 1.0)],
        [(1.6, 1e-3, 1.0), (1.2, 5.0, 1.0)],  # of a degree that powers would lose digits at
    ],
)
@pytest.mark.parametrize("rows", [slice(0, 40), slice(7, 8)])
def test_the_near_sums_of_many_kernels_are_those_of_each(kernels, rows):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-5, 55, 200), np.sort(rng.uniform(-5, 45, 200))
    w = rng.uniform(0.5, 2, 200)
    ys, xs = np.arange(40.0)[rows], np.arange(0, 50.0, 2)
    many = np.zeros((len(kernels), ys.size, xs.size))
    nearby.add_sums_of_kernels(many, x, y, w, ys, xs, kernels=kernels, radius=9.0)
    for got, kernel in zip(many, kernels, strict=True):
        one = np.zeros((ys.size, xs.size))
        nearby.add_sums(one, x, y, w, ys, xs, kernel=kernel, radius=9.0)
        np.testing.assert_allclose(got, one, rtol=3e-6, atol=1e-12)


def test_no_source_gives_zeros_and_bad_kernels_are_refused():
    assert not density_scan(sources(0), GRID, KERNELS).values.any()
    assert density_scan(sources(), GRID, [(2, 0.9), (2, 1)]).attrs["units"] == "arcsec(-2)"
    for kernels, words in (([], "kernels is empty"), ([(1.6, 0)], "softening = 0"),
                           ([(-1, 1)], "alpha = -1")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            density_scan(sources(), GRID, kernels)
