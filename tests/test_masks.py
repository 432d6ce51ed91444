"""Masks: each cause sets its own bit, where it should on the sky, however the field is cut."""

import pickle
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from conftest import no_compute
from matplotlib.path import Path as Polygon
from scipy import ndimage
from test_survey import GALAXY, STARS, exact_distance, field, noise, rotated
from test_survey import survey as survey_of

from gcdask import masks
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.masks import Flag, MaskRules, Rule, Spikes, build_mask
from gcdask.mosaic import write_map, write_zarr_map
from gcdask.tiles import tile_grid

SHAPE = (300, 340)
CENTER = (342.18, -44.53)
SCALE = 0.03
GRID = Grid.tangent(CENTER, SHAPE, SCALE, angle=35)
OFF = MaskRules(edge=0, bright=None, luminous=None, extended=None, spikes=None)
NO_STARS = Spikes(auto=False)
Y, X = np.indices(SHAPE)


def mosaic(image, grid=None, chunks=None, bands=1):
    """A mosaic whose bands add up to about ``image``."""
    image = np.asarray(image, np.float32)
    grid = grid or Grid(image.shape, GRID.header)
    attrs = {"units": "MJy/sr", "wcs": grid.header}
    planes = np.stack([image / np.float32(2**k) for k in range(bands)])
    coords = {"band": [f"F{k}" for k in range(bands)], **grid.coords}
    out = xr.Dataset({"sci": (("band", "y", "x"), planes, attrs)}, coords, {"wcs": grid.header})
    if chunks is None:
        return out.chunk()
    return out.chunk({"band": 1, **dict(zip(("y", "x"), chunks, strict=True))})


def mask_of(image, rules=OFF, **changes):
    return build_mask(mosaic(image), rules=rules, **changes).values


def flag(bits, cause):
    return (bits & cause) != 0


def disk(y, x, r, shape=SHAPE):
    yy, xx = np.indices(shape)
    return (yy - y) ** 2 + (xx - x) ** 2 <= r * r


def bumps(*sources, seed=5):
    """Noise of 1 with single bright pixels (y, x, flux)."""
    image = noise(SHAPE, seed)
    for y, x, flux in sources:
        image[y, x] += flux
    return image


# -- each cause alone ----------------------------------------------------------------------------
def test_nothing_is_masked_where_nothing_is_wrong():
    assert not mask_of(noise(SHAPE)).any()


def test_pixels_without_data_in_any_band_are_nodata():
    data = mosaic(noise(SHAPE), bands=3).compute()
    data["sci"][0, 100:110, 50:60] = np.nan
    data["sci"][2, 200, 300] = np.inf
    expected = np.zeros(SHAPE, np.uint16)
    expected[100:110, 50:60] = Flag.NODATA
    expected[200, 300] = Flag.NODATA
    assert np.array_equal(build_mask(data, rules=OFF).values, expected)
    assert build_mask(data, rules=OFF, bands=["F1"]).values.sum() == 0
    assert np.array_equal(build_mask(data, rules=OFF, bands=["F0", "F2"]).values, expected)


def test_outside_the_footprint_is_edge_also_without_a_frame():
    good = rotated(SHAPE, 20, 40)
    bits = mask_of(np.where(good, noise(SHAPE), np.nan))
    assert np.array_equal(flag(bits, Flag.NODATA), ~good)
    assert set(np.unique(bits)) == {0, Flag.NODATA | Flag.EDGE}
    assert flag(bits, Flag.EDGE)[~good].all()


def test_the_frame_alone_is_edge():
    bits = mask_of(noise(SHAPE), edge=1.5)
    distance = exact_distance(np.ones(SHAPE, bool)) * SCALE
    assert set(np.unique(bits)) == {0, Flag.EDGE}
    assert (bits[distance < 1.5 - 4 * SCALE] == Flag.EDGE).all()
    assert (bits[distance > 1.5 + 4 * SCALE] == 0).all()


@pytest.mark.parametrize("dilate", [0, 1, 3, 6, 6.5, 30])
def test_bright_peaks_grow_by_an_exact_disk(dilate):
    places = ((150, 160, 2000), (3, 200, 2000), (299, 339, 5000), (80, 60, 140))
    bits = mask_of(bumps(*places), bright=Rule(150, dilate))
    expected = disk(150, 160, dilate) | disk(3, 200, dilate) | disk(299, 339, dilate)
    assert np.array_equal(bits, np.where(expected, Flag.BRIGHT, 0))


