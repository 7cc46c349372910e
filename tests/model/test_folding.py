"""Weights that are computed in the graph are stored, and then pruned like any other."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support.graphs import build
from support.oracle import check_oracle, problem, run

from onnxpfp import prune
from onnxpfp.model.folding import fold_weights

STANDARDISED = """
    axes = Constant<value = int64[3] {1,2,3}>()
    mean = ReduceMean(w, axes)
    centred = Sub(w, mean)
    square = Mul(centred, centred)
    variance = ReduceMean(square, axes)
    spread = Sqrt(variance)
    v = Div(centred, spread)
"""
WEIGHT_NORM = """
    axes = Constant<value = int64[3] {1,2,3}>()
    norm = ReduceL2(w, axes)
    unit = Div(w, norm)
    v = Mul(unit, gain)
"""
MERGED = "v2 = MatMul(left, right)\nshape = Constant<value = int64[4] {8,3,1,1}>()\nv = Reshape(v2, shape)"
WEIGHTS = {"w": "8,3,3,3", "gain": "8,1,1,1", "left": "8,2", "right": "2,3", "w2": "5,8,1,1"}


def network(body: str, extra: str = "") -> ModelProto:
    nodes = f"{body}\nc = Conv(x, v)\n{extra}\ny = Conv(c, w2)"
    weights = ", ".join(f"float[{size}] {name}" for name, size in WEIGHTS.items() if re.search(rf"\b{name}\b", nodes))
    return build(f"g (float[N,3,6,6] x) => (float[N,5,A,B] y) <{weights}> {{{nodes}}}", opset=18)


@pytest.mark.parametrize("body", [STANDARDISED, WEIGHT_NORM, MERGED], ids=["standardised", "norm", "merged"])
def test_a_computed_weight_is_folded_and_pruned(body: str) -> None:
    model = network(body)
    before = model.SerializeToString()
    folded = fold_weights(model)
    assert model.SerializeToString() == before
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Conv"]
    onnx.checker.check_model(folded, full_check=True)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)}
    np.testing.assert_allclose(run(folded, feed)["y"], run(model, feed)["y"], rtol=1e-5, atol=1e-5)
    assert problem(folded).graph.count == 8
    check_oracle(folded, seeds=2)


def test_what_serves_something_else_too_stays() -> None:
    model = network(WEIGHT_NORM, "scaled = Conv(x, w)\nc2 = Add(c, scaled)").graph
    folded = fold_weights(network(WEIGHT_NORM, "scaled = Conv(x, w)"))
    assert {"w", "v"} <= {tensor.name for tensor in folded.graph.initializer}
    assert len(folded.graph.node) < len(model.node)


def test_plain_weights_shape_arithmetic_and_dequantization_are_left_alone() -> None:
    model = build(
        """g (float[N,3] x) => (float[N,5] y) <int8[3,8] q, float[8] s, float[5,8] w> {
            f = DequantizeLinear<axis=1>(q, s)
            a = MatMul(x, f)
            n = Shape(a)
            p = ReduceProd<keepdims=1>(n)
            t = Transpose(w)
            y = MatMul(a, t)
        }"""
    )
    assert fold_weights(model) is model


def test_a_file_whose_initializers_are_inputs_gets_constant_nodes() -> None:
    model = network(MERGED)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, 1, tensor.dims))
    folded = fold_weights(model)
    assert [node.op_type for node in folded.graph.node] == ["Constant", "Conv", "Conv"]
    onnx.checker.check_model(folded)


def test_keeping_everything_gives_the_file_back() -> None:
    model = network(STANDARDISED)
    result = prune(model, keep_macs=1.0)
    assert result.unchanged == model.SerializeToString(deterministic=True)


def test_pruning_through_the_front_door() -> None:
    model = network(STANDARDISED)
    result = prune(model, calibration="random", keep_macs=0.6)
    assert result.report.oracle.error < 1e-5
    left = {tensor.name: tuple(tensor.dims) for tensor in result.model.graph.initializer}
    assert left.keys() == {"v", "w2", "w2_bias"}
    assert left["v"][0] == left["w2"][1] < 8
