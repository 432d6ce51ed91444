"""One run at a time in an output folder: a file that says who is at work there, and since when.

The holder writes the time into the file every half minute. A lock whose process is gone (on this
machine), or whose time is five minutes old (of another one), is stale and is taken over.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcdask import storage
from gcdask.errors import InputError, LockError

log = logging.getLogger(__name__)

LOCK = ".gcdask.lock"
BEAT = 30  # s between two signs of life
STALE = 300  # s without one: whoever held the lock on another machine is gone
SETTLE = 0.3  # s that a taker of a stale lock waits for another one; ten times that on other stores


@dataclass
class Held:
    """A lock that is held; ``previous`` is the run whose stale lock was taken over, or None."""

    out: str
    mine: dict[str, Any]
    previous: dict[str, Any] | None
    ended: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise `LockError` if another run took the lock over, thinking that we were gone."""
        owner = _read(storage.join(self.out, LOCK))
        if owner is None or owner["token"] != self.mine["token"]:
            raise _held(self.out, owner or {"pid": "unknown", "host": "unknown", "started": "then"})

    def beat(self) -> None:
        """Give signs of life, until the lock is given back or lost."""
        path = storage.join(self.out, LOCK)
        while not self.ended.wait(BEAT):
            with suppress(OSError, InputError):  # the run itself will say that the store is gone
                owner = _read(path)
                if owner is None or owner["token"] != self.mine["token"]:
                    return
                storage.write_json(path, {**self.mine, "beat": time.time()})


def check(out: str) -> None:
    """Raise `LockError` if a run is at work in ``out``; changes nothing."""
    owner = _read(storage.join(out, LOCK))
    if owner is not None and not _is_stale(owner):
        raise _held(out, owner)


def owner_of(out: str) -> dict[str, Any] | None:
    """Who is at work in ``out``: ``host``, ``pid``, ``started``; None if nobody is."""
    owner = _read(storage.join(out, LOCK))
    return None if owner is None or _is_stale(owner) else owner


@contextmanager
def hold(out: str | Path) -> Iterator[Held]:
    """Hold the lock of a folder (or URL), which must exist, while the context is open.

    Raises
    ------
    LockError
        If another run holds it (exit code 4).
    OSError
        If the folder cannot be written.
    """
    out, mine = str(out), _me()
    held = Held(out, mine, _acquire(out, mine))
    if held.previous is not None:
        log.warning(
            "took over %s from process %s on %s, which began at %s and is gone",
            out, *(held.previous[k] for k in ("pid", "host", "started")),
        )  # fmt: skip
    beat = threading.Thread(target=held.beat, daemon=True)
    beat.start()
    try:
        yield held
    finally:
        held.ended.set()
        beat.join()
        path = storage.join(out, LOCK)
        owner = _read(path)
        if owner is not None and owner["token"] == mine["token"]:
            storage.remove(path)


def _acquire(out: str, mine: dict[str, Any]) -> dict[str, Any] | None:
    """Write the lock; what was there if it was stale."""
    path = storage.join(out, LOCK)
    content = {**mine, "beat": time.time()}
    try:
        storage.write_bytes(path, json.dumps(content).encode(), exclusive=True)
        return None
    except FileExistsError:
        owner = _read(path)
    if owner is not None and not _is_stale(owner):
        raise _held(out, owner)
    storage.write_json(path, content)
    # of two runs that take a stale lock over at once the later one has it
    time.sleep(SETTLE * (10 if storage.is_remote(out) else 1))
    now = _read(path)
    if now is not None and now["token"] != mine["token"]:
        raise _held(out, now)
    return owner or {"host": "unknown", "pid": "unknown", "started": "an unknown time"}


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "born": _born(pid),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "token": uuid.uuid4().hex,
    }


def _read(path: str) -> dict[str, Any] | None:
    """Content of a lock; None where there is none, or one that was cut off while being written."""
    owner = storage.read_json(path)
    known = {"host", "pid", "started", "token"}
    return owner if isinstance(owner, dict) and known <= set(owner) else None


def _is_stale(owner: dict[str, Any]) -> bool:
    if owner["host"] == socket.gethostname():
        return not _is_alive(owner["pid"], owner.get("born"))
    return time.time() - owner.get("beat", 0) > STALE


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


def _held(out: str, owner: dict[str, Any]) -> LockError:
    return LockError(
        f"output folder {out} is in use by process {owner['pid']} on {owner['host']} since "
        f"{owner['started']}; wait for it, end it, or choose another --out"
    )
