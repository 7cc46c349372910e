"""What is dropped leaves its mean behind, in whatever takes the place of a bias."""

from __future__ import annotations

import json
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import onnxpfp
from onnxpfp.pipeline.plan import Plan, PlanEntry

Array = nets.Array

KEPT = (0, 2, 3, 5)
GONE = (1, 4)
ROWS = "g (float[N,4] x) => (float[N,3] y) {{ h = MatMul(x, w1) i = Add(h, b1) r = Relu(i) {} }}"
MAPS = "g (float[N,2,6,6] x) => (float[N,{}] y) {{ a = Conv(x, w1, b1) r = Relu(a) {} }}"


def producer(shape: tuple[int, ...], axis: int) -> dict[str, Array]:
    """Weights of six channels; those that go are constant: nothing but a positive bias."""
    w1, b1 = nets.noise(*shape, seed=2), nets.noise(6, seed=3)
    w1[(slice(None),) * axis + (list(GONE),)] = 0
    b1[list(GONE)] = [0.7, 1.9]
    return {"w1": w1, "b1": b1}


ROW, MAP = producer((4, 6), 1), producer((6, 2, 3, 3), 0)

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Conv": (MAPS.format("3,2,2", "y = Conv(r, w2, b2)"), {**MAP, "w2": (3, 6, 3, 3), "b2": (3,)}),
    "Conv without bias": (MAPS.format("3,2,2", "y = Conv(r, w2)"), {**MAP, "w2": (3, 6, 3, 3)}),
    "strided and dilated": (
        MAPS.format("3,1,1", "y = Conv <strides = [2,2], dilations = [2,2]> (r, w2)"),
        {**MAP, "w2": (3, 6, 2, 2)},
    ),
    "BatchNormalization": (
        MAPS.format("3,2,2", "c = Conv(r, w2) y = BatchNormalization(c, s, t, m, v)"),
        {**MAP, "w2": (3, 6, 3, 3), "s": (3,), "t": (3,), "m": (3,), "v": np.array([0.3, 1.0, 2.0])},
    ),
    "BatchNormalization and bias": (
        MAPS.format("3,2,2", "c = Conv(r, w2, b2) y = BatchNormalization(c, s, t, m, v)"),
        {**MAP, "w2": (3, 6, 3, 3), "b2": (3,), "s": (3,), "t": (3,), "m": (3,), "v": np.array([0.3, 1.0, 2.0])},
    ),
    "BatchNormalization beside another reader": (
        MAPS.format("3,2,2", "c = Conv(r, w2) n = BatchNormalization(c, s, t, m, v) y = Mul(c, n)"),
        {**MAP, "w2": (3, 6, 3, 3), "s": (3,), "t": (3,), "m": (3,), "v": np.array([0.3, 1.0, 2.0])},
    ),
    "BatchNormalization that shares its mean": (
        MAPS.format(
            "3,2,2",
            "c = Conv(r, w2) n = BatchNormalization(c, s, t, m, v) q = Conv <strides = [2,2]> (x, w3) "
            "p = BatchNormalization(q, s, t, m, v) y = Add(n, p)",
        ),
        {
            **MAP,
            "w2": (3, 6, 3, 3),
            "w3": (3, 2, 4, 4),
            "s": (3,),
            "t": (3,),
            "m": (3,),
            "v": np.array([0.3, 1.0, 2.0]),
        },
    ),
    "shared bias": (
        MAPS.format("3,2,2", "c = Conv(r, w2, b2) q = Conv <strides = [2,2]> (x, w3, b2) y = Add(c, q)"),
        {**MAP, "w2": (3, 6, 3, 3), "b2": (3,), "w3": (3, 2, 4, 4)},
    ),
    "bias behind Identity": (
        MAPS.format("3,2,2", "t = Identity(b2) c = Conv(r, w2, t) y = Add(c, b3)"),
        {**MAP, "w2": (3, 6, 3, 3), "b2": (3,), "b3": (1, 3, 1, 1)},
    ),
    "one weight twice": (
        MAPS.format("3,2,2", "c = Conv(r, w2) n = Tanh(r) q = Conv(n, w2) y = Sub(c, q)"),
        {**MAP, "w2": (3, 6, 3, 3)},
    ),
    "Gemm": (ROWS.format("y = Gemm <transB = 1> (r, w2, b2)"), {**ROW, "w2": (3, 6), "b2": (3,)}),
    "Gemm of a matrix bias": (ROWS.format("y = Gemm(r, w2, b2)"), {**ROW, "w2": (6, 3), "b2": (1, 3)}),
    "Gemm with beta": (
        ROWS.format("y = Gemm <alpha = 2.0, beta = 0.5> (r, w2, b2)"),
        {**ROW, "w2": (6, 3), "b2": (3,)},
    ),
    "Gemm without bias": (ROWS.format("y = Gemm <alpha = 2.0, beta = 0.5> (r, w2)"), {**ROW, "w2": (6, 3)}),
    "MatMul and Add": (ROWS.format("z = MatMul(r, w2) y = Add(z, b2)"), {**ROW, "w2": (6, 3), "b2": (3,)}),
    "Add and MatMul": (ROWS.format("z = MatMul(r, w2) y = Add(b2, z)"), {**ROW, "w2": (6, 3), "b2": (3,)}),
    "ConvTranspose of one tap": (
        MAPS.format("3,4,4", "y = ConvTranspose(r, w2)"),
        {**MAP, "w2": (6, 3, 1, 1)},
    ),
    "Flatten": (MAPS.format("3", "f = Flatten(r) y = Gemm(f, w2, b2)"), {**MAP, "w2": (96, 3), "b2": (3,)}),
}

