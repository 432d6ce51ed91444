"""Images from files to mosaics and back: nothing of a pixel, its place or its unit gets lost."""

import gzip
import pickle
import tracemalloc

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from astropy.io import fits
from astropy.wcs import WCS, Sip
from conftest import no_compute

from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic import (
    create_array,
    ingest,
    open_map,
    open_mosaic,
    open_sources,
    units,
    write_map,
    write_tile,
    write_zarr_map,
)
from gcdask.mosaic.opening import Sources

SHAPE = (301, 420)
CENTER = (110.83, -73.454)
CHUNKS = [100, (301, 41), (10, 420), (97, 131), 512]


def tan(angle=33.0, scale=0.03, shape=SHAPE, center=CENTER):
    return Grid.tangent(center, shape, scale, angle=angle).wcs


def sip():
    wcs = tan(angle=-20).deepcopy()
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[2, 0], a[1, 1], b[0, 2] = 2e-5, -1e-5, 3e-5
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    return wcs


def cards(wcs):
    header = wcs.to_header(relax=True)
    if wcs.sip is not None:
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    return header


def pixels(seed=0, shape=SHAPE):
    data = np.random.default_rng(seed).normal(size=shape).astype("float32")
    data[40:60, 100:130] = np.nan
    return data


def save(path, data, wcs=None, unit="MJy/sr", hdu=fits.PrimaryHDU, **header):
    image = hdu(data, cards(wcs or tan()))
    if unit is not None:
        image.header["BUNIT"] = unit
    image.header.update(header)
    first = [] if hdu is fits.PrimaryHDU else [fits.PrimaryHDU()]
    fits.HDUList([*first, image]).writeto(path)
    return str(path)


def same_sky(a, b, shape=SHAPE):
    """Largest distance in px between where two WCS put the pixels of an image."""
    y, x = np.mgrid[0 : shape[0] : 50, 0 : shape[1] : 50].astype(float)
    back = b.all_world2pix(*a.all_pix2world(x.ravel(), y.ravel(), 0), 0)
    return max(np.abs(back[0] - x.ravel()).max(), np.abs(back[1] - y.ravel()).max())


# -- every kind of file ---------------------------------------------------------------------------
def kinds(folder):
    """Files of every kind with the values that astropy finds in them."""
    data, integers = pixels(), np.random.default_rng(1).integers(-900, 900, SHAPE, "int16")
    integers[5, 6] = -999
    scaled = {"BSCALE": 0.25, "BZERO": 7.0, "BLANK": -999}
    truth = integers * np.float32(0.25) + np.float32(7)
    truth[5, 6] = np.nan
    yield save(folder / "plain.fits", data), data
    yield save(folder / "double.fits", data.astype("float64")), data
    yield save(folder / "cube.fits", data[None]), data
    yield save(folder / "extension.fits", data, hdu=fits.ImageHDU, EXTNAME="SCI"), data
    raw = fits.ImageHDU(integers, cards(tan()))
    raw.header.update(BUNIT="MJy/sr", **scaled)
    fits.HDUList([fits.PrimaryHDU(), raw]).writeto(folder / "integer.fits")
    yield str(folder / "integer.fits"), truth
    for name, tile in (("rows", (1, 420)), ("tiles", (64, 64))):
        path = str(folder / f"{name}.fits.fz")
        image = fits.CompImageHDU(
            data, cards(tan()), compression_type="GZIP_2", tile_shape=tile, quantize_level=0
        )
        image.header["BUNIT"] = "MJy/sr"
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)
        yield path, data
    rice = fits.CompImageHDU(data, cards(tan()), compression_type="RICE_1")
    rice.header["BUNIT"] = "MJy/sr"
    fits.HDUList([fits.PrimaryHDU(), rice]).writeto(folder / "rice.fits.fz")
    with fits.open(folder / "rice.fits.fz") as hdus:
        rounded = hdus[1].data.copy()
    yield str(folder / "rice.fits.fz"), rounded


@pytest.mark.parametrize("chunks", CHUNKS)
def test_every_kind_of_fits_is_read_alike_for_every_chunking(tmp_path, chunks):
    for path, truth in kinds(tmp_path):
        with no_compute():
            mosaic = open_mosaic({"f200w": path}, chunks)
        assert mosaic.sci.dims == ("band", "y", "x")
        assert mosaic.sci.data._meta.dtype == mosaic.sci.dtype == np.dtype("float32")
        values = mosaic.sci.sel(band="f200w").values
        assert values.dtype.isnative
        np.testing.assert_array_equal(values, truth.astype("float32"), err_msg=path)
        assert same_sky(mosaic.gc.wcs, tan()) < 1e-6


