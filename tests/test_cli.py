"""The command line: every command, every mistake in one line, exit codes, progress."""

import errno
import gzip
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from commandline import configuration, gcdask_cli, pipeline, refused
from distributed import KilledWorker
from distributed.client import FutureCancelledError
from distributed.core import CommClosedError
from typer.testing import CliRunner

import gcdask.pipeline
import gcdask.simulate
from gcdask import cli
from gcdask._version import __version__
from gcdask.errors import InputError
from gcdask.grid import Grid

__all__ = ["configuration", "gcdask_cli", "pipeline", "refused"]  # fixtures
COMMANDS = ["demo", "ingest", "run", "status", "clean", "simulate", "inspect", "config schema"]


def _image(path, *, shape=(300, 280), unit="MJy/sr", seed=0, wcs=True):
    grid = Grid.tangent((342.18, -44.53), shape, 0.03, angle=40.0)
    header = grid.wcs.to_header() if wcs else fits.Header()
    if unit is not None:
        header["BUNIT"] = unit
    data = np.random.default_rng(seed).normal(size=shape).astype("float32")
    fits.PrimaryHDU(data, header).writeto(path)
    return data


@pytest.fixture
def images(tmp_path):
    return {b: _image(tmp_path / f"{b}.fits", seed=i) for i, b in enumerate(("A", "B", "E"))}


# -- help and version -------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["", *COMMANDS, "config"])
def test_help_has_an_example(command):
    shown = CliRunner().invoke(cli.app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert "Example: gcdask" in shown.output
    if command in COMMANDS:
        assert f"Example: gcdask {command}" in shown.output


def test_bare_command_shows_help(gcdask_cli):
    done = gcdask_cli()
    assert done.code == 0
    assert all(command.split()[0] in done.out for command in COMMANDS)


def test_version_and_speed_of_the_installed_command():
    python = [sys.executable, "-m", "gcdask"]
    assert subprocess.check_output([*python, "--version"], text=True) == f"gcdask {__version__}\n"
    heavy = "import sys; from gcdask import cli; print([m for m in sys.modules if m in " \
            "('numpy', 'dask', 'astropy', 'xarray', 'pandas')])"  # fmt: skip
    assert subprocess.check_output([sys.executable, "-c", heavy], text=True) == "[]\n"


def test_schema_is_json(gcdask_cli):
    done = gcdask_cli("config", "schema")
    assert done.code == 0
    assert "detect" in json.loads(done.out)["properties"]


# -- ingest and inspect -----------------------------------------------------------------------
def test_ingest_then_inspect(gcdask_cli, images, tmp_path):
    out = tmp_path / "field.zarr"
    a, b, e = (tmp_path / f"{name}.fits" for name in "ABE")
    done = gcdask_cli(
        "ingest", out, f"F090W={a}", f"F115W={b}", "--err", f"F090W={e}", "--err", f"F115W={e}",
        "--chunks", 256,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert str(out) in done.out
    told = gcdask_cli("inspect", out).out
    expected = [
        "mosaic", "F090W, F115W", "MJy", "280 x 300 px", "shards 1 x 256 x 256", '8.4" x 9.0"',
        "position angle 40.00 deg", "342.18", "-44.53", "err",
    ]  # fmt: skip
    for words in expected:
        assert words in told, words
    again = gcdask_cli("ingest", out, f"F090W={a}")
    assert again.code == 2
    assert "overwrite" in again.err
    assert gcdask_cli("ingest", out, f"F090W={a}", "--overwrite").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.fits"], ["x.fits", "BAND=FILE"]),
        (["F090W="], ["F090W=", "BAND=FILE"]),
        (["A=a.fits", "A=b.fits"], ["A=b.fits", "twice"]),
        (["A=nothing.fits"], ["nothing.fits"]),
        (["A={tmp}/A.fits", "--err", "A.fits"], ["--err A.fits", "BAND=FILE"]),
        (["A={tmp}/A.fits", "--err", "B={tmp}/E.fits"], ["'B'"]),
        (["A={tmp}/A.fits", "--chunks", "0"], ["0"]),
        (["A={tmp}/A.fits", "--chunks", "many"], ["--chunks", "--help"]),
        (["A={tmp}/A.fits", "--align", "twist"], ["twist"]),
        ([], ["Missing argument", "gcdask ingest --help"]),
    ],
)
def test_mistakes_of_ingest(refused, images, tmp_path, arguments, words):
    line = refused("ingest", tmp_path / "o.zarr", *(a.format(tmp=tmp_path) for a in arguments))
    assert all(word in line for word in words), line
    assert not (tmp_path / "o.zarr").exists()


