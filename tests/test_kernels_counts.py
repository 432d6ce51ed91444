"""The random streams: published vectors, independence of blocks, distributions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gcdask.kernels import counts

ONES = 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((0,) * 6, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 6, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_philox_gives_the_published_vectors_of_random123(words, expected):
    assert tuple(int(v) for v in counts.philox(*(np.uint64(w) for w in words))) == expected


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(-(2**70), 2**70),
    stream=st.integers(0, 2**32 - 1),
    y0=st.integers(-(2**30), 2**30),
    x0=st.integers(-(2**30), 2**30),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_blocks_hold_the_values_of_their_pixels(seed, stream, y0, x0, shape):
    y = y0 + np.arange(shape[0])[:, None]
    x = x0 + np.arange(shape[1])
    lam = np.linspace(0, 25, y.size * x.size).reshape(shape)
    normal = counts.normal_block(seed, stream, y0, x0, shape)
    number = counts.poisson_block(lam, seed, stream, y0, x0)
    assert (normal.dtype, number.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(normal, counts.normal(seed, y, x, stream).astype(np.float32))
    np.testing.assert_array_equal(number, counts.poisson(lam, seed, y, x, stream))


@pytest.mark.parametrize("cut", [(0, 0), (1, 1), (3, 8), (17, 5)])
def test_any_part_of_a_block_is_the_same_block(cut):
    whole = counts.normal_block(3, 1, -5, -7, (40, 30))
    np.testing.assert_array_equal(
        whole[cut[0] :, cut[1] :],
        counts.normal_block(3, 1, -5 + cut[0], -7 + cut[1], (40 - cut[0], 30 - cut[1])),
    )


def test_uniform_numbers_are_uniform_and_inside_the_open_interval():
    u = counts.uniform(1, *np.mgrid[100:1100, 200:1200]).ravel()
    assert u.min() > 0
    assert u.max() < 1
    assert stats.kstest(u[::10], "uniform").pvalue > 1e-3
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / u.size)


def test_normal_numbers_are_normal():
    n = counts.normal_block(5, 9, -50, 3, (1000, 1000)).ravel()
    assert stats.kstest(n[::10], "norm").pvalue > 1e-3
    assert abs(n.var() - 1) < 4 * np.sqrt(2 / n.size)
    assert abs(stats.kurtosis(n)) < 4 * np.sqrt(24 / n.size)


@pytest.mark.parametrize("lam", [1e-3, 0.3, 4.0, 9.99, 10.0, 37.5, 2000.0])
def test_poisson_counts_follow_the_poisson_distribution(lam):
    size = 400_000
    k = counts.poisson(lam, 11, np.arange(size), 4, stream=2)
    low, high = stats.poisson.ppf([1e-4, 1 - 1e-4], lam).astype(int)
    edges = np.unique(np.linspace(low, high, 40).astype(int))
    cdf = np.concatenate([[0], stats.poisson.cdf(edges, lam), [1]])
    expected = size * np.diff(cdf)
    found = np.histogram(k, np.concatenate([[-1], edges, [10**9]]) + 0.5)[0]
    use = expected > 10
    chi2 = ((found - expected)[use] ** 2 / expected[use]).sum()
    assert stats.chi2.sf(chi2, use.sum()) > 1e-3
    assert abs(k.mean() - lam) < 4 * np.sqrt(lam / size)


def test_poisson_counts_of_odd_means():
    lam = np.array([0.0, -1.0, np.nan, np.inf, 1e10])
    assert counts.poisson(lam, 0, 1, 2).tolist() == [0, 0, 0, 2_000_000_000, 2_000_000_000]
    big = counts.poisson(1e8, 0, np.arange(1000), 0)
    assert abs(big.mean() - 1e8) < 4 * np.sqrt(1e8 / 1000)


def test_streams_seeds_words_and_kinds_are_uncorrelated():
    shape = (300, 300)
    y, x = np.mgrid[:300, :300]
    rows = [
        counts.uniform(0, y, x),
        counts.uniform(1, y, x),
        counts.uniform(2**32, y, x),
        counts.uniform(0, y, x, 1),
        counts.uniform(0, y, x + 1),
        counts.uniform(0, y + 1, x),
        counts.uniform(0, y, x, word=1),
        counts.uniform(0, y, x, word=2),
        counts.uniform(0, x, y).reshape(shape) + 1e-3 * y,
        counts.normal_block(0, 0, 0, 0, shape),
        counts.poisson_block(np.full(shape, 3.0), 0, 0, 0, 0),
    ]
    corr = np.corrcoef([r.ravel() for r in rows]) - np.eye(len(rows))
    assert np.abs(corr).max() < 5 / 300


def test_readonly_and_float32_input_is_accepted():
    lam = np.full((4, 5), 2.5, np.float32)
    lam.flags.writeable = False
    wide = counts.poisson_block(lam.astype(float), 1, 2, 3, 4)
    np.testing.assert_array_equal(counts.poisson_block(lam, 1, 2, 3, 4), wide)
    with pytest.raises(ValueError, match="stream"):
        counts.uniform(0, 1, 1, stream=-1)
