"""Inputs by URL: nothing changes but where the bytes come from, and few of them are moved."""

import gzip
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from astropy.io import fits
from servers import http_server, s3_server

from gcdask import storage
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic import ingest, open_mosaic, open_sources
from gcdask.mosaic.reproject import Reprojected
from gcdask.mosaic.shards import Listing
from gcdask.mosaic.source import Scaled, Weighted
from gcdask.mosaic.store import place

CENTER = (110.83, -73.454)
SHAPE = (600, 700)


def pixels(seed=0, shape=SHAPE):
    data = np.random.default_rng(seed).normal(size=shape).astype("float32")
    data[40:60, 100:130] = np.nan
    return data


def header(shape=SHAPE, angle=0.0, scale=0.03, **cards):
    out = Grid.tangent(CENTER, shape, scale, angle=angle).wcs.to_header()
    out.update({"BUNIT": "MJy/sr", **cards})
    return out


def save(path, data, **cards):
    fits.PrimaryHDU(data, header(data.shape, **cards)).writeto(path, overwrite=True)
    return str(path)


def put(local, url):
    """Copy a file to another store."""
    storage.write_bytes(url, Path(local).read_bytes())
    return url


@pytest.fixture(scope="module")
def s3():
    with s3_server("gc-data") as server:
        yield server


@pytest.fixture(params=["disk", "memory", "s3"])
def folder(request, tmp_path):
    """A place to write to, on each kind of store."""
    if request.param == "disk":
        yield str(tmp_path)
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}"
    else:
        yield f"{request.getfixturevalue('s3').url}/{tmp_path.name}"


@pytest.fixture
def image(tmp_path):
    return save(tmp_path / "a.fits", pixels())


# -- what stands for the content of a window ------------------------------------------------------
def rewrite(store, name, band, where, value):
    """Write a part of an array again, some time later."""
    time.sleep(0.02)
    zarr.open_array(**place(store), path=name, mode="r+")[band, *where] = value


def test_a_stamp_changes_with_the_shards_under_its_window_and_no_others(image, folder):
    data = pixels(1)
    data[256:512, 512:] = np.nan
    other = save(f"{image}.b", data)
    store = ingest(f"{folder}/m.zarr", {"A": image, "B": other}, chunks=256)
    source = open_sources(store).sci[1]
    windows = {
        "first": (0, 256, 0, 256),
        "corner": (250, 260, 250, 260),
        "hole": (256, 512, 512, 700),
    }
    before = {name: source.stamp(*window) for name, window in windows.items()}
    keys = [key for key, _ in before["corner"][1]]
    assert keys == ["c/1/0/0", "c/1/0/1", "c/1/1/0", "c/1/1/1"]
    assert all(stamp for _, stamp in before["corner"][1])
    assert before["hole"][1] == [["c/1/1/2", None]]
    assert {name: source.stamp(*window) for name, window in windows.items()} == before

    rewrite(store, "sci", 1, (slice(3, 9), slice(3, 9)), 5.0)
    after = {name: source.stamp(*window) for name, window in windows.items()}
    assert [name for name in windows if after[name] != before[name]] == ["first", "corner"]
    assert after["corner"][1][1:] == before["corner"][1][1:]
    rewrite(store, "sci", 0, (slice(300, 310), slice(3, 9)), 5.0)  # the other band
    assert {name: source.stamp(*window) for name, window in windows.items()} == after

    storage.remove(storage.join(store, "sci", "c/1/0/0"))
    assert source.stamp(*windows["first"])[1] == [["c/1/0/0", None]]
    rewrite(store, "sci", 1, (slice(300, 310), slice(600, 609)), 5.0)
    assert source.stamp(*windows["hole"])[1][0][1] is not None


def test_a_listing_asks_a_store_once(image, s3, monkeypatch):
    store = ingest(f"{s3.url}/listing.zarr", image, chunks=256)
    source, listing, asked = open_sources(store).sci[0], Listing(), []
    find = storage.find
    monkeypatch.setattr(storage, "find", lambda path: asked.append(path) or find(path))
    stamps = [source.stamp(y, y + 256, 0, 256, listing) for y in (0, 256)]
    assert asked == [f"{store}/sci"]
    assert stamps == [source.stamp(y, y + 256, 0, 256) for y in (0, 256)]


