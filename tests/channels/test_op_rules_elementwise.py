"""One row per elementwise op: unary, broadcast, reductions."""

from __future__ import annotations

import pytest
from support.rows import Row, check_row

SIGMOID = "t = Sigmoid(c)\n"
UNARY = {
    17: "Abs Acos Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp HardSigmoid HardSwish Identity LeakyRelu "
    "Log Neg Reciprocal Relu Round Selu Shrink<lambd=0.3> Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh "
    "ThresholdedRelu<alpha=0.4>",
    20: "Gelu Mish",
}
BINARY = "Add Sub Mul Div Pow Max Min Mean Sum"
COMPARE = {"Equal": 13, "Greater": 13, "GreaterOrEqual": 16, "Less": 13, "LessOrEqual": 16}

MORE_UNARY = [
    Row("Acosh", "t = Exp(c)\na = Abs(c)\nb = Add(a, k)\nd = Acosh(b)", 8, weights="float k = {1.5}"),
    Row("Floor", "t = Exp(c)\nd = Floor(t)", 8),
    Row("Ceil", "t = Exp(c)\nd = Ceil(t)", 8),
    Row("IsNaN", "i = IsNaN(c)\nf = Cast<to=1>(i)\nd = Add(f, c)", 8),
    Row("IsInf", "i = IsInf(c)\nf = Cast<to=1>(i)\nd = Add(f, c)", 8),
    Row("Not", "g = Greater(c, k)\ni = Not(g)\nd = Cast<to=1>(i)", 8, weights="float k = {0.1}"),
    Row("Cast", "h = Cast<to=11>(c)\nr = Exp(h)\nd = Cast<to=1>(r)", 8),
    Row("CastLike", "d = CastLike(c, k)", 8, weights="float k = {0.1}"),
    Row("Dropout, opset 9", "d, m = Dropout<ratio=0.5>(c)", 8, opset=9),
    Row("Dropout, opset 13", "d, m = Dropout(c, r)", 8, weights="float r = {0.5}", opset=13),
    Row("Clip, opset 9", "d = Clip<min=-0.2, max=0.3>(c)", 8, opset=9),
    Row("Clip, opset 13", "d = Clip(c, l, h)", 8, weights="float l = {-0.2}, float h = {0.3}"),
    Row("Clip, upper bound alone", "d = Clip(c, , h)", 8, weights="float h = {0.3}"),
    Row("BitwiseNot", "i = Cast<to=6>(c)\nb = BitwiseNot(i)\nf = Cast<to=1>(b)\nd = Add(f, c)", 8, opset=18),
]
STRETCHED = [
    Row("scalar", "d = Mul(c, k)", 8, weights="float k = {2.0}"),
    Row("one element", "d = Add(k, c)", 8, weights="float[1] k = {2.0}"),
    Row("constant per channel", "d = Mul(c, k)", 8, weights="float[8,1,1] k"),
    Row("constant per channel, rank 4", "d = Mul(c, k)", 8, weights="float[1,8,1,1] k"),
    Row("whole constant", "d = Add(k, c)", 8, weights="float[8,6,6] k", fixed={"k": "Add 'd'"}),
    Row("spatial constant", "d = Add(k, c)", 8, weights="float[6,6] k", fixed={"k": "Add 'd'"}),
    Row("spatial gate", "g = Conv(c, wg)\ns = Sigmoid(g)\nd = Mul(c, s)", 8, weights="float[1,8,1,1] wg"),
    Row("channel gate", "p = GlobalAveragePool(c)\ns = Sigmoid(p)\nd = Mul(s, c)", 8),
    Row(
        "one channel over eight",
        "m = ReduceMean<axes=[1], keepdims=1>(c)\nd = Sub(e, m)",
        8,
        fixed={"w_in": "ReduceMean 'm' reduces over it"},
    ),
    Row(
        "channels against columns",
        "t = Transpose<perm=[0,2,3,1]>(c)\nu = Conv(x, w)\nd = Add(t, u)",
        0,
        weights="float[8,3,1,1] w",
        x="float[1,3,8,8] x",
        fixed={"w_in": "Add 'd'", "w": "Add 'd'"},
    ),
    Row("PRelu per channel", "d = PRelu(c, k)", 8, weights="float[8,1,1] k"),
    Row("PRelu, one slope", "d = PRelu(c, k)", 8, weights="float[1] k"),
    Row("Where", "g = Greater(c, e)\nd = Where(g, c, k)", 8, weights="float k = {0.3}"),
    Row("Where, constant mask", "d = Where(k, c, e)", 8, weights="bool[1,1,6,1] k = {1, 0, 1, 1, 0, 1}"),
    Row(
        "Where, mask per channel",
        "d = Where(k, c, e)",
        8,
        weights="bool[8,1,1] k = {1, 0, 1, 1, 0, 1, 1, 0}",
    ),
    Row(
        "half precision",
        "h = Cast<to=10>(c)\ng = Conv(h, w)\nd = Cast<to=1>(g)",
        14,
        2,
        "float16[6,8,1,1] w",
        tolerance=2e-3,
    ),
    Row("Max of three", "d = Max(c, e, k)", 8, weights="float[8,1,1] k"),
    Row("Mod", "d = Mod<fmod=1>(c, k)", 8, weights="float k = {0.3}"),
    Row("Pow by a constant", "d = Pow(c, k)", 8, weights="float k = {2.0}"),
    Row(
        "logic",
        "a = Greater(c, k)\nb = Less(e, k)\nf = And(a, b)\ng = Or(f, a)\nh = Xor(g, b)\nd = Cast<to=1>(h)",
        8,
        weights="float k = {0.05}",
    ),
    Row(
        "bits",
        "i = Cast<to=6>(c)\nj = Cast<to=6>(e)\na = BitwiseAnd(i, j)\nb = BitwiseOr(a, i)\n"
        "f = BitwiseXor(b, j)\ng = Cast<to=1>(f)\nd = Add(g, c)",
        8,
        opset=18,
    ),
]
REDUCE = "L1 L2 LogSumExp Max Mean Min SumSquare"  # LogSum and Prod need positive numbers
REDUCTIONS = [
    Row("all axes but the batch", "d = ReduceMean<axes=[1,2,3]>(c)", 0, fixed={"w_in": "ReduceMean 'd'"}),
    Row("over channels", "d = ReduceMax<axes=[1], keepdims=1>(c)", 0, fixed={"w_in": "ReduceMax 'd' reduces"}),
    Row("no axes", "d = ReduceMean(c)", 0, fixed={"w_in": "ReduceMean 'd' reduces over it"}),
    Row("negative axes, dropped", "d = ReduceMean<axes=[-1,-2], keepdims=0>(c)", 8),
    Row("axes as input, opset 18", "d = ReduceMean<keepdims=0>(c, k)", 8, weights="int64[2] k = {2, 3}", opset=18),
    Row("sum with axes as input", "d = ReduceSum<keepdims=0>(c, k)", 8, weights="int64[2] k = {2, 3}", opset=13),
    Row("sum with axes as attribute", "d = ReduceSum<axes=[3]>(c)", 8, opset=11),
    Row("noop", "d = ReduceSum<noop_with_empty_axes=1>(c)", 8, opset=13),
    Row("prod", "p = Exp(c)\nd = ReduceProd<axes=[2]>(p)", 8),
    Row("log sum", "p = Exp(c)\nd = ReduceLogSum<axes=[2]>(p)", 8),
    Row("ArgMax over channels", "a = ArgMax<axis=1>(c)\nd = Cast<to=1>(a)", 0, fixed={"w_in": "ArgMax 'a'"}),
    Row("ArgMax over columns", "a = ArgMax<axis=3>(c)\nd = Cast<to=1>(a)", 8),
    Row("TopK over columns", "d, i = TopK<axis=3>(c, k)", 8, weights="int64[1] k = {2}"),
    Row("TopK over channels", "d, i = TopK<axis=1>(c, k)", 0, weights="int64[1] k = {2}", fixed={"w_in": "TopK 'd'"}),
    Row("CumSum over rows", "d = CumSum(c, k)", 8, weights="int64 k = {2}"),
]


