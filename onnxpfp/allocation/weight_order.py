"""The order in which single weights of a network go: by magnitude or at random (arXiv 2103.06002), or by SiPP."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxpfp.arrays import AnyFloats, Bools, Floats32, Ints

__all__ = ["at_random", "by_magnitude", "by_sensitivity", "kept_counts", "masks"]


def by_magnitude(weights: Sequence[AnyFloats]) -> Ints:
    """Return the positions of all weights, the largest magnitude first; equal ones in the order of the network, (n,).

    Args:
        weights: The weights, tensor by tensor: positions count through all of them.
    """
    magnitudes = np.concatenate([np.abs(each.ravel().astype(np.float64)) for each in weights])
    return np.argsort(-magnitudes, kind="stable")


def by_sensitivity(weights: Sequence[AnyFloats], shares: Sequence[Floats32 | None]) -> Ints:
    """Return the positions of all weights, the largest sensitivity first; equal ones in the order of the network, (n,).

    That is the order in which SiPP's deterministic selection takes weights (arXiv 1910.05422).

    Args:
        weights: The weights, tensor by tensor.
        shares: Their sensitivities in [0, 1], in their shapes; None for tensors that have none, which come first.
    """
    known = [
        np.full(each.size, np.inf, np.float32) if some is None else some.ravel()
        for each, some in zip(weights, shares, strict=True)
    ]
    return np.argsort(-np.concatenate(known), kind="stable")


def at_random(weights: Sequence[AnyFloats], rng: np.random.Generator) -> Ints:
    """Return the positions of all weights in a random order, (n,)."""
    return rng.permutation(sum(each.size for each in weights))


def masks(weights: Sequence[AnyFloats], order: Ints, kept: int) -> list[Bools]:
    """Return which weights stay, in the shapes of the tensors: the first `kept` of an order, so masks are nested."""
    flat = np.zeros(order.size, np.bool_)
    flat[order[:kept]] = True
    ends = np.cumsum([each.size for each in weights])[:-1]
    return [part.reshape(each.shape) for part, each in zip(np.split(flat, ends), weights, strict=True)]


def kept_counts(total: int, shares: Sequence[float]) -> list[int]:
    """Return how many of all weights are kept at shares, descending, each number once: as many as fit into a share."""
    counts = {int(share * total + 1e-9) for share in shares}
    return sorted(counts, reverse=True)
