"""What is known of the channels of a group beyond the decision: their scores, which went, and the response curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxpfp.allocation.select import Selection
from onnxpfp.arrays import Ids
from onnxpfp.report.outcome import Outcome

__all__ = ["WidthCurve", "curve_of", "scores_of"]

DIGITS = 6
"""Significant digits of a number; more would say nothing."""


@dataclass(frozen=True, slots=True)
class WidthCurve:
    """The response curve of a group: the drift of the output when it alone is narrowed.

    Attributes:
        widths: Channels that stay, ascending, counted without those that cost nothing; the last is all of them.
        drift: How far the output drifts, as the allocation foresees it: measured at some widths, and in between by what
            the layers that read the group lose (`onnxpfp.pipeline.group_trials`).
    """

    widths: tuple[int, ...]
    drift: tuple[float, ...]


def scores_of(outcome: Outcome, chosen: Selection | None, channels: Ids) -> tuple[float | None, ...]:
    """Return the scores that ranked the channels of a group, in its order.

    Args:
        outcome: The part of the network.
        chosen: How the group was selected; None where it was not.
        channels: Its channels.

    Returns:
        (C,), None for channels that went before they were scored; empty where nothing ranked them.
    """
    if chosen is None:
        return ()
    scores = outcome.calibration.scores
    values = scores.energy if chosen.tie_broken and scores.energy is not None else scores.values
    scored = outcome.lossless.lineage.current[channels]
    return tuple(_rounded(float(values[channel])) if channel else None for channel in scored.tolist())


def curve_of(outcome: Outcome, channels: Ids) -> WidthCurve | None:
    """Return the response curve of a group; None where none was measured of just its channels.

    Args:
        outcome: The part of the network.
        channels: The group's channels.
    """
    measured = outcome.measured_part.measured
    scored = np.setdiff1d(outcome.lossless.lineage.current[channels], [0])
    if not measured.curves or not scored.size:
        return None
    for group, curve in zip(measured.analysis.graph.groups, measured.curves, strict=False):
        # Of what cost nothing a group may have been divided, or two of them joined.
        if np.array_equal(np.sort(group.channels), scored):
            return WidthCurve(tuple(curve.widths.tolist()), tuple(map(_rounded, curve.drift.tolist())))
    return None


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
