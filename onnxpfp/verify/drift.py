"""The checker, and the drift: how far the pruned model is from the original."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.arrays import Arrays
from onnxpfp.data.samples import Feed
from onnxpfp.errors import VerificationError
from onnxpfp.model.check import checker_message
from onnxpfp.verify.metrics import TINY, looks_like_classes

__all__ = ["Drift", "DriftSums", "check"]


@dataclass(frozen=True, slots=True)
class Drift:
    """The distance of a model's outputs from the original's.

    Attributes:
        relative_error: ||original - pruned|| / ||original|| over all samples, worst float output; None
            where no output is a float.
        differing: Share of the numbers of integer outputs that differ, worst output; None where there are none.
        top1_agreement: Share of samples with the same largest class, where an output looks like
            class scores; None elsewhere.
        samples: Samples that were compared.
        held_out: Whether the samples were kept away from whatever chose: the calibration, and the search for a target
            of quality.
    """

    relative_error: float | None
    differing: float | None
    top1_agreement: float | None
    samples: int
    held_out: bool


def check(original: ModelProto, pruned: ModelProto) -> None:
    """Run onnx.checker with full shape inference.

    Where the original itself does not pass (ops that the checker does not know, outputs without a
    shape), the pruned model is checked as far as the original passes.

    Raises:
        VerificationError: The pruned model is broken where the original is not.
    """
    for full in (True, False):
        message = checker_message(pruned, full=full)
        if message is None:
            return
        if checker_message(original, full=full) is None:
            raise VerificationError(f"the pruned model is broken: {message}")


@dataclass(slots=True, eq=False)
class DriftSums:
    """Sums over batches that the drift is made of.

    Attributes:
        gap: ||original - pruned||^2 by float output.
        size: ||original||^2 by float output.
        flips: Share of the numbers that differ, added up over the batches, by other output.
        agree: Samples with the same largest class.
        votes: Samples of which an output looks like class scores.
        batches: How many batches there were.
    """

    gap: dict[str, float] = field(default_factory=dict[str, float])
    size: dict[str, float] = field(default_factory=dict[str, float])
    flips: dict[str, float] = field(default_factory=dict[str, float])
    agree: int = 0
    votes: int = 0
    batches: int = 0

    def add(self, feed: Feed, wanted: Arrays, given: Arrays) -> None:
        """Add a batch.

        Args:
            feed: The inputs.
            wanted: Outputs of the original.
            given: Outputs of the pruned model.
        """
        self.batches += 1
        for name, value in wanted.items():
            if value.shape != given[name].shape or value.dtype.kind != "f":
                differs = value.shape != given[name].shape or np.not_equal(value, given[name])
                self.flips[name] = self.flips.get(name, 0.0) + float(np.mean(differs))
                continue
            a, b = value.astype(np.float64), given[name].astype(np.float64)
            self.gap[name] = self.gap.get(name, 0.0) + float(np.square(a - b).sum())
            self.size[name] = self.size.get(name, 0.0) + float(np.square(a).sum())
        scores = next((name for name in wanted if _looks_like_classes(wanted[name], feed)), None)
        if scores is not None:
            self.agree += int((wanted[scores].argmax(1) == given[scores].argmax(1)).sum())
            self.votes += len(wanted[scores])

    def drift(self, samples: int, *, held_out: bool) -> Drift:
        """Return the drift over all batches, which had so many samples."""
        errors = (math.sqrt(gap / max(self.size[name], TINY)) for name, gap in self.gap.items())
        return Drift(
            relative_error=max(errors, default=None),
            differing=max((share / self.batches for share in self.flips.values()), default=None),
            top1_agreement=self.agree / self.votes if self.votes else None,
            samples=samples,
            held_out=held_out,
        )


def _looks_like_classes(value: NDArray[np.generic], feed: Feed) -> bool:
    """A float matrix with one row per sample and at least two columns."""
    rows = {len(array) for array in feed.values() if array.ndim}
    return looks_like_classes(value) and rows == {len(value)}
