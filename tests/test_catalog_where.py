"""Partitions are known by place where that is sure, and what is done by place is done as in whole.

Oracles: the positions of every partition computed one by one, brute force over all pairs of boxes
and chunks, and `nearest_pairs` on the whole arrays.
"""

import uuid

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdask import catalog
from gcdask.catalog import pixel_positions
from gcdask.catalog.pairing import chord_of
from gcdask.catalog.parquet import PartReader, filesystem
from gcdask.catalog.points import near_points
from gcdask.catalog.where import caps_near, chunk_edges, part_boxes, part_caps, parts_near, vectors
from gcdask.errors import InputError
from gcdask.grid import Grid

GRID = Grid.tangent((110.83, -73.45), (300, 400), 0.05, angle=25)
TURNED = Grid.tangent((110.836, -73.4505), (500, 500), 0.07, angle=-50)


def sources(n=200, seed=1, grid=GRID):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, grid.shape[1] - 1, n), rng.uniform(0, grid.shape[0] - 1, n)
    return catalog.make_catalog(x, y, grid, peak=rng.normal(5, 1, n), snr=rng.normal(9, 1, n))


def stored(table, grid=GRID, tile=100, where=None):
    """The table written by tiles of this many px and opened again."""
    where = where or f"memory://gcdask-where/{uuid.uuid4().hex}"
    if tile is None:
        groups = [part for _, part in table.groupby(np.arange(len(table)) % 7)]
    else:
        groups = [part for _, part in table.groupby([table["y"] // tile, table["x"] // tile])]
    empty = table.iloc[:0]
    rows = []
    filesystem(where)[0].makedirs(where, exist_ok=True)
    for k, part in enumerate([*groups, empty]):
        part = part.reset_index(drop=True)
        rows.append(catalog.write_part(part, where, catalog.part_name(k), grid=grid))
    catalog.write_manifest(where, rows)
    return catalog.read(where)


@pytest.fixture
def reads(monkeypatch):
    """Compute a collection and give the number of parts that were read for it."""
    names, call = [], PartReader.__call__

    def noted(reader, part, columns=None):
        names.append(part.name)
        return call(reader, part, columns)

    monkeypatch.setattr(PartReader, "__call__", noted)

    def compute(*collections):
        names.clear()
        dask.compute(*collections, scheduler="sync")
        return len(names)

    return compute


# -- boxes -----------------------------------------------------------------------------------------
FOLLOWED = {
    "as it is": lambda c: c,
    "columns": lambda c: c[["ra", "dec"]],
    "more columns": lambda c: c[["id", "dec", "ra", "peak"]],
    "pixels alone": lambda c: c[["x", "y"]],
    "rows": lambda c: c[c["peak"] > 5],
    "rows, then columns": lambda c: c[(c["peak"] > 4.5) & (c["x"] > 30)][["ra", "dec"]],
    "query": lambda c: c.query("peak > 5"),
    "dropna": lambda c: c.dropna(),
    "select": lambda c: catalog.select(c, "peak > 5"),
    "select by function": lambda c: catalog.select(c, lambda p: p["peak"] > 5)[["ra", "dec"]],
    "within": lambda c: catalog.within(c, GRID.sky(200, 150), 5),
    "drop": lambda c: c.drop(columns="peak"),
    "rename": lambda c: c.rename(columns={"peak": "flux"}),
    "assign": lambda c: c.assign(flux=c["peak"] * 2 + c["ra"]),
    "astype": lambda c: c.astype({"peak": "float64"}),
    "reset_index": lambda c: c.reset_index(drop=True),
    "partitions": lambda c: c.partitions[3:7],
    "some partitions twice": lambda c: c.partitions[[1, 5, 8]].partitions[1:],
    "twice": lambda c: dd.concat([c, c[c["peak"] > 5]]),
    "match": lambda c: catalog.match(c, sources(50, seed=3), 1)[["ra", "dec", "match_id"]],
    "sample": lambda c: catalog.sample(c, GRID.wrap(da.ones(GRID.shape), "m", ""), "m"),
    "unmasked": lambda c: catalog.unmasked(c, GRID.wrap(da.zeros(GRID.shape, dtype=bool), "m", "")),
    "by hand": lambda c: catalog.add_manual(c, sources(3, seed=8)[["ra", "dec"]], GRID),
}


@pytest.mark.parametrize("road", ["as built", "optimised", "fused"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_boxes_hold_all_sources_of_their_partitions(name, road):
    with no_compute():
        made = FOLLOWED[name](stored(sources()))
        if road != "as built":
            made = made.optimize(fuse=road == "fused")
    for grid in (GRID, TURNED):
        with no_compute():
            boxes = part_boxes(made, grid)
        assert boxes.shape == (made.npartitions, 4)
        if name == "pixels alone" and grid is not GRID:
            continue  # positions are x, y themselves, whatever the grid
        finite = boxes[np.isfinite(boxes).all(axis=1)]
        assert len(finite) >= 2
        assert np.median(finite[:, 1] - finite[:, 0]) < 180
        for box, part in zip(boxes, dask.compute(*made.to_delayed(False)), strict=True):
            x, y = pixel_positions(part, grid)
            if np.isnan(box).any():
                assert len(part) == 0
            assert ((box[0] <= y) & (y <= box[1]) & (box[2] <= x) & (x <= box[3])).all()


NOT_FOLLOWED = {
    "a function that may move sources": lambda c: c.map_partitions(lambda p: p),
    "a new ra": lambda c: c.assign(ra=c["ra"] + 1),
    "new pixels": lambda c: c.assign(x=0.0),
    "swapped names": lambda c: c.rename(columns={"ra": "dec", "dec": "ra"}),
    "another column called ra": lambda c: c.drop(columns="ra").rename(columns={"peak": "ra"}),
    "rounded": lambda c: c.astype({"ra": "float32"}),
    "filled": lambda c: c.fillna(0.0),
    "repartitioned": lambda c: c.repartition(npartitions=2),
    "sorted": lambda c: c.sort_values("peak"),
    "in memory": lambda c: catalog.as_dask(sources()),
    "beside many others": lambda c: dd.concat([c] + [catalog.as_dask(sources())] * 9),
}


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_what_may_move_sources_is_not_followed(name):
    assert part_boxes(NOT_FOLLOWED[name](stored(sources())), GRID) is None


def test_a_function_can_promise_to_move_nothing():
    made = stored(sources()).map_partitions(catalog.stays(lambda part: part[part["peak"] > 5]))
    assert part_boxes(made, GRID) is not None


def test_only_a_written_grid_says_where_on_the_sky_parts_lie():
    made = stored(sources(), grid=None)
    assert part_boxes(made, GRID) is None
    assert part_boxes(made[["x", "y"]], GRID) is not None


def test_bounds_hold_the_sky_even_where_the_pixels_are_of_another_mosaic():
    table = sources()
    table["x"], table["y"] = table["x"] - 1e5, 7.0
    boxes = part_boxes(stored(table, tile=None), GRID)
    x, y = pixel_positions(table, GRID)
    assert (np.nanmin(boxes[:, [0, 2]], axis=0) <= [y.min(), x.min()]).all()
    assert (np.nanmax(boxes[:, [1, 3]], axis=0) >= [y.max(), x.max()]).all()


def test_writing_a_catalogue_records_its_places(tmp_path):
    folder = catalog.write(stored(sources()), tmp_path / "again", grid=TURNED)
    again = catalog.read(folder)
    assert catalog.read_manifest(folder)["wcs"] == TURNED.header
    for grid in (GRID, TURNED):
        for box, part in zip(part_boxes(again, grid), again.partitions, strict=True):
            x, y = pixel_positions(part.compute(), grid)
            assert ((box[0] <= y) & (y <= box[1]) & (box[2] <= x) & (x <= box[3])).all()


def test_sources_without_a_position_touch_nothing_and_hide_nothing():
    table = sources()
    table.loc[::5, ["ra", "dec", "x", "y"]] = np.nan
    boxes = part_boxes(stored(table, tile=None), GRID)
    assert np.isfinite(boxes[:-1]).all()
    far = sources(4)
    far.loc[0, ["ra", "dec"]] = 290.83, 73.45  # behind the tangent plane, but not of every grid
    assert part_boxes(dd.concat([stored(sources()), stored(far, tile=None)]), GRID) is not None
    assert np.isinf(part_boxes(dd.concat([stored(sources()), stored(far, tile=1e9)]), GRID)).any()


# -- chunks ----------------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 30))
def test_every_part_that_can_touch_a_chunk_is_near_it(seed, reach):
    rng = np.random.default_rng(seed)
    edges = [np.cumsum(rng.integers(1, 20, rng.integers(2, 7))) - 10.5 for _ in "yx"]
    low, size = rng.integers(-30, 90, (12, 2)), rng.integers(0, 40, (12, 2))
    boxes = np.stack([low[:, 0], low[:, 0] + size[:, 0], low[:, 1], low[:, 1] + size[:, 1]], 1)
    boxes = boxes.astype(float)
    boxes[0], boxes[1] = np.nan, (-np.inf, np.inf, -np.inf, np.inf)
    near = parts_near(boxes, edges, reach)
    for i, j in np.ndindex(near.shape):
        (y0, y1), (x0, x1) = edges[0][i : i + 2], edges[1][j : j + 2]
        touch = (boxes[:, 0] - reach <= y1) & (boxes[:, 1] + reach >= y0)
        touch &= (boxes[:, 2] - reach <= x1) & (boxes[:, 3] + reach >= x0)
        assert near[i, j] == np.flatnonzero(touch).tolist()


@pytest.mark.parametrize("reach", [0.0, 37.0])
@pytest.mark.parametrize("grid", [GRID, TURNED, GRID.coarsen(7), TURNED.cut(40, 390, 210, 277)])
def test_points_of_a_chunk_are_those_around_it_on_both_roads(grid, reach):
    table = sources(400)
    chunks = da.core.normalize_chunks((33, 50), shape=grid.shape)
    with no_compute():
        lazy = near_points(stored(table), grid, chunks, reach, "peak")
        whole = near_points(dd.from_pandas(table, 3), grid, chunks, reach, "peak")
    got, same = dask.compute(lazy, whole)
    x, y = pixel_positions(table, grid)
    order = np.lexsort((table["peak"], x, y))
    expected = np.stack([x, y, table["peak"]])[:, order]
    ys, xs = chunk_edges(grid, chunks)
    for i, j in np.ndindex(got.shape):
        here = (expected[1] >= ys[i] - reach) & (expected[1] <= ys[i + 1] + reach)
        here &= (expected[0] >= xs[j] - reach) & (expected[0] <= xs[j + 1] + reach)
        np.testing.assert_array_equal(got[i, j], same[i, j])
        np.testing.assert_allclose(got[i, j], expected[:, here], rtol=0, atol=1e-9)
    assert sum(g.shape[1] for g in got.ravel()) > 20


def test_a_chunk_reads_only_the_parts_that_it_can_touch(reads):
    table = stored(sources(4000))
    chunks = ((100, 100, 100), (100, 100, 100, 100))
    points = near_points(table, GRID, chunks)
    assert table.npartitions == 13
    assert reads(points) == 12
    assert 5 <= reads(points[1, 1]) <= 9
    assert 1 <= reads(points[0, 0]) <= 4
    image = GRID.wrap(da.zeros(GRID.shape, chunks=100), "m", "")
    assert reads(catalog.sample(table, image, "m").partitions[0]) <= 10  # of 25


def test_a_circle_reads_only_the_parts_that_it_can_touch(reads):
    table = sources(4000)
    for center, radius, some in ((GRID.sky(130, 130), 2, 4), (GRID.sky(-900, 0), 5, 1)):
        lazy = catalog.within(stored(table), center, radius)
        assert reads(lazy) <= some
        expected = catalog.within(table, center, radius).compute()
        pd.testing.assert_frame_equal(
            lazy.compute().sort_values("id", ignore_index=True),
            expected.sort_values("id", ignore_index=True),
        )


# -- values of maps --------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", [(37, 41), (300, 400), (3, 400)])
@pytest.mark.parametrize("kind", [None, 100])
def test_values_of_a_map_are_the_same_by_place_and_together(chunks, kind):
    table = sources(300)
    image = np.random.default_rng(0).normal(size=GRID.shape)
    image = GRID.wrap(da.from_array(image, chunks), "kappa", "").isel(x=slice(20, 333))
    lazy = stored(table, tile=kind)
    assert part_boxes(lazy, GRID) is not None
    with no_compute():
        got = catalog.sample(lazy, image, "kappa")
        good = catalog.select(lazy, mask=image > 0.3)
    there = np.rint(table[["y", "x"]].to_numpy()).astype(int)
    inside = (there[:, 1] >= 20) & (there[:, 1] < 333)
    expected = np.full(len(table), np.nan)
    expected[inside] = image.values[there[inside, 0], there[inside, 1] - 20]
    key = ["id", "x", "y"]
    got, good = (t.compute().sort_values(key, ignore_index=True) for t in (got, good))
    table = table.sort_values(key, ignore_index=True)
    np.testing.assert_array_equal(got["kappa"], expected)
    pd.testing.assert_frame_equal(got[list(table)], table)
    pd.testing.assert_frame_equal(good, table[expected <= 0.3].reset_index(drop=True))
    whole = catalog.sample(table, image, "kappa").compute()
    pd.testing.assert_frame_equal(got, whole)


def test_a_position_is_not_overwritten_by_a_map():
    with pytest.raises(InputError, match="ra is a position"):
        catalog.sample(sources(), GRID.wrap(da.ones(GRID.shape), "m", ""), "ra")


# -- pairs -----------------------------------------------------------------------------------------
PLACES = {"here": (110.83, -73.45), "across RA 0": (0.0, 10.0), "at the pole": (20.0, 89.999)}


def crowd(rng, grid, n, radius):
    """Sources in clumps of the radius' size, some at one place, some with one id."""
    seeds = rng.uniform(0, 100, (max(n // 4, 1), 2))
    x, y = (seeds[rng.integers(0, len(seeds), n)] + rng.normal(0, radius, (n, 2))).T
    x[: n // 10], y[: n // 10] = x[-1], y[-1]
    x, y = np.append(x, rng.uniform(0, 100, n)), np.append(y, rng.uniform(0, 100, n))
    table = catalog.make_catalog(x, y, grid)
    table.loc[::9, "id"] = 7
    return table.sample(frac=1, random_state=int(rng.integers(2**31))).reset_index(drop=True)


def in_whole(a, b, radius):
    i, j, apart = catalog.nearest_pairs(
        (a["ra"], a["dec"]), (b["ra"], b["dec"]), radius, (a["id"], b["id"])
    )
    ids, separation = np.full(len(a), -1), np.full(len(a), np.nan)
    ids[i], separation[i] = b["id"].to_numpy()[j], apart
    return a.assign(match_id=ids, match_sep=separation)


@settings(deadline=None, max_examples=20)  # others each time
@given(
    seed=st.integers(0, 2**32 - 1),
    place=st.sampled_from(sorted(PLACES)),
    tiles=st.tuples(*[st.sampled_from([None, 8, 25, 60])] * 2),
    radius=st.sampled_from([0.3, 2.0, 9.0]),
    known=st.booleans(),
)
def test_pairs_by_place_are_those_of_the_whole_sky(seed, place, tiles, radius, known):
    grid = Grid.tangent(PLACES[place], (100, 100), 1.0)
    rng = np.random.default_rng(seed)
    tables = [crowd(rng, grid, n, radius) for n in rng.integers(1, 60, 2)]
    a, b = (stored(t, grid, tile) for t, tile in zip(tables, tiles, strict=True))
    first, second = a.compute(), b.compute()
    with no_compute():
        lazy = catalog.match(a, b if known else second, radius)
    got = lazy.compute().reset_index(drop=True)
    expected = in_whole(first.reset_index(drop=True), second.reset_index(drop=True), radius)
    pd.testing.assert_frame_equal(got, expected, check_exact=True)
    assert (got["match_id"] >= 0).any() or not (expected["match_id"] >= 0).any()


def test_partitions_decide_what_they_can_and_read_no_farther_than_needed(reads):
    a, b = sources(3000, seed=1), sources(3000, seed=2)
    one, two = stored(a), stored(b)
    lazy = catalog.match(one, two, 0.1)
    assert reads(lazy) == 13 + 12 + 13  # positions of both, and the rows of a: none are held
    caps = part_caps(one), part_caps(two)
    near = caps_near(*caps, chord_of(0.1))
    assert max(map(len, near)) <= 9
    for (center, chord), part in zip(zip(*caps[0], strict=True), one.partitions, strict=True):
        part = part.compute()
        apart = np.linalg.norm(vectors(part["ra"], part["dec"]) - center, axis=-1)
        assert (apart <= chord).all()


def test_sources_without_a_position_have_no_partner():
    a, b = sources(100), sources(100)
    a.loc[3, "ra"], b.loc[7, "dec"] = np.nan, np.nan
    for first in (a, stored(a, tile=None)):
        got = catalog.match(first, b, 0.2).compute().sort_values("id")["match_id"].to_numpy()
        assert np.flatnonzero(got < 0).tolist() == [3, 7]


def test_match_asks_for_what_it_needs():
    with pytest.raises(InputError, match="catalogue b has no id"):
        catalog.match(sources(), sources()[["ra", "dec"]], 1)


def test_tables_whose_parts_dask_merges_keep_their_rows_together(tmp_path):
    table = sources(60)
    for k in range(20):
        table.iloc[k::20].to_parquet(tmp_path / f"{k:02d}.parquet")
    small = dd.read_parquet(tmp_path)[["id", "ra", "dec"]]
    small = small.map_partitions(lambda part: part, meta=small._meta)
    assert small.optimize().npartitions < small.npartitions
    image = GRID.wrap(da.from_array(np.arange(120000.0).reshape(GRID.shape), (99, 99)), "n", "")
    for lazy in (catalog.match(small, table, 0.01), catalog.sample(small, image, "n")):
        assert len(lazy) == 60
    both = catalog.sample(catalog.match(small, table, 0.01), image, "n").compute()
    assert (both["match_id"] == both["id"]).all()
    y, x = catalog.unpack(both["id"])
    np.testing.assert_array_equal(both["n"], y * 400 + x)
