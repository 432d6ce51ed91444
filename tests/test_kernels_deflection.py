"""Deflection and shear of potentials: against lenstronomy, their own derivatives, and limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from gcdask.kernels import dpie
from gcdask.kernels.deflection import deflection_infinity, shear_infinity

STEPS = ((1, 45 / 60), (2, -9 / 60), (3, 1 / 60))  # sixth-order difference


def table(e=0.5, angle=30.0, core=5.0, cut=100.0, v_disp=1000.0, center=(0.0, 0.0)):
    columns = [81], [center[0]], [center[1]], [e], [angle], [core], [cut], [v_disp], [0.0]
    return dpie.make_table(*columns)


def shear_table(gamma, angle):
    return dpie.make_table([14], [0.0], [0.0], [0.0], [angle], [0.0], [0.0], [0.0], [gamma])


def differences(function, x, y, h=0.05):
    """d/dx and d/dy of the two components, shape (2, 2, n): [axis, component]."""
    out = np.zeros((2, 2, np.size(x)))
    for k, weight in STEPS:
        for sign in (1, -1):
            step = sign * k * h
            out[0] += sign * weight / h * np.array(function(x + step, y))
            out[1] += sign * weight / h * np.array(function(x, y + step))
    return out


def points(n=500, seed=0, scale=50.0):
    return np.random.default_rng(seed).normal(0, scale, (2, n))


# -- other codes ------------------------------------------------------------------------------
@pytest.mark.parametrize("e", [0.02, 0.3, 0.9])
def test_against_lenstronomy(e):
    """Its NIE is I' of Keeton & Kochanek's variables: deflection 1e-5", convergence 1e-8."""
    lens_model = pytest.importorskip("lenstronomy.LensModel.lens_model")
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    core, cut, v_disp, angle, center = 5.0, 100.0, 1000.0, -36.0, (1.5, -2.0)
    eps = float(dpie.epsilon(e))
    e1, e2 = phi_q2_ellipticity(np.deg2rad(angle), (1 - eps) / (1 + eps))
    root = np.sqrt(1 - eps**2)
    theta_e = float(dpie.einstein_b0(v_disp)) * cut / (cut - core) * root
    shape = {"e1": e1, "e2": e2, "center_x": center[0], "center_y": center[1]}
    parts = [
        {"theta_E": theta_e, "s_scale": core * root, **shape},
        {"theta_E": -theta_e, "s_scale": cut * root, **shape},
    ]
    theirs = lens_model.LensModel(["NIE", "NIE"])
    ours = table(e, angle, core, cut, v_disp, center)
    x, y = points()
    ax, ay = deflection_infinity(x, y, ours)
    expected = theirs.alpha(x, y, parts)
    np.testing.assert_allclose([ax, ay], expected, atol=1e-8)
    # the Hessian that it gives is a difference over 1e-10 and noisy: take one of its deflections
    (xx, xy), (yx, yy) = differences(lambda a, b: theirs.alpha(a, b, parts), x, y, 0.1)
    kappa, (g1, g2) = dpie.kappa_infinity(x, y, ours), shear_infinity(x, y, ours)
    np.testing.assert_allclose(kappa, (xx + yy) / 2, atol=1e-8)
    np.testing.assert_allclose(g1, (xx - yy) / 2, atol=1e-8)
    np.testing.assert_allclose([g2, g2], [xy, yx], atol=1e-8)


def test_shear_against_lenstronomy():
    lens_model = pytest.importorskip("lenstronomy.LensModel.lens_model")
    angle = np.deg2rad(2 * 50.8)
    part = {"gamma1": 0.104 * np.cos(angle), "gamma2": 0.104 * np.sin(angle)}
    x, y = points()
    expected = lens_model.LensModel(["SHEAR"]).alpha(x, y, [part])
    ours = shear_table(0.104, 50.8)
    np.testing.assert_allclose(deflection_infinity(x, y, ours), expected, atol=1e-12)
    g1, g2 = shear_infinity(x, y, ours)
    np.testing.assert_allclose(g1, part["gamma1"], rtol=1e-14)
    np.testing.assert_allclose(g2, part["gamma2"], rtol=1e-14)
    assert not dpie.kappa_infinity(x, y, ours).any()


