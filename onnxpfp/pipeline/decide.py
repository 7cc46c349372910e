"""From scores to a choice of channels: how many of each group, and which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxpfp.allocation.by_bound import Demand, allocate_by_bound
from onnxpfp.allocation.by_criterion import widths_by_criterion
from onnxpfp.allocation.by_drift import Cost, ResponseCurve, allocate_by_drift, foreseen_drift
from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.select import Selection, select
from onnxpfp.allocation.structure_cost import StructureCost
from onnxpfp.allocation.uniform import allocate_uniformly
from onnxpfp.allocation.widths import budget_of, nearest_width, unreachable, widths_of
from onnxpfp.arrays import Floats, Ints, Keep
from onnxpfp.channels import ChannelGraph, Consumer, Group
from onnxpfp.channels.branches import NO_BRANCHES, Branches
from onnxpfp.channels.file_axes import file_axes
from onnxpfp.errors import PlanError
from onnxpfp.linear.bias import new_biases
from onnxpfp.linear.weights import StoredAxis, reweightable
from onnxpfp.low_rank.split import RankedLayer
from onnxpfp.options import Options, WidthRule
from onnxpfp.pipeline.calibration import Measured, RefitCalibration
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import QUANTITIES, Biases
from onnxpfp.pipeline.plan import keep_of_plan
from onnxpfp.pipeline.ranked_layers import planned_ranks
from onnxpfp.pipeline.structure_costs import COUNTS, structure_cost
from onnxpfp.runtime.blocks import Alignment
from onnxpfp.score.scores import Scores

__all__ = [
    "Decision",
    "RankRule",
    "Selector",
    "added_biases",
    "choose",
    "cost_after",
    "cost_of",
    "cost_with_ranks",
    "decide",
    "decide_with_ranks",
    "foresee_drift",
    "least_cost",
    "narrowest",
    "selector_of",
    "single_cost",
    "target_cost",
]


RankRule = Literal["measured", "plan"]
"""What set the ranks of layers: measured drift of the output, or a plan."""


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """A choice of channels.

    Attributes:
        keep: Whether each channel stays, by channel id.
        factor: What the consumers' weights are multiplied by, by channel id: 1 where they stay, 0
            where the channel goes.
        selections: How each group was selected; None where nothing of it was up for selection, for what costs nothing
            went before and the rest stays.
        ranked: Layers that become two of low rank.
        ranks_by: What set their ranks.
        rank_weight: What the drift of ranks counted beside that of channels; with 0 all channels stay.
    """

    keep: Keep
    factor: NDArray[np.float64]
    selections: tuple[Selection | None, ...]
    ranked: tuple[RankedLayer, ...] = ()
    ranks_by: RankRule = "plan"
    rank_weight: float = 1.0

    @property
    def chooses_ranks(self) -> bool:
        """Whether layers have ranks that no plan gave."""
        return bool(self.ranked) and self.ranks_by == "measured"

    def takes_the_same(self, other: Decision) -> bool:
        """Tell whether the same channels stay as by another choice, and layers have the same ranks."""
        choices = [[(each.output, each.choice) for each in decision.ranked] for decision in (self, other)]
        return choices[0] == choices[1] and bool((self.keep == other.keep).all())


@dataclass(frozen=True, slots=True, eq=False)
class Selector:
    """Selects the channels of a group at a width.

    Attributes:
        groups: The groups.
        scores: One score per channel.
        scalable: Groups whose consumers' weights can be scaled; the others are selected deterministically.
        options: How to select.
        alignment: The multiples in which channels are kept.
        branches: The groups that may go entirely.
        asked: How many channels the user asks of groups, by position.
    """

    groups: tuple[Group, ...]
    scores: Scores
    scalable: NDArray[np.bool_]
    options: Options
    alignment: Alignment
    branches: Branches = NO_BRANCHES
    asked: Mapping[int, float] = field(default_factory=dict[int, float])

    def select(self, number: int, width: int, rng: np.random.Generator) -> Selection:
        """Select `width` channels of a group."""
        channels, scores = self.groups[number].channels, self.scores
        free = bool(self.scalable[number])
        return select(
            scores.values[channels],
            width,
            how=self.options.select if free and not scores.summed else "deterministic",
            rng=rng,
            n_outputs=int(scores.outputs[number]),
            delta=self.options.delta,
            k=float(scores.constant[number]),
            reweightable=free,
            sensitivities=not scores.summed,
            unbounded=scores.unbounded[number],
            additive=scores.additive,
            tie_break=None if scores.energy is None else scores.energy[channels],
        )

    def decision(self, kept: Sequence[int]) -> Decision:
        """Select the channels of every group, so many of each; none of what only serves groups that go entirely."""
        rng = np.random.default_rng(self.options.seed)
        gone = self.branches.closed([number for number, width in enumerate(kept) if width == 0])
        factor = np.ones(self.scores.values.size)
        selections: list[Selection] = []
        for number, group in enumerate(self.groups):
            selection = self.select(number, 0 if number in gone else kept[number], rng)
            factor[group.channels] = selection.factor
            selections.append(selection)
        return Decision(factor > 0, factor, tuple(selections))

    @property
    def narrowest(self) -> list[int]:
        """The smallest width of every group."""
        return [int(self.widths(number)[0]) for number in range(len(self.groups))]

    def widths(self, number: int) -> Ints:
        """List the widths that a group may have, ascending: one alone where the user sets its share."""
        allowed = widths_of(*self.allowed(number))
        asked = self.asked.get(number)
        return allowed if asked is None else np.array([nearest_width(allowed, asked)], np.int64)

    @property
    def held(self) -> dict[int, int]:
        """The widths of the groups whose shares the user sets, by position."""
        return {number: int(self.widths(number)[0]) for number in self.asked}

    def allowed(self, number: int) -> tuple[int, int, int]:
        """Return the channels of a group, the step of its widths and the fewest that stay."""
        size = int(self.groups[number].channels.size)
        goes = number in self.branches.may_go and number not in self.asked
        fewest = 0 if goes else min(self.options.min_channels, size)
        return size, self.alignment.of_group(size), fewest


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


def cost_of(context: RunContext, measured: Measured) -> CostModel:
    """Return what the target counts, with all layers whole, as a function of the channels."""
    quantity = QUANTITIES[context.options.target[0]]
    biases = partial(added_biases, context, measured)
    model = quantity.model(measured.analysis, context.latencies, biases, measured.branches)
    return replace(model, counts=quantity.counts)


def cost_with_ranks(context: RunContext, measured: Measured) -> StructureCost:
    """Return the same as a function of channels and ranks."""
    count = COUNTS[context.options.target[0]](measured.analysis, context.latencies, context.pairs)
    ranked = [(each.factoring, each.full) for each in measured.ranked]
    return structure_cost(measured.analysis, cost_of(context, measured), count, ranked, measured.branches)


def cost_after(context: RunContext, measured: Measured, decision: Decision) -> int:
    """Return what the target counts of what is left by a choice."""
    groups = measured.analysis.graph.groups
    kept = [int(decision.keep[group.channels].sum()) for group in groups]
    if not decision.ranked:
        return cost_of(context, measured).total(np.array(kept, np.int64))
    ranks = {each.output: each.choice.rank for each in decision.ranked}
    kept += [ranks.get(each.output, each.full) for each in measured.ranked]
    return cost_with_ranks(context, measured).total(np.array(kept, np.int64))


def target_cost(context: RunContext, measured: Measured) -> Cost:
    """Return what the target counts as a function of all widths that are chosen, ranks among them."""
    return cost_with_ranks(context, measured) if measured.ranked else cost_of(context, measured)


def added_biases(context: RunContext, measured: Measured) -> Biases:
    """Return the biases that make up for dropped channels where there was none."""
    if context.compensation == "none":
        return {}
    calibration = measured.calibration
    linear: tuple[Consumer, ...] = measured.analysis.graph.consumers
    of_recurrences: Biases = {}
    if context.compensation == "lstsq" and isinstance(calibration, RefitCalibration) and not context.layerwise:
        # Linear ops that lose no channels may get a bias, too.
        known = {consumer.node for consumer in linear}
        others = (layer.consumer for layer in calibration.setup.problem.layers)
        linear = (*linear, *(consumer for consumer in others if consumer.node not in known))
        recurrences = calibration.setup.problem.recurrences
        of_recurrences = {use: new for layer in recurrences for use, new in layer.new_bias().items()}
    return {**new_biases(measured.analysis, linear), **of_recurrences}


def least_cost(context: RunContext, measured: Measured) -> int:
    """Return what the target counts of a model at its smallest widths."""
    return target_cost(context, measured).total(_least(selector_of(context, measured), measured))


def _least(selector: Selector, measured: Measured) -> Ints:
    """Return the smallest widths, then the smallest ranks, (G + L,)."""
    ranks = [each.allowed(selector.alignment)[2] for each in measured.ranked]
    return np.array([*selector.narrowest, *ranks], np.int64)


def single_cost(context: RunContext, measured: Measured) -> int:
    """Return what the target counts of a model with one channel in every group, whatever options set widths."""
    return cost_of(context, measured).total(np.ones(len(measured.analysis.graph.groups), np.int64))


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


def decide_with_ranks(
    context: RunContext, measured: Measured, weights: Floats | None = None, of_ranks: float = 1.0
) -> Decision:
    """Choose widths and ranks as one; a rank that saves nothing at the widths chosen leaves its layer whole.

    Args:
        context: What is asked for.
        measured: The model.
        weights: What the drifts of groups and layers count, (G + L,), infinite for those that stay whole; None is 1.
        of_ranks: What those of layers count beside those of groups, for the report.

    Raises:
        TargetUnreachableError: The target cannot be met.
    """
    cost, selector = cost_with_ranks(context, measured), selector_of(context, measured)
    curves = _curves(selector, measured)
    if weights is not None:
        curves = [curve.times(weight) for curve, weight in zip(curves, weights.tolist(), strict=True)]
    kept = allocate_by_drift(curves, cost, context.options.target[1], context.full)
    return replace(_with_ranks(cost, measured, selector, kept), rank_weight=of_ranks)


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


def selector_of(context: RunContext, measured: Measured) -> Selector:
    """Return what selects the channels of this model's groups."""
    graph = measured.analysis.graph
    scalable = reweightable(graph, measured.stored_axes)
    scores, branches = measured.calibration.scores, measured.branches
    return Selector(graph.groups, scores, scalable, context.options, context.alignment, branches, measured.asked)
