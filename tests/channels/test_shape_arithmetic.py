"""Channel counts that a graph computes: from Shape, from constants mixed in, as products."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper
from support.graphs import build
from support.oracle import check_keep, check_oracle, problem, run
from support.rows import Row, check_row

from onnxpfp.model.shapes import example_feeds

FREE = "float[N,3,6,6] x"
CONSTANTS = (
    "int64 k0 = {0}, int64 k1 = {1}, int64[1] a0 = {0}, int64[1] a1 = {1}, int64[1] a2 = {2}, int64[1] kc = {8}, "
    "int64[1] less = {-1}, int64[1] f = {288}, int64[1] n4 = {4}, int64[2] hw = {6, 6}, int64[1] two = {2}"
)
SHAPE = "s = Shape(c)\n"
BATCH = SHAPE + "g = Gather<axis=0>(s, k0)\nb = Unsqueeze(g, a0)\n"
CHANNELS = "h = Gather<axis=0>(s, k1)\nm = Unsqueeze(h, a0)\n"
ROWS = [
    Row("count as a constant", f"{BATCH}t = Concat<axis=0>(b, kc, less)\nd = Reshape(c, t)", 8),
    Row("count from Shape", f"{BATCH}{CHANNELS}t = Concat<axis=0>(b, m, less)\nd = Reshape(c, t)", 8),
    Row("count by Slice", f"{SHAPE}q = Slice(s, a0, a2)\nt = Concat<axis=0>(q, less)\nd = Reshape(c, t)", 8),
    Row("product as a constant", f"{BATCH}t = Concat<axis=0>(b, f)\nd = Reshape(c, t)", 8),
    Row(
        "product of lengths",
        f"{SHAPE}q = Slice(s, a1, n4)\np = ReduceProd<keepdims=1>(q)\nt = Concat<axis=0>(less, p)\nd = Reshape(c, t)",
        8,
    ),
    Row(
        "length times a constant",
        f"{BATCH}{CHANNELS}i = Mul(m, hw36)\nt = Concat<axis=0>(b, i)\nd = Reshape(c, t)",
        8,
        weights="int64[1] hw36 = {36}",
    ),
    Row(
        "length by a constant, heads",
        f"{BATCH}{CHANNELS}i = Div(m, two)\nt = Concat<axis=0>(b, two, i, hw)\nr = Reshape(c, t)\n"
        "d = Transpose<perm=[0,2,1,3,4]>(r)",
        4,
    ),
    Row("start and end", "s = Shape<start=0, end=2>(c)\nt = Concat<axis=0>(s, less)\nd = Reshape(c, t)", 8),
    Row("negative end", "s = Shape<end=-2>(c)\nt = Concat<axis=0>(s, less)\nd = Reshape(c, t)", 8),
    Row("shape of another branch", "s = Shape(e)\nf2 = Flatten(c)\nr = Reshape(f2, s)\nd = Add(r, e)", 8),
    Row("expand to a shape", "p = GlobalAveragePool(c)\ns = Shape(e)\nr = Expand(p, s)\nd = Add(r, e)", 8),
    Row("resize to a shape", "s = Shape(e)\nq = Slice(s, a0, a2)\nt = Concat<axis=0>(q, hw)\nr = Resize(c, , , t)\n"
        "d = Add(r, e)", 8),
    Row("resize to sizes computed in floats", "s = Shape(c)\nq = Cast<to=1>(s)\nr = Mul(q, z4)\nt = Cast<to=7>(r)\n"
        "d = Resize(c, , , t)", 8, weights="float[4] z4 = {1.0, 1.0, 2.0, 2.0}"),
    Row("pads computed in floats", "s = Shape(c)\ni = Slice(s, k2, big)\nq = Cast<to=1>(i)\ng = Div(q, stride)\n"
        "u = Ceil(g)\nv = Cast<to=7>(u)\np = Concat<axis=0>(z2, v, z2, v)\nd = Pad(c, p)", 8,
        weights="int64[1] k2 = {2}, int64[1] big = {100}, float[1] stride = {2.0}, int64[2] z2 = {0, 0}"),
    Row("as many numbers as channels", "s = Shape(c)\nh = Gather<axis=0>(s, k1)\nr = Range(k0, h, k1)\n"
        "f2 = Cast<to=1>(r)\ng = Reshape(f2, r8)\nd = Mul(c, g)", 0, weights="int64[3] r8 = {8, 1, 1}",
        fixed={"w_in": "Mul 'd' joins it with an axis that stays"}),
    Row("zeros like", "s = Shape(c)\nz = ConstantOfShape<value = float[1] {0.5}>(s)\nd = Add(c, z)", 8),
    Row("cast there and back", f"{BATCH}i = Cast<to=6>(b)\nj = Cast<to=7>(i)\nt = Concat<axis=0>(j, f)\n"
        "d = Reshape(c, t)", 8),
    Row("slice by a length", "s = Shape(c)\nh = Gather<axis=0>(s, a1)\no = Concat<axis=1>(c, e)\n"
        "d = Slice(o, a0, h, a1)", 8, fixed={"w_e": "no Conv"}),
    Row("slice from a length", "s = Shape(c)\nh = Gather<axis=0>(s, a1)\no = Concat<axis=1>(c, e)\n"
        "d = Slice(o, h, big, a1)", 8, weights="int64[1] big = {100}", fixed={"w_in": "no Conv"}),
    Row("split by lengths", "s = Shape(c)\nh = Gather<axis=0>(s, a1)\nz = Concat<axis=0>(h, h)\n"
        "o = Concat<axis=1>(c, e)\np, q = Split<axis=1>(o, z)\nd = Concat<axis=1>(q, p)", 16, 2),
]  # fmt: skip


def with_constants(row: Row) -> Row:
    """Declare the constants that the row's nodes read."""
    names = set(row.body.replace(",", " ").replace("(", " ").replace(")", " ").split())
    used = [d for d in CONSTANTS.replace("6, 6", "6;6").split(", ") if d.split()[1] in names]
    return replace(row, weights=", ".join([w for w in [row.weights] if w] + used).replace(";", ","))


