"""Plateau, contamination of a real lens' profile, lensed contaminants, gradients across a field."""

from contextlib import nullcontext

import dask.array as da
import dask.dataframe as dd
import mocks
import numpy as np
import pandas as pd
import pytest
from conftest import no_compute
from scipy import optimize

from gcdask import density, profiles, reduce
from gcdask.errors import InputError
from gcdask.grid import Field, Grid
from gcdask.kernels import annuli

CENTER = (342.18323, -44.53088)
FIELD = Field(CENTER, 0.348)
FINE = profiles.log_edges(1, 60, 40)


def sky(east, north):
    return Grid.tangent(CENTER, (1, 1), 1.0).sky(-np.asarray(east), np.asarray(north))


def table(east, north):
    ra, dec = sky(east, north)
    return pd.DataFrame({"ra": ra, "dec": dec})


def drawn(shape, n, reach, rng):
    """Sources whose density follows a function of radius, about ``n`` of them."""
    r = np.sqrt(rng.uniform(0, reach**2, 40 * n))
    chance = shape(r)
    r = r[rng.random(r.size) < chance * n / chance.sum()]
    angle = rng.uniform(0, 2 * np.pi, r.size)
    return table(r * np.sin(angle), r * np.cos(angle))


# -- the plateau --------------------------------------------------------------------------------
def test_radius_of_the_plateau_is_found_with_a_true_error():
    rng = np.random.default_rng(0)
    found, errors = [], []
    for _ in range(12):
        cat = drawn(lambda r: np.minimum(1, (13 / r) ** 2), 4000, 60, rng)
        fit = profiles.fit_plateau(profiles.radial_profile(cat, CENTER, FINE), (3, 60))
        assert fit.status.item() == ""
        found.append([fit.radius.item(), fit.slope.item()])
        errors.append([fit.radius_error.item(), fit.slope_error.item()])
    pulls = (np.array(found) - [13, -2]) / errors
    assert np.abs(pulls.mean(0)).max() < 3.5 / np.sqrt(12)
    assert 0.4 < pulls.std(0).min() < pulls.std(0).max() < 1.6


def test_a_plateau_is_found_above_contaminants_that_are_subtracted():
    rng = np.random.default_rng(1)
    clusters = drawn(lambda r: np.minimum(1, (13 / r) ** 2), 6000, 60, rng)
    everything = pd.concat([clusters, drawn(np.ones_like, 6000, 60, rng)])
    profile = profiles.radial_profile(dd.from_pandas(everything, npartitions=3), CENTER, FINE)
    level = profiles.contamination(
        profile, method="given", value=6000 / (np.pi * 60**2), error=0.02
    )
    with no_compute():
        clean = profiles.subtract(profile, level)
        fit = profiles.fit_plateau(clean, variable="n_corrected")
    done = fit.compute()
    for v in fit.data_vars:
        assert (fit[v].dtype, fit[v].shape) == (done[v].dtype, done[v].shape), v
        assert "units" in done[v].attrs, v
    raw = profiles.fit_plateau(profile).compute()
    assert abs(done.radius.item() - 13) < 3 * done.radius_error.item()
    assert abs(done.slope.item() + 2) < 3 * done.slope_error.item()
    assert raw.slope > -1.6
    plain = profiles.contamination(profile, method="given", value=6000 / (np.pi * 60**2))
    sharp = profiles.fit_plateau(profiles.subtract(profile, plain), variable="n_corrected")
    assert done.slope_error > sharp.slope_error.compute()


def test_plateaus_that_are_not_there_are_said_so():
    rng = np.random.default_rng(2)
    flat = profiles.radial_profile(drawn(np.ones_like, 3000, 60, rng), CENTER, FINE)
    assert profiles.fit_plateau(flat).attrs["status"].startswith("unconstrained")
    steep = profiles.radial_profile(drawn(lambda r: (3 / r) ** 2, 3000, 60, rng), CENTER, FINE)
    assert profiles.fit_plateau(steep, (8, 60)).attrs["status"].startswith("unconstrained")
    few = profiles.radial_profile(table([5.0, 9.0], [0, 0]), CENTER, FINE)
    none = profiles.fit_plateau(few)
    assert np.isnan(none.radius)
    assert none.attrs["status"].startswith("unconstrained: 2 of")
    beyond = profiles.fit_plateau(flat, (500, 900))
    assert beyond.attrs["status"].startswith("unconstrained: 0 of 0")
    with pytest.raises(InputError, match="variable = 'mean'"):
        profiles.fit_plateau(flat, variable="mean")


