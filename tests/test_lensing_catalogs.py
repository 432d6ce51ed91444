"""Magnifications and counter images of catalogues, on mocks with a known lens."""

import pickle

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from conftest import no_compute
from mocks import AS1063 as CENTER
from mocks import HALO
from scipy.optimize import minimize_scalar

from gcdask import catalog as catalogs
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels.ratios import flux_ratio
from gcdask.lensing import (
    LenstoolModel,
    add_magnification,
    flux_ratio_test,
    match_counter_images,
    read_lenstool,
)

Z = 2.0
BANDS = ["f090w", "f150w", "f200w", "f444w"]
OPTIONS = {"flux": BANDS, "flux_error": [f"e_{b}" for b in BANDS], "step": 0.5}


def lens_with(**changes):
    return LenstoolModel.from_potentials([{**HALO, **changes}], CENTER, 0.348, name="truth")


TRUTH = lens_with()


def sources(n=1000, seed=0):
    x, y = np.random.default_rng(seed).normal(0, 20, (2, n))
    ra, dec = TRUTH.sky(x, y)
    return pd.DataFrame({"id": np.arange(n) + 7, "ra": ra, "dec": dec, "flux": 1.0})


def mock(n_sources=6, noise=0.5, shift=0.05, n_field=20, seed=0):
    """Images of sources in their lensed fluxes, and field sources; the truth's pairs of ids."""
    rng = np.random.default_rng(seed)
    rows, families = [], []
    for _ in range(n_sources):
        seen = TRUTH.counter_images(*TRUTH.sky(*rng.uniform(-14, 14, 2)), Z)
        seen = seen[np.abs(seen["mu"]) > 0.5]  # central images are too faint to have a colour
        color = 30 * 10 ** rng.normal(0, 0.4, len(BANDS))
        families.append(range(len(rows), len(rows) + len(seen)))
        rows += [(*TRUTH.xy(r.ra, r.dec), color * abs(r.mu)) for r in seen.itertuples()]
    for _ in range(n_field):
        rows.append((*rng.uniform(-40, 40, 2), 60 * 10 ** rng.normal(0, 0.4, len(BANDS))))
    x, y = np.array([r[:2] for r in rows]).T + rng.normal(0, shift, (2, len(rows)))
    ra, dec = TRUTH.sky(x, y)
    flux = np.array([r[2] for r in rows]) + rng.normal(0, noise, (len(rows), len(BANDS)))
    table = pd.DataFrame({"id": 100 + np.arange(len(rows)), "ra": ra, "dec": dec})
    table[BANDS] = flux
    table[OPTIONS["flux_error"]] = noise
    pairs = {(100 + i, 100 + j) for f in families for i in f for j in f if i < j}
    return table, pairs, families


def pairs_of(found):
    return {tuple(sorted(p)) for p in zip(found["id"], found["counter_id"], strict=True)}


# -- magnification ----------------------------------------------------------------------------
@pytest.mark.parametrize("npartitions", [1, 3, 17])
def test_magnifications_for_any_partitions(npartitions):
    table = sources()
    models = {"a": TRUTH, "b": lens_with(v_disp=900.0), "c-3": lens_with(core_radius=8.0)}
    with no_compute():
        lazy = add_magnification(
            dd.from_pandas(table, npartitions=npartitions), models, Z, per_model=True
        )
    found = lazy.compute()
    each = np.array([m.magnification_at(table["ra"], table["dec"], Z) for m in models.values()])
    np.testing.assert_array_equal(found[["mu_a", "mu_b", "mu_c_3"]].to_numpy().T, each)
    np.testing.assert_allclose(found["mu"], np.median(np.abs(each), axis=0))
    np.testing.assert_allclose(found["mu_error"], np.abs(each).std(axis=0, ddof=1), rtol=1e-9)
    assert (found.dtypes == lazy.dtypes).all()
    assert list(found.columns) == list(lazy.columns)
    assert (found["id"] == table["id"]).all()


