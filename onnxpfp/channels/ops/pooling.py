"""Ops that act on the spatial axes of each channel by itself."""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.registry import Rules
from onnxpfp.channels.types import Ids

__all__ = ["RULES"]

RULES = Rules()


@RULES.add(
    *["AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"],
    *["GridSample"],
)
def spatial(n: NodeContext) -> None:
    """Pooling and sampling: (N, C) pass through, spatial axes stay.

    MaxPool's Indices count through the whole tensor, so the channels stay where they are read.
    """
    x = n.axes(0)
    if len(n.outputs) > 1 and n.read[1]:
        n.fix(x[1], "numbers the pixels of all its channels")
    for axis in x[2:]:
        n.fix(axis, "pools over it")
    if n.has(1):
        for axis in n.axes(1):
            n.fix(axis, "samples by it")
    for position in range(len(n.outputs)):
        shape = n.out_shapes[position]
        if shape is not None and n.node.output[position]:
            n.set((*x[:2], *(n.zeros(size) for size in shape[2:])), position)


@RULES.add("Resize", "Upsample")
def resize(n: NodeContext) -> None:
    """Resize: an axis of the same length before and after passes through, the others stay.

    Where the sizes are spelt, the count of a passing axis changes with it; a scale of 1 does not.
    """
    x, shape = n.axes(0), n.out_shape()
    out: list[Ids] = []
    for axis, size in enumerate(shape):
        same = x[axis].size == size
        if not same:
            n.fix(x[axis], "resizes it")
        out.append(x[axis] if same else n.zeros(size))
    if n.has(3):
        axes = n.integers("axes") or list(range(len(shape)))
        for place, axis in enumerate(axes):
            n.spell(3, place, out[axis])
    n.set(out)


@RULES.add("DepthToSpace")
def depth_to_space(n: NodeContext) -> None:
    """DepthToSpace: the r*r channels that become one output channel's pixels go together.

    DCR keeps them C apart, CRD side by side (https://onnx.ai/onnx/operators/onnx__DepthToSpace.html).
    """
    x = n.axes(0)
    square = n.integer("blocksize", 1) ** 2
    crd = n.attributes.text("mode", "DCR") == "CRD"
    pixels = x[1].reshape(-1, square).T if crd else x[1].reshape(square, -1)
    n.tie(pixels, pixels[:1])
    for axis in x[2:]:
        n.fix(axis, "spreads channels over it")
    n.set((x[0], pixels[0], *(n.zeros(size) for size in n.out_shape()[2:])))


@RULES.add("SpaceToDepth")
def space_to_depth(n: NodeContext) -> None:
    """SpaceToDepth: every input channel becomes r*r output channels, C apart."""
    x = n.axes(0)
    square = n.integer("blocksize", 1) ** 2
    for axis in x[2:]:
        n.fix(axis, "moves its pixels into channels")
    out = x[1][None].repeat(square, 0).ravel()
    n.set((x[0], out, *(n.zeros(size) for size in n.out_shape()[2:])))
