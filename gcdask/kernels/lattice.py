"""Offsets of a block's pixels from a centre, from the few nodes where the WCS was evaluated.

As arrays they would be eight bytes a pixel each, more than the map; loops that need them
interpolate row by row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit


class Lattice(NamedTuple):
    """Offsets (arcsec) at nodes, and where the rows and columns of a block lie between them.

    ``east``, ``north``: (n_node_rows, n_node_columns) float64. ``iy``, ``fy``: node row before each
    row of the block, and the fraction of the way to the next; ``ix``, ``fx`` for its columns.
    """

    east: np.ndarray
    north: np.ndarray
    iy: np.ndarray
    fy: np.ndarray
    ix: np.ndarray
    fx: np.ndarray


@njit(cache=True, nogil=True)
def fill_line(lattice: Any, i: int, nodes: Any, out: Any) -> None:
    """Offsets (east, north) of row ``i`` into ``out`` (2, nx); ``nodes`` (2, nodes) is scratch."""
    k, f = lattice.iy[i], lattice.fy[i]
    for m in range(nodes.shape[1]):
        nodes[0, m] = lattice.east[k, m] * (1 - f) + lattice.east[k + 1, m] * f
        nodes[1, m] = lattice.north[k, m] * (1 - f) + lattice.north[k + 1, m] * f
    for j in range(out.shape[1]):
        m, f = lattice.ix[j], lattice.fx[j]
        out[0, j] = nodes[0, m] * (1 - f) + nodes[0, m + 1] * f
        out[1, j] = nodes[1, m] * (1 - f) + nodes[1, m + 1] * f
