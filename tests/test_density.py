"""Density maps and inpainting: the plain sum, a known truth, and every chunking alike."""

import logging

import astropy.units as u
import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdask import catalog as cat
from gcdask.catalog.parquet import PartReader
from gcdask.catalog.points import join_points
from gcdask.density import (
    density_map,
    draw_sources,
    graphs,
    inpaint,
    inpaint_intensity,
    number_density,
)
from gcdask.density import inpainting as module
from gcdask.density.kernelsum import Extent, KernelSum, Layout, box_of
from gcdask.density.points import Points
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.kernels import nearfar
from gcdask.masks import Flag

SCALE = 0.1
CHUNKINGS = [(300, 200), (64, 64), ((100, 150, 50), (1, 199)), (7, 200)]
GRID = Grid.tangent((342.18, -44.53), (300, 200), SCALE, angle=30)


def sources(n=400, seed=0, grid=GRID, beyond=0.2):
    """Catalogue of random places on the grid and a margin around it."""
    rng = np.random.default_rng(seed)
    (ny, nx), m = grid.shape, beyond
    x, y = rng.uniform(-m * nx, (1 + m) * nx, n), rng.uniform(-m * ny, (1 + m) * ny, n)
    return cat.make_catalog(x * grid.step, y * grid.step, grid)


def direct(frame, grid, alpha=1.6, softening=0.9, w=1.0):
    x, y = cat.pixel_positions(frame, grid)
    px, py = (a.ravel()[:, None] for a in grid.mesh())
    d = np.hypot(px - x, py - y) * grid.global_scale
    return ((softening + d) ** -alpha * w).sum(1).reshape(grid.shape)


def empty(chunks, grid=GRID):
    return grid.wrap(da.zeros(grid.shape, chunks=chunks), "map", "")


def disks(grid, n, radius, seed, bits=Flag.BRIGHT, edge=0):
    """Mask of random disks, with an edge frame."""
    rng = np.random.default_rng(seed)
    x, y = grid.mesh()
    mask = np.zeros(grid.shape, np.uint16)
    for cx, cy in rng.uniform(0, 1, (n, 2)):
        mask[np.hypot(x - cx * grid.shape[1], y - cy * grid.shape[0]) < radius] |= np.uint16(bits)
    if edge:
        frame = np.ones(grid.shape, bool)
        frame[edge:-edge, edge:-edge] = False
        mask[frame] |= np.uint16(Flag.EDGE)
    return grid.wrap(mask, "mask", "")


def as_set(frame):
    return frame.compute().sort_values(["y", "x"]).reset_index(drop=True)


# -- density_map ---------------------------------------------------------------------------------
@pytest.mark.parametrize(("alpha", "softening"), [(1.6, 0.9), (1.4, 0.5), (1.8, 1.0)])
def test_the_density_is_the_direct_sum_over_all_sources(alpha, softening):
    frame = sources(100)
    rho = density_map(frame, empty((64, 64)), alpha, softening)
    assert np.abs(rho.values / direct(frame, GRID, alpha, softening) - 1).max() < 3e-5
    assert rho.name == "density"
    assert rho.dtype == np.float64
    assert u.Unit(rho.attrs["units"]) == u.arcsec**-alpha
    assert (rho.attrs["alpha"], rho.attrs["softening"]) == (alpha, softening)
    assert Grid.of(rho).same_pixels(GRID)


def test_chunks_and_partitions_do_not_change_a_bit():
    frame = sources()
    whole = density_map(frame, empty((300, 200))).values
    shuffled = frame.sample(frac=1, random_state=1)
    for chunks in CHUNKINGS:
        rho = density_map(dd.from_pandas(shuffled, npartitions=7, sort=False), empty(chunks))
        assert rho.data.chunks == da.zeros(GRID.shape, chunks=chunks).chunks
        np.testing.assert_array_equal(rho.values, whole)


def test_a_coarse_map_has_the_density_of_the_centres_of_its_cells():
    frame, coarse = sources(), GRID.coarsen(7)
    rho = density_map(frame, coarse)
    assert rho.shape == (43, 29)
    assert np.abs(rho.values / direct(frame, coarse) - 1).max() < 3e-5


def test_a_cutout_sees_the_sources_around_it():
    frame, part = sources(), GRID.cut(100, 180, 20, 90)
    whole = density_map(frame, GRID).isel(y=slice(100, 180), x=slice(20, 90))
    np.testing.assert_allclose(density_map(frame, part), whole, rtol=3e-5)


