"""What every worker of a run is given: one core per thread, and the demand for the same code."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import signal
import threading
from contextlib import suppress
from typing import Any

from distributed import WorkerPlugin

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


class SameCode(WorkerPlugin):
    """Turns away workers that join a run with other code than that of its client.

    Those there at the start are compared by `gcdask.cluster.versions`; this is for those that come
    later. A worker without gcdask fails by itself, as it cannot load this class.

    Parameters
    ----------
    versions : dict of str
        What a worker must have: ``{package: version}``.
    needs : sequence of str
        Packages that it must be able to import.
    """

    name = "gcdask-same-code"
    topic = "gcdask-turned-away"

    def __init__(self, versions: dict[str, str], needs: tuple[str, ...] = ()) -> None:
        self.versions = versions
        self.needs = needs

    def setup(self, worker: Any) -> None:
        """Run on each worker as it starts; close it if it does not suit."""
        from gcdask.cluster.versions import of_this_process

        mine = of_this_process()
        problems = [
            f"has {package} {mine[package]}, the run {version}"
            for package, version in self.versions.items()
            if mine[package] != version
        ]
        problems += [f"lacks {name}" for name in self.needs if not importlib.util.find_spec(name)]
        if not problems:
            return
        text = f"worker {worker.address} {', '.join(problems)}; install the same there"
        logging.getLogger("distributed.worker").error("turned away by a run: %s", text)
        worker.log_event(self.topic, text)
        # not here: a worker cannot end while it starts; no task is begun before this
        worker.loop.add_callback(worker.close, reason="gcdask-same-code")


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
