"""Bad input, one by one: one line that says what, the value and the remedy; nothing is lost."""

import errno
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tinyfield
import yaml
from astropy.io import fits
from tinyfield import CENTER, CONFIG, LENS, N, image

from gcdask import catalog, cli, mosaic, storage
from gcdask.cluster import remote
from gcdask.pipeline import detection, lock

PROGRESS = re.compile(r"\[ *\d+\.\d s\] ")
SCIENCE = ["catalog.parquet", "inpainted.parquet", "maps.zarr", "results.json", "profiles.ecsv",
           "boxes.ecsv", "run.json", "manifest.json"]  # fmt: skip

ROWS = "tiles/image/rows"  # of the tiles of the mosaic, in a run's folder


# -- a tiny field ------------------------------------------------------------------------------
def noise(shape=(N, N)):
    return np.random.default_rng(5).normal(size=shape).astype("float32")


def deep(a, b):
    """``a`` with the keys of ``b``, section by section."""
    merged = {
        k: deep(a[k], v) if v and isinstance(v, dict) and a.get(k) else v for k, v in b.items()
    }
    return {**a, **merged}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tinyfield.make(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """Folder of a finished run, which no refused one may touch."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert cli.main(["run", str(inputs / "tiny.yaml"), "--out", str(out)]) == 0
    return out


def snapshot(folder):
    """Every file with its time and size."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files]


@pytest.fixture
def tiny(inputs, tmp_path, monkeypatch, capfd):
    """A copy of the field in the working directory, and `gcdask` on it."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def main(*arguments):
        capfd.readouterr()
        code = cli.main([str(a) for a in arguments])
        out, text = capfd.readouterr()
        shown = text.splitlines()
        err = [line for line in shown if not PROGRESS.match(line)]
        return SimpleNamespace(code=code, out=out, err=err, began=len(err) < len(shown))

    def run(changes, *arguments, out="out"):
        Path("tiny.yaml").write_text(yaml.safe_dump(deep(CONFIG, changes or {})))
        return main("run", "tiny.yaml", *(("--out", out) if out else ()), *arguments)

    return SimpleNamespace(main=main, run=run, folder=tmp_path)


def one_line(done, *words, code=2):
    """The only line of an error, which holds the words; nothing on stdout."""
    assert done.code == code, done
    assert len(done.err) == 1, done.err
    (line,) = done.err
    assert line.startswith("error: ")
    assert "Traceback" not in line
    assert all(str(word) in line for word in words), line
    assert done.out == ""
    return line


def refused(tiny, finished, changes, *words, arguments=()):
    """A run that is refused before it begins, by --dry-run too; --force loses nothing."""
    before = snapshot(finished)
    done = tiny.run(changes, "--force", *arguments, out=finished)
    line = one_line(done, *words)
    assert not done.began
    assert snapshot(finished) == before
    here = snapshot(tiny.folder)
    assert one_line(tiny.run(changes, "--dry-run", *arguments, out=None)) == line
    assert {p for p, *_ in snapshot(tiny.folder)} == {p for p, *_ in here}


def test_a_folder_at_work_is_left_alone(tiny, finished):
    """Exit code 4 before anything is read, and nothing changes."""
    with lock.hold(finished):
        before = snapshot(finished)
        done = tiny.run({}, "--force", out=finished)
        one_line(done, finished, "in use by process", os.getpid(), "wait", code=4)
        assert not done.began
        assert snapshot(finished) == before


# -- what works --------------------------------------------------------------------------------
def test_the_field_itself_runs(tiny):
    """All outputs, and nothing on stderr but the progress."""
    everything = {"output": {"fits": True, "figures": True, "report": True}}
    done = tiny.run(everything)
    assert (done.code, done.err) == (0, [])
    assert "n_detected" in done.out
    maps = ["detection.fits", "mask.fits", "density.fits", "kappa.fits"]
    run = tiny.folder / "out" / "latest"
    for name in [*SCIENCE, *maps, "figures", "report.html"]:
        assert (run / name).exists(), name
    assert len(list((run / "figures").glob("*.png"))) >= 7
    results = json.loads((run / "results.json").read_text())
    keys = {
        "beta": ["value", "error", "sectors", "dispersion"],
        "correlation": ["pearson_log", "spearman"],
        "relation": ["a", "b", "cov", "n_boxes"],
        "profile": ["slope", "slope_error", "contamination_arcsec2", "contamination_kpc2"],
        "mass": ["within_arcsec", "msun", "per_gc_msun"],
    }
    for section, names in keys.items():
        assert all(results[section][name] is not None for name in names), section
    assert set(results["beta"]["sectors"]) == set("EWSN")
    assert results["n_detected"] == pytest.approx(75, abs=8)
    assert {"n_inpainted", "threshold", "purity", "masked_fraction"} <= set(results)

    # every output can be looked at
    for path, words in {
        "out": ["runs of gcdask", "finished", run.resolve().name],
        "out/latest": ["run of gcdask", "finished"],
        "out/latest/catalog.parquet": ["catalogue", f"{results['n_detected']}"],
        "out/latest/maps.zarr": ["image/detection", "image/noise/detection", "smooth/kappa"],
        "out/latest/maps.zarr/image": ["mask", f"{N} x {N} px"],
        "out/latest/maps.zarr/smooth": ["density", "arcsec"],
        "out/latest/maps.zarr/image/noise": ["detection"],
        "out/latest/detection.fits": ["image (FITS)", "MJy", f"{N} x {N} px"],
        "out/latest/profiles.ecsv": ["table"],
        "out/latest/boxes.ecsv": ["rows"],
        "lens.par": ["Lenstool", "0.348"],
        "A.fits": ["MJy/sr"],
    }.items():
        told = tiny.main("inspect", path)
        assert (told.code, told.err) == (0, []), (path, told.err)
        assert all(word in told.out for word in words), told.out


def test_a_run_with_two_workers_says_nothing_else(tiny):
    command = [sys.executable, "-m", "gcdask", "run", "tiny.yaml", "--out", "o", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    noise = [line for line in done.stderr.splitlines() if not PROGRESS.match(line)]
    assert (done.returncode, noise) == (0, [])
    assert done.stdout.startswith("n_detected")


def test_set_reaches_nested_keys_and_lists(tiny):
    done = tiny.run(
        {}, "--dry-run", "--set", "density.alphas=[1.2, 1.3]", "--set", "mask.regions=[]",
        "--set", "profiles.contamination={method: joint}", "--set", "lens=null",
        "--set", "mosaic.bands.B=A.fits", "--set", "detect.filters=[[0.5, 4], [1, 3]]", out=None,
    )  # fmt: skip
    assert (done.code, done.err) == (0, [])
    for words in ("1.2, 1.3", "joint", "no lens model"):
        assert words in done.out, done.out
    one_line(
        tiny.run({}, "--dry-run", "--set", "detect.filters=[[0.5, 4]]", out=None), "detect.filters"
    )
    one_line(
        tiny.run({}, "--dry-run", "--set", "mass.radius=[1, -1]", out=None), "mass.radius[1]", "-1"
    )


# -- images ------------------------------------------------------------------------------------
def cut(name, size):
    path = Path(name)
    path.write_bytes(path.read_bytes()[:size])


IMAGES = {
    "missing": (lambda: Path("A.fits").unlink(), ["mosaic.bands.A", "A.fits", "--set"]),
    "cut in its header": (lambda: cut("A.fits", 1000), ["A.fits", "not a readable FITS", "fetch"]),
    "empty file": (lambda: cut("A.fits", 0), ["A.fits", "not a readable FITS"]),
    "not FITS": (lambda: Path("A.fits").write_text("hello\n"), ["A.fits", "not a readable FITS"]),
    "gzipped": (
        lambda: Path("A.fits").write_bytes(gzip.compress(Path("B.fits").read_bytes())),
        ["A.fits", "gzipped", "gcdask ingest"],
    ),
    "no WCS": (lambda: image("A.fits", noise(), wcs=False), ["A.fits", "no celestial WCS", "give"]),
    "1-D": (lambda: image("A.fits", noise()[0], wcs=False), ["A.fits", f"({N},)", "2-D"]),
    "3-D": (lambda: image("A.fits", noise((2, 9, 9)), wcs=False), ["A.fits", "(2, 9, 9)", "2-D"]),
    "another shape": (lambda: image("A.fits", noise()[:300]), ["(300, 330)", "(330, 330)"]),
    "another WCS": (lambda: image("A.fits", noise(), CRPIX1=99.0), ["another WCS", "px", "align"]),
    "no unit": (lambda: image("A.fits", noise(), unit=None), ["A.fits", "BUNIT", "mosaic.unit"]),
    "unknown unit": (lambda: image("A.fits", noise(), unit="furlong"), ["A.fits", "'furlong'"]),
    "another unit": (lambda: image("A.fits", noise(), unit="s"), ["MJy", "convert", "s"]),
}  # fmt: skip


@pytest.mark.parametrize("case", IMAGES)
def test_images(tiny, finished, case):
    change, words = IMAGES[case]
    change()
    refused(tiny, finished, {}, *words)


def test_all_nan(tiny):
    """Only the survey sees it: the run has begun."""
    image("A.fits", np.full((N, N), np.nan, "float32"))
    one_line(tiny.run({}), "tiny", "no pixel has data", "A.fits")
    assert not (tiny.folder / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mosaic": {"bands": {}}}, ["mosaic.bands", "NAME: file"]),
        ({"mosaic": {"use": ["C"]}}, ["mosaic.use", "band C", "A, B"]),
        ({"mosaic": {"err": {"C": "A.fits"}}}, ["mosaic.err", "band C", "A, B"]),
        ({"mosaic": {"err": {"A": "A.fits"}}}, ["A.fits", "the image itself"]),
        ({"mosaic": {"unit": "furlong"}}, ["mosaic.unit", "'furlong'", "MJy/sr"]),
        ({"mosaic": {"path": "A.fits"}}, ["mosaic", "both", "not both"]),
        ({"detect": {"treshold": 3}}, ["detect.treshold", "3", "did you mean threshold?"]),
        ({"nonsense": 3}, ["nonsense", "unknown key", "did you mean noise?"]),
        ({"compare": {"box": "three"}}, ["compare.box", "'three'", "not a number"]),
        ({"mask": {"edge": [1]}}, ["mask.edge", "[1]", "not a number"]),
        ({"mass": {"radius": [4, "x"]}}, ["mass.radius[1]", "'x'", "not a number"]),
        ({"tiles": {"size": 256.5}}, ["tiles.size", "256.5", "whole number"]),
        ({"detect": 5}, ["detect", "5", "not a section"]),
        ({"inpaint": {"estimator": "magic"}}, ["inpaint.estimator", "'magic'", "'density'"]),
        ({"field": {"z_lens": -1}}, ["field.z_lens", "-1", "> 0"]),
        ({"field": {"z_source": 0.3}}, ["field.z_source", "0.3", "0.348", "larger"]),
        ({"field": {"center": [400, 0]}}, ["field.center", "RA outside"]),
        ({"profiles": {"contamination": {"method": "reference", "value": None}}},
         ["profiles.contamination.method", "needs a reference field", "outer"]),
        ({"mosaic": None}, ["no mosaic and no catalog", "give one"]),
    ],
)  # fmt: skip
def test_keys(tiny, finished, changes, words):
    refused(tiny, finished, changes, *words)


@pytest.mark.parametrize("value", [0, -1, "0 sigma", "-3 sigma", "many", float("nan"), True, None])
def test_threshold(tiny, finished, value):
    refused(tiny, finished, {"detect": {"threshold": value}}, "detect.threshold", "> 0", "auto")


@pytest.mark.parametrize(("value", "level"), [("1000 sigma", "1000 sigma"), (1e9, "1e+09 MJy")])
def test_nothing_detected(tiny, value, level):
    done = tiny.run({"detect": {"threshold": value}})
    one_line(done, "catalogue is empty", level, "lower detect.threshold", "maps.zarr")


# -- catalogues and tables ---------------------------------------------------------------------
GOOD = "ra,dec\n" + "".join(
    f"{CENTER[0] + k * 1e-4},{CENTER[1] + k * 5e-5}\n" for k in range(-9, 9)
)


def from_table(name, text=None, **keys):
    if text is not None:
        Path(name).write_text(text)
    return {"mosaic": None, "catalog": {"path": name, "size": 10, "pixel": 0.1, **keys}}


def test_a_catalogue_runs(tiny):
    done = tiny.run(from_table("t.csv", GOOD))
    assert (done.code, done.err) == (0, [])


@pytest.mark.parametrize(
    ("name", "text", "keys", "words"),
    [
        ("t.csv", None, {}, ["catalog.path", "t.csv", "does not exist", "--set"]),
        ("t.csv", "ra,dec\n", {}, ["t.csv", "empty catalogue", "give"]),
        ("t.csv", "", {}, ["t.csv", "cannot be read", "check"]),
        ("t.csv", "mag,flux\n1,2\n", {}, ["t.csv", "no coordinates", "catalog.columns"]),
        ("t.csv", "ra,dec\nnan,nan\n", {}, ["t.csv", "none of the 1 rows", "finite"]),
        ("t.csv", "ra,dec\nhere,there\n", {}, ["t.csv", "'here'", "sexagesimal", "mend"]),
        ("t.csv", GOOD, {"columns": {"ra": "RAX"}}, ["t.csv", "'RAX'", "ra, dec"]),
        ("t.doc", GOOD, {}, ["t.doc", "unknown kind", ".parquet"]),
        ("t.parquet", "nonsense", {}, ["t.parquet", "cannot be read", "check"]),
        ("t.fits", "nonsense", {}, ["t.fits", "cannot be read", "check"]),
        ("t.ecsv", "nonsense", {}, ["t.ecsv", "cannot be read", "check"]),
        ("builtin:x", None, {}, ["builtin:x", "builtin:faisst2022"]),
    ],
)  # fmt: skip
def test_catalogues(tiny, finished, name, text, keys, words):
    refused(tiny, finished, from_table(name, text, **keys), *words)


def test_catalogue_folders(tiny, finished):
    Path("half.parquet").mkdir()
    refused(tiny, finished, from_table("half.parquet"), "half.parquet", "no _manifest.json")
    catalog.write(catalog.meta(), "none.parquet")
    one_line(tiny.run(from_table("none.parquet")), "none.parquet", "no source")


@pytest.mark.parametrize("keys", [{"center": [10, 10]}, {"center": [10, 10], "radius": 5}])
def test_catalogue_of_another_field(tiny, keys):
    done = tiny.run(from_table("t.csv", GOOD, **keys))
    one_line(done, "t.csv", "no source on the maps", "[10.0, 10.0]", "catalog.center")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["manual", "m.csv", "does not exist"]),
        ("mag\n1\n", ["m.csv", "no coordinates", "mag"]),
        ("ra,dec\n", ["m.csv", "empty"]),
        ("", ["m.csv", "cannot be read"]),
    ],
)
def test_manual_tables(tiny, finished, text, words):
    if text is not None:
        Path("m.csv").write_text(text)
    refused(tiny, finished, {"manual": "m.csv"}, *words)


def truth(**columns):
    base = {"module": 1, "class": "gc", "ra": CENTER[0], "dec": CENTER[1], "x": 9.0, "y": 9.0}
    return pd.DataFrame({k: [v] for k, v in (base | {"peak": 50.0} | columns).items()})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (None, ["truth", "t.parquet", "does not exist"]),
        ("nonsense", ["truth", "t.parquet", "cannot be read as a table", "check the file"]),
        (truth().drop(columns="peak"), ["t.parquet", "no column peak", "mock"]),
        (truth(x="nine"), ["t.parquet", "column x", "no number"]),
        (truth(module=2), ["t.parquet", "no sources in module 1"]),
        (truth().iloc[:0], ["t.parquet", "no sources in module 1"]),
    ],
)
def test_truth_tables(tiny, finished, table, words):
    if isinstance(table, str):
        Path("t.parquet").write_text(table)
    elif table is not None:
        table.astype({"module": int}).to_parquet("t.parquet")
    refused(tiny, finished, {"truth": "t.parquet"}, *words)


def test_a_truth_with_nothing_to_find(tiny):
    """Sources below the level: the run succeeds and says that it cannot tell."""
    truth(peak=1e-3).to_parquet("t.parquet")
    done = tiny.run({"truth": "t.parquet"})
    assert (done.code, done.err) == (0, [])


# -- lens --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    z_lens 0.348\n", "", ["line", "O1", "no z_lens", "add"]),
        ("z_lens 0.348", "z_lens 0", ["O1", "z_lens = 0", "give"]),
        ("z_lens 0.348", "z_lens far", ["O1", "'far'", "not a number"]),
        ("z_lens 0.348", "z_lens 0.5", ["lens.path", "z = 0.5", "field.z_lens", "0.348"]),
        ("profil 81", "profil 12", ["O1", "profile 12", "81"]),
        ("fini", "", ["cut off", "get it anew"]),
        ("potentiel", "champ", ["no potential", "best.par"]),
        ("cosmologie", "potfile", ["potfile", "best.par"]),
        ("reference 3", "reference 0", ["no sky position", "reference 3 RA DEC"]),
        (LENS, "\0\1\2", ["not a text file", "Lenstool"]),
        (LENS, "", ["cut off"]),
    ],
)
def test_lens_models(tiny, finished, old, new, words):
    Path("lens.par").write_text(LENS.replace(old, new))
    refused(tiny, finished, {}, "lens.par", *words)


Z = {"Z_LENS": 0.348, "Z_SOURCE": 3.0}
KAPPA = {"lens": {"path": "k.fits"}}


@pytest.mark.parametrize(
    ("data", "cards", "keys", "words"),
    [
        (noise(), {}, {}, ["lens.path", "k.fits", "source redshift", "lens.z_source"]),
        (noise(), Z | {"Z_SOURCE": 0.2}, {}, ["k.fits", "0.2", "not behind", "larger"]),
        (noise(), Z | {"Z_LENS": 0.5}, {}, ["k.fits", "0.5", "0.348"]),
        (noise(), {}, {"z_source": 0.2, "z_lens": 0.3}, ["lens.z_source", "0.2", "not behind"]),
        (noise()[:200], Z, {}, ["k.fits", "covers only 60.", "lens.outside"]),
        (noise(), Z | {"CRVAL1": 10.0}, {}, ["k.fits", "covers only 0.0 %"]),
        (noise(), Z | {"BUNIT": "s"}, {}, ["k.fits", "'s'", "no unit"]),
        (noise(), Z, {"kind": "deflection"}, ["lens.path_y", "missing"]),
        (noise(), Z, {"path_y": "B.fits"}, ["not an angle", "arcsec"]),
    ],
)
def test_lens_maps(tiny, finished, data, cards, keys, words):
    unit = cards.get("BUNIT", "")
    image("k.fits", data, unit=unit, **cards)
    refused(tiny, finished, {"lens": KAPPA["lens"] | keys}, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: None, ["lens.path", "k.fits", "does not exist"]),
        (lambda: image("k.fits", noise(), wcs=False, **Z), ["k.fits", "no celestial WCS"]),
        (lambda: Path("k.fits").write_text("kappa"), ["k.fits", "not a readable FITS"]),
    ],
)
def test_lens_files(tiny, finished, change, words):
    change()
    refused(tiny, finished, KAPPA, *words)


@pytest.mark.parametrize(
    ("data", "cards"),
    [
        (np.full((N, N), np.nan, "float32"), Z),
        (-np.abs(noise()), Z),
        (np.abs(noise()), Z | {"CRVAL1": 10.0}),
    ],
    ids=["all NaN", "negative", "elsewhere"],
)
def test_lens_maps_without_a_lens(tiny, data, cards):
    """Pixels tell: the run has begun."""
    image("k.fits", data, unit="", **cards)
    done = tiny.run({"lens": {"path": "k.fits", "outside": "nan"}})
    one_line(done, "no positive convergence", "lens.path")


# -- masks and the second field ----------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["mask.regions[0]", "r.reg", "does not exist"]),
        ("fk5\ncircle(342.18,-44.53\n", ["r.reg", "DS9"]),
        ("fk5\ncircle(a,b,c)\n", ["r.reg", "DS9"]),
        ("hello world\n", ["r.reg", "hello", "DS9"]),
        ("", ["r.reg", "no region"]),
    ],
)
def test_region_files(tiny, finished, text, words):
    if text is not None:
        Path("r.reg").write_text(text)
    refused(tiny, finished, {"mask": {"regions": ["r.reg"]}}, *words)


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": {"regions": ["pipe.csv"]}},
        {"mask": {"files": ["pipe.csv"]}},
        {"manual": "pipe.csv"},
        {"lens": {"path": "pipe.csv"}},
        {"lens": {"images": "pipe.csv"}},
        {"mosaic": {"bands": {"A": "pipe.csv"}}},
    ],
)
def test_pipes_are_not_waited_for(tiny, finished, changes):
    os.mkfifo("pipe.csv")
    refused(tiny, finished, changes, "pipe.csv", "no regular file, but a device or pipe")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: None, ["mask.files[0]", "m.fits", "does not exist"]),
        (lambda: image("m.fits", noise()[:200]), ["m.fits", "(200, 330)", "(330, 330)"]),
        (lambda: image("m.fits", noise(), CRVAL1=9.0), ["m.fits", "another grid", "reproject"]),
        (lambda: image("m.fits", noise(), wcs=False), ["m.fits", "no celestial WCS"]),
        (lambda: Path("m.fits").write_text("mask"), ["m.fits", "not a readable FITS"]),
    ],
)  # fmt: skip
def test_mask_files(tiny, finished, change, words):
    change()
    refused(tiny, finished, {"mask": {"files": ["m.fits"]}}, *words)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"bands": {"A": "A.fits", "C": "B.fits"}}, ["reference", "['A', 'C']", "same bands"]),
        ({"bands": {"A": "A.fits"}}, ["reference", "['A']", "['A', 'B']"]),
        ({"bands": {"A": "n.fits", "B": "n.fits"}}, ["reference", "nJy", "MJy / sr"]),
        ({"bands": {"A": "A.fits", "B": "none.fits"}}, ["reference.bands.B", "does not exist"]),
        ({"bands": {"A": "A.fits", "B": "B.fits"}, "mask": {"regions": ["none.reg"]}},
         ["reference.mask.regions[0]", "none.reg", "does not exist"]),
    ],
)  # fmt: skip
def test_reference(tiny, finished, keys, words):
    image("n.fits", noise(), unit="nJy")
    refused(tiny, finished, {"reference": keys}, *words)


def test_a_reference_without_data(tiny):
    image("n.fits", noise() * np.nan)
    done = tiny.run({"reference": {"name": "far", "bands": {"A": "n.fits", "B": "n.fits"}}})
    one_line(done, "far", "no pixel has data", "n.fits")


# -- the output folder -------------------------------------------------------------------------
def runs(out="out"):
    """Folders of the runs, oldest first."""
    return sorted(Path(out, "runs").iterdir())


def test_another_configuration_is_another_run_beside_the_first(tiny):
    assert tiny.run({}).code == 0
    (first,) = runs()
    before = snapshot(first)
    done = tiny.run({"detect": {"threshold": "5 sigma"}})
    assert (done.code, done.err) == (0, [])
    assert len(runs()) == 2
    assert snapshot(first) == before
    assert Path("out/latest").resolve() == runs()[1].resolve()
    told = tiny.main("status", "out")
    assert (told.code, told.err) == (0, [])
    assert runs()[1].name in told.out
    assert json.loads(tiny.main("status", "out", "--json").out)["run"] == runs()[1].name

    would = tiny.main("clean", "out", "--dry-run")
    assert would.out.startswith("would remove")
    assert len(runs()) == 2
    gone = tiny.main("clean", "out")
    assert (gone.code, gone.out) == (0, would.out.replace("would remove", "removed"))
    assert [p.name for p in runs()] == [Path("out/latest").resolve().name]
    assert tiny.main("clean", "out").out == "nothing to remove\n"


def test_the_same_run_does_nothing_and_force_starts_anew(tiny):
    assert tiny.run({}).code == 0
    before = snapshot("out")
    again = tiny.run({})
    assert (again.code, again.began) == (0, False)
    assert f"nothing to do: run {runs()[0].name} is up to date" in again.out
    assert snapshot("out") == before
    assert tiny.run({}, "--force", "maps").began
    assert len(runs()) == 2
    first, second = (snapshot(run / ROWS) for run in runs())
    assert [r[1:] for r in first] == [r[1:] for r in second]  # its tiles were taken over
    assert tiny.run({}, "--force").code == 0
    assert [r[1] for r in snapshot(runs()[2] / ROWS)] != [r[1] for r in first]


def test_an_interrupted_run_continues(tiny, monkeypatch):
    """Tiles that were finished are not done again; until the end nothing is called valid."""
    real, count = detection.process_tile, []

    def fail(tile, *rest):
        count.append(tile)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(tile, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(detection, "process_tile", fail)
        done = tiny.run({})
        assert (done.code, done.out) == (130, "")
        assert done.err == ["stopped by Ctrl-C; the same command continues"]
    (run,) = runs()
    assert not Path("out/latest").exists()
    assert not (run / "manifest.json").exists()
    rows = snapshot(run / ROWS)
    assert len(rows) == 2
    assert "not finished" in tiny.main("inspect", "out").out
    assert "stopped" in tiny.main("status", "out").out
    assert tiny.run({}).code == 0
    assert runs() == [run]
    assert snapshot(run / ROWS)[:2] == rows
    assert (run / "manifest.json").exists()


def test_failed_tiles_are_listed_and_alone_done_again(tiny, monkeypatch):
    """Exit code 3: everything else is there."""
    real = detection.process_tile

    def fail(item, *rest):
        if item[0].index == (1, 0):
            raise OSError(errno.EIO, "Input/output error", "A.fits")
        return real(item, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(detection, "process_tile", fail)
        done = tiny.run({}, "--set", "tiles.retries=0")
    assert done.code == 3
    assert "n_detected" in done.out
    warning, error = done.err
    assert warning.startswith("warning: tile 00001-00000 of image failed: ")
    assert "Input/output error" in warning
    assert error == "error: 1 tile failed; mend what it reads; then the same command does it alone"
    assert "1 tiles" in tiny.main("inspect", runs()[0]).out
    assert "00001-00000" in tiny.main("status", "out").out

    rows = snapshot(runs()[0] / ROWS)
    assert len(rows) == 3
    again = tiny.run({}, "--set", "tiles.retries=0")
    assert (again.code, again.err) == (0, [])
    assert set(rows) < set(snapshot(runs()[0] / ROWS))


@pytest.mark.parametrize("force", [[], ["--force"], ["--dry-run"]])
def test_foreign_files(tiny, force):
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("years")
    one_line(tiny.run({}, *force), "out", "thesis.tex", "no runs of gcdask", "another --out")
    assert Path("out/thesis.tex").read_text() == "years"


@pytest.mark.parametrize("out", ["A.fits", "A.fits/below"])
def test_the_folder_is_a_file(tiny, out):
    before = snapshot(tiny.folder / "A.fits")
    line = one_line(tiny.run({}, out=out), out)
    assert "file" in line or "ot a directory" in line
    assert snapshot(tiny.folder / "A.fits") == before


def test_out_is_missing(tiny):
    one_line(tiny.run({}, out=None), "--out is missing", "--out DIR")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), ["Permission denied", "permissions"]),
        (OSError(errno.EROFS, "Read-only file system"), ["Read-only file system", "another --out"]),
        (OSError(errno.ENOSPC, "No space left on device"), ["No space left", "free space"]),
    ],
)
def test_no_leave_to_write(tiny, monkeypatch, error, words):
    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(storage, "make_folder", fail)
        one_line(tiny.run({}), f"output folder {tiny.folder / 'out'} cannot be written", *words)


@pytest.mark.parametrize("place", ["write_bytes", "write_tile", "write_part"])
def test_the_disk_fills_up(tiny, monkeypatch, place):
    """Wherever it happens: one line, and what an earlier run left stays as it is."""
    assert tiny.run({}).code == 0
    (first,) = runs()
    before, changes = snapshot(first), {"detect": {"threshold": "5 sigma"}}

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    module = {"write_bytes": storage, "write_tile": mosaic, "write_part": catalog}[place]
    with monkeypatch.context() as patch:
        patch.setattr(module, place, fail)
        one_line(tiny.run(changes), "No space left on device", "free space")
    assert Path("out/latest").resolve() == first.resolve()
    assert snapshot(first) == before
    assert tiny.run(changes).code == 0
    assert Path("out/latest").resolve() != first.resolve()
    assert snapshot(first) == before


# -- stores ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def stored(inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "f.zarr"
    mosaic.ingest(path, {b: inputs / f"{b}.fits" for b in "AB"}, chunks=256)
    return path


def spoil(how, name):
    path = Path("f.zarr") / name
    if how == "remove":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif how == "garbage":
        path.write_text("garbage{")
    elif how == "empty":
        path.write_bytes(b"")
    else:
        cut(path, path.stat().st_size - 100)


@pytest.mark.parametrize(
    ("how", "name", "words"),
    [
        ("remove", "zarr.json", ["not a readable zarr group"]),
        ("garbage", "zarr.json", ["not a readable zarr group"]),
        ("remove", "sci/zarr.json", ["no mosaic", "gcdask.ingest"]),
        ("garbage", "sci/zarr.json", ["not a readable zarr group", "copy"]),
        ("remove", "band/c", ["names of its 2 bands", "damaged"]),
        ("remove", "x/c", ["coordinates", "damaged"]),
    ],
)
def test_damaged_stores(tiny, finished, stored, how, name, words):
    shutil.copytree(stored, "f.zarr")
    spoil(how, name)
    refused(tiny, finished, {"mosaic": {"bands": None, "path": "f.zarr"}}, "f.zarr", *words)


def partial(done, n, *words):
    """A partial run: each tile that failed on a line that holds the words, and the end."""
    assert done.code == 3, done
    listed = [line for line in done.err if "of image failed: " in line]
    assert len(listed) == n, done.err
    assert all(str(word) in line for word in words for line in listed), listed
    assert done.err[-1].endswith(
        "then the same command does " + ("them" if n > 1 else "it") + " alone"
    )
    assert "n_detected" in done.out
    return [line for line in done.err[:-1] if line not in listed]


@pytest.mark.parametrize("how", ["remove", "empty"])
def test_lost_shards(tiny, stored, how):
    """A warning before anything is computed; the tiles that need it fail, here all of them."""
    shutil.copytree(stored, "f.zarr")
    spoil(how, "sci/c/1/0/0")
    done = tiny.run({"mosaic": {"bands": None, "path": "f.zarr"}})
    (warning,) = partial(done, 4, "f.zarr/sci", "shard c/1/0/0 is missing", "damaged", "copy")
    assert "1 of 8 shards of sci are missing" in warning


def test_a_truncated_shard(tiny, stored):
    shutil.copytree(stored, "f.zarr")
    spoil("cut", "sci/c/0/1/1")
    changes = {"mosaic": {"bands": None, "path": "f.zarr"}}
    for options in (["--out", "a"], ["--out", "b", "--workers", 1]):  # a worker prints nothing
        done = tiny.run(changes, *options, out=None)
        assert partial(done, 4, "f.zarr/sci", "pixels [", "checksum", "damaged", "copy") == []


def test_a_truncated_image(tiny):
    """Two tiles of four lie above where it ends."""
    cut("A.fits", 420_000)
    (warning,) = partial(tiny.run({}), 2, "A.fits", "cannot be read", "fetch it again")
    assert "tile 00001-" in tiny.main("status", "out").out.replace("image ", "tile ")
    for words in ("A.fits", "truncated", "420000 bytes"):
        assert words in warning


def test_stores_that_do_not_fit(tiny, finished, stored):
    shutil.copytree(stored, "f.zarr")
    mosaic = {"bands": None, "path": "f.zarr"}
    refused(tiny, finished, {"mosaic": mosaic | {"use": ["C"]}}, "['C']", "f.zarr", "['A', 'B']")
    refused(tiny, finished, {"mosaic": mosaic | {"err": {"A": "A.fits"}}}, "f.zarr", "ingest")
    refused(tiny, finished, {"mosaic": mosaic | {"path": "g.zarr"}}, "mosaic.path", "g.zarr")
    attributes = json.loads(Path("f.zarr/zarr.json").read_text())
    attributes["attributes"]["complete"] = False
    Path("f.zarr/zarr.json").write_text(json.dumps(attributes))
    refused(tiny, finished, {"mosaic": mosaic}, "f.zarr", "incomplete", "again")


def test_damaged_compressed_fits(tiny):
    """The header is right, the pixels are not: known when they are read."""
    header = fits.getheader("A.fits")
    packed = fits.CompImageHDU(fits.getdata("A.fits"), header, compression_type="GZIP_2")
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto("A.fits", overwrite=True)
    data = bytearray(Path("A.fits").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40_000] = bytes(40_000)
    Path("A.fits").write_bytes(data)
    one_line(tiny.run({}), "A.fits", "cannot be read", "fetch it again")


# -- ingest ------------------------------------------------------------------------------------
def test_a_refused_ingest_leaves_the_old_store(tiny, stored):
    shutil.copytree(stored, "f.zarr")
    before = snapshot("f.zarr")
    image("nan.fits", noise() * np.nan)
    for arguments, words in (
        (["A=A.fits"], ["f.zarr", "exists", "--overwrite"]),
        (["A=nothing.fits", "--overwrite"], ["nothing.fits", "does not exist"]),
        (["A=A.fits", "B=nan.fits", "--overwrite"], ["band B", "nan.fits", "no finite pixel"]),
    ):
        one_line(tiny.main("ingest", "f.zarr", *arguments), *words)
        assert snapshot("f.zarr") == before, arguments
    assert sorted(p.name for p in tiny.folder.iterdir() if "zarr" in p.name) == ["f.zarr"]


# -- where it is computed ----------------------------------------------------------------------
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x", "nowhere"])
def test_unreachable_scheduler(tiny, finished, monkeypatch, address):
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 0.3)
    before = snapshot(finished)
    for done in (
        tiny.run({}, "--scheduler", address, "--force", out=finished),
        tiny.run({"cluster": {"workers": 2, "scheduler": address}}, "--force", out=finished),
    ):
        one_line(done, "no Dask scheduler", address, "tcp://host:8786")
    assert snapshot(finished) == before


@pytest.mark.parametrize("stage", ["survey_and_keep", "process_tile"])
def test_an_unexpected_error_is_one_line_too(tiny, monkeypatch, stage):
    def fail(*_, **__):
        raise ZeroDivisionError("something\nunexpected")

    monkeypatch.setattr(detection, stage, fail)
    one_line(tiny.run({}), "ZeroDivisionError: something unexpected", "--debug", code=1)
    assert not Path("out/manifest.json").exists()


def test_a_centre_far_from_the_field(tiny, finished):
    """RA and Dec mixed up, or another cluster's: refused before anything is read."""
    changes = {"field": {"center": [10.0, 20.0]}}
    refused(tiny, finished, changes, "field.center", "[10.0, 20.0]", "far from")
