"""How a run ended: what is printed of it, and the summary that machines get."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gcdask._version import __version__
from gcdask.cli import errors, summary
from gcdask.cli.logs import Console, log
from gcdask.cli.progress import Tally

LISTED = 20  # failed tiles that are named
STATUS = {errors.DONE: "done", errors.PARTIAL: "partial", errors.LOCKED: "locked"}


@dataclass
class Outcome:
    """What is known of a run, from its command line to its end.

    Attributes
    ----------
    out : str or None
        The output folder that was given.
    hook : list of str or None
        Command to run at the end.
    result : gcdask.pipeline.RunResult or None
        What the pipeline returned, if it did.
    stages : dict of str to Tally
        How far each stage came.
    code : int
        Exit code.
    error : str or None
        The line that says what went wrong.
    performance : str or None
        Path of Dask's performance report.
    plan : gcdask.pipeline.Plan or None
        What a dry run found.
    """

    out: str | None = None
    hook: list[str] | None = None
    result: Any = None
    stages: dict[str, Tally] = field(default_factory=dict)
    code: int = errors.DONE
    error: str | None = None
    performance: str | None = None
    plan: Any = None
    began: float = field(default_factory=time.monotonic)

    @property
    def failed(self) -> tuple[Mapping[str, Any], ...]:
        """Tiles that failed: ``field``, ``tile``, ``reason`` of each."""
        return tuple(getattr(self.result, "failed", ()))

    @property
    def run(self) -> str | None:
        """Identity of the run, where there is one."""
        from gcdask.storage import basename

        return None if self.result is None else basename(self.result.out)

    @property
    def status(self) -> str:
        """``done``, ``partial``, ``locked``, ``interrupted`` or ``failed``."""
        return STATUS.get(self.code, "interrupted" if self.code > 128 else "failed")

    def summary(self) -> dict[str, Any]:
        """Everything, as a tree of JSON's types."""
        if self.plan is not None:
            rows = [{"stage": stage, "detail": detail} for stage, detail in self.plan.rows]
            return {"status": "planned", "exit_code": self.code, "plan": rows,
                    "tasks": self.plan.tasks, "memory_bytes": self.plan.memory}  # fmt: skip
        results = self.result.results if self.result is not None else {}
        report = getattr(self.result, "report", None)
        known = getattr(self.result, "stages", {})
        counts = {k: results.get(k) for k in ("n_detected", "n_inpainted")}
        return {
            "status": self.status,
            "exit_code": self.code,
            "run": self.run,
            "out": self.out,
            "folder": None if self.result is None else str(self.result.out),
            "report": None if report is None else str(report),
            "performance_report": self.performance,
            "up_to_date": bool(getattr(self.result, "up_to_date", False)),
            "seconds": round(time.monotonic() - self.began, 3),
            "counts": {**counts, "tiles": _tiles(known), "failed_tiles": len(self.failed)},
            "stages": {
                name: {k: stage.get(k) for k in ("state", "seconds", "finished")}
                for name, stage in known.items()
            },
            "progress": {name: tally.plain for name, tally in self.stages.items()},
            "failed": [dict(tile) for tile in self.failed],
            "notes": list(results.get("notes", ())),
            "error": self.error,
            "results": summary.main_numbers(results),
            "version": __version__,
        }

    def tell(self, console: Console) -> None:
        """Print what was found, and what failed."""
        if self.result is not None:
            tell_result(self.result, console)
        for tile in self.failed[:LISTED]:
            log.warning(
                "tile %(tile)s of %(field)s failed: %(reason)s",
                {"tile": "?", "field": "?", "reason": "?", **tile},
                extra={k: v for k, v in tile.items() if k in ("tile", "field", "reason")},
            )
        if len(self.failed) > LISTED:
            log.warning("%d more tiles failed", len(self.failed) - LISTED)
        with suppress(BrokenPipeError):  # who reads it may have gone: no other end of the run
            console.emit(self.summary())


def _tiles(stages: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Tiles of each field by what became of them."""
    return {
        name: {
            "total": field["total"],
            **{k: field.get(k, 0) for k in ("done", "unchanged")},
            "failed": len(field.get("failed", ())),
        }
        for name, field in stages.get("detect", {}).get("fields", {}).items()
    }


def tell_result(result: Any, console: Console, *, numbers: bool = True) -> None:
    """Print the main numbers of a run (unless they are the truth's), its notes, and its place."""
    results = result.results
    main = summary.results_table(results) if numbers else ""
    if main:
        console.echo(main)
    if results.get("truth"):
        console.echo(("\n" if main else "") + summary.truth_table(results["truth"]))
    for note in results.get("notes", ()):
        console.echo(f"note: {note}")
    if getattr(result, "up_to_date", False):
        from gcdask.storage import basename

        console.echo(f"nothing to do: run {basename(result.out)} is up to date")
    console.echo(f"results: {result.out}")
    if result.report is not None:
        console.echo(f"report:  {result.report}")