def test_extended_sources_are_what_a_band_pass_sees():
    rule = Rule(nsigma=25, dilate=4, fwhm=(4.0, 25.0))
    image = field()
    good = np.isfinite(image)
    bits = mask_of(image, extended=rule)

    def smooth(values, fwhm):
        return ndimage.gaussian_filter(values, fwhm / 2.354820045, mode="constant", truncate=4)

    value, weight = np.where(good, image, 0).astype(float), good.astype(float)
    with np.errstate(invalid="ignore"):
        narrow, wide = (smooth(value, f) / smooth(weight, f) for f in rule.fwhm)
    found = survey_of(image, replace(OFF, extended=rule).survey_plan(GRID))
    excess = (narrow - wide) / found.noise("4-25", np.arange(SHAPE[0]), np.arange(SHAPE[1]))
    above = good & (excess > 25)
    assert np.abs(excess[good] - 25).min() > 1e-3  # none so close that rounding decides
    expected = ndimage.binary_dilation(above, disk(4, 4, 4, (9, 9)))
    assert np.array_equal(flag(bits, Flag.EXTENDED), expected)
    assert set(np.unique(bits & ~np.uint16(Flag.NODATA | Flag.EDGE))) == {0, Flag.EXTENDED}
    assert expected[round(GALAXY[1]), round(GALAXY[0])]
    assert 0.001 < expected.mean() < 0.1


def test_luminous_peaks_are_left_to_the_detection_map():
    bits = mask_of(bumps((150, 160, 5000)), luminous=Rule(150, 5))
    assert not bits.any()


def test_the_bits_are_those_of_the_cf_conventions():
    lazy = build_mask(mosaic(noise(SHAPE)), rules=OFF)
    assert lazy.dtype == np.uint16
    assert lazy.attrs["flag_masks"] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert lazy.attrs["flag_meanings"].split() == [
        "nodata", "edge", "bright", "luminous", "spike", "extended", "region", "user"
    ]  # fmt: skip
    assert lazy.attrs["units"] == ""


# -- the frame -----------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [0.03, 0.06])
@pytest.mark.parametrize("angle", [0.0, 24.0])
def test_the_frame_is_6_6_arcsec_from_the_footprint_not_from_the_array(angle, scale):
    shape = (720, 800)
    good = rotated(shape, angle, 90.0)
    good[300:330, 390:420] = False  # a hole has no frame
    grid = Grid.tangent(CENTER, shape, scale, angle=angle)
    image = np.where(good, noise(shape), np.nan)
    bits = build_mask(mosaic(image, grid), edge=6.6, rules=OFF).values
    distance = exact_distance(good) * scale
    cell = 4 * scale
    assert flag(bits, Flag.EDGE)[distance < 6.6 - cell].all()
    assert not flag(bits, Flag.EDGE)[distance > 6.6 + cell].any()
    assert (distance > 6.6 + cell).sum() > 10_000
    from_border = exact_distance(np.ones(shape, bool)) * scale
    assert flag(bits, Flag.EDGE)[from_border > 6.6].any()


# -- regions -------------------------------------------------------------------------------------
def region_file(tmp_path, text):
    path = tmp_path / "mask.reg"
    path.write_text("# Region file format: DS9 version 4.1\nglobal color=green\n" + text)
    return (str(path),)


def boxed(dx, dy, width, height, angle):
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    return (np.abs(along) < width / 2) & (np.abs(across) < height / 2)


