"""Figures of `gcdask.pipeline.evidence`, for what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gcdask import plots

#: What was measured, its figure, title and caption.
FIGURES: tuple[tuple[str, Callable[..., Path], str, str], ...] = (
    (
        "likelihood",
        plots.likelihood_ranking,
        "Which map do the sources follow?",
        "Log-likelihood of the detected sources as a Poisson process of each map's intensity, "
        "over that of a uniform one, the mask accounted for. Thin bars: block jackknife.",
    ),
    (
        "tracer",
        plots.tracer_power,
        "Number density by convergence",
        "Sources per area in bins of convergence, and A κᵍ + c by maximum likelihood, which "
        "knows no bins.",
    ),
    (
        "kernel",
        plots.kernel_fit,
        "Kernel of the density",
        "χ² of β ρ's profile against that of the convergence for each kernel that was tried, "
        "and the profiles (paper, figure 7, red lines).",
    ),
    (
        "transfer",
        plots.transfer,
        "Convergence predicted from sources",
        "The n-κ relation, calibrated on one half of the field and applied to boxes of the "
        "other, against the lens model there.",
    ),
    (
        "luminosity",
        plots.luminosity_function,
        "Luminosity function",
        "Sources per magnitude, less contaminants where a second field tells them, and the "
        "Gaussian fitted to those brighter than the limit.",
    ),
)


def draw_evidence(folder: Path, measured: Mapping[str, Any]) -> Iterator[tuple[Path, str, str]]:
    """Likelihoods, the tracers' law, the kernel, the transfer test, the luminosity function."""
    for name, draw, title, caption in FIGURES:
        if name in measured:
            fits = (measured["gclf"],) if name == "luminosity" else ()
            yield draw(measured[name], *fits, folder / f"{name}.png"), title, caption
