"""Whole runs on a small mock: outputs, truth, resuming, independence of tiles and workers."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import no_compute

import gcdask
from gcdask import catalog, cli, mosaic, pipeline
from gcdask.config import load
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.masks import Flag
from gcdask.pipeline import detection, versions
from gcdask.pipeline.records import Place
from gcdask.tiles import tile_grid

OUTPUTS = [
    "boxes.ecsv", "catalog.parquet", "detection.fits", "figures", "inpainted.parquet",
    "kappa.fits", "manifest.json", "maps.zarr", "mask.fits", "profiles.ecsv", "report.html",
    "results.json", "run.json",
]  # fmt: skip


QUIET = "output={fits: false, figures: false, report: false}"
ALONE = ("reference=null", "profiles.contamination={method: outer}")  # without the second module


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def configure(demo, *overrides):
    return load("configs/demo.yaml", [f"mosaic.path={demo.mosaic}", *overrides])


@pytest.fixture
def done(demo):
    """The run of the demo, on two workers, which is that of its configuration."""
    found = pipeline.finished(configure(demo), demo.out)
    assert found is not None
    return found


@pytest.fixture
def beside(demo, tmp_path):
    """A copy of the demo's folder: a run with other settings there takes the tiles over."""
    no_input = shutil.ignore_patterns("input")
    return shutil.copytree(demo.out, tmp_path / "beside", symlinks=True, ignore=no_input)


def table_of(out):
    frame = catalog.read(out / "catalog.parquet").compute()
    return frame.sort_values("id", ignore_index=True)


def test_a_run_leaves_what_it_promises(done):
    for name in OUTPUTS:
        assert (done.out / name).exists(), name
    manifest = json.loads((done.out / "manifest.json").read_text())
    assert set(OUTPUTS) - {"manifest.json", "run.json"} <= set(manifest["outputs"])
    run = json.loads((done.out / "run.json").read_text())
    assert run["status"] == "done"
    assert run["config"]["detect"]["threshold"] == "auto"
    assert run["timings"]["detect demo"] > 0
    assert len(list((done.out / "figures").glob("*.png"))) == 11


def test_results_have_every_number(done):
    results = done.results
    assert {"n_detected", "n_inpainted", "masked_fraction"} <= set(results)
    assert {"value", "error", "sectors", "dispersion"} <= set(results["beta"])
    assert set(results["beta"]["sectors"]) == {"E", "W", "S", "N"}
    assert {"pearson_log", "spearman"} <= set(results["correlation"])
    assert {"a", "b", "cov", "n_boxes"} <= set(results["relation"])
    assert {"slope", "slope_error", "contamination_arcsec2", "contamination_kpc2"} <= set(
        results["profile"]
    )
    assert {"within_arcsec", "msun", "per_gc_msun"} <= set(results["mass"])
    assert results["threshold"]["value"] >= 3
    assert results["threshold"]["level"] == 2 * results["threshold"]["value"]
    assert 0.9 < results["purity"]["at_level"] <= 1
    assert results["units"]["mass.msun"] == "Msun"
    assert results["units"]["beta.sectors"] == "arcsec1.6"
    assert results["n_detected_error"] == np.sqrt(results["n_detected"])
    assert results["profile"]["contamination_is_upper_limit"]  # 3' from the cluster
    assert 0.8 < results["noise"]["over_reference"] < 1.25
    bias = results["truth"]["inpainting_bias"]
    assert -0.4 < bias["density"] < 0.1
    assert -0.4 < bias["local"] < 0.1


def test_what_was_put_in_is_found(done):
    truth = done.results["truth"]
    assert truth["completeness"] > 0.94
    assert truth["purity"] > 0.95
    assert abs(truth["n_found"] + truth["inpainted"] - truth["n_truth"]) < 0.04 * truth["n_truth"]
    for sector, beta in truth["beta"].items():
        assert beta == pytest.approx(truth["beta_truth"][sector], rel=0.04), sector
    drawn, expected = truth["inpainted"], truth["expected"]["density"]
    assert abs(drawn - expected) < 3 * np.sqrt(expected)


