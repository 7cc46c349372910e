"""Widths are multiples of what was asked for, or of what suits the kernels that run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxpfp
from onnxpfp.options import Options
from onnxpfp.pipeline import alignment as module
from onnxpfp.pipeline.alignment import alignment_for, type_of_weights
from onnxpfp.pipeline.context import open_run
from onnxpfp.pipeline.selector import selector_of
from onnxpfp.pipeline.steps import measure
from onnxpfp.runtime.blocks import Alignment

WIDE: dict[str, Any] = {"w1": (70, 3, 3, 3), "b1": (70,), "w2": (40, 70, 3, 3), "w3": (5, 40), "b3": (5,)}
PLAIN: dict[str, Any] = {"allocate": "uniform", "compensate": "none", "threads": 1, "no_latency": True}


def wide() -> ModelProto:
    return nets.build(nets.CHAIN, WIDE)


def kept(**options: Any) -> list[int]:
    result = onnxpfp.prune(wide(), calibration=nets.noise(8, 3, 8, 8), keep_macs=0.6, **PLAIN, **options)
    return [group.kept for group in result.report.groups]


def test_by_itself_widths_follow_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cpu_features", lambda: frozenset({"X86_V4"}))
    first, second = kept()
    assert (first % 16, second % 8) == (0, 0)
    assert (first, second) == tuple(kept(round_to="auto"))
    monkeypatch.setattr(module, "cpu_features", lambda: frozenset({"AVX2"}))
    report = onnxpfp.prune(wide(), calibration=nets.noise(8, 3, 8, 8), keep_macs=0.6, **PLAIN).report
    assert report.alignment == Alignment(
        8, "AVX2 kernels of onnxruntime's CPU provider compute 8 float channels at once"
    )
    assert [group.kept for group in report.groups] == kept(round_to=8)


def test_a_number_that_was_given_holds_in_all_groups_as_wide() -> None:
    first, second = kept(round_to=20)
    assert (first % 20, second % 20) == (0, 0)
    assert all(width < size for width, size in zip((first, second), (70, 40), strict=True))


@pytest.mark.parametrize(
    ("round_to", "reason", "source"), [(5, "as asked for", "asked"), ("auto", "AVX2 kernels", "known")]
)
def test_the_report_has_it(monkeypatch: pytest.MonkeyPatch, round_to: Any, reason: str, *, source: str) -> None:
    monkeypatch.setattr(module, "cpu_features", lambda: frozenset({"AVX2"}))
    document = onnxpfp.prune(wide(), keep_macs=0.6, round_to=round_to, **PLAIN).report.to_dict()["alignment"]
    assert document["step"] == (5 if source == "asked" else 8)
    assert document["reason"].startswith(reason)
    assert document["source"] == source


def test_where_no_width_is_chosen_there_is_none() -> None:
    first = onnxpfp.prune(wide(), keep_macs=0.6, **PLAIN)
    assert first.report.alignment is not None
    assert onnxpfp.prune(wide(), from_plan=first.plan, **PLAIN).report.alignment is None
    assert onnxpfp.prune(wide(), keep_macs=1.0, **PLAIN).report.alignment is None


def test_another_alignment_takes_nothing_but_its_place_in_the_context() -> None:
    context = open_run(wide(), None, Options(), ())
    measured = measure(context, context.whole, {})
    other = replace(context, alignment=Alignment(12, "measured"))
    assert selector_of(other, measured).allowed(0) == (70, 12, 1)
    assert selector_of(other, measured).allowed(1) == (40, 1, 1)


def test_the_provider_that_is_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cpu_features", lambda: frozenset({"X86_V4"}))
    whole = open_run(wide(), None, Options(), ()).whole
    on_both = ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert alignment_for(Options(), on_both, whole).step == 8
    assert alignment_for(Options(), on_both[1:], whole).step == 16


def test_the_type_of_most_weights_counts() -> None:
    model = wide()
    assert type_of_weights(model) == TensorProto.FLOAT
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(WIDE["w2"], np.float16), "w2"))
    assert type_of_weights(model) == TensorProto.FLOAT16
    bare = nets.build("g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }", {})
    assert type_of_weights(bare) == TensorProto.FLOAT


def test_weights_in_bodies_count() -> None:
    body = helper.make_graph([], "b", [], [], [numpy_helper.from_array(np.zeros((4, 4), np.int8), "w")])
    model = nets.build("g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }", {})
    model.graph.node.append(helper.make_node("If", ["x"], [], then_branch=body, else_branch=body))
    assert type_of_weights(model) == TensorProto.INT8
