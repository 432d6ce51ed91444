"""A real NIRCam difference image, with the residuals of a bright star, from file to peaks.

The star lies just beyond the right edge. Its images of two roll angles were subtracted, so that two
six-spike patterns, one positive and one negative, 19 deg apart, run through the picture.
"""

import numpy as np
import pandas as pd
import pytest
from conftest import no_compute
from scipy.spatial import cKDTree

from gcdask import detect, masks
from gcdask.grid import Tile
from gcdask.kernels.noise import robust_sigma
from gcdask.masks import Flag, MaskRules, Spikes
from gcdask.mosaic import open_mosaic, open_sources
from gcdask.survey import combine, survey_window
from gcdask.tiles import read_sum, real_ends, tile_grid

STAR = (268.505659, 65.161715)  # deg: global pixel (406, 81)
POSITIVE = (17.0, 77.0, 137.0)  # position angles of the spikes that reach the image
NEGATIVE = (36.5, 96.5, 156.5)
RULES = MaskRules(
    edge=0,
    bright=None,
    luminous=None,
    extended=None,
    spikes=Spikes(
        auto=False,
        angles=POSITIVE + NEGATIVE,
        stars=((*STAR, 13.0),),
        core=2.4,  # arcsec: the patterns' short rays end there
        width=0.75,
    ),
)
NO_SPIKES = MaskRules(edge=0, bright=None, luminous=None, extended=None, spikes=None)
NSIGMA = 5.0
NAN = ((11, 320), (166, 384))  # y, x


@pytest.fixture(scope="module")
def paths(shared_data):
    image = shared_data / "images" / "nircam_f200w_field1.fits"
    return str(image), str(image).replace(".fits", "_err.fits")


def open_image(paths, chunks=128):
    return open_mosaic({"F200W": paths[0]}, err={"F200W": paths[1]}, chunks=chunks)


@pytest.fixture(scope="module")
def found(paths):
    """Maps and catalogues with and without the mask of the spikes; the same noise for both."""
    data = open_image(paths)
    with no_compute():
        mask = masks.build_mask(data, rules=RULES)
        plain = masks.build_mask(data, rules=NO_SPIKES)
        masked = detect.detection_map(data, mask)
        full = detect.detection_map(data, plain)
        noise = detect.noise_map(masked)
        options = {"noise": noise, "in_sigma": True}
        with_mask = detect.detect_peaks(masked, NSIGMA, **options)
        without = detect.detect_peaks(full, NSIGMA, **options)
        negative = detect.detect_peaks(-masked, NSIGMA, **options)
        negative_without = detect.detect_peaks(-full, NSIGMA, **options)
    return {
        "data": data.load(),
        "bits": mask.values,
        "plain": plain.values,
        "masked": masked.values,
        "full": full.values,
        "noise": noise.load(),
        "with": with_mask.compute(),
        "without": without.compute(),
        "negative": negative.compute(),
        "negative without": negative_without.compute(),
    }


def at(df, plane):
    return plane[df["y"].astype(int), df["x"].astype(int)]


def test_the_image_is_what_its_header_says(found):
    data = found["data"]
    assert data.sizes == {"band": 1, "y": 401, "x": 401}
    assert data["sci"].attrs["units"].replace(" ", "") == "MJy/sr"
    assert data.gc.pixel_scale == pytest.approx(0.03, rel=1e-6)
    assert np.argwhere(np.isnan(data["sci"].values[0])).tolist() == [list(p) for p in NAN]
    x, y = data.gc.grid.pixel(*STAR)
    assert (float(x), float(y)) == pytest.approx((406, 81), abs=0.1)


def test_only_the_two_broken_pixels_have_no_data(found):
    expected = np.zeros((401, 401), np.uint16)
    expected[tuple(np.transpose(NAN))] = Flag.NODATA
    assert np.array_equal(found["plain"], expected)
    assert np.array_equal(np.isnan(found["full"]), expected != 0)