def test_old_tiles_keep_their_stamps_when_a_mosaic_grows(image, folder):
    store = ingest(f"{folder}/m.zarr", image, chunks=256)
    before = open_sources(store).sci[0].stamp(0, 512, 0, 512)
    zarr.open_array(**place(store), path="sci", mode="r+").resize((1, 900, 900))
    axes = {"y": np.arange(900), "x": np.arange(900)}
    for name, values in axes.items():
        axis = zarr.open_array(**place(store), path=name, mode="r+")
        axis.resize((900,))
        axis[:] = values
    grown = open_sources(store).sci[0]
    assert grown.shape == (900, 900)
    assert grown.stamp(0, 512, 0, 512) == before


def test_the_stamp_of_a_fits_file_is_of_its_headers_size_and_time(image, folder):
    path = put(image, f"{folder}/b.fits")
    source = open_sources(path).sci[0]
    before = source.stamp(0, 10, 0, 10)
    assert source.stamp(300, 400, 5, 6) == before == open_sources(path).sci[0].stamp(0, 9, 0, 9)
    time.sleep(0.02)
    put(save(image, pixels(3)), path)
    after = source.stamp(0, 10, 0, 10)
    assert after != before
    time.sleep(0.02)
    put(save(image, pixels(3), PROGRAM="9999"), path)
    last = open_sources(path).sci[0].stamp(0, 10, 0, 10)
    assert last[1] != after[1]
    listing = Listing()
    assert source.stamp(0, 10, 0, 10, listing) == source.stamp(9, 10, 0, 10, listing)
    storage.remove(path)
    assert source.stamp(0, 10, 0, 10)[2] is None


def test_factor_weight_and_pixels_of_a_band_are_in_its_stamp(image, tmp_path):
    store = ingest(tmp_path / "m.zarr", image, chunks=256)
    stored, window = open_sources(store).sci[0], (0, 200, 0, 200)
    one, two = Scaled(stored, 2.0), Scaled(stored, 3.0)
    assert one.stamp(*window) != two.stamp(*window)
    assert one.stamp(*window)[-1] == stored.stamp(*window)

    weight = open_sources(save(tmp_path / "w.fits", np.ones(SHAPE, "float32"))).sci[0]
    weighted = Weighted(stored, weight)
    before = weighted.stamp(*window)
    time.sleep(0.02)
    save(tmp_path / "w.fits", np.zeros(SHAPE, "float32"))
    assert weighted.stamp(*window) != before
    assert weighted.stamp(*window)[1] == before[1]


@pytest.mark.parametrize(
    ("angle", "scale"), [(0.0, 0.03), (30.0, 0.03), (10.0, 0.15), (5.0, 0.007)]
)
def test_a_reprojected_band_has_the_stamps_of_all_that_it_reads(image, tmp_path, angle, scale):
    store = ingest(tmp_path / "m.zarr", image, chunks=256)
    stored = open_sources(store).sci[0]
    onto = Grid.tangent(CENTER, (500, 500), scale, angle=angle)
    moved = Reprojected(stored, open_sources(store).grid, onto)
    read = []

    class Watched(type(stored)):
        def read(self, *window):
            read.append(window)
            return super().read(*window)

    object.__setattr__(moved, "source", Watched(**vars(stored)))
    for window in [(0, 500, 0, 500), (100, 101, 0, 300), (220, 280, 220, 280), (0, 1, 0, 1)]:
        read.clear()
        moved.read(*window)
        there = {key for key, _ in (moved.stamp(*window)[-1] or [0, []])[1]}
        needed = {key for part in read for key, _ in stored.stamp(*part)[1]}
        assert needed <= there
        if window == (220, 280, 220, 280) and scale == 0.007:
            assert len(there) < 9  # not simply all of the store
    assert moved.stamp(0, 9, 0, 9) != Reprojected(stored, moved.grid, moved.grid).stamp(0, 9, 0, 9)


# -- mosaics --------------------------------------------------------------------------------------
def same(a, b):
    return np.array_equal(a, b, equal_nan=True)


def test_a_mosaic_is_written_and_read_on_every_store(image, folder):
    other = save(f"{image}.b", pixels(1))
    store = ingest(f"{folder}/a field/m.zarr", {"A": image, "B": other}, chunks=256)
    mosaic = open_mosaic(store)
    assert list(mosaic.band.values) == ["A", "B"]
    assert same(mosaic.sci[1], pixels(1))
    with pytest.raises(InputError, match="exists; give overwrite=True"):
        ingest(store, image, chunks=256)
    assert same(open_mosaic(ingest(store, other, chunks=512, overwrite=True)).sci[0], pixels(1))
    with pytest.raises(InputError, match="is input and output"):
        ingest(store, store, chunks=256, overwrite=True)
    again = ingest(f"{folder}/n.zarr", store, chunks=256)
    assert same(open_mosaic(again).sci[0], pixels(1))
    storage.remove(store)
    with pytest.raises(InputError, match=r"m\.zarr does not exist"):
        open_mosaic(store)


