"""Ops that read an image at computed places: every channel is read at the same ones."""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.facts import Deciding
from onnxpfp.channels.mac_terms import convolution_terms
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()


@RULES.add("GridSample")
def grid_sample(n: NodeContext) -> None:
    """GridSample: channels pass, the batch goes with the grid's, spatial axes and the grid stay."""
    x, grid = n.axes(0), n.axes(1)
    n.tie(x[0], grid[0])
    for labels in (*x[2:], *grid[1:]):
        n.fix(labels, "samples by it")
    n.set((*x[:2], *(n.zeros(size) for size in n.out_shape()[2:])))


@RULES.add("RoiAlign", "MaxRoiPool")
def pool_regions(n: NodeContext) -> None:
    """RoiAlign, MaxRoiPool: channels pass, regions are the new batch, batch and spatial axes stay."""
    x, regions = n.axes(0), n.axes(1)
    for labels in (x[0], *x[2:], *regions[1:]):
        n.fix(labels, "samples regions of it")
    if n.has(2):
        n.tie(regions[0], n.axes(2)[0])
    n.set((regions[0], x[1], *(n.zeros(size) for size in n.out_shape()[2:])))


@RULES.add("MaxUnpool")
def max_unpool(n: NodeContext) -> None:
    """MaxUnpool: all axes stay, for its indices count through all channels of the tensor."""
    n.keep_all("writes by numbers that count through all channels")


@RULES.add("DeformConv")
def deform_conv(n: NodeContext) -> None:
    """DeformConv: filters and biases are free (the same ones of every group); input channels stay.

    W is (M, C/group, kH, kW). The input is read at computed places, which no probe measures.
    """
    x, w = n.axes(0), n.axes(1)
    for position in (0, 2, 4):
        for labels in n.axes(position)[1:] if n.has(position) else ():
            n.fix(labels, "samples it at computed places")
        if position and n.has(position):
            n.tie(x[0], n.axes(position)[0])
    for labels in w[1:]:
        n.fix(labels, "filters with it at computed places")
    filters = w[0].reshape(n.integer("group", 1), -1)
    n.tie(filters, filters[:1])
    if n.has(3):
        n.tie(n.axes(3)[0], w[0])
    n.set((x[0], w[0], *(n.zeros(size) for size in n.out_shape()[2:])))


RULES.declare("DeformConv", mac_terms=convolution_terms(1))
# Where they read goes in steps: the corners of bins, the nearest pixel.
RULES.declare("GridSample", "MaxRoiPool", "RoiAlign", decides=Deciding(reads=(1,)))
