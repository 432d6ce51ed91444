"""What a command says: lines for people, or one JSON object a line for machines.

Everything is a log record: our own lines, warnings of libraries, progress. As JSON
(``--json-logs``) what others write to the standard streams (worker processes, C libraries) becomes
a record too, so that standard error holds JSON alone and standard output the one object of the
results.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("gcdask.cli")

SHOWN = {logging.INFO: "", logging.WARNING: "warning: ", logging.ERROR: "error: "}
#: Warnings that libraries give about themselves.
HIDDEN = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning)
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_DRAIN_SECONDS = 1.0


def printable(text: str) -> str:
    """A text without secrets, and without what a terminal would take as a command."""
    from gcdask.storage import redact

    return "".join(c if c.isprintable() else "?" for c in redact(text))


def one_line(text: str) -> str:
    """`printable` in one line."""
    return printable(" ".join(text.split()))


def clean(tree: Any) -> Any:
    """A tree of JSON's types, without the secrets of our environment in any of its texts."""
    from gcdask.storage import redact

    if isinstance(tree, Mapping):
        return {redact(str(k)): clean(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [clean(v) for v in tree]
    if isinstance(tree, float) and not abs(tree) < float("inf"):  # NaN too
        return None
    if tree is None or isinstance(tree, bool | int | float):
        return tree
    return redact(str(tree))


class Lines(logging.Handler):
    """Our own warnings and errors, one plain line each; not what libraries log.

    Nor what is said of single tiles, which may be many: those that failed are listed at the end.

    Parameters
    ----------
    everything : bool
        Show what libraries log as well.
    """

    def __init__(self, *, everything: bool = False) -> None:
        super().__init__()
        self._everything = everything

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record, if it is for people."""
        ours = record.name == "gcdask" or record.name.startswith("gcdask.")
        told = record.levelno >= logging.WARNING and not hasattr(record, "tile")
        told |= record.name == log.name
        if (ours and told) or (self._everything and record.levelno >= logging.WARNING):
            text = f"{SHOWN.get(record.levelno, '')}{_message(record)}"
            with suppress(OSError):  # nobody reads it any more: no reason to end a run
                print(one_line(text), file=sys.stderr, flush=True)


class Records(logging.Handler):
    """Every record as one JSON object on a line of a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record: time (UTC), level, logger, message, and its extras."""
        if record.levelno < logging.WARNING and not record.name.startswith("gcdask"):
            return
        when = datetime.fromtimestamp(record.created, UTC)
        content = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": " ".join(_message(record).split()),
        }
        if record.exc_info and record.exc_info[1] is not None:
            kind = type(record.exc_info[1]).__name__
            content["exception"] = " ".join(f"{kind}: {record.exc_info[1]}".split())
        extras = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        text = json.dumps(clean({**content, **extras}))
        with suppress(OSError):
            os.write(self._descriptor, f"{text}\n".encode())


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # a format that does not fit its values: not worth a run
        return f"{record.msg} {record.args}"


class Funnel:
    """A standard stream whose text, whoever writes it, becomes records.

    Parameters
    ----------
    descriptor : int
        1 or 2; worker processes inherit it.

    Attributes
    ----------
    real : int
        Where the stream went before.
    """

    def __init__(self, descriptor: int) -> None:
        _flush()
        self._descriptor = descriptor
        self.real = os.dup(descriptor)
        self._source, sink = os.pipe()
        os.dup2(sink, descriptor)
        os.close(sink)
        self._reader: threading.Thread | None = None

    def start(self, handler: logging.Handler) -> None:
        """Hand every line to a handler; not to loggers, which might write to this very stream."""
        name = {1: "gcdask.stdout", 2: "gcdask.stderr"}[self._descriptor]
        level = {1: logging.INFO, 2: logging.WARNING}[self._descriptor]

        def read() -> None:
            with open(self._source, errors="replace") as lines:
                for line in filter(str.strip, lines):
                    handler.handle(logging.LogRecord(name, level, "", 0, line, None, None))

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Give the stream back, when all that was written to it is told."""
        _flush()
        os.dup2(self.real, self._descriptor)
        if self._reader is not None:
            self._reader.join(_DRAIN_SECONDS)  # a process of ours that lives on keeps it open


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


class Console:
    """Where the results of a command go."""

    def __init__(self, *, as_json: bool = False, output: int | None = None) -> None:
        self.as_json = as_json
        self._output = output

    def echo(self, text: str) -> None:
        """Print lines for people on standard output; nothing if it is to be JSON."""
        from gcdask.storage import redact

        if not self.as_json:
            print(redact(text), flush=True)

    def emit(self, content: Mapping[str, Any]) -> None:
        """Print one JSON object on standard output, if it is to be JSON."""
        if self._output is not None:
            data = f"{json.dumps(clean(content))}\n".encode()
            while data:
                data = data[os.write(self._output, data) :]


@contextmanager
def opened(*, as_json: bool = False, debug: bool = False, ends: bool = False) -> Iterator[Console]:
    """Send all log records and warnings to standard error, for people or as JSON.

    Parameters
    ----------
    as_json : bool
        One JSON object a line, and nothing else, on standard error.
    debug : bool
        Plain lines of what libraries warn of, too.
    ends : bool
        Whether the process ends with the context: what is said until then is told as well.

    Yields
    ------
    Console
    """
    with ExitStack() as stack:
        output = None
        handler: logging.Handler = Lines(everything=debug)
        if as_json:
            streams = {n: Funnel(n) for n in (1, 2)}
            output, handler = streams[1].real, Records(streams[2].real)
            for stream in streams.values():
                stream.start(handler)
                stack.callback(stream.close)
        root, ours = logging.getLogger(), logging.getLogger("gcdask")
        stack.callback(ours.setLevel, ours.level)
        ours.setLevel(logging.INFO)
        # distributed adds no handler of its own to a root that has one
        root.addHandler(handler)
        stack.callback(root.removeHandler, handler)
        stack.callback(setattr, warnings, "showwarning", warnings.showwarning)
        warnings.showwarning = _show_warning
        if ends:
            atexit.register(stack.pop_all().close)
        yield Console(as_json=as_json, output=output)


def _show_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    """Show warnings meant for users; those of libraries about themselves not at all."""
    if not issubclass(category, HIDDEN) and category.__name__ != "FITSFixedWarning":
        log.warning("%s", message)