def test_sources_are_small_and_index_like_arrays(tmp_path):
    data = pixels()
    sources = open_sources({"a": save(tmp_path / "a.fits", data)})
    again = pickle.loads(pickle.dumps(sources))
    assert len(pickle.dumps(sources)) < 5000
    assert again == sources
    source = again.sci[0]
    assert (source.shape, source.ndim, source.dtype) == (SHAPE, 2, np.dtype("float32"))
    keys = np.s_[3:50, 90:140], np.s_[7], np.s_[7, 9], np.s_[..., 4], np.s_[-5:, ::3]
    for key in (*keys, np.s_[20:2:-3, 1:9], np.s_[400:, :5], np.s_[:, 5:5]):
        np.testing.assert_array_equal(source[key], data[key])
    with pytest.raises(IndexError, match="outside"):
        source[301, 0]


def test_slices_of_a_lazy_mosaic_read_the_right_window(tmp_path):
    data = pixels()
    mosaic = open_mosaic({"a": save(tmp_path / "a.fits", data)}, 100)
    part = mosaic.sci.isel(band=0, y=slice(50, 201), x=slice(33, 390))
    np.testing.assert_array_equal(part.values, data[50:201, 33:390])
    np.testing.assert_array_equal(mosaic.sci[0, ::-7, 5].values, data[::-7, 5])
    grid = Grid.of(part)
    assert (grid.shape, grid.origin) == ((151, 357), (50, 33))
    assert part.gc.sky(40, 60) == mosaic.gc.sky(40, 60)
    assert mosaic.gc.pixel_scale == pytest.approx(0.03)
    np.testing.assert_allclose(part.gc.pixel(*part.gc.sky(40, 60)), (40, 60), atol=1e-8)


def test_opening_costs_no_memory(tmp_path):
    path = tmp_path / "big.fits"
    header = fits.PrimaryHDU(np.zeros((2, 2), "float32"), cards(tan())).header
    header.update(NAXIS1=4096, NAXIS2=4096, BUNIT="nJy")
    with open(path, "wb") as stream:  # sparse: 64 MB that are not there
        stream.write(header.tostring().encode())
        stream.truncate(len(header.tostring()) + 23302 * 2880)
    open_mosaic(str(path), 512)
    tracemalloc.start()
    with no_compute():
        mosaic = open_mosaic(str(path), 512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mosaic.sci.nbytes == 4096**2 * 4
    assert peak < 5e6


def test_the_token_follows_the_file(tmp_path):
    path = save(tmp_path / "a.fits", pixels())
    first, again = open_mosaic(path).sci.data.name, open_mosaic(path).sci.data.name
    (tmp_path / "a.fits").unlink()
    save(tmp_path / "a.fits", pixels(3))
    assert first == again != open_mosaic(path).sci.data.name


def test_hdu_is_chosen_by_name_number_or_preference(tmp_path):
    hdus = [fits.PrimaryHDU()]
    for i, name in enumerate(("DQ", "SCI", "ERR", "WHT")):
        image = fits.ImageHDU(np.full(SHAPE, i, "float32"), cards(tan()), name=name)
        image.header["BUNIT"] = "nJy"
        hdus.append(image)
    hdus[4].data[:10] = 0
    path = str(tmp_path / "mef.fits")
    fits.HDUList(hdus).writeto(path)
    for name, value in ((path, 1), (f"{path}[DQ]", 0), (f"{path}[3]", 2), (f"{path}[err,1]", 2)):
        assert open_mosaic({"a": name}).sci[0, 0, 0] == value
    mosaic = open_mosaic(path, err=path, weight=path, bands="x")
    assert list(mosaic.band.values) == ["x"]
    assert float(mosaic.err.max()) == 2
    np.testing.assert_array_equal(np.isnan(mosaic.sci[0, :, 0]), np.arange(SHAPE[0]) < 10)
    with pytest.raises(InputError, match=r"has no HDU \[SKY\]; it has 0:PRIMARY, 1:DQ"):
        open_mosaic(f"{path}[SKY]")


def test_a_single_image_is_named_after_its_filter_or_file(tmp_path):
    assert open_sources(save(tmp_path / "a.fits", pixels(), FILTER="F200W")).bands == ("f200w",)
    assert open_sources(save(tmp_path / "b.x.fits", pixels())).bands == ("b",)


def test_infinite_pixels_are_no_data(tmp_path):
    data = pixels().astype("float64")
    data[3, 4], data[5, 6], data[7, 8] = np.inf, -np.inf, 1e300
    values = open_mosaic(save(tmp_path / "a.fits", data)).sci[0].values
    assert np.isnan(values[[3, 5, 7], [4, 6, 8]]).all()
    assert np.isnan(values).sum() == np.isnan(data).sum() + 3


def test_row_compressed_wide_images_are_announced(tmp_path):
    shape = (4, 17000)
    wide = fits.CompImageHDU(np.zeros(shape, "float32"), cards(tan(shape=shape)))
    wide.header["BUNIT"] = "nJy"
    fits.HDUList([fits.PrimaryHDU(), wide]).writeto(tmp_path / "w.fits.fz")
    with pytest.warns(UserWarning, match="row by row.*gcdask ingest"):
        mosaic = open_mosaic(tmp_path / "w.fits.fz")
    assert mosaic.sci.data.chunksize == (1, 4, 17000)


def test_addresses_work_like_paths(tmp_path):
    data = pixels()
    path = save(tmp_path / "a.fits", data)
    mosaic = open_mosaic(f"file://{path}[0]", 100)
    np.testing.assert_array_equal(mosaic.sci[0], data)
    out = ingest("memory://test-mosaic/m.zarr", f"file://{path}", chunks=256)
    np.testing.assert_array_equal(open_mosaic(out).sci[0], data)
    with pytest.raises(InputError, match="exists; give overwrite=True"):
        ingest(out, path, chunks=256)
    with pytest.raises(InputError, match="does not exist; check the path"):
        open_mosaic("file:///nowhere/a.fits")


def test_weights_make_holes(tmp_path):
    data, weight = pixels(), np.ones(SHAPE, "float32")
    weight[:5], weight[8], weight[9] = 0, np.nan, -1
    path = save(tmp_path / "a.fits", data)
    fits.writeto(tmp_path / "w.fits", weight)  # neither WCS nor unit: not needed
    mosaic = open_mosaic({"a": path}, 50, weight={"a": tmp_path / "w.fits"})
    data[:5], data[8:10] = np.nan, np.nan
    np.testing.assert_array_equal(mosaic.sci[0], data)


# -- units ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("MJy/sr  ", "MJy / sr"),
        ("'MJy/sr'", "MJy / sr"),
        ("MJY/SR", "MJy / sr"),
        ("10.0*nanoJansky", "10 nJy"),
        ("ELECTRONS/S", "electron / s"),
        ("counts/sec", "ct / s"),
        ("DN/s", "DN / s"),
        ("UNITLESS", ""),
    ],
)
def test_units_of_real_headers(text, unit):
    assert units.canonical(text, "x") == unit