def around(n, near, far, seed=5, grid=GRID):
    """Sources all about a grid, ``near`` to ``far`` of its longer sides from its middle."""
    rng, long = np.random.default_rng(seed), max(grid.shape) * grid.step
    r, a = long * np.geomspace(near, far, n), rng.uniform(0, 2 * np.pi, n)
    x, y = grid.center
    return cat.make_catalog(x + r * np.cos(a), y + r * np.sin(a), grid)


@pytest.mark.parametrize("step", [1, 5])
@pytest.mark.parametrize("softening", [0.2, 0.9])
def test_sources_far_away_count_as_in_the_direct_sum(step, softening):
    grid = GRID.coarsen(step)
    frame = pd.concat([sources(60), around(300, 0.9, 200)])
    rho = density_map(frame, grid, softening=softening)
    assert np.abs(rho.values / direct(frame, grid, softening=softening) - 1).max() < 3e-5
    # not lost in what the near ones give: alone
    frame = around(300, 2.3, 200)
    rho = density_map(frame, grid, softening=softening)
    assert np.abs(rho.values / direct(frame, grid, softening=softening) - 1).max() < 1e-7


def test_sources_far_away_do_not_change_bits_between_chunkings():
    frame = pd.concat([sources(100), around(50, 1.2, 30)]).sample(frac=1, random_state=2)
    mask = disks(GRID, 5, 10, seed=0)
    for options in ({}, {"normalise": True, "mask": mask}):
        maps = [density_map(frame, empty(c), **options).values for c in CHUNKINGS]
        for other in maps[1:]:
            np.testing.assert_array_equal(maps[0], other)


def test_the_coarse_grid_is_as_large_as_the_field_however_far_the_sources_are():
    def plan(*frames):
        extents = [Extent.of(np.stack(cat.pixel_positions(f, GRID)), box_of(GRID)) for f in frames]
        extent = Extent.merge(extents)
        return Layout.of(extent, grid=GRID, alpha=1.6, softening=0.9, r_c=None).plan

    near = sources(400, beyond=0.9)
    assert plan(near, around(5000, 3, 1e4)) == plan(near)
    assert plan(around(50, 3, 1e4)) is None


def test_a_map_of_far_sources_can_be_normalised():
    frame = pd.concat([sources(1, beyond=-0.4), around(50, 3, 10)])
    rho = density_map(frame, empty((64, 64)), normalise=True)
    assert rho.values.sum() * SCALE**2 == pytest.approx(1, rel=1e-9)
    assert not density_map(around(50, 3, 10), GRID, normalise=True).values.any()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(0, 20), st.integers(1, 9), st.integers(1, 9),
       st.sampled_from([1, 2, 7]))  # fmt: skip
def test_the_points_of_a_block_are_those_in_its_half_open_pixels(y0, x0, ny, nx, step):
    rng = np.random.default_rng(3)
    xy = rng.integers(-20, 400, (2, 500)) / 2  # many on the borders of pixels
    points = Points.of(join_points([xy]))
    ys, xs = (step * np.arange(k, k + n) + (step - 1) / 2 for k, n in ((y0, ny), (x0, nx)))
    k, i, j = points.inside(ys, xs, step)
    inside = (points.y >= ys[0] - step / 2) & (points.y < ys[-1] + step / 2)
    inside &= (points.x >= xs[0] - step / 2) & (points.x < xs[-1] + step / 2)
    np.testing.assert_array_equal(k, np.flatnonzero(inside))
    for p, a, n in ((points.y, ys, i), (points.x, xs, j)):
        assert ((p[k] >= a[n] - step / 2) & (p[k] < a[n] + step / 2)).all()


def test_weights_scale_each_source():
    frame = sources(100).assign(flux=np.random.default_rng(3).uniform(0, 5, 100))
    rho = density_map(frame, GRID, weights="flux")
    np.testing.assert_allclose(rho, direct(frame, GRID, w=frame["flux"].to_numpy()), rtol=3e-5)


def test_rows_without_a_position_are_left_out_and_counted(caplog):
    frame = sources(50)
    bad = pd.concat([frame, frame.iloc[:3].assign(ra=np.nan)])
    with caplog.at_level(logging.WARNING):
        rho = density_map(bad, GRID).values
    np.testing.assert_array_equal(rho, density_map(frame, GRID).values)
    assert "3 of 53 sources" in caplog.text


