"""Columns times weights are the op's own outputs, at any positions."""

from __future__ import annotations

import numpy as np
import pytest
from nets import noise, values
from onnx import ModelProto
from support.graphs import build

from onnxpfp.linear.columns import columns, draw_positions, outputs_at

CONVOLUTIONS = {
    "1-d": "(float[N,4,11] x) => (y) <float[6,4,3] w, float[6] b> { y = Conv <ATTR> (x, w, b) }",
    "2-d": "(float[N,4,9,7] x) => (y) <float[6,4,3,2] w, float[6] b> { y = Conv <ATTR> (x, w, b) }",
    "3-d": "(float[N,2,5,6,7] x) => (y) <float[3,2,2,3,2] w, float[3] b> { y = Conv <ATTR> (x, w, b) }",
    "grouped": "(float[N,6,8,8] x) => (y) <float[4,3,3,3] w, float[4] b> { y = Conv <group = 2, ATTR> (x, w, b) }",
    "depthwise": "(float[N,4,8,8] x) => (y) <float[8,1,3,3] w, float[8] b> { y = Conv <group = 4, ATTR> (x, w, b) }",
    "up 1-d": "(float[N,4,5] x) => (y) <float[4,3,4] w, float[3] b> { y = ConvTranspose <ATTR> (x, w, b) }",
    "up 2-d": "(float[N,4,5,6] x) => (y) <float[4,3,3,4] w, float[3] b> { y = ConvTranspose <ATTR> (x, w, b) }",
    "up grouped": "(float[N,4,5,6] x) => (y) <float[4,3,3,3] w, float[6] b> "
    "{ y = ConvTranspose <group = 2, ATTR> (x, w, b) }",
}
WINDOWS = [
    ("1-d", "pads = [2,0], strides = [2], dilations = [2]"),
    ("1-d", 'auto_pad = "SAME_LOWER", strides = [3]'),
    ("2-d", "pads = [0,0,0,0]"),
    ("2-d", "pads = [2,0,1,3], strides = [2,3], dilations = [1,2]"),
    ("2-d", "dilations = [3,2]"),
    ("2-d", 'auto_pad = "SAME_UPPER", strides = [2,2]'),
    ("2-d", 'auto_pad = "SAME_LOWER", strides = [2,1]'),
    ("2-d", 'auto_pad = "VALID"'),
    ("3-d", "pads = [1,0,2,0,1,0], strides = [1,2,3]"),
    ("grouped", "pads = [1,1,1,1], strides = [2,1]"),
    ("depthwise", "pads = [1,1,1,1]"),
    ("up 1-d", "strides = [3], pads = [1,0], output_padding = [2]"),
    ("up 2-d", "strides = [2,3], pads = [1,0,0,2], output_padding = [1,0]"),
    ("up 2-d", "dilations = [2,1], strides = [2,2]"),
    ("up 2-d", "strides = [2,2], output_shape = [10,12]"),
    ("up 2-d", "strides = [2,2], output_shape = [9,11]"),
    ("up 2-d", 'auto_pad = "SAME_UPPER", strides = [2,2]'),
    ("up 2-d", 'auto_pad = "SAME_LOWER", strides = [2,2]'),
    ("up 2-d", 'auto_pad = "SAME_UPPER", strides = [2,2], output_shape = [9,11]'),
    ("up grouped", "strides = [2,1], pads = [1,1,0,0]"),
]
PRODUCTS = {
    "matmul": "(float[N,5] x) => (y) <float[5,3] w> { y = MatMul(x, w) }",
    "matmul of stacks": "(float[N,2,4,5] x) => (y) <float[5,3] w> { y = MatMul(x, w) }",
    "gemm": "(float[N,5] x) => (y) <float[5,3] w, float[3] b> { y = Gemm(x, w, b) }",
    "gemm transB": "(float[N,5] x) => (y) <float[3,5] w, float[3] b> { y = Gemm <transB = 1> (x, w, b) }",
    "gemm transA": "(float[5,7] x) => (y) <float[5,3] w, float[3] b> { y = Gemm <transA = 1> (x, w, b) }",
    "gemm transA, transB": "(float[5,7] x) => (y) <float[3,5] w> { y = Gemm <transA = 1, transB = 1> (x, w) }",
    "gemm scaled": "(float[N,5] x) => (y) <float[5,3] w, float[1] b> { y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b) }",
    "one number": "(float[N,1] x) => (y) <float[1,3] w> { y = MatMul(x, w) }",
}


