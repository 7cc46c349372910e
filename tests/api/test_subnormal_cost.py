"""What `onnxpfp.inspect` says that subnormal weights cost: which files are timed, how, and when none is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import onnxpfp
from onnxpfp import errors
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.model import load as load_module
from onnxpfp.model.constants import all_graphs
from onnxpfp.model.subnormal import is_subnormal
from onnxpfp.pipeline import made_up_run, reading
from onnxpfp.pipeline.latency import subnormal as module
from onnxpfp.pipeline.runnable_shapes import runnable_shapes

TEXT = """g (float[N,3,8,8] x) => (float[N,5] y) {
    c = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu(c)
    p = GlobalAveragePool(r) f = Flatten(p) y = Gemm <transB = 1> (f, w2, b2) }"""
DECAYED = 40
"""Subnormal weights in filters that have others."""


def decayed(text: str = TEXT, **more: Any) -> ModelProto:
    """A network some of whose first weights have decayed to nothing."""
    rng = np.random.default_rng(3)
    weights = {"w1": rng.standard_normal((6, 3, 3, 3)), "w2": rng.standard_normal((5, 6))}
    weights["w1"].ravel()[: 2 * DECAYED : 2] = 1e-40
    shapes: Mapping[str, Any] = {"b1": (6,), "b2": (5,)}
    return nets.build(text, shapes | weights | more)


def stored(model: ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    """All weights of a file by name, those of bodies too."""
    return {
        tensor.name: numpy_helper.to_array(tensor) for graph in all_graphs(model) for tensor in graph.initializer
    } | {name: array for name, array in nets.weights(model).items() if array.dtype.kind == "f"}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be timed: both models, feed, providers, threads and seconds."""
    seen: list[tuple[Any, ...]] = []

    def note(*arguments: Any) -> LatencyFindings:
        seen.append(arguments)
        return LatencyFindings(unmeasured="a test")

    monkeypatch.setattr(module, "measure_pair", note)
    return seen


def test_the_file_is_timed_beside_itself_with_zeros(timed: list[tuple[Any, ...]]) -> None:
    model = decayed()
    found = onnxpfp.inspect(model, threads=2).subnormal
    (((one, two), feed, requests, threads, seconds),) = timed
    assert (found.weights, found.tensors, found.zeroed) == (DECAYED, 1, DECAYED)
    assert one.graph == model.graph
    before, after = stored(one), stored(two)
    np.testing.assert_array_equal(after["w1"], np.where(is_subnormal(before["w1"]), 0, before["w1"]))
    assert all((before[name] == after[name]).all() for name in before.keys() - {"w1"})
    assert list(one.graph.node) == list(two.graph.node)
    assert {name: array.shape for name, array in feed.items()} == {"x": (1, 3, 8, 8)}
    assert ([request.name for request in requests], threads) == (["CPUExecutionProvider"], 2)
    assert seconds >= 3.0


def test_what_the_graph_computes_is_computed_where_nothing_became_zero(timed: list[tuple[Any, ...]]) -> None:
    text = TEXT.replace("c = Conv", "n = ReduceL2 <axes = [1]> (v) w2 = Div(v, n) c = Conv")
    weights = nets.weights(decayed())
    model = nets.build(text, {name: array for name, array in weights.items() if name != "w2"} | {"v": weights["w2"]})
    onnxpfp.inspect(model)
    for given in timed[0][0]:
        assert "ReduceL2" in {node.op_type for node in given.graph.node}


def test_weights_in_a_body_become_zero_there(timed: list[tuple[Any, ...]]) -> None:
    text = TEXT.replace("x) =>", "x, bool t) =>").replace(
        "y = Gemm <transB = 1> (f, w2, b2)",
        "y = If (t) <then_branch = a () => (float[N,5] u) { u = Gemm <transB = 1> (f, w2, b2) }, "
        "else_branch = b () => (float[N,5] v) { v = Gemm <transB = 1> (f, w4, b2) }>",
    )
    weights = nets.noise(5, 6)
    weights[:, 2] = 1e-40
    found = onnxpfp.inspect(decayed(text, w2=weights, w4=nets.noise(5, 6))).subnormal
    before, after = map(stored, timed[0][0])
    assert (found.weights, found.zeroed) == (DECAYED + 5, DECAYED + 5)
    (inside,) = [name for name, array in before.items() if array.shape == (5, 6) and is_subnormal(array).any()]
    np.testing.assert_array_equal(after[inside][:, 2], 0)


