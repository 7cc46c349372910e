"""What no removal passes through is written as the file computed it; a file grows only where it has to."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support.graphs import build
from support.oracle import run

import onnxpfp
from onnxpfp.model.constants import stored_tensors

# A table of 16 x 40 numbers that the graph computes from fewer, or mixes. Its columns stay: they are normalised over.
TABLES: dict[str, tuple[str, str]] = {
    "product": ("table = MatMul(left, right)", "float[16,2] left, float[2,40] right"),
    "waves": (
        "p = MatMul(column, row)\n c = Cos(p)\n window = ReduceMax<keepdims=1>(c)\n table = Mul(c, window)",
        "float[16,1] column, float[1,40] row",
    ),
    "scattered": (
        "shape = Constant<value = int64[2] {16,40}>()\n zero = ConstantOfShape(shape)\n"
        "at = Constant<value = int64[1,4] {0,3,5,9}>()\n table = ScatterElements<axis=0>(zero, at, peaks)",
        "float[1,4] peaks",
    ),
    "softmax": ("table = Softmax<axis=1>(rows)", "float[16,40] rows"),
    "repeated": (
        "m = ReduceMean<axes=[0],keepdims=1>(few)\n s = Sub(few, m)\n times = Constant<value = int64[2] {4,1}>()\n"
        "table = Tile(s, times)",
        "float[4,40] few",
    ),
    "parts of one": (
        "p = MatMul(left, right)\n table, rest = Split<axis=1>(p)",
        "float[16,2] left, float[2,80] right",
    ),
    "Constant nodes": (
        "left = Constant<value = float[16,1] {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}>()\n table = MatMul(left, right)",
        "float[1,40] right",
    ),
}


def network(body: str, weights: str, extra: str = "", opset: int = 13) -> ModelProto:
    """A table, then two layers whose channels can go."""
    return build(
        f"""g (float[N,16] x) => (float[N,3] y)
        <{weights}, float[40] scale, float[40,24] w1, float[24] b1, float[24,24] w2, float[24,3] w3> {{
            {body}
            e = MatMul(x, table)
            n = Softmax(e)
            a = Gemm(n, w1, b1)
            r = Relu(a)
            b = MatMul(r, w2)
            q = Relu(b)
            {extra}
            y = MatMul(q, w3)
        }}""",
        opset=opset,
    )


def prune(model: ModelProto, **options: Any) -> onnxpfp.Result:
    return onnxpfp.prune(model, **{"keep_macs": 0.7, "round_to": 1} | options)


def grew(result: onnxpfp.Result) -> bool:
    return any("larger than the original" in note for note in result.report.notes)


@pytest.mark.parametrize("how", ["weights", "data", "steps"])
@pytest.mark.parametrize("case", TABLES)
def test_a_table_is_written_as_it_was_computed(case: str, how: str) -> None:
    model = network(*TABLES[case])
    data = {
        "weights": {},
        "data": {"calibration": nets.noise(64, 16)},
        "steps": {"calibration": nets.noise(64, 16), "steps": 2},
    }
    result = prune(model, **data[how])
    written = result.model
    onnx.checker.check_model(written, full_check=True)
    before = {node.output[0]: node for node in model.graph.node}
    after = {node.output[0]: node for node in written.graph.node}
    order = [name for name in after if name in before]
    assert order == list(before)
    assert all(after[name] == node for name, node in before.items() if name in {*order[: order.index("e")]})
    old, new = stored_tensors(model.graph), stored_tensors(written.graph)
    assert "table" not in new
    assert all(
        new[name] == old[name] for name in ("left", "right", "column", "row", "peaks", "rows", "few") if name in old
    )
    assert [tuple(new[name].dims) for name in ("w1", "w2")] != [(40, 24), (24, 24)]
    assert result.report.after.bytes == len(written.SerializeToString()) < len(model.SerializeToString())
    assert not grew(result)


def test_a_pruned_computed_weight_is_stored_and_its_neighbour_is_not() -> None:
    body, weights = TABLES["softmax"]
    model = network(f"{body}\n v = Softmax<axis=0>(other)", f"{weights}, float[24,24] other").graph
    text = onnx.printer.to_text(model)
    assert "v = Softmax" in text
    whole = network(
        body + "\n v = Softmax<axis=0>(other)", f"{weights}, float[24,24] other", "k = MatMul(q, v)\n z = Relu(k)"
    )
    whole.graph.node[-1].input[0] = "z"
    result = prune(whole)
    new = stored_tensors(result.model.graph)
    assert {"rows", "v"} <= new.keys()
    assert not {"table", "other"} & new.keys()
    assert tuple(new["v"].dims) != (24, 24)


@pytest.mark.parametrize("option", [{}, {"calibration": nets.noise(64, 16)}], ids=["weights", "data"])
def test_a_low_rank_weight_that_is_cut_stays_a_product(option: dict[str, Any]) -> None:
    extra = "v = MatMul(left2, right2)\n k = MatMul(q, v)\n z = Tanh(k)"
    weights = f"{TABLES['softmax'][1]}, float[24,1] left2, float[1,24] right2"
    model = network(TABLES["softmax"][0], weights, extra)
    model.graph.node[-1].input[0] = "z"
    result = prune(model, keep_macs=0.5, **option)
    new = stored_tensors(result.model.graph)
    assert "v" not in new
    rows, columns = new["left2"].dims[0], new["right2"].dims[1]
    assert min(rows, columns) < 24
    assert (new["w2"].dims[1], new["w3"].dims[0]) == (rows, columns)
    assert result.report.after.bytes < result.report.before.bytes


def test_a_constant_that_was_cut_for_another_reader_is_there_twice_if_that_takes_less() -> None:
    """The vector scales the rows of the table, and is the bias of a layer that loses channels."""
    body = "m = Mul(left, side)\n table = MatMul(m, right)"
    model = network(body, "float[16,1] left, float[1,24] side, float[24,40] right", "s = Add(q, side)\n z = Relu(s)")
    model.graph.node[-1].input[0] = "z"
    result = prune(model)
    new = stored_tensors(result.model.graph)
    assert "table" not in new
    shapes = sorted(tuple(tensor.dims) for name, tensor in new.items() if name.startswith("side"))
    assert shapes == sorted([(1, 24), (1, new["w3"].dims[0])])
    feed = {"x": nets.noise(5, 16)}
    assert run(result.model, feed)["y"].shape == (5, 3)


FACTORS = "float[16,1] left, float[1,40] right, float[24,1] rows, float[1,24] columns, float[1,24] others"
SHARED_FACTORS: dict[str, tuple[str, str]] = {
    "rows, whole first": (
        "u = MatMul(rows, others)",
        "k0 = MatMul(o, u)\n k1 = Softmax(k0)\n k2 = MatMul(q, v)\n z = Tanh(k2)",
    ),
    "rows, cut first": (
        "v = MatMul(rows, columns)\n u = MatMul(rows, others)",
        "k2 = MatMul(q, v)\n z = Tanh(k2)\n k0 = MatMul(o, u)\n k1 = Softmax(k0)",
    ),
    "rows through a node": (
        "t = Mul(rows, rows)\n u = MatMul(t, others)\n v = MatMul(t, columns)",
        "k2 = MatMul(q, v)\n z = Tanh(k2)\n k0 = MatMul(o, u)\n k1 = Softmax(k0)",
    ),
    "columns as a vector of several": (
        "u = Mul(columns, others)",
        "k0 = Add(o, u)\n k3 = Mul(k0, u)\n k1 = Softmax(k3)\n k2 = MatMul(q, v)\n z = Tanh(k2)",
    ),
}


@pytest.mark.parametrize("case", SHARED_FACTORS)
def test_a_factor_of_a_cut_weight_and_of_a_whole_one(case: str) -> None:
    """Softmax keeps all that u has; v, which is computed from the same factor, loses rows and columns."""
    body, extra = SHARED_FACTORS[case]
    product = "" if "v = " in body else "\n v = MatMul(rows, columns)"
    model = network(
        f"table = MatMul(left, right)\n {body}{product}", f"{FACTORS}, float[16,24] w0", f"o = MatMul(x, w0)\n {extra}"
    )
    model.graph.node[-1].input[0] = "z"
    model.graph.output.append(onnx.helper.make_tensor_value_info("k1", 1, ["N", 24]))
    result = prune(model, keep_macs=0.6, exclude=["w0"])
    feed = {"x": nets.noise(5, 16)}
    before, after = run(model, feed), run(result.model, feed)
    np.testing.assert_allclose(after["k1"], before["k1"], rtol=1e-5)
    assert "table" not in stored_tensors(result.model.graph)
    assert result.report.after.macs < result.report.before.macs
    again = prune(model, keep_macs=None, from_plan=result.plan, exclude=["w0"])
    assert again.model.SerializeToString() == result.model.SerializeToString()


SHUFFLE = """
    s1 = Constant<value = int64[5] {{0,2,{half},{side},{side}}}>()
    s2 = Constant<value = int64[4] {{0,{width},{side},{side}}}>()
    p{n} = Reshape(c{n}, s1)
    t{n} = Transpose<perm=[0,2,1,3,4]>(p{n})
    d{n} = Reshape(t{n}, s2)
