"""Catalogues keep their sources, types and units through every format, and never compute early."""

import json
import logging

import astropy.units as u
import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from conftest import no_compute

from gcdask import catalog
from gcdask.catalog import SCHEMA, SourceFlag, make_catalog, pixel_positions
from gcdask.errors import InputError
from gcdask.grid import Grid

GRID = Grid.tangent((110.83, -73.45), (300, 400), 0.05, angle=25)
FORMATS = ["folder", "x.parquet", "x.fits", "x.ecsv", "x.csv"]


def sources(n=200, seed=1, **extra):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 399, n), rng.uniform(0, 299, n)
    return make_catalog(x, y, GRID, peak=rng.normal(5, 1, n), snr=rng.normal(9, 1, n), extra=extra)


def same(a, b):
    """Equal rows, order aside."""
    a, b = (t.compute() if isinstance(t, dd.DataFrame) else t for t in (a, b))
    a, b = (t.sort_values(["id", "x", "y"]).reset_index(drop=True) for t in (a, b))
    pd.testing.assert_frame_equal(a, b)


# -- schema ----------------------------------------------------------------------------------------
def test_make_catalog_has_the_schema_and_the_sky_of_its_grid():
    table = make_catalog([3.4, 1.6], [7, 2], GRID, peak=[1, 2], flags=SourceFlag.MANUAL)
    assert table.dtypes.equals(catalog.meta().dtypes)
    assert table["id"].tolist() == [(2 << 32) | 2, (7 << 32) | 3]
    assert table["peak"].tolist() == [2, 1]
    ra, dec = GRID.wcs.all_pix2world([1.6, 3.4], [2, 7], 0)
    np.testing.assert_allclose(table["ra"], ra, rtol=0, atol=1e-12)
    np.testing.assert_allclose(table["dec"], dec, rtol=0, atol=1e-12)
    assert (table["flags"] == 1).all()


@pytest.mark.parametrize(
    ("x", "y"), [(0, 0), (-5, -1), (-1, 7), (9000, 4096), (2**31 - 1, -(2**31))]
)
def test_ids_and_tiles_are_unique_on_both_sides_of_zero(x, y):
    table = make_catalog([x], [y], GRID)
    assert [int(v[0]) for v in catalog.unpack(table["id"])] == [y, x]
    assert [int(v[0]) for v in catalog.unpack(table["tile"])] == [y // 4096, x // 4096]


def test_the_table_does_not_depend_on_the_order_of_its_sources():
    table, rng = sources(300), np.random.default_rng(3)
    order = rng.permutation(len(table))
    again = make_catalog(
        table["x"].to_numpy()[order],
        table["y"].to_numpy()[order],
        GRID,
        peak=table["peak"].to_numpy()[order],
        snr=table["snr"].to_numpy()[order],
    )
    pd.testing.assert_frame_equal(table, again)


def test_no_sources_make_an_empty_catalogue():
    pd.testing.assert_frame_equal(make_catalog([], [], GRID), catalog.meta())
    assert [v.size for v in pixel_positions(catalog.meta(), GRID)] == [0, 0]


def test_positions_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="1 of 2 source positions"):
        make_catalog([1, np.nan], [1, 2], GRID)


def test_positions_come_from_the_sky_not_from_the_pixels_of_another_mosaic():
    other = Grid.tangent((110.831, -73.4502), (50, 50), 0.2)
    table = sources()
    x, y = pixel_positions(table, other)
    sky = SkyCoord(table["ra"], table["dec"], unit="deg")
    np.testing.assert_allclose((x, y), sky.to_pixel(other.wcs, mode="wcs"), atol=1e-9)
    only = table[["x", "y"]]
    np.testing.assert_array_equal(pixel_positions(only, other), only.to_numpy().T)
    with pytest.raises(InputError, match="neither ra, dec nor x, y"):
        pixel_positions(table[["peak"]], other)


def test_something_else_is_no_catalogue():
    with pytest.raises(InputError, match="got list"):
        catalog.as_dask([1, 2])