def test_the_mask_covers_the_spikes_and_a_quarter_of_the_image(found):
    bits, image = found["bits"], found["data"]["sci"].values[0]
    assert set(np.unique(bits)) == {0, Flag.NODATA, Flag.SPIKE, Flag.SPIKE | Flag.NODATA}
    assert (bits != 0).mean() == pytest.approx(0.256, abs=0.001)
    x, y = np.array([300.0, 200.0]), np.array([103.7, 126.7])  # on the spike at PA 77
    assert (bits[y.astype(int), x.astype(int)] == Flag.SPIKE).all()
    bright = np.abs(image) > 0.15  # MJy/sr: eight times the error map
    assert bright.sum() > 2000
    assert (bits != 0)[bright].mean() > 0.98


def test_spikes_are_bright_above_their_angles_and_dark_below(found):
    """Position angles are north through east on the real WCS: each spike has its own sign."""
    data = found["data"]
    image = np.nan_to_num(data["sci"].values[0])
    for angles, sign in ((POSITIVE, 1), (NEGATIVE, -1)):
        for pa in angles[:2]:  # those that cross the whole image
            r = np.arange(3.0, 8.0, 0.05) / 3600
            east = r * np.sin(np.deg2rad(pa)) / np.cos(np.deg2rad(STAR[1]))
            x, y = data.gc.grid.pixel(STAR[0] + east, STAR[1] + r * np.cos(np.deg2rad(pa)))
            ray = image[np.rint(y).astype(int), np.rint(x).astype(int)]
            assert sign * np.median(ray) > 0.015


def test_nothing_is_detected_on_masked_or_missing_pixels(found):
    for name, bits in (("with", "bits"), ("without", "plain")):
        df = found[name]
        assert (at(df, found[bits]) == 0).all()
        assert np.isfinite(at(df, found["data"]["sci"].values[0])).all()
    assert np.array_equal(np.isnan(found["masked"]), found["bits"] != 0)


def test_the_mask_removes_the_detections_along_the_spikes(found):
    """Without the mask 160 detections, with it 2: those of the open sky, which stay."""
    without, with_mask = found["without"], found["with"]
    assert len(without) == 160
    assert len(with_mask) == 2
    for name in ("full", "masked"):  # too far from the limit for another CPU's rounding
        ratio = found[name] / found["noise"].values
        assert np.nanmin(np.abs(ratio - NSIGMA)) > 5e-4
    on_spikes = at(without, found["bits"]) != 0
    assert on_spikes.mean() > 0.95
    open_sky = without[~on_spikes]
    pairs = cKDTree(open_sky[["x", "y"]]).query(with_mask[["x", "y"]])[0]
    assert (pairs == 0).all()
    assert with_mask["snr"].max() < 6 < without["snr"].max()


def test_what_is_left_is_as_rare_as_on_the_negative(found):
    assert len(found["negative"]) == 2
    assert len(found["negative without"]) > 100


def test_the_noise_agrees_with_the_error_map(found):
    """Drizzled pixels are correlated, so that the high-pass takes away a part of the noise."""
    data, open_sky = found["data"], found["bits"] == 0
    image, err = data["sci"].values[0], data["err"].values[0]
    quiet = open_sky & (
        np.hypot(*np.indices(image.shape)[::-1] - np.reshape([406, 81], (2, 1, 1))) > 150
    )
    ratio = robust_sigma(image[quiet]) / np.median(err[quiet])
    assert ratio == pytest.approx(1.0, abs=0.15)
    gain = np.median(found["noise"].values[quiet]) / np.median(err[quiet])
    assert 0.5 < gain < 0.75


def test_the_error_map_tells_where_the_star_is(found):
    err = found["data"]["err"].values[0]
    y, x = np.indices(err.shape)
    near = np.hypot(x - 406, y - 81) < 40
    assert np.nanmedian(err[near]) > 1.5 * np.nanmedian(err[found["bits"] == 0])


