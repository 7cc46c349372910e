"""Which groups may go with all of their channels, and that the file without their branches computes what it must."""

from __future__ import annotations

import re
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support.oracle import EXACT, Case, batches, difference, problem, run

from onnxpfp.arrays import Keep
from onnxpfp.channels.branches import Branches, obstacle_of
from onnxpfp.errors import VerificationError
from onnxpfp.model.shapes import example_feeds
from onnxpfp.rewrite import Edits, apply
from onnxpfp.rewrite.mask import masked

CONV = "Conv <pads = [1,1,1,1]>"
MAPS: dict[str, Any] = {"w1": (6, 4, 3, 3), "b1": (6,), "w2": (4, 6, 3, 3), "b2": (4,)}
DENSE: dict[str, Any] = {"w1": (5, 9), "b1": (9,), "w2": (9, 5), "b2": (5,)}
TAIL = f"t = Relu(z) y = {CONV}(t, w9)"
PAIR = f"a = {CONV}(x, w1, b1) r = Relu(a) c = {CONV}(r, w2, b2)"


def maps(text: str, weights: dict[str, Any] | None = None, inputs: str = "float[N,4,5,5] x") -> ModelProto:
    sizes: dict[str, Any] = {**MAPS, "w9": (4, 4, 3, 3), **(weights or {})}
    named = set(re.findall(r"\w+", text))
    read = {name: size for name, size in sizes.items() if name in named}
    return nets.build(f"g ({inputs}) => (float[M,O,H,W] y) {{ {text} }}", read)


def dense(text: str, weights: dict[str, Any]) -> ModelProto:
    return nets.build(f"g (float[N,3,5] x) => (float[N,3,5] y) {{ {text} }}", weights)


NORM: dict[str, Any] = {"scale": (4,), "shift": (4,), "mean": (4,), "var": np.abs(nets.noise(4)) + 0.5}
ATTENTION = """
    a = MatMul(x, q) b = MatMul(x, k) c = MatMul(x, v)
    as = Reshape(a, split) bs = Reshape(b, split) cs = Reshape(c, split)
    at = Transpose <perm = [0,2,1,3]> (as) bt = Transpose <perm = [0,2,3,1]> (bs) ct = Transpose <perm = [0,2,1,3]> (cs)
    s = MatMul(at, bt) p = Softmax <axis = -1> (s) m = MatMul(p, ct)
    mt = Transpose <perm = [0,2,1,3]> (m) j = Reshape(mt, join) w = MatMul(j, o) h = Add(ob, w) y = Add(x, h)
"""


def integers(model: ModelProto, **arrays: list[int]) -> ModelProto:
    for name, numbers in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(numbers, np.int64), name))
    return model


def attention() -> ModelProto:
    weights: dict[str, Any] = {**dict.fromkeys("qkvo", (6, 6)), "ob": (6,)}
    model = nets.build(f"g (float[N,3,6] x) => (float[N,3,6] y) {{ {ATTENTION} }}", weights)
    return integers(model, split=[0, 0, 2, 3], join=[0, 0, 6])


