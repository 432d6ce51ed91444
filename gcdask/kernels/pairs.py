"""One-to-one pairs out of many candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _first_come(i: Any, j: Any, used_i: Any, used_j: Any) -> Any:
    take = np.zeros(i.size, np.bool_)
    for k in range(i.size):
        if not (used_i[i[k]] or used_j[j[k]]):
            take[k] = used_i[i[k]] = used_j[j[k]] = True
    return take


def first_come(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Which candidate pairs hold if each member is used once and the first pair to come has it.

    Parameters
    ----------
    i, j : (n,) arrays of int, 0 or more
        The members of each candidate, the best candidate first.

    Returns
    -------
    (k,) int array
        Positions of the pairs that hold, ascending: the best comes first.
    """
    i, j = np.array(i, np.int64), np.array(j, np.int64)
    used = [np.zeros(n.max(initial=-1) + 1, np.bool_) for n in (i, j)]
    return np.flatnonzero(_first_come(i, j, *used))
