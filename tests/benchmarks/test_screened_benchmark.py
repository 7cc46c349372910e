"""The benchmark of exactness finds differences, and knows the exact number."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest

from onnxpfp.calibrate.statistics import OpStatistics
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.ops import LinearOp, Window

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks, or of the tests of calibration."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "calibrate"))
    return importlib.import_module


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(nets.chain(), tmp_path / "chain.onnx")
    return tmp_path / "chain.onnx"


def test_a_graph_is_measured_by_both_methods(load: Any, file: Path) -> None:
    zoo = load("benchmarks.coverage.screened_zoo")
    row = zoo.measure(file, 3)
    assert (row.file, row.ops, row.channels, row.refused) == ("chain.onnx", 2, 18, "")
    assert row.difference <= zoo.ALLOWED
    assert not row.others
    assert min(found.plain_seconds for found in row.found) > 0
    text = zoo.report([row, zoo.Row("broken.onnx", refused="why")], 3)
    assert "1 graphs, 2 linear ops, 18 channels" in text
    assert "0 graphs are above 1e-06." in text
    assert "- broken.onnx: why" in text


def test_differences_are_seen(load: Any) -> None:
    zoo = load("benchmarks.coverage.screened_zoo")
    np.testing.assert_allclose(zoo.relative(np.array([0.5, 0, 0]), np.array([0.25, 0, 0.1])), [0.5, 0, 1])
    empty = OpStatistics.empty(np.arange(1, 3), 2, 1)
    other = replace(empty, square_sum=np.ones(2), patches=3, sensitivity=np.ones(2))
    assert zoo.other_differences(empty, empty) == []
    assert zoo.other_differences(other, empty) == ["patches", "square_sum"]


@pytest.mark.parametrize("kernel", ["sum", "max"])
def test_the_judge_is_exact(load: Any, kernel: Any) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 2, 3, 3)).astype(np.float32)
    window = Window(strides=(2, 1), pads=(1, 0, 0, 1))
    op = LinearOp("r", "conv", "x", (1, 4, 6, 5), 1, np.array([1, 2, 1, 0]), weight, (1, 4, 3, 4), 2, window)
    model = nets.build("g (float[N,4,6,5] x) => (float[N,4,6,5] y) { y = Relu(x) }", {})
    data = rng.standard_normal((3, 4, 6, 5)).astype(np.float32)
    judged = load("benchmarks.coverage.screened_float64").judge(
        model, op, 1, load_samples(data, input_specs(model)), kernel
    )
    brute_shares = load("support.brute_shares")
    u = np.stack([brute_shares.unfold_conv(sample, (3, 3), window) for sample in data])
    taps = weight.reshape(2, 2, 2, 9).transpose(0, 2, 1, 3).reshape(4, 2, 9)
    assert judged.exact == pytest.approx(brute_shares.scores(u, taps, op, kernel)[1], rel=1e-12)
    assert judged.error(judged.screened) < 1e-6
    assert judged.error(judged.plain) < 1e-6
    assert judged.error(judged.exact * 1.5) == pytest.approx(0.5)
