"""One-to-one pairs of two catalogues on the sky.

The rule is greedy, the closest pair of all first. Its result at one place may hang on a chain of
rivals, but mostly it does not: each partition of the first catalogue decides the pairs that nothing
outside its neighbourhood can change, and hands what is open (and the pairs that others must know
of) as small rows to one settling task. The pairs are those of the rule applied to the whole sky.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.base import tokenize
from scipy.spatial import cKDTree

from gcdask.catalog.parts import (
    boxed,
    boxed_call,
    elements,
    gathered,
    hand_made,
    keys_of,
    layer_of,
    merged,
    per_part,
)
from gcdask.catalog.schema import as_dask
from gcdask.catalog.where import MAX_UNPLACED, beside, caps_near, part_caps, stays, vectors
from gcdask.errors import InputError
from gcdask.kernels.pairs import ACCEPTED, OPEN, fates, first_come

ARCSEC = np.pi / 180 / 3600
NO_MATCH = -1
WINDOW = 128  # partitions: more than the threads of most clusters
ROUNDING = 1e-9  # relative, by which searches reach farther than they must
# Candidates in the order of the rule: then ties by ids, then by place in the catalogues.
PAIR = [("chord", "f8"), ("a_id", "i8"), ("b_id", "i8"), ("a_key", "i8"), ("b_key", "i8")]


def match(a: Any, b: Any, radius: float) -> dd.DataFrame:
    """Nearest one-to-one pairs of two catalogues on the sky.

    Pairs are made closest first: a source of either catalogue has one partner at most, and of two
    rivals the nearer wins (then the smaller id). The result does not depend on partitions. Where
    those of ``a`` are known by place (see `gcdask.catalog.where.part_boxes`), each reads only the
    partitions around it, and 24 bytes a source wait until all have decided; else positions and ids
    of all sources come together in one task.

    Parameters
    ----------
    a, b : dask or pandas DataFrame
        Catalogues with ``ra``, ``dec``, ``id``. Sources without a position get no partner.
    radius : float
        Largest separation in arcsec.

    Returns
    -------
    dask.dataframe.DataFrame
        ``a`` with the columns ``match_id`` (int64, id in ``b``, -1 without a partner) and
        ``match_sep`` (float64, arcsec, NaN without a partner), lazily.

    Raises
    ------
    InputError
        If the radius is not positive, or a catalogue lacks a column.
    """
    if not radius > 0:
        raise InputError(f"radius = {radius} arcsec is not positive; give a positive one")
    a, b = as_dask(a), as_dask(b)
    limit = chord_of(radius)
    decided = _decided(_columns(a, "a"), _columns(b, "b"), limit)
    contested = da.map_blocks(_contested, decided, dtype=object, meta=np.empty(0, object))
    settled = gathered(merged(contested, np.concatenate), _settle)
    whose = [0] * a.npartitions if decided.size == 1 else range(a.npartitions)
    tasks = [
        (_partners, key, (settled.name, 0), k) for k, key in enumerate(keys_of(decided, whose))
    ]
    partners = layer_of("partners", tasks, [decided, settled])
    meta = a._meta.assign(match_id=np.empty(0, np.int64), match_sep=np.empty(0))
    meta.attrs = {**a._meta.attrs}
    meta.attrs["units"] = {**a._meta.attrs.get("units", {}), "match_sep": "arcsec"}
    return beside(a, partners, partial(_attach, attrs=meta.attrs), meta)


def _columns(catalog: dd.DataFrame, what: str) -> dd.DataFrame:
    wanted = ["ra", "dec", "id"]
    missing = [n for n in wanted if n not in catalog.columns]
    if missing:
        raise InputError(
            f"catalogue {what} has no {', '.join(missing)} (columns: "
            f"{', '.join(map(str, catalog.columns))}); read it with gcdask.catalog.read"
        )
    return catalog[[c for c in catalog.columns if c in wanted]]


def _neighbours(
    a: dd.DataFrame, b: dd.DataFrame, limit: float
) -> tuple[list[list[int]], list[list[int]]] | None:
    """For each partition of ``a``: others of ``a`` within 2 limits, and those of ``b`` within 1."""
    caps = [part_caps(c) for c in (a, b)]
    if caps[1] is None and b.npartitions <= MAX_UNPLACED:
        caps[1] = np.zeros((b.npartitions, 3)), np.full(b.npartitions, np.inf)
    one, two = caps
    if one is None or two is None:
        return None
    rivals = [[k for k in ks if k != own] for own, ks in enumerate(caps_near(one, one, 2 * limit))]
    return rivals, caps_near(one, two, limit)


def _decided(a: dd.DataFrame, b: dd.DataFrame, limit: float) -> da.Array:
    """`_decide` of each partition of ``a``, or of everything where places are not known.

    Partitions are placed in the order in which they are needed, and no more than `WINDOW` ahead of
    those that are decided: left to itself, the scheduler brings most of them into memory first.
    """
    near = _neighbours(a, b, limit * (1 + ROUNDING))
    if near is None:
        both = [per_part(c, _place, "places", range(c.npartitions)) for c in (a, b)]
        all_a, all_b = (gathered(p, Places.join) for p in both)
        keys = keys_of(all_a), keys_of(all_b)
        return layer_of("match", [(_decide, keys[0][0], [], keys[1], limit)], [all_a, all_b], limit)
    rivals, partners = near
    token = tokenize(a._name, b._name, limit, near)
    name, done, *places = (
        f"{label}-{token}" for label in ("match", "matched", "place-a", "place-b")
    )
    layer: dict[Any, Any] = {}
    dependencies = []
    for label, catalog, used in zip(places, (a, b), (_with_own(rivals), partners), strict=True):
        parts, needed = elements(catalog)
        dependencies += needed
        for k, first in _first_use(used).items():
            after = [(done, first - WINDOW)] if first >= WINDOW else []
            layer[label, k] = (boxed_call, _place, parts[k], k, after)
    for k in range(len(rivals)):
        around = [[(p, n) for n in ns[k]] for p, ns in zip(places, near, strict=True)]
        layer[name, k] = (boxed_call, _decide, (places[0], k), *around, limit)
        layer[done, k] = (_nothing, (name, k), *([(done, k - 1)] if k else []))
    return hand_made(name, layer, dependencies, (len(rivals),))


def _with_own(rivals: list[list[int]]) -> list[list[int]]:
    return [[own, *others] for own, others in enumerate(rivals)]


def _first_use(used: list[list[int]]) -> dict[int, int]:
    """Which of the lists is the first to have each number."""
    first: dict[int, int] = {}
    for k, numbers in enumerate(used):
        for number in numbers:
            first.setdefault(number, k)
    return first


def _nothing(*_: Any) -> None:
    """Stand for tasks of which others only need to know that they are done."""


def chord_of(radius: float) -> float:
    """Chord of the unit sphere that spans a separation in arcsec."""
    return float(2 * np.sin(radius * ARCSEC / 2))


# -- positions -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Places:
    """Sources: unit vectors (n, 3), ids, and keys (number of the partition << 32 | row)."""

    vector: np.ndarray
    id: np.ndarray
    key: np.ndarray

    def __getitem__(self, rows: Any) -> Places:
        """Some of the sources."""
        return Places(self.vector[rows], self.id[rows], self.key[rows])

    def within(self, center: np.ndarray, chord: float) -> Places:
        """Those in a cap, or a trifle outside."""
        off = self.vector - center
        return self[np.einsum("ij,ij->i", off, off) <= (chord * (1 + ROUNDING)) ** 2]

    @classmethod
    def join(cls, parts: list[Places]) -> Places:
        """All sources of several; at least one must be given."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def _place(part: pd.DataFrame, number: int, after: Any = None) -> Places:
    ids = part["id"].to_numpy(np.int64)
    return Places(vectors(part["ra"], part["dec"]), ids, np.arange(len(part)) + (number << 32))


