"""Pieces that rename axes, trade channels for pixels, and spell lengths: as constants or by shape arithmetic."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from support.composer_graph import BATCH, SIDE, WIDEST, Composer, Image, Pieces

PIECES = Pieces()


def spelled(g: Composer, image: Image, *parts: int | str) -> str:
    """A shape whose strings are lengths computed from the image: "N", "C", "S", or a calculation such as "C/2"."""
    shape = g.emit("Shape", image.name)
    entries: list[str] = []
    for part in parts:
        if isinstance(part, int):
            entries.append(g.ints(part))
            continue
        axis, by = "NCS".index(part[0]), part[2:]
        name = _length(g, shape, axis)
        operand = g.ints(int(by)) if by else ""
        entries.append(g.emit({"/": "Div", "*": "Mul"}[part[1]], name, operand) if by else name)
    return g.emit("Concat", *entries, axis=0)


def _length(g: Composer, shape: str, axis: int) -> str:
    """One length as a list: looked up in a list, by a single number, or cut out; perhaps by way of floats."""
    style = g.choose("list", "single", "cut", "float")
    if style == "cut":
        return g.sliced(shape, 0, axis, axis + 1)
    if style == "list":
        return g.emit("Gather", shape, g.ints(axis), axis=0)
    name = g.emit("Gather", shape, g.number(axis, np.int64), axis=0)
    if style == "float":
        half = g.emit("Mul", g.cast(name, TensorProto.FLOAT), g.number(0.5))
        name = g.cast(g.emit("Floor", g.emit("Mul", half, g.number(2.0))), TensorProto.INT64)
    return g.unsqueeze(name, 0)


@PIECES.add("Reshape", since=7)
def reshape(g: Composer, op: str) -> None:
    """A channel shuffle, a cut into heads, or a change of rank whose target is computed."""
    x = g.even()
    kind = g.choose("shuffle", "computed shuffle", "pixels", "rank")
    if kind == "pixels":
        target = spelled(g, x, "N", "C", -1) if g.flip() else g.ints(0, 0, x.side**2)
        name = g.emit("Mul", g.emit(op, x.name, target), g.weight(x.width, 1))
        g.add(g.reshape(name, BATCH, x.width, x.side, x.side), x.width, x.side)
        return
    if kind == "rank":
        flat = g.emit(op, x.name, spelled(g, x, "N", f"C*{x.side**2}") if g.flip() else g.ints(0, -1))
        name = g.emit(op, g.emit("Relu", flat), spelled(g, x, "N", "C", "S", "S"))
        g.add(name, x.width, x.side)
        return
    groups = g.choose(2, x.width // 2)
    if kind == "shuffle":
        name = g.reshape(x.name, BATCH, groups, x.width // groups, x.side, x.side)
    else:
        name = g.emit(op, x.name, spelled(g, x, "N", groups, f"C/{groups}", "S", "S"))
    name = g.transpose(name, 0, 2, 1, 3, 4)
    if kind == "shuffle":
        name = g.reshape(name, BATCH, x.width, x.side, x.side)
    else:
        name = g.emit(op, name, spelled(g, x, "N", "C", "S", "S") if g.flip() else g.ints(0, -1, x.side, x.side))
    g.add(name, x.width, x.side)


@PIECES.add("Transpose", since=7)
def columns(g: Composer, op: str) -> None:
    """Work on the last axis between two transposes."""
    x = g.pick()
    name = g.emit(op, x.name, perm=[0, 2, 3, 1])
    name = g.emit("Add", name, g.weight(x.width)) if g.flip() else g.emit("Relu", name)
    g.add(g.emit(op, name, perm=[0, 3, 1, 2]), x.width, x.side)


@PIECES.add("Flatten", since=9)
def flatten(g: Composer, op: str) -> None:
    x = g.pick()
    if g.flip():
        name = g.emit(op, g.emit("GlobalAveragePool", x.name), axis=g.choose(1, -3) if g.opset >= 11 else 1)
        g.gate(g.emit("Gemm", name, g.weight(4, x.width), g.weight(4), transB=1), 4, x)
        return
    name = g.emit(op, x.name, axis=2)
    g.add(g.reshape(name, g.batch or -1, x.width, x.side, x.side), x.width, x.side)


@PIECES.add("Squeeze", "Unsqueeze", "com.microsoft:ExpandDims", since=9)
def one_axis(g: Composer, op: str) -> None:
    """An axis of length 1 comes, is worked beside, and goes."""
    x = g.pick()
    place = g.choose(0, 1, 2, 4, -1)
    if op.endswith("ExpandDims"):
        name = g.emit(op, x.name, g.store(np.asarray(place, np.int32)))
    else:
        place %= 5
        name = g.unsqueeze(x.name, place)
    name = g.emit("Relu", name)
    if op == "Squeeze" and g.batch is not None and g.batch > 1 and g.flip():
        g.add(g.emit(op, name), x.width, x.side)
        return
    g.add(g.squeeze(name, place % 5), x.width, x.side)


@PIECES.add("Shape", "Size", since=9)
def lengths(g: Composer, op: str) -> None:
    """Stretch a mean to a shape that is computed, or divide by a count of numbers."""
    x = g.pick()
    if op == "Shape":
        shape = g.emit(op, x.name)
        if g.opset >= 15 and g.flip():
            shape = g.emit("Concat", g.emit(op, x.name, end=2), g.emit(op, x.name, start=-2), axis=0)
        small = g.mean(x.name, *g.choose([1], [2, 3]))
        g.add(g.emit("Mul", x.name, g.emit("Expand", small, shape)), x.width, x.side)
        return
    if g.flip():
        count = g.cast(g.emit(op, x.name), TensorProto.FLOAT)
        g.add(g.emit("Mul", x.name, g.emit("Div", count, g.number(100.0))), x.width, x.side)
        return
    rows = g.emit("Div", g.emit(op, x.name), g.number(x.side**2, np.int64))
    name = g.emit("Reshape", x.name, g.emit("Concat", g.unsqueeze(rows, 0), g.ints(x.side**2), axis=0))
    name = g.emit("Mul", name, g.weight(x.side**2, positive=True))
    g.add(g.reshape(name, g.batch or -1, x.width, x.side, x.side), x.width, x.side)


@PIECES.add("Constant", since=7)
def constant(g: Composer, op: str) -> None:
    """A node holds a weight: filters, or a factor."""
    x = g.pick()
    shape = (6, x.width, 1, 1) if g.flip() else (x.width, 1, 1)
    array = (g.rng.standard_normal(shape) / np.sqrt(x.width)).astype(np.float32)
    tensor = helper.make_tensor("", TensorProto.FLOAT, shape, array.tobytes(), raw=True)
    name = g.emit(op, value=tensor)
    if len(shape) == 4:
        g.add(g.emit("Conv", x.name, name), 6, x.side)
    else:
        g.add(g.emit("Mul", x.name, name), x.width, x.side)


@PIECES.add("ConstantOfShape", since=9)
def filled(g: Composer, op: str) -> None:
    """Numbers that are all equal, as long as a computed or stored shape says, joined or multiplied."""
    x = g.pick(most=8)
    fill = helper.make_tensor("", TensorProto.FLOAT, [1], [0.5])
    if g.flip():
        name = g.emit(op, g.emit("Shape", x.name) if g.flip() else spelled(g, x, 1, x.width, "S", "S"), value=fill)
        g.add(g.emit("Mul", x.name, name), x.width, x.side)
        return
    extra = g.emit(op, spelled(g, x, "N", 3, "S", "S"), value=fill)
    g.add(g.emit("Concat", x.name, extra, axis=1), x.width + 3, x.side)


@PIECES.add("Expand", "Tile", since=9)
def stretched(g: Composer, op: str) -> None:
    """Pool to one pixel or one channel and stretch it again; or repeat the channels."""
    x = g.pick()
    if op == "Tile" and 2 * x.width <= WIDEST and g.flip():
        g.add(g.emit(op, x.name, g.ints(1, 2, 1, 1)), 2 * x.width, x.side)
        return
    channels = g.flip()
    small = g.mean(x.name, *([1] if channels else [2, 3]))
    times = [1, x.width, 1, 1] if channels else [1, 1, x.side, x.side]
    if op == "Expand" and g.flip():
        target = spelled(g, x, *(1, "C", 1, 1) if channels else ("N", "C", "S", "S"))
    else:
        target = g.ints(*times)
    g.add(g.emit("Mul", x.name, g.emit(op, small, target)), x.width, x.side)


@PIECES.add("DepthToSpace", since=11)
def depth_to_space(g: Composer, op: str) -> None:
    x = g.even()
    if x.width % 4 or x.side > SIDE:
        x = g.add(g.emit("Conv", x.name, g.weight(8, x.width, 1, 1)), 8, x.side)
    name = g.emit(op, x.name, blocksize=2, mode=g.choose("DCR", "CRD"))
    if x.side > SIDE:
        g.add(g.emit("AveragePool", name, kernel_shape=[2, 2], strides=[2, 2]), x.width // 4, x.side)
    else:
        g.add(name, x.width // 4, 2 * x.side)


@PIECES.add("SpaceToDepth")
def space_to_depth(g: Composer, op: str) -> None:
    x = g.pick(most=4)
    name = g.emit(op, x.name, blocksize=2)
    if x.side > SIDE:
        g.add(name, 4 * x.width, x.side // 2)
    else:
        g.add(g.emit("Resize", name, "", g.reals(1, 1, 2, 2)), 4 * x.width, x.side)


@PIECES.add("Col2Im", since=18)
def columns_to_image(g: Composer, op: str) -> None:
    x = g.even()
    if x.width % 4:
        x = g.add(g.emit("Conv", x.name, g.weight(8, x.width, 1, 1)), 8, x.side)
    blocks = g.reshape(x.name, BATCH, x.width, x.side**2)
    name = g.emit(op, blocks, g.ints(x.side + 1, x.side + 1), g.ints(2, 2))
    g.add(g.emit("AveragePool", name, kernel_shape=[2, 2]), x.width // 4, x.side)
