"""Runs beside each other in one folder: only what changed is done, and every one is whole."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tinyfield
import zarr
from astropy.io import fits
from fields import LENS, TILE, N, assert_same, make, sky, store, table, tiles_of

from gcdask import catalog, mosaic, pipeline
from gcdask.config import load
from gcdask.errors import InputError, LockError
from gcdask.grid import Grid
from gcdask.masks import Flag
from gcdask.pipeline import lock, versions


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The small field, and a run on it."""
    folder = make(tmp_path_factory.mktemp("made"))
    pipeline.run(load(folder / "field.yaml"), folder / "out")
    return folder


@pytest.fixture
def home(made, tmp_path):
    """A copy of it all, with its times, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "home", symlinks=True))


def run(home, *overrides, **options):
    return pipeline.run(load(home / "field.yaml", overrides), home / "out", **options)


def work_of(result):
    """For the fields how many tiles were done and unchanged; state of each other stage."""
    states = {name: stage["state"] for name, stage in result.stages.items() if name != "detect"}
    return tiles_of(result), states


def done_in(result):
    return {name for name, state in work_of(result)[1].items() if state == "done"}


def assert_like_a_clean_run(result, home, *overrides):
    assert_same(result, pipeline.run(load(home / "field.yaml", overrides), home / "clean"))


def test_the_same_run_again_does_nothing_and_says_so(home, caplog):
    before = {p: p.stat().st_mtime_ns for p in (home / "out").rglob("*")}
    caplog.set_level("INFO", logger="gcdask")
    again = run(home)
    assert again.up_to_date
    assert f"nothing to do: run {again.out.name} is up to date" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in (home / "out").rglob("*")} == before


def test_each_setting_redoes_what_depends_on_it(home, caplog):
    caplog.set_level("INFO", logger="gcdask")
    everything = {"catalogue", "catalogue reference", "inpaint", "maps", "fits", "results"}
    tiles = ((0, N * N), (0, 2))
    for setting, todo in (
        ("compare.box=4", {"results"}),
        ("density.pixel=0.3", {"maps", "fits", "results"}),
        ("inpaint.seed=3", {"inpaint", "maps", "fits", "results"}),
        ("detect.level=1.5", everything),
    ):
        result = run(home, setting)
        assert tuple(work_of(result)[0].values()) == tiles, setting
        assert done_in(result) == todo, setting
    assert f"detect field: 0 of {N * N} tiles done, {N * N} unchanged" in caplog.text
    assert "catalogue: unchanged" in caplog.text
    result = run(home, "detect.radius=4")
    assert tuple(work_of(result)[0].values()) == ((N * N, 0), (2, 0))


def test_runs_stand_beside_each_other(home):
    first = versions.latest(home / "out")
    products = {
        p.relative_to(home): p.stat().st_mtime_ns for p in (home / "out/runs" / first).rglob("*.*")
    }
    second = run(home, "compare.box=4")
    assert versions.ids(home / "out") == [first, second.out.name]
    assert json.loads((home / "out/latest.json").read_text())["run"] == second.out.name
    assert (home / "out/latest").resolve() == second.out.resolve()
    assert {p: (home / p).stat().st_mtime_ns for p in products} == products
    # what did not change takes no room
    shard = "maps.zarr/image/detection/c/1/1"
    assert os.path.samefile(second.out / shard, home / "out/runs" / first / shard)
    # and one can go without the other
    shutil.rmtree(home / "out/runs" / first)
    assert len(table(second)) == second.results["n_detected"]


def test_files_that_were_only_touched_are_not_done_again(home):
    for path in home.glob("*.zarr/sci/c/*/*/*"):
        path.touch()
    (home / "lens.par").touch()
    result = run(home)
    assert tuple(work_of(result)[0].values()) == ((0, N * N), (0, 2))
    assert done_in(result) == {"results"}  # the light is that of the mosaic's last band


def write(home, name, band, where, value):
    array = zarr.open_array(str(home / name), path="sci", mode="r+")
    array[(band, *where)] = value


@pytest.mark.parametrize(
    ("name", "band", "tiles", "todo"),
    [
        ("field.zarr", 2, ((0, 16), (0, 2)), {"results"}),  # not in the detection
        ("other.zarr", 0, ((0, 16), (1, 1)), {"catalogue reference", "fits", "results"}),
        ("field.zarr", 0, ((1, 15), (0, 2)), None),
    ],
    ids=["a band beside", "the second field", "a band"],
)
def test_a_touched_band_redoes_what_depends_on_it(home, name, band, tiles, todo):
    """New pixels in the middle of a tile, farther from its edges than the halo."""
    there = (slice(90, 94), slice(90, 94))
    write(home, name, band, there, 50.0)
    result = run(home)
    found, states = work_of(result)
    if name == "field.zarr" and band == 0:
        # its noise could reach into the next tiles
        assert 1 <= found["image"][0] <= 4
        assert sum(found["image"]) == 16
        assert found["reference"] == (0, 2)
        assert "unchanged" not in {states[k] for k in ("catalogue", "maps", "results")}
    else:
        assert tuple(found.values()) == tiles
        assert done_in(result) == todo
    assert_like_a_clean_run(result, home)


def write_masks(path, *rows):
    """A file whose HDUs 1, 2, ... mask ten rows of the tiny field each, from these on."""
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for row in rows:
        mask = np.zeros((tinyfield.N, tinyfield.N), "u1")
        mask[row : row + 10] = 1
        header = Grid.tangent(tinyfield.CENTER, mask.shape, 0.03).wcs.to_header()
        hdus.append(fits.ImageHDU(mask, header))
    hdus.writeto(path, overwrite=True)


def test_another_mask_in_the_same_hdu_or_in_another_one_is_seen(tmp_path):
    tinyfield.make(tmp_path)

    def masked(hdu):
        setting = f"mask.files=['{tmp_path}/m.fits[{hdu}]']"
        result = pipeline.run(load(tmp_path / "tiny.yaml", [setting]), tmp_path / "out")
        mask = mosaic.open_map(result.out / "maps.zarr/image", "mask").values & Flag.USER
        return np.flatnonzero(mask.all(axis=1))[0], result.up_to_date

    write_masks(tmp_path / "m.fits", 40, 270)
    assert masked(1) == (40, False)
    assert masked(2) == (270, False)
    write_masks(tmp_path / "m.fits", 80, 270)
    assert masked(1) == (80, False)
    assert masked(1) == (80, True)


def test_another_lens_redoes_maps_and_numbers_alone(home):
    (home / "lens.par").write_text(LENS.replace("v_disp 1000", "v_disp 900"))
    result = run(home)
    assert tuple(work_of(result)[0].values()) == ((0, N * N), (0, 2))
    assert done_in(result) == {"maps", "fits", "results"}


def test_a_mosaic_that_grows_keeps_its_tiles(home):
    store(home / "field.zarr", {b: sky(k, (N * TILE, 6 * TILE)) for k, b in enumerate("ABC")})
    result = run(home)
    done, unchanged = work_of(result)[0]["image"]
    assert done + unchanged == 6 * N
    # two new columns; the old edge and its neighbours see new pixels
    assert 2 * N <= done <= 4 * N
    assert_like_a_clean_run(result, home)


@pytest.mark.parametrize("stage", ["maps", "detect", "all"])
def test_a_stage_is_done_anew_by_force(home, stage):
    result = run(home, force=stage)
    found, states = work_of(result)
    assert not result.up_to_date
    if stage == "maps":
        assert tuple(found.values()) == ((0, N * N), (0, 2))
        assert [states[k] for k in ("catalogue", "inpaint")] == ["unchanged"] * 2
        assert [states[k] for k in ("maps", "fits", "results")] == ["done"] * 3
    else:
        assert tuple(found.values()) == ((N * N, 0), (2, 0))
        assert set(states.values()) == {"done"}
    first = Path(home, "out/runs", versions.ids(home / "out")[0])
    pd.testing.assert_frame_equal(
        table(result), catalog.read(first / "catalog.parquet").compute().sort_values(
            "id", ignore_index=True
        ),
    )  # fmt: skip
    with pytest.raises(InputError, match="force everything is no stage"):
        run(home, force="everything")


# -- bad tiles -----------------------------------------------------------------------------------
def corrupt(path):
    """Flip bits all through a file."""
    data = bytearray(path.read_bytes())
    data[50:-50] = bytes(255 - b for b in data[50:-50])
    path.write_bytes(data)


def test_a_corrupt_chunk_fails_its_tiles_and_no_others(home, made):
    shard = home / "field.zarr/sci/c/1/1/2"
    shutil.rmtree(home / "out")
    kept = shard.read_bytes()
    corrupt(shard)
    broken = run(home)
    assert broken.failed
    assert "00001-00002" in {f["tile"] for f in broken.failed}
    assert all("field.zarr/sci" in f["reason"] for f in broken.failed)
    assert {f["field"] for f in broken.failed} == {"image"}
    # windows overlap: the tiles around it see its pixels, the others do not
    assert len(broken.failed) <= 9
    assert any("tiles of image failed" in note for note in broken.results["notes"])
    assert versions.latest(home / "out") is None  # a partial run is not the one to be read
    assert versions.record_of(home / "out", broken.out.name)["status"] == "partial"
    mask = mosaic.open_map(broken.out / "maps.zarr/image", "mask")
    assert (mask.values[TILE : 2 * TILE, 2 * TILE : 3 * TILE] & 1).all()
    again = run(home)  # it is still broken: the same tiles are tried again, the rest stays
    assert again.out == broken.out
    assert work_of(again)[0]["image"] == (len(broken.failed), N * N - len(broken.failed))
    shard.write_bytes(kept)
    mended = run(home)
    assert not mended.failed
    done, unchanged = work_of(mended)[0]["image"]
    assert done + unchanged == N * N
    assert done == len(broken.failed)
    assert versions.latest(home / "out") == mended.out.name
    pd.testing.assert_frame_equal(table(mended), table(run(made)))
    assert mended.results == run(made).results


def test_a_mosaic_of_which_nothing_can_be_read_is_refused(home):
    for path in home.glob("field.zarr/sci/c/0/*/*"):
        corrupt(path)
    shutil.rmtree(home / "out")
    with pytest.raises(InputError, match="no tile can be read"):
        run(home)
    (stopped,) = versions.ids(home / "out")
    record = versions.record_of(home / "out", stopped)
    assert record["status"] == "failed"
    assert "no tile can be read" in record["error"]


# -- status and clean ----------------------------------------------------------------------------
def test_status_tells_stages_tiles_and_what_is_stale(home):
    run(home, force="all")  # with the paths of this copy
    status = pipeline.status(home / "out")
    assert status.about["status"] == "done"
    rows = {row["stage"]: row for row in status.rows}
    assert list(rows) == ["detect image", "detect reference", "catalogue",
                          "catalogue reference", "inpaint", "maps", "fits", "results"]  # fmt: skip
    tiles = rows["detect image"]
    assert [tiles[k] for k in ("done", "total", "stale", "failed")] == [16, 16, 0, 0]
    assert all(row["state"] == "done" and row["seconds"] >= 0 for row in rows.values())
    write(home, "field.zarr", 0, (slice(90, 94), slice(90, 94)), 50.0)
    (home / "lens.par").write_text(LENS.replace("v_disp 1000", "v_disp 900"))
    status = pipeline.status(home / "out")
    rows = {row["stage"]: row for row in status.rows}
    assert 1 <= rows["detect image"]["stale"] <= 4
    assert rows["detect reference"]["stale"] == 0
    states = {name: row["state"] for name, row in rows.items()}
    assert states["detect reference"] == "done"
    assert {states[k] for k in ("detect image", "catalogue", "maps", "results")} == {"stale"}
    json.dumps(status.plain, allow_nan=False)
    text = str(status)
    assert "detect image" in text
    assert "stale" in text
    with pytest.raises(InputError, match="holds no run"):
        pipeline.status(home)


def test_clean_keeps_the_latest_run(home):
    first = versions.latest(home / "out")
    run(home, "compare.box=4")
    run(home, "compare.box=5")
    out = home / "out"
    there = versions.ids(out)
    assert len(there) == 3
    gone = pipeline.clean(out, keep=2, dry_run=True)
    assert [Path(p).name for p in gone] == [first]
    assert versions.ids(out) == there
    (out / ".0123abcd-latest.json").write_text("cut off")
    assert len(pipeline.clean(out, keep=1)) == 3
    assert versions.ids(out) == there[-1:]
    assert versions.latest(out) == there[-1]
    assert sorted(p.name for p in out.iterdir()) == ["latest", "latest.json", "runs"]
    assert len(table(run(home, "compare.box=5"))) == 292
    with lock.hold(out), pytest.raises(LockError):
        pipeline.clean(out)
    with pytest.raises(InputError, match="negative"):
        pipeline.clean(out, keep=-1)
