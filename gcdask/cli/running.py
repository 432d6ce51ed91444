"""The command ``gcdask run``: from what was asked for to the pipeline, and what goes with it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcdask.cli import arguments, errors, progress
from gcdask.cli.logs import Console
from gcdask.cli.notify import parse
from gcdask.cli.outcome import Outcome
from gcdask.cli.signals import Signals, shield_tracker
from gcdask.errors import InputError


@dataclass(frozen=True)
class Order:
    """What the command line asks for."""

    file: Path
    out: str | None
    workers: int | None
    scheduler: str | None
    scheduler_file: str | None
    overrides: list[str]
    dry_run: bool
    force: str | None
    hook: str | None
    performance: str | None

    def check(self) -> None:
        """Raise `InputError` for options that cannot be, before anything is read."""
        arguments.only_one(
            {
                "--workers": self.workers,
                "--scheduler": self.scheduler,
                "--scheduler-file": self.scheduler_file,
            }
        )
        arguments.check_force(self.force)
        if self.performance is not None:
            from gcdask.cli.performance import check_name

            check_name(self.performance)
        if self.out is None and not self.dry_run:
            raise InputError("--out is missing; give the folder to write, --out DIR")

    @property
    def where(self) -> dict[str, Any]:
        """What is given of where to compute, as `gcdask.cluster.client` takes it."""
        given = {
            "workers": self.workers,
            "scheduler": self.scheduler,
            "scheduler_file": self.scheduler_file,
        }
        return {name: value for name, value in given.items() if value is not None}


def run(order: Order, outcome: Outcome, console: Console, signals: Signals) -> None:
    """Do what is asked for; how it went is in ``outcome``.

    Raises
    ------
    GcdaskError
        For bad input, or a folder at which another run is at work; before anything is written.
    """
    if order.hook and not order.dry_run:
        outcome.hook = parse(order.hook)
    outcome.out = order.out
    order.check()
    from gcdask import config, storage

    settings = config.load(order.file, order.overrides)
    settings.check_paths()
    from gcdask import pipeline

    if order.out is not None:
        storage.check_url(order.out, "--out")
        if not storage.is_remote(order.out) and os.path.isfile(order.out):
            raise InputError(f"--out {order.out} is a file; give a folder")
        pipeline.check_folder(settings, order.out)
    if order.dry_run:
        outcome.plan = pipeline.dry_run(settings)
        console.echo(str(outcome.plan))
        return
    assert order.out is not None
    if order.force is None:  # a glance at sizes and times, before workers start for nothing
        outcome.result = pipeline.finished(settings, order.out)
    if outcome.result is None:
        _run(order, settings, outcome, console, signals)
    if outcome.failed:
        outcome.code = errors.PARTIAL
        n = len(outcome.failed)
        many, them = ("tiles", "them") if n > 1 else ("tile", "it")
        what = "what they read" if n > 1 else "what it reads"
        outcome.error = f"{n} {many} failed; mend {what}; then the same command does {them} alone"


def _run(order: Order, settings: Any, outcome: Outcome, console: Console, signals: Signals) -> None:
    from gcdask import cluster, pipeline
    from gcdask.cli.performance import Performance
    from gcdask.metrics import Metrics

    assert order.out is not None
    with ExitStack() as stack:
        shown = stack.enter_context(progress.shown(as_json=console.as_json))
        outcome.stages = shown.stages
        if order.workers != 0:
            shield_tracker()
        client = stack.enter_context(
            cluster.client(settings.cluster, needs=_needs(order.out, settings), **order.where)
        )
        shown.listeners.append(lambda *_: signals.check())
        signals.check()  # what was imported so far may have swallowed it
        metrics = stack.enter_context(Metrics(client))
        shown.listeners.append(metrics)
        report = None
        if order.performance:
            report = stack.enter_context(Performance(client, order.performance))
        outcome.result = pipeline.run(
            settings,
            order.out,
            client=client,
            force=order.force,
            progress=shown,
            resources=cluster.task_resources(settings.cluster),
        )
        signals.rest()  # it is complete: let what was opened for it be closed in peace
        metrics.failed(len(outcome.failed))
        if report is not None:
            outcome.performance = report.save(str(outcome.result.out))


def _needs(out: str, settings: Any) -> list[str]:
    """Packages for the stores that workers read and write."""
    from gcdask import storage

    paths = [out, *(path for _, path in settings.input_paths())]
    return sorted({storage.NEEDS[p][0] for p in map(storage.protocol, paths) if p in storage.NEEDS})