@pytest.mark.parametrize("kind", ["plain", "extension", "scaled", "tiles", "rows"])
def test_fits_images_are_read_by_url(image, folder, kind):
    data = pixels()
    if kind == "plain":
        hdus = [fits.PrimaryHDU(data, header())]
    elif kind == "extension":
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(data, header(), name="SCI")]
    elif kind == "scaled":
        hdus = [fits.PrimaryHDU((1000 * np.nan_to_num(data)).astype("uint16"), header())]
    else:
        tiles = {"tile_shape": (100, 100)} if kind == "tiles" else {}
        packed = fits.CompImageHDU(
            data, header(), compression_type="GZIP_2", quantize_level=0, **tiles
        )
        hdus = [fits.PrimaryHDU(), packed]
    local = f"{image}.{kind}.fits"
    fits.HDUList(hdus).writeto(local)
    url = put(local, f"{folder}/remote {kind}.fits")
    here, there = open_sources(local), open_sources(url)
    assert there.grid == here.grid
    for window in [(0, 600, 0, 700), (5, 6, 0, 700), (41, 99, 99, 131), (599, 600, 699, 700)]:
        assert same(there.sci[0].read(*window), here.sci[0].read(*window))
    assert same(open_mosaic(url, 128).sci[0], open_mosaic(local).sci[0])
    store = ingest(f"{folder}/{kind}.zarr", {"A": f"{url}[{here.sci[0].hdu}]"}, chunks=256)
    assert same(open_mosaic(store).sci[0], open_mosaic(local).sci[0])


def test_gzipped_images_are_unpacked_on_their_way_to_a_store(image, folder):
    with open(image, "rb") as raw, gzip.open(f"{image}.gz", "wb", 1) as packed:
        shutil.copyfileobj(raw, packed)
    url = put(f"{image}.gz", f"{folder}/a.fits.gz")
    assert same(open_mosaic(ingest(f"{folder}/m.zarr", url, chunks=256)).sci[0], pixels())
    cut = storage.join(folder, "cut.fits.gz")
    storage.write_bytes(cut, storage.read_bytes(url)[:100000])
    with pytest.raises(InputError, match=r"cut.fits.gz is truncated or damaged gzip"):
        ingest(f"{folder}/n.zarr", cut, chunks=256)


def test_a_damaged_file_on_a_store_is_kept_like_a_local_one(image, folder):
    url = f"{folder}/cut.fits"
    with open(image, "rb") as file:
        storage.write_bytes(url, file.read(1_000_000))
    with pytest.raises(InputError, match=r"cut.fits is truncated: 1000000 bytes"):
        open_sources(url)
    source = open_sources(url, damaged="keep").sci[0]
    assert same(source.read(0, 300, 0, 700), pixels()[:300])
    with pytest.raises(InputError, match=r"pixels \[500:600, 0:9\] .* cannot be read"):
        source.read(500, 600, 0, 9)
    store = ingest(f"{folder}/m.zarr", image, chunks=256)
    storage.remove(storage.join(store, "sci", "c/0/1/1"))
    with pytest.raises(InputError, match="1 of 9 shards of sci are missing"):
        open_sources(store)
    source = open_sources(store, damaged="keep").sci[0]
    assert same(source.read(0, 256, 0, 700), pixels()[:256])
    with pytest.raises(InputError, match="shard c/0/1/1 is missing"):
        source.read(250, 260, 250, 260)


# -- few bytes ------------------------------------------------------------------------------------
@pytest.fixture
def web(tmp_path):
    with http_server(tmp_path) as server:
        yield server


def test_only_headers_and_the_rows_of_a_window_are_fetched(web, tmp_path):
    shape = (1000, 9000)
    data = pixels(shape=shape)
    images = [fits.ImageHDU(data, header(shape), name=name) for name in ("SCI", "ERR", "WHT")]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(tmp_path / "big.fits")  # 108 MB
    url = f"{web.url}/big.fits"
    source = open_sources(url).sci[0]
    assert web.bytes < 500_000
    assert len(web.log) < 20
    for y0, y1, x0, x1 in [(700, 800, 0, 9000), (700, 800, 500, 900), (7, 8, 2, 8990)]:
        before, asked = web.bytes, len(web.log)
        assert same(source.read(y0, y1, x0, x1), data[y0:y1, x0:x1])
        wanted = 4 * (y1 - y0) * (x1 - x0)
        assert wanted <= web.bytes - before < 1.1 * wanted + 100_000
        assert len(web.log) - asked < (y1 - y0) + 10
    before = web.bytes
    open_mosaic(url)  # lazy
    assert web.bytes - before < 500_000


