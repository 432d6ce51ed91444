"""The output folder: versions of a run side by side, and which one is valid.

``OUT/runs/ID`` holds everything of one run; ``run.json`` in it says what it is and how far it got,
``manifest.json``, written last, what of it is valid. ``OUT/latest.json`` names the newest complete
run and is switched when all of it is there (on a local disk the link ``OUT/latest`` follows). A run
never writes into another one's folder, so that readers of the old one are not disturbed, on a disk
as on an object store.
"""

from __future__ import annotations

import calendar
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcdask import storage
from gcdask._version import __version__
from gcdask.errors import InputError
from gcdask.pipeline import lock
from gcdask.pipeline.identity import digest, identify, plain

if TYPE_CHECKING:
    from gcdask.config import Config
    from gcdask.pipeline.runner import Runner

log = logging.getLogger(__name__)

STAGES = ("detect", "catalogue", "inpaint", "maps", "fits", "results")
RUNS, LATEST, LINK, RUN, MANIFEST = "runs", "latest.json", "latest", "run.json", "manifest.json"
BASES = 3  # newest runs that are asked for what still holds, besides the latest complete one
TILES = "tiles"  # records and parts of tiles, by field
INPUT = "input"  # a folder of this name may lie beside the outputs; it is never touched
CONFIG = "configuration"
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
_TIME = "%Y%m%d-%H%M%S"


def now() -> str:
    """The time in UTC, as in ``run.json``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# -- what is there -------------------------------------------------------------------------------
def ids(out: str) -> list[str]:
    """Identities of the runs in a folder, oldest first."""
    return [name for name in storage.names(storage.join(out, RUNS)) if _ID.fullmatch(name)]


def folder_of(out: str, run: str) -> str:
    """Folder of a run."""
    return storage.join(out, RUNS, run)


def record_of(out: str, run: str) -> dict[str, Any]:
    """Content of a run's ``run.json``; empty if it has none (it was stopped as it began)."""
    found = storage.read_json(storage.join(folder_of(out, run), RUN))
    return found if isinstance(found, dict) else {}


def latest(out: str) -> str | None:
    """The newest complete run; None if there is none."""
    found = storage.read_json(storage.join(out, LATEST))
    run = found.get("run") if isinstance(found, dict) else None
    return run if isinstance(run, str) and _ID.fullmatch(run) else None


def is_valid(folder: str) -> bool:
    """Whether a run's folder holds a run that came to its end."""
    return storage.read_json(storage.join(folder, MANIFEST)) is not None


def check(out: str, inputs: Iterable[tuple[str, str]] = ()) -> None:
    """Raise `InputError` if ``out`` is not for us: a file, other things in it, or our own input.

    ``inputs`` are the ``(key, path)`` of the run's input files, which must lie elsewhere (or in a
    folder `INPUT` of ``out``).
    """
    storage.check_url(out, "--out")
    if storage.protocol(out) in ("http", "https"):
        raise InputError(f"--out {out} cannot be written to; give a folder, or a URL like s3://")
    for key, path in inputs:
        if _is_below(path, out) and not _is_below(path, storage.join(out, INPUT)):
            raise InputError(f"{key}: {path} lies in the output folder {out}; choose another --out")
    try:
        if not storage.is_remote(out) and Path(out).is_file():
            raise InputError(f"output folder {out} is a file; choose another --out")
        known = {RUNS, LATEST, LINK, INPUT}
        other = [n for n in storage.names(out) if n not in known and not n.startswith(".")]
    except OSError as error:
        raise unwritable(out, error) from error
    if other:
        kind = "a run of an older gcdask" if RUN in other else f"{other[0]}, and no runs of gcdask"
        raise InputError(f"output folder {out} holds {kind}; choose another --out")


def check_folder(config: Config, out: str | Path) -> None:
    """Raise what `run` would if it refuses the output folder; writes nothing."""
    check(str(out), config.input_paths())
    lock.check(str(out))


def _is_below(path: str, folder: str) -> bool:
    if storage.is_remote(path) or storage.is_remote(folder):
        return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def unwritable(out: str, error: OSError) -> InputError:
    """The error of an output folder that the system does not let us use."""
    reason = error.strerror or type(error).__name__
    return InputError(
        f"output folder {out} cannot be written ({reason}); "
        "choose another --out, or free space or permissions there"
    )


