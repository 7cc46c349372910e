"""Which linear ops can be refitted, and how their weights are cut and put back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nets import noise, run, values
from onnx import numpy_helper
from support.graphs import build

from onnxpfp.linear.layout import as_stored
from onnxpfp.refit.layers import kept_weights, with_weights
from onnxpfp.refit.state import RefitState
from onnxpfp.refit.sweep import refit
from onnxpfp.rewrite.apply import apply
from onnxpfp.rewrite.edits import Edits

GOOD = {
    "conv": ("(float[N,3,6,6] x) => (y) <float[4,3,3,3] w, float[4] b> { y = Conv(x, w, b) }", True),
    "conv without bias": ("(float[N,3,6,6] x) => (y) <float[4,3,3,3] w> { y = Conv(x, w) }", True),
    "transposed": ("(float[N,3,6,6] x) => (y) <float[3,4,3,3] w> { y = ConvTranspose(x, w) }", True),
    "gemm": ("(float[N,3] x) => (y) <float[3,4] w, float[4] b> { y = Gemm <alpha = 2.0, beta = 0.5> (x, w, b) }", True),
    "gemm of one bias": ("(float[N,3] x) => (y) <float[3,4] w, float[1] b> { y = Gemm(x, w, b) }", False),
    "gemm of a row": ("(float[N,3] x) => (y) <float[3,4] w, float[1,4] b> { y = Gemm(x, w, b) }", True),
    "product": ("(float[N,5,3] x) => (y) <float[3,4] w> { y = MatMul(x, w) }", False),
    "product and sum": ("(float[N,5,3] x) => (y) <float[3,4] w, float[4] b> { a = MatMul(x, w)  y = Add(b, a) }", True),
    "transposed weights": ("(float[N,3] x) => (y) <float[4,3] w> { t = Transpose(w)  y = MatMul(x, t) }", False),
    "copied weights": ("(float[N,3] x) => (y) <float[3,4] w> { t = Identity(w)  y = Gemm(x, t) }", True),
    "half precision weights": (
        "(float[N,3] x) => (y) <float16[3,4] w> { t = Cast <to = 1> (w)  y = Gemm(x, t) }",
        True,
    ),
    "bfloat16 weights": ("(float[N,3] x) => (y) <bfloat16[3,4] w> { t = Cast <to = 1> (w)  y = Gemm(x, t) }", True),
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_task_knows_its_gain_and_bias_and_whether_that_can_change(make_problem, kind: str) -> None:
    text, biased = GOOD[kind]
    model = build(f"g {text}", opset=17)
    _, layers, left = make_problem(model)
    assert not left
    (layer,) = layers.values()
    assert layer.biased == biased
    # The op on a single position: its taps' sum over a map of ones, where nothing is padded.
    shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    made = values(model, {"x": np.zeros(shape, np.float32)})[layer.output]
    np.testing.assert_allclose(np.moveaxis(made, layer.axis, -1).reshape(-1, layer.rows.size)[0], layer.bias, atol=1e-6)


@pytest.mark.parametrize("kind", GOOD)
def test_new_numbers_arrive_in_the_network(make_problem, kind: str) -> None:
    """What is put into the ledger is what the written network computes with."""
    text, biased = GOOD[kind]
    model = build(f"g {text}", opset=17)
    problem, layers, _ = make_problem(model)
    (layer,) = layers.values()
    refit_state = RefitState(problem, problem.analysis.graph.keep_all(), Edits())
    start = refit_state.start(layer)
    assert start is not None
    weights, bias = 2 * start.weights, start.bias + (3.0 if biased else 0.0)
    refit_state.put(layer, weights, bias)
    assert refit_state.weights[layer.output].dtype == problem.analysis.constants.value(layer.stored).dtype
    changed = apply(model, problem.analysis.graph, problem.analysis.graph.keep_all(), refit_state.all_edits([layer]))
    shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    feed = noise(*shape)
    before = values(model, {"x": feed})[layer.output]
    per_output = np.reshape(layer.bias, [-1 if axis == layer.axis else 1 for axis in range(before.ndim)])
    added = run(model, np.zeros(shape, np.float32)) - per_output
    wanted = 2 * (before - per_output) + per_output + (3.0 if biased else 0.0) + added
    np.testing.assert_allclose(run(changed, feed), wanted, atol=5e-2 if "float16" in text else 1e-5)


SHARED = "(float[N,3] x) => (y) <float[3,3] w> { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, w) }"
BAD = {
    "shared": SHARED,
    "changing bias": "(float[2,3] x, float[4] b) => (y) <float[3,4] w> { y = Gemm(x, w, b) }",
    "stack of matrices": "(float[N,2,5,3] x) => (y) <float[2,3,4] w> { y = MatMul(x, w) }",
    "vector": "(float[3] x) => (y) <float[3,4] w> { y = MatMul(x, w) }",
    "shown": "(float[N,3] x) => (y, w) <float[3,3] w> { y = MatMul(x, w) }",
    "changing": "(float[N,4,4] x) => (y) { y = MatMul(x, x) }",
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_refitted_is_no_task(make_problem, kind: str) -> None:
    _, layers, _ = make_problem(build(f"g {BAD[kind]}", opset=17))
    assert not layers


def test_quantized_weights_are_left_with_a_reason(make_problem) -> None:
    model = build(
        "g (float[N,3] x) => (y) <float[3,6] f, int8[6,4] w, float s, int8 z> "
        "{ a = MatMul(x, f)  r = Relu(a)  t = DequantizeLinear(w, s, z)  y = MatMul(r, t) }"
    )
    _, layers, left = make_problem(model)
    assert layers.keys() == {"a"}
    assert set(left.values()) == {"its weights are shared or no plain floating-point constants"}


LAYOUTS = {
    "conv": "(float[N,4,6,6] x) => (y) <float[6,4,3,2] w> { y = Conv(x, w) }",
    "grouped": "(float[N,4,6,6] x) => (y) <float[6,2,3,2] w> { y = Conv <group = 2> (x, w) }",
    "depthwise": "(float[N,4,6,6] x) => (y) <float[8,1,3,3] w> { y = Conv <group = 4> (x, w) }",
    "up": "(float[N,4,6,6] x) => (y) <float[4,3,3,2] w> { y = ConvTranspose <group = 2> (x, w) }",
    "product": "(float[N,4] x) => (y) <float[4,6] w> { y = MatMul(x, w) }",
    "transB": "(float[N,4] x) => (y) <float[6,4] w> { y = Gemm <transB = 1> (x, w) }",
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_taps_go_back_to_the_layout_of_the_op(make_problem, kind: str) -> None:
    model = build(f"g {LAYOUTS[kind]}")
    _, layers, _ = make_problem(model)
    layer = layers["y"]
    stored = numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(as_stored(layer.op.taps(), model.graph.node[0]), stored)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_is_cut_out_can_be_put_back(make_problem, kind: str) -> None:
    problem, layers, _ = make_problem(build(f"g {LAYOUTS[kind]}"))
    layer, keep = layers["y"], problem.analysis.graph.keep_all()
    taps = layer.op.taps().astype(np.float64)
    cut = kept_weights(layer, taps, keep)
    assert cut is not None
    assert cut.size == taps.size
    np.testing.assert_array_equal(with_weights(layer, np.zeros_like(taps), keep, cut), taps)


def test_groups_that_keep_unequal_parts_are_left_alone(make_problem) -> None:
    problem, layers, _ = make_problem(
        build("g (float[N,8,6,6] x) => (y) <float[4,4,3,3] f> { y = Conv <group = 2> (x, f) }")
    )
    layer = layers["y"]
    apart = replace(layer, op=replace(layer.op, channels=np.arange(1, 9)))
    taps = layer.op.taps().astype(np.float64)
    keep = np.ones(max(9, problem.analysis.graph.count + 1), np.bool_)
    keep[[1, 8]] = False
    cut = kept_weights(apart, taps, keep)
    assert cut is not None
    assert cut.shape == (2, 2, 3 * 9)
    keep[2] = False
    assert kept_weights(apart, taps, keep) is None


def test_a_network_of_bfloat16_weights_is_refitted(make_problem) -> None:
    model = build(
        "g (float[N,3] x) => (y) <float[3,6] f, bfloat16[6,4] w> "
        "{ a = MatMul(x, f)  t = Cast <to = 1> (w)  y = Gemm(a, t) }"
    )
    problem, _, _ = make_problem(model)
    keep = problem.analysis.graph.keep_all()
    keep[problem.analysis.graph.groups[0].channels[:3]] = False
    found = refit(problem, keep, Edits())
    feed = noise(16, 3, seed=9)
    plain, better = (run(apply(model, problem.analysis.graph, keep, edits), feed) for edits in (Edits(), found.edits))
    whole = run(model, feed)
    assert np.square(better - whole).sum() < 1e-3 * np.square(plain - whole).sum()
