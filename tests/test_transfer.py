"""The n-kappa relation of mock clusters, what it predicts elsewhere, and with what errors."""

import dask.array as da
import dask.dataframe as dd
import mocks
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gcdask import compare, density, profiles
from gcdask.errors import InputError
from gcdask.grid import Field, Grid
from gcdask.kernels import laws, prediction
from gcdask.luminosity import Population

CENTER = (110.8, -73.45)
TRUE = {"a": 0.45, "b": 0.625, "n0": 0.363}


def boxes_of(kappa, n, area=9.0, **more):
    kappa, n = np.asarray(kappa, float), np.asarray(n, float)
    table = {
        "n": n,
        "area": np.full(n.size, area),
        "n_gc": n / np.where(area > 0, area, 1),
        "kappa": kappa,
    }
    table |= {"good": np.ones(n.size, bool), **more}
    return xr.Dataset({k: ("box", v) for k, v in table.items()})


def law(a=0.45, b=0.625, n0=0.363, cov=None, scatter=0.0, box=3.0):
    names = np.array(["a", "b", "n0"], object)
    cov = np.zeros((3, 3)) if cov is None else cov
    return xr.Dataset(
        {"a": a, "b": b, "n0": n0, "scatter": scatter, "n_low": 0.67, "n_high": 5.67, "status": "",
         "cov": (("parameter", "parameter_2"), np.asarray(cov, float))},
        coords={"parameter": names, "parameter_2": names},
        attrs={"box": box, "model": "kappa = a (n_gc - n0)^b"},
    )  # fmt: skip


COV = np.array([[1e-4, -5e-5, 1e-5], [-5e-5, 9e-5, 2e-5], [1e-5, 2e-5, 4e-4]])


# -- the fit ------------------------------------------------------------------------------------
def test_forward_model_finds_the_law_of_as1063s_clusters_and_bins_flatten_it():
    """23 800 clusters that follow kappa^1.6 and 0.363 arcsec-2 of contaminants, eight skies."""
    kappa = mocks.as1063_kappa()
    rate = mocks.intensity(kappa)
    pulls, binned = [], []
    for realisation in range(8):
        cat = density.draw_sources(rate, 11, realisation=realisation).compute()
        boxes = compare.box_relation(cat, kappa).compute()
        fit = compare.fit_power_law(boxes, method="poisson")
        assert fit.status.item() == ""
        g, error = 1 / fit.b.item(), fit.b_error.item() / fit.b.item() ** 2
        pulls.append([(g - 1.6) / error, (fit.n0.item() - 0.363) / fit.n0_error.item()])
        binned.append(compare.fit_power_law(boxes).b_mean.item())
        assert fit.b_block_error.item() == pytest.approx(fit.b_error.item(), rel=0.4)
        assert fit.scatter < 0.05  # Poisson noise explains these clusters
    assert np.abs(pulls).max() < 3
    assert np.abs(np.mean(pulls, 0)).max() < 3 / np.sqrt(8)
    assert np.min(binned) > 0.67  # b = 0.625 where nothing is selected or contaminates


def test_the_variance_of_kappa_within_a_box_is_in_the_model():
    rng = np.random.default_rng(0)
    kappa = rng.lognormal(-0.5, 0.6, (500, 1)) * rng.lognormal(0, 0.7, (500, 400))
    mean, std = kappa.mean(1), kappa.std(1)
    truth = (kappa**1.6).mean(1)
    assert (mean**1.6 / truth).mean() < 0.85
    assert (laws.mean_power(mean, std, 1.6) / truth).mean() == pytest.approx(1, abs=0.02)
    n = rng.poisson(9 * (0.363 + truth / 0.45**1.6))
    known = compare.fit_power_law(boxes_of(mean, n, kappa_std=std), method="poisson")
    unknown = compare.fit_power_law(boxes_of(mean, n), method="poisson")
    assert abs(known.a.item() - 0.45) < 3 * known.a_error.item()
    assert abs(unknown.a.item() - 0.45) > 6 * unknown.a_error.item()


