"""Progress of a run as Prometheus metrics, beside Dask's own on the scheduler's ``/metrics``.

``gcdask_tiles{stage,state}`` (state ``done``, ``unchanged``, ``waiting``, or ``failed`` at the end)
and ``gcdask_stage_seconds{stage}``. Where the scheduler has no prometheus_client (or no gcdask)
nothing happens: metrics are no reason to fail a run, nor to wait.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from distributed import SchedulerPlugin

if TYPE_CHECKING:
    from distributed import Client

TOPIC = "gcdask-metrics"
EVERY = 1.0  # s between two updates
LAST = 2.0  # s that the last update may take
_gauges: dict[str, Any] = {}  # of this process: a metric can be registered once


class Stage(Protocol):
    """How far a stage is; `gcdask.cli.progress.Tally` is one."""

    done: int
    total: int
    unchanged: int

    @property
    def seconds(self) -> float:
        """Since it began."""


class MetricsPlugin(SchedulerPlugin):
    """Keeps the gauges on the scheduler; told by events of `TOPIC`."""

    name = TOPIC
    idempotent = True

    def log_event(self, topic: str, msg: Any) -> None:
        """Take in a message: ``clear`` or not, and ``tiles`` and ``seconds`` by stage."""
        if topic != TOPIC or not isinstance(msg, dict):
            return
        with suppress(Exception):  # the scheduler has more to do than this
            self._update(msg)

    @staticmethod
    def _update(message: dict[str, Any]) -> None:
        gauges = _registered()
        if not gauges:
            return
        if message.get("clear"):
            for gauge in gauges.values():
                gauge.clear()
        for stage, states in message.get("tiles", {}).items():
            for state, n in states.items():
                gauges["tiles"].labels(stage=stage, state=state).set(n)
        for stage, seconds in message.get("seconds", {}).items():
            gauges["seconds"].labels(stage=stage).set(seconds)


def _registered() -> dict[str, Any]:
    """The gauges in the registry that the scheduler shows; none without prometheus_client."""
    if not _gauges:
        try:
            from prometheus_client import Gauge
        except ImportError:
            return {}
        _gauges["tiles"] = Gauge("gcdask_tiles", "Tiles of a run", ["stage", "state"])
        _gauges["seconds"] = Gauge("gcdask_stage_seconds", "Time spent in a stage", ["stage"])
    return _gauges


class Metrics:
    """Sends what is told of stages to the scheduler, at most once a second, without waiting.

    A context manager; called as ``metrics(stage, tally)``, from any thread.

    Parameters
    ----------
    client : distributed.Client or None
        Nothing is sent without one.
    """

    def __init__(self, client: Client | None) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._news: dict[str, dict[str, Any]] = {"tiles": {}, "seconds": {}}
        self._sent = 0.0
        self._busy = False

    def __enter__(self) -> Metrics:
        if self._client is not None:
            try:
                self._client.register_plugin(MetricsPlugin())
                self._client.log_event(TOPIC, {"clear": True})
            except Exception:  # whatever the scheduler cannot do
                self._client = None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        client, self._client = self._client, None
        if client is not None and kind is None:  # after an error the scheduler may be gone
            with suppress(Exception):
                client.sync(self._send, client, self._news, callback_timeout=LAST)

    def __call__(self, stage: str, tally: Stage) -> None:
        """Take in how far a stage is."""
        waiting = max(tally.total - tally.done, 0)
        states = {"done": tally.done - tally.unchanged, "unchanged": tally.unchanged}
        self._tell(stage, {**states, "waiting": waiting}, round(tally.seconds, 3))

    def failed(self, n: int) -> None:
        """Tell how many tiles failed in the end."""
        self._tell("run", {"failed": n})

    def _tell(self, stage: str, states: dict[str, int], seconds: float | None = None) -> None:
        with self._lock:
            self._news["tiles"][stage] = states
            if seconds is not None:
                self._news["seconds"][stage] = seconds
            client, now = self._client, time.monotonic()
            if client is None or self._busy or now - self._sent < EVERY:
                return
            self._sent, self._busy = now, True
            message = {key: dict(value) for key, value in self._news.items()}
        try:
            client.loop.add_callback(self._send, client, message)  # type: ignore[union-attr]
        except Exception:  # its loop is closed
            self._busy = False

    async def _send(self, client: Client, message: dict[str, Any]) -> None:
        with suppress(Exception):
            await client.scheduler.log_event(topic=TOPIC, msg=message)  # type: ignore[union-attr]
        self._busy = False
