"""Ops that take one number from an axis: it stays, for each index counts in the result, unless zeros do not count."""

from __future__ import annotations

from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.registry import Rules
from onnxpfp.channels.types import Ids

__all__ = ["RULES"]

RULES = Rules()


def _drop(n: NodeContext, axes: list[int], keepdims: int, *, adds: bool = False) -> None:
    """Leave axes out of the outputs; those that are only added up are masked, the others stay."""
    x = n.axes(0)
    gone = {axis % max(len(x), 1) for axis in axes}
    out: list[Ids] = []
    for axis, labels in enumerate(x):
        if axis not in gone:
            out.append(labels)
            continue
        if adds:
            n.mask(0, axis, labels)
        else:
            n.fix(labels, "reduces over it")
        if keepdims:
            out.append(n.zeros(1))
    for position in range(len(n.outputs)):
        n.set(out, position)


def _reduced(n: NodeContext) -> list[int]:
    """The axes that are reduced: without a list all of them, unless noop_with_empty_axes says none."""
    axes = n.option("axes", 1)
    if axes:
        return axes
    return [] if n.integer("noop_with_empty_axes", 0) else list(range(len(n.axes(0))))


@RULES.add("ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")
def reduce(n: NodeContext) -> None:
    """The axes that are reduced stay, the others pass."""
    _drop(n, _reduced(n), n.integer("keepdims", 1))


@RULES.add("ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare")
def add_up(n: NodeContext) -> None:
    """All axes pass, for in a sum or norm zeros equal removal. Channels still need a product that contracts them.

    The norm of a weight stays what it is: it scales what is left of that weight too.
    """
    _drop(n, _reduced(n), n.integer("keepdims", 1), adds=not n.constant[0])


@RULES.add("ArgMax", "ArgMin")
def arg(n: NodeContext) -> None:
    """ArgMax, ArgMin: the axis that is searched stays, for the result counts along it; the others pass."""
    _drop(n, [n.integer("axis", 0)], n.integer("keepdims", 1))


@RULES.add("Det")
def det(n: NodeContext) -> None:
    """Det: the two axes of the matrices stay, the others pass."""
    _drop(n, [-2, -1], keepdims=0)


@RULES.add("TopK")
def top_k(n: NodeContext) -> None:
    """TopK: the axis that is sorted stays, the others pass."""
    x = n.axes(0)
    axis = n.integer("axis", -1) % len(x)
    n.fix(x[axis], "sorts it")
    out = [n.zeros(n.out_shape()[axis]) if i == axis else labels for i, labels in enumerate(x)]
    for position in range(len(n.outputs)):
        n.set(out, position)
