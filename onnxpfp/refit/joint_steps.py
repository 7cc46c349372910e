"""Steps on a producer's weights together with its consumers'.

With u the columns of the producer W1, z = W1 u, h what lies between makes of z, R_c what the outputs of consumer c are
too small by (0 where a ReLU behind cuts off both the wanted and the given output), weighted by what they count:

    D = slope(z) * sum over c of W_c^T R_c        the step of z that lowers the squared error fastest
    d = (cov(u) + ridge I)^-1 cov(u, D)           the same for W1, preconditioned
    step = <R, dy> / <dy, dy>                     exact for outputs y in first order along d; halved until the error falls

Directions are conjugate (Polak and Ribiere). Every few steps the consumers are fitted to what they read by then, by
ridge least squares; directions start anew there.
"""

from __future__ import annotations
import sys

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from onnxpfp.arrays import Floats, Floats32
from onnxpfp.refit.cholesky import Factored, LinAlgError
from onnxpfp.refit.joint_machine import Affine, ChainMachine, Tape, products
from onnxpfp.refit.joint_rows import ChainRows
from onnxpfp.refit.moments import Moments, by_group
from onnxpfp.refit.ridge import solve
from onnxpfp.runtime.workers import Workers

__all__ = ["Batch", "JointFit", "joint_fit"]

PRODUCER_RIDGE = 1e-1
"""Share of the mean of diag cov(u) that is added to it."""
LEAST_GAIN = 2e-3
"""Steps end where one lowers the error by less than this share of it."""
CONSUMER_RIDGE = 1e-2
"""The same for the consumers."""
ROUNDS = 2
"""Times that the consumers are fitted."""
STEPS = 3
"""Steps of the producer between two fits of the consumers."""
HALVINGS = 4
"""Most times that a step is halved."""
GRAM_ROWS = 8
"""Rows that the preconditioner sees for every column: it sets how fast the steps go, not where to."""


@dataclass(slots=True, eq=False)
class Batch:
    """The rows of one batch, and what the network makes of them by now.

    Attributes:
        rows: The rows.
        produced: The producer's outputs, (Q, C).
        direction: What the step that is tried adds to them.
        tape: What follows from them.
        gaps: What each consumer's outputs are too large by.
    """

    rows: ChainRows
    produced: Floats32 = field(default_factory=lambda: np.empty((0, 0), np.float32))
    direction: Floats32 = field(default_factory=lambda: np.empty((0, 0), np.float32))
    tape: Tape = field(default_factory=lambda: Tape([], [], []))
    gaps: list[Floats32] = field(default_factory=list[Floats32])


@dataclass(frozen=True, slots=True, eq=False)
class JointFit:
    """Weights of a producer and its consumers.

    Attributes:
        producer: Of the producer, taps first.
        consumers: Of the consumers, taps first.
        error: Weighted error on the tuning samples, behind the ReLUs.
    """

    producer: Affine
    consumers: tuple[Affine, ...]
    error: float


