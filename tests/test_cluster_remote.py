"""A running scheduler is used if it can be trusted, and its workers if they run our code."""

import logging
import os
import socket
import ssl
import textwrap
import time
from pathlib import Path

import dask
import pytest
from clusters import local_cluster
from distributed import Client

from gcdask import __version__, cluster
from gcdask.cluster import versions
from gcdask.cluster.plugins import SameCode
from gcdask.errors import InputError
from gcdask.sections import Cluster

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A scheduler with one worker."""
    with local_cluster(tmp_path_factory.mktemp("dask"), workers=1) as started:
        yield started


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    with local_cluster(tmp_path_factory.mktemp("tls"), workers=1, tls=True) as started:
        yield started


def refused(seconds=8, needs=(), **settings):
    """The one line of a refusal, which comes soon."""
    start = time.monotonic()
    with pytest.raises(InputError) as caught, cluster.client(Cluster(**settings), needs=needs):
        pass
    assert time.monotonic() - start < seconds
    assert "\n" not in str(caught.value)
    return str(caught.value)


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- address and file -------------------------------------------------------------------------
def test_the_scheduler_is_found_by_its_file(running):
    file = str(running.folder / "scheduler.json")
    with cluster.client(Cluster(scheduler_file=file)) as client:
        assert client.submit(os.getpid).result() == running.worker_pids[0]
    with cluster.client(Cluster(workers=2), scheduler_file=file) as client:
        assert client.submit(os.getpid).result() == running.worker_pids[0]


def test_files_of_no_scheduler_are_refused(tmp_path):
    file = tmp_path / "scheduler.json"
    assert f"no scheduler file at {file}; start one" in refused(scheduler_file=str(file))
    for text in ("", "[1]", "{}"):
        file.write_text(text)
        assert f"{file} is no scheduler file" in refused(scheduler_file=str(file))
    assert "/dev/zero is no regular file" in refused(scheduler_file="/dev/zero")


def test_the_dashboards_address_is_printed(running, capsys):
    with cluster.client(Cluster(scheduler=running.address, dashboard=True)):
        pass
    said = capsys.readouterr().out
    assert said.startswith("Dask dashboard: http://127.0.0.1:")
    port = int(said.rsplit(":", 1)[1].split("/")[0])
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


# -- encryption -------------------------------------------------------------------------------
def test_an_encrypted_cluster_works_for_those_with_a_certificate(encrypted, caplog):
    address = encrypted.address
    for given in ({"scheduler": address}, {"scheduler": address.removeprefix("tls://")},
                  {"scheduler_file": str(encrypted.folder / "scheduler.json")}):  # fmt: skip
        with cluster.client(Cluster(**given, tls=encrypted.tls)) as client:
            assert client.scheduler.address == address
            assert client.submit(os.getpid).result() == encrypted.worker_pids[0]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_the_scheduler_hangs_up_on_a_client_without_certificate(encrypted):
    context = ssl.create_default_context(cafile=encrypted.tls["ca"])
    host, port = encrypted.address.removeprefix("tls://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        wrapped.recv(1)


def test_a_client_without_certificate_is_told_so(encrypted):
    address = encrypted.address
    said = refused(scheduler=address)
    assert f"{address} wants certificates; give cluster.tls" in said
    plain = address.replace("tls://", "tcp://")
    assert "tls://host:8786 if it demands certificates" in refused(scheduler=plain)
    assert "is not encrypted" in refused(scheduler=plain, tls=encrypted.tls)


@pytest.mark.parametrize("theirs", [("ca",), ("cert", "key"), ("ca", "cert", "key")])
def test_certificates_of_another_authority_are_refused(encrypted, certificates, theirs):
    mixed = {**encrypted.tls, **{key: certificates[key] for key in theirs}}
    said = refused(scheduler=encrypted.address, tls=mixed)
    assert "do not trust each other" in said
    assert "cluster.tls" in said


def test_encryption_that_dasks_settings_demand_is_not_dropped(running):
    with dask.config.set({"distributed.comm.require-encryption": True}):
        assert "encryption required" in refused(scheduler=running.address)


def test_files_that_are_no_certificates_are_refused(encrypted, certificates, tmp_path, caplog):
    def told(**changes):
        return refused(scheduler=encrypted.address, tls={**encrypted.tls, **changes})

    assert "cluster.tls.key: /nowhere does not exist" in told(key="/nowhere")
    assert "KEY_VALUES_MISMATCH" in told(key=certificates["key"])
    (tmp_path / "empty.pem").write_text("")
    assert "no certificates in" in told(ca=str(tmp_path / "empty.pem"))
    shared = tmp_path / "key.pem"
    shared.write_bytes(Path(encrypted.tls["key"]).read_bytes())
    shared.chmod(0o644)
    with cluster.client(
        Cluster(scheduler=encrypted.address, tls={**encrypted.tls, "key": str(shared)})
    ):
        assert f"others can read {shared}; chmod 600 it" in caplog.text


def test_own_workers_can_be_encrypted(encrypted):
    with cluster.client(Cluster(workers=1, tls=encrypted.tls)) as client:
        assert client.scheduler.address.startswith("tls://")
        assert client.submit(sum, [1, 2]).result() == 3


# -- the same code ----------------------------------------------------------------------------
@pytest.fixture
def other_version(tmp_path):
    """Environment of a process whose gcdask says that it is another version."""
    (tmp_path / "sitecustomize.py").write_text(
        "import gcdask._version\ngcdask._version.__version__ = '9.9'\n"
    )
    return {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent}"}


def test_a_worker_of_another_version_ends_the_run_before_it_starts(tmp_path, other_version):
    with local_cluster(tmp_path / "dask", workers=1) as mixed:
        odd = mixed.add_worker("odd", **other_version)
        with Client(mixed.address) as client:
            client.wait_for_workers(2, timeout=20)
        said = refused(scheduler=mixed.address)
        assert "has gcdask 9.9, this process gcdask " + __version__ in said
        assert f"install gcdask=={__version__} there" in said
        assert "worker tcp://127.0.0.1" in said
        odd.kill()
        odd.wait()
        with Client(mixed.address) as client:
            eventually(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 1)
        with cluster.client(Cluster(scheduler=mixed.address)) as client:
            assert client.submit(sum, [1, 2]).result() == 3


def _nap(k):
    time.sleep(0.15)
    return os.getpid()


@pytest.mark.parametrize("nanny", ["--no-nanny", "--nanny"])
def test_workers_that_join_later_are_turned_away(running, other_version, caplog, nanny):
    with cluster.client(Cluster(scheduler=running.address)) as client:
        futures = client.map(_nap, range(20), pure=False)
        odd = running.add_worker("late", nanny, **other_version)
        assert odd.wait(timeout=30) is not None
        eventually(lambda: "turned away" in caplog.text)
        assert f"has gcdask 9.9, the run {__version__}" in caplog.text
        assert set(client.gather(futures)) == {running.worker_pids[0]}
        log = (running.folder / "worker-late.log").read_text()
        assert "turned away by a run" in log
        assert "install the same there" in log
        if nanny == "--no-nanny":  # a nanny has more to say
            assert "Traceback" not in log


def test_workers_are_welcome_again_when_the_run_is_over(running, other_version):
    with cluster.client(Cluster(scheduler=running.address)) as client:
        (plugins,) = client.run(lambda dask_worker: list(dask_worker.plugins)).values()
        assert SameCode.name in plugins
    welcome = running.add_worker("later", **other_version)  # the next run may be of its version
    with Client(running.address) as client:
        client.wait_for_workers(2, timeout=20)
    welcome.kill()
    welcome.wait()


@pytest.fixture
def no_gcdask(tmp_path):
    """Environment of a process in which gcdask is not installed."""
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent("""\
        import sys
        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "gcdask":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Missing())
        """)
    )
    return {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent}"}


def test_a_worker_without_gcdask_is_named(tmp_path, no_gcdask):
    with local_cluster(tmp_path / "dask", workers=1) as mixed:
        bare = mixed.add_worker("bare", **no_gcdask)
        with Client(mixed.address) as client:
            client.wait_for_workers(2, timeout=20)
        said = refused(scheduler=mixed.address)
        assert "has no gcdask" in said
        assert f"install gcdask=={__version__} there" in said
        bare.kill()
        bare.wait()
        with Client(mixed.address) as client:
            eventually(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 1)
        with cluster.client(Cluster(scheduler=mixed.address)) as client:
            futures = client.map(_nap, range(20))
            late = mixed.add_worker("late", **no_gcdask)
            assert late.wait(timeout=30) is not None
            assert set(client.gather(futures)) == {mixed.worker_pids[0]}


def test_packages_that_a_run_needs_are_looked_for_on_the_workers(running):
    with cluster.client(Cluster(scheduler=running.address), needs=["numpy"]) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    said = refused(scheduler=running.address, needs=("numpy", "no_such_package"))
    assert "worker tcp://127.0.0.1" in said
    assert "cannot import no_such_package; pip install no_such_package there" in said
    for own in ({"workers": 0}, {"workers": 1}):
        assert "this process cannot import no_such_package" in refused(
            needs=["no_such_package"], **own
        )


def test_the_extra_that_brings_a_package_is_named(running, monkeypatch):
    monkeypatch.setitem(versions.EXTRAS, "no_such_package", "s3")
    assert "pip install 'gcdask[s3]' there" in refused(
        scheduler=running.address, needs=["no_such_package"]
    )


HERE = {"gcdask": "1.0", "python": "3.11", "dask": "2026.8", "distributed": "2026.8",
        "numpy": "2.2", "lz4": None}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"python": "3.12"}, ["has Python 3.12, this process Python 3.11", "start it with"]),
        ({"dask": "2025.1"}, ["has dask 2025.1", "install dask==2026.8 there"]),
        ({"distributed": None}, ["has no distributed"]),
        ({"gcdask": None}, ["has no gcdask"]),
    ],
)
def test_differences_that_matter_end_the_run(monkeypatch, changes, words):
    others = {versions.SCHEDULER: HERE, "worker a": {**HERE, **changes},
              "worker b": {**HERE, **changes}}  # fmt: skip
    monkeypatch.setattr(versions, "_collect", lambda client: (HERE, others))
    with pytest.raises(InputError) as caught:
        versions.check(None)
    assert all(word in str(caught.value) for word in ["worker a (and 1 more)", *words])


def test_differences_that_matter_less_are_one_warning(monkeypatch, caplog):
    others = {versions.SCHEDULER: {**HERE, "gcdask": None, "numpy": None},
              "worker a": {**HERE, "numpy": "1.26", "lz4": "4.3"}}  # fmt: skip
    monkeypatch.setattr(versions, "_collect", lambda client: (HERE, others))
    versions.check(None)
    (record,) = caplog.records
    assert (
        "numpy 1.26 on worker a (2.2 here), lz4 4.3 on worker a (None here)" in record.getMessage()
    )


# -- resources --------------------------------------------------------------------------------
def test_tasks_go_only_to_workers_that_have_what_they_need(tmp_path):
    settings = {"resources": {"BIG": 2}}
    with local_cluster(tmp_path, workers=1) as mixed:
        said = refused(scheduler=mixed.address, **settings)
        assert "cluster.resources.BIG: no worker" in said
        assert '--resources "BIG=2"' in said
        big = mixed.add_worker("big", "--resources", "BIG=2")
        with Client(mixed.address) as client:
            client.wait_for_workers(2, timeout=20)
        with cluster.client(Cluster(scheduler=mixed.address, **settings)) as client:
            needs = cluster.task_resources(Cluster(**settings))
            picky = client.map(lambda k: os.getpid(), range(20), resources=needs, pure=False)
            assert set(client.gather(picky)) == {big.pid}


def test_own_workers_have_the_resources_for_all_their_threads():
    settings = Cluster(workers=1, threads=2, resources={"BIG": 2})
    with cluster.client(settings) as client:
        (worker,) = client.scheduler_info(n_workers=-1)["workers"].values()
        assert worker["resources"] == {"BIG": 4}
        needs = cluster.task_resources(settings)
        assert client.submit(sum, [1, 2], resources=needs).result() == 3
    assert cluster.task_resources(Cluster()) is None


# -- the end ----------------------------------------------------------------------------------
def test_a_scheduler_that_dies_does_not_hold_up_the_end(tmp_path):
    with local_cluster(tmp_path, workers=1) as doomed:
        with cluster.client(Cluster(scheduler=doomed.address)) as client:
            assert client.submit(sum, [1, 2]).result() == 3
            doomed.kill_scheduler()
            time.sleep(0.5)
            start = time.monotonic()
        assert time.monotonic() - start < 12
