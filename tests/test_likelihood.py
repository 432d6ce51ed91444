"""Catalogues under maps: likelihoods, the exponent g and goodness of fit against plain sums."""

import dask
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
from scipy import optimize, stats

from gcdask import catalog, compare, density, lensing, reduce
from gcdask.compare import LeaveOneOut, kappa_powers, poisson_loglike
from gcdask.errors import InputError
from gcdask.grid import Grid, tangent_offsets

CENTER = (110.8, -73.45)
SHAPE, SCALE = (62, 70), 0.4
CHUNKS = [(62, 70), (20, 30), (7, 11), (1, 70)]
GRID = Grid.tangent(CENTER, SHAPE, SCALE, angle=25)


def lens():
    east, north = GRID.offsets(*GRID.mesh(), CENTER)
    return 1.5 / np.sqrt(1 + (east**2 + 1.4 * north**2) / 9)


def lazy(data, chunks, name="map", grid=GRID):
    return grid.wrap(da.from_array(np.asarray(data), chunks=chunks), name, "")


def drawn(rate, seed=0):
    """Sources of an intensity per arcsec^2 on the grid."""
    return density.draw_sources(GRID.wrap(rate, "rate", "arcsec-2"), seed).compute()


def on_pixels(table, grid=GRID):
    """Row and column of each source on a grid."""
    x, y = grid.pixel(table.ra, table.dec)
    if grid is not GRID or grid.step > 1:
        x, y = ((v - o) / grid.step for v, o in zip((x, y), grid.origin[::-1], strict=True))
    return np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int)


def field(seed=1):
    """Clusters, a convergence and some light, with a mask, a completeness and bad pixels."""
    rng = np.random.default_rng(seed)
    kappa = lens()
    table = drawn(3 * kappa**1.5, seed)
    light = kappa * rng.uniform(0.5, 2, SHAPE)
    kappa[3, 5], kappa[30, 30], light[20, 40] = np.nan, -0.1, 0.0
    exposure = rng.uniform(0.3, 1, SHAPE)
    exposure[40:44, 10:20] = 0
    mask = np.zeros(SHAPE, np.uint16)
    mask[10:20, 30:45] = 8
    return table, kappa, light, mask, exposure


def ranking(table):
    """Names of the maps, best first."""
    return table["map"].values[np.argsort(table["rank"].values)].tolist()


def loglike(table, rate, use, exposure=1.0):
    """The definition, source by source and pixel by pixel."""
    i, j = on_pixels(table)
    seen = rate * exposure
    good = use[i, j]
    total = seen[use].sum() * SCALE**2
    return np.log(seen[i, j][good]).sum() - good.sum() * np.log(total), good.sum()


# -- likelihoods --------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", CHUNKS)
def test_the_likelihood_is_that_of_its_definition_for_every_chunking(chunks):
    table, kappa, light, mask, exposure = field()
    with no_compute():
        got = poisson_loglike(
            dd.from_pandas(table, npartitions=3),
            {"kappa": lazy(kappa, chunks), "light": lazy(light, (33, 33))},
            lazy(mask, (40, 40)),
            lazy(exposure, (50, 70)),
        )
    got = got.compute()
    use = np.isfinite(kappa) & (kappa > 0) & (light > 0) & (mask == 0) & (exposure > 0)
    one = np.ones(SHAPE)
    for name, rate in {"uniform": one, "kappa": kappa, "light": light}.items():
        value, n = loglike(table, rate, use, exposure)
        assert got.lnL.sel(map=name).item() == pytest.approx(value, rel=1e-9)
    assert got.n == n
    assert got.area.item() == pytest.approx((exposure * use).sum() * SCALE**2)
    np.testing.assert_allclose(got.dlnL_pair, got.lnL.values[:, None] - got.lnL.values)
    assert ranking(got) == ["kappa", "light", "uniform"]
    assert got.n_flagged == 3
    assert got.status == ""


