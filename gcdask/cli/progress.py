"""Progress of a run by stage: tiles done, tiles a second, and about how long it will take.

What is called is ``progress(stage, done, total)``, from any thread; `Tally` is what it adds up to,
and `Bars`, `Lines` and `Records` are the ways to show it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from gcdask.cli.logs import printable

BATCH = 4  # tiles that may end in one call; more at once were there before
WINDOW = 60.0  # s over which the rate is taken
RECENT = 8  # calls over which it is taken at least, however slow they are
EVERY = 10.0  # s between two lines of a stage


class Tally:
    """How far a stage is, and how fast.

    Attributes
    ----------
    done, total : int
        As last told; a total of 0 is not known yet.
    worked : int
        Tiles that were done one by one: those that the first call brings, that jump in, or that
        were told to be unchanged say nothing about the time that the others need.
    unchanged : int
        Tiles that were done before this run.
    """

    def __init__(self, done: int, total: int, now: float) -> None:
        self.done = self.unchanged = done
        self.total = total
        self.worked = 0
        self.began = self.last = now
        self._calls = deque([(now, 0)])
        self._known = 0  # unchanged tiles that the calls have still to bring

    def note_unchanged(self) -> None:
        """Take in that one of the tiles to come is unchanged."""
        self._known += 1

    def update(self, done: int, total: int, now: float) -> None:
        """Take in a call."""
        step = done - self.done
        known = min(self._known, step)
        self._known -= known
        self.unchanged += known
        if step > BATCH:
            self.unchanged += 0 if self.worked else step - known
        else:
            self.worked += step - known
        if not self.worked:  # what goes before the first tile is not its time
            self._calls.clear()
        self.done, self.total, self.last = done, total, now
        self._calls.append((now, self.worked))
        while len(self._calls) > RECENT and self._calls[0][0] < now - WINDOW:
            self._calls.popleft()

    @property
    def finished(self) -> bool:
        """Whether nothing is left."""
        return 0 < self.total <= self.done

    @property
    def seconds(self) -> float:
        """Time since the first call."""
        return self.last - self.began

    @property
    def plain(self) -> dict[str, float]:
        """As JSON's types."""
        counts = {"done": self.done, "total": self.total, "unchanged": self.unchanged}
        return {**counts, "seconds": round(self.seconds, 3)}

    def rate(self, now: float) -> float | None:
        """Tiles a second of late; None where there is nothing to tell it from."""
        then, before = self._calls[0]
        if self.total < 2 or self.worked == before or now <= then:
            return None
        return (self.worked - before) / (now - then)

    def left(self, now: float) -> float | None:
        """Seconds that the rest will take at the rate of late."""
        rate = self.rate(now)
        return None if rate is None or not self.total else (self.total - self.done) / rate


