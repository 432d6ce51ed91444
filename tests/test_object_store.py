"""A whole run on an object store: input, output, lock and versions; no secret is written down."""

import json
import os

import pytest
from fields import make, tiles_of
from servers import s3_server

from gcdask import catalog, cli, mosaic, pipeline, storage
from gcdask.config import load
from gcdask.pipeline import lock, versions

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("local"), 2)


@pytest.fixture(scope="module")
def clean(made):
    return pipeline.run(load(made / "field.yaml"), made / "clean")


@pytest.fixture(scope="module")
def server():
    with s3_server(authenticated=True) as server:
        yield server


@pytest.fixture(scope="module")
def field(server, made):
    """A configuration all of whose inputs are on the store."""
    url = f"{server.url}/input"
    for name in ("field", "other"):
        bands = {
            band: made / f"{name}.fits.d/{band}.fits" for band in "ABC"[: 3 - 1 * (name == "other")]
        }
        mosaic.ingest(f"{url}/{name}.zarr", bands, chunks=256)
    storage.write_bytes(f"{url}/lens.par", (made / "lens.par").read_bytes())
    text = (
        (made / "field.yaml").read_text().replace("fits: true, figures: false, report: false", "")
    )
    for name in ("field.zarr", "other.zarr", "lens.par"):
        text = text.replace(f"path: {name}", f"path: {url}/{name}")
    (made / "remote.yaml").write_text(text)
    return made / "remote.yaml"


def frames(*outs):
    tables = [catalog.read(storage.join(out, "catalog.parquet")).compute() for out in outs]
    return [t.sort_values("id", ignore_index=True) for t in tables]


def test_a_run_from_end_to_end(server, field, clean, capfd, tmp_path):
    out = f"{server.url}/results"
    command = ["run", str(field), "--out", out, "--workers", "2"]
    assert cli.main([*command, "--performance-report", "dask.html"]) == 0
    run = versions.latest(out)
    folder = versions.folder_of(out, run)
    a, b = frames(folder, clean.out)
    assert a.to_records(index=False).tobytes() == b.to_records(index=False).tobytes()
    results = storage.read_json(storage.join(folder, "results.json"))
    assert results["n_detected"] == clean.results["n_detected"]
    assert results["beta"] == clean.results["beta"]
    manifest = storage.read_json(storage.join(folder, "manifest.json"))
    wanted = {"catalog.parquet", "maps.zarr", "figures", "report.html", "density.fits",
              "detection.fits", "results.json", "profiles.ecsv"}  # fmt: skip
    assert wanted <= set(manifest["outputs"])
    assert all(storage.exists(storage.join(folder, name)) for name in manifest["outputs"])
    assert len(storage.names(storage.join(folder, "figures"))) >= 8
    for name in ("density", "detection"):
        pair = [mosaic.open_map(storage.join(o, f"{name}.fits")) for o in (folder, clean.out)]
        assert pair[0].equals(pair[1])
    assert lock.owner_of(out) is None
    said = capfd.readouterr()
    assert cli.main(command) == 0  # nothing is to be done
    again = capfd.readouterr()
    assert "up to date" in again.out + again.err
    assert versions.ids(out) == [run]
    # another setting takes all tiles over, on the store itself
    quiet = ["output.figures=false", "output.report=false"]
    result = pipeline.run(load(field, ["compare.box=4", *quiet]), out)
    assert tiles_of(result) == {"image": (0, 4), "reference": (0, 2)}
    assert versions.latest(out) == versions.ids(out)[-1] != run
    assert cli.main(["status", out]) == 0
    assert cli.main(["clean", out]) == 0
    assert versions.ids(out) == [versions.latest(out)]
    shown = said.out + said.err + capfd.readouterr().out
    assert_no_secret(server, out, shown)


def assert_no_secret(server, out, shown):
    """Neither key nor secret stands in anything that was written or said."""
    secrets = [server.secret.encode(), server.key.encode()]
    files = storage.find(out)
    assert len(files) > 50
    for name in files:
        data = storage.read_bytes(storage.join(out, name))
        assert not any(secret in data for secret in secrets), name
    assert not any(secret.decode() in shown for secret in secrets)


def test_two_runs_on_the_store_exclude_each_other(server, field, capfd):
    out = f"{server.url}/shared"
    with lock.hold(out):
        assert cli.main(["run", str(field), "--out", out, "--workers", "0"]) == 4
        said = capfd.readouterr().err
        assert f"in use by process {os.getpid()}" in said


def test_refused_credentials_and_missing_buckets_are_told_in_one_line(server, field, capfd):
    command = ["run", str(field), "--workers", "0", "--out"]
    with server.wrong_credentials() as wrong:
        assert cli.main([*command, f"{server.url}/results2"]) == 2
        said = capfd.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert "credentials" in said[0]
        assert wrong["AWS_SECRET_ACCESS_KEY"] not in said[0]
    assert cli.main([*command, "s3://no-such-bucket/results"]) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert "s3://no-such-bucket/results" in said[-1]
    assert "is in a bucket that does not exist" in said[-1]
    assert "Traceback" not in "".join(said)


def test_credentials_in_an_address_are_refused_and_not_repeated(field, capfd):
    for address in ("s3://key:hunter2hunter2@bucket/x", "s3://bucket/x?X-Amz-Signature=hunter2"):
        assert cli.main(["run", str(field), "--out", address]) == 2
        said = capfd.readouterr().err
        assert "hunter2" not in said
        assert "environment" in said


def test_memory_is_a_store_too(made, clean):
    """In one process; what tests of others may want."""
    result = pipeline.run(load(made / "field.yaml"), "memory://run/out")
    a, b = frames(result.out, clean.out)
    assert a.equals(b)
    assert json.loads(storage.read_bytes(storage.join(result.out, "results.json")))
    assert pipeline.run(load(made / "field.yaml"), "memory://run/out").up_to_date