def test_nothing_is_run_where_nobody_wants_it_or_nothing_is_subnormal(timed: list[tuple[Any, ...]]) -> None:
    found = onnxpfp.inspect(decayed(), no_latency=True).subnormal
    assert (found.weights, found.zeroed, found.latency) == (DECAYED, None, None)
    assert onnxpfp.inspect(nets.chain()).subnormal.latency is None
    assert timed == []


def test_what_results_can_tell_is_not_timed(timed: list[tuple[Any, ...]]) -> None:
    text = TEXT.replace(", b1", "").replace(", b2", "")
    weights = {"w1": np.full((6, 3, 3, 3), 1e-40), "w2": nets.noise(5, 6)}
    found = onnxpfp.inspect(nets.build(text, weights)).subnormal
    assert (found.weights, found.zeroed, timed) == (162, 0, [])
    assert found.latency == LatencyFindings(unmeasured="on made-up inputs, results can tell each of them")


def test_a_model_that_onnxruntime_does_not_run_is_inspected_all_the_same(timed: list[tuple[Any, ...]]) -> None:
    model = decayed()
    model.ir_version = 99
    found = onnxpfp.inspect(model)
    assert (found.subnormal.weights, found.subnormal.zeroed, timed) == (DECAYED, None, [])
    assert found.subnormal.latency is not None
    assert "onnxruntime cannot load the model" in found.subnormal.latency.unmeasured
    assert [group.name for group in found.groups] == ["w1"]


def test_weights_in_other_files_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: list[tuple[Any, ...]]
) -> None:
    monkeypatch.setattr(load_module, "IN_MEMORY", 0)
    monkeypatch.setattr(load_module, "PART_FROM", 1)
    path = tmp_path / "in.onnx"
    onnx.save(decayed(), path, save_as_external_data=True, location="in.data", size_threshold=0)
    found = onnxpfp.inspect(path).subnormal
    assert (found.weights, timed) == (DECAYED, [])
    assert found.latency == LatencyFindings(unmeasured="weights lie in other files")


def test_flags_of_runs_mean_what_they_mean_elsewhere() -> None:
    with pytest.raises(errors.OptionError, match=r"strict_providers keeps every node from the CPU"):
        onnxpfp.inspect(nets.chain(), strict_providers=True)
    with pytest.raises(errors.ProviderError, match="unknown execution provider 'gpu'"):
        onnxpfp.inspect(nets.chain(), providers="gpu")
    with pytest.raises(errors.OptionError, match="threads 0"):
        onnxpfp.inspect(nets.chain(), threads=0)


def test_it_is_in_the_json_form_and_documented() -> None:
    document = onnxpfp.inspect(decayed(), threads=1).to_dict()["subnormal"]
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["zeroed"] == DECAYED
    latency = document["latency"]
    assert (latency["threads"], latency["unmeasured"], latency["slow_ops"], latency["note"]) == (1, "", [], "")
    assert latency["ratio"]["low"] <= latency["ratio"]["median"] <= latency["ratio"]["high"]
    page = (nets.ROOT / "docs" / "inspect.md").read_text(encoding="utf-8")
    assert set(document) <= set(re.findall(r"`([a-z_]+)`", page.split("## As JSON")[1]))


def test_input_sizes_at_which_it_runs_are_found_once(
    monkeypatch: pytest.MonkeyPatch, timed: list[tuple[Any, ...]]
) -> None:
    searched: list[Any] = []

    def search(*arguments: Any) -> dict[str, tuple[int, ...]]:
        searched.append(runnable_shapes(*arguments))
        return searched[-1]

    for place in (made_up_run, reading):
        monkeypatch.setattr(place, "runnable_shapes", search)
    # An image of 224 pixels a side, the first that is tried, is no multiple of such pieces.
    rows = "s = Constant <value = int64[4] {-1, 3, 25, 32}> () n = Reshape(x, s) c = Conv"
    text = TEXT.replace("float[N,3,8,8] x", "float[N,3,H,W] x").replace("c = Conv", rows)
    model = decayed(text.replace("(x, w1, b1)", "(n, w1, b1)"))
    found = onnxpfp.inspect(model).subnormal
    assert searched == [{"x": (1, 3, 640, 640)}]
    assert {name: array.shape for name, array in timed[0][1].items()} == searched[0]
    assert found.zeroed == DECAYED
