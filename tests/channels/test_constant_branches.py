"""An If that takes the same branch in every run does not stand in the way of pruning."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support.oracle import check_oracle, problem, run

from onnxpfp import prune
from onnxpfp.channels.constant_branches import inline_constant_if
from onnxpfp.model.shapes import concrete_shapes

SQUEEZE = """<ir_version: 8, opset_import: ["": 17]>
g (float[B,3,HEIGHT,L] x) => (float[B,5,M] y) <float[8,3,1,1] w, float[5,8,1] v, int64 two = {2}, int64 one = {1}> {
    h = Conv(x, w)
    s = Shape(h)
    d = Gather<axis=0>(s, two)
    c = Equal(d, one)
    z = If (c) <
        then_branch = a () => (float[p,q,r] t) { ax = Constant<value = int64[1] {2}>() t = Squeeze(h, ax) },
        else_branch = b () => (float[p,q,r,u] e) { e = Identity(h) }
    >
    y = Conv(z, v)
}"""


def parsed(text: str) -> ModelProto:
    """Parse a model and fill in the weights."""
    found = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for shape, name in re.findall(r"float\[([0-9,]+)\] (\w)(?=[,>])", text):
        values = rng.standard_normal([int(size) for size in shape.split(",")]).astype(np.float32)
        for tensor in [tensor for tensor in found.graph.initializer if tensor.name == name]:
            found.graph.initializer.remove(tensor)
        found.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        for info in [info for info in found.graph.value_info if info.name == name]:
            found.graph.value_info.remove(info)
    return found


def model(height: str) -> ModelProto:
    return parsed(SQUEEZE.replace("HEIGHT", height))


def test_the_branch_takes_the_place_of_the_if() -> None:
    given = model("1")
    before = given.SerializeToString()
    graph = problem(given).graph
    assert graph.count == 0
    taken = inline_constant_if(given, graph)
    assert taken is not None
    assert given.SerializeToString() == before
    assert [node.op_type for node in taken.graph.node] == ["Conv", "Constant", "Squeeze", "Conv"]
    onnx.checker.check_model(taken)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 1, 7)).astype(np.float32)}
    assert (run(taken, feed)["y"] == run(given, feed)["y"]).all()
    assert problem(taken).graph.count == 8
    check_oracle(taken, seeds=2)


def test_pruning_through_the_front_door() -> None:
    data = np.random.default_rng(0).standard_normal((8, 3, 1, 7)).astype(np.float32)
    result = prune(model("1"), calibration=data, keep_macs=0.6)
    assert result.report.oracle.error < 1e-5
    assert "If" not in {node.op_type for node in result.model.graph.node}


def test_a_condition_that_the_input_decides_stays() -> None:
    """With a free height it is the user's input that takes one branch or the other."""
    given = model("H")
    shapes = concrete_shapes(given, {"x": (1, 3, 1, 7)})
    assert inline_constant_if(given, problem(given, shapes=shapes).graph) is None


NESTED = """<ir_version: 8, opset_import: ["": 17]>
g (float[B,3] x) => (float[B,5] y) <float[3,8] w, float[8,5] v, int64 one = {1}, int64 a1 = {1}, int64 wide = {8}> {
    h = MatMul(x, w)
    s = Shape(x)
    d = Gather<axis=0>(s, a1)
    c = Greater(d, one)
    z = If (c) <
        then_branch = a () => (float[p,q] t) {
            k = Constant<value = float[1] {2.0}>()
            m = Mul(h, k)
            t = If (c) <
                then_branch = a2 () => (float[p,q] i) { i = Relu(m) },
                else_branch = b2 () => (float[p,q] j) { j = Identity(m) }
            >
        },
        else_branch = b () => (float[p,q] e) { e = Neg(h) }
    >
    y = MatMul(z, v)
}"""


def test_a_branch_inside_a_branch() -> None:
    given = parsed(NESTED)
    once = inline_constant_if(given, problem(given).graph)
    assert once is not None
    twice = inline_constant_if(once, problem(once).graph)
    assert twice is not None
    assert [node.op_type for node in twice.graph.node][-3:] == ["Mul", "Relu", "MatMul"]
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)}
    np.testing.assert_allclose(run(twice, feed)["y"], run(given, feed)["y"], rtol=1e-6)
    result = prune(given, calibration="random", keep_macs=0.6)
    assert result.report.oracle.error < 1e-5


@pytest.mark.parametrize("height", ["1", "H"])
def test_keeping_everything_gives_the_bytes_back(height: str) -> None:
    given = model(height)
    data = np.random.default_rng(0).standard_normal((4, 3, 1, 7)).astype(np.float32)
    result = prune(given, calibration=data, keep_macs=1.0)
    assert result.unchanged == given.SerializeToString(deterministic=True)
