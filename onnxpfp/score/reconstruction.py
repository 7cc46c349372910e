"""Reconstruction: how much worse a group's consumers become, refitted, when a channel goes.

For a consumer y = W u with Gram matrix H = cov(u, u) + lambda I, and c the columns of one channel, the least-squares
error that its removal adds, with all other weights refitted, is (optimal brain surgeon for groups, as in OBC, OSSCAR
and ZipLM)

    e_c = sum over outputs o of  W[o, c] ([H^-1]_cc)^-1 W[o, c]^T

The channel with the smallest sum over its group's consumers goes, and weights and inverse are brought up to date:

    W    -= W[:, c] ([H^-1]_cc)^-1 [H^-1]_c:
    H^-1 -= [H^-1]_:c ([H^-1]_cc)^-1 [H^-1]_c:

Removing one by one so is exact: W is the least-squares refit on what is left, always. Every consumer's errors are
shares of the variance of its output, so that consumers can be added up.

The same updates hold on any part of the columns. So wide groups lose several channels a step, which are found one by
one among the cheapest: of two channels that can stand in for each other only one is cheap once the other went.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats, Ints
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.energy import Energy
from onnxpfp.score.group_data import ConsumerGram, GroupData

__all__ = ["Reconstruction", "removal_costs"]


SCORE_RIDGE = 1e-3
"""Share of the mean of diag G that is added to the diagonal of every consumer's Gram matrix; the value of GRAIL.

