"""What the drift of ranks counts beside that of channels, chosen by what several choices leave once all is refitted.

Curves are measured with one group or one layer cut at a time. What cuts of channels and of ranks do together is more
than their sum, and how much more is not the same for both: a layer that reads fewer channels has fewer directions left
to take its rank from. So with more effort than the least the drift of ranks is also counted by other factors, up to the
choice that leaves all channels; every choice is refitted, and the one that drifts least is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.errors import TargetUnreachableError
from onnxpfp.pipeline.calibration import Measured
from onnxpfp.pipeline.candidate import build_candidate
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.decide import Decision, decide_with_ranks

__all__ = ["best_rank_weight"]

WEIGHTS: Mapping[str, tuple[float, ...]] = {"low": (), "normal": (0.5, 0.0), "high": (2.0, 0.5, 0.25, 0.0)}
"""What the drift of ranks counts, beside 1; with 0 all channels stay. By `--effort`."""


def best_rank_weight(context: RunContext, measured: Measured, decision: Decision) -> Decision:
    """Return the choice of widths and ranks that drifts least once it is refitted.

    All samples that may decide are compared, those that are fitted on among them: choices have about as many weights as
    each other, so they learn the samples alike, and 28 tuning samples were wrong more often than all 196.

    Args:
        context: What is asked for; with the least effort nothing else is tried.
        measured: The model.
        decision: The choice where the drift of both counts the same.
    """
    others = list(_others(context, measured, decision)) if measured.ranked and context.chooses else []
    if not others:
        return decision
    evaluator = context.evaluator(context.data.samples, held_out=False)
    best, least = decision, _drift(context, measured, decision, evaluator)
    for other in others:
        drift = _drift(context, measured, other, evaluator)
        if drift is not None and least is not None and drift < least:
            best, least = other, drift
    return best


def _others(context: RunContext, measured: Measured, decision: Decision) -> Iterator[Decision]:
    """Yield the choices by other weights, each once."""
    seen = [decision]
    for weight in WEIGHTS[context.options.effort]:
        try:
            other = decide_with_ranks(context, measured, weight)
        except TargetUnreachableError:
            # Ranks alone do not get there.
            continue
        if not any(other.takes_the_same(each) for each in seen):
            seen.append(other)
            yield other


def _drift(context: RunContext, measured: Measured, decision: Decision, evaluator: Evaluator) -> float | None:
    """Return how far a choice is off with every layer refitted by itself; None where no output is a float."""
    candidate = build_candidate(context, measured, decision, effort="low")
    with context.clock.phase("search") as progress:
        return evaluator.drift(candidate.model, progress).relative_error
