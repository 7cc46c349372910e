"""Layers that may get a low rank: what every rank loses of their outputs, by what they read in the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.linalg import LinAlgError

from onnxpfp.allocation.widths import grid
from onnxpfp.arrays import Floats
from onnxpfp.channels import Analysis
from onnxpfp.channels.name_patterns import Patterns, nodes_left_out
from onnxpfp.errors import PlanError
from onnxpfp.low_rank.factor import decompose
from onnxpfp.low_rank.layers import LowRankLayer, low_rank_layers
from onnxpfp.low_rank.moments import InputMoments
from onnxpfp.low_rank.ranks import Choice, LayerCurves, RankCurve
from onnxpfp.low_rank.split import RankedLayer
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.plan import Plan
from onnxpfp.progress import Count
from onnxpfp.refit.gram import Gram
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.rank_trials import RankTrial
from onnxpfp.runtime.blocks import Alignment
from onnxpfp.runtime.workers import workers

__all__ = ["RankCandidate", "RankedTrial", "planned_ranks", "rank_candidate", "rank_trials", "ranked_layers"]

TINY = 1e-6
"""Share of an energy that sums of float32 products make of a variance that is none."""


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
    def allowed(self) -> tuple[int, int, int]:
        """What stands for the whole layer, the step of its ranks and the least: as `Selector.allowed` of a group."""
        curve = self.trial.curve
        return len(curve.errors), curve.step, curve.step

    def at(self, rank: int) -> RankedLayer:
        """Return it at a rank."""
        curve = self.trial.curve
        return RankedLayer(self.layer, Choice(curve.cut, rank), 1.0 - float(curve.errors[rank]))


@dataclass(frozen=True, slots=True, eq=False)
class RankCandidate:
    """A layer, and what can become of it.

    Attributes:
        layer: The layer.
        moments: What it reads; None without data.
        means: The means of its columns, (g, c k), where its bias can change; else None.
        scale: Energy of its outputs over their variance, where the bias cannot change: errors are shares of the
            variance, for what is the same in all outputs says nothing.
        curves: Its choices.
    """

    layer: LowRankLayer
    moments: InputMoments | None
    means: Floats | None
    scale: float
    curves: LayerCurves


def rank_candidate(
    analysis: Analysis, layer: LowRankLayer, grams: Sequence[Gram] | None, alignment: Alignment
) -> RankCandidate | str:
    """Return a layer with its choices, or why it stays.

    Args:
        analysis: The network.
        layer: The layer.
        grams: What its ops read, as far as that is finite; None decides by the weights alone.
        alignment: The multiples in which ranks are taken.
    """
    weights = layer.weights(analysis)
    if not np.isfinite(weights).all() or not weights.any():
        return "its weights are zero, or not all of them are numbers"
    moments: InputMoments | None = None
    means: Floats | None = None
    scale = 1.0
    if grams is not None:
        if len(grams) < len(layer.uses):
            return "what it reads is not finite on the samples"
        moments, spread = _moments(layer, grams)
        means = None if layer.uses[0].bias is None else grams[0].mean
        energy, variance = (float(each.energy(weights).sum()) for each in (moments, spread))
        if not variance > TINY * energy:
            return "its outputs do not vary over the samples"
        scale = energy / variance
    try:
        curves = tuple(_curves(layer, weights, moments, scale, alignment))
    except LinAlgError:
        return "what one of its groups reads does not vary over the samples"
    return RankCandidate(layer, moments, means, scale, LayerCurves(layer.macs, curves))


def _moments(layer: LowRankLayer, grams: Sequence[Gram]) -> tuple[InputMoments, InputMoments]:
    """Put together what the ops of a layer read: the moments by which errors count, and those by which outputs vary.

    The first are the second where a bias can change, so that a constant is no error.
    """
    groups, count = range(len(grams[0].uu)), sum(gram.count for gram in grams)
    varying = sum(np.stack([gram.covariance(group) for group in groups]) * (gram.count / count) for gram in grams)
    spread = InputMoments(np.asarray(varying), grams[0].taps)
    if layer.uses[0].bias is not None:
        return spread, spread
    return InputMoments(np.asarray(sum(gram.uu for gram in grams) / count), grams[0].taps), spread


def _curves(
    layer: LowRankLayer, weights: Floats, moments: InputMoments | None, scale: float, alignment: Alignment
) -> Iterator[RankCurve]:
    for cut in layer.cuts:
        macs = layer.macs_of_rank(cut)
        most = (layer.macs - 1) // macs
        if most > 0:
            errors = scale * decompose(weights, cut, moments, most).errors
            yield RankCurve(cut, macs, errors, alignment.of_group(len(errors) - 1))


def ranked_layers(
    context: RunContext, analysis: Analysis, problem: RefitProblem
) -> list[tuple[LowRankLayer, RefitLayer]]:
    """List the layers whose ranks are chosen beside the channels: those that a refit can bring to a rank.

    A layer has weights of its own, one convolution group, and lengths that channels leave alone; patterns say which
    nodes may change. Only those of the main graph are in question.
    """
    source = analysis.source
    if not context.options.ranked or source.place:
        return []
    patterns = Patterns(context.options.include, context.options.exclude, source.names)
    layers, _ = low_rank_layers(analysis, "auto", nodes_left_out(source.model.graph, patterns))
    refitted = {layer.output: layer for layer in problem.layers}
    alone = ((layer, refitted.get(layer.uses[0].output)) for layer in layers if len(layer.uses) == 1)
    return [(layer, refit) for layer, refit in alone if refit is not None and _is_plain(analysis, layer, refit)]


def _is_plain(analysis: Analysis, layer: LowRankLayer, refit: RefitLayer) -> bool:
    """Tell whether the only lengths of a layer that channels change are those of its inputs and outputs."""
    axes, op = analysis.graph.axes, refit.op
    ends = {(op.data, op.axis), (refit.output, refit.axis)}
    others = [
        ids for name in (op.data, refit.output) for axis, ids in enumerate(axes[name]) if (name, axis) not in ends
    ]
    return op.group == 1 and layer.weight in analysis.constants.stored and not any(ids.any() for ids in others)


def planned_ranks(analysis: Analysis, plan: Plan) -> tuple[RankedLayer, ...]:
    """Return the layers that a plan gives a rank.

    Raises:
        PlanError: The model has no such layer, or it cannot have that rank.
    """
    stored = analysis.constants.stored
    layers = {
        layer.weight: layer
        for layer in low_rank_layers(analysis, "auto", {})[0]
        if len(layer.uses) == 1 and layer.weight in stored
    }
    ranked: list[RankedLayer] = []
    for weight, choice in plan.ranks.items():
        layer = layers.get(weight)
        if layer is None or choice.cut not in layer.cuts:
            raise PlanError(
                f"the plan gives the weight '{weight}' a rank, which the model does not have or cannot factor so",
                hint="replay a plan on the network it was made for, with the same weight names",
            )
        ranked.append(RankedLayer(layer, choice))
    return tuple(ranked)


def rank_trials(
    context: RunContext,
    analysis: Analysis,
    layers: Sequence[tuple[LowRankLayer, RefitLayer]],
    grams: Mapping[str, Gram],
    progress: Count,
) -> tuple[RankedTrial, ...]:
    """Find what every rank of the layers loses, by the scheme that loses less at half of the multiply-adds.

    Args:
        context: How to prune.
        analysis: The network.
        layers: As `ranked_layers` gives them.
        grams: What ops read, by output.
        progress: Told how many layers are done, of how many.
    """

    def of(pair: tuple[LowRankLayer, RefitLayer]) -> RankedTrial | None:
        layer, refit = pair
        seen = [grams[refit.output]] if refit.output in grams else []
        candidate = rank_candidate(analysis, layer, seen, context.alignment)
        if isinstance(candidate, str) or candidate.moments is None:
            return None
        curves = [curve for curve in candidate.curves.curves if len(curve.ranks)]
        if not curves:
            return None
        curve = min(curves, key=lambda curve: curve.errors[min(layer.macs // 2 // curve.macs, len(curve.errors) - 1)])
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
