"""The way from a producer's outputs to the errors of its consumers, forwards and backwards, on the rows of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxpfp.arrays import Floats, Floats32, Ints
from onnxpfp.refit.joint_rows import ChainRows, Wanted
from onnxpfp.refit.pointwise import Pointwise
from onnxpfp.refit.rows import passed, relu_aware

__all__ = ["Affine", "ChainMachine", "Tape", "with_channels_first", "with_taps_first"]


def with_taps_first(weights: Floats, taps: int) -> Floats:
    """Bring weights (g, o, c * k) to (g, o, k * c)."""
    return np.ascontiguousarray(weights.reshape(*weights.shape[:2], -1, taps).swapaxes(2, 3)).reshape(weights.shape)


def with_channels_first(weights: Floats, taps: int) -> Floats:
    """Bring weights (g, o, k * c) back to (g, o, c * k)."""
    return np.ascontiguousarray(weights.reshape(*weights.shape[:2], taps, -1).swapaxes(2, 3)).reshape(weights.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Weights of a linear op on rows.

    Attributes:
        weights: (g, o, k * c) float64.
        bias: (g, o) float64.
    """

    weights: Floats
    bias: Floats

    def __call__(self, columns: Floats32) -> Floats32:
        """Return what they make of columns (T, g, n), (T, g, o)."""
        return self.linear(columns) + self.bias.astype(np.float32)

    def linear(self, columns: Floats32) -> Floats32:
        """Return the same without the bias."""
        weights = self.weights.astype(np.float32)
        if weights.shape[1:] == (1, columns.shape[2]) and len(weights) > 1:
            return np.einsum("tgn,gn->tg", columns, weights[:, 0])[:, :, None]
        made = np.matmul(columns.swapaxes(0, 1), weights.swapaxes(1, 2))
        return made.swapaxes(0, 1)

    def transposed(self, outputs: Floats32) -> Floats32:
        """Return the gradient of columns (T, g, n) from that of outputs (T, g, o)."""
        weights = self.weights.astype(np.float32)
        if weights.shape[1] == 1:
            return outputs * weights[:, 0]
        return np.matmul(outputs.swapaxes(0, 1), weights).swapaxes(0, 1)

    def moved(self, by: Affine, factor: float) -> Affine:
        """Return the weights some steps further."""
        return Affine(self.weights + factor * by.weights, self.bias + factor * by.bias)


def products(outputs: Floats32, columns: Floats32) -> Floats:
    """Return the sums over rows of outputs (T, g, o) times columns (T, g, n), (g, o, n)."""
    if outputs.shape[2] == 1 and outputs.shape[1] > 1:
        return np.einsum("tg,tgn->gn", outputs[:, :, 0], columns)[:, None].astype(np.float64)
    return np.matmul(outputs.transpose(1, 2, 0), columns.swapaxes(0, 1)).astype(np.float64)


def gathered(rows: Floats32, reads: Ints, groups: int) -> Floats32:
    """Return the columns of an op whose taps read rows (R, C), (T, g, k * c); taps that read nothing read zeros."""
    padded = np.concatenate([rows, np.zeros((1, rows.shape[1]), np.float32)])
    taken = padded[reads]
    if groups == 1:
        return taken.reshape(len(taken), 1, -1)
    count, taps = reads.shape
    return taken.reshape(count, taps, groups, -1).swapaxes(1, 2).reshape(count, groups, -1)


def scattered(gradient: Floats32, reads: Ints, size: int) -> Floats32:
    """Return the gradient of rows (R, C) from that of the columns that read them, (T, g, k * c)."""
    count, taps = reads.shape
    groups = gradient.shape[1]
    by_tap = gradient.reshape(count, groups, taps, -1).swapaxes(1, 2).reshape(count, taps, -1)
    rows = np.zeros((size + 1, by_tap.shape[2]), np.float32)
    for tap in range(taps):
        # A tap reads every row once at most, but for the one of zeros behind all.
        rows[reads[:, tap]] += by_tap[:, tap]
    return rows[:size]