def test_one_model_has_no_spread():
    table = sources(20)
    table.loc[[3, 4], ["ra", "dec"]] = [[np.nan, CENTER[1]], [CENTER[0], np.inf]]
    found = add_magnification(table, TRUTH, Z).compute()
    assert list(found.columns) == [*table.columns, "mu"]
    assert found["mu"].isna().to_numpy().nonzero()[0].tolist() == [3, 4]
    assert (found["mu"].dropna() > 0).all()
    spread = add_magnification(table, {"one": TRUTH}, Z).compute()
    np.testing.assert_array_equal(spread["mu"], found["mu"])
    assert spread["mu_error"].isna().all()
    empty = add_magnification(table[:0], {"a": TRUTH, "b": TRUTH}, Z).compute()
    assert (len(empty), empty["mu_error"].dtype) == (0, np.float64)


def test_units_and_places_are_kept_and_models_travel_once(tmp_path):
    grid = Grid.tangent(CENTER, (400, 400), 0.2)
    x, y = np.random.default_rng(0).uniform(0, 399, (2, 300))
    table = catalogs.make_catalog(x, y, grid)
    catalogs.write(dd.from_pandas(table, npartitions=4), tmp_path / "cat", grid=grid)
    stored = catalogs.read(tmp_path / "cat")
    assert catalogs.part_boxes(stored, grid) is not None
    found = add_magnification(stored, TRUTH, Z)
    assert catalogs.part_boxes(found, grid) is not None
    assert found._meta.attrs["units"]["mu"] == ""
    assert found._meta.attrs["units"]["ra"] == "deg"
    many = dd.from_pandas(sources(), npartitions=50)
    graph = dict(add_magnification(many, TRUTH, Z).optimize().__dask_graph__())
    heavy = [k for k, v in graph.items() if len(pickle.dumps(v)) > len(pickle.dumps(TRUTH)) / 2]
    holders = [k for k in heavy if b"LenstoolModel" in pickle.dumps(graph[k])]
    assert len(holders) == 1


@pytest.mark.parametrize(
    ("models", "z", "message"),
    [
        ({}, Z, "models is empty"),
        ({"a": "best.par"}, Z, "model 'a' is a str"),
        ({"a": TRUTH}, 0.3, "not behind the lens"),
        ({"a b": TRUTH, "a_b": TRUTH}, Z, "the same columns"),
    ],
)
def test_bad_models(models, z, message):
    with no_compute(), pytest.raises(InputError, match=message):
        add_magnification(sources(5), models, z, per_model=True)
    with pytest.raises(InputError, match="no dec"):
        add_magnification(sources(5).drop(columns="dec"), TRUTH, Z)


# -- flux ratios ------------------------------------------------------------------------------
def test_ratio_of_fluxes_is_the_best_of_all_ratios():
    rng = np.random.default_rng(1)
    for true in (0.02, 0.7, 3.0, 400.0):
        flux = np.array([20.0, 50.0, 80.0, 30.0])
        error, other_error = np.full(4, 1.0), np.full(4, max(true, 1.0))
        a, b = flux + rng.normal(0, error), true * flux + rng.normal(0, other_error)

        def chi2(log_ratio, a=a, b=b, error=error, other_error=other_error):
            r = np.exp(log_ratio)
            return ((b - r * a) ** 2 / (other_error**2 + r**2 * error**2)).sum()

        fit = flux_ratio(a, error, b, other_error, true)
        bounds = np.log(true) - 1, np.log(true) + 1
        best = minimize_scalar(chi2, bounds=bounds, method="bounded", options={"xatol": 1e-9})
        assert fit.ratio == pytest.approx(np.exp(best.x), rel=1e-4)
        assert fit.color_chi2 == pytest.approx(best.fun, rel=1e-6)
        assert fit.chi2 == pytest.approx(chi2(np.log(true)) - best.fun, abs=1e-6)
        swapped = flux_ratio(b, other_error, a, error, 1 / true)
        assert swapped.ratio == pytest.approx(1 / fit.ratio, rel=1e-4)
        assert swapped.chi2 == pytest.approx(fit.chi2, abs=1e-5)


