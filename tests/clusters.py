"""Real scheduler and worker processes on loopback for tests, by deploy/local-cluster.sh."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "deploy" / "local-cluster.sh"


@dataclass(frozen=True)
class LocalCluster:
    """A cluster that runs.

    Attributes
    ----------
    folder : Path
        Where its files are: address, scheduler.json, *.pid, *.log, tls/.
    address : str
        Of the scheduler.
    scheduler_pid, worker_pids : int, tuple of int
        Processes, whether they still live or not.
    tls : dict of str, or None
        PEM files ``ca``, ``cert`` and ``key``, as in the section ``cluster.tls``.
    """

    folder: Path
    address: str
    scheduler_pid: int
    worker_pids: tuple[int, ...]
    tls: dict[str, str] | None

    def kill_worker(self, k: int = 0) -> None:
        """Kill worker ``k`` as kill -9 does; it is gone when this returns."""
        kill(self.worker_pids[k])

    def kill_scheduler(self) -> None:
        """Kill the scheduler as kill -9 does; it is gone when this returns."""
        kill(self.scheduler_pid)

    def add_worker(self, name: str, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start one more worker, without waiting for it; it is stopped with the others."""
        with open(self.folder / f"worker-{name}.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_worker", "--name", name,
                 "--scheduler-file", str(self.folder / "scheduler.json"), "--no-nanny",
                 "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard",
                 "--local-directory", str(self.folder), *options],
                env={**_environment(), **environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        (self.folder / f"worker-{name}.pid").write_text(f"{process.pid}\n")
        return process


def script(
    *arguments: object, timeout: float = 90, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run local-cluster.sh with this interpreter; what tests define can be imported by workers."""
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        env={**_environment(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def local_cluster(
    folder: str | Path, workers: int = 2, threads: int = 1, tls: bool = False
) -> Iterator[LocalCluster]:
    """Start a cluster whose files are in ``folder``, and stop it at the end whatever happens."""
    folder = Path(folder)
    more = ["--tls"] if tls else []
    try:
        done = script("start", "--dir", folder, "--workers", workers, "--threads", threads, *more)
        assert done.returncode == 0, done.stderr
        yield LocalCluster(
            folder=folder,
            address=(folder / "address").read_text().strip(),
            scheduler_pid=_pid(folder / "scheduler.pid"),
            worker_pids=tuple(_pid(folder / f"worker-{k}.pid") for k in range(workers)),
            tls={n: str(folder / "tls" / f"{n}.pem") for n in ("ca", "cert", "key")}
            if tls
            else None,
        )
    finally:
        done = script("stop", "--dir", folder)
        assert done.returncode == 0, done.stderr


def kill(pid: int, seconds: float = 10) -> None:
    """SIGKILL, and wait until the process is gone."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} survived SIGKILL"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(state) and not state.startswith("Z")


def _environment() -> dict[str, str]:
    here = str(Path(__file__).parent)
    return {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": here}


def _pid(file: Path) -> int:
    return int(file.read_text())
