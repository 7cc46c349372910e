"""Bodies that draw random numbers: the network around them is compared on the draws that are left of them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, parser
from support.bodies import build_bodies, fill_all, noise

import onnxpfp
from onnxpfp.bodies.feeds import feeds_of_bodies
from onnxpfp.bodies.graphs import bodies_of
from onnxpfp.data.feed_samples import FeedSamples
from onnxpfp.data.inputs import input_specs
from onnxpfp.model.constants import Constants, all_graphs
from onnxpfp.model.random_ops import may_draw
from onnxpfp.runtime.providers import resolve_providers

BRANCHES = """g (float[N,3] x) => (float[N,5] y) <float z = {0.0}> {
    s = ReduceSum<keepdims = 0>(x)  c = Greater(s, z)
    y = If (c) <then_branch = yes () => (float[N,5] u) <float[3,16] a1, float[16,5] a2> { THEN },
        else_branch = no () => (float[N,5] u)
            <float[3,24] b1, float[24,5] b2, float r = {0.5}, bool on = {1}> { ELSE }> }"""
QUIET = "h2 = MatMul(x, b1)  k2 = Tanh(h2)  u = MatMul(k2, b2)"
LOUD = "h = MatMul(x, a1)  n = RandomNormalLike(h)  m = Add(h, n)  k = Relu(m)  u = MatMul(k, a2)"


def branches(one: str, other: str) -> str:
    return BRANCHES.replace("THEN", one).replace("ELSE", other)


LOOP = """g (float[N,3] x) => (float[N,3] y) <int64 times = {3}, bool go = {1}> {
    y = Loop (times, go, x) <body = b (int64 i, bool on, float[N,3] old) => (bool more, float[N,3] new)
        <float[3,16] a1, float[16,3] a2, float r = {0.5}, bool train = {1}> {
            h = MatMul(old, a1)  k = Relu(h)  d = Dropout(k, r, train)  q = MatMul(d, a2)
            p = Add(q, old)  new = Tanh(p)  more = Identity(on) }> }"""
MODELS = {
    "in one branch": branches(LOUD, QUIET),
    "in both branches, called alike": branches(
        LOUD, "h = MatMul(x, b1)  n = RandomUniformLike(h)  m = Mul(h, n)  k = Tanh(m)  u = MatMul(k, b2)"
    ),
    "called as what does not draw in the other": branches(
        LOUD, "h = MatMul(x, b1)  n = Tanh(h)  m = Mul(h, n)  u = MatMul(m, b2)"
    ),
    "a dropout": branches(
        QUIET.replace("2", "").replace("b)", "a2)").replace("x, b1", "x, a1"),
        "h = MatMul(x, b1)  k = Relu(h)  d = Dropout(k, r, on)  u = MatMul(d, b2)",
    ),
    "in the main graph too": """g (float[N,3] x) => (float[N,4] y) <float z = {0.0}, float[5,16] w1, float[16,4] w2> {
        s = ReduceSum<keepdims = 0>(x)  c = Greater(s, z)
        e = If (c) <then_branch = yes () => (float[N,5] u) <float[3,16] a1, float[16,5] a2> { LOUD },
            else_branch = no () => (float[N,5] v) <float[3,24] b1, float[24,5] b2> { QUIET }>
        f = MatMul(e, w1)  o = RandomUniformLike(f)  g = Mul(f, o)  y = MatMul(g, w2) }""".replace(
        "LOUD", LOUD
    ).replace("QUIET", QUIET.replace("u =", "v =")),
    "in a loop": LOOP,
    "in a branch in a loop": LOOP.replace(
        "d = Dropout(k, r, train)  q = MatMul(d, a2)",
        """l = MatMul(k, a2)  t = ReduceSum<keepdims = 0>(l)  c = Greater(t, r)
        q = If (c) <then_branch = yes () => (float[N,3] u) <float[3,16] c1, float[16,3] c2> {
                o = MatMul(l, c1)  n = RandomNormalLike(o)  m = Add(o, n)  v = Relu(m)  u = MatMul(v, c2) },
            else_branch = no () => (float[N,3] w) { w = Neg(l) }>""",
    ),
    "in a scan": """g (float[7,N,3] t, float[N,3] x) => (float[7,N,3] y) {
        last, y = Scan (x, t) <num_scan_inputs = 1, body = b (float[N,3] old, float[N,3] row)
            => (float[N,3] new, float[N,3] out) <float[3,16] a1, float[16,3] a2> {
                j = Add(old, row)  h = MatMul(j, a1)  n = RandomNormalLike(h)  m = Add(h, n)  k = Relu(m)
                l = MatMul(k, a2)  new = Tanh(l)  out = Identity(l) }> }""",
}
FUNCTION = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
g (float[N,3] x) => (float[N,5] y) <float z = {0.0}> {
    s = ReduceSum<keepdims = 0>(x)  c = Greater(s, z)
    y = If (c) <then_branch = yes () => (float[N,5] u) <float[3,16] a1, float[16,5] a2> {
            k = own.noisy(x, a1)  u = MatMul(k, a2) },
        else_branch = no () => (float[N,5] v) <float[3,24] b1, float[24,5] b2> {
            k2 = own.noisy(x, b1)  v = MatMul(k2, b2) }> }
<opset_import: ["": 17], domain: "own"> noisy (x, w) => (k) {
    h = MatMul(x, w)  n = RandomNormalLike(h)  m = Add(h, n)  k = Relu(m) }"""


