"""The same code everywhere: versions of client, scheduler and workers, packages that a run needs.

A worker of another version would compute something else, or fail hours later in a way that tells
nobody why; so this is looked at before work starts.
"""

from __future__ import annotations

import importlib.util
import logging
import pkgutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import dask
import distributed

from gcdask import storage
from gcdask._version import __version__
from gcdask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

#: A difference in these ends the run, in the others it is a warning.
STRICT = ("gcdask", "python", "dask", "distributed")
LOOSE = ("numpy", "pandas", "zarr", "numba", "numcodecs", "msgpack", "lz4", "blosc")
EXTRAS = dict(storage.NEEDS.values())
SCHEDULER = "the scheduler"

Versions = dict[str, str | None]


def of_this_process() -> dict[str, str]:
    """Versions of `STRICT` here; ``python`` without its patch level."""
    return {
        "gcdask": __version__,
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "dask": dask.__version__,
        "distributed": distributed.__version__,
    }


def check(client: Client) -> None:
    """Compare the versions of this process, the scheduler and all workers.

    Raises
    ------
    InputError
        If gcdask, Python's minor version, dask or distributed differ anywhere. Differences in the
        packages that hold or carry data are one warning.
    """
    here, others = _collect(client)
    wrong = _different(here, others, STRICT)
    if wrong:
        raise InputError(_one_line(*wrong[0]))
    odd = _different(here, others, LOOSE)
    if odd:
        found = ", ".join(f"{p} {v or 'none'} on {_among(w)} ({o} here)" for p, o, v, w in odd)
        logging.getLogger(__name__).warning(
            "other versions than here: %s; install the same if results or speed surprise", found
        )


def check_needs(client: Client | None, needs: Iterable[str]) -> None:
    """Raise `InputError` if a worker (this process, for None) cannot import a package."""
    names = tuple(needs)
    if not names:
        return
    if client is None:
        found: dict[str, list[str]] = {"this process": lacking(names)}
    else:
        found = {f"worker {w}": missing for w, missing in client.run(lacking, names).items()}
    for name in names:
        where = [place for place, missing in found.items() if name in missing]
        if where:
            extra = f"'gcdask[{EXTRAS[name]}]'" if name in EXTRAS else name
            raise InputError(f"{_among(where)} cannot import {name}; pip install {extra} there")


def lacking(names: Iterable[str]) -> list[str]:
    """Those packages that this process cannot import."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def _collect(client: Client) -> tuple[Versions, dict[str, Versions]]:
    """Versions here, and at every other place by its name."""
    # What is installed is asked with functions of Dask and of Python alone: gcdask may be missing.
    known: Any = client.get_versions(packages=["zarr", "numba", "numcodecs", "blosc"])
    ours: Any = client.run(pkgutil.resolve_name, "gcdask._version:__version__", on_error="return")
    others = {SCHEDULER: _plain(known["scheduler"], None)}
    for address, answer in known["workers"].items():
        version = ours.get(address)
        missing = version is None or isinstance(version, BaseException)
        others[f"worker {address}"] = _plain(answer, None if missing else version)
    return {**_plain(known["client"], None), **of_this_process()}, others


def _plain(answer: dict[str, Any], version: str | None) -> Versions:
    packages = answer["packages"]
    python = ".".join(packages["python"].split(".")[:2])
    return {**packages, "python": python, "gcdask": version}


def _different(
    here: Versions, others: dict[str, Versions], packages: Iterable[str]
) -> list[tuple[str, str | None, str | None, list[str]]]:
    """List ``(package, version here, other version, places that have it)``."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for package in packages:
        for place, versions in others.items():
            version = versions.get(package)
            if place == SCHEDULER and version is None:
                continue  # it passes data on, and need not be able to read them
            if version != here.get(package):
                found.setdefault((package, version), []).append(place)
    return [(package, here.get(package), v, where) for (package, v), where in found.items()]


def _one_line(package: str, here: str | None, other: str | None, where: list[str]) -> str:
    name = "Python" if package == "python" else package
    remedy = (
        f"start it with Python {here}"
        if package == "python"
        else f"install {package}=={here} there, or the other version here"
    )
    has = f"{name} {other}" if other else f"no {name}"
    return f"{_among(where)} has {has}, this process {name} {here}; {remedy}"


def _among(where: list[str]) -> str:
    return where[0] + (f" (and {len(where) - 1} more)" if len(where) > 1 else "")
