"""What all tests share: the real data, and a guard against computing while a graph is built."""

import contextlib
import os
from pathlib import Path

import dask
import pytest


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


@contextlib.contextmanager
def no_compute():
    """Fail if anything is computed inside the block."""

    def scheduler(*args, **kwargs):
        raise AssertionError("computed while building the graph")

    with dask.config.set(scheduler=scheduler):
        yield
