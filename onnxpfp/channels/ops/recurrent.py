"""LSTM, GRU and RNN: a hidden unit is a row of every gate, a column of the recurrence and an index of every state."""

from __future__ import annotations

from onnxpfp.arrays import Ids
from onnxpfp.channels.context import NodeContext
from onnxpfp.channels.mac_terms import recurrence_terms
from onnxpfp.channels.registry import Rules
from onnxpfp.channels.types import Consumer

__all__ = ["RULES"]

RULES = Rules()

STATES = (5, 6)
"""Inputs with the first hidden and cell state."""
PEEPHOLES, PEEPHOLE_GATES = 7, 3


@RULES.add("LSTM")
def lstm(n: NodeContext) -> None:
    """LSTM: hidden units may go (in all gates, both directions alike), and so may the inputs that W contracts."""
    _recur(n, 4)


@RULES.add("GRU")
def gru(n: NodeContext) -> None:
    """GRU: hidden units may go (in all gates, both directions alike), and so may the inputs that W contracts."""
    _recur(n, 3)


@RULES.add("RNN")
def rnn(n: NodeContext) -> None:
    """RNN: hidden units may go (both directions alike), and so may the inputs that W contracts."""
    _recur(n, 1)


def _recur(n: NodeContext, gates: int) -> None:
    """W (dirs, gates H, I), R (dirs, gates H, H), B (dirs, 2 gates H), P (dirs, 3 H); Y (seq, dirs, batch, H)."""
    x, w, r, layout = n.axes(0), n.axes(1), n.axes(2), n.integer("layout", 0)
    rows = w[1].reshape(gates, -1)
    units = rows[0]
    n.tie(rows, units)
    n.tie(r[1].reshape(gates, -1), units)
    n.tie(r[2], units)
    for position, parts in ((3, 2 * gates), (PEEPHOLES, PEEPHOLE_GATES)):
        if n.has(position):
            n.tie(n.axes(position)[1].reshape(parts, -1), units)
    for position in STATES:
        if n.has(position):
            state = n.axes(position)
            n.tie(state[2], units)
            n.tie(state[0 if layout else 1], x[1 - layout])
    for position in (1, 2, 3, *STATES, PEEPHOLES):
        if n.has(position):
            n.fix(n.axes(position)[1 if layout and position in STATES else 0], "has its directions on it")
    n.fix(x[layout], "runs along it")
    _read_inputs(n)
    n.size_ref("hidden_size", None, units)
    batch, directions = x[1 - layout], n.zeros(w[0].size)
    _set_outputs(n, x[layout], batch, directions, units, batch_first=bool(layout))
    _read_states(n, units, batch_first=bool(layout))


def _read_inputs(n: NodeContext) -> None:
    x, w = n.axes(0), n.axes(1)
    if n.constant[1]:
        n.consume(0, 2, 1, 2)
        n.tie(x[2], w[2])
    else:
        n.fix(x[2], "multiplies it with weights that are computed")
        n.fix(w[2], "has weights that are computed")


def _set_outputs(n: NodeContext, sequence: Ids, batch: Ids, directions: Ids, units: Ids, *, batch_first: bool) -> None:
    state = (batch, directions, units) if batch_first else (directions, batch, units)
    for position, shape in enumerate(n.out_shapes):
        if shape is not None and position == 0:
            n.set((batch, sequence, directions, units) if batch_first else (sequence, *state))
        elif shape is not None:
            n.set(state, position)


def _read_states(n: NodeContext, units: Ids, *, batch_first: bool) -> None:
    """Let the recurrence contract its own states: all that the file shows of them, or the last ones.

    The states are no input of the node, so zeros go into the columns of R instead.
    """
    n.mask(2, 2, units)
    # s sequence, d direction, b batch, h unit, g row of a gate
    term, out = ("bsdh", "bsdg") if batch_first else ("sdbh", "sdbg")
    shown = next((position for position, name in enumerate(n.node.output[:2]) if name), None)
    if shown is None:
        n.fix(units, "shows none of its hidden states")
        return
    if shown == 1:
        term, out = term.replace("s", ""), out.replace("s", "")
    n.consumers.append(
        Consumer(
            node=n.index,
            name=n.name,
            output=n.node.output[shown],
            op=n.node.op_type,
            data=n.node.output[shown],
            data_input=2,
            data_axis=len(term) - 1,
            channels=units,
            weight=n.node.input[2],
            weight_axis=2,
            constant=n.constant[2],
            form="einsum",
            equation=f"{term},dgh->{out}",
        )
    )


RULES.declare("LSTM", "GRU", "RNN", mac_terms=recurrence_terms)
RULES.declare("LSTM", "GRU", "RNN", states_within_one=True)
