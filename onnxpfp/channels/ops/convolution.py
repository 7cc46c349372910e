"""Convolutions: they contract the channel axis of their input and bring forth that of their output."""

from __future__ import annotations

from onnxpfp.arrays import Ids
from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.facts import Bias
from onnxpfp.channels.mac_terms import convolution_terms, transposed_terms
from onnxpfp.channels.ops.elementwise import broadcast
from onnxpfp.channels.registry import Rules
from onnxpfp.channels.types import Form

__all__ = ["RULES", "convolve"]

RULES = Rules()

Zeros = tuple[int, int] | None
"""Positions of the zero points of data and filters."""


def _read(n: NodeContext, axis: int, weight: int, weight_axis: int, form: Form, zeros: Zeros = None) -> None:
    """Contract the input channels, unless the filters are computed: what those read cannot be measured."""
    if n.constant[weight]:
        n.consume(0, axis, weight, weight_axis, form, zeros=zeros)
    else:
        n.fix(n.axes(0)[axis], "filters it with weights that are computed")


def _finish(n: NodeContext, axis: int, weight: int, bias: int, out: Ids) -> None:
    """Tie the bias, keep kernel and spatial axes, set the output."""
    x = n.axes(0)
    for place, labels in enumerate(x):
        if place not in {0, axis}:
            n.fix(labels, "slides over it")
    for labels in n.axes(weight)[2:]:
        n.fix(labels, "slides with it")
    if n.has(bias):
        n.tie(n.axes(bias)[0], out)
    result = [n.zeros(size) for size in n.out_shape()]
    result[0], result[axis] = x[0], out
    n.set(result)


def convolve(n: NodeContext, *, axis: int = 1, weight: int = 1, bias: int = 2, zeros: Zeros = None) -> Ids:
    """Label a convolution of input 0, (N, C, ...), and return the labels of its output channels.

    W is (M, C/group, k1, ..., kn):

    1. group 1: output channel m owns W[m] and B[m]; input channel c is read by W[:, c].
    2. depthwise (one input channel a group): input channel c lives and dies with its M/C filters.
    3. grouped: a channel is the same position in every group, so that groups keep one size.

    Args:
        n: The node.
        axis: The channel axis of input and output.
        weight: Position of W.
        bias: Position of B.
        zeros: Positions of the zero points of data and filters.
    """
    x, w = n.axes(0)[axis], n.axes(weight)
    group = n.integer("group", 1)
    filters = w[0].reshape(group, -1)
    if group == 1:
        _read(n, axis, weight, 1, "conv", zeros)
        n.tie(x, w[1])
    elif x.size == group:
        n.tie(filters, x[:, None])
        n.fix(w[1], "has one input channel in a group")
        n.size_ref("group", None, x)
    else:
        _read(n, axis, weight, 1, "conv", zeros)
        n.tie(x.reshape(group, -1), w[1][None])
        n.tie(filters, filters[:1])
    _finish(n, axis, weight, bias, w[0])
    return w[0]


@RULES.add("Conv")
def conv(n: NodeContext) -> None:
    """Conv: output channels own their filters; depthwise, input and output are one; groups keep one size."""
    convolve(n)


@RULES.add("com.microsoft:FusedConv")
def fused_conv(n: NodeContext) -> None:
    """FusedConv: a Conv with an activation, and a residual that is added before it."""
    convolve(n)
    if n.has(3):
        out = n.outputs[0]
        assert out is not None
        broadcast(n, [out, n.axes(3)], n.out_shape())


@RULES.add("ConvTranspose")
def conv_transpose(n: NodeContext) -> None:
    """ConvTranspose: as Conv with W (C, M/group, k1, ..., kn), so a group's filters share axis 1.

    1. group 1: output channel m owns W[:, m]; input channel c is read by W[c].
    2. depthwise (one input channel a group): input channel c lives and dies with its M/C filters.
    3. grouped: a channel is the same position in every group.
    """
    x, w = n.axes(0)[1], n.axes(1)
    group = n.integer("group", 1)
    if group == 1:
        _read(n, 1, 1, 0, "conv_transpose")
        n.tie(x, w[0])
        out = w[1]
    elif x.size == group:
        n.tie(x, w[0])
        n.fix(w[1], "has the same filters in every group")
        n.size_ref("group", None, x)
        out = w[0].repeat(w[1].size)
    else:
        _read(n, 1, 1, 0, "conv_transpose")
        n.tie(x, w[0])
        blocks = w[0].reshape(group, -1)
        n.tie(blocks, blocks[:1])
        out = w[1][None].repeat(group, 0).ravel()
    _finish(n, 1, 1, 2, out)


RULES.declare("Conv", mac_terms=convolution_terms(1), bias=Bias(2), layout="conv", linear=True)
RULES.declare("com.microsoft:FusedConv", mac_terms=convolution_terms(1), bias=Bias(2), layout="conv")
RULES.declare("ConvTranspose", mac_terms=transposed_terms, bias=Bias(2), layout="conv_transpose", linear=True)
