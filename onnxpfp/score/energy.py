"""Energy: the share of its consumers' output energy that a channel carries on average.

    e_c = sum over consumers of  ||W[:, c]||^2 E[a_c^2]  /  sum over c' of ||W[:, c']||^2 E[a_c'^2]

W[:, c] are all weights of the consumer that read channel c. It is the diagonal of the optimal-brain-surgeon
score (`onnxpfp.score.reconstruction`): the expected squared error of dropping the channel, if channels
were uncorrelated, relative to the consumer's output. PFP's sensitivity is the largest share that a channel
ever takes anywhere; it saturates at 1 on small networks and then tells channels apart no longer. The energy is
the mean instead of the maximum, so it comes without a bound for unseen inputs.

Wanda (Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024) scores one weight by
|W_oc| ||x_c||_2. Here it scores all weights that read channel c together, s_c = ||W[:, c]||_2 sqrt(sum x_c^2). That is
the square root of the energy, so one consumer ranks its channels the same way; several consumers add up differently.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats, chunks
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.group_data import ConsumerData, GroupData

__all__ = ["Energy", "Wanda", "energy_shares", "wanda_shares"]


def energy_shares(weights: NDArray[np.floating], square_sum: Floats) -> Floats:
    """Return the share of a consumer's output energy that comes through each index it contracts.

    Args:
        weights: The weights from each index, (C, ...); ones where both operands are activations.
        square_sum: Sum of the squared input of each index, (C,).

    Returns:
        (C,) float64 that sum to 1, or zeros where nothing comes through.
    """
    gain = np.zeros(len(square_sum))
    for run in chunks(len(weights), 8 * weights.size // len(weights)):
        squares = np.square(weights[run].astype(np.float64))
        gain[run] = squares.reshape(len(squares), -1).sum(axis=1)
    energy = gain * square_sum
    total = float(energy.sum())
    return energy / total if total > 0.0 else np.zeros_like(energy)


def wanda_shares(weights: NDArray[np.floating], square_sum: Floats) -> Floats:
    """Return the Wanda score of each index that a consumer contracts, as a share of the consumer's sum.

    Args:
        weights: The weights from each index, (C, ...); ones where both operands are activations.
        square_sum: Sum of the squared input of each index, (C,).

    Returns:
        (C,) float64 that sum to 1, or zeros where nothing comes through.
    """
    # The energy's own denominator drops out.
    products = np.sqrt(energy_shares(weights, square_sum))
    total = float(products.sum())
    return products / total if total > 0.0 else products


def _shares(shares: Callable[[NDArray[np.floating], Floats], Floats], consumer: ConsumerData) -> Floats:
    squares = consumer.square_sum
    assert squares is not None
    return consumer.once(shares.__name__, lambda: shares(consumer.weights(), squares))


class Energy(Criterion):
    """The mean share of the consumers' output energy."""

    name, title = "energy", "mean share of the consumers' output energy, measured on the data"
    needs = frozenset({"squares"})
    comparable = True

    def score(self, group: GroupData) -> Floats:
        """Add up the shares of every consumer."""
        return group.sum_over_consumers(_shares(energy_shares, consumer) for consumer in group.consumers)


class Wanda(Criterion):
    """The norm of the weights times the norm of the data that they are multiplied by."""

    name, title = "wanda", "norm of the weights times norm of the data (Wanda)"
    needs = frozenset({"squares"})
    comparable = True

    def score(self, group: GroupData) -> Floats:
        """Add up the shares of every consumer."""
        return group.sum_over_consumers(_shares(wanda_shares, consumer) for consumer in group.consumers)
