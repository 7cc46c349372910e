"""Pieces that attend: decomposed, as the op of ONNX, and as those of onnxruntime."""

from __future__ import annotations

import numpy as np

from support.composer_graph import BATCH, Composer, Pieces

PIECES = Pieces()

HEADS, WIDTH = 4, 4
MODEL = HEADS * WIDTH


def projected(g: Composer, tokens: str, width: int, *outs: int) -> list[str]:
    """Multiply tokens by a matrix each, with a bias or without."""
    made = []
    for out in outs:
        name = g.emit("MatMul", tokens, g.weight(width, out))
        made.append(g.emit("Add", name, g.weight(out)) if g.flip() else name)
    return made


def split_heads(g: Composer, name: str, length: int, heads: int, width: int) -> str:
    """(N, T, H * D) to (N, H, T, D)."""
    return g.transpose(g.reshape(name, BATCH, length, heads, width), 0, 2, 1, 3)


def merge_heads(g: Composer, name: str, length: int, width: int) -> str:
    """(N, H, T, D) to (N, T, H * D)."""
    return g.reshape(g.transpose(name, 0, 2, 1, 3), BATCH, length, width)


def masks(g: Composer, length: int, heads: int) -> str:
    """A mask: none, of floats or of truth values, for all heads or one for each."""
    shape = g.choose((length, length), (1, 1, length, length), (1, heads, length, length))
    kind = g.choose("none", "float", "truth")
    if kind == "float":
        return g.weight(*shape)
    truth = g.rng.random(shape) < 0.7
    truth[..., 0] = True
    return g.store(truth) if kind == "truth" else ""


@PIECES.add("Attention", since=23)
def attention(g: Composer, op: str) -> None:
    x = g.pick()
    length, shared = x.side**2, g.choose(HEADS, 2, 1)
    q, k, v = projected(g, g.tokens(x), x.width, MODEL, shared * WIDTH, shared * WIDTH)
    options: dict[str, object] = {"is_causal": int(g.flip())}
    mask = masks(g, length, HEADS)
    if g.flip():
        inputs = [split_heads(g, name, length, count, WIDTH) for name, count in ((q, HEADS), (k, shared), (v, shared))]
        name = g.emit(op, *inputs, *([mask] if mask else []), **options)
        name = merge_heads(g, name, length, MODEL)
    else:
        options |= {"q_num_heads": HEADS, "kv_num_heads": shared}
        name = g.emit(op, q, k, v, *([mask] if mask else []), **options)
    g.untoken(name, MODEL, x.side)


