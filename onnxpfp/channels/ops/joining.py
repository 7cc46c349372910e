"""Ops that join, cut and pick indices: Concat, Split, Slice, Gather, Pad, Expand, Tile."""

from __future__ import annotations

import numpy as np

from onnxpfp.channels.context import NodeContext, UnlabelledError
from onnxpfp.channels.registry import Rules
from onnxpfp.channels.types import Ids

__all__ = ["RULES"]

RULES = Rules()


@RULES.add("Concat")
def concat(n: NodeContext) -> None:
    """Concat: the labels of the axis are joined; along the other axes all inputs are one."""
    parts = [n.axes(i) for i in range(len(n.node.input))]
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
    """Split: every output has its cut of the labels; spelt sizes follow.

    Without sizes (num_outputs, or equal parts) the parts must stay equal, so position i of every
    part is tied.
    """
    x = n.axes(0)
    axis = n.integer("axis", 0) % len(x)
    sizes = [n.out_shape(i)[axis] for i in range(len(n.outputs))]
    parts = np.split(x[axis], np.cumsum(sizes)[:-1])
    spelt = n.option("split", 1)
    for position, part in enumerate(parts):
        if spelt is not None:
            n.spell(n.source("split", 1), position, part)
        elif part.size == parts[0].size:
            n.tie(parts[0], part)
        else:
            n.fix(x[axis], "splits it into unequal parts that it does not spell")
        n.set((*x[:axis], part, *x[axis + 1 :]), position)


def _cut(n: NodeContext, labels: Ids, where: tuple[str | int, str | int], place: int) -> None:
    """Spell the bounds of one sliced axis: each counts the indices before (or behind) it."""
    for (name, position), source in zip((("starts", 1), ("ends", 2)), where, strict=True):
        bounds = n.option(name, position)
        assert bounds is not None
        bound = bounds[place]
        if 0 <= bound <= labels.size:
            n.spell(source, place, labels[:bound])
        elif -labels.size <= bound < 0:
            n.spell(source, place, labels[bound:], -1)


def _step(n: NodeContext, labels: Ids, step: int) -> None:
    """Tie the indices of every step."""
    if step > 1:
        n.tie(labels, labels[np.arange(labels.size) // step * step])


@RULES.add("Slice")
def slice_(n: NodeContext) -> None:
    """Slice: cuts the labels; a bound inside the axis counts the indices before it.

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
    for place, (start, end, axis, step) in enumerate(zip(starts, ends, axes, steps, strict=True)):
        labels = x[axis]
        stop = None if step < 0 and end < -labels.size else end
        x[axis] = labels[start:stop:step]
        if step > 0:
            _cut(n, labels, (n.source("starts", 1), n.source("ends", 2)), place)
            _step(n, labels[start:], step)
        elif stop is None and (start == -1 or start >= labels.size):
            _step(n, labels[::-1], -step)
        else:
            n.fix(labels, "runs backwards from inside it")
    n.set(x)


@RULES.add("Gather")
def gather(n: NodeContext) -> None:
    """Gather: constant indices pick labels; indices computed at run time keep the whole axis.

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
        n.spell_indices(1, x[axis], picked)
        n.set((*x[:axis], picked, *x[axis + 1 :]))
        return
    n.fix(picked.ravel(), "picks it by its index")
    n.spell_indices(1, x[axis], n.zeros(0))
    n.set((*x[:axis], *(n.zeros(size) for size in indices.shape), *x[axis + 1 :]))


@RULES.add("Pad")
def pad(n: NodeContext) -> None:
    """Pad: padded indices of a labelled axis are fresh labels, and the pads count them.

    Only constant padding makes new channels; reflected and repeated ones copy what must stay.
    """
    x = list(n.axes(0))
    name = "paddings" if "paddings" in n.attributes else "pads"
    pads = n.option(name, 1)
    if pads is None:
        raise UnlabelledError(n.title)
    axes = n.option("axes", 3) or list(range(len(x)))
    copies = n.attributes.text("mode", "constant") != "constant"
    for place, axis in enumerate(axes):
        before, after = pads[place], pads[place + len(axes)]
        if not before and not after:
            continue
        labels = x[axis]
        if copies or before < 0 or after < 0 or not (labels != 0).any():
            n.fix(labels, "pads it")
            x[axis] = n.zeros(n.out_shape()[axis])
            continue
        new = n.labels.fresh(before), n.labels.fresh(after)
        for position, extra in zip((place, place + len(axes)), new, strict=True):
            n.spell(n.source(name, 1), position, extra)
        x[axis] = np.concatenate([new[0], labels, new[1]])
    n.set(x)


@RULES.add("Expand")
def expand(n: NodeContext) -> None:
    """Expand: an axis that passes keeps its labels, a stretched one has fresh labels; both are spelt."""
    x, shape = n.axes(0), n.out_shape()
    target = n.numbers(1)
    out: list[Ids] = []
    for axis, size in enumerate(shape):
        own = axis - len(shape) + len(x)
        if own >= 0 and x[own].size == size:
            out.append(x[own])
        else:
            if own >= 0:
                n.fix(x[own], "stretches it over an axis")
            out.append(n.labels.fresh(size) if size > 1 and target is not None else n.zeros(size))
        place = None if target is None else axis - len(shape) + target.size
        if target is not None and place is not None and place >= 0 and target[place] != 1:
            n.spell(1, place, out[axis])
    n.set(out)


@RULES.add("ConstantOfShape")
def constant_of_shape(n: NodeContext) -> None:
    """ConstantOfShape: equal numbers, so every axis is free to shrink with what it meets."""
    if n.values[0] is None:
        raise UnlabelledError(n.title)
    out = [n.labels.fresh(size) if size > 1 else n.zeros(size) for size in n.out_shape()]
    for place, labels in enumerate(out):
        n.spell(0, place, labels)
    n.set(out)


@RULES.add("Tile")
def tile(n: NodeContext) -> None:
    """Tile: the labels repeat; the number of repeats stays."""
    x = n.axes(0)
    repeats = n.numbers(1)
    if repeats is None:
        raise UnlabelledError(n.title)
    n.set([np.tile(labels, int(count)) for labels, count in zip(x, repeats, strict=True)])
