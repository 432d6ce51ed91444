"""The stages of a run in their order: detect, catalogue, inpaint, maps, FITS, results.

A stage takes what the stages before it wrote, and writes its own products into the run's folder.
What decides its products makes its fingerprint; a stage (or a tile) whose fingerprint an earlier
run has already is taken over.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version as installed
from pathlib import Path

from distributed import Client

from gcdask import storage
from gcdask.config import Config
from gcdask.errors import InputError
from gcdask.pipeline import lock, versions
from gcdask.pipeline.identity import identify
from gcdask.pipeline.inputs import Inputs, open_inputs
from gcdask.pipeline.measures import measure
from gcdask.pipeline.records import Place
from gcdask.pipeline.runner import Progress, Runner, silent
from gcdask.pipeline.science import Found
from gcdask.pipeline.sources import field_jobs, find, find_sources
from gcdask.pipeline.versions import STAGES, RunResult, Version

log = logging.getLogger(__name__)

PACKAGES = ("numpy", "scipy", "dask", "distributed", "xarray", "zarr", "astropy", "pandas")


def run(
    config: Config,
    out: str | Path,
    *,
    client: Client | None = None,
    force: str | None = None,
    progress: Progress = silent,
    resources: dict[str, float] | None = None,
) -> RunResult:
    """Do what a configuration asks for and is not done yet.

    Parameters
    ----------
    config : Config
        From `gcdask.config.load`.
    out : path or URL
        Output folder: new, or with earlier runs, from which everything is taken that still holds.
        The run gets a folder of its own in it (see `gcdask.pipeline.versions`); one that was
        stopped is continued.
    client : distributed.Client, optional
        Where tasks run; this process without one.
    force : str, optional
        One of `STAGES`: do it and what follows from it anew; ``"all"``: everything.
    progress : callable
        ``progress(stage, done, total)``.
    resources : dict, optional
        What a task needs of a worker, as for `distributed.Client.submit`.

    Returns
    -------
    RunResult
        With ``failed`` not empty if tiles could not be read or processed: their pixels count as
        without data, and the latest run stays the last complete one.

    Raises
    ------
    InputError
        For anything wrong with the input, in one line; nothing valid is lost.
    LockError
        If another run is at work in ``out``.
    GcdaskError
        If the scheduler is lost; the same call continues.
    """
    if force not in (None, "all", *STAGES):
        raise InputError(f"force {force} is no stage; give one of {', '.join(STAGES)}, or all")
    # workers may have another working directory
    given, home = str(out), str(out) if storage.is_remote(out) else str(Path(out).absolute())
    versions.check(given, config.input_paths())
    done = None if force else versions.finished(config, given)
    if done is not None:
        log.info("nothing to do: run %s is up to date", storage.basename(done.out))
        return done
    inputs = open_inputs(config)
    nowhere = Place("", "")  # mask files are refused before anything is written
    field_jobs(config, inputs, lambda name: nowhere)
    identity = identify(config)
    fingerprint = identity.pop("fingerprint")
    record = {
        **identity,
        "versions": {"python": sys.version.split()[0], **{p: installed(p) for p in PACKAGES}},
    }
    try:
        storage.make_folder(home)
    except OSError as error:
        raise versions.unwritable(home, error) from error
    runner = Runner(client, progress, retries=config.tiles.retries, resources=resources)
    with lock.hold(home) as held:
        record["took_over"] = held.previous
        with _writable(home):
            work = versions.begin(home, fingerprint, record, force)
        with _recorded(work), runner.current():
            runner.check_folder(work.path(versions.RUN))
            _run(config, inputs, work, runner)
            held.check()
            work.finish()
    return versions.result_of(replace(work, out=given))


@contextmanager
def _writable(home: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise versions.unwritable(home, error) from error


@contextmanager
def _recorded(work: Version) -> Iterator[None]:
    """Note how a run ended, if it did not end well."""
    try:
        yield
    except BaseException as error:
        status = "failed" if isinstance(error, Exception) else "stopped"
        text = " ".join(str(error).split()) or type(error).__name__
        try:
            work.note(status=status, finished=versions.now(), error=storage.redact(text))
        except Exception:  # the disk is full, perhaps: the first error is what matters
            log.debug("run.json could not be written", exc_info=True)
        raise


def _run(config: Config, inputs: Inputs, work: Version, runner: Runner) -> None:
    """Run the stages, in the folder of a run."""
    found = Found()
    if inputs.sources is not None:
        found = find(config, inputs, work, runner)
    scene, depends = find_sources(config, inputs, found, work, runner)
    measure(config, inputs, found, scene, depends, work, runner)
    work.failed = [
        {"field": name, **tile}
        for name, detected in found.fields.items()
        for tile in detected.tiles["failed"]
    ]
    work.note(timings=runner.timings)
