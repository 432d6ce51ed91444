"""One-to-one pairs against the plain loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gcdask.kernels.pairs import first_come


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), max_size=60))
def test_the_first_candidate_has_both_of_its_members(candidates):
    used_i, used_j, expected = set(), set(), []
    for k, (i, j) in enumerate(candidates):
        if i not in used_i and j not in used_j:
            used_i.add(i), used_j.add(j), expected.append(k)
    i, j = np.array(candidates, np.int32).reshape(-1, 2).T
    i.flags.writeable = False
    assert first_come(i, j).tolist() == expected
