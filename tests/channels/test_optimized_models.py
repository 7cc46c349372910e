"""What onnxruntime itself makes of small networks, optimized and quantized, is pruned as exactly as the originals."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from support.graphs import build
from support.oracle import check_oracle

from onnxpfp.model.shapes import concrete_shapes, example_feeds

FLIPS = 2e-2
"""What a quantized network may differ by: a few steps of its last activations."""

CONVOLUTIONAL = """g (float[1,3,8,8] x) => (y) <
    float[16,3,3,3] w1, float[16] b1, float[16,1,3,3] w2, float[16,16,1,1] w3, float[16] b3, float[24,16,3,3] w4,
    float[5,24] w, float[5] b, float lo = {0.0}, float hi = {6.0}> {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        c = Clip(a, lo, hi)
        d = Conv<group=16, pads=[1,1,1,1]>(c, w2)
        e = Relu(d)
        h = Conv(e, w3, b3)
        r = Add(h, c)
        q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        i = Conv<pads=[1,1,1,1]>(q, w4)
        j = LeakyRelu<alpha=0.1>(i)
        p = GlobalAveragePool(j)
        f = Flatten(p)
        y = Gemm<transB=1>(f, w, b)
    }"""
TRANSFORMER = """g (float[1,6,8] x) => (y) <
    float[8,24] wi, float[24] s1, float[24] b1, float[24,24] wq, float[24,24] wk, float[24,24] wv, float[24] bq,
    float[24] bk, float[24] bv, float[24,24] wo, float[24] bo, float[24] s2, float[24] b2, float[24,48] wf,
    float[48] bf, float[48,24] wg, float[24] bg, float[24,5] w, int64[4] heads = {0,0,6,4},
    int64[3] merged = {0,0,24}, float root = {2.0}, float r2 = {1.4142135}, float one = {1.0}, float half = {0.5}> {
        e = MatMul(x, wi)
        n = LayerNormalization(e, s1, b1)
        q0 = MatMul(n, wq)
        q1 = Add(q0, bq)
        k0 = MatMul(n, wk)
        k1 = Add(k0, bk)
        v0 = MatMul(n, wv)
        v1 = Add(v0, bv)
        q2 = Reshape(q1, heads)
        k2 = Reshape(k1, heads)
        v2 = Reshape(v1, heads)
        q = Transpose<perm=[0,2,1,3]>(q2)
        k = Transpose<perm=[0,2,3,1]>(k2)
        v = Transpose<perm=[0,2,1,3]>(v2)
        qk = MatMul(q, k)
        sc = Div(qk, root)
        at = Softmax(sc)
        av = MatMul(at, v)
        o1 = Transpose<perm=[0,2,1,3]>(av)
        o2 = Reshape(o1, merged)
        o3 = MatMul(o2, wo)
        o4 = Add(o3, bo)
        o = Add(o4, n)
        m = LayerNormalization(o, s2, b2)
        f0 = MatMul(m, wf)
        f1 = Add(f0, bf)
        f2 = Div(f1, r2)
        f3 = Erf(f2)
        f4 = Add(f3, one)
        f5 = Mul(f1, f4)
        f6 = Mul(f5, half)
        g0 = MatMul(f6, wg)
        g1 = Add(g0, bg)
        g = Add(g1, m)
        y = MatMul(g, w)
    }"""
NETWORKS = {"convolutional": CONVOLUTIONAL, "transformer": TRANSFORMER}
CHANNELS = {"convolutional": 40, "transformer": 54}
"""Channels of the originals: filters of w1, w4 (w3 goes with w1); 6 heads and 48 neurons."""


class _Samples(CalibrationDataReader):
    def __init__(self, model: ModelProto) -> None:
        shapes = concrete_shapes(model, {}).inputs
        self._rest = iter([example_feeds(model, shapes, np.random.default_rng(seed)) for seed in range(3)])

    def get_next(self):
        return next(self._rest, None)


def optimized(source: Path, level: ort.GraphOptimizationLevel) -> ModelProto:
    """Let onnxruntime write the model as it would run it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    target = source.with_suffix(".optimized.onnx")
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return onnx.load(target)