def test_no_source_gives_zero():
    assert not density_map(sources(0), GRID).values.any()
    assert not density_map(sources(0), GRID, normalise=True).values.any()


# -- sources that are known by place -------------------------------------------------------------
def stored(folder, frame, cells, grid=GRID):
    """Store a catalogue with one part for each value of ``cells``, and open it again."""
    folder.mkdir()
    parts = [frame[cells == k] for k in np.unique(cells)]
    rows = [cat.write_part(part, folder, cat.part_name(k), grid=grid)
            for k, part in enumerate([frame.iloc[:0], *parts])]  # fmt: skip
    cat.write_manifest(folder, rows)
    return cat.read(folder)


def tiles_of(frame, size):
    return (frame["y"] // size * 1000 + frame["x"] // size).to_numpy()


@settings(max_examples=15, deadline=None)
@given(
    size=st.sampled_from([37, 100, 1e6]),
    scattered=st.booleans(),
    weights=st.none() | st.just("flux"),
    chunks=st.sampled_from(CHUNKINGS),
    cut=st.booleans(),
    r_c=st.none() | st.floats(0.5, 6),
    far=st.booleans(),
)
def test_stored_parts_wherever_they_lie_give_the_bits_of_one_table(
    tmp_path_factory, size, scattered, weights, chunks, cut, r_c, far
):
    frame = pd.concat([sources(300, beyond=0.6), around(20, 1.2, 30)]) if far else sources(300)
    frame = frame.assign(flux=np.random.default_rng(3).uniform(-1, 5, len(frame)))
    cells = tiles_of(frame, size)
    cells = np.random.default_rng(4).permutation(cells) if scattered else cells
    parts = stored(tmp_path_factory.mktemp("cat") / "c", frame, cells)
    assert cat.part_boxes(parts, GRID) is not None
    assert cat.part_boxes(cat.as_dask(frame), GRID) is None
    like = empty(chunks).isel(y=slice(100, 180), x=slice(20, 90)) if cut else empty(chunks)
    maps = [density_map(f, like, weights=weights, r_c=r_c) for f in (frame, parts)]
    np.testing.assert_array_equal(maps[1].values, maps[0].values)


@pytest.mark.parametrize("estimator", ["density", "local"])
def test_sources_inpainted_from_stored_parts_are_those_from_one_table(estimator, tmp_path):
    frame, mask = sources(3000), disks(GRID, 10, 15, seed=1, edge=10).chunk(y=120, x=77)
    parts = stored(tmp_path / "c", frame, tiles_of(frame, 60))
    both = [as_set(inpaint(f, mask, iterations=2, estimator=estimator)) for f in (frame, parts)]
    pd.testing.assert_frame_equal(*both, check_exact=True)
    maps = [density_map(f, mask, mask=mask, normalise=True).values for f in (frame, parts)]
    np.testing.assert_array_equal(*maps)


def test_parts_on_another_grid_are_found(tmp_path):
    frame = sources(300)
    other = Grid.tangent((342.18, -44.53), (500, 700), 0.07, angle=-50)
    parts = stored(tmp_path / "c", frame, tiles_of(frame, 50))
    like = other.wrap(da.zeros(other.shape, chunks=90), "map", "")
    maps = [density_map(f, like).values for f in (frame, parts)]
    np.testing.assert_array_equal(*maps)


def test_a_region_reads_each_part_once_and_sums_those_about_it(tmp_path, monkeypatch):
    grid = Grid.tangent((342.18, -44.53), (2000, 2000), SCALE)
    frame = sources(4000, grid=grid, beyond=0)
    parts = stored(tmp_path / "c", frame, tiles_of(frame, 200), grid)
    reads, near = [], []
    read, cut = PartReader.__call__, graphs.cut
    monkeypatch.setattr(
        PartReader, "__call__", lambda s, p, *a, **k: reads.append(p) or read(s, p, *a, **k)
    )
    monkeypatch.setattr(graphs, "cut", lambda p, box: near.append(len(p)) or cut(p, box))
    rho = density_map(parts, grid.wrap(da.zeros(grid.shape, chunks=250), "map", ""))
    with dask.config.set(scheduler="synchronous"):
        values = rho[1010:1040, 510:530].values
    expected = direct(frame, grid.cut(1010, 1040, 510, 530))
    assert np.abs(values / expected - 1).max() < 3e-5
    assert len(reads) == len(set(reads)) == parts.npartitions == 101  # for the far part
    # one chunk: with what is about it, four parts of 200 px along each axis or fewer
    assert len(near) == 1
    assert near[0] <= 16


@pytest.mark.parametrize("npartitions", [1, 5])
def test_only_the_chunks_asked_for_are_evaluated(npartitions, monkeypatch):
    seen, at = [], KernelSum.at
    monkeypatch.setattr(
        KernelSum, "at", lambda s, y, x, p: seen.append(y.size * x.size) or at(s, y, x, p)
    )
    rho = density_map(dd.from_pandas(sources(), npartitions=npartitions), empty((100, 100)))
    with dask.config.set(scheduler="synchronous"):
        rho[:50, :50].compute()
    assert sum(seen) <= 100 * 100


def test_the_far_field_is_made_once_for_all_chunks(monkeypatch):
    made, far_field = [], nearfar.far_field
    monkeypatch.setattr(nearfar, "far_field", lambda n, p: made.append(p) or far_field(n, p))
    mask = disks(GRID, 10, 15, seed=1)
    rho = density_map(
        dd.from_pandas(sources(), npartitions=5), empty((50, 50)), mask=mask, normalise=True
    )
    with dask.config.set(scheduler="synchronous"):
        rho.compute()
    assert len(made) == 1


# -- number density ------------------------------------------------------------------------------
@pytest.mark.parametrize("chunks", CHUNKINGS)
def test_the_integral_over_the_unmasked_area_is_the_number_there(chunks):
    frame, mask = sources(2000), disks(GRID, 10, 15, seed=1, edge=20)
    x, y = (np.floor(p + 0.5).astype(int) for p in cat.pixel_positions(frame, GRID))
    inside = (x >= 0) & (x < 200) & (y >= 0) & (y < 300)
    number = (mask.values[y[inside], x[inside]] == 0).sum()
    rho = density_map(frame, empty(chunks))
    stored = rho.compute()
    for n in (
        density_map(frame, empty(chunks), mask=mask, normalise=True),
        number_density(rho, mask, number),
        number_density(stored, mask.chunk(x=50), number),
        number_density(rho, mask != 0, dask.delayed(int)(number)),
    ):
        assert n.attrs["units"] == "arcsec-2"
        values = n.values
        assert values[mask.values == 0].sum() * SCALE**2 == pytest.approx(number, rel=1e-9)
        np.testing.assert_allclose(values / stored, values[0, 0] / stored[0, 0], rtol=1e-9)


def test_normalised_density_has_the_same_bits_for_every_chunking():
    frame, mask = sources(500), disks(GRID, 10, 15, seed=1)
    maps = [density_map(frame, empty(c), mask=mask, normalise=True).values for c in CHUNKINGS]
    for other in maps[1:]:
        np.testing.assert_array_equal(maps[0], other)


# -- inpainting ----------------------------------------------------------------------------------
@pytest.mark.parametrize("estimator", ["density", "local"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_inpainted_sources_are_the_same_for_every_chunking_and_partitioning(estimator, iterations):
    frame, mask = sources(3000), disks(GRID, 10, 15, seed=1, edge=10)
    options = {"seed": 5, "iterations": iterations, "estimator": estimator}
    one = as_set(inpaint(frame, mask, **options))
    assert len(one) > 50
    for chunks in CHUNKINGS:
        pieces = dd.from_pandas(frame.sample(frac=1, random_state=3), npartitions=4, sort=False)
        lazy = mask.chunk(dict(zip("yx", chunks, strict=True)))
        drawn = inpaint(pieces, lazy, empty(chunks), **options)
        assert drawn.npartitions == lazy.data.npartitions
        pd.testing.assert_frame_equal(as_set(drawn), one, check_exact=True)


@pytest.mark.parametrize("estimator", ["density", "local"])
def test_sources_are_drawn_in_masked_pixels_off_the_edge_only(estimator):
    frame, mask = sources(5000), disks(GRID, 12, 20, seed=2, edge=25)
    drawn = inpaint(frame, mask.chunk(x=64, y=64), estimator=estimator).compute()
    bits = mask.values[np.rint(drawn["y"]).astype(int), np.rint(drawn["x"]).astype(int)]
    assert (bits == Flag.BRIGHT).all()
    everywhere = inpaint(frame, mask != 0, estimator=estimator).compute()
    bits = mask.values[np.rint(everywhere["y"]).astype(int), np.rint(everywhere["x"]).astype(int)]
    assert (bits != 0).all()
    assert (bits == Flag.EDGE).any()


def test_rows_follow_the_schema_of_catalogues():
    drawn = inpaint(sources(3000), disks(GRID, 10, 15, seed=1).chunk(x=64, y=64))
    frame = drawn.compute()
    assert frame.dtypes.to_dict() == cat.meta().dtypes.to_dict() == drawn.dtypes.to_dict()
    assert (frame["flags"] == int(cat.SourceFlag.INPAINTED)).all()
    assert frame[["peak", "snr"]].isna().all(axis=None)
    np.testing.assert_array_equal(frame["id"], cat.pixel_id(frame["x"], frame["y"]))
    x, y = GRID.pixel(frame["ra"], frame["dec"])
    np.testing.assert_allclose((x, y), (frame["x"], frame["y"]), atol=1e-6)
    offset = frame["x"] - np.rint(frame["x"])
    assert offset.std() == pytest.approx(12**-0.5, rel=0.15)


@pytest.mark.parametrize("estimator", ["density", "local"])
def test_the_mean_number_drawn_is_the_expected_one(estimator):
    frame, mask = sources(3000), disks(GRID, 10, 15, seed=1, edge=10)
    expected = inpaint_intensity(frame, mask, estimator=estimator)
    assert not expected.values[(mask.values == 0) | (mask.values & Flag.EDGE > 0)].any()
    lam = expected.values
    n = [module.draw(lam, GRID.y, GRID.x, 1, seed, module.STREAM).shape[1] for seed in range(300)]
    assert len(inpaint(frame, mask, seed=7, estimator=estimator)) == n[7]
    total = lam.sum()
    assert abs(np.mean(n) - total) < 4 * np.sqrt(total / len(n))
    assert 0.8 < np.var(n, ddof=1) / total < 1.25


def test_draws_follow_the_intensity_within_the_mask():
    lam = np.linspace(0, 0.2, 200)[None, :].repeat(300, 0)
    x, y, _ = np.concatenate(
        [module.draw(lam, GRID.y, GRID.x, 1, seed, 0) for seed in range(5)], axis=1
    )
    found = np.histogram(x, np.arange(0, 201, 20) - 0.5)[0]
    expected = 5 * lam.sum(0).reshape(10, 20).sum(1)
    assert ((found - expected) ** 2 / expected).sum() < 30  # 10 bins
    rows = np.histogram(y, np.arange(0, 301, 30) - 0.5)[0]
    assert ((rows - x.size / 10) ** 2 / (x.size / 10)).sum() < 30


def test_sources_on_masked_pixels_are_not_used():
    frame, mask = sources(2000), disks(GRID, 10, 15, seed=1)
    x, y = (np.rint(frame[c]).astype(int) for c in "xy")
    inside = (x >= 0) & (x < 200) & (y >= 0) & (y < 300)
    hidden = inside & (mask.values[y.clip(0, 299), x.clip(0, 199)] != 0)
    assert hidden.sum() > 50
    for estimator in ("density", "local"):
        both = [inpaint(f, mask, estimator=estimator) for f in (frame, frame[~hidden])]
        pd.testing.assert_frame_equal(as_set(both[0]), as_set(both[1]))


# -- a field with known truth --------------------------------------------------------------------
FIELD = Grid.tangent((10.0, 5.0), (900, 900), SCALE)


def truth(x, y, core=20.0, total=12_000):
    """Cored intensity per pixel, and that of the centre."""
    r = np.hypot(x - 449.5, y - 449.5) * SCALE
    n = 1 / (1 + (r / core) ** 2)
    gx, gy = FIELD.mesh()
    norm = (1 / (1 + (np.hypot(gx - 449.5, gy - 449.5) * SCALE / core) ** 2)).sum()
    return n * total / norm


def ratios(estimator, radius, seeds, **options):
    """Expected over true number in the masked disks: (all disks, those within 15")."""
    gx, gy = FIELD.mesh()
    lam = truth(gx, gy)
    core = np.hypot(gx - 449.5, gy - 449.5) * SCALE < 15
    out = []
    for seed in range(seeds):
        x, y, _ = module.draw(lam, FIELD.y, FIELD.x, 1, seed, 99)
        mask = disks(FIELD, 25, radius / SCALE, seed=seed)
        # a hole in the core as well
        mask.values[np.hypot(gx - 480, gy - 440) < radius / SCALE] |= np.uint16(Flag.BRIGHT)
        guess = inpaint_intensity(cat.make_catalog(x, y, FIELD), mask, estimator=estimator,
                                  **options).values  # fmt: skip
        holes = mask.values != 0
        out.append([guess[m].sum() / lam[m].sum() for m in (holes, holes & core)])
    return np.mean(out, axis=0)


@pytest.mark.parametrize("radius", [1.5, 4.0])
def test_the_local_estimator_is_unbiased_on_a_smooth_field(radius):
    everywhere, core = ratios("local", radius, 8)
    print(f"local, holes of {radius} arcsec: {everywhere:.3f}, core {core:.3f}")
    assert everywhere == pytest.approx(1, abs=0.05)
    assert core == pytest.approx(1, abs=0.05)


def test_the_density_estimator_draws_too_few_in_the_core():
    everywhere, core = ratios("density", 1.5, 6)
    print(f"density: {everywhere:.3f}, core {core:.3f}")
    assert core < 0.95
    assert core < everywhere


def test_holes_wider_than_the_gaussian_are_filled_with_wider_ones():
    x, y, _ = module.draw(np.full((900, 900), 0.02), FIELD.y, FIELD.x, 1, 3, 99)
    mask = disks(FIELD, 1, 0, seed=0)
    gx, gy = FIELD.mesh()
    mask.values[np.hypot(gx - 450, gy - 450) < 300] = Flag.EXTENDED
    guess = inpaint_intensity(cat.make_catalog(x, y, FIELD), mask, estimator="local", sigma=1.0)
    hole = guess.values[mask.values != 0]
    assert hole.min() > 0
    assert hole.mean() == pytest.approx(0.02, rel=0.1)


def test_a_mask_without_any_good_pixel_draws_nothing():
    mask = GRID.wrap(np.full(GRID.shape, Flag.BRIGHT, np.uint16), "mask", "")
    for estimator in ("density", "local"):
        drawn = inpaint(sources(), mask, estimator=estimator).compute()
        assert len(drawn) == 0
        assert drawn.dtypes.to_dict() == cat.meta().dtypes.to_dict()


# -- laziness and mistakes -----------------------------------------------------------------------
def test_nothing_is_computed_while_graphs_are_built():
    pieces = dd.from_pandas(sources(), npartitions=3)
    mask = disks(GRID, 5, 10, seed=0).chunk(x=64, y=64)
    with no_compute():
        rho = density_map(pieces, empty((64, 64)))
        number_density(rho, mask, 3)
        density_map(pieces, empty((64, 64)), mask=mask, normalise=True)
        for estimator in ("density", "local"):
            inpaint(pieces, mask, rho, iterations=2, estimator=estimator)


def test_maps_and_drawn_sources_can_be_computed_together():
    frame, mask = sources(3000), disks(GRID, 10, 15, seed=1).chunk(x=100, y=100)
    frame = frame[frame["id"] % 7 == 0]
    drawn, expected = inpaint(frame, mask, seed=1), inpaint_intensity(frame, mask, seed=1)
    rows, total = dask.compute(drawn, expected.sum())
    assert len(rows) == len(drawn)
    assert total == pytest.approx(expected.values.sum())
    again = dd.from_delayed(drawn.to_delayed(), meta=cat.meta(), verify_meta=False)
    joined = dd.concat([dd.from_pandas(frame, npartitions=2), again])
    rho = density_map(joined, mask)
    both = pd.concat([frame, drawn.compute()])
    np.testing.assert_allclose(rho.values, direct(both, GRID), rtol=3e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, m: density_map(f, GRID, softening=0), "softening = 0"),
        (lambda f, m: density_map(f, GRID, alpha=np.nan), "alpha = nan"),
        (lambda f, m: density_map(f, GRID, weights="mag"), "'mag' is no column"),
        (lambda f, m: density_map(f, GRID, mask=m), "normalise"),
        (lambda f, m: density_map(f, np.zeros((3, 3))), "ndarray"),
        (lambda f, m: density_map(f[["id"]], GRID), "no ra, dec"),
        (lambda f, m: inpaint(f, m, GRID.coarsen(2)), "same pixels"),
        (lambda f, m: inpaint(f, m, GRID.cut(0, 10, 0, 10)), "same pixels"),
        (lambda f, m: inpaint(f, m.astype(float)), "dtype float64"),
        (lambda f, m: inpaint(f, m, estimator="kde"), "'kde' is unknown"),
        (lambda f, m: inpaint(f, m, iterations=0), "iterations = 0"),
        (lambda f, m: inpaint(f, m, seed=0.5), "seed = 0.5"),
        (lambda f, m: inpaint(f, m.drop_attrs()), "no WCS"),
        (lambda f, m: inpaint(f, m.values), "ndarray"),
    ],
)
def test_mistakes_are_named_in_one_line_before_any_work(call, message):
    mask = disks(GRID, 5, 10, seed=0)
    with no_compute(), pytest.raises(InputError, match=message) as error:
        call(sources(5), mask)
    assert "\n" not in str(error.value)


def test_the_dataset_of_a_mosaic_serves_as_like():
    image = xr.DataArray(
        da.zeros((2, *GRID.shape), chunks=(1, 128, 64)), dims=("band", "y", "x"), coords=GRID.coords
    )
    mosaic = xr.Dataset({"sci": image}, attrs={"wcs": GRID.header})
    rho = density_map(sources(), mosaic)
    assert rho.data.chunks == ((128, 128, 44), (64, 64, 64, 8))


def test_the_clusters_of_smacs0723_are_densest_by_the_brightest_galaxy():
    frame = cat.faisst2022().compute()
    grid = Grid.tangent((110.82700, -73.45475), (600, 600), 0.2)
    rho = density_map(frame, grid.coarsen(3)).compute()
    assert np.abs(rho.values / direct(frame, grid.coarsen(3)) - 1).max() < 1e-4
    peak = rho.where(rho == rho.max(), drop=True)
    east, north = grid.offsets(peak["x"].item(), peak["y"].item(), (110.82700, -73.45475))
    assert np.hypot(east, north) < 20


def test_graphs_of_many_chunks_and_partitions_stay_small():
    parts = dd.from_pandas(sources(3000), npartitions=200)
    mask = disks(GRID, 5, 10, seed=0).chunk(x=8, y=8)
    for estimator in ("density", "local"):
        expected = inpaint_intensity(parts, mask, estimator=estimator, iterations=2)
        assert len(expected.__dask_graph__().layers) < 100


def test_the_same_call_gives_the_same_keys():
    frame, mask = sources(), disks(GRID, 5, 10, seed=0)
    for make in (
        lambda: density_map(frame, empty((64, 64)), mask=mask, normalise=True),
        lambda: inpaint_intensity(frame, mask, iterations=2, estimator="local"),
    ):
        assert make().data.name == make().data.name


# -- mocks ---------------------------------------------------------------------------------------
def _slope_of_light(chunks):
    grid = Grid.tangent((110.0, -30.0), (120, 90), 0.5)
    rate = np.linspace(0, 4, 90) * np.ones((120, 1))
    rate[:10] = np.nan
    return grid.wrap(da.from_array(rate, chunks=chunks), "intensity", "arcsec-2")


def test_drawn_sources_follow_the_intensity_and_no_chunking_changes_them():
    tables = [draw_sources(_slope_of_light(c), 3).compute() for c in (30, (7, 90), 200)]
    keys = ["y", "x"]
    one, *others = [t.sort_values(keys).reset_index(drop=True) for t in tables]
    for other in others:
        pd.testing.assert_frame_equal(one, other)
    expected = np.nansum(_slope_of_light(30)) * 0.25
    assert abs(len(one) - expected) < 4 * expected**0.5
    assert (one["y"] > 9.4).all()  # none where the intensity is NaN
    left = (one["x"] < 44.5).sum()
    assert abs(left / len(one) - 0.25) < 0.03
    again = draw_sources(_slope_of_light(30), 3, realisation=1).compute()
    assert not np.isin(again["x"], one["x"]).any()


def test_an_intensity_in_another_unit_is_refused():
    rate = _slope_of_light(30).assign_attrs(units="kpc-2")
    with pytest.raises(InputError, match="'kpc-2'"):
        draw_sources(rate)
