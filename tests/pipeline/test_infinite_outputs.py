"""Networks whose outputs have infinities and NaNs are pruned, measured on their numbers, and the rest is counted."""

from __future__ import annotations

from functools import cache
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from rich.console import Console

import onnxpfp
from onnxpfp.report.page import ReportView
from onnxpfp.report.pruning import Report
from onnxpfp.report.text import as_text

SCORES = """a = Conv<pads = [1,1,1,1]>(x, w1)  b = Relu(a)  c = Conv<pads = [1,1,1,1]>(b, w2)  d = Relu(c)
    p = GlobalAveragePool(d)  f = Flatten(p)  s = Gemm<transB = 1>(f, w3, b3)"""
BODIES = {
    "classes that are masked": "t = Add(s, minus)  y = LogSoftmax<axis = 1>(t)",
    "a score of +inf": "t = Exp(s)  y = Div(t, holes)",
    "all scores above the mask": "y = Sub(s, minus)",
    "samples without weight": "t = Mul(s, v)  y = Div(t, v)",
    "an output of nothing but NaN": "t = Sub(s, s)  z = Div(t, t)  y = Identity(s)",
    "a mean of what was hit": """h = Greater(s, high)  g = Cast<to = 1>(h)  t = Mul(s, g)  n = ReduceSum(g, axis)
        o = ReduceSum(t, axis)  z = Div(o, n)  y = Identity(s)""",
    "half precision that overflows": "t = Mul(s, large)  y = Cast<to = 10>(t)",
    "attention scores": "k = MatMul(s, u)  q = Reshape(k, square)  t = Add(q, upper)  z = Identity(t)  y = Softmax(t)",
    "not class scores": "t = Add(s, minus)  y = Reshape(t, halves)",
}
NUMBERS: dict[str, Any] = {
    "w1": 0.3 * nets.noise(12, 3, 3, 3),
    "w2": 0.2 * nets.noise(16, 12, 3, 3),
    "w3": nets.noise(6, 16),
    "b3": nets.noise(6),
    "minus": np.array([0, -np.inf, 0, 0, -np.inf, 0], np.float32),
    "holes": np.array([1, 1, 0, 1, 1, 1], np.float32),
    "high": np.float32(1.58),
    "large": np.float32(4e4),
    "axis": np.array([1]),
    "halves": np.array([-1, 3, 2]),
    "u": nets.noise(6, 16, seed=3),
    "square": np.array([-1, 4, 4]),
    "upper": np.triu(np.full((4, 4), -np.inf, np.float32), 1),
}
IMAGES = nets.noise(48, 3, 6, 6)
WEIGHTS = (np.arange(48)[:, None] % 3 > 0).astype(np.float32)


def network(name: str) -> ModelProto:
    body = BODIES[name]
    more = (", float[N,1] v" if "v)" in body else "", ", float[N,Q] z" if " z =" in body else "")
    kind = "float16" if "to = 10" in body else "float"
    dims = "N,A,B" if "q =" in body or "halves" in body else "N,K"
    text = f"g (float[N,3,6,6] x{more[0]}) => ({kind}[{dims}] y{more[1]}) {{ {SCORES}  {body} }}"
    model = nets.build(text, {})
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    read = {name for node in model.graph.node for name in node.input}
    arrays = {key: np.asarray(value) for key, value in NUMBERS.items() if key in read}
    model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())
    return model


def data(name: str, times: int = 1) -> dict[str, nets.Array]:
    """Images, and as many other ones again as are asked for."""
    images = np.concatenate([IMAGES, nets.noise(48 * (times - 1), 3, 6, 6, seed=9)]) if times > 1 else IMAGES
    return {"x": images, "v": np.tile(WEIGHTS, (times, 1))} if "v)" in BODIES[name] else {"x": images}


def page_of(report: Report) -> str:
    return as_text(report, ReportView(Console(width=200), None, full=True))


@cache
def pruned(name: str, times: int = 1, **options: Any) -> onnxpfp.Result:
    return onnxpfp.prune(network(name), calibration=data(name, times), threads=1, **options)


@pytest.mark.parametrize("name", BODIES)
def test_a_network_with_infinite_outputs_is_pruned(name: str) -> None:
    report = pruned(name, keep_macs=0.6).report
    assert report.after.macs <= 0.6 * report.before.macs
    drift = report.drift
    assert drift is not None
    assert drift.relative_error is not None
    assert 0 < drift.relative_error < 1
    assert drift.not_finite > 0
    page = page_of(report)
    assert "not finite" in page
    assert "nan" not in page.replace("NaN", "")


@pytest.mark.parametrize("name", [name for name in BODIES if name not in {"half precision that overflows"}])
def test_a_largest_drift_can_be_asked_for(name: str) -> None:
    report = pruned(name, 8, max_drift=0.5).report
    assert report.certified is not None
    assert report.certified.bound <= 0.5
    assert report.after.macs < report.before.macs


@pytest.mark.parametrize("name", ["classes that are masked", "samples without weight", "a score of +inf"])
def test_a_least_agreement_can_be_asked_for(name: str) -> None:
    report = pruned(name, 8, min_agreement=0.5).report
    assert report.certified is not None
    assert report.certified.bound >= 0.5
    assert report.drift is not None
    assert report.drift.top1_agreement == report.certified.observed


@pytest.mark.parametrize("name", ["classes that are masked", "a score of +inf", "attention scores"])
def test_curves_are_those_of_the_numbers(name: str) -> None:
    report = onnxpfp.prunability(network(name), calibration=data(name), threads=1)
    losses = [point.loss for point in report.curve]
    assert losses[0] == 0
    assert np.isfinite(losses).all()
    assert losses[-1] > 1e-4


def test_the_layer_in_front_of_a_mask_is_refitted() -> None:
    records = {record.name: record for record in pruned("classes that are masked", keep_macs=0.6).report.refits}
    assert np.isfinite(records["node_s"].after)


def test_nan_that_only_the_pruned_model_has_is_said() -> None:
    """Numbers near the largest of half precision pass it as channels go."""
    report = pruned("half precision that overflows", keep_macs=0.2).report
    drift = report.drift
    assert drift is not None
    assert drift.lost > 0
    assert any(f"infinity or NaN in the place of {drift.lost} numbers" in note for note in report.notes)
    assert "in the pruned model alone" in page_of(report)
    assert report.to_dict()["drift"]["lost"] == drift.lost
