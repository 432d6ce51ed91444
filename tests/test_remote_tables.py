"""Catalogues, lens models and configurations by URL; errors of stores as lines with their key."""

import io
import os
import socket
import sys
import time

import dask
import fsspec
import numpy as np
import pandas as pd
import pytest
import yaml
from astropy.io import fits
from servers import environment, forget_filesystems, http_server, s3_server

from gcdask import catalog, config, lensing, storage
from gcdask.catalog import make_catalog
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic import ingest, open_map, open_plane, ranges, write_map, write_zarr_map
from gcdask.pipeline.inputs import open_truth

CENTER = (110.83, -73.454)
GRID = Grid.tangent(CENTER, (300, 400), 0.05, angle=25)
LENS = """
runmode
    reference 3 110.83 -73.454
    end
potentiel O1
    profil 81
    x_centre 0
    y_centre 0
    ellipticite 0.2
    angle_pos 30
    core_radius 3
    cut_radius 100
    v_disp 1000
    z_lens 0.39
    end
cosmologie
    H0 70
    omegaM 0.3
    omegaX 0.7
    end
fini
"""


def sources(n=200):
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 399, n), rng.uniform(0, 299, n)
    names = np.array([f"gc {i}" for i in range(n)])
    return make_catalog(x, y, GRID, peak=rng.normal(5, 1, n), extra={"name": names})


def foreign(n=1000):
    table = sources(n)
    return pd.DataFrame({"RA": table["ra"], "DEC": table["dec"], "mag": np.arange(n)})


@pytest.fixture(scope="module")
def s3():
    with s3_server("gc-tables", authenticated=True) as server:
        yield server


@pytest.fixture(params=["memory", "s3"])
def folder(request, tmp_path):
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    return f"{request.getfixturevalue('s3').url}/{tmp_path.name}"


@pytest.fixture
def web(tmp_path):
    with http_server(tmp_path) as server:
        yield server


# -- catalogues -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["parts", "x.parquet", "x.fits", "x.ecsv", "x.csv"])
def test_a_catalogue_comes_back_from_a_store_as_it_was(folder, name, tmp_path):
    table, path = sources(), f"{folder}/cat {name}"
    for single in {False, "." in name}:
        catalog.write(table, path, grid=GRID, single_file=single, overwrite=True)
        back = catalog.read(path)
        local = catalog.write(table, tmp_path / f"{single}{name}", grid=GRID, single_file=single)
        pd.testing.assert_frame_equal(back.compute(), catalog.read(local).compute())
        assert catalog.units(back) == catalog.units(table)
        with pytest.raises(InputError, match="exists; use overwrite=True"):
            catalog.write(table, path, single_file=single)
        storage.remove(path)
    with pytest.raises(InputError, match="does not exist"):
        catalog.read(path)


@pytest.mark.parametrize("name", ["parts", "x.parquet", "x.fits", "x.ecsv", "x.csv", "x.fits.gz"])
def test_catalogues_are_read_over_http(web, tmp_path, name):
    table, path = sources(), tmp_path / name
    if name == "x.fits.gz":
        local = catalog.write(table, tmp_path / "y.fits")
        fits.open(local).writeto(path)
    else:
        catalog.write(table, path, grid=GRID, single_file="." in name and name != "parts")
    back = catalog.read(f"{web.url}/{name}").compute()
    pd.testing.assert_frame_equal(back, catalog.read(path).compute())


