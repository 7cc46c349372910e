"""Outcomes: what became of each sample, which certificates are made of (`onnxpfp.comparison.certificate`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from onnxpfp.arrays import AnyArray, Arrays, Bools, Floats
from onnxpfp.comparison.drift import class_scores
from onnxpfp.comparison.finite import Gap, same_largest
from onnxpfp.comparison.metrics import top_probabilities
from onnxpfp.comparison.picks import Picks

__all__ = ["OutcomeRows", "Outcomes", "errors_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What became of each sample in a model that is not the original.

    Attributes:
        agree: Whether the largest class is the original's, (n,), of the samples for which the original has one; None
            where no output looks like class scores.
        errors: Relative error ||original - other|| / ||original|| of the sample, worst float output, (n,); None where
            no output is a float, or samples that were fed together cannot be told apart in one.
        top_probability: Probability that the original gives its largest class, (n,), as `agree`; None as there.
    """

    agree: Bools | None
    errors: Floats | None
    top_probability: Floats | None


@dataclass(slots=True, eq=False)
class OutcomeRows:
    """Collects outcomes batch by batch.

    Attributes:
        picks: Which outputs have rows that are picked: they belong to a sample only where it is alone.
        told_apart: Whether every float output so far could be cut into samples.
    """

    picks: Picks
    told_apart: bool = True
    _agree: list[Bools] = field(default_factory=list[Bools], init=False)
    _errors: list[Floats] = field(default_factory=list[Floats], init=False)
    _top: list[Floats] = field(default_factory=list[Floats], init=False)

    def add(self, count: int, rows: int | None, wanted: Arrays, given: Arrays) -> None:
        """Add a batch.

        Args:
            count: Samples in it.
            rows: How long all inputs are along their sample axes; None where that is not one number.
            wanted: Outputs of the original.
            given: Outputs of the other model.
        """
        scores = class_scores(wanted, rows, self.picks)
        if scores is not None:
            agree, voting = same_largest(wanted[scores], given[scores])
            self._agree.append(agree[voting])
            self._top.append(top_probabilities(wanted[scores][voting]))
        per_output: list[Floats] = []
        for name, value in wanted.items():
            if value.dtype.kind == "f":
                alone = count == 1 or name not in self.picks.outputs
                errors = errors_of(value, given[name], count) if alone else None
                if errors is None:
                    self.told_apart = False
                else:
                    per_output.append(errors)
        if per_output and self.told_apart:
            self._errors.append(np.max(per_output, axis=0))

    def outcomes(self) -> Outcomes:
        """Return the outcomes of all samples so far."""
        return Outcomes(
            agree=np.concatenate(self._agree) if self._agree else None,
            errors=np.concatenate(self._errors) if self._errors and self.told_apart else None,
            top_probability=np.concatenate(self._top) if self._top else None,
        )


def errors_of(original: AnyArray, other: AnyArray, count: int) -> Floats | None:
    """Return ||original - other|| / ||original|| of every sample, (count,).

    Args:
        original: Numbers of so many samples: one row along the first axis for each, or all of one sample.
        other: Those of another model; in another shape they are as far off as if all were missing.
        count: Samples that were fed together.

    Returns:
        The errors; None where the first axis does not tell samples apart.
    """
    if count == 1:
        return np.array([math.sqrt(Gap.between(original, other).relative_square)])
    if not original.ndim or original.shape[0] != count:
        return None
    if original.shape != other.shape:
        return np.full(count, math.sqrt(Gap.between(original, other).relative_square))
    gaps = (Gap.between(one, its) for one, its in zip(original, other, strict=True))
    return np.array([math.sqrt(gap.relative_square) for gap in gaps])