ADD = ("without bias", "reader", "Identity", "twice", "dilated", "tap", "shared bias", "shares its mean")
"""Ends of the cases whose bias is a new weight."""


def drop(model: ModelProto, data: Any, *, compensate: str | None = "bias", kept: Any = KEPT) -> onnxpfp.Result:
    """Drop channels of the first layer."""
    shape = nets.weights(model)["w1"].shape
    plan = Plan("", {"w1": PlanEntry(shape, {0 if len(shape) == 4 else 1: tuple(kept)})})
    return onnxpfp.prune(model, calibration=data, compensate=compensate, from_plan=plan)  # type: ignore[arg-type]


def samples(model: ModelProto, count: int = 3) -> Array:
    """Noise for the first input; so few that none are held out."""
    return nets.noise(count, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]))


@pytest.mark.parametrize("case", CASES)
def test_constant_channels_leave_nothing_behind(case: str) -> None:
    model = nets.build(*CASES[case])
    data, other = samples(model), samples(model, 7)
    result, plain = drop(model, data), drop(model, data, compensate="none")
    expected = nets.run(model, other)
    scale = np.abs(expected).max()
    assert np.abs(nets.run(result.model, other) - expected).max() < 1e-5 * scale
    assert np.abs(nets.run(plain.model, other) - expected).max() > 0.01 * scale
    assert result.report.uncompensated == ()
    assert len(result.report.compensated) == (2 if case == "one weight twice" else 1)
    added = nets.weights(result.model).keys() - nets.weights(model).keys()
    assert bool(added) == case.endswith(ADD)


@pytest.mark.parametrize("case", CASES)
def test_without_compensation_weights_are_only_cut(case: str) -> None:
    model = nets.build(*CASES[case])
    result = drop(model, samples(model), compensate="none")
    for name, array in nets.weights(result.model).items():
        expected = nets.weights(model)[name]
        for axis in range(expected.ndim):
            if expected.shape[axis] != array.shape[axis]:
                block = expected.shape[axis] // 6
                expected = np.take(expected, [block * i + j for i in KEPT for j in range(block)], axis)
        np.testing.assert_array_equal(array, expected)
    assert result.report.compensated == result.report.uncompensated == ()


PADDED = {
    "Conv": "y = Conv <pads = [1,1,1,1]> (r, w2)",
    "wide and strided": "y = Conv <pads = [2,2,2,2], strides = [2,2]> (r, w2)",
    "one side": "y = Conv <pads = [0,2,1,0]> (r, w2)",
    "auto_pad": 'y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (r, w2)',
    "ConvTranspose": "y = ConvTranspose <strides = [2,2], pads = [1,1,1,1]> (r, w2)",
    "grouped": "y = Conv <pads = [1,1,1,1], group = 2> (r, w2)",
}


@pytest.mark.parametrize("case", PADDED)
def test_padding_keeps_the_mean_of_every_output(case: str) -> None:
    shape = {"ConvTranspose": (6, 4, 3, 3), "grouped": (4, 3, 3, 3)}.get(case, (4, 6, 3, 3))
    text = MAPS.format("4,H,W", PADDED[case])
    model = nets.build(text, {"w1": (6, 2, 3, 3), "b1": (6,), "w2": shape})
    data = samples(model)
    # In a grouped convolution the same places of all groups go together.
    kept = (0, 2, 3, 5) if case == "grouped" else (0, 1, 5)
    expected = nets.run(model, data)
    found = nets.run(drop(model, data, kept=kept).model, data)
    plain = nets.run(drop(model, data, kept=kept, compensate="none").model, data)
    means = [array.mean((0, 2, 3)) for array in (expected, found, plain)]
    np.testing.assert_allclose(means[1], means[0], atol=1e-5 * np.abs(expected).max())
    assert np.abs(means[2] - means[0]).max() > 0.01
    errors = [np.square(array - expected).sum((0, 2, 3)) for array in (found, plain)]
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all()
    assert errors[0].sum() < 0.96 * errors[1].sum()


