"""A client is what the configuration says, starts and ends quietly, or tells why it cannot."""

import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import dask
import pytest

from gcdask import cluster
from gcdask.cluster import remote
from gcdask.errors import InputError
from gcdask.sections import Cluster


def _warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def _environment(index):
    import cv2

    return os.getpid(), cv2.getNumThreads(), os.environ.get("OMP_NUM_THREADS")


def test_own_workers_are_processes_with_one_thread(capfd, caplog):
    with cluster.client(Cluster(workers=2)) as client:
        found = client.gather(client.map(_environment, range(8)))
        workers = client.scheduler_info(n_workers=-1)["workers"]
        assert len(workers) == 2
        assert {w["nthreads"] for w in workers.values()} == {1}
        assert dask.delayed(sum)([1, 2]).compute() == 3  # the default client
    assert os.getpid() not in {pid for pid, _, _ in found}
    assert {(threads, omp) for _, threads, omp in found} == {(1, "1")}
    assert tuple(capfd.readouterr()) == ("", "")
    assert not _warnings(caplog)


BUSY = """
import time
from gcdask import cluster
from gcdask.sections import Cluster

if __name__ == "__main__":
    try:
        with cluster.client(Cluster(workers=2)) as client:
            futures = client.map(time.sleep, [0.5 + i / 1000 for i in range(200)])
            print("working", flush=True)
            if {wait}:
                client.gather(futures)
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def _busy(tmp_path, wait):
    script = tmp_path / "busy.py"
    script.write_text(textwrap.dedent(BUSY.format(wait=wait)))
    return subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as a terminal makes one
    )


def test_closing_with_work_left_is_quiet(tmp_path):
    process = _busy(tmp_path, wait=False)
    assert process.communicate(timeout=60) == ("working\n", "")
    assert process.returncode == 0


def test_ctrl_c_prints_no_tracebacks_of_workers(tmp_path):
    process = _busy(tmp_path, wait=True)
    assert process.stdout.readline() == "working\n"
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches every process of the group
    assert process.communicate(timeout=60) == ("interrupted\n", "")


@pytest.mark.parametrize(("threads", "scheduler"), [(1, "synchronous"), (3, "threads")])
def test_no_workers_means_this_process(threads, scheduler):
    with cluster.client(Cluster(workers=0, threads=threads)) as client:
        assert client is None
        assert dask.config.get("scheduler") == scheduler
        assert dask.delayed(os.getpid)().compute() == os.getpid()
    assert dask.config.get("scheduler", None) != scheduler


def test_workers_given_override_the_configuration():
    settings = Cluster(workers=2, scheduler="tcp://nowhere.invalid:1")
    with cluster.client(settings, workers=0) as client:
        assert client is None


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 1)


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:9", "nowhere.invalid:8786", "pigeon://127.0.0.1:1", "noport", "tcp://h:port"],
)
def test_unreachable_scheduler(impatient, address, capfd):
    start = time.monotonic()
    with pytest.raises(InputError) as caught, cluster.client(Cluster(), scheduler=address):
        pass
    text = str(caught.value)
    assert address in text
    assert "start one (dask scheduler)" in text
    assert "\n" not in text
    assert time.monotonic() - start < 8
    assert capfd.readouterr().err == ""


def test_a_port_that_never_answers(impatient):
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_ones = []
        mute = threading.Thread(target=lambda: open_ones.append(server.accept()), daemon=True)
        mute.start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="no Dask scheduler"):
            cluster.client(Cluster(scheduler=address)).__enter__()
    for connection, _ in open_ones:
        connection.close()


def test_running_scheduler_is_used_and_left_running(caplog):
    from distributed import Client, LocalCluster

    quiet = {"silence_logs": logging.CRITICAL, "dashboard_address": None}
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp",
                      host="127.0.0.1", **quiet) as running:  # fmt: skip
        address = running.scheduler_address
        with cluster.client(Cluster(), scheduler=address) as client:
            assert client.submit(_environment, 0).result()[1] == 1
        assert not _warnings(caplog)
        running.scale(0)
        with Client(address) as later:  # it is still there
            deadline = time.monotonic() + 20
            while later.scheduler_info(n_workers=-1)["workers"] and time.monotonic() < deadline:
                time.sleep(0.1)
        with cluster.client(Cluster(scheduler=address)):
            assert "no workers yet" in caplog.text


def test_contradictions():
    with pytest.raises(InputError, match=r"workers 2 and scheduler x:1 .*one of them"):
        cluster.client(Cluster(), workers=2, scheduler="x:1").__enter__()
    with pytest.raises(InputError, match=r"scheduler x:1 and scheduler file f .*one of them"):
        cluster.client(Cluster(), scheduler="x:1", scheduler_file="f").__enter__()
    with pytest.raises(InputError, match="workers = -1 is negative"):
        cluster.client(Cluster(), workers=-1).__enter__()


@pytest.mark.cluster
def test_workers_come_and_go_with_the_work():
    settings = Cluster(adaptive={"minimum": 0, "maximum": 2})
    with cluster.client(settings) as client:

        def there():
            return len(client.scheduler_info(n_workers=-1)["workers"])

        assert there() == 0
        futures = client.map(time.sleep, [0.3 + k / 1000 for k in range(40)])
        _until(lambda: there() == 2)
        client.gather(futures)
        del futures
        _until(lambda: there() == 0)
        assert client.submit(_environment, 0).result()[1:] == (1, "1")  # and come again


def _until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_number_given_takes_the_place_of_adaptive_scaling():
    settings = Cluster(adaptive={"minimum": 0, "maximum": 2})
    with cluster.client(settings, workers=1) as client:
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 1
    with cluster.client(settings, workers=0) as client:
        assert client is None


def test_the_dashboards_address_is_printed(capsys):
    pytest.importorskip("bokeh")
    with cluster.client(Cluster(workers=1, dashboard=True)):
        assert capsys.readouterr().out.startswith("Dask dashboard: http://127.0.0.1:")


def test_dashboard_missing_is_no_error(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "bokeh" else real(n))
    with cluster.client(Cluster(workers=1, dashboard=True)) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    assert "dashboard" not in capsys.readouterr().out
