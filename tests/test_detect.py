"""From mosaic to peaks: every chunking gives the result of the plain whole-array computation."""

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from test_kernels_highpass import oracle, sky
from test_kernels_peaks import KINDS, kinds, serial

from gcdask import catalog, detect
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.masks import Flag
from gcdask.tiles import real_ends, tile_grid

SHAPE = (90, 110)
GRID = Grid.tangent((342.18, -44.53), SHAPE, 0.03, angle=25).cut(0, *SHAPE[:1], 0, SHAPE[1])
CHUNKS = [SHAPE, (45, 55), ((50, 3, 37), (7, 90, 13)), (32, 1000), (15, 16)]


def field(seed=0, n=2, shape=SHAPE, origin=(1000, 70)):
    """A mosaic of noise, sources, holes and masked blobs, with global pixels from `origin`."""
    grid = Grid(shape, GRID.header, origin)
    planes = [sky(shape, seed + i)[0] for i in range(n)]
    bits = np.where(sky(shape, seed)[1], 0, Flag.EXTENDED).astype(np.uint16)
    coords = {"band": [f"F{i}" for i in range(n)], **grid.coords}
    attrs = {"wcs": grid.header, "units": "nJy"}
    return xr.Dataset(
        {
            "sci": (("band", "y", "x"), np.stack(planes), attrs),
            "mask": (("y", "x"), bits),
        },
        coords,
        {"wcs": grid.header},
    )


def chunked(obj, chunks, band=1):
    sizes = dict(zip(("y", "x"), chunks, strict=True))
    return obj.chunk({**sizes, "band": band} if "band" in obj.dims else sizes)


def plain_map(image, name="detection"):
    return Grid(image.shape, GRID.header, (5000, 300)).wrap(image, name, "nJy")


def pixels(df):
    return set(zip(df["y"].astype(int), df["x"].astype(int), strict=True))


# -- maps ----------------------------------------------------------------------------------------
def chain_oracle(planes, bits, luminous=None, dilate=5):
    """The paper's steps band by band, in float64 with scipy."""
    good = (bits == 0) & np.isfinite(planes).all(axis=0)
    first = [oracle(p, good, (0.5, 5.0)) for p in planes]
    if luminous is not None:
        yy, xx = np.mgrid[-dilate : dilate + 1, -dilate : dilate + 1]
        with np.errstate(invalid="ignore"):
            bright = np.sum(first, axis=0) > luminous
        good = good & ~ndimage.binary_dilation(bright, yy**2 + xx**2 <= dilate**2)
    return np.sum([oracle(f, good, (1.0, 3.0)) for f in first], axis=0)


@pytest.mark.parametrize("luminous", [None, 150.0])
def test_the_detection_map_is_the_sum_of_the_filtered_bands(luminous):
    mosaic = field(n=3)
    expected = chain_oracle(mosaic.sci.values, mosaic.mask.values, luminous)
    got = detect.detection_map(chunked(mosaic, (45, 55)), luminous=luminous).values
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    assert np.nanmax(np.abs(got - expected)) < 1e-3
    if luminous:
        assert np.isnan(got).sum() > np.isnan(detect.detection_map(mosaic).values).sum() > 0


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("luminous", [None, 150.0, "map"])
def test_maps_are_the_same_bits_for_every_chunking(chunks, luminous):
    mosaic = field()
    if luminous == "map":
        luminous = mosaic.mask.astype(np.float32) * 0 + np.linspace(50, 300, SHAPE[1])
    whole = detect.detection_map(mosaic, luminous=luminous)
    lazy = chunked(mosaic, chunks, band=2)
    got = detect.detection_map(lazy, luminous=luminous)
    assert got.chunks == lazy.mask.chunks
    assert got.values.tobytes() == whole.values.tobytes()
    filtered = detect.highpass(lazy.sci, mask=lazy.mask)
    assert filtered.chunks == lazy.sci.chunks
    assert (
        filtered.values.tobytes() == detect.highpass(mosaic.sci, mask=mosaic.mask).values.tobytes()
    )


def test_a_cut_out_with_its_halo_gives_the_bits_of_the_whole():
    mosaic = field()
    whole = detect.detection_map(mosaic, luminous=150.0)
    halo = detect.chain_halo(luminous_dilate=5)
    assert halo == 18
    part = mosaic.isel(y=slice(30 - halo, 50 + halo), x=slice(40 - halo, 60 + halo))
    got = detect.detection_map(part, luminous=150.0)
    same = got.sel(y=whole.y[30:50], x=whole.x[40:60]).values
    assert same.tobytes() == whole.values[30:50, 40:60].tobytes()


