"""The speed benchmark measures what it says, and writes down what it measured."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from onnxpfp.calibrate.sensitivity.device import Programs
from onnxpfp.calibrate.statistics import OpStatistics, Statistics
from onnxpfp.errors import ProviderError
from onnxpfp.runtime.session import open_session

ROOT = Path(__file__).parents[2]
NOWHERE = Path("nowhere")
LAYER = "3x3 64 → 64 @8"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


def timed(rows: ModuleType, *, seconds: tuple[float, ...], forward: tuple[float, ...], **case: Any) -> Any:
    """Make a row whose other clock, which must not count, shows nothing."""
    nothing = tuple(0.0 for _ in seconds)
    if case.get("threads", 1) == 1:
        return rows.Timed(**case, machine="m", forward_cpu=forward, cpu=seconds, forward_wall=nothing, wall=nothing)
    return rows.Timed(**case, machine="m", forward_cpu=nothing, cpu=nothing, forward_wall=forward, wall=seconds)


def test_forward_and_sensitivities_are_both_measured_in_every_round(load: Any) -> None:
    case = load("benchmarks.speed.rows").Case(part="layers", subject=LAYER, images=4, batch=2)
    (row,) = load("benchmarks.speed.measure").timed(
        [case], 2, load("benchmarks.speed.networks").Places(NOWHERE, NOWHERE), "here"
    )
    assert len(row.forward) == len(row.seconds) == 2
    assert min(row.forward) > 0
    # The call runs the network as well.
    assert row.ratio > 1
    assert row.machine == "here"


def test_memory_is_that_of_the_moment_and_of_the_peak(load: Any) -> None:
    found = load("benchmarks.speed.machine").memory()
    assert found["VmHWM"] >= found["VmRSS"] > 10 << 20


def test_both_paths_are_timed_and_held_against_each_other(load: Any) -> None:
    case = load("benchmarks.speed.rows").Case(part="plain", subject=LAYER, images=2, batch=2)
    cases = [replace(case, method="plain"), case]
    *rows, difference = load("benchmarks.speed.measure").compare(
        cases, load("benchmarks.speed.networks").Places(NOWHERE, NOWHERE), "here"
    )
    assert [row.method for row in rows] == ["plain", "screened"]
    assert min(row.ratio for row in rows) > 1
    assert difference.channels == 64
    assert difference.largest < 1e-6


def test_a_difference_is_found(load: Any) -> None:
    def of(*values: float) -> Statistics:
        empty = OpStatistics.empty(np.arange(1, 3), 2, 1)
        return {"r": OpStatistics(empty.channels, np.array(values), empty.patch_sum, empty.square_sum, 1, False, 1)}

    largest = load("benchmarks.speed.measure").largest_difference
    assert largest(of(0.5, 0.25), of(0.5, 0.25)) == 0
    assert largest(of(0.5, 0.25), of(0.5, 0.2)) == pytest.approx(0.25)
    assert largest(of(0.5, 0.1), of(0.5, 0)) > 1
    # Statistics come back from the processes of several GPUs.
    assert largest(pickle.loads(pickle.dumps(of(0.5, 0.25))), of(0.5, 0.25)) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_one_thread_counts_processor_seconds_and_more_the_clock(load: Any, threads: int) -> None:
    rows = load("benchmarks.speed.rows")
    row = timed(rows, seconds=(8.0, 6.0, 9.0), forward=(2.0, 2.0, 3.0), part="ratio", subject="x", threads=threads)
    assert row.ratios == (4.0, 3.0, 3.0)
    assert row.ratio == 3.0


def test_what_goes_on_is_without_the_start(load: Any) -> None:
    rows = load("benchmarks.speed.rows")
    first = timed(rows, seconds=(5.0,), forward=(1.0,), part="layers", subject="x", images=16)
    whole = timed(rows, seconds=(17.0,), forward=(4.0,), part="layers", subject="x", images=64)
    assert load("benchmarks.speed.tables").steady(first, whole) == 4.0


def test_rows_come_back_and_the_last_counts(load: Any, tmp_path: Path) -> None:
    rows, file = load("benchmarks.speed.rows"), tmp_path / "speed.jsonl"
    old = timed(rows, seconds=(1.0,), forward=(1.0,), part="ratio", subject="resnet50")
    new = timed(rows, seconds=(2.0,), forward=(1.0,), part="ratio", subject="resnet50")
    peak = rows.Memory(part="memory", subject="resnet50", machine="m", forward_bytes=1, bytes=3)
    run = rows.Command(part="prune", subject="c", machine="m", wall=(1.0,), cpu=(1.0,), bytes=1, phases={"load": 1.0})
    for row in (old, peak, run, new):
        rows.append(file, row)
    assert set(map(repr, rows.read(file).values())) == set(map(repr, (new, peak, run)))
    rows.compact(file)
    assert len(file.read_text(encoding="utf-8").splitlines()) == 3


def test_every_job_is_known_by_the_rows_that_it_makes(load: Any) -> None:
    plan, rows = load("benchmarks.speed.plan"), load("benchmarks.speed.rows")
    for job in plan.jobs(list(plan.PARTS), list(load("benchmarks.speed.networks").NETWORKS), 0.1):
        for key in plan.keys(job):
            assert key[0] in rows.KINDS
    keys = [key for part in plan.PARTS for job in plan.PARTS[part]() for key in plan.keys(job)]
    assert len(set(keys)) == len(keys) > 50


def test_goals_are_judged_by_what_was_measured(load: Any) -> None:
    rows, page = load("benchmarks.speed.rows"), load("benchmarks.speed.tables").page
    fast = timed(rows, seconds=(5.0,), forward=(1.0,), part="ratio", subject="resnet50")
    slow = timed(rows, seconds=(8.0,), forward=(1.0,), part="ratio", subject="resnet50")
    assert "| 7 | 4 | 5.00 | reached |" in page([fast])
    assert "| 7 | 4 | 8.00 | not reached |" in page([slow])


def test_without_a_gpu_the_benchmark_says_so_in_one_line(load: Any, tmp_path: Path) -> None:
    layer = load("benchmarks.speed.layers")
    try:
        open_session(layer.lone(layer.LAYERS[LAYER]), "cuda")
    except ProviderError as error:
        expected = str(error)
    else:
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "benchmarks.speed.gpu", "--networks", str(tmp_path), "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ProviderError.exit_code
    assert done.stderr.startswith(f"Error: {expected} (")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_command_is_timed_and_its_phases_come_from_its_report(load: Any, tmp_path: Path) -> None:
    (tmp_path / "resnet50.onnx").touch()
    places = load("benchmarks.speed.networks").Places(NOWHERE, tmp_path)
    commands = load("benchmarks.speed.commands")
    report = "import json, sys; json.dump(dict(seconds=dict(load=1.5)), open(sys.argv[1], 'w'))"
    row = commands.carried_out(commands.Errand("prune", "x", ("-c", report, "{report}"), times=2), places, "here")
    assert row.phases == {"load": 1.5}
    assert len(row.wall) == 2
    assert min(row.wall) > 0 < min(row.cpu)
    failing = commands.Errand("prune", "x", ("-c", "raise SystemExit('no such thing')"))
    with pytest.raises(RuntimeError, match="no such thing"):
        commands.carried_out(failing, places, "here")


def test_both_ways_to_screen_are_driven_by_the_calibration_loop(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    run = Programs.run

    def noted(self: Programs, program: Any, *rest: Any, **options: Any) -> Any:
        ran.append(program)
        return run(self, program, *rest, **options)

    monkeypatch.setattr(Programs, "run", noted)
    layers = load("benchmarks.speed.layers")
    *_, difference = load("benchmarks.speed.sensitivity_paths").compared(
        layers.subject_of_layer(layers.LAYERS[LAYER], 4), 1
    )
    assert {type(program).__name__ for program in ran} == {"Totals", "Bounds", "Shares"}
    assert float(difference) < 1e-5
