"""Two runs never share an output folder; what a dead run left behind is taken over."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gcdask.errors import LockError
from gcdask.pipeline import lock

HOLD = "import sys, time; from pathlib import Path; from gcdask.pipeline import lock\n"
HOLD += "with lock.hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def owner(folder, **changes):
    """Write a lock as another run would have."""
    written = {**lock._me(), "token": "theirs", "beat": time.time(), **changes}
    (folder / lock.LOCK).write_text(json.dumps(written))
    return written


def test_a_lock_lives_as_long_as_its_context(tmp_path):
    with lock.hold(tmp_path) as held:
        assert held.previous is None
        written = json.loads((tmp_path / lock.LOCK).read_text())
        assert written["pid"] == os.getpid()
        with pytest.raises(LockError):
            lock.check(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), lock.hold(tmp_path):
        raise ZeroDivisionError
    lock.check(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_second_run_is_told_who_holds_the_folder(tmp_path, other):
    before = (tmp_path / lock.LOCK).read_bytes()
    for attempt in (lambda: lock.check(str(tmp_path)), lambda: lock.hold(tmp_path).__enter__()):
        with pytest.raises(LockError, match=f"in use by process {other.pid} on .* since 20") as e:
            attempt()
        assert e.value.exit_code == 4
        assert "\n" not in str(e.value)
    assert (tmp_path / lock.LOCK).read_bytes() == before


def test_the_lock_of_a_killed_run_is_taken_over_with_a_note(tmp_path, other, caplog):
    other.kill()
    other.wait()
    lock.check(str(tmp_path))
    with lock.hold(tmp_path) as held:
        assert held.previous["pid"] == other.pid
        assert f"took over {tmp_path} from process {other.pid}" in caplog.text
        assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_another_process_of_the_same_number_is_another_one(tmp_path):
    owner(tmp_path)
    with pytest.raises(LockError):
        lock.check(str(tmp_path))
    owner(tmp_path, born=1)
    with lock.hold(tmp_path) as held:
        assert held.previous["pid"] == os.getpid()


def test_a_lock_of_another_machine_is_stale_when_nobody_touches_it(tmp_path):
    owner(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(LockError, match="process 1 on elsewhere"):
        lock.check(str(tmp_path))
    owner(tmp_path, host="elsewhere", pid=1, beat=time.time() - lock.STALE - 1)
    with lock.hold(tmp_path) as held:
        assert held.previous["host"] == "elsewhere"


def test_the_holder_gives_signs_of_life_and_touches_no_other_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    path = tmp_path / lock.LOCK
    with lock.hold(tmp_path) as held:
        first = json.loads(path.read_text())["beat"]
        time.sleep(0.5)
        assert json.loads(path.read_text())["beat"] > first
        held.check()
        written = owner(tmp_path, host="elsewhere")  # somebody thought that we were gone
        time.sleep(0.3)
        assert json.loads(path.read_text()) == written
        with pytest.raises(LockError, match="on elsewhere"):
            held.check()
    assert json.loads(path.read_text())["host"] == "elsewhere"  # not ours to remove


def test_a_lock_works_on_an_object_store():
    out = "memory://locks/out"
    with lock.hold(out) as held:
        assert lock.owner_of(out)["pid"] == os.getpid()
        with pytest.raises(LockError, match=f"in use by process {os.getpid()}"):
            lock.hold(out).__enter__()
        held.check()
    assert lock.owner_of(out) is None


@pytest.mark.parametrize("content", ["", '{"host": "a', "[]", "{}"])
def test_a_lock_that_was_cut_off_is_taken_over(tmp_path, content):
    (tmp_path / lock.LOCK).write_text(content)
    with lock.hold(tmp_path) as held:
        assert held.previous["pid"] == "unknown"


def test_one_of_many_takes_a_stale_lock_over(tmp_path):
    owner(tmp_path, born=1)

    def attempt(_):
        try:
            with lock.hold(tmp_path):
                time.sleep(2)
                return True
        except LockError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    assert not (tmp_path / lock.LOCK).exists()
    assert list(Path(tmp_path).iterdir()) == []