# -- one run -------------------------------------------------------------------------------------
@dataclass
class Version:
    """A run in its folder, and the earlier ones (``bases``, newest first) that it may take from.

    ``force`` is the stage that is done anew, with all that follow from it; ``all`` is all.
    """

    out: str
    run: str
    record: dict[str, Any]
    bases: tuple[str, ...] = ()
    force: str | None = None
    failed: list[dict[str, Any]] = field(default_factory=list)
    _forced: bool = field(default=False, repr=False)

    @property
    def folder(self) -> str:
        """Where everything of it is."""
        return folder_of(self.out, self.run)

    def path(self, *names: str) -> str:
        """Path of something in its folder."""
        return storage.join(self.folder, *names)

    def states(self, *sections: str) -> dict[str, Any]:
        """States of the inputs that some sections of its configuration name."""
        return {k: v for k, v in self.record["inputs"].items() if k.split(".")[0] in sections}

    def note(self, **entries: Any) -> None:
        """Add to its ``run.json``."""
        self.record |= plain(entries)
        storage.write_json(self.path(RUN), self.record)

    def note_stage(self, name: str, **entries: Any) -> None:
        """Add to what its ``run.json`` says of a stage."""
        stages = self.record.setdefault("stages", {})
        stages[name] = plain({**stages.get(name, {}), **entries})
        self.note()

    def stage(
        self,
        name: str,
        depends: Any,
        products: Iterable[str],
        make: Callable[[], dict[str, Any] | None],
        runner: Runner,
    ) -> dict[str, Any]:
        """Do a stage, unless this run or an earlier one did it from the same things.

        Parameters
        ----------
        depends : anything that JSON can hold
            Whatever decides the products.
        products : iterable of str
            What ``make`` may leave in the folder.
        make : callable
            Does it, and returns what is to be known of it.

        Returns
        -------
        dict
            What ``make`` returned, now or then, and ``fingerprint``.
        """
        products = [*products]
        fingerprint = digest([__version__, name, depends])
        self._forced |= self.force == name.split()[0]
        if not self._forced:
            for base in (self.run, *self.bases):
                known = self._take_over(base, name, fingerprint, products)
                if known is not None:
                    log.info("%s: unchanged", name, extra={"stage": name, "state": "unchanged"})
                    return known
        for product in products:
            storage.remove(self.path(product))
        started = time.perf_counter()
        info = make() or {}
        seconds = round(time.perf_counter() - started, 3)
        there = [product for product in products if storage.exists(self.path(product))]
        self.note_stage(
            name, fingerprint=fingerprint, state="done", products=there, info=info,
            seconds=seconds, finished=now(),
        )  # fmt: skip
        runner.timings[name] = seconds
        log.info("%s: done", name, extra={"stage": name, "state": "done", "seconds": seconds})
        return {**plain(info), "fingerprint": fingerprint}

    def _take_over(
        self, base: str, name: str, fingerprint: str, known: Sequence[str]
    ) -> dict[str, Any] | None:
        """What is said of a stage in an earlier run (or this one), whose products are linked.

        ``known`` are those that it may have: whatever else the record names is not ours to touch.
        """
        record = self.record if base == self.run else record_of(self.out, base)
        found = record.get("stages", {}).get(name, {})
        if found.get("fingerprint") != fingerprint:
            return None
        source = folder_of(self.out, base)
        products = found.get("products", [])
        if not all(p in known and storage.exists(storage.join(source, p)) for p in products):
            return None
        if base != self.run:
            for product in products:
                storage.remove(self.path(product))
                storage.link_tree(storage.join(source, product), self.path(product))
        self.note_stage(name, **{**found, "state": "unchanged", "seconds": 0.0, "from": base})
        return {**found["info"], "fingerprint": fingerprint}

    def finish(self) -> None:
        """Say that the run is at its end; one without failed tiles becomes the latest."""
        status = "partial" if self.failed else "done"
        self.note(status=status, finished=now(), failed=self.failed)
        stages = self.record.get("stages", {}).values()
        names = {"maps.zarr"}.union(*(stage.get("products", ()) for stage in stages))
        there = sorted(name for name in names if storage.exists(self.path(name)))
        content = {"fingerprint": self.record["fingerprint"], "outputs": there}
        storage.write_json(self.path(MANIFEST), {**content, "failed": self.failed})
        if self.failed:
            return
        storage.write_json(storage.join(self.out, LATEST), {"run": self.run, "finished": now()})
        if not storage.is_remote(self.out):
            with suppress(OSError):  # a convenience: not every file system has links
                _point(Path(self.out, LINK), Path(RUNS, self.run))


