"""One row per case of the ops that compute with weights: linear ops, normalizations, pooling."""

from __future__ import annotations

import pytest
from support.rows import ROWS, TOKENS, Row, check_row

CONV = [
    Row("plain", "d = Conv<pads=[1,1,1,1]>(c, w, b)", 14, 2, "float[6,8,3,3] w, float[6] b"),
    Row("grouped", "d = Conv<group=2>(c, w, b)", 7, 2, "float[6,4,3,3] w, float[6] b"),
    Row("depthwise", "d = Conv<group=8>(c, w, b)", 8, 1, "float[8,1,3,3] w, float[8] b"),
    Row("depthwise with multiplier", "d = Conv<group=8>(c, w, b)", 8, 1, "float[16,1,3,3] w, float[16] b"),
    Row("1-D", "d = Conv(c, w)", 14, 2, "float[6,8,3] w", x="float[1,3,9] x"),
    Row("3-D", "d = Conv(c, w)", 14, 2, "float[6,8,2,2,2] w", x="float[1,3,4,4,4] x"),
    Row("strided", "d = Conv<strides=[2,2]>(c, w)", 14, 2, "float[6,8,3,3] w"),
    Row("dilated", "d = Conv<dilations=[2,2]>(c, w)", 14, 2, "float[6,8,3,3] w"),
    Row("same upper", 'd = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(c, w)', 14, 2, "float[6,8,3,3] w"),
    Row("same lower", 'd = Conv<auto_pad="SAME_LOWER">(c, w)', 14, 2, "float[6,8,2,2] w"),
    Row("valid", 'd = Conv<auto_pad="VALID">(c, w)', 14, 2, "float[6,8,3,3] w"),
    Row("dynamic batch", "d = Conv(c, w)", 14, 2, "float[6,8,3,3] w", x="float[N,3,6,6] x"),
]
CONV_TRANSPOSE = [
    Row("plain", "d = ConvTranspose<strides=[2,2]>(c, w, b)", 14, 2, "float[8,6,3,3] w, float[6] b"),
    Row("grouped", "d = ConvTranspose<group=2>(c, w, b)", 7, 2, "float[8,3,3,3] w, float[6] b"),
    Row("depthwise", "d = ConvTranspose<group=8>(c, w, b)", 8, 1, "float[8,1,3,3] w, float[8] b"),
    Row(
        "depthwise with multiplier",
        "d = ConvTranspose<group=8>(c, w, b)",
        8,
        1,
        "float[8,2,3,3] w, float[16] b",
        {"w": "ConvTranspose 'd'"},
    ),
    Row(
        "output_padding",
        "d = ConvTranspose<strides=[2,2], output_padding=[1,1]>(c, w)",
        14,
        2,
        "float[8,6,3,3] w",
    ),
    Row("1-D", "d = ConvTranspose(c, w)", 14, 2, "float[8,6,3] w", x="float[1,3,9] x"),
]
GEMM = [
    Row("no C", "d = Gemm(c, w)", 14, 2, "float[8,6] w", x=ROWS),
    Row("vector C", "d = Gemm<alpha=0.5, beta=2.0>(c, w, b)", 14, 2, "float[8,6] w, float[6] b", x=ROWS),
    Row("row C", "d = Gemm(c, w, b)", 14, 2, "float[8,6] w, float[1,6] b", x=ROWS),
    Row("scalar C", "d = Gemm(c, w, b)", 14, 2, "float[8,6] w, float b", x=ROWS),
    Row("one-element C", "d = Gemm(c, w, b)", 14, 2, "float[8,6] w, float[1] b", x=ROWS),
    Row("column C", "d = Gemm(c, w, b)", 14, 2, "float[8,6] w, float[4,1] b", {"b": "Gemm 'd'"}, x=ROWS),
    Row("matrix C", "d = Gemm(c, w, b)", 14, 2, "float[8,6] w, float[4,6] b", {"b": "Gemm 'd'"}, x=ROWS),
    Row("transB", "d = Gemm<transB=1>(c, w)", 14, 2, "float[6,8] w", x=ROWS),
    Row("transA", "t = Transpose(c)\nd = Gemm<transA=1>(t, w)", 14, 2, "float[8,6] w", x=ROWS),
]
MATMUL = [
    Row("constant right", "d = MatMul(c, w)", 14, 2, "float[8,6] w", x=ROWS),
    Row("constant left", "t = Transpose(c)\nm = MatMul(w, t)\nd = Transpose(m)", 14, 2, "float[6,8] w", x=ROWS),
    Row("vector right", "d = MatMul(c, w)", 8, 1, "float[8] w", x=ROWS, tail=False),
    Row("vector left", "t = Transpose(c)\nd = MatMul(w, t)", 8, 1, "float[8] w", x=ROWS, tail=False),
    Row(
        "batched constant",
        "d = MatMul(c, w)",
        14,
        2,
        "float[2,8,6] w",
        {"w": "MatMul 'd'"},
        x=TOKENS,
        head="matmul",
    ),
    Row("stretched batch", "d = MatMul(c, w)", 14, 2, "float[1,8,6] w", x=TOKENS, head="matmul"),
    Row("two activations", "t = Transpose(e)\nd = MatMul(c, t)", 8, 1, x=ROWS, tail=False),
    Row("Gram matrix", "t = Transpose(c)\nd = MatMul(c, t)", 8, 1, x=ROWS, tail=False),
    Row("one tensor on both sides", "d = MatMul(c, c)", 0, x="float[8,8] x", fixed={"w_in": "MatMul 'd'"}),
    Row("two activations, outer axes", "t = Transpose(c)\nm = MatMul(t, e)\nd = MatMul(e, m)", 8, 1, x=ROWS),
]
NORM = [
    Row("batch", "d = BatchNormalization(c, s, b, m, v)", 8, 1, "float[8] s, float[8] b, float[8] m, float[8] v"),
    Row(
        "batch, opset 9",
        "d = BatchNormalization(c, s, b, m, v)",
        8,
        1,
        "float[8] s, float[8] b, float[8] m, float[8] v",
        opset=9,
    ),
    Row(
        "batch, training mode",
        "d, rm, rv = BatchNormalization<training_mode=1>(c, s, b, m, v)",
        8,
        1,
        "float[8] s, float[8] b, float[8] m, float[8] v",
        opset=15,
    ),
    Row("instance", "d = InstanceNormalization(c, s, b)", 8, 1, "float[8] s, float[8] b"),
    Row(
        "group, one scale a group",
        "d = GroupNormalization<num_groups=4>(c, s, b)",
        4,
        1,
        "float[4] s, float[4] b",
        opset=18,
    ),
    Row(
        "group, one scale a channel",
        "d = GroupNormalization<num_groups=4>(c, s, b)",
        4,
        1,
        "float[8] s, float[8] b",
        opset=21,
    ),
    Row(
        "group, every channel a group",
        "d = GroupNormalization<num_groups=8>(c, s, b)",
        8,
        1,
        "float[8] s, float[8] b",
        opset=21,
    ),
    Row(
        "group, one group",
        "d = GroupNormalization<num_groups=1>(c, s, b)",
        0,
        0,
        "float[8] s, float[8] b",
        {"w_in": "GroupNormalization 'd' normalizes over it"},
        opset=21,
    ),
    Row(
        "layer, last axis",
        "d = LayerNormalization(c, s, b)",
        0,
        0,
        "float[8] s, float[8] b",
        {"w_in": "LayerNormalization 'd' normalizes over it"},
        x=TOKENS,
        head="matmul",
    ),
    Row(
        "layer, spatial axes",
        "d = LayerNormalization<axis=2>(c, s)",
        8,
        1,
        "float[6,6] s",
        {"s": "LayerNormalization 'd'"},
    ),
    Row(
        "layer, all axes",
        "d = LayerNormalization<axis=1>(c, s)",
        0,
        0,
        "float[8,6,6] s",
        {"w_in": "LayerNormalization 'd'", "s": "LayerNormalization 'd'"},
    ),
    Row("softmax over channels", "d = Softmax<axis=1>(c)", 0, fixed={"w_in": "Softmax 'd' normalizes over it"}),
    Row("softmax over columns", "d = Softmax(c)", 8),
    Row("softmax, opset 11, coerced", "d = Softmax<axis=2>(c)", 8, opset=11),
    Row("softmax, opset 11, default", "d = Softmax(c)", 0, fixed={"w_in": "Softmax 'd'"}, opset=11),
    Row("log softmax", "d = LogSoftmax<axis=3>(c)", 8),
]
POOL = [
    Row("max", "d = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)", 8),
    Row("max, indices unused", "d, i = MaxPool<kernel_shape=[2,2]>(c)", 8),
    Row(
        "max, indices used",
        "p, i = MaxPool<kernel_shape=[2,2]>(c)\nf = Cast<to=1>(i)\nd = Add(p, f)",
        0,
        fixed={"w_in": "MaxPool 'p'"},
    ),
    Row("average", "d = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)", 8),
    Row("lp", "d = LpPool<kernel_shape=[2,2], p=2>(c)", 8),
    *(Row(f"global {op.lower()}", f"d = Global{op}Pool(c)", 8) for op in ("Average", "Max", "Lp")),
    Row("max 1-D", "d = MaxPool<kernel_shape=[2]>(c)", 8, x="float[1,3,9] x"),
]
RESIZE = [
    Row("scales, nearest", "d = Resize(c, , k)", 8, weights="float[4] k = {1.0, 1.0, 2.0, 2.0}"),
    Row("scales, linear", 'd = Resize<mode="linear">(c, , k)', 8, weights="float[4] k = {1.0, 1.0, 2.0, 2.0}"),
    Row("sizes, nearest", "d = Resize(c, , , k)", 8, weights="int64[4] k = {1, 8, 9, 9}"),
    Row("sizes, linear", 'd = Resize<mode="linear">(c, , , k)', 8, weights="int64[4] k = {1, 8, 9, 3}"),
    Row("sizes of two axes", "d = Resize<axes=[2,3]>(c, , , k)", 8, weights="int64[2] k = {9, 9}", opset=18),
    Row("scales, opset 10", "d = Resize(c, k)", 8, weights="float[4] k = {1.0, 1.0, 2.0, 2.0}", opset=10),
    Row("upsample, opset 9", "d = Upsample(c, k)", 8, weights="float[4] k = {1.0, 1.0, 2.0, 2.0}", opset=9),
    Row("upsample, opset 7", "d = Upsample<scales=[1.0, 1.0, 2.0, 2.0]>(c)", 8, opset=7),
    Row(
        "channels resized",
        "d = Resize(c, , , k)",
        0,
        weights="int64[4] k = {1, 16, 6, 6}",
        fixed={"w_in": "Resize 'd' resizes it"},
    ),
]
QUANTIZED = [
    Row("per tensor", "w = DequantizeLinear(q, s, z)\nd = Conv(c, w)", 14, 2, "int8[6,8,3,3] q, float s, int8 z"),
    Row(
        "per axis",
        "w = DequantizeLinear<axis=0>(q, s, z)\nd = Conv(c, w)",
        14,
        2,
        "int8[6,8,3,3] q, float[6] s, int8[6] z",
    ),
    Row(
        "blocked",
        "w = DequantizeLinear<axis=0, block_size=2>(q, s)\nd = MatMul(c, w)",
        10,
        2,
        "int8[8,6] q, float[4,6] s",
        x=ROWS,
        opset=21,
    ),
]


@pytest.mark.parametrize("row", CONV, ids=str)
def test_conv(row):
    check_row(row)


@pytest.mark.parametrize("row", CONV_TRANSPOSE, ids=str)
def test_conv_transpose(row):
    check_row(row)


@pytest.mark.parametrize("row", GEMM, ids=str)
def test_gemm(row):
    check_row(row)


@pytest.mark.parametrize("row", MATMUL, ids=str)
def test_matmul(row):
    check_row(row)


@pytest.mark.parametrize("row", NORM, ids=str)
def test_normalization(row):
    check_row(row)


@pytest.mark.parametrize("row", POOL, ids=str)
def test_pooling(row):
    check_row(row)


@pytest.mark.parametrize("row", RESIZE, ids=str)
def test_resize(row):
    check_row(row)


@pytest.mark.parametrize("row", QUANTIZED, ids=str)
def test_dequantized_weight(row):
    check_row(row)