def test_inspect_fits(gcdask_cli, images, tmp_path):
    told = gcdask_cli("inspect", tmp_path / "A.fits").out
    for words in ("image (FITS)", "MJy/sr", "280 x 300 px", '0.03"'):
        assert words in told
    _image(tmp_path / "bare.fits", unit=None, wcs=False)
    told = gcdask_cli("inspect", tmp_path / "bare.fits").out
    assert "no BUNIT" in told
    assert "none" in told
    packed = tmp_path / "A.fits.gz"
    packed.write_bytes(gzip.compress((tmp_path / "A.fits").read_bytes()))
    told = gcdask_cli("inspect", packed).out
    assert "280 x 300 px" in told
    assert "gcdask ingest" in told


def test_inspect_catalogues(gcdask_cli, tmp_path):
    told = gcdask_cli("inspect", "builtin:faisst2022").out
    assert "178" in told
    assert "nJy" in told
    table = tmp_path / "sources.csv"
    table.write_text("ra,dec,mag\n10.5,-3.25,20\n10.75,-3.5,21\n")
    told = gcdask_cli("inspect", table).out
    assert "RA 10.50000 to 10.75000, Dec -3.50000 to -3.25000 deg" in told
    assert "column mag" in told


def test_inspect_lens(gcdask_cli, shared_data):
    told = gcdask_cli("inspect", shared_data / "smacs0723" / "mahler2022_iclv2_best.par").out
    for words in ("Lenstool", "149", "0.39", "110.826989"):
        assert words in told


def _write_run(folder, **record):
    folder.mkdir(parents=True)
    about = {"version": "1.2", "fingerprint": "x", "started": "2026-01-02T03:04:05Z"}
    (folder / "run.json").write_text(json.dumps(about | record))
    (folder / "results.json").write_text(
        '{"n_detected": 28026, "beta": {"value": 383.2, "error": 11.4}}'
    )
    return folder


def test_inspect_run(gcdask_cli, tmp_path):
    folder = _write_run(tmp_path / "run")
    told = gcdask_cli("inspect", folder).out
    assert "not finished" in told
    (folder / "manifest.json").write_text('{"fingerprint": "x", "outputs": []}')
    told = gcdask_cli("inspect", folder).out
    for words in ("finished", "28026", "383.2 +- 11.4", "results.json", "1.2"):
        assert words in told


def test_inspect_runs(gcdask_cli, tmp_path):
    """An output folder: which runs there are, what became of them, and the latest."""
    names = [f"2026010{k}-030405-abcdef01" for k in range(1, 5)]
    failed = [{"field": "image", "tile": f"00000-0000{k}", "reason": "cut off"} for k in range(7)]
    for name in names:
        broken = {"failed": failed} if name == names[2] else {}
        folder = _write_run(tmp_path / "out" / "runs" / name, **broken)
        if name != names[3]:
            (folder / "manifest.json").write_text("{}")
    (tmp_path / "out" / "latest.json").write_text(json.dumps({"run": names[1]}))
    told = gcdask_cli("inspect", tmp_path / "out").out
    rows = {line.split("  ")[0]: line for line in told.splitlines()}
    assert rows["kind"].endswith("runs of gcdask")
    assert rows["runs"].endswith("4")
    assert rows["latest"].endswith(names[1])
    assert "finished, started 2026" in rows[f"run {names[0]}"]
    assert "finished but for 7 tiles" in rows[f"run {names[2]}"]
    assert "not finished" in rows[f"run {names[3]}"]
    assert "28026" in rows["n_detected"]
    told = gcdask_cli("inspect", tmp_path / "out" / "runs" / names[2]).out
    assert "image 00000-00004 (cut off); 2 more" in told


