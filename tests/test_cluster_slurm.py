"""Jobs of SLURM: a fake sbatch runs the real job script on this machine, so real workers come."""

import os
import sys
import time
from pathlib import Path

import pytest
from clusters import is_alive

from gcdask import cluster
from gcdask.cluster.batch import job_options
from gcdask.errors import InputError
from gcdask.sections import Cluster

pytest.importorskip("dask_jobqueue")
pytestmark = pytest.mark.cluster

SBATCH = """#!{python}
import os, pathlib, subprocess, sys, time
queue = pathlib.Path(os.environ["FAKE_QUEUE"])
script = pathlib.Path(sys.argv[-1]).read_text()
if "#SBATCH -p closed" in script:
    sys.exit("sbatch: error: invalid partition specified: closed")
if "#SBATCH -p small" in script and "SLURMCluster-1" in script:
    time.sleep(1)
    sys.exit("sbatch: error: QOSMaxSubmitJobPerUserLimit")
number = os.getpid()  # unlike a count, nobody else has it at the same time
(queue / f"{{number}}.sh").write_text(script)
with open(queue / f"{{number}}.log", "wb") as log:  # sbatch returns while the job runs
    job = subprocess.Popen(["bash", str(queue / f"{{number}}.sh")], stdin=subprocess.DEVNULL,
                           stdout=log, stderr=log, start_new_session=True)
(queue / f"{{number}}.pid").write_text(str(job.pid))
print(f"Submitted batch job {{number}}")
"""
SCANCEL = """#!{python}
import os, pathlib, signal, sys
queue = pathlib.Path(os.environ["FAKE_QUEUE"])
os.killpg(int((queue / f"{{sys.argv[1]}}.pid").read_text()), signal.SIGTERM)
(queue / f"{{sys.argv[1]}}.cancelled").touch()
"""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Folder of the jobs that the fake sbatch has started; they end with the test."""
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(python=sys.executable))
        path.chmod(0o755)
    folder = tmp_path / "queue"
    folder.mkdir()
    monkeypatch.setenv("FAKE_QUEUE", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # tasks are functions of this file
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    yield folder
    for file in folder.glob("*.pid"):
        if is_alive(int(file.read_text())):
            os.killpg(int(file.read_text()), 9)


def section(**changes):
    return Cluster(
        **{
            "workers": 2,
            "memory": "1GiB",
            "slurm": {"queue": "fast", "account": "gc", "walltime": "00:10:00", "interface": "lo"},
            **changes,
        }
    )


def _who(k):
    import cv2

    time.sleep(0.1)
    settings = os.environ["OMP_NUM_THREADS"], os.environ.get("MODULE"), cv2.getNumThreads()
    return os.getpid(), settings


def test_jobs_are_submitted_used_and_cancelled(queue, tmp_path, certificates):
    settings = section(
        resources={"BIG": 1},
        tls=certificates,
        slurm={"queue": "fast", "account": "gc", "walltime": "00:10:00", "interface": "lo",
               "prologue": ["export MODULE=loaded"], "directives": ["--constraint=fast"],
               "local_directory": str(tmp_path / "spill"), "log_directory": str(tmp_path / "logs")},
    )  # fmt: skip
    with cluster.client(settings, needs=["numpy"]) as client:
        client.wait_for_workers(2, timeout=40)
        needs = cluster.task_resources(settings)
        found = client.gather(client.map(_who, range(20), resources=needs))
        assert client.scheduler.address.startswith("tls://")
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert {w["memory_limit"] for w in workers} == {2**30}
        assert {w["nthreads"] for w in workers} == {1}
        assert len({pid for pid, _ in found}) == 2
        assert {about for _, about in found} == {("1", "loaded", 1)}
    assert len(list(queue.glob("*.sh"))) == len(list(queue.glob("*.cancelled"))) == 2
    deadline = time.monotonic() + 20
    while any(is_alive(int(p.read_text())) for p in queue.glob("*.pid")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    script = next(queue.glob("*.sh")).read_text()
    for line in ("-p fast", "-A gc", "-t 00:10:00", "--mem=1G", "--cpus-per-task=1",
                 "--constraint=fast"):  # fmt: skip
        assert f"#SBATCH {line}\n" in script


def test_a_job_holds_several_workers_and_comes_with_the_work(queue):
    settings = section(
        adaptive={"minimum": 0, "maximum": 2}, slurm={"processes": 2, "interface": "lo"}
    )
    with cluster.client(settings) as client:
        assert not list(queue.glob("*.sh"))
        assert len(client.gather(client.map(_who, range(60)))) == 60
        script = next(queue.glob("*.sh")).read_text()
        assert "--nworkers 2" in script
        assert "#SBATCH --mem=2G" in script
        assert "#SBATCH --cpus-per-task=2" in script


@pytest.mark.parametrize(
    ("partition", "words"),
    [("closed", "invalid partition specified: closed"), ("small", "QOSMaxSubmitJobPerUserLimit")],
)
def test_what_sbatch_refuses_is_told_in_one_line(queue, partition, words):
    start = time.monotonic()
    refused = section(slurm={"queue": partition, "interface": "lo"})
    with pytest.raises(InputError) as caught, cluster.client(refused):
        pass
    assert words in str(caught.value)
    assert "correct queue" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20
    # the first job, if it was accepted, is taken back
    assert len(list(queue.glob("*.sh"))) == len(list(queue.glob("*.cancelled")))


def test_without_sbatch_the_kind_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no sbatch on PATH; run on a login node"):
        cluster.client(section()).__enter__()


def test_an_unknown_interface_is_told_in_one_line(queue):
    with pytest.raises(InputError, match="no_such_if") as caught:
        cluster.client(section(slurm={"interface": "no_such_if"})).__enter__()
    assert "\n" not in str(caught.value)


def test_cores_and_memory_of_a_job_are_those_of_its_workers():
    options = job_options(
        section(threads=3, memory="4GiB", slurm={"processes": 2, "cores": 8}, resources={"A": 0.5})
    )
    assert (options["cores"], options["job_cpu"]) == (6, 8)
    assert options["memory"] == f"{8 * 2**30}B"
    assert options["worker_extra_args"] == ["--resources", "A=1.5"]
