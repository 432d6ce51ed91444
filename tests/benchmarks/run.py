"""Run benchmarks, one line each; exits with 1 if an accuracy check fails.

``python tests/benchmarks/run.py [NAME ...] [--json]``. Each runs in a process of its own, so that
memory and threads of one do not touch another's.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import subprocess
import sys

#: Where each is: module and function.
BENCHMARKS = {
    "highpass": ("highpass", "run"),
    "peaks": ("peaks", "run"),
    "density": ("density", "run"),
    "scan": ("scan", "run"),
    "pipeline": ("pipeline", "run"),
    "overhead": ("stored", "overhead"),
    "scaling": ("stored", "scaling"),
    "catalogue": ("catalogue", "run"),
    "rerun": ("rerun", "run"),
    "survey": ("survey", "run"),
}
ONE = "--one"


def one(name: str) -> None:
    """Run one benchmark in this process and print its results as JSON lines."""
    from common import Result, single_threaded

    single_threaded()
    module, function = BENCHMARKS[name]
    results = getattr(importlib.import_module(module), function)()
    for result in [results] if isinstance(results, Result) else results:
        print(json.dumps(dataclasses.asdict(result)), flush=True)


def main() -> int:
    """Run the benchmarks that are named (all by default); see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="all numbers, one JSON object a line")
    parser.add_argument(ONE, metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one)
        return 0
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}")
    from common import Result

    from gcdask.cluster import THREADS

    failed = False
    for name in arguments.names or BENCHMARKS:
        done = subprocess.run(
            [sys.executable, __file__, ONE, name],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **THREADS},
        )
        failed |= done.returncode != 0
        if done.returncode != 0:
            print(f"{name}: stopped with exit code {done.returncode}", file=sys.stderr, flush=True)
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                result = Result(**json.loads(line))
                failed |= not result.passed
                print(line if arguments.json else result, flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
