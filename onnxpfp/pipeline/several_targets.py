"""One calibration for several targets: what is the same for all of them is measured once, and the rest for each.

The samples, scores, Gram matrices, channels that cost nothing and what ranks lose do not depend on how much shall stay.
Response curves do in part: each group is tried at one width for all targets, then at those that a target leads to
(`group_trials.py`). What comes of it for a target is what `measure_parts` measures for it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.group_trials import tries_all_widths
from onnxpfp.pipeline.lossless_step import LosslessStep, remove_lossless
from onnxpfp.pipeline.network_steps import MeasuredPart, measure_whole, measured_or_whole
from onnxpfp.pipeline.parts import Network, NetworkPart
from onnxpfp.pipeline.shares import asked_channels, asked_of_rest
from onnxpfp.pipeline.steps import Begun, begin

__all__ = ["BegunPart", "aimed_parts", "begin_parts", "begins_as", "with_target"]


@dataclass(frozen=True, slots=True, eq=False)
class BegunPart:
    """A part with what was measured on it for any target.

    Attributes:
        part: The part.
        lossless: What went from it for free.
        begun: What was measured on what is left; None where nothing of the part goes.
    """

    part: NetworkPart
    lossless: LosslessStep
    begun: Begun | None


def begins_as(context: RunContext) -> tuple[bool, bool]:
    """Return what a target says of what is measured for all: targets for which it is the same share that."""
    return context.chooses, context.chooses and tries_all_widths(context)


def with_target(network: Network, context: RunContext) -> Network:
    """Return a network with the target of a context, and its clock, in all parts."""
    return replace(network, parts=tuple(_aimed(part, context) for part in network.parts))


def begin_parts(network: Network) -> tuple[BegunPart, ...]:
    """Take out of every part what costs nothing, and measure what is the same for every target of one kind."""
    return tuple(measured_or_whole(part, _begin_part, _staying) for part in network.parts)


def aimed_parts(parts: Sequence[BegunPart], context: RunContext) -> tuple[MeasuredPart, ...]:
    """Measure the rest for the target of a context; a body in which that cannot be done stays."""
    return tuple(_aimed_part(each, _aimed(each.part, context)) for each in parts)


def _aimed_part(each: BegunPart, part: NetworkPart) -> MeasuredPart:
    begun, lossless = each.begun, each.lossless
    if begun is None:
        return measure_whole(part)
    return measured_or_whole(
        part, lambda part: MeasuredPart(part, lossless, begun.towards(part.context)), measure_whole
    )


def _begin_part(part: NetworkPart) -> BegunPart:
    context = part.context
    lossless = remove_lossless(context) if context.chooses else LosslessStep.nothing(context.whole)
    asked = asked_of_rest(asked_channels(part), context.whole.graph, lossless.lineage, lossless.analysis.graph)
    return BegunPart(part, lossless, begin(context, lossless.analysis, asked))


def _staying(part: NetworkPart) -> BegunPart:
    return BegunPart(part, LosslessStep.nothing(part.context.whole), None)


def _aimed(part: NetworkPart, context: RunContext) -> NetworkPart:
    aimed = replace(
        part.context,
        options=context.options,
        met=context.met,
        provenance=context.provenance,
        clock=context.clock,
    )
    return replace(part, context=aimed)
