"""Targets of latency with ranks, on a made-up device whose latencies are known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from rich.console import Console
from support import made_up_latencies as device
from support.stacks import conv_stack

import onnxpfp
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.pipeline.latency import correction, pairs, target
from onnxpfp.pipeline.latency.op_latencies import MeasuredWidths
from onnxpfp.pipeline.latency.table import LatencyTable
from onnxpfp.report.page import ReportView
from onnxpfp.report.text import as_text

FEED = {"x": nets.noise(1, 3, 8, 8)}
DATA = {"x": nets.noise(96, 3, 8, 8)}
FEW = ("w2", "w3")
"""Weights with few directions that matter."""


def network() -> ModelProto:
    model = conv_stack(3)
    rng = np.random.default_rng(2)
    for tensor in model.graph.initializer:
        if tensor.name in FEW:
            shape = tuple(tensor.dims)
            few = rng.standard_normal((shape[0], 5)) @ rng.standard_normal((5, math.prod(shape[1:])))
            near = few / math.sqrt(few.shape[1]) + 0.002 * rng.standard_normal(few.shape)
            tensor.CopyFrom(numpy_helper.from_array(near.reshape(shape).astype(np.float32), tensor.name))
    return model


@pytest.fixture
def prune(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Prune on the made-up device in the place of this machine; runs may take another share than it says."""

    def measured(_: Any, kept: Any, model: ModelProto) -> MeasuredWidths:
        return MeasuredWidths(kept, device.latency(model, FEED), device.op_latencies(model, FEED))

    def trial(context: Any, _: float) -> SimpleNamespace:
        return SimpleNamespace(context=context, measure_model=lambda kept, model: measured(None, kept, model))

    def run(runs: Callable[[float], float] = lambda share: share, **options: Any) -> Any:
        folder = tmp_path_factory.mktemp("device")
        excluded = options.get("exclude", ())
        onnxpfp.latency(network(), models=folder / "points", exclude=excluded).table.save(folder / "table.json")
        device.fill_in(folder / "table.json", folder / "points", FEED, ops=True)
        table, whole = LatencyTable.read(folder / "table.json"), device.latency(network(), FEED)
        monkeypatch.setattr(target, "measure_table", lambda _: table)
        monkeypatch.setattr(pairs.TimedNetwork, "of", trial)
        monkeypatch.setattr(correction, "_measured_share", lambda _, model: runs(device.latency(model, FEED) / whole))
        common = {"structure": "channels,rank", "keep_latency": 0.5, "round_to": 1}
        return onnxpfp.prune(network(), calibration=DATA, threads=1, no_latency=True, **{**common, **options})

    return run


def test_what_pairs_take_is_foreseen(prune: Callable[..., Any]) -> None:
    result = prune()
    assert {each.name for each in result.report.ranked} >= {"node_c"}
    aim = result.report.latency_target
    (only,) = aim.tries
    assert only.share == 0.5
    assert only.foreseen == pytest.approx(only.measured, rel=1e-3)
    assert 0.47 < only.measured <= 0.5 * (1 + 1e-3)
    assert device.latency(result.model, FEED) / device.latency(network(), FEED) == pytest.approx(only.measured)
    assert result.report.oracle.error <= result.report.oracle.tolerance
    assert result.report.refits


@pytest.mark.parametrize("share", [0.8, 0.6, 0.4])
def test_no_pair_takes_more_than_its_layer(prune: Callable[..., Any], share: float) -> None:
    model = prune(keep_latency=share).model
    times = device.op_latencies(model, FEED)
    shapes = {name: array.shape for name, array in {**nets.values(model, FEED), **FEED, **nets.weights(model)}.items()}
    firsts = [node for node in model.graph.node if node.name.endswith("/low_rank_first")]
    assert firsts
    for first in firsts:
        second = next(node for node in model.graph.node if node.input[:1] == first.output[:1])
        op, ends = second.op_type, (shapes[first.input[0]], shapes[second.output[0]])
        taps = 9 if op == "Conv" else 1
        macs = math.prod(ends[1]) * ends[0][1] * taps
        whole = (
            device.CALL
            + device.ELEMENT.get(op, 0.0) * sum(math.prod(end) for end in ends)
            + device.MAC.get(op, 0.0) * macs
        )
        assert times[first.name] + times[second.name] < whole


