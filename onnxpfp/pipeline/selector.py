"""Which channels of each group stay at a width, and what a choice of channels and ranks is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxpfp.allocation.select import Selection, select
from onnxpfp.allocation.widths import nearest_width, widths_of
from onnxpfp.arrays import Ints, Keep
from onnxpfp.channels import Group
from onnxpfp.channels.branches import NO_BRANCHES, Branches
from onnxpfp.linear.weights import reweightable
from onnxpfp.low_rank.split import RankedLayer
from onnxpfp.options import Options
from onnxpfp.pipeline.calibration import Measured
from onnxpfp.pipeline.context import RunContext
from onnxpfp.runtime.blocks import Alignment
from onnxpfp.score.scores import Scores

__all__ = ["Decision", "RankRule", "Selector", "selector_of"]

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
        free, asked = bool(self.scalable[number]), self.options.select
        return select(
            scores.values[channels],
            width,
            # Draws need factors on the consumers' weights; auto does without where there can be none.
            how=asked if not scores.summed and (free or asked == "auto") else "deterministic",
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


def selector_of(context: RunContext, measured: Measured) -> Selector:
    """Return what selects the channels of this model's groups."""
    graph = measured.analysis.graph
    scalable = reweightable(graph, measured.stored_axes)
    scores, branches = measured.calibration.scores, measured.branches
    return Selector(graph.groups, scores, scalable, context.options, context.alignment, branches, measured.asked)