def test_the_catalogue_is_that_of_its_maps(done):
    """Each source is a pixel of the detection map, unmasked, above the level."""
    image = mosaic.open_map(done.out / "maps.zarr/image", "detection").compute()
    mask = mosaic.open_map(done.out / "maps.zarr/image", "mask").compute()
    table = table_of(done.out)
    y, x = table["y"].astype(int), table["x"].astype(int)
    np.testing.assert_array_equal(image.values[y, x], table["peak"].to_numpy())
    assert not mask.values[y, x].any()
    assert (table["snr"] > done.results["threshold"]["level"]).all()
    np.testing.assert_array_equal(np.isnan(image.values), mask.values != 0)
    ra, dec = Grid.of(image).sky(table["x"], table["y"])
    np.testing.assert_array_equal((ra, dec), (table["ra"], table["dec"]))
    shares = done.results["mask_shares"]["image"]
    assert shares["masked"] == pytest.approx(float((mask.values != 0).mean()))
    assert shares["edge"] == pytest.approx(float((mask.values & Flag.EDGE > 0).mean()))


def test_the_notebook_road_gives_the_same_catalogue(demo, tmp_path):
    """Public lazy functions, chunked otherwise, find what the tiles found, bit for bit."""
    opened = gcdask.open_mosaic(demo.mosaic, chunks=700)
    mask = gcdask.build_mask(opened)
    noise = gcdask.noise_map(gcdask.detection_map(opened))
    image = gcdask.detection_map(opened, mask)
    peaks = gcdask.detect_peaks(image, 6, noise=noise, in_sigma=True)
    peaks = peaks.compute().sort_values("id", ignore_index=True)
    config = configure(demo, "mask.luminous=null", "detect.threshold=3 sigma", QUIET, *ALONE)
    tiles = table_of(pipeline.run(config, tmp_path / "out").out)
    pd.testing.assert_frame_equal(peaks, tiles, check_dtype=False)


def test_tiles_and_workers_do_not_matter(done, demo, tmp_path):
    """Tiles of 1536 px in this process; more sizes and numbers of workers are in test_faults."""
    other = pipeline.run(configure(demo, "tiles.size=1536", QUIET), tmp_path / "other")
    pd.testing.assert_frame_equal(table_of(other.out), table_of(done.out))
    for name in ("detection", "mask"):
        maps = [
            mosaic.open_map(o / "maps.zarr/image", name).compute() for o in (done.out, other.out)
        ]
        xr.testing.assert_equal(*maps)
    drawn = [catalog.read(o / "inpainted.parquet").compute() for o in (done.out, other.out)]
    a, b = (d.sort_values(["y", "x"], ignore_index=True) for d in drawn)
    pd.testing.assert_frame_equal(a, b)
    assert_same_numbers(other.results, done.results)


def assert_same_numbers(a, b, path=""):
    """Equal trees, numbers to 1e-6."""
    if isinstance(b, dict):
        assert set(a) == set(b), path
        for key in b:
            assert_same_numbers(a[key], b[key], f"{path}.{key}")
    elif isinstance(b, list):
        assert len(a) == len(b), path
        for k, (u, v) in enumerate(zip(a, b, strict=True)):
            assert_same_numbers(u, v, f"{path}[{k}]")
    elif isinstance(b, float):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-12), path
    else:
        assert a == b, path


def test_a_second_run_does_nothing(done, demo, monkeypatch):
    monkeypatch.setattr(detection, "detect_field", None)  # any work would fail
    again = pipeline.run(configure(demo), done.out.parents[1])
    assert again.up_to_date
    assert again.out == done.out
    assert again.results == done.results


def test_a_killed_run_goes_on_where_it_was(done, demo, tmp_path, monkeypatch):
    config = configure(demo, QUIET)
    made, work = [], detection.detect.chain

    def dies_in_the_third_tile(*args, **kwargs):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return work(*args, **kwargs)

    monkeypatch.setattr(detection.detect, "chain", dies_in_the_third_tile)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config, tmp_path / "out")
    (stopped,) = versions.ids(tmp_path / "out")
    assert not versions.is_valid(versions.folder_of(tmp_path / "out", stopped))
    assert versions.record_of(tmp_path / "out", stopped)["status"] == "stopped"
    assert versions.latest(tmp_path / "out") is None
    counted = []

    def counts(*args, **kwargs):
        counted.append(1)
        return work(*args, **kwargs)

    monkeypatch.setattr(detection.detect, "chain", counts)
    result = pipeline.run(config, tmp_path / "out")
    assert len(counted) == 3  # of five tiles, two were done
    assert result.out.name == stopped == versions.latest(tmp_path / "out")
    pd.testing.assert_frame_equal(table_of(result.out), table_of(done.out))