@pytest.mark.parametrize("text", ["furlong/fortnight?", "mag", "mjy.per.steradian", "7up"])
def test_what_is_no_unit_is_refused(text):
    with pytest.raises(InputError, match=r"x.fits: un.*unit="):
        units.canonical(text, "x.fits")


def test_bands_are_converted_to_the_unit_of_the_first(tmp_path):
    data = pixels()
    a = save(tmp_path / "a.fits", data, unit="MJy/sr")
    b = save(tmp_path / "b.fits", data, unit="10.0*nanoJansky")
    area = (0.03 / 3600 * np.pi / 180) ** 2  # sr
    mosaic = open_mosaic({"a": a, "b": b}, 100)
    np.testing.assert_allclose(mosaic.sci[1], data * 10e-9 / 1e6 / area, rtol=1e-6)
    back = open_mosaic({"a": a, "b": b}, bands=["b", "a"])
    assert back.sci.attrs["units"] == "10 nJy"
    np.testing.assert_allclose(back.sci.sel(band="a"), data * area * 1e6 / 10e-9, rtol=1e-6)
    np.testing.assert_array_equal(back.sci.sel(band="b"), data)


def test_unit_replaces_bunit(tmp_path):
    path = save(tmp_path / "a.fits", pixels(), unit=None)
    with pytest.raises(InputError, match=r"a.fits has no BUNIT.*unit="):
        open_mosaic(path)
    assert open_mosaic(path, unit="nJy").sci.attrs["units"] == "nJy"
    assert open_mosaic({"q": path}, unit={"q": ""}).sci.attrs["units"] == ""
    blank = save(tmp_path / "b.fits", pixels(), unit="   ")
    with pytest.raises(InputError, match=r"b.fits has an empty BUNIT"):
        open_mosaic(blank)


# -- grids ----------------------------------------------------------------------------------------
def test_bands_on_other_grids_are_refused_with_the_difference(tmp_path):
    a = save(tmp_path / "a.fits", pixels())
    near = (CENTER[0], CENTER[1] + 3 * 0.03 / 3600)
    b = save(tmp_path / "b.fits", pixels(), tan(center=near))
    c = save(tmp_path / "c.fits", pixels(), tan(scale=0.04))
    d = save(tmp_path / "d.fits", pixels(shape=(300, 420)))
    with pytest.raises(
        InputError, match=r"b.fits.*another WCS than a: the centre is off by 3 px.*"
    ):
        open_mosaic({"a": a, "b": b})
    with pytest.raises(InputError, match=r"pixel scale is 0.04 against 0.03 arcsec.*reproject"):
        open_mosaic({"a": a, "c": c})
    with pytest.raises(InputError, match=r"d.fits.*shape \(300, 420\), but a \(301, 420\)"):
        open_mosaic({"a": a, "d": d})


