"""Pruning to a latency with ranks and without, where ranks may be chosen: what drifts less is taken.

Curves are measured with one group or one layer cut at a time, and what several cuts do together is more than their sum.
By how much more differs from network to network: at 0.7 of the latency curves preferred ranks for a text recogniser,
whose file drifted more with them than with channels alone (0.25 and 0.20), and for ResNet-20, where it drifted half as
much (0.16 and 0.35). So both are pruned to the latency, refitted and measured, on all samples that may decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from onnx import ModelProto

from onnxpfp.errors import TargetUnreachableError
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.latency.correction import prune_to_latency
from onnxpfp.pipeline.latency.step_choice import Prune, choose_steps
from onnxpfp.pipeline.latency.target import LatencyTarget
from onnxpfp.pipeline.network_steps import MeasuredPart, PrunedNetwork

__all__ = ["AtLatency", "prune_by_structures"]


class AtLatency(NamedTuple):
    """A pruning to a latency.

    Attributes:
        parts: What was chosen from, with the steps of widths that were taken.
        pruned: What is left.
        target: What was asked for, and how it was reached.
    """

    parts: tuple[MeasuredPart, ...]
    pruned: PrunedNetwork
    target: LatencyTarget


def prune_by_structures(
    target: LatencyTarget,
    context: RunContext,
    parts: Sequence[MeasuredPart],
    prune: Prune,
    write: Callable[[PrunedNetwork], ModelProto],
) -> AtLatency:
    """Prune to a latency by what drifts least.

    Args:
        target: What is asked for.
        context: The network, with the latencies of its ops.
        parts: What was measured on its parts.
        prune: Prunes parts as the options of a context say.
        write: Makes of what is left the model that would be written.

    Raises:
        TargetUnreachableError: The latency does not come down to the target.
        LatencyTableError: It cannot be measured.
    """
    if not any(each.measured.ranked for each in parts):
        return _at(target, context, parts, prune, write)
    found: dict[bool, AtLatency] = {}
    unreachable: TargetUnreachableError | None = None
    for ranked in (True, False):
        try:
            found[ranked] = _at(target, context, parts if ranked else [*map(_unranked, parts)], prune, write)
        except TargetUnreachableError as error:
            unreachable = unreachable or error
    if unreachable is not None and not found:
        raise unreachable
    return _least(context, found, write)


def _at(
    target: LatencyTarget,
    context: RunContext,
    parts: Sequence[MeasuredPart],
    prune: Prune,
    write: Callable[[PrunedNetwork], ModelProto],
) -> AtLatency:
    """Prune to a latency by whatever the parts may lose."""
    chosen, begun = choose_steps(target, context, parts, prune, write)
    return AtLatency(chosen, *prune_to_latency(target, context, chosen, partial(prune, parts=chosen), write, begun))


def _unranked(each: MeasuredPart) -> MeasuredPart:
    """Return a part whose layers keep all ranks."""
    groups = len(each.measured.curves) - len(each.measured.ranked)
    return replace(each, measured=replace(each.measured, ranked=(), curves=each.measured.curves[:groups]))


def _least(
    context: RunContext, found: dict[bool, AtLatency], write: Callable[[PrunedNetwork], ModelProto]
) -> AtLatency:
    """Return the pruning that drifts least of those with ranks and without, and write down what each drifts."""
    evaluator = context.evaluator(context.data.samples, held_out=False)
    drifts: dict[bool, float] = {}
    for ranked, each in found.items():
        with context.clock.phase("search") as progress:
            drift = evaluator.drift(write(each.pruned), progress).relative_error
        drifts[ranked] = math.inf if drift is None else drift
    best = found[min(drifts, key=drifts.__getitem__)]
    finite = {ranked: drift for ranked, drift in drifts.items() if math.isfinite(drift)}
    return best._replace(
        target=replace(best.target, drift_with_ranks=finite.get(True), drift_without=finite.get(False))
    )
