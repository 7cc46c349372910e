"""Which steps of widths a target of latency takes, of those that are in question.

Fine steps leave more widths to choose from, and coarse ones kernels that are faster for what they do. Which of both
counts more hangs on the target and on what the network can lose. So every candidate is asked for the target by its own
latencies, and taken is the one whose widths do the least by the response curves. A measurement that is a little off
then shifts what a candidate loses by a little, and only those change places that lose about the same.

How much longer widths in some steps take than the fit says is measured at those that the target leads to: an
allocation by latencies takes no widths that do not pay, so it can be faster than widths that are drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

from onnx import ModelProto

from onnxpfp.errors import TargetUnreachableError
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import QUANTITIES
from onnxpfp.pipeline.decide import foresee_drift
from onnxpfp.pipeline.latency.correction import WITHIN, Tried, fast_enough, measured_tries, without_refits
from onnxpfp.pipeline.latency.kernel_steps import StepCandidate
from onnxpfp.pipeline.latency.target import LatencyTarget
from onnxpfp.pipeline.network_steps import MeasuredPart, PrunedNetwork, least_share

__all__ = ["Prune", "choose_steps"]

TRIES = 3
"""Prunings of each candidate that are measured."""
ALIKE = 1.1
"""Times the least drift up to which candidates are equal: coarse steps leave less to how well latencies are known."""
FAR = 3.0
"""Times the least drift so far beyond which a candidate is not measured: on ResNet-56 ten tables foresaw for the same
steps drifts that differ by a factor of up to 2.4."""


class Prune(Protocol):
    """Prunes parts as the options of a context say."""

    def __call__(self, context: RunContext, *, parts: Sequence[MeasuredPart]) -> PrunedNetwork:
        """Prune them."""
        ...


def choose_steps(
    target: LatencyTarget,
    context: RunContext,
    parts: Sequence[MeasuredPart],
    prune: Prune,
    write: Callable[[PrunedNetwork], ModelProto],
) -> tuple[tuple[MeasuredPart, ...], list[Tried]]:
    """Choose the steps of widths of every part.

    Args:
        target: What is asked for.
        context: The network.
        parts: What was measured on its parts.
        prune: Prunes them.
        write: Makes of what is left the model that would be written.

    Returns:
        The parts with these steps, and with latencies that were fitted for them; those without response curves as they
        are. Then what was pruned without refits and measured of the steps that were taken, if that is how it goes on.

    Raises:
        LatencyTableError: A candidate cannot be measured.
    """
    if target.given or len(parts) > 1:
        # The table may be of another device, or it is not known which part takes how much of what is measured.
        return tuple(_chosen(target, each, None).part for each in parts), []
    chosen = _chosen(target, parts[0], partial(_by_runs, target, context, prune, write))
    return (chosen.part,), chosen.tries if context.options.steps == 1 else []


class _Outcome(NamedTuple):
    """What comes of some steps.

    Attributes:
        part: The part with them.
        drift: What it loses, as far as curves foresee it; None where the target cannot be met.
        tries: What was measured of it.
    """

    part: MeasuredPart
    drift: float | None
    tries: list[Tried]


def _by_table(target: LatencyTarget, each: MeasuredPart, candidate: StepCandidate) -> _Outcome:
    """Foresee what a part loses by what the table says of these steps."""
    taken = _taking(each, candidate)
    # What was measured at these steps is more than the fit says, so less is asked of the fit.
    return _Outcome(taken, _drift(taken, target.share * math.exp(-candidate.slower)), [])


def _drift(each: MeasuredPart, share: float) -> float | None:
    """Foresee what a part loses where it is asked for a share; None where that cannot be met."""
    context = each.part.context
    try:
        with context.clock.phase("allocation"):
            return foresee_drift(replace(context, options=context.options.keeping(min(1.0, share))), each.measured)
    except TargetUnreachableError:
        return None


Measure = Callable[[_Outcome], _Outcome]
"""Finds what comes of the same steps at widths that were measured to meet the target."""


def _by_runs(
    target: LatencyTarget,
    context: RunContext,
    prune: Prune,
    write: Callable[[PrunedNetwork], ModelProto],
    outcome: _Outcome,
) -> _Outcome:
    """Prune to the target, and measure, in place of what the table says."""
    taken = outcome.part
    if least_share([taken]) > target.share:
        return outcome._replace(drift=None)
    bare = replace(context, options=without_refits(context.options))
    tries = measured_tries(target, bare, [taken], partial(prune, parts=[taken]), write, TRIES)
    fast = [one for one in tries if fast_enough(one[1], target)]
    if not fast:
        return _Outcome(taken, None, tries)
    _, nearest = min(fast, key=lambda one: one[1].error(target.share))
    # Candidates are compared where the target is, though one came out a little faster and another a little slower.
    # One that came out much faster leaps over it, and no share leads there.
    near = nearest.measured >= (1 - WITHIN) * target.share
    asked = nearest.share * target.share / nearest.measured if near else nearest.share
    return _Outcome(taken, _drift(taken, asked), tries)


def _chosen(target: LatencyTarget, each: MeasuredPart, measure: Measure | None) -> _Outcome:
    """Choose the steps of one part."""
    candidates = each.part.context.candidates
    if not each.measured.curves or len(candidates) < 2:
        return _Outcome(each, None, [])
    outcomes = [_by_table(target, each, candidate) for candidate in candidates]
    # Of equals the coarse ones, here and at the end.
    met = _sorted(outcomes[::-1])
    if measure is not None:
        met = _sorted(_measured(met, measure))
    if not met:
        # The finest steps come closest, and what follows says how close.
        return outcomes[0]
    best = _coarsest(met)
    others = [each for each in met if each is not best]
    reason = "the only ones of those in question in which the target can be met"
    if others:
        reason = (
            f"the coarsest of those that are not clearly much slower and lose the least, to {ALIKE - 1:.0%}, at "
            f"{target.share:.4g} of the latency by the response curves, {best.drift:.3g}; "
            f"{', '.join(map(_words, others))}"
        )
    context = best.part.part.context
    context = replace(context, alignment=replace(context.alignment, reason=reason))
    return best._replace(part=replace(best.part, part=replace(best.part.part, context=context)))


def _coarsest(met: Sequence[_Outcome]) -> _Outcome:
    """Return the coarsest of the candidates that lose the least."""
    alike = [each for each in met if (each.drift or 0.0) <= ALIKE * (met[0].drift or 0.0)]
    return max(alike, key=_steps)


def _steps(outcome: _Outcome) -> tuple[int, int]:
    alignment = outcome.part.part.context.alignment
    return alignment.step, alignment.finest


def _sorted(outcomes: Iterable[_Outcome]) -> list[_Outcome]:
    """Return those that meet the target, the ones that lose the least first."""
    return sorted((each for each in outcomes if each.drift is not None), key=lambda each: each.drift or 0.0)


def _measured(foreseen: Sequence[_Outcome], measure: Measure) -> Iterator[_Outcome]:
    """Measure what comes of steps, those first that lose the least by the table, and none that lose far more."""
    least = math.inf
    for each in foreseen:
        outcome = each
        if each.drift is not None and each.drift <= FAR * least:
            outcome = measure(each)
        if outcome.drift is not None:
            least = min(least, outcome.drift)
        yield outcome


def _words(outcome: _Outcome) -> str:
    alignment = outcome.part.part.context.alignment
    narrow = f" and {alignment.finest}" if alignment.finest < alignment.step else ""
    return f"{outcome.drift:.3g} in steps of {alignment.step}{narrow}{'' if outcome.tries else ' by the table'}"


def _taking(each: MeasuredPart, candidate: StepCandidate) -> MeasuredPart:
    """Return a part with the steps of a candidate, and with its latencies."""
    context = each.part.context
    full = QUANTITIES["latency"].whole(context.whole, candidate.latencies)
    alignment = replace(candidate.alignment, reason=context.alignment.reason)
    context = replace(context, alignment=alignment, latencies=candidate.latencies, full=full)
    return replace(each, part=replace(each.part, context=context))
