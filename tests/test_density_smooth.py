"""rho without shot noise: what the density of drawn sources is on average."""

import dask.array as da
import numpy as np
import pytest
from conftest import no_compute

from gcdask.density import density_map, draw_sources, smooth_map
from gcdask.errors import InputError
from gcdask.grid import Grid

GRID = Grid.tangent((342.18, -44.53), (150, 120), 0.2, angle=30)


def intensity(chunks=(150, 120), grid=GRID):
    """A cusp with holes, NaN and negative pixels, per arcsec^2."""
    east, north = grid.offsets(*grid.mesh(), (342.18, -44.53))
    rate = 60 / (1 + np.hypot(east, 1.5 * north))
    rate[40:70, 20:50] = 0
    rate[100, 100], rate[3, 7] = np.nan, -5
    return grid.wrap(da.from_array(rate, chunks=chunks), "rate", "arcsec-2")


@pytest.mark.parametrize(("alpha", "softening"), [(1.6, 0.9), (1.4, 0.5), (2.0, 3.0)])
def test_it_is_the_kernel_convolved_with_the_intensity(alpha, softening):
    rate = intensity()
    got = smooth_map(rate, alpha=alpha, softening=softening)
    weight = np.nan_to_num(rate.values).clip(min=0) * 0.2**2
    x, y = GRID.mesh()
    rows = np.random.default_rng(0).integers(0, [[150], [120]], (2, 60))
    d = np.hypot(x[tuple(rows)][:, None, None] - x, y[tuple(rows)][:, None, None] - y) * 0.2
    plain = (weight * (softening + d) ** -alpha).sum((1, 2))
    np.testing.assert_allclose(got.values[tuple(rows)], plain, rtol=3e-3)
    assert got.attrs["units"] == f"arcsec(-{alpha:g})"
    assert got.dtype == float


def test_it_is_the_mean_density_of_drawn_sources():
    rate = intensity()
    drawn = [density_map(draw_sources(rate, 3, realisation=k), GRID).values for k in range(30)]
    mean, error = np.mean(drawn, 0), np.std(drawn, 0, ddof=1) / np.sqrt(30)
    pull = (mean - smooth_map(rate).values) / error
    assert abs(pull).max() < 4
    assert error.max() < 0.02 * mean.max()


@pytest.mark.parametrize("chunks", [(40, 33), (150, 7), ((1, 149), 120)])
def test_no_chunking_changes_it_and_nothing_is_computed_early(chunks):
    coarse = GRID.coarsen(3)
    with no_compute():
        got = smooth_map(intensity(chunks), coarse)
    assert got.sizes == {"y": 50, "x": 40}
    whole = smooth_map(intensity(), coarse)
    np.testing.assert_allclose(got.values, whole.values, rtol=1e-6)


def test_a_part_of_the_sky_sees_the_intensity_around_it():
    part = GRID.cut(30, 60, 50, 90)
    whole = smooth_map(intensity())
    got = smooth_map(intensity(), part)
    np.testing.assert_allclose(got.values, whole.values[30:60, 50:90], rtol=1e-4)


def test_nothing_gives_zero_and_other_skies_are_refused():
    assert not smooth_map(intensity() * 0).values.any()
    with pytest.raises(InputError, match="different WCSs"):
        smooth_map(intensity(), Grid.tangent((342.2, -44.5), (20, 20), 0.2))
    with pytest.raises(InputError, match="softening = 0"):
        smooth_map(intensity(), softening=0)
