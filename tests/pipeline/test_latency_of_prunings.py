"""Which files are timed after a pruning, on what, and when none is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nets
import onnx
import pytest
from onnx import ModelProto
from support.graphs import build

import onnxpfp
from onnxpfp.comparison.latency import LatencyFindings, LatencyTrial
from onnxpfp.model import load as load_module
from onnxpfp.pipeline.latency import interleaved as module
from onnxpfp.runtime.draw_keys import KEYS

DATA = {"x": nets.noise(32, 3, 8, 8)}


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[tuple[LatencyTrial, float]]:
    """What would be timed, and in how many seconds."""
    seen: list[tuple[LatencyTrial, float]] = []

    def note(trial: LatencyTrial, seconds: float) -> LatencyFindings:
        seen.append((trial, seconds))
        return LatencyFindings(note="as slow as before")

    monkeypatch.setattr(module, "measure_latency", note)
    return seen


def _prune(model: ModelProto | Path, **options: Any) -> onnxpfp.Result:
    plain = {"round_to": 1, "threads": 1, "no_metadata": True}
    return onnxpfp.prune(model, **{"calibration": DATA, "keep_macs": 0.6, **plain} | options)


def test_the_given_and_the_written_model_are_timed_on_one_sample(trials: list[tuple[LatencyTrial, float]]) -> None:
    model = nets.chain()
    result = _prune(model)
    ((trial, seconds),) = trials
    assert trial.original is model
    assert trial.pruned.SerializeToString() == result.model.SerializeToString()
    assert {name: array.shape for name, array in trial.feed.items()} == {"x": (1, 3, 8, 8)}
    assert trial.kept_macs == result.report.after.macs / result.report.before.macs
    assert (trial.threads, [request.name for request in trial.requests]) == (1, ["CPUExecutionProvider"])
    assert seconds >= 3.0
    assert "as slow as before" in result.report.notes


def test_a_fixed_batch_is_timed_whole(trials: list[tuple[LatencyTrial, float]]) -> None:
    model = nets.build(nets.CHAIN.replace("[N,", "[4,"), nets.CHAIN_SHAPES)
    _prune(model)
    assert trials[0][0].feed["x"].shape == (4, 3, 8, 8)


def test_random_draws_are_those_of_the_file(trials: list[tuple[LatencyTrial, float]]) -> None:
    text = nets.CHAIN.replace("r = Relu(a)", "n = RandomNormalLike(a) r = Mul(a, n)")
    result = _prune(nets.build(text, nets.CHAIN_SHAPES))
    for model in (trials[0][0].original, trials[0][0].pruned):
        assert KEYS not in {info.name for info in model.graph.input}
        assert "RandomNormalLike" in {node.op_type for node in model.graph.node}
        assert not model.metadata_props
    assert result.report.latency is not None


def test_what_onnxruntime_lacks_is_left_out_of_both(trials: list[tuple[LatencyTrial, float]]) -> None:
    weights = "float[12,3,3,3] w1, float[10,12,1,1] w2"
    model = build(
        f"agraph (float[N,3,8,8] x) => (float y) <{weights}> {{ a = Conv(x, w1) c = Conv(a, w2) y = Relu(c) }}"
    )
    model.graph.node[-1].op_type = "Unheard"
    _prune(model)
    for timed in (trials[0][0].original, trials[0][0].pruned):
        assert [node.op_type for node in timed.graph.node] == ["Conv", "Conv"]


def test_nothing_is_timed_where_nothing_went(trials: list[tuple[LatencyTrial, float]]) -> None:
    report = _prune(nets.chain(), keep_macs=1.0).report
    assert trials == []
    assert report.latency == LatencyFindings(unmeasured="nothing was removed")
    assert "latency" not in report.seconds


def test_nothing_is_timed_where_nobody_wants_it(trials: list[tuple[LatencyTrial, float]]) -> None:
    report = _prune(nets.chain(), no_latency=True).report
    assert trials == []
    assert report.latency is None
    assert report.to_dict()["latency"] is None


def test_weights_in_files_are_left_to_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: list[tuple[LatencyTrial, float]]
) -> None:
    monkeypatch.setattr(load_module, "IN_MEMORY", 0)
    monkeypatch.setattr(load_module, "PART_FROM", 1)
    path = tmp_path / "in.onnx"
    onnx.save(nets.chain(), path, save_as_external_data=True, location="in.data", size_threshold=0)
    report = _prune(path).report
    assert trials == []
    assert report.latency is not None
    assert re.search(r"onnxpfp verify IN OUT measures the written files$", report.latency.unmeasured)