def _point(link: Path, target: Path) -> None:
    """Switch a symbolic link in one step."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def begin(out: str, fingerprint: str, record: dict[str, Any], force: str | None) -> Version:
    """The folder of a run.

    The newest run is continued if it is of this fingerprint and was stopped, or left tiles that
    failed. Otherwise a new one begins, beside the others.
    """
    there = ids(out)
    newest = there[-1] if there else None
    # several: one that was stopped early has not come to all tiles of the one before
    known = (*there[: -BASES - 1 : -1], latest(out))
    bases = tuple(run for run in dict.fromkeys(known) if run in there)
    if newest and not force:
        before = record_of(out, newest)
        if before.get("fingerprint") == fingerprint and before.get("status") != "done":
            storage.remove(storage.join(folder_of(out, newest), MANIFEST))
            stages = {"stages": before.get("stages", {})}
            bases = tuple(run for run in bases if run != newest)
            return _begun(Version(out, newest, stages, bases), record, fingerprint)
    run = f"{_stamp(newest)}-{fingerprint[:8]}"
    version = Version(out, run, {}, () if force == "all" else bases, force)
    return _begun(version, record, fingerprint)


def _begun(version: Version, record: dict[str, Any], fingerprint: str) -> Version:
    version.note(
        run=version.run, status="running", fingerprint=fingerprint, version=__version__,
        started=now(), finished=None, failed=[], **record,
    )  # fmt: skip
    return version


def _stamp(newest: str | None) -> str:
    """The time, for a run's identity: after that of the newest run, whatever the clock says."""
    stamp = time.strftime(_TIME, time.gmtime())
    if newest is None or stamp > newest[:15]:
        return stamp
    last = calendar.timegm(time.strptime(newest[:15], _TIME))
    return time.strftime(_TIME, time.gmtime(last + 1))


# -- what a run left -----------------------------------------------------------------------------
@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes
    ----------
    out : Path or str
        Folder (or URL) of this run's products, below the output folder.
    results : dict
        The content of ``results.json``.
    report : Path, str or None
        The report.
    failed : tuple of dict
        ``field``, ``tile`` and ``reason`` of each tile that failed; not empty: a partial run.
    up_to_date : bool
        Nothing was to be done: a complete run of the same configuration and input was there.
    stages : dict
        What was done of each stage: ``state``, and for tiles ``done``, ``unchanged``, ``total``.
    """

    out: Path | str
    results: dict[str, Any]
    report: Path | str | None
    failed: tuple[dict[str, Any], ...] = ()
    up_to_date: bool = False
    stages: dict[str, Any] = field(default_factory=dict)


def result_of(version: Version, *, up_to_date: bool = False) -> RunResult:
    """What a run that came to its end left behind."""
    page = version.path("report.html")
    shown = str if storage.is_remote(version.out) else Path
    return RunResult(
        shown(version.folder),
        storage.read_json(version.path("results.json")),
        shown(page) if storage.exists(page) else None,
        tuple(version.record.get("failed", ())),
        up_to_date,
        version.record.get("stages", {}),
    )


def finished(config: Config, out: str | Path) -> RunResult | None:
    """The complete run of this configuration on these inputs, if ``out`` holds it already.

    Only sizes and times of the inputs are looked at (and small files read).
    """
    run = latest(str(out))
    if run is None:
        return None
    record = record_of(str(out), run)
    if not is_valid(folder_of(str(out), run)):
        return None
    if record.get("fingerprint") != identify(config)["fingerprint"]:
        return None
    return result_of(Version(str(out), run, record), up_to_date=True)
