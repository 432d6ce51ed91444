"""Running many independent tasks, on a cluster or in this process, with progress."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import dask
import xarray as xr
from distributed import Client, Future, as_completed
from distributed.system import MEMORY_LIMIT

from gcdask.errors import InputError

WORKER_TIMEOUT = 30  # s
#: Up to so many tiles (1.7e10 px in tiles of 4096) are submitted at once, more in a rolling window:
#: the scheduler then stays small, and no worker waits for its next tile.
IN_FLIGHT = 1024
KEEP = 1 / 8  # of the memory of all workers: what one stage may keep for the next one

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


@dataclass
class Runner:
    """Where tasks run (``client``, or this process without one) and who hears of it."""

    client: Client | None = None
    progress: Progress = silent
    timings: dict[str, float] = field(default_factory=dict)

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
        with self.client.as_current():
            yield

    def check_folder(self, file: Path) -> None:
        """Raise `InputError` if a worker does not see a file that was just written."""
        if self.client is None:
            return
        seen = self.client.run(os.path.exists, str(file))
        blind = [address for address, there in seen.items() if not there]
        if blind:
            raise InputError(
                f"worker {blind[0]} does not see the output folder {file.parent}; give --out on a "
                "file system that all workers share"
            )

    def map(self, stage: str, func: Callable[..., Any], items: Sequence[Any], *args: Any) -> list:
        """``func(item, *args)`` of every item, in the order of ``items``.

        One task an item; ``args`` travel to each worker once. At most `IN_FLIGHT` tasks are known
        to the scheduler at a time, the next one is submitted as one ends.
        """
        return self._map(stage, func, items, args, keep=False)[0]

    def map_and_keep(
        self, stage: str, func: Callable[..., Any], items: Sequence[Any], *args: Any
    ) -> tuple[list, list]:
        """As `map` for a function that returns a pair: the first of each, and the second.

        On a cluster the second ones stay on their workers: they are futures, to be items (or parts
        of items) of a later `map`, whose tasks then go to where they are.
        """
        return self._map(stage, func, items, args, keep=True)

    @property
    def room(self) -> float:
        """Bytes that may be kept between two stages, on all workers together."""
        if self.client is None:
            return KEEP * MEMORY_LIMIT
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return KEEP * sum(w["memory_limit"] or 0 for w in workers)

    def _map(
        self, stage: str, func: Callable[..., Any], items: Sequence[Any], args: Any, *, keep: bool
    ) -> tuple[list, list]:
        with self.stage(stage, len(items)):
            if self.client is not None:
                return self._submit(stage, func, items, args, keep)
            results, kept = [], []
            for k, item in enumerate(items):
                value = func(item, *args)
                results.append(value[0] if keep else value)
                kept.append(value[1] if keep else None)
                self.progress(stage, k + 1, len(items))
            return results, kept

    def _submit(
        self, stage: str, func: Callable[..., Any], items: Sequence[Any], args: Any, keep: bool
    ) -> tuple[list, list]:
        assert self.client is not None
        client = self.client
        kept: list[Any] = [None] * len(items)
        common = [client.scatter(a, broadcast=True, hash=False) for a in args]
        waiting = iter(enumerate(items))
        where: dict[Any, int] = {}

        def submit(n: int) -> list[Future]:
            futures = []
            for k, item in itertools.islice(waiting, n):
                future = client.submit(func, item, *common, pure=False)
                if keep:
                    kept[k] = client.submit(itemgetter(1), future, pure=False)
                    future = client.submit(itemgetter(0), future, pure=False)
                futures.append(future)
                where[futures[-1]] = k
            return futures

        results: list[Any] = [None] * len(items)
        # the client's own loop: that of another client would miss what happens to its futures
        running = as_completed(submit(IN_FLIGHT), loop=client.loop, with_results=True)
        try:
            for done, (future, value) in enumerate(running, 1):
                results[where.pop(future)] = value
                running.update(submit(1))
                self.progress(stage, done, len(items))
        finally:
            client.cancel(list(where))  # those still waiting, if one failed
        return results, kept

    def compute(self, stage: str, tree: Any) -> Any:
        """Compute everything lazy in a tree of dicts, as one step of the progress.

        Datasets are taken apart into their arrays, as `Dataset.compute` does: optimising them
        whole loses 0-d layers that several variables share (dask 2026.8).
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
