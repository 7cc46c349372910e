"""From scores to a choice of channels: how many of each group, and which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxpfp.allocation.by_bound import Demand, allocate_by_bound
from onnxpfp.allocation.by_criterion import widths_by_criterion
from onnxpfp.allocation.by_drift import ResponseCurve, allocate_by_drift, foreseen_drift
from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.structure_cost import StructureCost
from onnxpfp.allocation.uniform import allocate_uniformly
from onnxpfp.allocation.widths import budget_of, unreachable, widths_of
from onnxpfp.arrays import Floats, Ints
from onnxpfp.channels import ChannelGraph
from onnxpfp.channels.file_axes import file_axes
from onnxpfp.errors import PlanError
from onnxpfp.linear.weights import StoredAxis
from onnxpfp.options import WidthRule
from onnxpfp.pipeline.calibration import Measured
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.plan import keep_of_plan
from onnxpfp.pipeline.ranked_layers import planned_ranks
from onnxpfp.pipeline.selector import Decision, Selector, selector_of
from onnxpfp.pipeline.target_cost import cost_of, cost_with_ranks, target_cost

__all__ = [
    "AS_MEASURED",
    "DriftWeights",
    "choose",
    "decide",
    "decide_with_ranks",
    "foresee_drift",
    "least_cost",
    "narrowest",
]


def choose(context: RunContext, measured: Measured) -> Decision:
    """Find what stays of a model: what a plan says, everything, or what the budget and the scores leave.

    Raises:
        PlanError: The plan does not fit this model.
        TargetUnreachableError: The target cannot be met.
    """
    graph = measured.analysis.graph
    if context.plan is not None:
        keep, factor = keep_of_plan(measured.analysis, file_axes(measured.analysis), context.plan)
        _refuse_unscalable(graph, measured.stored_axes, np.where(keep, factor, 1.0))
        ranked = planned_ranks(measured.analysis, context.plan, keep)
        return Decision(keep, np.where(keep, factor, 0.0), (), ranked)
    if not context.chooses:
        return Decision(graph.keep_all(), np.ones(graph.count + 1), ())
    selector = selector_of(context, measured)
    if measured.ranked:
        return decide_with_ranks(context, measured)
    return decide(selector, cost_of(context, measured), context.allocation, _curves(selector, measured), context.full)


def decide(
    selector: Selector,
    cost: CostModel,
    rule: WidthRule,
    curves: Sequence[ResponseCurve] = (),
    reference: int | None = None,
) -> Decision:
    """Allocate the budget over the groups and select the channels of each.

    Args:
        selector: Groups, scores and options.
        cost: What the target counts.
        rule: What sets the widths.
        curves: The groups' response curves, for the rule "measured".
        reference: The full cost that the target is a share of, where pruning adds to the cost.

    Raises:
        TargetUnreachableError: The target cannot be met.
    """
    options, numbers = selector.options, range(len(selector.groups))
    share = options.target[1]
    if rule == "measured":
        kept = allocate_by_drift(curves, cost, share, reference).tolist()
    elif rule == "criterion":
        stay = selector.scores.widths
        free = {
            number: widths_by_criterion([selector.widths(number)], [stay[number]])[0]
            for number in numbers
            if number not in selector.asked
        }
        kept = [(free | selector.held)[number] for number in numbers]
    elif rule == "uniform":
        kept = allocate_uniformly([selector.widths(number) for number in numbers], cost, share, reference).tolist()
    else:
        kept = _by_bound(selector, cost, reference)
    return selector.decision(kept)


def _by_bound(selector: Selector, cost: CostModel, reference: int | None) -> tuple[int, ...]:
    """Give all groups one error bound, or the sum of what they drop of other scores."""
    options, scores, held = selector.options, selector.scores, selector.held
    demands: list[Demand] = []
    for number, group in enumerate(selector.groups):
        if number in held:
            continue
        _, step, minimum = selector.allowed(number)
        consumers = 1 if scores.summed else len(group.consumers)
        weight, values = float(scores.weight[number]), scores.values[group.channels]
        if scores.additive and values.any():
            # Outputs of different layers have different units; shares of what each can lose compare.
            values, consumers = values / values.sum(), 1
        demands.append(Demand(values, weight, minimum, step, consumers))
    # The bound of the selection that will be made decides; auto ends deterministic practically always.
    rule = "draws" if options.select in {"sampled", "mixed"} else "bound"
    if reference is None:
        reference = cost.total(np.array([group.channels.size for group in selector.groups], np.int64))
    least = cost.total(np.array(selector.narrowest, np.int64))
    if held and least > budget_of(options.target[1], reference):
        single = cost.total(np.ones(cost.n_groups, np.int64))
        raise unreachable(cost.counts, options.target[1], least, reference, single)
    found = iter(allocate_by_bound(demands, cost.holding(held), options.target[1], rule, reference).kept)
    return tuple(held[number] if number in held else next(found) for number in range(len(selector.groups)))


@dataclass(frozen=True, slots=True, eq=False)
class DriftWeights:
    """How the measured drifts of groups and layers count.

    Attributes:
        factors: What each is multiplied by, (G + L,) or one number; infinite for those that stay whole.
        of_ranks: What those of layers count beside those of groups, for the report.
        power: Of the drifts.
        free_streams: Whether groups that are read at several depths are cut as others.
    """

    factors: Floats | float = 1.0
    of_ranks: float = 1.0
    power: float = 1.0
    free_streams: bool = False

    def counted(self, curves: Sequence[ResponseCurve]) -> list[ResponseCurve]:
        """Return curves as they count."""
        factors = np.broadcast_to(self.factors, len(curves)).tolist()
        counted = [curve.raised(self.power).times(factor) for curve, factor in zip(curves, factors, strict=True)]
        return [curve.free for curve in counted] if self.free_streams else counted


AS_MEASURED = DriftWeights()


def decide_with_ranks(context: RunContext, measured: Measured, weights: DriftWeights = AS_MEASURED) -> Decision:
    """Choose widths and ranks as one; a rank that saves nothing at the widths chosen leaves its layer whole.

    Args:
        context: What is asked for.
        measured: The model.
        weights: How drifts count.

    Raises:
        TargetUnreachableError: The target cannot be met.
    """
    cost, selector = cost_with_ranks(context, measured), selector_of(context, measured)
    curves = weights.counted(_curves(selector, measured))
    kept = allocate_by_drift(curves, cost, context.options.target[1], context.full)
    return replace(_with_ranks(cost, measured, selector, kept), rank_weight=weights.of_ranks)


def _with_ranks(cost: StructureCost, measured: Measured, selector: Selector, kept: Ints) -> Decision:
    """Select channels, and give the layers their ranks that cost less so; widths, then ranks, (G + L,)."""
    decision = selector.decision(kept[: len(selector.groups)].tolist())
    pairs = zip(measured.ranked, kept[len(selector.groups) :].tolist(), cost.saves(kept), strict=True)
    ranked = tuple(
        each.at(rank) for each, rank, saves in pairs if saves and each.fits(measured.analysis, decision.keep, rank)
    )
    return replace(decision, ranked=ranked, ranks_by="measured")


def narrowest(context: RunContext, measured: Measured) -> Decision:
    """Choose the least of everything."""
    selector = selector_of(context, measured)
    if not measured.ranked:
        return selector.decision(selector.narrowest)
    return _with_ranks(cost_with_ranks(context, measured), measured, selector, _least(selector, measured))


def least_cost(context: RunContext, measured: Measured) -> int:
    """Return what the target counts of a model at its smallest widths."""
    return target_cost(context, measured).total(_least(selector_of(context, measured), measured))


def _least(selector: Selector, measured: Measured) -> Ints:
    """Return the smallest widths, then the smallest ranks, (G + L,)."""
    ranks = [each.allowed(selector.alignment)[2] for each in measured.ranked]
    return np.array([*selector.narrowest, *ranks], np.int64)


def foresee_drift(context: RunContext, measured: Measured) -> float:
    """Return what the widths do by the response curves that these curves set.

    Raises:
        TargetUnreachableError: The target cannot be met.
    """
    curves = _curves(selector_of(context, measured), measured)
    kept = allocate_by_drift(curves, target_cost(context, measured), context.options.target[1], context.full)
    return foreseen_drift(curves, kept)


def _curves(selector: Selector, measured: Measured) -> list[ResponseCurve]:
    """Return the response curves at the widths and ranks that may be chosen; none where another rule sets these."""
    if not measured.curves:
        return []
    allowed = [selector.widths(number) for number in range(len(selector.groups))]
    allowed += [widths_of(*each.allowed(selector.alignment)) for each in measured.ranked]
    return [curve.at(widths) for widths, curve in zip(allowed, measured.curves, strict=True)]


def _refuse_unscalable(
    graph: ChannelGraph, stored_axes: tuple[StoredAxis | None, ...], scale: NDArray[np.float64]
) -> None:
    """Make sure that every factor of a plan has a weight to go into."""
    for consumer, stored_axis in zip(graph.consumers, stored_axes, strict=True):
        if stored_axis is None and (scale[consumer.channels] != 1).any():
            raise PlanError(
                f"the plan scales weights of {consumer.op} '{consumer.name}', which cannot be scaled in this model",
                hint="make a plan with --select deterministic",
            )