IMAGE_REGIONS = {  # DS9 counts pixels from 1
    "circle": ("circle(101.3,51.2,20.5)", np.hypot(X - 100.3, Y - 50.2) < 20.5),
    "box": ("box(150,200,80.3,30.1,33)", boxed(X - 149, Y - 199, 80.3, 30.1, 33)),
    "ellipse": (
        "ellipse(150,200,40.2,15.1,120)",
        (((X - 149) * np.cos(2 * np.pi / 3) + (Y - 199) * np.sin(2 * np.pi / 3)) / 40.2) ** 2
        + (((Y - 199) * np.cos(2 * np.pi / 3) - (X - 149) * np.sin(2 * np.pi / 3)) / 15.1) ** 2
        < 1,
    ),
    "polygon": (
        "polygon(10.5,10.2,120.7,30.9,60.3,150.6,40.1,60.4)",
        Polygon([(9.5, 9.2), (119.7, 29.9), (59.3, 149.6), (39.1, 59.4)])
        .contains_points(np.column_stack([X.ravel(), Y.ravel()]))
        .reshape(SHAPE),
    ),
    "beyond the array": ("circle(-3.1,330.2,60.4)", np.hypot(X + 4.1, Y - 329.2) < 60.4),
    "nowhere near": ("circle(9000,9000,5)", np.zeros(SHAPE, bool)),
    "a point has no area": ("point(50,50)", np.zeros(SHAPE, bool)),
}


@pytest.mark.parametrize(("text", "expected"), IMAGE_REGIONS.values(), ids=IMAGE_REGIONS)
def test_regions_in_image_coordinates(tmp_path, text, expected):
    regions = region_file(tmp_path, f"image\n{text}\n")
    bits = mask_of(noise(SHAPE), regions=regions)
    assert np.array_equal(bits, np.where(expected, Flag.REGION, 0))


def test_excluded_regions_take_away_from_all_others(tmp_path):
    text = "image\n-circle(101,101,10.5)\ncircle(101,101,40.5)\nbox(120,101,60,20.5,0)\n"
    bits = mask_of(noise(SHAPE), regions=region_file(tmp_path, text))
    r = np.hypot(X - 100, Y - 100)
    expected = ((r < 40.5) | boxed(X - 119, Y - 100, 60, 20.5, 0)) & (r >= 10.5)
    assert np.array_equal(flag(bits, Flag.REGION), expected)
    assert expected.any()


def sky_offsets(center):
    east, north = GRID.offsets(X, Y, center)
    return east, north


SKY = SkyCoord(*CENTER, unit="deg").directional_offset_by(70 * u.deg, 1.3 * u.arcsec)
PLACE = (SKY.ra.deg, SKY.dec.deg)
EAST, NORTH = sky_offsets(PLACE)
CORNERS = ((-1.5, -1.0), (1.2, -0.7), (0.3, 1.9))  # (east, north) arcsec


def _vertices():
    ra = [PLACE[0] + e / 3600 / np.cos(np.deg2rad(PLACE[1])) for e, _ in CORNERS]
    return ",".join(
        f"{a:.9f},{PLACE[1] + n / 3600:.9f}" for a, (_, n) in zip(ra, CORNERS, strict=True)
    )


SKY_REGIONS = {
    "circle": (
        f'fk5\ncircle({SKY.fk5.ra.deg:.9f},{SKY.fk5.dec.deg:.9f},1.207")',  # 0.02" from ICRS
        np.hypot(EAST, NORTH) - 1.207,
    ),
    "icrs circle": (
        f"icrs\ncircle({SKY.to_string('hmsdms', sep=':', precision=6).replace(' ', ',')},0.02')",
        np.hypot(EAST, NORTH) - 1.2,
    ),
    "box": (  # DS9: the width is turned from west through north
        f'icrs\nbox({PLACE[0]:.9f},{PLACE[1]:.9f},3.01",0.82",25)',
        np.maximum(
            np.abs(-EAST * np.cos(np.deg2rad(25)) + NORTH * np.sin(np.deg2rad(25))) - 1.505,
            np.abs(EAST * np.sin(np.deg2rad(25)) + NORTH * np.cos(np.deg2rad(25))) - 0.41,
        ),
    ),
    "polygon": (
        f"icrs\npolygon({_vertices()})",
        np.max(
            [
                ((EAST - a[0]) * (b[1] - a[1]) - (NORTH - a[1]) * (b[0] - a[0]))
                / np.hypot(*np.subtract(b, a))
                for a, b in zip(CORNERS, CORNERS[1:] + CORNERS[:1], strict=True)
            ],
            axis=0,
        ),
    ),
}


