"""Ops that rename axes: Transpose, Squeeze, Unsqueeze, Flatten and Reshape."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Ids
from onnxpfp.channels.context import Carrier, CarrierChoice, NodeContext
from onnxpfp.channels.registry import Rules

__all__ = ["RULES", "blocks"]

RULES = Rules()


@RULES.add("Transpose")
def transpose(n: NodeContext) -> None:
    """Transpose: all axes pass and change places."""
    x = n.axes(0)
    n.set([x[axis] for axis in n.integers("perm") or range(len(x) - 1, -1, -1)])


@RULES.add("Squeeze", "Unsqueeze")
def squeeze(n: NodeContext) -> None:
    """Squeeze, Unsqueeze: axes of length 1 come and go, the others pass.

    Squeeze without axes takes all of length 1, so any other axis must keep two indices.
    """
    x = n.axes(0)
    axes = n.option("axes", 1)
    rank = max(len(x), len(n.out_shape()))
    if axes is None:
        axes = [axis for axis, labels in enumerate(x) if labels.size == 1]
        for labels in x:
            n.fix(labels[:2], "would take a last index out of it")
    dropped = {axis % rank for axis in axes}
    if n.node.op_type == "Squeeze":
        for axis in dropped:
            n.fix(x[axis], "takes its only index out of it")
        n.set([labels for axis, labels in enumerate(x) if axis not in dropped])
        return
    rest = iter(x)
    n.set([n.zeros(1) if axis in dropped else next(rest) for axis in range(rank)])


def blocks(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Pair the smallest runs of axes with equal products: [64, 8, 8] -> [64, 64] is 64|8*8.

    Yields:
        Axes before and axes after of one block, in order. Axes of length 1 stay by themselves.
    """
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        a = before[i] if left else 1
        b = after[j] if right else 1
        i, j = i + len(left), j + len(right)
        while a != b:
            if a < b and i < len(before):
                a *= before[i]
                left.append(i)
                i += 1
            elif j < len(after):
                b *= after[j]
                right.append(j)
                j += 1
            else:
                break
        yield left, right


def _merge(n: NodeContext, axes: list[int]) -> Ids:
    """Labels of every element of several axes: those of the one axis that is labelled.

    Where more than one is, an element belongs to two channels; one axis keeps its labels (the walk says
    which, or that with most indices) and the others stay.
    """
    x = n.axes(0)
    sizes = [x[axis].size for axis in axes]
    labelled = [p for p, axis in enumerate(axes) if (x[axis] != 0).any()]
    if not labelled:
        return n.zeros(math.prod(sizes))
    wanted = [p for p in labelled if ("in", axes[p]) in n.carriers]
    carrier = (wanted or [max(labelled, key=lambda p: (sizes[p], -p))])[0]
    if len(labelled) > 1:
        candidates: list[Carrier] = [("in", axes[p]) for p in labelled]
        n.choices.append(CarrierChoice(n.index, ("in", axes[carrier]), tuple(candidates), x[axes[carrier]]))
    for p in labelled:
        if p != carrier:
            n.fix(x[axes[p]], "merges it with another axis of channels")
    shape = [sizes[p] if p == carrier else 1 for p in range(len(sizes))]
    return np.broadcast_to(x[axes[carrier]].reshape(shape), sizes).ravel()


def _along(cube: NDArray[np.int64], axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cube with `axis` first and the rest flat, and its first column."""
    flat = np.moveaxis(cube, axis, 0).reshape(cube.shape[axis], -1)
    return flat, flat[:, :1]


def _split(n: NodeContext, flat: Ids, axes: list[int]) -> list[Ids]:
    """Labels of the output axes into which one axis is split.

    1. The labels already repeat along all new axes but one: that one has them.
    2. Else one of them carries the labels (the walk says which, or the largest one), and the labels
       that an index of it takes along are tied.
    """
    sizes = [n.out_shape()[axis] for axis in axes]
    out = [n.zeros(size) for size in sizes]
    cube = flat.reshape(sizes)
    real = [p for p, size in enumerate(sizes) if size > 1]
    if not real or not (flat != 0).any():
        return out
    free = [p for p in real if (_along(cube, p)[0] == _along(cube, p)[1]).all()]
    wanted = [p for p in real if ("out", axes[p]) in n.carriers]
    carrier = (free or wanted or [max(real, key=lambda p: (sizes[p], -p))])[0]
    rows, first = _along(cube, carrier)
    if not free:
        candidates: list[Carrier] = [("out", axes[p]) for p in real]
        n.choices.append(CarrierChoice(n.index, ("out", axes[carrier]), tuple(candidates), flat))
        n.tie(rows, first)
    out[carrier] = first[:, 0]
    return out


def _reshape(n: NodeContext) -> list[Ids]:
    x, shape = n.axes(0), n.out_shape()
    before = tuple(labels.size for labels in x)
    out: list[Ids] = [n.zeros(size) for size in shape]
    if math.prod(before) != math.prod(shape) or 0 in before:
        for labels in x:
            n.fix(labels, "reshapes it")
        return out
    for left, right in blocks(before, shape):
        if len(left) == 1 and len(right) == 1:
            out[right[0]] = x[left[0]]
            continue
        parts = _split(n, _merge(n, left), right)
        for axis, labels in zip(right, parts, strict=True):
            out[axis] = labels
    return out


@RULES.add("Reshape")
def reshape(n: NodeContext) -> None:
    """Reshape: runs of axes with equal products are merged and split; lengths given as numbers follow.

    A 0 copies the length of the input's axis at its place, which is right by itself where that is
    the same axis; -1 follows from the others.
    """
    out = _reshape(n)
    x, target = n.axes(0), n.numbers(1)
    sizes = n.integers("shape") if target is None else target.ravel().tolist()
    for index, size in enumerate(sizes or []):
        copied = size == 0 and not n.integer("allowzero", 0)
        if size == -1 or (copied and np.array_equal(x[index], out[index])):
            continue
        n.size_ref("shape" if target is None else 1, index, out[index])
    if sizes is None:
        for labels in x:
            n.fix(labels, "reshapes it to a shape that is computed")
    n.set(out)


@RULES.add("Flatten")
def flatten(n: NodeContext) -> None:
    """Flatten: runs of axes are merged, as by Reshape."""
    n.set(_reshape(n))


RULES.declare("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze", sign="of the first input")
RULES.declare("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze", moves=True)
RULES.declare("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze", magnitude="of the first input")