# -- round trips -----------------------------------------------------------------------------------
def extended():
    n = 200
    table = sources(
        n,
        flux=np.linspace(-1, 1, n),
        n_bands=np.arange(n, dtype=np.int16),
        good=np.arange(n) % 3 == 0,
        name=[f"GC {i}" for i in range(n)],
    )
    table.attrs["units"]["flux"] = "nJy"
    table.attrs["descriptions"] = {"flux": "total flux"}
    return table


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("npartitions", [1, 3])
def test_round_trip_keeps_values_types_and_units(tmp_path, name, npartitions):
    table = extended()
    path = tmp_path / name
    single = name == "x.parquet"
    lazy = dd.from_pandas(table, npartitions=npartitions)
    assert catalog.write(lazy, path, grid=GRID, single_file=single) == str(path)
    with no_compute():
        back = catalog.read(path)
    got = back.compute()
    assert got.dtypes.drop("name").equals(table.dtypes.drop("name"))
    assert got["name"].tolist() == table["name"].tolist()
    pd.testing.assert_frame_equal(
        got.drop(columns="name").reset_index(drop=True), table.drop(columns="name")
    )
    assert back.dtypes.equals(got.dtypes), "the meta is not what is read"
    assert catalog.units(back)["flux"] == "nJy"
    assert catalog.units(got) == catalog.units(back)
    assert back._meta.attrs["descriptions"]["flux"] == "total flux"


def test_units_and_wcs_are_in_the_parquet_schema(tmp_path):
    catalog.write(extended(), tmp_path / "c", grid=GRID)
    manifest = catalog.read_manifest(tmp_path / "c")
    schema = pq.read_schema(tmp_path / "c" / manifest["parts"][0]["name"])
    assert schema.field("flux").metadata == {b"unit": b"nJy", b"description": b"total flux"}
    assert schema.field("ra").metadata[b"unit"] == b"deg"
    assert schema.metadata[b"wcs"].decode() == GRID.header == manifest["wcs"]
    assert manifest["rows"] == 200
    assert manifest["schema"]["flags"]["dtype"] == "uint16"


def test_other_programs_read_the_units(tmp_path):
    catalog.write(extended(), tmp_path / "c.ecsv")
    catalog.write(extended(), tmp_path / "c.fits")
    for path in (tmp_path / "c.ecsv", tmp_path / "c.fits"):
        table = QTable.read(path)
        assert table["flux"].unit == u.nJy
        assert table["ra"].unit == u.deg
        assert table["flags"].dtype == np.uint16


def test_a_written_catalogue_can_be_written_again_from_read_only_parts(tmp_path):
    catalog.write(dd.from_pandas(sources(), npartitions=4), tmp_path / "a")
    catalog.write(catalog.read(tmp_path / "a"), tmp_path / "a", overwrite=True)
    same(catalog.read(tmp_path / "a"), sources())
    manifest = catalog.read_manifest(tmp_path / "a")
    there = {p.name for p in (tmp_path / "a").iterdir()}
    assert there == {"_manifest.json"} | {p["name"] for p in manifest["parts"]}


def test_only_the_parts_of_the_manifest_count(tmp_path):
    table = dd.from_pandas(sources(), npartitions=3)
    catalog.write(table, tmp_path / "a")
    catalog.write_part(sources(50, seed=9), tmp_path / "a", catalog.part_name(7))
    same(catalog.read(tmp_path / "a"), sources())


def test_a_killed_write_leaves_the_old_catalogue(tmp_path):
    old, new = sources(), sources(80, seed=5)
    catalog.write(old, tmp_path / "a")

    def fail(part):
        raise RuntimeError("killed")

    bad = dd.concat([dd.from_pandas(new, npartitions=1)] * 2)
    bad = bad.map_partitions(fail, meta=catalog.meta())
    with pytest.raises(RuntimeError, match="killed"):
        catalog.write(bad, tmp_path / "a", overwrite=True)
    same(catalog.read(tmp_path / "a"), old)
    catalog.write(new, tmp_path / "b")
    catalog.write(new, tmp_path / "a", overwrite=True)
    same(catalog.read(tmp_path / "a"), new)


