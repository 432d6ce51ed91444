"""Fixtures of the tests of the command line."""

from types import SimpleNamespace

import pytest

import gcdask.pipeline
from gcdask import cli


@pytest.fixture
def gcdask_cli(capsys):
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        code = cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


@pytest.fixture
def refused(gcdask_cli):
    """The one line of an error with exit code 2."""

    def run(*arguments):
        done = gcdask_cli(*arguments)
        assert done.code == 2, done
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
        assert done.out == ""
        return done.err

    return run


@pytest.fixture
def configuration(tmp_path):
    (tmp_path / "field.zarr").mkdir(exist_ok=True)
    path = tmp_path / "field.yaml"
    path.write_text(
        "mosaic: {path: field.zarr}\nfield: {center: [342.18, -44.53], z_lens: 0.348}\n"
        "cluster: {workers: 0}\n"
    )
    return path


TRUTH = {
    "n_found": 9000, "inpainted": 700, "n_truth": 9600, "masked_truth": 800,
    "completeness": 0.961, "purity": None, "beta": {"all": 383.2}, "beta_truth": {"all": 380.1},
    "slope": {"value": -1.1, "error": 0.05}, "slope_truth": {"value": -1.2, "error": 0.02},
    "contamination": {"value": 0.4, "error": 0.05}, "contamination_truth": 0.363,
}  # fmt: skip


@pytest.fixture
def pipeline(monkeypatch):
    """A pipeline that notes how it was called, and returns what ``calls.result`` says.

    With ``calls.finished`` there is nothing to do.
    """
    calls = SimpleNamespace(runs=[], checked=[], result={}, finished=False)

    def run(config, out, *, client=None, force=None, progress, resources=None):
        calls.runs.append(SimpleNamespace(config=config, out=out, client=client, force=force))
        for done in range(4):
            progress("detect", done, 3)
        results = {"n_detected": 12, "beta": {"value": 383.2, "error": 11.4, "unit": "",
                                              "sectors": {"E": 386.3}}}  # fmt: skip
        if config.truth:
            results["truth"] = TRUTH
        folder = f"{out}/runs/20260102-030405-abcdef01"
        made = {"out": folder, "results": results, "report": f"{folder}/report.html"}
        return gcdask.pipeline.RunResult(**{**made, **calls.result})

    def check(config, out):
        calls.checked.append(out)

    monkeypatch.setattr(gcdask.pipeline, "run", run, raising=False)

    def finished(config, out):
        return run(config, out, progress=lambda *_: None) if calls.finished else None

    monkeypatch.setattr(gcdask.pipeline, "check_folder", check, raising=False)
    monkeypatch.setattr(gcdask.pipeline, "finished", finished, raising=False)
    plan = gcdask.pipeline.Plan([("survey", "4 tasks")], 12, "chunks", 1e9)
    monkeypatch.setattr(gcdask.pipeline, "dry_run", lambda config: plan, raising=False)
    return calls
