"""beta, correlations, boxes, the n-kappa relation and masses against plain NumPy."""

import math

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import no_compute
from scipy import stats

from gcdask import compare, reduce
from gcdask.errors import InputError
from gcdask.grid import Field, Grid, tangent_offsets
from gcdask.kernels import fits, sums
from gcdask.kernels.lattice import fill_line

CENTER = (110.8, -73.45)
CHUNKS = [(61, 70), (30, 35), (17, 70), (7, 11), (1, 70)]
BITS = np.uint16(8)


def grid_of(shape=(61, 70), scale=0.4, angle=0.0):
    return Grid.tangent(CENTER, shape, scale, angle=angle)


def lensed(grid, seed=0):
    """A convergence and a noisy density that follows it, with a few bad pixels."""
    rng = np.random.default_rng(seed)
    x, y = grid.mesh()
    east, north = grid.offsets(x, y, CENTER)
    kappa = 1.5 / np.sqrt(1 + (east**2 + 1.4 * north**2) / 9)
    rho = kappa * rng.uniform(0.5, 0.8, grid.shape)
    kappa[3, 5], rho[20, 40], rho[50, 10] = np.nan, np.inf, -0.3
    return kappa, rho


def lazy(grid, data, chunks, name="map", units=""):
    return grid.wrap(da.from_array(np.asarray(data), chunks=chunks), name, units)


def sources(n=400, seed=1, size=13.0):
    rng = np.random.default_rng(seed)
    east, north = rng.normal(0, size / 2, (2, n))
    dec = CENTER[1] + north / 3600
    return pd.DataFrame({"ra": CENTER[0] + east / 3600 / np.cos(np.deg2rad(dec)), "dec": dec})


def oracle(kappa, rho, good, east, north, sectors=(90, 270, 180, 0), half=45.0, radius=np.inf):
    use = good & np.isfinite(kappa) & np.isfinite(rho) & (np.hypot(east, north) < radius)
    ratio = lambda m: (kappa[m] * rho[m]).sum() / (rho[m] ** 2).sum()  # noqa: E731
    angle = np.degrees(np.arctan2(east, north)) % 360
    wedge = [use & ((angle - s + half) % 360 < 2 * half) for s in sectors]
    return ratio(use), np.array([ratio(w) for w in wedge]), use, wedge


# -- offsets ------------------------------------------------------------------------------------
def offsets(grid, y, x, center):
    """Offsets of all elements as arrays (2, ny, nx)."""
    lattice = reduce.offsets(grid, y, x, center)
    out = np.empty((len(y), 2, len(x)))
    for i, line in enumerate(out):
        fill_line(lattice, i, np.empty((2, lattice.east.shape[1])), line)
    return out.swapaxes(0, 1)


@pytest.mark.parametrize("center", [CENTER, (110.9, -73.5), (111.5, -73.0)])
def test_offsets_between_nodes_are_those_of_the_wcs(center):
    grid = Grid.tangent(CENTER, (300, 260), 0.4, angle=37)
    x, y = grid.mesh()
    east, north = grid.offsets(x, y, center)
    for cut in (slice(0, 300), slice(37, 90), slice(299, 300)):
        got = offsets(grid, grid.y[cut], grid.x, center)
        np.testing.assert_allclose(got[0], east[cut], atol=2e-5)
        np.testing.assert_allclose(got[1], north[cut], atol=2e-5)


def test_offsets_do_not_depend_on_the_block_of_a_coarsened_cutout():
    grid = Grid.tangent(CENTER, (400, 400), 0.03, angle=20).cut(3, 399, 6, 380).coarsen(4)
    whole = offsets(grid, grid.y, grid.x, CENTER)
    part = offsets(grid, grid.y[13:40], grid.x[5:33], CENTER)
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[13:40, 5:33], b)


