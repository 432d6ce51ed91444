"""Grids: sky and pixels, cut-outs, coarse maps, the WCS that goes into files."""

import pickle

import astropy.units as u
import numpy as np
import pytest
import xarray as xr
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, Sip

from gcdask.errors import InputError
from gcdask.grid import Field, Grid, tangent_offsets

CENTER = (342.18322, -44.530889)


def header_of(grid):
    return fits.Header.fromstring(grid.header, sep="\n")


def sip_grid(shape=(60, 80)):
    wcs = WCS(header_of(Grid.tangent((110.8, -73.45), shape, 0.03, angle=25)))
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[2, 0], b[0, 2] = 2e-5, -1e-5
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    return Grid.from_wcs(wcs, shape)


def test_sky_and_pixels_are_inverse():
    for grid in (Grid.tangent(CENTER, (40, 60), 0.03, angle=40), sip_grid()):
        x, y = grid.mesh()
        back = grid.pixel(*grid.sky(x, y))
        np.testing.assert_allclose(back, (x, y), atol=1e-6)


def test_the_y_axis_points_where_it_was_told():
    grid = Grid.tangent(CENTER, (101, 101), 0.1, angle=30)
    x, y = grid.center
    east, north = grid.offsets(x, y + 10, CENTER)
    assert np.rad2deg(np.arctan2(east, north)) == pytest.approx(30)
    assert np.hypot(east, north) == pytest.approx(1.0)


def test_offsets_agree_with_astropy():
    ra, dec = np.array([342.2, 342.1]), np.array([-44.5, -44.6])
    east, north = tangent_offsets(ra, dec, CENTER)
    center = SkyCoord(*CENTER, unit="deg")
    there = SkyCoord(ra, dec, unit="deg").transform_to(center.skyoffset_frame())
    np.testing.assert_allclose(np.hypot(east, north),
                               np.tan(center.separation(SkyCoord(ra, dec, unit="deg")).rad)
                               * 206264.806, rtol=1e-7)  # fmt: skip
    assert np.sign(east).tolist() == np.sign(there.lon.wrap_at("180d").deg).tolist()


def test_a_cut_keeps_its_sky():
    grid = Grid.tangent(CENTER, (50, 70), 0.03, angle=10)
    cut = grid.cut(5, 25, 10, 40)
    assert cut.shape == (20, 30)
    np.testing.assert_array_equal(cut.sky(cut.x[0], cut.y[0]), grid.sky(10, 5))


def test_slicing_a_map_keeps_its_sky():
    grid = Grid.tangent(CENTER, (50, 70), 0.03)
    image = grid.wrap(np.zeros(grid.shape), "map", "MJy/sr")
    part = Grid.of(image[7:, 9:30])
    assert part == grid.cut(7, 50, 9, 30)


def test_coarsening_agrees_with_xarray():
    grid = Grid.tangent(CENTER, (48, 64), 0.03)
    image = grid.wrap(np.random.default_rng(0).normal(size=grid.shape), "map", "")
    assert Grid.of(image.coarsen(y=4, x=4).mean()) == grid.coarsen(4)
    assert grid.coarsen(4).pixel_scale == pytest.approx(0.12)
    assert grid.coarsen(5).shape == (10, 13)  # ragged ends are cells too


@pytest.mark.parametrize("grid", [
    Grid.tangent(CENTER, (48, 64), 0.03, angle=40).cut(5, 40, 8, 50),
    Grid.tangent(CENTER, (48, 64), 0.03, angle=40).coarsen(4),
    sip_grid().cut(5, 40, 8, 50),
], ids=["cut", "coarse", "sip"])  # fmt: skip
def test_the_wcs_of_a_file_puts_pixels_on_the_same_sky(grid):
    j, i = np.meshgrid(np.arange(grid.shape[1]), np.arange(grid.shape[0]))
    ra, dec = grid.array_wcs().all_pix2world(j, i, 0)
    np.testing.assert_allclose((ra, dec), grid.sky(*grid.mesh()), atol=1e-11)


def test_grids_travel_light():
    grid = Grid.tangent(CENTER, (20_000, 20_000), 0.03)
    assert grid.x.size == 20_000
    assert grid.pixel_scale == pytest.approx(0.03)
    assert len(pickle.dumps(grid)) < 5_000
    assert pickle.loads(pickle.dumps(grid)) == grid


def test_a_map_without_wcs_or_axes_is_refused():
    with pytest.raises(InputError, match="no WCS"):
        Grid.of(xr.DataArray(np.zeros((2, 2)), dims=("y", "x")))
    grid = Grid.tangent(CENTER, (4, 4), 1)
    with pytest.raises(InputError, match="dimensions"):
        Grid.of(grid.wrap(np.zeros((4, 4)), "map", "").rename(y="lat"))
    wcs = WCS(naxis=2)
    with pytest.raises(InputError, match="no celestial WCS"):
        Grid.from_wcs(wcs, (4, 4))


def test_pixels_must_be_square():
    wcs = WCS(header_of(Grid.tangent(CENTER, (4, 4), 1)))
    wcs.wcs.cdelt = wcs.wcs.cdelt * [1, 2]
    with pytest.raises(InputError, match="not square"):
        _ = Grid.from_wcs(wcs, (4, 4)).pixel_scale


def test_field_numbers():
    as1063, smacs = Field(CENTER, 0.348), Field((110.8, -73.4), 0.39)
    assert as1063.kpc_per_arcsec == pytest.approx(4.921, abs=5e-4)
    assert smacs.kpc_per_arcsec == pytest.approx(5.290, abs=5e-4)
    assert smacs.sigma_cr == pytest.approx(2.00164e9, rel=1e-5)
    assert Field(CENTER, 0.3475, 0.611).distance_ratio(0.611) == pytest.approx(0.390, abs=5e-4)


def test_sigma_cr_agrees_with_astropy():
    from astropy.constants import G, c

    field = Field(CENTER, 0.348, 3.0)
    d_l, d_s = (field.cosmology.angular_diameter_distance(z) for z in (0.348, 3.0))
    chi = field.cosmology.comoving_distance
    d_ls = (chi(3.0) - chi(0.348)) / (1 + 3.0)
    expected = (c**2 / (4 * np.pi * G) * d_s / (d_l * d_ls)).to_value(u.Msun / u.kpc**2)
    assert field.sigma_cr == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("z_lens", "z_source"), [(0, 1), (-1, 1), (0.5, 0.5), (0.5, 0.4)])
def test_sources_must_be_behind_the_lens(z_lens, z_source):
    with pytest.raises(InputError, match="z_"):
        Field(CENTER, z_lens, z_source)