def test_a_folder_of_somebody_else_is_never_touched(demo, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for force in (None, "all"):
        with pytest.raises(InputError, match=r"holds thesis\.txt, and no runs"):
            pipeline.run(configure(demo), tmp_path, force=force)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_dry_run_computes_and_writes_nothing(demo):
    before = sorted(demo.mosaic.parent.rglob("*"))
    with no_compute():
        plan = pipeline.dry_run(configure(demo))
    assert "detect demo" in str(plan)
    assert "beta by 4 sectors" in str(plan)
    assert plan.tasks > 10
    assert 0.3e9 < plan.memory < 1e9
    assert sorted(demo.mosaic.parent.rglob("*")) == before


def test_the_halo_covers_the_whole_chain(demo):
    """Pixels at the core's border do not change when the window grows."""
    config = configure(demo)
    sources = mosaic.open_sources(demo.mosaic)
    rules = pipeline.inputs.rules_of(config.mask)
    job = detection.make_job(config, sources, rules, Place("", ""))
    assert job.halo >= 42 + 6 + 8 + 5 + 5 + 16  # extended, dilation, both filters, peaks
    tiles = tile_grid(job.grid.shape, 1024, job.halo)
    assert all(t.window[0] == max(t.core[0] - job.halo, 0) for t in tiles)


def test_a_number_as_threshold_is_in_map_units(done, demo, beside):
    noise = mosaic.open_map(done.out / "maps.zarr/image/noise", "detection")
    value = 3 * float(np.median(noise))
    config = configure(demo, f"detect.threshold={value}", "truth=null", QUIET, *ALONE)
    result = pipeline.run(config, beside)
    table = table_of(result.out)
    assert result.results["threshold"]["unit"] == "MJy / sr"
    assert (table["peak"] > 2 * value).all()
    assert (table["snr"] < 6).any()  # where the noise is above its median
    assert 0.7 < len(table) / result.results["n_detected"] <= 1


def test_sources_found_by_eye_join_flagged(done, demo, beside, tmp_path):
    field = configure(demo).field
    ra, dec = np.array([field.center[0], 342.0]), np.array([field.center[1], -44.0])
    pd.DataFrame({"ra": ra, "dec": dec}).to_csv(tmp_path / "eye.csv", index=False)
    config = configure(demo, f"manual={tmp_path / 'eye.csv'}", "truth=null", QUIET)
    result = pipeline.run(config, beside)
    table = table_of(result.out)
    by_eye = table[table["flags"].to_numpy() & np.uint16(catalog.SourceFlag.MANUAL) > 0]
    assert len(by_eye) >= 1
    assert result.results["n_detected"] == done.results["n_detected"] + len(by_eye)


def test_radii_beyond_the_field_are_told(done, demo, beside):
    """The defaults of a large field on a small one: the numbers say what they rest on."""
    config = configure(demo, "profiles.slope_range=[13, 60]", "mass.radius=[60]", QUIET)
    results = pipeline.run(config, beside).results
    assert results["profile"]["slope_status"].startswith("only ")
    mask = mosaic.open_map(done.out / "maps.zarr/image", "mask").compute()
    grid = Grid.of(mask)
    inside = np.hypot(*grid.offsets(*grid.mesh(), config.field.center)) < 60
    looked = (inside & (mask.values & Flag.EDGE == 0)).sum() * grid.pixel_scale**2
    assert results["mass"]["source_coverage"] == pytest.approx(looked / (np.pi * 60**2), rel=1e-3)
    assert results["mass"]["coverage"] > 0.99
    told = " ".join(results["notes"])
    assert f"{results['mass']['source_coverage']:.0%} of the disk of 60 arcsec only" in told
    assert "Profile: only " in told
    assert done.results["profile"]["slope_status"] == "ok"
    assert done.results["mass"]["source_coverage"] > 0.98


def test_the_demo_from_end_to_end(demo, capfd):
    """What `gcdask demo` says and shows."""
    out = demo.out
    assert demo.code == 0, demo.stderr
    rows = {line[:20].strip(): line[20:].split() for line in demo.stdout.splitlines()}
    assert float(rows["completeness"][0].rstrip("%")) > 94
    assert {"sources", "purity", "beta all", "slope", "contamination"} <= set(rows)
    assert re.search(rf"report:  {re.escape(str(out))}/.*report.html", demo.stdout)
    assert all(line.startswith("[") for line in demo.stderr.splitlines())  # progress, nothing else
    page = (out / "latest/report.html").read_text()
    assert "Found against truth" in page
    assert page.count("data:image/png;base64") == 11
    assert not re.search(r"""(src|href)=["']https?:""", page)
    assert cli.main(["inspect", str(out)]) == 0
    assert "finished" in capfd.readouterr().out
