"""The stages of a run, what they need and what they leave behind.

`inputs` opens everything. `identity` says what decides a result, `records` is what tiles leave
behind, `tile` the work of one task, `runner` where tasks run; `detection` goes from pixels to
peaks, `science` from sources to numbers. `versions` is the output folder, and `lock` keeps it for
one run. `sources` and `measures` (with `results`, `figures`, `truth`) are the stages, `stages` puts
them in order; `plan` says what they would do, `history` what they did.

Names are imported on first use: a worker needs `tile` alone, not the figures (100 MB).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcdask.pipeline.history import Status, clean, status
    from gcdask.pipeline.plan import Plan, dry_run
    from gcdask.pipeline.stages import run
    from gcdask.pipeline.versions import STAGES, RunResult, check_folder, finished

_MODULES = {
    "Plan": "plan",
    "RunResult": "versions",
    "STAGES": "versions",
    "Status": "history",
    "check_folder": "versions",
    "clean": "history",
    "dry_run": "plan",
    "finished": "versions",
    "run": "stages",
    "status": "history",
}
__all__ = [
    "STAGES",
    "Plan",
    "RunResult",
    "Status",
    "check_folder",
    "clean",
    "dry_run",
    "finished",
    "run",
    "status",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