def test_large_fits_tables_are_fetched_by_rows(web, tmp_path):
    table = foreign(20_000)
    ragged = np.array([np.arange(i % 3) for i in range(20_000)], object)
    columns = [
        fits.Column("RA", "D", unit="deg", array=table["RA"]),
        fits.Column("DEC", "D", unit="deg", array=table["DEC"]),
        fits.Column("mag", "J", bzero=2**31, array=table["mag"].to_numpy(np.uint32)),
        fits.Column("flag", "L", array=table["mag"] % 2 == 0),
        fits.Column("word", "5A", array=table["mag"].astype(str)),
        fits.Column("block", "40D", array=np.zeros((20_000, 40))),
        fits.Column("ragged", "PJ()", array=ragged),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    local = catalog.read(tmp_path / "t.fits", block=1000)
    remote = catalog.read(f"{web.url}/t.fits", block=1000)
    size = os.path.getsize(tmp_path / "t.fits")
    assert web.bytes < 200_000
    assert remote.npartitions == local.npartitions == 20
    before = web.bytes
    pd.testing.assert_frame_equal(remote.partitions[7].compute(), local.partitions[7].compute())
    assert web.bytes - before < size / 20 + 200_000
    pd.testing.assert_frame_equal(remote.compute(), local.compute())


def test_a_parquet_file_of_a_store_is_read_by_row_groups(folder):
    with fsspec.open(f"{folder}/t.parquet", "wb") as file:
        foreign().to_parquet(file, row_group_size=250)
    table = catalog.read(f"{folder}/t.parquet")
    assert table.npartitions == 4
    assert len(table.partitions[2]) == 250


def test_a_damaged_part_is_one_line(folder):
    catalog.write(sources(), f"{folder}/parts")
    part = catalog.read_manifest(f"{folder}/parts")["parts"][0]["name"]
    table = catalog.read(f"{folder}/parts")
    data = storage.read_bytes(f"{folder}/parts/{part}")
    storage.write_bytes(f"{folder}/parts/{part}", data[: len(data) // 2])
    with pytest.raises(InputError, match=f"{part} is not a readable Parquet file") as caught:
        table.compute(scheduler="sync")
    assert "\n" not in str(caught.value)
    storage.remove(f"{folder}/parts/{part}")
    with pytest.raises(InputError, match=r"1 of 1 parts .* are missing"):
        catalog.read(f"{folder}/parts")


def test_a_table_of_sources_to_add_is_read_by_url(folder):
    text = "ra,dec\n110.83,-73.454\n110.831,-73.4541\n"
    storage.write_bytes(f"{folder}/manual.csv", text.encode())
    assert len(catalog.add_manual(sources(), f"{folder}/manual.csv", grid=GRID)) == 202


def test_a_file_is_no_folder_with_a_file_without_a_name(folder, tmp_path):
    for base in (folder, tmp_path):
        path = storage.join(base, "one.csv")
        storage.write_bytes(path, b"ra,dec\n")
        assert storage.find(path) == {}
        assert list(storage.find(base)) == ["one.csv"]
        storage.link_tree(path, storage.join(base, "two.csv"))
        assert storage.read_bytes(storage.join(base, "two.csv")) == b"ra,dec\n"
        assert storage.size(path) == 7
        assert storage.size(storage.join(base, "none.csv")) is None


def write_truth(url, n):
    mock = sources(n)[["ra", "dec", "x", "y", "peak"]].assign(module=1)
    mock["class"] = pd.Categorical.from_codes(np.arange(n) % 2, ["gc", "contaminant"])
    buffer = io.BytesIO()
    mock.to_parquet(buffer, index=False, row_group_size=20)
    storage.write_bytes(url, buffer.getvalue())
    return mock


def test_the_truth_of_a_mock_is_read_by_url_like_other_tables(folder, s3):
    url = f"{folder}/truth.parquet"
    for n in (50, 60):  # a table that changes is seen
        pd.testing.assert_frame_equal(write_truth(url, n), open_truth(url), check_like=True)
    storage.write_bytes(url, b"nonsense")
    with pytest.raises(InputError, match=f"^truth: {url} cannot be read as a table .* check the"):
        open_truth(url)
    with pytest.raises(InputError, match=r"^truth: .*none.parquet does not exist"):
        open_truth(f"{folder}/none.parquet")
    with s3.wrong_credentials(), pytest.raises(InputError, match=r"^truth: \S+ is refused"):
        open_truth(f"{s3.url}/truth.parquet")


# -- lens models and maps -------------------------------------------------------------------------
def test_lens_models_are_read_and_written_by_url(folder):
    storage.write_bytes(f"{folder}/best.par", LENS.encode())
    model = lensing.read_lenstool(f"{folder}/best.par")
    assert model.name == "best"
    lensing.write_lenstool(model, f"{folder}/again.par")
    again = lensing.read_lenstool(f"{folder}/again.par")
    assert again.potentials["v_disp"].tolist() == [1000]
    with pytest.raises(InputError, match=r"none.par does not exist"):
        lensing.read_lenstool(f"{folder}/none.par")


def test_maps_of_kappa_and_deflection_are_read_by_url(folder):
    grid = Grid.tangent(CENTER, (60, 70), 0.5)
    model_path = f"{folder}/best.par"
    storage.write_bytes(model_path, LENS.encode())
    kappa = lensing.read_lenstool(model_path).kappa(grid, 3.0)
    write_map(kappa, f"{folder}/kappa.fits")
    with pytest.raises(InputError, match="exists; give overwrite=True"):
        write_map(kappa, f"{folder}/kappa.fits")
    stored = lensing.open_kappa(f"{folder}/kappa.fits", z_lens=0.39, z_source=3.0)
    np.testing.assert_array_equal(stored, kappa.astype(stored.dtype))
    x = kappa.copy(data=np.broadcast_to(np.arange(70.0), grid.shape).copy())
    y = kappa.copy(data=np.broadcast_to(np.arange(60.0)[:, None], grid.shape).copy())
    for name, component in (("x", x), ("y", y)):
        component.attrs["units"] = "arcsec"
        write_map(component, f"{folder}/{name}.fits")
    found = lensing.open_deflection(f"{folder}/x.fits", f"{folder}/y.fits", z_lens=0.4, z_source=3)
    np.testing.assert_allclose(found, 2.0)  # both grow by 1 arcsec per pixel of half an arcsec


def test_mask_files_and_zarr_maps_are_read_by_url(folder):
    grid = Grid.tangent(CENTER, (300, 280), 0.5)
    values = np.random.default_rng(0).integers(0, 2, grid.shape, np.uint16)
    mask = grid.wrap(dask.array.from_array(values), "mask", "")
    write_map(mask, f"{folder}/mask.fits")
    write_zarr_map(mask, f"{folder}/maps.zarr", "mask", shard=256)
    for source, there in (open_plane(f"{folder}/mask.fits"), open_plane(f"{folder}/maps.zarr")):
        assert there.same_pixels(grid)
        np.testing.assert_array_equal(source[:, :], values)
    np.testing.assert_array_equal(open_map(f"{folder}/maps.zarr"), values)


def test_region_files_are_read_by_url(folder):
    from gcdask.masks import read_regions

    storage.write_bytes(f"{folder}/a.reg", b'fk5\ncircle(110.83,-73.454,1")\n')
    assert len(read_regions(f"{folder}/a.reg", GRID)) == 1
    with pytest.raises(InputError, match=r"none.reg does not exist"):
        read_regions(f"{folder}/none.reg", GRID)


# -- configurations -------------------------------------------------------------------------------
def load(tmp_path, *overrides, **sections):
    raw = {"mosaic": {"path": "memory://bucket/field.zarr"}, **sections}
    raw["field"] = {"center": list(CENTER), "z_lens": 0.39}
    path = tmp_path / "field.yaml"
    path.write_text(yaml.safe_dump(raw))
    return config.load(path, overrides)


def test_files_beside_a_remote_mosaic_follow_it(tmp_path):
    found = load(
        tmp_path,
        "reference.path='{mosaic}-b.fits[SCI]'",
        mosaic={"path": "s3://bucket/deep/field.zarr/"},
        mask={"regions": ["{mosaic}.reg", "here.reg", "https://there.org/a b.reg"]},
        lens={"path": "file:///data/lens.par"},
        reference={"path": "x"},
    )
    assert found.reference.path == "s3://bucket/deep/field-b.fits[SCI]"
    assert found.mask.regions == (
        "s3://bucket/deep/field.reg", str(tmp_path / "here.reg"), "https://there.org/a b.reg"
    )  # fmt: skip
    assert found.lens.path == "/data/lens.par"
    remote = {key for key, path in found.input_paths() if storage.is_remote(path)}
    assert remote == {"mosaic.path", "reference.path", "mask.regions[0]", "mask.regions[2]"}
    assert {key for key, _ in found.local_paths()} == {"mask.regions[1]", "lens.path"}
    paths = {"mosaic": {"path": "s3://b/field.fits[SCI]"}, "mask": {"regions": ["{mosaic}.reg"]}}
    assert load(tmp_path, **paths).mask.regions == ("s3://b/field.reg",)


def refused(tmp_path, url, seconds=20, **sections):
    """The error of a configuration with this URL; one line, in time, with its key."""
    settings = load(tmp_path, mosaic={"path": url}, **sections)
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        settings.check_paths()
    assert time.monotonic() - start < seconds
    text = str(caught.value)
    assert text.startswith("mosaic.path: ")
    assert "\n" not in text
    return text


def test_what_is_there_passes(tmp_path, folder, web):
    image = GRID.wrap(dask.array.ones(GRID.shape, dtype="float32"), "a", "MJy/sr")
    write_map(image, tmp_path / "a.fits")
    local = ingest(tmp_path / "m.zarr", tmp_path / "a.fits", chunks=256)
    remote = ingest(f"{folder}/m.zarr", tmp_path / "a.fits", chunks=256)
    storage.write_bytes(f"{folder}/best.par", LENS.encode())
    catalog.write(sources(), tmp_path / "parts")
    for url in (local, remote, f"{web.url}/m.zarr", f"{web.url}/a.fits[0]"):
        load(tmp_path, mosaic={"path": url}, lens={"path": f"{folder}/best.par"}).check_paths()
    load(tmp_path, mosaic=None, catalog={"path": f"{web.url}/parts"}).check_paths()


def test_missing_objects_and_buckets_are_told_apart(tmp_path, s3, web):
    assert "mosaic.path: s3://gc-tables/none.zarr does not exist" in refused(
        tmp_path, f"{s3.url}/none.zarr"
    )
    assert "is in a bucket that does not exist" in refused(tmp_path, "s3://elsewhere/none.zarr")
    assert "none.fits does not exist" in refused(tmp_path, f"{web.url}/none.fits")
    assert "none.zarr does not exist" in refused(tmp_path, f"{web.url}/none.zarr")
    assert "none.zarr does not exist" in refused(tmp_path, "memory://a/none.zarr")


def test_wrong_credentials_are_told_and_never_shown(tmp_path, s3):
    storage.write_bytes(f"{s3.url}/there.zarr/zarr.json", b"{}")
    for key in (None, "nobody-known-here"):
        with s3.wrong_credentials(key=key) as wrong:
            text = refused(tmp_path, f"{s3.url}/there.zarr")
            assert "is refused" in text
            with pytest.raises(InputError, match="is refused"):
                storage.size(f"{s3.url}/there.zarr/zarr.json")
            assert "AWS_ACCESS_KEY_ID" in text
            assert not any(value in text for value in wrong.values())
    load(tmp_path, mosaic={"path": f"{s3.url}/there.zarr"}).check_paths()  # right ones again


def test_a_web_server_that_refuses_or_fails_is_not_taken_for_a_missing_file(tmp_path, web):
    (tmp_path / "a.fits").write_bytes(b"SIMPLE")
    web.hide["/a.fits"] = 403
    assert "is refused" in refused(tmp_path, f"{web.url}/a.fits")
    web.hide["/a.fits"] = 500
    assert "cannot be used (500" in refused(tmp_path, f"{web.url}/a.fits")


def test_hosts_that_cannot_be_reached_are_told_in_time(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    names = {"AWS_ACCESS_KEY_ID": "a-key-id", "AWS_SECRET_ACCESS_KEY": "a-secret-value"}
    with environment({**names, "AWS_ENDPOINT_URL": closed}):
        assert "cannot be reached" in refused(tmp_path, "s3://bucket/m.zarr")
    assert "cannot be reached" in refused(tmp_path, f"{closed}/a.fits")
    assert "cannot be reached" in refused(tmp_path, "https://host.invalid/a.fits")

    monkeypatch.setattr(ranges, "PATIENCE", 1.0)
    with socket.socket() as silent:  # it takes connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen(20)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "cannot be reached" in refused(tmp_path, f"{address}/a.fits", 10)
        with environment({**names, "AWS_ENDPOINT_URL": address}):
            assert "cannot be reached" in refused(tmp_path, "s3://bucket/m.zarr", 10)


def test_stores_that_are_unknown_or_need_a_package_are_told(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"mosaic.path: abc://b/m.zarr is on an unknown kind of"):
        load(tmp_path, mosaic={"path": "abc://b/m.zarr"})
    monkeypatch.setitem(sys.modules, "s3fs", None)
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(known, "s3", raising=False)
    forget_filesystems()
    assert "needs the package s3fs; pip install 'gcdask[s3]'" in refused(tmp_path, "s3://b/m.zarr")
