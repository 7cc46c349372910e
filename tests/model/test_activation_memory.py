"""The peak of activations, against a simulation that allocates and frees, and against sums by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from support.graphs import build

import onnxpfp
from onnxpfp.model.activation_memory import ActivationPeak, LiveTensor, activation_peak
from onnxpfp.model.load import load
from onnxpfp.model.shapes import Shapes, concrete_shapes

BYTES = {TensorProto.FLOAT: 4.0, TensorProto.FLOAT16: 2.0, TensorProto.INT64: 8.0, TensorProto.BOOL: 1.0}
BYTES |= {TensorProto.INT4: 0.5, TensorProto.UINT8: 1.0}


def peak(model: ModelProto, **shapes: tuple[int, ...]) -> ActivationPeak:
    """Find the peak of a model at these input shapes."""
    return activation_peak(model, concrete_shapes(model, shapes))


@dataclass(frozen=True)
class Case:
    """A graph of ops that nobody knows, and how large its tensors are."""

    model: ModelProto
    shapes: Shapes
    bytes: dict[str, int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a graph: weights, nodes behind them alone, several outputs, captures, tensors that nobody reads."""
    inputs = [f"x{number}" for number in range(draw(st.integers(0, 3)))]
    stored = [f"w{number}" for number in range(draw(st.integers(0, 2)))]
    known = [*inputs, *stored]
    nodes: list[NodeProto] = []
    for number in range(draw(st.integers(1, 9))):
        some = st.lists(st.sampled_from(known), max_size=3) if known else st.just([])
        read, captured = draw(some), draw(some)
        outputs = [f"t{number}_{part}" for part in range(draw(st.integers(1, 3)))]
        node = helper.make_node("Any", read, outputs, domain="nobody", name=f"n{number}")
        if draw(st.booleans()):
            inner = [helper.make_node("Any", captured, [f"i{number}"], domain="nobody")]
            body = helper.make_graph(inner, "body", [], [onnx.ValueInfoProto(name=f"i{number}")])
            node.attribute.append(helper.make_attribute("body", body))
        nodes.append(node)
        known += outputs
    shown = draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
    infos = [[helper.make_tensor_value_info(name, 1, [1]) for name in names] for names in (inputs, shown)]
    weights = [numpy_helper.from_array(np.zeros(1, np.float32), name) for name in stored]
    model = helper.make_model(helper.make_graph(nodes, "g", *infos, weights))
    shape = {name: tuple(draw(st.lists(st.integers(0, 4), max_size=3))) for name in known}
    dtype = {name: draw(st.sampled_from([*BYTES])) for name in known}
    return Case(
        model,
        Shapes(shape, dtype, {}),
        {name: math.ceil(math.prod(shape[name]) * BYTES[dtype[name]]) for name in known},
    )


def _reads(node: NodeProto) -> set[str]:
    captured = (name for attribute in node.attribute for inner in attribute.g.node for name in inner.input)
    return {*node.input, *captured}


def simulated(case: Case) -> list[set[str]]:
    """Run the graph with a memory: what is in it at every node, after its outputs were allocated."""
    graph = case.model.graph
    shown = {info.name for info in graph.output}
    ready = {tensor.name for tensor in graph.initializer}
    running: list[NodeProto] = []
    for node in graph.node:
        if node.input and not node.attribute and ready.issuperset(node.input):
            ready |= set(node.output)
        else:
            running.append(node)
    memory = {info.name for info in graph.input}
    seen: list[set[str]] = []
    for position, node in enumerate(running):
        memory |= set(node.output)
        seen.append(set(memory))
        needed = shown.union(*map(_reads, running[position + 1 :]))
        memory &= needed
    return seen or [memory]


