"""With --json-logs standard error holds JSON lines alone, standard output one JSON object."""

import json
import logging
import os
import re
import subprocess
import sys
from datetime import datetime

import pytest
import tinyfield
from commandline import configuration, pipeline

from gcdask import cli
from gcdask.cli import logs

__all__ = ["configuration", "pipeline"]  # fixtures


@pytest.fixture
def run(configuration, tmp_path, capfd):
    """Run with --json-logs in this process: exit code, the object, the records."""

    def run(*words):
        capfd.readouterr()
        code = cli.main(["run", str(configuration), "--json-logs", *map(str, words)])
        out, err = capfd.readouterr()
        return code, *parsed(out, err)

    return run


def parsed(out, err):
    """The object of standard output and the records of standard error; both strictly."""
    records = [json.loads(line) for line in err.splitlines()]
    for record in records:
        assert list(record)[:4] == ["time", "level", "logger", "message"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
        datetime.fromisoformat(record["time"])
        assert "\n" not in record["message"]
    assert out.count("\n") == 1, out
    return json.loads(out), records


def test_progress_and_the_end_are_records(run, pipeline, tmp_path):
    code, told, records = run("--out", tmp_path / "o")
    assert code == 0
    assert (told["status"], told["exit_code"]) == ("done", 0)
    assert told["run"] == "20260102-030405-abcdef01"
    assert told["results"]["beta"] == {"value": 383.2, "error": 11.4}
    first, last = records
    assert (first["level"], first["logger"]) == ("INFO", "gcdask.progress")
    assert {k: last[k] for k in ("stage", "done", "total")} == {
        "stage": "detect", "done": 3, "total": 3,
    }  # fmt: skip


NOISY = """
import atexit, logging, os, subprocess, sys, warnings
import gcdask.pipeline
from gcdask import cli

def noisy(config, out, *, progress, **_):
    print("to standard output")
    print("to standard error: hunter22hunter22", file=sys.stderr, flush=True)
    os.write(2, b"from C\\n\\xff half")
    subprocess.run([sys.executable, "-c", "import sys; sys.exit('from a child')"])
    warnings.warn("meant for users")
    warnings.warn("for developers", DeprecationWarning)
    logging.getLogger("distributed.worker").warning("nearly\\nfull %s", "80 %")
    logging.getLogger("gcdask.x").info("tile", extra={"tile": "00000-00001", "field": "image"})
    logging.getLogger("gcdask.x").info("%d values", "no number")
    try:
        raise ValueError("inner\\ncause")
    except ValueError:
        logging.getLogger("asyncio").exception("in a loop")
    atexit.register(print, "at the very end", file=sys.stderr)
    return gcdask.pipeline.RunResult(f"{out}/runs/x", {}, None)

gcdask.pipeline.run = noisy
gcdask.pipeline.check_folder = gcdask.pipeline.finished = lambda *_: None
sys.exit(cli.main())
"""


def test_whatever_is_written_becomes_a_record(configuration, tmp_path):
    """By print, by C libraries, by child processes, as warnings, by loggers of libraries."""
    done = subprocess.run(
        [sys.executable, "-c", NOISY, "run", configuration, "--json-logs", "--out", "o"],
        env={**os.environ, "MY_PASSWORD": "hunter22hunter22"},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    told, records = parsed(done.stdout, done.stderr)
    assert (done.returncode, told["status"]) == (0, "done")
    found = {r["message"]: r for r in records}
    assert found["to standard output"]["logger"] == "gcdask.stdout"
    assert found["to standard error: ***"]["logger"] == "gcdask.stderr"
    assert "from C" in found
    assert "\ufffd halffrom a child" in found
    assert found["meant for users"]["level"] == "WARNING"
    assert found["nearly full 80 %"]["logger"] == "distributed.worker"
    assert {k: found["tile"][k] for k in ("tile", "field")} == {
        "tile": "00000-00001", "field": "image",
    }  # fmt: skip
    assert found["in a loop"]["exception"] == "ValueError: inner cause"
    assert "%d values ('no number',)" in found
    assert "at the very end" in found
    assert "for developers" not in found
    assert not any("hunter22" in json.dumps(r) for r in records)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--out", "{tmp}/o", "--set", "alpha"], 2, "KEY.SUBKEY=VALUE"),
        (["--out", "{tmp}/o", "--frobnicate"], 2, "--frobnicate"),
        (["--out", "{tmp}/o", "--force", "nonsense"], 2, "neither a stage"),
    ],
)
def test_errors_are_records_too(run, tmp_path, words, code, line):
    got, told, records = run(*(w.format(tmp=tmp_path) for w in words))
    assert got == code
    assert (told["status"], told["exit_code"]) == ("failed", code)
    (record,) = records
    assert record["level"] == "ERROR"
    assert line in record["message"]
    assert told["error"] == record["message"]


