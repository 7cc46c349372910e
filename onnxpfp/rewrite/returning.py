"""Find what a pruned model can take back from the original, with the nodes and constants that this takes.

A tensor can come back where no removal passed through it and the original says it in other words, or computes it where
the pruned model stores it; and where a computed weight lost channels and its sources, cut, give what is left. A part
is traced from there to what the pruned model still has with the same numbers. It is not to be had where that does not
exist any more, and not worth it where the constants that it needs take more than what it replaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxpfp.arrays import Keep
from onnxpfp.channels import Analysis
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants, stored_tensors, subgraphs
from onnxpfp.model.index import ModelIndex
from onnxpfp.runtime.external_data import numbers

__all__ = ["ReturnSearch", "ReturningPart"]


@dataclass(slots=True, eq=False)
class ReturningPart:
    """Nodes of the original that compute some tensors, and the constants that they read.

    Attributes:
        outputs: The tensors, of one node.
        nodes: Positions of nodes of the original.
        constants: Initializers and Constant nodes that the pruned model lacks.
        copies: Those that it has with other numbers.
    """

    outputs: tuple[str, ...]
    nodes: set[int] = field(default_factory=set[int])
    constants: set[str] = field(default_factory=set[str])
    copies: set[str] = field(default_factory=set[str])

    @property
    def tensors(self) -> set[str]:
        """All constants that come back."""
        return self.constants | self.copies

    def meets(self, other: ReturningPart) -> bool:
        """Tell whether two parts share what comes back."""
        return not (self.nodes.isdisjoint(other.nodes) and self.tensors.isdisjoint(other.tensors))


class _GoneError(Exception):
    """A tensor of the original is no longer what it was, and cannot be had again."""


@dataclass(slots=True, eq=False)
class ReturnSearch:
    """The pruned model beside the original.

    Attributes:
        index: Nodes of the pruned model.
        stored: Its stored tensors.
        flat: The original with nothing in other words, but for functions and forms of constants.
        flat_index: Its nodes.
        flat_stored: Its stored tensors.
        sources: Some of them, cut, where weights are computed from what is left.
        recomputed: These weights.
        constants: Tensors of the original that do not depend on the inputs.
        analysis: The original in the words in which it was pruned.
        keep: Which of its channels stay.
        known: Whether a tensor is in the pruned model what it is in the original, as far as that was asked.
    """

    index: ModelIndex
    stored: Mapping[str, TensorProto]
    flat: ModelProto
    flat_index: ModelIndex
    flat_stored: Mapping[str, TensorProto]
    sources: Mapping[str, TensorProto]
    recomputed: frozenset[str]
    constants: frozenset[str]
    analysis: Analysis
    keep: Keep
    known: dict[str, bool] = field(default_factory=dict[str, bool])

    @classmethod
    def of(cls, pruned: ModelProto, flat: ModelProto, analysis: Analysis, keep: Keep) -> ReturnSearch:
        """Index both models."""
        return cls(
            ModelIndex.of(pruned),
            stored_tensors(pruned.graph),
            flat,
            ModelIndex.of(flat),
            stored_tensors(flat.graph),
            {},
            frozenset(),
            Constants.of(flat).names,
            analysis,
            keep,
        )

    def parts(self) -> list[ReturningPart]:
        """Find all that can be given back."""
        found = (self._part_behind(outputs) for outputs in self._candidates())
        return [part for part in found if part is not None]

    def tensor(self, name: str) -> TensorProto:
        """Return a stored tensor as it comes back."""
        return self.sources.get(name, self.flat_stored[name])

    def _candidates(self) -> Iterator[tuple[str, ...]]:
        """Yield what the original computes in other words and has lost nothing: tensors of one node."""
        folded = self.analysis.constants.stored
        for node in self.flat.graph.node:
            now = self.index.producer(node.output[0])
            if now is not None and _reworded(node, now):
                if self._whole(now.input[0]) and self._whole(node.output[0]):
                    yield tuple(node.output)
            elif node.op_type != "Constant":
                yield from ((name,) for name in node.output if name in folded and self._untouched(name))

    def _untouched(self, name: str) -> bool:
        """Tell whether a stored weight is what the original's nodes give."""
        now = self.stored.get(name)
        if name in self.recomputed:
            return True
        return now is not None and self._whole(name) and _equal(now, self.analysis.constants.stored[name])

    def _part_behind(self, outputs: tuple[str, ...]) -> ReturningPart | None:
        """Find what computes some tensors in the original; None where it is not to be had, or would take more."""
        part = ReturningPart(outputs)
        position = self.flat_index.producers[outputs[0]]
        part.nodes.add(position)
        try:
            for name in self.flat.graph.node[position].input:
                self._trace(name, part)
        except _GoneError:
            return None
        freed = sum(_size(self.stored[name]) for name in outputs if name in self.stored)
        # What was not touched is computed whatever it takes, as long as nothing has to be there twice.
        new = part.tensors if self.cuts(part) else part.copies
        added = sum(_size(self.tensor(name)) for name in new)
        return part if not added or added < freed else None

    def cuts(self, part: ReturningPart) -> bool:
        """Tell whether a weight is computed from what is left."""
        return not self.recomputed.isdisjoint(part.outputs)

    def _trace(self, name: str, part: ReturningPart) -> None:
        """Collect what a tensor of the original is computed from, back to what the pruned model has."""
        if not name or self._same(name):
            return
        here = name in self.stored or name in self.index.producers
        position = self.flat_index.producers.get(name)
        if name in self.flat_stored:
            (part.copies if here else part.constants).add(name)
            if position is not None:
                part.nodes.add(position)
            return
        if position is None or (here and name not in self.constants):
            raise _GoneError
        node = self.flat.graph.node[position]
        if any(True for _ in subgraphs(node)):
            raise _GoneError
        part.nodes.add(position)
        for read in node.input:
            self._trace(read, part)

    def _same(self, name: str) -> bool:
        """Tell whether the pruned model has a tensor of the original, with the same numbers in every run."""
        if name not in self.known:
            self.known[name] = self._compare(name)
        return self.known[name]

    def _compare(self, name: str) -> bool:
        if name in self.flat_stored:
            return name in self.stored and _equal(self.stored[name], self.tensor(name))
        node, now = self.flat_index.producer(name), self.index.producer(name)
        if node is None:
            return True
        if now is None:
            return False
        if name in self.constants or name in self.analysis.graph.values:
            return node == now and all(self._same(read) for read in node.input if read)
        return self._whole(name)

    def _whole(self, name: str) -> bool:
        """Tell whether no index of a tensor went."""
        axes = self.analysis.graph.axes.get(name)
        return axes is not None and all(self.keep[ids].all() for ids in axes)


def _reworded(node: NodeProto, now: NodeProto) -> bool:
    """Tell whether a node of the original is the end of a shuffle that was rewritten, or a Split that was."""
    if node.op_type == "Split":
        given = "split" in Attributes(node) or (len(node.input) > 1 and node.input[1])
        return now.op_type == "Split" and not given and node != now
    return node.op_type == "Reshape" and now.op_type == "Gather"


def _equal(one: TensorProto, two: TensorProto) -> bool:
    """Tell whether two tensors hold the same bytes."""
    if one.data_type != two.data_type or list(one.dims) != list(two.dims):
        return False
    if one == two:
        return True
    first, second = numbers(one), numbers(two)
    return bool(np.array_equal(first, second)) if first.dtype == object else first.tobytes() == second.tobytes()


def _size(tensor: TensorProto) -> int:
    return numbers(tensor).nbytes
