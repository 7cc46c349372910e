"""Ops that join, cut and pick indices: Concat, Split, Slice, Gather, Pad, Expand, Tile."""

from __future__ import annotations

import numpy as np

from onnxpfp.arrays import Ids
from onnxpfp.channels.context import Axes, NodeContext, UnlabelledError
from onnxpfp.channels.registry import Rules

__all__ = ["RULES", "join"]

RULES = Rules()


@RULES.add("Concat")
def concat(n: NodeContext) -> None:
    """Concat: all axes pass; the joined axis has the labels of all inputs, along the others they are tied."""
    join(n, [n.axes(i) for i in range(len(n.node.input))])


def join(n: NodeContext, parts: list[Axes]) -> None:
    """Put parts side by side along `axis`."""
    axis = n.integer("axis", 1) % len(parts[0])
    out = list(parts[0])
    out[axis] = np.concatenate([part[axis] for part in parts])
    for part in parts[1:]:
        for number, labels in enumerate(part):
            if number != axis:
                n.tie(out[number], labels)
    n.set(out)


@RULES.add("Split")
def split(n: NodeContext) -> None:
    """Split: all axes pass; every output has its part of the axis that is split, and sizes given as numbers follow.

    Without sizes (num_outputs, or equal parts) the parts must stay equal, so position i of every
    part is tied.
    """
    x = n.axes(0)
    axis = n.integer("axis", 0) % len(x)
    sizes = [n.out_shape(i)[axis] for i in range(len(n.outputs))]
    parts = np.split(x[axis], np.cumsum(sizes)[:-1])
    given = n.option("split", 1)
    for position, part in enumerate(parts):
        if given is not None:
            n.size_ref(n.source("split", 1), position, part)
        elif part.size == parts[0].size:
            n.tie(parts[0], part)
        else:
            n.fix(x[axis], "splits it into unequal parts that it does not spell")
        n.set((*x[:axis], part, *x[axis + 1 :]), position)


def _cut(n: NodeContext, labels: Ids, where: tuple[str | int, str | int], index: int) -> None:
    """Declare the bounds of one sliced axis: each counts the indices before (or behind) it."""
    for (name, position), source in zip((("starts", 1), ("ends", 2)), where, strict=True):
        bounds = n.option(name, position)
        assert bounds is not None
        bound = bounds[index]
        if 0 <= bound <= labels.size:
            n.size_ref(source, index, labels[:bound])
        elif -labels.size <= bound < 0:
            n.size_ref(source, index, labels[bound:], -1)


