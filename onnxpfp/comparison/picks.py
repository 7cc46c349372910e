"""Outputs whose rows are picked, as the boxes of a detector are, and what is measured for them.

How many rows such an output has, and which, hangs on near ties: held against the original's row by row, it says
nothing. So what the picking ops decide on is measured itself, and they pick as in the original, so that each row of
the output meets the same one of the original's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from onnx import ModelProto, NodeProto

from onnxpfp.arrays import AnyArray, Arrays
from onnxpfp.channels import Analysis
from onnxpfp.channels.ops import facts_of
from onnxpfp.comparison.decisions import (
    FLOATS,
    Decisions,
    behind_products,
    decided_on,
    decision_of,
    ends_by_weights,
    exposing,
    jumping,
    reads,
    used_tensors,
)
from onnxpfp.model.names import first_output

__all__ = ["InPlace", "Picks"]

DATA, PLACES, UPDATES = 0, 1, 2
"""Inputs of an op that writes at places."""
MATRIX = 2
"""Axes of the scores of samples."""
SHOWN = 3
"""Most names that a sentence lists."""


@dataclass(frozen=True, slots=True)
class InPlace:
    """What was measured in the place of outputs whose rows are picked.

    Attributes:
        outputs: These outputs.
        tensors: What was measured.
        ops: Types of the ops that decide on it.
    """

    outputs: tuple[str, ...]
    tensors: tuple[str, ...]
    ops: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in one line."""
        tensors, outputs = (_listed([f"'{name}'" for name in names]) for names in (self.tensors, self.outputs))
        verb = "decides" if len(self.ops) == 1 else "decide"
        return f"{tensors}, which {_listed(self.ops)} {verb} on; {outputs} row by row, as the original picks them"


def _listed(names: Sequence[str]) -> str:
    """List names as a sentence does, the first few of many."""
    shown = [*names[:SHOWN], *([f"{len(names) - SHOWN} more"] if len(names) > SHOWN else [])]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


