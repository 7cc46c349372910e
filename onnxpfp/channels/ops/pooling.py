"""Pooling: it acts on the spatial axes of each channel by itself."""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.facts import Deciding
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()


@RULES.add(
    *("AveragePool", "MaxPool", "LpPool"),
    *("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"),
)
def pool(n: NodeContext) -> None:
    """Batch and channels pass, spatial axes stay.

    MaxPool's Indices count through the whole tensor, so the channels stay where they are read.
    """
    x = n.axes(0)
    if len(n.outputs) > 1 and n.read[1]:
        n.fix(x[1], "numbers the pixels of all its channels")
    for axis in x[2:]:
        n.fix(axis, "pools over it")
    for position in range(len(n.outputs)):
        shape = n.out_shapes[position]
        if shape is not None and n.node.output[position]:
            n.set((*x[:2], *(n.zeros(size) for size in shape[2:])), position)


RULES.declare("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", sign="of the first input")
RULES.declare("MaxPool", decides=Deciding(jumps=(1,)))
RULES.declare("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", magnitude="of the first input")