def test_tiles_write_their_own_parts(tmp_path):
    parts = [sources(40, seed=i) for i in range(3)] + [catalog.meta()]
    rows = [catalog.write_part(p, tmp_path, catalog.part_name(i)) for i, p in enumerate(parts)]
    assert [r["rows"] for r in rows] == [40, 40, 40, 0]
    assert rows[0]["bounds"][0] == parts[0]["x"].min()
    assert "bounds" not in rows[3]
    with pytest.raises(InputError, match=r"no _manifest\.json"):
        catalog.read(tmp_path)
    catalog.write_manifest(tmp_path, rows, fingerprint="abc")
    assert catalog.read_manifest(tmp_path)["fingerprint"] == "abc"
    got = catalog.read(tmp_path)
    assert got.npartitions == 4
    assert got[["ra"]].optimize().npartitions == 4
    same(got, pd.concat(parts))


def test_a_folder_may_hold_no_sources(tmp_path):
    catalog.write(catalog.meta(), tmp_path / "none")
    assert len(catalog.read(tmp_path / "none")) == 0


def test_stores_that_are_not_files(tmp_path):
    catalog.write(sources(), "memory://gcdask-test/cat")
    same(catalog.read("memory://gcdask-test/cat"), sources())


# -- foreign tables --------------------------------------------------------------------------------
SKY = SkyCoord([110.8, 110.9, 0.5] * u.deg, [-73.4, -73.5, 12.25] * u.deg)


def write_foreign(path, table):
    table.write(path, overwrite=True)
    return path


@pytest.mark.parametrize(
    ("ra", "dec"),
    [
        ("ra", "dec"),
        ("RA", "DEC"),
        ("RAJ2000", "DEJ2000"),
        ("_RAJ2000", "_DEJ2000"),
        ("ALPHA_J2000", "DELTA_J2000"),
        ("ra_deg", "dec_deg"),
        ("RA_ICRS", "DE_ICRS"),
        ("Right Ascension", "Declination"),
    ],
)
@pytest.mark.parametrize("suffix", ["fits", "ecsv", "csv"])
def test_coordinates_are_found_by_their_usual_names(tmp_path, ra, dec, suffix):
    table = Table({"mag": [1.0, 2.0, 3.0], ra: SKY.ra.deg, dec: SKY.dec.deg})
    got = catalog.read(write_foreign(tmp_path / f"t.{suffix}", table)).compute()
    np.testing.assert_allclose(got["ra"], SKY.ra.deg, atol=1e-12)
    np.testing.assert_allclose(got["dec"], SKY.dec.deg, atol=1e-12)
    assert got.columns.tolist() == [*SCHEMA, "mag"]
    assert got["id"].tolist() == [0, 1, 2]
    assert (got["flags"] == int(SourceFlag.EXTERNAL)).all()
    assert got["x"].isna().all()


@pytest.mark.parametrize("suffix", ["fits", "ecsv"])
@pytest.mark.parametrize("unit", [u.hourangle, u.rad, u.arcsec])
def test_coordinates_are_converted_to_degrees(tmp_path, suffix, unit):
    table = QTable({"RA": SKY.ra.to(unit), "DEC": SKY.dec.to(u.rad)})
    if unit == u.hourangle and suffix == "fits":
        table = Table({"RA": SKY.ra.to_value(unit), "DEC": SKY.dec.deg})
        table["RA"].unit, table["DEC"].unit = "h", "deg"
    got = catalog.read(write_foreign(tmp_path / f"t.{suffix}", table)).compute()
    np.testing.assert_allclose(got["ra"], SKY.ra.deg, atol=1e-10)
    np.testing.assert_allclose(got["dec"], SKY.dec.deg, atol=1e-10)


def test_sexagesimal_text_and_sky_columns(tmp_path):
    text = Table(
        {"RA": SKY.ra.to_string(u.hourangle, precision=6), "Dec": SKY.dec.to_string(precision=6)}
    )
    sky = QTable({"sky_centroid": SKY, "flux": [1, 2, 3] * u.nJy})
    for name, table in (("t.csv", text), ("t.ecsv", sky)):
        got = catalog.read(write_foreign(tmp_path / name, table)).compute()
        np.testing.assert_allclose(got["ra"], SKY.ra.deg, atol=1e-7)
        np.testing.assert_allclose(got["dec"], SKY.dec.deg, atol=1e-7)


