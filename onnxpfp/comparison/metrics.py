"""Metrics: how far outputs are from the original's, as one number. Pure numpy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Arrays, Floats
from onnxpfp.comparison.finite import TINY, Gap, squared_size

__all__ = ["divergence", "log_probabilities", "looks_like_classes", "squared_sizes", "top_probabilities"]


CLASSES = 2
"""Fewest columns of an output that looks like class scores."""
FLOOR = 1e-12
"""Smallest probability that a logarithm is taken of."""
LARGEST = 1e30
"""What stands for infinite scores, below zero: far enough to have no probability, and near enough to be subtracted."""


def looks_like_classes(array: NDArray[Any]) -> bool:
    """A float matrix of at least two columns."""
    return array.ndim == 2 and array.dtype.kind == "f" and array.shape[1] >= CLASSES


def squared_sizes(outputs: Sequence[Arrays]) -> list[dict[str, float]]:
    """Return the sums of squares of float outputs, by batch and name: what many networks are compared with."""
    return [{name: squared_size(a) for name, a in batch.items() if a.dtype.kind == "f"} for batch in outputs]


def divergence(
    wanted: Sequence[Arrays],
    given: Sequence[Arrays],
    temperature: float = 1.0,
    rows: Collection[str] = (),
    sizes: Sequence[Mapping[str, float]] | None = None,
) -> float:
    """Return how far outputs drifted, the sum over all float outputs.

    Class scores count by the mean KL divergence of their softmax (of themselves where they are probabilities already),
    everything else by ||a - b||^2 / ||a||^2. Where a network has only whole numbers to show, the share of them that
    changed counts. Outputs of another shape, as detectors have them, are as far off as if they were missing.

    Args:
        wanted: Outputs of the original, by batch.
        given: Outputs of the other network on the same batches.
        temperature: What class scores are divided by, in logarithms; the divergence is multiplied by its square. A
            network that is sure of itself gives next to no divergence at 1, whatever becomes of its scores.
        rows: Outputs that have a row for each of what was found, and so no scores of samples.
        sizes: What `squared_sizes` gives of the wanted outputs, where that is known.
    """
    total, floats = 0.0, [name for name in wanted[0] if wanted[0][name].dtype.kind == "f"]
    for name in floats:
        pairs = [(a[name], b[name]) for a, b in zip(wanted, given, strict=True)]
        alike = all(a.shape == b.shape for a, b in pairs)
        classes = alike and name not in rows and looks_like_classes(pairs[0][0]) and any(a.size for a, _ in pairs)
        known = [None] * len(wanted) if sizes is None else [batch[name] for batch in sizes]
        total += _of_classes(pairs, temperature) if classes else _relative(pairs, known)
    if floats:
        return total
    return sum(
        _changed([(a[name], b[name]) for a, b in zip(wanted, given, strict=True)])
        for name in wanted[0]
        if wanted[0][name].dtype.kind in "iub"
    )


def top_probabilities(scores: NDArray[Any]) -> Floats:
    """Return the probability of the largest class of every sample, (N,), by the softmax of logits.

    Args:
        scores: Class scores, (N, C): logits, or probabilities.
    """
    return np.exp(log_probabilities(scores.astype(np.float64)).max(axis=1, initial=-LARGEST))


def log_probabilities(scores: Floats) -> Floats:
    """Return the logarithms of the probabilities of all classes, (N, C), of logits or probabilities."""
    return _softened(_logs(scores), 1.0)


def _of_classes(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], temperature: float) -> float:
    """Return the mean KL divergence of class scores.

    A sample of which only one has NaN or +inf is as far off as a guess among the classes is from certainty.
    """
    a, b = (np.concatenate(parts).astype(np.float64) for parts in zip(*pairs, strict=True))
    alike = ((np.isnan(a) == np.isnan(b)) & (np.isposinf(a) == np.isposinf(b))).all(1)
    logs, others = _logs(a[alike]), _logs(b[alike])
    # What the other rules out has the smallest probability, so that the divergence is a number.
    floor = others.max(axis=1, keepdims=True, initial=-LARGEST) + np.log(FLOOR)
    others = np.where((logs > -LARGEST) & (others == -LARGEST), floor, others)
    p, q = _softened(logs, temperature), _softened(others, temperature)
    divergences = np.full(len(a), np.log(a.shape[1]))
    divergences[alike] = (np.exp(p) * (p - q)).sum(1)
    return temperature**2 * float(divergences.mean())


def _relative(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], sizes: Sequence[float | None]) -> float:
    """Return ||a - b||^2 / ||a||^2, given the ||a||^2 that are known."""
    gap = sum((Gap.between(a, b, size) for (a, b), size in zip(pairs, sizes, strict=True)), Gap())
    finite = gap.square / gap.size if gap.size > TINY else float(gap.square > TINY)
    return finite + gap.share_unlike


def _changed(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float:
    """Return the share of numbers that changed."""
    count = sum(a.size for a, _ in pairs)
    changed = sum(int((a != b).sum()) if a.shape == b.shape else a.size for a, b in pairs)
    return changed / max(1, count)


def _softened(logs: Floats, temperature: float) -> Floats:
    """Return log probabilities at a temperature."""
    scaled = logs / temperature
    shifted = scaled - scaled.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _logs(scores: Floats) -> Floats:
    """Return class scores as logarithms, up to a constant of each sample; what is not finite has no probability.

    +inf would have all of it, and hide the others.
    """
    known = ~np.isnan(scores)
    whole = np.where(known, scores, 0.0)[known.any(1)]
    if (whole >= 0).all() and np.allclose(whole.sum(1), 1.0, atol=1e-3):
        scores = np.log(np.maximum(scores, FLOOR))
    return np.nan_to_num(scores, nan=-LARGEST, posinf=-LARGEST, neginf=-LARGEST)
