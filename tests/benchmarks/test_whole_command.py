"""The benchmark of whole commands measures what it says, and writes down what it measured."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nets
import numpy as np
import onnx
import pytest

import onnxpfp.progress
from onnxpfp.runtime.session import open_session

ROOT = Path(__file__).parents[2]
CASE = {"network": "resnet56", "images": 1024, "machine": "a machine"}
FORWARD = {"forward_cpu": (2.0, 1.0, 4.0), "forward_bytes": 100_000_000}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


@pytest.fixture
def bench(load: Any, tmp_path: Path) -> Any:
    """A small network that stands in the place of those that are measured."""
    file = tmp_path / "network.onnx"
    onnx.save(nets.chain(), file)
    subjects, jobs = load("benchmarks.whole_command.subjects"), load("benchmarks.whole_command.jobs")
    network = subjects.Network(
        "fmnist_resnet", "a chain", 24, lambda _: file, lambda _, count: nets.noise(count, 3, 8, 8)
    )
    code = load("benchmarks.whole_command.codes").Code("after", ROOT, "now")
    settings = jobs.Settings(subjects.Places(*[tmp_path] * 4), [code], 2, held=True)
    made = jobs._Bench(network, settings, tmp_path)
    made.write_samples()
    return made


def test_the_command_takes_turns_with_the_forward_pass(load: Any, bench: Any) -> None:
    (row,) = load("benchmarks.whole_command.jobs")._whole(bench)
    assert len(row.cpu) == len(row.wall) == 2
    assert len(row.forward_cpu) == 3
    assert min(row.forward_cpu) > 0
    assert {"load", "calibration", "compensation", "verification"} <= set(row.phases)
    assert all(len(seconds) == 2 for seconds in row.phases.values())
    # What lies outside of the phases, as imports, takes its time as well.
    assert all(0 < sum(run) < cpu for cpu, run in zip(row.cpu, zip(*row.phases.values(), strict=True), strict=True))
    assert min(row.bytes, row.forward_bytes) > 10 << 20


def test_the_command_is_run_under_every_condition(load: Any, bench: Any) -> None:
    rows = load("benchmarks.whole_command.jobs")._waited(bench, ((1, 0), (0, 1)))
    assert [(row.threads, row.busy) for row in rows] == [(1, 0), (0, 1)]
    assert all(len(row.wall) == 2 and min(row.wall) > 0 for row in rows)


def test_a_peer_takes_turns_with_the_forward_pass(load: Any, bench: Any, tmp_path: Path) -> None:
    jobs, peer = load("benchmarks.whole_command.jobs"), tmp_path / "python"
    said = '{"tool": "a tool 1", "seconds": {"gradients": 0.5}}'
    peer.write_text(f"#!/bin/sh\ntest -f $4 && test -f $5 && echo '{said}' > $6\n", encoding="utf-8")
    peer.chmod(0o755)
    settings = replace(bench.settings, places=replace(bench.settings.places, peers=peer))
    (row,) = jobs._peer(replace(bench, settings=settings))
    assert (row.tool, row.phases) == ("a tool 1", {"gradients": (0.5, 0.5)})
    assert len(row.forward_cpu) == 3


def test_what_fails_says_why(load: Any, bench: Any) -> None:
    bench.file("samples.npz").unlink()
    with pytest.raises(RuntimeError, match=r"onnxpfp prune.*\nError: .*samples\.npz"):
        load("benchmarks.whole_command.jobs")._waited(bench, ((1, 0),))


def test_phases_are_counted_on_the_processor(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = load("benchmarks.whole_command.processor_clock")
    monkeypatch.setattr(onnxpfp.progress, "time", time)
    clock.count_on_processor(onnxpfp.progress)
    now = [10.0]
    monkeypatch.setattr(onnxpfp.progress.time, "perf_counter", lambda: now[0])
    assert time.perf_counter() != 10.0
    counted = onnxpfp.progress.Clock()
    with counted.phase("one"):
        now[0] += 3
    assert counted.seconds == {"one": 3.0}


def test_a_clock_that_asks_another_time_is_refused(load: Any) -> None:
    changed = SimpleNamespace(time=SimpleNamespace(), Clock=onnxpfp.progress.Clock)
    with pytest.raises(RuntimeError, match="cannot be measured so"):
        load("benchmarks.whole_command.processor_clock").count_on_processor(changed)


def test_a_pass_runs_every_sample(load: Any, tmp_path: Path) -> None:
    file = tmp_path / "network.onnx"
    onnx.save(nets.chain(), file)
    cpu, wall = load("benchmarks.whole_command.forward").passed(file, nets.noise(20, 3, 8, 8), 1)
    assert cpu > 0
    assert wall > 0


def test_code_is_that_of_a_commit(load: Any, tmp_path: Path) -> None:
    codes = load("benchmarks.whole_command.codes")
    package = tmp_path / "onnxpfp"
    package.mkdir()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    for text in ("old", "new"):
        (package / "__init__.py").write_text(text, encoding="utf-8")
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", text], check=True)
    with codes.at_commit(tmp_path, "HEAD~") as before:
        assert (before.folder / "onnxpfp" / "__init__.py").read_text(encoding="utf-8") == "old"
        assert before.name == "before"
        assert Path(importlib.util.cache_from_source(before.folder / "onnxpfp" / "__init__.py")).is_file()
    after = codes.checkout(tmp_path)
    assert Path(importlib.util.cache_from_source(package / "__init__.py")).is_file()
    assert (after.folder, after.name) == (tmp_path.resolve(), "after")
    assert after.commit != before.commit
    assert after.environment["PYTHONPATH"] == str(tmp_path.resolve())
    (package / "__init__.py").write_text("newer", encoding="utf-8")
    assert codes.checkout(tmp_path).commit == f"{after.commit}-dirty"
    with pytest.raises(FileNotFoundError, match="has no onnxpfp"):
        codes.checkout(package)


def test_lines_of_text_fill_a_page(load: Any) -> None:
    subjects = load("benchmarks.whole_command.subjects")
    lines = np.full((60, 3, 48, 320), -1, np.float32)
    lines[26 + 3] = 1
    found = subjects.pages(lines)
    assert found.shape == (2, 3, 640, 640)
    white, black = ((value - subjects.MEAN) / subjects.STD for value in (1, 0))
    # The fourth of the second page: second row, right column.
    np.testing.assert_allclose(found[1, :, 48:96, 320:], np.broadcast_to(white[:, None, None], (3, 48, 320)), rtol=1e-5)
    np.testing.assert_allclose(found[1, :, 0, 0], black, rtol=1e-5)
    np.testing.assert_allclose(found[0, :, 60, 400], black, rtol=1e-5)


def test_the_detector_has_three_heads(load: Any) -> None:
    detector = load("benchmarks.whole_command.detector")
    session = open_session(detector.yolo().SerializeToString())
    x = np.random.default_rng(0).standard_normal((2, 3, detector.SIDE, detector.SIDE), dtype=np.float32)
    (boxes,) = session.run({session.inputs[0]: x}).values()
    places = sum((detector.SIDE // stride) ** 2 for stride in (8, 16, 32))
    assert boxes.shape == (2, places * detector.ANCHORS, detector.NUMBERS)
    assert 0.05 < boxes.std() < 0.5


def test_every_job_is_known_by_rows_that_it_makes(load: Any) -> None:
    plan, kinds = load("benchmarks.whole_command.plan"), load("benchmarks.whole_command.rows").KINDS
    everything = plan.jobs(list(plan.PARTS), list(load("benchmarks.whole_command.subjects").NETWORKS))
    found = [key for job in everything for key in plan.keys(job, ("before", "after"), held=True)]
    assert len(set(found)) == len(found) > 40
    assert {key[0] for key in found} == set(kinds)
    kind_of = load("benchmarks.whole_command.rows").kind_of
    assert {(kind_of(row), *row.key) for row in rows_of(load)} <= set(found)


def rows_of(load: Any) -> list[Any]:
    rows: ModuleType = load("benchmarks.whole_command.rows")
    before = rows.Whole(
        **CASE,
        **FORWARD,
        cpu=(80.0, 90.0, 85.0),
        wall=(81.0, 91.0, 86.0),
        bytes=700_000_000,
        phases={"calibration": (20.0, 22.0, 21.0), "curves": (50.0, 60.0, 55.0)},
        code="before",
        commit="abc",
        held=True,
    )
    after = replace(before, cpu=(40.0,), wall=(41.0,), code="after", commit="def", phases={"calibration": (30.0,)})
    waited = rows.Waited(
        **(CASE | {"network": "fmnist_resnet", "images": 256}),
        cpu=(9.0, 9.0, 9.0),
        wall=(10.0, 12.0, 11.0),
        code="after",
        commit="def",
        threads=0,
        busy=0,
    )
    single = rows.Waited(**CASE, cpu=(40.0,), wall=(40.0,), code="after", commit="def", threads=1, busy=0)
    peer = rows.Peer(
        **(CASE | {"network": "resnet50", "images": 64}),
        **FORWARD,
        cpu=(12.0,),
        wall=(12.0,),
        bytes=900_000_000,
        phases={"gradients": (6.0,), "pruning": (2.0,)},
        tool="Torch-Pruning 1",
        method="Taylor, one pass of gradients",
    )
    return [
        before,
        after,
        replace(after, network="resnet50", images=64),
        waited,
        replace(waited, busy=2, wall=(20.0, 22.0, 30.0)),
        single,
        replace(single, threads=2, wall=(25.0,)),
        peer,
    ]


def test_rows_come_back_and_the_last_counts(load: Any, tmp_path: Path) -> None:
    rows, file, made = load("benchmarks.whole_command.rows"), tmp_path / "whole_command.jsonl", rows_of(load)
    rows.append(file, made)
    rows.append(file, [replace(made[0], commit="new")])
    found = list(rows.read(file).values())
    assert set(map(repr, found)) == {repr(replace(made[0], commit="new")), *map(repr, made[1:])}
    rows.compact(file)
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(made)
    assert {json.loads(line)["kind"] for line in lines} == set(rows.KINDS)
    assert set(map(repr, rows.read(file).values())) == set(map(repr, found))


def test_passes_are_medians_over_medians(load: Any) -> None:
    before = rows_of(load)[0]
    assert before.forward == 2.0
    assert before.passes == 42.5
    assert before.passes_by_phase == {"calibration": 10.5, "curves": 27.5}
    assert before.passes_outside == 4.5
    assert before.above == 600_000_000


def test_the_page_has_forward_passes_before_and_after(load: Any) -> None:
    text = load("benchmarks.whole_command.page").page(rows_of(load))
    assert "| ResNet-56, CIFAR-10 | 1,024 | 2.00 | 42.5 | 20.0 | 100 + 600 MB |" in text
    assert "| ResNet-56, CIFAR-10 | before (abc) | 85.0 | 42.5 | 10.5 | 27.5 | 4.5 | 600 |" in text
    assert "| ResNet-56, CIFAR-10 | after (def) | 40.0 | 20.0 | 15.0 | – | 5.0 | 600 |" in text
    assert "Torch-Pruning 1: Taylor, one pass of gradients | 12.0 | 6.0 | 3.0 | 1.0 | 2.0 | 800 | 20.0 |" in text
    assert "| after (def) | 2 | 22.0 (20.0..30.0) | 2.00 |" in text
    assert "| ResNet-56, CIFAR-10 | after (def) | 2 | 0 | 25.0 | 40.0 | 1.60 |" in text
    assert "BLAS as it likes" not in text
    assert "| ResNet-50 shape, 224 x 224 | 64 | 2.00 | – | 20.0 | 100 + 600 MB |" in text


def test_the_benchmark_says_what_it_knows() -> None:
    command = [sys.executable, "-m", "benchmarks.whole_command", "--shared", ".", "--cache", ".", "--only", "resnet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "resnet: the networks are ocr, ocr_detector, resnet20" in done.stderr