def test_pixels_of_a_grid(tmp_path):
    table = sources(30)
    foreign = table[["ra", "dec"]].rename(columns=str.upper)
    got = catalog.from_table(foreign, grid=GRID).compute()
    np.testing.assert_allclose(got[["x", "y"]], table[["x", "y"]], atol=1e-7)
    assert (got["tile"] == 0).all()
    pixels = table[["x", "y"]].rename(columns={"x": "X_IMAGE", "y": "Y_IMAGE"})
    got = catalog.from_table(pixels, columns={"x": "X_IMAGE", "y": "Y_IMAGE"}, grid=GRID).compute()
    np.testing.assert_allclose(got[["ra", "dec"]], table[["ra", "dec"]], atol=1e-12)


def test_the_column_map_picks_and_renames(tmp_path):
    table = Table({"ra": [1.0], "dec": [2.0], "lon": [3.0], "lat": [4.0], "s": [5.0], "ID": [9]})
    path = write_foreign(tmp_path / "t.csv", table)
    got = catalog.read(path, columns={"ra": "lon", "dec": "lat", "peak": "s"}).compute()
    assert got[["ra", "dec", "peak"]].iloc[0].tolist() == [3, 4, 5]
    assert got.columns[9:].tolist() == ["ra_file", "dec_file", "ID_file"]
    assert got["ID_file"].tolist() == [9]
    with pytest.raises(InputError, match=r"no column 'glon'.*it has ra, dec, lon"):
        catalog.read(path, columns={"ra": "glon", "dec": "lat"})


def test_missing_numbers_are_nan_and_lost_rows_are_counted(tmp_path, caplog):
    table = Table(
        {
            "ra": [1.0, np.nan, 3.0, 4.0, 5.0],
            "dec": [1.0, 2.0, 95.0, 4.0, 5.0],
            "mag": MaskedColumn([1.0, 2.0, 3.0, 4.0, 5.0], mask=[0, 0, 0, 0, 1]),
            "n": MaskedColumn([1, 2, 3, 4, 5], mask=[0, 0, 0, 1, 0], fill_value=-99),
        }
    )
    for suffix in ("ecsv", "csv", "fits"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="gcdask"):
            got = catalog.read(write_foreign(tmp_path / f"t.{suffix}", table)).compute()
        assert "2 of 5 rows have no finite coordinates" in caplog.text, suffix
        assert got["id"].tolist() == [0, 3, 4], "ids count the rows of the file"
        np.testing.assert_array_equal(got["mag"], [1, 4, np.nan])
        np.testing.assert_array_equal(got["n"], [1, np.nan, 5])


def test_fits_tables_are_read_by_rows_when_computed(tmp_path):
    n = 1000
    rng = np.random.default_rng(0)
    table = Table({"ra": rng.uniform(0, 360, n), "dec": rng.uniform(-90, 90, n), "k": np.arange(n)})
    path = write_foreign(tmp_path / "t.fits", table)
    whole = catalog.read(path).compute()
    with no_compute():
        lazy = catalog.read(path, block=300)
    assert lazy.npartitions == 4
    got = lazy.compute()
    pd.testing.assert_frame_equal(got.reset_index(drop=True), whole)
    assert got["k"].to_numpy().dtype.isnative
    table.to_pandas().to_parquet(tmp_path / "t.parquet", row_group_size=300)
    with no_compute():
        lazy = catalog.read(tmp_path / "t.parquet")
    assert lazy.npartitions == 4
    pd.testing.assert_frame_equal(lazy.compute().reset_index(drop=True), whole)
    assert lazy.dtypes.equals(whole.dtypes)


def test_parquet_row_groups_with_and_without_holes_have_one_type(tmp_path):
    table = pd.DataFrame({"ra": np.arange(6.0), "dec": 0.0, "n": pd.array([1, 2, 3, 4, None, 6])})
    table.to_parquet(tmp_path / "t.parquet", row_group_size=3)
    lazy = catalog.read(tmp_path / "t.parquet")
    kinds = {part.compute()["n"].dtype for part in lazy.partitions}
    assert kinds == {np.dtype(float)} == {lazy["n"].dtype}