def _around(parts: list[np.ndarray], center: np.ndarray, chord: float) -> Places:
    """Sources of several partitions within a cap."""
    none = Places(np.empty((0, 3)), np.empty(0, np.int64), np.empty(0, np.int64))
    return Places.join([none, *(part.item().within(center, chord) for part in parts)])


# -- the rule ------------------------------------------------------------------------------------
def _candidates(
    one: np.ndarray, two: np.ndarray, limit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows ``i``, ``j`` of unit vectors at most ``limit`` apart, and their chords, in no order.

    The tree's own cut may round either way at the limit, differently in another tree; so it
    searches farther, and the chord, which hangs on the two positions alone, is compared here.
    """
    if not len(one) or not len(two):
        return np.empty(0, int), np.empty(0, int), np.empty(0)
    pairs = cKDTree(one).sparse_distance_matrix(
        cKDTree(two), limit * (1 + ROUNDING), output_type="coo_matrix"
    )
    keep = pairs.data <= limit
    return pairs.row[keep], pairs.col[keep], pairs.data[keep]


def _separation(chord: np.ndarray) -> np.ndarray:
    return 2 * np.arcsin(np.minimum(chord / 2, 1)) / ARCSEC


def nearest_pairs(
    a: tuple[Any, Any], b: tuple[Any, Any], radius: float, ids: tuple[Any, Any] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers ``i`` of ``a`` and ``j`` of ``b`` (RA, Dec in deg) of one-to-one pairs.

    Closest pairs first, ties by ``ids``, then by row; ``separation`` in arcsec, at most
    ``radius``. Returns ``(i, j, separation)``, sorted by ``i``.
    """
    i, j, chord = _candidates(vectors(*a), vectors(*b), chord_of(radius))
    ties = [] if ids is None else [np.asarray(ids[1])[j], np.asarray(ids[0])[i]]
    order = np.lexsort((j, i, *ties, chord))
    final = order[first_come(i[order], j[order])]
    final = final[np.argsort(i[final], kind="stable")]
    return i[final], j[final], _separation(chord[final])


def _decide(
    own: np.ndarray, rivals: list[np.ndarray], partners: list[np.ndarray], limit: float
) -> dict[str, np.ndarray]:
    """Decide what a partition can, given all that is near.

    Sources of its own know all of their candidates, and so do the candidates themselves. Rivals,
    sources of other partitions that could take those candidates, may have more.

    Returns
    -------
    dict
        ``key`` of the partition's sources, ``id``, ``sep`` of those with a certain partner, and
        ``contested``: pairs (`PAIR`) that are open, and certain ones that leave a rival without
        the partner, which the rival's partition may not know.
    """
    mine: Places = own.item()
    out = {
        "key": mine.key,
        "id": np.full(mine.key.size, NO_MATCH, np.int64),
        "sep": np.full(mine.key.size, np.nan),
        "contested": np.empty(0, PAIR),
    }
    rows = np.flatnonzero(np.isfinite(mine.vector).all(axis=1))
    if not rows.size:
        return out
    mine = mine[rows]
    center = mine.vector.mean(axis=0)
    size = float(np.linalg.norm(mine.vector - center, axis=1).max())
    b = _around(partners, center, size + limit)
    i, j, chord = _candidates(mine.vector, b.vector, limit)
    some, j = np.unique(j, return_inverse=True)
    b = b[some]
    rivals_near = _around(rivals, center, size + 2 * limit)
    other_i, other_j, other_chord = _candidates(rivals_near.vector, b.vector, limit)
    i, j = np.concatenate([i, other_i + rows.size]), np.concatenate([j, other_j])
    all_a = Places.join([mine, rivals_near])
    pairs = _pairs(all_a[i], b[j], np.concatenate([chord, other_chord]))
    order = _order(pairs)
    pairs, i, j = pairs[order], i[order], j[order]
    fate = fates(i, j, np.arange(all_a.key.size) >= rows.size)
    sure = fate == ACCEPTED
    out["id"][rows[i[sure]]] = pairs["b_id"][sure]
    out["sep"][rows[i[sure]]] = _separation(pairs["chord"][sure])
    told = sure & np.isin(j, other_j)
    out["contested"] = pairs[told | ((fate == OPEN) & (i < rows.size))]
    return out


def _pairs(a: Places, b: Places, chord: np.ndarray) -> np.ndarray:
    pairs = np.empty(chord.size, PAIR)
    values = chord, a.id, b.id, a.key, b.key
    for (name, _), column in zip(PAIR, values, strict=True):
        pairs[name] = column
    return pairs


def _order(pairs: np.ndarray) -> np.ndarray:
    """Order in which the rule takes pairs: by distance, ties by ids, then by place."""
    return np.lexsort([pairs[name] for name, _ in reversed(PAIR)])


def _contested(decided: np.ndarray) -> np.ndarray:
    return boxed(decided.item()["contested"], 1)


def _settle(parts: list[np.ndarray]) -> np.ndarray:
    """Contested pairs that hold, sorted by ``a_key``.

    The rule on these rows gives what it gives on all pairs: whatever could take a member of an open
    pair first is among them, as another open pair or as a certain one that was told.
    """
    pairs = np.concatenate(parts)
    pairs = pairs[_order(pairs)]
    i, j = (np.unique(pairs[name], return_inverse=True)[1] for name in ("a_key", "b_key"))
    held = pairs[first_come(i, j)]
    return held[np.argsort(held["a_key"])]


def _partners(decided: np.ndarray, settled: np.ndarray, number: int) -> pd.DataFrame:
    """Partner of each source of a partition."""
    out, held, ends = decided.item(), settled.item(), [number << 32, (number + 1) << 32]
    rows, late = (slice(*np.searchsorted(k, ends)) for k in (out["key"], held["a_key"]))
    ids, apart = out["id"][rows].copy(), out["sep"][rows].copy()
    where = np.searchsorted(out["key"][rows], held["a_key"][late])
    ids[where], apart[where] = held["b_id"][late], _separation(held["chord"][late])
    return pd.DataFrame({"match_id": ids, "match_sep": apart})


@stays
def _attach(part: pd.DataFrame, partners: pd.DataFrame, *, attrs: dict[Any, Any]) -> pd.DataFrame:
    ids, apart = (partners[name].to_numpy() for name in ("match_id", "match_sep"))
    out = part.assign(match_id=ids, match_sep=apart)
    out.attrs = dict(attrs)
    return out