# -- contamination ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def wide():
    """Clusters of AS1063's lens that follow kappa^1.6 out to 250 arcsec, and contaminants."""
    return mocks.intensity(mocks.as1063_kappa(side=500.0, pixel=1.0))


def test_contamination_of_as1063_is_recovered_by_the_joint_fit(wide):
    edges = profiles.log_edges(2, 250, 22)
    pulls, limits = [], []
    for realisation in range(4):
        cat = density.draw_sources(wide, 21, realisation=realisation).compute()
        profile = profiles.radial_profile(cat, mocks.AS1063, edges, field=FIELD)
        joint = profiles.contamination(profile, method="joint")
        outer = profiles.contamination(profile)
        assert joint.status.item() == ""
        assert joint["shape"].item() == "cored Sersic"  # the lens' cut radius bends the profile
        pulls.append((joint.value.item() - mocks.CONTAMINATION) / joint.error.item())
        limits.append(outer.value.item())
        after = profiles.subtract(profile, joint)
        slope = profiles.fit_slope(after, (13, 250), variable="n_corrected")
        assert slope.status.item() == ""
        assert -2.5 < slope.slope < -1.3
    assert np.abs(pulls).max() < 3
    assert abs(np.mean(pulls)) < 1.5
    assert min(limits) > mocks.CONTAMINATION  # an upper limit


def test_two_modules_find_the_contamination_too_with_a_larger_error(wide):
    grid = Grid.of(wide)
    east, north = grid.offsets(*grid.mesh(), mocks.AS1063)
    near = (np.abs(east) < 66) & (np.abs(north) < 66)
    away = (np.abs(east) < 66) & (north > 100) & (north < 232)
    cat = density.draw_sources(wide, 22).compute()
    edges = profiles.log_edges(2, 240, 22)
    modules = [
        profiles.radial_profile(cat, mocks.AS1063, edges, grid.wrap(~m, "mask", ""), field=FIELD)
        for m in (near, away)
    ]
    profile = profiles.combine(modules)
    joint = profiles.contamination(profile, method="joint")
    assert abs(joint.value.item() - mocks.CONTAMINATION) < 3 * joint.error.item()
    assert joint.error.item() > 0.01  # annuli cut by the modules' edges: neither shape fits
    reference = profiles.contamination(profile, method="reference", reference=modules[1])
    assert reference.value > mocks.CONTAMINATION  # clusters are there too


def test_joint_fit_is_scipys_for_one_shape():
    rng = np.random.default_rng(3)
    edges = profiles.log_edges(2, 200, 20)
    inner, outer = edges[:-1], edges[1:]
    area = np.pi * (outer**2 - inner**2)

    def model(p):
        shape = annuli.ring_mean(
            lambda r: np.exp(annuli.power_shape(r, [np.log(p[1]), p[2]])), inner, outer
        )
        return area * (p[0] * shape + p[3])

    counts = rng.poisson(model([1.5, 15, 2.5, 0.2]))
    fit = annuli.profile_and_constant(counts, area, inner, outer)

    def deviance(p):
        mu = model(np.abs(p))
        return (mu - counts * np.log(mu)).sum()

    best = optimize.minimize(
        deviance, [1.5, 15, 2.5, 0.2], method="Nelder-Mead",
        options={"maxiter": 9000, "maxfev": 9000, "xatol": 1e-7, "fatol": 1e-9},
    ).x  # fmt: skip
    assert fit["shape"] == "cored power law"
    assert fit["core"] == pytest.approx(best[1], rel=1e-2)
    assert fit["value"] == pytest.approx(best[3], abs=0.5 * fit["error"])


def test_errors_of_what_is_left_know_that_the_outer_annuli_made_the_level():
    rng = np.random.default_rng(4)
    edges = [1.0, 10, 20, 30, 40]
    left = []
    area = np.pi * np.diff(np.square(edges))
    for _ in range(4000):
        n = rng.poisson(0.3 * area) / area
        level = (n[2:] * area[2:]).sum() / area[2:].sum()
        left.append(n - level)
    cat = drawn(np.ones_like, round(0.3 * np.pi * 40**2), 40, rng)
    profile = profiles.radial_profile(cat, CENTER, edges)
    clean = profiles.subtract(profile, profiles.contamination(profile, r_min=20))
    np.testing.assert_allclose(clean.n_corrected_error, np.std(left, 0), rtol=0.12)