def test_columns_of_arrays_are_left_out_with_a_warning(tmp_path, caplog):
    table = Table({"ra": [1.0, 2.0], "dec": [1.0, 2.0], "ap": np.ones((2, 3))})
    for suffix in ("fits", "ecsv"):
        got = catalog.read(write_foreign(tmp_path / f"t.{suffix}", table))
        assert "ap" not in got.columns
        assert "hold arrays are left out: ap" in caplog.text


def test_real_nircam_catalogue(shared_data):
    path = shared_data / "catalogs" / "ngc1097_f444w_cat.fits"
    got = catalog.read(path).compute()
    with fits.open(path) as file:
        data = file[1].data
        np.testing.assert_array_equal(got["ra"], data["ra"].astype(float))
        np.testing.assert_array_equal(got["sharpness"], data["sharpness"].astype(float))
    assert len(got) == 25325
    assert all(k.isnative for k in map(np.dtype, got.dtypes))


def test_faisst2022_is_the_published_table(shared_data):
    got = catalog.faisst2022()
    table = got.compute()
    bands = ["f090w", "f150w", "f200w", "f277w", "f356w", "f444w"]
    sums = [2025.8, 2883.0, 2944.7, 2838.8, 1861.5, 1472.4]
    np.testing.assert_allclose(table[bands].sum(), sums, atol=0.05)
    assert table["logm"].sum() == pytest.approx(1143.28)
    assert {catalog.units(got)[b] for b in bands} == {"nJy"}
    original = pd.read_csv(shared_data / "smacs0723" / "faisst2022_table1.csv")
    assert (table["name"] == original["ID"]).all()
    for name in original.columns[1:]:
        np.testing.assert_array_equal(table[name], original[name])
    same(catalog.read("builtin:faisst2022"), table)


# -- bad input -------------------------------------------------------------------------------------
def one_line(error):
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.fits", None, "does not exist"),
        ("t.txt", b"1 2 3", "unknown kind of catalogue"),
        ("t.fits", b"SIMPLE? no", "cannot be read as a table"),
        ("t.parquet", b"PAR1 cut", "cannot be read as a table"),
        ("t.ecsv", b"not an ecsv", "cannot be read as a table"),
        ("t.csv", b"", "cannot be read as a table"),
        ("t.csv", b"ra,dec\n", "empty catalogue"),
        ("t.csv", b"ra,dec\n,\n,3\n", "none of the 2 rows"),
        (
            "t.csv",
            b"mag,flux\n1,2\n",
            r"no coordinates: looked for ra/dec.*found mag, flux; use col",
        ),
        ("t.csv", b"ra,dec\nleft,right\n", "neither numbers nor sexagesimal"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        catalog.read(tmp_path / name)
    one_line(error)


def test_bad_fits_tables(tmp_path):
    table = Table({"ra": np.arange(9000.0), "dec": np.zeros(9000)})
    path = write_foreign(tmp_path / "t.fits", table)
    path.write_bytes(path.read_bytes()[:80000])
    with pytest.raises(InputError, match="truncated"):
        catalog.read(path)
    fits.PrimaryHDU(np.zeros((5, 5))).writeto(tmp_path / "image.fits")
    with pytest.raises(InputError, match="holds no table"):
        catalog.read(tmp_path / "image.fits")
    table["ra"].unit = "Jy"
    with pytest.raises(InputError, match="unit 'Jy' of ra is not an angle"):
        catalog.read(write_foreign(tmp_path / "unit.fits", table))
    with pytest.raises(InputError, match="no built-in catalogue"):
        catalog.read("builtin:harris1996")


def test_damaged_folders(tmp_path):
    with pytest.raises(InputError, match=r"no _manifest\.json"):
        catalog.read(tmp_path)
    catalog.write(sources(), tmp_path / "a")
    manifest = tmp_path / "a" / "_manifest.json"
    text = manifest.read_text()
    part = tmp_path / "a" / json.loads(text)["parts"][0]["name"]
    manifest.write_text(text[:100])
    with pytest.raises(InputError, match="damaged"):
        catalog.read(tmp_path / "a")
    manifest.write_text('{"format": "other"}')
    with pytest.raises(InputError, match="not a catalogue"):
        catalog.read(tmp_path / "a")
    manifest.write_text(text)
    part.unlink()
    with pytest.raises(InputError, match="1 of 1 parts"):
        catalog.read(tmp_path / "a")


@pytest.mark.parametrize("name", ["c", "c.fits"])
def test_nothing_is_overwritten_unasked(tmp_path, name):
    catalog.write(sources(), tmp_path / name)
    with pytest.raises(InputError, match="exists; use overwrite=True"):
        catalog.write(sources(), tmp_path / name)
    catalog.write(sources(20), tmp_path / name, overwrite=True)
    assert len(catalog.read(tmp_path / name)) == 20


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"holds other files \(thesis\.tex\)"):
        catalog.write(sources(), tmp_path, overwrite=True)
    with pytest.raises(InputError, match="is a file, not a folder"):
        catalog.write(sources(), tmp_path / "thesis.tex")
    with pytest.raises(InputError, match="does not exist; create it"):
        catalog.write(sources(), tmp_path / "no" / "c.fits")


