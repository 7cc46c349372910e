"""Wanda: the norm of the weights times the norm of the data that they are multiplied by.

Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024: |W_oc| ||x_c||_2
scores one weight. Here it scores all weights that read channel c together:

    s_c = ||W[:, c]||_2 sqrt(sum x_c^2)

It is the square root of the energy (`onnxpfp.score.energy`), so one consumer ranks its channels the same way; several
consumers add up differently.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxpfp.score.energy import energy_shares

__all__ = ["wanda_shares"]

Floats = NDArray[np.float64]


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