"""


def shuffled() -> ModelProto:
    """Two layers, each behind a shuffle of its channels."""
    parts = [
        SHUFFLE.format(n=n, half=width // 2, width=width, side=6).replace("s1", f"s1_{n}").replace("s2", f"s2_{n}")
        for n, width in ((1, 8), (2, 12))
    ]
    return build(
        f"""g (float[N,3,6,6] x) => (float[N,4,6,6] y) 
        <float[8,3,1,1] w1, float[12,8,1,1] w2, float[6,12,1,1] w3, float[4,6,1,1] w4> {{
            c1 = Conv(x, w1)
            {parts[0]}
            c2 = Conv(d1, w2)
            {parts[1]}
            c3 = Conv(d2, w3)
            y = Conv(c3, w4)
        }}"""
    )


def split() -> ModelProto:
    """Two layers, each cut into equal halves."""
    return build(
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y)
        <float[8,3,1,1] w1, float[12,4,1,1] w2, float[8,6,1,1] w3, float[4,8,1,1] w4> {
            c1 = Conv(x, w1)
            p1, q1 = Split<axis=1>(c1)
            m1 = Mul(p1, q1)
            c2 = Conv(m1, w2)
            p2, q2 = Split<axis=1>(c2)
            m2 = Mul(p2, q2)
            c3 = Conv(m2, w3)
            y = Conv(c3, w4)
        }"""
    )