def test_a_finer_mask_takes_area_and_sources_at_its_own_resolution():
    table, kappa, *_ = field()
    coarse = GRID.coarsen(2)
    kappa = np.nan_to_num(lens())[::2, ::2]
    rng = np.random.default_rng(3)
    masked = rng.random(SHAPE) < 0.4
    use = np.kron(kappa > 0, np.ones((2, 2), bool)) & ~masked
    value, n = loglike(table, np.kron(kappa, np.ones((2, 2))), use)
    for chunks in [(31, 35), (9, 8)]:
        got = poisson_loglike(
            table, {"kappa": lazy(kappa, chunks, grid=coarse)}, lazy(masked, (13, 21))
        ).compute()
        assert got.n == n
        assert got.lnL.sel(map="kappa").item() == pytest.approx(value, rel=1e-9)
        fit = compare.fit_tracer_power(
            table, lazy(kappa, chunks, grid=coarse), lazy(masked, (13, 21))
        ).compute()
        assert fit.n == n
        assert fit.area.item() == pytest.approx(use.sum() * SCALE**2)


@pytest.mark.parametrize("radius", [5.0, 9.13])
def test_only_the_disk_counts_and_only_it_is_read(radius):
    table, kappa, *_ = field()
    near = (CENTER[0] + 3 / 3600, CENTER[1] + 2 / 3600)
    got = poisson_loglike(table, {"kappa": lazy(kappa, (16, 16))}, center=near, radius=radius)
    r = np.hypot(*GRID.offsets(*GRID.mesh(), near))
    value, n = loglike(table, kappa, (r < radius) & (kappa > 0))
    assert got.n.compute() == n
    assert got.lnL.sel(map="kappa").compute().item() == pytest.approx(value, rel=1e-9)
    fit = compare.fit_tracer_power(table, GRID.wrap(kappa, "k", ""), center=near, radius=radius)
    assert fit.n == n


def test_errors_are_the_jackknife_of_the_mean_and_the_scatter_of_the_sources():
    table, kappa, light, *_ = field()
    got = poisson_loglike(
        table, {"kappa": lazy(kappa, (25, 30)), "light": lazy(light, (25, 30))}, jackknife=6.0
    ).compute()
    use = (kappa > 0) & (light > 0)
    size = round(6 / SCALE)
    block = (np.arange(SHAPE[0])[:, None] // size) * 100 + np.arange(SHAPE[1]) // size
    i, j = on_pixels(table)
    mean = []
    for b in np.unique(block[use]):
        rest, keep = use & (block != b), block[i, j] != b
        values = [loglike(table[keep], m, rest) for m in (kappa, light)]
        mean.append((values[0][0] - values[1][0]) / values[0][1])
    m = len(mean)
    expected = got.n.item() * np.sqrt((m - 1) / m * ((np.array(mean) - np.mean(mean)) ** 2).sum())
    pair = {"map": "kappa", "map_2": "light"}
    assert got.dlnL_pair_error.sel(pair).item() == pytest.approx(expected, rel=1e-6)
    i, j = i[use[i, j]], j[use[i, j]]
    ratio = np.log(kappa[i, j] / light[i, j])
    assert got.dlnL_pair_error_poisson.sel(pair).item() == pytest.approx(
        np.sqrt(ratio.size) * ratio.std(), rel=1e-6
    )
    assert got.n_blocks == m
    np.testing.assert_allclose(got.dlnL_error, got.dlnL_pair_error.sel(map_2="uniform"))
    none = poisson_loglike(table, {"kappa": GRID.wrap(kappa, "k", "")}, jackknife=None)
    assert np.isnan(none.dlnL_error.sel(map="kappa"))
    assert none.dlnL_error_poisson.sel(map="kappa") > 0


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(0, 99))
def test_units_of_a_map_do_not_matter(factor, seed):
    table = drawn(lens(), seed)
    kappa = GRID.wrap(lens(), "kappa", "")
    got = poisson_loglike(table, {"kappa": kappa, "scaled": kappa * factor})
    assert got.dlnL_pair.sel(map="kappa", map_2="scaled").item() == pytest.approx(0, abs=1e-6)
    assert got.dlnL_pair_error.sel(map="kappa", map_2="scaled").item() == pytest.approx(0, abs=1e-6)


def test_powers_of_kappa_do_not_mirror_negative_pixels():
    kappa = GRID.wrap(lens() - 0.5, "kappa", "")
    maps = kappa_powers(kappa, (1, 2, 2.5))
    assert list(maps) == ["kappa", "kappa^2", "kappa^2.5"]
    negative = kappa.values < 0
    for g, m in zip((1, 2, 2.5), maps.values(), strict=True):
        np.testing.assert_array_equal(np.isnan(m), negative)
        np.testing.assert_allclose(m.values[~negative], kappa.values[~negative] ** g)
        assert m.attrs["wcs"] == kappa.attrs["wcs"]