@dataclass(slots=True, eq=False)
class _Descent:
    """Weights on their way down.

    Attributes:
        machine: What lies between producer and errors.
        fitted: Batches to fit.
        tuning: Batches of tuning samples.
        fit: The weights by now.
        start: The consumers as they were, which their ridge pulls towards.
        biased: Whether the bias of the producer, and of each consumer, can change.
        helpers: Threads that share the batches.
    """

    machine: ChainMachine
    fitted: Sequence[Batch]
    tuning: Sequence[Batch]
    fit: JointFit
    start: tuple[Affine, ...]
    biased: tuple[bool, tuple[bool, ...]]
    helpers: Workers
    first_loss: float = 0.0
    whitening: Factored | None = None
    mean: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, work: Callable[[Batch], Iterable[float | Floats]], batches: Sequence[Batch]) -> list[float | Floats]:
        """Add what work gives of every batch up, in the order of the batches."""
        total: list[float | Floats] = []
        for made in self.helpers.in_order(work, batches):
            total = [one + other for one, other in zip(total, made, strict=True)] if total else list(made)
        return total

    # Rows

    def produce(self) -> None:
        """Compute the producer's outputs from its columns."""
        self.helpers.do(partial(_produce, self.fit.producer), (*self.fitted, *self.tuning))

    def follow(self, batch: Batch) -> Tape:
        """Compute what follows from the producer's outputs."""
        batch.tape = self.machine.forward(batch.rows, batch.produced)
        return batch.tape

    def outputs(self, batch: Batch, tape: Tape) -> list[Floats32]:
        """Compute the consumers' outputs."""
        return [
            consumer(self.machine.columns(batch.rows, tape, number, consumer))
            for number, consumer in enumerate(self.fit.consumers)
        ]

    def look(self, batch: Batch) -> tuple[float, ...]:
        """Find the gaps of a batch, and return the sum of their squares."""
        outputs = self.outputs(batch, batch.tape)
        pairs = zip(outputs, batch.rows.wanted, strict=True)
        batch.gaps = [self.machine.gap(number, *pair) for number, pair in enumerate(pairs)]
        return (sum(self.machine.loss(number, gap) for number, gap in enumerate(batch.gaps)),)

    def measure(self) -> float:
        """Return the mean error on the tuning samples behind the ReLUs."""
        (total,) = self.add(self._error, self.tuning)
        return float(total) / _count(self.tuning)

    def _error(self, batch: Batch) -> tuple[float, ...]:
        outputs = self.outputs(batch, self.follow(batch))
        pairs = zip(outputs, batch.rows.wanted, strict=True)
        return (sum(self.machine.error(number, *pair) for number, pair in enumerate(pairs)),)

    # Consumers

    def fit_consumers(self, *, raw: bool = False) -> None:
        """Fit the consumers to what they read by now; raw targets do not follow what the consumers give."""
        consumers: list[Affine] = []
        for number, (consumer, start) in enumerate(zip(self.fit.consumers, self.start, strict=True)):
            groups, outputs, inputs = consumer.weights.shape
            moments = Moments.empty(groups, inputs, outputs)
            draws = self.helpers.in_order(partial(self._draw, number, raw), self.fitted)
            for columns, targets in draws:
                u, t = by_group(columns, precise=False), by_group(targets, precise=False)
                moments.count += u.count
                self.helpers.do(lambda piece: piece(), (*moments.column_pieces(u), *moments.target_pieces(u, t)))
            bias = None if self.biased[1][number] else start.bias
            consumers.append(Affine(*solve(moments, start.weights, CONSUMER_RIDGE, bias, spent=True)))
        self.fit = replace(self.fit, consumers=tuple(consumers))

    def _draw(self, number: int, raw: bool, batch: Batch) -> tuple[Floats32, Floats32]:
        consumer, wanted = self.fit.consumers[number], batch.rows.wanted[number]
        columns = self.machine.columns(batch.rows, batch.tape, number, consumer)
        if raw or wanted.threshold is None:
            return columns, wanted.targets
        outputs = consumer(columns)
        return columns, outputs - self.machine.gap(number, outputs, wanted)

    # Producer

    def whiten(self) -> None:
        """Factorise the covariance of the producer's columns, about zero where its bias cannot change."""
        groups, _, inputs = self.fit.producer.weights.shape
        moments = Moments.empty(groups, inputs, 0)
        every = max(1, sum(len(batch.rows.columns) for batch in self.fitted) // (GRAM_ROWS * inputs))
        for batch in self.fitted:
            u = by_group(batch.rows.columns[::every], precise=False)
            moments.count += u.count
            self.helpers.do(lambda piece: piece(), moments.column_pieces(u))
        gram = moments.gram(centred=self.biased[0])
        diagonal = np.einsum("gnn->gn", gram)
        scale = diagonal.mean(1)
        diagonal += np.where(scale > 0, PRODUCER_RIDGE * scale, 1.0)[:, None]
        self.whitening, self.mean = Factored.of(gram), moments.u / max(moments.count, 1)

    def gradient(self) -> tuple[Affine, Affine]:
        """Return the gradient of half the error, and what it is preconditioned, both downhill."""
        slope, shift = self.add(self._gradient, self.fitted)
        assert isinstance(slope, np.ndarray)
        assert isinstance(shift, np.ndarray)
        assert self.whitening is not None
        down = Affine(-slope, -shift)
        if not self.biased[0]:
            none = np.zeros_like(shift)
            return Affine(down.weights, none), Affine(self._whitened(down.weights), none)
        centred = down.weights - down.bias[:, :, None] * self.mean[:, None]
        weights = self._whitened(centred)
        return down, Affine(weights, down.bias - np.einsum("gon,gn->go", weights, self.mean))

    def _whitened(self, weights: Floats) -> Floats:
        assert self.whitening is not None
        return self.whitening.solved(weights.swapaxes(1, 2)).swapaxes(1, 2)

    def _gradient(self, batch: Batch) -> tuple[Floats, Floats]:
        weighted = [gap * scale for gap, scale in zip(batch.gaps, self.machine.importance, strict=True)]
        back = self.machine.backward(batch.rows, batch.tape, weighted, self.fit.consumers)
        outputs = back.reshape(len(back), *self.fit.producer.bias.shape)
        return products(outputs, batch.rows.columns), outputs.sum(0, np.float64)

    def _along(self, direction: Affine, batch: Batch) -> tuple[float, float]:
        """Return <R, dy> and <dy, dy> of a batch along a direction."""
        made = direction(batch.rows.columns)
        batch.direction = made.reshape(len(made), -1)
        change = self.machine.moved(batch.rows, batch.tape, batch.direction)
        moved = replace(batch.tape, behind=[*batch.tape.behind[:-1], change])
        gain = size = 0.0
        for number, (gap, consumer) in enumerate(zip(batch.gaps, self.fit.consumers, strict=True)):
            outputs = consumer.linear(self.machine.columns(batch.rows, moved, number, consumer))
            outputs = np.where(gap != 0, outputs, 0)
            scale = self.machine.importance[number]
            gain -= float(np.einsum("tgo,tgo,go->", gap, outputs, scale, dtype=np.float64))
            size += float(np.einsum("tgo,tgo,go->", outputs, outputs, scale, dtype=np.float64))
        return gain, size

    def step(self, direction: Affine, best: float) -> float | None:
        """Go along a direction; returns the error on the tuning samples there, None where it does not fall."""
        gain, size = self.add(partial(self._along, direction), self.fitted)
        if not size > 0 or not gain > 0:
            return None
        factor = float(gain) / float(size)
        producer = self.fit.producer
        for _ in range(HALVINGS):
            self.fit = replace(self.fit, producer=producer.moved(direction, factor))
            self.helpers.do(partial(_produce, self.fit.producer), self.tuning)
            error = self.measure()
            if error < best:
                self.helpers.do(partial(self._go, factor), self.fitted)
                return error
            factor /= 2
        self.fit = replace(self.fit, producer=producer)
        return None

    def _go(self, by: float, batch: Batch) -> None:
        batch.produced += np.float32(by) * batch.direction
        self.follow(batch)


def _produce(producer: Affine, batch: Batch) -> None:
    made = producer(batch.rows.columns)
    batch.produced = np.ascontiguousarray(made.reshape(len(made), -1))


def _count(batches: Sequence[Batch]) -> int:
    return max(1, sum(len(batch.rows.wanted[0].targets) for batch in batches))


def joint_fit(
    machine: ChainMachine,
    fitted: Sequence[Batch],
    tuning: Sequence[Batch],
    start: JointFit,
    biased: tuple[bool, tuple[bool, ...]],
    helpers: Workers,
    rounds: int = 0,
) -> JointFit | None:
    """Fit a producer and its consumers together.

    Args:
        machine: What lies between.
        fitted: Batches to fit.
        tuning: Batches of tuning samples, which choose among the steps.
        start: The weights as they are.
        biased: Whether the bias of the producer, and of each consumer, can change.
        helpers: Threads that share the batches.
        rounds: Times that the consumers are fitted.

    Returns:
        The weights with the smallest error on the tuning samples; None where that is not below what it is with the
        producer as it was, whether its consumers are fitted or not.
    """
    rounds = rounds or ROUNDS
    descent = _Descent(machine, fitted, tuning, start, start.consumers, biased, helpers)
    descent.produce()
    helpers.do(descent.follow, fitted)
    plain = descent.measure()
    try:
        descent.fit_consumers(raw=True)
        descent.fit_consumers()
        best = replace(descent.fit, error=min(plain, descent.measure()))
        unmoved = best.error
        descent.whiten()
        for _ in range(rounds):
            before = best.error
            best = _steps(descent, best)
            if best.error >= before:
                break
            descent.fit_consumers()
            best = _better(best, descent)
            if best.error > (1 - LEAST_GAIN) * before:
                break
    except LinAlgError:
        return None
    (l,) = descent.add(descent.look, descent.fitted)
    print(f"rows {sum(len(b.rows.columns) for b in fitted)} {start.producer.weights.shape} plain {plain:.5f} unmoved {unmoved:.5f} best {best.error:.5f} {best.error/unmoved:.3f} fit {descent.first_loss/_count(fitted):.5f} {l/_count(fitted):.5f} {l/descent.first_loss:.3f}", file=sys.stderr)
    return replace(best, error=best.error) if best.error < unmoved else None


def _steps(descent: _Descent, best: JointFit) -> JointFit:
    """Take some steps on the producer from where the consumers stand, and return the best weights so far."""
    before: tuple[Affine, Affine, Affine] | None = None
    error = descent.measure()
    for _ in range(STEPS):
        (loss,) = descent.add(descent.look, descent.fitted)
        if not descent.first_loss: descent.first_loss=loss
        down, direction = descent.gradient()
        preconditioned = direction
        if before is not None:
            one, other, last = before
            top = _dot(direction, down) - _dot(direction, one)
            direction = direction.moved(last, max(0.0, top / max(_dot(other, one), 1e-300)))
        after = descent.step(direction, error)
        if after is None:
            break
        best = replace(descent.fit, error=after) if after < best.error else best
        if after > (1 - LEAST_GAIN) * error:
            break
        error, before = after, (down, preconditioned, direction)
    return best


def _dot(one: Affine, other: Affine) -> float:
    return float((one.weights * other.weights).sum() + (one.bias * other.bias).sum())


def _better(best: JointFit, descent: _Descent) -> JointFit:
    error = descent.measure()
    return replace(descent.fit, error=error) if error < best.error else best