@pytest.mark.parametrize("kind", ["rotated", "sip", "galactic"])
def test_reprojection_is_that_of_reproject_for_every_chunking(tmp_path, kind):
    reproject = pytest.importorskip("reproject")
    shape = (260, 340)
    data = pixels(5, shape)
    if kind == "sip":
        other = sip()
    elif kind == "rotated":
        other = tan(angle=-71, scale=0.04, shape=shape)
    else:
        other = WCS(naxis=2)
        sky = WCS(cards(tan())).pixel_to_world(200, 150).galactic
        other.wcs.ctype, other.wcs.cdelt = ["GLON-TAN", "GLAT-TAN"], [-1e-5, 1e-5]
        other.wcs.crval, other.wcs.crpix = [sky.l.deg, sky.b.deg], [170, 130]
    a, b = save(tmp_path / "a.fits", pixels()), save(tmp_path / "b.fits", data, other)
    with no_compute():
        mosaics = [
            open_mosaic({"a": a, "b": b}, c, align="reproject")
            for c in ((301, 59), (40, 420), (97, 131), 512)
        ]
    whole, *others = [m.sci.sel(band="b").values for m in mosaics]
    for one in others:
        np.testing.assert_array_equal(one, whole)
    oracle, _ = reproject.reproject_interp(
        (data, other), tan(), shape_out=SHAPE, order="bilinear", roundtrip_coords=False
    )
    both = np.isfinite(whole) & np.isfinite(oracle)
    assert both.sum() > 20000
    np.testing.assert_allclose(whole[both], oracle[both], atol=2e-4)
    # reproject extends the image by half a pixel, we do not: a rim, no more
    assert np.isfinite(oracle)[np.isfinite(whole)].mean() > 0.998
    assert (np.isfinite(oracle) & ~np.isfinite(whole)).sum() < 2500


def test_a_whole_pixel_shift_copies_pixels(tmp_path):
    data = pixels(2)
    shifted = tan().deepcopy()
    shifted.wcs.crpix = shifted.wcs.crpix - [20, 10]
    a, b = save(tmp_path / "a.fits", pixels()), save(tmp_path / "b.fits", data, shifted)
    out = open_mosaic({"a": a, "b": b}, 100, align="reproject").sci[1].values
    np.testing.assert_array_equal(out[10:, 20:], data[:-10, :-20])
    assert np.isnan(out[:10]).all()
    assert np.isnan(out[:, :20]).all()


def test_flux_per_pixel_is_conserved_when_pixels_grow(tmp_path):
    flat = np.ones((400, 500), "float32")
    a = save(tmp_path / "a.fits", np.ones((100, 100), "float32"), tan(scale=0.04), unit="nJy")
    b = save(tmp_path / "b.fits", flat, tan(scale=0.02, shape=flat.shape), unit="nJy")
    wide = open_mosaic({"a": a, "b": b}, align="reproject").sci[1].values
    np.testing.assert_allclose(wide[np.isfinite(wide)], 4, rtol=1e-4)


# -- ingest ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("wcs", [tan(), sip()], ids=["tan", "sip"])
def test_round_trip_fits_zarr_fits(tmp_path, wcs):
    data, err = [pixels(i, (600, 700)) for i in (0, 1)], pixels(9, (600, 700))
    paths = {b: save(tmp_path / f"{b}.fits", d, wcs) for b, d in zip("ab", data, strict=True)}
    errs = {b: save(tmp_path / f"{b}_err.fits", err, wcs) for b in "ab"}
    out = ingest(tmp_path / "m.zarr", paths, err=errs, chunks=256)
    mosaic = open_mosaic(out)
    assert mosaic.sci.data.chunksize == (1, 256, 256)
    np.testing.assert_array_equal(mosaic.sci, np.stack(data))
    np.testing.assert_array_equal(mosaic.err[1], err)
    plain = xr.open_zarr(out)
    xr.testing.assert_equal(plain.load(), mosaic.load())
    assert plain.sci.attrs["units"] == "MJy / sr"
    assert zarr.open_group(out)["sci"].shards == (1, 256, 256)
    cut = mosaic.sci.sel(band="b").isel(y=slice(100, 401), x=slice(200, 620))
    for name in ("cut.fits", "cut.fits.fz"):
        write_map(cut, tmp_path / name)
        back = open_map(tmp_path / name)
        np.testing.assert_array_equal(back, data[1][100:401, 200:620])
        assert back.attrs["units"] == "MJy / sr"
        with fits.open(tmp_path / name) as hdus:
            assert same_sky(WCS(hdus[-1].header), cut_wcs(wcs)) < 1e-5
    again = ingest(tmp_path / "again.zarr", {"a": tmp_path / "cut.fits"}, chunks=512)
    np.testing.assert_array_equal(open_mosaic(again).sci[0], data[1][100:401, 200:620])


