"""The command ``gcdask``: every error is one line, every end has its exit code.

`commands` are the commands, `running` is the one that does the work; `arguments` reads what typer
cannot, `signals` turns signals into one exception, `errors` an exception into a line, `logs` and
`progress` say what is going on, `outcome` and `notify` how it ended.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from gcdask.cli import arguments, errors, logs
from gcdask.cli.commands import Parts, app
from gcdask.cli.logs import log
from gcdask.cli.notify import notify
from gcdask.cli.outcome import Outcome
from gcdask.cli.signals import Signals

__all__ = ["app", "main"]


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    words : sequence of str, optional
        Instead of those of this process, which then ends.

    Returns
    -------
    int
        Exit code, see `gcdask.cli.errors`.
    """
    ends = words is None
    given, flags = arguments.split(sys.argv[1:] if words is None else words)
    with (
        logs.opened(as_json=flags.as_json, debug=flags.debug, ends=ends) as console,
        Signals(ends=ends) as signals,
    ):
        parts = Parts(console, signals)
        code, error = _call(given, parts, debug=flags.debug)
        outcome = parts.outcome
        if outcome is None and flags.as_json:
            outcome = Outcome()  # its command line was refused
        if outcome is not None:
            outcome.code, outcome.error = code or outcome.code, error or outcome.error
            code, error = outcome.code, outcome.error
            outcome.tell(console)
        if error:
            stopped = code > 128
            log.log(logging.INFO if stopped else logging.ERROR, "%s", error)
        if outcome is not None and outcome.hook:
            before = signals.late
            warning = notify(
                outcome.hook, outcome.summary(), given_up=lambda: signals.late > before
            )
            if warning:
                log.warning("%s", warning)
        return code


def _call(words: list[str], parts: Parts, *, debug: bool) -> tuple[int, str | None]:
    """Run a command: exit code, and the line that says what went wrong."""
    signals = parts.signals

    def stopped() -> bool:
        complete = parts.outcome is not None and parts.outcome.result is not None
        return signals.received is not None and not complete

    try:
        try:
            code = app(
                args=arguments.join_force(words),
                prog_name="gcdask",
                standalone_mode=False,
                obj=parts,
            )
            sys.stdout.flush()
        finally:
            signals.rest()
    except BrokenPipeError:  # the reader (head, less) has gone
        if not stopped():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return errors.DONE, None
    except (KeyboardInterrupt, typer.Abort):
        pass
    except Exception as error:
        if not stopped():
            if debug:
                _trace(error)
            text, code = errors.explain(error)
            return code, logs.one_line(text)
    else:
        if not stopped() and code != errors.INTERRUPTED:
            return (code if isinstance(code, int) else 0), None
    # typer turns KeyboardInterrupt into a code, and libraries turn it into errors of theirs
    remedy = "the same command continues" if parts.outcome else "run it again"
    name, number = (signals.name, signals.received) if signals.received else ("Ctrl-C", 2)
    return 128 + number, f"stopped by {name}; {remedy}"


def _trace(error: Exception) -> None:
    from gcdask.storage import redact

    text = "".join(traceback.format_exception(error))
    print(redact(text), end="", file=sys.stderr, flush=True)