def test_a_window_of_a_compressed_image_fetches_its_tiles_only(web, tmp_path):
    shape = (2000, 2000)
    data = pixels(shape=shape)
    packed = fits.CompImageHDU(
        data, header(shape), compression_type="GZIP_2", quantize_level=0, tile_shape=(200, 200)
    )
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(tmp_path / "big.fits.fz")
    source = open_sources(f"{web.url}/big.fits.fz").sci[0]
    before = web.bytes
    assert same(source.read(300, 350, 900, 950), data[300:350, 900:950])
    assert web.bytes - before < 600_000  # of 14 MB


def test_rows_of_an_object_store_come_by_range(s3, image, monkeypatch):
    url = put(image, f"{s3.url}/range.fits")
    source, asked = open_sources(url).sci[0], []
    fs = storage.filesystem(url)[0]
    cat = type(fs)._cat_file

    async def watched(self, path, version_id=None, start=None, end=None):
        asked.append(end - start)
        return await cat(self, path, version_id, start, end)

    monkeypatch.setattr(type(fs), "_cat_file", watched)
    assert same(source.read(100, 110, 0, 700), pixels()[100:110])
    assert 10 * 700 * 4 <= sum(asked) < 100_000


def test_a_server_without_ranges_is_refused(web, image, monkeypatch):
    monkeypatch.setattr("servers._Handler._range", lambda self, size: None)
    with pytest.raises(InputError, match=r"its server sends no ranges.*copy it to a disk"):
        open_sources(f"{web.url}/a.fits")


# -- the web --------------------------------------------------------------------------------------
def test_a_store_is_read_but_never_written_over_http(web, tmp_path, image):
    store = ingest(tmp_path / "m.zarr", {"A": image}, chunks=256)
    url = f"{web.url}/m.zarr"
    mosaic = open_mosaic(url)
    assert list(mosaic.band.values) == ["A"]
    assert same(mosaic.sci[0], pixels())
    before = open_sources(url).sci[0].stamp(0, 300, 0, 200)
    assert [key for key, stamp in before[1] if stamp] == ["c/0/0/0", "c/0/1/0"]
    time.sleep(0.02)
    rewrite(store, "sci", 0, (slice(300, 309), slice(3, 9)), 5.0)
    after = open_sources(url).sci[0].stamp(0, 300, 0, 200)
    assert after[1][0] == before[1][0]
    assert after[1][1] != before[1][1]
    for wrong in (url, f"{web.url}/new.zarr"):
        with pytest.raises(InputError, match="the web is read-only; give a local path"):
            ingest(wrong, image, chunks=256, overwrite=True)
    os.remove(f"{store}/sci/c/0/0/1")  # servers list nothing, so it is missed when it is read
    with pytest.raises(InputError, match="shard c/0/0/1 is missing"):
        open_sources(url).sci[0].read(0, 200, 200, 300)


# -- what changes is seen -------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["s3", "memory", "web"])
def test_a_file_that_changes_is_seen_in_the_same_process(kind, request, tmp_path, image):
    if kind == "web":
        server = request.getfixturevalue("web")
        url, write = f"{server.url}/b.fits", lambda local: shutil.copy(local, tmp_path / "b.fits")
    else:
        base = request.getfixturevalue("s3").url if kind == "s3" else "memory://changing"
        url = f"{base}/{tmp_path.name}/b.fits"
        write = lambda local: put(local, url)  # noqa: E731
    write(image)
    first = open_mosaic(url)
    stamp = open_sources(url).sci[0].stamp(0, 9, 0, 9)
    states = [storage.state(url), storage.state(f"{url}[1]")]
    assert same(first.sci[0], pixels())
    time.sleep(0.02)
    write(save(image, pixels(7)))
    second = open_mosaic(url)
    assert second.sci.data.name != first.sci.data.name  # nothing is taken from caches
    assert same(second.sci[0], pixels(7))
    assert open_sources(url).sci[0].stamp(0, 9, 0, 9) != stamp
    again = [storage.state(url), storage.state(f"{url}[1]")]
    assert all(now and now != before for now, before in zip(again, states, strict=True))


def test_addresses_that_name_no_bucket_are_told_in_one_line(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret of someone")
    with pytest.raises(InputError, match=r"^s3:// cannot be used .*; check the address$"):
        storage.read_bytes("s3://")