def test_no_rank_is_taken_where_a_second_call_takes_longer_than_it_saves(
    prune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The largest layer takes 0.45 ms for what it does.
    monkeypatch.setattr(device, "CALL", 0.5)
    report = prune(keep_latency=0.95).report
    assert report.ranked == ()
    assert any(group.kept < group.channels for group in report.groups)


def test_ranks_bring_what_channels_alone_do_not(prune: Callable[..., Any]) -> None:
    drifts = [prune(structure=how).report.drift.relative_error for how in ("channels,rank", "channels")]
    assert drifts[0] < 0.8 * drifts[1]


def test_by_default_everything_may_go_for_a_latency(prune: Callable[..., Any]) -> None:
    result, asked = (prune(structure=how, no_metadata=True) for how in ("auto", "channels,rank,blocks"))
    assert result.report.structure == "channels,rank,blocks"
    assert result.model == asked.model


@pytest.mark.parametrize(("gain", "ranked"), [(1.0, True), (100.0, False)])
def test_what_drifts_less_is_taken_with_ranks_or_without(
    prune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, gain: float, ranked: bool
) -> None:
    drift = Evaluator.drift

    def worse_with_ranks(self: Evaluator, model: ModelProto, *more: Any) -> Any:
        found = drift(self, model, *more)
        some = any(node.name.endswith("/low_rank_first") for node in model.graph.node)
        return replace(found, relative_error=found.relative_error * (gain if some else 1.0))

    monkeypatch.setattr(Evaluator, "drift", worse_with_ranks)
    report = prune().report
    target = report.latency_target
    assert bool(report.ranked) == ranked
    assert (target.drift_with_ranks < target.drift_without) == ranked
    text = as_text(report, ReportView(Console(width=400), None, full=True))
    assert "relative output error" in text
    assert f"{'without' if ranked else 'with'} ranks at the same latency" in " ".join(text.split())


def test_a_correction_asks_for_less_of_both(prune: Callable[..., Any]) -> None:
    result = prune(runs=lambda share: share**0.8)
    *others, taken = result.report.latency_target.tries
    assert taken.share < others[0].share
    assert result.report.ranked
    assert taken.measured <= 0.5 * (1 + correction.WITHIN)
    written = device.latency(result.model, FEED) / device.latency(network(), FEED)
    assert written**0.8 == pytest.approx(taken.measured)


def test_a_plan_is_replayed(prune: Callable[..., Any]) -> None:
    result = prune()
    assert result.plan.ranks
    replayed = onnxpfp.prune(network(), calibration=DATA, from_plan=result.plan, threads=1, no_latency=True)
    np.testing.assert_array_equal(nets.run(replayed.model, DATA["x"]), nets.run(result.model, DATA["x"]))


def test_widths_keep_to_the_steps_that_are_taken(prune: Callable[..., Any]) -> None:
    report = prune(round_to=8).report
    assert report.ranked
    assert all(each.rank % 8 == 0 for each in report.ranked)


def test_what_is_excluded_is_neither_measured_nor_factored(prune: Callable[..., Any]) -> None:
    report = prune(keep_latency=0.8, exclude=("node_c",)).report
    assert "node_c" not in {each.name for each in report.ranked}


def test_more_effort_tries_no_other_shares(prune: Callable[..., Any]) -> None:
    """Of two files only one would have been measured."""
    assert prune(effort="normal").report.rank_weight == 1.0


def test_a_layer_whose_pair_the_profile_does_not_know_stays_whole(
    prune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    op_latencies = device.op_latencies

    def without(model: ModelProto, feed: Any) -> dict[str, float]:
        return {name: ms for name, ms in op_latencies(model, feed).items() if name != "node_c/low_rank_second"}

    # What the whole network takes is known nevertheless.
    monkeypatch.setattr(device, "latency", lambda model, feed: math.fsum(op_latencies(model, feed).values()))
    monkeypatch.setattr(device, "op_latencies", without)
    report = prune().report
    assert "node_c" not in {each.name for each in report.ranked}
