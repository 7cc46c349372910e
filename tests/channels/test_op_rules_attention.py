"""One row per case of the ops that attend: heads are the unit."""

from __future__ import annotations

import pytest
from support.rows import Row, check_row

TOKENS = "float[2,4,3] x"
MADE = "q = MatMul(c, wq)\nk = MatMul(c, wk)\nv = MatMul(c, wv)\n"
WEIGHTS = "float[8,24] wq, float[8,24] wk, float[8,24] wv"


def row(name, body, channels, groups=2, weights=WEIGHTS, made=MADE, **more):
    """A row of attention over three projections of c, of 6 heads with a width of 4."""
    return Row(name, made + body, channels, groups, weights, x=TOKENS, head="matmul", **more)


def four(*names):
    """Nodes that give projections an axis of heads of their own."""
    return "".join(
        f"{name}r = Reshape({name}, heads)\n{name}t = Transpose<perm=[0,2,1,3]>({name}r)\n" for name in names
    )


HEADS = "int64[4] heads = {0,0,6,4}, int64[3] merged = {0,0,24}"
BACK = "\nyt = Transpose<perm=[0,2,1,3]>(a)\nd = Reshape(yt, merged)"
SHARED = "float[8,24] wq, float[8,8] wk, float[8,8] wv"
ONE = "float[8,24] wq, float[8,4] wk, float[8,4] wv"
CACHE = "float[2,6,5,4] pk, float[2,6,5,4] pv"
ONNX = [
    row("plain", "d = Attention<q_num_heads=6, kv_num_heads=6>(q, k, v)", 14, opset=23),
    row("opset 24", "d = Attention<q_num_heads=6, kv_num_heads=6>(q, k, v)", 14, opset=24),
    row("causal", "d = Attention<q_num_heads=6, kv_num_heads=6, is_causal=1>(q, k, v)", 14, opset=23),
    row(
        "wider values",
        "d = Attention<q_num_heads=6, kv_num_heads=6>(q, k, v)",
        14,
        weights="float[8,24] wq, float[8,24] wk, float[8,36] wv",
        opset=23,
    ),
    row("shared heads", "d = Attention<q_num_heads=6, kv_num_heads=2>(q, k, v)", 10, weights=SHARED, opset=23),
    row(
        "one head of keys",
        "d = Attention<q_num_heads=6, kv_num_heads=1>(q, k, v)",
        14,
        weights=ONE,
        opset=23,
        fixed={"wk": "shares its only head", "wv": "shares its only head"},
    ),
    row(
        "axes of heads",
        f"{four('q', 'k', 'v')}a = Attention(qt, kt, vt){BACK}",
        14,
        weights=f"{WEIGHTS}, {HEADS}",
        opset=23,
    ),
    row(
        "a mask for all heads",
        "d = Attention<q_num_heads=6, kv_num_heads=6>(q, k, v, m)",
        14,
        weights=f"{WEIGHTS}, float[4,4] m",
        opset=23,
        fixed={"m": "Attention 'd' attends along it"},
    ),
    row(
        "a mask per head",
        "d = Attention<q_num_heads=6, kv_num_heads=6>(q, k, v, m)",
        14,
        weights=f"{WEIGHTS}, float[1,6,4,4] m",
        opset=23,
        fixed={"m": "Attention 'd' attends along it"},
    ),
    row(
        "a mask of truth values per head",
        "d = Attention<q_num_heads=6, kv_num_heads=6>(q, k, v, m)",
        14,
        weights=f"{WEIGHTS}, bool[1,6,4,4] m",
        opset=23,
    ),
    row(
        "a stored cache",
        "d, nk, nv = Attention<q_num_heads=6, kv_num_heads=6>(q, k, v, , pk, pv)",
        14,
        weights=f"{WEIGHTS}, {CACHE}",
        opset=23,
        fixed={"pk": "Attention 'd' attends along it", "pv": "Attention 'd' attends along it"},
    ),
    row(
        "scores read, too",
        "a, nk, nv, s = Attention<q_num_heads=6, kv_num_heads=6>(q, k, v)\nm = ReduceMean<keepdims=0>(s, three)\n"
        "n = Transpose<perm=[0,2,1]>(m)\no = MatMul(n, wo)\nd = Concat<axis=2>(a, o)",
        19,
        3,
        f"{WEIGHTS}, float[6,5] wo, int64[1] three = {{3}}",
        opset=23,
    ),
]
ROTATED = [
    row(
        "three axes",
        "r = RotaryEmbedding<num_heads=6>(q, co, si)\nd = Attention<q_num_heads=6, kv_num_heads=6>(r, k, v)",
        14,
        weights=f"{WEIGHTS}, float[2,4,2] co, float[2,4,2] si",
        opset=23,
        fixed={"co": "RotaryEmbedding 'r' attends by it", "si": "RotaryEmbedding 'r' attends by it"},
    ),
    row(
        "axes of heads",
        f"{four('q')}a = RotaryEmbedding(qt, co, si){BACK}",
        14,
        weights=f"float[8,24] wq, {HEADS}, float[2,4,2] co, float[2,4,2] si",
        made="q = MatMul(c, wq)\n",
        opset=23,
        fixed={"co": "RotaryEmbedding 'a' attends by it", "si": "RotaryEmbedding 'a' attends by it"},
    ),
    row(
        "com.microsoft, heads not spelt",
        "d = com.microsoft.RotaryEmbedding(q, p, co, si)",
        14,
        weights="float[8,24] wq, int64[2,4] p = {0,1,2,3,0,1,2,3}, float[9,2] co, float[9,2] si",
        made="q = MatMul(c, wq)\n",
        fixed={"co": "RotaryEmbedding 'd' attends by it", "si": "RotaryEmbedding 'd' attends by it"},
    ),
    row(
        "com.microsoft, part of a head",
        "d = com.microsoft.RotaryEmbedding<num_heads=6, rotary_embedding_dim=2>(q, p, co, si)",
        14,
        weights="float[8,24] wq, int64[2,4] p = {0,1,2,3,0,1,2,3}, float[9,1] co, float[9,1] si",
        made="q = MatMul(c, wq)\n",
        fixed={"co": "RotaryEmbedding 'd' attends by it", "si": "RotaryEmbedding 'd' attends by it"},
    ),
]
MHA = "d = com.microsoft.MultiHeadAttention<num_heads=6>"
MULTI_HEAD = [
    row("plain", f"{MHA}(q, k, v)", 14),
    row("with a bias", f"{MHA}(q, k, v, b)", 14, weights=f"{WEIGHTS}, float[72] b"),
    row(
        "wider values",
        f"{MHA}(q, k, v, b)",
        14,
        weights="float[8,24] wq, float[8,24] wk, float[8,36] wv, float[84] b",
    ),
    row(
        "a bias of the scores",
        f"{MHA}(q, k, v, , , m)",
        14,
        weights=f"{WEIGHTS}, float[1,6,4,4] m",
        fixed={"m": "MultiHeadAttention 'd' attends along it"},
    ),
    row(
        "a stored cache",
        "d, nk, nv = com.microsoft.MultiHeadAttention<num_heads=6>(q, k, v, , , , pk, pv)",
        14,
        weights=f"{WEIGHTS}, {CACHE}",
        fixed={"pk": "MultiHeadAttention 'd' attends along it", "pv": "MultiHeadAttention 'd' attends along it"},
    ),
    row(
        "keys with axes of heads",
        f"{four('k', 'v')}{MHA}(q, kt, vt)",
        14,
        weights=f"{WEIGHTS}, {HEADS}",
    ),
]
PACKED = [
    row(
        "plain", "d = com.microsoft.Attention<num_heads=6>(c, w, b)", 14, weights="float[8,72] w, float[72] b", made=""
    ),
    row(
        "causal",
        "d = com.microsoft.Attention<num_heads=6, unidirectional=1>(c, w, b)",
        14,
        weights="float[8,72] w, float[72] b",
        made="",
    ),
    row(
        "sizes spelt",
        "d = com.microsoft.Attention<num_heads=6, qkv_hidden_sizes=[24,24,36]>(c, w, b)",
        14,
        weights="float[8,84] w, float[84] b",
        made="",
    ),
    row(
        "a mask of samples",
        "d = com.microsoft.Attention<num_heads=6>(c, w, b, m)",
        14,
        weights="float[8,72] w, float[72] b, int32[2] m = {4, 3}",
        made="",
    ),
    row(
        "a stored cache",
        "d, n = com.microsoft.Attention<num_heads=6, unidirectional=1>(c, w, b, , p)",
        14,
        weights="float[8,72] w, float[72] b, float[2,2,6,5,4] p",
        made="",
        fixed={"p": "Attention 'd' attends along it"},
    ),
]
QUANTIZED = [
    row(
        "per tensor",
        "d = com.microsoft.QAttention<num_heads=6>(q, w, b, k, s, , z, wz)",
        14,
        weights="uint8[8,72] w, float[72] b, float s = {0.01}, uint8 wz = {4}",
        made="q, k, z = DynamicQuantizeLinear(c)\n",
    ),
    row(
        "per column, with a mask and a cache",
        "d, n = com.microsoft.QAttention<num_heads=6, unidirectional=1>(q, w, b, k, s, m, z, wz, p)",
        14,
        weights="int8[8,72] w, float[72] b, float[72] s, int8[72] wz, int32[2] m = {9, 8}, float[2,2,6,5,4] p",
        made="q, k, z = DynamicQuantizeLinear(c)\n",
        fixed={"p": "QAttention 'd' attends along it"},
    ),
]
GQA = "d, nk, nv = com.microsoft.GroupQueryAttention<num_heads=6, kv_num_heads="
LENGTHS = "int32[2] t = {3, 3}, int32 n = {4}"
CACHED = "float[2,2,0,8] pk, float[2,2,0,8] pv"
GROUPED = [
    row(
        "plain",
        f"{GQA}2>(q, k, v, , , t, n)",
        10,
        weights=f"float[8,48] wq, float[8,16] wk, float[8,16] wv, {LENGTHS}",
    ),
    row(
        "one head of keys",
        f"{GQA}1>(q, k, v, , , t, n)",
        14,
        weights=f"float[8,48] wq, float[8,8] wk, float[8,8] wv, {LENGTHS}",
        fixed={"wk": "shares its only head", "wv": "shares its only head"},
    ),
    row("packed", f"{GQA}2>(q, , , , , t, n)", 10, weights=f"float[8,80] wq, {LENGTHS}", made="q = MatMul(c, wq)\n"),
    row(
        "turned",
        "d, nk, nv = com.microsoft.GroupQueryAttention<num_heads=6, kv_num_heads=2, do_rotary=1>"
        "(q, k, v, , , t, n, co, si)",
        10,
        weights=f"float[8,96] wq, float[8,32] wk, float[8,32] wv, {LENGTHS}, float[8,8] co, float[8,8] si",
        fixed={"co": "GroupQueryAttention 'd'", "si": "GroupQueryAttention 'd'"},
    ),
]


@pytest.mark.parametrize("case", ONNX, ids=str)
def test_attention_of_onnx(case):
    check_row(case)


@pytest.mark.parametrize("case", ROTATED, ids=str)
def test_rotary_embedding(case):
    check_row(case)


@pytest.mark.parametrize("case", MULTI_HEAD, ids=str)
def test_multi_head_attention(case):
    check_row(case)


@pytest.mark.parametrize("case", PACKED, ids=str)
def test_packed_attention(case):
    check_row(case)


@pytest.mark.parametrize("case", QUANTIZED, ids=str)
def test_quantized_attention(case):
    check_row(case)


@pytest.mark.parametrize("case", GROUPED, ids=str)
def test_group_query_attention(case):
    check_row(case)
