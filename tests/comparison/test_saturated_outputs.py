"""Outputs that saturate neither hide a wrong channel nor raise a false alarm."""

from __future__ import annotations

import nets
import numpy as np
import pytest
from onnx import ModelProto

import onnxpfp
from onnxpfp.comparison.equivalence import FLOAT32, Equivalence, check_equivalence
from onnxpfp.errors import VerificationError
from onnxpfp.runtime.providers import resolve_providers

X = nets.noise(4, 5)
WEIGHTS = {"w1": (5, 8), "w2": (8, 3)}


def saturated(last: str, bias: float, weights: dict[str, np.ndarray] | None = None) -> ModelProto:
    text = f"""g (float[N,5] x) => (float[N,3] y) {{
        h = MatMul(x, w1) r = Relu(h) m = MatMul(r, w2) l = Add(m, b) y = {last}(l) }}"""
    return nets.build(text, {**WEIGHTS, **(weights or {}), "b": np.full(3, bias, np.float32)})


def hold(one: ModelProto, two: ModelProto) -> Equivalence:
    providers = resolve_providers("cpu")
    return check_equivalence(one, two, [{"x": X}], allowed=FLOAT32, providers=providers, threads=1)


@pytest.mark.parametrize(("last", "bias"), [("Sigmoid", -60.0), ("Relu", -60.0), ("Tanh", 60.0), ("Softmax", 0.0)])
def test_a_wrong_model_is_found_behind_a_saturated_output(last: str, bias: float) -> None:
    right = saturated(last, bias)
    wrong = saturated(last, bias, {"w1": nets.noise(5, 8, seed=9)})
    with pytest.raises(VerificationError, match="is not the masked original"):
        hold(right, wrong)


@pytest.mark.parametrize("bias", [-15.0, -60.0, 60.0])
def test_no_false_alarm_for_a_saturated_sigmoid(bias: float) -> None:
    result = onnxpfp.prune(saturated("Sigmoid", bias), calibration=nets.noise(64, 5), keep_macs=0.6)
    assert result.report.oracle.error < FLOAT32
    assert not result.report.oracle.blank


def test_a_comparison_of_zeros_is_said_to_show_nothing() -> None:
    text = "g (float[N,5] x) => (float[N,3] y) { z = Mul(x, none) h = MatMul(z, w1) r = Relu(h) y = MatMul(r, w2) }"
    model = nets.build(text, {**WEIGHTS, "none": np.zeros(5, np.float32)})
    report = onnxpfp.prune(model, calibration=nets.noise(16, 5), keep_macs=0.6).report
    assert report.oracle.blank
    assert any("nothing but zeros" in note for note in report.notes)


def test_a_recurrent_state_beside_a_batch_needs_no_feeds() -> None:
    text = """g (float[1,5] x, float[2,1,8] s) => (float[1,3] y) {
        h = MatMul(x, w1) r = Relu(h) q = ReduceSum<keepdims=0>(s, axes) t = Add(r, q) y = MatMul(t, w2) }"""
    model = nets.build(text, WEIGHTS)
    model.graph.initializer.append(nets.numpy_helper.from_array(np.array([0], np.int64), "axes"))
    state = {"x": nets.noise(32, 5), "s": nets.noise(32, 2, 1, 8)}
    for data in (None, "random", state):
        assert onnxpfp.prune(model, calibration=data, keep_macs=1.0).unchanged
    with pytest.raises(onnxpfp.errors.CalibrationError, match="different fixed batch sizes") as caught:
        onnxpfp.prune(model, calibration={"x": nets.noise(32, 5), "s": nets.noise(32, 1, 8)})
    assert "one axis more" in caught.value.hint
