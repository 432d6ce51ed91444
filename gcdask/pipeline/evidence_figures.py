"""Figures of `gcdask.pipeline.evidence`, for what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gcdask import plots

Drawn = tuple[Path, str, str]


def draw_evidence(folder: Path, measured: Mapping[str, Any]) -> Iterator[Drawn]:
    """Likelihoods, the tracers' law, the kernel, the transfer test, the luminosity function."""
    if "likelihood" in measured:
        yield (
            plots.likelihood_ranking(measured["likelihood"], folder / "likelihood.png"),
            "Which map do the sources follow?",
            "Log-likelihood of the detected sources as a Poisson process of each map's intensity, "
            "over that of a uniform one, the mask accounted for. Thin bars: block jackknife.",
        )
    if "tracer" in measured:
        yield (
            plots.tracer_power(measured["tracer"], folder / "tracer.png"),
            "Number density by convergence",
            "Sources per area in bins of convergence, and A κᵍ + c by maximum likelihood, which "
            "knows no bins.",
        )
    if "kernel" in measured:
        yield (
            plots.kernel_fit(measured["kernel"], folder / "kernel.png"),
            "Kernel of the density",
            "χ² of β ρ's profile against that of the convergence for each kernel that was tried, "
            "and the profiles (paper, figure 7, red lines).",
        )
    if "transfer" in measured:
        yield (
            plots.transfer(measured["transfer"], folder / "transfer.png"),
            "Convergence predicted from sources",
            "The n-κ relation, calibrated on one half of the field and applied to boxes of the "
            "other, against the lens model there.",
        )
    if "luminosity" in measured:
        yield (
            plots.luminosity_function(
                measured["luminosity"], measured["gclf"], folder / "luminosity.png"
            ),
            "Luminosity function",
            "Sources per magnitude, less contaminants where a second field tells them, and the "
            "Gaussian fitted to those above the limit.",
        )
