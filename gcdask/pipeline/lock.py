"""One run at a time in an output folder: a file that says who is at work there, and since when.

The holder touches the file every half minute. A lock whose process is gone (on this machine), or
that nobody has touched for five minutes (on another one), is stale and is taken over.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gcdask.errors import LockError

log = logging.getLogger(__name__)

LOCK = ".gcdask.lock"
BEAT = 30  # s between touches
STALE = 300  # s without a touch: whoever held the lock on another machine is gone
SETTLE = 0.3  # s that a taker of a stale lock waits for another one


def check(out: Path) -> None:
    """Raise `LockError` if a run is at work in ``out``; changes nothing."""
    owner = _read(out / LOCK)
    if owner is not None and not _is_stale(out / LOCK, owner):
        raise _held(out, owner)


@contextmanager
def hold(out: Path) -> Iterator[dict[str, Any] | None]:
    """Hold the lock of a folder, which must exist, while the context is open.

    Yields
    ------
    dict or None
        ``host``, ``pid`` and ``started`` of the run whose stale lock was taken over.

    Raises
    ------
    LockError
        If another run holds it (exit code 4).
    OSError
        If the folder cannot be written.
    """
    path, mine = out / LOCK, _me()
    previous = _acquire(out, mine)
    if previous is not None:
        log.warning(
            "took over %s from process %s on %s, which began at %s and is gone",
            out, previous["pid"], previous["host"], previous["started"],
        )  # fmt: skip
    ended = threading.Event()
    beat = threading.Thread(target=_touch, args=(path, mine, ended), daemon=True)
    beat.start()
    try:
        yield previous
    finally:
        ended.set()
        beat.join()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


def _acquire(out: Path, mine: dict[str, Any]) -> dict[str, Any] | None:
    """Write the lock; what was there if it was stale."""
    path = out / LOCK
    try:
        with open(path, "x") as file:
            json.dump(mine, file)
        return None
    except FileExistsError:
        owner = _read(path)
    if owner is not None and not _is_stale(path, owner):
        raise _held(out, owner)
    temporary = path.with_name(f"{LOCK}.{mine['token']}")
    temporary.write_text(json.dumps(mine))
    os.replace(temporary, path)
    time.sleep(SETTLE)  # of two runs that take a stale lock over at once the later one has it
    now = _read(path)
    if now is not None and now != mine:
        raise _held(out, now)
    return owner or {"host": "unknown", "pid": "unknown", "started": "an unknown time"}


def _touch(path: Path, mine: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):  # the run itself will say that the folder is gone
            if _read(path) == mine:
                os.utime(path)


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "born": _born(pid),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "token": uuid.uuid4().hex,
    }


def _read(path: Path) -> dict[str, Any] | None:
    """Content of a lock; None where there is none, or one that was cut off while being written."""
    try:
        owner = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return owner if isinstance(owner, dict) and {"host", "pid", "started"} <= set(owner) else None


def _is_stale(path: Path, owner: dict[str, Any]) -> bool:
    if owner["host"] == socket.gethostname():
        return not _is_alive(owner["pid"], owner.get("born"))
    try:
        return time.time() - path.stat().st_mtime > STALE
    except FileNotFoundError:
        return True


def _is_alive(pid: Any, born: int | None) -> bool:
    """Whether the process that wrote the lock runs, and not another one of the same number."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return born is None or _born(int(pid)) in (None, born)


def _born(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rsplit(")", 1)[1].split()[19])


def _held(out: Path, owner: dict[str, Any]) -> LockError:
    return LockError(
        f"output folder {out} is in use by process {owner['pid']} on {owner['host']} since "
        f"{owner['started']}; wait for it, end it, or choose another --out"
    )
