"""What `gcdask run` makes of its options, and how it tells the end of a run."""

import json
import sys

import pytest
from commandline import configuration, gcdask_cli, pipeline, refused

import gcdask.pipeline
from gcdask import cli, cluster
from gcdask.cli import arguments
from gcdask.errors import InputError, LockError

__all__ = ["configuration", "gcdask_cli", "pipeline", "refused"]  # fixtures

RUN = "20260102-030405-abcdef01"
HEAR = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"


def hook(file):
    """A command that keeps what it is told."""
    return f"{sys.executable} -c {json.dumps(HEAR)} {file}"


def broken(n):
    return tuple(
        {"field": "image", "tile": f"{k:05d}-00001", "reason": f"shard {k} is cut off"}
        for k in range(n)
    )


# -- options -------------------------------------------------------------------------------------
def test_a_run_gets_what_was_asked_for(gcdask_cli, configuration, pipeline, tmp_path):
    done = gcdask_cli(
        "run", configuration, "--out", tmp_path / "out", "--set", "density.alpha=1.8",
        "--set", "name=here",
    )  # fmt: skip
    assert done.code == 0
    assert f"{tmp_path}/out/runs/{RUN}/report.html" in done.out
    assert "n_detected  12" in done.out
    assert "383.2 +- 11.4" in done.out
    assert "detect 3/3" in done.err
    (call,) = pipeline.runs
    assert (call.config.density.alpha, call.config.name) == (1.8, "here")
    assert (call.client, call.force, call.out) == (None, None, str(tmp_path / "out"))
    assert pipeline.checked == [call.out]


def test_the_output_may_be_a_url(gcdask_cli, configuration, pipeline):
    assert gcdask_cli("run", configuration, "--out", "s3://bucket//run").code == 0
    assert pipeline.runs[0].out == "s3://bucket//run"


@pytest.mark.parametrize(
    ("words", "force"),
    [
        (["CONFIG"], None),
        (["CONFIG", "--force"], "all"),
        (["--force", "CONFIG"], "all"),
        (["CONFIG", "--force", "maps"], "maps"),
        (["CONFIG", "--force=maps"], "maps"),
        (["--force", "maps", "CONFIG"], "maps"),
        (["--force=all", "CONFIG"], "all"),
        (["--force", "--set", "name=x", "CONFIG"], "all"),
        (["--force", "--debug", "CONFIG"], "all"),
        (["--force", "--", "CONFIG"], "all"),
        (["--", "CONFIG"], None),
    ],
)
def test_force_may_name_a_stage(gcdask_cli, configuration, pipeline, tmp_path, words, force):
    given = [str(configuration) if word == "CONFIG" else word for word in words]
    done = gcdask_cli("run", "--out", tmp_path / "out", *given)
    assert done.code == 0, done.err
    assert pipeline.runs[0].force == force


@pytest.mark.parametrize("words", [["--force", "map"], ["--force=map"], ["--force="]])
def test_force_of_something_else_is_refused(refused, configuration, pipeline, tmp_path, words):
    line = refused("run", configuration, "--out", tmp_path / "out", *words)
    for stage in (*gcdask.pipeline.STAGES, "all"):
        assert stage in line
    assert not pipeline.runs


def test_force_is_an_option_of_run_alone():
    words = ["ingest", "--force", "maps"]
    assert arguments.join_force(words) == words
    assert arguments.join_force([]) == []


