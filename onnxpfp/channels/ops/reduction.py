"""Ops that take one number from an axis: the axis stays, for each index counts in the result."""

from __future__ import annotations

from onnxpfp.arrays import Ids
from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.facts import Deciding
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()


def _drop(n: NodeContext, axes: list[int], keepdims: int) -> None:
    x = n.axes(0)
    gone = {axis % max(len(x), 1) for axis in axes}
    out: list[Ids] = []
    for axis, labels in enumerate(x):
        if axis not in gone:
            out.append(labels)
            continue
        n.fix(labels, "reduces over it")
        if keepdims:
            out.append(n.zeros(1))
    for position in range(len(n.outputs)):
        n.set(out, position)


@RULES.add(
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
def reduce(n: NodeContext) -> None:
    """The axes that are reduced stay, the others pass.

    Without axes these are all of them, unless noop_with_empty_axes says none.
    """
    axes = n.option("axes", 1)
    if not axes:
        axes = [] if n.integer("noop_with_empty_axes", 0) else list(range(len(n.axes(0))))
    _drop(n, axes, n.integer("keepdims", 1))


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


RULES.declare("ReduceL1", "ReduceL2", sign="never negative")
RULES.declare("ReduceMax", "ReduceMean", "ReduceSum", sign="of the first input")
RULES.declare("ArgMax", "ArgMin", decides=Deciding())
# The largest numbers in their order go smoothly with what is sorted.
RULES.declare("TopK", decides=Deciding(picks=True, reads=(0,), jumps=(1,)))
RULES.declare("ReduceMax", "ReduceMean", "ReduceMin", magnitude="of the first input")