# -- beta ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("radius", [None, 9.13])
def test_beta_is_the_ratio_of_sums_for_every_chunking(chunks, radius):
    grid = grid_of(angle=25)
    kappa, rho = lensed(grid)
    mask = np.zeros(grid.shape, np.uint16)
    mask[10:20, 30:45] = BITS
    with no_compute():
        fit = compare.fit_beta(
            lazy(grid, kappa, chunks),
            lazy(grid, rho, (25, 25), units="arcsec-2"),
            CENTER,
            lazy(grid, mask, (40, 9)),
            radius=radius,
        )
    assert fit.beta.attrs["units"] == "arcsec2"
    assert all("units" in fit[v].attrs for v in fit.data_vars)
    got = fit.compute()
    east, north = grid.offsets(*grid.mesh(), CENTER)
    beta, sectors, use, wedge = oracle(kappa, rho, mask == 0, east, north, radius=radius or np.inf)
    assert got.beta.item() == pytest.approx(beta, rel=1e-9)
    np.testing.assert_allclose(got.sector_beta, sectors, rtol=1e-9)
    assert got.n_pixels == use.sum()
    np.testing.assert_array_equal(got.sector_n_pixels, [w.sum() for w in wedge])
    assert got.dispersion.item() == pytest.approx(np.std(sectors, ddof=1))
    assert got.dispersion_relative.item() == pytest.approx(
        np.std(sectors, ddof=1) / np.mean(sectors)
    )
    rms = np.sqrt(np.mean((kappa - beta * rho)[use] ** 2))
    assert got.residual_rms.item() == pytest.approx(rms)


