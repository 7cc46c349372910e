"""One row per case of the ops that look up, write, pick and mask."""

from __future__ import annotations

import pytest
from support.rows import TOKENS, Row, check_row

NHWC = "float[1,6,6,3] x"
BOTH = "\nd = Concat<axis=1>(p, c)"
K = "int64[1] k = {2}"


def numbers(name: str, shape: str, count: int, below: int) -> str:
    """Declare `count` stored integers, some of them negative."""
    listed = ", ".join(str((7 * place) % (2 * below) - below) for place in range(count))
    return f"int64[{shape}] {name} = {{{listed}}}"


GATHER = [
    Row("elements of rows", "q, i = TopK<axis=2>(c, k)\nd = GatherElements<axis=2>(e, i)", 8, weights=K),
    Row(
        "elements, fewer channels",
        "a, r = Split<axis=1>(c, z)\nv, i = TopK<axis=2>(a, k)\nd = GatherElements<axis=2>(e, i)",
        5,
        1,
        f"{K}, int64[2] z = {{5, 3}}",
        {"w_e": "no Conv", "w_in": "no Conv"},
    ),
    Row(
        "elements, stored indices",
        "p = GatherElements<axis=2>(c, k)\nd = Concat<axis=2>(p, c)",
        8,
        weights=numbers("k", "1,8,2,6", 96, 6),
    ),
    Row(
        "elements of channels",
        "d = GatherElements<axis=1>(c, i)",
        0,
        weights="int64[1,8,6,6] i",
        fixed={"w_in": "GatherElements 'd' looks up indices of it"},
    ),
    Row("ND, axes behind", "d = GatherND(c, k)", 8, weights="int64[3,1] k = {1, 0, 1}", x=TOKENS, head="matmul"),
    Row(
        "ND, batch axis",
        "t = Transpose<perm=[2,0,1]>(c)\nu = Transpose<perm=[2,0,1]>(e)\nv, i = TopK<axis=2>(u, k)\n"
        "m = GatherND<batch_dims=1>(t, z)\nd = Transpose<perm=[1,2,0]>(m)",
        0,
        weights=f"{K}, int64[8,3,1] z",
        x=TOKENS,
        head="matmul",
        fixed={"w_in": "GatherND 'm'", "w_e": "no Conv"},
    ),
    Row(
        "ND of channels",
        "p = GatherND(c, k)\nd = Unsqueeze(p, z)",
        0,
        weights="int64[3,2] k = {0,1,0,2,0,7}, int64[1] z = {0}",
        fixed={"w_in": "GatherND 'p' looks up indices of it"},
    ),
    Row(
        "elements, stored indices that are stretched",
        "i = Expand(j, s)\np = GatherElements<axis=2>(c, i)\nd = Concat<axis=2>(p, c)",
        8,
        weights="int64[2,6] j = {0,1,2,3,4,5,-1,-2,0,1,2,3}, int64[4] s = {1,8,2,6}",
    ),
]
SCATTER = [
    Row("elements", "v, i = TopK<axis=2>(c, k)\nd = ScatterElements<axis=2>(e, i, v)", 8, weights=K),
    Row(
        "elements, added",
        'v, i = TopK<axis=2>(c, k)\nd = ScatterElements<axis=2, reduction="add">(e, i, v)',
        8,
        weights=K,
    ),
    Row(
        "elements, stored indices",
        "v = Slice(e, b, f, a)\nd = ScatterElements<axis=2>(c, i, v)",
        8,
        weights="int64[1] b = {0}, int64[1] f = {2}, int64[1] a = {2}, " + numbers("i", "1,8,2,6", 96, 6),
    ),
    Row("Scatter, opset 9", "v, i = TopK<axis=2, k=2>(c)\nd = Scatter<axis=2>(e, i, v)", 8, opset=9),
    Row(
        "elements of channels",
        "d = ScatterElements<axis=1>(c, i, u)",
        0,
        weights="int64[1,2,6,6] i, float[1,2,6,6] u",
        fixed={"w_in": "ScatterElements 'd' writes at indices of it", "u": "ScatterElements 'd'"},
    ),
    Row(
        "ND, axes behind",
        "u = Gather<axis=0>(e, j)\nd = ScatterND(c, i, u)",
        8,
        weights="int64[1] j = {1}, int64[1,1] i = {0}",
        x=TOKENS,
        head="matmul",
    ),
    Row(
        "ND of channels",
        "d = ScatterND(c, i, u)",
        0,
        weights="int64[2,2] i = {0,1,0,5}, float[2,6,6] u",
        fixed={"w_in": "ScatterND 'd' writes", "u": "ScatterND 'd'"},
    ),
    Row(
        "tensor",
        "d = TensorScatter<axis=1>(c, u, i)",
        8,
        weights="float[2,1,8] u, int64[2] i = {0, 3}",
        fixed={"u": "TensorScatter 'd'"},
        x=TOKENS,
        head="matmul",
        opset=24,
    ),
    Row(
        "tensor, of channels",
        "d = TensorScatter<axis=2>(c, u)",
        0,
        weights="float[2,4,2] u",
        x=TOKENS,
        head="matmul",
        opset=24,
        fixed={"w_in": "TensorScatter 'd' writes", "u": "TensorScatter 'd' writes"},
    ),
]
PICK = [
    Row("compress channels", "p = Compress<axis=1>(c, k)" + BOTH, 8, 2, "bool[8] k = {1,0,0,1,0,1,1,0}"),
    Row("compress channels, short condition", "p = Compress<axis=-3>(c, k)" + BOTH, 8, 2, "bool[3] k = {1,0,1}"),
    Row("compress rows", "d = Compress<axis=2>(c, k)", 8, 1, "bool[6] k = {1,0,0,1,0,1}"),
    Row(
        "compress by what is computed",
        "g = ReduceMax<axes=[0,2,3], keepdims=0>(e)\nb = Greater(g, z)\n"
        "p = Compress<axis=1>(c, b)\nd = ReduceMean<axes=[1]>(p)",
        0,
        weights="float z = {-100.0}",
        fixed={"w_in": "Compress 'p' picks indices of it at run time", "w_e": "no Conv"},
    ),
    Row(
        "compress all axes",
        "p = Compress(c, k)\nd = Unsqueeze(p, z)",
        0,
        weights="bool[5] k = {1,0,0,1,1}, int64[1] z = {0}",
        fixed={"w_in": "Compress 'p' picks numbers out of all its axes"},
    ),
    Row(
        "one-hot behind channels",
        "i = ArgMax<axis=3, keepdims=0>(c)\no = OneHot(i, n, v)\nd = Mul(o, e)",
        8,
        weights="int64 n = {6}, float[2] v = {0.0, 1.0}",
    ),
    Row(
        "one-hot before channels",
        "i = ArgMax<axis=3, keepdims=0>(c)\no = OneHot<axis=0>(i, n, v)\nd = Squeeze(o, z)",
        8,
        weights="int64 n = {4}, float[2] v = {0.0, 1.0}, int64[1] z = {1}",
    ),
    Row(
        "one-hot over channels",
        "i = ArgMax<axis=1, keepdims=0>(c)\nd = OneHot<axis=1>(i, n, v)",
        0,
        weights="int64 n = {8}, float[2] v = {0.0, 1.0}",
        fixed={"w_in": "ArgMax 'i' reduces over it"},
    ),
    Row("masked by a stored condition", "d = Where(m, c, e)", 8, weights="bool[8,1,1] m = {1,0,1,0,0,1,1,0}"),
    Row(
        "masked by a condition that is computed from constants",
        "m = Greater(j, s)\nd = Where(m, c, e)",
        8,
        weights="int64[8,1,1] j = {0,1,2,3,4,5,6,7}, int64 s = {4}",
    ),
    Row("masked pixels", "d = Where(m, c, v)", 8, weights="bool[1,1,1,6] m = {1,0,1,0,0,1}, float v = {0.5}"),
    Row(
        "condition with channels of its own",
        "m = Greater(c, z)\nd = Where(m, o, z)",
        8,
        weights="float z = {0.0}, float o = {1.0}",
    ),
    Row(
        "reverse sequence",
        "d = ReverseSequence<batch_axis=0, time_axis=1>(c, l)",
        8,
        weights="int64[2] l = {3, 2}",
        x=TOKENS,
        head="matmul",
    ),
    Row(
        "reverse sequence of channels",
        "d = ReverseSequence<batch_axis=0, time_axis=2>(c, l)",
        0,
        weights="int64[2] l = {3, 2}",
        x=TOKENS,
        head="matmul",
        fixed={"w_in": "ReverseSequence 'd' turns it round"},
    ),
    Row("triangle of space", "d = Trilu(c)", 8),
    Row(
        "triangle of channels", "d = Trilu(c)", 0, x=TOKENS, head="matmul", fixed={"w_in": "Trilu 'd' cuts a triangle"}
    ),
    Row("cumulative product of rows", "d = CumProd(c, k)", 8, weights="int64 k = {2}", opset=26),
    Row("cumulative sum of columns", "d = CumSum<reverse=1>(c, k)", 8, weights="int64 k = {-1}"),
    Row(
        "cumulative sum of channels", "d = CumSum(c, k)", 0, weights="int64 k = {1}", fixed={"w_in": "CumSum 'd' mixes"}
    ),
    Row("tile one pixel", "p = GlobalAveragePool(c)\nd = Tile(p, k)", 8, weights="int64[4] k = {1,1,6,6}"),
    Row(
        "tile one number into channels",
        "m = ReduceMean<axes=[1]>(e)\nt = Tile(m, k)\nd = Mul(t, c)",
        8,
        weights="int64[4] k = {1,8,1,1}",
        fixed={"w_e": "ReduceMean 'm' reduces over it"},
    ),
]


@pytest.mark.parametrize("row", GATHER, ids=str)
def test_gather(row):
    check_row(row)


@pytest.mark.parametrize("row", SCATTER, ids=str)
def test_scatter(row):
    check_row(row)


@pytest.mark.parametrize("row", PICK, ids=str)
def test_pick(row):
    check_row(row)
