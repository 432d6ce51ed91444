"""Errors of beta and the dispersion that tracers of kappa show by themselves."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pytest
from conftest import no_compute
from test_compare import CENTER, grid_of, lazy

from gcdask import compare, density
from gcdask.compare.expected import _summary
from gcdask.density import replicates
from gcdask.errors import InputError
from gcdask.kernels import fits

GRID = grid_of((72, 80), 0.4, angle=25)


def lens(chunks=(72, 80), grid=GRID):
    east, north = grid.offsets(*grid.mesh(), CENTER)
    kappa = 1.2 / np.sqrt(1 + (east**2 + 2 * north**2) / 16)
    return lazy(grid, kappa, chunks, "kappa")


def clusters(n=800, seed=0, contamination=0.0):
    kappa = lens()
    area = GRID.pixel_scale**2
    rate = kappa * (n / (float(kappa.sum()) * area)) + contamination
    rate = GRID.wrap(rate.data, "rate", "arcsec-2")
    return density.draw_sources(rate, seed).compute()


# -- bootstrap ----------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", [(72, 80), (20, 33)])
def test_the_bootstrap_is_beta_of_each_weighted_catalogue(chunks):
    table, kappa = clusters(), lens(chunks)
    mask = np.random.default_rng(1).random(GRID.shape) < 0.1
    where = lazy(GRID, ~mask, (30, 30))
    with no_compute():
        got = compare.bootstrap_beta(
            dd.from_pandas(table, npartitions=3), kappa, 8, 5, CENTER, where, radius=11.1
        )
    assert got.beta_boot_error.attrs["units"] == "arcsec(8/5)"
    got = got.compute()
    keys = replicates.with_keys(table).compute()[replicates.KEY].to_numpy()
    betas, sectors, spread = [], [], []
    for w in replicates.weights(keys, 5, range(8)):
        rho = density.density_map(table.assign(w=w), kappa, weights="w")
        fit = compare.fit_beta(kappa, rho, CENTER, where, radius=11.1).compute()
        betas.append(fit.beta.item())
        sectors.append(fit.sector_beta.values)
        spread.append(fit.dispersion_relative.item())
    np.testing.assert_allclose(got.beta_replicate, betas, rtol=1e-4)
    np.testing.assert_allclose(got.sector_beta_replicate, sectors, rtol=1e-4)
    np.testing.assert_allclose(got.dispersion_relative_replicate, spread, rtol=1e-2)
    assert got.beta_boot_error.item() == pytest.approx(np.std(betas, ddof=1), rel=1e-3)
    np.testing.assert_allclose(got.sector_boot_error, np.std(sectors, 0, ddof=1), rtol=1e-2)
    assert got.status.item() == ""


def test_relative_errors_do_not_depend_on_the_pixel():
    fine = grid_of((288, 320), 0.1, angle=25)
    table, kappa = clusters(), lens((288, 320), fine)
    relative = []
    for pixel in (0.1, 0.4, 0.8):
        got = compare.bootstrap_beta(table, kappa, 25, 0, CENTER, radius=12, pixel=pixel).compute()
        assert got.attrs["pixel"] == pytest.approx(pixel)
        relative.append(got.beta_boot_error.item() / got.beta_replicate.mean().item())
    np.testing.assert_allclose(relative, relative[0], rtol=0.03)
    default = compare.bootstrap_beta(table, kappa, 3, 0, CENTER, radius=12)
    assert default.attrs["pixel"] == pytest.approx(0.4)
    # five pixels of 0.7 arcsec, which cover less than the map: its own middle is meant all the same
    odd = compare.bootstrap_beta(table, kappa, 2, 0, radius=12, pixel=0.7)
    assert odd.attrs["center"] == pytest.approx([float(v) for v in fine.sky(*fine.center)])


def test_the_density_of_contaminants_is_subtracted_from_each_replicate():
    kappa, table = lens(), clusters(contamination=1.0)
    uniform = GRID.wrap(np.ones(GRID.shape), "contamination", "arcsec-2")
    background = density.smooth_map(uniform, kappa)
    got = compare.bootstrap_beta(table, kappa, 40, background=background, radius=11).compute()
    rho = density.density_map(table, kappa)
    plain = compare.fit_beta(kappa, rho - background, radius=11).compute()
    assert got.beta_replicate.mean().item() == pytest.approx(plain.beta.item(), rel=0.03)
    raw = compare.fit_beta(kappa, rho, radius=11).compute()
    assert raw.beta.item() < 0.8 * plain.beta.item()


def test_an_empty_catalogue_has_no_errors_and_says_so():
    got = compare.bootstrap_beta(clusters().iloc[:0], lens().compute(), 5, radius=9)
    assert np.isnan([got.beta_boot_error, got.dispersion_boot_error]).all()
    assert got.attrs["status"].startswith("unconstrained: 0 of 5 replicates")
    with pytest.raises(InputError, match="half_width"):
        compare.bootstrap_beta(clusters(), lens(), half_width=0)


# -- expected dispersion ------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", [(72, 80), (25, 31)])
def test_mocks_are_those_that_one_would_draw_and_fit_by_hand(chunks):
    kappa = lens(chunks)
    with no_compute():
        got = compare.expected_dispersion(
            kappa, 700, CENTER, n_mocks=4, seed=3, contamination=0.3, power=1.5, radius=12.1,
            observed=0.5,
        )  # fmt: skip
    got = got.compute()
    k, area = kappa.values, GRID.pixel_scale**2
    uniform = GRID.wrap(np.full(GRID.shape, 0.3), "c", "arcsec-2")
    share = (700 - 0.3 * area * k.size) / (k**1.5).sum() / area
    rate = GRID.wrap(k**1.5 * share + 0.3, "rate", "arcsec-2")
    background = density.smooth_map(uniform, kappa)
    for i in range(4):
        rho = density.density_map(density.draw_sources(rate, 3, realisation=i), kappa)
        fit = compare.fit_beta(kappa, rho - background, CENTER, radius=12.1).compute()
        assert got.dispersion_mock[i].item() == pytest.approx(fit.dispersion_relative.item())
    smooth = density.smooth_map(rate, kappa) - background
    floor = compare.fit_beta(kappa, smooth, CENTER, radius=12.1).dispersion_relative
    assert got.floor.item() == pytest.approx(floor.compute().item(), rel=1e-6)
    assert got.expected.item() == pytest.approx(got.dispersion_mock.mean().item())
    assert got.p_value.item() == pytest.approx(1 / 5)
    assert got.status.item() == ""


def test_the_lens_is_evaluated_once_for_all_mocks():
    calls = []

    def counted(block):
        calls.append(block.shape)
        return block

    kappa = lens((36, 80)).compute().chunk({"y": 36, "x": 80})
    kappa = kappa.copy(data=kappa.data.map_blocks(counted, dtype=float, meta=np.empty((0, 0))))
    compare.expected_dispersion(kappa, 100, CENTER, n_mocks=5).compute()
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("observed", "word", "meaning"),
    [
        (0.03, "within", "not significant"),
        (0.2, "above", "is significant"),
        (0.001, "below", "not"),
    ],
)
def test_the_verdict_says_in_words_whether_the_scatter_is_more_than_expected(
    observed, word, meaning
):
    mocks = np.random.default_rng(0).normal(0.03, 0.004, 60)
    got = _summary(mocks, 0.021, observed, 159.0, power=1.0)
    assert f"the observed {100 * observed:.1f} % is {word} the 3.0 +- 0.4 %" in got["verdict"]
    assert meaning in got["verdict"]
    assert "geometric floor 2.1 %" in got["verdict"]
    assert got["p_value"] == pytest.approx((1 + (mocks >= observed).sum()) / 61)


def test_few_sources_scatter_more_than_many_and_all_more_than_none():
    kappa = lens().compute()
    few, many = (
        compare.expected_dispersion(kappa, n, CENTER, n_mocks=12, radius=13) for n in (60, 6000)
    )
    assert few.expected > 1.5 * many.expected
    assert many.expected > many.floor
    assert many.floor.item() == pytest.approx(few.floor.item(), rel=1e-9)
    assert "6000 tracers of kappa themselves; geometric floor" in many.attrs["verdict"]
    assert np.isnan(many.p_value)


def test_mocks_without_sources_are_unconstrained_and_bad_numbers_refused():
    kappa = lens().compute()
    none = compare.expected_dispersion(kappa, 0, CENTER, n_mocks=3)
    assert np.isnan([none.expected, none.floor]).all()
    assert none.attrs["status"].startswith("unconstrained: 0 of 3 mocks")
    for bad in ({"n_mocks": 1}, {"contamination": -1}, {"power": 0}, {"extent": -3}):
        with pytest.raises(InputError, match=next(iter(bad))):
            compare.expected_dispersion(kappa, 10, CENTER, **bad)


def test_lazy_numbers_of_sources_and_observations_are_taken():
    kappa = lens()
    rho = density.density_map(clusters(), kappa)
    with no_compute():
        fit = compare.fit_beta(kappa, rho, CENTER)
        got = compare.expected_dispersion(
            kappa, da.ones(10, chunks=5).sum() * 80, CENTER, observed=fit.dispersion_relative,
            n_mocks=3, extent=9,
        )  # fmt: skip
    got = got.compute()
    assert got.n_sources == 800
    assert got.observed == fit.dispersion_relative.compute()


def test_the_spread_of_replicates_ignores_those_without_beta():
    blank = np.full((1, 3, 4), np.nan)
    good = np.ones((5, 3, 4)) * np.arange(1, 6)[:, None, None] ** [2, 1, 0, 0]
    got = fits.bootstrap_beta(np.concatenate([good, blank]))
    assert got["beta_boot_error"] == pytest.approx(np.std(np.arange(1, 6), ddof=1))
    assert got["status"] == ""
