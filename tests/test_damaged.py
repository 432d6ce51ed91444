"""Files that are not whole: refused when they are opened, or, if they are kept, when it matters."""

import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from astropy.io import fits

from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic import ingest, open_mosaic, open_sources, shards

SHAPE = (600, 700)


def pixels(seed=0):
    data = np.random.default_rng(seed).normal(size=SHAPE).astype("float32")
    data[256:512, 512:] = np.nan  # a shard without data
    data[300:350, 40:99] = np.nan
    return data


def header():
    out = Grid.tangent((110.83, -73.454), SHAPE, 0.03).wcs.to_header()
    out["BUNIT"] = "MJy/sr"
    return out


def save(path, data, kind):
    if kind == "plain":
        images = [fits.PrimaryHDU(data, header())]
    elif kind == "unsigned":
        images = [fits.PrimaryHDU(np.nan_to_num(100 * data + 500).astype("uint16"), header())]
    elif kind == "extension":
        images = [fits.PrimaryHDU(), fits.ImageHDU(data, header(), name="SCI")]
    else:
        packed = fits.CompImageHDU(
            data, header(), compression_type="GZIP_2", tile_shape=(100, 100), quantize_level=0
        )
        images = [fits.PrimaryHDU(), packed]
    fits.HDUList(images).writeto(path)
    return str(path)


@pytest.fixture
def store(tmp_path):
    image = save(tmp_path / "a.fits", pixels(), "plain")
    other = save(tmp_path / "b.fits", pixels(1), "plain")
    return ingest(tmp_path / "m.zarr", {"A": image, "B": other}, chunks=256)


def same(a, b):
    return np.array_equal(a, b, equal_nan=True)


# -- FITS -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["plain", "unsigned", "extension", "tiles"])
def test_what_is_left_of_a_fits_file_can_be_read_and_the_rest_not(tmp_path, kind, caplog):
    path = save(tmp_path / "a.fits", pixels(), kind)
    whole = open_sources(path).sci[0].read(0, 600, 0, 700)
    os.truncate(path, int(0.6 * os.path.getsize(path)))
    with pytest.raises(InputError, match=r"a.fits is truncated: .* bytes, but"):
        open_sources(path)
    with caplog.at_level(logging.WARNING, logger="gcdask"):
        kept = open_sources(path, damaged="keep").sci[0]
    assert [r.getMessage() for r in caplog.records] == [caplog.records[0].getMessage()]
    assert f"{path} is truncated" in caplog.text
    assert same(kept.read(0, 200, 30, 700), whole[:200, 30:])
    for window in [(500, 600, 0, 100), (100, 599, 0, 1), (0, 600, 0, 700)]:
        with pytest.raises(InputError, match=r"a.fits: pixels .* cannot be read .*fetch it again"):
            kept.read(*window)


def test_a_header_that_is_cut_off_cannot_be_kept(tmp_path):
    path = save(tmp_path / "a.fits", pixels(), "plain")
    os.truncate(path, 1500)
    with pytest.raises(InputError, match="not a readable FITS"):
        open_sources(path, damaged="keep")
    with pytest.raises(InputError, match="damaged = 'maybe' is unknown"):
        open_sources(path, damaged="maybe")


# -- shards that are gone -------------------------------------------------------------------------
def test_windows_of_a_lost_shard_are_refused_and_the_others_read(store, caplog):
    data = pixels(1)
    shutil.rmtree(f"{store}/sci/c/1/0")
    with pytest.raises(InputError, match=r"3 of 16 shards of sci are missing; .* copy it again"):
        open_mosaic(store)
    with caplog.at_level(logging.WARNING, logger="gcdask"):
        a, b = open_sources(store, damaged="keep").sci
    assert len(caplog.records) == 1
    assert f"{store}: 3 of 16 shards of sci are missing" in caplog.text
    assert same(a.read(0, 600, 0, 700), pixels())
    assert same(b.read(256, 600, 0, 700), data[256:])
    for window in [(0, 256, 0, 256), (255, 256, 0, 1), (255, 300, 600, 700), (0, 600, 0, 700)]:
        with pytest.raises(InputError, match=r"shard c/1/0/\d is missing.*copy it again"):
            b.read(*window)
        with pytest.raises(InputError, match=r"shard c/1/0/\d is missing"):
            pickle.loads(pickle.dumps(b)).read(*window)


def test_a_shard_that_goes_while_a_mosaic_is_open_is_missed(store):
    source = open_sources(store).sci[0]
    assert same(source.read(300, 350, 600, 700), np.full((50, 100), np.nan))
    assert same(source.read(300, 350, 40, 99), np.full((50, 59), np.nan))
    shutil.rmtree(f"{store}/sci/c/0/1")
    assert same(source.read(300, 350, 600, 700), np.full((50, 100), np.nan))  # it never had data
    with pytest.raises(InputError, match="shard c/0/1/0 is missing"):
        source.read(300, 350, 40, 99)


def test_an_empty_shard_counts_as_lost(store):
    os.truncate(f"{store}/sci/c/0/0/0", 0)
    with pytest.raises(InputError, match="1 of 16 shards"):
        open_sources(store)


def test_stores_of_earlier_versions_know_how_many_shards_they_had(store):
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    attrs = {k: v for k, v in group.attrs.asdict().items() if k != shards.HELD}
    group.attrs.put({**attrs, "shards": {"sci": 16}})
    assert same(open_sources(store).sci[1].read(0, 600, 0, 700), pixels(1))
    os.remove(f"{store}/sci/c/0/2/2")
    for damaged in ("refuse", "keep"):  # which one is not known: its window would read as empty
        with pytest.raises(InputError, match="1 of 16 shards of sci are missing"):
            open_sources(store, damaged=damaged)


@pytest.mark.parametrize(
    "held",
    [None, 3, "x", {"sci": 5}, {"sci": ["3,3:AAA=", 2]}, {"sci": ["99999999,99999999:AAA=", ""]}],
)
def test_a_damaged_record_of_shards_is_as_good_as_none(store, held):
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    group.attrs.update({shards.HELD: held})
    assert same(open_sources(store).sci[1].read(0, 600, 0, 700), pixels(1))


def test_the_record_of_shards_is_small():
    held = np.random.default_rng(0).random((2, 49, 49)) < 0.5
    texts = shards.pack(held)
    assert max(map(len, texts)) < 450
    for text, bits in zip(json.loads(json.dumps(texts)), held, strict=True):
        np.testing.assert_array_equal(shards.unpack(text, (49, 49)), bits)
        grown = shards.unpack(text, (60, 50))
        np.testing.assert_array_equal(grown[:49, :49], bits)
        assert grown.sum() == bits.sum()


# -- flipped bits ---------------------------------------------------------------------------------
@pytest.mark.parametrize("compressor", ["lz4", "zstd", "none"])
def test_a_flipped_bit_never_passes_for_a_pixel(tmp_path, compressor):
    image = save(tmp_path / "a.fits", pixels(), "plain")
    store = ingest(tmp_path / "m.zarr", image, chunks=256, compressor=compressor)
    source, path = open_sources(store).sci[0], f"{store}/sci/c/0/0/1"
    good, rng = Path(path).read_bytes(), np.random.default_rng(0)
    for place in [0, 5, len(good) - 1, len(good) - 30, *rng.integers(0, len(good), 60)]:
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        Path(path).write_bytes(bad)
        with pytest.raises(InputError, match=r"sci: pixels \[0:256, 256:512\] .* cannot be read"):
            source.read(0, 256, 256, 512)
    Path(path).write_bytes(good)
    assert same(source.read(0, 256, 256, 512), pixels()[:256, 256:512])
