"""The stages of a run, what they need and what they leave behind.

`inputs` opens everything, `detection` goes from pixels to peaks, `science` from sources to numbers,
`results` and `figures` say them; `stages` puts them in order, `plan` says what they would do.
`runner` is where tasks run, `store` the output folder.

Names are imported on first use: a worker needs `detection` alone, not the figures (100 MB).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcdask.pipeline.plan import Plan, dry_run
    from gcdask.pipeline.stages import RunResult, check_folder, run

__all__ = ["Plan", "RunResult", "check_folder", "dry_run", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{'plan' if name in ('Plan', 'dry_run') else 'stages'}")
    return getattr(module, name)