@pytest.mark.parametrize(("text", "outside"), SKY_REGIONS.values(), ids=SKY_REGIONS)
def test_regions_on_the_sky(tmp_path, text, outside):
    bits = mask_of(noise(SHAPE), regions=region_file(tmp_path, text + "\n"))
    clear = np.abs(outside) > 2e-3 * SCALE  # the boundary is exact to this part of a pixel
    got = flag(bits, Flag.REGION)
    assert np.array_equal(got[clear], (outside < 0)[clear])
    assert clear.mean() > 0.999
    assert 500 < got.sum() < 9000


def test_regions_of_several_files_add_up(tmp_path):
    (tmp_path / "a").mkdir()
    a = region_file(tmp_path / "a", "image\ncircle(51,51,9.5)\n")
    b = region_file(tmp_path, "image\ncircle(251,251,9.5)\n-circle(251,251,2.5)\n")
    bits = mask_of(noise(SHAPE), regions=a + b)
    expected = disk(50, 50, 9.5) | (disk(250, 250, 9.5) & ~disk(250, 250, 2.4))
    assert np.array_equal(flag(bits, Flag.REGION), expected)


def test_a_region_on_the_other_side_of_the_sky_masks_nothing(tmp_path):
    text = 'fk5\ncircle(162.18,44.53,1")\nbox(162.18,44.53,5",5",10)\nimage\ncircle(51,51,9.5)\n'
    bits = mask_of(noise(SHAPE), regions=region_file(tmp_path, text))
    assert np.array_equal(flag(bits, Flag.REGION), disk(50, 50, 9.5))


# -- mask files ----------------------------------------------------------------------------------
def plane():
    values = np.zeros(SHAPE, np.float32)
    values[20:40, 200:330] = 1
    values[250, 10] = -3
    values[100:103, 100:150] = np.nan
    return values


def fits_mask(path, values, grid=GRID):
    header = grid.array_wcs().to_header(relax=True)
    fits.writeto(path, values, header)
    return (str(path),)


@pytest.mark.parametrize("kind", ["fits", "fits uint8", "zarr", "zarr uint16"])
def test_a_mask_file_masks_what_is_not_zero(tmp_path, kind):
    values = plane()
    expected = values != 0  # NaN is not 0
    if "int" in kind:
        values = expected.astype(kind.split()[1])
    if kind.startswith("fits"):
        files = fits_mask(tmp_path / "mask.fits", values)
    else:
        lazy = GRID.wrap(da.from_array(values, chunks=(150, 170)), "mask", "")
        files = (
            write_zarr_map(lazy, tmp_path / "mask.zarr", "mask") and str(tmp_path / "mask.zarr"),
        )
    bits = build_mask(mosaic(noise(SHAPE), chunks=(70, 101)), rules=OFF, files=files).values
    assert np.array_equal(bits, np.where(expected, Flag.USER, 0))


def test_several_mask_files_add_up(tmp_path):
    a, b = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    a[5:9, 7:20] = b[5:20, 7:9] = 1
    files = fits_mask(tmp_path / "a.fits", a) + fits_mask(tmp_path / "b.fits", b)
    assert np.array_equal(mask_of(noise(SHAPE), files=files) != 0, (a | b) != 0)


OTHER = {
    "half a pixel off": Grid.tangent((CENTER[0], CENTER[1] + 0.015 / 3600), SHAPE, SCALE, angle=35),
    "turned": Grid.tangent(CENTER, SHAPE, SCALE, angle=36),
    "coarser": Grid.tangent(CENTER, (150, 170), 2 * SCALE, angle=35),
    "elsewhere": Grid.tangent((12.0, 40.0), SHAPE, SCALE, angle=35),
    "smaller": GRID.cut(0, 299, 0, 340),
    "shifted": GRID.cut(1, 301, 0, 340),
}


@pytest.mark.parametrize("grid", OTHER.values(), ids=OTHER)
def test_a_mask_file_on_another_grid_is_refused(tmp_path, grid):
    files = fits_mask(tmp_path / "mask.fits", np.zeros(grid.shape, np.uint8), grid)
    with pytest.raises(InputError, match=r"mask\.fits .*another grid.*reproject"):
        mask_of(noise(SHAPE), files=files)


# -- spikes --------------------------------------------------------------------------------------
ANGLES = (10.0, 95.0, 200.0, 318.0)


