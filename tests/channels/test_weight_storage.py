"""Where weights live and who else reads them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper
from support.graphs import build, weights_as_inputs
from support.oracle import check_keep, check_oracle, problem, random_keep
from support.rows import ROWS, Row, check_row, model_of

from onnxpfp.channels import Patterns, build_channel_graph
from onnxpfp.channels.ops import RULES
from onnxpfp.model.constants import Constants
from onnxpfp.model.shapes import Shapes

LIVES = [
    Row("Constant node", "w = Constant<value = float[8,2] {1,2,-3,4,5,6,-7,8,1,3,2,4,6,5,7,8}>()\nd = MatMul(c, w)",
        10, 2, x=ROWS),
    Row("behind Identity", "w = Identity(k)\nd = Conv(c, w)", 14, 2, "float[6,8,1,1] k"),
    Row("behind Transpose", "w = Transpose<perm=[1,0]>(k)\nd = MatMul(c, w)", 14, 2, "float[6,8] k", x=ROWS),
    Row("behind Cast", "w = Cast<to=1>(k)\nd = Conv(c, w)", 14, 2, "float16[6,8,1,1] k"),
    Row("behind two", "t = Cast<to=1>(k)\nw = Transpose(t)\nd = MatMul(c, w)", 14, 2, "double[6,8] k", x=ROWS),
    Row("behind Reshape", "w = Reshape(k, r)\nd = Conv(c, w)", 14, 2,
        "float[6,8] k, int64[4] r = {6, 8, 1, 1}"),
    Row("computed", "a = Mul(k, s)\nd = Conv(c, a)", 14, 2, "float[6,8,3,3] k, float[6,1,1,1] s"),
    Row("shared by two convs", "p = Conv(c, w)\nq = Conv(e, w)\nd = Add(p, q)", 14, 2, "float[6,8,3,3] w"),
    Row("shared over a cycle", "p = Conv(c, w)\nd = Conv(p, w)", 8, 1, "float[8,8,3,3] w"),
    Row("dead nodes", "u = Relu(c)\nv2 = Conv(u, w)\nd = Sigmoid(c)", 8, 1, "float[6,8,3,3] w",
        {"w": "no Conv"}),
]  # fmt: skip

BIASES = """g (float[1,3,6,6] x) => (y) <float[8,3,1,1] w1, float[8,8,1,1] w2, float[8,8,1,1] w3, float[5,8,1,1] w4,
        float[8] b> {
    c = Conv(x, w1, b)
    p = Relu(c)
    q = Conv(p, w2, b)
    r = Relu(q)
    t = Conv(r, w3, b)
    y = Conv(t, w4)
}"""


@pytest.mark.parametrize("row", LIVES, ids=str)
def test_weight_lives(row):
    check_row(row)


@pytest.mark.parametrize("ir", [8, 3])
def test_equal_bias_of_three_nodes_gets_copies(ir):
    model = build(BIASES)
    case = check_oracle(weights_as_inputs(model) if ir == 3 else model, seeds=4)
    assert [g.channels.size for g in case.graph.groups] == [8, 8, 8]
    keep = random_keep(case.graph, np.random.default_rng(0))
    pruned = check_keep(case, keep).model
    stored = [*pruned.graph.initializer, *(n.attribute[0].t for n in pruned.graph.node if n.op_type == "Constant")]
    assert sum(len(t.dims) == 1 for t in stored) == 3


def test_bias_shared_with_a_layer_that_stays_whole():
    text = BIASES.replace("y = Conv(t, w4)", "u = Conv(t, w4)\n y = Concat<axis=1>(u, q)")
    case = check_oracle(build(text), seeds=4)
    assert case.reasons["w2"] == "it is the graph output 'y'"


def test_initializers_as_inputs_are_sliced_with_their_declared_shape():
    case = check_oracle(weights_as_inputs(model_of(Row("", "d = Conv(c, w)", 0, weights="float[6,8,3,3] w"))))
    assert case.graph.count == 14


def test_indices_as_inputs_are_renumbered_with_their_declared_shape():
    row = Row("", "d = Gather<axis=1>(c, k)", 0, weights="int64[6] k = {5, 1, 3, 3, 0, -1}")
    check_oracle(weights_as_inputs(model_of(row)), seeds=4)


def test_initializer_that_is_a_graph_output_stays():
    model = build("g (float[1,3,6,6] x) => (y, w) <float[8,3,1,1] w, float[5,8,1,1] u> "
                  "{ c = Conv(x, w)\n y = Conv(c, u) }")  # fmt: skip
    assert [o.name for o in model.graph.output] == ["y", "w"]
    case = problem(model)
    assert case.graph.count == 0
    assert case.reasons["w"] == "it is the graph output 'w'"


def test_intermediate_tensor_as_graph_output_stays():
    case = check_oracle(
        build("""g (float[1,3,6,6] x) => (z, c) <float[8,3,1,1] w, float[6,8,1,1] u, float[5,6,1,1] v2> {
            c = Conv(x, w)
            d = Conv(c, u)
            z = Conv(d, v2)
        }""")
    )
    assert case.graph.count == 6
    assert case.reasons == {"w": "it is the graph output 'c'", "v2": "it is the graph output 'z'"}


def test_several_outputs_of_one_trunk():
    case = check_oracle(
        build("""g (float[1,3,6,6] x) => (z, y) <float[8,3,1,1] w, float[6,8,1,1] u, float[8,5] v2> {
            c = Conv(x, w)
            z = Conv(c, u)
            p = GlobalAveragePool(c)
            f = Flatten(p)
            y = MatMul(f, v2)
        }""")
    )
    assert case.graph.count == 8
    assert len(case.graph.groups[0].consumers) == 2


def test_if_that_captures_a_tensor_fixes_it():
    text = """g (float[1,3,6,6] x, bool q) => (y) <float[8,3,1,1] w, float[6,8,1,1] u, float[5,6,1,1] v2> {
        c = Conv(x, w)
        d = Conv(c, u)
        z = Conv(d, v2)
        i = If (q) <then_branch = t () => (float[1,8,6,6] a) { a = Relu(c) },
                    else_branch = f () => (float[1,8,6,6] b) { b = Neg(c) }>
        m = ReduceMean(i)
        y = Add(z, m)
    }"""
    case = check_oracle(build(text))
    assert case.graph.count == 6
    assert case.reasons["w"] == "If 'i' reads it in a subgraph"


def test_loop_that_captures_a_tensor_fixes_it():
    text = """g (float[1,3,6,6] x) => (y) <float[8,3,1,1] w, float[6,8,1,1] u, float[5,6,1,1] v2,
            int64 n = {2}, float[1,8,6,6] z0> {
        c = Conv(x, w)
        d = Conv(c, u)
        z = Conv(d, v2)
        i = Loop (n, , z0) <body = b (int64 k, bool p, float[1,8,6,6] o) => (bool r, float[1,8,6,6] a) {
            r = Identity(p)
            a = Add(o, c) }>
        m = ReduceMean(i)
        y = Add(z, m)
    }"""
    case = check_oracle(build(text))
    assert case.graph.count == 6
    assert case.reasons["w"] == "Loop 'i' reads it in a subgraph"


def test_op_without_a_rule_fixes_what_it_touches(monkeypatch):
    monkeypatch.delitem(RULES, "Sigmoid")
    row = Row("", "p = Conv(c, w)\nd = Sigmoid(p)", 8, 1, "float[6,8,1,1] w", {"w": "Sigmoid 'd' has no rule"})
    check_row(row)


def test_op_of_another_domain_fixes_what_it_touches():
    text = """g (float[1,3,6,6] x) => (float[1,5,6,6] y)
            <float[8,3,1,1] w, float[6,8,1,1] u, float[5,6,1,1] v2> {
        c = Conv(x, w)
        d = Conv(c, u)
        f = com.acme.Blur(d)
        y = Conv(f, v2)
    }"""
    model = build(text)
    shape = {t.name: tuple(t.dims) for t in model.graph.initializer}
    shape |= {"x": (1, 3, 6, 6), "c": (1, 8, 6, 6), "d": (1, 6, 6, 6), "f": (1, 6, 6, 6), "y": (1, 5, 6, 6)}
    shapes = Shapes(shape, dict.fromkeys(shape, 1), {"x": (1, 3, 6, 6)})
    graph = build_channel_graph(model, shapes, Constants.of(model), Patterns())
    assert graph.count == 8
    assert [f.reason for f in graph.fixed if f.tensor == "u"] == ["Blur 'f' has no rule"]


def test_kept_filters_are_the_original_numbers():
    case = problem(model_of(Row("", "d = Relu(c)", 8)))
    keep = case.graph.keep_all()
    keep[[2, 3, 7]] = False
    pruned = check_keep(case, keep).model
    old, new = (numpy_helper.to_array(m.graph.initializer[0]) for m in (case.model, pruned))
    assert np.array_equal(old[[0, 3, 4, 5, 7]], new)
