"""SiPP, hybrid: every part keeps its most sensitive weights, or is drawn from, whatever has the smaller bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxpfp.arrays import Bools, Floats, Ints
from onnxpfp.score.pfp import K
from onnxpfp.sipp.allocation import whole_draws
from onnxpfp.sipp.bounds import bound_of_draws
from onnxpfp.sipp.layer import LayerChoice, LayerWeights, Parts
from onnxpfp.sipp.sampled import allocated, drawn_choices

__all__ = ["select_hybrid"]


def select_hybrid(layers: Sequence[LayerWeights], budget: int, rng: np.random.Generator) -> list[LayerChoice]:
    """Choose the weights of all layers; m of every part is that of the sampled form.

    A part keeps its m largest sensitivities where K times the sum of the others is at most eps(m), else it is drawn
    from.

    Args:
        layers: The layers.
        budget: How many weights may stay in all of them together.
        rng: Decides the draws.

    Returns:
        The choices; no more than the budget stays.
    """
    parts = Parts.of(layers)
    allocation = allocated(parts, budget, lambda draws: _sampled(layers, parts, draws))
    return drawn_choices(layers, parts, allocation, budget, rng)


def _sampled(layers: Sequence[LayerWeights], parts: Parts, draws: Floats) -> Bools:
    """Return which parts have a smaller bound drawn than kept, (parts,)."""
    dropped = _dropped(layers, whole_draws(draws, parts.counts))
    # As in the paper, K times the sum counts as it is, although no error of what is kept is above 1.
    return parts.live & (K * dropped > bound_of_draws(parts.totals, draws, parts.log_terms))


def _dropped(layers: Sequence[LayerWeights], most: Ints) -> Floats:
    """Return the sum of the sensitivities that go where every part keeps so many of the largest, (parts,)."""
    sums: list[Floats] = []
    first = 0
    for layer in layers:
        mine = most[first : first + 2 * layer.count]
        first += 2 * layer.count
        order = np.lexsort((-layer.shares, layer.parts))
        parts = layer.parts[order]
        rank = np.arange(len(parts)) - np.searchsorted(parts, parts)
        gone = np.where(rank < mine[parts], 0.0, layer.shares[order])
        sums.append(np.bincount(parts, gone, minlength=2 * layer.count).astype(np.float64))
    return np.concatenate([*sums, np.zeros(0)])