# -- leave one out ------------------------------------------------------------------------------
def alone(table, alpha=1.6, softening=0.9):
    """Exact leave-one-out likelihood: at the pixel's centre, from all others, its own integral."""
    x, y = GRID.pixel(table.ra, table.dec)
    i, j = on_pixels(table)
    mx, my = GRID.mesh()
    own = np.array(
        [
            ((softening + np.hypot(mx - a, my - b) * SCALE) ** -alpha).sum() * SCALE**2
            for a, b in zip(x, y, strict=True)
        ]
    )
    kernel = (softening + np.hypot(j[:, None] - x, i[:, None] - y) * SCALE) ** -alpha
    np.fill_diagonal(kernel, 0)
    return (np.log(kernel.sum(1)) - np.log(own.sum() - own)).sum()


@pytest.mark.parametrize("chunks", [(62, 70), (20, 30), (7, 11)])
def test_leave_one_out_is_the_density_of_all_other_sources(chunks):
    table = drawn(0.3 * lens() ** 1.5)
    kappa = lazy(lens(), chunks)
    with no_compute():
        got = poisson_loglike(
            table, {"kappa": kappa, "rho": LeaveOneOut(), "steep": LeaveOneOut(2.5, 0.5)}
        )
    lnl = got.lnL.compute()
    assert lnl.sel(map="rho").item() == pytest.approx(alone(table), abs=0.3)
    assert lnl.sel(map="steep").item() == pytest.approx(alone(table, 2.5, 0.5), abs=0.3)


def test_rho_wins_over_the_truth_only_if_it_holds_the_source_itself():
    kappa = GRID.wrap(lens(), "kappa", "")
    table = drawn(0.3 * lens())
    rho = density.density_map(table, kappa, 2.5, 0.2)
    got = poisson_loglike(
        table, {"kappa": kappa, "rho": rho, "alone": LeaveOneOut(2.5, 0.2)}
    ).compute()
    assert ranking(got)[0] == "rho"
    assert got.dlnL.sel(map="alone") < got.dlnL.sel(map="kappa")


def test_one_source_alone_has_no_others():
    table = drawn(0.3 * lens()).iloc[:1]
    maps = {"kappa": GRID.wrap(lens(), "kappa", ""), "rho": LeaveOneOut()}
    got = poisson_loglike(table, maps)
    assert np.isnan(got.lnL.sel(map="rho"))
    assert np.isfinite(got.lnL.sel(map="kappa"))
    assert got.attrs["status"].startswith("unconstrained")


# -- the exponent -------------------------------------------------------------------------------
def unbinned(table, kappa, use, how, exposure=1.0):
    """Maximise the likelihood over all sources and pixels; its Fisher error of g."""
    i, j = on_pixels(table)
    good = use[i, j]
    at, logs = np.log(kappa[i, j][good]), np.log(kappa[use])
    area = (np.ones(SHAPE) * exposure)[use] * SCALE**2
    mean = good.sum() / area.sum()

    def minus(p):
        c = p[2] * mean if how == "fit" else how
        rate, source = (np.exp(p[0] + p[1] * v) + c for v in (logs, at))
        return rate @ area - np.log(source).sum()

    start = [np.log(mean), 1.5] + [0.1] * (how == "fit")
    best = optimize.minimize(
        minus, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 4000}
    ).x
    c = best[2] * mean if how == "fit" else how
    power = np.exp(best[0] + best[1] * logs)
    slopes = np.stack([power, power * logs, np.ones(logs.size)][: len(best)])
    cov = np.linalg.inv((slopes * area / (power + c)) @ slopes.T)
    return best[1], np.sqrt(cov[1, 1]), c