def test_failed_tiles_carry_their_ids(run, pipeline, tmp_path):
    failed = tuple({"field": "image", "tile": f"00000-{k:05d}", "reason": "x"} for k in range(30))
    pipeline.result = {"failed": failed}
    code, told, records = run("--out", tmp_path / "o")
    assert code == 3
    tiles = [r for r in records if "tile" in r]
    assert len(tiles) == 20
    assert {k: tiles[7][k] for k in ("tile", "field", "reason")} == failed[7]
    assert [r["message"] for r in records[-2:]] == ["10 more tiles failed", told["error"]]
    assert len(told["failed"]) == 30


def test_a_dry_run_prints_its_plan(run, pipeline):
    code, told, records = run("--dry-run")
    assert (code, records) == (0, [])
    assert told["status"] == "planned"
    assert told["plan"] == [{"stage": "survey", "detail": "4 tasks"}]


def test_help_is_text(capfd):
    assert cli.main(["run", "--json-logs", "--help"]) == 0
    assert "Example: gcdask run" in capfd.readouterr().out


def test_the_streams_are_given_back(run, pipeline, tmp_path, capfd):
    before = [os.fstat(n).st_ino for n in (0, 1, 2)], list(logging.getLogger().handlers)
    run("--out", tmp_path / "o")
    assert ([os.fstat(n).st_ino for n in (0, 1, 2)], logging.getLogger().handlers) == before
    os.write(1, b"plain\n")
    assert capfd.readouterr().out == "plain\n"


def test_numbers_that_are_none_are_null():
    tree = {"a": float("nan"), "b": [float("inf"), 1.5, True, None], "c": object}
    assert logs.clean(tree) == {"a": None, "b": [None, 1.5, True, None], "c": str(object)}


@pytest.mark.cluster
def test_a_run_on_own_workers_writes_json_alone(tmp_path):
    """Their tracebacks, and what is said at the very end of the process, too."""
    tinyfield.make(tmp_path)
    command = [sys.executable, "-m", "gcdask", "run", "tiny.yaml", "--out", "o", "--json-logs",
               "--workers", "2", "--performance-report", "dask.html",
               "--set", "cluster.dashboard=true", "--notify", "tee heard"]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    told, records = parsed(done.stdout, done.stderr)
    assert done.returncode == 0, records
    assert told["counts"]["tiles"]["image"] == {
        "total": 4, "done": 4, "unchanged": 0, "failed": 0,
    }  # fmt: skip
    assert json.loads((tmp_path / "heard").read_text())["run"] == told["run"]
    tiles = {r["tile"] for r in records if "tile" in r}
    assert tiles == {f"0000{i}-0000{j}" for i in (0, 1) for j in (0, 1)}
    dashboard = [r for r in records if "Dask dashboard: http://127.0.0.1:" in r["message"]]
    assert len(dashboard) == 1
    page = (tmp_path / "o" / "latest" / "dask.html").read_text(encoding="utf-8")
    assert told["performance_report"].endswith("dask.html")
    assert "Dask Performance Report" in page
    assert not re.search(r'<script[^>]*src=|<link[^>]*"stylesheet"', page)  # stands alone
    left = [r for r in records if r["level"] not in ("INFO", "DEBUG")]
    assert left == []

    again = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    told, records = parsed(again.stdout, again.stderr)
    assert (again.returncode, told["up_to_date"]) == (0, True)
    assert (tmp_path / "o" / "latest" / "dask.html").read_text(encoding="utf-8") == page