def on_sky(star, angles, length, core, width):
    """Distance in arcsec to the border of a star's mask (negative inside), from the sky alone."""
    at = SkyCoord(*star, unit="deg")
    pixel = SkyCoord(*GRID.sky(X, Y), unit="deg")
    r = at.separation(pixel).arcsec
    pa = at.position_angle(pixel).deg
    out = r - core
    for angle in angles:
        along = r * np.cos(np.deg2rad(pa - angle))
        across = r * np.sin(np.deg2rad(pa - angle))
        out = np.minimum(out, np.max([-along, along - length, np.abs(across) - width / 2], axis=0))
    return out


@pytest.mark.parametrize("at", [(170.2, 150.7), (20.4, 280.0), (-15.0, 100.0)])
def test_spikes_point_along_their_position_angles_on_a_rotated_field(at):
    star = tuple(float(v) for v in GRID.sky(*at))
    spikes = Spikes(False, angles=ANGLES, stars=((*star, 3.0),), core=0.4, width=0.3)
    bits = mask_of(noise(SHAPE), spikes=spikes)
    outside = on_sky(star, ANGLES, 3.0, 0.4, 0.3)
    clear = np.abs(outside) > 0.02 * SCALE
    assert np.array_equal(flag(bits, Flag.SPIKE)[clear], (outside < 0)[clear])
    assert set(np.unique(bits)) == {0, Flag.SPIKE}
    assert clear.mean() > 0.99


def test_north_is_north_and_east_is_east():
    star = CENTER
    tip = {}
    for angle in (0.0, 90.0):
        spikes = Spikes(False, angles=(angle,), stars=((*star, 3.0),), core=0.1, width=0.1)
        y, x = np.nonzero(mask_of(noise(SHAPE), spikes=spikes))
        ra, dec = GRID.sky(x, y)
        tip[angle] = ((ra - star[0]) * 3600 * np.cos(np.deg2rad(star[1])), (dec - star[1]) * 3600)
    assert tip[0.0][1].max() == pytest.approx(3.0, abs=SCALE)
    assert np.abs(tip[0.0][0]).max() < 0.15
    assert tip[90.0][0].max() == pytest.approx(3.0, abs=SCALE)
    assert np.abs(tip[90.0][1]).max() < 0.15


def test_a_star_far_off_the_field_does_nothing():
    spikes = Spikes(False, angles=ANGLES, stars=((162.0, 44.0, 5.0), (342.5, -44.0, 2.0)))
    assert not mask_of(noise(SHAPE), spikes=spikes).any()


def angle_at(x, y, pixel_angle):
    """Position angle on the sky of a direction on the pixels."""
    a, b = GRID.sky(x, y), GRID.sky(x + np.cos(pixel_angle), y + np.sin(pixel_angle))
    return SkyCoord(*a, unit="deg").position_angle(SkyCoord(*b, unit="deg")).deg


def test_stars_are_found_and_their_spikes_follow_the_image():
    bits = mask_of(field(angle=47.0), spikes=Spikes())
    spike = flag(bits, Flag.SPIKE)
    assert not (bits & ~np.uint16(Flag.SPIKE | Flag.NODATA | Flag.EDGE)).any()
    for x, y in STARS:
        for k in range(6):  # S/N 1e4: the core is 1 arcsec, a spike 3.8
            assert spike[ray(x, y, 47 + 60 * k, np.arange(110))].all()
        for k in range(6):
            assert not spike[ray(x, y, 17 + 60 * k, np.array([38, 40, 45]))].any()
    gx, gy = (round(v) for v in GALAXY)
    assert not spike[gy, gx]


def ray(x, y, angle, r):
    """Pixels of the field at distances ``r`` in a direction."""
    y = np.rint(y + r * np.sin(np.deg2rad(angle))).astype(int)
    x = np.rint(x + r * np.cos(np.deg2rad(angle))).astype(int)
    inside = (y >= 0) & (y < SHAPE[0]) & (x >= 0) & (x < SHAPE[1])
    return y[inside], x[inside]


def test_given_angles_serve_the_stars_found_too():
    image = field(angle=38.0)
    auto = mask_of(image, spikes=Spikes())
    x, y = STARS[0]
    given = tuple(angle_at(x, y, np.deg2rad(38 + 60 * k)) for k in range(6))
    told = mask_of(image, spikes=Spikes(angles=given))
    agree = flag(auto, Flag.SPIKE) & flag(told, Flag.SPIKE)
    assert agree.sum() > 0.97 * flag(auto, Flag.SPIKE).sum()
    assert agree.sum() > 0.97 * flag(told, Flag.SPIKE).sum()


