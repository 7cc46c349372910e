"""One row per case of the ops that join, cut, pick and rename indices."""

from __future__ import annotations

import pytest
from support.oracle import check_keep, problem
from support.rows import TOKENS, Row, check_row, model_of

NHWC = "float[1,6,6,3] x"
UNREAD = "no Conv, Gemm, MatMul or other product contracts it"

JOIN = [
    Row("concat channels", "d = Concat<axis=1>(c, e)", 16, 2),
    Row("concat channels, negative axis", "d = Concat<axis=-3>(c, e)", 16, 2),
    Row("concat rows", "d = Concat<axis=2>(c, e)", 8),
    Row("concat with itself", "d = Concat<axis=1>(c, c)", 8),
    Row("concat with a constant", "d = Concat<axis=1>(c, k)", 10, 2, "float[1,2,6,6] k", {"k": "Concat 'd'"}),
    Row("split by attribute", "a, b = Split<axis=1, split=[3,5]>(c)\nd = Concat<axis=1>(b, a)", 8, 2, opset=11),
    Row("split by input", "a, b = Split<axis=1>(c, k)\nd = Concat<axis=1>(b, a)", 8, 2, "int64[2] k = {3, 5}"),
    Row(
        "split, no part gets empty",
        "a, b = Split<axis=1>(c, k)\np = GlobalMaxPool(a)\nq = GlobalMaxPool(b)\nd = Concat<axis=1>(p, q)",
        8,
        2,
        "int64[2] k = {1, 7}",
    ),
    Row("split, parts unread", "d, b = Split<axis=1>(c, k)", 3, 1, "int64[2] k = {3, 5}", {"w_in": UNREAD}),
    Row("split evenly, opset 11", "a, b = Split<axis=1>(c)\nd = Add(a, b)", 4, opset=11),
    Row("split evenly, apart", "a, b = Split<axis=-3>(c)\nd = Concat<axis=1>(b, a)", 4),
    Row("split by number", "a, b = Split<axis=1, num_outputs=2>(c)\nd = Mul(a, b)", 4, opset=18),
    Row(
        "split by number, unevenly",
        "a, b, f = Split<axis=1, num_outputs=3>(c)\nd = Concat<axis=1>(b, a)",
        0,
        fixed={"w_in": "Split 'a' splits it into unequal parts"},
        opset=18,
    ),
    Row("split rows", "a, d = Split<axis=2>(c)", 8),
    Row("tile channels", "d = Tile(c, k)", 8, weights="int64[4] k = {1, 2, 1, 1}"),
    Row("tile rows", "d = Tile(c, k)", 8, weights="int64[4] k = {1, 1, 3, 1}"),
]
BOTH = "\nd = Concat<axis=1>(p, c)"
SLICE = [
    Row("attributes, opset 9", "d = Slice<starts=[2], ends=[6], axes=[1]>(c)", 4, 1, fixed={"w_in": UNREAD}, opset=9),
    *(
        Row(f"{start}:{end}", "p = Slice(c, b, f, a)" + BOTH, 8, groups, f"{bounds}, int64[1] a = {{{axis}}}")
        for start, end, groups, axis in ((2, 6, 2, 1), (-5, -1, 2, 1), (0, 100, 1, -3), (-100, 5, 2, 1), (3, 2, 1, 1))
        for bounds in [f"int64[1] b = {{{start}}}, int64[1] f = {{{end}}}"]
    ),
    *(
        Row(f"{start}:{end}:{step}", "p = Slice(c, b, f, a, k)" + BOTH, channels, groups, bounds + bounds2)
        for start, end, step, channels, groups in (
            (0, 100, 2, 4, 1),
            (1, 8, 2, 5, 3),
            (3, 7, 2, 6, 2),
            (0, 8, 3, 3, 2),
            (-1, -100, -1, 8, 1),
            (-1, -100, -2, 4, 1),
        )
        for bounds in [f"int64[1] b = {{{start}}}, int64[1] f = {{{end}}}, "]
        for bounds2 in [f"int64[1] a = {{1}}, int64[1] k = {{{step}}}"]
    ),
    Row(
        "5:1:-1",
        "d = Slice(c, b, f, a, k)",
        0,
        weights="int64[1] b = {5}, int64[1] f = {1}, int64[1] a = {1}, int64[1] k = {-1}",
        fixed={"w_in": "Slice 'd' runs backwards"},
    ),
    Row("no axes", "d = Slice(c, b, f)", 8, 1, "int64[2] b = {0, 0}, int64[2] f = {1, 9}"),
    Row("rows", "d = Slice(c, b, f, a)", 8, 1, "int64[1] b = {1}, int64[1] f = {-1}, int64[1] a = {2}"),
]
GATHER = [
    Row("vector", "p = Gather<axis=1>(c, k)" + BOTH, 8, 2, "int64[3] k = {5, 1, 3}"),
    Row("vector alone", "d = Gather<axis=1>(c, k)", 3, 1, "int64[3] k = {5, 1, 3}", {"w_in": UNREAD}),
    Row("negative", "p = Gather<axis=-3>(c, k)" + BOTH, 8, 2, "int64[2] k = {-1, 0}"),
    Row("repeated", "p = Gather<axis=1>(c, k)" + BOTH, 8, 3, "int64[3] k = {1, 1, 2}"),
    Row(
        "scalar",
        "g = Gather<axis=1>(c, k)\np = Unsqueeze(g, u)" + BOTH,
        7,
        1,
        "int64 k = {4}, int64[1] u = {1}",
        {"w_in": "Gather 'g' picks it by its index"},
    ),
    Row(
        "2-D",
        "g = Gather<axis=1>(c, k)\np = Reshape(g, r)" + BOTH,
        4,
        1,
        "int64[2,2] k = {0, 3, 5, 2}, int64[4] r = {1, 4, 6, 6}",
        {"w_in": "Gather 'g' picks it by its index"},
    ),
    Row("rows", "d = Gather<axis=2>(c, k)", 8, 1, "int64[3] k = {5, 1, 3}"),
    Row("32-bit indices", "p = Gather<axis=1>(c, k)" + BOTH, 8, 2, "int32[3] k = {5, 1, 3}"),
]
PAD = [
    Row("spatial", "d = Pad(c, k)", 8, 1, "int64[8] k = {0, 0, 1, 1, 0, 0, 2, 2}"),
    Row("channels before and after", "d = Pad(c, k)", 13, 2, "int64[8] k = {0, 2, 0, 0, 0, 3, 1, 0}"),
    Row("channels with a value", "d = Pad(c, k, v)", 10, 2, "int64[8] k = {0,0,0,0, 0,2,0,0}, float v = {0.5}"),
    Row("attribute, opset 10", "d = Pad<pads=[0,1,1,0,0,1,0,1]>(c)", 10, 2, opset=10),
    Row("two axes, opset 18", "d = Pad(c, k, , a)", 10, 2, "int64[4] k = {1,1,1,1}, int64[2] a = {1,3}", opset=18),
    Row("negative axis", "d = Pad(c, k, , a)", 10, 2, "int64[2] k = {1,1}, int64[1] a = {-3}", opset=18),
    Row("reflect space", 'd = Pad<mode="reflect">(c, k)', 8, 1, "int64[8] k = {0, 0, 1, 1, 0, 0, 2, 2}"),
    Row("edge", 'd = Pad<mode="edge">(c, k)', 8, 1, "int64[8] k = {0, 0, 1, 1, 0, 0, 2, 2}"),
    Row(
        "reflect channels", 'd = Pad<mode="reflect">(c, k)', 0, 0, "int64[8] k = {0,1,0,0,0,1,0,0}", {"w_in": "Pad 'd'"}
    ),
    Row("crop channels", "d = Pad(c, k)", 0, 0, "int64[8] k = {0,-1,0,0,0,0,0,0}", {"w_in": "Pad 'd' pads it"}),
]
IN = "n = InstanceNormalization(r, s, b)\n"
RESHAPE = [
    Row("flatten", "d = Reshape(c, k)", 8, 1, "int64[2] k = {1, -1}"),
    Row("flatten, spelt", "d = Reshape(c, k)", 8, 1, "int64[2] k = {-1, 288}"),
    Row("flatten, 0 and -1", "d = Reshape(c, k)", 8, 1, "int64[2] k = {0, -1}"),
    Row(
        "heads",
        "h = Reshape(c, k)\nd = Reshape(h, j)",
        4,
        1,
        "int64[4] k = {0,0,2,4}, int64[3] j = {0,0,8}",
        x=TOKENS,
        head="matmul",
    ),
    Row(
        "channel shuffle",
        "r = Reshape(c, k)\nt = Transpose<perm=[0,2,1,3,4]>(r)\nd = Reshape(t, j)",
        4,
        1,
        "int64[5] k = {1, 2, 4, 6, 6}, int64[4] j = {1, 8, 6, 6}",
    ),
    Row(
        "group norm",
        f"r = Reshape(c, k)\n{IN}d = Reshape(n, j)",
        4,
        1,
        "int64[3] k = {0, 4, -1}, int64[4] j = {1, 8, 6, 6}, float[4] s, float[4] b",
    ),
    Row("unflatten", "f = Flatten(c)\nd = Reshape(f, k)", 8, 1, "int64[4] k = {1, 8, 6, 6}"),
    Row("unflatten, -1", "f = Flatten(c)\nd = Reshape(f, k)", 8, 1, "int64[4] k = {0, -1, 6, 6}"),
    Row("flatten space", "d = Reshape(c, k)", 8, 1, "int64[3] k = {0, 0, -1}"),
    Row("flatten space, spelt", "d = Reshape(c, k)", 8, 1, "int64[3] k = {1, 8, 36}"),
    Row("NHWC flatten", "d = Reshape(c, k)", 8, 1, "int64[2] k = {1, -1}", x=NHWC, head="matmul"),
    Row("NHWC tokens", "d = Reshape(c, k)", 8, 1, "int64[3] k = {1, 36, 8}", x=NHWC, head="matmul"),
    Row("allowzero", "d = Reshape<allowzero=1>(c, k)", 8, 1, "int64[2] k = {-1, 288}"),
    Row("rows to channels", "d = Reshape(c, k)", 8, 1, "int64[4] k = {1, 48, 6, 1}"),
    *(
        Row(f"Flatten, axis {axis}", f"f = Flatten<axis={axis}>(c)\nd = {after}(f)", 8)
        for axis, after in ((0, "Identity"), (1, "Identity"), (2, "Transpose"), (3, "Transpose"), (-3, "Identity"))
    ),
]
POOLED = "p = GlobalAveragePool(c)\n"
RENAME = [
    Row("squeeze, attribute", f"{POOLED}d = Squeeze<axes=[2,3]>(p)", 8, opset=11),
    Row("squeeze, input", f"{POOLED}d = Squeeze(p, k)", 8, weights="int64[2] k = {-1, -2}"),
    Row("squeeze, all", f"{POOLED}d = Squeeze(p)", 6, fixed={"w_in": "Squeeze 'd'"}),
    Row("unsqueeze, attribute", "u = Unsqueeze<axes=[0]>(c)\nd = Squeeze<axes=[0]>(u)", 8, opset=11),
    Row("unsqueeze, input", "d = Unsqueeze(c, k)", 8, weights="int64[2] k = {-1, 2}"),
    Row(
        "transpose there and back", "t = Transpose<perm=[0,2,3,1]>(c)\nr = Relu(t)\nd = Transpose<perm=[0,3,1,2]>(r)", 8
    ),
    Row(
        "transpose to the last axis",
        "t = Transpose<perm=[0,2,3,1]>(c)\nm = MatMul(t, w)\nd = Transpose<perm=[0,3,1,2]>(m)",
        14,
        2,
        "float[8,6] w",
    ),
    Row("expand space", f"{POOLED}d = Expand(p, k)", 8, weights="int64[4] k = {1, 8, 3, 3}"),
    Row("expand with ones", f"{POOLED}d = Expand(p, k)", 8, weights="int64[4] k = {1, 1, 3, 3}"),
    Row("expand short", f"{POOLED}d = Expand(p, k)", 8, weights="int64[2] k = {3, 3}"),
    Row("expand a constant", "q = Expand(v, k)\nd = Mul(q, c)", 8, weights="float[1,1,1,1] v, int64[4] k = {1,8,6,6}"),
    Row(
        "constant of shape",
        "q = ConstantOfShape<value = float[1] {0.5}>(k)\nd = Add(q, c)",
        8,
        weights="int64[4] k = {1, 8, 6, 6}",
    ),
    Row("depth to space DCR", "d = DepthToSpace<blocksize=2>(c)", 2),
    Row("depth to space CRD", 'd = DepthToSpace<blocksize=2, mode="CRD">(c)', 2),
    Row("space to depth", "d = SpaceToDepth<blocksize=2>(c)", 8),
]


