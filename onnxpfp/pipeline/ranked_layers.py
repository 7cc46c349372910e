"""Layers whose ranks are chosen beside the channels: which, at which ranks they are tried, and what a plan says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxpfp.allocation.widths import grid
from onnxpfp.arrays import Keep
from onnxpfp.channels import Analysis
from onnxpfp.channels.name_patterns import Patterns, nodes_left_out
from onnxpfp.errors import PlanError
from onnxpfp.low_rank.layers import LowRankLayer, low_rank_layers
from onnxpfp.low_rank.ranks import Choice, RankCurve
from onnxpfp.low_rank.split import RankedLayer
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import full_widths
from onnxpfp.pipeline.pair_ops import Factoring, layer_axis
from onnxpfp.pipeline.plan import Plan
from onnxpfp.pipeline.products import assemble
from onnxpfp.pipeline.rank_candidates import rank_candidate
from onnxpfp.pipeline.structure_costs import COUNTS, LayerCount, layer_terms
from onnxpfp.progress import Count
from onnxpfp.refit.gram import Gram
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.rank_trials import RankTrial
from onnxpfp.runtime.blocks import Alignment
from onnxpfp.runtime.workers import workers

__all__ = ["RankedTrial", "planned_ranks", "rank_trials", "rankable_layers", "ranked_layers"]


@dataclass(frozen=True, slots=True, eq=False)
class RankedTrial:
    """A layer whose rank is chosen beside the channels.

    Attributes:
        layer: The layer.
        trial: It at the ranks at which it may be tried.
    """

    layer: LowRankLayer
    trial: RankTrial

    @property
    def output(self) -> str:
        """Name of its op's output."""
        return self.layer.uses[0].output

    @property
    def factoring(self) -> Factoring:
        """It, and how its kernel is divided."""
        return Factoring(self.layer, self.trial.curve.cut)

    @property
    def full(self) -> int:
        """What stands for the whole layer."""
        return len(self.trial.curve.errors)

    def allowed(self, alignment: Alignment) -> tuple[int, int, int]:
        """Return what stands for the whole layer, the step of its ranks and the least: as `Selector.allowed`."""
        step = alignment.of_group(self.full - 1)
        return self.full, step, step

    def fits(self, analysis: Analysis, keep: Keep, rank: int) -> bool:
        """Tell whether what stays of it can have a rank."""
        return rank <= _highest_rank(self.layer, self.trial.curve.cut, _sides(analysis, keep, self.layer.weight))

    def at(self, rank: int) -> RankedLayer:
        """Return it at a rank."""
        curve = self.trial.curve
        return RankedLayer(self.layer, Choice(curve.cut, rank), 1.0 - float(curve.errors[rank]))


def ranked_layers(
    context: RunContext, analysis: Analysis, problem: RefitProblem
) -> tuple[tuple[LowRankLayer, RefitLayer], ...]:
    """List the layers whose ranks are chosen beside the channels: those that a refit can bring to a rank."""
    if not context.options.ranked:
        return ()
    refitted = {layer.output: layer for layer in problem.layers}
    known = ((layer, refitted.get(layer.uses[0].output)) for layer in rankable_layers(context, analysis))
    return tuple((layer, refit) for layer, refit in known if refit is not None)


def rankable_layers(context: RunContext, analysis: Analysis) -> tuple[LowRankLayer, ...]:
    """List the layers that may get a rank beside the channels, as far as the network tells it.

    A layer has weights of its own, one convolution group, and lengths that channels leave alone; patterns say which
    nodes may change. Only those of the main graph are in question.
    """
    source = analysis.source
    if source.place:
        return ()
    patterns = Patterns(context.options.include, context.options.exclude, source.names)
    layers = _with_own_weights(analysis, nodes_left_out(source.model.graph, patterns))
    return tuple(layer for layer in layers if _has_own_lengths(analysis, layer))


def _with_own_weights(analysis: Analysis, kept: Mapping[str, str]) -> Iterator[LowRankLayer]:
    """Yield the layers of one op, in one convolution group, whose weights are stored as it reads them."""
    layers, _ = low_rank_layers(analysis, "auto", kept)
    for layer in layers:
        if len(layer.uses) == 1 and layer.uses[0].op.group == 1 and layer.weight in analysis.constants.stored:
            yield layer


def _has_own_lengths(analysis: Analysis, layer: LowRankLayer) -> bool:
    """Tell whether the only lengths of its op that channels change are those of its inputs and outputs."""
    axes, use = analysis.graph.axes, layer.uses[0]
    ends = {(use.op.data, use.op.axis), (use.output, layer_axis(analysis, layer))}
    others = [
        ids for name in (use.op.data, use.output) for axis, ids in enumerate(axes[name]) if (name, axis) not in ends
    ]
    return not any(ids.any() for ids in others)