@pytest.mark.parametrize("chunks", [(90, 90), (25, 90), (13, 31)])
def test_boxes_hold_the_deviation_of_their_elements_for_every_chunking(chunks):
    grid = Grid.tangent(CENTER, (90, 90), 0.5)
    rng = np.random.default_rng(1)
    values, mask = rng.random(grid.shape), rng.random(grid.shape) < 0.3
    boxes = compare.box_relation(
        pd.DataFrame({"ra": [CENTER[0]], "dec": [CENTER[1]]}),
        grid.wrap(da.from_array(values, chunks=chunks), "kappa", ""),
        mask=grid.wrap(mask, "mask", ""),
    )
    some = boxes.compute().isel(box=37)
    y, x = 6 * int(some.iy), 6 * int(some.ix)
    inside = values[y : y + 6, x : x + 6][~mask[y : y + 6, x : x + 6]]
    assert some.kappa_std.item() == pytest.approx(inside.std(), rel=1e-9)


def test_errors_from_blocks_know_of_clumps_that_poisson_errors_do_not():
    rng = np.random.default_rng(3)
    values, fisher, block = [], [], []
    iy, ix = (v.ravel() for v in np.mgrid[:24, :24])
    for _ in range(25):
        kappa = rng.uniform(0.1, 1.6, iy.size)
        clump = np.kron(rng.gamma(8, 1 / 8, (6, 6)), np.ones((4, 4))).ravel()
        n = rng.poisson(9 * (0.363 + clump * (kappa / 0.45) ** 1.6))
        boxes = boxes_of(kappa, n, ix=ix, iy=iy).assign_attrs(box=3.0)
        fit = compare.fit_power_law(boxes, method="poisson", jackknife=12.0)
        assert fit.n_blocks == 36
        values.append(fit.a.item())
        fisher.append(fit.a_error.item())
        block.append(fit.a_block_error.item())
    assert np.mean(block) == pytest.approx(np.std(values), rel=0.35)
    assert np.mean(fisher) < 0.6 * np.std(values)
    assert fit.scatter.item() == pytest.approx(0.6 * 8**-0.5, rel=0.4)


def test_block_errors_of_the_paper_s_bins_are_the_delete_one_jackknife():
    rng = np.random.default_rng(4)
    true = rng.uniform(0.7, 5.6, 900)
    block = np.arange(900) // 30
    boxes = boxes_of(0.45 * true**0.62 * rng.normal(1, 0.2, 900), true * 9)
    boxes = boxes.assign(ix=("box", block), iy=("box", 0 * block)).assign_attrs(box=3.0)
    fit = compare.fit_power_law(boxes, jackknife=3.0)
    left = []
    for b in range(30):
        part = compare.fit_power_law(boxes.isel(box=block != b))
        left.append([part.a.item(), part.b.item()])
    left = np.array(left)
    expected = np.sqrt(29 / 30 * ((left - left.mean(0)) ** 2).sum(0))
    assert fit.n_blocks == 30
    # the bins' dispersions change a little too when a block is left out
    np.testing.assert_allclose([fit.a_block_error, fit.b_block_error], expected, rtol=0.15)


def test_degeneracy_of_a_and_b_is_that_of_draws_from_their_covariance():
    cov = np.zeros((3, 3))
    cov[:2, :2] = [[0.12**2, -0.95 * 0.12 * 0.18], [-0.95 * 0.12 * 0.18, 0.18**2]]
    got = laws.degeneracy(0.45, 0.62, cov / 400)
    draws = np.random.default_rng(0).multivariate_normal([0.45, 0.62], cov[:2, :2] / 400, 100_000)
    assert got["correlation"] == pytest.approx(-0.95)
    assert got["ab"] == pytest.approx(0.279)
    assert got["ab_error"] == pytest.approx(draws.prod(1).std(), rel=0.02)
    _, _, axes = np.linalg.svd(np.log(draws) - np.log(draws).mean(0), full_matrices=False)
    assert got["degeneracy"] == pytest.approx(axes[0, 1] / axes[0, 0], rel=0.02)
    assert -1.5 < got["degeneracy"] < -0.8  # the paper's errors are along a b = 0.28