@pytest.mark.parametrize("x", ["float[1,3,6,6] x", FREE], ids=["static", "free batch"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_computed_count(row, x):
    check_row(with_constants(replace(row, x=x)))


@pytest.mark.parametrize("batch", ["1", "N"])
def test_a_length_used_as_a_number_stays_what_it_was(batch: str) -> None:
    """A mean over lengths: the known one is written into the file, that of the batch is still computed."""
    text = """g (float[BATCH,3,6,6] x) => (y) <float[8,3,1,1] w, float[5,8,1,1] w_out> {
        c = Conv(x, w)
        s = Shape(c)
        f = Cast<to=1>(s)
        m = ReduceMean<keepdims=0>(f)
        d = Mul(c, m)
        y = Conv(d, w_out)
    }"""
    case = check_oracle(build(text.replace("BATCH", batch)))
    assert case.graph.count == 8


@pytest.mark.parametrize(("batch", "count"), [("1", 8), ("N", 0)])
def test_a_product_with_a_free_length_cannot_be_written_down(batch: str, count: int) -> None:
    text = """g (float[BATCH,3,6,6] x) => (y) <float[8,3,1,1] w, float[5,8,1,1] w_out> {
        c = Conv(x, w)
        s = Size(c)
        q = Cast<to=1>(s)
        d = Mul(c, q)
        y = Conv(d, w_out)
    }"""
    model = build(text.replace("BATCH", batch))
    case = problem(model)
    assert case.graph.count == count
    if count:
        check_oracle(model)
    else:
        assert case.reasons["w"] == "Mul 'd' reads its length as a number"


def test_length_as_graph_output_fixes_its_axis():
    text = """g (float[1,3,6,6] x) => (y, s) <float[8,3,1,1] w, float[5,8,1,1] w_out> {
        c = Conv(x, w)
        s = Shape(c)
        y = Conv(c, w_out)
    }"""
    case = problem(build(text))
    assert case.graph.count == 0
    assert case.reasons["w"] == "its length is in the graph output 's'"


def test_two_reshapes_share_a_constant_and_keep_different_channels():
    text = """g (float[N,3,6,6] x) => (y, z) <float[8,3,1,1] w, float[8,3,1,1] u,
            float[8,5] wy, float[8,5] wz, int64[3] k = {0, 8, 36}> {
        c = Conv(x, w)
        e = Conv(x, u)
        f = Reshape(c, k)
        g = Reshape(e, k)
        ft = Transpose<perm=[0,2,1]>(f)
        gt = Transpose<perm=[0,2,1]>(g)
        y = MatMul(ft, wy)
        z = MatMul(gt, wz)
    }"""
    case = check_oracle(build(text), seeds=4, fraction=0.4)
    assert len(case.graph.groups) == 2


def test_a_constant_of_two_uses_inside_computed_shapes():
    """The same [8] counts two axes, each of which may keep another number."""
    text = """g (float[N,3,6,6] x) => (y, z) <float[8,3,1,1] w, float[8,3,1,1] u, float[5,8,1] wy, float[5,8,1] wz,
            int64[1] n = {0}, int64[1] k = {8}, int64[1] a = {1}, int64[1] less = {-1}> {
        c = Conv(x, w)
        e = Conv(x, u)
        s = Shape(x)
        b = Slice(s, n, a)
        t = Concat<axis=0>(b, k, less)
        f = Reshape(c, t)
        g = Reshape(e, t)
        y = Conv(f, wy)
        z = Conv(g, wz)
    }"""
    case = check_oracle(build(text), seeds=4)
    assert case.graph.count == 16


def test_metadata_and_names_survive():
    model = build(
        "g (float[N,3,6,6] x) => (y) <float[8,3,1,1] w, float[5,8,1,1] u> { [first] c = Conv(x, w)\n y = Conv(c, u) }"
    )
    helper.set_model_props(model, {"author": "me"})
    model.doc_string = "text"
    model.graph.node[0].doc_string = "about the node"
    case = check_oracle(model)
    assert case.graph.consumers[0].name == "y"


def test_a_length_that_depends_on_the_data_is_not_frozen() -> None:
    """All inputs are static, and yet the number of picked positions differs from run to run."""
    model = build(
        """g (float[1,3,4,4] x) => (float[1,K,3] y)
        <float[8,3,1,1] w, float[8,3] v, float zero = {0}, int64[3] flat = {1, 8, 16}, int64[1] all = {16},
         int64 two = {2}, int64[1] a0 = {0}, int64[1] one = {1}, int64[1] kc = {8}> {
            c = Conv(x, w) r = Reshape(c, flat)
            m = ReduceMax<axes=[1], keepdims=0>(x) f = Reshape(m, all) p = Greater(f, zero)
            n = NonZero(p) i = Squeeze(n, a0) s = Gather<axis=2>(r, i)
            h = Shape(s) q = Gather<axis=0>(h, two) k = Unsqueeze(q, a0) t = Concat<axis=0>(one, kc, k)
            d = Reshape(s, t) e = Transpose<perm=[0,2,1]>(d) y = MatMul(e, v) }"""
    )
    case = problem(model)
    assert case.graph.count == 8
    keep = case.graph.keep_all()
    keep[[2, 5, 6]] = False
    lengths = set()
    for seed in range(6):
        pruned = check_keep(case, keep, seed=seed).model
        feeds = example_feeds(model, case.shapes.inputs, np.random.default_rng(seed))
        lengths.add(next(iter(run(pruned, feeds).values())).shape[1])
    assert len(lengths) > 1


@pytest.mark.parametrize("elsewhere", ["output", "subgraph"])
def test_a_number_that_something_else_reads_is_not_patched(elsewhere: str) -> None:
    """The channel count 8 stands in a computed shape and is a result of its own, which pruning must not change."""
    model = build(
        """g (float[N,3,4,4] x) => (float[N,2] y)
        <float[8,3,1,1] w, float[128,2] v, int64 zero = {0}, int64[1] a0 = {0}, int64[1] kc = {8},
         int64[1] less = {-1}, bool yes = {1}> {
            c = Conv(x, w) s = Shape(c) g = Gather<axis=0>(s, zero) b = Unsqueeze(g, a0)
            t = Concat<axis=0>(b, kc, less) d = Reshape(c, t) f = Flatten(d) y = MatMul(f, v) }"""
    )
    if elsewhere == "subgraph":
        branch = helper.make_graph(
            [helper.make_node("Identity", ["kc"], ["inner"])],
            "branch",
            [],
            [helper.make_tensor_value_info("inner", TensorProto.INT64, [1])],
        )
        model.graph.node.append(helper.make_node("If", ["yes"], ["k"], then_branch=branch, else_branch=branch))
    name = "k" if elsewhere == "subgraph" else "kc"
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, [1]))
    assert problem(model).graph.count == 8
    check_oracle(model, seeds=3)


