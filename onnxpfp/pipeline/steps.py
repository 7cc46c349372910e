"""From a model that is understood to a choice of what stays, in one step or in several.

With several steps, scores and response curves are measured anew on the network as it is pruned and compensated by then:
what was redundant in the original may not be so any more. Each step says its choice in terms of the first network, and
the result is made from that one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxpfp.allocation.select import Selection
from onnxpfp.arrays import Keep
from onnxpfp.channels import Analysis, ChannelGraph
from onnxpfp.channels.branches import NO_BRANCHES, Branches
from onnxpfp.channels.lineage import Lineage, lineage_of
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.weights import stored_axes_of
from onnxpfp.pipeline.calibration import Calibration, Measured, RefitCalibration
from onnxpfp.pipeline.candidate import Candidate, build_candidate
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.decide import choose
from onnxpfp.pipeline.drift_weights import least_drift
from onnxpfp.pipeline.group_trials import BegunCurves, begin_curves
from onnxpfp.pipeline.ranked_layers import rank_trials
from onnxpfp.pipeline.scoring import calibrate_and_score
from onnxpfp.pipeline.selector import Decision
from onnxpfp.pipeline.shares import asked_of_rest
from onnxpfp.pipeline.swaps import exchanges, with_swaps
from onnxpfp.runtime.heap import trim_heap

__all__ = ["Begun", "begin", "begin_scored", "lift_decision", "measure", "prune_in_steps"]


BOUNDED_ALONE = "several groups lie in it once what costs nothing has gone, and each was bounded alone"
"""Why there is no bound by held-out samples: the probabilities that theirs fail add up."""
DRAWN_ALONE = "several groups lie in it once what costs nothing has gone, and each was drawn alone"
"""Why there is no bound: the probabilities that theirs fail add up."""
TEMPERATURE = 4.0
"""Of the class scores whose divergence sets widths; at 1 the curves of a network that is sure of itself are noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """What was measured on a model that is the same for every share that is asked for.

    Attributes:
        measured: It, without response curves.
        curves: What is known of these; None where they set no widths.
    """

    measured: Measured
    curves: BegunCurves | None

    def towards(self, context: RunContext) -> Measured:
        """Measure the rest that a choice needs to know for a target."""
        if self.curves is None:
            return self.measured
        with context.clock.phase("curves") as progress:
            curves = self.curves.towards(_of_curves(context), self.measured, progress)
        return replace(self.measured, curves=curves)


def begin(context: RunContext, analysis: Analysis, asked: Mapping[int, float]) -> Begun:
    """Measure on a model what is the same for every target of one kind.

    Args:
        context: What is asked for.
        analysis: The model.
        asked: How many channels the user asks of groups, by position.
    """
    with context.clock.phase("calibration"):
        ops = linear_ops(analysis)
        calibration = calibrate_and_score(context, analysis, ops)
    return begin_scored(context, analysis, ops, calibration, asked)


def begin_scored(
    context: RunContext,
    analysis: Analysis,
    ops: tuple[LinearOp, ...],
    calibration: Calibration,
    asked: Mapping[int, float],
) -> Begun:
    """Measure the same on a model whose channels have their scores.

    Args:
        context: As in `begin`.
        analysis: As in `begin`.
        ops: Its linear ops.
        calibration: The scores, and what they were made of.
        asked: As in `begin`.
    """
    measured = _without_curves(context, analysis, ops, calibration, asked)
    if not (_by_curves(context) and isinstance(calibration, RefitCalibration)):
        return Begun(measured, None)
    with context.clock.phase("curves") as progress:
        return Begun(measured, begin_curves(_of_curves(context), measured, calibration, progress, TEMPERATURE))


def measure(context: RunContext, analysis: Analysis, asked: Mapping[int, float]) -> Measured:
    """Measure everything on a model that a choice needs to know; arguments as for `begin`."""
    measured = _with_needed_grams(context, begin(context, analysis, asked).towards(context))
    trim_heap()
    return measured


def _with_needed_grams(context: RunContext, measured: Measured) -> Measured:
    """Forget the Gram matrices, which may take as much as the workspace, if nothing reads them any more.

    Swaps do, and fits without data.
    """
    calibration = measured.calibration
    if not isinstance(calibration, RefitCalibration) or exchanges(context, measured) or context.layerwise:
        return measured
    return replace(measured, calibration=replace(calibration, grams={}))


def _by_curves(context: RunContext) -> bool:
    return context.chooses and context.allocation == "measured"


def _of_curves(context: RunContext) -> RunContext:
    """Return the context of response curves: the widths of fine steps have those of coarse ones among them."""
    return replace(context, alignment=context.candidates[0].alignment) if context.candidates else context