@dataclass(frozen=True, slots=True, eq=False)
class Picks:
    """The picking ops of a network before its outputs.

    Attributes:
        decisions: What they decide on.
        outputs: Outputs whose rows they pick, in their order.
        tensors: What is measured beside the outputs: what is decided on, as it is before it is only moved.
        ops: Types of the ops that pick.
        rows: Names among `outputs` and `tensors` that are no scores of samples: their rows are picked, or they are
            decided on as another thing than a matrix, such as the scores of many boxes.
        unmeasured: What is decided on and not compared itself, for it is one of `tensors` moved.
    """

    decisions: Decisions = field(default_factory=lambda: Decisions({}))
    outputs: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    rows: frozenset[str] = frozenset()
    unmeasured: frozenset[str] = frozenset()

    @classmethod
    def of(cls, analysis: Analysis) -> Self:
        """Find them; those that decide on a tensor that can lose channels are left alone, for it gets another shape."""
        search = _Search.of(analysis)
        outputs = tuple(info.name for info in analysis.model.graph.output if info.name in search.picked)
        by_node: dict[str, frozenset[str]] = {}
        ops: list[str] = []
        for pick in search.before(outputs):
            ops.append(pick.op_type)
            for node, tensors in search.picks[first_output(pick)].items():
                by_node[node] = by_node.get(node, frozenset()) | tensors
        decisions = Decisions(by_node)
        sources = {name: search.unmoved(name) for name in sorted(decisions.tensors)}
        tensors = tuple(dict.fromkeys(sources.values()))
        rows = search.picked.intersection((*outputs, *tensors))
        rows |= {source for name, source in sources.items() if search.rank(name) != MATRIX}
        unmeasured = decisions.tensors.difference(tensors, (info.name for info in analysis.model.graph.output))
        return cls(decisions, outputs, tensors, tuple(dict.fromkeys(ops)), frozenset(rows), frozenset(unmeasured))

    @property
    def in_place(self) -> InPlace | None:
        """What is measured in the place of what; None where nothing is."""
        return InPlace(self.outputs, self.tensors, self.ops) if self.outputs else None

    def showing(self, model: ModelProto) -> ModelProto:
        """Copy the network: it shows what is measured and decided on."""
        return exposing(model, [*self.tensors, *sorted(self.decisions.tensors)]) if self.outputs else model

    def given(self, values: Arrays) -> dict[str, AnyArray]:
        """Return what another model is fed beside its inputs, of all that the network shows."""
        return self.decisions.given(values)

    def picking(self, model: ModelProto, given: Arrays) -> ModelProto:
        """Copy a model that was pruned from the network: it picks as given, and shows what is measured."""
        if not self.outputs:
            return model
        made = {name for node in model.graph.node for name in node.output}
        return exposing(self.decisions.on_given(model, given), [name for name in self.tensors if name in made])

    def compared(self, values: Arrays) -> dict[str, AnyArray]:
        """Return what is compared, of all that a model shows; whole numbers that are picked are what they were."""
        return {
            name: value
            for name, value in values.items()
            if name not in self.unmeasured and (name not in self.outputs or value.dtype.kind == "f")
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """What is known of the tensors of a network.

    Attributes:
        analysis: The network.
        behind: Tensors that depend on weights.
        picks: By first output of every picking node: what is decided on for it, by the first output of what decides.
        picked: Tensors whose rows are picked.
    """

    analysis: Analysis
    behind: set[str]
    picks: dict[str, Mapping[str, frozenset[str]]] = field(default_factory=dict[str, Mapping[str, frozenset[str]]])
    picked: set[str] = field(default_factory=set[str])

    @classmethod
    def of(cls, analysis: Analysis) -> Self:
        """Go over the nodes once."""
        graph = analysis.model.graph
        search = cls(analysis, behind_products(graph))
        used = used_tensors(graph)
        for node in graph.node:
            if search._picks(node, used) or search._passes(node):
                search.picked.update(name for name in node.output if name)
        return search

    def _picks(self, node: NodeProto, used: set[str]) -> bool:
        """Tell whether a node picks by what depends on weights and cannot lose channels."""
        decision = decision_of(node)
        if decision is None or used.isdisjoint(jumping(node, decision)):
            return False
        if not (decision.picks or ends_by_weights(node, self.behind)):
            return False
        found = self._decided_before(node)
        if not found or any(map(self._can_lose, set[str]().union(*found.values()))):
            return False
        self.picks[first_output(node)] = found
        return True

    def _passes(self, node: NodeProto) -> bool:
        """Tell whether what a node makes has rows that were picked; what is written back to its place has not."""
        if not facts_of(node).writes:
            return not self.picked.isdisjoint(reads(node))
        data, places, updates = (node.input[position] in self.picked for position in (DATA, PLACES, UPDATES))
        return data or (updates and not places)

    def _can_lose(self, tensor: str) -> bool:
        return any(axis.any() for axis in self.analysis.graph.axes.get(tensor, ()))

    def rank(self, tensor: str) -> int:
        """Return the number of axes of a tensor."""
        return len(self.analysis.shapes.shape.get(tensor, ()))

    def _is_float(self, tensor: str) -> bool:
        return self.analysis.shapes.dtype.get(tensor) in FLOATS

    def _decided_before(self, pick: NodeProto) -> dict[str, frozenset[str]]:
        """Find the floats that a node decides on, itself or by truth values and whole numbers made of them."""
        found: dict[str, frozenset[str]] = {}
        waiting, visited = [(pick, [*decided_on(pick)])], set[str]()
        while waiting:
            node, names = waiting.pop()
            for name in self.behind.intersection(names):
                producer = self.analysis.index.producer(name)
                if self._is_float(name):
                    found[first_output(node)] = found.get(first_output(node), frozenset()) | {name}
                elif producer is not None and first_output(producer) not in visited:
                    visited.add(first_output(producer))
                    waiting.append((producer, sorted(reads(producer))))
        return found

    def before(self, outputs: tuple[str, ...]) -> list[NodeProto]:
        """Return the picking nodes before some outputs, in the order of the nodes."""
        waiting, visited = [*outputs], set[str]()
        while waiting:
            name = waiting.pop()
            producer = self.analysis.index.producer(name)
            if name not in visited and producer is not None:
                visited.add(name)
                waiting += self.picked.intersection(reads(producer))
        nodes = self.analysis.model.graph.node
        return [node for node in nodes if first_output(node) in self.picks and not visited.isdisjoint(node.output)]

    def unmoved(self, tensor: str) -> str:
        """Go back from a tensor over ops that only give it another shape or order."""
        while True:
            producer = self.analysis.index.producer(tensor)
            if producer is None or not facts_of(producer).moves or self._can_lose(producer.input[0]):
                return tensor
            tensor = producer.input[0]