def test_brighter_stars_have_longer_spikes_and_larger_cores():
    image = field()
    rules = MaskRules(spikes=Spikes(length=1.2, core=0.45))
    found = survey_of(image)
    plan = masks.plan_mask(GRID, rules)
    stars = masks.star_table(plan, found).sort_values("x")
    snr = found.stars.sort_values("x")
    snr = snr[snr["contrast"] >= 6]["snr"].to_numpy()
    assert len(stars) == len(STARS)
    assert stars["length"].to_numpy() * SCALE == pytest.approx(1.2 * (snr / 1000) ** (1 / 2))
    assert stars["core"].to_numpy() * SCALE == pytest.approx(0.45 * (snr / 1000) ** (1 / 3))


def test_a_contrast_no_star_reaches_finds_none():
    assert not flag(mask_of(field(), spikes=Spikes(contrast=1e3)), Flag.SPIKE).any()
    assert not flag(mask_of(field(), spikes=NO_STARS), Flag.SPIKE).any()


# -- all together --------------------------------------------------------------------------------
@pytest.fixture
def everything(tmp_path):
    """Rules that set every bit but ``LUMINOUS``, with their files."""
    text = "image\nbox(200,90,60,12,20)\n-circle(200,90,4)\nicrs\n"
    text += f'circle({PLACE[0]:.8f},{PLACE[1]:.8f},0.7")\n'
    star = tuple(float(v) for v in GRID.sky(60.0, 200.0))
    return MaskRules(
        edge=0.6,
        bright=Rule(40, 6.5),
        extended=Rule(25, 9, fwhm=(4.0, 25.0)),
        spikes=Spikes(stars=((*star, 2.5),), angles=ANGLES),
        regions=region_file(tmp_path, text),
        files=fits_mask(tmp_path / "user.fits", plane()),
    )


