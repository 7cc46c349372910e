"""From a model that is understood to a choice of what stays, in one step or in several.

With several steps, scores and response curves are measured anew on the network as it is pruned and compensated by then:
what was redundant in the original may not be so any more. Each step says its choice in terms of the first network, and
the result is made from that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from onnxpfp.allocation.by_drift import ResponseCurve
from onnxpfp.allocation.select import Selection
from onnxpfp.arrays import Ids
from onnxpfp.channels import Analysis, ChannelGraph
from onnxpfp.channels.lineage import lifted, origin_of
from onnxpfp.data.samples import Samples
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.weights import StoredAxis, stored_axes_of
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import CalibrationData, analyze
from onnxpfp.pipeline.candidate import Candidate, build_candidate
from onnxpfp.pipeline.curves import response_curves
from onnxpfp.pipeline.decide import Decision, choose, selector_of
from onnxpfp.pipeline.plan import Plan
from onnxpfp.pipeline.scoring import Calibration, Split, calibrate_and_score
from onnxpfp.progress import Clock
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.verify.evaluator import Evaluator

__all__ = ["Measured", "RunContext", "lift_decision", "measure", "prune_in_steps"]


@dataclass(frozen=True, slots=True, eq=False)
class RunContext:
    """What stays the same at every step.

    Attributes:
        data: The samples.
        split: The same by what they are for.
        requests: Where to run.
        options: How to prune.
        plan: What stays, in place of scores.
        full: The cost that the target is a share of.
        clock: Adds up seconds, and says how far it is.
    """

    data: CalibrationData
    split: Split
    requests: Sequence[ProviderRequest]
    options: Options
    plan: Plan | None
    full: int
    clock: Clock

    @property
    def chooses(self) -> bool:
        """Whether channels are to be chosen: no plan says what stays, and not everything does."""
        return self.plan is None and self.options.target[1] < 1

    def evaluator(self, original: ModelProto, samples: Samples, *, held_out: bool = True) -> Evaluator:
        """Return what compares models with the original on samples."""
        options = self.options
        return Evaluator(
            original, samples, held_out, self.data.batch_size, self.requests, options.threads, options.workspace
        )


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A model, and what was measured on it.

    Attributes:
        analysis: The model.
        readers: Its consumers.
        calibration: Its scores.
        places: Where each consumer's weights are stored.
        curves: Its response curves, where they set the widths.
    """

    analysis: Analysis
    readers: tuple[LinearOp, ...]
    calibration: Calibration
    places: tuple[StoredAxis | None, ...]
    curves: tuple[ResponseCurve, ...]


def measure(context: RunContext, analysis: Analysis) -> Measured:
    """Measure everything on a model that a choice needs to know."""
    options, clock = context.options, context.clock
    with clock.phase("calibration"):
        readers = linear_ops(analysis)
        calibration = calibrate_and_score(
            analysis,
            readers,
            context.data,
            context.split,
            context.requests,
            options,
            replaying=context.plan is not None,
            clock=clock,
        )
    with clock.phase("allocation"):
        places = stored_axes_of(analysis)
    if not (context.chooses and options.allocation(calibration.known) == "measured"):
        return Measured(analysis, readers, calibration, places, ())
    with clock.phase("curves") as tell:
        curves = response_curves(selector_of(analysis, calibration, places, options), calibration, tell)
    return Measured(analysis, readers, calibration, places, curves)


def prune_in_steps(context: RunContext, first: Measured) -> tuple[Decision, Candidate]:
    """Choose what stays of a model, and make what is left.

    Args:
        context: What is asked for.
        first: The model, and what was measured on it.

    Returns:
        The choice in its terms, and the result.

    Raises:
        PlanError: The plan does not fit this model.
        TargetUnreachableError: The target cannot be met.
    """
    analysis, measured = first.analysis, first
    steps = context.options.steps if context.chooses else 1
    origin = np.arange(analysis.graph.count + 1)
    for step in range(1, steps + 1):
        decision = _decision(context, first, measured, origin, _towards(context.options, step, steps))
        done = build_candidate(
            first.analysis, first.readers, first.calibration, decision, first.places, context.options, context.clock
        )
        if step == steps:
            return decision, done
        smaller = analyze(analysis.source.rewritten(done.model), context.data, context.options, context.clock)
        origin = origin_of(first.analysis.graph, decision.keep, smaller.graph)
        measured = measure(context, smaller)
    raise AssertionError


def _decision(context: RunContext, first: Measured, measured: Measured, origin: Ids, options: Options) -> Decision:
    """Choose what stays of the model measured, in terms of the first."""
    with context.clock.phase("allocation"):
        found = choose(
            measured.analysis,
            measured.calibration,
            measured.places,
            options,
            context.plan,
            measured.curves,
            context.full,
        )
    if measured is first:
        return found
    return lift_decision(first.analysis.graph, measured.analysis.graph, found, origin)


def _towards(options: Options, step: int, steps: int) -> Options:
    """Return the options with the target of a step: equal factors lead to the last one."""
    quantity, share = options.target
    if quantity == "macs":
        return replace(options, keep_macs=share ** (step / steps))
    return replace(options, keep_params=share ** (step / steps))


def lift_decision(first: ChannelGraph, graph: ChannelGraph, found: Decision, origin: Ids) -> Decision:
    """Say a choice on a smaller model in terms of the one that it was made from.

    Args:
        first: Channels of the larger model.
        graph: Channels of the smaller one.
        found: The choice.
        origin: The channel of the larger model for every one of the smaller (`origin_of`).
    """
    keep = lifted(found.keep, origin, first.count)
    pairs = zip(graph.groups, found.selections, strict=bool(found.selections))
    owner = {int(origin[group.channels[0]]): chosen for group, chosen in pairs}
    selections: list[Selection] = []
    for group in first.groups if owner else ():
        chosen = next(owner[channel] for channel in group.channels.tolist() if channel in owner)
        stays = keep[group.channels]
        selections.append(replace(chosen, keep=stays, factor=stays.astype(np.float64)))
    return Decision(keep, lifted(found.factor, origin, first.count), tuple(selections))
