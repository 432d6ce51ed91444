"""What surveys would cost, from the numbers of a benchmark run: the tables of COST.md.

``python tests/benchmarks/run.py survey overhead catalogue density --json > numbers.jsonl``, then
``python tests/benchmarks/cost.py numbers.jsonl``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TILE, HALO = 4096, 102
NIGHT = 10  # h
COMPRESSED = 0.83  # size of noisy float32 pixels after lz4 with bit shuffle
CELL, PER_CELL = 32, 21  # px of a footprint cell; bytes of one in the client while it is combined


@dataclass(frozen=True)
class Field:
    """A survey: ``area`` in deg2, ``scale`` in arcsec per px, sources per pixel."""

    name: str
    pixels: float
    bands: int
    density: float

    @classmethod
    def of(cls, name: str, area: float, scale: float, bands: int, density: float) -> Field:
        """A survey of an area (deg2) at a pixel scale (arcsec)."""
        return cls(name, area * (3600 / scale) ** 2, bands, density)


FIELDS = (
    Field("GLIMPSE, two modules", 2 * 4400**2, 4, 1.5e-3),
    Field.of('COSMOS-Web, 0.54 deg2 at 0.03"', 0.54, 0.03, 4, 4e-4),
    Field.of('Roman HLWAS, 2 000 deg2 at 0.11"', 2000, 0.11, 4, 4e-4),
    Field.of('Euclid wide, 14 000 deg2 at 0.1"', 14_000, 0.1, 1, 4e-4),
)


@dataclass(frozen=True)
class Rates:
    """Measured costs: ns of one core per pixel, bytes per pixel or source."""

    survey: float
    detect: float
    read: float
    write: float  # us of one core per source: the catalogue of a threshold
    source: float
    mask: float
    row: float
    peak: float

    @classmethod
    def of(cls, numbers: dict[str, Any]) -> Rates:
        """From the JSON of a run; the large field of `survey` gives the rates."""
        details = numbers["survey"]["details"]
        pixels, sources = details["pixels"][-1], details["sources"][-1]
        stages, written = details["stages"][-1], details["written"][-1]
        making, cores = details["generate_ns"], 2
        rates = [cores * stages[f"{s} sky"] / pixels * 1e9 - making for s in ("survey", "detect")]
        rest = details["seconds"][-1] - sum(stages.values())
        return cls(
            *rates,
            read=numbers["overhead"]["details"]["read_ns"],
            write=cores * rest / sources * 1e6,
            source=written["catalogue"] / sources,
            mask=written["maps"] / pixels,
            row=written["rows"] / details["tiles"][-1],
            peak=numbers["survey"]["peak"],
        )


def core_seconds(field: Field, rates: Rates) -> float:
    """Both passes over the pixels of all bands, and the catalogue."""
    per_pixel = rates.survey + rates.detect + 2 * field.bands * rates.read
    return (per_pixel * field.pixels + 1e3 * rates.write * field.density * field.pixels) * 1e-9


def table(rates: Rates) -> str:
    """One row for each survey."""
    lines = [
        "| survey | pixels x bands | tiles | core-hours | workers for one night | read | a worker "
        "reads | written | detection map | client |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    wider = ((TILE + 2 * HALO) / TILE) ** 2
    for f in FIELDS:
        hours = core_seconds(f, rates) / 3600
        read = 2 * f.bands * f.pixels * 4 * COMPRESSED * wider
        written = f.pixels * rates.mask + f.pixels * f.density * rates.source * 2
        maps = f.pixels * 4 * COMPRESSED
        tiles = f.pixels / TILE**2
        client = tiles * rates.row + f.pixels / CELL**2 * PER_CELL
        workers = max(hours / NIGHT, 1)
        network = read / (hours * 3600)
        lines.append(
            f"| {f.name} | {f.pixels:.2g} x {f.bands} | {tiles:,.0f} | {_short(hours)} | "
            f"{workers:,.0f} | {_bytes(read)} | {_bytes(network)}/s | {_bytes(written)} | "
            f"{_bytes(maps)} | {_bytes(client)} |"
        )
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB" if value < 1000 else f"{value:,.0f} TB"


def main() -> None:
    """Print the rates and the table."""
    lines = Path(sys.argv[1]).read_text().splitlines()
    numbers = {r["name"]: r for r in map(json.loads, lines)}
    rates = Rates.of(numbers)
    print(rates, "\n")
    print(table(rates))
    details = numbers["survey"]["details"]
    field = Field("check", details["pixels"][-1], 1, details["sources"][-1] / details["pixels"][-1])
    print(
        "\npredicted for the large field from the small one:", _check(numbers), "of", field.pixels
    )


def _check(numbers: dict[str, Any]) -> str:
    """The large field predicted from the rates of the small one, against what it took."""
    details = numbers["survey"]["details"]
    predicted = details["seconds"][0] * details["pixels"][-1] / details["pixels"][0]
    return f"{predicted:.0f} s, measured {details['seconds'][-1]:.0f} s"


if __name__ == "__main__":
    main()
