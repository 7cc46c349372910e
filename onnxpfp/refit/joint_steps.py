"""Steps on a producer's weights together with its consumers'.

With u the columns of the producer W1, z = W1 u, h what lies between makes of z, R_c what the outputs of consumer c are
too small by (0 where a ReLU behind cuts off both the wanted and the given output), weighted by what they count:

    D = slope(z) * sum over c of W_c^T R_c        the step of z that lowers the squared error fastest
    d = (cov(u) + ridge I)^-1 cov(u, D)           the same for W1, preconditioned
    step = <R, dy> / <dy, dy>                     exact for outputs y in first order along d

A step is halved until the error on the tuning samples falls: on what is fitted it falls by learning the samples, too.
Directions are conjugate (Polak and Ribiere). Every few steps the consumers are fitted to what they read by then, by
ridge least squares; directions start anew there. A producer whose weights keep to a rank moves along one of its two ops
at a time (`joint_ranks.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np

from onnxpfp.arrays import Floats, Floats32
from onnxpfp.refit.cholesky import Factored, LinAlgError
from onnxpfp.refit.counting import Counting
from onnxpfp.refit.joint_machine import Affine, Tape, products
from onnxpfp.refit.joint_problem import ChainBatch, JointProblem, JointWeights
from onnxpfp.refit.moments import Moments, OrderedRows, by_group
from onnxpfp.refit.ridge import GramFactors, Regression
from onnxpfp.runtime.workers import Workers

__all__ = ["PRODUCER_RIDGE", "JointDescent", "JointFit", "joint_fit"]

PRODUCER_RIDGE = 1e-1
"""Share of the mean of diag cov(u) that is added to it."""
CONSUMER_RIDGE = 1e-2
"""The same for the consumers."""
LEAST_GAIN = 2e-3
"""Steps end where one lowers the error by less than this share of it."""
FIRST_FITS = 2
"""Times that the consumers are fitted before the first step."""
STEPS = 3
"""Most steps of the producer between two fits of the consumers."""
HALVINGS = 4
"""Most times that a step is halved."""
GRAM_ROWS = 8
"""Rows that the preconditioner sees for every column: it sets how fast the steps go, not where to."""


@dataclass(frozen=True, slots=True, eq=False)
class JointFit:
    """Weights that are better together.

    Attributes:
        weights: The weights.
        before: Weighted error on the tuning samples behind the ReLUs with the producer as it was: the smaller one of
            those with its consumers as they were, and refitted.
        after: The same with the new weights.
    """

    weights: JointWeights
    before: float
    after: float


@dataclass(slots=True, eq=False)
class JointDescent:
    """Weights on their way down.

    Attributes:
        problem: What is fitted.
        weights: The weights by now.
        helpers: Threads that share the batches.
        whitening: Turns gradients of the producer into directions.
        gram: Covariance of the producer's columns with the ridge, (g, n, n), where it keeps to a rank; else None.
        mean: Their mean, (g, n).
    """

    problem: JointProblem
    weights: JointWeights
    helpers: Workers
    whitening: Callable[[Floats], Floats]
    gram: Floats | None
    mean: Floats

    @classmethod
    def of(cls, problem: JointProblem, helpers: Workers) -> Self:
        """Stand before the first step.

        Raises:
            LinAlgError: The covariance of the producer's columns is not positive definite even with the ridge.
        """
        start, fitted = problem.start, problem.fitted
        groups, _, inputs = start.producer.weights.shape
        moments = Moments.empty(groups, inputs, 0)
        every = max(1, sum(len(batch.rows.columns) for batch in fitted) // (GRAM_ROWS * inputs))
        counting = Counting(helpers)
        for u in helpers.in_order(lambda batch: by_group(batch.rows.columns[::every], precise=False), fitted):
            moments.count += u.count
            counting.begin(moments.column_pieces(u))
        counting.end()
        gram = moments.gram(centred=problem.biased)
        diagonal = np.einsum("gnn->gn", gram)
        scale = diagonal.mean(1)
        diagonal += np.where(scale > 0, PRODUCER_RIDGE * scale, 1.0)[:, None]
        mean = moments.u / moments.count
        if problem.ranked_producer is None:
            descent = cls(problem, start, helpers, partial(_whitened, Factored.of(gram)), None, mean)
        else:
            whitening = problem.ranked_producer.along_first(start.producer.weights, gram)
            descent = cls(problem, start, helpers, whitening, gram, mean)
        helpers.do(partial(_produce, start.producer), (*fitted, *problem.tuning))
        helpers.do(descent.follow, fitted)
        return descent

    def add(
        self, work: Callable[[ChainBatch], tuple[float, float]], batches: Sequence[ChainBatch]
    ) -> tuple[float, float]:
        """Add two numbers up that work gives of every batch, in the order of the batches."""
        first = second = 0.0
        for one, other in self.helpers.in_order(work, batches):
            first, second = first + one, second + other
        return first, second

    def follow(self, batch: ChainBatch) -> Tape:
        """Compute what follows from the producer's outputs."""
        batch.tape = self.problem.machine.forward(batch.rows, batch.produced)
        return batch.tape

    def outputs(self, batch: ChainBatch, tape: Tape) -> list[Floats32]:
        """Compute the consumers' outputs."""
        return [
            consumer(self.problem.machine.columns(batch.rows, tape, number, consumer))
            for number, consumer in enumerate(self.weights.consumers)
        ]

    def measure(self, *, anew: bool = False) -> float:
        """Return the mean error on the tuning samples behind the ReLUs; `anew` where the producer has new weights."""
        total, count = self.add(self._error_anew if anew else self._error, self.problem.tuning)
        return total / max(count, 1.0)

    def _error_anew(self, batch: ChainBatch) -> tuple[float, float]:
        _produce(self.weights.producer, batch)
        return self._error(batch)

    def _error(self, batch: ChainBatch) -> tuple[float, float]:
        outputs = self.outputs(batch, self.follow(batch))
        pairs = zip(outputs, batch.rows.wanted, strict=True)
        return sum(self.problem.machine.error(number, *pair) for number, pair in enumerate(pairs)), len(outputs[0])

    # Consumers

    def fit_consumers(self, rounds: int = 1, *, raw: bool = False) -> None:
        """Fit the consumers to what they read by now.

        Args:
            rounds: Times that each is fitted, to targets that follow what it gave before where a ReLU is behind.
            raw: Whether targets follow nothing the first time.
        """
        consumers = list(self.weights.consumers)
        for number, start in enumerate(self.problem.start.consumers):
            groups, outputs, inputs = start.weights.shape
            shared = Moments.empty(groups, inputs, 0)
            bias = None if self.problem.consumers_biased[number] else start.bias
            factors: GramFactors | None = None
            for done in range(rounds):
                follows = None if raw and not done else consumers[number]
                moments, counting = Moments.beside(shared, outputs), Counting(self.helpers)
                for u, t in self.helpers.in_order(partial(self._draw, number, follows), self.problem.fitted):
                    moments.count += u.count
                    counting.begin(() if factors else moments.column_pieces(u))
                    counting.begin(moments.target_pieces(u, t))
                counting.end()
                factors = factors or GramFactors(moments, bias is None, tried=False)
                ranked = self.problem.ranked_consumers[number]
                if ranked is None:
                    consumers[number] = Affine(*Regression(moments, start.weights, bias, factors).at(CONSUMER_RIDGE))
                else:
                    consumers[number] = ranked.fit(moments, factors, CONSUMER_RIDGE)
                if all(batch.rows.wanted[number].threshold is None for batch in self.problem.fitted):
                    break
        self.weights = replace(self.weights, consumers=tuple(consumers))

    def _draw(self, number: int, follows: Affine | None, batch: ChainBatch) -> tuple[OrderedRows, OrderedRows]:
        """Return columns and targets of a consumer; these follow what other weights make of them, if any."""
        wanted = batch.rows.wanted[number]
        columns = self.problem.machine.columns(batch.rows, batch.tape, number, self.problem.start.consumers[number])
        targets = wanted.targets
        if follows is not None and wanted.threshold is not None:
            outputs = follows(columns)
            targets = outputs - self.problem.machine.gap(number, outputs, wanted)
        return by_group(columns, precise=False), by_group(targets, precise=False)

    # Producer

    def turns(self) -> Iterator[None]:
        """Turn to all that the producer may move along, one after the other: both ops of one of low rank."""
        ranked = self.problem.ranked_producer
        if ranked is None or self.gram is None:
            yield
            return
        for along in (ranked.along_first, ranked.along_second):
            self.whitening = along(self.weights.producer.weights, self.gram)
            yield

    def gradient(self) -> tuple[Affine, Affine]:
        """Return where half the error falls fastest, and what it is preconditioned, of the producer's weights."""
        weights, bias = np.zeros_like(self.weights.producer.weights), np.zeros_like(self.weights.producer.bias)
        for by_weights, by_bias in self.helpers.in_order(self._gradient, self.problem.fitted):
            weights -= by_weights
            bias -= by_bias
        if not self.problem.biased:
            none = np.zeros_like(bias)
            return Affine(weights, none), Affine(self.whitening(weights), none)
        # About the mean, weights and bias do not act on each other.
        direction = self.whitening(weights - bias[:, :, None] * self.mean[:, None])
        return Affine(weights, bias), Affine(direction, bias - np.einsum("gon,gn->go", direction, self.mean))

    def _gradient(self, batch: ChainBatch) -> tuple[Floats, Floats]:
        outputs = self.outputs(batch, batch.tape)
        triples = enumerate(zip(outputs, batch.rows.wanted, strict=True))
        batch.gaps = [self.problem.machine.gap(number, *pair) for number, pair in triples]
        weighted = [gap * scale for gap, scale in zip(batch.gaps, self.problem.machine.importance, strict=True)]
        back = self.problem.machine.backward(batch.rows, batch.tape, weighted, self.weights.consumers)
        per_group = back.reshape(len(back), *self.weights.producer.bias.shape)
        return products(per_group, batch.rows.columns), per_group.sum(0, np.float64)

    def _along(self, direction: Affine, batch: ChainBatch) -> tuple[float, float]:
        """Return <R, dy> and <dy, dy> of a batch along a direction."""
        made = direction(batch.rows.columns)
        batch.direction = made.reshape(len(made), -1)
        change = self.problem.machine.moved(batch.rows, batch.tape, batch.direction)
        moved = replace(batch.tape, behind=[*batch.tape.behind[:-1], change])
        gain = size = 0.0
        for number, (gap, consumer) in enumerate(zip(batch.gaps, self.weights.consumers, strict=True)):
            outputs = consumer.linear(self.problem.machine.columns(batch.rows, moved, number, consumer))
            outputs = np.where(gap != 0, outputs, 0)
            scale = self.problem.machine.importance[number]
            gain -= float(np.einsum("tgo,tgo,go->", gap, outputs, scale, dtype=np.float64))
            size += float(np.einsum("tgo,tgo,go->", outputs, outputs, scale, dtype=np.float64))
        return gain, size

    def step(self, direction: Affine, before: float) -> float | None:
        """Go along a direction; returns the error on the tuning samples there, None where it does not fall.

        Args:
            direction: Where to go.
            before: Error on the tuning samples before.
        """
        gain, size = self.add(partial(self._along, direction), self.problem.fitted)
        if not size > 0 or not gain > 0:
            return None
        factor = gain / size
        producer = self.weights.producer
        for _ in range(HALVINGS):
            self.weights = replace(self.weights, producer=producer.moved(direction, factor))
            error = self.measure(anew=True)
            if error < before:
                self.helpers.do(partial(self._go, factor), self.problem.fitted)
                return error
            factor /= 2
        self.weights = replace(self.weights, producer=producer)
        self.helpers.do(partial(_produce, producer), self.problem.tuning)
        return None

    def _go(self, by: float, batch: ChainBatch) -> None:
        batch.produced += np.float32(by) * batch.direction
        self.follow(batch)


