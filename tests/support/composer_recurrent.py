"""Pieces that run along a sequence: the pixels of an image."""

from __future__ import annotations

import numpy as np

from support.composer_graph import Composer, Image, Pieces

PIECES = Pieces()

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN = (4, 5)


@PIECES.add(*GATES, since=7)
def recurrent(g: Composer, op: str) -> None:
    x, hidden = g.pick(), g.choose(*HIDDEN)
    direction = g.choose("forward", "reverse", "bidirectional")
    ways = 2 if direction == "bidirectional" else 1
    rows = GATES[op] * hidden
    inputs = [_sequence(g, x), g.weight(ways, rows, x.width), g.weight(ways, rows, hidden)]
    inputs.append(g.weight(ways, 2 * rows) if g.flip() else "")
    states, peepholes = g.flip(), op == "LSTM" and g.flip()
    if states or peepholes:
        # A stored state serves a batch of known length only.
        start = g.weight(ways, g.batch, hidden) if g.batch is not None and g.flip() else ""
        cell = g.weight(ways, g.batch, hidden) if op == "LSTM" and start and g.flip() else ""
        inputs += ["", start, *([cell] if op == "LSTM" else []), *([g.weight(ways, 3 * hidden)] if peepholes else [])]
    while not inputs[-1]:
        inputs.pop()
    options = {"linear_before_reset": int(g.flip())} if op == "GRU" else {}
    outputs = g.emits(op, inputs, 2, hidden_size=hidden, direction=direction, **options)
    _read(g, x, outputs, ways, hidden)


def _sequence(g: Composer, x: Image) -> str:
    """Pixels first: (side * side, N, width)."""
    return g.transpose(g.tokens(x), 1, 0, 2)


def _read(g: Composer, x: Image, outputs: list[str], ways: int, hidden: int) -> None:
    """Read all states (seq, dirs, N, H), or the last ones (dirs, N, H)."""
    if g.flip():
        name = g.transpose(outputs[0], 2, 0, 1, 3)
        name = g.emit("Reshape", name, g.ints(0, 0, g.choose(-1, ways * hidden)))
        g.untoken(name, ways * hidden, x.side)
    else:
        name = g.transpose(outputs[1], 1, 0, 2)
        g.gate(g.reshape(name, 0, ways * hidden), ways * hidden, x)


@PIECES.add("ReverseSequence", since=10)
def reversed_sequence(g: Composer, op: str) -> None:
    """The rows of an image are the batch: each is turned round to a length of its own."""
    x = g.pick()
    name = g.transpose(x.name, 2, 3, 1, 0)
    lengths = g.store(g.rng.integers(1, x.side + 1, x.side))
    batch = g.choose(0, 1)
    name = g.emit(op, name, lengths, batch_axis=batch, time_axis=1 - batch)
    g.add(g.transpose(name, 3, 2, 0, 1), x.width, x.side)


@PIECES.add("CumSum", since=11)
@PIECES.add("CumProd", since=26)
def running(g: Composer, op: str) -> None:
    x = g.pick()
    axis = g.store(np.asarray(g.choose(2, -1, 1), np.int64))
    name = g.bounded(x.name, 0.7, 1.2) if op == "CumProd" else g.emit("Mul", x.name, g.number(0.25))
    g.add(g.emit(op, name, axis, exclusive=int(g.flip()), reverse=int(g.flip())), x.width, x.side)
