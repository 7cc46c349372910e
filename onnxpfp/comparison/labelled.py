"""The loss against labels: the cross-entropy of class scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.arrays import Floats, Ints
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.comparison.metrics import log_probabilities
from onnxpfp.counted import counted
from onnxpfp.errors import ModelError, OptionError

__all__ = ["LabelledEvaluator", "cross_entropies"]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledEvaluator:
    """Measures the mean cross-entropy of a model's class scores.

    Attributes:
        evaluator: Runs models on the samples.
        labels: The class of each of these, (N,).
        output: The output that has the scores.
    """

    evaluator: Evaluator
    labels: Ints
    output: str

    @classmethod
    def of(cls, evaluator: Evaluator, labels: Ints) -> LabelledEvaluator:
        """Find the output that has class scores.

        Raises:
            ModelError: There is not exactly one float matrix among the outputs.
        """
        shown = evaluator.shown()
        found = [name for name, value in shown.items() if value.ndim == 2 and value.dtype.kind == "f"]
        if len(found) != 1:
            has = f"{len(found)} of them: {', '.join(found)}" if found else "none"
            raise ModelError(
                f"labels need one output of class scores, a float matrix with a row a sample; the model has {has}"
            )
        return cls(evaluator, labels, found[0])

    def loss(self, model: ModelProto) -> float:
        """Return the mean cross-entropy of a model; infinite where any score is no number."""
        total, done = 0.0, 0
        for _, count, _, given in self.evaluator.pairs(model):
            total += float(cross_entropies(given[self.output], self.labels[done : done + count]).sum())
            done += count
        return total / max(1, done)

    @property
    def losses(self) -> dict[str, str]:
        """The loss of the output that counts."""
        return {self.output: "cross-entropy"}


def cross_entropies(scores: NDArray[Any], labels: Ints) -> Floats:
    """Return the cross-entropy of every sample, (N,): infinite where a score is no number.

    Args:
        scores: Class scores (N, C), logits or probabilities; (N, 1) is the logit of the second of two classes.
        labels: The class of each sample, (N,).

    Raises:
        OptionError: A label is no class of the scores, or there is no row for each sample.
    """
    logits = scores.astype(np.float64)
    if scores.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    if len(logits) != len(labels):
        raise OptionError(
            f"--labels: {counted(len(labels), 'sample gives', 'samples give')} {counted(len(logits), 'row')} of class "
            "scores"
        )
    if labels.size and labels.max() >= logits.shape[1]:
        raise OptionError(f"--labels: {labels.max()} is none of the {logits.shape[1]} classes, which count from 0")
    whole = ~(np.isnan(logits) | np.isposinf(logits)).any(axis=1)
    losses = np.full(len(labels), np.inf)
    losses[whole] = -log_probabilities(logits[whole])[np.arange(int(whole.sum())), labels[whole]]
    return losses