def test_errors_of_ratios_are_calibrated():
    rng = np.random.default_rng(0)
    flux, true = np.array([20.0, 50.0, 80.0, 30.0]), 1.7
    one = np.ones(4)
    fits = [
        flux_ratio(flux + rng.normal(0, 1, 4), one, true * flux + rng.normal(0, 1, 4), one, true)
        for _ in range(400)
    ]
    pull = np.array([(f.ratio - true) / f.error for f in fits])
    assert abs(pull.mean()) < 0.2
    assert pull.std() == pytest.approx(1, abs=0.12)
    assert np.mean([f.chi2 for f in fits]) == pytest.approx(1, abs=0.25)
    assert np.mean([f.color_chi2 for f in fits]) == pytest.approx(3, abs=0.4)


# -- counter images ---------------------------------------------------------------------------
def test_images_of_one_source_are_matched_and_the_right_lens_wins():
    table, truth, families = mock(shift=0.0)
    models = {"true": TRUTH, "wrong": lens_with(v_disp=1040.0, ellipticity=0.3)}
    found = match_counter_images(table, models, Z, radius=3.0, **OPTIONS)
    ours = found[found["model"] == "true"]
    assert len(truth) >= 12
    assert pairs_of(ours) == truth
    assert ours["separation"].max() < 1e-4
    assert ours["family"].nunique() == sum(len(f) > 1 for f in families)
    # each reference is the brightest of its family
    first = ours[ours["reference"]]
    assert first.groupby("family")["id"].nunique().eq(1).all()
    assert len(first) == sum(len(f) - 1 for f in families)
    test = flux_ratio_test(found)
    chi2 = dict(zip(test.model.values, test.chi2.values, strict=True))
    assert test.dof.values[0] == len(first)
    assert test.p_value.values[0] > 1e-3
    assert chi2["wrong"] > 5 * chi2["true"]
    assert test.p_value.values[1] < 1e-9


def test_positions_off_by_a_twentieth_of_an_arcsec_are_a_systematic_error():
    table, truth, _ = mock(shift=0.05)
    tests = []
    for systematic in (0.0, 0.3):
        found = match_counter_images(table, TRUTH, Z, radius=3.0, systematic=systematic, **OPTIONS)
        assert pairs_of(found) == truth
        tests.append(flux_ratio_test(found))
    assert tests[0].p_value.item() < 1e-9
    assert tests[1].p_value.item() > 1e-3
    with pytest.raises(InputError, match="systematic = -1"):
        match_counter_images(table, TRUTH, Z, systematic=-1, **OPTIONS)


def test_colours_tell_neighbours_apart():
    """A field source right at a predicted image, in other colours, is not its counterpart."""
    table, truth, _ = mock(n_sources=3, n_field=0)
    near = table.assign(id=table["id"] + 1000)
    near[BANDS] = near[BANDS].to_numpy()[:, ::-1] + 40
    both = pd.concat([table, near], ignore_index=True)
    found = match_counter_images(both, TRUTH, Z, radius=0.5, **OPTIONS)
    assert truth <= pairs_of(match_counter_images(both, TRUTH, Z, radius=2.0, **OPTIONS))
    mixed = [p for p in pairs_of(found) if (p[0] < 1000) != (p[1] < 1000)]
    assert mixed == []
    loose = match_counter_images(both, TRUTH, Z, radius=0.5, sigmas=200.0, **OPTIONS)
    assert any((a < 1000) != (b < 1000) for a, b in pairs_of(loose))


