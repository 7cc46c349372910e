"""Pieces that normalize, and those that take one number from an axis."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from support.composer_graph import Composer, Image, Pieces

PIECES = Pieces()


@PIECES.add("BatchNormalization", "InstanceNormalization", since=9)
def norm(g: Composer, op: str) -> None:
    x = g.pick()
    inputs = [x.name, g.weight(x.width, positive=True), g.weight(x.width)]
    if op == "BatchNormalization":
        inputs += [g.weight(x.width), g.weight(x.width, positive=True)]
    g.add(g.emit(op, *inputs), x.width, x.side)


@PIECES.add("GroupNormalization", since=18)
def group_norm(g: Composer, op: str) -> None:
    """Opset 18 scales by group, later ones by channel."""
    x = g.even()
    groups = g.choose(1, 2, x.width // 2, x.width)
    count = x.width if g.opset >= 21 else groups
    name = g.emit(op, x.name, g.weight(count, positive=True), g.weight(count), num_groups=groups)
    g.add(name, x.width, x.side)


@PIECES.add("LayerNormalization", since=17)
@PIECES.add("RMSNormalization", since=23)
@PIECES.add("SimplifiedLayerNormalization", since=17)
def layer_norm(g: Composer, op: str) -> None:
    """Of the channels of every pixel, or of the pixels of every channel."""
    x = g.pick()
    pixels = g.flip()
    size = x.side if pixels else x.width
    inputs = [x.name if pixels else g.transpose(x.name, 0, 2, 3, 1), g.weight(size, positive=True)]
    if op == "LayerNormalization" and g.flip():
        inputs.append(g.weight(size))
    name = g.emit(op, *inputs, axis=g.choose(-1, 3))
    g.add(name if pixels else g.transpose(name, 0, 3, 1, 2), x.width, x.side)


@PIECES.add("com.microsoft:SkipLayerNormalization", "com.microsoft:SkipSimplifiedLayerNormalization")
def skip_norm(g: Composer, op: str) -> None:
    x = g.pick()
    pixels = g.flip()
    tokens = g.tokens(x)
    name, size = (g.transpose(tokens, 0, 2, 1), x.side**2) if pixels else (tokens, x.width)
    inputs = [name, g.emit("Tanh", name), g.weight(size, positive=True)]
    if op.endswith("SkipLayerNormalization"):
        inputs += [g.weight(size)] if g.flip() else []
    if g.flip():
        outputs = g.emits(op, inputs, 4)
        # The means in between have no linear op and, on a CPU, no numbers.
        g.nodes[-1].output[1] = g.nodes[-1].output[2] = ""
        out = g.emit("Add", outputs[0], outputs[3])
    else:
        out = g.emit(op, *inputs)
    g.untoken(g.transpose(out, 0, 2, 1) if pixels else out, x.width, x.side)


@PIECES.add("LRN", "LpNormalization", since=7)
@PIECES.add("MeanVarianceNormalization", since=9)
def spread(g: Composer, op: str) -> None:
    x = g.pick()
    if op == "LRN" and g.flip():
        # Its channels are rows of pixels.
        name = g.emit(op, g.transpose(x.name, 0, 2, 1, 3), size=3)
        g.add(g.transpose(name, 0, 2, 1, 3), x.width, x.side)
        return
    if op == "LRN":
        options: dict[str, object] = {"size": 3}
    elif op == "LpNormalization":
        options = {"axis": g.choose(1, 2, -1), "p": g.choose(1, 2)}
    else:
        options = {"axes": g.choose([0, 2, 3], [1, 2, 3], [2, 3])} if g.flip() else {}
    # Rows that are all zero or all equal have no norm and no variance to divide by.
    uneven = g.emit("Add", x.name, g.weight(x.width, x.side, x.side))
    g.add(g.emit(op, uneven, **options), x.width, x.side)


REDUCES = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


@PIECES.add(*(f"Reduce{kind}" for kind in REDUCES), since=11)
def reduce(g: Composer, op: str) -> None:
    """Reduce pixels or channels, and stretch what is left by a product."""
    x = g.pick()
    name = g.bounded(x.name, 0.7, 1.2) if op in {"ReduceLogSum", "ReduceProd"} else x.name
    axes = g.choose([1], [2, 3], [3], [-1], [-3], [1, 2, 3])
    since = 13 if op == "ReduceSum" else 18
    keepdims = int(g.flip())
    small = g.listed(op, [name], "axes", axes, since, keepdims=keepdims)
    if not keepdims:
        small = g.unsqueeze(small, *(axis % 4 for axis in axes))
    g.add(g.emit("Add", x.name, small), x.width, x.side)


@PIECES.add("ArgMax", "ArgMin", since=7)
def places(g: Composer, op: str) -> None:
    x = g.pick()
    found = g.emit(op, x.name, axis=g.choose(1, 2, 3), keepdims=1)
    name = g.emit("Mul", g.cast(found, TensorProto.FLOAT), g.number(0.25))
    g.add(g.emit("Add", x.name, name), x.width, x.side)


@PIECES.add("Det", since=11)
def determinants(g: Composer, op: str) -> None:
    x = g.pick()
    g.add(g.emit("Add", x.name, g.unsqueeze(g.emit(op, g.emit("Tanh", x.name)), 2, 3)), x.width, x.side)


@PIECES.add("com.microsoft:Inverse")
def inverse(g: Composer, op: str) -> None:
    """Of matrices that are near the identity."""
    x = g.pick()
    small = g.emit("Mul", g.emit("Tanh", x.name), g.number(0.5 / x.side))
    name = g.emit("Add", small, g.store(np.eye(x.side, dtype=np.float32)))
    g.add(g.emit(op, name), x.width, x.side)


@PIECES.add("TopK", since=11)
def largest(g: Composer, op: str) -> None:
    x = g.pick()
    axis, k = g.choose(2, 3, -1), g.whole(1, x.side)
    values, found = g.emits(op, [x.name, g.ints(k)], 2, axis=axis, largest=int(g.flip()))
    name = g.emit("Mul", values, g.cast(found, TensorProto.FLOAT)) if g.flip() else values
    _stretch(g, x, name, axis % 4)


def _stretch(g: Composer, x: Image, name: str, axis: int) -> None:
    """Sum what is left of an axis, and add it to the image."""
    small = g.listed("ReduceSum", [name], "axes", [axis], 13)
    g.add(g.emit("Add", x.name, small), x.width, x.side)
