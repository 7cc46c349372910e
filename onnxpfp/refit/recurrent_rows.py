"""Rows of a recurrence: what its gates read at drawn steps, and what they should make of it.

With x what is read at a step and h the states of the step before, a gate before its activation is W x + Wb + R h + Rb,
linear in both. One is not: the candidate of a GRU reads r * h in the place of h, with r its reset gate, or, where
linear_before_reset is set, is W x + Wb + r * (R h + Rb), so two linear ops. Peepholes, clips and activations come
behind and stay as they are: what the gates of the original are before them is the target
(https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html and onnx__RNN.html have the equations).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyFloats, Floats, Ints
from onnxpfp.model.attributes import Attributes
from onnxpfp.refit.recurrent_layers import RecurrentLayer, RecurrentWeights

__all__ = ["Direction", "DirectionRows", "GatePart", "Steps", "states_before"]

RESET, CANDIDATE = 1, 2
"""Gates of a GRU."""
ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "Sigmoid": lambda z: 0.5 * (1.0 + np.tanh(0.5 * z)),
    "Tanh": np.tanh,
    "Relu": lambda z: np.maximum(z, 0.0),
}
"""Of a reset gate."""


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Drawn steps of a batch.

    Attributes:
        step: Position in the sequence, (T,).
        row: Position in the batch, (T,).
        lengths: Length of the sequence that each belongs to, (T,).
    """

    step: Ints
    row: Ints
    lengths: Ints

    @classmethod
    def drawn(cls, steps: int, rows: int, lengths: NDArray[Any] | None, most: int, rng: np.random.Generator) -> Steps:
        """Draw steps without repeats, of all that lie within the sequences.

        Args:
            steps: Steps of the longest sequence.
            rows: Sequences of the batch.
            lengths: Length of each, (rows,); None where all have as many steps.
            most: How many are drawn.
            rng: Source of the draws.
        """
        ends = np.full(rows, steps) if lengths is None else lengths.astype(np.int64)
        inside = np.flatnonzero(np.arange(steps)[:, None] < ends)
        if inside.size > most:
            inside = np.sort(rng.choice(inside, most, replace=False, shuffle=False))
        step, row = np.divmod(inside, max(rows, 1))
        return cls(step, row, ends[row])


def states_before(steps: Steps, states: AnyFloats, first: AnyFloats | None, *, reverse: bool) -> AnyFloats:
    """Return the hidden states that a recurrence reads at some steps, (T, H).

    Args:
        steps: The steps.
        states: Those that it gives at all steps in one direction, (steps, rows, H).
        first: Those that it starts from, (rows, H); None where they are zero.
        reverse: Whether it runs from the last step to the first.
    """
    source = steps.step + 1 if reverse else steps.step - 1
    starts = source >= steps.lengths if reverse else source < 0
    before = states[np.where(starts, 0, source), steps.row]
    before[starts] = 0 if first is None else first[steps.row[starts]]
    return before