# -- the field's own laws ---------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.just(0.0), st.floats(1e-300, 0.9)),
    st.floats(-400, 400),
    st.floats(0.5, 20),
    st.floats(1.5, 30),
    st.integers(0, 1000),
)
def test_hessian_is_the_derivative_of_the_deflection(e, angle, core, ratio, seed):
    """And its trace is twice the closed form of the convergence, for any ellipticity."""
    ours = table(e, angle, core, core * ratio)
    x, y = points(20, seed)
    (xx, xy), (yx, yy) = differences(lambda a, b: deflection_infinity(a, b, ours), x, y, 0.01)
    kappa, (g1, g2) = dpie.kappa_infinity(x, y, ours), shear_infinity(x, y, ours)
    # rounding of alpha is 1e-14 of it, over steps of 0.01 arcsec
    floor = 1e-9
    for found, expected in ((xx, kappa + g1), (yy, kappa - g1), (xy, g2), (yx, g2)):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=floor)


def test_a_circle_deflects_by_the_mass_inside():
    ours = table(0.0)
    for r in (1e-6, 0.3, 5.0, 70.0, 900.0):
        mass = quad(
            lambda t: 2 * t * dpie.kappa_infinity(t, 0.0, ours), 0, r, epsabs=0, epsrel=1e-10
        )[0]
        ax, ay = deflection_infinity(r * np.cos(1.0), r * np.sin(1.0), ours)
        np.testing.assert_allclose([ax, ay], mass / r * np.array([np.cos(1), np.sin(1)]), rtol=1e-9)


@pytest.mark.parametrize("e", [1e-300, 1e-25, 1e-20, 1e-14, 1e-10])
def test_a_vanishing_ellipticity_is_a_circle(e):
    x, y = points()
    for function in (deflection_infinity, shear_infinity):
        expected = function(x, y, table(0.0))
        np.testing.assert_allclose(function(x, y, table(e)), expected, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(function(x, y, table(e)), expected, atol=max(60 * e, 1e-12))


@pytest.mark.parametrize("e", [0.0, 1e-12, 0.4])
def test_the_centre_is_smooth(e):
    """No force there, and the shear goes over into that of a small step beside it."""
    ours = table(e, 20.0, center=(3.0, -4.0))
    assert deflection_infinity(3.0, -4.0, ours) == (0, 0)
    at = shear_infinity(3.0, -4.0, ours)
    angle = np.linspace(0, 6, 7)
    x, y = 3 + 1e-6 * np.cos(angle), -4 + 1e-6 * np.sin(angle)
    np.testing.assert_allclose(shear_infinity(x, y, ours)[0], at[0], atol=1e-6)
    np.testing.assert_allclose(shear_infinity(x, y, ours)[1], at[1], atol=1e-6)


def test_no_branch_cut_on_any_circle():
    """The complex logarithm of the printed formula jumps; the deflection must not."""
    angle = np.linspace(0, 2 * np.pi, 20001)
    for e in (1e-6, 0.2, 0.8):
        for r in (0.01, 1.0, 5.0, 2 * np.sqrt(dpie.epsilon(e)) * 5.0, 100.0, 3000.0):
            ax, ay = deflection_infinity(r * np.cos(angle), r * np.sin(angle), table(e, 0.0))
            jump = np.hypot(np.diff(ax), np.diff(ay)).max()
            # alpha can turn by twice its size times the angle, and the cusp of the minor axis
            assert jump < 10 * np.hypot(ax, ay).max() * (angle[1] - angle[0])


def test_the_removable_singularity_on_the_minor_axis():
    """A and D of the printed formula both vanish at X = 0, Y = 2 s r_core."""
    e = 0.5
    y0 = 2 * np.sqrt(float(dpie.epsilon(e))) * 5.0
    ours = table(e, 0.0)
    near = deflection_infinity(np.zeros(3), y0 + np.array([-1e-7, 0, 1e-7]), ours)[1]
    assert np.isfinite(near).all()
    assert near[1] == pytest.approx((near[0] + near[2]) / 2, abs=1e-10)


def test_far_away_it_is_a_point_mass():
    ours = table(0.3)
    r = 1e6
    mass = float(dpie.einstein_b0(1000.0)) * 100.0 * np.sqrt(1 - float(dpie.epsilon(0.3)) ** 2) ** 2
    ax, ay = deflection_infinity(np.array([r, 0]), np.array([0, r]), ours)
    np.testing.assert_allclose([ax[0], ay[1]], mass / r, rtol=1e-3)


def test_a_position_keeps_its_bits_and_nan_stays_nan():
    many = np.concatenate([table(0.1 * k, 20.0 * k, center=(k, -k)) for k in range(6)])
    x, y = points(100)
    x.flags.writeable = False
    for function in (deflection_infinity, shear_infinity):
        whole = function(x, y, many)
        part = function(x[17:40].copy(), y[17:40], many)
        np.testing.assert_array_equal(part, [w[17:40] for w in whole])
        assert np.isnan(function(np.nan, 1.0, many)).all()
        assert function(x.reshape(4, 25), y.reshape(4, 25), many)[0].shape == (4, 25)
