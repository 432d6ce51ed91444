"""A signal ends a run in one line, with everything closed; the same command continues."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import tinyfield
from clusters import is_alive, local_cluster

from gcdask import catalog
from gcdask.cli import signals
from gcdask.cli.signals import Signals, Stopped

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGHUP: "SIGHUP"}


@pytest.fixture(autouse=True)
def default_signals():
    """Whoever runs the tests may have some ignored, which processes of ours would inherit."""
    before = {number: signal.getsignal(number) for number in NAMES}
    for number in NAMES:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# -- the handler ---------------------------------------------------------------------------------
@pytest.mark.parametrize("number", NAMES)
def test_the_first_signal_is_an_exception_and_the_second_is_not(number):
    before = signal.getsignal(number)
    with Signals() as caught:
        with pytest.raises(Stopped):
            signal.raise_signal(number)
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert (caught.received, caught.name) == (number, NAMES[number])
    assert signal.getsignal(number) is before


def test_a_stop_that_was_swallowed_is_raised_again():
    with Signals() as caught:
        caught.check()
        with suppress(BaseException):  # as libraries do, in the middle of an import
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            caught.check()
        caught.rest()
        caught.check()


def test_a_stop_that_was_lost_in_a_finaliser_is_raised_again(capfd):
    class Slow:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with Signals() as caught:
        Slow()
        with pytest.raises(Stopped):
            time.sleep(5)
        assert caught.name == "SIGTERM"
    assert capfd.readouterr().err == ""


def test_what_others_lose_in_a_finaliser_is_still_told(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Broken:
        def __del__(self):
            raise ZeroDivisionError

    with Signals():
        Broken()
    assert [lost.exc_type for lost in told] == [ZeroDivisionError]
    assert sys.unraisablehook == told.append


def test_signals_that_were_ignored_stay_ignored():
    """As nohup asks for."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as caught:
            signal.raise_signal(signal.SIGHUP)
            assert caught.received is None
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nothing_is_raised_once_the_work_is_over():
    with Signals() as caught:
        caught.rest()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert (caught.received, caught.late) == (None, 2)


def test_a_clean_up_that_hangs_can_be_ended():
    code = (
        "import signal, time; from gcdask.cli import signals; signals.PATIENCE = 0.2\n"
        "with signals.Signals():\n"
        "    try: print('on', flush=True); time.sleep(60)\n"
        "    finally: print('hangs', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "on\n"
        process.terminate()
        assert process.stdout.readline() == "hangs\n"
        process.terminate()
        time.sleep(0.5)
        process.terminate()
        assert process.wait(10) == 143
        assert process.stderr.read() == ""


def test_handlers_are_of_the_main_thread_alone():
    def enter():
        with Signals():
            pass

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert signals.NAMES[signal.SIGINT] == "Ctrl-C"


# -- real runs -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def field(tmp_path_factory):
    return tinyfield.make(tmp_path_factory.mktemp("field"), size=900, sources=300)


@contextmanager
def started(field, out, *options):
    """A run in a process group of its own; whatever happens, nothing of it is left."""
    command = [sys.executable, "-m", "gcdask", "run", "tiny.yaml", "--out", str(out), *options]
    process = subprocess.Popen(
        command, cwd=field, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(process, words, lines):
    """Wait for a line of standard error."""
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if words in line:
            return
    raise AssertionError(lines)


def rest(process, lines, seconds=90):
    """Wait for the end: standard output, and what standard error holds but the progress."""
    out, err = process.communicate(timeout=seconds)
    lines += err.splitlines()
    return out, [line for line in lines if not line.startswith("[")]


def children(pid):
    """All processes below one."""
    table = subprocess.check_output(["ps", "-eo", "pid=,ppid="], text=True)
    below = {}
    for line in table.splitlines():
        child, parent = map(int, line.split())
        below.setdefault(parent, []).append(child)
    found, waiting = [], [pid]
    while waiting:
        waiting += below.get(waiting.pop(), [])
        found = waiting + [p for p in found if p not in waiting]
    return found


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("number", "moment", "group", "twice"),
    [
        pytest.param(signal.SIGTERM, "survey tiny 0/", False, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "survey tiny 0/", True, True, marks=pytest.mark.slow),
        (signal.SIGTERM, "catalogue", False, True),  # as kill does
        (signal.SIGINT, "survey tiny 0/", True, True),  # as a terminal does
        pytest.param(signal.SIGINT, "inpaint 0/", False, False, marks=pytest.mark.slow),
        (signal.SIGHUP, "detect tiny 0/", True, False),  # as a terminal does that is closed
    ],
)
def test_a_run_ends_in_one_line(field, tmp_path, number, moment, group, twice):
    lines = []
    hook = f"tee {tmp_path}/heard"
    with started(field, tmp_path / "o", "--workers", "2", "--notify", hook) as process:
        until(process, moment, lines)
        workers = children(process.pid)
        for _ in range(1 + twice):
            (os.killpg if group else os.kill)(process.pid, number)
            time.sleep(0.2 * twice)
        out, told = rest(process, lines)
    assert process.returncode == 128 + number
    assert told == [f"stopped by {NAMES[number]}; the same command continues"]
    assert out == ""
    assert not (tmp_path / "o" / ".gcdask.lock").exists()
    assert not (tmp_path / "o" / "latest.json").exists()
    assert '"status": "interrupted"' in (tmp_path / "heard").read_text()
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, workers))


@pytest.mark.cluster
@pytest.mark.slow
def test_a_stopped_run_is_continued_to_the_same_catalogue(field, tmp_path):
    lines = []
    for k in range(2):
        with started(field, tmp_path / "o", "--workers", "2") as process:
            until(process, "survey tiny 0/", lines)
            time.sleep(1.0 + k)
            process.terminate()
            rest(process, lines)
            assert process.returncode == 143
    with started(field, tmp_path / "o", "--workers", "2") as process:
        _, told = rest(process, [], seconds=300)
        assert (process.returncode, told) == (0, [])
    assert len(list((tmp_path / "o" / "runs").iterdir())) == 1
    with started(field, tmp_path / "clean", "--workers", "0") as process:
        rest(process, [], seconds=300)
    one, two = (
        catalog.read(tmp_path / out / "latest" / "catalog.parquet").compute().sort_values("id")
        for out in ("o", "clean")
    )
    assert len(one) > 200
    assert one.reset_index(drop=True).equals(two.reset_index(drop=True))


# -- a scheduler that is lost --------------------------------------------------------------------
@pytest.mark.cluster
@pytest.mark.slow
def test_a_lost_scheduler_is_one_line_and_the_same_command_continues(field, tmp_path):
    out = tmp_path / "o"
    lines = []
    with local_cluster(tmp_path / "one") as cluster:
        options = ("--scheduler-file", str(tmp_path / "one" / "scheduler.json"))
        with started(field, out, *options) as process:
            until(process, "survey tiny 0/", lines)
            time.sleep(1)
            cluster.kill_scheduler()
            _, told = rest(process, lines, seconds=120)
        assert process.returncode == 1
        (line,) = told
        assert line.startswith("error: lost the connection to the scheduler")
        assert "continues" in line
    assert not (out / ".gcdask.lock").exists()
    with local_cluster(tmp_path / "two") as cluster:
        with started(field, out, "--scheduler", cluster.address) as process:
            _, told = rest(process, [], seconds=300)
        assert (process.returncode, told) == (0, [])
    assert (Path(out) / "latest" / "manifest.json").exists()