def _whitened(gram: Factored, weights: Floats) -> Floats:
    return gram.solved(weights.swapaxes(1, 2)).swapaxes(1, 2).astype(np.float64, copy=False)


def _produce(producer: Affine, batch: ChainBatch) -> None:
    made = producer(batch.rows.columns)
    batch.produced = np.ascontiguousarray(made.reshape(len(made), -1))


def joint_fit(problem: JointProblem, helpers: Workers) -> JointFit | None:
    """Fit a producer and its consumers together.

    Args:
        problem: What to fit.
        helpers: Threads that share the batches.

    Returns:
        The weights with the smallest error on the tuning samples; None where that is not below what it is with the
        producer as it was, whether its consumers are refitted or not.
    """
    try:
        descent = JointDescent.of(problem, helpers)
        best, before = problem.start, descent.measure()
        descent.fit_consumers(FIRST_FITS, raw=True)
        # Consumers that do not keep to their ranks yet are no measure.
        error = before = min(before if problem.attainable else np.inf, descent.measure())
        for _ in range(problem.rounds):
            last = error
            for _ in descent.turns():
                began = error
                best, error = _stepped(descent, best, error)
                if error >= began:
                    continue
                descent.fit_consumers()
                fitted_error = descent.measure()
                best, error = (descent.weights, fitted_error) if fitted_error < error else (best, error)
            if error > (1 - LEAST_GAIN) * last:
                break
    except LinAlgError:
        return None
    return JointFit(best, before, error) if error < before else None


def _stepped(descent: JointDescent, best: JointWeights, least: float) -> tuple[JointWeights, float]:
    """Take some steps from where the consumers stand; returns the best weights so far and their error."""
    before: tuple[Affine, Affine, Affine] | None = None
    error = descent.measure()
    for _ in range(STEPS):
        down, preconditioned = descent.gradient()
        direction = preconditioned
        if before is not None:
            last_down, last_preconditioned, last = before
            turn = _dot(preconditioned, down) - _dot(preconditioned, last_down)
            direction = preconditioned.moved(last, max(0.0, turn / _dot(last_preconditioned, last_down)))
        after = descent.step(direction, error)
        if after is None:
            break
        best, least = (descent.weights, after) if after < least else (best, least)
        if after > (1 - LEAST_GAIN) * error:
            break
        error, before = after, (down, preconditioned, direction)
    return best, least


def _dot(one: Affine, other: Affine) -> float:
    return float((one.weights * other.weights).sum() + (one.bias * other.bias).sum())
