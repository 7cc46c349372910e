"""What the target counts of a model, as a function of widths and ranks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from onnxpfp.allocation.by_drift import Cost
from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.structure_cost import StructureCost
from onnxpfp.channels import Consumer
from onnxpfp.linear.bias import new_biases
from onnxpfp.pipeline.calibration import Measured, RefitCalibration
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import QUANTITIES, Biases
from onnxpfp.pipeline.selector import Decision
from onnxpfp.pipeline.structure_costs import COUNTS, structure_cost

__all__ = ["added_biases", "cost_after", "cost_of", "cost_with_ranks", "single_cost", "target_cost"]


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


def target_cost(context: RunContext, measured: Measured) -> Cost:
    """Return what the target counts as a function of all widths that are chosen, ranks among them."""
    return cost_with_ranks(context, measured) if measured.ranked else cost_of(context, measured)


def cost_after(context: RunContext, measured: Measured, decision: Decision) -> int:
    """Return what the target counts of what is left by a choice."""
    groups = measured.analysis.graph.groups
    kept = [int(decision.keep[group.channels].sum()) for group in groups]
    if not decision.ranked:
        return cost_of(context, measured).total(np.array(kept, np.int64))
    ranks = {each.output: each.choice.rank for each in decision.ranked}
    kept += [ranks.get(each.output, each.full) for each in measured.ranked]
    return cost_with_ranks(context, measured).total(np.array(kept, np.int64))


def single_cost(context: RunContext, measured: Measured) -> int:
    """Return what the target counts of a model with one channel in every group, whatever options set widths."""
    return cost_of(context, measured).total(np.ones(len(measured.analysis.graph.groups), np.int64))


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