@dataclass(frozen=True, slots=True, eq=False)
class DirectionRows:
    """Rows of one direction.

    Attributes:
        inputs: What the pruned network reads, (T, I').
        states: The states of the step before that stay: the original's, or those of the pruned network, (T, H').
        of_inputs: W x + Wb of the original, of the units that stay, (T, gates, H').
        of_states: R h + Rb likewise; of the candidate of a GRU R (r * h) + Rb, unless linear_before_reset is set.
        reset: The original's reset gate, (T, H'); None but of a GRU.
    """

    inputs: AnyFloats
    states: AnyFloats
    of_inputs: AnyFloats
    of_states: AnyFloats
    reset: AnyFloats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GatePart:
    """Gates whose weights are fitted together, for they read the same.

    Attributes:
        gates: Which.
        reads: "all": x and h; "reset": x and r * h; "inputs": x; "states": h.
    """

    gates: slice
    reads: Literal["all", "reset", "inputs", "states"]

    def columns(self, rows: DirectionRows, reset: AnyFloats | None) -> NDArray[np.float32]:
        """Return what these gates read, (T, n).

        Args:
            rows: The rows.
            reset: The reset gate where states are multiplied by it before, (T, H').
        """
        states = rows.states
        if self.reads == "reset":
            assert reset is not None
            states = reset * states
        parts = {"inputs": [rows.inputs], "states": [states]}.get(self.reads, [rows.inputs, states])
        return np.concatenate(parts, axis=1).astype(np.float32, copy=False)

    def targets(self, rows: DirectionRows) -> NDArray[np.float32]:
        """Return what these gates should make of it, (T, o)."""
        of_inputs, of_states = rows.of_inputs[:, self.gates], rows.of_states[:, self.gates]
        wanted = {"inputs": of_inputs, "states": of_states}.get(self.reads)
        wanted = of_inputs + of_states if wanted is None else wanted
        return wanted.reshape(len(wanted), -1).astype(np.float32, copy=False)

    def read_from(self, weights: Direction) -> tuple[Floats, Floats]:
        """Return the weights (o, n) and bias (o,) of these gates."""
        rows, (of_inputs, of_states) = weights.rows(self.gates), np.split(weights.b, 2)
        parts = {"inputs": [weights.w], "states": [weights.r]}.get(self.reads, [weights.w, weights.r])
        bias = {"inputs": of_inputs, "states": of_states}.get(self.reads, weights.b[: len(of_inputs)] + of_states)
        return np.concatenate([part[rows] for part in parts], axis=1), bias[rows]

    def write_to(self, weights: Direction, fitted: Floats, bias: Floats) -> None:
        """Put weights (o, n) and bias (o,) of these gates into those of a direction, in place."""
        rows, size = weights.rows(self.gates), len(weights.w)
        of_inputs, of_states = weights.b[:size], weights.b[size:]
        inputs = 0 if self.reads == "states" else weights.w.shape[1]
        if self.reads != "states":
            weights.w[rows] = fitted[:, :inputs]
        if self.reads != "inputs":
            weights.r[rows] = fitted[:, inputs:]
        if self.reads == "states":
            of_states[rows] = bias
        else:
            # Of both biases together one may stay as it is.
            of_inputs[rows] = bias - (of_states[rows] if self.reads != "inputs" else 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """The weights of one direction of a recurrence, and how it computes.

    Attributes:
        op: LSTM, GRU or RNN.
        gates: Number of gates.
        w: (gates H, I) float64.
        r: (gates H, H) float64.
        b: (2 gates H,) float64.
        resets_after: Whether linear_before_reset is set.
        activation: Of the reset gate of a GRU.
        clip: Limit of what is activated.
    """

    op: str
    gates: int
    w: Floats
    r: Floats
    b: Floats
    resets_after: bool
    activation: str
    clip: float

    @classmethod
    def of(cls, layer: RecurrentLayer, weights: RecurrentWeights) -> list[Direction]:
        """Return copies of the directions of a recurrence, with these weights."""
        named = layer.gate_activations
        clip = Attributes(layer.node).real("clip", 0.0) or np.inf
        return [
            cls(
                *(layer.node.op_type, layer.gates, weights.w[number].copy(), weights.r[number].copy()),
                *(weights.b[number].copy(), layer.resets_after, named[number], clip),
            )
            for number in range(len(layer.reverse))
        ]

    @property
    def parts(self) -> tuple[GatePart, ...]:
        """The parts that are fitted, in the order in which they can be."""
        if self.op != "GRU":
            return (GatePart(slice(None), "all"),)
        first, candidate = GatePart(slice(0, CANDIDATE), "all"), slice(CANDIDATE, None)
        if self.resets_after:
            return first, GatePart(candidate, "inputs"), GatePart(candidate, "states")
        return first, GatePart(candidate, "reset")

    def rows(self, gates: slice) -> slice:
        """Return where the rows of some gates lie."""
        first, last, _ = gates.indices(self.gates)
        units = self.r.shape[1]
        return slice(first * units, last * units)

    def terms(self, inputs: AnyFloats, states: AnyFloats) -> tuple[Floats, Floats, Floats | None]:
        """Return what gates are made of at some steps, before their activations.

        Args:
            inputs: x, (T, I).
            states: h of the steps before, (T, H).

        Returns:
            W x + Wb and R h + Rb, (T, gates, H), as in `DirectionRows`, and the reset gate of a GRU.
        """
        shape, size = (len(inputs), self.gates, self.r.shape[1]), len(self.w)
        states = states.astype(np.float64)
        of_inputs = (inputs.astype(np.float64) @ self.w.T + self.b[:size]).reshape(shape)
        of_states = (states @ self.r.T + self.b[size:]).reshape(shape)
        if self.op != "GRU":
            return of_inputs, of_states, None
        before = (of_inputs[:, RESET] + of_states[:, RESET]).clip(-self.clip, self.clip)
        reset = ACTIVATIONS[self.activation](before)
        if not self.resets_after:
            rows = self.rows(slice(CANDIDATE, None))
            of_states[:, CANDIDATE] = (reset * states) @ self.r[rows].T + self.b[size:][rows]
        return of_inputs, of_states, reset

    def reset(self, rows: DirectionRows) -> AnyFloats | None:
        """Return the reset gate that these weights make of rows, (T, H'); None but of a GRU."""
        return self.terms(rows.inputs, rows.states)[2]


def joined(directions: Sequence[Direction]) -> RecurrentWeights:
    """Return the weights of all directions together."""
    return RecurrentWeights(
        np.stack([each.w for each in directions]),
        np.stack([each.r for each in directions]),
        np.stack([each.b for each in directions]),
    )
