"""Tiles: every pixel has one owner, and a window is the same however the field is cut."""

import threading

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.tiles import (
    as_map,
    as_mask,
    band_sum,
    check_pixels,
    chunk_tiles,
    layout,
    map_windows,
    on_pixels,
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


# -- sums of a mosaic ----------------------------------------------------------------------------
def mosaic(dtype, chunks=None, n=4):
    planes = np.stack([sky(seed=i).astype(dtype) * 10.0**i + 1e-7 * i for i in range(n)])
    planes[1, 3, 4] = np.nan
    data = planes.astype(dtype) if chunks is None else da.from_array(planes.astype(dtype), chunks)
    sci = xr.DataArray(data, {"band": list("ABCD"), **GRID.coords}, ("band", "y", "x"))
    return xr.Dataset({"sci": sci.assign_attrs(units="nJy")}, attrs={"wcs": GRID.header})


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4"])
@pytest.mark.parametrize("chunks", [None, (1, 61, 47), (4, 20, 16), ((3, 1), (7, 54), 47)])
def test_both_roads_add_the_bands_to_the_same_bits(dtype, chunks):
    data = mosaic(dtype, chunks)
    with no_compute():
        total = band_sum(data)
        some = band_sum(data, ["D", "A"])
    (tile,) = tile_grid(SHAPE, 100, 0)
    planes = data["sci"].values
    assert total.dtype == total.data.dtype == np.float32
    assert total.values.tobytes() == read_sum(planes, tile).tobytes()
    assert some.values.tobytes() == read_sum([planes[3], planes[0]], tile).tobytes()
    assert Grid.of(total) == GRID
    assert total.attrs["units"] == "nJy"
    if chunks is not None:
        assert total.data.chunks == data["sci"].data.chunks[1:]


# -- maps ----------------------------------------------------------------------------------------
def test_a_map_in_memory_gets_chunks_and_a_lazy_one_keeps_its_own():
    image = GRID.wrap(sky(), "a", "")
    assert as_map(image).data.chunks == ((61,), (47,))
    assert as_map(image.T).identical(as_map(image))
    lazy = image.chunk(y=20)
    assert as_map(lazy).data.name == lazy.data.name
    wide = xr.DataArray(np.zeros((2, 3, 2100), np.uint8), dims=("band", "y", "x"))
    assert as_map(wide, dims=("band", "y", "x")).chunks == ((1, 1), (3,), (2048, 52))


def test_what_is_no_map_is_refused():
    with pytest.raises(InputError, match=r"kappa is a ndarray; .* dims \(y, x\)"):
        as_map(sky(), "kappa")
    with pytest.raises(InputError, match=r"kappa has dims \('y', 'time'\).*\(y, x\)"):
        as_map(GRID.wrap(sky(), "a", "").rename(x="time"), "kappa")
    with pytest.raises(InputError, match="mask has dtype float32"):
        as_mask(GRID.wrap(sky(), "a", ""))


def test_a_map_follows_the_chunks_of_another():
    like = GRID.wrap(da.zeros(SHAPE, chunks=(20, 16)), "like", "")
    image = GRID.wrap(da.from_array(sky(), chunks=(61, 5)), "a", "")
    with no_compute():
        out = on_pixels(image, like, "a", like.chunks)
    assert out.chunks == like.data.chunks
    assert np.array_equal(out.compute(), image.values)
    assert on_pixels(image, GRID, "a").chunks == image.chunks


OTHER = {
    "shape": (GRID.cut(0, 60, 0, 47), "60 x 47"),
    "origin": (Grid(SHAPE, GRID.header, (1, 0)), r"y 1 \.\. 61"),
    "step": (Grid(SHAPE, GRID.header, (0, 0), 2), "every 2 px"),
    "sky": (Grid.tangent((342.2, -44.53), SHAPE, 0.03), "RA, Dec 342.2"),
    "rotation": (Grid.tangent((342.18, -44.53), SHAPE, 0.03, angle=3), "RA, Dec 342.1"),
}


@pytest.mark.parametrize("what", OTHER)
def test_maps_of_other_pixels_are_refused(what):
    grid = Grid.tangent((342.18, -44.53), SHAPE, 0.03)
    if what in ("shape", "origin", "step"):
        grid = GRID
    other, words = OTHER[what]
    image = other.wrap(np.zeros(other.shape), "rho", "")
    for like in (grid, grid.wrap(sky(), "kappa", "")):
        with pytest.raises(InputError, match=rf"rho \(.*{words}.*kappa \(.*61 x 47") as error:
            check_pixels(image, like, "rho", "kappa")
        assert "\n" not in str(error.value)


def test_what_a_map_does_not_say_is_not_compared():
    part = GRID.cut(10, 40, 5, 25)
    like, image = (part.wrap(np.zeros(part.shape), name, "") for name in "ab")
    check_pixels(image, like, "a")
    check_pixels(image.drop_attrs(), like, "a")
    check_pixels(image, like.drop_attrs(), "a")
    check_pixels(image.drop_attrs().drop_vars(["x", "y"]), like, "a")
    with pytest.raises(InputError, match="not on the same pixels"):
        check_pixels(image.drop_attrs().assign_coords(x=part.x + 1), like, "a")
    with pytest.raises(InputError, match="not on the same pixels"):
        check_pixels(image.drop_vars(["x", "y"])[1:], like, "a")


def test_the_layout_of_a_map_is_its_own_or_whole_chunks():
    lazy = GRID.wrap(da.zeros(SHAPE, chunks=(20, 16)), "a", "")
    assert layout(lazy) == (GRID, lazy.data.chunks)
    assert layout(mosaic("float32", (2, 20, 16))) == (GRID, lazy.data.chunks)
    assert layout(mosaic("float32")) == layout(GRID) == (GRID, ((61,), (47,)))
    assert layout(Grid((2049, 3), GRID.header))[1] == ((2048, 1), (3,))
    with pytest.raises(InputError, match="like is a ndarray"):
        layout(sky())
