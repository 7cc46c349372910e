"""More ops for random networks: those that look up, write, sample, mask and stretch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

if TYPE_CHECKING:
    from support.composer import Composer


def elements(g: Composer) -> None:
    """Look up the largest rows of a tensor in another one, and perhaps write them into a third."""
    x, width, side = g.pick()
    other = g.partner(x, same=True) or x
    k = g.draw(st.integers(2, side))
    values = g.emit("TopK", [x, g.ints(k)], outputs=2, axis=2)
    places = f"{values[:-1]}1"
    if g.draw(st.booleans()):
        g.add(g.emit("ScatterElements", [other, places, values], axis=2), width, side)
    else:
        found = g.emit("GatherElements", [other, places], axis=2)
        pads = g.ints(0, 0, 0, 0, 0, 0, side - k, 0)
        g.add(g.emit("Pad", [found, pads]), width, side)


def rows(g: Composer) -> None:
    """Write a stored image into rows by their number, channels being the axis behind."""
    x, width, side = g.pick()
    name = g.emit("Transpose", [x], perm=[2, 0, 3, 1])
    update = g.emit("GatherND", [name, g.ints([1], [0])])
    name = g.emit("ScatterND", [name, g.ints([0], [side - 1]), update])
    g.add(g.emit("Transpose", [name], perm=[1, 3, 0, 2]), width, side)


def compress(g: Composer) -> None:
    x, width, side = g.pick(3)
    chosen = g.draw(st.lists(st.booleans(), min_size=3, max_size=width).filter(lambda picks: sum(picks) > 1))
    g.add(g.emit("Compress", [x, g.store(np.array(chosen))], axis=1), sum(chosen), side)


def masked(g: Composer) -> None:
    x, width, side = g.pick()
    other = g.partner(x, same=True) or g.weight(*g.draw(st.sampled_from([(1,), (width, 1, 1)])))
    shape = g.draw(st.sampled_from([(width, 1, 1), (1, 1, side), (1, width, 1, side)]))
    condition = g.store(g.rng.random(shape) < 0.5)
    g.add(g.emit("Where", [condition, *g.draw(st.permutations([x, other]))]), width, side)


def along(g: Composer) -> None:
    """Ops that change one spatial axis."""
    x, width, side = g.pick()
    kind = g.draw(st.sampled_from(["CumSum", "Trilu", "ReverseSequence", "LpNormalization", "Softmax"]))
    if kind == "CumSum":
        name = g.emit(kind, [x, g.store(np.array(g.draw(st.sampled_from([2, -1]))))])
    elif kind == "ReverseSequence":
        turned = g.emit("Transpose", [x], perm=[2, 0, 1, 3])
        turned = g.emit(kind, [turned, g.ints(g.draw(st.integers(1, side)))], batch_axis=1, time_axis=0)
        name = g.emit("Transpose", [turned], perm=[1, 2, 0, 3])
    else:
        name = g.emit(kind, [x], **({} if kind == "Trilu" else {"axis": 3}))
    g.add(name, width, side)


def stretched(g: Composer) -> None:
    """Pool to one pixel or one channel, and stretch it again by Tile, Expand or a product."""
    x, width, side = g.pick()
    channels = g.draw(st.booleans())
    small = g.emit("ReduceMean", [x], axes=[1] if channels else [2, 3])
    times = (1, width, 1, 1) if channels else (1, 1, side, side)
    kind = g.draw(st.sampled_from(["Tile", "Expand", "Mul"]))
    wide = small if kind == "Mul" else g.emit(kind, [small, g.ints(*times)])
    g.add(g.emit("Mul", [x, wide]), width, side)


def regions(g: Composer) -> None:
    x, width, side = g.pick()
    box = g.store(np.array([[0, 0, side - 1, side - 1]], np.float32))
    name = g.emit("RoiAlign", [x, box, g.ints(0)], output_height=side, output_width=side)
    g.add(name, width, side)


def grid(g: Composer) -> None:
    x, width, side = g.pick()
    places = g.store(g.rng.uniform(-1, 1, (1, side, side, 2)).astype(np.float32))
    g.add(g.emit("GridSample", [x, places]), width, side)


MORE = [elements, rows, compress, masked, along, stretched, regions, grid]