@pytest.mark.parametrize("row", JOIN, ids=str)
def test_join_and_split(row):
    check_row(row)


@pytest.mark.parametrize("row", SLICE, ids=str)
def test_slice(row):
    check_row(row)


LAST_ROWS = [
    Row("attributes", "p = Slice<starts=[2], ends=[-1], axes=[1]>(c)" + BOTH, 8, opset=9),
    Row("inputs", "p = Slice(c, b, f, a)" + BOTH, 8, weights="int64[1] b = {2}, int64[1] f = {-1}, int64[1] a = {1}"),
    Row("int32", "p = Slice(c, b, f, a)" + BOTH, 8, weights="int32[1] b = {2}, int32[1] f = {-1}, int32[1] a = {1}"),
]


@pytest.mark.parametrize("row", LAST_ROWS, ids=str)
def test_end_from_behind_when_nothing_is_left_behind_it(row):
    """An end of -1 must not become -0, which is the start."""
    case = problem(model_of(row))
    keep = case.graph.keep_all()
    keep[8] = False
    check_keep(case, keep)


@pytest.mark.parametrize("row", GATHER, ids=str)
def test_gather(row):
    check_row(row)


@pytest.mark.parametrize("row", PAD, ids=str)
def test_pad(row):
    check_row(row)


@pytest.mark.parametrize("row", RESHAPE, ids=str)
def test_reshape(row):
    check_row(row)


@pytest.mark.parametrize("row", RENAME, ids=str)
def test_renamed_axes(row):
    check_row(row)