def static(source: Path, form: QuantFormat, per_channel: bool) -> Path:
    target = source.with_suffix(".static.onnx")
    quantize_static(
        str(source),
        str(target),
        _Samples(onnx.load(source)),
        quant_format=form,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QUInt8 if not per_channel else QuantType.QInt8,
        reduce_range=per_channel,
    )
    return target


def dynamic(source: Path) -> Path:
    target = source.with_suffix(".dynamic.onnx")
    quantize_dynamic(str(source), str(target), weight_type=QuantType.QUInt8)
    return target


EXTENDED = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
ALL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
QDQ, OPERATORS = QuantFormat.QDQ, QuantFormat.QOperator
WAYS: dict[str, Callable[[Path], ModelProto]] = {
    "optimized": lambda path: optimized(path, EXTENDED),
    "QDQ": lambda path: onnx.load(static(path, QDQ, per_channel=False)),
    "QDQ per channel": lambda path: onnx.load(static(path, QDQ, per_channel=True)),
    "QDQ optimized": lambda path: optimized(static(path, QDQ, per_channel=False), EXTENDED),
    "operators": lambda path: onnx.load(static(path, OPERATORS, per_channel=False)),
    "operators per channel": lambda path: onnx.load(static(path, OPERATORS, per_channel=True)),
    "operators optimized": lambda path: optimized(static(path, OPERATORS, per_channel=False), EXTENDED),
    "dynamic": lambda path: onnx.load(dynamic(path)),
    "dynamic optimized": lambda path: optimized(dynamic(path), EXTENDED),
}


def made(network: str, way: str, folder: Path) -> ModelProto:
    logging.disable(logging.CRITICAL)
    try:
        onnx.save(build(NETWORKS[network]), folder / "network.onnx")
        return WAYS[way](folder / "network.onnx")
    finally:
        logging.disable(logging.NOTSET)


OPS: dict[str, dict[str, set[str]]] = {
    "convolutional": {
        "optimized": {"FusedConv"},
        "QDQ optimized": {"QLinearConv", "QLinearAdd", "QLinearLeakyRelu", "QLinearGlobalAveragePool", "QGemm"},
        "operators per channel": {"QLinearConv", "QLinearAdd", "QLinearLeakyRelu", "QGemm"},
        "dynamic": {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"},
        "dynamic optimized": {"DynamicQuantizeMatMul"},
    },
    "transformer": {
        "optimized": {"FusedMatMul", "SkipLayerNormalization", "Gelu"},
        "QDQ optimized": {"QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearSoftmax"},
        "dynamic": {"DynamicQuantizeLinear", "MatMulInteger"},
        "dynamic optimized": {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"},
    },
}
"""What is to be found there, so that the tests show what they say."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("network", NETWORKS)
def test_what_onnxruntime_makes_of_a_network(network, way, tmp_path):
    model = made(network, way, tmp_path)
    assert OPS[network].get(way, set()) <= {node.op_type for node in model.graph.node}
    case = check_oracle(model, tolerance=1e-5 if way == "optimized" else FLIPS)
    assert case.graph.count == CHANNELS[network], case.reasons


def test_channels_last_after_the_optimizer_of_layouts(tmp_path):
    onnx.save(build(CONVOLUTIONAL), tmp_path / "network.onnx")
    model = optimized(static(tmp_path / "network.onnx", OPERATORS, per_channel=False), ALL)
    last = [node for node in model.graph.node for item in node.attribute if item.name == "channels_last" and item.i]
    if not last:
        pytest.skip("onnxruntime keeps channels first on this processor")
    assert check_oracle(model, tolerance=FLIPS).graph.count == CHANNELS["convolutional"]
