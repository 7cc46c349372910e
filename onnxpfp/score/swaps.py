"""Exchange channels that stay for channels that go, as long as the consumers' least-squares errors fall. Pure numpy.

With C the covariance of a consumer's columns, W its weights (n, o), and S the columns that stay, the consumer refitted
to them is off by

    E(S) = tr W^T R W,    R = C - C_S^T C_SS^-1 C_S,

as a share of tr W^T C W. Adding the columns i of a channel lowers it by tr (R W)_i^T R_ii^-1 (R W)_i; without the
columns j of one that stays it rises by tr B_j^T (A_jj)^-1 B_j, A = C_SS^-1 and B = A C_S W. So one swap adds the
channel of most gain and drops the one of least loss, over all consumers together: a local search as OSSCAR's (Meng et
al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.linalg import LinAlgError

from onnxpfp.arrays import Bools, Floats, Ints
from onnxpfp.score.group_data import ConsumerGram

__all__ = ["swapped"]

RIDGE = 1e-3
"""Share of the mean diagonal that is added to a covariance, as in `onnxpfp.score.reconstruction`."""
MOST = 16
"""Most swaps of a group."""
LEAST_GAIN = 1e-4
"""Share of the error that a swap must take away."""


@dataclass(frozen=True, slots=True, eq=False)
class _Consumer:
    """A consumer of the group.

    Attributes:
        covariance: C with the ridge, (n, n).
        weights: W over the root of tr W^T C W, (n, o).
        columns: Columns of every channel of the group.
        others: Columns of other channels, which stay.
    """

    covariance: Floats
    weights: Floats
    columns: tuple[Ints, ...]
    others: Ints

    @classmethod
    def of(cls, gram: ConsumerGram, channels: int) -> Self | None:
        """Return it; None where its outputs do not vary."""
        covariance = gram.covariance + RIDGE * np.trace(gram.covariance) / len(gram.covariance) * np.eye(
            len(gram.covariance)
        )
        weights = gram.weights.T
        energy = float((weights * (covariance @ weights)).sum())
        if not energy > 0.0:
            return None
        columns = tuple(np.flatnonzero(gram.channel == channel) for channel in range(channels))
        return cls(covariance, weights / np.sqrt(energy), columns, np.flatnonzero(gram.channel < 0))


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """A consumer refitted to what stays.

    Attributes:
        consumer: The consumer.
        stays: Its columns that stay, (s,).
        inverse: A, (s, s).
        fit: B, (s, o).
        residual: R, (n, n).
        missing: R W, (n, o).
        error: E(S).
    """

    consumer: _Consumer
    stays: Ints
    inverse: Floats
    fit: Floats
    residual: Floats
    missing: Floats
    error: float

    @classmethod
    def of(cls, consumer: _Consumer, keep: Bools) -> Self:
        """Refit it."""
        kept = [consumer.columns[channel] for channel in np.flatnonzero(keep)]
        stays = np.concatenate([consumer.others, *kept])
        inverse: Floats = np.asarray(np.linalg.inv(consumer.covariance[np.ix_(stays, stays)]), np.float64)
        crossing = consumer.covariance[stays]
        fit = inverse @ (crossing @ consumer.weights)
        residual = consumer.covariance - crossing.T @ inverse @ crossing
        missing = consumer.covariance @ consumer.weights - crossing.T @ fit
        return cls(consumer, stays, inverse, fit, residual, missing, float((consumer.weights * missing).sum()))

    def gain(self, channel: int) -> float:
        """Return what the error falls by if a channel stays that goes."""
        columns = self.consumer.columns[channel]
        if not columns.size:
            return 0.0
        missing = self.missing[columns]
        return float((missing * np.linalg.solve(self.residual[np.ix_(columns, columns)], missing)).sum())

    def loss(self, channel: int) -> float:
        """Return what the error rises by if a channel goes that stays."""
        columns = self.consumer.columns[channel]
        if not columns.size:
            return 0.0
        where = np.flatnonzero(np.isin(self.stays, columns))
        fit = self.fit[where]
        return float((fit * np.linalg.solve(self.inverse[np.ix_(where, where)], fit)).sum())


def swapped(grams: Sequence[ConsumerGram], keep: Bools) -> Bools:
    """Return which channels of a group stay, as many as before, (n,).

    Args:
        grams: Its consumers, the covariance of all taps each.
        keep: Which stay before, (n,); some go, and some do not.
    """
    found = [_Consumer.of(gram, keep.size) for gram in grams]
    consumers = [consumer for consumer in found if consumer is not None]
    if not consumers:
        return keep
    try:
        fitted = [_Fitted.of(each, keep) for each in consumers]
        for _ in range(MOST):
            other = _swap(consumers, fitted, keep)
            refitted = [_Fitted.of(each, other) for each in consumers]
            if not _error(refitted) < (1.0 - LEAST_GAIN) * _error(fitted):
                break
            keep, fitted = other, refitted
    except LinAlgError:
        # What is read has directions without any variance: what was found so far stands.
        pass
    return keep


def _error(fitted: Sequence[_Fitted]) -> float:
    return sum(each.error for each in fitted)


def _swap(consumers: Sequence[_Consumer], fitted: Sequence[_Fitted], keep: Bools) -> Bools:
    """Return which channels stay once the one of most gain takes the place of the one of least loss."""
    gone = np.flatnonzero(~keep).tolist()
    added = max(gone, key=lambda channel: sum(each.gain(channel) for each in fitted))
    more = keep.copy()
    more[added] = True
    wider = [_Fitted.of(each, more) for each in consumers]
    kept = np.flatnonzero(keep).tolist()
    more[min(kept, key=lambda channel: sum(each.loss(channel) for each in wider))] = False
    return more
