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
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from onnx import ModelProto

from onnxpfp.allocation.by_drift import ForeseenDrift
from onnxpfp.errors import TargetUnreachableError
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import QUANTITIES
from onnxpfp.pipeline.decide import foresee_drift
from onnxpfp.pipeline.latency.correction import try_of
from onnxpfp.pipeline.latency.kernel_steps import StepCandidate
from onnxpfp.pipeline.latency.target import LatencyTarget
from onnxpfp.pipeline.network_steps import MeasuredPart, PrunedNetwork
from onnxpfp.runtime.blocks import Alignment

__all__ = ["choose_steps"]


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
) -> tuple[MeasuredPart, ...]:
    """Choose the steps of widths of every part.

    Args:
        target: What is asked for.
        context: The network.
        parts: What was measured on its parts.
        prune: Prunes them.
        write: Makes of what is left the model that would be written.

    Returns:
        The parts with these steps, and with latencies that were fitted for them; those without response curves as they
        are.

    Raises:
        LatencyTableError: A candidate cannot be measured.
    """

    def measured(each: MeasuredPart, candidate: StepCandidate) -> StepCandidate:
        """Say how much slower a candidate is where the target leads to, if that can be measured."""
        if target.given or len(parts) > 1:
            # The table may be of another device, or it is not known which part takes how much of what is measured.
            return candidate
        taken = [_taking(each, candidate)]
        bare = replace(context.options.keeping(target.share), compensate="none", steps=1)
        try:
            pruned = prune(replace(context, options=bare), parts=taken)
        except TargetUnreachableError:
            return candidate
        tried = try_of(context, taken, pruned, write, target.share)
        return replace(candidate, slower=math.log(tried.measured / tried.foreseen))

    return tuple(_with_steps(each, target.share, measured) for each in parts)


def _with_steps(
    each: MeasuredPart, share: float, measured: Callable[[MeasuredPart, StepCandidate], StepCandidate]
) -> MeasuredPart:
    """Choose the steps of one part."""
    context = each.part.context
    if not each.measured.curves or len(context.candidates) < 2:
        return each
    candidates = [measured(each, candidate) for candidate in context.candidates]
    with context.clock.phase("allocation"):
        foreseen = [(_foreseen(each, candidate, share), candidate) for candidate in candidates]
    met = [(drift, candidate) for drift, candidate in foreseen if drift is not None]
    if not met:
        # The finest steps come closest, and what follows says how close.
        return _taking(each, context.candidates[0])
    # Of equals the coarse ones.
    met.sort(key=lambda one: (one[0], -one[1].alignment.step))
    (_, best), others = met[0], met[1:]
    reason = "the only ones of those in question in which the target can be met"
    if others:
        rest = ", ".join(f"{_words(drift)} in {_steps(candidate.alignment)}" for drift, candidate in others)
        reason = (
            f"of those that are not clearly much slower they lose the least at {share:.4g} of the latency by the "
            f"response curves, {_words(met[0][0])}; {rest}"
        )
    return _taking(each, best, reason)


def _foreseen(each: MeasuredPart, candidate: StepCandidate, share: float) -> ForeseenDrift | None:
    """Return what a part loses with some steps, as far as curves foresee it; None where it cannot meet the target."""
    context = _with(each.part.context, candidate)
    # What is measured at these steps is more than the fit says, so less is asked of the fit.
    asked = min(1.0, share * math.exp(-candidate.slower))
    try:
        return foresee_drift(replace(context, options=context.options.keeping(asked)), each.measured)
    except TargetUnreachableError:
        return None


def _with(context: RunContext, candidate: StepCandidate, reason: str = "") -> RunContext:
    """Return a context with the steps of a candidate, and with its latencies."""
    full = QUANTITIES["latency"].whole(context.whole, candidate.latencies)
    alignment = replace(candidate.alignment, reason=reason or context.alignment.reason)
    return replace(context, alignment=alignment, latencies=candidate.latencies, full=full)


def _taking(each: MeasuredPart, candidate: StepCandidate, reason: str = "") -> MeasuredPart:
    return replace(each, part=replace(each.part, context=_with(each.part.context, candidate, reason)))


def _words(drift: ForeseenDrift) -> str:
    streams = f" and {drift.streams} channels of streams" if drift.streams else ""
    return f"{drift.drift:.3g}{streams}"


def _steps(alignment: Alignment) -> str:
    return f"steps of {alignment.step}" + (f" and {alignment.finest}" if alignment.finest < alignment.step else "")