def test_lensed_contaminants_follow_the_magnification():
    grid = Grid.tangent(CENTER, (240, 240), 0.5)
    r = np.hypot(*grid.offsets(*grid.mesh(), CENTER))
    mu = 1 + 30 / (r + 3)
    lens = grid.wrap(da.from_array(-mu, chunks=70), "mu", "")  # parity does not matter
    rng = np.random.default_rng(5)
    shallow = drawn(lambda x: (1 + 30 / (x + 3)) ** (2.5 * 0.2 - 1), 30_000, 55, rng)
    edges = [2.0, 5, 10, 20, 40, 50]
    profile = profiles.radial_profile(shallow, CENTER, edges, field=FIELD)
    field_level = len(shallow) / ((mu**-0.5)[r < 55].sum() * 0.25)
    level = profiles.contamination(profile, method="given", value=field_level)
    with no_compute():
        lensed = profiles.subtract(profile, level, magnification=lens, slope=0.2)
    lensed = lensed.compute()
    unlensed = profiles.subtract(profile, level)
    assert (np.abs(lensed.n_corrected / lensed.n_error) < 4).all()
    assert (unlensed.n_corrected / unlensed.n_error < -4).all()
    same = profiles.subtract(profile, level, magnification=lens, slope=0.4).compute()
    np.testing.assert_allclose(same.n_corrected, unlensed.n_corrected, atol=1e-12)
    by_profile = profiles.radial_profile(lens.copy(data=-lens.data), CENTER, edges).compute()
    near = profiles.subtract(profile, level, magnification=by_profile, slope=0.2)
    np.testing.assert_allclose(near.contamination, lensed.contamination, rtol=0.05)
    with pytest.raises(InputError, match="annuli of the profile"):
        profiles.subtract(profile, level, magnification=by_profile.isel(annulus=slice(1, None)))
    with pytest.raises(InputError, match="slope = nan"):
        profiles.subtract(profile, level, magnification=lens, slope=np.nan)


def test_magnification_counts_in_the_sector_of_the_profile():
    grid = Grid.tangent(CENTER, (120, 120), 0.5)
    _, north = grid.offsets(*grid.mesh(), CENTER)
    mu = grid.wrap(np.where(north > 0, 4.0, 9.0), "mu", "")
    cat = table(*np.random.default_rng(6).uniform(-20, 20, (2, 500)))
    for angle, inside in ((0.0, 4.0), (180.0, 9.0)):
        profile = profiles.radial_profile(cat, CENTER, [5.0, 10, 20], sector=(angle, 60.0))
        level = profiles.contamination(profile, method="given", value=0.1)
        lensed = profiles.subtract(profile, level, magnification=mu, slope=0.2)
        np.testing.assert_allclose(lensed.contamination, 0.1 * inside**-0.5)


# -- gradients ----------------------------------------------------------------------------------
def second_module(distance=170.0, angle=0.0, shape=(130, 140), pixel=1.0):
    """A field ``distance`` arcsec from the cluster at this position angle."""
    a = np.radians(angle)
    middle = tuple(float(v) for v in sky(distance * np.sin(a), distance * np.cos(a)))
    grid = Grid.tangent(middle, shape, pixel, angle=25)
    good = np.random.default_rng(6).random(shape) > 0.2
    good[40:80, 20:60] = False
    return grid, good


@pytest.mark.parametrize("angle", [0, 110, 250])
def test_gradient_of_the_second_module_points_to_the_cluster(angle):
    grid, good = second_module(angle=angle)
    east, north = grid.offsets(*grid.mesh(), CENTER)
    u = np.array([np.sin(np.radians(angle)), np.cos(np.radians(angle))])
    ahead = (170 - (east * u[0] + north * u[1])) / 60  # arcmin towards the cluster
    left = (-east * u[1] + north * u[0]) / 60
    pulls = []
    for realisation in range(6):
        rate = grid.wrap(np.where(good, 0.42 * np.exp(0.25 * ahead - 0.1 * left), 0), "n", "")
        cat = density.draw_sources(rate.chunk(64), 23, realisation=realisation)
        fit = profiles.gradient(
            cat.compute(), grid.wrap(~good, "mask", ""), field=FIELD, contamination=(0.36, 0.01)
        )
        assert fit.status.item() == ""
        x = np.average(ahead[good]), np.average(left[good])
        n = 0.42 * np.exp(0.25 * x[0] - 0.1 * x[1])
        values = [(fit.n, n), (fit.towards, 0.25 * n), (fit.across, -0.1 * n)]
        errors = [fit.n_error, fit.towards_error, fit.across_error]
        pulls.append([(v - t).item() / e.item() for (v, t), e in zip(values, errors, strict=True)])
        assert fit.significance > 2
    assert np.abs(np.mean(pulls, 0)).max() < 3.5 / np.sqrt(6)
    assert fit.distance.item() == pytest.approx(170 / 60, rel=0.03)
    turn = (fit.position_angle.item() - angle - 180 + 180) % 360 - 180
    assert abs(turn) < 4
    assert fit.excess.item() == pytest.approx(fit.n.item() - 0.36)
    assert fit.excess_error.item() == pytest.approx(np.hypot(fit.n_error.item(), 0.01))
    assert fit.towards_kpc2.item() == pytest.approx(fit.towards.item() / FIELD.kpc_per_arcsec**2)


