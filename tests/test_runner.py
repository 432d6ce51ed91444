"""Where tasks run: in order, in a rolling window, with what stays on the workers."""

import errno
import os
from pathlib import Path

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from gcdask.pipeline import runner as module
from gcdask.pipeline.runner import Failed, Runner


def square(item, offset):
    return item * item + offset


def square_and_keep(item, offset):
    return item * item + offset, np.full(3, item)


def add_up(item, offset):
    number, kept = item
    return number + int(kept.sum()) + offset


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as opened,
    ):
        yield opened


@pytest.mark.parametrize("window", [1, 3, 1000])
def test_results_are_in_the_order_of_the_items(client, window, monkeypatch):
    monkeypatch.setattr(module, "IN_FLIGHT", window)
    seen = []
    runner = Runner(client, lambda stage, done, total: seen.append((stage, done, total)))
    assert runner.map("squares", square, range(20), 5) == [k * k + 5 for k in range(20)]
    assert [done for _, done, _ in seen] == [0, *range(1, 21), 20]
    assert runner.map("none", square, [], 5) == []


def test_no_more_tasks_are_submitted_than_the_window_holds(client, monkeypatch):
    monkeypatch.setattr(module, "IN_FLIGHT", 4)
    submitted, ended = [0], [0]
    plain = client.submit

    def submit(*args, **options):
        submitted[0] += 1
        # one more for what all tasks share, one as the end is told of after the next starts
        assert submitted[0] - ended[0] <= 4 + 2
        return plain(*args, **options)

    monkeypatch.setattr(client, "submit", submit)
    Runner(client, lambda stage, done, total: ended.__setitem__(0, done)).map(
        "squares", square, range(30), 0
    )
    assert submitted[0] == 30 + 1  # and what all tasks share


@pytest.mark.parametrize("cluster", [True, False])
def test_what_is_kept_goes_into_the_next_stage(client, cluster):
    runner = Runner(client if cluster else None)
    small, kept = runner.map_and_keep("keep", square_and_keep, range(7), 1)
    assert small == [k * k + 1 for k in range(7)]
    assert runner.map("use", add_up, list(zip(small, kept, strict=True)), 10) == [
        k * k + 1 + 3 * k + 10 for k in range(7)
    ]


def test_a_failing_task_fails_the_stage_and_leaves_no_others(client):
    with pytest.raises(TypeError):
        Runner(client).map("bad", square, [1, "a", 2], 0)
    assert Runner(client).map("good", square, [3], 0) == [9]


def test_a_client_that_is_not_the_current_one(client):
    """Every local cluster has a loop of its own."""
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as newer,
    ):
        assert newer.loop is not client.loop
        for _ in range(20):
            assert Runner(client).map("squares", square, range(8), 0) == [k * k for k in range(8)]


def test_there_is_room_for_a_share_of_the_memory(client):
    limits = [w["memory_limit"] for w in client.scheduler_info(n_workers=-1)["workers"].values()]
    assert Runner(client).room == pytest.approx(module.KEEP * sum(limits))
    assert 0 < Runner().room < 2**50


# -- failures ------------------------------------------------------------------------------------
def fails_at_three(k):
    if k == 3:
        raise ValueError("three is bad")
    return k


def dies_at_three(k):
    if k == 3:
        os._exit(1)
    return k


def fails_once(k, folder):
    """Fail the first time that an item comes."""
    mark = Path(folder, str(k))
    if not mark.exists():
        mark.touch()
        raise OSError("not today")
    return k


@pytest.mark.parametrize("cluster", [True, False])
def test_a_task_that_fails_leaves_the_others_alone(client, cluster):
    runner, heard = Runner(client if cluster else None), {}
    found = runner.map("some", fails_at_three, range(6), keep_failures=True, each=heard.__setitem__)
    assert found[:3] + found[4:] == [0, 1, 2, 4, 5]
    assert isinstance(found[3], Failed)
    assert found[3].reason == "ValueError: three is bad"
    assert heard == dict(enumerate(found))
    with pytest.raises(ValueError, match="three is bad"):
        runner.map("some", fails_at_three, range(6))


@pytest.mark.parametrize("cluster", [True, False])
def test_a_task_that_fails_is_tried_again(client, cluster, tmp_path):
    for retries in (0, 1):
        folder = tmp_path / str(retries)
        folder.mkdir()
        runner = Runner(client if cluster else None, retries=retries)
        found = runner.map("try", fails_once, range(4), str(folder), keep_failures=True)
        if retries:
            assert found == [0, 1, 2, 3]
        else:
            assert [f.reason for f in found] == ["OSError: not today"] * 4


@pytest.mark.cluster
def test_a_task_that_kills_its_workers_is_given_up_alone():
    # the scheduler blames what waits on the same worker as well, here at the first loss
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster,
        Client(cluster) as opened,
    ):
        found = Runner(opened).map("deadly", dies_at_three, range(6), keep_failures=True)
        assert found[:3] + found[4:] == [0, 1, 2, 4, 5]
        assert "killed several times" in found[3].reason


@pytest.mark.parametrize("cluster", [True, False])
def test_a_full_disk_is_not_the_fault_of_one_tile(client, cluster):
    with pytest.raises(OSError, match="No space left"):
        Runner(client if cluster else None).map("full", full, range(6), keep_failures=True)


def full(k):
    raise OSError(errno.ENOSPC, "No space left on device", "maps.zarr")