@pytest.mark.parametrize("sum_", ["Add(c, x)", "Mul(c, x)", "Max(c, x)", "Sum(c, x)", "Where(yes, c, x)", "Add(x, c)"])
def test_a_constant_of_one_sample_does_not_fix_the_batch(sum_: str) -> None:
    """The sum is as long as the batch, although its first operand is stored with a length of 1."""
    model = build(
        f"""g (float[N,4,8] x) => (float[N,4,8] y)
        <float[8,8] w, float[8,8] v, float[1,1,8] c, bool[1,1,1] yes = {{1}}, int64[1] zero = {{0}},
         int64[1] one = {{1}}, int64[3] heads = {{-1,2,4}}, int64[2] inner = {{-1,8}}> {{
            e = {sum_} s = Shape(e) b = Slice(s, zero, one)
            t = Concat<axis=0>(b, heads) u = Concat<axis=0>(b, inner)
            h = MatMul(e, w) r = Reshape(h, t) p = Relu(r) f = Reshape(p, u) y = MatMul(f, v) }}"""
    )
    case = check_oracle(model, seeds=2)
    assert case.graph.count > 0


def test_a_token_that_is_expanded_to_the_batch_does_not_fix_it() -> None:
    model = build(
        """g (float[N,4,8] x) => (float[N,5,8] y)
        <float[8,8] w, float[8,8] v, float[1,1,8] token, int64[1] zero = {0}, int64[1] one = {1}, int64[1] eight = {8},
         int64[3] heads = {-1,2,4}, int64[2] inner = {-1,8}> {
            s = Shape(x) n = Slice(s, zero, one) k = Concat<axis=0>(n, one, eight) a = Expand(token, k)
            e = Concat<axis=1>(a, x) z = Shape(e) b = Slice(z, zero, one)
            t = Concat<axis=0>(b, heads) u = Concat<axis=0>(b, inner)
            h = MatMul(e, w) r = Reshape(h, t) p = Relu(r) f = Reshape(p, u) y = MatMul(f, v) }"""
    )
    assert check_oracle(model, seeds=2).graph.count > 0


def test_a_computed_shape_that_is_a_graph_output_keeps_its_numbers() -> None:
    """The 8 stands in one constant that one node reads; what that node computes is a result of its own."""
    model = build(
        """g (float[N,3,4,4] x) => (float[N,2] y, int64[3] t)
        <float[8,3,1,1] w, float[128,2] v, int64 zero = {0}, int64[1] a0 = {0}, int64[1] kc = {8},
         int64[1] less = {-1}> {
            c = Conv(x, w) s = Shape(c) g = Gather<axis=0>(s, zero) b = Unsqueeze(g, a0)
            t = Concat<axis=0>(b, kc, less) d = Reshape(c, t) f = Flatten(d) y = MatMul(f, v) }"""
    )
    case = check_oracle(model, seeds=3)
    assert case.graph.count == 8