def _without_curves(
    context: RunContext,
    analysis: Analysis,
    ops: tuple[LinearOp, ...],
    calibration: Calibration,
    asked: Mapping[int, float],
) -> Measured:
    """Add to the scores where weights are stored, and what the ranks of layers lose where they are chosen."""
    with context.clock.phase("allocation"):
        stored_axes = stored_axes_of(analysis)
        branches = Branches.of(analysis) if context.may_drop_branches else NO_BRANCHES
    measured = Measured(analysis, ops, calibration, stored_axes, branches=branches, asked=asked)
    if not (_by_curves(context) and isinstance(calibration, RefitCalibration)) or not calibration.setup.rankable:
        return measured
    with context.clock.phase("factors") as progress:
        layers = calibration.setup.rankable
        ranked = rank_trials(_of_curves(context), analysis, layers, calibration.grams, progress)
    return replace(measured, ranked=ranked)


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
    # Where ranks are chosen, the steps follow the choice (`drift_weights.py`).
    steps = context.options.steps if context.chooses and not first.ranked else 1
    lineage = Lineage.unchanged(analysis.graph)
    for step in range(1, steps + 1):
        decision = _decision(_towards(context, step, steps), first, measured, lineage)
        if step == steps:
            decision = least_drift(context, first, decision)
            # Of a network that is smaller by now the Gram matrices are not those of the first.
            decision = with_swaps(context, first, decision) if measured is first else decision
        candidate = build_candidate(context, first, decision)
        if step == steps:
            return decision, candidate
        smaller = context.analyze(candidate.model)
        lineage, graph = lineage_of(analysis.graph, decision.keep, smaller.graph)
        asked = asked_of_rest(first.asked, analysis.graph, lineage, graph)
        # A file has the scores of the first network alone.
        measured = measure(replace(context, scores=None), replace(smaller, graph=graph), asked)
    raise AssertionError


def _decision(context: RunContext, first: Measured, measured: Measured, lineage: Lineage) -> Decision:
    """Choose what stays of the model measured, in terms of the first."""
    with context.clock.phase("allocation"):
        decision = choose(context, measured)
    if measured is first:
        return decision
    return lift_decision(first.analysis.graph, measured.analysis.graph, decision, lineage)


def _towards(context: RunContext, step: int, steps: int) -> RunContext:
    """Return the context with the target of a step: equal factors lead to the last one."""
    options = context.options
    return replace(context, options=options.keeping(options.target[1] ** (step / steps)))


def lift_decision(first: ChannelGraph, graph: ChannelGraph, decision: Decision, lineage: Lineage) -> Decision:
    """Say a choice on a smaller model in terms of the one that it was made from.

    Args:
        first: Channels of the larger model.
        graph: Channels of the smaller one.
        decision: The choice.
        lineage: What the channels of the larger model are in the smaller one.
    """
    keep = lineage.lift(decision.keep)
    owner = np.full(graph.count + 1, -1, np.int64)
    for number, group in enumerate(graph.groups):
        owner[group.channels] = number
    selections: list[Selection | None] = []
    for group in first.groups if decision.selections else ():
        owners = np.unique(owner[lineage.current[group.channels]])
        numbers: list[int] = owners[owners >= 0].tolist()
        chosen = [selection for number in numbers if (selection := decision.selections[number]) is not None]
        selections.append(_joined(chosen, keep[group.channels]))
    return replace(decision, keep=keep, factor=lineage.lift(decision.factor), selections=tuple(selections))


def _joined(chosen: Sequence[Selection], stays: Keep) -> Selection | None:
    """Say as one how a group was selected whose channels lie in several groups of a smaller model.

    One layer may read several of them, so what they do to its sums adds up, and so do the bounds.

    Returns:
        None where nothing of the group was up for selection.
    """
    if not chosen:
        return None
    whole = {"keep": stays, "factor": stays.astype(np.float64)}
    if len(chosen) == 1:
        return replace(chosen[0], **whole)
    worst = max(chosen, key=lambda selection: math.inf if selection.bound is None else selection.bound)
    bounds = [selection.bound for selection in chosen if selection.bound is not None]
    why = next((selection.unbounded for selection in chosen if selection.unbounded), "")
    if sum(selection.draws > 0 for selection in chosen) > 1:
        why = why or DRAWN_ALONE
    errors = [selection.choice_error for selection in chosen if selection.choice_error is not None]
    no_error = next((selection.no_choice_error for selection in chosen if selection.no_choice_error), "")
    if len(errors) > 1:
        no_error = no_error or BOUNDED_ALONE
    return replace(
        worst,
        **whole,
        epsilon=None,
        bound=None if why else sum(bounds),
        unbounded=why,
        total=sum(selection.total for selection in chosen),
        draws=sum(selection.draws for selection in chosen),
        tie_broken=any(selection.tie_broken for selection in chosen),
        choice_error=None if no_error or not errors else errors[0],
        no_choice_error=no_error,
    )