# -- parts and pairs -------------------------------------------------------------------------------
@pytest.mark.parametrize("npartitions", [1, 4])
def test_select(npartitions):
    table = sources()
    table["flags"] = (np.arange(200) % 5).astype(np.uint16)
    lazy = dd.from_pandas(table, npartitions=npartitions)
    with no_compute():
        bright = catalog.select(lazy, "peak > 5", min_snr=9)
        called = catalog.select(lazy, lambda t: t["peak"] > 5, min_snr=9)
        flagged = catalog.select(lazy, with_flags=2, without_flags=1)
    same(bright, table[(table["peak"] > 5) & (table["snr"] >= 9)])
    same(called, bright)
    same(flagged, table[table["flags"] == 2])
    with pytest.raises(InputError, match="its columns are id, x, y"):
        catalog.select(lazy, "magnitude < 3")


def test_within_is_a_circle_on_the_sky():
    table, center = sources(), (110.835, -73.451)
    apart = SkyCoord(*center, unit="deg").separation(
        SkyCoord(table["ra"], table["dec"], unit="deg")
    )
    same(catalog.within(dd.from_pandas(table, npartitions=3), center, 5), table[apart.arcsec <= 5])
    with pytest.raises(InputError, match="not positive"):
        catalog.within(table, center, 0)


@pytest.mark.parametrize("chunks", [None, (300, 400), (64, 97), (7, 400), (300, 11)])
@pytest.mark.parametrize("npartitions", [1, 5])
def test_unmasked(chunks, npartitions):
    table = sources()
    bits = np.random.default_rng(2).integers(0, 3, GRID.shape).astype(np.uint16)
    kept = bits[np.rint(table["y"]).astype(int), np.rint(table["x"]).astype(int)] == 0
    mask = GRID.wrap(bits if chunks is None else da.from_array(bits, chunks), "mask", "")
    lazy = dd.from_pandas(table, npartitions=npartitions)
    with no_compute():
        got = catalog.unmasked(lazy, mask)
        both = catalog.select(lazy, min_peak=5, mask=mask)
    same(got, table[kept])
    same(both, table[kept & (table["peak"] >= 5)])
    assert got.dtypes.equals(table.dtypes)