@pytest.mark.parametrize(("opset", "op"), [(v, op) for v, ops in UNARY.items() for op in ops.split()])
def test_unary(opset, op):
    check_row(Row(op, f"{SIGMOID}d = {op}(t)", 8, opset=opset))


@pytest.mark.parametrize("row", MORE_UNARY, ids=str)
def test_unary_with_more_around_it(row):
    check_row(row)


@pytest.mark.parametrize("op", BINARY.split())
def test_binary(op):
    check_row(Row(op, f"{SIGMOID}u = Sigmoid(e)\nd = {op}(t, u)", 8))


@pytest.mark.parametrize("op", COMPARE)
def test_comparison(op):
    body = f"h = Greater(c, k)\nf = Cast<to=1>(h)\ni = Greater(e, k)\nj = Cast<to=1>(i)\nb = {op}(f, j)\n"
    check_row(Row(op, body + "d = Cast<to=1>(b)", 8, weights="float k = {0.05}", opset=COMPARE[op]))


@pytest.mark.parametrize("row", STRETCHED, ids=str)
def test_broadcast(row):
    check_row(row)


@pytest.mark.parametrize("op", REDUCE.split())
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduction_over_space_passes_channels(op, keepdims):
    check_row(Row(op, f"d = Reduce{op}<axes=[2,3], keepdims={keepdims}>(c)", 8))


@pytest.mark.parametrize("row", REDUCTIONS, ids=str)
def test_reduction(row):
    check_row(row)
