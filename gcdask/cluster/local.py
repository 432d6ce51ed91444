"""Own worker processes on this machine, or none at all."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from gcdask.cluster.plugins import THREADS, KernelThreads, keep_freed_memory
from gcdask.cluster.quiet import close
from gcdask.cluster.security import security

if TYPE_CHECKING:
    from distributed import Client

    from gcdask.sections import Cluster


def can_draw() -> bool:
    """Whether what Dask's dashboard needs is installed here."""
    return importlib.util.find_spec("bokeh") is not None


@contextmanager
def in_process(threads: int) -> Iterator[None]:
    """Compute in this process, with threads of it if there are to be several."""
    import cv2
    import dask

    keep_freed_memory()
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    options: dict[str, Any] = {"scheduler": "synchronous"}
    if threads > 1:
        options = {"scheduler": "threads", "num_workers": threads}
    try:
        with dask.config.set(**options):
            yield
    finally:
        cv2.setNumThreads(before)


@contextmanager
def processes(settings: Cluster) -> Iterator[Client]:
    """Start a scheduler in this process and workers in processes of their own."""
    from distributed import Client, LocalCluster

    dashboard = settings.dashboard and can_draw()
    adaptive = settings.adaptive
    encrypted = {"protocol": "tls", "security": security(settings.tls)} if settings.tls else {}
    with ExitStack() as stack:
        cluster = LocalCluster(
            n_workers=adaptive.minimum if adaptive else settings.workers,
            threads_per_worker=settings.threads,
            processes=True,
            memory_limit=settings.memory,
            resources={n: v * settings.threads for n, v in settings.resources.items()},
            dashboard_address="127.0.0.1:0" if dashboard else None,
            # Even without a dashboard there is a small HTTP server; not at the port of others.
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            # Failed tasks come back as exceptions; the log would print them a second time.
            silence_logs=logging.CRITICAL,
            env=THREADS,
            **encrypted,
        )
        stack.callback(close, cluster)
        opened = Client(cluster)
        stack.callback(close, opened)
        opened.register_plugin(KernelThreads(own=True))
        if adaptive:
            cluster.adapt(minimum=adaptive.minimum, maximum=adaptive.maximum)
        yield opened