def test_order_partitions_and_bands_without_data_do_not_matter():
    table, truth, _ = mock(n_sources=3)
    expected = match_counter_images(table, TRUTH, Z, **OPTIONS)
    mixed = table.sample(frac=1, random_state=1)
    found = match_counter_images(
        dd.from_pandas(mixed, npartitions=4, sort=False), TRUTH, Z, **OPTIONS
    )
    pd.testing.assert_frame_equal(found, expected)
    holes = table.copy()
    holes.loc[::2, "f150w"] = np.nan
    holes.loc[1::3, "e_f444w"] = 0.0
    assert pairs_of(match_counter_images(holes, TRUTH, Z, **OPTIONS)) == truth
    blank = table.assign(**dict.fromkeys(BANDS, np.nan))
    found = match_counter_images(blank, TRUTH, Z, **OPTIONS)
    assert truth <= pairs_of(found)
    assert (found["color_dof"] == 0).all()
    assert found["chi2"].isna().all()
    assert flux_ratio_test(found).status.item().startswith("unconstrained")


def test_nothing_to_match():
    table, _, _ = mock(n_sources=0, n_field=2)
    table.loc[0, "ra"] = np.nan
    found = match_counter_images(table, {"a": TRUTH}, Z, **OPTIONS)
    assert len(found) == 0
    assert found.attrs["n_unplaced"] == {"a": 1}
    test = flux_ratio_test(found, ["a"])
    assert test.n_pairs.item() == 0
    assert np.isnan(test.chi2.item())
    assert test.status.item().startswith("unconstrained: 0 pairs")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flux": [*BANDS[:3], "f999w"]}, "no f999w"),
        ({"flux": [*BANDS[:3], "word"]}, "column 'word' has dtype"),
        ({"flux": BANDS[:2]}, "as many errors as fluxes"),
        ({"flux": "f090w"}, "lists of one column"),
        ({"flux": [], "flux_error": []}, "flux is empty"),
        ({"radius": 0.0}, "radius = 0"),
        ({"sigmas": np.nan}, "sigmas = nan"),
        ({"models": {}}, "models is empty"),
        ({"z_source": 0.2}, "not behind the lens"),
    ],
)
def test_bad_options(changes, message):
    table, _, _ = mock(n_sources=0, n_field=2)
    table["word"] = "bright"
    arguments = {"models": TRUTH, "z_source": Z, **OPTIONS, **changes}
    with pytest.raises(InputError, match=message):
        match_counter_images(table, **arguments)


def test_names_of_sources_are_numbers_and_the_sources_not_too_many():
    table, _, _ = mock(n_sources=0, n_field=2)
    with pytest.raises(InputError, match="column 'id' has dtype"):
        match_counter_images(table.assign(id=["a", "b"]), TRUTH, Z, **OPTIONS)
    many = pd.concat([table] * 1001, ignore_index=True)
    with pytest.raises(InputError, match="2002 sources, above 2000"):
        match_counter_images(many, TRUTH, Z, **OPTIONS)
    with pytest.raises(InputError, match="column 'ra' has dtype"):
        add_magnification(table.assign(ra="here"), TRUTH, Z)


# -- real -------------------------------------------------------------------------------------
def test_the_sparklers_images_are_matched_with_their_published_magnifications(shared_data):
    """Mowla et al. 2022 give fluxes of image 2 alone, so that only positions can be matched."""
    folder = shared_data / "smacs0723"
    models = {v: read_lenstool(folder / f"mahler2022_{v}_best.par") for v in ("iclv0", "iclv2")}
    table = pd.DataFrame(
        {
            "id": [1, 2, 3],
            "ra": [110.83846, 110.84051, 110.83614],
            "dec": [-73.45102, -73.45487, -73.45879],
            "flux": np.nan,
            "error": 1.0,
        }
    )
    found = add_magnification(table, models, 1.378).compute()
    np.testing.assert_allclose(found["mu"], [4.32, 13.33, 3.87], rtol=0.002)
    np.testing.assert_allclose(found["mu_error"], [1.27, 1.18, 1.47], atol=0.01)
    pairs = match_counter_images(
        table, models, 1.378, flux=["flux"], flux_error=["error"], radius=1.5
    )
    for name in models:
        assert pairs_of(pairs[pairs["model"] == name]) == {(1, 2), (2, 3), (1, 3)}
