"""Shuffles and splits let every channel go by itself, and still compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support.graphs import build
from support.oracle import check_oracle, problem, run

from onnxpfp import prune
from onnxpfp.channels.decouple import decouple_shuffles

IMAGE = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)}


def net(body: str, opset: int = 17, weights: str = "") -> ModelProto:
    declared = f"float[8,3,1,1] w, float[5,8,1,1] v{weights}"
    text = f"g (float[N,3,4,5] x) => (float[N,5,4,5] y) <{declared}> {{\nc = Conv(x, w)\n{body}\ny = Conv(d, v)}}"
    return build(text, opset=opset)


SHUFFLE = """
    s = Constant<value = int64[5] {0,2,4,4,5}>()
    r = Reshape(c, s)
    t = Transpose<perm=[0,2,1,3,4]>(r)
    q = Constant<value = int64[4] {0,8,4,5}>()
    d = Reshape(t, q)
"""
DYNAMIC_SHUFFLE = """
    shape = Shape(c)
    zero = Constant<value = int64[1] {0}>()
    n = Gather(shape, zero)
    rest = Constant<value = int64[4] {2,4,4,5}>()
    s = Concat<axis=0>(n, rest)
    r = Reshape(c, s)
    t = Transpose<perm=[0,2,1,3,4]>(r)
    back = Constant<value = int64[3] {8,4,5}>()
    q = Concat<axis=0>(n, back)
    d = Reshape(t, q)
"""
SPLIT = "a, b = Split<axis=1>(c)\nd = Concat<axis=1>(b, a)"
SPLIT_18 = "a, b = Split<axis=1, num_outputs=2>(c)\nd = Concat<axis=1>(b, a)"


@pytest.mark.parametrize(
    ("body", "opset", "ops"),
    [
        (SHUFFLE, 17, ["Conv", "Gather", "Conv"]),
        (DYNAMIC_SHUFFLE, 17, ["Conv", "Gather", "Conv"]),
        (SPLIT, 11, ["Conv", "Split", "Concat", "Conv"]),
        (SPLIT, 17, ["Conv", "Split", "Concat", "Conv"]),
        (SPLIT_18, 18, ["Conv", "Split", "Concat", "Conv"]),
    ],
    ids=["shuffle", "dynamic shuffle", "split, opset 11", "split, opset 17", "split, opset 18"],
)
def test_every_channel_goes_by_itself(body: str, opset: int, ops: list[str]) -> None:
    model = net(body, opset)
    before = model.SerializeToString()
    case = problem(model)
    assert case.graph.count == 4
    loose = decouple_shuffles(model, case.graph, case.shapes)
    assert loose is not None
    assert model.SerializeToString() == before
    assert [node.op_type for node in loose.graph.node] == ops
    onnx.checker.check_model(loose, full_check=True)
    assert (run(loose, IMAGE)["y"] == run(model, IMAGE)["y"]).all()
    assert problem(loose).graph.count == 8
    check_oracle(loose, seeds=3)


def test_shuffles_in_a_row_do_not_join_the_channels() -> None:
    body = SHUFFLE.replace("d =", "d0 =")
    for number in range(3):
        body += f"e{number} = Conv<group=8>(d{number}, k)\nr{number} = Reshape(e{number}, s)\n"
        body += f"t{number} = Transpose<perm=[0,2,1,3,4]>(r{number})\nd{number + 1} = Reshape(t{number}, q)\n"
    model = net(body + "d = Identity(d3)", weights=", float[8,1,1,1] k")
    result = prune(model, calibration="random", keep_macs=0.55)
    assert result.report.oracle.error < 1e-5
    assert [node.op_type for node in result.model.graph.node].count("Gather") == 4


@pytest.mark.parametrize(
    "body",
    [
        "d = Relu(c)",
        # Positions move, not channels alone.
        "s = Constant<value = int64[5] {0,2,4,4,5}>()\nr = Reshape(c, s)\nt = Transpose<perm=[0,2,1,4,3]>(r)\n"
        "q = Constant<value = int64[4] {0,8,4,5}>()\nd = Reshape(t, q)",
        # The sizes are spelt already.
        "n = Constant<value = int64[2] {4,4}>()\na, b = Split<axis=1>(c, n)\nd = Concat<axis=1>(b, a)",
    ],
    ids=["nothing", "more than a shuffle", "sizes"],
)
def test_what_ties_nothing_is_left_alone(body: str) -> None:
    case = problem(net(body))
    assert decouple_shuffles(case.model, case.graph, case.shapes) is None


def test_a_shuffle_of_what_stays_is_left_alone() -> None:
    model = build(
        """g (float[N,8,4,5] x) => (float[N,5,4,5] y) <float[5,8,1,1] w> {
            s = Constant<value = int64[5] {0,2,4,4,5}>()
            r = Reshape(x, s)
            t = Transpose<perm=[0,2,1,3,4]>(r)
            q = Constant<value = int64[4] {0,8,4,5}>()
            d = Reshape(t, q)
            y = Conv(d, w)
        }"""
    )
    case = problem(model)
    assert decouple_shuffles(model, case.graph, case.shapes) is None


def test_keeping_everything_gives_the_bytes_back() -> None:
    model = net(SHUFFLE)
    assert prune(model, keep_macs=1.0).unchanged == model.SerializeToString(deterministic=True)
