"""Progress: what is told of a stage, how often, and what the time that is left is taken from."""

import io
import logging
import threading
import time

import pytest

from gcdask.cli import progress
from gcdask.cli.progress import Bars, Lines, Records, Tally, duration, shown


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes when it is told to."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def lines_of(capsys):
    return capsys.readouterr().err.splitlines()


def told(capsys):
    return [line.split("] ", 1)[1] for line in lines_of(capsys)]


# -- lines ---------------------------------------------------------------------------------------
def test_plain_progress_has_few_lines(clock, capsys):
    with Lines() as shown:
        for done in range(1001):
            shown("detect", done, 1000)
            clock[0] += 0.03
        shown("density", 0, 0)
        shown("density", 1, 1)
        shown("density", 1, 1)
    lines = lines_of(capsys)
    assert lines[0] == "[   0.0 s] detect 0/1000"
    assert lines[1].endswith("detect 334/1000, 33 tiles/s, about 20 s left")
    assert lines[-3].endswith("detect 1000/1000")
    assert [line.split("] ")[1] for line in lines[-2:]] == ["density ...", "density 1/1"]
    assert len(lines) == 6  # one every 10 s


def test_it_is_quiet_while_nothing_happens(clock, capsys):
    with Lines() as shown:
        shown("detect", 0, 10)
        lines_of(capsys)
        clock[0] += 1e6
        time.sleep(0.05)
        assert lines_of(capsys) == []


def test_stages_at_the_same_time_do_not_silence_each_other(clock, capsys):
    with Lines() as shown:
        for done in range(3):
            shown("a", done, 100)
            shown("b", done, 100)
            clock[0] += 11
    assert [line.split(",")[0] for line in told(capsys)] == [
        "a 0/100", "b 0/100", "a 1/100", "b 1/100", "a 2/100", "b 2/100",
    ]  # fmt: skip


def test_a_stage_that_begins_again_is_told_again(clock, capsys):
    with Lines() as shown:
        for _ in range(2):
            shown("maps", 0, 1)
            shown("maps", 1, 1)
    assert told(capsys) == ["maps 0/1", "maps 1/1"] * 2


def test_what_is_unchanged_is_said(clock, capsys, caplog):
    """Whether the calls tell it, or the log records of the tiles."""
    caplog.set_level(logging.INFO, "gcdask")
    log = logging.getLogger("gcdask.pipeline.detection")
    with Lines() as shown:
        shown("detect A", 0, 64)
        shown("detect A", 52, 64)
        for done in range(53, 65):
            shown("detect A", done, 64)
        shown("detect B", 52, 64)
        shown("detect B", 64, 64)
        shown("detect C", 0, 64)
        for k in range(64):
            state = "unchanged" if k % 2 else "done"
            log.info("tile", extra={"tile": f"{k}", "field": "C", "state": state})
            shown("detect C", k + 1, 64)
        log.info("maps: unchanged", extra={"stage": "maps", "state": "unchanged"})
        log.info("maps: done", extra={"stage": "maps", "state": "done"})
    lines = told(capsys)
    assert [line for line in lines if "unchanged" in line] == [
        "detect A: 12 of 64 tiles done, 52 unchanged",
        "detect B: 0 of 64 tiles done, 64 unchanged",
        "detect C: 32 of 64 tiles done, 32 unchanged",
        "maps: unchanged",
    ]
    log.info("x", extra={"stage": "maps", "state": "unchanged"})
    assert told(capsys) == []  # the run is over


def test_a_reader_that_goes_does_not_end_a_run(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Gone())
    with Lines() as shown:
        shown("detect", 1, 2)


# -- rate and time left --------------------------------------------------------------------------
def after(tally, times):
    """Tell one tile after the other, at these intervals."""
    now = tally.last
    for dt in times:
        now += dt
        tally.update(tally.done + 1, tally.total, now)
    return now


@pytest.mark.parametrize("before", [0, 3, 9000])
def test_tiles_that_were_there_do_not_count(before):
    """Whether the first call brings them, or the second."""
    for second in (False, True):
        tally = Tally(0 if second else before, 10_000, 0.0)
        if second:
            tally.update(before, 10_000, 0.5)
        now = after(tally, [2.0] * 20)
        if before > progress.BATCH or not second:
            assert tally.rate(now) == pytest.approx(0.5)
            assert tally.left(now) == pytest.approx((10_000 - before - 20) * 2.0)
            assert tally.unchanged == before


