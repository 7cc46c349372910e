"""MACs of fused and quantized ops: against counts by hand, and the cost model against really pruned files."""

from __future__ import annotations

import numpy as np
import pytest
from support.graphs import build
from support.oracle import problem, random_keep
from support.rows import model_of
from test_op_rules_attention import GROUPED, MULTI_HEAD, ONNX, PACKED, QUANTIZED
from test_op_rules_contrib import LINEAR
from test_op_rules_few_bits import NBITS
from test_op_rules_quantized import INTEGERS, QLINEAR

from onnxpfp.channels.macs import count_macs
from onnxpfp.model.shapes import concrete_shapes
from onnxpfp.pipeline.costs import mac_model
from onnxpfp.rewrite import Edits, apply

ORT = "com.microsoft."
TOKENS = "float[2,5,24] x"
ATTEND = 2 * 5 * 24 * 5
"""One product of 2 samples, 5 queries of 24 channels and 5 tokens."""
COUNTS = [
    ("ONNX", f"g ({TOKENS}) => (y) {{ y = Attention<q_num_heads=6, kv_num_heads=6>(x, x, x) }}", 2 * ATTEND),
    (
        "ONNX, shared heads",
        f"g ({TOKENS}, float[2,7,8] k) => (y) {{ y = Attention<q_num_heads=6, kv_num_heads=2>(x, k, k) }}",
        2 * 2 * 5 * 24 * 7,
    ),
    (
        "ONNX, axes of heads and a cache",
        "g (float[2,6,5,4] x, float[2,6,3,4] k) => (y, p, q) { y, p, q = Attention(x, x, x, , k, k) }",
        2 * 2 * 5 * 24 * 8,
    ),
    ("of several heads", f"g ({TOKENS}) => (y) {{ y = {ORT}MultiHeadAttention<num_heads=6>(x, x, x) }}", 2 * ATTEND),
    (
        "with a projection",
        f"g ({TOKENS}) => (y) <float[24,72] w, float[72] b> {{ y = {ORT}Attention<num_heads=6>(x, w, b) }}",
        2 * 5 * 24 * 72 + 2 * ATTEND,
    ),
    (
        "FusedMatMul, transposed",
        f"g (float[3,7,5] x) => (y) <float[4,5] w> {{ t = Transpose<perm=[0,2,1]>(x)\n"
        f"y = {ORT}FusedMatMul<transA=1, transB=1>(t, w) }}",
        3 * 7 * 5 * 4,
    ),
    (
        "FusedMatMul, batch behind rows",
        f"g (float[7,3,5] x) => (y) {{ y = {ORT}FusedMatMul<transBatchA=1, transBatchB=1, transB=1>(x, x) }}",
        3 * 7 * 7 * 5,
    ),
    (
        "FusedMatMul, batch behind columns",
        f"g (float[7,3,5] x) => (y) {{ y = {ORT}FusedMatMul<transBatchA=1, transA=1, transBatchB=1>(x, x) }}",
        3 * 7 * 5 * 5,
    ),
    (
        "QLinearConv",
        "g (uint8[1,8,6,6] x) => (y) <uint8[6,4,3,3] w, float s, uint8 z> "
        "{ y = QLinearConv<group=2>(x, s, z, w, s, z, s, z) }",
        6 * 4 * 9 * 16,
    ),
    (
        "MatMulNBits",
        f"g (float[3,64] x) => (y) <uint8[6,4,8] w, float[6,4] s> "
        f"{{ y = {ORT}MatMulNBits<N=6, K=64, bits=4, block_size=16>(x, w, s) }}",
        3 * 64 * 6,
    ),
]


@pytest.mark.parametrize(("text", "macs"), [case[1:] for case in COUNTS], ids=[case[0] for case in COUNTS])
def test_macs_by_hand(text, macs):
    model = build(text, opset=23)
    assert count_macs(model, concrete_shapes(model, {})) == macs


ROWS = [
    row
    for row in (*ONNX, *MULTI_HEAD, *PACKED, *QUANTIZED, *GROUPED, *LINEAR, *INTEGERS, *QLINEAR, *NBITS)
    if row.channels
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_cost_model_is_exact(row):
    case = problem(model_of(row))
    macs = mac_model(case.analysis)
    keep = random_keep(case.graph, np.random.default_rng(0), 0.6)
    kept = np.array([keep[group.channels].sum() for group in case.graph.groups], np.int64)
    pruned = apply(case.model, case.graph, keep, Edits())
    assert macs.total(kept) == count_macs(pruned, concrete_shapes(pruned, {}))
