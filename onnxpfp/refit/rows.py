"""Sampled rows: the columns that a linear op reads at random output positions, with targets, kept for its refit."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats, Floats32
from onnxpfp.refit.cache import SpillCache, rest
from onnxpfp.refit.moments import Moments, OrderedRows, Piece, by_group
from onnxpfp.runtime.workers import ALONE, Workers

__all__ = ["RowBatch", "SampledRows", "passed", "relu_aware"]


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """The rows drawn from one batch.

    Attributes:
        columns: u, (T, g, n) float32.
        targets: Wanted outputs, (T, g, o) float32.
        relu_threshold: Outputs at which the ReLU behind starts to pass, (T, g, o) float32; None where no ReLU follows.
    """

    columns: NDArray[np.float32]
    targets: NDArray[np.float32]
    relu_threshold: NDArray[np.float32] | None

    def predicted(self, weights: Floats, bias: Floats) -> Floats32:
        """Return what weights (g, o, n) and bias (g, o) make of the columns, (T, g, o)."""
        made = np.matmul(self.columns.swapaxes(0, 1), weights.astype(np.float32).swapaxes(1, 2))
        return made.swapaxes(0, 1) + bias.astype(np.float32)

    def error(self, weights: Floats, bias: Floats, sign: Floats) -> float:
        """Return the sum of the squared errors behind the ReLU.

        Args:
            weights: (g, o, n).
            bias: (g, o).
            sign: As in `InitialWeights`, (g, o).
        """
        made, wanted = self.predicted(weights, bias), self.targets
        if self.relu_threshold is not None:
            # Beyond its threshold an output is as good as at it.
            made, wanted = (passed(x, self.relu_threshold, sign) for x in (made, wanted))
        gaps = (made - wanted).ravel().astype(np.float64)
        self.rest()
        return float(gaps @ gaps)

    def rest(self) -> None:
        """Let rows that lie in files take no memory until they are read again."""
        for array in (self.columns, self.targets, self.relu_threshold):
            if array is not None:
                rest(array)

    def relu_aware_targets(self, weights: Floats, bias: Floats, sign: Floats) -> Floats32:
        """Return targets as near to the prediction as the ReLU leaves free (Zhang et al., 2016), (T, g, o).

        Where the original's output is cut off, any output that is cut off is as good: the target is the prediction, or
        the threshold where the prediction passes it. Elsewhere the target stays.
        """
        assert self.relu_threshold is not None
        return relu_aware(self.predicted(weights, bias), self.targets, self.relu_threshold, sign)


def relu_aware(outputs: Floats32, targets: Floats32, threshold: Floats32, sign: Floats) -> Floats32:
    """Return targets as near to outputs as the ReLU leaves free, (T, g, o); see `RowBatch.relu_aware_targets`."""
    free = _cut_off(outputs, threshold, sign)
    stays = targets > threshold
    if not (sign > 0).all():
        below = targets < threshold
        stays = np.where(sign > 0, stays, np.where(sign < 0, below, True))
    return np.where(stays, targets, free)


def passed(values: Floats32, threshold: Floats32, sign: Floats) -> Floats32:
    """Return what a ReLU passes of values, at least the threshold; the threshold itself where it passes nothing."""
    if (sign > 0).all():
        return np.maximum(values, threshold)
    passed = np.where(sign > 0, np.maximum(values, threshold), np.minimum(values, threshold))
    return np.where(sign == 0, threshold, passed)


def _cut_off(values: Floats32, threshold: Floats32, sign: Floats) -> Floats32:
    """Return the nearest values that a ReLU does not pass."""
    if (sign > 0).all():
        return np.minimum(values, threshold)
    return np.where(sign > 0, np.minimum(values, threshold), np.maximum(values, threshold))


@dataclass(slots=True, eq=False)
class SampledRows:
    """All rows of one op from one set of samples.

    Attributes:
        moments: Second moments of all rows so far; without Gram matrix (0, n, n) where none is needed.
        spill: Where the batches are kept.
        kept: Whether to keep the batches even where no ReLU follows.
        beside: Whether another op shares the sums over the columns, and adds them up.
        finite: Whether all numbers so far were finite, so that the op can be fitted.
        helpers: Threads that share the work on the batches.
        draws: The batches, where they are kept.
    """

    moments: Moments
    spill: SpillCache
    kept: bool = False
    beside: bool = False
    finite: bool = True
    helpers: Workers = ALONE
    draws: list[RowBatch] = field(default_factory=list[RowBatch])

    @property
    def count(self) -> int:
        """Number of rows so far."""
        return self.moments.count

    def add(self, draw: RowBatch) -> None:
        """Add a batch."""
        u = by_group(draw.columns) if np.isfinite(draw.columns).all() else None
        for piece in self.take(draw, u):
            piece()

    def take(self, draw: RowBatch, u: OrderedRows | None) -> list[Piece]:
        """Keep a batch, and return what is left to do to count it in.

        Args:
            draw: The batch.
            u: Its columns in the order and type in which they are counted; None where they are not all finite.
        """
        targets = draw.targets
        if not np.isfinite(targets).all():
            # The columns still count, for other ops that share their sums.
            self.finite, targets = False, np.zeros_like(targets)
        if u is None:
            self.finite = False
            return []
        self.moments.count += u.count
        if draw.relu_threshold is not None or self.kept:
            threshold = None if draw.relu_threshold is None else self.spill.put(draw.relu_threshold)
            self.draws.append(RowBatch(self.spill.put(draw.columns), self.spill.put(targets), threshold))
        pieces = [*self.moments.target_pieces(u, by_group(targets, precise=u.above.dtype == np.float64))]
        return pieces if self.beside else [*self.moments.column_pieces(u), *pieces]

    def error(self, weights: Floats, bias: Floats, sign: Floats) -> float:
        """Return the mean squared error summed over the outputs, behind the ReLU where there is one."""
        if not self.draws:
            return float(self.moments.error(weights, bias).sum())
        errors = self.helpers.in_order(lambda draw: draw.error(weights, bias, sign), self.draws)
        return sum(errors) / max(1, self.count)

    def relu_aware_moments(self, weights: Floats, bias: Floats, sign: Floats) -> Moments:
        """Return the moments with the ReLU-aware targets of weights and bias."""
        m = self.moments
        moments = Moments(m.u, m.uu, m.t.copy(), m.tt.copy(), m.tu.copy(), m.count)
        changes = self.helpers.in_order(partial(_changes, weights=weights, bias=bias, sign=sign), self.draws)
        for t, tt, tu in changes:
            moments.t += t
            moments.tt += tt
            moments.tu += tu
        return moments

    def free(self) -> None:
        """Drop the kept batches."""
        for draw in self.draws:
            for array in (draw.columns, draw.targets, draw.relu_threshold):
                if array is not None:
                    self.spill.forget(array)
        self.draws.clear()


def _changes(draw: RowBatch, weights: Floats, bias: Floats, sign: Floats) -> tuple[Floats, Floats, NDArray[np.float32]]:
    """Return what ReLU-aware targets add to the sums of a batch's targets, of their squares, and times columns.

    Only targets that follow the prediction change, and what they change by is as exact as a prediction: float32.
    """
    t = draw.targets.swapaxes(0, 1)
    change = draw.relu_aware_targets(weights, bias, sign).swapaxes(0, 1) - t
    products = np.matmul(change.swapaxes(1, 2), draw.columns.swapaxes(0, 1))
    sums = change.sum(1, np.float64), (change * (change + 2 * t)).sum(1, np.float64)
    draw.rest()
    return *sums, products
