"""Quantized ops that compute every number by itself: labels pass, scales follow what they scale.

A channel of quantized numbers that goes is the zero point at what contracts it, not 0.
"""

from __future__ import annotations

from onnxpfp.arrays import Ids
from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.ops.elementwise import broadcast
from onnxpfp.channels.ops.joining import join
from onnxpfp.channels.registry import Rules

__all__ = ["RULES", "follow", "serve_all"]

RULES = Rules()


def follow(n: NodeContext, positions: tuple[int, ...], labels: Ids) -> None:
    """Let scales and zero points follow an axis: index i owns number i; a single number serves the whole tensor."""
    for position in positions:
        if not n.has(position) or not n.shape(position):
            continue
        for own in n.axes(position):
            if own.size == labels.size:
                n.tie(own, labels)
            else:
                n.fix(own, "scales the whole tensor with it")


def serve_all(n: NodeContext, *positions: int) -> None:
    """Keep scales and zero points that serve whole tensors."""
    for position in positions:
        for own in n.axes(position) if n.has(position) else ():
            n.fix(own, "scales the whole tensor with it")


@RULES.add(
    *("DequantizeLinear", "QuantizeLinear"),
    *("com.microsoft:DequantizeLinear", "com.microsoft:QuantizeLinear"),
)
def linear(n: NodeContext) -> None:
    """QuantizeLinear, DequantizeLinear: all axes pass; scale and zero point follow the axis they are given for.

    1. per tensor: a single number.
    2. per axis: index i of the axis owns scale[i].
    3. blocked: `block_size` indices share a number, so they go together.
    """
    x = n.axes(0)
    block = n.integer("block_size", 0)
    axis = n.integer("axis", 1) % max(len(x), 1)
    for position in (1, 2):
        if not n.has(position) or not n.shape(position):
            continue
        own = n.axes(position)
        if not block:
            follow(n, (position,), x[axis])
            continue
        for number, labels in enumerate(own):
            if number != axis:
                n.tie(labels, x[number])
                continue
            for index, label in enumerate(labels):
                n.tie(x[axis][index * block : (index + 1) * block], label)
    n.set(x)


@RULES.add("DynamicQuantizeLinear")
def dynamic_quantize(n: NodeContext) -> None:
    """DynamicQuantizeLinear: all axes pass. The range includes 0 always, so zeros before it equal removal."""
    x = n.axes(0)
    for axis, labels in enumerate(x):
        n.mask(0, axis, labels)
    n.set(x)


@RULES.add("com.microsoft:QLinearSigmoid", "com.microsoft:QLinearLeakyRelu")
def unary(n: NodeContext) -> None:
    """QLinearSigmoid, QLinearLeakyRelu: all axes pass."""
    serve_all(n, 1, 2, 3, 4)
    n.set(n.axes(0))


@RULES.add("com.microsoft:QLinearAdd", "com.microsoft:QLinearMul")
def binary(n: NodeContext) -> None:
    """QLinearAdd, QLinearMul: index i of both operands goes with index i of the result."""
    serve_all(n, 1, 2, 4, 5, 6, 7)
    n.set(broadcast(n, [n.axes(0), n.axes(3)], n.out_shape()))


@RULES.add("com.microsoft:QLinearWhere")
def where(n: NodeContext) -> None:
    """QLinearWhere: index i of all operands goes with index i of the result."""
    serve_all(n, 2, 3, 5, 6, 7, 8)
    n.set(broadcast(n, [n.axes(0), n.axes(1), n.axes(4)], n.out_shape()))


@RULES.add("com.microsoft:QLinearConcat")
def concat(n: NodeContext) -> None:
    """QLinearConcat: the labels of the axis are joined; along the other axes all inputs are one."""
    positions = range(2, len(n.node.input), 3)
    serve_all(n, 0, 1, *(position + after for position in positions for after in (1, 2)))
    join(n, [n.axes(position) for position in positions])


@RULES.add("com.microsoft:QLinearSoftmax")
def softmax(n: NodeContext) -> None:
    """QLinearSoftmax: the axis shares one sum and stays; before opset 13 all axes from `axis` on."""
    serve_all(n, 1, 2, 3, 4)
    x = n.axes(0)
    first = n.integer("axis", -1) % len(x)
    for labels in x[first : first + 1] if n.integer("opset", 13) >= 13 else x[first:]:
        n.fix(labels, "normalizes over it")
    n.set(x)


@RULES.add(
    *("com.microsoft:QLinearAveragePool", "com.microsoft:QLinearGlobalAveragePool", "com.microsoft:NhwcMaxPool"),
)
def pool(n: NodeContext) -> None:
    """QLinearAveragePool, QLinearGlobalAveragePool, NhwcMaxPool: samples and channels pass, spatial axes stay."""
    serve_all(n, *range(1, len(n.node.input)))
    x, shape = n.axes(0), n.out_shape()
    last = n.node.op_type == "NhwcMaxPool" or n.integer("channels_last", 0)
    passing = {0, len(x) - 1 if last else 1}
    for axis, labels in enumerate(x):
        if axis not in passing:
            n.fix(labels, "pools over it")
    n.set([x[axis] if axis in passing else n.zeros(size) for axis, size in enumerate(shape)])