# -- both roads ----------------------------------------------------------------------------------
def by_tiles(paths, rules, size, noise):
    """Catalogue of a stored image, a window at a time, as the pipeline does it."""
    sources = open_sources({"F200W": paths[0]})
    grid, plan = sources.grid, masks.plan_mask(sources.grid, rules)
    survey_plan = rules.survey_plan(grid)
    survey = combine(
        [
            survey_window(tile, read_sum(sources.sci, tile), survey_plan)
            for tile in tile_grid(grid.shape, size, survey_plan.halo)
        ],
        survey_plan,
    )
    halo = rules.halo + detect.chain_halo() + detect.PEAK_HALO
    wide = tile_grid(grid.shape, size, halo)
    narrow = tile_grid(grid.shape, size, detect.PEAK_HALO)
    accepted, pending = [], []
    for tile, seen in zip(wide, narrow, strict=True):
        image = read_sum(sources.sci, tile)
        detection, _ = detect.chain(image, masks.mask_window(tile, image, plan, survey))
        # peaks must not see the rim, where the filters lack a part of the image
        rows, left = detect.peaks_in_window(
            detection[part(seen, tile)],
            noise[seen.slices],
            NSIGMA,
            tile=seen,
            ends=real_ends(seen, grid.shape),
            grid=grid,
            in_sigma=True,
        )
        accepted.append(rows)
        pending.append(left)
    rows = pd.concat([*accepted, detect.settle_peaks(pending)])
    return rows.drop(columns="near").sort_values("id", ignore_index=True)


def part(inner: Tile, outer: Tile):
    (y0, y1, x0, x1), (top, _, left, _) = inner.window, outer.window
    return slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)


@pytest.mark.parametrize("size", [1000, 256, 100, 37])
@pytest.mark.parametrize(("rules", "name"), [(RULES, "with"), (NO_SPIKES, "without")])
def test_tiles_of_any_size_give_the_catalogue_of_the_lazy_functions(
    paths, found, rules, name, size
):
    expected = found[name].sort_values("id", ignore_index=True)
    got = by_tiles(paths, rules, size, found["noise"].values)
    assert len(expected)
    pd.testing.assert_frame_equal(got, expected, check_exact=True)


@pytest.mark.parametrize("chunks", [512, (401, 60), (33, 150)])
def test_chunks_do_not_matter(paths, found, chunks):
    data = open_image(paths, chunks)
    mask = masks.build_mask(data, rules=RULES)
    image = detect.detection_map(data, mask)
    assert np.array_equal(mask.values, found["bits"])
    assert np.array_equal(image.values, found["masked"], equal_nan=True)
    noise = detect.noise_map(image)
    assert np.array_equal(noise.values, found["noise"].values)
    peaks = detect.detect_peaks(image, NSIGMA, noise=noise, in_sigma=True).compute()
    pd.testing.assert_frame_equal(
        peaks.sort_values("id", ignore_index=True),
        found["with"].sort_values("id", ignore_index=True),
        check_exact=True,
    )


# -- the defaults, and a picture -------------------------------------------------------------------
def test_a_star_beyond_the_image_must_be_given_by_hand(paths, found):
    data = open_image(paths)
    mask = masks.build_mask(data, edge=0)  # the default rules otherwise
    bits, image = mask.values, data["sci"].values[0]
    assert not (bits & Flag.SPIKE).any()
    assert (bits[image > 5] != 0).mean() > 0.9
    peaks = detect.detect_peaks(
        detect.detection_map(data, mask), NSIGMA, noise=found["noise"], in_sigma=True
    ).compute()
    assert len(peaks) > 100
    both = masks.build_mask(data, edge=0, spikes=RULES.spikes).values
    assert np.array_equal(both & Flag.SPIKE, found["bits"] & Flag.SPIKE)
    assert (both & (Flag.BRIGHT | Flag.EXTENDED)).any()


def test_the_picture_of_the_result_can_be_looked_at(found, tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 8), layout="constrained")
    left, right = figure.subplots(1, 2)
    image = found["data"]["sci"].values[0]
    for axes, plane, name in (
        (left, image, "without"),
        (right, np.where(found["bits"] != 0, np.nan, image), "with"),
    ):
        df = found[name]
        axes.set_facecolor("k")
        axes.imshow(plane, origin="lower", cmap="RdBu_r", vmin=-0.05, vmax=0.05)
        axes.plot(df["x"], df["y"], "o", mfc="none", mec="limegreen", ms=9)
        axes.set_title(f"{len(df)} detections {name} the mask of the spikes")
    path = tmp_path / "real.png"
    figure.savefig(path, dpi=70)
    assert path.stat().st_size > 100_000
