"""ThiNet: greedily remove the channels whose contributions to the consumer's output cancel or are small.

Source: Luo et al., "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression", ICCV 2017.
With the contribution xhat_j of channel j to an output at a sampled point, the removed set T minimises

    sum over points of (sum_{j in T} xhat_j)^2 = 1_T^T Q 1_T,   Q_ij = <W_i^T W_j, G_ij>

(G_ij are the blocks of the Gram matrix of the columns). The paper samples some outputs at each point; Q has all of
them, without ever computing one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyFloats, Floats, chunks
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.group_data import GroupData

__all__ = ["Contributions", "ThiNet", "contribution_gram", "removal_order", "removal_ranks"]


@dataclass(slots=True, eq=False)
class Contributions:
    """Q of one consumer, summed over batches.

    Points wait until there are as many as the consumer has outputs: then both factors of Q cost about the same, and
    what waits is about as large as the weights.

    Attributes:
        taps: Returns the weights V (C, O/g, *kernel).
        channels: C.
        outputs: O/g.
        group: Number of convolution groups g.
    """

    taps: Callable[[], AnyFloats]
    channels: int
    outputs: int
    group: int = 1
    _gram: Floats = field(init=False)
    _waiting: list[AnyFloats] = field(default_factory=list[AnyFloats], init=False)

    def __post_init__(self) -> None:
        self._gram = np.zeros((self.channels, self.channels))

    def add(self, columns: AnyFloats) -> None:
        """Count the unfolded input at some points in, (T, C, k)."""
        self._waiting.append(columns)
        if sum(map(len, self._waiting)) >= self.outputs:
            self._settle()

    def gram(self) -> Floats:
        """Return Q of all points so far, (C, C)."""
        self._settle()
        return self._gram

    def _settle(self) -> None:
        if self._waiting:
            self._gram += contribution_gram(np.concatenate(self._waiting), self.taps(), self.group)
            self._waiting.clear()


def contribution_gram(columns: AnyFloats, taps: AnyFloats, group: int = 1) -> Floats:
    """Return Q, summed over the points and all outputs, (C, C) float64; it adds up over batches.

    Computed tap by tap, Q = sum over taps a, b of (V_a V_b^T) * (U_a^T U_b), which needs no more than (C, C) at once.

    Args:
        columns: Unfolded input at the points, U (T, C, k).
        taps: Weights of the consumer, V (C, O/g, *kernel) with k taps.
        group: Number of convolution groups g; channels of different ones share no output.
    """
    channels, size = columns.shape[1:]
    flat = taps.reshape(*taps.shape[:2], size)
    each = channels // group
    gram = np.zeros((channels, channels))
    for start in range(0, channels, each):
        own = slice(start, start + each)
        u, v, block = columns[:, own], flat[own], gram[own, own]
        for a, b in _pairs(size):
            product = _product(v[..., a].T, v[..., b].T) * _product(u[..., a], u[..., b])
            block += product if a == b else product + product.T
    return gram


def _pairs(size: int) -> Iterator[tuple[int, int]]:
    return ((a, b) for a in range(size) for b in range(a, size))


def _product(one: AnyFloats, two: AnyFloats) -> Floats:
    """Return one^T two in float64, (C, C), of matrices (T, C), some rows at a time."""
    total = np.zeros((one.shape[1], two.shape[1]))
    for run in chunks(len(one), 16 * one.shape[1]):
        total += one[run].T.astype(np.float64) @ two[run].astype(np.float64)
    return total


def removal_order(gram: Floats) -> NDArray[np.int64]:
    """Return the channels in the order in which the greedy search removes them, (n,); ties go to the lower index.

    Args:
        gram: Q (n, n).
    """
    added = np.diag(gram).copy()
    order = np.zeros(len(gram), np.int64)
    for position in range(len(gram)):
        chosen = int(np.argmin(added))
        order[position] = chosen
        # What each other channel would add to 1_T^T Q 1_T from now on.
        added += 2.0 * gram[chosen]
        added[chosen] = np.inf
    return order


def removal_ranks(gram: Floats) -> Floats:
    """Return when each channel goes, (n,): 0 for the first one."""
    ranks = np.zeros(len(gram))
    ranks[removal_order(gram)] = np.arange(len(gram))
    return ranks


class ThiNet(Criterion):
    """The step at which the greedy search removes a channel, by the consumers' Q, each relative to its trace."""

    name, title = "thinet", "order of a greedy removal (ThiNet)"
    needs = frozenset({"contributions"})

    def score(self, group: GroupData) -> Floats:
        """Add up the consumers' matrices and rank by their sum."""
        size = group.size
        together = np.zeros((size, size))
        for consumer in group.consumers:
            gram, where = consumer.contributions, consumer.positions
            assert gram is not None
            part = gram[np.ix_(where.ravel(), where.ravel())].reshape(size, where.shape[1], size, where.shape[1])
            trace = float(np.trace(gram))
            together += part.sum(axis=(1, 3)) / trace if trace > 0.0 else 0.0
        return removal_ranks(together)
