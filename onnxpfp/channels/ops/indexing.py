"""Ops that look indices up, write at them, or sort by them: the axes that are only carried along pass."""

from __future__ import annotations

import numpy as np

from onnxpfp.arrays import Ids
from onnxpfp.channels.context import Axes, NodeContext
from onnxpfp.channels.facts import Deciding
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()


def _along(n: NodeContext, axis: int) -> Axes:
    """Tie the indices of GatherElements and ScatterElements to the data along every axis but `axis`.

    They may be shorter than the data, then they belong to its first indices. Indices that are stored are no
    weights: they are cut together with the data.

    Returns:
        Labels of the indices' axes.
    """
    x, own = n.axes(0), n.axes(1)
    joint = tuple(
        labels if number == axis else data[: labels.size]
        for number, (data, labels) in enumerate(zip(x, own, strict=True))
    )
    if not n.cut(1, joint):
        for labels, data in zip(own, joint, strict=True):
            n.tie(labels, data)
    return joint


@RULES.add("GatherElements")
def gather_elements(n: NodeContext) -> None:
    """GatherElements: looks numbers up along one axis, which stays; the others pass, indices and data alike."""
    x = n.axes(0)
    axis = n.integer("axis", 0) % len(x)
    n.fix(x[axis], "looks up indices of it")
    n.set(_along(n, axis))


@RULES.add("Scatter", "ScatterElements")
def scatter_elements(n: NodeContext) -> None:
    """ScatterElements, Scatter: write along one axis, which stays; the others pass, indices and updates alike."""
    x, updates = n.axes(0), n.axes(2)
    axis = n.integer("axis", 0) % len(x)
    for labels in (x[axis], n.axes(1)[axis], updates[axis]):
        n.fix(labels, "writes at indices of it")
    for number, labels in enumerate(_along(n, axis)):
        n.tie(updates[number], labels)
    n.set(x)


@RULES.add("GatherND")
def gather_nd(n: NodeContext) -> None:
    """GatherND: the axes that are looked up stay; batch axes and those behind pass.

    Data (b..., d1...dk, rest...), indices (b..., q..., k), output (b..., q..., rest...).
    """
    x, own = n.axes(0), n.axes(1)
    batch = n.integer("batch_dims", 0)
    depth = own[-1].size
    for data, labels in zip(x[:batch], own[:batch], strict=True):
        n.tie(data, labels)
    for labels in (*x[batch : batch + depth], own[-1]):
        n.fix(labels, "looks up indices of it")
    n.set((*x[:batch], *own[batch:-1], *x[batch + depth :]))


@RULES.add("ScatterND")
def scatter_nd(n: NodeContext) -> None:
    """ScatterND: the axes that are written at stay; those behind pass, updates alike.

    Data (d1...dk, rest...), indices (q..., k), updates (q..., rest...).
    """
    x, own, updates = n.axes(0), n.axes(1), n.axes(2)
    depth = own[-1].size
    written = len(own) - 1
    for labels in (*x[:depth], *own, *updates[:written]):
        n.fix(labels, "writes at indices of it")
    for data, labels in zip(x[depth:], updates[written:], strict=True):
        n.tie(data, labels)
    n.set(x)


@RULES.add("TensorScatter")
def tensor_scatter(n: NodeContext) -> None:
    """TensorScatter: the axis of the cache that is written stays; the others pass, updates alike."""
    x, updates = n.axes(0), n.axes(1)
    axis = n.integer("axis", -2) % len(x)
    for number, (data, labels) in enumerate(zip(x, updates, strict=True)):
        if number == axis:
            n.fix(data, "writes at indices of it")
            n.fix(labels, "writes at indices of it")
        else:
            n.tie(data, labels)
    if n.has(2):
        n.tie(x[0], n.axes(2)[0])
    n.set(x)


@RULES.add("OneHot")
def one_hot(n: NodeContext) -> None:
    """OneHot: the axes of the indices pass; the new axis counts the classes and stays."""
    own = n.axes(0)
    out: list[Ids] = list(own)
    axis = n.integer("axis", -1) % (len(own) + 1)
    out.insert(axis, n.zeros(n.out_shape()[axis]))
    n.set(out)


@RULES.add("Compress")
def compress(n: NodeContext) -> None:
    """Compress: a stored condition picks labels and is cut with them; a computed one keeps the axis."""
    x = n.axes(0)
    axis = n.integer("axis", 0) % len(x)
    if "axis" not in n.attributes and len(x) > 1:
        n.keep_all("picks numbers out of all its axes")
        return
    condition = n.numbers(1)
    if condition is not None and n.cut(1, (x[axis][: condition.size],), truth=True):
        picked = x[axis][np.flatnonzero(condition)]
    else:
        n.fix(x[axis], "picks indices of it at run time")
        picked = n.zeros(n.out_shape()[axis])
    n.set((*x[:axis], picked, *x[axis + 1 :]))


@RULES.add("ReverseSequence")
def reverse_sequence(n: NodeContext) -> None:
    """ReverseSequence: the time axis stays, the batch axis goes with the lengths, the others pass."""
    x = n.axes(0)
    n.fix(x[n.integer("time_axis", 0) % len(x)], "turns it round")
    n.tie(x[n.integer("batch_axis", 1) % len(x)], n.axes(1)[0])
    n.set(x)


@RULES.add("Trilu")
def trilu(n: NodeContext) -> None:
    """Trilu: the last two axes stay, for a triangle is cut out of them; the others pass."""
    x = n.axes(0)
    for labels in x[-2:]:
        n.fix(labels, "cuts a triangle out of it")
    n.set(x)


RULES.stay("finds out at run time which of its numbers are not zero", "NonZero")
RULES.stay("compares whole slices of it", "Unique")
RULES.stay("picks boxes by their overlap", "NonMaxSuppression")


RULES.declare("NonMaxSuppression", "NonZero", "Unique", decides=Deciding(picks=True))
RULES.declare("Compress", decides=Deciding(picks=True, reads=(1,)))
RULES.declare("OneHot", decides=Deciding(reads=(0, 1)))
RULES.declare("Scatter", "ScatterElements", "ScatterND", writes=True)