@given(cases())
@settings(max_examples=400)
def test_random_graphs_take_what_a_simulation_takes(case: Case) -> None:
    found = activation_peak(case.model, case.shapes)
    steps = simulated(case)
    taken = [sum(case.bytes[name] for name in step) for step in steps]
    assert found.bytes == max(taken)
    fullest = steps[taken.index(found.bytes)]
    assert {tensor.name: tensor.bytes for tensor in found.tensors} == {
        name: case.bytes[name] for name in fullest if case.bytes[name]
    }
    assert [tensor.bytes for tensor in found.tensors] == sorted((t.bytes for t in found.tensors), reverse=True)
    assert found.unsized == ()


def test_a_chain_is_largest_where_the_second_filters_are_activated() -> None:
    # x 3, a and r 8, c and s 10 channels of 64 floats: c and s together, nothing else is left.
    found = peak(nets.chain(), x=(1, 3, 8, 8))
    assert found == ActivationPeak(
        2 * 10 * 64 * 4, "Relu", "node_s", (LiveTensor("c", 10 * 64 * 4), LiveTensor("s", 10 * 64 * 4))
    )
    assert peak(nets.chain(), x=(4, 3, 8, 8)).bytes == 4 * found.bytes


def test_a_shortcut_stays_up_to_its_add() -> None:
    model = build(
        """agraph (float[1,4,6,6] x) => (float y) <float[4,4,1,1] w1, float[4,4,1,1] w2> {
            a = Conv(x, w1) b = Relu(a) c = Conv(b, w2) y = Add(c, x) }"""
    )
    found = peak(model)
    assert (found.bytes, found.op, found.node) == (3 * 4 * 36 * 4, "Relu", "b")
    assert {tensor.name for tensor in found.tensors} == {"x", "a", "b"}


def test_types_have_their_own_sizes() -> None:
    model = build(
        """agraph (float[2,8] x) => (float16 h, bool m) <float[2,8] w> {
            h = Cast<to = 10>(x) m = Greater(x, w) i = Cast<to = 7>(x) }"""
    )
    # x 64 and h 32, then m 16, then i 128.
    assert peak(model).bytes == 64 + 32 + 16 + 128


def test_outputs_stay_to_the_end_and_inputs_do_not() -> None:
    model = build("agraph (float[1,100] x) => (float a, float y) { a = Relu(x) b = Neg(a) c = Neg(b) y = Neg(c) }")
    found = peak(model)
    assert (found.bytes, found.node) == (1200, "c")
    assert {tensor.name for tensor in found.tensors} == {"a", "b", "c"}


@pytest.mark.parametrize(
    "before",
    ["w2 = Transpose<perm = [1, 0]> (w)", "c = Constant<value = float[1] {2.0}> () w2 = Mul(w, c)"],
)
def test_what_follows_from_weights_is_none(before: str) -> None:
    model = build(f"agraph (float[1,10] x) => (float y) <float[10,10] w> {{ {before} y = MatMul(x, w2) }}")
    assert peak(model) == ActivationPeak(80, "MatMul", "y", (LiveTensor("x", 40), LiveTensor("y", 40)))


def test_a_weight_that_is_listed_as_an_input_or_shown_is_none() -> None:
    model = build("agraph (float[1,10] x) => (float y, float[10,10] w) <float[10,10] w> { y = MatMul(x, w) }")
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [10, 10]))
    assert peak(model).bytes == 80


def test_text_and_sequences_have_no_size_and_are_named() -> None:
    model = build(
        """agraph (float[1,10] x) => (float y) {
            t = Cast<to = 8>(x) z = Cast<to = 1>(t) s = SequenceConstruct(z, z) y = ConcatFromSequence<axis = 0>(s) }"""
    )
    found = peak(model)
    assert found.unsized == ("t", "s")
    # y alone: what the sequence holds is not counted.
    assert (found.bytes, found.op) == (80, "ConcatFromSequence")


def test_bodies_are_named_and_what_they_capture_stays() -> None:
    body = "(float[1,10] {0}) {{ {0} = Neg(a) }}"
    model = build(
        f"""agraph (float[1,10] x, bool b) => (float y) {{
            a = Relu(x) c = Neg(x) d = Neg(c)
            e = If (b) <then_branch = g1 () => {body.format("p")}, else_branch = g2 () => {body.format("q")}>
            y = Add(d, e) }}"""
    )
    found = peak(model)
    assert found.bodies == ("e",)
    # Before it x, a and c, then a, c and d; a stays for the bodies.
    assert (found.bytes, found.node) == (1 + 3 * 40, "c")
    assert "a" in {tensor.name for tensor in found.tensors}


