"""Graphs between the partitions of a catalogue and other things, one layer written by hand each.

A delayed object per partition or chunk makes graphs slow to build, and `dask.dataframe` has no
operation between partitions and the chunks of a map. Here partitions become elements of an object
array, and what is made for each of them a DataFrame with the same partitions again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

FAN = 16  # results that one task merges: a tree, so that no task has thousands of inputs


def boxed(value: Any, ndim: int) -> np.ndarray:
    """``value`` as the only element of an object array."""
    out = np.empty((1,) * ndim, object)
    out[(0,) * ndim] = value
    return out


def elements(catalog: dd.DataFrame) -> tuple[list[Any], list[Any]]:
    """What stands for each partition in a task, and the collections that its layer depends on.

    A partition that comes of one task, as those of stored catalogues do, is that task: it then runs
    inside whichever needs it, and no partition waits in memory. The graph is optimised, so that
    only the columns that the catalogue selects are read, unless that would merge partitions.
    """
    frame = catalog.optimize()
    if frame.npartitions != catalog.npartitions:
        frame = catalog
    # Tasks of `dask.dataframe.from_delayed(verify_meta=False)` are aliases under a wrong key (seen
    # in dask 2026.8), on which `dask.array` stops with a missing dependency: mended here.
    graph: dict[Any, Any] = {
        key: type(task)(key, task.target) if getattr(task, "key", key) != key else task
        for key, task in dict(frame.__dask_graph__()).items()
    }
    keys = frame.__dask_keys__()
    tasks = [graph[key] for key in keys]
    if all(getattr(task, "dependencies", None) == frozenset() for task in tasks):
        return tasks, []
    name = keys[0][0]
    whole = HighLevelGraph({name: graph}, {name: set()})
    return keys, [da.Array(whole, name, ((1,) * len(keys),), meta=np.empty(0, object))]


def per_part(
    catalog: dd.DataFrame,
    function: Callable[..., Any],
    label: str,
    each: Sequence[Any] | None = None,
) -> da.Array:
    """``function(partition)`` as a lazy object array with one element per partition.

    With ``each``, ``function(partition, each[k])`` of partition k.
    """
    parts, dependencies = elements(catalog)
    more = [() for _ in parts] if each is None else [(value,) for value in each]
    tasks = [(function, part, *extra) for part, extra in zip(parts, more, strict=True)]
    return layer_of(label, tasks, dependencies, catalog._name, function, each)


def hand_made(
    name: str, layer: dict[Any, Any], dependencies: Sequence[Any], shape: tuple[int, ...]
) -> da.Array:
    """Object array of this layer, one element per chunk; ``dependencies`` are dask collections."""
    graph = HighLevelGraph.from_collections(name, layer, dependencies=dependencies)
    ones = tuple((1,) * n for n in shape)
    return da.Array(graph, name, ones, meta=np.empty((0,) * len(shape), object))


def boxed_call(function: Callable[..., Any], *arguments: Any) -> np.ndarray:
    """``function(*arguments)`` as an element of a one-dimensional object array."""
    return boxed(function(*arguments), 1)


def layer_of(
    label: str, tasks: Sequence[tuple[Any, ...]], dependencies: Sequence[Any], *token: Any
) -> da.Array:
    """Object array of one layer: task k, ``(function, *arguments)`` with keys, makes element k."""
    name = f"{label}-{tokenize([d.name for d in dependencies], *token)}"
    layer = {(name, k): (boxed_call, *task) for k, task in enumerate(tasks)}
    return hand_made(name, layer, dependencies, (len(tasks),))


def keys_of(parts: da.Array, which: Sequence[int] | None = None) -> list[Any]:
    """Keys of some elements of an array with one element per chunk; of all by default."""
    return [(parts.name, k) for k in (range(parts.size) if which is None else which)]


def gathered(parts: da.Array, function: Callable[[list[Any]], Any]) -> da.Array:
    """One task: ``function`` of the list of all elements, as a lazy array of one object."""
    return layer_of("gathered", [(_call_all, function, keys_of(parts))], [parts], function)


def merged(parts: da.Array, function: Callable[[list[Any]], Any]) -> da.Array:
    """`gathered` as a tree, for a ``function`` of lists that may be applied to its own results."""
    while parts.size > FAN:
        groups = [range(k, min(k + FAN, parts.size)) for k in range(0, parts.size, FAN)]
        tasks = [(_call_all, function, keys_of(parts, group)) for group in groups]
        parts = layer_of("merged", tasks, [parts], function)
    return gathered(parts, function)


def _call_all(function: Callable[[list[Any]], Any], parts: list[np.ndarray]) -> Any:
    return function([part.item() for part in parts])


class _Graph(Mapping):
    """A graph that is not tokenised task by task: its name says what it computes."""

    def __init__(self, graph: Mapping[Any, Any], name: str) -> None:
        self.graph, self.name = dict(graph), name

    def __dask_tokenize__(self) -> Any:
        return ("gcdask", self.name)

    def __getitem__(self, key: Any) -> Any:
        return self.graph[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.graph)

    def __len__(self) -> int:
        return len(self.graph)


def as_frame(parts: da.Array, meta: pd.DataFrame) -> dd.DataFrame:
    """DataFrame whose partitions are the elements of an object array, unchecked."""
    name = f"frame-{parts.name}"
    layer: dict[Any, Any] = {
        (name, k): (np.ndarray.item, key) for k, key in enumerate(keys_of(parts))
    }
    graph = hand_made(name, layer, [parts], (parts.size,)).dask
    return dd.from_graph(
        _Graph(graph, name), meta, (None,) * (parts.size + 1), list(layer), "from-parts"
    )
