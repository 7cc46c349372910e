"""How far outputs are from the original's, as one number. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["divergence", "looks_like_classes"]

Floats = NDArray[np.float64]
Outputs = Mapping[str, NDArray[Any]]

CLASSES = 2
"""Fewest columns of an output that looks like class scores."""
TINY = float(np.finfo(np.float64).tiny)
FLOOR = 1e-12
"""Smallest probability that a logarithm is taken of."""


def looks_like_classes(array: NDArray[Any]) -> bool:
    """A float matrix of at least two columns."""
    return array.ndim == 2 and array.dtype.kind == "f" and array.shape[1] >= CLASSES


def divergence(wanted: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """Return how far outputs drifted, the sum over all float outputs.

    Class scores count by the mean KL divergence of their softmax (of themselves where they are probabilities already),
    everything else by ||a - b||^2 / ||a||^2.

    Args:
        wanted: Outputs of the original, by batch.
        found: Outputs of the other network on the same batches.
    """
    total = 0.0
    for name in wanted[0]:
        arrays = [values[name] for values in wanted]
        if arrays[0].dtype.kind != "f":
            continue
        others = [values[name] for values in found]
        if looks_like_classes(arrays[0]):
            a, b = (np.concatenate(parts).astype(np.float64) for parts in (arrays, others))
            total += float((np.exp(p := _logs(a)) * (p - _logs(b))).sum(1).mean())
            continue
        gap = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(arrays, others, strict=True))
        total += gap / max(sum(float(np.square(a.astype(np.float64)).sum()) for a in arrays), TINY)
    return total


def _logs(scores: Floats) -> Floats:
    """Return log probabilities of class scores."""
    if (scores >= 0).all() and np.allclose(scores.sum(1), 1.0, atol=1e-3):
        return np.log(np.maximum(scores, FLOOR))
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
