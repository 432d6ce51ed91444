"""Annuli of catalogues and maps, contamination and slopes against plain NumPy and known truths."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdask import profiles
from gcdask.errors import InputError
from gcdask.grid import Field, Grid, tangent_offsets

CENTER = (342.18323, -44.53088)
FIELD = Field(CENTER, 0.348)
CHUNKS = [(150, 160), (75, 80), (47, 160), (13, 29)]


def sky(east, north):
    """RA, Dec whose gnomonic offsets from the centre are these (exact inverse)."""
    return Grid.tangent(CENTER, (1, 1), 1.0).sky(-np.asarray(east), np.asarray(north))


def table(east, north):
    ra, dec = sky(east, north)
    return pd.DataFrame({"ra": ra, "dec": dec})


def power_law(n, slope, r_in, r_out, rng):
    """Offsets of sources with density proportional to r^slope between two radii."""
    u = rng.random(n)
    p = slope + 2
    r = (
        r_in * (r_out / r_in) ** u
        if p == 0
        else (r_in**p + u * (r_out**p - r_in**p)) ** (1 / p)
    )  # fmt: skip
    angle = rng.uniform(0, 2 * np.pi, n)
    return r * np.sin(angle), r * np.cos(angle)


def lazy(grid, data, chunks, name="map", units=""):
    return grid.wrap(da.from_array(np.asarray(data), chunks=chunks), name, units)


# -- counts -------------------------------------------------------------------------------------
def test_sources_are_counted_in_whole_annuli_without_a_mask():
    rng = np.random.default_rng(0)
    east, north = rng.normal(0, 20, (2, 2000))
    cat = table(east, north)
    cat.loc[7, "dec"] = np.nan
    edges = [0, 3, 13, 60]
    with no_compute():
        got = profiles.radial_profile(dd.from_pandas(cat, npartitions=5), None, edges, field=FIELD)
    got = got.compute()
    r = np.delete(np.hypot(east, north), 7)
    counts = np.histogram(r, edges)[0]
    area = np.pi * np.diff(np.square(edges))
    np.testing.assert_array_equal(got.counts, counts)
    np.testing.assert_allclose(got.area, area)
    np.testing.assert_allclose(got.n, counts / area)
    np.testing.assert_allclose(got.n_error, np.sqrt(counts) / area)
    np.testing.assert_allclose(got.n_kpc2, counts / area / 4.921**2, rtol=1e-3)
    np.testing.assert_allclose(got.r[0], 2.0)  # 2/3 of a disk's radius
    assert (got.n_sources, got.n_invalid) == (2000, 1)
    assert got.n_beyond == (r >= 60).sum()
    assert all("units" in got[v].attrs for v in got.variables)


def test_sources_off_the_annuli_and_empty_annuli_are_counted():
    east, north = [1, 1, 200], [0, 1, 0]
    got = profiles.radial_profile(table(east, north), CENTER, [2, 5, 9])
    assert got.n_beyond == 3
    np.testing.assert_array_equal(got.counts, 0)
    np.testing.assert_array_equal(got.n, 0)
    np.testing.assert_allclose(got.n_error * got.area, 1.841, rtol=1e-3)
    np.testing.assert_allclose(got.n_high * got.area, 1.841, rtol=1e-3)
    none = profiles.radial_profile(table([], []), CENTER, [2, 5, 9])
    assert none.n_sources == 0


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("sector", [None, (100, 50)])
def test_masked_area_and_sources_drop_out_for_every_chunking(chunks, sector):
    grid = Grid.tangent(CENTER, (150, 160), 0.3, angle=33)
    rng = np.random.default_rng(1)
    good = rng.random(grid.shape) > 0.3
    good[20:70, 50:70] = False
    east, north = rng.normal(0, 12, (2, 900))
    cat = dd.from_pandas(table(east, north), npartitions=3)
    edges = profiles.log_edges(0.7, 40.3, 9)
    mask = lazy(grid, np.where(good, 0, 4).astype(np.uint16), chunks)
    with no_compute():
        got = profiles.radial_profile(cat, CENTER, edges, mask, sector=sector)
    got = got.compute()

    def inside(e, n):
        turn = (np.degrees(np.arctan2(e, n)) - (sector or (0, 180))[0] + 180) % 360 - 180
        return np.abs(turn) <= (sector or (0, 180))[1]

    x, y = grid.mesh()
    pe, pn = grid.offsets(x, y, CENTER)
    use = good & inside(pe, pn)
    pixels = np.histogram(np.hypot(pe, pn)[use], edges)[0]
    np.testing.assert_allclose(got.area, pixels * grid.pixel_scale**2)
    sx, sy = grid.pixel(*sky(east, north))
    ix, iy = np.floor(sx + 0.5).astype(int), np.floor(sy + 0.5).astype(int)
    on = (ix >= 0) & (ix < 160) & (iy >= 0) & (iy < 150)
    on[on] = good[iy[on], ix[on]]
    r = np.hypot(east, north)
    counts = np.histogram(r[on & inside(east, north)], edges)[0]
    np.testing.assert_array_equal(got.counts, counts)
    ringed = (r >= edges[0]) & (r < edges[-1]) & inside(east, north)
    assert got.n_masked == (ringed & ~on).sum()
    assert got.n_beyond == (~ringed).sum()
    assert got.n_masked + got.n_beyond + got.counts.sum() == got.n_sources == 900


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 60), st.integers(4, 60))
def test_counts_are_identical_for_any_chunks(seed, cy, cx):
    rng = np.random.default_rng(seed)
    grid = Grid.tangent(CENTER, (60, 60), 0.5, angle=float(rng.uniform(0, 360)))
    good = rng.random(grid.shape) > 0.4
    cat = table(*rng.normal(0, 8, (2, 100)))
    edges = [0.5, 2, 5, 14]
    whole = profiles.radial_profile(cat, CENTER, edges, grid.wrap(~good, "mask", ""))
    parts = profiles.radial_profile(cat, CENTER, edges, lazy(grid, ~good, (cy, cx)))
    np.testing.assert_array_equal(parts.counts, whole.counts)
    np.testing.assert_array_equal(parts.area, whole.area)


def test_a_footprint_replaces_the_mask():
    grid = Grid.tangent(CENTER, (100, 100), 0.5)
    image = np.ones(grid.shape)
    image[:, :40] = np.nan
    cat = table(*np.random.default_rng(3).normal(0, 10, (2, 500)))
    like = profiles.radial_profile(cat, CENTER, [1, 10, 20], like=grid.wrap(image, "sci", ""))
    mask = grid.wrap(np.isnan(image), "mask", "")
    masked = profiles.radial_profile(cat, CENTER, [1, 10, 20], mask)
    np.testing.assert_array_equal(like.counts, masked.counts)
    np.testing.assert_array_equal(like.area, masked.area)
    both = profiles.radial_profile(
        cat, CENTER, [1, 10, 20], grid.wrap(image > 9, "m", ""), like=grid.wrap(image, "sci", "")
    )
    np.testing.assert_array_equal(both.area, like.area)


def test_annuli_without_unmasked_pixels_are_nan_with_their_counts():
    grid = Grid.tangent(CENTER, (100, 100), 0.2)
    mask = grid.wrap(np.zeros(grid.shape, np.uint16), "mask", "")
    cat = table([0.5, 3, 50], [0, 0, 0])
    got = profiles.radial_profile(cat, CENTER, [1, 5, 40, 60], mask)
    assert np.isnan(got.n[2])
    assert got.area[2] == 0
    assert got.counts.values.tolist() == [1, 0, 0]
    assert got.n_masked == 1
    off = profiles.radial_profile(cat, (CENTER[0] + 1, CENTER[1]), [1, 5], mask)
    assert np.isnan(off.n).all()
    with pytest.raises(InputError, match="do not increase"):
        profiles.radial_profile(cat, CENTER, [1, 5, 5], mask)
    with pytest.raises(InputError, match="do not increase from 0"):
        profiles.radial_profile(cat, CENTER, [-1, 5], mask)
    with pytest.raises(InputError, match="center is None"):
        profiles.radial_profile(cat, None, [1, 5], mask)
    with pytest.raises(InputError, match="sector"):
        profiles.radial_profile(cat, CENTER, [1, 5], mask, sector=(0, 270))
    with pytest.raises(InputError, match="r_min"):
        profiles.log_edges(0, 5, 3)


# -- maps ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_maps_profile_is_mean_and_deviation_for_every_chunking(chunks):
    grid = Grid.tangent(CENTER, (150, 160), 0.3, angle=200)
    rng = np.random.default_rng(5)
    values = (1e4 + rng.normal(0, 1, grid.shape)).astype(np.float64)
    values[40:50, 60:90] = np.nan
    good = rng.random(grid.shape) > 0.2
    edges = [0.4, 3.1, 9.3, 17.2, 70, 90]
    with no_compute():
        got = profiles.radial_profile(
            lazy(grid, values, chunks, units="MJy/sr"), CENTER, edges, lazy(grid, ~good, (44, 51))
        )
    assert got["mean"].attrs["units"] == "MJy/sr"
    got = got.compute()
    x, y = grid.mesh()
    r = np.hypot(*grid.offsets(x, y, CENTER))
    for i in range(4):
        use = good & np.isfinite(values) & (r >= edges[i]) & (r < edges[i + 1])
        if use.any():
            assert got["mean"][i].item() == pytest.approx(values[use].mean(), rel=1e-12)
            assert got["std"][i].item() == pytest.approx(values[use].std(ddof=1), rel=1e-6)
        assert got.n_pixels[i] == use.sum()
    assert np.isnan(got["mean"][4])
    assert got.n_pixels[4] == 0


def test_a_finer_mask_serves_a_coarse_map():
    fine = Grid.tangent(CENTER, (120, 120), 0.25)
    coarse = fine.coarsen(4)
    good = np.random.default_rng(0).random((30, 30)) > 0.5
    mask = fine.wrap(np.kron(~good, np.ones((4, 4), bool)), "mask", "")
    kappa = coarse.wrap(np.random.default_rng(1).random((30, 30)), "kappa", "")
    a = profiles.radial_profile(kappa, CENTER, [0, 5, 14], mask)
    b = profiles.radial_profile(kappa, CENTER, [0, 5, 14], coarse.wrap(~good, "mask", ""))
    np.testing.assert_allclose(a["mean"], b["mean"])
    np.testing.assert_array_equal(a.n_pixels, b.n_pixels)


# -- several fields -----------------------------------------------------------------------------
def test_two_modules_combine_to_one_profile():
    rng = np.random.default_rng(7)
    cat = table(*power_law(4000, -2, 1, 250, rng))
    edges = profiles.log_edges(1, 250, 12)
    near = Grid.tangent(CENTER, (200, 200), 0.6)
    away = Grid.tangent(tuple(float(v) for v in sky(170, 0)), (200, 200), 0.6, angle=70)
    modules = [
        profiles.radial_profile(cat, CENTER, edges, g.wrap(np.zeros(g.shape, bool), "m", ""))
        for g in (near, away)
    ]
    both = profiles.combine(modules)
    np.testing.assert_array_equal(both.counts, modules[0].counts + modules[1].counts)
    np.testing.assert_allclose(both.area, modules[0].area + modules[1].area)
    np.testing.assert_allclose(both.n, both.counts / both.area)
    inner, outer = both.n[2].item(), both.n[-1].item()
    assert outer < inner / 1000
    with pytest.raises(InputError, match="differ in their annuli"):
        profiles.combine([modules[0], profiles.radial_profile(cat, CENTER, [1, 2])])


def test_map_profiles_of_halves_combine_to_that_of_the_whole():
    grid = Grid.tangent(CENTER, (80, 80), 0.5)
    image = grid.wrap(np.random.default_rng(8).random((80, 80)), "light", "MJy/sr")
    edges = [0, 4, 9, 18]
    whole = profiles.radial_profile(image, CENTER, edges)
    halves = [profiles.radial_profile(image.isel(x=s), CENTER, edges)
              for s in (slice(0, 33), slice(33, 80))]  # fmt: skip
    both = profiles.combine(halves)
    for name in ("mean", "std", "n_pixels"):
        np.testing.assert_allclose(both[name], whole[name], rtol=1e-9)
    assert both["mean"].attrs["units"] == "MJy/sr"


# -- contamination ------------------------------------------------------------------------------
def uniform(n, r_max, rng):
    return power_law(n, 0, 0, r_max, rng)


def test_contamination_by_each_method_and_what_it_is_called():
    rng = np.random.default_rng(9)
    cat = table(*uniform(5000, 80, rng))
    profile = profiles.radial_profile(cat, CENTER, profiles.log_edges(1, 80, 10), field=FIELD)
    true = 5000 / (np.pi * 80**2)
    outer = profiles.contamination(profile, r_min=30)
    part = profile.isel(annulus=profile.r_inner.values >= 30)
    assert outer.value.item() == pytest.approx((part.counts.sum() / part.area.sum()).item())
    assert outer.error.item() == pytest.approx(outer.value.item() / part.counts.sum().item() ** 0.5)
    assert outer.value.item() == pytest.approx(true, rel=0.05)
    assert outer.is_upper_limit
    assert outer.value_kpc2.item() == pytest.approx(outer.value.item() / FIELD.kpc_per_arcsec**2)
    ref = profiles.contamination(
        profile, method="reference", reference=cat, reference_area=np.pi * 80**2
    )
    assert ref.value.item() == pytest.approx(true)
    assert not ref.is_upper_limit
    same = profiles.contamination(profile, method="reference", reference=profile)
    assert same.counts == profile.counts.sum()
    paper = profiles.contamination(profile, method="given", value=0.015, error=0.001, per="kpc2")
    assert paper.value.item() == pytest.approx(0.363, abs=0.001)  # SCIENCE: 0.015 kpc^-2
    for options in (
        {"method": "guess"},
        {"method": "given"},
        {"method": "reference"},
        {"r_min": 500},
    ):
        with pytest.raises(InputError):
            profiles.contamination(profile, **options)


def test_joint_fit_finds_the_constant_that_the_outer_annuli_overstate():
    rng = np.random.default_rng(10)
    pulls, outers = [], []
    for _ in range(6):
        # sources of a profile with core 8" and slope -2 by rejection, plus a constant 0.15
        east, north = rng.uniform(-200, 200, (2, 60_000))
        r = np.hypot(east, north)
        keep = rng.random(r.size) * 0.375 < 0.225 / (1 + (r / 20) ** 2) + 0.15
        cat = table(east[keep], north[keep])
        profile = profiles.radial_profile(cat, CENTER, profiles.log_edges(2, 200, 18), field=FIELD)
        joint = profiles.contamination(profile, method="joint")
        outer = profiles.contamination(profile)
        pulls.append((joint.value.item() - 0.15) / joint.error.item())
        outers.append(outer.value.item())
        assert joint.status.item() == ""
        assert -3 < joint.outer_slope.item() < -1.3
    assert np.abs(pulls).max() < 3.5
    assert abs(np.mean(pulls)) < 1.3
    assert np.mean(outers) > 0.15


def test_subtraction_propagates_errors_and_stays_lazy():
    cat = dd.from_pandas(table(*uniform(500, 50, np.random.default_rng(0))), npartitions=2)
    with no_compute():
        profile = profiles.radial_profile(cat, CENTER, [1, 10, 30, 50], field=FIELD)
        out = profiles.subtract(profile, profiles.contamination(profile))
        slope = profiles.fit_slope(out, (1, 50), variable="n_corrected")
        both = profiles.combine([profile, profile])
    out = out.compute()
    c = out.n[2].item()
    np.testing.assert_allclose(out.n_corrected, out.n - c)
    apart = np.hypot(out.n_error[:2], out.n_error[2])
    np.testing.assert_allclose(out.n_corrected_error[:2], apart)
    assert out.n_corrected_error[2] < 1e-9  # the level is that of this annulus: nothing is left
    np.testing.assert_allclose(out.n_corrected_kpc2, (out.n - c) / FIELD.kpc_per_arcsec**2)
    assert "lower limit" in out.attrs["note"]
    assert slope.n_annuli.compute() == 3
    assert both.counts.sum().compute() == 2 * out.counts.sum()


def test_results_are_what_they_declare():
    cat = dd.from_pandas(table(*uniform(500, 50, np.random.default_rng(0))), npartitions=2)
    grid = Grid.tangent(CENTER, (60, 60), 1.0)
    image = lazy(grid, np.ones(grid.shape, np.float32), (25, 31), units="MJy/sr")
    counts = profiles.radial_profile(
        cat, CENTER, profiles.log_edges(1, 50, 8), image > 5, field=FIELD
    )
    light = profiles.radial_profile(image, CENTER, profiles.log_edges(1, 50, 8))
    level = profiles.contamination(counts, method="joint")
    for lazily in (
        counts,
        light,
        level,
        profiles.combine([counts, counts]),
        profiles.combine([light, light]),
        profiles.subtract(counts, level),
        profiles.fit_slope(counts, (1, 50)),
        profiles.fit_slope(light, (1, 50), variable="mean"),
    ):
        done = lazily.compute()
        for v in lazily.data_vars:
            assert (lazily[v].dtype, lazily[v].shape) == (done[v].dtype, done[v].shape), v
            assert "units" in done[v].attrs, v


# -- slopes -------------------------------------------------------------------------------------
@pytest.mark.parametrize("slope", [-2.0, -1.2])
def test_slope_of_few_masked_sources_is_unbiased_with_true_errors(slope):
    rng = np.random.default_rng(11)
    grid = Grid.tangent(CENTER, (140, 140), 1.0)
    good = rng.random(grid.shape) > 0.3
    good[:, 90:110] = False
    mask = grid.wrap(~good, "mask", "")
    got, errors = [], []
    for _ in range(25):
        cat = table(*power_law(rng.poisson(150), slope, 13, 60, rng))
        profile = profiles.radial_profile(cat, CENTER, profiles.log_edges(13, 60, 12), mask)
        fit = profiles.fit_slope(profile)
        got.append(fit.slope.item())
        errors.append(fit.slope_error.item())
    assert np.mean(got) == pytest.approx(slope, abs=3 * np.std(got) / 5)
    assert np.median(errors) == pytest.approx(np.std(got), rel=0.4)


def test_slope_after_subtraction_is_that_of_the_clusters():
    rng = np.random.default_rng(12)
    a, b = power_law(3000, -2, 5, 60, rng), uniform(4000, 60, rng)
    cat = table(np.r_[a[0], b[0]], np.r_[a[1], b[1]])
    profile = profiles.radial_profile(cat, CENTER, profiles.log_edges(5, 60, 15))
    level = profiles.contamination(
        profile, method="given", value=4000 / (np.pi * 60**2), error=0.01
    )
    clean = profiles.subtract(profile, level)
    raw = profiles.fit_slope(profile)
    fit = profiles.fit_slope(clean, variable="n_corrected")
    sharp = profiles.fit_slope(
        profiles.subtract(profile, profiles.contamination(
            profile, method="given", value=4000 / (np.pi * 60**2))),
        variable="n_corrected",
    )  # fmt: skip
    assert raw.slope > -1.3
    assert abs(fit.slope + 2) < 3 * fit.slope_error
    assert fit.slope_error > sharp.slope_error
    assert (fit.amplitude * 5).item() > 0


def test_slope_of_a_map_is_analytic():
    grid = Grid.tangent(CENTER, (601, 601), 0.25)
    x, y = grid.mesh()
    r = np.hypot(*grid.offsets(x, y, CENTER))
    kappa = grid.wrap(0.8 * (r + 1e-9) ** -1.0, "kappa", "")
    profile = profiles.radial_profile(kappa, CENTER, profiles.log_edges(5, 70, 20))
    fit = profiles.fit_slope(profile, (13, 60), variable="mean")
    assert fit.slope.item() == pytest.approx(-1, abs=0.01)
    assert fit.slope_error < 0.01


def test_slopes_that_nothing_constrains_say_so():
    cat = table([14.0, 20.0], [0.0, 0.0])
    profile = profiles.radial_profile(cat, CENTER, profiles.log_edges(5, 60, 10))
    fit = profiles.fit_slope(profile)
    assert np.isnan(fit.slope)
    assert fit.attrs["status"].startswith("unconstrained: 2 of")
    assert np.isnan(profiles.fit_slope(profile, (500, 900)).slope)
    joint = profiles.contamination(profile, method="joint")
    assert np.isnan(joint.value)
    assert joint.attrs["status"].startswith("unconstrained")
    crowd = profiles.radial_profile(
        table(*uniform(300, 60, np.random.default_rng(0))), CENTER, profiles.log_edges(5, 60, 10)
    )
    much = profiles.contamination(crowd, method="given", value=5.0)
    none = profiles.fit_slope(profiles.subtract(crowd, much), (5, 60), variable="n_corrected")
    assert "no excess" in none.attrs["status"]
    with pytest.raises(InputError, match="subtract"):
        profiles.fit_slope(profile, variable="n_corrected")
    with pytest.raises(InputError, match="r_range"):
        profiles.fit_slope(profile, (60, 13))
    for wrong in (5.0, "13-60"):
        with pytest.raises(InputError, match="r_range"):
            profiles.fit_slope(profile, wrong)


# -- real data ----------------------------------------------------------------------------------
def test_smacs0723_clusters_thin_out_from_the_bcg(shared_data):
    cat = pd.read_csv(shared_data / "smacs0723/faisst2022_table1.csv")
    center = (110.826989, -73.454723)
    profile = profiles.radial_profile(cat, center, [0, 20, 40, 60], field=Field(center, 0.39))
    assert profile.counts.sum() == 159
    assert profile.n_beyond == 178 - 159
    assert (np.diff(profile.n) < 0).all()
    r = np.hypot(*tangent_offsets(cat.ra, cat.dec, center))
    np.testing.assert_array_equal(profile.counts, np.histogram(r, [0, 20, 40, 60])[0])
