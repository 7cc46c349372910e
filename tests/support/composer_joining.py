"""Pieces that join, cut and pad channels, and those that pick and write at indices."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from support.composer_graph import BATCH, WIDEST, Composer, Image, Pieces

PIECES = Pieces()


@PIECES.add("Concat", since=7)
def concat(g: Composer, op: str) -> None:
    x = g.pick(most=WIDEST // 2)
    other = g.partner(x, same=False) or x.name
    if x.width + g.live[other].width > WIDEST:
        other = x.name
    g.add(
        g.emit(op, x.name, other, axis=g.choose(1, -3) if g.opset >= 11 else 1), x.width + g.live[other].width, x.side
    )


@PIECES.add("Split", since=7)
def split(g: Composer, op: str) -> None:
    """Into parts that are spelt, into equal ones, or into as many as a number says."""
    x = g.even()
    if g.flip():
        first = g.whole(2, x.width - 2)
        sizes = [first, x.width - first]
        if g.opset < 13:
            names = g.emits(op, [x.name], 2, axis=1, split=sizes)
        else:
            names = g.emits(op, [x.name, g.ints(*sizes)], 2, axis=1)
    else:
        sizes = [x.width // 2] * 2
        names = g.emits(op, [x.name], 2, axis=1, **({"num_outputs": 2} if g.opset >= 18 else {}))
    for name, size in zip(names, sizes, strict=True):
        g.add(name, size, x.side)


@PIECES.add("Slice", since=10)
def slice_(g: Composer, op: str) -> None:
    x = g.pick(4)
    kind = g.choose("cut", "last", "most", "turned", "steps", "half")
    start, stop, step = {
        "cut": (1, x.width - 1, 1),
        "last": (-3, 99, 1),
        "most": (0, -2, 1),
        "turned": (-1, -99, -1),
        "steps": (g.choose(0, 1), 99, 2),
        "half": (0, x.width // 2, 1),
    }[kind]
    end = g.ints(stop)
    if kind == "half":
        # The bound is computed from the length that it halves.
        own = g.emit("Gather", g.emit("Shape", x.name), g.ints(1), axis=0)
        end = g.emit("Div", own, g.ints(2))
    name = g.emit(op, x.name, g.ints(start), end, g.ints(g.choose(1, -3)), g.ints(step))
    g.add(name, len(range(x.width)[start:stop:step]) if kind != "turned" else x.width, x.side)


@PIECES.add("Gather", since=7)
def gather(g: Composer, op: str) -> None:
    """Some channels by their numbers, a single one, or channels in an order that is computed."""
    x = g.pick()
    kind = g.choose("some", "some", "one", "computed")
    if kind == "some":
        least = 0 if g.opset < 11 else -x.width
        picked = g.draw(st.lists(st.integers(least, x.width - 1), min_size=2, max_size=6))
        g.add(g.emit(op, x.name, g.ints(*picked), axis=1), len(picked), x.side)
    elif kind == "one":
        name = g.unsqueeze(g.emit(op, x.name, g.number(g.whole(0, x.width - 1), np.int64), axis=1), 1)
        g.add(g.emit("Mul", x.name, name), x.width, x.side)
    else:
        found = g.emit("ArgMax", g.mean(x.name, 0, 2, 3), axis=1)
        name = g.emit(op, x.name, g.emit("Reshape", found, g.ints(1)), axis=1)
        g.add(g.emit("Mul", x.name, name), x.width, x.side)


@PIECES.add("Pad", "com.microsoft:Pad", since=11)
def pad(g: Composer, op: str) -> None:
    x = g.pick(most=12)
    before, after = g.whole(0, 2), g.whole(0, 2)
    kind = g.choose("constant", "constant", "pixels")
    if kind == "pixels":
        mode = g.choose("constant", "reflect", "edge")
        name = g.emit(op, x.name, g.ints(0, 0, 1, 1, 0, 0, 1, 1), mode=mode)
        g.add(g.emit("MaxPool", name, kernel_shape=[3, 3]), x.width, x.side)
        return
    pads, value = g.ints(0, before, 0, 0, 0, after, 0, 0), g.number(g.choose(0.0, 0.5))
    if op == "Pad" and g.opset >= 18 and g.flip():
        name = g.emit(op, x.name, g.ints(before, after), value, g.ints(1))
    else:
        name = g.emit(op, x.name, pads, *([value] if g.flip() else []))
    g.add(name, x.width + before + after, x.side)


def _sorted(g: Composer, x: Image, axis: int) -> tuple[str, str, int]:
    k = g.whole(2, x.side)
    values, places = g.emits("TopK", [x.name, g.ints(k)], 2, axis=axis)
    return values, places, k


@PIECES.add("GatherElements", "ScatterElements", since=11)
@PIECES.add("Scatter", since=9, until=10)
def elements(g: Composer, op: str) -> None:
    """Look up the largest rows of a tensor in another one, or write them into it; or at stored places."""
    x = g.pick()
    other, axis = g.partner(x) or x.name, g.choose(2, 3)
    stored = g.opset < 11 or (g.batch is not None and g.flip())
    if stored:
        shape = [g.batch or 1, x.width, x.side, x.side]
        shape[axis] = 2
        places, k = g.store(g.rng.integers(0, x.side, shape)), 2
        values = g.sliced(x.name, axis, 0, 2)
        values = g.sliced(values, 0, 0, 1) if g.batch is None else values
    else:
        values, places, k = _sorted(g, x, axis)
    if op != "GatherElements":
        if g.batch is None and stored:
            other = g.mean(other, 0)
        name = g.emit(op, other, places, values, axis=axis)
        name = g.emit("Add", x.name, name) if g.batch is None and stored else name
    else:
        found = g.emit(op, other, places, axis=axis)
        pads = [0] * 8
        pads[4 + axis] = x.side - k
        name = g.emit("Pad", found, g.ints(*pads))
    g.add(name, x.width, x.side)


@PIECES.add("GatherND", "ScatterND", since=13)
def rows(g: Composer, op: str) -> None:
    """Look up rows of pixels by their number and write them, channels being the axis behind."""
    x = g.pick()
    turned = g.transpose(x.name, 2, 0, 3, 1)
    if op == "GatherND" and g.flip():
        flat = g.transpose(g.reshape(x.name, BATCH, x.width, x.side**2), 0, 2, 1)
        name = g.emit(op, g.transpose(flat, 1, 0, 2), g.store(g.rng.integers(0, x.side**2, (x.side**2, 1))))
        g.untoken(g.transpose(name, 1, 0, 2), x.width, x.side)
        return
    update = g.emit("GatherND", turned, g.ints([1], [0]))
    name = g.emit("ScatterND", turned, g.ints([0], [x.side - 1]), update)
    g.add(g.transpose(name, 1, 3, 0, 2), x.width, x.side)


@PIECES.add("TensorScatter", since=24)
def cache(g: Composer, op: str) -> None:
    """Write the first rows of an image into another, from a place on that each sample has."""
    x = g.pick()
    update = g.sliced(g.emit("Tanh", x.name), 2, 0, 2)
    inputs = [x.name, update]
    if g.batch is not None:
        inputs += [g.store(g.rng.integers(0, x.side - 1, g.batch))] if g.flip() else []
    name = g.emit(op, *inputs, axis=2)
    g.add(name, x.width, x.side)


@PIECES.add("Compress", since=11)
def compress(g: Composer, op: str) -> None:
    x = g.pick(3)
    if g.flip():
        picks = g.draw(st.lists(st.booleans(), min_size=3, max_size=x.width).filter(lambda picks: sum(picks) > 1))
        g.add(g.emit(op, x.name, g.store(np.array(picks)), axis=1), sum(picks), x.side)
        return
    # The choice is computed, and the same in every run, so that the length of what it picks is known.
    means = g.emit("Sigmoid", g.emit("Reshape", g.mean(x.name, 0, 1, 3), g.ints(-1)))
    stored = g.store(np.arange(x.side) % 3 != 1)
    chosen = g.emit("And", g.emit("Greater", means, g.number(-1.0)), stored)
    name = g.listed("ReduceSum", [g.emit(op, x.name, chosen, axis=2)], "axes", [2], 13)
    g.add(g.emit("Add", x.name, name), x.width, x.side)


@PIECES.add("OneHot", since=11)
def one_hot(g: Composer, op: str) -> None:
    x = g.pick()
    axis = g.choose(3, 2, 1)
    found = g.emit("ArgMax", x.name, axis=axis, keepdims=0)
    depth = x.width if axis == 1 else x.side
    hot = g.emit(op, found, g.ints(depth), g.reals(0.0, 1.0), axis=axis)
    g.add(g.emit("Mul", x.name, hot), x.width, x.side)


@PIECES.add("Trilu", since=14)
@PIECES.add("com.microsoft:Trilu")
def triangle(g: Composer, op: str) -> None:
    x = g.pick()
    k = g.store(np.asarray(g.choose(-1, 0, 1), np.int64))
    name = g.emit(op, x.name, *([k] if g.flip() else []), upper=int(g.flip()))
    g.add(name, x.width, x.side)
