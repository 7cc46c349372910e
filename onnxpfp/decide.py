"""From scores to a choice of channels: how many of each group, and which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.budget.allocate import Demand, allocate
from onnxpfp.budget.cost import CostModel
from onnxpfp.channels import Group, Keep
from onnxpfp.config import Options
from onnxpfp.score.types import Scores
from onnxpfp.select import Selection, select

__all__ = ["Decision", "decide"]


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
    reweightable: NDArray[np.bool_],
    options: Options,
    reference: int | None = None,
) -> Decision:
    """Allocate the budget over the groups and select the channels of each.

    Args:
        groups: The groups.
        scores: One score per channel.
        cost: What the target counts.
        reweightable: Groups whose consumers' weights can be scaled; the others are selected
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
        free = bool(reweightable[number])
        selection = select(
            scores.values[group.channels],
            allocation.kept[number],
            how=options.select if free and not energy else "deterministic",
            rng=rng,
            n_outputs=int(scores.outputs[number]),
            delta=options.delta,
            reweightable=free,
            sensitivity=scores.sensitivity[group.channels],
        )
        factor[group.channels] = selection.factor
        selections.append(selection)
    return Decision(factor > 0, factor, tuple(selections))
