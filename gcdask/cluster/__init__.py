"""From a configuration to a Dask client: where a run computes, which changes none of its results.

One section, ``cluster``, chooses: own worker processes (`local`), a scheduler that runs
(`remote`), jobs of SLURM (`batch`), pods of Kubernetes (`kubernetes`) or a cluster of Dask Gateway
(`gateway`). Packages of the last three are imported when they are used, and not before.

Work is parallel over tiles, so the thread pools inside the kernels (OpenCV, BLAS, numba) are off:
N workers use N cores, and no more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from gcdask.cluster import batch, gateway, kubernetes, local, remote, versions
from gcdask.cluster.plugins import THREADS, KernelThreads, SameCode, keep_freed_memory
from gcdask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

    from gcdask.sections import Cluster

__all__ = ["THREADS", "client", "keep_freed_memory", "task_resources"]

log = logging.getLogger(__name__)

OPEN: dict[str, Callable[[Any], AbstractContextManager[Client]]] = {
    "local": local.processes,
    "scheduler": remote.running,
    "slurm": batch.slurm,
    "kubernetes": kubernetes.pods,
    "gateway": gateway.served,
}


@contextmanager
def client(
    settings: Cluster,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    scheduler_file: str | None = None,
    needs: Sequence[str] = (),
) -> Iterator[Client | None]:
    """Open a client for a run, and close what was opened for it.

    Parameters
    ----------
    settings : gcdask.sections.Cluster
        The section ``cluster`` of a configuration.
    workers : int, optional
        Instead of ``settings.workers`` and ``settings.adaptive``; 0 computes in this process,
        without a cluster. Given, a scheduler of ``settings`` is not used.
    scheduler, scheduler_file : str, optional
        A running scheduler, instead of what ``settings`` say: its address, or the file it wrote.
    needs : sequence of str
        Packages that the workers must be able to import, as s3fs.

    Yields
    ------
    distributed.Client or None
        The default client meanwhile; None for no workers.

    Raises
    ------
    InputError
        If the cluster cannot be had, or its scheduler or a worker runs other code than we do.
    """
    chosen = _choose(settings, workers, scheduler, scheduler_file)
    if chosen.resolved_kind == "local" and not (chosen.workers or chosen.adaptive):
        versions.check_needs(None, needs)
        with local.in_process(chosen.threads):
            yield None
        return
    with OPEN[chosen.resolved_kind](chosen) as opened:
        if chosen.dashboard and (chosen.resolved_kind != "local" or local.can_draw()):
            _tell_dashboard(opened)
        if chosen.resolved_kind == "local":  # its workers run what we run
            versions.check_needs(None, needs)
            yield opened
        else:
            with _same_code(opened, needs):
                if not opened.scheduler_info(n_workers=-1)["workers"]:
                    log.info("no worker of kind %s is there yet", chosen.resolved_kind)
                yield opened


def task_resources(settings: Cluster) -> dict[str, float] | None:
    """What each task takes of a worker, as ``resources=`` of `distributed.Client.submit`."""
    return dict(settings.resources) or None


def _choose(
    settings: Cluster, workers: int | None, scheduler: str | None, scheduler_file: str | None
) -> Cluster:
    """The settings with what the command line says instead."""
    given = {"workers": workers, "scheduler": scheduler, "scheduler file": scheduler_file}
    named = [f"{name} {value}" for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} are both given; give one of them")
    if scheduler is not None or scheduler_file is not None:
        address = {"scheduler": scheduler, "scheduler_file": scheduler_file}
        return settings.model_copy(update={"kind": "scheduler", "adaptive": None, **address})
    if workers is None:
        return settings
    if workers < 0:
        raise InputError(f"workers = {workers} is negative; give 0 (no cluster) or more")
    kind = settings.resolved_kind
    own = kind if workers and kind != "scheduler" else "local"
    return settings.model_copy(update={"kind": own, "workers": workers, "adaptive": None})


@contextmanager
def _same_code(opened: Client, needs: Sequence[str]) -> Iterator[None]:
    """See that the workers run our code: those there now, and those that come meanwhile."""

    def warn(event: tuple[Any, Any]) -> None:
        log.warning("turned away: %s", event[1])

    versions.check(opened)
    versions.check_needs(opened, needs)
    opened.register_plugin(SameCode(versions.of_this_process(), tuple(needs)))
    opened.subscribe_topic(SameCode.topic, warn)
    opened.register_plugin(KernelThreads())
    try:
        yield
    finally:
        # else the scheduler would hold workers of a later version to ours
        if opened.status == "running" and opened.scheduler is not None:
            with suppress(Exception):  # it may be gone all the same
                remove = opened.scheduler.unregister_worker_plugin
                opened.sync(remove, name=SameCode.name, callback_timeout=5)


def _tell_dashboard(opened: Client) -> None:
    with suppress(KeyError):  # a scheduler without one
        link = opened.dashboard_link
        if link:
            print(f"Dask dashboard: {link}", flush=True)