def _step(n: NodeContext, labels: Ids, step: int) -> None:
    """Tie the indices of every step."""
    if step > 1:
        n.tie(labels, labels[np.arange(labels.size) // step * step])


@RULES.add("Slice")
def slice_(n: NodeContext) -> None:
    """Slice: all axes pass; a bound inside an axis counts the indices before it, and follows.

    1. step 1: nothing more.
    2. a larger step: blocks of `step` indices from the start on go together, so that the phase stays.
    3. a negative step from end to end: the same from behind; with bounds inside the axis it stays.
    """
    x = list(n.axes(0))
    starts, ends = n.option("starts", 1), n.option("ends", 2)
    assert starts is not None
    assert ends is not None
    axes = n.option("axes", 3) or list(range(len(starts)))
    steps = n.option("steps", 4) or [1] * len(starts)
    for index, (start, end, axis, step) in enumerate(zip(starts, ends, axes, steps, strict=True)):
        labels = x[axis]
        stop = None if step < 0 and end < -labels.size else end
        x[axis] = labels[start:stop:step]
        where = n.source("starts", 1), n.source("ends", 2)
        if not all(n.same_in_every_run(source, index) for source in where):
            n.fix(labels, "cuts it at a place that differs from run to run")
            x[axis] = n.zeros(x[axis].size)
        elif step > 0:
            _cut(n, labels, where, index)
            _step(n, labels[start:], step)
        elif stop is None and (start == -1 or start >= labels.size):
            _step(n, labels[::-1], -step)
        else:
            n.fix(labels, "runs backwards from inside it")
    n.set(x)


@RULES.add("Gather")
def gather(n: NodeContext) -> None:
    """Gather: constant indices pick labels and follow; by computed ones the axis stays; the others pass.

    A single index takes one label out of the axis: what it picks must stay.
    """
    x = n.axes(0)
    axis = n.integer("axis", 0) % len(x)
    indices = n.numbers(1)
    if indices is None or not n.constant[1]:
        n.fix(x[axis], "looks up indices of it at run time")
        n.set((*x[:axis], *n.axes(1), *x[axis + 1 :]))
        return
    picked = x[axis][indices]
    if indices.ndim == 1:
        n.index_ref(1, x[axis], picked)
        n.set((*x[:axis], picked, *x[axis + 1 :]))
        return
    n.fix(picked.ravel(), "picks it by its index")
    n.index_ref(1, x[axis])
    n.set((*x[:axis], *(n.zeros(size) for size in indices.shape), *x[axis + 1 :]))


@RULES.add("Pad")
def pad(n: NodeContext) -> None:
    """Pad: all axes pass; what is padded to channels are new channels, which the pads count.

    Only constant padding makes new channels; reflected and repeated ones copy what must stay.
    """
    x = list(n.axes(0))
    name = "paddings" if "paddings" in n.attributes else "pads"
    pads = n.option(name, 1)
    if pads is None:
        raise UnlabelledError(n.title)
    axes = n.option("axes", 3) or list(range(len(x)))
    copies = n.attributes.text("mode", "constant") != "constant"
    for index, axis in enumerate(axes):
        before, after = pads[index], pads[index + len(axes)]
        if not before and not after:
            continue
        labels = x[axis]
        indices = (index, index + len(axes))
        fixed = all(n.same_in_every_run(n.source(name, 1), number) for number in indices)
        if copies or before < 0 or after < 0 or not (labels != 0).any() or not fixed:
            n.fix(labels, "pads it")
            x[axis] = n.zeros(n.out_shape()[axis])
            continue
        new = n.labels.fresh(before), n.labels.fresh(after)
        for position, extra in zip(indices, new, strict=True):
            n.size_ref(n.source(name, 1), position, extra)
        x[axis] = np.concatenate([new[0], labels, new[1]])
    n.set(x)


@RULES.add("Expand")
def expand(n: NodeContext) -> None:
    """Expand: axes of the same length pass, stretched ones take the length that they meet; both lengths are given."""
    x, shape = n.axes(0), n.out_shape()
    target = n.numbers(1)
    if target is None:
        raise UnlabelledError(n.node.input[1])
    out: list[Ids] = []
    for axis, size in enumerate(shape):
        own = axis - len(shape) + len(x)
        if own >= 0 and x[own].size == size:
            out.append(x[own])
        else:
            if own >= 0:
                n.fix(x[own], "stretches it over an axis")
            out.append(n.open_axis(1, axis - len(shape) + target.size, size))
        index = axis - len(shape) + target.size
        if index >= 0 and target[index] != 1:
            n.size_ref(1, index, out[axis])
    n.set(out)


@RULES.add("ConstantOfShape")
def constant_of_shape(n: NodeContext) -> None:
    """ConstantOfShape: all numbers are equal, so every axis takes the length of what it meets."""
    if n.values[0] is None:
        raise UnlabelledError(n.title)
    out = [n.open_axis(0, index, size) for index, size in enumerate(n.out_shape())]
    for index, labels in enumerate(out):
        n.size_ref(0, index, labels)
    n.set(out)


@RULES.add("Tile")
def tile(n: NodeContext) -> None:
    """Tile: all axes pass, their labels repeat; an axis of length 1 is stretched as by Expand."""
    x = n.axes(0)
    repeats = n.numbers(1)
    if repeats is None:
        raise UnlabelledError(n.title)
    out: list[Ids] = []
    for axis, (labels, count) in enumerate(zip(x, repeats.tolist(), strict=True)):
        if labels.size > 1 or count <= 1:
            if not n.same_in_every_run(1, axis):
                n.fix(labels, "repeats it as often as a run says")
            out.append(np.tile(labels, count) if n.same_in_every_run(1, axis) else n.zeros(labels.size * count))
            continue
        n.fix(labels, "stretches it over an axis")
        out.append(n.open_axis(1, axis, count))
        n.size_ref(1, axis, out[axis])
    n.set(out)


RULES.declare("Expand", "Gather", "Slice", "Split", "Tile", sign="of the first input")
RULES.declare("Concat", sign="of all inputs")
RULES.declare("Expand", "Gather", "Pad", "Slice", "Split", "Tile", magnitude="of the first input")
RULES.declare("Concat", magnitude="of all inputs")
