"""A hypothesis strategy that composes random networks out of all ops that have rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from support import (
    composer_attention,
    composer_contractions,
    composer_elementwise,
    composer_joining,
    composer_normalization,
    composer_quantized,
    composer_recurrent,
    composer_reshaping,
    composer_sampling,
)
from support.composer_graph import SIDE, Composer, Piece

OPSETS = (9, 13, 17, 18, 21, 23, 24, 26)
IR = {9: 4, 13: 7, 17: 8, 18: 8, 21: 10, 23: 11, 24: 11, 26: 11}
FAMILIES = tuple(
    module.PIECES.table
    for module in (
        composer_contractions,
        composer_elementwise,
        composer_joining,
        composer_reshaping,
        composer_normalization,
        composer_recurrent,
        composer_attention,
        composer_quantized,
        composer_sampling,
    )
)
PIECES: dict[str, Piece] = {op: piece for family in FAMILIES for op, piece in family.items()}
"""All pieces, by the op that each is sure to add."""
BATCHES = (None, 1, 2)
MERGED = (frozenset[int](), frozenset({0, 1}), frozenset(range(5)))


def _fitting(opset: int) -> list[list[str]]:
    """The ops of every family that there are in an opset."""
    fits = [[op for op, piece in family.items() if piece.since <= opset <= piece.until] for family in FAMILIES]
    return [family for family in fits if family]


def _logits(g: Composer) -> str:
    """Read all tensors that nothing reads: their mean pixels, or all of the newest one."""
    read = {name for node in g.nodes for name in node.input}
    newest = next(reversed(g.live.values()))
    loose = [image for image in g.live.values() if image.name not in read and image is not newest]
    parts, size = [g.rows(image) for image in loose], sum(image.width for image in loose)
    if g.flip():
        parts.append(g.emit("Flatten", newest.name))
        size += newest.width * newest.side**2
    else:
        parts.append(g.rows(newest))
        size += newest.width
    joined = g.emit("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
    return g.emit("Gemm", joined, g.weight(5, size), g.weight(5), transB=1)


def _finish(g: Composer) -> ModelProto:
    """Read all that has no linear op, and any tensor as an image."""
    logits = _logits(g)
    middle = g.pick()
    other = g.emit("Conv", middle.name, g.weight(2, middle.width, 1, 1))
    batch = "N" if g.batch is None else g.batch
    made = [(logits, [batch, 5]), (other, [batch, 2, middle.side, middle.side])]
    if g.whole(0, 9) == 0:
        seen = g.pick()
        made.append((seen.name, [batch, seen.width, seen.side, seen.side]))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in made]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])]
    graph = helper.make_graph(g.nodes, "random", inputs, outputs, g.weights)
    domains = [helper.make_opsetid("", g.opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=IR[g.opset])


def _start(draw, opset: int) -> Composer:
    """One image, and a Conv that reads it."""
    batch, merged = draw(st.sampled_from(BATCHES)), draw(st.sampled_from(MERGED))
    g = Composer(draw, np.random.default_rng(0), opset, batch, merged)
    width = draw(st.sampled_from([4, 6, 8]))
    g.add(g.emit("Conv", "x", g.weight(width, 3, 1, 1)), width, SIDE)
    return g


@st.composite
def compose(draw, least: int = 2, most: int = 8, often: Sequence[str] = ()) -> ModelProto:
    """A network of one image input, `least` to `most` random ops (some `often`) and two outputs or more."""
    opset = draw(st.sampled_from(OPSETS))
    fitting = _fitting(opset)
    favoured = [op for op in often if any(op in family for family in fitting)]
    op = st.sampled_from([*fitting, *[favoured] * 3] if favoured else fitting).flatmap(st.sampled_from)
    steps: Sequence[tuple[str, bool]] = draw(st.lists(st.tuples(op, st.booleans()), min_size=least, max_size=most))
    g = _start(draw, opset)
    for name, g.fresh in steps:
        PIECES[name].grow(g, name)
    return _finish(g)


@st.composite
def compose_with(draw, op: str) -> ModelProto:
    """A small network that is sure to have an op: a Conv, the op, and what reads it."""
    piece = PIECES[op]
    g = _start(draw, draw(st.sampled_from([opset for opset in OPSETS if piece.since <= opset <= piece.until])))
    g.fresh = draw(st.booleans())
    piece.grow(g, op)
    return _finish(g)
