"""Trials of groups: each is pruned alone to about eight widths, and the drift of the output is its response curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.allocation.by_drift import ResponseCurve
from onnxpfp.allocation.widths import grid
from onnxpfp.pipeline.calibration import Measured, RefitCalibration
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.decide import selector_of
from onnxpfp.progress import Count
from onnxpfp.refit.response_curves import TrialWidths, drift_at_widths, streams

__all__ = ["GroupTrial", "measure_group_trials"]


@dataclass(frozen=True, slots=True, eq=False)
class GroupTrial:
    """One group, pruned alone.

    Attributes:
        allowed: Channels of the group, the step of its widths and the fewest that stay.
        widths: Widths that were measured, ascending; the full one is left out.
        drifts: How far the output drifted at each, as it was measured.
        stream: Whether the group is read at several depths.
    """

    allowed: tuple[int, int, int]
    widths: NDArray[np.int64]
    drifts: tuple[float, ...]
    stream: bool

    @property
    def curve(self) -> ResponseCurve:
        """The response curve: the same at all widths, monotone, as an allocation needs it."""
        return ResponseCurve.of(*self.allowed, self.widths, self.drifts, stream=self.stream)


def measure_group_trials(
    context: RunContext, measured: Measured, calibration: RefitCalibration, progress: Count, temperature: float = 1.0
) -> tuple[GroupTrial, ...]:
    """Prune every group alone; its consumers are refitted where they will be in the end.

    Args:
        context: How to prune.
        measured: The model.
        calibration: Its scores, and what its consumers are refitted with.
        progress: Told how many groups are done, of how many.
        temperature: As in `onnxpfp.comparison.metrics.divergence`.
    """
    selector, problem = selector_of(context, measured), calibration.setup.problem
    allowed = [selector.allowed(number) for number in range(len(selector.groups))]
    widths = [grid(*each) for each in allowed]
    rng = np.random.default_rng(selector.options.seed)
    trial_widths = [
        TrialWidths(
            group, np.array([selector.select(number, width, rng).keep for width in widths[number].tolist()], np.bool_)
        )
        for number, group in enumerate(selector.groups)
    ]
    refitted = context.compensation == "lstsq"
    drifts = drift_at_widths(
        problem, trial_widths, calibration.grams, refitted=refitted, temperature=temperature, progress=progress
    )
    rows = zip(allowed, widths, map(tuple, drifts), streams(problem, trial_widths), strict=True)
    return tuple(GroupTrial(*each) for each in rows)
