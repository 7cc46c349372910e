"""Attention as one node: a head is the unit, for its width is in the scale of the scores.

With fewer heads of keys and values than of queries, a head of keys and values goes with all the queries that share it.
Where they all share one, it stays, and the heads of queries are free.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import Ids
from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.mac_terms import attention_terms, projected_attention_terms
from onnxpfp.channels.ops.quantization import follow, serve_all
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()

HEADS_FIRST = 4
"""Axes of a tensor whose heads have an axis of their own: (N, H, S, D)."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Labels of the heads of one attention.

    Attributes:
        queries: One label per head of queries.
        keys: One label per head of keys and values.
    """

    queries: Ids
    keys: Ids


def _units(n: NodeContext, channels: Ids, heads: int) -> Ids:
    """Tie the channels of every head, side by side in the axis; return one label per head."""
    blocks = channels.reshape(heads, -1)
    n.tie(blocks, blocks[:, :1])
    return blocks[:, 0]


def _share(n: NodeContext, queries: Ids, keys: Ids) -> Heads:
    """Tie every head of keys and values to the heads of queries that read it."""
    if keys.size == 1 and queries.size > 1:
        n.fix(keys, "shares its only head of keys and values among all queries")
    else:
        n.tie(queries.reshape(keys.size, -1), keys[:, None])
    return Heads(queries, keys)


def _head_axis(n: NodeContext, position: int, heads: Ids, axis: int = 1) -> None:
    """Tie an axis of heads of one input, where it has as many indices; one index serves all heads."""
    if not n.has(position) or not n.axes(position):
        return
    axes = n.axes(position)
    for place, labels in enumerate(axes):
        if place != axis:
            n.fix(labels, "attends along it")
        elif labels.size != heads.size:
            n.fix(labels, "has one for all heads")
        elif not n.cut(position, tuple(heads if p == axis else n.zeros(a.size) for p, a in enumerate(axes))):
            n.tie(labels, heads)


def _mask(n: NodeContext, position: int, heads: Ids) -> None:
    """Tie the heads of a mask or bias that broadcasts to (N, H, S, T)."""
    if n.has(position):
        _head_axis(n, position, heads, len(n.axes(position)) - 3)


def _cache(n: NodeContext, position: int, heads: Ids) -> None:
    """Label an output (N, H, T, D) of keys, values or scores."""
    if position < len(n.outputs) and n.node.output[position] and n.out_shapes[position] is not None:
        shape = n.out_shape(position)
        n.set([heads if axis == 1 else n.zeros(size) for axis, size in enumerate(shape)], position)


def _stay(n: NodeContext, *positions: int) -> None:
    """Keep inputs that say where tokens stand."""
    for position in positions:
        for labels in n.axes(position) if n.has(position) else ():
            n.fix(labels, "attends by it")


def _tokens(n: NodeContext, position: int) -> None:
    """Keep the samples and tokens of an input (N, S, C) or (N, H, S, D)."""
    axes = n.axes(position)
    for labels in (axes[0], axes[-2]):
        n.fix(labels, "attends along it")


def _projected(n: NodeContext, position: int, heads: int) -> Ids:
    """Heads of an input (N, S, H*D) or (N, H, S, D)."""
    axes = n.axes(position)
    _tokens(n, position)
    if len(axes) == HEADS_FIRST:
        n.fix(axes[3], "scales by its length")
        return axes[1]
    return _units(n, axes[2], heads)


def _result(n: NodeContext, queries: Ids) -> None:
    """Label the output, (N, S, H*D) or (N, H, S, D)."""
    shape = n.out_shape()
    if len(shape) == HEADS_FIRST:
        n.set((n.zeros(shape[0]), queries, n.zeros(shape[2]), n.zeros(shape[3])))
    else:
        n.set((n.zeros(shape[0]), n.zeros(shape[1]), queries.repeat(shape[2] // queries.size)))


@RULES.add("Attention")
def attention(n: NodeContext) -> None:
    """Attention: heads are free, tokens and the width of a head stay; heads of queries go with those they read."""
    separate = len(n.axes(0)) == HEADS_FIRST
    count = [
        n.shape(i)[1] if separate else n.integer(name, 1) for i, name in enumerate(("q_num_heads", "kv_num_heads"))
    ]
    queries, keys, values = (_projected(n, i, count[min(i, 1)]) for i in range(3))
    n.tie(keys, values)
    heads = _share(n, queries, keys)
    if not separate:
        n.size_ref("q_num_heads", None, heads.queries)
        n.size_ref("kv_num_heads", None, heads.keys)
    _mask(n, 3, heads.queries)
    for position in (4, 5):
        _head_axis(n, position, heads.keys)
    _stay(n, 6)
    _result(n, heads.queries)
    for position, labels in ((1, heads.keys), (2, heads.keys), (3, heads.queries)):
        _cache(n, position, labels)


@RULES.add("com.microsoft:MultiHeadAttention")
def multi_head_attention(n: NodeContext) -> None:
    """MultiHeadAttention: heads are free, tokens and the width of a head stay; the bias follows all three inputs.

    Query, key and value are (N, S, H*D); key and value of a cache are (N, H, T, D). Packed in one input they
    have no implementation on a CPU.
    """
    if not all(n.has(i) for i in range(3)):
        n.keep_all("reads queries, keys and values from one input")
        return
    count = n.integer("num_heads", 1)
    heads, *others = (_projected(n, i, count) for i in range(3))
    for other in others:
        n.tie(heads, other)
    n.size_ref("num_heads", None, heads)
    if n.has(3):
        _bias(n, n.axes(3)[0], heads, n.out_shape()[2])
    _mask(n, 5, heads)
    for position in (6, 7):
        _head_axis(n, position, heads)
    _stay(n, 4, 8, 9)
    _result(n, heads)
    for position in (1, 2, 3):
        _cache(n, position, heads)


def _bias(n: NodeContext, bias: Ids, heads: Ids, values: int) -> None:
    """Tie a bias of queries, keys and values, one behind the other; `values` is the length of the last."""
    inner = (bias.size - values) // 2
    for part in np.split(bias, (inner, 2 * inner)):
        n.tie(_units(n, part, heads.size), heads)


def _project(n: NodeContext, zeros: tuple[int, int] | None = None) -> Ids:
    """Contract the input by one matrix for queries, keys and values; return one label per head."""
    x, w = n.axes(0), n.axes(1)
    count = n.integer("num_heads", 1)
    n.consume(0, 2, 1, 0, "matrix", zeros=zeros)
    n.tie(x[2], w[0])
    _tokens(n, 0)
    sizes = n.integers("qkv_hidden_sizes")
    cuts = np.cumsum(sizes or [w[1].size // 3] * 3)
    parts = np.split(w[1], cuts[:-1])
    heads = _units(n, parts[0], count)
    for part in parts[1:]:
        n.tie(_units(n, part, count), heads)
    n.size_ref("num_heads", None, heads)
    if sizes is not None:
        for index, part in enumerate(parts):
            n.size_ref("qkv_hidden_sizes", index, part)
    if n.has(2):
        n.tie(n.axes(2)[0], w[1])
    return heads


def _one_buffer(n: NodeContext) -> bool:
    """Whether a cache is kept in one buffer, or rotated in it; then all stays."""
    shared = bool(n.integer("past_present_share_buffer", 0) or n.integer("do_rotary", 0))
    if shared:
        n.keep_all("keeps its cache in one buffer")
    return shared


def _attended(n: NodeContext, heads: Ids, past: int) -> None:
    """Label the output, and a cache (2, N, H, T, D) before and after."""
    _head_axis(n, past, heads, 2)
    _result(n, heads)
    if len(n.outputs) > 1 and n.node.output[1]:
        n.set([heads if axis == 2 else n.zeros(size) for axis, size in enumerate(n.out_shape(1))], 1)


@RULES.add("com.microsoft:Attention")
def packed_attention(n: NodeContext) -> None:
    """Attention: contracts its input by one matrix for queries, keys and values; heads are free."""
    if _one_buffer(n):
        return
    heads = _project(n)
    _stay(n, 3, 6)
    _mask(n, 5, heads)
    _attended(n, heads, 4)


@RULES.add("com.microsoft:QAttention")
def quantized_attention(n: NodeContext) -> None:
    """QAttention: as Attention; scales and zero points of its matrix follow the columns."""
    if _one_buffer(n):
        return
    heads = _project(n, (6, 7))
    serve_all(n, 3, 6)
    follow(n, (4, 7), n.axes(1)[1])
    _stay(n, 5)
    _attended(n, heads, 8)


@RULES.add("com.microsoft:GroupQueryAttention")
def group_query_attention(n: NodeContext) -> None:
    """GroupQueryAttention: heads of keys and values are free and take along the queries that share them."""
    if any(n.has(position) for position in (12, 13)):
        n.keep_all("quantizes its cache")
        return
    counts = n.integer("num_heads", 1), n.integer("kv_num_heads", 1)
    if n.has(1):
        queries, keys, values = (_projected(n, i, counts[min(i, 1)]) for i in range(3))
    else:
        _tokens(n, 0)
        packed = n.axes(0)[2]
        width = packed.size // (counts[0] + 2 * counts[1])
        parts = np.split(packed, np.cumsum([counts[0], counts[1]]) * width)
        queries, keys, values = (_units(n, p, c) for p, c in zip(parts, (*counts, counts[1]), strict=True))
    n.tie(keys, values)
    heads = _share(n, queries, keys)
    n.size_ref("num_heads", None, heads.queries)
    n.size_ref("kv_num_heads", None, heads.keys)
    for position in (3, 4):
        _head_axis(n, position, heads.keys)
    _mask(n, 10, heads.queries)
    _head_axis(n, 11, heads.queries, 0)
    _stay(n, 5, 6, 7, 8, 9, 14, 15)
    _result(n, heads.queries)
    for position, labels in ((1, heads.keys), (2, heads.keys), (3, heads.queries)):
        _cache(n, position, labels)


@RULES.add("RotaryEmbedding", "com.microsoft:RotaryEmbedding")
def rotary_embedding(n: NodeContext) -> None:
    """RotaryEmbedding: heads are free, the width of a head and the tokens stay.

    Without `num_heads` an input (N, S, H*D) is cut by twice the width of the tables.
    """
    x = n.axes(0)
    _stay(n, 1, 2, 3)
    _tokens(n, 0)
    if len(x) == HEADS_FIRST:
        n.fix(x[3], "turns it in pairs")
        n.set(x)
        return
    table = n.shape(1 if n.node.domain != "com.microsoft" else 2)
    count = n.integer("num_heads", 0)
    heads = _units(n, x[2], count or max(x[2].size // (2 * table[-1]), 1))
    if count:
        n.size_ref("num_heads", None, heads)
    n.set((*x[:2], heads.repeat(x[2].size // heads.size)))


RULES.stay(
    "keeps a state or a cache of its own kind per head",
    *("LinearAttention",),
    *(
        f"com.microsoft:{op}"
        for op in (
            *("AttnLSTM", "CausalConvWithState", "DecoderAttention", "DecoderMaskedMultiHeadAttention"),
            *("DecoderMaskedSelfAttention", "GatedDeltaNet", "LinearAttention", "LinearAttentionGate"),
            *("PagedAttention", "VarlenCausalConvWithState"),
        )
    ),
)
RULES.stay(
    "attends to blocks or windows that it is told at run time",
    *(
        f"com.microsoft:{op}"
        for op in (
            *("DynamicSparseAttention", "LongformerAttention", "PackedSparseAttentionIndexer", "SparseAttention"),
            *("SparseAttentionIndexer", "SparsePagedAttention"),
        )
    ),
)


RULES.declare("Attention", mac_terms=attention_terms(4))
RULES.declare("com.microsoft:MultiHeadAttention", mac_terms=attention_terms(6))
RULES.declare("com.microsoft:GroupQueryAttention", mac_terms=attention_terms(3, one_width=True))
RULES.declare("com.microsoft:Attention", mac_terms=projected_attention_terms(4))
RULES.declare("com.microsoft:QAttention", mac_terms=projected_attention_terms(8))
