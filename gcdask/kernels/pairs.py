"""One-to-one pairs out of many candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

ACCEPTED, DROPPED, OPEN = 1, 0, -1


@njit(cache=True, nogil=True)
def _first_come(i: Any, j: Any, used_i: Any, used_j: Any, open_i: Any, open_j: Any) -> Any:
    fate = np.zeros(i.size, np.int8)
    for k in range(i.size):
        a, b = i[k], j[k]
        if used_i[a] or used_j[b]:
            continue
        if open_i[a] or open_j[b]:
            fate[k] = -1
            open_i[a] = open_j[b] = True
        else:
            fate[k] = 1
            used_i[a] = used_j[b] = True
    return fate


def fates(i: np.ndarray, j: np.ndarray, unsure: np.ndarray) -> np.ndarray:
    """What becomes of candidate pairs where some members have more candidates, not given here.

    The rule is `first_come`'s. A pair is open if its fate hangs on candidates that are not given.

    Parameters
    ----------
    i, j : (n,) arrays of int, 0 or more
        The members of each candidate, the best candidate first.
    unsure : (m,) bool array
        Members ``i`` that may have candidates which are not given. Members ``j`` have none.

    Returns
    -------
    (n,) int8 array
        ACCEPTED or DROPPED where every completion of the list has it so, else OPEN.
    """
    i, j = np.array(i, np.int64), np.array(j, np.int64)
    used_i, used_j = (np.zeros(n.max(initial=-1) + 1, np.bool_) for n in (i, j))
    open_i, open_j = np.zeros_like(used_i), np.zeros_like(used_j)
    known = min(open_i.size, unsure.size)
    open_i[:known] = unsure[:known]
    return np.asarray(_first_come(i, j, used_i, used_j, open_i, open_j))


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
    return np.flatnonzero(fates(i, j, np.zeros(0, bool)) == ACCEPTED)
