"""Bootstrap replicates: Poisson weights that belong to the source, and the maps they give."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from conftest import no_compute
from scipy import stats

from gcdask import catalog as cat
from gcdask.density import bootstrap_maps, density_map, replicates
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import nearby

GRID = Grid.tangent((342.18, -44.53), (60, 70), 0.4, angle=30)


def sources(n=300, seed=0, beyond=0.2):
    rng = np.random.default_rng(seed)
    y, x = (rng.uniform(-beyond * s, (1 + beyond) * s, n) for s in GRID.shape)
    return cat.make_catalog(x, y, GRID)


def weights_of(table, n=5, seed=0):
    keyed = replicates.with_keys(table).compute()
    return replicates.weights(keyed[replicates.KEY].to_numpy(), seed, range(n))


def test_weights_are_poisson_of_mean_one_and_independent():
    w = weights_of(sources(20_000), 6)
    observed = np.array([(w == k).sum() for k in range(6)])
    expected = stats.poisson.pmf(np.arange(6), 1) * w.size
    assert (
        stats.chisquare(
            [*observed, w.size - observed.sum()], [*expected, w.size - expected.sum()]
        ).pvalue
        > 1e-3
    )
    assert np.abs(np.corrcoef(w) - np.eye(6)).max() < 0.03
    other = weights_of(sources(20_000), 1, seed=1)
    assert abs(np.corrcoef(w[0], other[0])[0, 1]) < 0.03
    assert w.max() < replicates.MOST


def test_weights_belong_to_the_source_not_to_its_place_in_the_table():
    table = sources(200)
    shuffled = table.sample(frac=1, random_state=3)
    w = pd.DataFrame(weights_of(shuffled).T, index=shuffled["x"])
    np.testing.assert_array_equal(w.loc[table["x"]].to_numpy().T, weights_of(table))
    np.testing.assert_array_equal(
        weights_of(dd.from_pandas(table, npartitions=7)), weights_of(table)
    )


def test_two_sources_of_one_pixel_have_weights_of_their_own():
    rng = np.random.default_rng(0)
    table = cat.make_catalog(*(5 + rng.uniform(-0.5, 0.5, (2, 400))), GRID)
    assert table["id"].nunique() == 1
    w = weights_of(table, 40)
    assert w.mean() == pytest.approx(1, abs=0.05)
    assert w.sum(1).var() / 400 == pytest.approx(1, rel=0.7)  # not one weight for all: that is 400
    nameless = weights_of(sources(400)[["ra", "dec"]], 40)
    assert nameless.sum(1).var() / 400 == pytest.approx(1, rel=0.7)


@pytest.mark.parametrize("chunks", [(60, 70), (17, 70), (25, 31)])
@pytest.mark.parametrize("npartitions", [1, 4])
def test_each_map_is_the_density_of_the_weighted_sources(chunks, npartitions):
    table = pd.concat([sources(), sources(5, 1, beyond=20)])  # some far outside
    like = GRID.wrap(da.zeros(GRID.shape, chunks=chunks), "map", "")
    with no_compute():
        maps = bootstrap_maps(dd.from_pandas(table, npartitions=npartitions), like, 30, seed=4)
    assert maps.chunks[0] == (25, 5)
    assert maps.chunks[1:] == like.chunks
    got = maps.compute()
    assert (got.dtype, got.attrs["units"]) == (float, "arcsec(-1.6)")
    for k, w in zip((0, 11, 29), weights_of(table, 30, seed=4)[[0, 11, 29]], strict=True):
        one = density_map(table.assign(w=w), GRID, weights="w")
        np.testing.assert_allclose(got[k], one, rtol=1e-4)
    whole = bootstrap_maps(table, GRID, 30, seed=4)
    np.testing.assert_allclose(got, whole, rtol=1e-6)


def test_the_near_sums_of_many_weights_are_those_of_each():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 50, 200), np.sort(rng.uniform(0, 40, 200))
    w = rng.poisson(1.0, (4, 200)).astype(float)
    ys, xs = np.arange(40.0), np.arange(0, 50.0, 2)
    options = {"kernel": (1.6, 2.0, 0.7), "radius": 9.0}
    many = np.zeros((4, 40, 25))
    nearby.add_sums_of_many(many, x, y, w, ys, xs, **options)
    for got, each in zip(many, w, strict=True):
        one = np.zeros((40, 25))
        nearby.add_sums(one, x, y, each, ys, xs, **options)
        np.testing.assert_allclose(got, one, rtol=1e-12, atol=1e-14)


def test_no_source_gives_maps_of_zero_and_bad_numbers_are_refused():
    assert not bootstrap_maps(sources(0), GRID, 3).values.any()
    with pytest.raises(InputError, match="n = 0"):
        bootstrap_maps(sources(), GRID, 0)
    with pytest.raises(InputError, match="seed"):
        bootstrap_maps(sources(), GRID, 3, seed=0.5)
    with pytest.raises(InputError, match="alpha"):
        bootstrap_maps(sources(), GRID, 3, alpha=0)