def network(name: str) -> ModelProto:
    if name == "in functions that branches call":
        model = parser.parse_model(FUNCTION)
        fill_all(model.graph, 0)
        return model
    return build_bodies(MODELS[name])


def samples(model: ModelProto) -> list[dict[str, np.ndarray]]:
    names = {info.name for info in model.graph.input}
    shapes = {"x": (1, 3), "t": (7, 1, 3)}
    return [{name: noise(*shapes[name], seed=seed) for name in names} for seed in range(40)]


@pytest.mark.parametrize("name", [*MODELS, "in functions that branches call"])
def test_channels_of_draws_in_bodies_go(name: str) -> None:
    model = network(name)
    data = samples(model)
    result = onnxpfp.prune(model, calibration=data, keep_macs=0.7)
    assert all(group.kept < group.channels for group in result.report.groups if "/" in group.name)
    assert result.report.drift is not None
    assert 0 < result.report.drift.relative_error < 0.6
    assert not [entry.key for entry in result.model.metadata_props if "draws" in entry.key]
    # What is written draws as before.
    nodes = [[n.op_type for g in all_graphs(m) for n in g.node if may_draw(n)] for m in (model, result.model)]
    assert name.startswith("in functions") or sorted(nodes[0]) == sorted(nodes[1])
    again = onnxpfp.prune(model, calibration=data, from_plan=result.plan)
    assert again.report.drift is not None
    assert again.report.drift.relative_error == pytest.approx(result.report.drift.relative_error, rel=0.02)
    assert onnxpfp.prune(model, keep_macs=0.7).unchanged is None


BEFORE = (
    MODELS["in one branch"]
    .replace("MatMul(x,", "MatMul(w,")
    .replace("c = Greater", "o = RandomNormalLike(x)  w = Add(x, o)  c = Greater")
)


@pytest.mark.parametrize("text", [LOOP, MODELS["in a scan"], MODELS["in a branch in a loop"], BEFORE])
def test_bodies_are_fed_the_same_in_every_run(text: str) -> None:
    model = build_bodies(text)
    feeds = FeedSamples(input_specs(model), tuple(samples(model)), (1,) * 40, {})
    asked = [feeds], resolve_providers("cpu"), 1, 10**8
    one, other = (
        feeds_of_bodies(model, bodies_of(model), Constants.of(model), *asked, lambda *_: None)[0][0].feeds
        for _ in range(2)
    )
    assert len(one) == len(other) > 0
    for first, second in zip(one, other, strict=True):
        for name, array in first.items():
            np.testing.assert_array_equal(array, second[name])
