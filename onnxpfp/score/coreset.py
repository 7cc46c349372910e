"""Coreset scores: how much a channel can contribute at worst, from the weights alone.

Source: Mussay et al., "Data-Independent Neural Pruning via Coresets", ICLR 2020, called Coreset
below. A channel is a point p_j = [F_j; b_j] (its producer's weights and bias). For every input in
a ball of radius beta, its contribution to output o of a consumer is bounded by

    s_j = max_o ||W[o, j]||_1 * phi(beta * ||p_j||)

For a convolution, W[o, j] is a whole kernel slice; its l1 norm is what the bound needs, since at
one output pixel |<W[o, j], u>| <= ||W[o, j]||_1 max|u|. phi is ReLU here, for which beta drops out
of the shares:

An additive error means nothing across layers, so each output is measured against its own worst
case: share_oj = ||W[o, j]||_1 phi_j / sum_j' ||W[o, j']||_1 phi_j', and s_j is the largest share
over outputs and consumers. This is PFP's sensitivity with the data replaced by the worst case;
0 <= s_j <= 1 and 1 <= S <= n, so the allocation of PFP applies. Dropping a set of channels changes
output o by at most its sum of s_j times the worst case of o.

What a channel can reach is found on the way from its producers to its consumers (`onnxpfp.linear.reach`): producers
whose outputs are added (a residual stream) add up, and so does whatever else is added. Drawing channels in
proportion to s_j gives Bernstein's inequality terms of both signs, of at most S Z / m and so within 2 S Z / m of their
mean (Z the worst case): `CORESET_CONSTANT` stands where the bounds from data have K.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyFloats, Floats, Ids, chunks

__all__ = ["CORESET_CONSTANT", "ConsumerSlices", "coreset_scores", "scores_without_data"]

CORESET_CONSTANT = 2.0
"""What shares are multiplied by in bounds. It comes from the draws; channels that stay as they are would need 1."""


class ConsumerSlices(Protocol):
    """The weights of a consumer that contract channels."""

    @property
    def channels(self) -> Ids:
        """Channel id of every index of the contracted axis, (C,)."""
        ...

    @property
    def weight(self) -> object | None:
        """The weight, or None where both operands are activations."""
        ...

    def taps(self) -> NDArray[np.floating]:
        """The weight in its canonical form (C, O/g, *kernel)."""
        ...


def coreset_scores(reach: Floats, consumer_slices: Iterable[AnyFloats]) -> Floats:
    """Score the channels of one group.

    Args:
        reach: What each channel can put out, (n,).
        consumer_slices: Weights (O, n, k) of each consumer, or of some of its outputs; Gemm has k = 1.

    Returns:
        (n,) float64, not negative.
    """
    scores = np.zeros(reach.shape, dtype=np.float64)
    for weights in consumer_slices:
        worst = np.abs(weights.astype(np.float64)).sum(axis=2) * reach
        totals = worst.sum(axis=1, keepdims=True)
        worst = np.divide(worst, totals, out=np.zeros_like(worst), where=totals > 0.0)
        scores = np.maximum(scores, worst.max(axis=0, initial=0.0))
    return scores


def _slices(channels: Ids, reads: ConsumerSlices) -> Iterator[Floats]:
    """Yield a consumer's absolute weights per channel of the group, some outputs at a time, (O, n, k)."""
    taps = reads.taps()
    where = np.flatnonzero(np.isin(reads.channels, channels))
    order = np.searchsorted(channels, reads.channels[where])
    outputs = taps.shape[1]
    for run in chunks(outputs, 8 * taps.size // outputs):
        part = np.abs(taps[:, run].astype(np.float64, order="C"))
        part = part.reshape(*part.shape[:2], -1)
        out = np.zeros((channels.size, *part.shape[1:]))
        for index, place in zip(where, order, strict=True):
            out[place] += part[index]
        yield np.ascontiguousarray(out.swapaxes(0, 1))


def scores_without_data(count: int, groups: Sequence[tuple[Ids, Sequence[ConsumerSlices]]], reach: Floats) -> Floats:
    """Score every channel by weights alone. A group without known consumers counts as read equally.

    Args:
        count: Number of channels.
        groups: Channel ids and consumers of every group.
        reach: What each channel can put out, by channel id, (count + 1,).

    Returns:
        Score by channel id, (count + 1,) float64; entry 0 is 0.
    """
    values = np.zeros(count + 1)
    for channels, reads in groups:
        constant = [r for r in reads if r.weight is not None]
        known = (part for r in constant for part in _slices(channels, r))
        known = known if constant else [np.ones((1, channels.size, 1))]
        values[channels] = coreset_scores(reach[channels], known)
    return values
