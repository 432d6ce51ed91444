"""Mask-normalised smoothing against the plain ratio of convolutions."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from gcdask.kernels.smoothing import smooth_ratio


def test_where_supported_the_ratio_is_that_of_two_convolutions():
    rng = np.random.default_rng(0)
    good = rng.integers(1, 5, (60, 70)).astype(float)
    n = rng.poisson(0.2 * good)
    plain = gaussian_filter(n.astype(float), 5, mode="constant", truncate=4) / gaussian_filter(
        good, 5, mode="constant", truncate=4
    )
    np.testing.assert_allclose(smooth_ratio(n, good, 5, 4), plain, rtol=1e-5)


@pytest.mark.parametrize("radius", [0, 5, 20, 60])
@pytest.mark.parametrize("shape", [(100, 100), (37, 91)])
def test_a_uniform_field_stays_uniform_over_holes_of_any_size(radius, shape):
    y, x = np.ogrid[: shape[0], : shape[1]]
    good = np.where(np.hypot(y - shape[0] / 2, x - shape[1] / 2) < radius, 0, 4.0)
    ratio = smooth_ratio(0.3 * good, good, 3, 4)
    assert ratio.dtype == np.float32
    np.testing.assert_allclose(ratio, 0.3 if good.any() else 0, rtol=1e-5)


def test_a_field_of_one_cell_and_one_without_good_pixels():
    assert smooth_ratio(np.array([[3.0]]), np.array([[6.0]]), 8, 16).item() == pytest.approx(0.5)
    assert not smooth_ratio(np.zeros((20, 30)), np.zeros((20, 30)), 4, 16).any()
