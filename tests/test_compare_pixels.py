"""beta rho over kappa in bins of kappa, and beta on coarser pixels, against plain NumPy."""

import dask.array as da
import numpy as np
import pytest
from conftest import no_compute
from test_compare import CENTER, CHUNKS, grid_of, lazy, lensed

from gcdask import compare
from gcdask.errors import InputError
from gcdask.kernels import sums


# -- pixel by pixel -----------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", CHUNKS)
def test_the_ratio_in_bins_of_kappa_is_that_of_the_pixels(chunks):
    grid = grid_of()
    kappa, rho = lensed(grid)
    edges = np.geomspace(0.1, 1.6, 7)
    with no_compute():
        k, r = lazy(grid, kappa, chunks), lazy(grid, rho, (20, 30))
        beta = compare.fit_beta(k, r, CENTER, radius=9.13).beta
        got = compare.pixel_relation(k, r, beta, CENTER, edges=edges, radius=9.13)
    got, beta = got.compute(), beta.compute().item()
    near = np.hypot(*grid.offsets(*grid.mesh(), CENTER)) < 9.13
    ok = near & np.isfinite(kappa) & np.isfinite(rho) & (rho > 0)
    ratio = np.log10(beta * rho[ok] / kappa[ok])
    which = np.digitize(kappa[ok], edges) - 1
    assert got.n_dropped.item() == near.sum() - ((which >= 0) & (which < 6)).sum()
    for i in range(6):
        values = ratio[which == i]
        assert got.n_pixels[i].item() == values.size
        if not values.size:
            assert np.isnan(got["median"][i])
            continue
        logs = np.log10(kappa[ok][which == i])
        assert got.kappa_mean[i].item() == pytest.approx(10 ** logs.mean())
        assert got["mean"][i].item() == pytest.approx(values.mean(), abs=1e-12)
        assert got["std"][i].item() == pytest.approx(values.std(ddof=1), rel=1e-9)
        for name, q in (("low", 0.16), ("median", 0.5), ("high", 0.84)):
            plain = np.quantile(values, q, method="inverted_cdf")
            assert got[name][i].item() == pytest.approx(plain, abs=0.0013)


def test_a_flatter_rho_falls_below_kappa_where_kappa_is_high():
    grid = grid_of()
    kappa = np.abs(lensed(grid)[0])
    k, r = grid.wrap(kappa, "kappa", ""), grid.wrap(kappa**0.8, "rho", "")
    got = compare.pixel_relation(k, r, 1.0).dropna("bin", subset=["median"])
    np.testing.assert_allclose(got["median"], -0.2 * np.log10(got.kappa), atol=0.012)
    assert (got.high >= got["median"]).all()
    with pytest.raises(InputError, match="do not increase"):
        compare.pixel_relation(k, r, edges=[1, 0.5])


def test_the_quantile_of_a_histogram_lies_in_the_bin_of_the_quantile():
    values = np.random.default_rng(0).lognormal(size=1001)
    code, count = np.unique(5 << 32 | sums.log_bins(values), return_counts=True)
    got = sums.bin_quantile({"code": code, "count": count}, 5, 0.5)
    assert got == pytest.approx(np.median(values), rel=0.004)


# -- resolution ---------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", CHUNKS)
def test_beta_on_coarser_pixels_is_the_ratio_of_the_means_of_blocks(chunks):
    grid = grid_of()
    kappa, rho = lensed(grid)
    mask = np.random.default_rng(1).random(grid.shape) < 0.15
    with no_compute():
        got = compare.beta_by_resolution(
            lazy(grid, kappa, chunks), lazy(grid, rho, (20, 30)), (1, 3, 8), CENTER,
            lazy(grid, ~mask, (25, 9)),
        )  # fmt: skip
    got = got.compute()
    np.testing.assert_allclose(got.pixel, [0.4, 1.2, 3.2])
    good = ~mask & np.isfinite(kappa) & np.isfinite(rho)
    for k, f in enumerate((1, 3, 8)):
        top = bottom = 0.0
        n_used = 0
        for i in range(0, 61, f):
            for j in range(0, 70, f):
                cell = (slice(i, i + f), slice(j, j + f))
                n = good[cell].sum()
                if n >= f * f / 2:
                    a, b = (v[cell][good[cell]].mean() for v in (kappa, rho))
                    top, bottom, n_used = top + a * b, bottom + b * b, n_used + 1
        assert got.beta[k].item() == pytest.approx(top / bottom, rel=1e-9)
        assert got.n_pixels[k].item() == n_used
    assert got.sector_beta.dims == ("factor", "sector")
    assert got.beta.attrs["units"] == ""


def test_smooth_maps_give_one_beta_at_every_resolution():
    grid = grid_of((64, 64))
    x, y = grid.mesh()
    kappa = 1 / (1 + np.hypot(*grid.offsets(x, y, CENTER)) / 20)
    k = grid.wrap(da.from_array(kappa, chunks=16), "kappa", "")
    got = compare.beta_by_resolution(k, (k / 3).assign_attrs(k.attrs), (1, 2, 4))
    np.testing.assert_allclose(got.beta, 3, rtol=1e-12)
    with pytest.raises(InputError, match="factors"):
        compare.beta_by_resolution(k, k, (1, 2.5))