@PIECES.add("RotaryEmbedding", since=23)
@PIECES.add("com.microsoft:RotaryEmbedding")
def rotary(g: Composer, op: str) -> None:
    x = g.pick()
    length = x.side**2
    (q,) = projected(g, g.tokens(x), x.width, MODEL)
    places = g.emit("Expand", g.ints(list(range(length))), _batch_by(g, x.name, length))
    tables = [g.weight(length, WIDTH // 2), g.weight(length, WIDTH // 2)]
    inputs = [places, *tables] if ":" in op else [*tables, places]
    options = {"interleaved": int(g.flip()), "num_heads": HEADS}
    if g.flip():
        name = g.emit(op, split_heads(g, q, length, HEADS, WIDTH), *inputs, **options)
        name = merge_heads(g, name, length, MODEL)
    else:
        name = g.emit(op, q, *inputs, **options)
    g.untoken(name, MODEL, x.side)


def _batch_by(g: Composer, name: str, *rest: int) -> str:
    """The shape (N, rest...), computed from an image."""
    first = g.sliced(g.emit("Shape", name), 0, 0, 1)
    return g.emit("Concat", first, g.ints(*rest), axis=0)


@PIECES.add("com.microsoft:MultiHeadAttention")
def multi_head(g: Composer, op: str) -> None:
    x = g.pick()
    kind = g.choose("plain", "bias", "mask", "heads")
    length, values = x.side**2, MODEL if kind == "heads" else g.choose(MODEL, 2 * HEADS)
    inputs = projected(g, g.tokens(x), x.width, MODEL, MODEL, values)
    if kind == "bias":
        inputs.append(g.weight(2 * MODEL + values))
    elif kind == "mask":
        inputs += ["", "", g.weight(1, g.choose(1, HEADS), length, length)]
    elif kind == "heads":
        inputs[1:] = [split_heads(g, name, length, HEADS, WIDTH) for name in inputs[1:]]
    g.untoken(g.emit(op, *inputs, num_heads=HEADS), values, x.side)


@PIECES.add("com.microsoft:Attention", "com.microsoft:QAttention")
def packed(g: Composer, op: str) -> None:
    """One matrix for queries, keys and values."""
    x = g.pick()
    tokens = g.tokens(x)
    sizes = g.choose([MODEL] * 3, [MODEL, MODEL, 2 * HEADS]) if op.endswith(":Attention") else [MODEL] * 3
    bias = g.weight(sum(sizes))
    options: dict[str, object] = {"num_heads": HEADS, "unidirectional": int(g.flip())}
    if op.endswith(":Attention"):
        options |= {"qkv_hidden_sizes": sizes} if sizes[2] != MODEL or g.flip() else {}
        name = g.emit(op, tokens, g.weight(x.width, sum(sizes)), bias, **options)
    else:
        q, scale, zero = g.emits("DynamicQuantizeLinear", [tokens], 3)
        w = g.store(g.rng.integers(-9, 9, (x.width, sum(sizes))).astype(np.int8))
        wide = (sum(sizes),) if g.flip() else (1,)
        scales, zeros = g.store(np.full(wide, 0.02, np.float32)), g.store(np.zeros(wide, np.int8))
        name = g.emit(op, q, w, bias, scale, scales, "", zero, zeros, **options)
    g.untoken(name, sizes[2], x.side)


@PIECES.add("com.microsoft:GroupQueryAttention")
def group_query(g: Composer, op: str) -> None:
    """Its head width is a multiple of 8; the lengths of all samples are given."""
    x, shared, wide = g.pick(), g.choose(HEADS, 2, 1), 8
    length = x.side**2
    tokens = g.tokens(x)
    if g.flip():
        inputs = projected(g, tokens, x.width, HEADS * wide, shared * wide, shared * wide)
    else:
        inputs = [*projected(g, tokens, x.width, (HEADS + 2 * shared) * wide), "", ""]
    last = g.store(np.asarray([length - 1], np.int32))
    lengths = g.emit("Expand", last, g.sliced(g.emit("Shape", x.name), 0, 0, 1))
    total = g.store(np.asarray(length, np.int32))
    name = g.emits(op, [*inputs, "", "", lengths, total], 3, num_heads=HEADS, kv_num_heads=shared)[0]
    name = g.emit("MatMul", name, g.weight(HEADS * wide, 6))
    g.untoken(name, 6, x.side)


@PIECES.add("Softmax", "LogSoftmax", "Hardmax", since=13)
def softmax(g: Composer, op: str) -> None:
    """Alone, or as the middle of attention that is written out."""
    x = g.pick()
    if op != "Softmax" or g.flip():
        g.add(g.emit(op, x.name, axis=g.choose(1, 2, 3, -1)), x.width, x.side)
        return
    length, heads = x.side**2, g.choose(2, 4)
    width = MODEL // heads
    q, k, v = (split_heads(g, name, length, heads, width) for name in _three(g, g.tokens(x), x.width))
    scores = g.emit("MatMul", g.emit("Mul", q, g.number(width**-0.5)), g.transpose(k, 0, 1, 3, 2))
    name = g.emit("MatMul", g.emit(op, scores, axis=-1), v)
    g.untoken(merge_heads(g, name, length, MODEL), MODEL, x.side)


def _three(g: Composer, tokens: str, width: int) -> list[str]:
    """Queries, keys and values of three matrices, or of one that is split."""
    if g.flip():
        return projected(g, tokens, width, MODEL, MODEL, MODEL)
    (name,) = projected(g, tokens, width, 3 * MODEL)
    return g.emits("Split", [name, g.ints(MODEL, MODEL, MODEL)], 3, axis=2)
