"""From a configuration to a Dask client: own worker processes, a running scheduler, or neither.

Work is parallel over tiles, so the thread pools inside the kernels (OpenCV, BLAS, numba) are off:
N workers use N cores, and no more.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import logging
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin

from gcdask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

    from gcdask.sections import Cluster

CONNECT_SECONDS = 8
REUSED = 2**25  # bytes of the largest array whose memory is kept for the next one
THREADS = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


class KernelThreads(WorkerPlugin):
    """Turns the threads inside kernels off on every worker.

    Parameters
    ----------
    own : bool
        Whether we started the workers: they then ignore Ctrl-C, which reaches the whole process
        group, and leave it to the client to close them without tracebacks.
    """

    name = "gcdask-kernel-threads"
    idempotent = True

    def __init__(self, *, own: bool = False) -> None:
        self.own = own

    def setup(self, worker: Any) -> None:
        """Run on each worker as it starts."""
        import cv2
        import zarr

        cv2.setNumThreads(1)
        keep_freed_memory()
        # decoding too is the work of the task that reads; one core a thread is all there is
        zarr.config.set({"threading.max_workers": worker.state.nthreads})
        if self.own and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def keep_freed_memory() -> None:
    """Let the allocator of this process reuse large arrays rather than give them back at once.

    Dask's workers start with a trim threshold of 64 KiB, which also makes every array a new mapping
    whose pages fault in one by one: a fifth of the time of a tile of 2048 px. (Larger arrays are
    mapped all the same, so that memory stays bounded.) Does nothing where the allocator is not
    glibc's.
    """
    trim, mapped = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim, 2 * REUSED)
        libc.mallopt(mapped, REUSED)


@contextmanager
def client(
    settings: Cluster, *, workers: int | None = None, scheduler: str | None = None
) -> Iterator[Client | None]:
    """Open a client for a run, and close what was opened for it.

    Parameters
    ----------
    settings : gcdask.sections.Cluster
        The section ``cluster`` of a configuration.
    workers : int, optional
        Instead of ``settings.workers``; 0 computes in this process, without a cluster. Given, a
        ``settings.scheduler`` is not used.
    scheduler : str, optional
        Address of a running scheduler, instead of ``settings.scheduler``.

    Yields
    ------
    distributed.Client or None
        The default client meanwhile; None for ``workers=0``.

    Raises
    ------
    InputError
        If the scheduler cannot be reached, or its workers lack gcdask.
    """
    if workers is not None and scheduler is not None:
        raise InputError(
            f"workers {workers} and scheduler {scheduler} are both given; give one of them"
        )
    if workers is not None and workers < 0:
        raise InputError(f"workers = {workers} is negative; give 0 (no cluster) or more")
    address = scheduler if scheduler is not None or workers is not None else settings.scheduler
    n = settings.workers if workers is None else workers
    if address is not None:
        with _remote(address) as remote:
            yield remote
    elif n == 0:
        with _in_process(settings.threads):
            yield None
    else:
        with _local(settings, n) as local:
            yield local


@contextmanager
def _in_process(threads: int) -> Iterator[None]:
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
def _local(settings: Cluster, workers: int) -> Iterator[Client]:
    from distributed import Client, LocalCluster

    dashboard = settings.dashboard and importlib.util.find_spec("bokeh") is not None
    with ExitStack() as stack:
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=settings.threads,
            processes=True,
            memory_limit=settings.memory,
            dashboard_address="127.0.0.1:0" if dashboard else None,
            # Even without a dashboard there is a small HTTP server; not at the port of others.
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            # Failed tasks come back as exceptions; the log would print them a second time.
            silence_logs=logging.CRITICAL,
            env=THREADS,
        )
        stack.callback(_close, cluster)
        opened = Client(cluster)
        stack.callback(_close, opened)
        opened.register_plugin(KernelThreads(own=True))
        if dashboard:
            print(f"Dask dashboard: {cluster.dashboard_link}", flush=True)
        yield opened


@contextmanager
def _remote(address: str) -> Iterator[Client]:
    from distributed import Client

    with _quiet():
        try:
            # First a handshake of our own: Client waits for ever on a port that never answers.
            with ThreadPoolExecutor(1) as pool:  # a notebook's thread has a running loop
                pool.submit(asyncio.run, _shake_hands(address)).result()
            opened = Client(address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise InputError(
                f"no Dask scheduler at {address} ({reason}); start one (dask scheduler) and give "
                "its address as tcp://host:8786"
            ) from None
    try:
        try:
            opened.register_plugin(KernelThreads())
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"the workers of {address} cannot import gcdask ({error}); "
                "install the same version of gcdask there"
            ) from None
        if not opened.scheduler_info(n_workers=-1)["workers"]:
            logging.getLogger(__name__).warning(
                "the scheduler at %s has no workers yet; the run waits for them (dask worker %s)",
                address,
                address,
            )
        yield opened
    finally:
        _close(opened)


async def _shake_hands(address: str) -> None:
    from distributed.comm import connect
    from distributed.security import Security

    arguments = Security().get_connection_args("client")
    comm = await asyncio.wait_for(
        connect(address, timeout=CONNECT_SECONDS, **arguments), CONNECT_SECONDS + 1
    )
    await comm.close()


def _close(resource: Any) -> None:
    """Close a client or cluster; what heartbeats say about lost connections is not shown."""
    with _quiet(), suppress(OSError, TimeoutError):  # it may be gone already
        resource.close(timeout=20)


@contextmanager
def _quiet() -> Iterator[None]:
    names = ("tornado", "asyncio", "bokeh")
    before = {name: logging.getLogger(name).level for name in names}
    # distributed's loggers have levels of their own, but one handler.
    filters = [(h, h.level) for h in logging.getLogger("distributed").handlers]
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        for handler, _ in filters:
            handler.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        for handler, level in filters:
            handler.setLevel(level)