def test_unmasked_on_a_coarse_map_of_a_part_of_the_field():
    table = sources()
    whole = GRID.coarsen(20)
    part = whole.cut(2, 12, 3, 15)
    mask = part.wrap(da.zeros(part.shape, dtype=bool, chunks=5), "mask", "")
    inside = (
        (np.rint(table["y"]) // 20 >= 2)
        & (np.rint(table["y"]) // 20 < 12)
        & (np.rint(table["x"]) // 20 >= 3)
        & (np.rint(table["x"]) // 20 < 15)
    )
    assert 0 < inside.sum() < len(table)
    same(catalog.unmasked(table, mask), table[inside])


def test_sample_gives_the_value_under_each_source():
    table = sources()
    image = np.random.default_rng(0).normal(size=GRID.shape)
    lazy = GRID.wrap(da.from_array(image, (50, 60)), "kappa", "")
    with no_compute():
        got = catalog.sample(dd.from_pandas(table, npartitions=2), lazy, "kappa")
    expected = image[np.rint(table["y"]).astype(int), np.rint(table["x"]).astype(int)]
    np.testing.assert_array_equal(got.compute()["kappa"], expected)
    with pytest.raises(InputError, match="give outside=0"):
        catalog.sample(table, lazy > 0, "bright")
    outside = catalog.sample(table, lazy.isel(x=slice(0, 100)), "kappa").compute()["kappa"]
    np.testing.assert_array_equal(outside.isna(), np.rint(table["x"]) >= 100)


def serial_pairs(a, b, radius):
    """The rule read aloud: closest pair first, then the next among those left."""
    one, two = (SkyCoord(t["ra"], t["dec"], unit="deg") for t in (a, b))
    apart = one[:, None].separation(two[None, :]).arcsec
    pairs = {}
    for flat in np.argsort(apart, axis=None, kind="stable"):
        i, j = np.unravel_index(flat, apart.shape)
        if apart[i, j] > radius:
            break
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return pairs, apart


@pytest.mark.parametrize("partitions", [(1, 1), (3, 2), (7, 5)])
@pytest.mark.parametrize("radius", [0.3, 2.0])
def test_match_is_one_to_one_and_closest_first(partitions, radius):
    a, b = sources(120, seed=1), sources(90, seed=2)
    with no_compute():
        lazy = catalog.match(
            dd.from_pandas(a, npartitions=partitions[0]),
            dd.from_pandas(b, npartitions=partitions[1]),
            radius,
        )
    got = lazy.compute().reset_index(drop=True)
    assert lazy.dtypes.equals(got.dtypes)
    assert catalog.units(lazy)["match_sep"] == "arcsec"
    pairs, apart = serial_pairs(a, b, radius)
    assert pairs
    matched = got.index[got["match_id"] >= 0]
    assert set(matched) == set(pairs)
    for i in matched:
        assert got["match_id"][i] == b["id"][pairs[i]]
        assert got["match_sep"][i] == pytest.approx(apart[i, pairs[i]], rel=1e-6)
    assert got["match_sep"].isna().sum() == len(a) - len(pairs)


def test_match_with_nothing():
    got = catalog.match(sources(), catalog.meta(), 1).compute()
    assert (got["match_id"] == -1).all()


@pytest.mark.parametrize("npartitions", [1, 3])
def test_add_manual(npartitions, tmp_path, caplog):
    table = sources(flux=np.ones(200), name=["a"] * 200)
    found = table[["x", "y"]].iloc[:4] + 1.2  # within 2 px of known ones
    by_eye = pd.DataFrame({"x": [3.2, 600.0], "y": [-50.0, 20.4]})
    ra, dec = GRID.sky(*pd.concat([found, by_eye]).to_numpy().T)
    path = tmp_path / "eye.csv"
    pd.DataFrame({"RA": ra, "DEC": dec}).to_csv(path, index=False)
    lazy = dd.from_pandas(table, npartitions=npartitions)
    with no_compute():
        both = catalog.add_manual(lazy, path, GRID)
    with caplog.at_level(logging.WARNING, logger="gcdask"):
        got = both.compute()
    assert "4 of 6 manual sources are in the catalogue already" in caplog.text
    assert both.npartitions == npartitions + 1
    assert both.dtypes.equals(got.dtypes)
    new = got[got["flags"] == int(SourceFlag.MANUAL)]
    np.testing.assert_allclose(new.sort_values("x")[["x", "y"]], by_eye, atol=1e-6)
    assert new["flux"].isna().all()
    same(got[got["flags"] == 0], table.astype(lazy.dtypes.to_dict()))


def test_lazy_catalogues_travel_to_other_processes(tmp_path):
    table = sources()
    foreign = Table.from_pandas(table[["ra", "dec", "peak"]])
    read = catalog.read(write_foreign(tmp_path / "t.fits", foreign), block=90, grid=GRID)
    with dask.config.set(scheduler="processes", num_workers=2):
        got = catalog.match(catalog.select(read, min_peak=5), table, 0.01).compute()
        catalog.write(read, tmp_path / "out")
    assert (got["match_id"] >= 0).all()
    assert len(got) == (table["peak"] >= 5).sum()
    same(catalog.read(tmp_path / "out"), read)