def cut_wcs(wcs):
    """``wcs`` of the part that begins at (y, x) = (100, 200), by astropy alone."""
    return wcs[100:401, 200:620]


@pytest.mark.parametrize("tile", [(1, 700), (128, 128)], ids=["rows", "tiles"])
def test_ingest_of_compressed_images(tmp_path, tile):
    data = pixels(0, (600, 700))
    image = fits.CompImageHDU(
        data, cards(tan()), compression_type="GZIP_2", tile_shape=tile, quantize_level=0
    )
    image.header["BUNIT"] = "nJy"
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "c.fits.fz")
    sources = open_sources({"c": tmp_path / "c.fits.fz"})
    assert sources.row_tiled == (tile[0] == 1)
    if sources.row_tiled:  # strips of full width
        assert open_mosaic({"c": tmp_path / "c.fits.fz"}).sci.data.chunksize[2] == 700
    out = ingest(tmp_path / "m.zarr", {"c": tmp_path / "c.fits.fz"}, chunks=256)
    np.testing.assert_array_equal(open_mosaic(out).sci[0], data)


def test_gzip_is_unpacked_by_ingest_only(tmp_path):
    data, plain = pixels(), save(tmp_path / "a.fits", pixels())
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes(), 1))
    with pytest.raises(InputError, match=r"a.fits.gz is gzipped.*gcdask ingest"):
        open_mosaic(packed)
    out = ingest(tmp_path / "m.zarr", {"a": f"{packed}[0]", "b": plain}, chunks=256)
    np.testing.assert_array_equal(open_mosaic(out).sci[0], data)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fits", "a.fits.gz", "m.zarr"]
    half = tmp_path / "half.fits.gz"
    half.write_bytes(packed.read_bytes()[:90000])
    with pytest.raises(InputError, match=r"half.fits.gz is truncated or damaged gzip"):
        ingest(tmp_path / "h.zarr", half)
    wrong = tmp_path / "wrong.fits.gz"
    wrong.write_bytes(gzip.compress(b"hello"))
    with pytest.raises(InputError, match=r"/wrong.fits.gz is not a readable FITS") as caught:
        ingest(tmp_path / "h.zarr", wrong)
    assert ".gcdask-" not in str(caught.value)
    assert not (tmp_path / "h.zarr").exists()


def test_ingest_reprojects_and_rechunks(tmp_path):
    a = save(tmp_path / "a.fits", pixels())
    b = save(tmp_path / "b.fits", pixels(1), tan(angle=50), unit="nJy")
    lazy = open_mosaic({"a": a, "b": b}, 77, align="reproject")
    first = ingest(tmp_path / "1.zarr", {"a": a, "b": b}, align="reproject", chunks=256)
    second = ingest(tmp_path / "2.zarr", first, chunks=512, compressor="none")
    for path in (first, second):
        np.testing.assert_array_equal(open_mosaic(path).sci, lazy.sci)
    only = open_mosaic({"b": second, "a": first}, bands=["b"])
    np.testing.assert_array_equal(only.sci[0], lazy.sci[1])


@pytest.mark.parametrize("version", [2, 3])
def test_stores_that_xarray_wrote_are_mosaics_too(tmp_path, version):
    mosaic = open_mosaic({"a": save(tmp_path / "a.fits", pixels())}, 100)
    cut = mosaic.isel(y=slice(20, 220), x=slice(100, 300))
    cut.chunk(x=100, y=100).to_zarr(tmp_path / "x.zarr", zarr_format=version, consolidated=False)
    back = open_mosaic(tmp_path / "x.zarr", bands="a")
    np.testing.assert_array_equal(back.sci[0], pixels()[20:220, 100:300])
    assert back.sci.attrs["units"] == "MJy / sr"
    assert Grid.of(back) == Grid.of(cut)


