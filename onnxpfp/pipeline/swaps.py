"""Exchange chosen channels for others where that lowers what the consumers' refits leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxpfp.pipeline.calibration import Measured, RefitCalibration
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.refit_problem import consumer_grams
from onnxpfp.pipeline.selector import Decision
from onnxpfp.score.group_data import ConsumerGram
from onnxpfp.score.swaps import swapped

__all__ = ["SWAPPED", "exchanges", "with_swaps"]

SWAPPED = "channels were exchanged by what the refits leave"
"""Why a choice has no bound of its criterion."""
MOST_COLUMNS = 1200
"""Groups whose consumers have more columns together keep their choice: every swap takes their cubes."""


def exchanges(context: RunContext, measured: Measured) -> bool:
    """Tell whether chosen channels are exchanged: with the most effort, and with less beside ranks, where few go."""
    return context.options.effort == "high" or (context.options.effort == "normal" and bool(measured.ranked))


def with_swaps(context: RunContext, measured: Measured, decision: Decision) -> Decision:
    """Return a choice with as many channels of every group, of which the consumers lose less.

    Args:
        context: What is asked for; `exchanges` says with how much effort channels are exchanged.
        measured: The model, with its Gram matrices.
        decision: The choice.
    """
    calibration = measured.calibration
    if not (exchanges(context, measured) and isinstance(calibration, RefitCalibration) and context.chooses):
        return decision
    keep, selections = decision.keep.copy(), list(decision.selections)
    with context.clock.phase("allocation"):
        for number, group in enumerate(measured.analysis.graph.groups):
            before, selection = keep[group.channels], selections[number]
            if selection is None or before.all() or not before.any():
                continue
            after = swapped(_grams(measured, calibration, number), before)
            if (after != before).any():
                keep[group.channels] = after
                factor = after.astype(np.float64)
                selections[number] = replace(
                    selection, keep=after, factor=factor, epsilon=None, bound=None, unbounded=SWAPPED
                )
    return replace(decision, keep=keep, factor=keep.astype(np.float64), selections=tuple(selections))


def _grams(measured: Measured, calibration: RefitCalibration, number: int) -> list[ConsumerGram]:
    """List a group's consumers; none where some cannot be refitted or are too wide, so that nothing is exchanged."""
    graph, grams = measured.analysis.graph, calibration.grams
    group = graph.groups[number]
    if not all(graph.consumers[position].output in grams for position in group.consumers):
        return []
    found = consumer_grams(calibration.setup, grams, group)
    columns = sum(len(gram.covariance) for gram in found)
    by_tap = all(len(gram.covariance) == gram.channel.size == gram.weights.shape[1] for gram in found)
    return found if by_tap and columns <= MOST_COLUMNS else []
