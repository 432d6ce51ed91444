"""What all benchmarks share: alternating timings, peak memory, and the line that is printed."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

RUNS = 5


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes
    ----------
    name, work : str
        Of the benchmark, and what is done in words.
    this, peer : float
        Median seconds of this package and of what it is compared with (NaN without a peer).
    ratio : float
        What is compared with the bar; ``unit`` says what it is, e.g. "x faster".
    bar : str
        The bar in words, e.g. ">= 8".
    reached : bool
        Whether the bar is reached (printed, never a failure: this machine is noisy).
    accuracy : str
        The accuracy check in words, with the number that was found.
    passed : bool
        Whether the accuracy check holds; `run.py` fails otherwise.
    peak : float
        Peak resident memory in bytes, of the process or worker that did the work.
    details : dict
        More numbers, for ``--json``.
    """

    name: str
    work: str
    this: float
    peer: float
    ratio: float
    unit: str
    bar: str
    reached: bool
    accuracy: str
    passed: bool
    peak: float
    details: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        mark = "" if self.reached else "  (bar not reached)"
        check = "ok" if self.passed else "FAILED"
        return (
            f"{self.name:9} {self.this:9.3f} s {self.peer:9.3f} s  {self.ratio:6.2f} {self.unit} "
            f"({self.bar}){mark}  {self.accuracy}: {check}  peak {self.peak / 2**20:.0f} MiB"
        )


def single_threaded() -> None:
    """Turn the thread pools inside kernels off in this process (`run.py` sets the environment)."""
    import cv2
    import zarr

    cv2.setNumThreads(1)
    zarr.config.set({"threading.max_workers": 1})


def alternate(
    this: Callable[[], Any], peer: Callable[[], Any], runs: int = RUNS
) -> tuple[list[float], list[float]]:
    """Seconds of ``runs`` alternating calls of both, after one call of ``this`` to warm up.

    The order changes from pair to pair, so that a drift of the machine favours neither.
    """
    this()
    spent: tuple[list[float], list[float]] = ([], [])
    for k in range(runs):
        for which in (0, 1) if k % 2 == 0 else (1, 0):
            spent[which].append(seconds((this, peer)[which]))
    return spent


def seconds(function: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median of the ratios pair by pair."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


def reset_peak(pid: int | str = "self") -> None:
    """Begin to measure the peak resident memory of a process anew, after giving back free pages."""
    gc.collect()
    if pid == "self":
        ctypes.CDLL(None).malloc_trim(0)
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory(pid: int | str = "self") -> int:
    """Peak resident memory (bytes) of a process since `reset_peak`, from the kernel."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel gives no VmHWM; benchmarks need Linux")
