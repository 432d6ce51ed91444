"""The stages of a run, what they need and what they leave behind.

`inputs` opens everything, `detection` goes from pixels to peaks, `science` from sources to numbers,
`results` and `figures` say them; `run` puts the stages in order, `plan` says what they would do.
`runner` is where tasks run, `store` the output folder.
"""

from gcdask.pipeline.plan import Plan, dry_run
from gcdask.pipeline.run import RunResult, check_folder, run

__all__ = ["Plan", "RunResult", "check_folder", "dry_run", "run"]