def test_range_of_kappa_and_boxes_without_convergence_are_counted_not_silent():
    rng = np.random.default_rng(5)
    kappa = rng.uniform(0.05, 1.6, 400)
    n = rng.poisson(9 * (0.363 + (kappa / 0.45) ** 1.6))
    n[kappa > 1.2] //= 3  # where clusters are destroyed
    kappa[:7], kappa[7:10] = -0.1, np.nan
    low = compare.fit_power_law(boxes_of(kappa, n), method="poisson", kappa_range=(0.01, 1.2))
    assert abs(low.b.item() - 0.625) < 3 * low.b_error.item()
    assert low.n_left_out == 7
    everything = compare.fit_power_law(boxes_of(kappa, n), method="poisson")
    assert abs(everything.b.item() - 0.625) > 5 * everything.b_error.item()


def test_what_boxes_cannot_tell_is_said_in_words():
    few = compare.fit_power_law(boxes_of([0.5, 0.7, 0.9], [4, 7, 9]), method="poisson")
    assert np.isnan([few.a, few.n0_block_error, few.ab]).all()
    assert few.attrs["status"].startswith("unconstrained: only 3 boxes")
    same = compare.fit_power_law(boxes_of(np.full(50, 0.5), np.full(50, 9)), method="poisson")
    assert same.attrs["status"].startswith("unconstrained")
    rng = np.random.default_rng(6)
    flat = compare.fit_power_law(
        boxes_of(rng.uniform(0.1, 2, 200), rng.poisson(9, 200)), method="poisson"
    )
    assert flat.attrs["status"].startswith("unconstrained")
    nothing = compare.predict_kappa([1.0, 2.0], few)
    assert np.isnan(nothing.kappa).all()
    assert nothing.attrs["status"] == few.attrs["status"]
    test = compare.transfer_test(boxes_of(rng.uniform(0.1, 2, 50), rng.poisson(9, 50)), few)
    assert np.isnan(test.bias)
    assert test.attrs["status"].startswith("unconstrained: only 3 boxes")
    for options in (
        {"kappa_range": (0.1, 1)},
        {"method": "poisson", "kappa_range": (1, 0.1)},
        {"jackknife": 0.0},
    ):
        with pytest.raises(InputError):
            compare.fit_power_law(boxes_of([1.0], [1]), **options)


# -- prediction ---------------------------------------------------------------------------------
@pytest.mark.parametrize("excess", [0.14, 0.3, 0.8, 3.0])
def test_prediction_is_unbiased_where_the_plain_power_is_not(excess):
    n = np.arange(200)
    chance = stats.poisson.pmf(n, 9 * (excess + 0.363))
    got = compare.predict_kappa(boxes_of(0 * n, n), law()).kappa.values
    truth = 0.45 * excess**0.625
    assert chance @ got == pytest.approx(truth, rel=0.025)
    plain = 0.45 * np.maximum(n / 9 - 0.363, 0) ** 0.625
    assert chance @ plain < truth * (0.95 if excess < 0.5 else 1)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 20), st.floats(0.01, 3), st.floats(0.1, 1.5), st.floats(0, 1))
def test_prediction_is_finite_never_negative_and_its_error_the_sum_of_parts(n, s, b, n0):
    out = compare.predict_kappa(n, law(b=b, n0=n0, cov=COV, scatter=0.1), n_error=s)
    parts = [out[f"error_{k}"].item() for k in ("poisson", "relation", "scatter")]
    assert out.kappa >= 0
    assert np.isfinite(out.kappa_error)
    assert out.kappa_error.item() == pytest.approx(np.sqrt(np.square(parts).sum()))


def test_errors_of_predictions_are_those_of_draws():
    rng = np.random.default_rng(7)
    a, b, n0 = rng.multivariate_normal(list(TRUE.values()), COV / 25, 50_000).T
    n = np.array([1.0, 2.0, 5.0])
    out = compare.predict_kappa(n, law(cov=COV / 25))
    draws = a[:, None] * (n - n0[:, None]) ** b[:, None]
    np.testing.assert_allclose(out.error_relation, draws.std(0), rtol=0.03)
    noisy = compare.predict_kappa(n, law(), n_error=0.02)
    draws = 0.45 * (n + 0.02 * rng.normal(size=(50_000, 1)) - 0.363) ** 0.625
    np.testing.assert_allclose(noisy.error_poisson, draws.std(0), rtol=0.03)
    np.testing.assert_allclose(noisy.kappa, 0.45 * (n - 0.363) ** 0.625, rtol=1e-3)
    known = compare.predict_kappa(n, law(cov=COV / 25), contamination=(0.2, 0.0))
    np.testing.assert_allclose(known.kappa, 0.45 * (n - 0.2) ** 0.625)
    draws = a[:, None] * (n - 0.2) ** b[:, None]
    np.testing.assert_allclose(known.error_relation, draws.std(0), rtol=0.03)


