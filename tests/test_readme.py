"""What README and notebook show runs as it stands."""

import json
import re

import pytest

from gcdask import cli
from gcdask.config import load


@pytest.fixture
def root(request):
    return request.config.rootpath


@pytest.fixture
def field(demo, tmp_path, monkeypatch):
    """A folder with the files that README names."""
    monkeypatch.chdir(tmp_path)
    for path in demo.mosaic.parent.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_python_of_the_readme_runs(root, field, capsys):
    first, more = blocks((root / "README.md").read_text(), "python")
    assert len([line for line in first.splitlines() if line.strip()]) <= 13
    names = {}
    exec(compile(first, "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "sector_beta" in shown
    assert "n_error" in shown
    exec(compile(more, "README.md", "exec"), names)
    assert "residual" in capsys.readouterr().out
    assert len(names["images"]) > 2  # a place where sources are seen more than once
    assert "mu" in names["magnified"].columns


def test_the_configuration_of_the_readme_is_one(root, field):
    text, clusters, depth = blocks((root / "README.md").read_text(), "yaml")
    (field / "field.yaml").write_text(text)
    assert load("field.yaml").field.z_lens == 0.348
    (field / "field.yaml").write_text(text.split("\nlens:")[0] + "\n" + depth)
    asked = load("field.yaml")
    assert asked.compare.transfer.axis == 90
    assert asked.profiles.contamination.method == "joint"
    kinds = []
    for line in clusters.splitlines():  # each of them, as if it were not commented out
        (field / "field.yaml").write_text(f"{text}\n{line.removeprefix('# ')}\n")
        kinds.append(load("field.yaml").cluster.resolved_kind)
    assert kinds == ["local", "scheduler", "slurm", "kubernetes", "gateway"]


def test_the_commands_of_the_readme_exist(root, capsys):
    text = (root / "README.md").read_text()
    shells = "\n".join(blocks(text, "sh"))
    for command in set(re.findall(r"gcdask ([a-z]+)", shells)):
        assert cli.main([command, "--help"]) == 0
        assert "Example:" in capsys.readouterr().out
    for path in re.findall(r"`((?:configs|notebooks)/[\w.]+)`", text):
        assert (root / path).is_file(), path


def run_notebook(path):
    import matplotlib as mpl

    mpl.use("Agg")
    names = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), names)
    return names


def test_the_notebook_on_dark_matter_finds_what_it_put_in(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_notebook(root / "notebooks/dark_matter.ipynb")
    traced, law = names["traced"], names["law"]
    assert abs(float(traced["g"]) - 1.6) < 3 * float(traced["error"])
    assert abs(float(law["b"]) - 1 / 1.6) < 3 * float(law["b_error"])
    assert abs(float(names["test"]["bias"])) < 0.05
    assert len(names["images"]) == 3


def test_the_notebook_runs(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run_notebook(root / "notebooks/quickstart.ipynb")
    assert names["score"]["completeness"] > 0.93
    assert names["score"]["purity"] > 0.9
    assert 0.2 < float(names["law"]["b"]) < 1
    assert "kappa = " in capsys.readouterr().out