def test_inspect_urls(gcdask_cli, refused, images, tmp_path):
    """What is on another store is told like what is on a disk."""
    import fsspec

    store = fsspec.filesystem("memory")
    store.store.clear()
    run = "memory://out/runs/20260102-030405-abcdef01"
    store.pipe_file(f"{run}/run.json", b'{"version": "1.2"}')
    store.pipe_file(f"{run}/manifest.json", b"{}")
    store.pipe_file("memory://out/latest.json", b'{"run": "20260102-030405-abcdef01"}')
    store.pipe_file("memory://images/A.fits", (tmp_path / "A.fits").read_bytes())
    store.pipe_file("memory://tables/s.csv", b"ra,dec\n10.5,-3.25\n")
    told = gcdask_cli("inspect", "memory://out")
    assert (told.code, told.err) == (0, "")
    assert "20260102-030405-abcdef01" in told.out
    assert "finished" in gcdask_cli("inspect", run).out
    assert "280 x 300 px" in gcdask_cli("inspect", "memory://images/A.fits").out
    assert "RA 10.50000" in gcdask_cli("inspect", "memory://tables/s.csv").out
    assert gcdask_cli("ingest", tmp_path / "f.zarr", f"A={tmp_path}/A.fits").code == 0
    store.put(str(tmp_path / "f.zarr"), "memory://f.zarr", recursive=True)
    assert "mosaic (zarr)" in gcdask_cli("inspect", "memory://f.zarr").out

    assert "does not exist" in refused("inspect", "memory://nothing")
    assert "does not exist" in refused("inspect", "memory://nothing.fits")
    assert "unknown kind of store" in refused("inspect", "nonsense://x")
    line = refused("inspect", "s3://me:hunter22@bucket/x")
    assert "credentials" in line
    assert "hunter22" not in line


def test_inspect_maps_in_groups(gcdask_cli, tmp_path):
    from gcdask.mosaic import write_zarr_map

    grid = Grid.tangent((10.0, 20.0), (256, 512), 0.12)
    for group in ("image", "smooth"):
        rho = grid.wrap(np.ones(grid.shape, "float32"), "rho", "arcsec-2")
        write_zarr_map(rho.chunk({"y": 256, "x": 256}), tmp_path / "maps.zarr" / group, "rho")
    told = gcdask_cli("inspect", tmp_path / "maps.zarr")
    assert told.code == 0, told.err
    for words in ("image/rho, smooth/rho", "512 x 256 px", '61.4" x 30.7"', "arcsec-2"):
        assert words in told.out, told.out


def test_mistakes_of_inspect(refused, tmp_path):
    assert "does not exist" in refused("inspect", tmp_path / "nothing")
    (tmp_path / "picture.jpg").write_text("x")
    assert "no known kind" in refused("inspect", tmp_path / "picture.jpg")
    assert "no zarr store, catalogue or run" in refused("inspect", tmp_path)
    (tmp_path / "text.fits").write_text("hello")
    assert "text.fits" in refused("inspect", tmp_path / "text.fits")


def test_no_configuration(refused, tmp_path):
    assert "no configuration at" in refused("run", tmp_path / "no.yaml", "--out", tmp_path / "o")
    assert "No such command" in refused("rum")
    assert "see gcdask --help" in refused("rum")
    assert "Missing command" in refused("config")