@pytest.mark.parametrize("chunks", [(120, 120), (50, 37), (9, 120)])
@pytest.mark.parametrize("partitions", [1, 4])
def test_a_catalogue_is_predicted_in_boxes_over_unmasked_area_for_every_chunking(
    chunks, partitions
):
    grid = Grid.tangent(CENTER, (120, 120), 0.25, angle=15)
    rng = np.random.default_rng(8)
    x, y = rng.uniform(-5, 125, (2, 3000))
    ra, dec = grid.sky(x, y)
    mask = rng.random(grid.shape) < 0.2
    mask[:60, :24] = True
    with no_compute():
        out = compare.predict_kappa(
            dd.from_pandas(pd.DataFrame({"ra": ra, "dec": dec}), npartitions=partitions),
            law(),
            mask=grid.wrap(da.from_array(mask, chunks=chunks), "mask", ""),
            field=Field(CENTER, 0.39),
        )
    assert Grid.of(out.kappa).pixel_scale == pytest.approx(3.0)
    done = out.compute()
    for v in out.data_vars:
        assert (out[v].dtype, out[v].shape) == (done[v].dtype, done[v].shape), v
        assert "units" in done[v].attrs, v
    good = ~mask
    ix, iy = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
    on = (ix >= 0) & (ix < 120) & (iy >= 0) & (iy < 120)
    on[on] = good[iy[on], ix[on]]
    counts = np.zeros((10, 10))
    np.add.at(counts, (iy[on] // 12, ix[on] // 12), 1)
    area = good.reshape(10, 12, 10, 12).sum((1, 3)) * 0.25**2
    enough = area >= 4.5
    density_ = np.where(enough, counts / np.maximum(area, 1e-9), np.nan)
    np.testing.assert_allclose(done.n, density_)
    np.testing.assert_array_equal(np.isnan(done.kappa), ~enough)
    table = compare.predict_kappa(boxes_of(0 * area.ravel(), counts.ravel(), area.ravel()), law())
    np.testing.assert_allclose(done.kappa.values[enough], table.kappa.values[enough.ravel()])
    np.testing.assert_allclose(done.sigma, done.kappa * Field(CENTER, 0.39).sigma_cr)


def test_a_map_of_number_density_is_predicted_pixel_by_pixel():
    grid = Grid.tangent(CENTER, (40, 50), 0.5)
    n = np.random.default_rng(9).uniform(0, 6, grid.shape)
    n[3, 4] = np.nan
    with no_compute():
        out = compare.predict_kappa(
            grid.wrap(da.from_array(n, chunks=(13, 50)), "n", "arcsec-2"), law()
        )
    expected = 0.45 * np.where(n > 0.363, n - 0.363, np.where(np.isnan(n), np.nan, 0)) ** 0.625
    np.testing.assert_allclose(out.kappa, expected)
    np.testing.assert_array_equal(out.extrapolated, (n < 0.67) | (n > 5.67))
    assert Grid.of(out.kappa).same_pixels(grid)


def test_what_cannot_be_predicted_is_refused_in_one_line():
    grid = Grid.tangent(CENTER, (40, 50), 0.5)
    table = pd.DataFrame({"ra": [CENTER[0]], "dec": [CENTER[1]]})
    rho = grid.wrap(np.ones(grid.shape), "rho", "arcsec(-1.6)")
    for call, words in [
        (lambda: compare.predict_kappa(table, law()), "needs the pixels"),
        (lambda: compare.predict_kappa(table, law(), like=grid, box=0.1), "smaller than a pixel"),
        (lambda: compare.predict_kappa(rho, law()), "number density in arcsec-2"),
        (lambda: compare.predict_kappa(1.0, law(), like=grid), "are for catalogues"),
        (lambda: compare.predict_kappa(1.0, boxes_of([1.0], [1])), "relation lacks"),
        (lambda: compare.predict_kappa(1.0, law(), contamination=-1), "is no density"),
        (lambda: compare.predict_kappa(xr.Dataset(), law()), "give a catalogue"),
    ]:
        with pytest.raises(InputError, match=words):
            call()


# -- another cluster ----------------------------------------------------------------------------
NEAR, FAR = Field(CENTER, 0.3, 2.0), Field(CENTER, 0.6, 4.0)
DEEP, SHALLOW = Population.at(NEAR, 31.0), Population.at(FAR, 30.7)


def test_a_transferred_relation_gives_the_same_mass_for_as_many_clusters_per_kpc2():
    there = compare.transfer_relation(
        law(), NEAR, FAR, source_population=DEEP, target_population=SHALLOW, contamination=0.1
    )
    per_kpc2 = 0.5  # of the whole population
    n = [per_kpc2 * p.fraction() * f.kpc_per_arcsec**2 for f, p in ((NEAR, DEEP), (FAR, SHALLOW))]
    kappa = [0.45 * n[0] ** 0.625, there.a.item() * n[1] ** 0.625]
    np.testing.assert_allclose(kappa[0] * NEAR.sigma_cr, kappa[1] * FAR.sigma_cr, rtol=1e-12)
    assert there.n0 == 0.1
    back = compare.transfer_relation(
        there, FAR, NEAR, source_population=SHALLOW, target_population=DEEP, contamination=0.363
    )
    for name in ("a", "b", "n0", "n_low", "n_high"):
        assert back[name].item() == pytest.approx(law()[name].item(), rel=1e-12), name


def test_the_covariance_is_carried_to_the_other_cluster():
    there = compare.transfer_relation(
        law(cov=COV / 25), NEAR, FAR, source_population=DEEP, target_population=SHALLOW,
        population_error=0.02,
    )  # fmt: skip
    rng = np.random.default_rng(10)
    a, b, n0 = rng.multivariate_normal(list(TRUE.values()), COV / 25, 200_000).T
    ratio = DEEP.fraction() * NEAR.kpc_per_arcsec**2 * rng.normal(1, 0.02, a.size)
    ratio /= SHALLOW.fraction() * FAR.kpc_per_arcsec**2
    draws = [a * NEAR.sigma_cr / FAR.sigma_cr * ratio**b, b, n0]
    np.testing.assert_allclose(there.cov, np.cov(draws), rtol=0.05, atol=2e-8)
    assert there.a_error.item() == pytest.approx(np.std(draws[0]), rel=0.03)
    with pytest.raises(InputError, match="population_error"):
        compare.transfer_relation(
            law(), NEAR, FAR, source_population=DEEP, target_population=DEEP, population_error=-1
        )
    blind = Population(limit=-60, distance_modulus=41)
    with pytest.raises(InputError, match="of a population is seen"):
        compare.transfer_relation(law(), NEAR, FAR, source_population=DEEP, target_population=blind)


def test_one_half_of_as1063_predicts_the_other():
    kappa = mocks.as1063_kappa()
    boxes = compare.box_relation(mocks.clusters(kappa, seed=12), kappa)
    with no_compute():
        test = compare.transfer_test(boxes, center=mocks.AS1063, axis=90.0)
    test = test.compute()
    assert abs(test.bias.item()) < max(3 * test.bias_error.item(), 0.03)
    assert 0.4 < float(test.tested.mean()) < 0.6
    assert test.n_calibration + test.n_boxes == boxes.good.sum().compute()
    area, k, p = (v.values[test.tested] for v in (boxes.area, test.kappa, test.kappa_pred))
    assert test.bias.item() == pytest.approx((area * p).sum() / (area * k).sum() - 1)
    east = (boxes.ra - mocks.AS1063[0]).values * np.cos(np.deg2rad(mocks.AS1063[1]))
    assert (east[test.tested] < 1e-6).all()  # calibrated on the eastern half


@pytest.mark.parametrize("realisation", range(3))
def test_as1063_predicts_smacs0723_through_mass_and_clusters_per_kpc2(realisation):
    """Calibrated on one mock, applied to another of other lens, distance and depth."""
    near, far = mocks.as1063_kappa(), mocks.smacs0723_kappa()
    law_a = compare.fit_power_law(
        compare.box_relation(
            mocks.clusters(near, seed=13, realisation=realisation), near
        ).compute(),
        method="poisson",
    )
    cat = density.draw_sources(mocks.smacs0723_intensity(), 14, realisation=realisation).compute()
    boxes = compare.box_relation(cat, far).compute()
    n = np.random.default_rng(realisation).poisson(mocks.CONTAMINATION_B * 60**2)
    level = (n / 60**2, n**0.5 / 60**2)  # of a field without a lens, an arcmin2
    a, b = mocks.populations()
    there = compare.transfer_relation(
        law_a, mocks.FIELD_A, mocks.FIELD_B, source_population=a, target_population=b,
        contamination=level,
    )  # fmt: skip
    physical = compare.transfer_test(boxes, there)
    naive = compare.transfer_test(boxes, law_a)
    half_naive = compare.transfer_test(boxes, law_a, contamination=level)
    assert abs(physical.bias.item()) < 0.10
    assert abs(physical.bias.item()) < 3.5 * physical.bias_error.item()
    assert naive.bias < -0.4
    assert half_naive.bias < -0.4  # clusters per arcsec2 mean another mass there
    assert physical.scatter.item() == pytest.approx(physical.scatter_expected.item(), rel=0.3)
    assert 0 <= physical.extrapolated <= 1


def test_a_test_needs_one_calibration():
    boxes = boxes_of([0.5] * 9, [4] * 9, ra=np.full(9, 1.0), dec=np.zeros(9))
    for options, words in [
        ({}, "give a relation"),
        ({"relation": law(), "axis": 1.0}, "give a relation"),
        ({"axis": 1.0}, "needs center"),
        ({"axis": np.nan, "center": CENTER}, "position angle"),
        ({"relation": law(), "method": "bins"}, "calibration here"),
    ]:
        with pytest.raises(InputError, match=words):
            compare.transfer_test(boxes, **options)
    with pytest.raises(InputError, match="boxes lacks"):
        compare.transfer_test(boxes.drop_vars("area"), law())


def test_populations_are_seen_as_far_as_their_limit():
    pop = Population(limit=31.0, distance_modulus=41.0, offset=0.4)
    assert pop.absolute_limit == pytest.approx(-10.4)
    assert pop.fraction() == pytest.approx(stats.norm.cdf(-3.0 / 1.3))
    assert pop.fraction(34.4) == pytest.approx(stats.norm.cdf(0.4 / 1.3))
    assert Population.at(Field(CENTER, 0.348), 30).distance_modulus == pytest.approx(
        41.32, abs=0.02
    )
    with pytest.raises(InputError, match="sigma"):
        Population(30, 41, sigma=0)
    with pytest.raises(InputError, match="not finite"):
        Population(np.nan, 41)


def test_noise_without_a_value_is_nothing():
    kappa, slope = prediction.value_and_slope(np.zeros(2), np.array([0.0, 0.3]), 0.45, 0.625)
    assert (kappa == 0).all()
    assert slope[0] == 0
    assert np.isfinite(slope).all()


# -- real data ----------------------------------------------------------------------------------
def test_smacs0723s_own_clusters_say_that_they_constrain_no_prediction(shared_data):
    from gcdask import catalog

    kappa = mocks.smacs0723_kappa(side=120.0)
    boxes = compare.box_relation(
        catalog.faisst2022(), kappa, center=mocks.SMACS0723, radius=60
    ).compute()
    assert boxes.n.where(boxes.good).sum() == 159
    binned = compare.fit_power_law(boxes)
    assert binned.status.item().startswith("unconstrained")
    test = compare.transfer_test(boxes, binned)
    assert np.isnan(test.bias)
    assert test.status.item().startswith("unconstrained")


def test_contamination_may_be_the_table_of_a_profile():
    ring = profiles.radial_profile(
        pd.DataFrame({"ra": [CENTER[0]] * 9, "dec": [CENTER[1]] * 9}), CENTER, [0, 5]
    )
    level = profiles.contamination(ring, method="given", value=0.2, error=0.05)
    out = compare.predict_kappa(2.0, law(), contamination=level)
    assert out.kappa.item() == pytest.approx(0.45 * 1.8**0.625)
    assert out.error_relation.item() == pytest.approx(0.45 * 0.625 * 1.8**-0.375 * 0.05)