@pytest.mark.parametrize("lazy", [False, True])
def test_the_excess_takes_what_contamination_gives(lazy):
    grid, good = second_module()
    mask = grid.wrap(~good, "mask", "")
    rate = grid.wrap(np.where(good, 0.4, 0), "n", "").chunk(64)
    cat = density.draw_sources(rate, 25).compute()
    profile = profiles.radial_profile(cat, CENTER, [100.0, 150, 250], mask=mask)
    empty = profiles.radial_profile(cat, CENTER, [0.0, 1, 2], mask=mask)
    if lazy:
        profile, empty = profile.chunk(), empty.chunk()
    level = profiles.contamination(profile, r_min=150)
    assert bool(level.chunks is not None and level.value.chunks is not None) == lazy
    with no_compute() if lazy else nullcontext():
        fit = profiles.gradient(cat, mask, towards=CENTER, contamination=level)
    fit = fit.compute()
    assert fit.excess.item() == pytest.approx(fit.n.item() - float(level.value))
    unknown = profiles.contamination(empty)
    assert str(unknown.status.values).startswith("unconstrained")
    fit = profiles.gradient(cat, mask, towards=CENTER, contamination=unknown).compute()
    assert np.isnan([fit.excess, fit.excess_error]).all()
    assert np.isfinite(fit.towards)
    assert reduce.density_level(level) == (float(level.value), float(level.error))
    for wrong in (np.nan, -1.0):
        with pytest.raises(InputError, match="is no density"):
            profiles.gradient(cat, mask, towards=CENTER, contamination=wrong)
    with pytest.raises(InputError, match="is no density"):
        reduce.density_level(unknown)


@pytest.mark.parametrize("chunks", [(130, 140), (40, 33), (7, 140)])
def test_gradient_is_the_same_for_every_chunking(chunks):
    grid, good = second_module()
    rng = np.random.default_rng(7)
    ra, dec = grid.sky(*rng.uniform(-5, 140, (2, 3000)))
    cat = pd.DataFrame({"ra": ra, "dec": dec})
    whole = profiles.gradient(cat, grid.wrap(~good, "mask", ""), towards=CENTER)
    with no_compute():
        lazily = profiles.gradient(
            dd.from_pandas(cat, npartitions=3),
            grid.wrap(da.from_array(~good, chunks=chunks), "mask", ""),
            towards=CENTER,
        )
    done = lazily.compute()
    for v in lazily.data_vars:
        assert (lazily[v].dtype, lazily[v].shape) == (done[v].dtype, done[v].shape), v
        assert "units" in done[v].attrs, v
    assert done.counts == whole.counts
    for v in ("n", "towards", "across_error", "area", "chi2"):
        assert done[v].item() == pytest.approx(whole[v].item(), rel=1e-6), v
    x, y = np.floor(np.stack(grid.pixel(ra, dec)) + 0.5).astype(int)
    on = (x >= 0) & (x < 140) & (y >= 0) & (y < 130)
    on[on] = good[y[on], x[on]]
    assert done.counts == on.sum()
    assert done.area.item() == pytest.approx(good.sum())


def test_a_uniform_field_has_no_gradient_and_an_empty_one_says_so():
    grid, good = second_module()
    mask = grid.wrap(~good, "mask", "")
    significance = []
    for realisation in range(12):
        rate = grid.wrap(np.full(grid.shape, 0.4), "n", "").chunk(64)
        cat = density.draw_sources(rate, 24, realisation=realisation).compute()
        significance.append(profiles.gradient(cat, mask, towards=CENTER).significance.item())
    assert abs(np.mean(significance)) < 3.5 / np.sqrt(12)
    assert 0.5 < np.std(significance) < 1.6
    nothing = profiles.gradient(table([], []), mask, towards=CENTER)
    assert np.isnan(nothing.towards)
    assert nothing.attrs["status"].startswith("unconstrained: 0 sources")
    dark = profiles.gradient(cat, grid.wrap(good | True, "mask", ""), towards=CENTER)
    assert dark.attrs["status"].startswith("unconstrained")
    with pytest.raises(InputError, match="towards is None"):
        profiles.gradient(cat, mask)
    with pytest.raises(InputError, match="smaller than a pixel"):
        profiles.gradient(cat, mask, towards=CENTER, cell=0.2)
