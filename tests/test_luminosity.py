"""Luminosity functions against NumPy, and Gaussians against SciPy and known truths."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from conftest import no_compute
from scipy import optimize, stats

from gcdask import catalog, luminosity
from gcdask.errors import InputError
from gcdask.grid import Field, Grid

CENTER = (110.83, -73.45)
FIELD = Field(CENTER, 0.39)
EDGES = np.arange(24, 30.01, 0.5)


def table(mag, seed=0, **more):
    rng = np.random.default_rng(seed)
    mag = np.asarray(mag, float)
    ra, dec = CENTER[0] + rng.uniform(-0.02, 0.02, mag.size), np.full(mag.size, CENTER[1])
    return pd.DataFrame({"ra": ra, "dec": dec, "mag": mag, **more})


# -- counts -------------------------------------------------------------------------------------
@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_sources_are_counted_by_magnitude_for_every_partitioning(partitions):
    rng = np.random.default_rng(1)
    mag = np.r_[rng.normal(28, 2, 700), np.nan, np.inf, 24.0, 30.0]
    with no_compute():
        got = luminosity.luminosity_function(
            dd.from_pandas(table(mag), npartitions=partitions), EDGES, mag="mag", area=400.0,
            field=FIELD,
        )  # fmt: skip
    done = got.compute()
    for v in got.data_vars:
        assert (got[v].dtype, got[v].shape) == (done[v].dtype, done[v].shape), v
        assert "units" in done[v].attrs, v
    finite = mag[np.isfinite(mag)]
    counts = np.histogram(finite[finite < 30], EDGES)[0]
    np.testing.assert_array_equal(done.counts, counts)
    np.testing.assert_allclose(done.density, counts / 400 / 0.5)
    np.testing.assert_allclose(done.density_kpc2, done.density / FIELD.kpc_per_arcsec**2)
    assert (done.n_brighter, done.n_fainter) == ((finite < 24).sum(), (finite >= 30).sum())
    assert (done.n_invalid, done.n_nonpositive) == (2, 0)
    assert done.counts.sum() + done.n_brighter + done.n_fainter + done.n_invalid == mag.size


@pytest.mark.parametrize(("unit", "of_njy"), [("nJy", 1), ("uJy", 1e-3), ("mJy", 1e-6)])
def test_fluxes_become_ab_magnitudes_by_their_unit(unit, of_njy):
    frame = table(np.zeros(5), flux=np.array([1000, 100, 10, 0, -3.0]) * of_njy)
    frame.attrs["units"] = {"flux": unit}
    got = luminosity.luminosity_function(frame, [23.8, 24, 26.3, 26.5, 28.8, 29], flux="flux")
    np.testing.assert_array_equal(got.counts, [1, 0, 1, 0, 1])  # AB 23.9, 26.4, 28.9
    assert got.n_nonpositive == 2
    assert got.attrs["zero_point"] == pytest.approx(31.4 + 2.5 * np.log10(of_njy))
    assert np.isnan(got.density).all()  # no area is known
    bare = frame.rename(columns={"flux": "dn"})
    bare.attrs["units"] = {"dn": ""}
    with pytest.raises(InputError, match="give zero_point"):
        luminosity.luminosity_function(bare, EDGES, flux="dn")
    own = luminosity.luminosity_function(bare, EDGES, flux="dn", zero_point=28.0)
    assert own.attrs["zero_point"] == 28


@pytest.mark.parametrize("chunks", [(80, 90), (33, 20)])
def test_a_mask_gives_the_sources_and_the_area(chunks):
    grid = Grid.tangent(CENTER, (80, 90), 0.5)
    rng = np.random.default_rng(2)
    good = rng.random(grid.shape) > 0.3
    x, y = rng.uniform(-3, 92, (2, 500))
    ra, dec = grid.sky(x, y)
    frame = pd.DataFrame({"ra": ra, "dec": dec, "mag": rng.uniform(24, 30, 500)})
    with no_compute():
        got = luminosity.luminosity_function(
            dd.from_pandas(frame, npartitions=2), EDGES, mag="mag",
            mask=grid.wrap(da.from_array(~good, chunks=chunks), "mask", ""),
        )  # fmt: skip
    ix, iy = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
    on = (ix >= 0) & (ix < 90) & (iy >= 0) & (iy < 80)
    on[on] = good[iy[on], ix[on]]
    np.testing.assert_array_equal(got.counts, np.histogram(frame.mag[on], EDGES)[0])
    assert got.area.compute().item() == pytest.approx(good.sum() * 0.25)


def test_contaminants_are_subtracted_and_the_rest_completed():
    rng = np.random.default_rng(3)
    share = lambda m: 1 / (1 + np.exp((m - 28) / 0.4))  # noqa: E731
    left = []
    for _ in range(16):
        clusters, others = rng.normal(27.5, 1.2, 4000), rng.uniform(24, 30, 1500)
        found = [m[rng.random(m.size) < share(m)] for m in (clusters, others)]
        reference = rng.uniform(24, 30, 6000)
        reference = reference[rng.random(reference.size) < share(reference)]
        elsewhere = luminosity.luminosity_function(table(reference), EDGES, mag="mag", area=4e4)
        got = luminosity.luminosity_function(
            table(np.concatenate(found)), EDGES, mag="mag", area=1e4, completeness=share,
            contamination=elsewhere,
        )  # fmt: skip
        truth = np.histogram(clusters, EDGES)[0]
        left.append((got.n_corrected - truth) / got.n_corrected_error)
    left = np.array(left)
    fine = got.completeness.values >= 0.1
    assert fine.sum() == 10
    assert np.abs(left[:, fine].mean(0)).max() < 4 / np.sqrt(16)
    assert 0.5 < left[:, fine].std() < 1.2
    assert np.isnan(got.density_corrected[~fine]).all()  # not corrected by a factor above ten
    tabled = luminosity.luminosity_function(
        table([27.0]), EDGES, mag="mag", completeness=([27, 29], [1.0, 0.0]),
        contamination=np.full(12, 1e-5), area=1e4,
    )  # fmt: skip
    np.testing.assert_allclose(tabled.completeness[[0, 6, 9, 11]], [1, 0.875, 0.125, 0])
    np.testing.assert_allclose(tabled.expected_contaminants, 1e-5 * 1e4 * 0.5)


def test_bad_tables_are_refused_in_one_line():
    frame = table([27.0], word="bright")
    for options, words in [
        ({}, "name one column"),
        ({"mag": "f"}, "no column 'f'"),
        ({"mag": "word"}, "column 'word' has dtype"),
        ({"flux": "mag", "zero_point": np.nan}, "zero_point = nan"),
        ({"mag": "mag", "min_completeness": np.nan}, "min_completeness = nan"),
        ({"mag": "mag", "area": -1}, "area = -1"),
        ({"mag": "mag", "completeness": lambda m: m}, "between 0 and 1"),
        ({"mag": "mag", "completeness": ([2, 1], [1, 0])}, "no table"),
        ({"mag": "mag", "contamination": [1, 2, 3]}, "contamination has shape"),
        ({"mag": "mag", "contamination": luminosity.luminosity_function(
            frame, [1, 2, 3], mag="mag")}, "in these bins"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            luminosity.luminosity_function(frame, EDGES, **options)
    with pytest.raises(InputError, match="do not increase"):
        luminosity.luminosity_function(frame, [3, 2], mag="mag")
    with pytest.raises(InputError, match="not finite"):
        luminosity.luminosity_function(frame, [2, 3, np.inf], mag="mag")


# -- the Gaussian -------------------------------------------------------------------------------
def test_truncated_gaussian_is_scipys_and_its_errors_are_true():
    rng = np.random.default_rng(4)
    pulls = []
    for k in range(12):
        mag = rng.normal(27, 1.2, rng.poisson(5000))
        mag = mag[mag < 27.8]
        got = luminosity.fit_gclf(
            luminosity.luminosity_function(table(mag), np.arange(21, 27.81, 0.1), mag="mag")
        )
        assert got.status.item() == ""
        fitted = [(got.turnover, 27), (got.sigma, 1.2), (got.n_total, 5000)]
        errors = [got.turnover_error, got.sigma_error, got.n_total_error]
        pulls.append([(v.item() - t) / e.item() for (v, t), e in zip(fitted, errors, strict=True)])
        if k < 3:

            def unlikely(p, mag=mag):
                inside = mag.size * stats.norm.logcdf((27.8 - p[0]) / p[1])
                return inside - stats.norm.logpdf(mag, *p).sum()

            best = optimize.minimize(unlikely, [27, 1.2], method="Nelder-Mead").x
            assert got.turnover.item() == pytest.approx(best[0], abs=0.2 * errors[0].item())
            assert got.sigma.item() == pytest.approx(best[1], abs=0.2 * errors[1].item())
    assert np.abs(np.mean(pulls, 0)).max() < 3.5 / np.sqrt(12)
    assert 0.6 < np.std(pulls) < 1.4


def test_completeness_and_contaminants_are_part_of_the_fit():
    rng = np.random.default_rng(5)
    share = lambda m: 1 / (1 + np.exp((m - 27.5) / 0.3))  # noqa: E731
    clusters, others = rng.normal(27, 1.1, 8000), rng.uniform(22, 29, 2000)
    mag = np.r_[clusters, others]
    mag = mag[rng.random(mag.size) < share(mag)]
    function = luminosity.luminosity_function(
        table(mag), np.arange(22, 29.01, 0.1), mag="mag", area=1e4, completeness=share,
        contamination=2000 / 7 / 1e4 * share(np.arange(22.05, 29, 0.1)),  # as counted
    )  # fmt: skip
    fit = luminosity.fit_gclf(function, distance_modulus=34.4)
    assert abs(fit.turnover.item() - 27) < 3 * fit.turnover_error.item()
    assert abs(fit.n_total.item() - 8000) < 3 * fit.n_total_error.item()
    assert fit.absolute_turnover.item() == pytest.approx(fit.turnover.item() - 34.4)
    careless = luminosity.fit_gclf(
        luminosity.luminosity_function(table(mag), np.arange(22, 29.01, 0.1), mag="mag")
    )
    assert abs(careless.n_total.item() - 8000) > 10 * careless.n_total_error.item()


def test_a_bright_tail_is_called_degenerate_until_the_turnover_is_fixed():
    rng = np.random.default_rng(6)
    mag = rng.normal(33.9, 1.3, 1_000_000)  # AS1063's clusters at AB 30.9
    function = luminosity.luminosity_function(
        table(mag[mag < 30.9]), np.arange(26, 30.91, 0.1), mag="mag"
    )
    free = luminosity.fit_gclf(function)
    assert free.attrs["status"].startswith("unconstrained: only the bright tail")
    fixed = luminosity.fit_gclf(function, turnover=33.9, sigma=1.3)
    assert fixed.status.item() == ""
    assert abs(fixed.n_total.item() - 1e6) < 3 * fixed.n_total_error.item()
    assert fixed.turnover_error == fixed.sigma_error == fixed.fraction_error == 0
    assert fixed.fraction.item() == pytest.approx(stats.norm.cdf(-3 / 1.3))
    width = luminosity.fit_gclf(function, turnover=33.9)
    assert abs(width.sigma.item() - 1.3) < 3 * width.sigma_error.item()


def test_what_cannot_be_fitted_says_why():
    empty = luminosity.luminosity_function(table([]), EDGES, mag="mag")
    fit = luminosity.fit_gclf(empty)
    assert np.isnan(fit.n_total)
    assert fit.attrs["status"].startswith("unconstrained: 0 of 12 bins")
    few = luminosity.luminosity_function(table([25.2, 26.2]), EDGES, mag="mag")
    assert luminosity.fit_gclf(few).attrs["status"].startswith("unconstrained: 2 of 12")
    with pytest.raises(InputError, match="leaves no bin"):
        luminosity.fit_gclf(few, limit=20)
    with pytest.raises(InputError, match="sigma above 0"):
        luminosity.fit_gclf(few, sigma=-1)
    with pytest.raises(InputError, match="function lacks"):
        luminosity.fit_gclf(few.drop_vars("completeness"))


def test_fits_stay_lazy():
    frame = dd.from_pandas(table(np.random.default_rng(7).normal(27, 1, 500)), npartitions=3)
    with no_compute():
        function = luminosity.luminosity_function(frame, EDGES, mag="mag")
        fit = luminosity.fit_gclf(function, limit=28.0)
    done = fit.compute()
    for v in fit.data_vars:
        assert (fit[v].dtype, fit[v].shape) == (done[v].dtype, done[v].shape), v
        assert "units" in done[v].attrs, v
    assert done.limit == 28
    assert luminosity.fit_gclf(function.compute(), limit=28.0).attrs["limit"] == 28


def test_the_limit_is_that_of_the_bins_used():
    share = lambda m: np.where(m < 27.5, 0.9, 0.01)  # noqa: E731
    mag = np.random.default_rng(8).normal(26.5, 1, 3000)
    function = luminosity.luminosity_function(table(mag), EDGES, mag="mag", completeness=share)
    fit = luminosity.fit_gclf(function, limit=29.0)
    assert fit.limit == fit.attrs["limit"] == 27.5
    assert fit.n_used == function.counts[function.faint <= 27.5].sum()
    share = stats.norm.cdf((27.5 - fit.turnover) / fit.sigma)
    assert fit.fraction.item() == pytest.approx(share)
    blind = luminosity.luminosity_function(
        table(mag), EDGES, mag="mag", completeness=lambda m: 0 * m
    )
    assert np.isnan(luminosity.fit_gclf(blind).limit)
    assert np.isnan(blind.n_corrected).all()


def test_contaminants_of_an_unknown_area_are_never_taken_for_none():
    mag = np.random.default_rng(9).normal(26.5, 1, 3000)
    with pytest.raises(InputError, match="area is not known; give mask or area"):
        luminosity.luminosity_function(table(mag), EDGES, mag="mag", contamination=1e-5)
    reference = luminosity.luminosity_function(table(mag), EDGES, mag="mag")
    with pytest.raises(InputError, match="contamination has no area"):
        luminosity.luminosity_function(
            table(mag), EDGES, mag="mag", area=1e4, contamination=reference
        )
    lazy = luminosity.luminosity_function(
        dd.from_pandas(table(mag), npartitions=2), EDGES, mag="mag"
    )
    function = luminosity.luminosity_function(
        table(mag), EDGES, mag="mag", area=1e4, contamination=lazy
    ).compute()
    assert np.isnan(function.n_corrected).all()
    fit = luminosity.fit_gclf(function)
    assert fit.status.item().startswith("unconstrained: the number of contaminants is NaN")
    assert np.isnan(fit.n_total)


def test_numbers_need_no_area():
    share = lambda m: np.where(m < 27, 1.0, 0.5)  # noqa: E731
    mag = np.random.default_rng(10).normal(26.5, 1, 3000)
    bare, known = (
        luminosity.luminosity_function(table(mag), EDGES, mag="mag", completeness=share, area=a)
        for a in (None, 300.0)
    )
    for name in ("n_corrected", "n_corrected_error", "expected_contaminants"):
        np.testing.assert_allclose(bare[name], known[name])
    np.testing.assert_allclose(known.n_corrected, known.counts / np.where(EDGES[:-1] < 27, 1, 0.5))
    assert np.isnan(bare.density_corrected).all()


# -- real data ----------------------------------------------------------------------------------
def test_smacs0723s_compact_clusters_peak_where_their_selection_ends():
    """Faisst et al. (2022): hand-picked down to AB 29, no turnover of a luminosity function."""
    cat = catalog.faisst2022()
    edges = np.arange(24, 33.01, 0.1)
    f200w = luminosity.luminosity_function(cat, edges, flux="f200w").compute()
    f444w = luminosity.luminosity_function(cat, edges, flux="f444w").compute()
    assert f200w.counts.sum() == 178
    assert f444w.n_nonpositive == 6
    assert f444w.counts.sum() + f444w.n_nonpositive + f444w.n_fainter + f444w.n_brighter == 178
    fluxes = cat["f200w"].compute().to_numpy()
    mag = 31.4 - 2.5 * np.log10(fluxes)
    fit = luminosity.fit_gclf(f200w)
    assert fit.turnover.item() == pytest.approx(mag.mean(), abs=0.02)
    assert fit.sigma.item() == pytest.approx(mag.std(), abs=0.03)
    assert fit.n_total.item() == pytest.approx(178, rel=1e-3)
    bright = luminosity.fit_gclf(f444w, limit=28.5)
    assert bright.status.item().startswith("unconstrained")
