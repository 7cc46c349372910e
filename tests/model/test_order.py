"""Files whose nodes are out of order: sorted on loading, in all graphs, and written so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, parser
from support.graphs import build
from support.oracle import difference, run

import onnxpfp
from onnxpfp.errors import ModelError
from onnxpfp.model.constants import all_graphs, subgraphs
from onnxpfp.model.load import load
from onnxpfp.model.order import with_sorted_nodes

DECLARED = "float[5,3,3,3] w0, float[8,5,1,1] w1, float[8] b1, float[8,8,1,1] w2, float[4,8,1,1] w3"
LAYERS = "f0 = Conv(x, w0)\na = Conv(f0, w1, b1)\nr = Relu(a)\n{middle}\ny = Conv(z, w3)"
CONDITION = "m = ReduceSum<keepdims = 0>(x)\nt = Cast<to = 9>(m)\n"
NO = "else_branch = no () => (o2) { o2 = Neg(r) }>"
MIDDLES = {
    "a residual": "c = Conv(r, w2)\nn = Neg(c)\nz = Add(n, r)",
    "constants": "k = Constant<value_float = 0.5>()\nl = Constant<value_float = 2.0>()\nc = Mul(r, k)\nz = Mul(c, l)",
    "several outputs": "s = Constant<value_ints = [4, 4]>()\np, q = Split(r, s)\nn = Neg(q)\nz = Concat<axis=0>(p, n)",
    "computed shapes": "s = Shape(r)\ng = Size(r)\nd = Cast<to = 1>(g)\ne = Div(r, d)\nz = Reshape(e, s)",
    "a branch that captures": CONDITION + "u = Conv(r, w2)\n"
    "z = If(t) <then_branch = yes () => (o) { p = Neg(u)\n q = Relu(p)\n o = Add(q, u) }, " + NO,
    "a loop": "t = Constant<value = int64[1] {2}>()\nn = Squeeze(t)\nc = Constant<value = bool {1}>()\n"
    "z = Loop(n, c, r) <body = b (int64 i, bool go, float[8,8,6,6] v) => (bool on, float[8,8,6,6] o) "
    "{ on = Identity(go)\n p = Neg(v)\n q = Abs(p)\n o = Relu(q) }>",
    "graphs in a graph": CONDITION
    + "z = If(t) <then_branch = yes () => (o) { p = Neg(r)\n g = Not(t)\n o = If(g) <then_branch = in1 () => (i1) "
    "{ h = Relu(p)\n i1 = Neg(h) }, else_branch = in2 () => (i2) { h2 = Abs(p)\n i2 = Neg(h2) }> }, "
    "else_branch = no () => (o2) { p2 = Neg(r)\n o2 = Relu(p2) }>",
}


def network(middle: str) -> ModelProto:
    model = build(
        f"g (float[8,3,8,8] x) => (float[8,4,6,6] y) <{DECLARED}> {{\n{LAYERS.format(middle=middle)}\n}}", opset=13
    )
    del model.graph.value_info[:]
    return model


def shuffled(model: ModelProto, seed: int) -> ModelProto:
    """Reverse the nodes of every inner graph, and shuffle those of the main one."""
    copy = ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(seed)

    def put(graph: GraphProto, order: Sequence[int]) -> None:
        for node in graph.node:
            for inner in subgraphs(node):
                put(inner, range(len(inner.node))[::-1])
        nodes = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
        del graph.node[:]
        graph.node.extend(nodes)

    put(copy.graph, rng.permutation(len(copy.graph.node)).tolist())
    return copy


def images(samples: int = 8) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((samples, 3, 8, 8)).astype(np.float32)


@pytest.fixture(params=MIDDLES.values(), ids=MIDDLES.keys())
def model(request) -> ModelProto:
    return network(request.param)


@pytest.mark.parametrize("seed", range(3))
def test_sorted_graphs_compute_the_same(model, seed):
    again = with_sorted_nodes(shuffled(model, seed))
    onnx.checker.check_model(again)
    assert difference(run(model, {"x": images()}), run(again, {"x": images()})) == 0


def test_sorted_model_is_the_same_object(model):
    assert with_sorted_nodes(model) is model


def test_sorting_keeps_the_order_of_the_file_where_it_can():
    model = network(MIDDLES["a residual"])
    nodes = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([nodes[0], nodes[3], nodes[1], nodes[2], *nodes[4:]])
    assert [node.output[0] for node in with_sorted_nodes(model).graph.node] == ["f0", "a", "r", "c", "n", "z", "y"]


def test_given_model_is_not_changed(model):
    mixed = shuffled(model, 0)
    before = mixed.SerializeToString(deterministic=True)
    with_sorted_nodes(mixed)
    assert mixed.SerializeToString(deterministic=True) == before


def test_groups_and_result_are_those_of_the_sorted_file(model, tmp_path):
    onnx.save(shuffled(model, 0), tmp_path / "in.onnx")
    options = {"calibration": {"x": images()}, "keep_macs": 0.7}
    result = onnxpfp.prune(tmp_path / "in.onnx", **options)
    groups = [(group.name, group.kept) for group in result.report.groups]
    assert groups == [(group.name, group.kept) for group in onnxpfp.prune(model, **options).report.groups]
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert np.isfinite(run(written, {"x": images()})["y"]).all()


def test_file_from_which_nothing_goes_keeps_its_bytes(model, tmp_path):
    onnx.save(shuffled(model, 0), tmp_path / "in.onnx")
    result = onnxpfp.prune(tmp_path / "in.onnx", calibration={"x": images()}, keep_macs=1)
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()


FUNCTION = """<opset_import: ["": 13], domain: "local">
mine (a, w) => (b) { c = Conv (a, w)
 b = Relu (c) }"""


def test_bodies_of_functions_are_sorted(tmp_path):
    text = f"""<ir_version: 8, opset_import: ["": 13, "local": 1]>
