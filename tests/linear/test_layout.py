"""The layout of weights, held against what onnxruntime computes with them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from support.graphs import build
from support.oracle import run

from onnxpfp.linear.layout import as_stored, canonical, column, contracted_axis, filters
from onnxpfp.model.attributes import Attributes

Array = NDArray[np.float32]

OPS = {
    "conv": "(float[2,4,6,6] x) => (y) <float[6,4,3,2] w> { y = Conv(x, w) }",
    "grouped": "(float[2,4,6,6] x) => (y) <float[6,2,3,2] w> { y = Conv <group = 2> (x, w) }",
    "depthwise": "(float[2,4,6,6] x) => (y) <float[8,1,3,3] w> { y = Conv <group = 4> (x, w) }",
    "fused": '(float[2,4,6,6] x) => (y) <float[6,4,3,2] w> { y = com.microsoft.FusedConv <activation="Relu">(x, w) }',
    "up": "(float[2,4,6,6] x) => (y) <float[4,3,3,2] w> { y = ConvTranspose(x, w) }",
    "grouped up": "(float[2,4,6,6] x) => (y) <float[4,3,3,2] w> { y = ConvTranspose <group = 2> (x, w) }",
    "product": "(float[2,4] x) => (y) <float[4,6] w> { y = MatMul(x, w) }",
    "gemm": "(float[2,4] x) => (y) <float[4,6] w> { y = Gemm(x, w) }",
    "transB": "(float[2,4] x) => (y) <float[6,4] w> { y = Gemm <transB = 1> (x, w) }",
    "fused transB": "(float[2,4] x) => (y) <float[4,4] w> { y = com.microsoft.FusedMatMul <transB = 1> (x, w) }",
}


def model_and_weight(kind: str) -> tuple[ModelProto, Array]:
    model = build(f"g {OPS[kind]}")
    return model, numpy_helper.to_array(model.graph.initializer[0])


def outputs(model: ModelProto, weight: Array, x: Array) -> Array:
    """Run the op with other weights."""
    other = ModelProto()
    other.CopyFrom(model)
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    return np.asarray(run(other, {"x": x})["y"])


def data_of(model: ModelProto) -> Array:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def without(weight: Array, positions: NDArray[np.int64]) -> Array:
    """Set some numbers of a weight to zero."""
    changed = weight.copy()
    changed.ravel()[positions.ravel()] = 0
    return changed


@pytest.mark.parametrize("kind", OPS)
def test_a_filter_makes_one_output(kind: str) -> None:
    model, weight = model_and_weight(kind)
    x = data_of(model)
    before = outputs(model, weight, x)
    each = filters(np.arange(weight.size).reshape(weight.shape), model.graph.node[0])
    assert len(each) == before.shape[1]
    for output in range(len(each)):
        expected = before.copy()
        expected[:, output] = 0
        np.testing.assert_allclose(outputs(model, without(weight, each[output]), x), expected, atol=1e-6)


@pytest.mark.parametrize("kind", OPS)
def test_a_column_reads_one_input(kind: str) -> None:
    model, weight = model_and_weight(kind)
    node, x = model.graph.node[0], data_of(model)
    convolution = node.op_type.endswith("Conv")
    group = Attributes(node).integer("group", 1)
    positions = np.arange(weight.size).reshape(weight.shape)
    axis = contracted_axis(node)
    taps = canonical(positions if convolution else np.moveaxis(positions, axis, 0), conv=convolution, group=group)
    assert len(taps) == x.shape[1]
    for index in range(len(taps)):
        silenced = x.copy()
        silenced[:, index] = 0
        own = column(positions, axis, index, group if convolution else 1)
        np.testing.assert_allclose(outputs(model, without(weight, own), x), outputs(model, weight, silenced), atol=1e-6)
        assert set(own.ravel()) == set(taps[index].ravel())


@pytest.mark.parametrize("kind", OPS)
def test_taps_go_back_to_the_layout_of_the_op(kind: str) -> None:
    model, weight = model_and_weight(kind)
    node = model.graph.node[0]
    convolution = node.op_type.endswith("Conv")
    axis = contracted_axis(node)
    taps = canonical(
        weight if convolution else np.moveaxis(weight, axis, 0),
        conv=convolution,
        group=Attributes(node).integer("group", 1),
    )
    np.testing.assert_array_equal(as_stored(taps, node), weight)
