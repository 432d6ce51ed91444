"""From a mosaic to peaks: high-pass filters, detection map, noise, threshold, catalogue.

The numbers are made by NumPy functions on one window (`chain`, `peaks_in_window`), which the
pipeline's tiles and the lazy functions share. Each lazy function exchanges its own halo; the
pipeline exchanges one for the whole chain. Reading order: window, threshold, inputs, maps, peaks.

Sources: Diego et al. 2026, section 3; the greedy rule is exact for every chunking (see
`gcdask.kernels.peaks`).
"""

from gcdask.detect.maps import detection_map, highpass, noise_map
from gcdask.detect.peaks import detect_peaks
from gcdask.detect.threshold import RING, auto_threshold, level_counts, purity
from gcdask.detect.window import (
    FILTERS,
    NEAR_RADIUS,
    PEAK_HALO,
    chain,
    chain_halo,
    peaks_in_window,
    settle_peaks,
    signal_to_noise,
)

__all__ = [
    "FILTERS",
    "NEAR_RADIUS",
    "PEAK_HALO",
    "RING",
    "auto_threshold",
    "chain",
    "chain_halo",
    "detect_peaks",
    "detection_map",
    "highpass",
    "level_counts",
    "noise_map",
    "peaks_in_window",
    "purity",
    "settle_peaks",
    "signal_to_noise",
]
