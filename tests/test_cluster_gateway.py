"""A real Dask Gateway server starts a cluster for a run, stops it after, and says what is wrong."""

import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest
from clusters import is_alive

from gcdask import cluster
from gcdask.errors import InputError
from gcdask.sections import Cluster

pytest.importorskip("dask_gateway")
pytestmark = pytest.mark.cluster

PASSWORD = "not-to-be-seen"
SERVER = """
c.DaskGateway.address = "127.0.0.1:{api}"
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.SimpleAuthenticator.password = "{password}"
c.Proxy.address = "127.0.0.1:{proxy}"
c.Proxy.api_token = "token"
c.UnsafeLocalBackend.clusters_directory = "{folder}"
c.UnsafeLocalBackend.stop_clusters_on_shutdown = True
c.ClusterConfig.scheduler_cmd = ["{python}", "-m", "distributed.cli.dask_scheduler"]
c.ClusterConfig.worker_cmd = ["{python}", "-m", "distributed.cli.dask_worker"]
c.ClusterConfig.adaptive_period = 0.5
"""


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _status(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api/v1/clusters/")
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """Address of a server of this machine."""
    pytest.importorskip("dask_gateway_server.backends.local", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("gateway")
    api, proxy = _free_port(), _free_port()
    (folder / "config.py").write_text(
        SERVER.format(api=api, proxy=proxy, password=PASSWORD, folder=folder, python=sys.executable)
    )
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "dask_gateway_server", "-f", str(folder / "config.py")],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while _status(proxy) != 401:  # it wants to know who asks
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"http://127.0.0.1:{proxy}"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def known():
    """Our password, as Dask's settings have it."""
    with dask.config.set({"gateway.auth.kwargs": {"username": "gc", "password": PASSWORD}}):
        yield


def section(address, adaptive=None, **changes):
    return Cluster(
        workers=1, adaptive=adaptive, gateway={"address": address, "auth": "basic", **changes}
    )


def refused(address, **changes):
    start = time.monotonic()
    with pytest.raises(InputError) as caught, cluster.client(section(address, **changes)):
        pass
    assert time.monotonic() - start < 15
    said = str(caught.value)
    assert "\n" not in said
    assert PASSWORD not in said
    return said


@pytest.mark.parametrize("adaptive", [None, {"minimum": 0, "maximum": 1}])
def test_a_cluster_is_started_for_the_run_and_stopped_after_it(gateway, known, adaptive, capfd):
    with cluster.client(section(gateway, adaptive), needs=["numpy"]) as client:
        worker = client.submit(os.getpid).result(timeout=40)
        scheduler = client.run_on_scheduler(os.getpid)
        assert client.scheduler.address.startswith("gateway://127.0.0.1:")
        assert len({worker, scheduler, os.getpid()}) == 3
    deadline = time.monotonic() + 30
    while is_alive(scheduler) or is_alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "Traceback" not in capfd.readouterr().err


def test_who_is_not_known_is_refused(gateway):
    with dask.config.set({"gateway.auth.kwargs": {"password": "wrong-" + PASSWORD[::-1]}}):
        said = refused(gateway)
    assert "401" in said
    assert "your credentials in the environment" in said


def test_options_that_the_server_does_not_have_are_named(gateway, known):
    assert "no_such_option" in refused(gateway, options={"no_such_option": 1})


def test_a_server_that_is_not_there_is_told_soon(monkeypatch):
    monkeypatch.setattr(cluster.remote, "CONNECT_SECONDS", 2)
    assert "http://127.0.0.1:9 (" in refused("http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert "TimeoutError" in refused(f"http://127.0.0.1:{mute.getsockname()[1]}")