def test_an_existing_store_is_replaced_only_when_told(tmp_path):
    a, b = (save(tmp_path / f"{i}.fits", pixels(i)) for i in (0, 1))
    out = ingest(tmp_path / "m.zarr", {"a": a}, chunks=256)
    name = open_mosaic(out).sci.data.name
    with pytest.raises(InputError, match=r"m.zarr exists; give overwrite=True"):
        ingest(out, {"a": b}, chunks=256)
    ingest(out, {"a": b}, chunks=256, overwrite=True)
    assert open_mosaic(out).sci.data.name != name
    np.testing.assert_array_equal(open_mosaic(out).sci[0], pixels(1))
    with pytest.raises(InputError, match="input and output"):
        ingest(out, out, overwrite=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("...")
    with pytest.raises(InputError, match="not a zarr store and will not be replaced"):
        ingest(tmp_path / "precious", a, overwrite=True)
    assert (tmp_path / "precious" / "thesis.tex").exists()


def test_an_interrupted_store_is_not_read(tmp_path, monkeypatch):
    a, out = save(tmp_path / "a.fits", pixels()), tmp_path / "m.zarr"

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gcdask.mosaic.ingestion.dask.compute", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(out, {"a": a}, chunks=256)
    with pytest.raises(InputError, match=r"m.zarr is incomplete"):
        open_mosaic(out)
    with pytest.raises(InputError, match="not a complete store"):
        ingest(out, {"a": a}, chunks=256)
    ingest(out, {"a": a}, chunks=256, overwrite=True)
    np.testing.assert_array_equal(open_mosaic(out).sci[0], pixels())


def test_an_empty_band_is_named(tmp_path):
    a = save(tmp_path / "a.fits", pixels())
    empty = save(tmp_path / "e.fits", np.full(SHAPE, np.nan, "float32"))
    with pytest.raises(InputError, match=r"band f444w \(sci, .*e.fits\) has no finite pixel"):
        ingest(tmp_path / "m.zarr", {"f200w": a, "f444w": empty}, chunks=256)
    assert not (tmp_path / "m.zarr").exists()


def test_masks_of_a_store_come_along(tmp_path):
    out = ingest(tmp_path / "m.zarr", {"a": save(tmp_path / "a.fits", pixels())}, chunks=256)
    bits = np.random.default_rng(0).integers(0, 256, SHAPE, "uint16")
    grid = open_sources(out).grid
    flags = {"flag_masks": [1, 2], "flag_meanings": "nodata edge"}
    create_array(out, "mask", grid, "uint16", "", 256, attrs=flags)
    for y in (0, 256):
        for x in (0, 256):
            part = slice(y, y + 256), slice(x, x + 256)
            write_tile(out, "mask", part, bits[part])
    mosaic = open_mosaic(out)
    assert mosaic["mask"].dtype == np.dtype("uint16")
    assert mosaic["mask"].attrs["flag_meanings"] == "nodata edge"
    np.testing.assert_array_equal(mosaic["mask"], bits)
    np.testing.assert_array_equal(xr.open_zarr(out)["mask"], bits)


# -- every mistake --------------------------------------------------------------------------------
def broken(folder):
    """Files with one thing wrong each, and what the error says."""
    good, table = save(folder / "good.fits", pixels()), folder / "table.fits"
    content = (folder / "good.fits").read_bytes()
    fits.BinTableHDU(np.zeros(3, [("a", "f4")])).writeto(table)
    image = fits.CompImageHDU(pixels(), cards(tan()))
    image.header["BUNIT"] = "nJy"
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(folder / "c.fits.fz")
    packed = (folder / "c.fits.fz").read_bytes()
    for name, text in (
        ("short.fits", content[:200000]),
        ("header.fits", content[:1500]),
        ("short.fits.fz", packed[: len(packed) // 2]),
        ("text.fits", b"not an image at all" * 500),
        ("none.fits", b""),
    ):
        (folder / name).write_bytes(text)
    yield folder / "missing.fits", "missing.fits does not exist"
    yield folder, "is a folder"
    yield folder / "gone.zarr", "gone.zarr does not exist"
    yield folder / "short.fits", r"short.fits is truncated: 200000 bytes, but its header announces"
    yield folder / "short.fits.fz", "short.fits.fz is truncated"
    yield folder / "header.fits", "not a readable FITS"
    yield folder / "text.fits", "text.fits is not a readable FITS"
    yield folder / "none.fits", "none.fits is not a readable FITS"
    yield table, "has no 2-D image .*a table"
    yield f"{table}[1]", "not a 2-D image"
    yield save(folder / "line.fits", np.zeros(9, "f4")), r"no 2-D image .*shape \(9,\)"
    yield save(folder / "cube.fits", np.zeros((3, 9, 9), "f4")), r"shape \(3, 9, 9\)"
    yield save(folder / "nowcs.fits", pixels(), WCS(naxis=2)), "nowcs.fits: no celestial WCS"
    yield save(folder / "mag.fits", pixels(), unit="mag"), "mag.fits: unit 'mag' is not linear"
    yield save(folder / "odd.fits", pixels(), unit="zorkmid"), "odd.fits: unknown unit 'zorkmid'"
    yield save(folder / "tab.fits", pixels(), CPDIS1="LOOKUP"), "distortion tables"
    yield (
        {"a": good, "b": save(folder / "e.fits", pixels(), unit="electron/s")},
        ("e.fits is in electron / s, which does not convert to MJy / sr of .*good.fits"),
    )
    yield {}, "no band"


def test_every_mistake_is_one_line_that_names_the_file(tmp_path):
    for path, message in broken(tmp_path):
        with no_compute(), pytest.raises(InputError, match=message) as caught:
            open_mosaic(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=message):
            ingest(tmp_path / "out" / "x.zarr", path)
        assert not (tmp_path / "out" / "x.zarr").exists()


def test_mistakes_of_arguments(tmp_path):
    a = save(tmp_path / "a.fits", pixels())
    e = save(tmp_path / "e.fits", pixels(shape=(300, 420)))
    f = save(tmp_path / "f.fits", pixels(), tan(angle=34))
    g = save(tmp_path / "g.fits", pixels())
    out = ingest(tmp_path / "m.zarr", {"a": a}, chunks=256)
    zarr.open_group(tmp_path / "other.zarr", mode="w").create_array("z", shape=(3,), dtype="f4")
    for message, call in {
        "align = 'maybe'": lambda: open_mosaic(a, align="maybe"),
        "chunks = 0": lambda: open_mosaic(a, 0),
        "unknown bands .'c'.": lambda: open_mosaic({"a": a}, bands=["c"]),
        "unknown bands .'q'.": lambda: open_mosaic(out, bands="q"),
        "is one image, but bands": lambda: open_mosaic(a, bands=["a", "b"]),
        "err has bands .'z'.": lambda: open_mosaic({"a": a}, err={"z": a}),
        "err is missing for bands .'b'.": lambda: open_mosaic({"a": a, "b": g}, err={"a": g}),
        "one file for 2 bands": lambda: open_mosaic({"a": a, "b": a}, err=e),
        "err = .* is the image itself": lambda: open_mosaic(a, err=a),
        r"e.fits has shape \(300, 420\), but its image": lambda: open_mosaic(a, err=e),
        "f.fits .weight. and its image .* different WCS": lambda: open_mosaic(a, weight=f),
        "is a zarr store, which holds its own": lambda: open_mosaic(out, err=a),
        "holds .'z'., no mosaic": lambda: open_mosaic(tmp_path / "other.zarr"),
        "chunks = 300 is not a multiple of 256": lambda: ingest("x.zarr", a, chunks=300),
        "compressor = 'zip'": lambda: ingest("x.zarr", a, compressor="zip"),
    }.items():
        with pytest.raises(InputError, match=message):
            call()


# -- maps -----------------------------------------------------------------------------------------
def a_map(kind="float32", shape=(330, 250), chunks=100, **attrs):
    grid = Grid.from_wcs(tan(), shape)
    values = (np.random.default_rng(4).normal(size=shape) * 50 + 100).clip(0, 255).astype(kind)
    return grid.wrap(
        da.from_array(values, chunks=chunks), "density", "1 / arcsec2", **attrs
    ), values


@pytest.mark.parametrize("chunks", [100, (330, 9), (64, 250), 1000])
@pytest.mark.parametrize(
    "kind", ["float32", "float64", "uint8", "uint16", "int32", "uint32", "int64", "bool"]
)
def test_maps_of_all_types_survive_fits(tmp_path, kind, chunks):
    array, values = a_map(kind, chunks=chunks, history="one\ntwo")
    path = write_map(array, tmp_path / "m.fits")
    with fits.open(path) as hdus:
        hdus.verify("exception")
        np.testing.assert_array_equal(hdus[0].data, values)
        assert list(hdus[0].header["HISTORY"])[:2] == ["one", "two"]
        assert hdus[0].header["BUNIT"] == "1/arcsec2"
    back = open_map(path, "density")
    np.testing.assert_array_equal(back, values)
    assert back.dtype == ("uint8" if kind == "bool" else kind)
    assert back.attrs["units"] == "1 / arcsec2"
    if chunks == 100:
        packed = open_map(write_map(array, tmp_path / "m.fits.fz"))
        np.testing.assert_array_equal(packed, values)
        assert packed.dtype == back.dtype


def test_a_coarse_map_keeps_its_place_on_the_sky(tmp_path):
    grid = Grid.from_wcs(tan(), (320, 480)).cut(16, 320, 32, 480).coarsen(32)
    array = grid.wrap(np.ones(grid.shape), "coarse", "")
    back = open_map(write_map(array, tmp_path / "c.fits"))
    y, x = np.indices(grid.shape)
    sky = grid.sky(grid.x[x.ravel()], grid.y[y.ravel()])
    np.testing.assert_allclose(back.gc.sky(x.ravel(), y.ravel()), sky, atol=1e-10)
    assert back.gc.pixel_scale == pytest.approx(32 * 0.03)
    assert back.attrs["units"] == ""
    write_zarr_map(array, tmp_path / "c.zarr", "coarse", shard=4)
    stored = open_map(tmp_path / "c.zarr")
    assert Grid.of(stored) == grid


def test_write_map_refuses(tmp_path):
    array, _ = a_map()
    write_map(array, tmp_path / "m.fits")
    with pytest.raises(InputError, match=r"m.fits exists; give overwrite"):
        write_map(array, tmp_path / "m.fits")
    write_map(array.copy(data=array.data + 1), tmp_path / "m.fits", overwrite=True)
    np.testing.assert_array_equal(open_map(tmp_path / "m.fits"), array.values + 1)
    with pytest.raises(InputError, match=r"dimensions .'band', 'y', 'x'."):
        write_map(array.expand_dims(band=["a"]), tmp_path / "n.fits")
    with pytest.raises(InputError, match="no WCS"):
        write_map(array.drop_attrs(), tmp_path / "n.fits")
    with pytest.raises(InputError, match=r"folder .* does not exist"):
        write_map(array, tmp_path / "no" / "n.fits")
    with pytest.raises(InputError, match="complex64 cannot be written"):
        write_map(array.astype("complex64", keep_attrs=True), tmp_path / "n.fits")

    def fail(block):
        raise RuntimeError("a bad block")

    bad = array.copy(data=array.data.map_blocks(fail, meta=np.empty((0, 0), "f4")))
    with pytest.raises(RuntimeError, match="a bad block"):
        write_map(bad, tmp_path / "n.fits")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.fits"]


@pytest.mark.parametrize("chunks", [100, (330, 9), (17, 250), 1000])
def test_zarr_maps_lose_nothing_whatever_the_chunks(tmp_path, chunks):
    array, values = a_map(chunks=chunks)
    store = tmp_path / "maps.zarr"
    with dask.config.set(scheduler="threads", num_workers=8):
        write_zarr_map(array, store, "density", shard=64)
    back = open_map(store, "density")
    assert back.data.chunksize == (64, 64)
    np.testing.assert_array_equal(back, values)
    assert back.attrs["units"] == "1 / arcsec2"
    assert Grid.of(back).same_pixels(Grid.of(array))
    np.testing.assert_array_equal(xr.open_zarr(store)["density"], values)


def test_a_group_of_maps(tmp_path):
    array, values = a_map()
    store = str(tmp_path / "maps.zarr")
    with no_compute():
        pending = write_zarr_map(array, store, "a", shard=128, compute=False)
    with pytest.raises(InputError, match=r"map a of .* is incomplete"):
        open_map(store)
    pending.compute()
    np.testing.assert_array_equal(open_map(store), values)
    write_zarr_map(array.copy(data=array.data * 2), store, "b", shard=256)
    np.testing.assert_array_equal(open_map(store, "b"), values * 2)
    with pytest.raises(InputError, match=r"has 2 maps \['a', 'b'\]; give the name"):
        open_map(store)
    with pytest.raises(InputError, match="has no map 'c'"):
        open_map(store, "c")
    with pytest.raises(InputError, match="has a already"):
        write_zarr_map(array, store, "a")
    write_zarr_map(array.copy(data=array.data * 3), store, "a", shard=128, overwrite=True)
    np.testing.assert_array_equal(open_map(store, "a"), values * 3)
    with pytest.raises(InputError, match="other y coordinates"):
        write_zarr_map(array[10:], store, "c")


def test_tiles_are_whole_shards(tmp_path):
    grid, store = Grid.from_wcs(tan(), (100, 90)), str(tmp_path / "m.zarr")
    create_array(store, "t", grid, "float32", "nJy", 64)
    write_tile(store, "t", (slice(64, 100), slice(0, 64)), np.ones((36, 64)))
    with pytest.raises(InputError, match="tile 32:64 cuts through the shards"):
        write_tile(store, "t", (slice(32, 64), slice(0, 64)), np.ones((32, 64)))
    create_array(store, "t", grid, "float32", "nJy", 64, resume=True)
    expected = np.full((100, 90), np.nan, "float32")
    expected[64:, :64] = 1
    np.testing.assert_array_equal(open_map(store), expected)
    with pytest.raises(InputError, match="another shape, type, shard"):
        create_array(store, "t", grid, "float32", "nJy", 32, resume=True)
    with pytest.raises(InputError, match="shard = 0"):
        create_array(store, "u", grid, "float32", "nJy", 0)


# -- real data ------------------------------------------------------------------------------------
def test_a_real_nircam_image(shared_data, tmp_path):
    image = shared_data / "images" / "nircam_f200w_field1.fits"
    error = shared_data / "images" / "nircam_f200w_field1_err.fits"
    with no_compute():
        mosaic = open_mosaic({"f200w": image}, 100, err={"f200w": error})
    assert mosaic.sci.attrs["units"] == "MJy / sr"
    assert mosaic.gc.pixel_scale == pytest.approx(0.03)
    assert int(mosaic.sci.isnull().sum()) == 2
    np.testing.assert_array_equal(mosaic.sci[0], fits.getdata(image))
    np.testing.assert_array_equal(mosaic.err[0], fits.getdata(error))
    out = open_sources(ingest(tmp_path / "m.zarr", {"f200w": image}, chunks=256))
    assert isinstance(out, Sources)
    np.testing.assert_array_equal(out.sci[0][100:300, 7:99], fits.getdata(image)[100:300, 7:99])
