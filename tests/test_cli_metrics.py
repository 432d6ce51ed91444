"""What runs say to Prometheus on the scheduler's endpoint, and Dask's own report of a run."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import tinyfield
from clusters import local_cluster
from distributed import Client, LocalCluster

from gcdask import metrics
from gcdask.cli.performance import Performance
from gcdask.cli.progress import Tally
from gcdask.metrics import Metrics


@pytest.fixture
def scheduler():
    """A client of a scheduler and a worker in this process, which is faster."""
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def scraped(client_or_port):
    """The metrics of ours, as Prometheus would read them."""
    port = client_or_port
    if not isinstance(port, int):
        port = client_or_port.cluster.scheduler.http_server.port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    rows = re.findall(r'^(gcdask_\w+)\{(?:stage="(.*?)")?,?(?:state="(.*?)")?\} (\S+)$', text, re.M)
    return {tuple(filter(None, row[:3])): float(row[3]) for row in rows}


def test_tiles_and_seconds_are_on_the_endpoint(scheduler):
    with Metrics(scheduler) as told:
        tally = Tally(0, 64, 0.0)
        told("detect x", tally)
        tally.update(52, 64, 0.1)
        for k in range(4):
            tally.update(53 + k, 64, 2.0 + k)
        told("detect x", tally)
        told.failed(3)
    assert scraped(scheduler) == {
        ("gcdask_tiles", "detect x", "done"): 4,
        ("gcdask_tiles", "detect x", "unchanged"): 52,
        ("gcdask_tiles", "detect x", "waiting"): 8,
        ("gcdask_tiles", "run", "failed"): 3,
        ("gcdask_stage_seconds", "detect x"): 5,
    }
    with Metrics(scheduler) as told:  # the next run begins anew
        told("maps", Tally(0, 1, 0.0))
    assert {key[1] for key in scraped(scheduler)} == {"maps"}


def test_updates_are_sent_once_a_second_at_most(scheduler, monkeypatch):
    sent = []
    monkeypatch.setattr(metrics, "EVERY", 0.5)
    real = Metrics._send

    async def count(self, client, message):
        sent.append(time.monotonic())
        await real(self, client, message)

    monkeypatch.setattr(Metrics, "_send", count)
    with Metrics(scheduler) as told:
        tally, begin = Tally(0, 10**6, 0.0), time.monotonic()
        while time.monotonic() < begin + 1.8:
            tally.update(tally.done + 1, 10**6, time.monotonic())
            told("detect", tally)
        n = len(sent)
    assert 3 <= n <= 4
    assert scraped(scheduler)["gcdask_tiles", "detect", "done"] == tally.done  # the last of all


def test_without_prometheus_nothing_happens(scheduler, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setattr(metrics, "_gauges", {})
    with Metrics(scheduler) as told:
        told("detect", Tally(0, 3, 0.0))
    assert metrics._gauges == {}
    assert scheduler.submit(int, 5).result() == 5


def test_no_cluster_or_a_broken_one_is_no_error():
    with Metrics(None) as told:
        told("detect", Tally(0, 3, 0.0))

    def fail(*_, **__):
        raise OSError("lost")

    for client in (SimpleNamespace(register_plugin=fail), SimpleNamespace()):
        with Metrics(client) as told:
            told("detect", Tally(0, 3, 0.0))
    ready = SimpleNamespace(register_plugin=lambda _: None, log_event=lambda *_: None, sync=fail)
    ready.loop = SimpleNamespace(add_callback=fail)
    with Metrics(ready) as told:
        told("detect", Tally(0, 3, 0.0))


def test_events_of_others_are_let_be():
    plugin = metrics.MetricsPlugin()
    for topic, message in ((metrics.TOPIC, "nonsense"), (metrics.TOPIC, {"tiles": 5}), ("x", {})):
        plugin.log_event(topic, message)


def test_a_performance_report_stands_alone_and_has_no_secrets(scheduler, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "Performance Report")  # a word of the report
    with Performance(scheduler, "p.html") as report:
        assert scheduler.submit(sum, [1, 2]).result() == 3
        path = report.save(str(tmp_path))
    page = Path(path).read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["p.html"]
    assert "Dask ***" in page
    assert "Performance Report" not in page
    assert not re.search(r"<script[^>]*src=", page)


def test_a_performance_report_goes_to_any_store(scheduler):
    store = fsspec.filesystem("memory")
    store.store.clear()
    with Performance(scheduler, "p.html") as report:
        assert report.save("memory://out/runs/x") == "memory://out/runs/x/p.html"
    assert b"Task Stream" in store.cat_file("/out/runs/x/p.html")


def test_a_performance_report_that_fails_is_a_warning(scheduler, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with Performance(scheduler, "p.html") as report:
        assert report.save(str(tmp_path / "file")) is None
    assert "--performance-report p.html: not written" in caplog.text


@pytest.mark.cluster
def test_a_run_on_a_scheduler_is_on_its_endpoint(tmp_path):
    """A real scheduler process, while the run is on and after it."""
    tinyfield.make(tmp_path, size=600)
    with local_cluster(tmp_path / "cluster") as cluster:
        services = json.loads((cluster.folder / "scheduler.json").read_text())["services"]
        port = services["dashboard"]
        command = [sys.executable, "-m", "gcdask", "run", "tiny.yaml", "--out", "o",
                   "--scheduler", cluster.address, "--performance-report", "p.html"]  # fmt: skip
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        found = scraped(port)
    assert found["gcdask_tiles", "detect tiny", "done"] == 9
    assert found["gcdask_tiles", "detect tiny", "waiting"] == 0
    assert found["gcdask_tiles", "run", "failed"] == 0
    assert found["gcdask_stage_seconds", "survey tiny"] > 0
    page = (tmp_path / "o" / "latest" / "p.html").read_text(encoding="utf-8")
    assert "process_tile" in page
