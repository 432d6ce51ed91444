"""What is read from the words of a command line before typer reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gcdask.errors import InputError

ALL = "all"  # the value of --force without one


@dataclass(frozen=True)
class Flags:
    """What has to be known before anything is said."""

    debug: bool
    as_json: bool


def split(words: Sequence[str]) -> tuple[list[str], Flags]:
    """Put ``--debug``, which may stand anywhere, first, and tell what is asked for."""
    known = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in known
    # the options of run alone; help is text
    as_json = "--json-logs" in known and not {"--help", "-h"} & set(known)
    rest = [word for word in words if word != "--debug"] if debug else list(words)
    return (["--debug", *rest] if debug else rest), Flags(debug, as_json)


def join_force(words: Sequence[str]) -> list[str]:
    """Give ``run --force`` its value: the stage that follows it, or `ALL`.

    Option parsers take whatever follows as the value, here the configuration in
    ``run --force config.yaml``.

    Raises
    ------
    InputError
        If what follows is neither a stage nor a file.
    """
    out: list[str] = []
    waiting = iter(words)
    command = next((word for word in words if not word.startswith("-")), "")
    for word in waiting:
        if word != "--force" or command != "run" or "--" in out:
            out.append(word)
            continue
        follows = next(waiting, None)
        if follows is None or follows.startswith("-"):
            out += [f"--force={ALL}", *([] if follows is None else [follows])]
        elif follows in stages():  # a file of that name is given as ./maps
            out.append(f"--force={follows}")
        elif os.path.isfile(follows) or "." in follows or "/" in follows:
            out += [f"--force={ALL}", follows]
        else:
            raise InputError(
                f"--force {follows}: neither a stage nor a file; give one of "
                f"{', '.join(stages())}, or nothing for all"
            )
    return out


def check_force(stage: str | None) -> str | None:
    """Return the value of ``--force``; raises `InputError` if it is no stage."""
    if stage is not None and stage not in stages():
        raise InputError(
            f"--force={stage} is no stage; give one of {', '.join(stages())}, or --force alone "
            "for all"
        )
    return stage


def stages() -> tuple[str, ...]:
    """Values that ``--force`` may have."""
    from gcdask import pipeline

    return (*pipeline.STAGES, ALL)


def pairs(what: str, texts: Iterable[str] | None) -> dict[str, str]:
    """Read ``BAND=FILE``, as often as it is given.

    Raises
    ------
    InputError
        For anything else, or a band that is given twice.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        band, sign, file = text.partition("=")
        if not (band and sign and file):
            raise InputError(f"{what} {text}: not BAND=FILE; as in F090W=f090w.fits")
        if band in found:
            raise InputError(f"{what} {text}: band {band} is given twice; give it once")
        found[band] = file
    return found


def only_one(options: dict[str, object]) -> None:
    """Raise `InputError` if more than one of some options is given (is not None)."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        shown = " and ".join(f"{name} {options[name]}" for name in given)
        raise InputError(f"{shown} exclude each other; give one of them")
