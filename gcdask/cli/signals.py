"""Ctrl-C, SIGTERM and SIGHUP: one exception in the main thread, and a clean-up that they let be."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

#: Name in what we say of each signal that ends a run (the exit code is 128 + the signal).
NAMES = {
    getattr(signal, name): shown
    for name, shown in (("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGHUP"))
    if hasattr(signal, name)
}
PATIENCE = 10.0  # s of clean-up after which one more signal ends the process at once
AGAIN = 0.05  # s until an exception is raised anew that was lost in a finaliser


class Stopped(KeyboardInterrupt):
    """A signal asked us to end; libraries clean up for it as they do for Ctrl-C."""


class Signals:
    """While open, the first signal raises `Stopped` in the main thread, and later ones nothing.

    Parameters
    ----------
    ends : bool
        Whether the process ends with the context: signals are then ignored to its very end.

    Attributes
    ----------
    received : int or None
        The signal that came.
    late : int
        How many came after `rest`.
    """

    def __init__(self, *, ends: bool = False) -> None:
        self.received: int | None = None
        self.late = 0
        self._ends = ends
        self._resting = False
        self._since: float | None = None
        self._before: dict[int, Any] = {}
        self._hook: Any = None

    @property
    def name(self) -> str:
        """Name of the signal that came."""
        return NAMES[self.received] if self.received is not None else ""

    def check(self) -> None:
        """Raise `Stopped` again, if a signal came and a library swallowed the exception."""
        if self.received is not None and not self._resting:
            raise Stopped

    def rest(self) -> None:
        """Raise nothing from now on: the work is over, and its end is being told."""
        self._resting = True

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in NAMES:
                # nohup, and shells for what runs in the background, have some ignored: that stays
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._ends else before or signal.SIG_DFL)
        if self._hook is not None and not self._ends:
            sys.unraisablehook = self._hook

    def _handle(self, number: int, _: object) -> None:
        self.late += self._resting
        if self._since is None:
            self._since = time.monotonic()
            if not self._resting:
                self.received = number
                raise Stopped
        elif time.monotonic() - self._since > PATIENCE:
            os._exit(128 + number)  # what we leave behind is as after kill -9: consistent

    def _unraisable(self, lost: Any) -> None:
        """Raise anew what came while a finaliser ran, from where no exception gets out."""
        if self._resting and self.received is not None:
            return  # what was stopped half way cannot be closed well; nobody wants to know
        if not isinstance(lost.exc_value, Stopped) or self.received is None:
            self._hook(lost)
            return
        number, self.received, self._since = self.received, None, None
        main = threading.main_thread().ident
        again = threading.Timer(AGAIN, signal.pthread_kill, (main, number))
        again.daemon = True
        again.start()


QUIET = "ignore::UserWarning:multiprocessing.resource_tracker"


def shield_tracker() -> None:
    """Start the process that multiprocessing has beside workers, so that it stays quiet.

    A signal to the whole process group (a terminal that closes, systemd) ends workers half way:
    it cleans up after them, and would tell that at length. SIGHUP would end it too.
    """
    if not hasattr(signal, "SIGHUP"):
        return
    from multiprocessing import resource_tracker

    # it inherits both: warning options and blocked signals
    sys.warnoptions.append(QUIET)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sys.warnoptions.remove(QUIET)
