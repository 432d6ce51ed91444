"""What README and notebook show runs as it stands."""

import json
import re

import pytest

from gcdask import cli, simulate
from gcdask.config import load


@pytest.fixture
def root(request):
    return request.config.rootpath


@pytest.fixture
def field(tmp_path, monkeypatch):
    """A folder with the files that README names."""
    monkeypatch.chdir(tmp_path)
    simulate.write(simulate.as1063("small", seed=2), "field.zarr", chunks=1024)
    return tmp_path


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_python_of_the_readme_runs(root, field, capsys):
    (code,) = blocks((root / "README.md").read_text(), "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 13
    exec(compile(code, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "sector_beta" in shown
    assert "n_error" in shown


def test_the_configuration_of_the_readme_is_one(root, field):
    text, clusters = blocks((root / "README.md").read_text(), "yaml")
    (field / "field.yaml").write_text(text)
    assert load("field.yaml").field.z_lens == 0.348
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


def test_the_notebook_runs(root, tmp_path, monkeypatch, capsys):
    import matplotlib as mpl

    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    cells = json.loads((root / "notebooks/quickstart.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "quickstart.ipynb", "exec"), names)
    assert names["score"]["completeness"] > 0.93
    assert names["score"]["purity"] > 0.9
    assert 0.2 < float(names["law"]["b"]) < 1
    assert "kappa = " in capsys.readouterr().out