def test_a_dry_run_needs_no_folder_and_runs_nothing(gcdask_cli, configuration, pipeline, tmp_path):
    heard = tmp_path / "heard"
    done = gcdask_cli("run", configuration, "--dry-run", "--notify", hook(heard))
    assert (done.code, done.err) == (0, "")
    assert "4 tasks" in done.out
    assert not pipeline.runs
    assert not heard.exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ["--out is missing"]),
        (["--out", "{tmp}/field.yaml"], ["field.yaml", "is a file"]),
        (["--out", "{tmp}/o", "--set", "detect.treshold=1"], ["detect.treshold", "threshold?"]),
        (["--out", "{tmp}/o", "--set", "detect.threshold=0"], ["detect.threshold", "0", "> 0"]),
        (["--out", "{tmp}/o", "--set", "alpha"], ["--set alpha", "KEY.SUBKEY=VALUE"]),
        (["--out", "{tmp}/o", "--set", "lens.path={tmp}/x.par"], ["lens.path", "does not exist"]),
        (["--out", "{tmp}/o", "--workers", "two"], ["--workers", "gcdask run --help"]),
        (["--out", "{tmp}/o", "--workers", "-1"], ["--workers"]),
        (["--out", "{tmp}/o", "--workers", "1", "--scheduler", "a:1"],
         ["--workers 1 and --scheduler a:1 exclude each other", "one of them"]),
        (["--out", "{tmp}/o", "--workers", "0", "--scheduler-file", "f.json"],
         ["--workers 0 and --scheduler-file f.json", "one of them"]),
        (["--out", "{tmp}/o", "--scheduler", "a:1", "--scheduler-file", "f.json"],
         ["--scheduler a:1 and --scheduler-file f.json", "one of them"]),
        (["--out", "{tmp}/o", "--scheduler", "noport"], ["noport", "no Dask scheduler"]),
        (["--out", "{tmp}/o", "--scheduler-file", "{tmp}/no.json"], ["no.json", "no scheduler"]),
        (["--out", "{tmp}/o", "--notify", "mail 'me"], ["--notify", "mail 'me", "quot"]),
        (["--out", "{tmp}/o", "--notify", "  "], ["--notify", "empty"]),
        (["--out", "{tmp}/o", "--performance-report", "../p.html"], ["../p.html", "plain"]),
        (["--out", "{tmp}/o", "--performance-report", "/tmp/p.html"], ["/tmp/p.html", "plain"]),
        (["--out", "{tmp}/o", "--performance-report", "s3:p.html"], ["s3:p.html", "plain"]),
        (["--out", "{tmp}/o", "--performance-report", ".p.html"], [".p.html", "plain"]),
        (["--out", "{tmp}/o", "--performance-report", "p.txt"], ["p.txt", "performance.html"]),
        (["--out", "{tmp}/o", "--performance-report", "report.html"], ["file of the run"]),
        (["--frobnicate"], ["--frobnicate", "gcdask run --help"]),
    ],
)  # fmt: skip
def test_mistakes_of_run(refused, configuration, pipeline, tmp_path, given, words):
    line = refused("run", configuration, *(a.format(tmp=tmp_path) for a in given))
    assert all(word in line for word in words), line
    assert not pipeline.runs
    assert not (tmp_path / "o").exists()


def test_where_to_compute_goes_to_the_cluster(
    gcdask_cli, configuration, pipeline, monkeypatch, tmp_path
):
    import contextlib

    given = []

    @contextlib.contextmanager
    def client(settings, **options):
        given.append(options)
        yield None

    monkeypatch.setattr(cluster, "client", client)
    for options in (["--workers", 3], ["--scheduler-file", "f"], ["--scheduler", "tcp://a:1"], []):
        assert gcdask_cli("run", configuration, "--out", tmp_path / "o", *options).code == 0
    assert gcdask_cli("run", configuration, "--out", "s3://b/o").code == 0
    assert given == [
        {"workers": 3, "needs": []},
        {"scheduler_file": "f", "needs": []},
        {"scheduler": "tcp://a:1", "needs": []},
        {"needs": []},
        {"needs": ["s3fs"]},  # what workers write
    ]


# -- ends ----------------------------------------------------------------------------------------
def test_unchanged_work_is_told(gcdask_cli, configuration, pipeline, tmp_path):
    """And no cluster is started for it."""
    pipeline.finished, pipeline.result = True, {"up_to_date": True}
    options = ["--out", tmp_path / "o", "--scheduler", "nowhere"]
    done = gcdask_cli("run", configuration, *options)
    assert (done.code, done.err) == (0, "")
    assert f"nothing to do: run {RUN} is up to date\n" in done.out
    assert gcdask_cli("run", configuration, "--force", *options).code == 2  # this needs one


def test_a_partial_run_lists_what_failed(gcdask_cli, configuration, pipeline, tmp_path):
    pipeline.result = {"failed": broken(33)}
    done = gcdask_cli("run", configuration, "--out", tmp_path / "o")
    assert done.code == 3
    assert "n_detected" in done.out
    lines = [line for line in done.err.splitlines() if not line.startswith("[")]
    assert lines[0] == "warning: tile 00000-00001 of image failed: shard 0 is cut off"
    assert lines[19] == "warning: tile 00019-00001 of image failed: shard 19 is cut off"
    assert lines[20:] == [
        "warning: 13 more tiles failed",
        "error: 33 tiles failed; mend what they read; then the same command does them alone",
    ]


