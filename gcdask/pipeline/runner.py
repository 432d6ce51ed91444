"""Running many independent tasks, on a cluster or in this process, with progress."""

from __future__ import annotations

import contextlib
import errno
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import dask
import xarray as xr
from distributed import Client, Future, as_completed
from distributed.system import MEMORY_LIMIT

from gcdask import storage
from gcdask.errors import GcdaskError, InputError

WORKER_TIMEOUT = 30  # s
#: Up to so many tiles (1.7e10 px in tiles of 4096) are submitted at once, more in a rolling window:
#: the scheduler then stays small, and no worker waits for its next tile.
IN_FLIGHT = 1024
KEEP = 1 / 8  # of the memory of all workers: what one stage may keep for the next one

FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

Progress = Callable[[str, int, int], None]
Each = Callable[[Any, Any], None]


def silent(stage: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


@dataclass(frozen=True)
class Failed:
    """In place of a result: why a task failed, in one line, and the exception."""

    reason: str
    error: BaseException = field(repr=False)

    @property
    def is_of_the_run(self) -> bool:
        """Whether other tasks would fail too: the disk is full, or must not be written."""
        return isinstance(self.error, OSError) and self.error.errno in FATAL

    @property
    def is_of_the_worker(self) -> bool:
        """Whether its workers died: of this task, or of another one beside it."""
        return _killed(self.error)

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """From what a task raised."""
        if _killed(error):
            return cls("its worker was killed several times (out of memory?)", error)
        text = " ".join(str(error).split())
        own = isinstance(error, GcdaskError)
        return cls(storage.redact(text if own else f"{type(error).__name__}: {text}"), error)


@dataclass
class Runner:
    """Where tasks run (``client``, or this process without one) and who hears of it.

    ``resources`` are what a task needs of a worker (see `distributed.Client.submit`), ``retries``
    how often a task that failed is tried again.
    """

    client: Client | None = None
    progress: Progress = silent
    timings: dict[str, float] = field(default_factory=dict)
    retries: int = 0
    resources: dict[str, float] | None = None

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the client the one that dask collections are computed by.

        Raises
        ------
        InputError
            If its scheduler has no workers, nor gets one within half a minute.
        """
        if self.client is None:
            yield
            return
        try:
            self.client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
        except TimeoutError as error:
            raise InputError(
                f"the scheduler {self.client.scheduler.address} has no workers after "  # type: ignore[union-attr]
                f"{WORKER_TIMEOUT} s; start some (dask worker ADDRESS)"
            ) from error
        wanted = dask.annotate(resources=self.resources) if self.resources else None
        with self.client.as_current(), wanted or contextlib.nullcontext():
            yield

    def check_folder(self, file: str) -> None:
        """Raise `InputError` if a worker does not see a file that was just written."""
        if self.client is None:
            return
        seen = self.client.run(storage.exists, file)
        blind = [address for address, there in seen.items() if not there]
        if blind:
            raise InputError(
                f"worker {blind[0]} does not see {file}; give --out on a file system (or an "
                "object store) that all workers share"
            )

    def map(
        self,
        stage: str,
        func: Callable[..., Any],
        items: Sequence[Any],
        *args: Any,
        keep_failures: bool = False,
        each: Each | None = None,
    ) -> list:
        """``func(item, *args)`` of every item, in the order of ``items``.

        One task an item; ``args`` travel to each worker once. At most `IN_FLIGHT` tasks are known
        to the scheduler at a time, the next one is submitted as one ends. With ``keep_failures``
        the result of a task that failed is a `Failed`, and the others go on. ``each`` is called
        with every index and its result, as they come.
        """
        return self._map(stage, func, items, args, keep_failures, each, keep=False)[0]

    def map_and_keep(
        self,
        stage: str,
        func: Callable[..., Any],
        items: Sequence[Any],
        *args: Any,
        keep_failures: bool = False,
        each: Each | None = None,
    ) -> tuple[list, list]:
        """As `map` for a function that returns a pair: the first of each, and the second.

        On a cluster the second ones stay on their workers: they are futures, to be items (or parts
        of items) of a later `map`, whose tasks then go to where they are.
        """
        return self._map(stage, func, items, args, keep_failures, each, keep=True)

    @property
    def room(self) -> float:
        """Bytes that may be kept between two stages, on all workers together."""
        if self.client is None:
            return KEEP * MEMORY_LIMIT
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return KEEP * sum(w["memory_limit"] or 0 for w in workers)

    def _map(
        self,
        stage: str,
        func: Callable[..., Any],
        items: Sequence[Any],
        args: Any,
        keep_failures: bool,
        each: Each | None,
        *,
        keep: bool,
    ) -> tuple[list, list]:
        results: list[Any] = [None] * len(items)
        kept: list[Any] = [None] * len(items)
        pairs = self._submitted if self.client is not None else self._in_process
        with self.stage(stage, len(items)):
            outcomes = pairs(func, items, args, kept if keep else None)
            for done, (k, value) in enumerate(outcomes, 1):
                if isinstance(value, Failed) and (value.is_of_the_run or not keep_failures):
                    outcomes.close()
                    raise value.error
                results[k] = value
                if each is not None:
                    each(k, value)
                self.progress(stage, done, len(items))
        return results, kept

    def _in_process(
        self, func: Callable[..., Any], items: Sequence[Any], args: Any, kept: list | None
    ) -> Generator[tuple[int, Any], None, None]:
        """Yield the index and the result of every item, one after the other."""
        for k, item in enumerate(items):
            value: Any = None
            for _ in range(self.retries + 1):
                try:
                    value = func(item, *args)
                    break
                except Exception as error:
                    value = Failed.of(error)
            if kept is not None and not isinstance(value, Failed):
                value, kept[k] = value
            yield k, value

    def _submitted(
        self, func: Callable[..., Any], items: Sequence[Any], args: Any, kept: list | None
    ) -> Generator[tuple[int, Any], None, None]:
        """Yield the index and the result of every item as the cluster finishes them.

        A scheduler blames the loss of a worker on every task that was there: those given up for
        it are tried once more at the end, each alone, where only the guilty one fails.
        """
        assert self.client is not None
        client = self.client
        options = {"pure": False, "retries": self.retries, "resources": self.resources}
        # results of tasks, not scattered: what a lost worker held can be made again
        common = [client.submit(_same, a, **options) for a in args]
        waiting = iter(range(len(items)))
        suspects: list[int] = []
        alone: set[int] = set()
        where: dict[Future, int] = {}

        def submit(indices: Iterable[int]) -> list[Future]:
            futures = []
            for k in indices:
                future = client.submit(func, items[k], *common, **options)
                if kept is not None:
                    kept[k] = client.submit(itemgetter(1), future, **options)
                    future = client.submit(itemgetter(0), future, **options)
                futures.append(future)
                where[futures[-1]] = k
            return futures

        # the client's own loop: that of another client would miss what happens to its futures
        first = submit(itertools.islice(waiting, IN_FLIGHT))
        running = as_completed(first, loop=client.loop, with_results=True, raise_errors=False)
        try:
            for future, value in running:
                if future.status == "error":
                    value = Failed.of(future.exception())
                elif future.status != "finished":
                    raise _lost(client)
                k = where.pop(future)
                blamed = isinstance(value, Failed) and value.is_of_the_worker and k not in alone
                if blamed:
                    suspects.append(k)
                running.update(submit(itertools.islice(waiting, 1)))
                if suspects and not where:
                    alone.add(suspects[0])
                    running.update(submit([suspects.pop(0)]))
                if not blamed:
                    yield k, value
        except (CancelledError, OSError) as error:
            raise _lost(client) from error
        finally:
            with contextlib.suppress(Exception):  # the scheduler may be gone
                client.cancel(list(where))  # those still waiting, if one failed

    def compute(self, stage: str, tree: Any) -> Any:
        """Compute everything lazy in a tree of dicts, lists and xarray objects, in one graph.

        Datasets are taken apart: dask merges the graphs of variables, but a Dataset as a whole
        loses 0-d layers that several variables share (dask 2026.8).
        """
        with self.stage(stage, 1):
            leaves: list[Any] = []

            def collect(leaf: Any) -> Any:
                leaves.append(leaf)
                return leaf

            _walk(tree, collect)
            done = iter(dask.compute(*leaves))  # by the current client, or the configured scheduler
            return _walk(tree, lambda _: next(done))

    @contextlib.contextmanager
    def stage(self, name: str, total: int = 1) -> Iterator[None]:
        """Time a stage and announce its start and its end."""
        self.progress(name, 0, total)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.timings[name] = round(self.timings.get(name, 0.0) + spent, 3)
        self.progress(name, total, total)


def _killed(error: BaseException) -> bool:
    return type(error).__name__ == "KilledWorker"


def _same(value: Any) -> Any:
    return value


def _lost(client: Client) -> GcdaskError:
    """The error of a scheduler that went away."""
    address = getattr(client.scheduler, "address", "of the run")
    return GcdaskError(
        f"lost the connection to the scheduler {address}; start it again if it is gone, then the "
        "same command: it continues with the tiles that are done"
    )


def _walk(tree: Any, each: Callable[[Any], Any]) -> Any:
    """The tree with every dask collection in it replaced by ``each(collection)``."""
    if isinstance(tree, dict):
        return {k: _walk(v, each) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [_walk(v, each) for v in tree]
    if isinstance(tree, xr.Dataset):
        lazy = {k: v for k, v in tree.variables.items() if dask.is_dask_collection(v.data)}
        return tree.assign({k: v.copy(data=each(v.data)) for k, v in lazy.items()})
    if isinstance(tree, xr.DataArray):
        return tree.copy(data=_walk(tree.data, each))
    return each(tree) if dask.is_dask_collection(tree) else tree