CHUNKS = {
    "even": (150, 170),
    "ragged": ((7, 200, 93), (300, 1, 39)),
    "small": (40, 43),
    "smaller than the halo": (19, 340),
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_the_mask_is_the_same_for_every_chunking(everything, chunks):
    image = field() + bumps((120, 150, 900))
    whole = build_mask(mosaic(image, bands=2), rules=everything).values
    cut = mosaic(image, chunks=chunks, bands=2)
    with no_compute():
        lazy = build_mask(cut, rules=everything)
    assert lazy.chunks == cut["sci"].data.chunks[1:]
    assert np.array_equal(lazy.values, whole)
    for cause in set(Flag) - {Flag.LUMINOUS}:
        assert flag(whole, cause).any()


@pytest.mark.parametrize("size", [512, 150, 77])
def test_tiles_have_the_bits_of_the_dask_road(everything, size):
    image = field() + bumps((120, 150, 900))
    expected = build_mask(mosaic(image), rules=everything).values
    plan = pickle.loads(pickle.dumps(masks.plan_mask(GRID, everything)))  # as a worker gets it
    found = survey_of(image, everything.survey_plan(GRID), size)
    got = np.zeros(SHAPE, np.uint16)
    for tile in tile_grid(SHAPE, size, everything.halo):
        bits = masks.mask_window(tile, image[tile.slices], plan, found)
        got[tile.core_slices] = bits[tile.inner]
    assert np.array_equal(got, expected)


def test_the_mask_lies_on_the_mosaics_pixels():
    data = mosaic(noise(SHAPE), chunks=(100, 100)).isel(y=slice(50, 250), x=slice(7, 190))
    mask = build_mask(data)
    assert mask.dims == ("y", "x")
    assert Grid.of(mask) == Grid.of(data)
    assert Grid.of(mask).origin == (50, 7)


def test_a_mosaic_in_memory_is_masked_lazily_too():
    data = mosaic(noise(SHAPE)).compute()
    with no_compute():
        lazy = build_mask(data, edge=1.5)
    assert np.array_equal(lazy.values, build_mask(mosaic(noise(SHAPE)), edge=1.5).values)


def test_a_cut_out_has_what_is_given_at_the_same_places_on_the_sky(everything):
    image = field()
    ys, xs = slice(63, 260), slice(31, 300)
    data = mosaic(image, chunks=(64, 50), bands=2)
    whole = build_mask(data, rules=everything)[ys, xs]
    part = build_mask(data.isel(y=ys, x=xs), rules=everything)
    for cause in (Flag.NODATA, Flag.REGION, Flag.USER):
        assert np.array_equal(flag(part.values, cause), flag(whole.values, cause))
        assert flag(part.values, cause).any()


def test_given_stars_are_the_same_in_a_cut_out_bit_for_bit():
    wide = Grid.tangent((CENTER[0], -73.4), (400, 3000), 0.3)  # north turns along it
    star = tuple(float(v) for v in wide.sky(2700.0, 200.0))
    spikes = Spikes(False, angles=ANGLES, stars=((*star, 50.0),))
    data = mosaic(noise(wide.shape), wide)
    whole = build_mask(data, rules=OFF, spikes=spikes)[:, 2500:]
    part = build_mask(data.isel(x=slice(2500, None)), rules=OFF, spikes=spikes)
    assert part.values.any()
    assert np.array_equal(part.values, whole.values)


@pytest.mark.parametrize("kind", ["fits", "zarr"])
def test_a_mask_of_a_cut_out_serves_the_cut_out(tmp_path, kind):
    data = mosaic(noise(SHAPE)).isel(y=slice(63, 260), x=slice(31, 300))
    values = GRID.wrap(plane() != 0, "mine", "").astype("uint8")[63:260, 31:300].chunk()
    path = str(tmp_path / f"mine.{kind}")
    if kind == "fits":
        write_map(values, path)
    else:
        write_zarr_map(values, path, "mine")
    got = build_mask(data, rules=OFF, files=(path,))
    assert np.array_equal(flag(got.values, Flag.USER), values.values != 0)


def test_shares_count_the_pixels_of_each_cause():
    bits = np.zeros((10, 10), np.uint16)
    bits[0] = Flag.EDGE
    bits[0, :3] = Flag.EDGE | Flag.BRIGHT
    bits[5, 5:8] = Flag.USER
    found = masks.shares(bits)
    assert found["pixels"] == 100
    assert found["masked"] == 13
    assert (found["edge"], found["bright"], found["user"]) == (10, 3, 3)
    assert sum(found[f.name.lower()] for f in Flag) == 16


def test_the_bands_are_summed_in_float32():
    data = mosaic(noise(SHAPE), bands=3)
    with no_compute():
        total = masks.band_sum(data)
    planes = data["sci"].values
    assert total.dtype == np.float32
    assert np.array_equal(total.values, planes[0] + planes[1] + planes[2])
    assert Grid.of(total) == GRID
    assert total.attrs["units"] == "MJy/sr"
    assert np.array_equal(masks.band_sum(data, ["F2", "F0"]).values, planes[2] + planes[0])


# -- mistakes ------------------------------------------------------------------------------------
STAR = (342.18, -44.53, 3.0)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Rule(-25, 6), "nsigma = -25 "),
        (lambda: Rule(float("nan"), 6), "nsigma = nan"),
        (lambda: Rule("25", 6), "nsigma = '25'"),
        (lambda: Rule(25, -1), "dilate = -1"),
        (lambda: Rule(25, float("inf")), "dilate = inf"),
        (lambda: Rule(25, True), "dilate = True"),
        (lambda: Rule(25, 6, fwhm=(5.0, 0.5)), r"fwhm = \(5.0, 0.5\)"),
        (lambda: Rule(25, 6, fwhm=5.0), "fwhm = 5.0"),
        (lambda: Rule(25, 6, fwhm=(0.5, float("inf"))), "fwhm = .*inf"),
        (lambda: Spikes(nsigma=0), "nsigma = 0"),
        (lambda: Spikes(contrast=-1), "contrast = -1"),
        (lambda: Spikes(length=-1.2), "length = -1.2"),
        (lambda: Spikes(core=None), "core = None"),
        (lambda: Spikes(width=float("inf")), "width = inf"),
        (lambda: Spikes(angles="jwst"), "angles = 'jwst'"),
        (lambda: Spikes(angles=(0.0, None)), "angles = .*None"),
        (lambda: Spikes(stars=STAR), "star 342.18 is not"),
        (lambda: Spikes(stars=(STAR[:2],)), r"star \(342.18, -44.53\) is not"),
        (lambda: Spikes(stars=((*STAR[:2], 0),)), "star .* 0.* is not"),
        (lambda: Spikes(stars=((STAR[1], 342.18, 3.0),)), "star .*342.18.* is not"),
        (lambda: Spikes(stars=((float("nan"), 0.0, 3.0),)), "star .*nan.* is not"),
        (lambda: Spikes(stars=7), "stars = 7"),
        (lambda: MaskRules(edge=-6.6), "edge = -6.6"),
        (lambda: MaskRules(edge=None), "edge = None"),
        (lambda: MaskRules(bright=150.0), "bright = 150.0 is not a Rule"),
        (lambda: MaskRules(extended={"nsigma": 25}), "extended = .* is not a Rule"),
        (lambda: MaskRules(spikes=True), "spikes = True"),
        (lambda: MaskRules(regions="stars.reg"), "regions = 'stars.reg'"),
        (lambda: MaskRules(files=(3,)), r"files = \(3,\)"),
        (lambda: build_mask(mosaic(noise(SHAPE)), edge=-1), "edge = -1"),
    ],
)
def test_rules_out_of_range_are_refused_where_they_are_made(make, what):
    with no_compute(), pytest.raises(InputError, match=what) as error:
        make()
    assert "\n" not in str(error.value)