MAY_GO: dict[str, tuple[ModelProto, set[str]]] = {
    "residual": (maps(f"{PAIR} z = Add(c, x) {TAIL}"), {"w1"}),
    "no bias": (maps(f"a = {CONV}(x, w1) r = Relu(a) c = {CONV}(r, w2) z = Add(x, c) {TAIL}"), {"w1"}),
    "norm behind": (
        maps(f"{PAIR} n = BatchNormalization(c, scale, shift, mean, var) e = Relu(n) z = Add(e, x) {TAIL}", NORM),
        {"w1"},
    ),
    "scaled": (maps(f"{PAIR} e = Mul(c, scale) z = Add(e, x) {TAIL}", {"scale": (4, 1, 1)}), {"w1"}),
    "per place": (maps(f"{PAIR} e = Add(c, place) z = Add(e, x) {TAIL}", {"place": (1, 4, 5, 5)}), {"w1"}),
    "transposed": (
        maps(f"{PAIR[:-1].replace('c = Conv', 'c = ConvTranspose')}) z = Sub(x, c) {TAIL}", {"w2": (6, 4, 3, 3)}),
        {"w1"},
    ),
    "bottleneck": (
        maps(
            f"a = Conv(x, w1, b1) r = Relu(a) m = {CONV}(r, wm) s = Relu(m) c = Conv(s, w2, b2) z = Add(x, c) {TAIL}",
            {"w1": (6, 4, 1, 1), "wm": (7, 6, 3, 3), "w2": (4, 7, 1, 1)},
        ),
        {"wm"},
    ),
    "gate": (
        maps(
            f"p = GlobalAveragePool(x) a = Conv(p, w1, b1) r = Relu(a) c = Conv(r, w2, b2) e = Sigmoid(c) "
            f"z = Mul(x, e) {TAIL}",
            {"w1": (6, 4, 1, 1), "w2": (4, 6, 1, 1)},
        ),
        {"w1"},
    ),
    "two side by side": (
        maps(
            f"{PAIR} d = {CONV}(x, w3) f = Relu(d) e = {CONV}(f, w4) z = Add(c, e) {TAIL}",
            {"w3": (3, 4, 3, 3), "w4": (4, 3, 3, 3)},
        ),
        {"w1"},
    ),
    "perceptron": (
        dense("a = MatMul(x, w1) h = Add(a, b1) r = Relu(h) c = MatMul(r, w2) e = Add(c, b2) y = Add(x, e)", DENSE),
        {"w1"},
    ),
    "flat product": (
        integers(
            dense(
                "f = Reshape(x, flat) a = Gemm(f, w1, b1) r = Tanh(a) c = Gemm <beta = 0.5> (r, w2, b2) "
                "e = Reshape(c, full) y = Add(e, x)",
                DENSE,
            ),
            flat=[-1, 5],
            full=[-1, 3, 5],
        ),
        {"w1"},
    ),
    "attention": (attention(), {"q"}),
}