def test_the_public_high_pass_is_the_kernel_with_units_and_place():
    mosaic = field()
    image = mosaic.sci.isel(band=0, drop=True)
    got = detect.highpass(image.T, (1.0, 3.0), mosaic.mask != 0)  # any order of y, x
    expected = oracle(image.values, mosaic.mask.values == 0, (1.0, 3.0))
    np.testing.assert_allclose(got.values, expected, atol=1e-3)
    assert got.dims == ("y", "x")
    assert got.attrs == {"wcs": GRID.header, "units": "nJy"}
    assert Grid.of(got).origin == (1000, 70)
    bands = detect.highpass(mosaic.sci, mask=mosaic.mask)
    assert list(bands.band.values) == ["F0", "F1"]
    one = detect.highpass(image, mask=mosaic.mask)
    assert np.array_equal(bands[0].values, one.values, equal_nan=True)


def test_bands_mask_and_metadata_of_the_detection_map():
    mosaic = field(n=3)
    got = detect.detection_map(mosaic)
    assert (got.name, got.dtype, got.attrs["units"]) == ("detection", np.float32, "nJy")
    assert got.data._meta.dtype == got.values.dtype
    two = detect.detection_map(mosaic, bands=["F0", "F2"])
    expected = detect.detection_map(mosaic.isel(band=[0, 2]))
    assert two.values.tobytes() == expected.values.tobytes()
    free = xr.zeros_like(mosaic.mask, dtype=bool)
    unmasked = detect.detection_map(mosaic, free)
    nodata = np.isnan(mosaic.sci.values).any(axis=0)
    assert np.array_equal(np.isnan(unmasked.values), nodata)
    assert np.array_equal(np.isnan(got.values), nodata | (mosaic.mask.values != 0))


def test_chain_returns_the_mask_that_its_map_shows():
    mosaic = field()
    image, bits = mosaic.sci.values.sum(axis=0), mosaic.mask.values
    detection, new = detect.chain(image, bits, luminous=150.0)
    assert np.array_equal(np.isnan(detection), new != 0)
    assert np.array_equal(new & Flag.EXTENDED, bits)
    assert np.array_equal((new & Flag.NODATA) != 0, np.isnan(image))
    assert (new & Flag.LUMINOUS).any()
    assert detect.chain(image)[1].dtype == np.uint16