def test_rules_of_plain_and_numpy_numbers():
    star = np.array(STAR)
    rules = MaskRules(edge=0, bright=Rule(np.float32(25), np.int64(0), fwhm=[1, 3]),
                      spikes=Spikes(stars=[star], angles=[0, 60]), regions=["a.reg"])  # fmt: skip
    assert rules.halo > 0


def test_a_missing_region_file():
    with pytest.raises(InputError, match=r"region file nowhere\.reg does not exist; check"):
        mask_of(noise(SHAPE), regions=("nowhere.reg",))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a,b,c\n1,2,3\n", "a,b,c"),
        ("", "no region"),
        ("image\n", "no region"),
        ("circle(3,4,5)\n", "circle"),  # of which frame?
        ("physical\ncircle(3,4,5)\n", "physical"),
        ("image\ncircle(3,4)\n", "radius"),
        ("image\ncircle(3,4,5)\nblob(3,4,5)\n", "blob"),  # one line of many is enough
        ("image\ncircle(3,4,5)\ncircle(3,4,a)\n", "a"),
    ],
)
def test_a_file_that_is_no_region_file(tmp_path, text, what):
    path = tmp_path / "bad.reg"
    path.write_text(text)
    with pytest.raises(InputError, match=r"region file .*bad\.reg is not") as error:
        mask_of(noise(SHAPE), regions=(str(path),))
    assert what in str(error.value)
    assert "\n" not in str(error.value)


def test_a_region_file_that_is_no_text(tmp_path):
    path = tmp_path / "bad.reg"
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(InputError, match=r"bad\.reg is not"):
        mask_of(noise(SHAPE), regions=(str(path),))


def test_a_missing_mask_file():
    with pytest.raises(InputError, match=r"nowhere\.fits"):
        mask_of(noise(SHAPE), files=("nowhere.fits",))


@pytest.mark.parametrize("bands", [["F9"], ["F0", "F9"]])
def test_an_unknown_band(bands):
    with pytest.raises(InputError, match=r"band 'F9' is not in the mosaic; it has \['F0', 'F1'\]"):
        build_mask(mosaic(noise(SHAPE), bands=2), bands=bands)


def test_no_band_at_all():
    with pytest.raises(InputError, match="no band is named"):
        build_mask(mosaic(noise(SHAPE)), bands=[])


def test_an_unknown_option():
    with pytest.raises(InputError, match="no option 'egde'; it has edge, bright"):
        build_mask(mosaic(noise(SHAPE)), egde=3)


def test_a_mosaic_without_wcs():
    data = mosaic(noise(SHAPE)).drop_attrs()
    with pytest.raises(InputError, match="no WCS"):
        build_mask(data)


def test_a_mosaic_without_images():
    with pytest.raises(InputError, match=r"no variable 'sci'.*open_mosaic"):
        build_mask(mosaic(noise(SHAPE)).rename(sci="image"))
