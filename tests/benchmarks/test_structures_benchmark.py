"""The benchmark of structures measures what it says, and writes down what it measured."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest

import onnxpfp
from onnxpfp.runtime.session import open_session

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


@pytest.fixture
def made(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Rows of a small network by every structure that it has."""
    file = tmp_path / "network.onnx"
    onnx.save(nets.chain(), file)
    main, subjects = load("benchmarks.structures.__main__"), load("benchmarks.structures.subjects")
    subject = subjects.Subject("small", "a chain", lambda _: file, lambda _: nets.noise(64, 3, 8, 8))
    monkeypatch.setattr(main, "NETWORKS", {"macs": {"small": subject}})
    places = subjects.Places(*[tmp_path] * 4)
    names = ("channels", "channels,rank", "factorize")
    return {name: main.make(main.Job("small", name, 0.6, "macs"), places) for name in names}


def test_rows_have_what_came_out(made: dict[str, Any]) -> None:
    for name, row in made.items():
        assert row.macs <= 0.6
        assert row.oracle < 1e-4
        assert row.drift > 0
        assert row.before is None
        assert bool(row.ranked) == (name == "factorize") or name == "channels,rank"


def test_the_page_shows_every_row(load: Any, made: dict[str, Any], tmp_path: Path) -> None:
    rows, pages = load("benchmarks.structures.rows"), load("benchmarks.structures.page")
    file = tmp_path / "structures.jsonl"
    refused = rows.Row(network="vit_small", structure="channels", target=0.1, refused="too little")
    rows.append(file, [refused, *(rows.Row(**{**vars_of(row), "network": "vit_small"}) for row in made.values())])
    text = pages.page(list(rows.read(file).values()))
    assert "too little" in text
    assert text.count("| `channels") == 3
    assert text.count("| `factorize`") == 1


def test_rows_of_a_latency_are_measured_apart(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for is the latency, and what the table has is the benchmark's own measurement."""
    file = tmp_path / "network.onnx"
    onnx.save(nets.chain(), file)
    main, subjects = load("benchmarks.structures.__main__"), load("benchmarks.structures.subjects")
    turns, pages = load("benchmarks.latency.turns"), load("benchmarks.structures.page")
    subject = subjects.Subject("resnet20", "a chain", lambda _: file, lambda _: nets.noise(64, 3, 8, 8))
    monkeypatch.setattr(main, "NETWORKS", {"latency": {"resnet20": subject}})
    asked: dict[str, Any] = {}

    def prune(source: Path, *, structure: str, keep_latency: float, calibration: Any, threads: int) -> Any:
        asked.update(structure=structure, keep_latency=keep_latency)
        options = {"structure": structure, "effort": "low", "threads": threads}
        return onnxpfp.prune(source, calibration=calibration, keep_macs=0.6, **options)

    monkeypatch.setattr(main, "prune", prune)
    monkeypatch.setattr(main, "beside", lambda *_, threads: turns.Seen((0.4, 0.45, 0.5), 2.0, 0.9, 12))
    row = main.make(main.Job("resnet20", "channels,rank", 0.5, "latency"), subjects.Places(*[tmp_path] * 4))
    assert asked == {"structure": "channels,rank", "keep_latency": 0.5}
    assert (row.quantity, row.latency, row.quartiles) == ("latency", 0.45, (0.4, 0.5))
    text = pages.page([row])
    assert "0.5 of the latency" in text
    assert "| 0.450 (0.400 to 0.500) |" in text


def vars_of(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def test_the_shape_runs_and_has_what_can_be_made_smaller(load: Any) -> None:
    model = load("benchmarks.structures.convnext").convnext()
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    (scores,) = open_session(model).run({"x": images}).values()
    assert scores.shape == (1, 1000)
    assert 0.1 < scores.std() < 10
    assert {node.op_type for node in model.graph.node} >= {"Conv", "LayerNormalization", "MatMul", "Erf"}