def keep_without(case: Case, gone: frozenset[int], seed: int = 0) -> Keep:
    """Nothing of some groups, and a part of each other."""
    rng, keep = np.random.default_rng(seed), case.graph.keep_all()
    for number, group in enumerate(case.graph.groups):
        size = group.channels.size
        keep[rng.permutation(group.channels)[0 if number in gone else -(-size // 2) :]] = False
    return keep


def check_without(case: Case, keep: Keep) -> ModelProto:
    """The pruned model computes what the masked original does, at several sizes of the batch."""
    assert obstacle_of(case.analysis, keep) == ""
    pruned, mask = apply(case.model, case.graph, keep, Edits()), masked(case.model, case.graph, keep, case.shapes)
    onnx.checker.check_model(pruned, full_check=True)
    for shapes in batches(case.model):
        feeds = example_feeds(case.model, shapes, np.random.default_rng(3))
        assert difference(run(mask, feeds), run(pruned, feeds)) <= EXACT
    return pruned


@pytest.mark.parametrize("name", MAY_GO)
def test_a_branch_goes_and_leaves_a_constant(name: str) -> None:
    model, expected = MAY_GO[name]
    case = problem(model)
    branches = Branches.of(case.analysis)
    assert {case.graph.groups[number].name for number in branches.may_go} == expected
    gone = branches.closed(branches.may_go)
    pruned = check_without(case, keep_without(case, gone))
    left = {name for node in pruned.graph.node for name in node.output}
    assert left < {name for node in model.graph.node for name in node.output}
    # Nothing of the group is stored any more, nor of what only served it.
    stored = {tensor.name: tuple(tensor.dims) for tensor in pruned.graph.initializer}
    weights = {name for name, axes in case.graph.stored_axes() if any(_lies_on(case, gone, ids) for ids in axes)}
    assert weights
    assert weights.isdisjoint(stored)
    assert all(0 not in shape for shape in stored.values())


def _lies_on(case: Case, groups: frozenset[int], ids: np.ndarray[Any, Any]) -> bool:
    return any(np.isin(ids, case.graph.groups[number].channels).any() for number in groups)


def test_what_only_serves_a_branch_goes_with_it() -> None:
    case = problem(MAY_GO["bottleneck"][0])
    branches = Branches.of(case.analysis)
    names = {group.name: number for number, group in enumerate(case.graph.groups)}
    assert branches.closed([names["wm"]]) == {names["w1"], names["wm"]}
    assert branches.closed([]) == frozenset()
    # The first convolution, its weights and its output are of no use without the second group.
    assert all(branches.leaders_of(name) == {names["wm"]} for name in ("a", "r", "w1", "b1", "wm", "m", "w2", "c"))
    # The bias is what is left.
    assert not branches.leaders_of("b2")
    assert not branches.leaders_of("x")


STAYS: dict[str, tuple[ModelProto, str]] = {
    "chain": (maps(f"{PAIR} r2 = Relu(c) y = {CONV}(r2, w9)"), "Conv 'node_y' needs the shape of what it reads"),
    "output": (maps(f"{PAIR} y = Relu(c)"), "the output 'y' would not hang on the input"),
    "joined": (
        maps(f"{PAIR} z = Concat <axis = 1> (c, x) t = Relu(z) y = {CONV}(t, w9)", {"w9": (4, 8, 3, 3)}),
        "Concat 'node_z' needs the shape of what it reads",
    ),
    "another batch": (
        maps(f"{PAIR} z = Add(c, k) t = Relu(z) y = {CONV}(t, w9)", None, "float[N,4,5,5] x, float[1,4,5,5] k"),
        "Add 'node_z' needs the shape of what it reads",
    ),
    "product with a vector": (
        dense(
            "a = MatMul(x, w1) r = Relu(a) c = MatMul(r, w2) q = ReduceMean <axes = [2], keepdims = 0> (x)"
            " z = Add(q, c) u = MatMul(z, w3) y = Add(x, u)",
            {"w1": (5, 9), "w2": (9,), "w3": (3, 5)},
        ),
        "MatMul 'node_a' needs some of it",
    ),
    "smaller operand": (
        maps(f"{PAIR} p = GlobalAveragePool(x) z = Add(c, p) {TAIL}"),
        "Add 'node_z' needs the shape of what it reads",
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_a_group_stays_where_the_shape_of_what_it_leads_to_counts(name: str) -> None:
    model, why = STAYS[name]
    case = problem(model)
    numbers = {group.name: number for number, group in enumerate(case.graph.groups)}
    assert numbers["w1"] not in Branches.of(case.analysis).may_go
    assert obstacle_of(case.analysis, keep_without(case, frozenset({numbers["w1"]}))) == why


def test_a_group_that_stands_beside_others_stays() -> None:
    """A convolution reads it together with what stays, so that its output is no constant."""
    model = maps(
        f"{PAIR} z = Add(c, x) j = Concat <axis = 1> (r, x) k = {CONV}(j, w8) e = Add(z, k) y = {CONV}(e, w9)",
        {"w8": (4, 10, 3, 3)},
    )
    case = problem(model)
    assert not Branches.of(case.analysis).may_go
    assert obstacle_of(case.analysis, keep_without(case, frozenset({0}))) == "Conv 'node_a' needs some of it"


def test_apply_refuses_a_group_that_cannot_go() -> None:
    case = problem(STAYS["joined"][0])
    with pytest.raises(VerificationError, match="a branch cannot go: Concat 'node_z' needs the shape"):
        apply(case.model, case.graph, keep_without(case, frozenset({0})), Edits())


def test_branches_that_meet_do_not_both_go() -> None:
    """Of two branches that are added one must give the sum its shape; each alone may go."""
    case = problem(MAY_GO["two side by side"][0])
    numbers = {group.name: number for number, group in enumerate(case.graph.groups)}
    for name in ("w1", "w3"):
        check_without(case, keep_without(case, frozenset({numbers[name]})))
    assert obstacle_of(case.analysis, keep_without(case, frozenset({numbers["w1"], numbers["w3"]}))) != ""


def test_every_choice_of_branches_is_sound() -> None:
    """Blocks one after the other, the middle one a bottleneck: any of them may go, alone and together."""
    second = "c2 = Conv(z, u1) c3 = Relu(c2) c4 = Conv(c3, u2) c5 = Relu(c4) c6 = Conv(c5, u3) z2 = Add(z, c6)"
    third = f"d1 = Relu(z2) d2 = {CONV}(d1, v1) d3 = Relu(d2) d4 = {CONV}(d3, v2) z3 = Add(d4, z2) y = {CONV}(z3, w9)"
    weights = {"u1": (3, 4, 1, 1), "u2": (5, 3, 1, 1), "u3": (4, 5, 1, 1), "v1": (7, 4, 3, 3), "v2": (4, 7, 3, 3)}
    case = problem(maps(f"{PAIR} z = Add(c, x) {second} {third}", weights))
    branches = Branches.of(case.analysis)
    may_go = sorted(branches.may_go)
    assert [case.graph.groups[number].name for number in may_go] == ["w1", "u2", "v1"]
    nodes = set()
    for chosen in range(1 << len(may_go)):
        some = frozenset(number for place, number in enumerate(may_go) if chosen >> place & 1)
        pruned = check_without(case, keep_without(case, branches.closed(some), chosen))
        nodes.add(len(pruned.graph.node))
    assert min(nodes) == 4