def fails_with(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(gcdask.pipeline, "run", fail, raising=False)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (None, "done", 0),
        ("partial", "partial", 3),
        (InputError("alpha is bad; give another"), "failed", 2),
        (ZeroDivisionError("x"), "failed", 1),
        (LockError("somebody is at work"), "locked", 4),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_a_hook_hears_of_every_end(
    gcdask_cli, configuration, pipeline, monkeypatch, tmp_path, error, status, code
):
    monkeypatch.setenv("MY_TOKEN", "abcdefgh12345")
    if error == "partial":
        pipeline.result = {"failed": broken(33)}
    elif error is not None:
        fails_with(monkeypatch, error)
    heard = tmp_path / "heard"
    done = gcdask_cli("run", configuration, "--out", tmp_path / "o", "--notify", hook(heard))
    assert done.code == code
    told = json.loads(heard.read_text())
    assert (told["status"], told["exit_code"], told["out"]) == (status, code, str(tmp_path / "o"))
    assert told["seconds"] > 0
    assert (told["error"] is None) == (error is None)
    if code in (0, 3):
        assert told["run"] == RUN
        assert told["counts"]["n_detected"] == 12
        assert told["results"]["beta"]["value"] == 383.2
        assert len(told["failed"]) == told["counts"]["failed_tiles"] == (33 if code else 0)
        assert told["progress"]["detect"]["total"] == 3
    else:
        assert told["run"] is None
        assert told["error"] in done.err


def test_the_environment_may_name_the_hook(
    gcdask_cli, configuration, pipeline, monkeypatch, tmp_path
):
    monkeypatch.setenv("GCDASK_NOTIFY", hook(tmp_path / "heard"))
    assert gcdask_cli("run", configuration, "--out", tmp_path / "o").code == 0
    assert json.loads((tmp_path / "heard").read_text())["status"] == "done"


def test_a_configuration_may_not_name_the_hook(refused, configuration, tmp_path):
    for key in ("notify", "cluster.notify"):
        line = refused("run", configuration, "--out", tmp_path / "o", "--set", f"{key}=touch x")
        assert key in line


def test_no_secret_gets_out(gcdask_cli, configuration, pipeline, monkeypatch, tmp_path):
    """Neither in what is printed, nor in what a hook is told; whoever puts it there."""
    secret = "abcdefgh12345"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    failed = {"field": "image", "tile": "1", "reason": f"s3://me:{secret}@b: {secret}"}
    pipeline.result = {
        "failed": (failed,),
        "results": {"n_detected": 1, "notes": [f"key {secret}"], "beta": {"value": secret}},
    }
    heard = tmp_path / "heard"
    done = gcdask_cli("run", configuration, "--out", tmp_path / "o", "--notify", hook(heard))
    assert done.code == 3
    for text in (done.out, done.err, heard.read_text()):
        assert "***" in text
        assert secret not in text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/no/such/program", ["/no/such/program could not be run", "No such file"]),
        (f"{sys.executable} -c 'import sys; sys.exit(\"mail is down\")'",
         ["failed (exit code 1: mail is down)"]),
    ],
)  # fmt: skip
def test_a_hook_that_fails_is_a_warning(
    gcdask_cli, configuration, pipeline, tmp_path, command, words
):
    done = gcdask_cli("run", configuration, "--out", tmp_path / "o", "--notify", command)
    assert done.code == 0
    (line,) = [line for line in done.err.splitlines() if not line.startswith("[")]
    assert line.startswith("warning: --notify")
    assert all(word in line for word in words), line


def test_a_hook_is_no_shell(gcdask_cli, configuration, pipeline, tmp_path):
    command = f"echo x > {tmp_path}/made; touch {tmp_path}/made"
    assert gcdask_cli("run", configuration, "--out", tmp_path / "o", "--notify", command).code == 0
    assert not (tmp_path / "made").exists()


def test_a_performance_report_needs_workers(gcdask_cli, configuration, pipeline, tmp_path):
    options = ["--performance-report", "p.html"]
    done = gcdask_cli("run", configuration, "--out", tmp_path / "o", *options)
    assert done.code == 0
    assert "warning: --performance-report p.html: no workers, so there is none" in done.err


def test_a_run_in_a_thread_needs_no_signals(configuration, pipeline, tmp_path):
    """Handlers can be set in the main thread alone."""
    from concurrent.futures import ThreadPoolExecutor

    words = ["run", str(configuration), "--out", str(tmp_path / "o")]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cli.main, words).result() == 0
