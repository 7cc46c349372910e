"""Convolutions: they contract the channel axis of their input and bring forth that of their output."""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.registry import Rules
from onnxpfp.channels.types import Form, Ids

__all__ = ["RULES"]

RULES = Rules()


def _read(n: NodeContext, weight_axis: int, form: Form) -> None:
    """Contract the input channels, unless the filters are computed: what those read cannot be measured."""
    if n.constant[1]:
        n.consume(0, 1, 1, weight_axis, form)
    else:
        n.fix(n.axes(0)[1], "filters it with weights that are computed")


def _finish(n: NodeContext, out: Ids) -> None:
    """Tie the bias, keep kernel and spatial axes, set the output."""
    x, w = n.axes(0), n.axes(1)
    for axis in x[2:]:
        n.fix(axis, "slides over it")
    for axis in w[2:]:
        n.fix(axis, "slides with it")
    if n.has(2):
        n.tie(n.axes(2)[0], out)
    n.set((x[0], out, *(n.zeros(size) for size in n.out_shape()[2:])))


@RULES.add("Conv")
def conv(n: NodeContext) -> None:
    """Conv (https://onnx.ai/onnx/operators/onnx__Conv.html), W is (M, C/group, k1, ..., kn).

    1. group 1: output channel m owns W[m] and B[m]; input channel c is read by W[:, c].
    2. depthwise (one input channel a group): input channel c lives and dies with its M/C filters.
    3. grouped: a channel is the same position in every group, so that groups keep one size.
    """
    x, w = n.axes(0)[1], n.axes(1)
    group = n.integer("group", 1)
    filters = w[0].reshape(group, -1)
    if group == 1:
        _read(n, 1, "conv")
        n.tie(x, w[1])
    elif x.size == group:
        n.tie(filters, x[:, None])
        n.fix(w[1], "has one input channel in a group")
        n.spell("group", None, x)
    else:
        _read(n, 1, "conv")
        n.tie(x.reshape(group, -1), w[1][None])
        n.tie(filters, filters[:1])
    _finish(n, w[0])


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
        _read(n, 0, "conv_transpose")
        n.tie(x, w[0])
        out = w[1]
    elif x.size == group:
        n.tie(x, w[0])
        n.fix(w[1], "has the same filters in every group")
        n.spell("group", None, x)
        out = w[0].repeat(w[1].size)
    else:
        _read(n, 0, "conv_transpose")
        n.tie(x, w[0])
        blocks = w[0].reshape(group, -1)
        n.tie(blocks, blocks[:1])
        out = w[1][None].repeat(group, 0).ravel()
    _finish(n, out)
