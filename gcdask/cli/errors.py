"""What an exception means to a user: one line, and the exit code.

0 done, 1 anything else, 2 the input (or where to write), 3 some tiles failed, 4 another run is at
work there, 128 + n stopped by signal n (130 Ctrl-C, 143 SIGTERM).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import typer

from gcdask.errors import GcdaskError

DONE, OTHER, INPUT, PARTIAL, LOCKED = range(5)
INTERRUPTED = 130

_ClickError: type[Exception] = next(
    cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException"
)  # typer carries its own click from some version on

#: Exceptions of a client whose scheduler went away, by name: importing them takes a second.
LOST = {"CommClosedError", "FutureCancelledError", "FuturesCancelledError", "ClosedClientError"}
LOST_TEXTS = ("Timed out trying to connect", "Tried sending message after closing")
REMEDIES = {
    errno.EACCES: "give a path that you may read or write",
    errno.EPERM: "give a path that you may read or write",
    errno.EROFS: "give a path that you may write",
    errno.ENOENT: "check the path",
    errno.ENOSPC: "free space there, or give another path; the same command continues a run",
    errno.EDQUOT: "free space there, or give another path; the same command continues a run",
}


def explain(error: BaseException) -> tuple[str, int]:
    """One line about an error, and the exit code."""
    if isinstance(error, GcdaskError):
        return str(error), error.exit_code
    if isinstance(error, _ClickError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "gcdask"
        message = error.format_message().rstrip(". ")  # type: ignore[attr-defined]
        return f"{message}; see {command} --help", INPUT
    if any(map(_is_lost, _chain(error))):
        return "lost the connection to the scheduler; run the same command again: it continues", 1
    if type(error).__name__ in ("KilledWorker", "MemoryError"):
        return (
            "a worker ran out of memory or was killed; give fewer --workers, a larger "
            "--set cluster.memory or a smaller --set tiles.size; the same command continues a run",
            OTHER,
        )
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        remedy = REMEDIES.get(error.errno or 0, "give another path")
        return f"{where}{error.strerror}; {remedy}", INPUT
    return f"{type(error).__name__}: {error}; run with --debug for the traceback", OTHER


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def _is_lost(error: BaseException) -> bool:
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & LOST) or any(text in str(error) for text in LOST_TEXTS)
