"""Killed workers, schedulers and runs, on real processes: what is left ends the same."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
from clusters import local_cluster
from distributed import Client
from fields import assert_same, make, table, tiles_of

from gcdask import cli, mosaic, pipeline
from gcdask.config import load
from gcdask.errors import GcdaskError
from gcdask.pipeline import records, versions
from gcdask.pipeline.sources import place_of

pytestmark = pytest.mark.cluster
SIDE = 4  # tiles
TILES = SIDE**2 + 2  # and those of the second field
STEPS = 2 * TILES  # surveyed and searched


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """A field of 16 tiles."""
    return make(tmp_path_factory.mktemp("faults"), SIDE)


@pytest.fixture(scope="module")
def clean(field):
    """What a run without faults gives."""
    return pipeline.run(load(field / "field.yaml"), field / "clean")


def at_step(step, act):
    """A progress callback that acts when so many tiles were surveyed or searched."""
    seen = [0]

    def progress(stage, done, total):
        if done and stage.startswith(("survey", "detect")):
            seen[0] += 1
            if seen[0] == step:
                act()

    return progress


def moments(n, seed):
    """Random steps of a run, one in each nth of it."""
    return np.random.default_rng(seed).integers(1, STEPS // n, n) + np.arange(n) * (STEPS // n)


one_or_many = pytest.mark.parametrize("n", [1, pytest.param(10, marks=pytest.mark.slow)])


# -- the same on any cluster ---------------------------------------------------------------------
@pytest.mark.parametrize(
    "runs",
    [
        # another chunking and number of workers than the demo's own run, of two and 1024
        [(4, 512)],
        pytest.param([(4, 1024), (4, 512), (2, 512), (1, 1024)], marks=pytest.mark.slow),
    ],
)
def test_the_demo_is_the_same_on_one_two_and_four_workers(demo, tmp_path, request, runs):
    """And in both chunkings: the sorted catalogue byte by byte, results to 1e-6."""
    mock = [f"mosaic.path={demo.mosaic}", "output={fits: false, figures: false, report: false}"]
    path = request.config.rootpath / "configs/demo.yaml"
    result = pipeline.finished(load(path, mock[:1]), demo.out)
    found = [(table(result), result.results)]
    with local_cluster(tmp_path / "cluster", workers=4) as cluster, Client(cluster.address) as c:
        names = sorted(c.scheduler_info(n_workers=-1)["workers"])
        for workers, size in runs:
            c.retire_workers(names[workers:])
            assert len(c.scheduler_info(n_workers=-1)["workers"]) == workers
            config = load(path, [*mock, f"tiles.size={size}"])
            result = pipeline.run(config, tmp_path / f"{workers}-{size}", client=c)
            found.append((table(result), result.results))
    bytes_of = {frame.to_records(index=False).tobytes() for frame, _ in found}
    assert len(bytes_of) == 1
    assert len(found[0][0]) > 500
    for _, results in found[1:]:
        assert_close(results, found[0][1])


def assert_close(a, b):
    """Equal trees, numbers to 1e-6."""
    if isinstance(b, dict):
        assert set(a) == set(b)
        for key in b:
            assert_close(a[key], b[key])
    elif isinstance(b, list):
        assert len(a) == len(b)
        for u, v in zip(a, b, strict=True):
            assert_close(u, v)
    else:
        assert a == (pytest.approx(b, rel=1e-6, abs=1e-12) if isinstance(b, float) else b)


# -- workers -------------------------------------------------------------------------------------
@one_or_many
def test_a_killed_worker_is_made_up_for(field, clean, tmp_path, n):
    """One of two workers is killed, each time at another moment; a new one comes after the run."""
    with local_cluster(tmp_path / "cluster", workers=2) as cluster, Client(cluster.address) as c:
        pids = list(cluster.worker_pids)
        for k, step in enumerate(moments(n, seed=n)):
            victim = pids.pop(k % 2)
            result = pipeline.run(
                load(field / "field.yaml"),
                tmp_path / f"out{k}",
                client=c,
                progress=at_step(step, lambda pid=victim: os.kill(pid, signal.SIGKILL)),
            )
            assert len(c.scheduler_info(n_workers=-1)["workers"]) == 1
            assert not result.failed
            assert_same(result, clean)
            pids.append(cluster.add_worker(f"new{k}").pid)
            c.wait_for_workers(2, timeout=60)


# -- the scheduler -------------------------------------------------------------------------------
def rows_of(out):
    """How many tiles the newest run in a folder has finished."""
    folder = versions.folder_of(str(out), versions.ids(str(out))[-1])
    places = [place_of(folder, name) for name in ("image", "reference")]
    return sum(len(list(Path(place.folder, "rows").glob("*.json"))) for place in places)


@pytest.fixture
def impatient():
    """Clients that give a lost scheduler up after some seconds."""
    with dask.config.set({"distributed.comm.timeouts.connect": "5s"}):
        yield


@pytest.mark.parametrize("step", [pytest.param(9, marks=pytest.mark.slow), 28])
def test_a_run_goes_on_after_its_scheduler_was_killed(field, clean, tmp_path, step, impatient):
    config, out = load(field / "field.yaml"), tmp_path / "out"
    with local_cluster(tmp_path / "first", workers=2) as cluster:
        c = Client(cluster.address)
        with pytest.raises(GcdaskError, match="lost the connection to the scheduler"):
            pipeline.run(
                config, out, client=c, progress=at_step(step, cluster.kill_scheduler)
            )  # fmt: skip
        with suppress(Exception):
            c.close(timeout=1)
    left = TILES - rows_of(out)
    surveyed = len(list(out.glob("runs/*/tiles/*/survey/*.npz")))
    (stopped,) = versions.ids(str(out))
    assert versions.record_of(str(out), stopped)["status"] == "failed"
    assert versions.latest(str(out)) is None
    with local_cluster(tmp_path / "second", workers=2) as cluster, Client(cluster.address) as c:
        result = pipeline.run(config, out, client=c)
    assert result.out.name == stopped
    done = sum(done for done, _ in tiles_of(result).values())
    assert done <= left + 2
    fields = result.stages["detect"]["fields"].values()
    assert sum(field["surveyed"] for field in fields) <= TILES - surveyed + 2
    assert surveyed >= min(step - 1, SIDE**2)
    assert (done < TILES) == (step > TILES)
    assert_same(result, clean)


# -- bad input -----------------------------------------------------------------------------------
def test_bad_tiles_are_named_and_the_rest_is_done(field, tmp_path, capfd):
    """A corrupt chunk in the mosaic, and a FITS file of the second field that was cut off."""
    ignore = shutil.ignore_patterns("clean")
    home = Path(shutil.copytree(field, tmp_path / "home", ignore=ignore))
    bands = [home / f"other.fits.d/{band}.fits" for band in "AB"]
    changed = ["reference.path=null", f"reference.bands={{A: {bands[0]}, B: {bands[1]}}}"]
    command = ["run", str(home / "field.yaml"), "--workers", "2"]
    command += [part for change in changed for part in ("--set", change)]
    kept = {path: path.read_bytes() for path in (home / "field.zarr/sci/c/1/1/2", bands[1])}
    shard, image = kept
    broken = bytearray(kept[shard])
    broken[100:-100] = bytes(255 - b for b in broken[100:-100])
    shard.write_bytes(broken)
    image.write_bytes(kept[image][: len(kept[image]) * 6 // 10])
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 3
    said = capfd.readouterr().err
    assert "Traceback" not in said
    out = str(tmp_path / "out")
    record = versions.record_of(out, versions.ids(out)[-1])
    assert record["status"] == "partial"
    failed = {(f["field"], f["tile"]): f["reason"] for f in record["failed"]}
    assert "field.zarr/sci" in failed["image", "00001-00002"]
    assert "B.fits" in failed["reference", "00001-00000"]
    assert all(tile in said for _, tile in failed)
    n = {name: sum(f == name for f, _ in failed) for name in ("image", "reference")}
    assert n["image"] <= 9
    good = record["stages"]["detect"]["fields"]["image"]["done"]
    assert good == SIDE**2  # all were worked on, the bad ones as far as they could be read
    for path, data in kept.items():
        path.write_bytes(data)
    mended = pipeline.run(load(home / "field.yaml", changed), out)
    assert not mended.failed
    assert tiles_of(mended) == {
        "image": (n["image"], SIDE**2 - n["image"]),
        "reference": (n["reference"], 2 - n["reference"]),
    }
    assert_same(mended, pipeline.run(load(home / "field.yaml", changed), tmp_path / "clean"))


# -- a run that is stopped -----------------------------------------------------------------------
def started(field, out, workers):
    """Start a run as an operator would."""
    command = [sys.executable, "-m", "gcdask", "run", str(field / "field.yaml"), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--workers", str(workers)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(test, process, seconds=60):
    end = time.monotonic() + seconds
    while not test() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)


def assert_gone(leader, seconds=10):
    """No process that a command started is left, after a moment."""
    end = time.monotonic() + seconds
    look = ["ps", "-s", str(leader), "-o", "pid=,args="]
    while left := subprocess.run(look, capture_output=True, text=True, check=False).stdout:
        assert time.monotonic() < end, left
        time.sleep(0.1)


@one_or_many
def test_a_run_that_is_told_to_stop_goes_on_later(field, clean, tmp_path, n):
    """SIGTERM at random moments, from the first second to the report; some with own workers."""
    codes = []
    pieces = np.random.default_rng(2).integers(0, 2 * TILES + 6, n)
    for k, piece in enumerate(sorted(pieces)):
        out = tmp_path / f"out{k}"
        process = started(field, out, workers=2 * (k % 3 == 0))

        def files(out=out):
            tiles = len(list(out.glob("runs/*/tiles/*/survey/*.npz")))
            tiles += len(list(out.glob("runs/*/tiles/*/rows/*.json")))
            return tiles + 3 * len(list(out.glob("runs/*/*.parquet/_manifest.json")))

        wait_until(lambda piece=piece, files=files: files() >= piece, process)
        process.terminate()
        said = process.communicate(timeout=60)[1]
        codes.append(process.returncode)
        assert "Traceback" not in said, said
        assert not (out / ".gcdask.lock").exists()
        if process.returncode == 143:
            assert "SIGTERM" in said
            assert versions.latest(str(out)) is None
            for run in versions.ids(str(out)):
                assert not versions.is_valid(versions.folder_of(str(out), run))
        assert_gone(process.pid)
        before = rows_of(out) if versions.ids(str(out)) else 0
        result = pipeline.run(load(field / "field.yaml"), out)
        assert_same(result, clean)
        if process.returncode == 143:
            assert sum(done for done, _ in tiles_of(result).values()) == TILES - before
    assert set(codes) <= {0, 143}
    assert codes.count(143) >= 0.8 * n


def test_a_run_that_was_killed_goes_on_later(field, clean, tmp_path):
    """SIGKILL: no chance to tidy up; the lock is taken over."""
    out = tmp_path / "out"
    process = started(field, out, workers=0)
    wait_until(lambda: len(list(out.glob("runs/*/tiles/image/rows/*.json"))) > 5, process)
    process.kill()
    process.communicate(timeout=30)
    assert (out / ".gcdask.lock").exists()
    before = rows_of(out)
    assert 5 < before < TILES
    assert pipeline.status(out).about["status"] == "stopped"
    result = pipeline.run(load(field / "field.yaml"), out)
    assert versions.record_of(str(out), result.out.name)["took_over"]["pid"] == process.pid
    assert sum(done for done, _ in tiles_of(result).values()) == TILES - before
    assert_same(result, clean)


def test_two_runs_in_one_folder(field, clean, tmp_path, capfd):
    out = tmp_path / "out"
    process = started(field, out, workers=0)
    try:
        wait_until(lambda: (out / ".gcdask.lock").exists(), process)
        command = ["run", str(field / "field.yaml"), "--out", str(out), "--workers", "0"]
        assert cli.main(command) == 4
        said = capfd.readouterr().err
        assert f"in use by process {process.pid} on" in said
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.communicate()
    again = pipeline.run(load(field / "field.yaml"), out)
    assert again.up_to_date
    assert_same(again, clean)


# -- the disk ------------------------------------------------------------------------------------
def test_a_full_disk_ends_the_run_in_one_line(field, clean, tmp_path, monkeypatch, capfd):
    """The fifth tile cannot be written: no half file, and the run goes on when there is room."""
    real, count = mosaic.write_tile, []

    def full(*args):
        count.append(1)
        if len(count) > 10:
            raise OSError(28, "No space left on device", args[0])
        return real(*args)

    monkeypatch.setattr(mosaic, "write_tile", full)
    out = str(tmp_path / "out")
    command = ["run", str(field / "field.yaml"), "--out", out, "--workers", "0"]
    assert cli.main(command) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert "No space left on device" in said
    assert "free space" in said
    monkeypatch.setattr(mosaic, "write_tile", real)
    before = rows_of(out)
    result = pipeline.run(load(field / "field.yaml"), out)
    assert sum(done for done, _ in tiles_of(result).values()) == TILES - before
    assert_same(result, clean)
    assert not [p for p in Path(out).rglob(".*") if p.is_file()]


def test_records_of_a_tile_that_are_cut_off_do_not_count(field, tmp_path, clean):
    home = records.Place(str(tmp_path / "tiles"), str(tmp_path / "maps"))
    place = place_of(str(clean.out), "image")
    from gcdask.tiles import tile_grid

    tile = tile_grid((SIDE * 256, SIDE * 256), 256, 100)[0]
    data = Path(place.piece(tile)).read_bytes()
    assert records.read_piece(place, tile) is not None
    Path(home.piece(tile)).parent.mkdir(parents=True)
    for n in (0, 1, 100, len(data) // 2, len(data) - 1):
        Path(home.piece(tile)).write_bytes(data[:n])
        assert records.read_piece(home, tile) is None
    pd.testing.assert_frame_equal(table(clean), table(clean))