# -- errors -----------------------------------------------------------------------------------
def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("kappa is flat;\ngive another"), 2, ["kappa is flat; give another"]),
        (PermissionError(errno.EACCES, "Permission denied", "/o"), 2, ["/o: Permission denied"]),
        (OSError(errno.ENOSPC, "No space left on device", "/o/x"), 2,
         ["/o/x: No space left", "free space"]),
        (OSError(errno.EROFS, "Read-only file system", "/o"), 2, ["/o: Read-only", "may write"]),
        (ZeroDivisionError("by\nzero"), 1, ["ZeroDivisionError: by zero", "--debug"]),
        (KilledWorker("t", SimpleNamespace(address="x"), 3), 1, ["memory", "tiles.size"]),
        (CommClosedError("in <TCP>: closed"), 1, ["lost the connection", "continues"]),
        (FutureCancelledError("k", "scheduler-connection-lost"), 1, ["lost the connection"]),
        (OSError("Timed out trying to connect to tcp://x after 30 s"), 1, ["lost the connection"]),
        (caused(ValueError("x"), CommClosedError("y")), 1, ["lost the connection"]),
        (ValueError("s3://me:hunter22@bucket is bad"), 1, ["s3://***@bucket is bad"]),
        (ValueError("\x1b[2Jboo"), 1, ["?[2Jboo"]),
        (KeyboardInterrupt(), 130, ["stopped by Ctrl-C", "the same command continues"]),
    ],
)  # fmt: skip
def test_errors_are_one_line(gcdask_cli, configuration, monkeypatch, tmp_path, error, code, words):
    """By ``gcdask run``, whatever the pipeline raises."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(gcdask.pipeline, "run", fail, raising=False)
    done = gcdask_cli("run", configuration, "--out", tmp_path / "o")
    assert done.code == code
    assert done.err.count("\n") == 1
    assert all(word in done.err for word in words), done.err


@pytest.mark.parametrize("place", [0, -1])
def test_debug_shows_the_traceback_without_secrets(
    gcdask_cli, configuration, monkeypatch, tmp_path, place
):
    monkeypatch.setenv("MY_API_KEY", "abcdefgh12345")

    def fail(*_, **__):
        raise ZeroDivisionError("abcdefgh12345")

    monkeypatch.setattr(gcdask.pipeline, "run", fail, raising=False)
    arguments = ["run", str(configuration), "--out", str(tmp_path / "o")]
    arguments.insert(place if place == 0 else len(arguments), "--debug")
    done = gcdask_cli(*arguments)
    assert done.code == 1
    assert done.err.startswith("Traceback")
    assert "raise ZeroDivisionError" in done.err
    assert done.err.count("***") == 3
    assert "abcdefgh" not in done.err


def test_a_reader_that_leaves_early():
    command = f"{sys.executable} -m gcdask config schema | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(refused, images, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    line = refused("ingest", locked / "o.zarr", f"A={tmp_path}/A.fits")
    assert "locked" in line


# -- simulate and demo ------------------------------------------------------------------------
@pytest.fixture
def mock(monkeypatch):
    made = []

    def as1063(*, size, seed):
        made.append((size, seed))
        return SimpleNamespace(size=size)

    def write(mock, out, *, chunks=2048, overwrite=False):
        base = str(out).removesuffix(".zarr")
        ends = {"mosaic": ".zarr", "module2": "_module2.zarr", "lens": "_lens.par",
                "truth": "_truth.parquet"}  # fmt: skip
        paths = {key: base + end for key, end in ends.items()}
        for path in paths.values():
            os.makedirs(path, exist_ok=overwrite)
        return paths

    monkeypatch.setattr(gcdask.simulate, "as1063", as1063)
    monkeypatch.setattr(gcdask.simulate, "write", write)
    return made


def test_simulate(gcdask_cli, mock, tmp_path):
    done = gcdask_cli("simulate", tmp_path / "f.zarr", "--preset", "as1063", "--seed", "3")
    assert (done.code, mock) == (0, [("small", 3)])
    assert "f_lens.par" in done.out


@pytest.mark.parametrize(
    ("option", "value"), [("--preset", "coma"), ("--size", "huge"), ("--seed", "-1")]
)
def test_mistakes_of_simulate(refused, mock, tmp_path, option, value):
    line = refused("simulate", tmp_path / "f.zarr", option, value)
    assert option in line
    assert not mock


def test_demo_replaces_its_own_folder_only(gcdask_cli, refused, mock, pipeline, tmp_path):
    folder = tmp_path / "demo"
    done = gcdask_cli("demo", "--out", folder, "--workers", 0, "--seed", 5)
    assert done.code == 0, done.err
    assert "report.html" in done.out
    table = {row[:20].strip(): row[20:].split() for row in done.out.splitlines()}
    assert table["sources"] == ["9700", "9600"]
    assert table["completeness"] == ["96.1%", "100%"]
    assert table["purity"][0] == "-"
    assert mock == [("small", 5)]
    config = pipeline.runs[0].config
    assert config.mosaic.path == str(folder / "input" / "field.zarr")
    assert config.reference.path == str(folder / "input" / "field_module2.zarr")
    assert config.lens.path == str(folder / "input" / "field_lens.par")

    (folder / "old.txt").write_text("from the first demo")
    assert gcdask_cli("demo", "--out", folder, "--workers", 0).code == 0
    assert not (folder / "old.txt").exists()

    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years")
    assert "precious was not made by a demo" in refused("demo", "--out", precious)
    assert (precious / "thesis.tex").read_text() == "years"