class _Ear(logging.Handler):
    """Passes log records on to a function."""

    def __init__(self, hear: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record on."""
        self._hear(record)


class Progress:
    """Adds up what is told of stages and passes it on; shows nothing itself.

    Attributes
    ----------
    stages : dict of str to Tally
        In the order in which they began.
    listeners : list of callable
        Called as ``listener(stage, tally)`` after each call, by the thread that makes it.
    """

    def __init__(self) -> None:
        self.stages: dict[str, Tally] = {}
        self.listeners: list[Callable[[str, Tally], None]] = []
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._ear = _Ear(self.hear)

    def __enter__(self) -> Self:
        logging.getLogger("gcdask").addHandler(self._ear)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("gcdask").removeHandler(self._ear)

    def hear(self, record: logging.LogRecord) -> None:
        """Take in what a log record says of a tile, or a stage, that is unchanged."""
        if getattr(record, "state", None) != "unchanged":
            return
        if hasattr(record, "tile"):
            stage = getattr(record, "stage", None) or f"detect {getattr(record, 'field', '')}"
            with self._lock:
                if stage in self.stages:
                    self.stages[stage].note_unchanged()
        elif hasattr(record, "stage"):
            self.note(f"{record.stage}: unchanged")

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Tell that ``done`` of ``total`` parts of a stage are finished."""
        with self._lock:
            now = time.monotonic()
            tally = self.stages.get(stage)
            if tally is None or done < tally.done:  # it begins, or begins again
                tally = self.stages[stage] = Tally(done, total, now)
            else:
                tally.update(done, total, now)
            self.show(stage, tally, now)
            for listener in self.listeners:
                listener(stage, tally)

    def show(self, stage: str, tally: Tally, now: float) -> None:
        """Show a call; for subclasses."""

    def note(self, text: str) -> None:
        """Show a line beside the calls; for subclasses."""


class Lines(Progress):
    """Plain lines on standard error: at the begin and the end of a stage, few between."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, tuple[Tally, float, bool]] = {}

    def show(self, stage: str, tally: Tally, now: float) -> None:
        """Say a line if it is time for one."""
        known, last, was_finished = self._told.get(stage, (None, 0.0, False))
        if known is tally and (was_finished or (not tally.finished and now - last < EVERY)):
            return
        self._told[stage] = (tally, now, tally.finished)
        self.say(stage, tally, now)

    def say(self, stage: str, tally: Tally, now: float) -> None:
        """Print a line."""
        pace = [] if tally.finished else _pace(tally, now)
        self.note(", ".join([f"{stage}{_count(tally)}", *pace]))

    def note(self, text: str) -> None:
        """Print a line with the time that has passed."""
        line = printable(f"[{time.monotonic() - self._start:6.1f} s] {text}")
        with suppress(OSError):  # nobody reads it any more: no reason to end a run
            print(line, file=sys.stderr, flush=True)


class Records(Lines):
    """Log records with numbers, at the times of `Lines`."""

    def say(self, stage: str, tally: Tally, now: float) -> None:
        """Log what a line would say."""
        rate, left = tally.rate(now), tally.left(now)
        extra: dict[str, Any] = {"stage": stage, **tally.plain}
        extra |= {"rate": None if rate is None else round(rate, 4)}
        extra |= {"left": None if left is None else round(left, 1)}
        logging.getLogger("gcdask.progress").info("%s%s", stage, _count(tally), extra=extra)

    def note(self, text: str) -> None:
        """Say nothing: it was a record already."""


class Bars(Progress):
    """A bar for each stage, on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: dict[str, Any] = {}
        self._bars: Any = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description:<16}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}", markup=False),
            console=Console(file=sys.stderr),
            redirect_stdout=False,
        )
        self._bars.start()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._bars.stop()

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(printable(text), markup=False, highlight=False)

    def show(self, stage: str, tally: Tally, now: float) -> None:
        """Move the bar of a stage."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=None, pace="")
        if tally.finished:
            pace = f"{tally.unchanged} unchanged" if 0 < tally.unchanged < tally.total else ""
        else:
            pace = ", ".join(_pace(tally, now))
        self._bars.update(
            self._tasks[stage], completed=tally.done, total=tally.total or None, pace=pace
        )


def shown(*, as_json: bool = False) -> Progress:
    """Progress as it fits: records, bars on a terminal, or lines."""
    if as_json:
        return Records()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return Bars()
    return Lines()


# -- words ----------------------------------------------------------------------------------------
def _count(tally: Tally) -> str:
    if not tally.total:
        return f" {tally.done}" if tally.done else " ..."
    if tally.finished and tally.unchanged and tally.total > 1:
        new = tally.total - tally.unchanged
        return f": {new} of {tally.total} tiles done, {tally.unchanged} unchanged"
    return f" {tally.done}/{tally.total}"


def _pace(tally: Tally, now: float) -> list[str]:
    """Rate, and time that is left, as far as they are known."""
    rate, left = tally.rate(now), tally.left(now)
    out = [] if rate is None else [f"{rate:.0f} tiles/s" if rate >= 10 else f"{rate:.2g} tiles/s"]
    return out if left is None else [*out, f"about {duration(left)} left"]


def duration(seconds: float) -> str:
    """A time in words: ``40 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 36:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
