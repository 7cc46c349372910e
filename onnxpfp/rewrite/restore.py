"""Give back what was put into other words for pruning, and what no removal then passed through.

    Computed weight     A weight that the graph computes is stored, so that its channels can go. Where it comes out as
                        it went in, the file's own nodes compute it again.
    Channel shuffle     Written as a Gather; where all its channels stay, it is Reshape, Transpose, Reshape again.
    Equal Split         Its sizes are written out; where all its channels stay, they go again.
    Cut product         A computed weight that lost channels is computed from what is left of its sources, where that
                        gives it and takes less (`rewrite/recompute.py`).
    Sparse constant     It is stored as a dense one; where nothing of it went, it is sparse again (`model/plain.py`).
    Local function      Its body stands in the place of its call; where that makes the file larger and nothing in it
                        changed, it is called again (`model/calls.py`).

What these nodes read is still there, or comes back with them. Where a constant behind them was cut for another reader,
they get a copy of it as it was, if that takes less than what it replaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxpfp.arrays import Keep
from onnxpfp.channels import Analysis
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.calls import with_calls
from onnxpfp.model.constants import Constants, all_names, stored_tensors, subgraphs
from onnxpfp.model.edit import add_constants, drop_initializers, drop_unread, replace_nodes
from onnxpfp.model.index import ModelIndex
from onnxpfp.model.load import LoadedModel
from onnxpfp.model.names import free_name
from onnxpfp.model.plain import with_own_constants
from onnxpfp.rewrite.recompute import recompute, with_value
from onnxpfp.runtime.external_data import numbers, size_of

__all__ = ["call_again", "restore"]


def restore(pruned: ModelProto, analysis: Analysis, keep: Keep) -> ModelProto:
    """Let a pruned model compute what was not touched as the file did.

    Args:
        pruned: The pruned model; it is not changed.
        analysis: The model as it was given, in the words in which it was pruned.
        keep: Which of its channels stay, (channels + 1,).

    Returns:
        A model that computes the same; the pruned one itself where there is nothing to give back.
    """
    flat = analysis.source.flat
    if flat is None:
        return pruned
    search = _Search.of(pruned, flat, analysis, keep)
    parts = search.parts()
    recomputed = recompute(search.stored, analysis, keep)
    if recomputed.weights:
        search = replace(search, sources=recomputed.sources, recomputed=recomputed.weights, known={})
        cut = [part for part in search.parts() if search.cuts(part) and not any(map(part.meets, parts))]
        used = {name for part in cut for name in part.tensors}
        search = replace(search, sources={name: t for name, t in recomputed.sources.items() if name in used})
        parts += cut
    restored = _with_parts(pruned, search, parts) if parts else pruned
    return with_own_constants(restored, analysis.source.rewritten_from or restored)


def call_again(pruned: ModelProto, source: LoadedModel) -> ModelProto:
    """Let a pruned network call the local functions of the file in which nothing changed, where that makes it smaller.

    Args:
        pruned: The network, its bodies in place; it is not changed.
        source: The file.

    Returns:
        A model that computes the same; the pruned one itself where nothing is called again.
    """
    given = source.rewritten_from
    if given is None or source.flat is None or not given.functions or size_of(pruned) <= source.size_bytes:
        return pruned
    return with_calls(pruned, given, source.flat)


@dataclass(slots=True, eq=False)
class _Part:
    """The nodes of the original that compute some tensors, and the constants that they read.

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

    def meets(self, other: _Part) -> bool:
        """Tell whether two parts share what comes back."""
        return not (self.nodes.isdisjoint(other.nodes) and self.tensors.isdisjoint(other.tensors))


class _GoneError(Exception):
    """A tensor of the original is no longer what it was, and cannot be had again."""


@dataclass(slots=True, eq=False)
class _Search:
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
    def of(cls, pruned: ModelProto, flat: ModelProto, analysis: Analysis, keep: Keep) -> _Search:
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

    def parts(self) -> list[_Part]:
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

    def _part_behind(self, outputs: tuple[str, ...]) -> _Part | None:
        """Find what computes some tensors in the original; None where it is not to be had, or would take more."""
        part = _Part(outputs)
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

    def cuts(self, part: _Part) -> bool:
        """Tell whether a weight is computed from what is left."""
        return not self.recomputed.isdisjoint(part.outputs)

    def _trace(self, name: str, part: _Part) -> None:
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


def _with_parts(pruned: ModelProto, search: _Search, parts: Sequence[_Part]) -> ModelProto:
    """Put nodes of the original into a copy of the pruned model, where they stood among the others."""
    flat_nodes = search.flat.graph.node
    outputs = {name for part in parts for name in part.outputs}
    positions = sorted({position for part in parts for position in part.nodes})
    computed = [name for position in positions for name in flat_nodes[position].output if name]
    # A Constant node is among the nodes.
    initializers = search.flat_stored.keys() - search.flat_index.producers.keys()
    missing = sorted(initializers & {name for part in parts for name in part.constants})
    copied = sorted(initializers & {name for part in parts for name in part.copies})
    names = _names_for([*(name for name in computed if name not in outputs), *copied], search)
    model = ModelProto()
    model.CopyFrom(pruned)
    unread = [name for node in model.graph.node if not outputs.isdisjoint(node.output) for name in node.input]
    returning = [
        (position, _renamed(with_value(flat_nodes[position], search.sources), names)) for position in positions
    ]
    left = [node for node in model.graph.node if outputs.isdisjoint(node.output)]
    drop_initializers(model.graph, outputs)
    replace_nodes(model.graph, _merged(left, search.flat_index, returning))
    drop_unread(model.graph, unread)
    add_constants(model, [_copy(search.tensor(name), names.get(name, name)) for name in (*missing, *copied)])
    shrunk = {position for part in parts if search.cuts(part) for position in part.nodes}
    same = {name for position in set(positions) - shrunk for name in flat_nodes[position].output}
    _record_shapes(model, search.flat, same - names.keys())
    return model


def _names_for(wanted: Sequence[str], search: _Search) -> dict[str, str]:
    """Give new names to what returns and has one that the pruned model uses for something else."""
    used = all_names(search.index.model.graph)
    taken = used | all_names(search.flat.graph)
    return {name: free_name(name, taken) for name in wanted if name in used}


def _renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy


def _copy(tensor: TensorProto, name: str) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _merged(
    left: Sequence[NodeProto], flat_index: ModelIndex, returning: Sequence[tuple[int, NodeProto]]
) -> list[NodeProto]:
    """Sort nodes of the original in among those that are left, before the first that came after them.

    Nodes that the original does not have stand with the one behind them.
    """
    nodes: list[NodeProto] = []
    waiting, place = list(returning), len(flat_index.model.graph.node)
    for node in reversed(left):
        place = min([place, *(flat_index.producers[name] for name in node.output if name in flat_index.producers)])
        while waiting and waiting[-1][0] > place:
            nodes.append(waiting.pop()[1])
        nodes.append(node)
    return [*(node for _, node in waiting), *reversed(nodes)]


def _record_shapes(model: ModelProto, flat: ModelProto, names: set[str]) -> None:
    """Record the shapes of tensors that are back, as the original does."""
    known = {info.name for info in (*model.graph.value_info, *model.graph.output)}
    model.graph.value_info.extend(
        info for info in flat.graph.value_info if info.name in names and info.name not in known
    )
