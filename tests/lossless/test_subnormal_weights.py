"""Subnormal weights become zero where no result can tell, and stay where something lifts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import nets
import numpy as np
import pytest
from finding import samples_of
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper
from support.oracle import problem

from onnxpfp.calibrate.runner import run_observers
from onnxpfp.lossless.subnormal import subnormal_weights, zeroed_weights
from onnxpfp.lossless.traces import traces_of
from onnxpfp.model.subnormal import is_subnormal
from onnxpfp.rewrite import apply

CONV = "g (float[N,4,5,5] x) => (float[N,3,5,5] y) {{ {} }}"
ROWS = "g (float[N,4] x) => (float[N,3] y) {{ {} }}"
Weights = dict[str, Any]
SUB = 1e-39


def zeroed(model: ModelProto) -> tuple[ModelProto, int]:
    """Write as zero what can be, as the pipeline does, and count."""
    case = problem(model)
    analysis = case.analysis

    def traces(sites: Any, shapes: Any) -> Any:
        return traces_of(lambda seen: run_observers(model, seen, samples_of(model), threads=1), sites, shapes)

    edits, count = zeroed_weights(analysis, subnormal_weights(analysis), traces)
    return apply(model, case.graph, case.graph.keep_all(), edits), sum(count.values())


def some_subnormal(*shape: int, share: float = 0.3, dtype: Any = np.float32) -> nets.Array:
    """Noise, a part of it multiplied down to subnormal numbers."""
    weight = nets.noise(*shape, seed=3)
    small = np.random.default_rng(4).random(shape) < share
    return np.where(small, weight * SUB, weight).astype(dtype)


PLAIN: dict[str, tuple[str, Weights]] = {
    "Conv": (CONV.format("y = Conv <pads = [1,1,1,1]> (x, w, b)"), {"w": (3, 4, 3, 3), "b": (3,)}),
    "no bias": (CONV.format("y = Conv <pads = [1,1,1,1]> (x, w)"), {"w": (3, 4, 3, 3)}),
    "groups": (
        CONV.format("y = Conv <pads = [1,1,1,1], group = 2> (x, w)").replace("N,3", "N,6"),
        {"w": (6, 2, 3, 3)},
    ),
    "depthwise": (
        CONV.format("y = Conv <pads = [1,1,1,1], group = 4> (x, w)").replace("N,3", "N,4"),
        {"w": (4, 1, 3, 3)},
    ),
    "ConvTranspose": (CONV.format("y = ConvTranspose <pads = [1,1,1,1]> (x, w, b)"), {"w": (4, 3, 3, 3), "b": (3,)}),
    "Gemm": (ROWS.format("y = Gemm <alpha = 0.5, transB = 1> (x, w, b)"), {"w": (3, 4), "b": (3,)}),
    "MatMul": (ROWS.format("y = MatMul(x, w)"), {"w": (4, 3)}),
    "Transpose": (ROWS.format("t = Transpose(w) y = MatMul(x, t)"), {"w": (3, 4)}),
    "scaled behind": (ROWS.format("h = MatMul(x, w) y = Mul(h, c)"), {"w": (4, 3), "c": np.full((), 1e30)}),
    "norm behind": (
        CONV.format("c = Conv <pads = [1,1,1,1]> (x, w) y = BatchNormalization(c, s, t, m, v)"),
        {"w": (3, 4, 3, 3), "s": (3,), "t": (3,), "m": (3,), "v": np.full(3, 1e-12)},
    ),
    "instance norm behind": (
        CONV.format("c = Conv <pads = [1,1,1,1]> (x, w) y = InstanceNormalization(c, s, t)"),
        {"w": (3, 4, 3, 3), "s": (3,), "t": (3,)},
    ),
}


def built(text: str, shapes: Weights, weight: Callable[..., nets.Array] = some_subnormal) -> ModelProto:
    return nets.build(text, {**shapes, "w": weight(*shapes["w"])})


@pytest.mark.parametrize("case", PLAIN)
def test_subnormal_weights_beside_others_become_zero_and_no_bit_of_the_output_moves(case: str) -> None:
    model = built(*PLAIN[case])
    before = nets.weights(model)["w"]
    new, count = zeroed(model)
    after = nets.weights(new)["w"]
    assert count == is_subnormal(before).sum() > 1
    np.testing.assert_array_equal(after, np.where(is_subnormal(before), 0, before))
    feed = nets.noise(2, *[info.dim_value for info in model.graph.input[0].type.tensor_type.shape.dim[1:]])
    np.testing.assert_array_equal(nets.run(model, feed), nets.run(new, feed))


def decayed(*shape: int) -> nets.Array:
    """Noise; all weights of filter 1 are subnormal."""
    weight = nets.noise(*shape, seed=3)
    weight[1] *= np.float32(SUB)
    return weight


BIASED = CONV.format("y = Conv <pads = [1,1,1,1]> (x, w, b)")


def test_a_decayed_filter_becomes_zero_beside_its_bias() -> None:
    weight = decayed(3, 4, 3, 3)
    weight[2] *= np.float32(1e-30)
    model = nets.build(BIASED, {"w": weight, "b": np.array([0.1, 0.2, -0.3])})
    new, count = zeroed(model)
    # The normal numbers of filter 2 are too small for its bias as well.
    assert count == 2 * 36
    assert not nets.weights(new)["w"][1:].any()
    np.testing.assert_array_equal(nets.weights(new)["w"][0], weight[0])
    feed = nets.noise(2, 4, 5, 5)
    np.testing.assert_array_equal(nets.run(model, feed), nets.run(new, feed))


ALONE: dict[str, tuple[str, Weights]] = {
    "no bias": (CONV.format("y = Conv <pads = [1,1,1,1]> (x, w)"), {}),
    "bias zero": (BIASED, {"b": np.array([0.1, 0.0, 0.3])}),
    "bias subnormal": (BIASED, {"b": np.array([0.1, SUB, 0.3])}),
    "lifted": (CONV.format("h = Conv <pads = [1,1,1,1]> (x, w) y = Mul(h, c)"), {"c": np.full((), 1e38)}),
    "tiny variance": (
        CONV.format("h = Conv <pads = [1,1,1,1]> (x, w) y = BatchNormalization <epsilon = 0.0> (h, s, t, m, v)"),
        {"s": np.ones(3), "t": np.zeros(3), "m": np.zeros(3), "v": np.full(3, 1e-37)},
    ),
}


@pytest.mark.parametrize("case", ALONE)
def test_a_filter_that_has_nothing_else_is_left_alone(case: str) -> None:
    text, others = ALONE[case]
    new, count = zeroed(nets.build(text, {"w": decayed(3, 4, 3, 3), **others}))
    assert count == 0
    assert is_subnormal(nets.weights(new)["w"][1]).all()


def test_weights_of_a_lifted_channel_are_left_alone() -> None:
    """Channel 2 is multiplied by 1e30 before, so the smallest weights of it count most."""
    text = ROWS.format("h = Mul(x, c) y = MatMul(h, w)")
    weight = nets.noise(4, 3)
    weight[2] *= np.float32(SUB)
    weight[0, 1] *= np.float32(SUB)
    model = nets.build(text, {"w": weight, "c": np.array([1, 1, 1e30, 1])})
    new, count = zeroed(model)
    assert count == 1
    np.testing.assert_array_equal(nets.weights(new)["w"][2], weight[2])
    assert nets.weights(new)["w"][0, 1] == 0


def test_weights_that_the_others_do_not_dwarf_are_left_alone_in_half_precision() -> None:
    text = ROWS.format("y = MatMul(x, w)").replace("float[", "float16[")
    weight = nets.noise(4, 3)
    weight[1] *= 4e-5
    weight[0, 1], weight[2, 2] = 1e-7, 2e-7
    model = nets.build(text, {"w": weight}, dtype=np.float16)
    stored = nets.weights(model)["w"]
    assert is_subnormal(stored).sum() == 5
    new, count = zeroed(model)
    after = nets.weights(new)["w"]
    assert count == 2
    np.testing.assert_array_equal(after[1], stored[1])
    assert after[0, 1] == after[2, 2] == 0


def test_bfloat16_weights_become_zero() -> None:
    text = ROWS.format("c = Cast <to = 1> (w) y = MatMul(x, c)")
    model = nets.build(text, {"w": some_subnormal(4, 3)}, dtype=ml_dtypes.bfloat16)
    before = numpy_helper.to_array(model.graph.initializer[0])
    new, count = zeroed(model)
    after = numpy_helper.to_array(new.graph.initializer[0])
    assert after.dtype == ml_dtypes.bfloat16
    assert count == is_subnormal(before).sum() > 1
    assert not is_subnormal(after).any()


def test_quantized_and_shared_weights_are_left_alone() -> None:
    text = ROWS.format("a = MatMul(x, w) b = Neg(w) c = MatMul(x, b) y = Sub(a, c)")
    model = nets.build(text, {"w": some_subnormal(4, 3)})
    analysis = problem(model).analysis
    assert subnormal_weights(analysis).keys() == {"w"}
    assert zeroed(model)[1] == 0


@given(
    size=st.floats(-44, 0), bias=st.floats(-44, 1), behind=st.sampled_from([1.0, 1e10, 1e30]), seed=st.integers(0, 99)
)
def test_no_output_of_normal_size_moves_by_more_than_rounding(
    size: float, bias: float, behind: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((4, 3)) * 10.0 ** rng.uniform(size, 0, (4, 3))).astype(np.float32)
    weight[0, 0] = SUB
    added = (rng.standard_normal(3) * 10.0**bias).astype(np.float32)
    text = ROWS.format("h = Gemm(x, w, b) y = Mul(h, c)")
    model = nets.build(text, {"w": weight, "b": added, "c": np.full((), behind)})
    new, _ = zeroed(model)
    feed = nets.noise(5, 4, seed=seed)
    one, two = nets.run(model, feed).astype(np.float64), nets.run(new, feed).astype(np.float64)
    room = np.abs(feed.astype(np.float64)).max(1, keepdims=True) * np.abs(weight.astype(np.float64)).sum(0) + np.abs(
        added
    )
    assert (np.abs(one - two) <= 2.0**-23 * behind * room).all()
