"""Half, double and bfloat16 weights; what onnxruntime cannot run is said in one line."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import nets
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import onnxpfp
from onnxpfp.errors import ModelError

DENSE = """g (float[N,9] x) => (float[N,5] y) {
    h = Gemm(x, w1, b1) r = Sigmoid(h) k = MatMul(r, w2) s = Sigmoid(k) y = Gemm <transB = 1> (s, w3) }"""
DENSE_SHAPES = {"w1": (9, 12), "b1": (12,), "w2": (12, 11), "w3": (5, 11)}


def dense(word: str) -> ModelProto:
    """A model that onnxruntime runs in every float type but bfloat16."""
    dtype = {"float": np.float32, "double": np.float64, "float16": np.float16}[word]
    return nets.build(DENSE.replace("float[", f"{word}["), DENSE_SHAPES, dtype=dtype)


@pytest.mark.parametrize("select", ["deterministic", "sampled"])
@pytest.mark.parametrize(
    ("dtype", "word", "kind", "close"),
    [(np.float16, "float16", TensorProto.FLOAT16, 0.02), (np.float64, "double", TensorProto.DOUBLE, 1e-6)],
)
def test_half_and_double(dtype: Any, word: str, kind: int, close: float, select: Any) -> None:
    model, data = dense(word), nets.noise(12, 9).astype(dtype)
    # Half precision has no joint refits.
    options = {"keep_macs": 0.6, "select": select, "effort": "low"}
    result = onnxpfp.prune(model, calibration=data, **options)
    assert {tensor.data_type for tensor in result.model.graph.initializer} == {kind}
    assert 0.5 <= nets.count_macs(result.model, {"x": data[:1]}) / result.report.before.macs <= 0.6
    assert result.report.drift is not None
    # The same channels as in single precision, and the same function.
    single = onnxpfp.prune(dense("float"), calibration=nets.noise(12, 9), **options)
    if select == "deterministic":
        keeps = [{name: entry.keep for name, entry in r.plan.initializers.items()} for r in (result, single)]
        assert keeps[0] == keeps[1]
        one, two = nets.run(result.model, data), nets.run(single.model, data.astype(np.float32))
        np.testing.assert_allclose(one, two, atol=max(close, 1e-5) * np.abs(two).max())


def test_bfloat16_weights_behind_a_cast() -> None:
    text = """g (float[N,5] x) => (float[N,3] y) {
        c = Cast <to = 1> (w1) h = MatMul(x, c) r = Relu(h) d = Cast <to = 1> (w2) y = MatMul(r, d) }"""
    model = nets.build(text, {"w1": (5, 12), "w2": (12, 3)}, dtype=ml_dtypes.bfloat16)
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.BFLOAT16}
    data = nets.noise(12, 5)
    result = onnxpfp.prune(model, calibration=data, keep_macs=0.6, compensate="bias")
    assert {t.data_type for t in result.model.graph.initializer} == {TensorProto.BFLOAT16}
    kept = list(result.plan.initializers["w1"].keep[1])
    for tensor, axis in zip(result.model.graph.initializer, (1, 0), strict=True):
        before = nets.weights(model)[tensor.name].astype(np.float32)
        np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.float32), np.take(before, kept, axis))
    assert nets.run(result.model, data).shape == (12, 3)


def test_what_has_no_kernels_is_refused_in_one_line() -> None:
    conv, shapes = nets.CHAIN.replace("float[", "bfloat16["), nets.CHAIN_SHAPES
    with pytest.raises(ModelError, match=r"^the model: onnxruntime cannot load the model: .*Conv") as caught:
        onnxpfp.prune(nets.build(conv, shapes, dtype=ml_dtypes.bfloat16), calibration="random", keep_macs=0.6)
    assert "\n" not in str(caught.value)