g (float[8,3,8,8] x) => (float[8,4,6,6] y) {{
f0 = Conv(x, w0)\n r = local.mine(f0, w1)\n z = local.mine(r, w2)\n y = Conv(z, w3) }}\n{FUNCTION}"""
    model = parser.parse_model(text)
    model.graph.initializer.extend(
        t for t in network("z = Neg(r)\nc = Conv(r, w2)").graph.initializer if t.name != "b1"
    )
    wanted = run(model, {"x": images()})
    nodes = [*model.functions[0].node][::-1]
    del model.functions[0].node[:]
    model.functions[0].node.extend(nodes)
    assert difference(wanted, run(load(model).model, {"x": images()})) < 1e-6
    result = onnxpfp.prune(model, calibration={"x": images()}, keep_macs=0.7)
    assert {group.name for group in result.report.groups} == {"w0", "w1", "w2"}
    assert any("cannot load the file as it was given" in note for note in result.report.notes)


def test_unsorted_branch_is_said_to_be_refused_by_onnxruntime():
    model = network(MIDDLES["a branch that captures"])
    inner = next(graph for graph in all_graphs(model) if graph.name == "yes")
    nodes = [*inner.node][::-1]
    del inner.node[:]
    inner.node.extend(nodes)
    notes = onnxpfp.prune(model, calibration={"x": images()}, keep_macs=0.7).report.notes
    assert sum("cannot load the file as it was given: " in note for note in notes) == 1


@pytest.mark.parametrize(
    "cycle",
    [
        "c = Neg(z)\nz = Add(c, r)",
        "z = Add(z, r)",
        CONDITION + "z = If(t) <then_branch = yes () => (o) { o = Neg(z) }, " + NO,
        CONDITION + "z = If(t) <then_branch = yes () => (o) { o = Neg(p)\np = Neg(o) }, " + NO,
    ],
    ids=["two nodes", "one node", "through a branch", "inside of a branch"],
)
def test_cycle_is_named(cycle):
    text = f"g (float[8,3,8,8] x) => (float[8,4,6,6] y) {{\n{LAYERS.format(middle=cycle)}\n}}"
    model = onnx.helper.make_model(parser.parse_graph(text), opset_imports=[onnx.helper.make_opsetid("", 13)])
    with pytest.raises(ModelError, match=r"the graph is cyclic: \w+ '\w+' depends on its own output"):
        load(model)
