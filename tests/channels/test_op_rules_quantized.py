"""One row per case of the ops that compute with quantized numbers."""

from __future__ import annotations

import pytest
from support.rows import IMAGE, ROWS, TOKENS, Row, check_row

SCALES = "float sx = {0.03}, float sy = {0.04}, uint8 zx = {120}, uint8 zy = {130}"
Q = "q = QuantizeLinear(c, sx, zx)\n"
DQ = "\nd = DequantizeLinear(r, sy, zy)"


def quantized(name, body, channels, groups=1, weights="", **more):
    """A row of an op that reads quantized q and writes quantized r."""
    declared = f"{SCALES}, {weights}" if weights else SCALES
    return Row(name, f"{Q}{body}{DQ}", channels, groups, declared, **more)


QDQ = [
    Row("activation, per tensor", f"{Q}d = DequantizeLinear(q, sx, zx)", 8, weights=SCALES),
    Row("activation, no zero point", "q = QuantizeLinear(c, sx)\nd = DequantizeLinear(q, sx)", 8, weights=SCALES),
    Row(
        "activation, per axis",
        "q = QuantizeLinear<axis=1>(c, s, z)\nd = DequantizeLinear<axis=1>(q, s, z)",
        8,
        weights="float[8] s, uint8[8] z",
    ),
    Row(
        "activation, negative axis",
        "q = QuantizeLinear<axis=-3>(c, s, z)\nd = DequantizeLinear<axis=-3>(q, s, z)",
        8,
        weights="float[8] s, uint8[8] z",
    ),
    Row(
        "activation, blocked",
        "q = QuantizeLinear<axis=1, block_size=2, output_dtype=4>(c, s)\n"
        "d = DequantizeLinear<axis=1, block_size=2>(q, s)",
        4,
        weights="float[1,4,6,6] s",
        opset=21,
        fixed={"s": "QuantizeLinear 'q'"},
    ),
    Row(
        "weight, 4 bits, per axis",
        "w = DequantizeLinear<axis=1>(q, s, z)\nd = MatMul(c, w)",
        14,
        2,
        "int4[8,6] q, float[6] s, int4[6] z",
        x=ROWS,
        opset=21,
    ),
    Row(
        "weight, 4 bits, blocked",
        "w = DequantizeLinear<axis=0, block_size=2>(q, s, z)\nd = MatMul(c, w)",
        10,
        2,
        "uint4[8,6] q, float[4,6] s, uint4[4,6] z",
        x=ROWS,
        opset=21,
    ),
    Row(
        "weight, odd count of 4 bits",
        "w = DequantizeLinear<axis=0>(q, s)\nd = Gemm<transB=1>(c, w)",
        13,
        2,
        "int4[5,8] q, float[5] s",
        x=ROWS,
        opset=21,
    ),
    Row(
        "weight and bias of 32 bits",
        "w = DequantizeLinear<axis=0>(q, s)\nb = DequantizeLinear<axis=0>(p, s)\nd = Conv(c, w, b)",
        14,
        2,
        "int8[6,8,3,3] q, float[6] s, int32[6] p",
    ),
    Row(
        "weight, com.microsoft",
        "w = com.microsoft.DequantizeLinear<axis=0>(q, s, z)\nd = Conv(c, w)",
        14,
        2,
        "int8[6,8,3,3] q, float[6] s, int8[6] z",
    ),
]
DYNAMIC = "q, k, z = DynamicQuantizeLinear(c)\n"
SCALED = "f = Cast<to=1>(r)\nt = Mul(k, s)\nd = Mul(f, t)"
INTEGERS = [
    Row("dynamic, passes", f"{DYNAMIC}d = DequantizeLinear(q, k, z)", 8),
    Row(
        "MatMulInteger",
        f"{DYNAMIC}r = MatMulInteger(q, w, z, wz)\n{SCALED}",
        14,
        2,
        "int8[8,6] w, int8 wz, float s",
        x=ROWS,
    ),
    Row(
        "MatMulInteger, per column",
        f"{DYNAMIC}r = MatMulInteger(q, w, z, wz)\n{SCALED}",
        14,
        2,
        "uint8[8,6] w, uint8[6] wz, float[6] s",
        x=TOKENS,
        head="matmul",
    ),
    Row(
        "MatMulInteger, matrix on the left",
        f"{DYNAMIC}t = Transpose(q)\nr = MatMulInteger(w, t, wz, z)\n"
        "f = Cast<to=1>(r)\nm = Mul(f, s)\nd = Transpose(m)",
        14,
        2,
        "uint8[6,8] w, uint8 wz, float s",
        x=ROWS,
    ),
    Row(
        "MatMulInteger, no zero points",
        "q = QuantizeLinear(c, s0, z0)\nr = MatMulInteger(q, w)\nd = Cast<to=1>(r)",
        14,
        2,
        "int8[8,6] w, float s0 = {0.03}, int8 z0 = {0}",
        x=ROWS,
    ),
    Row(
        "ConvInteger",
        f"{DYNAMIC}r = ConvInteger<pads=[1,1,1,1]>(q, w, z, wz)\n{SCALED}",
        14,
        2,
        "uint8[6,8,3,3] w, uint8 wz, float s",
    ),
    Row(
        "ConvInteger, depthwise",
        f"{DYNAMIC}r = ConvInteger<group=8>(q, w, z)\n{SCALED}",
        8,
        1,
        "uint8[8,1,3,3] w, float s",
    ),
    Row(
        "ConvInteger, grouped",
        f"{DYNAMIC}r = ConvInteger<group=2>(q, w, z)\n{SCALED}",
        7,
        2,
        "uint8[6,4,3,3] w, float s",
    ),
    Row(
        "MatMulIntegerToFloat",
        f"{DYNAMIC}d = com.microsoft.MatMulIntegerToFloat(q, w, k, s, z, wz, b)",
        14,
        2,
        "int8[8,6] w, int8[6] wz, float[6] s, float[6] b",
        x=ROWS,
    ),
    Row(
        "DynamicQuantizeMatMul",
        "d = com.microsoft.DynamicQuantizeMatMul(c, w, s, wz, b)",
        14,
        2,
        "int8[8,6] w, int8[6] wz, float[6] s, float[6] b",
        x=ROWS,
    ),
    Row(
        "DynamicQuantizeMatMul, per tensor",
        "d = com.microsoft.DynamicQuantizeMatMul(c, w, s)",
        14,
        2,
        "int8[8,6] w, float s",
        x=TOKENS,
        head="matmul",
    ),
]
QLINEAR = [
    quantized(
        "QLinearConv",
        "r = QLinearConv<pads=[1,1,1,1]>(q, sx, zx, w, s, wz, sy, zy, b)",
        14,
        2,
        "int8[6,8,3,3] w, float[6] s, int8[6] wz, int32[6] b",
    ),
    quantized(
        "QLinearConv, per tensor",
        "r = QLinearConv(q, sx, zx, w, s, wz, sy, zy)",
        14,
        2,
        "uint8[6,8,3,3] w, float s, uint8 wz",
    ),
    quantized(
        "QLinearConv, channels last",
        "t = Transpose<perm=[0,2,3,1]>(q)\n"
        "p = com.microsoft.QLinearConv<channels_last=1, pads=[1,1,1,1]>(t, sx, zx, w, s, wz, sy, zy, b)\n"
        "r = Transpose<perm=[0,3,1,2]>(p)",
        14,
        2,
        "int8[6,8,3,3] w, float[6] s, int8[6] wz, int32[6] b",
    ),
    quantized(
        "QLinearConv, depthwise",
        "r = QLinearConv<group=8>(q, sx, zx, w, s, wz, sy, zy, b)",
        8,
        1,
        "int8[8,1,3,3] w, float[8] s, int8[8] wz, int32[8] b",
    ),
    quantized(
        "QLinearConv, grouped",
        "r = QLinearConv<group=2>(q, sx, zx, w, s, wz, sy, zy, b)",
        7,
        2,
        "int8[6,4,3,3] w, float s, int8 wz, int32[6] b",
    ),
    quantized(
        "QLinearMatMul",
        "r = QLinearMatMul(q, sx, zx, w, s, wz, sy, zy)",
        14,
        2,
        "int8[8,6] w, float[6] s, int8[6] wz",
        x=ROWS,
    ),
    quantized(
        "QLinearMatMul, two activations",
        "p = QuantizeLinear(e, sy, zy)\nt = Transpose(p)\nr = QLinearMatMul(q, sx, zx, t, sy, zy, sy, zy)",
        8,
        1,
        x=ROWS,
        tail=False,
    ),
    quantized(
        "QGemm",
        "r = com.microsoft.QGemm<transB=1, alpha=0.5>(q, sx, zx, w, s, wz, b, sy, zy)",
        14,
        2,
        "int8[6,8] w, float[6] s, int8[6] wz, int32[6] b",
        x=ROWS,
    ),
    Row(
        "QGemm to floats",
        f"{Q}t = Transpose(q)\nd = com.microsoft.QGemm<transA=1>(t, sx, zx, w, s, wz)",
        14,
        2,
        f"{SCALES}, int8[8,6] w, float s, int8 wz",
        x=ROWS,
    ),
    Row(
        "QGemm, one bias for all",
        f"{Q}d = com.microsoft.QGemm(q, sx, zx, w, s, wz, b)",
        14,
        2,
        f"{SCALES}, int8[8,6] w, float s, int8 wz, int32[1] b",
        x=ROWS,
    ),
    quantized(
        "QLinearAdd", "p = QuantizeLinear(e, sy, zy)\nr = com.microsoft.QLinearAdd(q, sx, zx, p, sy, zy, sy, zy)", 8
    ),
    quantized("QLinearMul", "r = com.microsoft.QLinearMul(q, sx, zx, w, sy, zy, sy, zy)", 8, 1, "uint8[8,1,1] w"),
    quantized("QLinearSigmoid", "r = com.microsoft.QLinearSigmoid(q, sx, zx, sy, zy)", 8),
    quantized("QLinearLeakyRelu", "r = com.microsoft.QLinearLeakyRelu<alpha=0.1>(q, sx, zx, sy, zy)", 8),
    quantized(
        "QLinearSoftmax",
        "r = com.microsoft.QLinearSoftmax<axis=-1, opset=13>(q, sx, zx, s, zs)",
        8,
        1,
        "float s = {0.004}, uint8 zs = {0}",
    ),
    quantized(
        "QLinearSoftmax over channels",
        "r = com.microsoft.QLinearSoftmax<axis=1, opset=13>(q, sx, zx, sy, zy)",
        0,
        fixed={"w_in": "QLinearSoftmax 'r' normalizes over it"},
    ),
    quantized(
        "QLinearSoftmax, opset 11",
        "r = com.microsoft.QLinearSoftmax<axis=1, opset=11>(q, sx, zx, sy, zy)",
        0,
        fixed={"w_in": "QLinearSoftmax 'r' normalizes over it"},
    ),
    quantized(
        "QLinearConcat",
        "p = QuantizeLinear(e, sy, zy)\nr = com.microsoft.QLinearConcat<axis=1>(sy, zy, q, sx, zx, p, sy, zy)",
        16,
        2,
    ),
    quantized(
        "QLinearAveragePool",
        "r = com.microsoft.QLinearAveragePool<kernel_shape=[2,2]>(q, sx, zx, sy, zy)",
        8,
    ),
    quantized(
        "QLinearAveragePool, channels last",
        "t = Transpose<perm=[0,2,3,1]>(q)\n"
        "p = com.microsoft.QLinearAveragePool<kernel_shape=[2,2], channels_last=1>(t, sx, zx, sy, zy)\n"
        "r = Transpose<perm=[0,3,1,2]>(p)",
        8,
    ),
    quantized("QLinearGlobalAveragePool", "r = com.microsoft.QLinearGlobalAveragePool(q, sx, zx, sy, zy)", 8),
    quantized(
        "NhwcMaxPool",
        "t = Transpose<perm=[0,2,3,1]>(q)\np = com.microsoft.NhwcMaxPool<kernel_shape=[2,2]>(t)\n"
        "r = Transpose<perm=[0,3,1,2]>(p)",
        8,
    ),
    quantized(
        "QLinearWhere",
        "l = Less(c, o)\np = QuantizeLinear(e, sy, zy)\n"
        "r = com.microsoft.QLinearWhere(l, q, sx, zx, p, sy, zy, sy, zy)",
        8,
        1,
        "float o = {0.0}",
    ),
]


def test_all_quantized_inputs_are_images_by_default():
    assert all(row.x in {IMAGE, ROWS, TOKENS} for row in (*QDQ, *INTEGERS, *QLINEAR))


@pytest.mark.parametrize("row", QDQ, ids=str)
def test_quantize_and_dequantize(row):
    check_row(row)


@pytest.mark.parametrize("row", INTEGERS, ids=str)
def test_integer_products(row):
    check_row(row)


@pytest.mark.parametrize("row", QLINEAR, ids=str)
def test_qlinear(row):
    check_row(row)
