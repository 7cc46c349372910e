"""What the output does when one group alone is narrowed, as it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.allocation.by_drift import ResponseCurve
from onnxpfp.allocation.widths import grid
from onnxpfp.pipeline.decide import Selector
from onnxpfp.progress import Count
from onnxpfp.refit.gram import Gram
from onnxpfp.refit.group_trials import TrialWidths, run_group_trials, streams
from onnxpfp.refit.problem import RefitProblem

__all__ = ["GroupTrial", "measure_group_trials"]


@dataclass(frozen=True, slots=True, eq=False)
class GroupTrial:
    """One group, narrowed alone.

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
        """The same at all widths, monotone, as an allocation needs it."""
        return ResponseCurve.of(*self.allowed, self.widths, self.drifts, stream=self.stream)


def measure_group_trials(
    selector: Selector,
    problem: RefitProblem,
    grams: Mapping[str, Gram],
    *,
    refitted: bool,
    temperature: float = 1.0,
    tell: Count,
) -> tuple[GroupTrial, ...]:
    """Narrow every group alone.

    Args:
        selector: Selects the channels at each width, as they will be selected in the end.
        problem: The network and its samples.
        grams: Gram matrices of the groups' consumers.
        refitted: Whether the consumers are refitted.
        temperature: As in `quality.divergence`.
        tell: Told how many groups are done, of how many.
    """
    allowed = [selector.allowed(number) for number in range(len(selector.groups))]
    widths = [grid(*each) for each in allowed]
    rng = np.random.default_rng(selector.options.seed)
    questions = [
        TrialWidths(
            group, np.array([selector.select(number, width, rng).keep for width in widths[number].tolist()], np.bool_)
        )
        for number, group in enumerate(selector.groups)
    ]
    drifts = run_group_trials(problem, questions, grams, refitted=refitted, temperature=temperature, progress=tell)
    found = zip(allowed, widths, map(tuple, drifts), streams(problem, questions), strict=True)
    return tuple(GroupTrial(*each) for each in found)