@pytest.mark.parametrize("how", [0.0, 2.0, "fit"])
@pytest.mark.parametrize("chunks", [(62, 70), (20, 30), (7, 11)])
def test_g_is_that_of_the_likelihood_without_bins(how, chunks):
    _, kappa, _, mask, exposure = field()
    table = drawn((30 * lens() ** 2 + 3) * exposure)
    use = np.isfinite(kappa) & (kappa > 0) & (mask == 0) & (exposure > 0)
    g, error, c = unbinned(table, kappa, use, how, exposure)
    with no_compute():
        fit = compare.fit_tracer_power(
            dd.from_pandas(table, npartitions=2), lazy(kappa, chunks), lazy(mask, (40, 9)),
            lazy(exposure, (31, 31)), contamination=how,
        )  # fmt: skip
    fit = fit.compute()
    assert abs(fit.g.item() - g) < 1e-3 * error
    assert fit.error_poisson.item() == pytest.approx(error, rel=1e-3)
    assert fit.contamination.item() == pytest.approx(c, rel=1e-3)
    assert fit.n_flagged == 2
    np.testing.assert_allclose(fit.bin_counts / fit.bin_area, fit.bin_density)
    n = fit.n.item()
    # the law found is as likely here as among the maps
    law = np.where(kappa > 0, fit.amplitude.item() * np.abs(kappa) ** fit.g.item() + c, np.nan)
    ranked = poisson_loglike(
        table, {"law": GRID.wrap(law, "law", "")}, GRID.wrap(mask, "mask", ""),
        GRID.wrap(exposure, "exposure", ""),
    )  # fmt: skip
    assert fit.lnL.item() == pytest.approx(ranked.lnL.sel(map="law").item(), abs=n * 1e-6)
    assert fit.dlnL.item() == pytest.approx(ranked.dlnL.sel(map="law").item(), abs=n * 1e-6)


