"""The worst case of channels, for coreset scores: what it is measured or given for, and what the scores bound."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnxpfp.arrays import Floats
from onnxpfp.channels import Analysis
from onnxpfp.linear.reach import InputLimits, Reaches, reaches_of
from onnxpfp.options import Options
from onnxpfp.pipeline.input_limits import measured_limits, typed_limits
from onnxpfp.pipeline.measurements import Measurements
from onnxpfp.score.coreset import CORESET_CONSTANT, Coreset
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.scores import Scores

__all__ = ["QUADRANTS", "WorstCase"]

QUADRANTS = 4
"""Signs of weights and activations: unseen activations may have both signs, whatever those seen have."""
_NO_LIMITS = "how large the inputs are is not known: give --calib-data, or --input-range"
"""Why coreset scores bound nothing, where nothing says how large beta is."""


@dataclass(frozen=True, slots=True, eq=False)
class WorstCase:
    """How far from zero channels can be.

    Attributes:
        reaches: That; None for criteria that do not look at it.
        limits: The inputs that it holds for, in plain numbers; None is for any, in units of what the layers read.
    """

    reaches: Reaches | None = None
    limits: InputLimits | None = None

    @classmethod
    def of(
        cls, criterion: Criterion, analysis: Analysis, options: Options, measurements: Measurements | None = None
    ) -> WorstCase:
        """Find what a criterion needs of it.

        Args:
            criterion: The criterion.
            analysis: The model.
            options: The ranges of inputs, where the user gives them.
            measurements: Measures how large the inputs are; None without data.

        Raises:
            OptionError: A range is of no input of the model.
        """
        if "reach" not in criterion.needs:
            return cls()
        limits = None
        if isinstance(criterion, Coreset):
            limits = typed_limits(analysis, options.input_ranges)
            if limits is None and measurements is not None:
                limits = measured_limits(analysis, measurements)
        return cls(reaches_of(analysis, limits), limits)

    @property
    def reach(self) -> Floats | None:
        """How far from zero each channel can be, by its id."""
        return None if self.reaches is None else self.reaches.values

    def told(self, scores: Scores, criterion: Criterion) -> Scores:
        """Say of scores that are no sensitivities of PFP what they are, and what they bound."""
        groups, name = len(scores.outputs), criterion.name
        if self.reaches is None:
            why = f"the scores of --score {name} are no sensitivities"
            return replace(scores, method=name, unbounded=(why,) * groups, summed=True)
        if not isinstance(criterion, Coreset):
            constant = np.full(groups, CORESET_CONSTANT)
            return replace(scores, method=name, energy=None, constant=constant, unbounded=self.reaches.doubts)
        why = self.reaches.doubts if self.limits is not None else (_NO_LIMITS,) * groups
        outputs = np.maximum(1, scores.outputs // QUADRANTS)
        return replace(scores, method=name, energy=None, outputs=outputs, unbounded=why, additive=True)