def test_reweighted_channels_count_too() -> None:
    text = MAPS.format("3,2,2", "y = Conv(r, w2, b2)")
    model = nets.build(text, {"w1": (6, 2, 3, 3), "b1": (6,), "w2": (3, 6, 3, 3), "b2": (3,)})
    data = samples(model)
    result = onnxpfp.prune(model, calibration=data, keep_macs=0.6, select="sampled", seed=1)
    assert result.plan.initializers["w2"].scale
    found, expected = nets.run(result.model, data), nets.run(model, data)
    np.testing.assert_allclose(found.mean((0, 2, 3)), expected.mean((0, 2, 3)), atol=1e-5 * np.abs(expected).max())


LEFT = {
    "MatMul alone": ("y = MatMul(r, w2)", {"w2": (6, 3)}, "no Add with a constant follows it"),
    "MatMul and Mul": ("z = MatMul(r, w2) y = Mul(z, b2)", {"w2": (6, 3), "b2": (3,)}, "no Add with a constant"),
    "Add of an activation": (
        "z = MatMul(r, w2) q = MatMul(x, w3) y = Add(z, q)",
        {"w2": (6, 3), "w3": (4, 3)},
        "its bias 'q' is computed at run time",
    ),
    "Add of one number": (
        "z = MatMul(r, w2) y = Add(z, b2)",
        {"w2": (6, 3), "b2": (1,)},
        "its bias 'b2' is not one number per output",
    ),
    "GRU": (
        "i0 = Constant <value = int64[1] {0}> () u = Unsqueeze(r, i0) z, q = GRU <hidden_size = 3> (u, w2, r2, b2) "
        "y = Squeeze(q, i0)",
        {"w2": (1, 9, 6), "r2": (1, 9, 3), "b2": (1, 18)},
        "nothing is folded into a bias of GRU",
    ),
    "beta of 0": ("y = Gemm <beta = 0.0> (r, w2, b2)", {"w2": (6, 3), "b2": (3,)}, "its beta is 0, so it has no bias"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_cannot_be_compensated_is_reported(case: str) -> None:
    text, shapes, reason = LEFT[case]
    result = drop(model := nets.build(ROWS.format(text), {**ROW, **shapes}), samples(model))
    ((name, why),) = result.report.uncompensated
    assert name in {"node_y", "node_z"}
    assert reason in why
    assert result.report.compensated == ()


def test_what_a_subgraph_captures_is_not_changed() -> None:
    text = MAPS.format("3,2,2", "z = Conv(r, w2, b2) k = If(no) <then_branch = t () => (float[3] i) { i = Neg(b2) }, "
        "else_branch = e () => (float[3] j) { j = Abs(b2) }> l = Reshape(k, to) y = Add(z, l)")  # fmt: skip
    model = nets.build(text, {**MAP, "w2": (3, 6, 3, 3), "b2": (3,)})
    model.graph.initializer.append(numpy_helper.from_array(np.array(False), "no"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 3, 1, 1]), "to"))
    data = samples(model)
    result = drop(model, data)
    assert result.report.compensated
    np.testing.assert_array_equal(nets.weights(result.model)["b2"], nets.weights(model)["b2"])
    np.testing.assert_allclose(nets.run(result.model, data), nets.run(model, data), atol=1e-4)


def test_half_precision() -> None:
    text = CASES["Conv without bias"][0].replace("float[", "float16[")
    model = nets.build(text, CASES["Conv without bias"][1], dtype=np.float16)
    data = samples(model).astype(np.float16)
    result = drop(model, data)
    assert {t.data_type for t in result.model.graph.initializer} == {TensorProto.FLOAT16}
    expected = nets.run(model, data).astype(np.float64)
    assert np.abs(nets.run(result.model, data) - expected).max() < 5e-3 * np.abs(expected).max()


@pytest.mark.shared
def test_the_oracle_of_least_squares_by_bias_alone() -> None:
    path = nets.SHARED / "oracles" / "oracles.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    oracle = json.loads(path.read_text())["F1"]
    text = "g (float[N,4] x) => (float[N,2] y) { h = MatMul(x, w1) y = Gemm <transB = 1> (h, w2, b2) }"
    model = nets.build(text, {"w1": np.eye(4), "w2": np.array(oracle["W"]), "b2": np.array(oracle["b"])})
    data = np.array(oracle["X"], np.float32).T
    # One whole feed: none of the five samples is held out.
    result = drop(model, [{"x": data}], kept=(0, 1))
    np.testing.assert_allclose(nets.weights(result.model)["b2"], oracle["S01_biasonly"]["b"], rtol=1e-6)
    squares = np.square(nets.run(result.model, data) - nets.run(model, data)).sum()
    assert squares == pytest.approx(oracle["S01_biasonly"]["SSE"], rel=1e-5)
    plain = drop(model, [{"x": data}], kept=(0, 1), compensate="none")
    squares = np.square(nets.run(plain.model, data) - nets.run(model, data)).sum()
    assert squares == pytest.approx(oracle["S01"]["plain_SSE"], rel=1e-5)
