"""What a run found, in tables for people and as one plain tree for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAIN = (
    "n_detected",
    "n_inpainted",
    "threshold",
    "purity",
    "masked_fraction",
    "beta.value",
    "beta.dispersion",
    "correlation.pearson_log",
    "relation.a",
    "relation.b",
    "profile.slope",
    "profile.contamination_arcsec2",
    "mass.within_arcsec",
    "mass.msun",
    "mass.per_gc_msun",
)


def main_numbers(results: Mapping[str, Any]) -> dict[str, Any]:
    """The main numbers of ``results.json`` that are there, by dotted key.

    A number with an error or a unit is a dict of ``value``, ``error`` and ``unit``.
    """
    out: dict[str, Any] = {}
    for name in MAIN:
        *sections, key = name.split(".")
        part: Any = results
        for section in sections:
            part = part.get(section) or {}
        value = part.get(key)
        if value is None:
            continue
        if not isinstance(value, dict):
            error = part.get("error" if key == "value" else f"{key}_error")
            unit = results.get("units", {}).get(name)
            value = {"value": value, "error": error, "unit": unit}
            value = {k: v for k, v in value.items() if v is not None}
        out[name.removesuffix(".value")] = value
    return out


def results_table(results: Mapping[str, Any]) -> str:
    """Table of the main numbers, with errors and units."""
    from gcdask.describe import show_value

    rows = []
    for name, value in main_numbers(results).items():
        if set(value) <= {"value", "error", "unit"}:
            rows.append((name, show_value(value)))
        else:
            shown = ", ".join(f"{k} {show_value(v)}" for k, v in value.items() if v is not None)
            rows.append((name, shown))
    return table(rows)


def truth_table(truth: Mapping[str, Any]) -> str:
    """Table of what was found against what was put in."""
    from gcdask.describe import show_value

    rows = [("", "found", "truth")]
    rows.append(("sources", truth["n_found"] + truth["inpainted"], truth["n_truth"]))
    rows.append(("  hidden by the mask", truth["inpainted"], truth["masked_truth"]))
    for name in ("completeness", "purity"):  # none if nothing could be found
        rows.append((name, "-" if truth[name] is None else f"{truth[name]:.1%}", "100%"))
    rows += [(f"beta {k}", v, truth["beta_truth"][k]) for k, v in truth["beta"].items()]
    for name in ("slope", "contamination"):
        rows.append((name, truth[name], truth[f"{name}_truth"]))
    return table([[v if isinstance(v, str) else show_value(v) for v in row] for row in rows])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns."""
    if not rows:
        return ""
    width = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(v.ljust(w) for v, w in zip(row, width, strict=False)), row[-1]])
        for row in rows
    )
