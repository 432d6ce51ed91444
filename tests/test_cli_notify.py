"""The command that hears of the end of a run: it gets JSON, has its time, and holds nothing up."""

import json
import signal
import subprocess
import sys
import time

import pytest
from clusters import is_alive
from commandline import configuration, pipeline

from gcdask import cli
from gcdask.cli.notify import notify, parse
from gcdask.errors import InputError

__all__ = ["configuration", "pipeline"]  # fixtures

PYTHON = [sys.executable, "-c"]


def test_words_are_those_of_a_shell():
    assert parse("mail -s 'a run' me@x.org") == ["mail", "-s", "a run", "me@x.org"]
    for command in ("mail 'me", "", "  "):
        with pytest.raises(InputError, match="--notify"):
            parse(command)


def test_it_gets_the_summary_as_json(tmp_path):
    code = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())"
    summary = {"status": "done", "x": float("nan"), "many": ["é" * 1000] * 1000}
    assert notify([*PYTHON, code, str(tmp_path / "heard")], summary) is None
    assert json.loads((tmp_path / "heard").read_bytes()) == {**summary, "x": None}


def test_one_that_does_not_listen_is_no_failure():
    assert notify([*PYTHON, "pass"], {"many": ["x" * 1000] * 1000}) is None


def test_secrets_of_the_environment_stay_here(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_SECRET", 'abcd"efgh\n12345')
    code = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    summary = {"error": 'with abcd"efgh\n12345 in it', "s3://me:pass@x": ["https://a:b@c"]}
    assert notify([*PYTHON, code, str(tmp_path / "heard")], summary) is None
    told = json.loads((tmp_path / "heard").read_text())
    assert told == {"error": "with *** in it", "s3://***@x": ["https://***@c"]}


def test_one_that_takes_too_long_is_ended_with_what_it_started(tmp_path):
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, file=open(sys.argv[1], 'w'), flush=True); time.sleep(60)"
    )
    begin = time.monotonic()
    said = notify([*PYTHON, code, str(tmp_path / "pid")], {}, timeout=2)
    assert said == f"--notify {sys.executable} took longer than 2 s and was ended"
    assert time.monotonic() - begin < 10
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def test_what_it_leaves_in_the_background_is_not_waited_for():
    code = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(8)'])"
    )
    begin = time.monotonic()
    assert notify([*PYTHON, code], {}, timeout=30) is None
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('x\\ny'); sys.exit(3)", "failed (exit code 3: y)"),
        ("import os; os.kill(os.getpid(), 9)", "failed (exit code -9)"),
        ("import sys; print('z' * 5000); sys.exit(1)", f"failed (exit code 1: {'z' * 200})"),
    ],
)
def test_a_failure_is_told_with_its_last_line(code, said):
    assert notify([*PYTHON, code], {}) == f"--notify {sys.executable} {said}"


@pytest.mark.parametrize("words", [["/no/such/program"], ["/"], ["a\0b"]])
def test_what_cannot_be_run_is_told(words):
    assert "could not be run" in notify(words, {})


def test_a_signal_ends_the_wait_and_not_the_run(configuration, pipeline, tmp_path, capsys):
    """The run was complete: its exit code stays."""
    there = tmp_path / "there"
    hook = f'{sys.executable} -c \'import time; open("{there}", "w"); time.sleep(60)\''
    signals_us_then = (
        "import os, sys, time\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.05)\n"
        "os.kill(os.getppid(), int(sys.argv[2]))"
    )
    with subprocess.Popen([*PYTHON, signals_us_then, str(there), str(int(signal.SIGTERM))]):
        begin = time.monotonic()
        words = ["run", str(configuration), "--out", str(tmp_path / "o"), "--notify", hook]
        assert cli.main(words) == 0
    assert time.monotonic() - begin < 30
    assert "was not waited for and was ended" in capsys.readouterr().err
