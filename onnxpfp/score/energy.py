"""Energy: the share of its consumers' output energy that a channel carries on average.

    e_c = sum over consumers of  ||W[:, c]||^2 E[a_c^2]  /  sum over c' of ||W[:, c']||^2 E[a_c'^2]

W[:, c] are all weights of the consumer that read channel c. It is the diagonal of the optimal-brain-surgeon
score (algorithms.md, sections 4.3 and 7.6): the expected squared error of dropping the channel, if channels
were uncorrelated, relative to the consumer's output. PFP's sensitivity is the largest share that a channel
ever takes anywhere; it saturates at 1 on small networks and then tells channels apart no longer. The energy is
the mean instead of the maximum, so it comes without a bound for unseen inputs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import chunks

__all__ = ["energy_shares"]

Floats = NDArray[np.float64]


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