def test_beta_errors_are_the_delete_one_block_jackknife():
    grid = grid_of()
    kappa, rho = lensed(grid)
    fit = compare.fit_beta(lazy(grid, kappa, (20, 20)), lazy(grid, rho, (20, 20)), CENTER)
    east, north = grid.offsets(*grid.mesh(), CENTER)
    _, _, use, wedge = oracle(kappa, rho, np.ones(grid.shape, bool), east, north)
    size = round(10 / 0.4)
    block = (np.arange(61)[:, None] // size) * 100 + np.arange(70) // size
    for members, error in [(use, fit.beta_error), (wedge[1], fit.sector_error.sel(sector="W"))]:
        left = []
        for b in np.unique(block[members]):
            m = members & (block != b)
            left.append((kappa[m] * rho[m]).sum() / (rho[m] ** 2).sum())
        left = np.array(left)
        expected = np.sqrt((left.size - 1) / left.size * ((left - left.mean()) ** 2).sum())
        assert float(error) == pytest.approx(expected, rel=1e-6)
    assert int(fit.n_blocks) == np.unique(block[use]).size


def test_jackknife_error_is_the_scatter_of_mocks():
    grid, scale = grid_of((80, 80), 0.5), 8
    values, errors = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        kappa = rng.gamma(4, 0.2, (80, 80))
        noise = np.kron(rng.normal(1, 0.3, (80 // scale, 80 // scale)), np.ones((scale, scale)))
        fit = compare.fit_beta(
            grid.wrap(kappa, "kappa", ""), grid.wrap(kappa * noise, "rho", ""), jackknife=4.0
        )
        assert not reduce.is_lazy(fit)
        values.append(fit.beta.item())
        errors.append(fit.beta_error.item())
    assert np.median(errors) == pytest.approx(np.std(values), rel=0.3)


@pytest.mark.parametrize("angle", [0, 50, 137, 270])
def test_east_is_where_right_ascension_grows_however_the_grid_is_turned(angle):
    grid = grid_of((60, 60), angle=angle)
    ra, dec = grid.sky(*grid.mesh())
    turn = (ra - CENTER[0]) * np.cos(np.deg2rad(CENTER[1]))
    east = turn > np.abs(dec - CENTER[1]) * 1.2
    south = CENTER[1] - dec > np.abs(turn) * 1.2
    kappa = np.ones((60, 60)) + 2 * east + 5 * south
    fit = compare.fit_beta(
        grid.wrap(kappa, "kappa", ""),
        grid.wrap(np.ones((60, 60)), "rho", ""),
        CENTER,
        grid.wrap((np.hypot(turn, dec - CENTER[1]) * 3600 < 11), "where", ""),
    )
    beta = fit.sector_beta.to_series()
    assert beta["E"] > 2.5
    assert beta["S"] > 4.5
    assert beta["W"] == beta["N"] == 1


def test_where_true_means_use_and_bits_mean_masked_also_when_finer():
    grid = grid_of()
    kappa, rho = lensed(grid)
    k, r = grid.wrap(kappa, "kappa", ""), grid.wrap(rho, "rho", "")
    use = np.zeros(grid.shape, bool)
    use[10:40, 12:50] = True
    base = compare.fit_beta(k, r, CENTER, grid.wrap(use, "use", ""))
    bits = compare.fit_beta(k, r, CENTER, grid.wrap(np.where(use, 0, BITS), "mask", ""))
    assert base.beta.item() == bits.beta.item()
    fine = grid_of((122, 140), 0.2)
    coarse = fine.coarsen(2)
    kc, rc = coarse.wrap(kappa, "kappa", ""), coarse.wrap(rho, "rho", "")
    mask = fine.wrap(da.from_array(np.kron(~use, np.ones((2, 2), bool)), chunks=(33, 45)), "m", "")
    finer = compare.fit_beta(kc, rc, where=~mask.assign_attrs()).compute()
    whole = compare.fit_beta(kc, rc, where=coarse.wrap(use, "use", ""))
    assert finer.n_pixels == whole.n_pixels == base.n_pixels
    assert finer.beta.item() == pytest.approx(whole.beta.item())


def test_nothing_to_use_is_nan_and_counted_and_a_far_centre_is_an_error():
    grid = grid_of()
    kappa, rho = (grid.wrap(v, "map", "") for v in lensed(grid))
    alone = compare.fit_beta(kappa, rho, jackknife=None)
    assert np.isfinite(alone.beta)
    assert np.isnan(alone.beta_error)
    fit = compare.fit_beta(kappa, rho, where=kappa > 100)
    assert fit.n_pixels == 0
    assert np.isnan([fit.beta, fit.beta_error, fit.dispersion, fit.residual_rms]).all()
    with pytest.raises(InputError, match="no pixel of the map lies within 5 arcsec"):
        compare.fit_beta(kappa, rho, (CENTER[0] + 1, CENTER[1]), radius=5)
    with pytest.raises(InputError, match="not on the same pixels"):
        compare.fit_beta(kappa, rho.isel(x=slice(1, None)))
    with pytest.raises(InputError, match="dtype float64"):
        compare.fit_beta(kappa, rho, where=kappa * 1.0)
    with pytest.raises(InputError, match="center"):
        compare.fit_beta(kappa, rho, "M31")
    with pytest.raises(InputError, match="half_width"):
        compare.fit_beta(kappa, rho, half_width=0)


# -- correlation --------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", CHUNKS)
def test_correlation_is_scipys_for_every_chunking(chunks):
    grid = grid_of()
    kappa, rho = lensed(grid)
    k, r = lazy(grid, kappa, chunks), lazy(grid, rho, chunks)
    with no_compute():
        exact = compare.correlation(k, r)
        binned = compare.correlation(k, r, max_exact=10)
    ok = np.isfinite(kappa) & np.isfinite(rho) & (rho > 0)
    pearson = stats.pearsonr(np.log(kappa[ok]), np.log(rho[ok])).statistic
    spearman = stats.spearmanr(kappa[ok], rho[ok]).statistic
    for got in (exact.compute(), binned.compute()):
        assert got.pearson.item() == pytest.approx(pearson, rel=1e-9)
        assert got.n_pixels == ok.sum()
        assert got.n_dropped == 3
    assert exact.spearman.compute().item() == pytest.approx(spearman, rel=1e-12)
    assert binned.spearman.compute().item() == pytest.approx(spearman, abs=2e-4)


def test_binned_ranks_do_not_depend_on_how_the_values_were_split():
    rng = np.random.default_rng(2)
    x, y = rng.lognormal(size=(2, 999))
    whole = sums.pair_counts(x, y)
    parts = [sums.pair_counts(x[i::7], y[i::7]) for i in range(7)]
    merged = sums.merge_counts([sums.merge_counts(parts[:3]), *parts[3:]])
    np.testing.assert_array_equal(merged["code"], whole["code"])
    np.testing.assert_array_equal(merged["count"], whole["count"])


def test_correlation_of_a_constant_map_is_nan():
    grid = grid_of()
    flat = grid.wrap(np.ones(grid.shape), "kappa", "")
    got = compare.correlation(flat, flat)
    assert np.isnan(got.pearson)
    assert np.isnan(got.spearman)


# -- boxes --------------------------------------------------------------------------------------
def box_oracle(x, y, kappa, good, grid, factor, size):
    """Boxes of ``size`` coarse elements over a fine mask ``good``, source by source."""
    ny, nx = kappa.shape
    by, bx = -(-ny // size), -(-nx // size)
    n, share, total = np.zeros((by, bx)), np.zeros((by, bx)), np.zeros((by, bx))
    for i in range(ny):
        for j in range(nx):
            cell = good[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
            if np.isfinite(kappa[i, j]):
                share[i // size, j // size] += cell.sum() / factor**2
                total[i // size, j // size] += kappa[i, j] * cell.sum() / factor**2
    for sx, sy in zip(np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int), strict=True):
        inside = 0 <= sy < good.shape[0] and 0 <= sx < good.shape[1] and good[sy, sx]
        if inside and np.isfinite(kappa[sy // factor, sx // factor]):
            n[sy // factor // size, sx // factor // size] += 1
    return n.ravel(), share.ravel(), total.ravel()


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("chunks", [(200, 200), (50, 31), (7, 13)])
def test_boxes_count_sources_and_area_at_the_masks_resolution(factor, chunks):
    fine = Grid.tangent(CENTER, (124, 140), 0.2, angle=12)
    coarse = fine.coarsen(factor)
    rng = np.random.default_rng(3)
    good = rng.random(fine.shape) > 0.2
    good[:60, :30] = False
    kappa = rng.random(coarse.shape)
    kappa[2, 30] = np.nan
    table = sources(600)
    table.loc[5, "ra"] = np.nan
    with no_compute():
        got = compare.box_relation(
            dd.from_pandas(table, npartitions=4),
            lazy(coarse, kappa, (22, 19)),
            3.25,
            lazy(fine, np.where(good, 0, BITS).astype(np.uint16), chunks),
            min_area=0.3,
        )
    size = round(3.25 / (0.2 * factor))
    assert got.attrs["box_elements"] == size
    assert got.attrs["box"] == pytest.approx(size * 0.2 * factor)
    got = got.compute()
    x, y = fine.pixel(table.ra.dropna(), table.dec[table.ra.notna()])
    n, share, total = box_oracle(x, y, kappa, good, fine, factor, size)
    np.testing.assert_array_equal(got.n, n)
    np.testing.assert_allclose(got.area, share * (0.2 * factor) ** 2, rtol=1e-5)
    ok = share >= 0.3 * size**2 * (1 - 1e-9)
    np.testing.assert_array_equal(got.good, ok)
    np.testing.assert_allclose(got.kappa[ok], (total / np.maximum(share, 1e-9))[ok], rtol=1e-9)
    assert np.isnan(got.kappa[~ok]).all()
    np.testing.assert_allclose(got.n_gc[ok], n[ok] / got.area.values[ok])
    empty = ok & (n == 0)
    np.testing.assert_allclose(got.n_error[empty] * got.area[empty], 1.841, rtol=1e-3)


def test_boxes_lie_where_they_say_and_do_not_move_with_a_cutout():
    grid = Grid.tangent(CENTER, (90, 90), 0.5)
    kappa = grid.wrap(np.random.default_rng(0).random((90, 90)), "kappa", "")
    table = sources(2000, size=20)
    whole = compare.box_relation(table, kappa)
    x, y = grid.pixel(table.ra, table.dec)
    k = int(whole.n.values.argmax())
    near = (np.abs(x - whole.x[k].item()) < 3) & (np.abs(y - whole.y[k].item()) < 3)
    assert near.sum() == whole.n[k]
    ra, dec = grid.sky(whole.x, whole.y)
    np.testing.assert_allclose(whole.ra, ra)
    np.testing.assert_allclose(whole.dec, dec)
    part = compare.box_relation(table, kappa.isel(y=slice(33, 66), x=slice(12, 48)))
    full = part.area > 8.99
    both = part.isel(box=full.values).to_dataframe().merge(whole.to_dataframe(), on=["x", "y"])
    assert len(both) == full.sum() == 5 * 6
    np.testing.assert_array_equal(both.n_x, both.n_y)
    np.testing.assert_allclose(both.kappa_x, both.kappa_y)


def test_boxes_can_be_limited_to_a_disk_and_to_chosen_elements():
    grid = Grid.tangent(CENTER, (90, 90), 0.5)
    kappa = grid.wrap(np.ones((90, 90)), "kappa", "")
    table = sources(500)
    got = compare.box_relation(table, kappa, center=CENTER, radius=10)
    east, north = tangent_offsets(got.ra, got.dec, CENTER)
    np.testing.assert_array_equal(got.good, np.hypot(east, north) < 10)
    left = compare.box_relation(table, kappa, where=kappa * (kappa.x < 45) > 0)
    x, y = grid.pixel(table.ra, table.dec)
    assert left.n.sum() == ((x >= -0.5) & (x < 44.5) & (y >= -0.5) & (y < 89.5)).sum()
    assert left.area.sum().item() == pytest.approx(45 * 90 * 0.25)


def test_bad_boxes_and_masks_are_refused_in_one_line():
    grid = grid_of()
    kappa = grid.wrap(np.ones(grid.shape), "kappa", "")
    with pytest.raises(InputError, match="smaller than an element"):
        compare.box_relation(sources(), kappa, 0.1)
    with pytest.raises(InputError, match="does not fit"):
        compare.box_relation(
            sources(), kappa, mask=grid_of((50, 50)).wrap(np.zeros((50, 50), bool), "m", "")
        )
    with pytest.raises(InputError, match="no ra, dec"):
        compare.box_relation(pd.DataFrame({"a": [1.0]}), kappa)
    with pytest.raises(InputError, match="give both"):
        compare.box_relation(sources(), kappa, radius=4)


# -- the relation -------------------------------------------------------------------------------
def relation(kappa, n, area=9.0):
    kappa, n = np.asarray(kappa, float), np.asarray(n, float)
    return xr.Dataset(
        {
            "n": ("box", n),
            "area": ("box", np.full(n.size, area)),
            "n_gc": ("box", n / area),
            "kappa": ("box", kappa),
            "good": ("box", np.ones(n.size, bool)),
        }
    )


def test_power_law_without_noise_is_found_exactly():
    n = np.repeat(np.linspace(0.7, 5.6, 60), 4) * 9
    fit = compare.fit_power_law(relation(0.45 * (n / 9) ** 0.62, n), n_bins=12)
    assert fit.a.item() == pytest.approx(0.45, abs=0.002)
    assert fit.b.item() == pytest.approx(0.62, abs=0.005)
    assert fit.status.item() == ""
    assert fit.bin_boxes.sum() == 240


def test_dispersion_weighted_errors_overstate_those_of_the_mean():
    rng = np.random.default_rng(4)
    values, errors, wide = [], [], []
    for _ in range(30):
        true = rng.uniform(0.7, 5.6, 400)
        rel = relation(0.45 * true**0.62 * rng.normal(1, 0.25, 400), true * 9)
        fit = compare.fit_power_law(rel)
        values.append(fit.b_mean.item())
        errors.append(fit.b_mean_error.item())
        wide.append(fit.b_error.item())
    assert np.mean(values) == pytest.approx(0.62, abs=0.02)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.4)
    assert np.mean(wide) > 3 * np.mean(errors)
    assert fit.cov.values[0, 1] < 0


def test_bins_hold_the_mean_and_sample_deviation_of_their_boxes():
    rng = np.random.default_rng(5)
    n, kappa = rng.integers(0, 60, 500), rng.random(500)
    fit = compare.fit_power_law(relation(kappa, n), (0.67, 5.67), n_bins=6)
    edges = np.geomspace(0.67, 5.67, 7)
    for i in range(6):
        inside = (n / 9 >= edges[i]) & (n / 9 < edges[i + 1])
        assert fit.bin_boxes[i] == inside.sum()
        assert fit.bin_kappa[i].item() == pytest.approx(kappa[inside].mean())
        assert fit.bin_kappa_std[i].item() == pytest.approx(kappa[inside].std(ddof=1))
        assert fit.bin_n[i].item() == pytest.approx(n[inside].mean() / 9)


def test_poisson_law_recovers_the_contaminants():
    rng = np.random.default_rng(6)
    pulls = []
    for _ in range(8):
        kappa = rng.uniform(0.05, 1.6, 400)
        n = rng.poisson(9 * (0.4 + (kappa / 0.45) ** (1 / 0.62)))
        fit = compare.fit_power_law(relation(kappa, n), method="poisson")
        pulls.append(
            [
                (fit.a - 0.45).item() / fit.a_error.item(),
                (fit.b - 0.62).item() / fit.b_error.item(),
                (fit.n0 - 0.4).item() / fit.n0_error.item(),
            ]
        )
    assert np.abs(np.mean(pulls, 0)).max() < 1
    assert 0.5 < np.std(pulls) < 1.7


def test_too_few_boxes_are_called_unconstrained_not_an_error():
    few = compare.fit_power_law(relation(np.ones(7), np.arange(7.0) + 9))
    assert np.isnan([few.a, few.b, few.a_error]).all()
    assert few.attrs["status"].startswith("unconstrained: only 7 boxes")
    none = compare.fit_power_law(relation(np.ones(7), np.zeros(7)), method="poisson")
    assert none.attrs["status"].startswith("unconstrained: only 0 boxes")
    rng = np.random.default_rng(7)
    flat = compare.fit_power_law(relation(rng.uniform(0.1, 2, 200), rng.integers(7, 50, 200)))
    assert flat.b_error > abs(flat.b)
    assert "does not differ from 0" in flat.attrs["status"]


def test_relation_fit_and_prediction_stay_lazy():
    grid = grid_of()
    kappa, _ = lensed(grid)
    with no_compute():
        rel = compare.box_relation(sources(), lazy(grid, kappa, (20, 20)))
        fit = compare.fit_power_law(rel)
        out = compare.predict_kappa(rel.n_gc, fit)
    done = compare.predict_kappa(rel.n_gc.compute(), compare.fit_power_law(rel.compute()))
    np.testing.assert_allclose(out.kappa, done.kappa)
    assert isinstance(fit.status.compute().item(), str)


def test_prediction_propagates_the_anticorrelation_of_a_and_b():
    fit = compare.fit_power_law(
        relation(*(lambda n: (0.45 * (n / 9) ** 0.62 * np.tile([0.9, 1.1], 120), n))(
            np.repeat(np.linspace(0.7, 5.6, 60), 4) * 9
        ))
    )  # fmt: skip
    n = np.array([0.1, 1.0, 2.0, 4.0])
    out = compare.predict_kappa(n, fit)
    a, b = fit.a.item(), fit.b.item()
    np.testing.assert_allclose(out.kappa, a * n**b)
    draws = np.random.default_rng(0).multivariate_normal(
        [a, b], fit.cov.values[:2, :2] / 100, 40_000
    )
    scatter = (draws[:, :1] * n ** draws[:, 1:]).std(0) * 10
    np.testing.assert_allclose(out.error_relation, scatter, rtol=0.03)
    assert out.extrapolated.values.tolist() == [True, False, False, False]


# -- masses -------------------------------------------------------------------------------------
def test_masses_are_those_of_a_uniform_disk():
    field = Field(CENTER, 0.348)
    grid = Grid.tangent(CENTER, (300, 300), 0.1)
    kappa = grid.wrap(da.full((300, 300), 0.5, chunks=70), "kappa", "")
    table = sources(1000)
    with no_compute():
        got = compare.mass_numbers(kappa, dd.from_pandas(table, npartitions=3), field, 12)
    area = np.pi * (12 * field.kpc_per_arcsec) ** 2
    assert got.mass.compute().item() == pytest.approx(0.5 * area * field.sigma_cr, rel=2e-3)
    inside = np.hypot(*tangent_offsets(table.ra, table.dec, CENTER)) < 12
    assert got.n.compute().item() == inside.sum()
    np.testing.assert_allclose(got.mass_per_cluster, 2.9e-5 * got.mass / inside.sum())
    np.testing.assert_allclose(got.m_vir, 5e9 * inside.sum())
    np.testing.assert_allclose(got.m_vir_error, 5e9 * np.sqrt(inside.sum()))
    given = compare.mass_numbers(kappa.compute(), 0, field, 12)
    assert np.isnan(given.mass_per_cluster)
    with pytest.raises(InputError, match="not a number of clusters"):
        compare.mass_numbers(kappa, -3, field, 12)


# -- kernels ------------------------------------------------------------------------------------
def test_poisson_interval_covers_as_it_should():
    low, high = fits.poisson_interval([0, 1, 9])
    assert low[0] == 0
    np.testing.assert_allclose(high, [1.841, 3.300, 13.11], rtol=1e-3)  # Gehrels (1986), table 1
    np.testing.assert_allclose(low[1:], [0.173, 6.06], rtol=3e-3)
    assert fits.poisson_error(0) == pytest.approx(1.841, abs=1e-3)


def test_results_are_what_they_declare_and_survive_storage(tmp_path):
    grid = grid_of()
    kappa, rho = (lazy(grid, v, (20, 30)) for v in lensed(grid))
    cat = dd.from_pandas(sources(), npartitions=2)
    field = Field(CENTER, 0.348)
    rel = compare.box_relation(cat, kappa)
    tables = {
        "beta": compare.fit_beta(kappa, rho),
        "correlation": compare.correlation(kappa, rho),
        "boxes": rel,
        "law": compare.fit_power_law(rel, (0.1, 6), n_bins=4),
        "masses": compare.mass_numbers(kappa, cat, field, 10),
    }
    for name, lazily in tables.items():
        done = lazily.compute()
        for v in lazily.data_vars:
            assert (lazily[v].dtype, lazily[v].shape) == (done[v].dtype, done[v].shape), (name, v)
            assert "units" in done[v].attrs, (name, v)
        done.to_zarr(tmp_path / f"{name}.zarr", zarr_format=3, consolidated=False)
        xr.testing.assert_equal(
            xr.open_zarr(tmp_path / f"{name}.zarr", consolidated=False).compute(), done
        )


# -- real data ----------------------------------------------------------------------------------
def test_smacs0723_clusters_follow_the_lens(shared_data):
    """The numbers of the reference analysis: 159 clusters, the Lenstool model at z_s = 3."""
    lensing = pytest.importorskip("gcdask.lensing")
    model = lensing.read_lenstool(shared_data / "smacs0723/mahler2022_iclv2_best.par")
    center = (110.826989, -73.454723)
    table = pd.read_csv(shared_data / "smacs0723/faisst2022_table1.csv")
    east, north = tangent_offsets(table.ra, table.dec, center)
    near = np.hypot(east, north) < 60
    assert near.sum() == 159
    grid = Grid.tangent(center, (601, 601), 0.2)
    kappa = model.kappa(grid, 3.0)
    px, py = grid.mesh()
    mx, my = grid.offsets(px, py, center)
    rho = np.zeros(grid.shape)
    for e, n in zip(east[near], north[near], strict=True):
        rho += (0.9 + np.hypot(mx - e, my - n)) ** -1.6
    rho = grid.wrap(da.from_array(rho, chunks=250), "rho", "")
    with no_compute():
        fit = compare.fit_beta(kappa, rho, center, radius=60)
        cor = compare.correlation(kappa, rho, center=center, radius=60)
        rel = compare.box_relation(table[["ra", "dec"]], kappa, center=center, radius=60)
        law = compare.fit_power_law(rel)
    fit, cor = fit.compute(), cor.compute()
    assert fit.beta.item() == pytest.approx(0.420, abs=0.001)
    np.testing.assert_allclose(fit.sector_beta, [0.395, 0.441, 0.382, 0.466], rtol=0.003)
    assert cor.pearson.item() == pytest.approx(0.922, abs=0.001)
    assert cor.spearman.item() == pytest.approx(0.938, abs=0.001)
    assert fit.beta_error > 0.01  # 159 sources: the quadrant scatter is shot noise
    occupied = ((rel.n > 0) & rel.good).sum().compute().item()
    assert 75 <= occupied <= 95
    assert law.status.compute().item().startswith("unconstrained")
    assert math.isnan(law.b) or law.b_error > abs(law.b)


def test_smacs0723_with_the_packages_own_catalogue_and_density(shared_data):
    catalog = pytest.importorskip("gcdask.catalog")
    density = pytest.importorskip("gcdask.density")
    lensing = pytest.importorskip("gcdask.lensing")
    model = lensing.read_lenstool(shared_data / "smacs0723/mahler2022_iclv2_best.par")
    field = Field((110.826989, -73.454723), 0.39)
    table = catalog.faisst2022().compute()
    near = table[np.hypot(*tangent_offsets(table.ra, table.dec, field.center)) < 60]
    kappa = model.kappa(Grid.tangent(field.center, (201, 201), 0.6), 3.0)
    fit = compare.fit_beta(kappa, density.density_map(near, kappa), field.center, radius=60)
    assert fit.beta.compute().item() == pytest.approx(0.420, rel=0.01)
    np.testing.assert_allclose(fit.sector_beta, [0.395, 0.441, 0.382, 0.466], rtol=0.02)
    masses = compare.mass_numbers(kappa, near, field, 60).compute()
    assert masses.n == 159
    assert masses.mass.item() == pytest.approx(2.82e14, rel=0.01)
    inner = compare.mass_numbers(kappa, near, field, 400 / field.kpc_per_arcsec).compute()
    assert inner.coverage < 1  # a disk of 400 kpc does not fit on this map: said, not hidden
