"""The bar: what is done, in what unit, and the time left; on a terminal only."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pseudo_terminal import drain
from rich.console import Console
from rich.progress import Progress

from onnxpfp.cli import terminal

ROOT = str(Path(__file__).parents[2])


class Bar:
    """A bar whose clock is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.console = Console(file=io.StringIO(), force_terminal=True, width=120)
        self.progress: Progress = terminal._progress(self.console)
        self.progress.get_time = lambda: self.now
        self.tell = terminal._bar(self.progress)

    @property
    def text(self) -> str:
        """What stands there now."""
        console = Console(file=io.StringIO(), width=120)
        console.print(self.progress.get_renderable())
        (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        return " ".join(re.sub("[^\\x00-\\x7f]", "", line).split())


@pytest.fixture
def bar() -> Bar:
    return Bar()


def test_samples_done_and_time_left(bar):
    bar.tell("calibration", 0, 1)
    assert bar.text == "calibration 0:00:00"
    for done in (16, 32, 48):
        bar.now += 10
        bar.tell("calibration", done, 64)
    assert bar.text == "calibration, 48 of 64 samples 0:00:30 0:00:10 left"
    bar.now += 5
    assert bar.text.startswith("calibration, 48 of 64 samples 0:00:35")


def test_each_phase_has_its_own_speed(bar):
    bar.tell("calibration", 0, 1)
    for done in range(1, 65):
        bar.now += 1
        bar.tell("calibration", done, 64)
    bar.tell("curves", 0, 1)
    assert bar.text == "curves 0:00:00"
    for done in (1, 2, 3):
        bar.now += 60
        bar.tell("curves", done, 5)
    assert bar.text == "curves, 3 of 5 trials 0:03:00 0:02:00 left"


def test_a_phase_that_begins_anew_forgets_its_speed(bar):
    for done in (1, 2, 3):
        bar.now += 60
        bar.tell("calibration", done, 4)
    for done in (1, 2, 3):
        bar.now += 1
        bar.tell("calibration", done, 4)
    assert bar.text == "calibration, 3 of 4 samples 0:00:02 0:00:01 left"


def test_where_nothing_counts_no_time_is_promised(bar):
    bar.tell("load", 0, 1)
    bar.now += 90
    assert bar.text == "load 0:01:30"


def _run(folder: Path, stderr: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onnxpfp", "prune", "in.onnx", "out.onnx", "--calib-data", "data.npz"]
    environment = {**os.environ, "PYTHONPATH": ROOT, "TERM": "xterm-256color", "COLUMNS": "120"}
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=stderr, env=environment)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_run_on_a_terminal_counts_on_stderr(folder):
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    with _run(folder, follower) as process:
        os.close(follower)
        shown = drain(leader)
        assert process.stdout is not None
        printed = process.stdout.read()
    assert process.returncode == 0
    assert re.search(r"calibration, \d+ of \d+ samples", shown)
    assert re.search(r"compensation, \d+ of \d+ stages", shown)
    assert " left" in shown
    assert b"samples 0:" not in printed
    assert b"\x1b" not in printed


def test_a_run_in_a_pipe_shows_no_bar(folder):
    with _run(folder, subprocess.PIPE) as process:
        _, shown = process.communicate()
    assert process.returncode == 0
    assert b"\x1b" not in shown
    assert b"samples 0:" not in shown
