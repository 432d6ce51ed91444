"""The kernel of rho from the profile of kappa: known kernels are found, others are flagged."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pytest
from conftest import no_compute
from test_compare import CENTER, grid_of, lazy

from gcdask import compare, density
from gcdask.errors import InputError
from gcdask.kernels import kernelfit

GRID = grid_of((110, 120), 0.5, angle=25)
SCAN = {"alphas": (1.2, 1.5, 1.8, 2.1), "softenings": (0.5, 0.8, 1.3)}
RADII = (2.0, 24.0)


def clusters(n=3000, seed=0):
    east, north = GRID.offsets(*GRID.mesh(), CENTER)
    rate = 1 / (1 + (east**2 + 1.5 * north**2) / 25)
    rate *= n / (rate.sum() * GRID.pixel_scale**2)
    drawn = density.draw_sources(GRID.wrap(rate, "rate", "arcsec-2"), seed)
    return drawn.compute()


def kappa_of(table, alpha=1.6, softening=0.9, factor=0.02, chunks=(110, 120)):
    rho = density.density_map(table, GRID, alpha, softening).values
    return lazy(GRID, factor * rho, chunks, "kappa")


@pytest.mark.parametrize(("alpha", "softening"), [(1.6, 0.9), (1.35, 0.6)])
def test_the_kernel_that_made_kappa_is_found_between_those_scanned(alpha, softening):
    table = clusters()
    kappa = kappa_of(table, alpha, softening).compute()
    fit = compare.fit_kernel(table, kappa, **SCAN, radii=RADII, center=CENTER, pixel=0.5)
    assert fit.alpha_best.item() == pytest.approx(alpha, abs=0.01)
    assert fit.softening_best.item() == pytest.approx(softening, abs=0.05)
    assert fit.beta_best.item() == pytest.approx(0.02, rel=0.02)
    assert fit.status.item() == ""
    np.testing.assert_allclose(fit.best_profile, fit.kappa_profile, rtol=2e-3)
    assert fit.correlation > 0.8  # a softer kernel may fall more steeply


@pytest.mark.parametrize("chunks", [(110, 120), (31, 45)])
def test_profiles_and_chi2_are_those_of_the_pixels(chunks):
    table = clusters()
    x, y = GRID.mesh()
    east, north = GRID.offsets(x, y, CENTER)
    values = 1.5 / np.sqrt(1 + (east**2 + 1.4 * north**2) / 9)
    values[60, 70], values[70, 50] = np.nan, -0.1
    mask = np.random.default_rng(0).random(GRID.shape) < 0.1
    mask[60, 70] = mask[70, 50] = False
    with no_compute():
        fit = compare.fit_kernel(
            dd.from_pandas(table, npartitions=3), lazy(GRID, values, chunks), (1.4, 1.8), (0.6, 1),
            RADII, CENTER, lazy(GRID, ~mask, (50, 50)), n_annuli=5, wedges=4, pixel=0.5,
        )  # fmt: skip
        assert fit.chi2.dims == ("alpha", "softening")
    got = fit.compute()
    for v in fit.data_vars:
        assert (fit[v].dtype, fit[v].shape) == (got[v].dtype, got[v].shape), v
        assert "units" in got[v].attrs
    edges = np.geomspace(*RADII, 6)
    r, angle = np.hypot(east, north), np.degrees(np.arctan2(east, north))
    good = ~mask & np.isfinite(values)
    ring, wedge = np.digitize(r, edges) - 1, np.floor((angle + 45) % 360 / 90).astype(int)
    kernels = [(a, s) for a in (1.4, 1.8) for s in (0.6, 1.0)]
    maps = [density.density_map(table, GRID, a, s).values for a, s in kernels]
    profile = lambda v: np.array([v[good & (ring == i)].mean() for i in range(5)])  # noqa: E731
    k, rho = profile(values), np.array([profile(m) for m in maps])
    np.testing.assert_allclose(got.kappa_profile, k, rtol=1e-9)
    np.testing.assert_allclose(got.rho_profile.values.reshape(4, 5), rho, rtol=1e-6)
    assert (got.n_invalid, got.n_negative) == (1, 1)
    assert got.n_sources == (np.hypot(*GRID.offsets(*GRID.pixel(table.ra, table.dec), CENTER)) < 24
    ).sum()  # fmt: skip
    # the pilot fit: errors proportional to kappa
    factors = [(r / k).sum() / (r**2 / k**2).sum() for r in rho]
    first = np.argmin([((1 - f * r / k) ** 2).sum() for f, r in zip(factors, rho, strict=True)])
    rest = values - factors[first] * maps[first]
    cells = np.array(
        [[rest[good & (ring == i) & (wedge == w)].mean() for w in range(4)] for i in range(5)]
    )
    sigma = np.fmax(cells.std(1, ddof=1) / 2, 1e-3 * k)
    np.testing.assert_allclose(got.kappa_sigma, sigma, rtol=1e-6)
    for one, r in zip(range(4), rho, strict=True):
        beta = (k * r / sigma**2).sum() / (r**2 / sigma**2).sum()
        chi2 = (((k - beta * r) / sigma) ** 2).sum()
        assert got.beta.values.ravel()[one] == pytest.approx(beta, rel=1e-6)
        assert got.chi2.values.ravel()[one] == pytest.approx(chi2, rel=1e-5)


def test_errors_are_those_of_the_curvature_and_of_the_jackknife():
    rng = np.random.default_rng(1)
    alphas, softenings = np.linspace(1, 2, 6), np.array([0.9])
    r = np.geomspace(2, 30, 9)
    truth = 3 * r**-1.5
    pixels = np.full((9, 8), 50.0)
    rho = (r ** -alphas[:, None])[:, None, :, None] * np.ones((6, 1, 9, 8))
    values, by_chi2, by_wedges = [], [], []
    for _ in range(60):
        kappa = truth[:, None] * (1 + 0.05 * rng.normal(size=(9, 8)))
        fit = kernelfit.kernel_fit(kappa, rho, pixels, alphas, softenings)
        values.append(fit["alpha_best"])
        by_chi2.append(fit["alpha_error_chi2"])
        by_wedges.append(fit["alpha_error"])
        assert (fit["softening_best"], fit["softening_error"]) == (0.9, 0)
    assert np.mean(values) == pytest.approx(1.5, abs=4 * np.std(values) / 60**0.5)
    assert np.median(by_wedges) == pytest.approx(np.std(values), rel=0.25)
    assert np.median(by_chi2) == pytest.approx(np.std(values), rel=0.25)  # independent annuli


def test_a_minimum_at_the_edge_of_the_scan_is_flagged_without_errors():
    table = clusters()
    kappa = kappa_of(table, 2.4).compute()
    fit = compare.fit_kernel(table, kappa, (1.2, 1.5, 1.8), (0.9,), RADII, CENTER, pixel=0.5)
    assert fit.alpha_best == 1.8
    assert np.isnan([fit.alpha_error, fit.alpha_error_chi2]).all()
    assert "alpha = 1.8 is the largest tried" in fit.attrs["status"]
    assert np.isfinite(fit.chi2).all()


def test_what_cannot_be_fitted_is_unconstrained_in_words():
    table = clusters()
    kappa = kappa_of(table).compute()
    far = table.assign(ra=table.ra + 0.2)
    lost = compare.fit_kernel(far, kappa, **SCAN, radii=RADII, center=CENTER, pixel=1)
    assert lost.attrs["status"].startswith("unconstrained: no source lies within the radii")
    assert lost.n_sources == 0
    few = compare.fit_kernel(table, kappa, **SCAN, radii=RADII, center=CENTER, n_annuli=3)
    assert few.attrs["status"].startswith("unconstrained: 3 annuli")
    blind = compare.fit_kernel(table, kappa * np.nan, **SCAN, radii=RADII, center=CENTER)
    assert blind.attrs["status"].startswith("unconstrained: 0 annuli")
    assert blind.n_invalid > 5000
    for fit in (lost, few, blind):
        assert np.isnan([fit.alpha_best, fit.softening_best, fit.beta_best, fit.alpha_error]).all()


def test_contaminants_are_subtracted_for_every_kernel():
    table = clusters()
    uniform = GRID.wrap(da.full(GRID.shape, 0.8, chunks=60), "contamination", "arcsec-2")
    more = density.draw_sources(uniform, 9).compute()
    kappa = kappa_of(table).compute()
    both = dd.concat([dd.from_pandas(t, npartitions=1) for t in (table, more)])
    options = {"alphas": SCAN["alphas"], "softenings": (0.9,), "radii": RADII, "center": CENTER}
    raw = compare.fit_kernel(both, kappa, **options, pixel=1).compute()
    clean = compare.fit_kernel(both, kappa, **options, pixel=1, contamination=uniform).compute()
    assert abs(clean.alpha_best - 1.6) < 0.05 < abs(raw.alpha_best - 1.6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphas": (1.6, 1.4)}, "alphas"),
        ({"softenings": (0, 1)}, "softenings"),
        ({"radii": (5, 3)}, "r_min < r_max"),
        ({"radii": 5}, "radii"),
        ({"wedges": 1}, "wedges"),
        ({"center": (200.0, 3.0)}, "no pixel of the map lies within"),
    ],
)
def test_mistakes_are_named_in_one_line_before_any_work(options, message):
    table = clusters(50)
    with no_compute(), pytest.raises(InputError, match=message):
        compare.fit_kernel(table, lazy(GRID, np.ones(GRID.shape), (50, 50)), **options)
