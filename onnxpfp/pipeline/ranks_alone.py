"""Ranks alone, where every channel stays: what the choice of widths and ranks is held against, for more effort.

The ranks are those of `onnxpfp factorize`: what is lost of the outputs' variance sets them, layer by layer, and not the
measured drift of the output. Where few channels are worth going, that is the better choice: ResNet-20 at 0.7 of the
multiply-adds keeps 91.4 in place of 91.0 %. Which one is can be seen on the tuning samples once both are refitted.
"""

from __future__ import annotations

from dataclasses import replace

from onnxpfp.allocation.widths import budget_of
from onnxpfp.low_rank.ranks import LayerCurves, ranks_for_macs
from onnxpfp.pipeline.calibration import Measured
from onnxpfp.pipeline.candidate import Candidate, build_candidate
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import full_widths
from onnxpfp.pipeline.decide import Decision, cost_with_ranks, selector_of

__all__ = ["better_with_ranks_alone"]


def better_with_ranks_alone(
    context: RunContext, measured: Measured, decision: Decision, candidate: Candidate
) -> tuple[Decision, Candidate]:
    """Return a choice of widths and ranks and what it leaves, or ranks alone where these drift less.

    Args:
        context: What is asked for; with the least effort, or a target of latency, nothing else is tried.
        measured: The model.
        decision: The choice.
        candidate: What it leaves.
    """
    split, options = context.data.split, context.options
    # Of two files only one was measured to be as fast as was asked.
    if options.effort == "low" or options.target[0] == "latency" or not measured.ranked or split is None:
        return decision, candidate
    other = _ranks_alone(context, measured)
    if other is None or not other.ranked:
        return decision, candidate
    built = build_candidate(context, measured, other)
    evaluator = context.evaluator(split.tuning, held_out=False)
    with context.clock.phase("search") as progress:
        one, two = (evaluator.drift(each.model, progress).relative_error for each in (candidate, built))
    if one is None or two is None or not two < one:
        return decision, candidate
    return other, built


def _ranks_alone(context: RunContext, measured: Measured) -> Decision | None:
    """Choose ranks that lose least of the outputs' variance, with all channels; None where they cannot do it alone."""
    cost, widths = cost_with_ranks(context, measured), full_widths(measured.analysis)
    wholes, units = (costs.tolist() for costs in cost.costs_of_layers(widths))
    layers = [
        LayerCurves(whole, (replace(each.trial.curve, macs=unit),))
        for each, whole, unit in zip(measured.ranked, wholes, units, strict=True)
    ]
    rest = cost.network.total(widths) - sum(layer.macs for layer in layers)
    chosen = ranks_for_macs(layers, budget_of(context.options.target[1], context.full) - rest)
    if chosen is None:
        return None
    pairs = zip(measured.ranked, chosen, strict=True)
    ranked = tuple(each.at(choice.rank) for each, choice in pairs if choice is not None)
    return replace(selector_of(context, measured).decision(widths.tolist()), ranked=ranked, ranks_by="variance")
