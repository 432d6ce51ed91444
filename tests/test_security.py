"""Inputs of strangers: nothing in them is run, leads out of its folder, or shows a secret."""

import base64
import contextlib
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tinyfield
import yaml
import zarr
from astropy.io import fits

from gcdask import catalog, cli, lensing, mosaic, storage
from gcdask.catalog import make_catalog
from gcdask.errors import InputError
from gcdask.grid import Grid, Tile
from gcdask.masks import read_regions
from gcdask.pipeline import records, versions
from gcdask.pipeline.sources import place_of

GRID = Grid.tangent((110.83, -73.454), (300, 400), 0.05)
SECRET = "hunter2-secret-value"


@pytest.fixture
def marker(tmp_path):
    """A file that an exploit would make; it must not be there at the end."""
    path = tmp_path / "pwned"
    yield path
    assert not path.exists()


class Exploit:
    """An object whose pickle makes the marker when it is loaded."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_the_exploit_works_where_nothing_guards(tmp_path):
    pickle.loads(pickle.dumps(Exploit(tmp_path / "here"))).close()
    assert (tmp_path / "here").exists()


@pytest.fixture
def command(capsys):
    """Run a command line; its exit code and all that it said."""

    def run(*arguments):
        code = cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out + err

    return run


# -- YAML -----------------------------------------------------------------------------------------
def payloads(marker):
    touch = f"touch {marker}"
    return [
        f"!!python/object/apply:os.system ['{touch}']",
        f"!!python/object/apply:subprocess.call [['touch', '{marker}']]",
        f"!!python/object/new:os.system ['{touch}']",
        "!!python/name:os.system",
        "!!python/module:os",
        f"!!python/object:builtins.open {{file: '{marker}', mode: w}}",
        f"!<tag:yaml.org,2002:python/object/apply:os.system> ['{touch}']",
        f"!open ['{marker}', w]",
    ]


def test_yaml_runs_no_code(tmp_path, marker, command):
    for i, payload in enumerate(payloads(marker)):
        path = tmp_path / f"{i}.yaml"
        path.write_text(f"name: {payload}\nfield: {{center: [1, 2], z_lens: 0.3}}\n")
        code, said = command("run", path, "--dry-run")
        assert code == 2
        assert "is not allowed; write plain values" in said
        code, said = command("run", path, "--dry-run", "--set", f"name={payload}")
        assert code == 2
        good = tmp_path / "good.yaml"
        good.write_text(yaml.safe_dump({"field": {"center": [1, 2], "z_lens": 0.3}}))
        code, said = command("run", good, "--dry-run", "--set", f"name={payload}")
        assert code == 2
        assert "is not allowed; write plain values" in said


def test_the_yaml_exploit_works_where_nothing_guards(tmp_path):
    yaml.unsafe_load(payloads(tmp_path / "here")[0])
    assert (tmp_path / "here").exists()


@pytest.mark.parametrize(
    "text",
    [
        # ten to the ninth values in ten lines
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)),
        "a0: &a0 {k0: x}\n"
        + "".join(
            f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}], k{i}: x}}\n"
            for i in range(1, 10)
        ),
        "name: " + "[" * 5000 + "]" * 5000,
        "name: " + "{a: " * 500 + "1" + "}" * 500,
        "- " * 3000 + "x",
        "a: &a {b: *a}",
        "a: &a\n  <<: *a",
        "x: " + "y" * 400_000,
        "name: " + "1:" * 20_000 + "1",
        "name: 0x" + "f" * 50_000,
    ],
)
def test_yaml_cannot_fill_the_memory(tmp_path, text, command):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    code, said = command("run", path, "--dry-run")
    assert code == 2
    assert said.count("\n") == 1
    assert len(said) < 500


def test_a_key_of_many_parts_is_refused(tmp_path, command):
    path = tmp_path / "a.yaml"
    path.write_text("name: x\n")
    code, said = command("run", path, "--dry-run", "--set", "a." * 5000 + "a=1")
    assert code == 2
    assert len(said) < 500


# -- secrets --------------------------------------------------------------------------------------
URLS = [
    f"s3://user:{SECRET}@bucket/field.zarr",
    f"s3://{SECRET}@bucket/field.zarr",
    f"s3://user:{SECRET}/with+a/slash@bucket/field.zarr",
    f"https://user:{SECRET}@host.org/a.fits",
    f"https://host.org/a.fits?X-Amz-Signature={SECRET}",
    f"https://host.org/a.fits?x=1&token={SECRET}#part",
    f"https://host.org/a.fits?sig={SECRET}",
]


@pytest.mark.parametrize("url", URLS)
def test_credentials_in_urls_are_refused_and_not_shown(tmp_path, url, command):
    base = {"mosaic": {"path": "field.zarr"}, "field": {"center": [1, 2], "z_lens": 0.3}}
    places = [
        {"mosaic": {"path": url}},
        {"mosaic": {"bands": {"A": url}}},
        {"mosaic": {"bands": {"A": "a.fits"}, "weight": {"A": url}}},
        {"mask": {"regions": ["a.reg", url]}},
        {"mask": {"files": [f"{url}[1]"]}},
        {"manual": url},
        {"lens": {"path": url}},
        {"lens": {"path": "x.fits", "path_y": url}},
        # and where a mistake shows the value
        {"mossaic": {"path": url}},
        {"density": {"alpha": url}},
        {"detect": url},
    ]
    for i, place in enumerate(places):
        path = tmp_path / f"{i}.yaml"
        path.write_text(yaml.safe_dump({**base, **place}))
        code, said = command("run", path, "--out", tmp_path / "out")
        assert code == 2
        assert SECRET not in said
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump(base))
    for setting in (f"mosaic.path={url}", f"mosaic={{path: '{url}'}}", f"name.x={url}", url):
        code, said = command("run", path, "--dry-run", "--set", setting)
        assert code == 2
        assert SECRET not in said
    for arguments in (
        ("inspect", url),
        ("inspect", f"{url}.csv"),
        ("ingest", tmp_path / "m.zarr", f"A={url}"),
        ("ingest", url, "A=a.fits"),
        ("run", path, "--out", url),
    ):
        code, said = command(*arguments)
        assert code == 2
        assert SECRET not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("url", URLS)
def test_functions_refuse_credentials_too(url, tmp_path):
    for call in (
        lambda: mosaic.open_sources(url),
        lambda: mosaic.open_mosaic({"A": url}),
        lambda: mosaic.open_map(url),
        lambda: mosaic.open_plane(url),
        lambda: mosaic.ingest(tmp_path / "m.zarr", url),
        lambda: catalog.read(url),
        lambda: catalog.write(make_catalog([1], [1], GRID), url),
        lambda: lensing.read_lenstool(url),
        lambda: lensing.open_kappa(url),
    ):
        with pytest.raises(InputError, match="holds credentials") as caught:
            call()
        assert SECRET not in str(caught.value)


def test_a_file_system_that_runs_what_it_reads_is_refused(tmp_path, marker, command):
    # templates of fsspec's reference files are jinja2: they reach all of Python
    call = f"lipsum.__globals__['os'].system('touch {marker}')"
    spec = {"version": 1, "templates": {"f": "{{" + call + "}}"}, "refs": {"a.csv": "ra,dec\n1,2"}}
    spec["gen"] = [{"key": "b{{i}}", "url": "{{" + call + "}}", "dimensions": {"i": [1]}}]
    (tmp_path / "evil.json").write_text(json.dumps(spec))
    for url in (
        f"reference://a.csv::{tmp_path}/evil.json",
        f"reference://a.csv::file://{tmp_path}/evil.json",
        f"simplecache::file://{tmp_path}/evil.json",
        "dir://x::memory://a.csv",
        "python://os",
    ):
        path = tmp_path / "a.yaml"
        base = {"field": {"center": [1, 2], "z_lens": 0.3}, "catalog": {"path": url}}
        path.write_text(yaml.safe_dump(base))
        code, said = command("run", path, "--dry-run")
        assert code == 2
        assert "unknown kind of store" in said
        for call in (catalog.read, mosaic.open_map, mosaic.open_sources, lensing.read_lenstool):
            with pytest.raises(InputError, match="unknown kind of store"):
                call(url)


def test_a_local_name_is_no_chain_of_file_systems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("memory::x.csv").write_text("ra,dec\n110.83,-73.45\n")
    assert len(catalog.read("memory::x.csv")) == 1


# -- zarr -----------------------------------------------------------------------------------------
def v2_array(folder, shape, pickled, *, filters):
    """An array of zarr format 2 whose chunk is a pickle."""
    folder.mkdir(parents=True)
    about = {"zarr_format": 2, "shape": shape, "chunks": shape, "dtype": "|O", "fill_value": None,
             "order": "C", "compressor": None, "filters": filters}  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(about))
    (folder / ".zattrs").write_text(json.dumps({"wcs": GRID.header, "units": "nJy"}))
    (folder / ".".join("0" * len(shape))).write_bytes(pickled)


@pytest.mark.parametrize("name", ["band", "sci", "y", "other"])
@pytest.mark.parametrize("where", ["filters", "compressor"])
def test_zarr_inputs_are_never_unpickled(tmp_path, marker, monkeypatch, command, name, where):
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True)
    store = tmp_path / "m.zarr"
    group = zarr.open_group(store, mode="w", zarr_format=2)
    group.attrs["wcs"] = GRID.header
    data = np.zeros((1, 30, 40), "f4")
    for key, values in (("sci", data), ("y", np.arange(30)), ("x", np.arange(40))):
        if key != name:
            group.create_array(key, data=values, attributes={"wcs": GRID.header, "units": "nJy"})
    shape = {"sci": [1, 30, 40], "y": [30]}.get(name, [1])
    v2_array(store / name, shape, pickle.dumps(Exploit(marker)), filters=[{"id": "pickle"}])
    if where == "compressor":
        about = json.loads((store / name / ".zarray").read_text())
        about |= {"compressor": {"id": "pickle"}, "filters": [{"id": "vlen-utf8"}]}
        (store / name / ".zarray").write_text(json.dumps(about))
    for call in (mosaic.open_sources, mosaic.open_mosaic, mosaic.open_map, mosaic.open_plane):
        with pytest.raises(InputError, match=r"holds pickled Python objects|not a readable zarr"):
            call(store)
    assert command("inspect", store)[0] == 2
    assert command("ingest", tmp_path / "n.zarr", f"A={store}")[0] == 2


def test_band_names_as_json_objects_are_fine(tmp_path):
    image = tmp_path / "a.fits"
    header = Grid.tangent((110.83, -73.454), (300, 300), 0.05).wcs.to_header()
    header["BUNIT"] = "nJy"
    fits.PrimaryHDU(np.zeros((300, 300), "f4"), header).writeto(image)
    store = Path(mosaic.ingest(tmp_path / "m.zarr", {"../../A": image}, chunks=256))
    assert mosaic.open_sources(store).bands == ("../../A",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fits", "m.zarr"]


# -- tables ---------------------------------------------------------------------------------------
def test_parquet_is_never_unpickled(tmp_path, marker):
    payload = pickle.dumps(Exploit(marker))
    field = pa.field(
        "evil",
        pa.binary(),
        metadata={"ARROW:extension:name": "arrow.py_extension_type",
                  "ARROW:extension:metadata": payload},
    )  # fmt: skip
    pandas = {"index_columns": ["evil"], "columns": [
        {"name": "evil", "field_name": "evil", "pandas_type": "object", "numpy_type": "object",
         "metadata": None}], "column_indexes": [
        {"name": "__import__('os').system('touch x')", "pandas_type": "object",
         "numpy_type": "object", "metadata": None}], "pandas_version": "3"}  # fmt: skip
    table = pa.table(
        [pa.array([110.83]), pa.array([-73.45]), pa.array([payload])],
        schema=pa.schema(
            [pa.field("ra", pa.float64()), pa.field("dec", pa.float64()), field],
            metadata={"pandas": json.dumps(pandas), "PANDAS_ATTRS": "{}", "evil": payload},
        ),
    )
    pq.write_table(table, tmp_path / "x.parquet")
    assert len(catalog.read(tmp_path / "x.parquet").compute()) == 1
    folder = tmp_path / "parts"
    catalog.write(make_catalog([1], [1], GRID), folder)
    part = catalog.read_manifest(folder)["parts"][0]["name"]
    pq.write_table(table, folder / part)
    assert len(catalog.read(folder).compute(scheduler="sync")) == 1


@pytest.mark.parametrize(
    "name",
    ["../../x.parquet", "../secret.parquet", "a/b.parquet", "/etc/passwd", "..", ".", "", "a\\b",
     "https://host/x", "part\n.parquet", None, 7, ["x"]],
)  # fmt: skip
def test_parts_of_a_catalogue_are_inside_of_it(tmp_path, name):
    folder = tmp_path / "deep" / "er" / "parts"
    catalog.write(make_catalog([1], [1], GRID), folder)
    for outside in (tmp_path / "deep/x.parquet", tmp_path / "deep/er/secret.parquet"):
        catalog.write(make_catalog([2], [2], GRID), outside, single_file=True)
    (folder / "a").mkdir()
    manifest = json.loads((folder / "_manifest.json").read_text())
    manifest["parts"][0]["name"] = name
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"_manifest.json lists ") as caught:
        catalog.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"parts": 3}, {"parts": [3]}, {"parts": [{}]}, {"parts": [{"name": "x", "rows": "1"}]},
     {"parts": [{"name": "x", "rows": 1, "bounds": [1, 2]}]},
     {"parts": [{"name": "x", "rows": 1, "bounds": [1, 2, 3, "a"]}]}],
)  # fmt: skip
def test_a_manifest_that_is_not_ours_is_refused(tmp_path, change):
    catalog.write(make_catalog([1], [1], GRID), tmp_path / "parts")
    path = tmp_path / "parts" / "_manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=r"_manifest.json (lists|is damaged)"):
        catalog.read(tmp_path / "parts")


def test_writing_a_catalogue_follows_no_links(tmp_path):
    folder, outside = tmp_path / "parts", tmp_path / "outside.json"
    outside.write_text("precious")
    folder.mkdir()
    (folder / "_manifest.json").symlink_to(outside)
    catalog.write(make_catalog([1], [1], GRID), folder, overwrite=True)
    assert outside.read_text() == "precious"
    assert len(catalog.read(folder)) == 1


def ecsv(marker, extra="", datatype="float64"):
    lines = ["%ECSV 1.0", "---", "datatype:", "- {name: ra, unit: deg, datatype: float64}",
             "- {name: dec, unit: deg, datatype: float64}",
             f"- {{name: evil, datatype: {datatype}}}", extra, "schema: astropy-2.0"]  # fmt: skip
    return "\n".join("# " + line for line in lines if line) + "\nra dec evil\n110.83 -73.45 1.5\n"


def test_ecsv_headers_run_no_code(tmp_path, marker):
    mixin = "meta: {__serialized_columns__: {evil: {__class__: "
    extras = [f"meta: {{a: {p}}}" for p in payloads(marker)]
    extras += [
        mixin + f"subprocess.Popen, args: [touch, '{marker}']}}}}}}",
        mixin + f"builtins.open, file: '{marker}', mode: w}}}}}}",
        mixin + "os.system, command: !astropy.table.SerializedColumn {name: ra}}}}",
        "meta: {a: !numpy.ndarray {buffer: !!binary "
        + base64.b64encode(pickle.dumps(Exploit(marker))).decode()
        + ", dtype: object, shape: !!python/tuple [1], order: C}}",
    ]
    for extra in extras:
        (tmp_path / "x.ecsv").write_text(ecsv(marker, extra))
        with pytest.raises(InputError, match="cannot be read as a table") as caught:
            catalog.read(tmp_path / "x.ecsv")
        assert "\n" not in str(caught.value)
    (tmp_path / "x.ecsv").write_text(ecsv(marker))
    assert len(catalog.read(tmp_path / "x.ecsv")) == 1


def test_region_and_lens_files_run_no_code(tmp_path, marker):
    call = f"__import__('os').system('touch {marker}')"
    region = tmp_path / "a.reg"
    for text in (
        f'fk5\ncircle({call},-73.4,1")\n',
        f'fk5\ncircle(110.83,-73.454,1") # text={{{call}}} tag={{{call}}}\n',
        f'global color={call}\nfk5\ncircle(110.83,-73.454,1")\n',
    ):
        region.write_text(text)
        with contextlib.suppress(InputError):
            read_regions(str(region), GRID)
    lens = tmp_path / "a.par"
    lens.write_text(tinyfield.LENS.replace("v_disp 1000", f"v_disp {call.replace(' ', '')}"))
    with pytest.raises(InputError, match="not a number"):
        lensing.read_lenstool(lens)


# -- records of earlier runs ----------------------------------------------------------------------
@pytest.fixture
def precious(tmp_path):
    """A file beside the runs of an output folder, which none of them may touch."""
    path = tmp_path / "out" / "precious" / "c" / "0" / "0"
    storage.write_bytes(path, b"precious")
    yield path
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("part", "shard", "taken"),
    [
        ("part-1.parquet", "mask", True),
        ("../../../../../precious/c/0/0", "mask", False),
        ("{out}/precious/c/0/0", "mask", False),
        ("part-1.parquet", "../../../../precious", False),
        ("part-1.parquet", "{out}/precious", False),
    ],
)
def test_rows_of_tiles_lead_out_of_no_run(tmp_path, precious, part, shard, taken):
    """To take a part or shard over is to replace what is under its name in the new run."""
    out = tmp_path / "out"
    tile = Tile((0, 0), (0, 9, 0, 9), (0, 9, 0, 9))
    old, new = (place_of(versions.folder_of(out, run), "image") for run in ("old", "new"))
    for path in (old.part("part-1.parquet"), old.shard("mask", tile)):
        storage.write_bytes(path, b"expected")
    row = {
        "fingerprint": "f",
        "damage": [],
        "part": {"name": part.format(out=out), "bytes": 8},
        "shards": {shard.format(out=out): 8},
    }
    storage.write_json(old.row(tile), row)
    assert records.find_row(new, [old], tile, "f") == (row if taken else None)
    assert Path(new.part("part-1.parquet")).exists() == taken


@pytest.mark.parametrize(
    "product", ["catalog.parquet", "../../precious", "{out}/precious", "../old/run.json"]
)
def test_products_of_stages_lead_out_of_no_run(tmp_path, precious, product):
    out = tmp_path / "out"
    runner = SimpleNamespace(timings={})
    made = []

    def stage(run, *bases):
        work = versions.Version(str(out), run, {}, bases)

        def make():
            storage.write_bytes(work.path("catalog.parquet"), b"made")
            made.append(run)

        work.stage("catalogue", "settings", ["catalog.parquet"], make, runner)
        return work

    record = stage("old").path("run.json")
    about = storage.read_json(record)
    about["stages"]["catalogue"]["products"] = [product.format(out=out)]
    storage.write_json(record, about)
    new = stage("new", "old")
    assert made == (["old"] if product == "catalog.parquet" else ["old", "new"])
    assert storage.read_bytes(new.path("catalog.parquet")) == b"made"


# -- where a run writes ---------------------------------------------------------------------------
def test_a_run_writes_into_its_folder_only_whatever_the_names_are(tmp_path, command):
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    tinyfield.make(inside)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    evil = "../../../../evil"
    settings = {
        **tinyfield.CONFIG,
        "name": evil,
        "mosaic": {"bands": {evil: "A.fits", "/etc/evil": "B.fits"}},
        "compare": {**tinyfield.CONFIG["compare"], "sectors": {evil: 90, "/tmp/evil\n": 270}},
        "reference": {"name": f"{evil}/x", "bands": {evil: "A.fits", "/etc/evil": "B.fits"}},
        "output": {"figures": True, "report": True, "fits": True},
    }
    path = inside / "evil.yaml"
    path.write_text(yaml.safe_dump(settings))
    before[path] = path.stat().st_mtime_ns
    code, said = command("run", path, "--out", inside / "out")
    assert code == 0, said
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    new = {p for p in after if after[p] != before.get(p)}
    assert new
    assert all(p.is_relative_to(inside / "out") for p in new)
    assert not list((inside / "out").rglob("*evil*"))
    for name in ("../x.html", "/tmp/x.html", "a/../../x.html"):
        code, said = command("run", path, "--out", inside / "out", "--performance-report", name)
        assert code == 2
