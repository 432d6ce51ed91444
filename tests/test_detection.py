"""The tile road of detection: exact on long chains of dependent peaks, and safe to resume."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gcdask import catalog, mosaic
from gcdask.config import load
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.pipeline import detection
from gcdask.pipeline.inputs import open_inputs, rules_of
from gcdask.pipeline.records import Place
from gcdask.pipeline.runner import Runner

GRID = Grid.tangent((342.18, -44.53), (260, 300), 0.03, angle=20)
PLAIN = """
mosaic: {path: field.zarr}
field: {center: [342.18, -44.53], z_lens: 0.348}
mask: {edge: 0, bright: null, luminous: null, extended: null, spikes: null}
noise: {cell: 64, patch: 32}
"""


def ramps(rng):
    """Lines whose brightness rises steadily: every decision hangs on the one before."""
    image = rng.normal(0, 0.01, GRID.shape)
    image[60, :] += np.linspace(1, 40, GRID.shape[1])
    image[:, 150] += np.linspace(30, 1, GRID.shape[0])
    image[np.arange(200), np.arange(200) + 50] += np.linspace(5, 25, 200)
    return image


def noise(rng):
    return rng.normal(size=GRID.shape)


def steps(rng):
    """Few values, many ties."""
    return rng.integers(0, 4, GRID.shape).astype(float)


def trails(rng):
    """Noisy bright ridges, as of satellites."""
    image = rng.normal(size=GRID.shape)
    for slope, start in ((0.3, 20), (-0.4, 200), (0.05, 130)):
        x = np.arange(GRID.shape[1])
        y = np.clip(start + slope * x, 0, GRID.shape[0] - 1).astype(int)
        image[y, x] += 15 + 3 * rng.normal(size=x.size)
    return image


def field(folder, image, **changes):
    """A stored mosaic of one band and the configuration that looks at it."""
    folder.mkdir(parents=True, exist_ok=True)
    data = GRID.wrap(image.astype(np.float32), "sci", "MJy/sr")
    mosaic.write_map(data, folder / "a.fits")
    mosaic.ingest(folder / "field.zarr", {"A": folder / "a.fits"}, chunks=256)
    (folder / "field.yaml").write_text(PLAIN)
    return load(folder / "field.yaml", [f"{k}={v}" for k, v in changes.items()])


def detect(config, folder):
    """Run the detection of a configuration's mosaic; its field and its peaks at T."""
    inputs = open_inputs(config)
    place = Place(str(folder / "work"), str(folder / "maps.zarr"))
    job = detection.make_job(config, inputs.sources, rules_of(config.mask), place)
    found = detection.detect_field("field", job, Runner())
    peaks = catalog.read(folder / "work/peaks").compute()
    return found, peaks.sort_values("id", ignore_index=True)


def serial(image, threshold):
    """The literal rule: brightest pixel, blank a disk of 3 px, repeat."""
    image = np.where(np.isfinite(image), image, -np.inf).astype(np.float32)
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    found = []
    while True:
        y, x = np.unravel_index(np.argmax(image), image.shape)
        if not image[y, x] > threshold:
            return sorted(found)
        found.append((int(y) << 32) | int(x))
        image[(yy - y) ** 2 + (xx - x) ** 2 <= 9] = -np.inf


