"""Jobs of a SLURM queue: the scheduler in this process, the workers in jobs (dask-jobqueue)."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from dask.utils import parse_bytes
from distributed.core import Status

from gcdask.cluster.optional import optional
from gcdask.cluster.plugins import THREADS
from gcdask.cluster.quiet import close, quiet, reason
from gcdask.cluster.security import security
from gcdask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

    from gcdask.sections import Cluster


@contextmanager
def slurm(settings: Cluster) -> Iterator[Client]:
    """Submit jobs with sbatch, and cancel them at the end; they start when SLURM lets them.

    Raises
    ------
    InputError
        If there is no sbatch here, or it refuses a job.
    """
    from distributed import Client

    jobqueue = optional("dask_jobqueue", "hpc")
    if shutil.which("sbatch") is None:
        raise InputError(
            "cluster.kind slurm: no sbatch on PATH; run on a login node of the SLURM cluster, or "
            "give another kind"
        )
    adaptive = settings.adaptive
    with ExitStack() as stack:
        try:
            cluster = jobqueue.SLURMCluster(**job_options(settings))
            stack.callback(close, cluster)
            with quiet():
                cluster.sync(_submit, cluster, adaptive.minimum if adaptive else settings.workers)
        except (RuntimeError, OSError, ValueError) as error:
            raise InputError(
                f"cluster.slurm: no job was submitted ({_said(error)}); correct queue, account, "
                "walltime, cores or directives"
            ) from None
        opened = Client(cluster)
        stack.callback(close, opened)
        if adaptive:
            cluster.adapt(minimum=adaptive.minimum, maximum=adaptive.maximum)
        yield opened


async def _submit(cluster: Any, workers: int) -> None:
    """Submit jobs, and raise what sbatch says: `scale` alone would only log it."""
    cluster.scale(workers)
    try:
        await cluster
    except BaseException:
        for job in cluster.workers.values():
            job.status = Status.failed  # closing takes those submitted back, and insists on this
        raise


def job_options(settings: Cluster) -> dict[str, Any]:
    """Arguments of SLURMCluster for a section ``cluster``."""
    from gcdask.sections import Slurm

    job = settings.slurm or Slurm()
    offered = " ".join(f"{n}={v * settings.threads:g}" for n, v in settings.resources.items())
    return {
        "queue": job.queue,
        "account": job.account,
        "walltime": job.walltime,
        "cores": job.processes * settings.threads,
        "job_cpu": job.cores,
        "processes": job.processes,
        "memory": f"{job.processes * parse_bytes(settings.memory)}B",
        "interface": job.interface,
        "local_directory": job.local_directory,
        "log_directory": job.log_directory,
        "job_script_prologue": [*(f"export {n}={v}" for n, v in THREADS.items()), *job.prologue],
        "job_extra_directives": list(job.directives),
        "worker_extra_args": ["--resources", shlex.quote(offered)] if offered else [],
        "security": security(settings.tls) if settings.tls else None,
        # not on the network unless it is asked for
        "scheduler_options": {"dashboard_address": ":0" if settings.dashboard else "127.0.0.1:0"},
        "silence_logs": logging.ERROR,
    }


def _said(error: BaseException) -> str:
    """What sbatch wrote to its standard error, or what the exception says."""
    _, found, said = str(error).partition("stderr:\n")
    return " ".join(said.split())[:200] if found and said.strip() else reason(error)