It keeps H invertible where channels repeat each other; the larger it is, the more the costs tend to weight norms.
"""
STEPS = 128
"""Most steps in which a group is taken down; wide groups lose several channels a step."""
POOL = 4
"""Channels that are looked at for every one that goes in a step."""


@dataclass(slots=True, eq=False)
class _State:
    """One linear op while channels go.

    Attributes:
        inverse: H^-1, (n, n); rows and columns of what went are zero.
        weights: Refitted weights, (o, n).
        blocks: Columns of every channel of the group, in (members, width) tables by width.
        variance: Variance of its output, summed.
    """

    inverse: Floats
    weights: Floats
    blocks: list[tuple[Ints, Ints]]
    variance: float

    @classmethod
    def of(cls, gram: ConsumerGram, ridge: float) -> _State:
        n = len(gram.covariance)
        taps = gram.weights.shape[1] // n
        weights = gram.weights.reshape(-1, n, taps).swapaxes(1, 2).reshape(-1, n)
        channel = gram.channel[::taps]
        scale = float(np.trace(gram.covariance)) / n
        damped = gram.covariance + (ridge * scale if scale > 0 else 1.0) * np.eye(n)
        variance = float(((weights @ gram.covariance) * weights).sum())
        return cls(np.linalg.inv(damped).astype(np.float64), weights.copy(), _tables(channel), variance)

    def costs(self, count: int) -> Floats:
        """Return the error that every channel's removal adds, (count,), as a share of the output's variance."""
        costs = np.zeros(count)
        if self.variance <= 0.0:
            return costs
        for members, table in self.blocks:
            inner = self.inverse[table[:, :, None], table[:, None, :]]
            weights = self.weights[:, table].transpose(1, 2, 0)
            solved = _solve(inner, weights)
            costs[members] += np.einsum("mko,mko->m", weights, solved) / self.variance
        return costs

    def part(self, channels: Ints) -> _State:
        """Return what concerns some channels alone."""
        blocks = [
            (members[inside], table[inside])
            for members, table in self.blocks
            if (inside := np.isin(members, channels)).any()
        ]
        columns = np.concatenate([*(table.ravel() for _, table in blocks), np.empty(0, np.int64)])
        index = np.zeros(len(self.inverse), np.int64)
        index[columns] = np.arange(columns.size)
        inverse, weights = self.inverse[np.ix_(columns, columns)], self.weights[:, columns]
        return _State(inverse, weights, [(members, index[table]) for members, table in blocks], self.variance)

    def remove(self, channels: Ints) -> None:
        """Take channels out and refit the rest."""
        taken = [table[np.isin(members, channels)].ravel() for members, table in self.blocks]
        columns = np.concatenate([*taken, np.empty(0, np.int64)])
        if not columns.size:
            return
        rows = self.inverse[columns]
        factor = _solve(rows[:, columns][None], rows[None])[0]
        self.weights -= self.weights[:, columns] @ factor
        self.inverse -= rows.T @ factor
        self.weights[:, columns] = 0.0
        self.inverse[columns] = 0.0
        self.inverse[:, columns] = 0.0
        self.blocks = [
            (members[stay], table[stay])
            for members, table in self.blocks
            if (stay := ~np.isin(members, channels)).any()
        ]


def _tables(channel: Ints) -> list[tuple[Ints, Ints]]:
    """List the columns of every channel, channels with equally many together."""
    order = np.argsort(channel, kind="stable")
    order = order[channel[order] >= 0]
    members, counts = np.unique(channel[order], return_counts=True)
    parts = np.split(order, np.cumsum(counts)[:-1])
    return [
        (members[counts == width], np.stack([part for part in parts if part.size == width]))
        for width in np.unique(counts).tolist()
    ]


def _solve(matrices: Floats, right: Floats) -> Floats:
    """Solve stacks of small positive definite systems; what rounding made singular is damped."""
    size = matrices.shape[-1]
    largest = np.einsum("mkk->mk", matrices).max(axis=1, initial=0.0)
    damped = matrices + (1e-12 * largest + 1e-300)[:, None, None] * np.eye(size)
    return np.asarray(np.linalg.solve(damped, right), dtype=np.float64)


def removal_costs(grams: Sequence[ConsumerGram], count: int, ridge: float = SCORE_RIDGE) -> Floats:
    """Take a group down channel by channel.

    Args:
        grams: Its consumers.
        count: Channels of the group.
        ridge: Share of the mean of diag G that is added to the diagonal.

    Returns:
        What the removal of each channel added to the error when it went, (count,): rising in the order in which the
        channels went, so that the n largest are what is left at width n.
    """
    states = [_State.of(gram, ridge) for gram in grams]
    values = np.zeros(count)
    alive = np.ones(count, np.bool_)
    at_once = -(-count // STEPS)
    floor = 0.0
    while alive.any():
        gone, costs = _cheapest(states, alive, min(at_once, int(alive.sum())))
        for channel, cost in zip(gone.tolist(), costs, strict=True):
            # Strictly rising, so that ties cannot bring another order about.
            floor = max(cost, np.nextafter(floor * (1 + 1e-9), np.inf))
            values[channel] = floor
        alive[gone] = False
        for state in states:
            state.remove(gone)
    return values


def _cheapest(states: Sequence[_State], alive: NDArray[np.bool_], wanted: int) -> tuple[Ints, list[float]]:
    """Find channels that go next, one by one among the cheapest, and what each costs when its turn comes."""
    costs = _costs(states, alive)
    pool = np.argsort(costs, kind="stable")[: POOL * wanted]
    pool = pool[alive[pool]]
    if wanted == 1:
        return pool[:1], [float(costs[pool[0]])]
    small = [state.part(pool) for state in states]
    left = np.zeros_like(alive)
    left[pool] = True
    gone: list[int] = []
    spent: list[float] = []
    for _ in range(wanted):
        costs = _costs(small, left)
        gone.append(int(costs.argmin()))
        spent.append(float(costs[gone[-1]]))
        left[gone[-1]] = False
        for state in small:
            state.remove(np.array(gone[-1:], np.int64))
    return np.array(gone, np.int64), spent


def _costs(states: Sequence[_State], alive: NDArray[np.bool_]) -> Floats:
    """Add the costs of all consumers up; what is gone already is infinite."""
    total = np.zeros(alive.size)
    for state in states:
        total += state.costs(alive.size)
    return np.where(alive, total, np.inf)


class Reconstruction(Criterion):
    """The error that the removal of a channel adds to its consumers after their refit."""

    name, title = "reconstruction", "error of the refitted consumers (optimal brain surgeon)"
    needs = frozenset({"gram", "squares"})
    comparable = True

    def score(self, group: GroupData) -> Floats:
        """Return the costs; a group without any consumer that can be refitted is ranked by energy."""
        return removal_costs(group.consumer_grams, group.size) if group.consumer_grams else Energy().score(group)
