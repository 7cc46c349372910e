"""The checker, and the drift: how far the pruned model is from the original."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto

from onnxpfp.arrays import Arrays
from onnxpfp.comparison.finite import Gap, same_largest
from onnxpfp.comparison.metrics import looks_like_classes
from onnxpfp.comparison.picks import InPlace, Picks
from onnxpfp.errors import VerificationError
from onnxpfp.model.check import checker_message

__all__ = ["Drift", "DriftSums", "check", "class_scores"]


@dataclass(frozen=True, slots=True)
class Drift:
    """The distance of a model's outputs from the original's.

    Attributes:
        relative_error: ||original - pruned|| / ||original|| over all samples, worst float output; None
            where no output is a float. What is finite in one alone counts like a number that is missing (`Gap`).
        differing: Share of the numbers of integer outputs that differ, worst output; None where there are none.
        top1_agreement: Share of samples with the same largest class, where an output looks like
            class scores; None elsewhere.
        samples: Samples that were compared.
        held_out: Whether the samples were kept away from whatever chose: the calibration, and the search for a target
            of quality.
        not_finite: Numbers of the original's float outputs that are infinite or NaN.
        lost: Numbers of the original in whose place the pruned model has infinity or NaN.
        gained: Infinities and NaNs of the original in whose place the pruned model has something else.
        in_place: What was measured in the place of outputs whose rows are picked; None where there are none.
    """

    relative_error: float | None
    differing: float | None
    top1_agreement: float | None
    samples: int
    held_out: bool
    not_finite: int = 0
    lost: int = 0
    gained: int = 0
    in_place: InPlace | None = None


def check(original: ModelProto, pruned: ModelProto, *others: ModelProto) -> None:
    """Run onnx.checker with full shape inference.

    Where the original itself does not pass (ops that the checker does not know, outputs without a
    shape, sparse weights), the pruned model is checked as far as the original passes.

    Args:
        original: The original.
        pruned: The pruned model.
        others: The original in other words.

    Raises:
        VerificationError: The pruned model is broken where the original is not.
    """
    for full in (True, False):
        message = checker_message(pruned, full=full)
        if message is None:
            return
        if all(checker_message(one, full=full) is None for one in (original, *others)):
            raise VerificationError(f"the pruned model is broken: {message}")


@dataclass(slots=True, eq=False)
class DriftSums:
    """Sums over batches that the drift is made of.

    Attributes:
        gaps: Distance by float output.
        flips: Share of the numbers that differ, added up over the batches, by other output.
        agree: Samples with the same largest class.
        votes: Samples of which an output looks like class scores (a float matrix with one row per sample), and has a
            largest one.
        batches: How many batches there were.
        picks: Which outputs have rows that are picked.
    """

    gaps: dict[str, Gap] = field(default_factory=dict[str, Gap])
    flips: dict[str, float] = field(default_factory=dict[str, float])
    agree: int = 0
    votes: int = 0
    batches: int = 0
    picks: Picks = field(default_factory=Picks)

    def add(self, rows: int | None, wanted: Arrays, given: Arrays) -> None:
        """Add a batch.

        Args:
            rows: How long all inputs are along their sample axes; None where that is not one number.
            wanted: Outputs of the original.
            given: Outputs of the pruned model.
        """
        self.batches += 1
        for name, value in wanted.items():
            alike = value.shape == given[name].shape
            if value.dtype.kind != "f":
                differs = not alike or np.not_equal(value, given[name])
                self.flips[name] = self.flips.get(name, 0.0) + float(np.mean(differs))
                continue
            self.gaps[name] = self.gaps.get(name, Gap()) + Gap.between(value, given[name])
        scores = class_scores(wanted, rows, self.picks)
        if scores is not None:
            agree, votes = same_largest(wanted[scores], given[scores])
            self.agree += int((agree & votes).sum())
            self.votes += int(votes.sum())

    def drift(self, samples: int, *, held_out: bool) -> Drift:
        """Return the drift over all batches, which had so many samples."""
        gaps = self.gaps.values()
        errors = (math.sqrt(gap.relative_square) for gap in gaps)
        return Drift(
            relative_error=max(errors, default=None),
            differing=max((share / self.batches for share in self.flips.values()), default=None),
            top1_agreement=self.agree / self.votes if self.votes else None,
            samples=samples,
            held_out=held_out,
            not_finite=sum(gap.not_finite for gap in gaps),
            lost=sum(gap.lost for gap in gaps),
            gained=sum(gap.gained for gap in gaps),
            in_place=self.picks.in_place,
        )


def class_scores(outputs: Arrays, rows: int | None, picks: Picks) -> str | None:
    """Return the first output that looks like class scores: a float matrix with one row per sample.

    Args:
        outputs: Outputs of the original.
        rows: How long all inputs are along their sample axes; None where that is not one number.
        picks: Which outputs have rows that are picked: they are no scores of samples.
    """
    classes = (name for name, value in outputs.items() if looks_like_classes(value) and len(value) == rows)
    return next((name for name in classes if name not in picks.rows), None)
