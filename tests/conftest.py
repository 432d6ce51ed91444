"""What tests share: the real data, the demo, a guard against computing while a graph is built."""

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import dask
import pytest
from clusters import local_cluster

from gcdask import cli


def pytest_collection_modifyitems(items):
    """With ``-n``: tests that start clusters run one after the other, beside the other files."""
    for item in items:
        group = "cluster" if item.get_closest_marker("cluster") else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


def shared_folder():
    """Folder of the real data; the test skips where it is absent."""
    root = os.environ.get("GCDASK_SHARED", Path(__file__).parents[2] / "shared")
    folder = Path(root) / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data are not at {folder} (set GCDASK_SHARED)")
    return folder


@pytest.fixture(scope="session")
def shared_data():
    """`shared_folder` as a fixture."""
    return shared_folder()


@dataclass(frozen=True)
class Demo:
    """What `gcdask demo` left in its folder ``out`` and said; ``mosaic`` is that of its mock."""

    out: Path
    code: int
    stdout: str
    stderr: str

    @property
    def mosaic(self) -> Path:
        return self.out / "input" / "field.zarr"


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """`gcdask demo` as a user types it: once for all tests that want a mock or a whole run."""
    folder, out, err = tmp_path_factory.mktemp("shared") / "demo", io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["demo", "--out", str(folder)])
    return Demo(folder, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Certificates of an authority that no running cluster of ours has."""
    with local_cluster(tmp_path_factory.mktemp("certificates"), workers=1, tls=True) as started:
        return started.tls


@contextlib.contextmanager
def no_compute():
    """Fail if anything is computed inside the block."""

    def scheduler(*args, **kwargs):
        raise AssertionError("computed while building the graph")

    with dask.config.set(scheduler=scheduler):
        yield