@dataclass(slots=True, eq=False)
class Tape:
    """What a chain makes of its rows, kept for the way back.

    Attributes:
        before: What every link of element-wise ops reads, (R, C) each.
        behind: What it makes.
        outputs: What every consumer gives, (T, g, o).
        slopes: Derivatives of the links, as far as they were needed.
    """

    before: list[Floats32]
    behind: list[Floats32]
    outputs: list[Floats32]
    slopes: list[Floats32] = field(default_factory=list[Floats32])


@dataclass(frozen=True, slots=True, eq=False)
class ChainMachine:
    """What lies between a producer and the errors of its consumers.

    Attributes:
        pointwise: The element-wise ops.
        depthwise: Weights of the depthwise convolutions between, taps first.
        importance: What the squared errors of each consumer's outputs count, (g, o).
        signs: As in `InitialWeights`, of each consumer, (g, o).
    """

    pointwise: tuple[Pointwise, ...]
    depthwise: tuple[Affine, ...]
    importance: tuple[Floats32, ...]
    signs: tuple[Floats, ...]

    def forward(self, rows: ChainRows, produced: Floats32) -> Tape:
        """Go from the producer's outputs (Q, C) as far as what the consumers read."""
        tape = Tape([], [], [])
        for number, act in enumerate(self.pointwise):
            tape.before.append(produced)
            tape.behind.append(act(produced))
            if number < len(self.depthwise):
                through = self.depthwise[number]
                columns = gathered(tape.behind[-1], rows.reads[number], len(through.weights))
                produced = through(columns).reshape(len(columns), -1)
        return tape

    def slopes(self, tape: Tape) -> list[Floats32]:
        """Return the derivatives of the links on a tape."""
        if not tape.slopes:
            links = zip(self.pointwise, tape.before, tape.behind, strict=True)
            tape.slopes = [act.slope(before, behind) for act, before, behind in links]
        return tape.slopes

    def columns(self, rows: ChainRows, tape: Tape, number: int, consumer: Affine) -> Floats32:
        """Return the columns of a consumer."""
        return gathered(tape.behind[-1], rows.wanted[number].reads, len(consumer.weights))

    def moved(self, rows: ChainRows, tape: Tape, change: Floats32) -> Floats32:
        """Return how what the consumers read moves in first order where the producer's outputs do, (R, C)."""
        for number, slope in enumerate(self.slopes(tape)):
            change = change * slope
            if number < len(self.depthwise):
                through = self.depthwise[number]
                columns = gathered(change, rows.reads[number], len(through.weights))
                change = through.linear(columns).reshape(len(columns), -1)
        return change

    def backward(self, rows: ChainRows, tape: Tape, gaps: Sequence[Floats32], consumers: Sequence[Affine]) -> Floats32:
        """Return the gradient of the producer's outputs, (Q, C), from the weighted gaps of the consumers' outputs."""
        gradient = np.zeros_like(tape.behind[-1])
        for wanted, gap, consumer in zip(rows.wanted, gaps, consumers, strict=True):
            gradient += scattered(consumer.transposed(gap), wanted.reads, len(gradient))
        for number in range(len(self.pointwise) - 1, -1, -1):
            gradient = gradient * self.slopes(tape)[number]
            if number:
                through = self.depthwise[number - 1]
                columns = through.transposed(gradient[:, :, None])
                gradient = scattered(columns, rows.reads[number - 1], len(tape.behind[number - 1]))
        return gradient

    def gap(self, number: int, outputs: Floats32, wanted: Wanted) -> Floats32:
        """Return what a consumer's outputs are too large by, (T, g, o); 0 where the ReLU behind cuts both off."""
        if wanted.threshold is None:
            return outputs - wanted.targets
        return outputs - relu_aware(outputs, wanted.targets, wanted.threshold, self.signs[number])

    def loss(self, number: int, gap: Floats32) -> float:
        """Return the weighted sum of the squares of gaps."""
        return float(np.einsum("tgo,tgo,go->", gap, gap, self.importance[number], dtype=np.float64, optimize=False))

    def error(self, number: int, outputs: Floats32, wanted: Wanted) -> float:
        """Return the weighted sum of the squared errors of a consumer behind the ReLU."""
        targets = wanted.targets
        if wanted.threshold is not None:
            sign = self.signs[number]
            outputs, targets = (passed(each, wanted.threshold, sign) for each in (outputs, targets))
        return self.loss(number, outputs - targets)