def planned_ranks(analysis: Analysis, plan: Plan, keep: Keep) -> tuple[RankedLayer, ...]:
    """Return the layers that a plan gives a rank.

    Args:
        analysis: The network.
        plan: The plan.
        keep: Whether each channel stays by it.

    Raises:
        PlanError: The model has no such layer, or what stays of it cannot have that rank.
    """
    layers = {layer.weight: layer for layer in _with_own_weights(analysis, {})}
    ranked: list[RankedLayer] = []
    for weight, choice in plan.ranks.items():
        layer = layers.get(weight)
        if layer is None or choice.cut not in layer.cuts:
            raise PlanError(
                f"the plan gives the weight '{weight}' a rank, which the model does not have or cannot factor so",
                hint="replay a plan on the network it was made for, with the same weight names",
            )
        highest = _highest_rank(layer, choice.cut, _sides(analysis, keep, weight))
        if choice.rank > highest:
            raise PlanError(
                f"the plan gives the weight '{weight}' rank {choice.rank}, but what it keeps of it has at most "
                f"{highest}",
                hint="the plan is of another network, or was edited by hand",
            )
        ranked.append(RankedLayer(layer, choice))
    return tuple(ranked)


def _sides(analysis: Analysis, keep: Keep, weight: str) -> list[int]:
    """Return what stays of the first two axes of a weight."""
    return [int(keep[ids].sum()) for ids in analysis.graph.axes[weight][:2]]


def _highest_rank(layer: LowRankLayer, cut: int, shape: Sequence[int]) -> int:
    """Return the smaller side of the matrix that is factored; a matrix product has the same one either way round."""
    outputs, inputs = shape
    return min(outputs * math.prod(layer.kernel[cut:]), inputs * math.prod(layer.kernel[:cut]))


def rank_trials(
    context: RunContext,
    analysis: Analysis,
    layers: Sequence[tuple[LowRankLayer, RefitLayer]],
    grams: Mapping[str, Gram],
    progress: Count,
) -> tuple[RankedTrial, ...]:
    """Find what every rank of the layers loses, by the scheme that loses less at half of the multiply-adds.

    With a target of latency it is the scheme that loses less at half of the layer's latency, and a layer is left out if
    no rank of any is foreseen to be faster than it is whole.

    Args:
        context: How to prune.
        analysis: The network.
        layers: As `ranked_layers` gives them.
        grams: What ops read, by output.
        progress: Told how many layers are done, of how many.
    """
    quantity = context.options.target[0]
    by_latency = quantity == "latency"
    count = COUNTS[quantity](analysis, context.latencies, context.pairs)

    def of(pair: tuple[LowRankLayer, RefitLayer]) -> RankedTrial | None:
        layer, refit = pair
        seen = [grams[refit.output]] if refit.output in grams else []
        candidate = rank_candidate(analysis, layer, seen, context.alignment)
        if isinstance(candidate, str) or candidate.moments is None:
            return None
        half = {curve.cut: layer.macs // 2 // curve.macs for curve in candidate.curves.curves}
        curves = candidate.curves.curves
        if by_latency:
            faster = [_faster(context, analysis, count, layer, curve) for curve in curves]
            curves = tuple(curve for curve, _ in faster)
            half = {curve.cut: rank for curve, rank in faster}
        curves = [curve for curve in curves if len(curve.ranks)]
        if not curves:
            return None
        curve = min(curves, key=lambda curve: curve.errors[min(half[curve.cut], len(curve.errors) - 1)])
        full = len(curve.errors)
        ranks = tuple(grid(full, curve.step, curve.step).tolist())
        return RankedTrial(layer, RankTrial(refit, layer.kernel, curve, ranks, candidate.moments)) if ranks else None

    trials: list[RankedTrial] = []
    with workers(context.options.threads) as helpers:
        for done, trial in enumerate(helpers.in_order(of, layers), 1):
            if trial is not None:
                trials.append(trial)
            progress(done, len(layers))
    return tuple(trials)


def _faster(
    context: RunContext, analysis: Analysis, count: LayerCount, layer: LowRankLayer, curve: RankCurve
) -> tuple[RankCurve, int]:
    """Cut the curve of a layer to the ranks at which it is foreseen to be faster with all channels than it is whole.

    Narrower layers gain less by a rank.

    Returns:
        The curve, and the largest rank that takes no more than half of the layer's latency.
    """
    factoring = Factoring(layer, curve.cut)
    if factoring.key not in context.pairs.ops:
        return replace(curve, errors=curve.errors[:1]), 0
    counted = count(factoring)
    ranks, widths = np.arange(len(curve.errors)), full_widths(analysis)
    whole = assemble(analysis.graph, counted.whole).total(widths)
    terms = layer_terms(analysis.graph, [counted.pair])
    costs = terms.over(terms.model.terms_at(widths)[:, None], ranks[None], 1)[0]
    errors = curve.errors[: 1 + int(ranks[costs < whole].max(initial=0))]
    step = context.alignment.of_group(max(len(errors) - 1, 1))
    return replace(curve, errors=errors, step=step), int(ranks[2 * costs <= whole].max(initial=0))
