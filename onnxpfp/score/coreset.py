"""Coresets: how much a channel can contribute at worst, from the weights and what the layers can read.

Source: Mussay et al., "Data-Independent Neural Pruning via Coresets", ICLR 2020, called Coreset
below. A channel is a point p_j = [F_j; b_j] (its producer's weights and bias). For every input in
a ball of radius beta, its contribution to output o of a consumer is bounded by

    s_j = max_o ||W[o, j]||_1 phi(beta ||p_j||)

For a convolution, W[o, j] is a whole kernel slice; its l1 norm is what the bound needs, since at
one output pixel |<W[o, j], u>| <= ||W[o, j]||_1 max|u|. phi(beta ||p_j||) is the reach of a channel
(`onnxpfp.linear.reach`): it is found on the way from its producers to its consumers through whatever
activation, stream or scale lies between.

`--score coreset` are these s_j. With t = sum s and p = s / t the sampled variant draws from p and weights what it
drew by counts / (m p), and with z an output and zhat the same after pruning

    sum of the dropped s_j                      bounds |zhat - z| where channels stay as they are,
    t sqrt(2 ln(2 N / delta) / m)               does so for N outputs and m draws with probability 1 - delta

(Hoeffding's inequality: every term w_j a_j / p_j lies in [-t, t]; the paper's theorem has an unnamed constant.)

`--score coreset-share`, which `--score pfp` is where there are no data, is another form: an additive error means
nothing across layers, so each output is measured against its own worst case, share_oj = ||W[o, j]||_1 phi_j / sum_j'
||W[o, j']||_1 phi_j', and s_j is the largest share over outputs and consumers. For ReLU beta drops out of it. This is
PFP's sensitivity with the data replaced by the worst case; 0 <= s_j <= 1 and 1 <= S <= n, so the allocation of PFP
applies. Dropping a set of channels changes output o by at most its sum of s_j times the worst case of o. Drawing
channels in proportion to s_j gives Bernstein's inequality terms of both signs, of at most S Z / m and so within 2 S Z
/ m of their mean (Z the worst case): `CORESET_CONSTANT` stands where the bounds from data have K.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from onnxpfp.arrays import AnyFloats, Bools, Floats, chunks
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.group_data import GroupData

__all__ = [
    "CORESET_CONSTANT",
    "Coreset",
    "CoresetShare",
    "additive_bound",
    "coreset_sensitivities",
    "coreset_shares",
]

CORESET_CONSTANT = 2.0
"""What shares are multiplied by in bounds. It comes from the draws; channels that stay as they are would need 1."""


def coreset_sensitivities(reach: Floats, consumer_slices: Iterable[AnyFloats]) -> Floats:
    """Return s_j (Coreset): the most that each channel of a group can add to an output.

    Args:
        reach: What each channel can put out, (n,).
        consumer_slices: Weights (O, n, k) of each consumer, or of some of its outputs; Gemm has k = 1.

    Returns:
        (n,) float64, not negative.
    """
    largest = np.zeros(reach.shape, dtype=np.float64)
    for weights in consumer_slices:
        largest = np.maximum(largest, np.abs(weights.astype(np.float64)).sum(axis=2).max(axis=0, initial=0.0))
    return largest * reach


def additive_bound(s: Floats, sure: Bools, drawn: Bools, draws: float, n_outputs: int, delta: float) -> float:
    """Bound |zhat - z|: what channels that are dropped can add to an output, and what those can miss that are drawn.

    Args:
        s: Sensitivities, (n,).
        sure: Channels that stay as they are, (n,).
        drawn: Channels that could be drawn, (n,).
        draws: How many draws were made on these.
        n_outputs: Outputs N that the bound is to hold for at once.
        delta: Probability that it may fail over the draws.
    """
    dropped = float(s[~sure & ~drawn].sum())
    total = float(s[drawn].sum())
    if not total:
        return dropped
    return dropped + total * math.sqrt(2.0 * (math.log(2.0 * n_outputs) - math.log(delta)) / max(draws, 1.0))


def coreset_shares(reach: Floats, consumer_slices: Iterable[AnyFloats]) -> Floats:
    """Return the largest share that each channel of a group has of an output's worst case.

    Args:
        reach: What each channel can put out, (n,).
        consumer_slices: Weights (O, n, k) of each consumer, or of some of its outputs; Gemm has k = 1.

    Returns:
        (n,) float64 in [0, 1].
    """
    shares = np.zeros(reach.shape, dtype=np.float64)
    for weights in consumer_slices:
        worst = np.abs(weights.astype(np.float64)).sum(axis=2) * reach
        totals = worst.sum(axis=1, keepdims=True)
        worst = np.divide(worst, totals, out=np.zeros_like(worst), where=totals > 0.0)
        shares = np.maximum(shares, worst.max(axis=0, initial=0.0))
    return shares


class Coreset(Criterion):
    """The most that a channel can add to an output of a layer that reads it."""

    name, title = "coreset", "the most that a channel can add to an output (coresets)"
    needs = frozenset({"reach"})
    comparable = True

    def score(self, group: GroupData) -> Floats:
        """Return the largest over all consumers, (n,)."""
        assert group.reach is not None
        return coreset_sensitivities(group.reach, _slices(group))


class CoresetShare(Criterion):
    """The largest share of an output's worst case."""

    name, title = "coreset-share", "largest share of an output's worst case, by weights alone"
    needs = frozenset({"reach"})
    comparable = True

    def score(self, group: GroupData) -> Floats:
        """Return the largest over all consumers, (n,)."""
        assert group.reach is not None
        return coreset_shares(group.reach, _slices(group))


def _slices(group: GroupData) -> Iterator[Floats]:
    """Yield the consumers' absolute weights per channel, some outputs at a time, (O, n, k).

    What the indices of a channel feed is added up. A group without known weights counts as read equally.
    """
    known = [(consumer.weight(), consumer.positions) for consumer in group.consumers if consumer.weight is not None]
    for weights, positions in known:
        flat = weights.reshape(*weights.shape[:2], -1)
        for run in chunks(flat.shape[1], 8 * positions.size * flat.shape[2]):
            part = np.abs(flat[:, run][positions].astype(np.float64)).sum(axis=1)
            yield np.ascontiguousarray(part.swapaxes(0, 1))
    if not known:
        yield np.ones((1, group.size, 1))
