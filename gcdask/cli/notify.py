"""A command of the user's that hears how a run ended (``--notify``).

It is run without a shell, and only as the command line or the environment says: a configuration
file cannot run code.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from gcdask.cli.logs import clean
from gcdask.errors import InputError

TIMEOUT = 60.0  # s
POLL = 0.05  # s


def parse(command: str) -> list[str]:
    """Split the command line of a hook into its words.

    Raises
    ------
    InputError
        If there is none, or a quote is not closed.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(
            f"--notify {command!r}: {str(error).lower()}; quote it as for a shell"
        ) from None
    if not words:
        raise InputError(f"--notify {command!r} is empty; give a command, or leave it out")
    return words


def notify(
    words: list[str],
    summary: Mapping[str, Any],
    *,
    timeout: float = TIMEOUT,
    given_up: Callable[[], bool] = lambda: False,
) -> str | None:
    """Run a hook with a summary as JSON on its standard input.

    Parameters
    ----------
    words : list of str
        From `parse`.
    summary : mapping
        What it is told; secrets of our environment are taken out.
    timeout : float
        Seconds after which the hook, with what it started, is killed.
    given_up : callable
        Asked again and again whether to wait no longer.

    Returns
    -------
    str or None
        What went wrong, in words.
    """
    # files, not pipes: a hook that leaves something running in the background blocks nobody
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as heard:
        told.write(json.dumps(clean(summary)).encode())
        told.seek(0)
        try:
            process = subprocess.Popen(
                words, stdin=told, stdout=heard, stderr=heard, start_new_session=True
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return f"--notify {words[0]} could not be run ({reason})"
        end = time.monotonic() + timeout
        while process.poll() is None and time.monotonic() < end and not given_up():
            time.sleep(POLL)
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            why = "was not waited for" if given_up() else f"took longer than {timeout:g} s"
            return f"--notify {words[0]} {why} and was ended"
        if process.returncode:
            return f"--notify {words[0]} failed (exit code {process.returncode}{_last(heard)})"
        return None


def _last(file: IO[bytes]) -> str:
    """The last line of a file, shortly."""
    file.seek(max(file.seek(0, os.SEEK_END) - 1000, 0))
    lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last[:200]}" if last else ""
