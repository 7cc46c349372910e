"""Control flow and sequences in the middle of a network: they stay, the layers around them do not."""

from __future__ import annotations

import numpy as np
import pytest
from support.graphs import build
from support.oracle import check_oracle, difference, problem, run

from onnxpfp.rewrite import Edits, apply
from onnxpfp.rewrite.mask import masked

WEIGHTS = "float[8,3,1,1] w1, float[6,8,1,1] w2, float[4,6,1,1] w3, float[7,4,1,1] w4, float[5,7,1,1] w5"
BEFORE = "a = Conv(x, w1)\nr = Relu(a)\nb = Conv(r, w2)\n"
AFTER = "h = Conv(m, w4)\ny = Conv(h, w5)"


def network(middle: str, weights: str = ""):
    """Conv, conv, `middle` which computes `m` (4 channels) from `b` (6 channels), conv, conv."""
    declared = ", ".join(w for w in (WEIGHTS, weights) if w)
    return build(f"g (float[N,3,6,6] x) => (y) <{declared}> {{\n{BEFORE}{middle}\n{AFTER}\n}}")


MIDDLES = {
    "If that captures its input": "c = Conv(b, w3)\ns = ReduceSum<keepdims=0>(x)\nt = Greater(s, z)\n"
    "m = If (t) <then_branch = yes () => (float[N,4,6,6] u) { u = Relu(c) },\n"
    "else_branch = no () => (float[N,4,6,6] v) { v = Neg(c) }>",
    "If whose branches hold layers": "s = ReduceSum<keepdims=0>(x)\nt = Greater(s, z)\n"
    "m = If (t) <then_branch = yes () => (float[N,4,6,6] u) { u = Conv(b, w3) },\n"
    "else_branch = no () => (float[N,4,6,6] v) { q = Conv(b, w3)\n v = Neg(q) }>",
    "Loop that carries its input": "c = Conv(b, w3)\n"
    "m = Loop (three, yes, c) <body = step (int64 i, bool go, float[N,4,6,6] old) => "
    "(bool on, float[N,4,6,6] new) { on = Identity(go)\n new = Mul(old, half) }>",
    "Scan over rows": "c = Conv(b, w3)\nt = Transpose<perm=[2,0,1,3]>(c)\nq = ReduceSum<keepdims=0>(t, first)\n"
    "final, all = Scan (q, t) <num_scan_inputs = 1, body = step (float[N,4,6] state, float[N,4,6] row) => "
    "(float[N,4,6] next, float[N,4,6] out) { next = Add(state, row)\n out = Identity(next) }>\n"
    "m = Transpose<perm=[1,2,0,3]>(all)",
    "sequence": "c = Conv(b, w3)\np, q = Split<axis=2>(c)\ns = SequenceConstruct(q, p)\n"
    "m = ConcatFromSequence<axis=2>(s)",
    "split to a sequence": "c = Conv(b, w3)\ns = SplitToSequence<axis=1>(c, two)\np = SequenceAt(s, none)\n"
    "q = SequenceAt(s, one)\nm = Concat<axis=1>(p, q)",
    "optional": "c = Conv(b, w3)\no = Optional(c)\nm = OptionalGetElement(o)",
    "random numbers": "c = Conv(b, w3)\nk = RandomNormalLike<seed=1.0>(c)\nj = Mul(k, none_f)\nm = Add(c, j)",
}
NUMBERS = (
    "float z = {0.0}, float half = {0.5}, int64 three = {3}, bool yes = {1}, int64 two = {2}, int64 none = {0}, "
    "int64 one = {1}, int64[1] first = {0}, float none_f = {0.0}"
)


@pytest.mark.parametrize("middle", MIDDLES.values(), ids=MIDDLES.keys())
def test_layers_around_it_are_pruned(middle):
    model = network(middle, NUMBERS)
    held = {"w1": 8, "w4": 7} if "Conv(b, w3) }" in middle else {"w1": 8, "w2": 6, "w4": 7}
    case = check_oracle(model)
    assert {group.name: group.channels.size for group in case.graph.groups} == held
    assert case.reasons["w3" if "w2" in held else "w2"]


def test_the_reason_names_the_node_whose_subgraph_reads_it():
    case = problem(network(MIDDLES["If whose branches hold layers"], NUMBERS))
    assert case.reasons["w2"] == "If 'm' reads it in a subgraph"


@pytest.mark.parametrize("sign", [1, -1])
def test_both_branches_are_exact_after_pruning(sign):
    case = problem(network(MIDDLES["If that captures its input"], NUMBERS))
    keep = case.graph.keep_all()
    keep[1:4] = False
    pruned = apply(case.model, case.graph, keep, Edits())
    feeds = {"x": np.full((2, 3, 6, 6), sign, np.float32)}
    wanted = run(masked(case.model, case.graph, keep, case.shapes), feeds)
    assert difference(wanted, run(pruned, feeds)) < 1e-5 < difference(wanted, run(case.model, feeds))
