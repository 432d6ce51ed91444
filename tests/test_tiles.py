"""Tiles: every pixel has one owner, and a window is the same however the field is cut."""

import threading

import dask
import dask.array as da
import numpy as np
import pytest
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.tiles import (
    chunk_tiles,
    dask_image,
    map_windows,
    read_sum,
    real_ends,
    tile_grid,
    windows,
)

SHAPE = (61, 47)
HALO = 5
CHUNKS = {
    "one": SHAPE,
    "even": (20, 16),
    "ragged": ((50, 1, 10), (7, 33, 7)),
    "tiny": (3, 2),  # smaller than the halo
    "strips": (1, -1),
}
GRID = Grid.tangent((10.0, -30.0), SHAPE, 0.03)


def sky(shape=SHAPE, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def largest(image):
    """Maximum within `HALO` px: a function of all pixels that the halo reaches, corners too."""
    return ndimage.maximum_filter(image, 2 * HALO + 1, mode="constant", cval=-np.inf)


def largest_core(tile, image):
    return largest(image)[tile.inner]


# -- the cut -------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(1, 80), st.integers(0, 30))
def test_every_pixel_has_one_owner_and_windows_stay_in_the_field(shape, size, halo):
    owners = np.zeros(shape, int)
    for tile in tile_grid(shape, size, halo):
        owners[tile.core_slices] += 1
        (y0, y1, x0, x1), (a, b, c, d) = tile.core, tile.window
        assert y1 - y0 <= size
        assert x1 - x0 <= size
        assert (a, c) == (max(0, y0 - halo), max(0, x0 - halo))
        assert (b, d) == (min(shape[0], y1 + halo), min(shape[1], x1 + halo))
        marked = np.zeros(shape, bool)
        marked[tile.core_slices] = True
        assert marked[tile.slices][tile.inner].all()
        assert marked[tile.slices].sum() == (y1 - y0) * (x1 - x0)
    assert (owners == 1).all()


def test_tiles_come_in_raster_order():
    tiles = tile_grid((25, 31), 10, 0)
    assert [t.index for t in tiles] == [(i, j) for i in range(3) for j in range(4)]
    assert tiles[-1].core == (20, 25, 30, 31)


def test_a_mosaic_that_grows_keeps_its_whole_tiles():
    before = {t.index: t.core for t in tile_grid((100, 130), 32, 4)}
    after = {t.index: t.core for t in tile_grid((300, 131), 32, 4)}
    whole = {k for k, (y0, y1, x0, x1) in before.items() if y1 - y0 == x1 - x0 == 32}
    assert len(whole) == 12
    assert all(before[k] == after[k] for k in whole)


def test_tiles_of_chunks_are_the_chunks():
    chunks = ((50, 1, 10), (7, 33, 7))
    tiles = chunk_tiles(chunks, 6)
    assert [t.core[:2] for t in tiles[::3]] == [(0, 50), (50, 51), (51, 61)]
    assert [t.core[2:] for t in tiles[:3]] == [(0, 7), (7, 40), (40, 47)]
    assert tiles[4].window == (44, 57, 1, 46)


def test_only_borders_of_the_field_are_real_ends():
    ends = {t.index: real_ends(t, (90, 90)) for t in tile_grid((90, 90), 30, 8)}
    assert ends[0, 0] == (True, False, True, False)
    assert ends[1, 1] == (False, False, False, False)
    assert ends[2, 1] == (False, True, False, False)
    assert ends[0, 2] == (True, False, False, True)


def test_a_window_that_reaches_the_border_ends_there_although_its_core_does_not():
    tile = tile_grid((90, 90), 30, 30)[4]
    assert tile.core == (30, 60, 30, 60)
    assert real_ends(tile, (90, 90)) == (True, True, True, True)


@pytest.mark.parametrize("size", [0, -4])
def test_a_tile_has_at_least_one_pixel(size):
    with pytest.raises(InputError, match=rf"tile size {size} px.*use"):
        tile_grid((10, 10), size, 2)


# -- stored bands --------------------------------------------------------------------------------
def test_bands_are_added_in_order_in_float32():
    bands = [sky(seed=i) * 10.0**i for i in range(5)]
    for tile in tile_grid(SHAPE, 20, HALO):
        expected = np.zeros((), np.float32)
        for band in bands:
            expected = expected + band[tile.slices]
        got = read_sum(bands, tile)
        assert got.dtype == np.float32
        assert np.array_equal(got, expected)


def test_the_sum_has_no_data_where_any_band_has_none():
    bands = [sky(seed=i) for i in range(3)]
    bands[0][3, 4] = bands[2][10, 40] = np.nan
    (tile,) = tile_grid(SHAPE, 100, 0)
    assert {tuple(p) for p in np.argwhere(np.isnan(read_sum(bands, tile)))} == {(3, 4), (10, 40)}


def test_reading_leaves_the_bands_alone_and_reads_each_once():
    class Band:
        def __init__(self, seed):
            self.data, self.reads = sky(seed=seed), []

        def __getitem__(self, key):
            self.reads.append(key)
            return self.data[key]  # a view: adding to it would change the band

    bands = [Band(0), Band(1)]
    tile = tile_grid(SHAPE, 30, HALO)[0]
    read_sum(bands, tile)
    assert [b.reads for b in bands] == [[tile.slices]] * 2
    assert np.array_equal(bands[0].data, sky(seed=0))


# -- dask arrays ---------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_a_filter_over_windows_is_that_of_the_whole_array(chunks):
    image = sky()
    lazy = da.from_array(image, chunks=chunks)
    with no_compute():
        out = map_windows(largest_core, [lazy], HALO, dtype=np.float32)
    assert out.chunks == lazy.chunks
    assert out.dtype == np.float32
    assert np.array_equal(out.compute(), largest(image))


@settings(max_examples=15, deadline=None)
@given(st.data(), st.integers(0, 12))
def test_a_window_is_the_array_about_its_chunk(data, halo):
    image = sky((13, 17))
    chunks = tuple(_partition(data, n) for n in image.shape)
    for tile, (block,) in windows([da.from_array(image, chunks=chunks)], halo):
        got = block.compute(scheduler="sync")
        assert type(got) is np.ndarray
        assert np.array_equal(got, image[tile.slices])


def _partition(data, n):
    sizes = []
    while sum(sizes) < n:
        sizes.append(data.draw(st.integers(1, n - sum(sizes))))
    return tuple(sizes)


@pytest.mark.parametrize("other", [(61, 47), (4, 4), (20, 16)])
def test_arrays_of_other_chunks_give_the_same_windows(other):
    a, b = sky(seed=1), sky(seed=2)
    lazy = [da.from_array(a, chunks=(20, 16)), da.from_array(b, chunks=other)]
    out = map_windows(_difference, lazy, HALO, 2.0, dtype=np.float32)
    assert np.array_equal(out.compute(), a - np.float32(2) * largest(b))


def _difference(tile, a, b, factor):
    return a[tile.inner] - np.float32(factor) * largest(b)[tile.inner]


@pytest.mark.parametrize("chunks", [(20, 16), (3, 5)])
def test_a_source_chunk_that_many_windows_share_is_computed_once(chunks):
    lock, seen = threading.Lock(), []

    def load(block, block_info=None):
        with lock:
            seen.append(tuple(block_info[0]["chunk-location"]))
        return block

    source = da.from_array(sky(), chunks=chunks).map_blocks(load, dtype=np.float32, meta=sky()[:0])
    out = map_windows(largest_core, [source], HALO, dtype=np.float32)
    total = map_windows(_difference, [source, source], HALO, 0.5, dtype=np.float32)
    dask.compute(out, total, scheduler="threads", num_workers=2)
    assert sorted(seen) == sorted(np.ndindex(source.numblocks))


def test_delayed_arguments_are_computed_with_the_windows():
    with no_compute():
        level = dask.delayed(lambda: 3.0)()
        image = da.ones((4, 4), chunks=2, dtype=np.float32)
        out = map_windows(_times, [image], 1, level, dtype=np.float32)
    assert (out.compute() == 3).all()


def _times(tile, image, factor):
    return image[tile.inner] * np.float32(factor)


# -- maps ----------------------------------------------------------------------------------------
def test_a_map_in_memory_becomes_one_chunk_of_dask():
    image = GRID.wrap(sky(), "a", "")
    assert dask_image(image).chunks == ((61,), (47,))
    assert np.array_equal(dask_image(image).compute(), image.values)


def test_a_map_follows_the_chunks_of_another():
    like = GRID.wrap(da.zeros(SHAPE, chunks=(20, 16)), "like", "")
    image = GRID.wrap(da.from_array(sky(), chunks=(61, 5)), "a", "")
    with no_compute():
        out = dask_image(image, like)
    assert out.chunks == like.data.chunks
    assert np.array_equal(out.compute(), image.values)


def test_maps_of_other_pixels_are_refused():
    image = GRID.wrap(sky(), "kappa", "")
    with pytest.raises(InputError, match=r"kappa has shape \(61, 47\).*\(60, 47\)"):
        dask_image(image, image[1:])
    moved = GRID.cut(1, 61, 0, 47).wrap(sky()[1:], "moved", "")
    with pytest.raises(InputError, match=r"at \(0, 0\).*at \(1, 0\)"):
        dask_image(image[:60], moved)