@pytest.mark.parametrize("make", [ramps, steps, trails, noise], ids=lambda f: f.__name__)
def test_peaks_are_those_of_the_serial_rule_whatever_the_tiles(make, tmp_path):
    image = make(np.random.default_rng(1))
    expected = None
    for size in (300, 128, 77, 64):
        config = field(tmp_path / str(size), image, **{"tiles.size": size, "detect.threshold": 0.5})
        found, peaks = detect(config, tmp_path / str(size))
        if expected is None:
            shown = mosaic.open_map(tmp_path / str(size) / "maps.zarr", "detection").values
            expected = serial(shown, found.job.threshold)
        assert peaks["id"].tolist() == expected, size


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), size=st.integers(64, 200))
def test_any_tile_size_gives_the_same_peaks_and_counts(seed, size, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    image = trails(np.random.default_rng(seed))
    results = []
    for n in (300, size):
        config = field(
            folder / f"{n}", image, **{"tiles.size": n, "detect.threshold": "3 sigma"}
        )  # fmt: skip
        found, peaks = detect(config, folder / f"{n}")
        results.append((peaks, found.counts))
    pd.testing.assert_frame_equal(results[0][0], results[1][0])
    for sign in ("positive", "negative"):
        np.testing.assert_array_equal(results[0][1][sign], results[1][1][sign])


@pytest.mark.parametrize("size", [300, 100])
def test_nothing_depends_on_whether_the_survey_leaves_its_windows(size, tmp_path, monkeypatch):
    """Bright and extended sources, so that the kept images decide the mask."""
    rng = np.random.default_rng(4)
    image = noise(rng)
    y, x = np.mgrid[: GRID.shape[0], : GRID.shape[1]]
    for cy, cx in rng.uniform(0, 260, (9, 2)):
        image += 900 * np.exp(-np.hypot(y - cy, x - cx) / 4)
    image[rng.random(GRID.shape) < 1e-3] = np.nan
    results = []
    for name, room in (("kept", 2**40), ("read twice", 0)):
        monkeypatch.setattr(Runner, "room", room)
        folder = tmp_path / name
        config = field(
            folder, image,
            **{"tiles.size": size, "detect.threshold": "3 sigma", "mask.bright.nsigma": 50,
               "mask.extended.nsigma": 10, "mask.luminous.nsigma": 30},
        )  # fmt: skip
        found, peaks = detect(config, folder)
        maps = [mosaic.open_map(folder / "maps.zarr", n).values for n in ("detection", "mask")]
        results.append((peaks, found, *maps))
    (peaks, found, *maps), (other_peaks, other, *other_maps) = results
    assert found.shares == other.shares
    assert min(found.shares[k] for k in ("bright", "extended")) > 0
    pd.testing.assert_frame_equal(peaks, other_peaks, check_exact=True)
    for a, b in zip(maps, other_maps, strict=True):
        assert np.array_equal(a, b, equal_nan=True)


def test_the_detection_map_is_optional(tmp_path):
    image = noise(np.random.default_rng(1))
    _, whole = detect(field(tmp_path / "a", image), tmp_path / "a")
    _, peaks = detect(field(tmp_path / "b", image, **{"output.detection": "false"}), tmp_path / "b")
    pd.testing.assert_frame_equal(peaks, whole)
    assert sorted(p.name for p in (tmp_path / "b/maps.zarr").glob("[dm]*")) == ["mask"]
    # asked for later, it is made: no tile counts as done without it
    again_config = load(tmp_path / "b" / "field.yaml")
    _, again = detect(again_config, tmp_path / "b")
    pd.testing.assert_frame_equal(again, whole)
    shown = [mosaic.open_map(tmp_path / n / "maps.zarr", "detection").values for n in "ab"]
    assert np.array_equal(*shown, equal_nan=True)


# -- resuming ------------------------------------------------------------------------------------
@pytest.fixture
def once(tmp_path):
    """A field that was detected in four tiles."""
    config = field(tmp_path, noise(np.random.default_rng(2)), **{"tiles.size": 150})
    return config, tmp_path, detect(config, tmp_path)


def tiles_done(config, folder, monkeypatch):
    """Detect again and count the tiles that were processed."""
    done, real = [], detection.masks.mask_window

    def counted(tile, *args):
        done.append(tile.index)
        return real(tile, *args)

    monkeypatch.setattr(detection.masks, "mask_window", counted)
    result = detect(config, folder)
    return done, result


def assert_same(a, b):
    pd.testing.assert_frame_equal(a[1], b[1])
    assert a[0].shares == b[0].shares


def test_nothing_is_done_twice(once, monkeypatch):
    config, folder, first = once
    done, again = tiles_done(config, folder, monkeypatch)
    assert done == []
    assert_same(first, again)
    parts = sorted(p.name for p in (folder / "work/peaks").glob("*.parquet"))
    assert len(parts) == 4 + 1  # of each tile, and the settled ones


def test_a_lost_shard_is_made_again(once, monkeypatch):
    config, folder, first = once
    (folder / "maps.zarr/mask/c/0/1").unlink(missing_ok=True)
    (folder / "maps.zarr/detection/c/1/0").unlink()
    done, again = tiles_done(config, folder, monkeypatch)
    assert (1, 0) in done
    assert len(done) <= 2
    assert_same(first, again)
    assert np.isfinite(mosaic.open_map(folder / "maps.zarr", "detection").values).any()


def test_lost_maps_are_made_again(once, monkeypatch):
    import shutil

    config, folder, first = once
    shutil.rmtree(folder / "maps.zarr")
    done, again = tiles_done(config, folder, monkeypatch)
    assert len(done) == 4
    assert_same(first, again)


def test_a_lost_part_is_made_again(once, monkeypatch):
    config, folder, first = once
    next((folder / "work/peaks").glob("part-00000-00001-*")).unlink()
    done, again = tiles_done(config, folder, monkeypatch)
    assert done == [(0, 1)]
    assert_same(first, again)


def test_a_half_written_row_is_not_trusted(once, monkeypatch):
    config, folder, first = once
    row = folder / "work/rows/00001-00001.json"
    row.write_text(row.read_text()[:100])
    done, again = tiles_done(config, folder, monkeypatch)
    assert done == [(1, 1)]
    assert_same(first, again)


def test_a_change_inside_the_mosaic_is_noticed(once, monkeypatch):
    import zarr

    config, folder, _ = once
    array = zarr.open_array(str(folder / "field.zarr"), path="sci", mode="r+")
    array[0, 40:60, 40:60] = np.nan
    done, again = tiles_done(config, folder, monkeypatch)
    assert done == [(0, 0)]  # the others are too far away
    assert again[1].query("40 <= x < 60 and 40 <= y < 60").empty
    assert again[0].shares["nodata"] == 400 / (260 * 300)


def test_maps_cannot_be_opened_while_tiles_are_missing(once, monkeypatch):
    config, folder, _ = once
    (folder / "maps.zarr/detection/c/1/1").unlink()

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(detection.masks, "mask_window", dies)
    with pytest.raises(KeyboardInterrupt):
        detect(config, folder)
    with pytest.raises(InputError, match="incomplete"):
        mosaic.open_map(folder / "maps.zarr", "detection")


def test_the_unit_of_a_peak_is_that_of_the_map(once):
    _, folder, (_, peaks) = once
    assert catalog.units(catalog.read(folder / "work/peaks"))["peak"] == "MJy / sr"
    assert len(peaks) > 10
