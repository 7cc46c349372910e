"""Quantize and dequantize: every number by itself, with scales of an axis, a block or the tensor."""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()


@RULES.add("DequantizeLinear", "QuantizeLinear")
def linear(n: NodeContext) -> None:
    """Pass labels through; scale and zero point follow the axis that they are given for.

    1. per tensor: a single number.
    2. per axis: index i of the axis owns scale[i].
    3. blocked: `block_size` indices share a number, so they go together.
    """
    x = n.axes(0)
    block = n.integer("block_size", 0)
    axis = n.integer("axis", 1)
    for position in (1, 2):
        if not n.has(position) or not n.shape(position):
            continue
        own = n.axes(position)
        if block:
            shared = axis % len(x)
            for number, labels in enumerate(own):
                if number != shared:
                    n.tie(labels, x[number])
                    continue
                padded = x[shared]
                for place, label in enumerate(labels):
                    part = padded[place * block : (place + 1) * block]
                    n.tie(part, label)
        elif own[0].size == 1 and x[axis % len(x)].size != 1:
            n.fix(own[0], "scales the whole tensor with it")
        else:
            n.tie(own[0], x[axis % len(x)])
    n.set(x)
