"""Normalizations: what is averaged over stays; what is scaled one by one passes through."""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.facts import Deciding
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()

_SAYS_TRAINING = 14
"""Opset from which BatchNormalization has the attribute training_mode."""


@RULES.add("BatchNormalization")
def batch_normalization(n: NodeContext) -> None:
    """BatchNormalization: scale, bias, mean and variance belong to the channel axis, the others pass.

    1. In training mode (weight standardization is exported so) the other axes are averaged over. Before
       opset 14 the outputs say so.
    2. Before opset 9 `spatial=0` gives every pixel its own numbers.
    """
    x = n.axes(0)
    if len(x) < 2:
        n.keep_all("normalizes it without an axis of channels")
        return
    training = n.integer("training_mode", 0) if n.opset >= _SAYS_TRAINING else any(n.read[1:])
    if training:
        for axis in (x[0], *x[2:]):
            n.fix(axis, "normalizes over it")
    for position in range(1, 5):
        for labels, own in zip(x[1:], n.axes(position), strict=False):
            n.tie(labels, own)
    n.set(x)
    for position, shape in enumerate(n.out_shapes[1:], 1):
        if shape is not None and n.node.output[position]:
            n.set((x[1],), position)


@RULES.add("InstanceNormalization")
def instance_normalization(n: NodeContext) -> None:
    """InstanceNormalization: batch and channels pass; the axes behind, which are averaged over, stay."""
    x = n.axes(0)
    for position in (1, 2):
        n.tie(x[1], n.axes(position)[0])
    for axis in x[2:]:
        n.fix(axis, "normalizes over it")
    n.set(x)


@RULES.add("GroupNormalization")
def group_normalization(n: NodeContext) -> None:
    """GroupNormalization: batch and channels pass, those of a group together; the axes behind stay.

    1. opset 18: scale and bias have one number a group.
    2. opset 21: one number a channel.
    """
    x = n.axes(0)
    groups = n.integer("num_groups", 1)
    blocks = x[1].reshape(groups, -1)
    if groups == 1:
        n.fix(x[1], "normalizes over it")
    n.tie(blocks, blocks[:, :1])
    for position in (1, 2):
        own = n.axes(position)[0]
        n.tie(own, blocks[:, 0] if own.size == groups else x[1])
    for axis in x[2:]:
        n.fix(axis, "normalizes over it")
    n.size_ref("num_groups", None, blocks[:, 0])
    n.set(x)


@RULES.add("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_normalization(n: NodeContext) -> None:
    """The axes from `axis` on, which are averaged over, stay; those before pass."""
    x = n.axes(0)
    first = n.integer("axis", -1) % len(x)
    for axis in x[first:]:
        n.fix(axis, "normalizes over it")
    for position in range(1, len(n.node.input)):
        if n.has(position):
            for axis in n.axes(position):
                n.fix(axis, "normalizes over it")
    n.set(x)
    for position in range(1, len(n.outputs)):
        if n.out_shapes[position] is not None:
            n.set((*x[:first], *(n.zeros(1) for _ in x[first:])), position)


@RULES.add("Softmax", "LogSoftmax", "Hardmax")
def softmax(n: NodeContext) -> None:
    """The axis that shares one sum stays (all axes from there on before opset 13); the others pass."""
    x = n.axes(0)
    first = n.integer("axis", -1 if n.opset >= 13 else 1) % max(len(x), 1)
    for axis in x[first:] if n.opset < 13 else x[first : first + 1]:
        n.fix(axis, "normalizes over it")
    n.set(x)


@RULES.add("CumProd", "CumSum", "LpNormalization")
def along_axis(n: NodeContext) -> None:
    """CumProd, CumSum, LpNormalization: the axis that they mix stays, the others pass."""
    x = n.axes(0)
    axis = n.option("axis", 1) or [n.integer("axis", -1)]
    n.fix(x[axis[0] % len(x)], "mixes its indices")
    n.set(x)


@RULES.add("LRN")
def lrn(n: NodeContext) -> None:
    """LRN: the channels stay, for it averages over neighbouring ones; the others pass."""
    n.fix(n.axes(0)[1], "normalizes over it")
    n.set(n.axes(0))


@RULES.add("MeanVarianceNormalization")
def mean_variance(n: NodeContext) -> None:
    """MeanVarianceNormalization: the axes that are averaged over stay, the others pass."""
    x = n.axes(0)
    for axis in n.integers("axes") or [0, 2, 3]:
        n.fix(x[axis], "normalizes over it")
    n.set(x)


RULES.declare("Softmax", sign="never negative", saturates=True, within_one=True)
RULES.declare("LogSoftmax", saturates=True)
RULES.declare("LRN", sign="of the first input")
RULES.declare("Hardmax", decides=Deciding())
