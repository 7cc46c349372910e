"""From scores to a choice of channels: how many of each group, and which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.budget.allocate import Demand, allocate
from onnxpfp.budget.cost import CostModel
from onnxpfp.channels import ChannelGraph, Group, Keep
from onnxpfp.config import Options
from onnxpfp.errors import PlanError
from onnxpfp.model.measure import count_params
from onnxpfp.pipeline.cost import mac_model, param_model
from onnxpfp.pipeline.gather import Evidence
from onnxpfp.pipeline.prepare import Prepared
from onnxpfp.plan import Plan, keep_of_plan
from onnxpfp.rewrite.compensate import new_biases
from onnxpfp.rewrite.weights import StoredAxis, reweightable
from onnxpfp.score.types import Scores
from onnxpfp.select import Selection, select

__all__ = ["Decision", "choose", "decide"]


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """A choice of channels.

    Attributes:
        keep: Whether each channel stays, by channel id.
        factor: What the consumers' weights are multiplied by, by channel id: 1 where they stay, 0
            where the channel goes.
        selections: How each group was selected.
    """

    keep: Keep
    factor: NDArray[np.float64]
    selections: tuple[Selection, ...]


def decide(
    groups: tuple[Group, ...],
    scores: Scores,
    cost: CostModel,
    scalable: NDArray[np.bool_],
    options: Options,
    reference: int | None = None,
) -> Decision:
    """Allocate the budget over the groups and select the channels of each.

    Args:
        groups: The groups.
        scores: One score per channel.
        cost: What the target counts.
        scalable: Groups whose consumers' weights can be scaled; the others are selected
            deterministically.
        options: Target, selection, rounding.
        reference: The full cost that the target is a share of, where pruning adds to the cost.

    Raises:
        TargetUnreachableError: The target cannot be met.
    """
    energy = scores.method == "energy"
    demands = [
        Demand(
            scores=scores.values[group.channels],
            weight=float(scores.weight[number]),
            # An energy is a sum over the consumers already; a sensitivity is the largest of them.
            consumers=1 if energy else len(group.consumers),
            minimum=min(options.min_channels, group.channels.size),
            step=options.step(group.channels.size),
        )
        for number, group in enumerate(groups)
    ]
    # The bound of the selection that will be made decides; auto ends deterministic practically always.
    rule = "draws" if options.select in {"sampled", "mixed"} else "bound"
    allocation = allocate(demands, cost, options.target[1], rule, reference)
    rng = np.random.default_rng(options.seed)
    factor = np.ones(scores.values.size)
    selections: list[Selection] = []
    for number, group in enumerate(groups):
        free = bool(scalable[number])
        selection = select(
            scores.values[group.channels],
            allocation.kept[number],
            how=options.select if free and not energy else "deterministic",
            rng=rng,
            n_outputs=int(scores.outputs[number]),
            delta=options.delta,
            reweightable=free,
            sensitivity=scores.sensitivity[group.channels],
            tie_break=None if scores.energy is None else scores.energy[group.channels],
        )
        factor[group.channels] = selection.factor
        selections.append(selection)
    return Decision(factor > 0, factor, tuple(selections))


def _refuse_unscalable(graph: ChannelGraph, places: tuple[StoredAxis | None, ...], scale: NDArray[np.float64]) -> None:
    """Make sure that every factor of a plan has a weight to go into."""
    for consumer, place in zip(graph.consumers, places, strict=True):
        if place is None and (scale[consumer.channels] != 1).any():
            raise PlanError(
                f"the plan scales weights of {consumer.op} '{consumer.name}', which cannot be scaled in this model",
                hint="make a plan with --select deterministic",
            )


def choose(
    prepared: Prepared,
    evidence: Evidence,
    places: tuple[StoredAxis | None, ...],
    options: Options,
    plan: Plan | None,
) -> Decision:
    """Find what stays: what a plan says, everything, or what the budget and the scores leave.

    Raises:
        PlanError: The plan does not fit this model.
        TargetUnreachableError: The target cannot be met.
    """
    graph = prepared.graph
    if plan is not None:
        keep, factor = keep_of_plan(graph, plan)
        _refuse_unscalable(graph, places, np.where(keep, factor, 1.0))
        return Decision(keep, np.where(keep, factor, 0.0), ())
    if options.target[1] == 1:
        return Decision(graph.keep_all(), np.ones(graph.count + 1), ())
    assert evidence.scores is not None
    model, reference = prepared.source.model, None
    if options.target[0] == "macs":
        cost = mac_model(model, graph, prepared.shapes)
    else:
        folds = evidence.statistics is not None and options.compensate != "none"
        reference = count_params(model)
        cost = param_model(graph, new_biases(model, graph, prepared.constants) if folds else ())
    return decide(graph.groups, evidence.scores, cost, reweightable(graph, places), options, reference)