def test_a_jump_between_does_not_count_either():
    tally = Tally(0, 10_000, 0.0)
    now = after(tally, [2.0] * 20)
    tally.update(6000, 10_000, now)
    assert tally.rate(now) == pytest.approx(0.5)
    assert tally.unchanged == 0  # who knows what it was
    now = after(tally, [2.0] * 20)
    assert tally.left(now) == pytest.approx(3980 * 2.0)


def test_unchanged_tiles_in_between_do_not_count():
    tally = Tally(0, 1000, 0.0)
    now = 0.0
    for k in range(200):
        now += 0.001 if k % 2 else 1.0
        if k % 2:
            tally.note_unchanged()
        tally.update(k + 1, 1000, now)
    assert tally.rate(now) == pytest.approx(1.0, rel=0.01)
    assert tally.unchanged == 100


def test_several_tiles_in_one_call_do_count():
    tally = Tally(0, 1000, 0.0)
    for k in range(1, 30):
        tally.update(3 * k, 1000, float(k))
    assert tally.rate(29.0) == pytest.approx(3.0)


def test_the_rate_is_that_of_late():
    tally = Tally(0, 10_000, 0.0)
    after(tally, [0.1] * 1000)
    now = after(tally, [5.0] * 20)
    assert tally.rate(now) == pytest.approx(0.2, rel=0.1)
    now = after(tally, [300.0] * progress.RECENT)  # slower than the window is long
    assert tally.rate(now) == pytest.approx(1 / 300, rel=0.15)


def test_a_rate_sinks_while_nothing_comes():
    tally = Tally(0, 100, 0.0)
    now = after(tally, [1.0] * 10)
    assert tally.rate(now + 90) == pytest.approx(0.1)


def test_nothing_is_guessed_from_nothing():
    tally = Tally(0, 100, 0.0)
    assert tally.rate(5.0) is None
    assert tally.left(5.0) is None
    tally = Tally(0, 1, 0.0)
    tally.update(1, 1, 3.0)
    assert tally.rate(3.0) is None
    unknown = Tally(0, 0, 0.0)
    unknown.update(5, 0, 3.0)
    assert unknown.left(3.0) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (80, "80 s"), (700, "12 min"), (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)
def test_times_in_words(seconds, text):
    assert duration(seconds) == text


def test_it_may_be_called_from_any_thread(capsys):
    with Lines() as shown:
        threads = [
            threading.Thread(target=lambda k=k: [shown(f"{k}", i, 200) for i in range(201)])
            for k in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {name: (t.done, t.worked) for name, t in shown.stages.items()} == {
        f"{k}": (200, 200) for k in range(8)
    }
    assert len(told(capsys)) == 16


# -- records and bars ----------------------------------------------------------------------------
def test_records_carry_the_numbers(clock, caplog):
    caplog.set_level(logging.INFO, "gcdask")
    with Records() as shown:
        for done in range(31):
            shown("detect", done, 100)
            clock[0] += 2.0
    first, *_, last = caplog.records
    assert len(caplog.records) == 7  # one every 10 s
    assert (first.stage, first.done, first.total, first.rate) == ("detect", 0, 100, None)
    assert (last.done, last.rate, last.left) == (30, 0.5, 140.0)
    assert last.getMessage() == "detect 30/100"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_on_a_terminal(monkeypatch, clock):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    bars = shown()
    assert isinstance(bars, Bars)
    with bars:
        bars("detect [red]x", 0, 0)
        for done in range(1, 12):
            bars("detect [red]x", done, 20)
            clock[0] += 2.0
        bars("maps", 7, 8)
        bars("maps", 8, 8)
        logging.getLogger("gcdask").warning("x", extra={"stage": "catalogue", "state": "unchanged"})
    text = stream.getvalue()
    assert "detect [red]x" in text
    assert "11/20" in text
    assert "0.55 tiles/s, about 16 s left" in text
    assert "7 unchanged" in text
    assert "catalogue: unchanged" in text


def test_bars_are_for_terminals(monkeypatch):
    assert isinstance(shown(as_json=True), Records)
    assert type(shown()) is Lines  # captured by the test
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert type(shown()) is Lines
