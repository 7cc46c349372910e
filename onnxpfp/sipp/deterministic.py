"""SiPP, deterministic: the weights with the largest sensitivities of the whole network stay as they are.

Sensitivities are shares of sums, so those of different layers compare as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxpfp.arrays import Bools, Floats32, Ints
from onnxpfp.sipp.bounds import bound_of_dropped
from onnxpfp.sipp.layer import LayerChoice, LayerWeights

__all__ = ["kept_as_they_are", "largest", "select_deterministic"]

_NONE = np.zeros(0, np.float32)


def select_deterministic(layers: Sequence[LayerWeights], budget: int) -> list[LayerChoice]:
    """Keep as many weights as the budget has, those with the largest sensitivities; among equals the largest ones.

    Args:
        layers: The layers.
        budget: How many weights may stay in all of them together.

    Returns:
        The choices; exactly the budget stays, or every weight that is not zero.
    """
    keep = largest(layers, budget)
    return [kept_as_they_are(layer, stay) for layer, stay in zip(layers, keep, strict=True)]


def kept_as_they_are(layer: LayerWeights, keep: Bools) -> LayerChoice:
    """Return the choice of weights that stay as they are."""
    dropped = np.bincount(layer.parts, np.where(keep, 0, layer.shares), minlength=2 * layer.count)
    return LayerChoice(keep.astype(np.float64), bound_of_dropped(dropped), np.zeros(2 * layer.count, np.bool_))


def largest(layers: Sequence[LayerWeights], budget: int) -> list[Bools]:
    """Return which weights have the largest sensitivities over all layers, (n,) per layer."""
    there = [layer.weights != 0 for layer in layers]
    shares = np.concatenate([layer.shares[some] for layer, some in zip(layers, there, strict=True)] or [_NONE])
    if budget >= len(shares):
        return there
    picked = np.zeros(len(shares), np.bool_)
    if budget > 0:
        least = np.partition(shares, len(shares) - budget)[len(shares) - budget]
        picked = shares > least
        sizes = np.concatenate([np.abs(layer.weights[some]) for layer, some in zip(layers, there, strict=True)])
        picked[_heaviest(np.flatnonzero(shares == least), sizes, budget - int(picked.sum()))] = True
    keep: list[Bools] = []
    first = 0
    for some in there:
        stay = np.zeros(len(some), np.bool_)
        stay[some] = picked[first : first + int(some.sum())]
        first += int(some.sum())
        keep.append(stay)
    return keep


def _heaviest(places: Ints, sizes: Floats32, count: int) -> Ints:
    """Return the places of the largest sizes, the first ones of equals."""
    return places[np.argsort(-sizes[places], kind="stable")[:count]]
