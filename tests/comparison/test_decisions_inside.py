"""What bodies with weights decide on is given to them, too."""

from __future__ import annotations

import nets
import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from onnxpfp.comparison.equivalence import FLOAT32, Equivalence, check_equivalence
from onnxpfp.comparison.inside import showing_inside
from onnxpfp.errors import VerificationError
from onnxpfp.runtime.providers import resolve_providers

X = nets.noise(12, 6)
NAMES = {
    "If": """g (float[N,6] x) => (float[N,4] y) { h = MatMul(x, w1) r = Relu(h) t = ReduceMax <keepdims = 0> (r)
        c = Greater(t, low) y = If (c) <then_branch = yes () => (float[N,4] y1) {
            s1 = MatMul(r, w2) v1, i1 = TopK(s1, k) m1 = MatMul(r, w3) y1 = GatherElements <axis = 1> (m1, i1) },
        else_branch = no () => (float[N,4] y2) {
            s2 = MatMul(r, w3) v2, i2 = TopK(s2, k) y2 = GatherElements <axis = 1> (s2, i2) }> }""",
    "Loop": """g (float[N,6] x) => (float[N,16] y, float[T,N] z) { h = MatMul(x, w1) s0 = Relu(h)
        y, z = Loop (turns, go, s0) <body = turn (int64 n, bool on, float[N,16] s)
        => (bool more, float[N,16] u, float[N] out) {
            a = MatMul(s, w2) i = ArgMax <axis = 1, keepdims = 1> (a) b = MatMul(s, w3)
            q = GatherElements <axis = 1> (b, i) u0 = Add(a, q) u = Tanh(u0) out = ReduceSum <keepdims = 0> (q, one)
            more = Identity(on) }> }""",
    "Loop that decides on its state": """g (float[N,6] x) => (float[N,16] y) { h = MatMul(x, w1) s0 = MatMul(h, w2)
        y = Loop (turns, go, s0) <body = turn (int64 n, bool on, float[N,16] s) => (bool more, float[N,16] u) {
            i = ArgMax <axis = 1, keepdims = 1> (s) b = MatMul(s, w3) q = GatherElements <axis = 1> (b, i)
            c = MatMul(s, w2) u = Add(c, q) more = Identity(on) }> }""",
}


def build(name: str, scale: float = 0.0, **changed: float) -> ModelProto:
    """A model with pairs of equal columns; the weights are off by about `scale`, some also by a factor."""
    rng = np.random.default_rng(0)
    pairs = np.repeat(rng.standard_normal((16, 8)), 2, axis=1) / 4
    weights = {"w1": rng.standard_normal((6, 16)), "w2": pairs, "w3": rng.standard_normal((16, 16)) / 4}
    noise = np.random.default_rng(1)
    weights = {
        key: array * changed.get(key, 1.0) * (1 + scale * noise.standard_normal(array.shape))
        for key, array in weights.items()
    }
    floats = {"low": np.array(-1.0)} if name == "If" else {}
    model = nets.build(NAMES[name], {**weights, **floats})
    values = {"k": np.array([4]), "turns": np.array(3), "go": np.array(True), "one": np.array([1])}
    for key, array in values.items():
        if f"{key})" in NAMES[name] or f"{key}," in NAMES[name]:
            model.graph.initializer.append(numpy_helper.from_array(array, key))
    return model


def hold(one: ModelProto, two: ModelProto) -> Equivalence:
    providers = resolve_providers("cpu")
    return check_equivalence(one, two, [{"x": X}], allowed=FLOAT32, providers=providers, threads=1)


@pytest.mark.parametrize("name", NAMES)
def test_ties_inside_of_bodies_are_no_fault(name: str) -> None:
    model, nudged = build(name), build(name, 1e-6)
    assert not np.allclose(nets.run(model, X), nets.run(nudged, X), atol=1e-3)
    assert hold(model, nudged).error < FLOAT32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weight", ["w1", "w2", "w3"])
def test_what_is_wrong_in_a_body_is_refused(name: str, weight: str) -> None:
    with pytest.raises(VerificationError, match="is not the masked original"):
        hold(build(name), build(name, 1e-6, **{weight: 1.03}))


def test_another_decision_in_a_body_is_refused() -> None:
    wrong = build("Loop")
    body = next(node for node in wrong.graph.node if node.op_type == "Loop").attribute[0].g
    body.node[1].op_type = "ArgMin"
    with pytest.raises(VerificationError, match="is not the masked original"):
        hold(build("Loop"), wrong)


def test_what_bodies_show_is_what_they_decide_on() -> None:
    shown, inside = showing_inside(build("If"))
    assert [(inner.body, inner.tensor) for inner in inside] == [("then_branch", "s1"), ("else_branch", "s2")]
    outputs = nets.values(shown, {"x": X})
    assert outputs["onnxpfp_shown_s1"].shape == (12, 16)
    assert outputs["onnxpfp_shown_s2"].size == 0
    _, inside = showing_inside(build("Loop"))
    assert [inner.tensor for inner in inside] == ["a"]