def check(make_problem, model: ModelProto, shape: tuple[int, ...], per_sample: int) -> None:
    problem, layers, left = make_problem(model)
    assert not left
    layer = layers["y"]
    data = noise(*shape)
    made = values(problem.analysis.model, {"x": data})["y"]
    positions = draw_positions(made.shape, layer.axis, per_sample, np.random.default_rng(0))
    spatial = made.shape[2:] if layer.op.kind != "matmul" else ()
    u = columns(layer.op, data, spatial, positions)
    taps = layer.gain * layer.op.taps().astype(np.float64)
    groups, per_out = layer.op.group, taps.shape[1]
    blocks = taps.reshape(groups, -1, per_out, layer.op.kernel_size).transpose(0, 2, 1, 3).reshape(groups, per_out, -1)
    found = np.einsum("tgn,gon->tgo", u.reshape(len(u), groups, -1), blocks).reshape(len(u), -1) + layer.bias
    np.testing.assert_allclose(found, outputs_at(made, layer.axis, positions), atol=2e-5)
    assert len(found) == positions.size > 0


@pytest.mark.parametrize(("kind", "window"), WINDOWS)
def test_a_convolution_is_its_columns_times_its_weights(make_problem, kind: str, window: str) -> None:
    text = CONVOLUTIONS[kind].replace("ATTR", window)
    model = build(f"g {text}", opset=17)
    size = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    check(make_problem, model, (3, *size), 10)
    check(make_problem, model, (3, *size), 10**6)


@pytest.mark.parametrize("kind", PRODUCTS)
def test_a_product_is_its_columns_times_its_weights(make_problem, kind: str) -> None:
    model = build(f"g {PRODUCTS[kind]}", opset=17)
    size = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    check(make_problem, model, (size[0] or 3, *size[1:]), 3)


def test_positions_are_distinct_ascending_and_as_many_of_every_sample() -> None:
    drawn = draw_positions((4, 3, 5, 6), 1, 7, np.random.default_rng(0))
    assert drawn.shape == (4, 7)
    assert (np.diff(drawn, axis=1) > 0).all()
    assert drawn.min() >= 0
    assert drawn.max() < 30
    assert len({row.tobytes() for row in drawn}) > 1


def test_all_positions_are_taken_where_there_are_few() -> None:
    assert draw_positions((2, 5, 3), 1, 64, np.random.default_rng(0)).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_every_position_is_drawn_as_often_as_any_other() -> None:
    drawn = draw_positions((2000, 1, 10), 1, 3, np.random.default_rng(0))
    counts = np.bincount(drawn.ravel(), minlength=10)
    assert np.abs(counts - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_outputs_at_takes_the_channels_of_any_axis(axis: int) -> None:
    array = noise(4, 3, 5, 6)
    positions = draw_positions(array.shape, axis, 4, np.random.default_rng(0))
    moved = np.moveaxis(array, axis, -1)
    rows = moved.reshape(len(positions), -1, moved.shape[-1])
    wanted = [rows[n, p] for n, row in enumerate(positions) for p in row]
    np.testing.assert_array_equal(outputs_at(array, axis, positions), np.array(wanted))


@pytest.mark.parametrize("shape", [(0, 4), (0, 3, 4), (2, 0, 4)])
def test_no_positions_at_all_give_no_rows(shape: tuple[int, ...]) -> None:
    positions = draw_positions(shape, len(shape) - 1, 8, np.random.default_rng(0))
    assert outputs_at(np.zeros(shape, np.float32), len(shape) - 1, positions).shape == (0, 4)
