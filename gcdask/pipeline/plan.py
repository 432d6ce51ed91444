"""What a run would do, without doing it: stages, chunks, tasks and expected memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from distributed.system import MEMORY_LIMIT

from gcdask import mosaic
from gcdask.config import Config
from gcdask.grid import Grid
from gcdask.kernels import nearfar
from gcdask.pipeline.detection import kept_bytes, make_job
from gcdask.pipeline.inputs import Inputs, open_inputs, rules_of
from gcdask.pipeline.records import Place
from gcdask.pipeline.runner import KEEP
from gcdask.pipeline.tile import FieldJob
from gcdask.tiles import tile_grid

# Measured on AS1063-like fields with tiles of 512 to 4096 px, to within a tenth.
WORKER = 0.55e9  # bytes of a worker that has compiled everything and holds nothing
WINDOW = 24  # bytes per pixel of a tile's window, while it is detected in
NODE = 35  # bytes per node of the density's coarse grid, while it is made
SOURCES = 2e-3  # sources per pixel of a deep field: they decide how coarse that grid is


@dataclass(frozen=True)
class Plan:
    """Rows ``(stage, detail)``, and totals for all stages."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    tasks: int = 0
    chunks: str = ""
    memory: float = 0.0

    def __str__(self) -> str:
        width = max(len(stage) for stage, _ in self.rows)
        lines = [f"{stage:{width}}  {detail}" for stage, detail in self.rows]
        total = f"{self.tasks} tasks, {self.chunks}, about {self.memory / 1e9:.1f} GB per worker"
        return "\n".join([*lines, f"{'total':{width}}  {total}"])


def dry_run(config: Config) -> Plan:
    """Check a configuration and its inputs, and say what a run would do; computes nothing.

    Raises
    ------
    InputError
        For whatever `run` would refuse before it starts.
    """
    inputs = open_inputs(config)
    rows: list[tuple[str, str]] = []
    tasks, memory, chunks = 0, WORKER + _smooth_memory(inputs.grid), "no tiles"
    for name, sources, section in _fields(config, inputs):
        job = make_job(config, sources, rules_of(section), Place("", ""))
        n, window, text = _detection(name, job, config, rows)
        tasks += n
        memory = max(memory, WORKER + WINDOW * window + _kept(job, config))
        chunks = text
    rows += _later(config, inputs)
    tasks += _smooth_tasks(config, inputs)
    return Plan(rows, tasks, chunks, memory)


def _kept(job: FieldJob, config: Config) -> float:
    """Bytes that the survey leaves on each own worker, if there is room (see `Runner.room`)."""
    kept = kept_bytes(job)
    return kept / max(config.cluster.workers, 1) if kept <= KEEP * MEMORY_LIMIT else 0.0


def _fields(config: Config, inputs: Inputs) -> list[tuple[str, mosaic.Sources, Any]]:
    fields: list[tuple[str, mosaic.Sources, Any]] = []
    if inputs.sources is not None:
        fields.append((config.name, inputs.sources, config.mask))
    if inputs.reference is not None and config.reference is not None:
        section = config.reference.mask or config.mask
        fields.append((config.reference.name, inputs.reference, section))
    return fields


def _detection(
    name: str, job: FieldJob, config: Config, rows: list[tuple[str, str]]
) -> tuple[int, int, str]:
    shape, size = job.grid.shape, config.tiles.size
    tiles = tile_grid(shape, size, job.halo)
    halo = max(job.halo, job.plan.halo)
    window = int(np.prod([min(size + 2 * halo, n) for n in shape]))
    text = f"tiles of {size} px with a halo of {job.halo} px"
    grid = f"{shape[0]} x {shape[1]} px, {len(job.bands)} bands in {job.units or 'no unit'}"
    rows.append((f"survey {name}", f"{grid}: {len(tiles)} tasks"))
    rows.append((f"detect {name}", f"{text}: {len(tiles)} tasks, one map shard and part each"))
    rows.append((f"catalogue {name}", f"{len(tiles) + 1} parts, threshold {job_threshold(config)}"))
    return 3 * len(tiles) + 2, window, text


def job_threshold(config: Config) -> str:
    """The threshold in words."""
    d = config.detect
    if d.threshold_kind == "auto":
        return f"auto (at least {d.floor:g} sigma), catalogue above {d.level:g} T"
    unit = " sigma" if d.threshold_kind == "sigma" else ""
    return f"{d.threshold_value:g}{unit}, catalogue above {d.level:g} T"


def _later(config: Config, inputs: Inputs) -> list[tuple[str, str]]:
    """The stages after the catalogue."""
    rows = []
    if inputs.catalog is not None:
        rows.append(("catalogue", f"read from {config.catalog.path}"))  # type: ignore[union-attr]
    elif config.inpaint.iterations:
        i = config.inpaint
        rows.append(("inpaint", f"{i.estimator}, {i.iterations} iteration(s), seed {i.seed}"))
    d = config.density
    rows.append(("maps", f"density for alpha {', '.join(f'{a:g}' for a in (d.alpha, *d.alphas))}"))
    if config.lens is not None:
        c = config.compare
        rows.append(("compare", f"{config.lens.path}: beta by {len(c.sectors)} sectors, boxes of "
                     f"{c.box:g} arcsec, masses"))  # fmt: skip
        rows.append(("evidence", ", ".join(_evidence(c)) or "none asked for"))
    else:
        rows.append(("compare", "no lens model: skipped"))
    p = config.profiles
    rows.append(("profiles", f"{p.n} annuli, contamination: {p.contamination.method}"))
    shown = [k for k in ("fits", "figures", "report") if getattr(config.output, k)]
    rows.append(("output", ", ".join(["results.json", "tables", *shown])))
    return rows


def _evidence(compare: Any) -> list[str]:
    """What the comparison is tested by, in words."""
    kernel = compare.kernel
    scan = f"{len(kernel.alphas)} x {len(kernel.softenings)} kernels" if kernel else ""
    asked = {
        "likelihoods of maps": compare.likelihood,
        f"{compare.bootstrap} bootstraps": compare.bootstrap,
        f"{compare.mocks} mocks": compare.mocks,
        scan: kernel,
        "transfer test": compare.transfer,
    }
    return [text for text, wanted in asked.items() if wanted]


def _smooth_memory(grid: Grid) -> float:
    """Bytes of the coarse grid of a density map."""
    ny, nx = grid.shape
    n = int(SOURCES * ny * nx)
    coarse = nearfar.plan((0, ny, 0, nx), 1.6, 0.9, grid.pixel_scale, n_points=n)
    return float(NODE * np.prod(coarse.shape))


def _smooth_tasks(config: Config, inputs: Inputs) -> int:
    """About how many tasks the smooth maps and their reductions are."""
    factor = max(round(config.density.pixel / inputs.grid.pixel_scale), 1)
    if inputs.catalog is not None:
        factor = 1
    cells = [-(-n // (factor * 1024)) for n in inputs.grid.shape]
    maps = 1 + len(config.density.alphas) + (inputs.lens is not None)
    c = config.compare
    drawn = 5 * c.bootstrap + 11 * c.mocks if inputs.lens is not None else 0
    return int(np.prod(cells)) * (maps * 6 + drawn)