@pytest.mark.parametrize("stays", [1, 2])
@pytest.mark.parametrize("make", [shuffled, split])
def test_shuffles_and_splits_that_lose_nothing_are_as_they_were(make: Any, stays: int) -> None:
    model = make()
    result = prune(model, exclude=["w1" if stays == 1 else "w3"], keep_macs=0.8)
    before, after = ({node.output[0]: node for node in m.graph.node} for m in (model, result.model))
    mine = {name for name, node in before.items() if name[-1] == str(stays) and node.op_type != "Conv"}
    assert len(mine) >= 2
    assert all(after[name] == before[name] for name in mine)
    other = {"shuffled": f"d{3 - stays}", "split": f"p{3 - stays}"}[make.__name__]
    assert after[other] != before[other]
    assert result.report.after.bytes < result.report.before.bytes


def test_a_file_that_has_to_grow_says_why() -> None:
    """A product is reshaped, so that what goes of the weight cannot be told of its factors."""
    body = "p = MatMul(c, d)\n shape = Constant<value = int64[2] {60,60}>()\n v = Reshape(p, shape)"
    model = build(
        f"""g (float[N,6] x) => (float[N,2] y) <float[6,60] w1, float[30,2] c, float[2,120] d, float[60,2] w2> {{
            e = MatMul(x, w1)
            r = Relu(e)
            {body}
            h = MatMul(r, v)
            t = Sin(h)
            y = MatMul(t, w2)
        }}""",
        opset=13,
    )
    result = prune(model, keep_macs=0.9)
    grown = result.report.after.bytes - result.report.before.bytes
    (note,) = [note for note in result.report.notes if "larger" in note]
    assert grown > 0
    assert note.startswith(f"the pruned file is larger than the original, by {grown:,} bytes: weights that the graph ")
    assert "computed are stored, for channels of them went: v (" in note


def test_equal_copies_of_a_shared_vector_are_one() -> None:
    """Four layers of one width and two of another read one bias; what was cut alike is stored once."""
    layers = "\n".join(f"a{n} = Conv(r{n - 1}, w{n}, b)\n r{n} = Relu(a{n})" for n in range(1, 5))
    weights = ", ".join(f"float[8,{8 if n > 1 else 3},1,1] w{n}" for n in range(1, 5))
    model = build(
        f"""g (float[N,3,5,5] r0) => (float[N,8,5,5] y) <{weights}, float[8,8,1,1] w5, float[8] b> {{
            {layers}
            y = Conv(r4, w5, b)
        }}"""
    )
    for tensor in model.graph.initializer:
        if tensor.name == "b":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(8, np.float32), "b"))
    result = prune(model, allocate="uniform", keep_macs=0.5)
    vectors = [t for t in result.model.graph.initializer if len(t.dims) == 1]
    assert len({tuple(t.dims) for t in vectors}) == len(vectors) == 2


def test_listed_numbers_stay_listed() -> None:
    text = "a = MatMul(x, w1) q = Relu(a) r = Gather<axis=1>(q, i) y = MatMul(r, w2)"
    model = nets.build(f"g (float[N,4] x) => (float[N,3] y) {{ {text} }}", {"w1": (4, 8), "w2": (8, 3)})
    order = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [8], [7, 6, 5, 4, 3, 2, 1, 0])
    model.graph.initializer.append(order)
    result = prune(model)
    left = stored_tensors(result.model.graph)["i"]
    assert 0 < len(left.int64_data) == left.dims[0] < 8
    assert not left.raw_data
