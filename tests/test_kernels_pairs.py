"""One-to-one pairs against the plain loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gcdask.kernels.pairs import ACCEPTED, DROPPED, OPEN, fates, first_come


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), max_size=60))
def test_the_first_candidate_has_both_of_its_members(candidates):
    used_i, used_j, expected = set(), set(), []
    for k, (i, j) in enumerate(candidates):
        if i not in used_i and j not in used_j:
            used_i.add(i), used_j.add(j), expected.append(k)
    i, j = np.array(candidates, np.int32).reshape(-1, 2).T
    i.flags.writeable = False
    assert first_come(i, j).tolist() == expected


CANDIDATES = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), max_size=60, unique=True)


@given(CANDIDATES, st.sets(st.integers(0, 12)), st.sets(st.integers(0, 9)))
def test_a_fate_that_is_told_holds_whatever_was_not_given(candidates, unsure, absent):
    i, j = np.array(candidates, np.int64).reshape(-1, 2).T
    sure = ~np.isin(i, list(unsure))
    told = ~np.isin(j, list(absent)) | np.isin(j, j[sure])  # members j have all candidates or none
    flags = np.isin(np.arange(13), list(unsure))
    whole = np.isin(np.arange(i.size), first_come(i, j))
    got = fates(i[told], j[told], flags)
    assert (whole[told][got == ACCEPTED]).all()
    assert not whole[told][got == DROPPED].any()
    if not unsure:
        assert not (got == OPEN).any()


def test_an_open_pair_leaves_what_hangs_on_it_open():
    i, j = np.array([1, 0, 0, 2, 3]), np.array([0, 0, 1, 1, 2])
    got = fates(i, j, np.array([False, True]))
    assert got.tolist() == [OPEN, OPEN, OPEN, OPEN, ACCEPTED]
    assert fates(i, j, np.zeros(0, bool)).tolist() == [1, 0, 1, 0, 1]
