"""Quantized consumers take the mean of what is dropped into their biases of integers."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper
from support.graphs import build
from support.oracle import run

import onnxpfp
from onnxpfp.pipeline.plan import Plan, PlanEntry

GONE = (1, 4)
KEPT = (0, 2, 3, 5)
STEP = 0.04
WEIGHTS = """float[6,2,3,3] w1, float[6] b1, float sx = {0.02}, uint8 zx = {3}, float sy = {0.04}, uint8 zy = {128},
uint8[3,6,3,3] w, uint8[3] z = {3,7,5}, float[3] s = {0.01,0.02,0.015}, int32[3] b"""
BODIES = {
    "with a bias": "p = QLinearConv(q, sx, zx, w, s, z, sy, zy, b)\ny = DequantizeLinear(p, sy, zy)",
    "without bias": "p = QLinearConv(q, sx, zx, w, s, z, sy, zy)\ny = DequantizeLinear(p, sy, zy)",
    "channels last": "t = Transpose<perm=[0,2,3,1]>(q)\n"
    "u = com.microsoft.QLinearConv<channels_last=1>(t, sx, zx, w, s, z, sy, zy)\n"
    "p = Transpose<perm=[0,3,1,2]>(u)\ny = DequantizeLinear(p, sy, zy)",
    "dequantized": "v = DequantizeLinear<axis=0>(w, s, z)\nc = DequantizeLinear<axis=0>(b, sb)\n"
    "d = DequantizeLinear(q, sx, zx)\ny = Conv(d, v, c)",
    "matrix": "m = GlobalMaxPool(q)\nf = Flatten(m)\n"
    "y = com.microsoft.QGemm<transB=1, alpha=2.0>(f, sx, zx, g, s, z, b)",
}


def model_of(body: str) -> ModelProto:
    """A layer whose dropped channels are constant, and a quantized one behind it."""
    more = "".join(
        f", {declared}"
        for name, declared in (("sb", "float[3] sb = {0.0002,0.0004,0.0003}"), ("(f", "uint8[3,6] g"))
        if name in body
    )
    if "GlobalMaxPool" in body:
        body = body.replace("GlobalMaxPool(q)", "QuantizeLinear(k, sx, zx)")
        body = f"k = GlobalMaxPool(r)\n{body}"
    model = build(
        f"g (float[N,2,6,6] x) => (y) <{WEIGHTS}{more}> {{\na = Conv(x, w1, b1)\nr = Relu(a)\n"
        f"q = QuantizeLinear(r, sx, zx)\n{body}\n}}"
    )
    for tensor in model.graph.initializer:
        if tensor.name in {"w1", "b1"}:
            array = numpy_helper.to_array(tensor).copy()
            array[list(GONE)] = 0 if tensor.name == "w1" else np.array([0.7, 1.9])
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def drop(model: ModelProto, data: Any, compensate: str) -> ModelProto:
    plan = Plan("", {"w1": PlanEntry((6, 2, 3, 3), {0: KEPT})})
    return onnxpfp.prune(model, calibration=data, compensate=compensate, from_plan=plan).model  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BODIES)
def test_constant_channels_are_replaced_by_their_mean(name: str) -> None:
    model = model_of(BODIES[name])
    data = nets.noise(3, 2, 6, 6)
    wanted = run(model, {"x": data})["y"]
    found = {way: run(drop(model, data, way), {"x": data})["y"] for way in ("bias", "none")}
    assert np.abs(found["bias"] - wanted).max() <= 1.01 * STEP
    assert np.abs(found["none"] - wanted).max() > 4 * STEP


def test_a_bias_of_integers_stays_one() -> None:
    model = model_of(BODIES["dequantized"])
    pruned = drop(model, nets.noise(3, 2, 6, 6), "bias")
    old, new = ({t.name: t for t in m.graph.initializer} for m in (model, pruned))
    assert new["b"].data_type == TensorProto.INT32
    assert new["b"] != old["b"]
    assert [node.op_type for node in pruned.graph.node] == [node.op_type for node in model.graph.node]
    assert new.keys() == old.keys()


@pytest.mark.parametrize("name", ["with a bias", "without bias", "channels last", "dequantized"])
def test_a_note_says_that_quantized_layers_are_not_refitted(name: str) -> None:
    data: Any = nets.noise(64, 2, 6, 6)
    result = onnxpfp.prune(model_of(BODIES[name]), calibration=data, keep_macs=0.6, round_to=1, no_latency=True)
    (note,) = (note for note in result.report.notes if "quantized weights" in note)
    assert note.startswith("of 1 layer that loses channels 1 has quantized weights")
    assert "docs/pipelines/quantization.md" in note
    whole = onnxpfp.prune(model_of(BODIES[name]), calibration=data, keep_macs=1.0, no_latency=True)
    assert not any("quantized weights" in note for note in whole.report.notes)
