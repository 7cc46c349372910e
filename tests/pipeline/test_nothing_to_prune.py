"""Why nothing can be pruned: said as it is, by `prune` and `inspect` alike."""

from __future__ import annotations

import pytest
from support.graphs import build

import onnxpfp
from onnxpfp.errors import TargetUnreachableError

NO_MATRIX = "it stores no matrix and no filter bank"
NONE_READ = "none of its weights brings forth channels that another Conv, Gemm, MatMul or other product reads"
CONDITION = "t = ReduceSum<keepdims = 0>(x)\nu = Cast<to = 9>(t)\n"
KERNEL = "Constant<value = float[1,1,1,1] {0.5}>()"
ELSE = "else_branch = no () => (n) { n = Neg(x) }>"
CASES = {
    "no weights": ("y = Relu(x)", NO_MATRIX),
    "vectors only": ("v = Constant<value = float[2] {1.0, 2.0}>()\na = Slice(v, l, m)\ny = Mul(x, a)", NO_MATRIX),
    "one channel": (f"k = {KERNEL}\ny = Conv(x, k)", NONE_READ),
    "in a branch": (
        f"{CONDITION}y = If(u) <then_branch = yes () => (o) {{ k = {KERNEL}\n o = Conv(x, k) }}, {ELSE}",
        "the body y/then_branch stays: " + NONE_READ,
    ),
    "in a named node's branch": (
        f"{CONDITION}[gate] y = If(u) <then_branch = yes () => (o) {{ k = {KERNEL}\n o = Conv(x, k) }}, {ELSE}",
        "the body gate/then_branch stays: " + NONE_READ,
    ),
    "in a branch of a branch": (
        f"{CONDITION}y = If(u) <then_branch = yes () => (o) {{ w = Not(u)\n o = If(w) <then_branch = in () => (p) "
        f"{{ k = {KERNEL}\n p = Conv(x, k) }}, else_branch = out () => (q) {{ q = Abs(x) }}> }}, {ELSE}",
        "the body y/then_branch/o/then_branch stays: " + NONE_READ,
    ),
    "in a loop": (
        f"c = Cast<to = 9>(two)\ny = Loop(two, c, x) <body = b (int64 i, bool g, float[1,1,4,4] v) "
        f"=> (bool h, float[1,1,4,4] o) {{ h = Identity(g)\n k = {KERNEL}\n o = Conv(v, k) }}>",
        "the body y/body stays: " + NONE_READ,
    ),
    "in a scan": (
        f"s = Unsqueeze(x, l)\nz = Scan(s) <num_scan_inputs = 1, body = b (float[1,1,4,4] v) => (float[1,1,4,4] o) "
        f"{{ k = {KERNEL}\n o = Conv(v, k) }}>\ny = Squeeze(z, l)",
        "the body z/body stays: " + NONE_READ,
    ),
}
"""Networks without channels, and why that is."""


@pytest.mark.parametrize(("nodes", "why"), CASES.values(), ids=CASES.keys())
def test_reason_is_true(nodes, why):
    start = "two = Constant<value_int = 2>()\nl = Constant<value_ints = [0]>()\nm = Constant<value_ints = [1]>()\n"
    model = build(f"g (float[1,1,4,4] x) => (float[1,1,4,4] y) {{\n{start}{nodes}\n}}", opset=13)
    with pytest.raises(TargetUnreachableError) as caught:
        onnxpfp.prune(model)
    assert str(caught.value) == f"the model: nothing in it can be pruned: {why}"
    assert onnxpfp.inspect(model).nothing == why


def test_reasons_of_weights_come_first():
    model = build("g (float[1,3] x) => (float[1,4] y) <float[3,4] w> { y = MatMul(x, w) }")
    assert onnxpfp.inspect(model).nothing == "it is the graph output 'y'"


def test_there_is_no_such_reason_where_something_can_go():
    model = build(
        "g (float[1,3] x) => (float[1,4] y) <float[3,8] w, float[8,4] v> { a = MatMul(x, w)\n y = MatMul(a, v) }"
    )
    assert onnxpfp.inspect(model).nothing == ""