# -- peaks ---------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS), st.integers(0, 10**6),
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.sampled_from([1, 3, 4.5]), st.sampled_from([0, 2, 7, 16]),
)  # fmt: skip
def test_peaks_are_those_of_the_serial_rule_for_every_chunking(kind, seed, ys, xs, radius, halo):
    image = kinds(kind, (sum(ys), sum(xs)), np.random.default_rng(seed))
    expected = serial(image, 0.3, radius)
    lazy = plain_map(image).chunk({"y": tuple(ys), "x": tuple(xs)})
    with no_compute():
        df = detect.detect_peaks(lazy, 0.3, radius, halo=halo)
    assert df.npartitions == len(ys) * len(xs) + 1
    got = df.compute(scheduler="sync")
    assert len(got) == len(expected)  # no duplicates
    assert pixels(got) == {(y + 5000, x + 300) for y, x in expected}
    values = image[got["y"].to_numpy(int) - 5000, got["x"].to_numpy(int) - 300]
    assert np.array_equal(got["peak"], values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunks", [(20, 1000), ((30, 2, 38), (5, 60, 15)), (9, 15)])
def test_long_chains_over_many_chunks(kind, chunks):
    image = kinds(kind, (70, 80), np.random.default_rng(1))
    got = detect.detect_peaks(chunked(plain_map(image), chunks), 0.3).compute()
    assert pixels(got) == {(y + 5000, x + 300) for y, x in serial(image, 0.3)}


def test_noise_is_decided_without_the_last_step():
    image = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    df = detect.detect_peaks(chunked(plain_map(image), (100, 100)), 3.0)
    assert len(df.partitions[9].compute()) == 0
    assert len(df.compute()) == len(serial(image, 3.0))


def test_the_catalogue_is_the_same_to_the_last_bit_and_its_meta_is_true():
    mosaic = field(shape=(200, 210))
    image = detect.detection_map(mosaic).compute()
    noise = detect.noise_map(image, cell=64).compute()
    tables = []
    for chunks in [(200, 210), (64, 50), ((190, 10), (1, 209))]:
        df = detect.detect_peaks(chunked(image, chunks), 2.0, noise=chunked(noise, (30, 300)))
        for part in df.to_delayed():
            frame = part.compute()
            pd.testing.assert_frame_equal(frame.iloc[:0], df._meta, check_index_type=False)
            assert frame["id"].is_monotonic_increasing
        tables.append(df.compute().sort_values("id", ignore_index=True))
        pd.testing.assert_frame_equal(tables[-1], tables[0], check_exact=True)
    table = tables[0]
    assert len(table) > 100
    pd.testing.assert_frame_equal(table.iloc[:0], catalog.meta(), check_index_type=False)
    at = {"y": xr.DataArray(table["y"].to_numpy()), "x": xr.DataArray(table["x"].to_numpy())}
    assert np.array_equal(table["peak"], image.sel(at).values)
    np.testing.assert_allclose(table["snr"], table["peak"] / noise.sel(at).values, rtol=1e-6)
    ra, dec = Grid.of(image).sky(table["x"], table["y"])
    np.testing.assert_allclose(table[["ra", "dec"]], np.column_stack([ra, dec]), rtol=1e-12)


def test_peaks_in_sigma_are_those_of_the_map_over_its_noise():
    image = plain_map(np.random.default_rng(4).normal(size=(80, 80)).astype(np.float32))
    noise = image * 0 + np.linspace(0.5, 2, 80, dtype=np.float32)
    noise[10:20, 10:20] = np.nan
    got = detect.detect_peaks(chunked(image, (33, 80)), 1.5, noise=noise, in_sigma=True).compute()
    assert pixels(got) == {(y + 5000, x + 300) for y, x in serial((image / noise).values, 1.5)}
    at = got["y"].to_numpy(int) - 5000, got["x"].to_numpy(int) - 300
    assert np.array_equal(got["peak"], image.values[at])
    assert np.array_equal(got["snr"], (image.values / noise.values)[at])


def test_a_mask_takes_pixels_out_as_nan_does():
    image = plain_map(np.random.default_rng(4).normal(size=(60, 70)).astype(np.float32))
    flags = xr.zeros_like(image, dtype=np.uint16)
    flags[20:40, 10:50] = Flag.USER
    lazy = chunked(image, (17, 33))
    expected = pixels(detect.detect_peaks(image.where(flags == 0), 1.0).compute())
    for mask in (flags, flags != 0, chunked(flags, (60, 9)), flags.T.drop_vars(["y", "x"])):
        assert pixels(detect.detect_peaks(lazy, 1.0, mask=mask).compute()) == expected
    assert not any(5020 <= y < 5040 and 310 <= x < 350 for y, x in expected)


def test_peaks_of_a_coarse_map_lie_at_its_cell_centres():
    fine = Grid((80, 120), GRID.header, (0, 0))
    image = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    coarse = fine.coarsen(4).wrap(image, "density", "")
    got = detect.detect_peaks(chunked(coarse, (7, 4)), 0.3, halo=1).compute()
    assert set(zip(got["y"], got["x"], strict=True)) == {
        (4 * y + 1.5, 4 * x + 1.5) for y, x in serial(image, 0.3)
    }


def tile_road(image, size, sign=1, noise=None, **options):
    grid = Grid.of(image)
    accepted, pending = [], []
    for tile in tile_grid(grid.shape, size, 16):
        a, p = detect.peaks_in_window(
            image.values[tile.slices], None if noise is None else noise.values[tile.slices],
            0.5, tile=tile, ends=real_ends(tile, grid.shape), grid=grid, sign=sign, **options,
        )  # fmt: skip
        accepted.append(a)
        pending.append(p)
    return accepted, pending


@pytest.mark.parametrize("kind", ["noise", "tied", "ramp diagonal", "holes"])
def test_tiles_and_chunks_agree_and_both_signs_are_serial(kind):
    image = plain_map(kinds(kind, (70, 66), np.random.default_rng(3)))
    for sign in (1, -1):
        for size in (25, 64):
            accepted, pending = tile_road(image, size, sign)
            settled = detect.settle_peaks(pending)
            table = pd.concat([*accepted, settled]).sort_values("id", ignore_index=True)
            expected = serial(sign * image.values, 0.5)
            assert pixels(table) == {(y + 5000, x + 300) for y, x in expected}
            assert len(table) == len(expected)
            near = oracle_near(image.values)
            at = table["y"].to_numpy(int) - 5000, table["x"].to_numpy(int) - 300
            assert np.array_equal(table["near"], near[at])
            if sign == 1:
                lazy = detect.detect_peaks(chunked(image, (13, 40)), 0.5).compute()
                lazy = lazy.sort_values("id", ignore_index=True)
                pd.testing.assert_frame_equal(lazy, table.drop(columns="near"), check_exact=True)


def oracle_near(image):
    yy, xx = np.mgrid[-15:16, -15:16]
    finite = np.where(np.isfinite(image), image, -np.inf)
    return ndimage.maximum_filter(
        finite, footprint=yy**2 + xx**2 <= 225, mode="constant", cval=-np.inf
    )


def test_pending_rows_survive_json():
    import json

    image = plain_map(kinds("ramp diagonal", (50, 60), np.random.default_rng(0)))
    _, pending = tile_road(image, 20)
    expected = detect.settle_peaks(pending)
    assert len(expected) > 50
    back = [pd.DataFrame(json.loads(json.dumps(p.to_dict("list")))) for p in pending]
    got = detect.settle_peaks(back[::-1])
    pd.testing.assert_frame_equal(got, expected, check_exact=True)
    empty = detect.settle_peaks([])
    assert list(empty.columns) == list(expected.columns)
    assert (empty.dtypes == expected.dtypes).all()


# -- laziness and mistakes -----------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:Computing mixed collections")
def test_nothing_computes_while_graphs_are_built():
    mosaic = chunked(field(), (40, 50))
    with no_compute():
        image = detect.detection_map(mosaic, luminous=100.0)
        noise = detect.noise_map(image, cell=32)
        df = detect.detect_peaks(image, 1.5, mask=mosaic.mask, noise=noise, in_sigma=True)
        detect.highpass(mosaic.sci, mask=mosaic.mask)
    assert all(dask.is_dask_collection(a) for a in (image, noise, df))
    table, total = dask.compute(df, image.sum())  # together with other results
    expected = serial((image / noise).values, 1.5)
    assert pixels(table) == {(y + 1000, x + 70) for y, x in expected}
    assert len(table) > 10
    np.testing.assert_allclose(total, image.sum())
    assert len(df.optimize().compute()) == len(table)
    assert df["peak"].max().compute() == table["peak"].max()


def test_neighbours_share_what_they_read():
    """A chunk lies in the windows of nine; it is made once, not nine times."""
    made = []

    def read(block):
        made.append(block.shape)
        return block

    image = plain_map(np.random.default_rng(0).normal(size=(80, 80)).astype(np.float32))
    lazy = chunked(image, (20, 20))
    lazy = lazy.copy(data=lazy.data.map_blocks(read, meta=np.empty((0, 0), np.float32)))
    detect.highpass(lazy).compute()
    assert len(made) == 16
    made.clear()
    detect.detect_peaks(lazy, 1.0).compute()
    assert len(made) == 16


def test_graphs_are_named_by_their_content():
    image = chunked(plain_map(np.ones((40, 40), np.float32)), (20, 20))
    assert detect.highpass(image).data.name == detect.highpass(image).data.name
    a, b = (detect.detect_peaks(image, 0.5) for _ in range(2))
    assert set(a.__dask_keys__()) == set(b.__dask_keys__())


@pytest.mark.parametrize("threshold", [0, -1, float("nan")])
def test_thresholds_that_are_not_positive(threshold):
    with pytest.raises(InputError, match=r"threshold = .* is not positive"):
        detect.detect_peaks(plain_map(np.ones((9, 9))), threshold)


def test_mistakes_name_what_is_wrong():
    mosaic = field()
    image = mosaic.sci.isel(band=0)
    shifted = mosaic.mask.assign_coords(x=mosaic.x + 1)
    with pytest.raises(InputError, match=r"the image has dims \('y', 'time'\)"):
        detect.highpass(image.rename(x="time"))
    with pytest.raises(InputError, match=r"the detection map has dims \('band', 'y', 'x'\)"):
        detect.detect_peaks(mosaic.sci, 3)
    with pytest.raises(InputError, match=r"mask \(.*x 71 .*not on the same pixels"):
        detect.detection_map(mosaic, shifted)
    with pytest.raises(InputError, match=r"mask \(89 x 110.*not on the same pixels"):
        detect.highpass(image, mask=mosaic.mask[1:])
    with pytest.raises(InputError, match=r"noise \(.*not on the same pixels"):
        detect.detect_peaks(image, 3, noise=shifted.astype(float))
    with pytest.raises(InputError, match="dtype float64"):
        detect.detect_peaks(image, 3, mask=mosaic.mask * 1.0)
    with pytest.raises(InputError, match="F9"):
        detect.detection_map(mosaic, bands=["F9"])
    with pytest.raises(InputError, match="'sci'"):
        detect.detection_map(mosaic.drop_vars("sci"))
    with pytest.raises(InputError, match="ascending"):
        detect.highpass(image, (5.0, 0.5))
    with pytest.raises(InputError, match="no WCS"):
        detect.detect_peaks(image.drop_attrs(), 3)
    with pytest.raises(InputError, match="in_sigma needs the noise"):
        detect.detect_peaks(image, 3, in_sigma=True)


# -- noise ---------------------------------------------------------------------------------------
def test_the_noise_map_follows_the_noise_and_not_the_sources():
    rng = np.random.default_rng(0)
    scale = np.linspace(1, 3, 600)
    image = rng.normal(size=(400, 600)) * scale
    image[rng.random(image.shape) < 0.02] += 50
    image[:200, :250] = np.where(rng.random((200, 250)) < 0.5, np.nan, image[:200, :250])
    noise = detect.noise_map(plain_map(image.astype(np.float32)), cell=100)
    assert (noise.name, noise.dtype, noise.attrs["units"]) == ("noise", np.float32, "nJy")
    np.testing.assert_allclose(noise.values[:, 60:-60] / scale[60:-60], 1, atol=0.06)


@pytest.mark.parametrize("cell", [16, 37, 500])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_the_noise_map_is_the_same_bits_for_every_chunking(chunks, cell):
    image = detect.detection_map(field()).compute()
    image[:40, :50] = np.nan  # cells without an estimate of their own
    whole = detect.noise_map(image, cell=cell)
    lazy = chunked(image, chunks)
    got = detect.noise_map(lazy, cell=cell)
    assert got.chunks == lazy.chunks
    assert got.data._meta.dtype == np.float32
    assert got.values.tobytes() == whole.values.tobytes()
    assert np.isfinite(whole.values).all()


def test_noise_cells_are_fixed_to_global_pixels():
    image = detect.detection_map(field(shape=(128, 128), origin=(64, 32))).compute()
    whole = detect.noise_map(image, cell=32).values
    part = detect.noise_map(image[23:128, 27:96], cell=32).values
    assert part[25:89, 21:53].tobytes() == whole[48:112, 48:80].tobytes()
    v = image.values[40:56, 40:56]  # the patch in the middle of the cell
    v = v[np.isfinite(v)]
    s = 1.4826 * np.median(np.abs(v - np.median(v)))
    v = v[np.abs(v - np.median(v)) <= 4 * s]
    s = 1.4826 * np.median(np.abs(v - np.median(v)))
    centre = whole[47:49, 47:49].mean()  # 15.5 px into the cell
    np.testing.assert_allclose(centre, s, rtol=0.05)  # bilinear: a kink lies in between


def test_a_map_without_noise_has_none():
    flat = plain_map(np.full((64, 64), np.nan, np.float32))
    assert np.isnan(detect.noise_map(flat, cell=16).values).all()
    with pytest.raises(InputError, match="cell = 4"):
        detect.noise_map(flat, cell=4)


# -- threshold -----------------------------------------------------------------------------------
def test_level_counts_by_definition_and_additive():
    rng = np.random.default_rng(0)
    values, near = rng.exponential(5, 500), rng.exponential(30, 500)
    near[::7] = -np.inf
    levels = np.geomspace(1, 40, 50)
    values[3], near[4] = levels[10], 5 * levels[7]  # on the edge: both count
    expected = [np.sum((values >= v) & (near <= 5 * v)) for v in levels]
    assert np.array_equal(detect.level_counts(values, near, levels), expected)
    halves = [detect.level_counts(values[s], near[s], levels) for s in np.s_[:200, 200:]]
    assert np.array_equal(sum(halves), expected)
    assert not detect.level_counts([], [], levels).any()


def test_auto_threshold_finds_where_noise_falls_to_a_tenth():
    levels = np.arange(2, 30, 0.1)
    noise = 1e6 * np.exp(-(levels**2) / 8)
    signal = 3000 / levels
    t = detect.auto_threshold(levels, noise + signal, noise, floor=1.0)
    first = levels[np.flatnonzero(noise <= 0.1 * (noise + signal))[0]]
    assert 2 * t == pytest.approx(first)
    assert detect.auto_threshold(levels, noise + signal, noise, floor=6.0) == 6.0
    assert detect.auto_threshold(levels, noise + signal, noise, fraction=0.5, floor=1) < t
    # one artefact of 25 sigma among few sources there does not move it
    artefact = noise + (levels < 25)
    assert detect.auto_threshold(levels, signal + noise, artefact, floor=1) == pytest.approx(t)
    # a second population of negative peaks far up does
    bad = noise + np.where(levels < 20, signal, 0)
    assert detect.auto_threshold(levels, signal + noise, bad, floor=1) == pytest.approx(10.0)


def test_auto_threshold_of_noise_alone_and_of_too_low_levels():
    levels = np.arange(2, 12, 0.25)
    n = np.round(1e5 * np.exp(-(levels**2) / 2))
    t = detect.auto_threshold(levels, n, n, floor=0.1)
    assert n[levels >= 2 * t].max() <= 0
    with pytest.raises(InputError, match="no level has at most 10% of noise"):
        detect.auto_threshold(levels[:5], n[:5], n[:5])


def test_auto_threshold_on_a_mock_separates_sources_from_noise():
    """Gaussian noise and sources of all fluxes: most of what 2T keeps is real, 2T is not far up."""
    rng = np.random.default_rng(1)
    image = ndimage.gaussian_filter(rng.normal(size=(600, 600)), 0.8)
    y, x = rng.integers(20, 580, (2, 400))
    np.add.at(image, (y, x), image.std() * 4 * (1 + rng.pareto(1.5, 400)))
    image = plain_map(detect.chain(image)[0])
    noise = detect.noise_map(image).compute()
    levels = np.geomspace(0.5, 64, 200)
    tables, counts = [], []
    for sign in (1, -1):
        accepted, pending = tile_road(image, 200, sign, noise, in_sigma=True)
        tables.append(pd.concat([*accepted, detect.settle_peaks(pending)]))
        near = tables[-1]["near"].to_numpy()
        counts.append(detect.level_counts(tables[-1]["snr"], near, levels))
    t = detect.auto_threshold(levels, *counts, floor=1.0)
    assert 3 < 2 * t < 7
    i = np.searchsorted(levels, 2 * t)
    assert detect.purity(counts[0][i], counts[1][i]) >= 0.9
    kept = tables[0][tables[0]["snr"] >= 2 * t]
    truth = np.zeros(image.shape, bool)
    truth[y, x] = True
    truth = ndimage.binary_dilation(truth, iterations=2)
    real = truth[kept["y"].to_numpy(int) - 5000, kept["x"].to_numpy(int) - 300]
    assert len(kept) > 100
    assert real.mean() > 0.85


def test_purity():
    np.testing.assert_array_equal(
        detect.purity([10, 10, 4, 0], [1, 0, 8, 3]), [0.9, 1.0, 0.0, np.nan]
    )
    assert detect.purity(10, 2) == pytest.approx(0.8)


# -- rims ----------------------------------------------------------------------------------------
def test_a_rim_hides_the_outline_of_a_masked_galaxy():
    """On the slope of a galaxy the outline of its masked core is bright; 3 px of rim hide it."""
    y, x = np.mgrid[:200, :220]
    galaxy = 300 * np.exp(-np.hypot(y - 100, x - 110) / 12)
    image = plain_map(
        (galaxy + np.random.default_rng(0).normal(0, 0.3, y.shape)).astype(np.float32)
    )
    mosaic = xr.Dataset({"sci": image.expand_dims(band=["A"])}, attrs=image.attrs)
    core = np.hypot(y - 100, x - 110) < 20
    mask = image.copy(data=np.where(core, np.uint16(Flag.EXTENDED), 0).astype(np.uint16))
    plain, rimmed = (detect.detection_map(mosaic, mask, rim=rim) for rim in (0, 3))
    counts = [
        len(detect.detect_peaks(m, 5, noise=0.25, in_sigma=True).compute()) for m in (plain, rimmed)
    ]
    assert counts[0] > 10
    assert counts[1] <= counts[0] // 5
    grown = ndimage.binary_dilation(core, detect.window.hp.disk(3))
    np.testing.assert_array_equal(np.isnan(rimmed.values), grown)
    chunked = detect.detection_map(mosaic.chunk(y=37, x=50), mask.chunk(y=37, x=50), rim=3)
    assert chunked.values.tobytes() == rimmed.values.tobytes()
