"""One row per case of the ops of com.microsoft that onnxruntime's optimizers make."""

from __future__ import annotations

import onnxruntime.capi.onnxruntime_pybind11_state as state
import pytest
from support.rows import ROWS, TOKENS, Row, check_row

from onnxpfp.channels.ops import RULES

ORT = "com.microsoft."
STACK = "float[2,3,4,3] x"

LINEAR = [
    Row(
        "FusedConv",
        f'd = {ORT}FusedConv<activation="Relu", pads=[1,1,1,1]>(c, w, b)',
        14,
        2,
        "float[6,8,3,3] w, float[6] b",
    ),
    Row(
        "FusedConv with a residual",
        f'd = {ORT}FusedConv<activation="Relu", pads=[1,1,1,1]>(c, w, b, e)',
        16,
        2,
        "float[8,8,3,3] w, float[8] b",
    ),
    Row(
        "FusedConv, depthwise",
        f'd = {ORT}FusedConv<activation="HardSigmoid", activation_params=[0.2, 0.5], group=8>(c, w)',
        8,
        1,
        "float[8,1,3,3] w",
    ),
    Row(
        "FusedGemm",
        f'd = {ORT}FusedGemm<activation="LeakyRelu", activation_alpha=0.1, transB=1>(c, w, b)',
        14,
        2,
        "float[6,8] w, float[6] b",
        x=ROWS,
    ),
    Row("FusedMatMul by a matrix", f"d = {ORT}FusedMatMul<alpha=0.5>(c, w)", 14, 2, "float[8,6] w", x=ROWS),
    Row("FusedMatMul, transB", f"d = {ORT}FusedMatMul<transB=1>(c, w)", 14, 2, "float[6,8] w", x=TOKENS, head="matmul"),
    Row(
        "FusedMatMul, transA", f"t = Transpose(c)\nd = {ORT}FusedMatMul<transA=1>(t, w)", 14, 2, "float[8,6] w", x=ROWS
    ),
    Row(
        "FusedMatMul, matrix on the left",
        f"m = {ORT}FusedMatMul<transB=1>(w, c)\nd = Transpose(m)",
        14,
        2,
        "float[6,8] w",
        x=ROWS,
    ),
    Row(
        "FusedMatMul, two activations",
        f"d = {ORT}FusedMatMul<transB=1>(c, e)",
        8,
        1,
        x=TOKENS,
        head="matmul",
        tail=False,
    ),
    Row(
        "FusedMatMul, outer axes",
        f"m = {ORT}FusedMatMul<transA=1>(c, e)\nd = MatMul(e, m)",
        8,
        1,
        x=TOKENS,
        head="matmul",
    ),
    Row(
        "FusedMatMul, batch and rows change places",
        f"m = {ORT}FusedMatMul<transBatchA=1, transBatchB=1, transB=1>(c, e)\nd = Relu(m)",
        8,
        1,
        x=STACK,
        head="matmul",
        tail=False,
    ),
    Row(
        "FusedMatMul, heads first",
        f"t = Transpose<perm=[1,2,0,3]>(e)\nm = {ORT}FusedMatMul<transBatchA=1, transA=1, transBatchB=1>(c, e)\n"
        "d = MatMul(t, m)",
        8,
        1,
        x=STACK,
        head="matmul",
    ),
    Row("TransposeMatMul", f"d = {ORT}TransposeMatMul<transB=1>(c, w)", 14, 2, "float[6,8] w", x=ROWS),
]
ELEMENTWISE = [
    Row("BiasGelu", f"d = {ORT}BiasGelu(c, b)", 8, 1, "float[8] b", x=ROWS),
    Row("FastGelu", f"d = {ORT}FastGelu(c, b)", 8, 1, "float[8] b", x=ROWS),
    Row("FastGelu without bias", f"d = {ORT}FastGelu(c)", 8, x=ROWS),
    Row("Gelu", f"d = {ORT}Gelu(c)", 8, x=ROWS),
    Row("GatedAdd", f"d = {ORT}GatedAdd(c, e, g)", 8, 1, "float[4,1] g", {"g": "GatedAdd 'd'"}, x=ROWS),
    Row("ScaledSiLU", f"d = {ORT}ScaledSiLU(c)", 8, x=ROWS),
    Row("SampleOp", f"d = {ORT}SampleOp(c)", 8, x=ROWS),
    Row(
        "UnfoldTensor",
        f"t = {ORT}UnfoldTensor<dim=1, size=2>(c)\nd = Transpose<perm=[0,1,3,2]>(t)",
        8,
        x=TOKENS,
        head="matmul",
    ),
    Row("QuickGelu", f"d = {ORT}QuickGelu<alpha=1.7>(c)", 8, x=ROWS),
    Row(
        "ExpandDims", f"t = {ORT}ExpandDims(c, k)\nd = Reshape(t, r)", 8, 1, "int32 k = {1}, int64[2] r = {4,8}", x=ROWS
    ),
    Row(
        "ExpandDims, from behind",
        f"t = {ORT}ExpandDims(c, k)\nd = Reshape(t, r)",
        8,
        1,
        "int32 k = {-1}, int64[2] r = {4,8}",
        x=ROWS,
    ),
    Row("Trilu", f"d = {ORT}Trilu(c)", 8),
    Row(
        "Trilu over channels",
        f"d = {ORT}Trilu(c)",
        0,
        x=ROWS,
        fixed={"w_in": "Trilu 'd' takes its matrices by their places"},
    ),
    Row("Inverse", f"d = {ORT}Inverse(c)", 8),
    Row("Pad", f"d = {ORT}Pad(c, k)", 10, 2, "int64[8] k = {0,2,0,0,0,0,1,1}"),
    Row(
        "CDist",
        f'm = {ORT}CDist<metric="euclidean">(c, u)\nd = MatMul(m, w)',
        11,
        2,
        "float[7,8] u, float[7,4] w",
        x=ROWS,
        fixed={"w_in": "CDist 'm' measures distances in it", "u": "CDist 'm'"},
    ),
    Row(
        "CropAndResize",
        f"d = {ORT}CropAndResize(c, r, i, k)",
        8,
        1,
        "float[1,4] r = {0.1,0.1,0.9,0.9}, int32[1] i = {0}, int32[2] k = {4,4}",
        fixed={"r": "CropAndResize 'd' samples by it"},
    ),
    Row(
        "GridSample",
        f"d = {ORT}GridSample(c, g)",
        8,
        1,
        "float[1,4,4,2] g",
        fixed={"g": "GridSample 'd' samples by it"},
    ),
    Row("MaxpoolWithMask", f"d = {ORT}MaxpoolWithMask<kernel_shape=[2,2]>(c, m)", 8, 1, "int32[1,1,6,6] m"),
]
NORMS = [
    Row(
        "SkipLayerNormalization",
        f"d, , , t = {ORT}SkipLayerNormalization(c, e, s, b, k)",
        0,
        x=TOKENS,
        head="matmul",
        weights="float[8] s, float[8] b, float[8] k",
        fixed={"w_in": "SkipLayerNormalization 'd' normalizes over it", "w_e": "SkipLayerNormalization 'd'"},
    ),
    Row(
        "SkipLayerNormalization, tokens with channels",
        f"t = Transpose<perm=[0,2,1]>(c)\nn = {ORT}SkipLayerNormalization(t, t, s)\nd = Transpose<perm=[0,2,1]>(n)",
        8,
        1,
        "float[4] s",
        x=TOKENS,
        head="matmul",
        fixed={},
    ),
    Row(
        "SkipSimplifiedLayerNormalization",
        f"t = Transpose<perm=[0,2,1]>(c)\nn, , , z = {ORT}SkipSimplifiedLayerNormalization(t, t, s, b)\n"
        "u = Add(n, z)\nd = Transpose<perm=[0,2,1]>(u)",
        8,
        1,
        "float[4] s, float[4] b",
        x=TOKENS,
        head="matmul",
    ),
]


@pytest.mark.parametrize("row", LINEAR, ids=str)
def test_fused_products(row):
    check_row(row)


@pytest.mark.parametrize("row", ELEMENTWISE, ids=str)
def test_fused_elementwise(row):
    check_row(row)


@pytest.mark.parametrize("row", NORMS, ids=str)
def test_fused_normalization(row):
    check_row(row)


def test_every_op_of_onnxruntime_has_a_rule():
    schemas = {s.name for s in state.get_all_operator_schema() if s.domain == "com.microsoft"}
    assert len(schemas) > 100
    assert not [name for name in schemas if f"com.microsoft:{name}" not in RULES]