def test_a_graph_without_nodes_has_its_inputs() -> None:
    info = helper.make_tensor_value_info("x", 1, [5])
    model = helper.make_model(helper.make_graph([], "g", [info], [info]))
    assert activation_peak(model, Shapes({"x": (5,)}, {"x": 1}, {"x": (5,)})) == ActivationPeak(
        20, "", "", (LiveTensor("x", 20),)
    )


# Input images 1x28x28 floats, activations by hand from models/architectures.py.
BY_HAND = {
    # BatchNormalization of the stem: 16 channels of 28x28, twice.
    "resnet": 2 * 16 * 28 * 28 * 4,
    # The last Relu but one of the first block: the Concat of 80 channels of 14x14, normalized and activated.
    "densenet": 3 * 80 * 14 * 14 * 4,
    # BatchNormalization of an expansion: 96 channels of 14x14, twice, and the 24 that the shortcut takes.
    "mobilenet": (2 * 96 + 24) * 14 * 14 * 4,
}


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_trained_networks(name: str) -> None:
    path = nets.network(name)
    assert peak(onnx.load(path), images=(1, 1, 28, 28)).bytes == BY_HAND[name]
    assert onnxpfp.inspect(path).activations.bytes == BY_HAND[name]


SHUFFLE = """agraph (float[1,4,6,6] x) => (float y) <float[8,4,1,1] w1, float[3,8,1,1] w2, int64[5] s1, int64[4] s2> {
    a = Conv(x, w1) b = Reshape(a, s1) c = Transpose<perm = [0,2,1,3,4]> (b) d = Reshape(c, s2) y = Conv(d, w2) }"""


def test_a_shuffle_that_is_read_as_one_gather_takes_as_much() -> None:
    model = build(SHUFFLE)
    sizes = {"s1": [1, 2, 4, 6, 6], "s2": [1, 8, 6, 6]}
    for tensor in model.graph.initializer:
        if tensor.name in sizes:
            tensor.CopyFrom(numpy_helper.from_array(np.array(sizes[tensor.name]), tensor.name))
    found: Any = onnxpfp.inspect(model).activations
    assert found.op == "Gather"
    assert found.bytes == peak(load(model).model).bytes == 2 * 8 * 36 * 4


def test_a_pruning_and_a_verification_count_both_files(tmp_path: Any) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(nets.chain(), source)
    result = onnxpfp.prune(source, keep_params=0.5, no_latency=True)
    onnxpfp.save_result(result, target)
    kept = {group.name: group.kept for group in result.report.groups}
    before, after = result.report.before.activations, result.report.after.activations
    assert before.bytes == 2 * 10 * 64 * 4
    # The second Relu, or where it lost more the first; the Conv between has both.
    assert after.bytes == 2 * max(kept["w1"], kept["w2"]) * 64 * 4 < before.bytes
    verified = onnxpfp.verify(source, target, no_latency=True)
    assert (verified.before.activations, verified.after.activations) == (before, after)
    document = result.report.to_dict()["after"]["activations"]
    assert (document["bytes"], document["op"], len(document["tensors"])) == (after.bytes, "Relu", 2)


def test_where_nothing_goes_both_are_the_same() -> None:
    report = onnxpfp.prune(nets.chain(), keep_macs=1.0).report
    assert report.before.activations == report.after.activations == onnxpfp.inspect(nets.chain()).activations


def test_a_file_that_is_not_run_has_none() -> None:
    other = nets.build(nets.CHAIN.replace("[N,3,8,8] x", "[N,3,8,8] z").replace("(x,", "(z,"), nets.CHAIN_SHAPES)
    report = onnxpfp.verify(nets.chain(), other)
    assert report.before.activations is not None
    assert report.after.activations is None
