"""Lines in a log: what is done, in what unit, and the time left; from time to time, and not where nobody wants them."""

from __future__ import annotations

import io
import threading
from contextlib import redirect_stderr

import pytest

from onnxpfp.cli import phases, terminal
from onnxpfp.cli.log_lines import LogLines, beating

SOON = 0.001
"""Seconds between two lines."""
PATIENCE = 60.0
"""Seconds after which a line that does not come is a failure."""


class Log:
    """A log whose clock is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.written: list[str] = []
        self.lines = LogLines(self.written.append, lambda: self.now)
        self.tell = self.lines.tell

    @property
    def line(self) -> str | None:
        """What is written now."""
        self.written.clear()
        self.lines.beat()
        return self.written[0] if self.written else None


@pytest.fixture
def log() -> Log:
    return Log()


def test_nothing_is_written_before_anything_is_told(log):
    assert log.line is None


def test_what_counts_tells_the_time_left(log):
    log.tell("calibration", 0, 1)
    assert log.line == "calibration, after 0:00:00"
    for done in (16, 32, 48):
        log.now += 100
        log.tell("calibration", done, 64)
    assert log.line == "calibration, 48 of 64 samples, after 0:05:00, about 0:01:40 left"
    log.now += 30
    assert log.line == "calibration, 48 of 64 samples, after 0:05:30, about 0:01:10 left"
    log.now += 300
    assert log.line == "calibration, 48 of 64 samples, after 0:10:30, about 0:00:00 left"
    log.tell("calibration", 64, 64)
    assert log.line == "calibration, 64 of 64 samples, after 0:10:30"


def test_what_does_not_count_tells_how_long_it_goes_on(log):
    log.tell("allocation", 0, 1)
    log.now += 3725
    assert log.line == "allocation, after 1:02:05"


def test_each_phase_has_its_own_time(log):
    log.tell("calibration", 0, 1)
    log.now += 500
    log.tell("calibration", 64, 64)
    log.tell("curves", 0, 1)
    log.now += 60
    log.tell("curves", 1, 5)
    assert log.line == "curves, 1 of 5 trials, after 0:01:00, about 0:04:00 left"


def test_what_is_counted_anew_has_its_own_speed(log):
    log.tell("verification", 0, 1)
    log.now += 10
    log.tell("verification", 64, 64)
    for done in (64, 128):
        log.now += 100
        log.tell("verification", done, 256)
    assert log.line == "verification, 128 of 256 samples, after 0:03:30, about 0:03:20 left"
    log.tell("verification", 256, 256)
    log.now += 40
    log.tell("verification", 64, 256)
    assert log.line == "verification, 64 of 256 samples, after 0:04:10, about 0:02:00 left"


def test_a_phase_without_a_unit_is_counted_all_the_same(log):
    log.tell("something new", 1, 2)
    assert log.line == "something new, 1 of 2, after 0:00:00, about 0:00:00 left"


def test_every_unit_is_a_plural():
    assert {phases.described("curves", 1, 2), phases.described("load", 0, 1)} == {"curves, 1 of 2 trials", "load"}
    assert all(unit.endswith("s") for unit in phases.UNITS.values())


def test_it_beats_until_the_work_is_done():
    heard, before = threading.Event(), threading.active_count()
    with beating(heard.set, SOON):
        assert heard.wait(PATIENCE)
    heard.clear()
    # The thread has ended.
    assert threading.active_count() == before
    assert not heard.is_set()


class Stderr(io.StringIO):
    """Stands in the place of stderr, and tells when a line of the log is there."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if ", after " in text:
            self.heard.set()
        return written


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Stderr:
    """What is written to stderr where it is no terminal, and a line is due all the time."""
    monkeypatch.setattr(terminal, "EVERY", SOON)
    return Stderr()


@pytest.mark.parametrize("verbosity", [0, 1])
def test_a_run_that_takes_long_writes_lines_where_there_is_no_terminal(verbosity, stderr):
    with redirect_stderr(stderr), terminal.progress_display(verbosity) as tell:
        tell("curves", 3, 18)
        assert stderr.heard.wait(PATIENCE)
    shown = stderr.getvalue()
    assert "curves, 3 of 18 trials, after 0:00:00" in shown
    assert not {"\x1b", "\r"}.intersection(shown)
    assert ("curves ...\n" in shown) == (verbosity > 0)


def test_quiet_runs_write_none(stderr):
    before = threading.active_count()
    with redirect_stderr(stderr), terminal.progress_display(-1) as tell:
        tell("curves", 3, 18)
        assert threading.active_count() == before
    assert stderr.getvalue() == ""
