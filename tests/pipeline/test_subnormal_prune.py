"""Subnormal weights before, in and after a pruning: what a user sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import onnxpfp
from onnxpfp.model.constants import stored_tensors
from onnxpfp.model.subnormal import is_subnormal

TEXT = """g (float[N,3,8,8] x) => (float[N,5] y) {
    c = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu(c)
    d = Conv <pads = [1,1,1,1]> (r, w2, b2) s = Relu(d)
    p = GlobalAveragePool(s) f = Flatten(p) y = Gemm <transB = 1> (f, w3, b3) }"""
SHAPES = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (12, 16, 3, 3), "b2": (12,), "w3": (5, 12), "b3": (5,)}
DECAYED = (3, 7)
DATA = nets.noise(64, 3, 8, 8)


def decayed(dtype: Any = np.float32, **more: Any) -> ModelProto:
    """A network two of whose first filters have decayed to nothing, and so has what reads them."""
    rng = np.random.default_rng(5)
    weights = {name: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) for name, shape in SHAPES.items()}
    for channel in DECAYED:
        weights["w1"][channel] *= 1e-38
        weights["b1"][channel] = 1e-40
        weights["w2"][:, channel] *= 1e-38
    weights["w3"][0, :4] *= 1e-39
    weights["b2"] = np.abs(weights["b2"]) + 0.5
    return nets.build(TEXT, weights | more, dtype=dtype)


def subnormal(model: ModelProto) -> int:
    """Count the subnormal numbers of a file."""
    arrays = [numpy_helper.to_array(tensor) for tensor in stored_tensors(model.graph).values()]
    return sum(int(is_subnormal(array).sum()) for array in arrays if array.dtype.kind == "f")


@pytest.mark.parametrize("data", [None, DATA], ids=["no data", "data"])
def test_decayed_filters_go_first_and_nothing_subnormal_is_left(data: Any) -> None:
    model = decayed()
    found = subnormal(model)
    result = onnxpfp.prune(model, calibration=data, keep_params=0.98)
    report = result.report
    assert report.subnormal.weights == found - len(DECAYED) > 200
    assert report.subnormal.tensors == 3
    assert report.subnormal.zeroed > 100
    assert sum(len(one.channels) for one in report.removed) == len(DECAYED)
    assert {one.kind for one in report.removed} <= {"negligible", "dead"}
    assert subnormal(result.model) == 0
    kept = set(range(16)) - set(result.plan.initializers["w1"].keep[0])
    assert set(DECAYED) <= kept
    assert report.to_dict()["subnormal"] == {
        "weights": report.subnormal.weights,
        "tensors": 3,
        "zeroed": report.subnormal.zeroed,
    }


def test_where_only_they_go_no_bit_of_the_output_moves() -> None:
    model = decayed()
    # What goes for free is enough for the target.
    result = onnxpfp.prune(model, calibration=DATA, keep_macs=0.93, compensate="none")
    assert {group.kept for group in result.report.groups} == {14, 12}
    one, two = nets.run(model, DATA), nets.run(result.model, DATA)
    np.testing.assert_array_equal(one, two)
    assert result.report.drift is not None
    # With the optimisations of onnxruntime, kernels add up in other orders at other widths.
    assert result.report.drift.relative_error is not None
    assert result.report.drift.relative_error < 1e-6


@pytest.mark.parametrize("data", [None, DATA], ids=["no data", "data"])
def test_keeping_everything_gives_the_same_bytes_back(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(decayed(), path)
    result = onnxpfp.prune(path, calibration=data, keep_macs=1.0)
    assert result.unchanged == path.read_bytes()
    assert result.report.subnormal.weights > 200
    assert result.report.subnormal.zeroed == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("how", [{"compensate": "lstsq"}, {"compensate": "bias"}, {"select": "sampled"}], ids=str)
def test_what_is_written_anew_is_never_subnormal(dtype: Any, how: dict[str, Any]) -> None:
    rng = np.random.default_rng(6)
    # In half precision a part of any weights is subnormal once they are multiplied or fitted.
    small = 0.002 if dtype == np.float16 else 1.0
    weights = {name: small * rng.standard_normal(shape) for name, shape in SHAPES.items() if name != "w1"}
    weights["w1"] = rng.standard_normal(SHAPES["w1"])
    model = nets.build(TEXT.replace("float[", "float16[") if dtype == np.float16 else TEXT, weights, dtype=dtype)
    given = {name: nets.weights(model)[name] for name in ("w2", "w3")}
    result = onnxpfp.prune(model, calibration=DATA.astype(dtype), keep_macs=0.6, **how)
    after = nets.weights(result.model)
    for name, before in given.items():
        new = after[name][is_subnormal(after[name])]
        # Those that are as they were stay.
        assert np.isin(new, before).all()


def test_a_refit_that_leads_to_nothing_writes_zeros() -> None:
    """Everything behind the first filters is so small that a fit of it can only be subnormal."""
    model = decayed(w2=nets.noise(12, 16, 3, 3) * 1e-36, b2=nets.noise(12) * 1e-36)
    result = onnxpfp.prune(model, calibration=DATA, keep_macs=0.6, compensate="lstsq", allocate="uniform")
    assert subnormal(result.model) == 0


def test_a_replayed_plan_writes_the_same() -> None:
    model = decayed()
    result = onnxpfp.prune(model, calibration=DATA, keep_macs=0.7, compensate="none")
    again = onnxpfp.prune(model, calibration=DATA, compensate="none", from_plan=result.plan)
    assert subnormal(again.model) == 0
    assert result.report.subnormal == again.report.subnormal


def test_inspection_counts_them() -> None:
    found = onnxpfp.inspect(decayed(), no_latency=True).subnormal
    assert found.tensors == 3
    assert found.weights == subnormal(decayed()) - len(DECAYED)
    none = onnxpfp.inspect(nets.chain())
    assert none.subnormal.weights == 0
    assert none.to_dict()["subnormal"] == {"weights": 0, "tensors": 0, "zeroed": None, "latency": None}


def normalized(tail: str = "y = Gemm <transB = 1> (f, w3, b3)", **more: Any) -> ModelProto:
    """The same, whose second filters are normalized by the graph, a part of them subnormal."""
    text = TEXT.replace("d = Conv", "n2 = ReduceL2 <axes = [1,2,3]> (v2) w2 = Div(v2, n2) d = Conv")
    small = np.where(np.random.default_rng(1).random((12, 16, 3, 3)) < 0.2, 1e-39, 1.0)
    weights = {name: array for name, array in nets.weights(decayed()).items() if name != "w2"}
    weights["v2"] = nets.noise(12, 16, 3, 3) * small
    return nets.build(text.replace("y = Gemm <transB = 1> (f, w3, b3)", tail), weights | more)


def test_weights_that_the_graph_computes_have_zeros_where_they_are_stored() -> None:
    result = onnxpfp.prune(normalized(), calibration=DATA, keep_macs=0.7, compensate="none")
    assert "ReduceL2" not in {node.op_type for node in result.model.graph.node}
    assert subnormal(result.model) == 0
    # What the file does not store itself is not counted.
    assert result.report.subnormal.tensors == 2


def test_weights_that_the_graph_computes_are_computed_again_where_nothing_goes_from_them() -> None:
    model = normalized("h = Gemm <transB = 1> (f, w3, b3) k = Relu(h) y = MatMul(k, w4)", w4=nets.noise(5, 5))
    result = onnxpfp.prune(model, calibration=DATA, keep_params=0.999, compensate="none", exclude=["w1", "w2"])
    assert {group.name for group in result.report.groups if group.kept < group.channels} == {"w3"}
    assert "ReduceL2" in {node.op_type for node in result.model.graph.node}
    np.testing.assert_array_equal(nets.weights(result.model)["v2"], nets.weights(model)["v2"])