@pytest.mark.parametrize("how", [0.0, "fit"])
def test_the_error_of_g_is_that_of_fits_without_each_block(how):
    kappa = lens()
    table = drawn(30 * kappa**1.5 + 3)
    fit = compare.fit_tracer_power(
        table, GRID.wrap(kappa, "kappa", ""), contamination=how, jackknife=6.0
    )
    size = round(6 / SCALE)
    block = (np.arange(SHAPE[0])[:, None] // size) * 100 + np.arange(SHAPE[1]) // size
    i, j = on_pixels(table)
    left = []
    for b in np.unique(block):
        masked = GRID.wrap(block == b, "mask", "")
        one = compare.fit_tracer_power(
            table[block[i, j] != b], GRID.wrap(kappa, "kappa", ""), masked, contamination=how
        )
        left.append([one.g.item(), one.contamination.item(), one.amplitude.item()])
    m = len(left)
    error = np.sqrt((m - 1) * np.var(left, axis=0))
    assert fit.n_blocks == m
    assert fit.error.item() == pytest.approx(error[0], rel=0.05)
    assert fit.amplitude_error.item() == pytest.approx(error[2], rel=0.05)
    assert fit.contamination_error.item() == pytest.approx(error[1], rel=0.05, abs=1e-9)


def test_what_the_data_cannot_tell_is_said_in_words():
    kappa = GRID.wrap(lens(), "kappa", "")
    table = drawn(lens())
    flat = GRID.wrap(np.full(SHAPE, 0.5), "kappa", "")
    cases = {
        "kappa is the same everywhere": (table, flat, {}),
        "no source is on the footprint": (table.iloc[:0], kappa, {}),
        "no pixel of the footprint is usable": (table, kappa * -1, {}),
        "the fit needs 3": (table.iloc[:2], kappa, {}),
    }
    for text, (sources, image, options) in cases.items():
        fit = compare.fit_tracer_power(sources, image, **options)
        assert fit.attrs["status"].startswith("unconstrained")
        assert text in fit.attrs["status"]
        assert np.isnan([fit.g, fit.error, fit.amplitude, fit.lnL]).all()
    few = compare.fit_tracer_power(drawn(0.01 * lens()), kappa)
    assert few.error_poisson > 0.5
    pure = compare.fit_tracer_power(drawn(3 * lens() ** 1.5), kappa, contamination="fit")
    assert "contamination does not differ from 0" in pure.attrs["status"]
    assert abs(pure.g - 1.5) < 3 * pure.error_poisson


def test_too_many_bad_pixels_are_flagged_and_counted():
    kappa = lens()
    kappa[:5], kappa[5:9] = np.nan, -1
    table = drawn(lens())
    i, _ = on_pixels(table)
    for got in (
        poisson_loglike(table, {"kappa": GRID.wrap(kappa, "kappa", "")}),
        compare.fit_tracer_power(table, GRID.wrap(kappa, "kappa", "")),
        compare.goodness_of_fit(table, GRID.wrap(kappa, "kappa", ""), n_simulations=9),
    ):
        assert got.n_flagged == 9 * SHAPE[1]
        assert got.n_flagged_sources == (i < 9).sum()
        assert got.attrs["status"].startswith("flagged: 14.5 % of the footprint")
    nothing = poisson_loglike(table, {"kappa": GRID.wrap(kappa * np.nan, "kappa", "")})
    assert nothing.n_flagged == kappa.size
    assert np.isnan(nothing.lnL).all()
    assert nothing.attrs["status"].startswith("unconstrained: no pixel")


def test_an_exposure_that_is_none_is_refused_or_counted_if_lazy():
    kappa, table = GRID.wrap(lens(), "kappa", ""), drawn(lens())
    percent = np.full(SHAPE, 0.9)
    percent[:31] = 90
    with pytest.raises(InputError, match=r"exposure runs from 0\.9 to 90"):
        poisson_loglike(table, {"kappa": kappa}, exposure=GRID.wrap(percent, "exposure", ""))
    got = poisson_loglike(table, {"kappa": kappa}, exposure=lazy(percent, (20, 20))).compute()
    assert got.n_flagged == percent.size / 2
    assert got.status.item().startswith("flagged: 50 %")


def test_bad_arguments_are_refused_in_one_line():
    kappa, table = GRID.wrap(lens(), "kappa", ""), drawn(lens())
    other = Grid.tangent(CENTER, (50, 50), 0.5).wrap(np.ones((50, 50)), "light", "")
    maps = {"kappa": kappa}
    for match, call in {
        "maps is empty": lambda: poisson_loglike(table, {}),
        "rename that map": lambda: poisson_loglike(table, {"uniform": kappa}),
        "on_grid": lambda: poisson_loglike(table, maps | {"light": other}),
        "light is a float": lambda: poisson_loglike(table, {"light": 3.0}),
        "give one beside it": lambda: poisson_loglike(table, {"rho": LeaveOneOut()}),
        "alpha = -1": lambda: poisson_loglike(table, maps | {"rho": LeaveOneOut(-1)}),
        "exposure .* not on the same": lambda: poisson_loglike(table, maps, exposure=other),
        "does not fit": lambda: poisson_loglike(table, maps, other > 2),
        "jackknife = 0": lambda: poisson_loglike(table, maps, jackknife=0),
        "radius = -1": lambda: poisson_loglike(table, maps, radius=-1),
        "no pixel of the map": lambda: poisson_loglike(table, maps, center=(3, 3), radius=5),
        "no ra, dec": lambda: poisson_loglike(table[["peak"]], maps),
        "contamination = 'no'": lambda: compare.fit_tracer_power(table, kappa, contamination="no"),
        "contamination = -1": lambda: compare.fit_tracer_power(table, kappa, contamination=-1),
        "n_bins = 0": lambda: compare.fit_tracer_power(table, kappa, n_bins=0),
        "smaller than an element": lambda: compare.goodness_of_fit(table, kappa, box=0.1),
        "n_simulations = 0": lambda: compare.goodness_of_fit(table, kappa, n_simulations=0),
    }.items():
        with pytest.raises(InputError, match=match) as error:
            call()
        assert "\n" not in str(error.value)


# -- goodness of fit ----------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", CHUNKS)
def test_counts_and_expectation_of_boxes_for_every_chunking(chunks):
    table, kappa, _, mask, exposure = field()
    options = {"box": 2.8, "n_simulations": 20, "seed": 5}
    with no_compute():
        got = compare.goodness_of_fit(
            dd.from_pandas(table, npartitions=3), lazy(kappa, chunks), lazy(mask, (9, 50)),
            lazy(exposure, (30, 30)), **options,
        )  # fmt: skip
    got = got.compute()
    use = np.isfinite(kappa) & (kappa > 0) & (mask == 0) & (exposure > 0)
    i, j = on_pixels(table)
    nx = SHAPE[1] // 7
    box = (np.arange(SHAPE[0])[:, None] // 7) * nx + np.arange(SHAPE[1]) // 7
    mean = np.bincount(box[use], (kappa * exposure)[use], 90)
    n = np.bincount(box[i, j][use[i, j]], minlength=90)
    good = np.bincount(box[use], minlength=90) >= 24.5
    mean *= n[good].sum() / mean[good].sum()
    np.testing.assert_array_equal(got.counts, n)
    np.testing.assert_array_equal(got.good, good)
    np.testing.assert_allclose(got.expected[good], mean[good])
    assert got.deviance.item() == pytest.approx(
        2 * (stats.poisson.logpmf(n, n) - stats.poisson.logpmf(n, mean))[good].sum()
    )
    assert got.overdispersion.item() == pytest.approx(
        ((n - mean) ** 2 / mean)[good].sum() / (good.sum() - 1)
    )
    whole = compare.goodness_of_fit(
        table, GRID.wrap(kappa, "k", ""), GRID.wrap(mask, "m", ""), GRID.wrap(exposure, "e", ""),
        **options,
    )  # fmt: skip
    np.testing.assert_allclose(got.simulated_deviance, whole.simulated_deviance, rtol=1e-9)


def test_sources_drawn_from_the_map_fit_and_pairs_are_too_clumped():
    rate = 2 * lens() ** 1.5
    image = GRID.wrap(rate, "rate", "arcsec-2")
    p = []
    for seed in range(40):
        got = compare.goodness_of_fit(drawn(rate, seed), image, n_simulations=99, seed=seed)
        p.append(got.p_value.item())
    assert stats.kstest(p, "uniform").pvalue > 0.01
    pairs = pd.concat([drawn(rate / 2)] * 2)
    got = compare.goodness_of_fit(pairs, image, n_simulations=200)
    assert got.p_value < 0.01
    assert got.overdispersion.item() == pytest.approx(2, abs=5 * got.overdispersion_error.item())
    assert got.overdispersion_p_value < 0.01


def test_an_absolute_map_is_tested_for_its_level_too():
    rate = 2 * lens()
    table = drawn(rate)
    double = GRID.wrap(2 * rate, "rate", "arcsec-2")
    assert compare.goodness_of_fit(table, double, n_simulations=200).p_value > 0.01
    assert compare.goodness_of_fit(table, double, n_simulations=200, absolute=True).p_value < 0.01
    empty = compare.goodness_of_fit(table.iloc[:0], double, n_simulations=5)
    assert empty.attrs["status"].startswith("unconstrained: no source")
    assert np.isnan([empty.deviance, empty.p_value, empty.overdispersion]).all()


def test_results_are_what_they_declare_and_survive_storage(tmp_path):
    table, kappa, *_ = field()
    sources, image = dd.from_pandas(table, npartitions=2), lazy(kappa, (20, 30))
    for name, lazily in {
        "maps": poisson_loglike(sources, {"kappa": image, "rho": LeaveOneOut()}),
        "power": compare.fit_tracer_power(sources, image, contamination="fit"),
        "goodness": compare.goodness_of_fit(sources, image, n_simulations=10),
    }.items():
        assert reduce.is_lazy(lazily)
        done = lazily.compute()
        for v in lazily.data_vars:
            assert (lazily[v].dtype, lazily[v].shape) == (done[v].dtype, done[v].shape), (name, v)
            assert {"units", "long_name"} <= set(done[v].attrs) or v in ("x", "y", "ra", "dec")
        done.to_zarr(tmp_path / f"{name}.zarr", zarr_format=3, consolidated=False)
        stored = xr.open_zarr(tmp_path / f"{name}.zarr", consolidated=False).compute()
        xr.testing.assert_equal(stored, done)


# -- lens models --------------------------------------------------------------------------------
def test_the_true_map_of_as1063_wins_and_its_power_is_found():
    kappa = mocks.as1063_kappa()
    table = mocks.clusters(kappa, 1.5, contamination=0.0)
    ranked = poisson_loglike(table, kappa_powers(kappa, (1, 1.5, 2)) | {"rho": LeaveOneOut()})
    ranked = ranked.compute()
    assert ranking(ranked)[0] == "kappa^1.5"
    pairs = ranked.sel(map="kappa^1.5").drop_sel(map_2="kappa^1.5")
    assert (pairs.dlnL_pair > 5 * pairs.dlnL_pair_error).all()
    fit = compare.fit_tracer_power(table, kappa).compute()
    assert abs(fit.g - 1.5) < 3 * fit.error
    assert fit.error < 0.02
    same = compare.goodness_of_fit(table, kappa_powers(kappa, (1.5,))["kappa^1.5"]).compute()
    assert same.p_value > 0.01
    other = compare.goodness_of_fit(table, kappa, n_simulations=200).compute()
    assert other.p_value < 0.01


def test_with_contaminants_only_a_map_that_has_them_wins():
    kappa = mocks.as1063_kappa()
    table = mocks.clusters(kappa, 1.5)
    maps = kappa_powers(kappa, (1, 1.5, 2)) | {"truth": mocks.intensity(kappa, 1.5)}
    ranked = poisson_loglike(table, maps).compute()
    assert ranking(ranked)[0] == "truth"
    pairs = ranked.sel(map="truth").drop_sel(map_2="truth")
    assert (pairs.dlnL_pair > 3 * pairs.dlnL_pair_error).all()
    assert (pairs.dlnL_pair > 9 * pairs.dlnL_pair_error_poisson).all()


def test_contaminants_of_as1063_are_fitted_together_with_g():
    kappa = mocks.as1063_kappa()
    table = mocks.clusters(kappa, 1.5)
    fit = compare.fit_tracer_power(table, kappa, contamination="fit").compute()
    assert abs(fit.g - 1.5) < 3 * fit.error
    assert abs(fit.contamination - mocks.CONTAMINATION) < 3 * fit.contamination_error
    assert fit.status == ""
    given = compare.fit_tracer_power(table, kappa, contamination=mocks.CONTAMINATION).compute()
    assert abs(given.g - 1.5) < 3 * given.error
    ignored = compare.fit_tracer_power(table, kappa).compute()
    assert ignored.g < 1.5 - 5 * ignored.error


@pytest.mark.slow
def test_errors_of_g_are_the_scatter_of_mocks():
    kappa = mocks.as1063_kappa()
    pure = mocks.intensity(kappa, 1.5, contamination=0.0)
    mixed = mocks.intensity(kappa, 1.5)
    pulls, independent, pair = [], [], []
    with dask.config.set(scheduler="synchronous"):
        for k in range(100):
            table = density.draw_sources(pure, 7, realisation=k).compute()
            fit = compare.fit_tracer_power(table, kappa).compute()
            more = density.draw_sources(mixed, 8, realisation=k).compute()
            both = compare.fit_tracer_power(more, kappa, contamination="fit").compute()
            pulls.append(
                [
                    (fit.g - 1.5) / fit.error,
                    (both.g - 1.5) / both.error,
                    (both.contamination - mocks.CONTAMINATION) / both.contamination_error,
                ]
            )
            independent.append((fit.g - 1.5) / fit.error_poisson)
            ranked = poisson_loglike(table, kappa_powers(kappa, (1, 1.5))).compute()
            two = ranked.sel(map="kappa^1.5", map_2="kappa")
            pair.append([two.dlnL_pair, two.dlnL_pair_error, two.dlnL_pair_error_poisson])
    width = np.std(pulls, axis=0)
    assert ((width > 0.8) & (width < 1.2)).all(), width
    assert (np.abs(np.mean(pulls, axis=0)) < 0.3).all()
    assert 0.8 < np.std(independent) < 1.2
    value, error, poisson = np.transpose(pair)
    assert np.std(value) == pytest.approx(np.mean(poisson), rel=0.25)
    assert np.mean(error) > np.std(value)  # a density that varies from block to block


def test_smacs0723_clusters_prefer_the_lens_and_a_steeper_law(shared_data):
    """The numbers of the reference analysis: the Lenstool model at z_s = 3, pixels of 0.2"."""
    model = lensing.read_lenstool(shared_data / "smacs0723/mahler2022_iclv2_best.par")
    center = (110.826989, -73.454723)
    table = catalog.faisst2022().compute()
    table = table[np.hypot(*tangent_offsets(table.ra, table.dec, center)) < 60]
    kappa = model.kappa(Grid.tangent(center, (601, 601), 0.2), 3.0)
    with no_compute():
        maps = kappa_powers(kappa, (1, 2.5)) | {"rho": LeaveOneOut()}
        ranked = poisson_loglike(table, maps, center=center, radius=60)
        fit = compare.fit_tracer_power(table, kappa, center=center, radius=60)
    ranked, fit = ranked.compute(), fit.compute()
    assert ranked.n == 159
    assert ranked.dlnL.sel(map="kappa").item() == pytest.approx(97, rel=0.02)
    assert ranked.dlnL_error.sel(map="kappa").item() == pytest.approx(12, rel=0.1)
    steeper = ranked.sel(map="kappa^2.5", map_2="kappa")
    assert steeper.dlnL_pair.item() == pytest.approx(66, abs=2)
    assert steeper.dlnL_pair > 5 * steeper.dlnL_pair_error
    assert 2.3 < fit.g < 2.7
    assert 0.08 < fit.error < 0.2
    # so concentrated is the catalogue that its own density, smoothed, is likelier than the lens
    assert ranking(ranked) == ["rho", "kappa^2.5", "kappa", "uniform"]
