"""Ops that change the size of an image, or trade channels for pixels."""

from __future__ import annotations

import math

from onnxpfp.arrays import Ids
from onnxpfp.channels.context import NodeContext, UnlabelledError
from onnxpfp.channels.facts import Deciding
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()

_FIRST_WITH_INPUTS = 11
"""Opset from which Resize has its scales behind the regions."""


def _scaled(n: NodeContext, axes: list[int]) -> frozenset[int]:
    """Find the axes that a Resize may change although their length stays.

    1. A scale that is a little more than 1 is rounded away in a short axis, yet mixes its indices.
    2. A region of interest cuts a part out and stretches it.
    3. Where the aspect ratio is kept, one scale serves all axes.
    """
    if n.attributes.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        return frozenset(axes)
    scaled: set[int] = set()
    if n.attributes.text("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        region = n.array(1)
        if region is None:
            return frozenset(axes)
        scaled = {axis for p, axis in enumerate(axes) if (region[p], region[p + len(axes)]) != (0, 1)}
    scales = n.array(2 if n.node.op_type == "Resize" and n.opset >= _FIRST_WITH_INPUTS else 1)
    given = n.attributes.reals("scales") or ([] if scales is None else scales.tolist())
    return frozenset(scaled | {axis for axis, scale in zip(axes, given, strict=False) if scale != 1})


@RULES.add("Resize", "Upsample")
def resize(n: NodeContext) -> None:
    """Resize, Upsample: an axis that is not resized passes, the others stay; sizes given as numbers follow.

    Where the sizes are given, the count of a passing axis changes with it; a scale of 1 does not.
    """
    x, shape = n.axes(0), n.out_shape()
    axes = [axis % len(x) for axis in n.integers("axes") or range(len(x))]
    scaled = _scaled(n, axes)
    out: list[Ids] = []
    for axis, size in enumerate(shape):
        same = x[axis].size == size and axis not in scaled
        if not same:
            n.fix(x[axis], "resizes it")
        out.append(x[axis] if same else n.zeros(size))
    if n.has(3):
        for index, axis in enumerate(axes):
            n.size_ref(3, index, out[axis])
    n.set(out)


@RULES.add("CenterCropPad")
def center_crop_pad(n: NodeContext) -> None:
    """CenterCropPad: an axis that has its length already passes, its length is given; the others stay."""
    x, shape = n.axes(0), n.out_shape()
    if n.numbers(1) is None:
        raise UnlabelledError(n.node.input[1])
    out: list[Ids] = list(x)
    for index, given in enumerate(n.integers("axes") or range(len(x))):
        axis = given % len(x)
        if x[axis].size != shape[axis]:
            n.fix(x[axis], "crops or pads it")
            out[axis] = n.zeros(shape[axis])
        n.size_ref(1, index, out[axis])
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


@RULES.add("Col2Im")
def col2im(n: NodeContext) -> None:
    """Col2Im: the taps of a channel's block lie side by side and go together; the columns stay.

    Input (N, C * taps, L), output (N, C, image...).
    """
    x = n.axes(0)
    block = n.numbers(2)
    if block is None:
        raise UnlabelledError(n.node.input[2])
    taps = x[1].reshape(-1, math.prod(block.tolist()))
    n.tie(taps, taps[:, :1])
    n.fix(x[2], "spreads it over the image")
    n.set((x[0], taps[:, 0], *(n.zeros(size) for size in n.out_shape()[2:])))


RULES.declare("DepthToSpace", "SpaceToDepth", sign="of the first input")
RULES.declare("Resize", "Upsample", decides=Deciding(reads=(1, 2)))
RULES.declare("DepthToSpace", "Resize", "SpaceToDepth", "Upsample", magnitude="of the first input")
