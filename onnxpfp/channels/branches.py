"""The groups of a model that may go with all of their channels: those of branches, of which a constant is left."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

from onnxpfp.arrays import Keep
from onnxpfp.channels.analysis import Analysis
from onnxpfp.channels.branch_graph import BranchGraph, BranchRemoval, gone_groups
from onnxpfp.model.shapes import static_lengths

__all__ = ["NO_BRANCHES", "Branches", "obstacle_of"]

Static = Mapping[tuple[str, int], int]
"""Axes whose length does not hang on the input, as of `static_lengths`."""


@dataclass(frozen=True, slots=True, eq=False)
class Branches:
    """The groups of a model that may go with all of their channels, each alone and any of them together.

    Attributes:
        may_go: Their positions.
        leaders: By tensor the groups that it goes with: each of them takes it out of the model when it goes entirely.
        network: The model; None where nothing may go.
    """

    may_go: frozenset[int] = frozenset()
    leaders: Mapping[str, frozenset[int]] = field(default_factory=dict[str, frozenset[int]])
    network: BranchGraph | None = None

    @classmethod
    def of(cls, analysis: Analysis) -> Self:
        """Find them.

        With other groups gone, fewer nodes are left that could be in the way; but what stands beside a constant may
        become one, too. So where two groups would meet so, the last one of them stays.
        """
        network, stops = BranchGraph.of(analysis.model, analysis.graph), _Stops.of(analysis)
        present = network.removal(()).alive
        alone = {number: network.removal((number,)) for number in sorted(present)}
        may_go = [number for number, one in alone.items() if not stops.obstacle(one, one.made)]
        while True:
            made = network.removal(may_go).made
            meeting = [number for number in may_go if stops.obstacle(alone[number], made)]
            if not meeting:
                break
            may_go.remove(meeting[-1])
        leaders: dict[str, frozenset[int]] = {}
        all_tensors = network.tensors(())
        for number in may_go:
            for name in all_tensors - network.tensors((number,)):
                leaders[name] = leaders.get(name, frozenset()) | {number}
        return cls(frozenset(may_go), leaders, network)

    def leaders_of(self, tensor: str) -> frozenset[int]:
        """Return the groups that a tensor goes with."""
        return self.leaders.get(tensor, frozenset())

    def closed(self, groups: Collection[int]) -> frozenset[int]:
        """Return the groups that go where some go entirely: also those that no output is computed from any more."""
        if self.network is None or not groups:
            return frozenset(groups)
        present = self.network.removal(()).alive
        return frozenset(groups) | (present - self.network.removal(groups).alive)


NO_BRANCHES = Branches()
"""None may go."""


def obstacle_of(analysis: Analysis, keep: Keep) -> str:
    """Say why the groups that go entirely by a choice of channels cannot; empty where they can, or none does."""
    groups = gone_groups(analysis.graph, keep)
    if not groups:
        return ""
    removal = BranchGraph.of(analysis.model, analysis.graph).removal(groups)
    return _Stops.of(analysis).obstacle(removal, removal.made)


@dataclass(frozen=True, slots=True, eq=False)
class _Stops:
    """Looks whether constants may take the places of activations.

    Attributes:
        analysis: The model.
        static: Axes of fixed lengths.
    """

    analysis: Analysis
    static: Static

    @classmethod
    def of(cls, analysis: Analysis) -> Self:
        return cls(analysis, static_lengths(analysis.model))

    def obstacle(self, removal: BranchRemoval, made: Collection[str]) -> str:
        """Say why groups cannot go; empty where they can.

        Args:
            removal: What would become of the model.
            made: Tensors that become constants by that, or where other groups go, too.
        """
        if removal.obstacle:
            return removal.obstacle
        for index in removal.stops:
            node = self.analysis.model.graph.node[index]
            constants = [name for name in node.input if name in removal.made]
            others = [name for name in node.input if name not in made and name not in self.analysis.constants.names]
            if not any(self._has_shape_of_result(other, node.output[0], constants) for other in others):
                return f"{node.op_type} '{node.name or node.output[0]}' needs the shape of what it reads"
        return ""

    def _has_shape_of_result(self, other: str, result: str, constants: Collection[str]) -> bool:
        """Tell whether an operand has the shape of the result, whatever is fed."""
        shapes = self.analysis.shapes.shape
        wanted = shapes.get(result)
        if wanted is None or shapes.get(other) != wanted:
            return False
        # A fixed length of 1 may be stretched by a free one of an operand that becomes a constant.
        stretched = (
            (name, axis - len(wanted) + len(shapes[name]))
            for axis in range(len(wanted))
            if (other, axis) in self.static
            for name in constants
        )
        return all(axis < 0 or (name, axis) in self.static for name, axis in stretched)
