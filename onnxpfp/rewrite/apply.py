"""Apply a choice of channels to the file: slice weights, correct numbers, drop what went stale.

The model is patched, never rebuilt: what is not touched here stays as it was, to the byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from onnxpfp.channels import ChannelGraph, Ids, Keep, spelling_of, uses_of
from onnxpfp.channels.spelling import Numbers
from onnxpfp.channels.values import Dim, Entry, leaves
from onnxpfp.errors import VerificationError
from onnxpfp.model.constants import outer_names, read_elsewhere, reader_counts, stored_tensors
from onnxpfp.rewrite.edits import Edits

__all__ = ["apply"]

Array = NDArray[np.generic]
Use = tuple[int, int]


def apply(model: ModelProto, graph: ChannelGraph, keep: Keep, edits: Edits) -> ModelProto:
    """Return a copy of the model without the channels that go.

    Args:
        model: The original; it is not changed.
        graph: Its channels.
        keep: Whether each channel stays, (channels + 1,).
        edits: Changes of weights at full size.

    Raises:
        VerificationError: A number that spells a channel count cannot be made right.
    """
    numbers, misfits = spelling_of(model, graph).numbers(keep)
    if misfits:
        node = model.graph.node[misfits[0].spell.node]
        raise VerificationError(f"{node.op_type} '{node.name}' cannot be rewritten: {misfits[0].why}")
    pruned = ModelProto()
    pruned.CopyFrom(model)
    patch = _Patch.of(pruned, graph, keep)
    for use, new in edits.inputs.items():
        patch.give(use, _slice(new.array, new.axes, keep), new.name)
    patch.slice_weights(edits.tensors)
    patch.write_numbers(numbers)
    patch.finish()
    patch.drop_stale()
    return pruned


def _slice(array: Array, axes: Sequence[Ids], keep: Keep) -> Array:
    for number, ids in enumerate(axes):
        stays = keep[ids]
        if not stays.all():
            array = np.compress(stays, array, axis=number)
    return array


def _whole(axes: Iterable[Ids], keep: Keep) -> bool:
    return all(keep[ids].all() for ids in axes)


def _store(tensor: TensorProto, array: Array) -> None:
    """Put numbers into a tensor and leave its name, doc string and metadata alone."""
    new = numpy_helper.from_array(np.asarray(array, order="C"), tensor.name)
    kept = {"name", "doc_string", "metadata_props"}
    for field_, _ in list(tensor.ListFields()):
        if field_.name not in kept:
            tensor.ClearField(field_.name)
    new.ClearField("name")
    tensor.MergeFrom(new)


@dataclass(slots=True, eq=False)
class _Patch:
    """The copy while it is being changed."""

    model: ModelProto
    graph: ChannelGraph
    keep: Keep
    stored: Mapping[str, TensorProto]
    uses: Mapping[str, tuple[Use, ...]]
    captured: frozenset[str]
    changed: set[str] = field(default_factory=set[str])
    added: list[TensorProto] = field(default_factory=list[TensorProto])
    given: set[Use] = field(default_factory=set[Use])
    replaced: list[str] = field(default_factory=list[str])
    names: set[str] = field(default_factory=set[str])

    @classmethod
    def of(cls, model: ModelProto, graph: ChannelGraph, keep: Keep) -> _Patch:
        return cls(
            model,
            graph,
            keep,
            stored_tensors(model.graph),
            uses_of(model),
            read_elsewhere(model.graph),
            names=_all_names(model.graph),
        )

    def _fresh_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.names:
            name, number = f"{wanted}_{number}", number + 1
        self.names.add(name)
        return name

    def give(self, use: Use, array: Array, wanted: str) -> None:
        """Let one node read a constant of its own."""
        node = self.model.graph.node[use[0]]
        name = self._fresh_name(wanted)
        self.added.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        while len(node.input) <= use[1]:
            node.input.append("")
        self.replaced.append(node.input[use[1]])
        node.input[use[1]] = name
        self.given.add(use)

    def slice_weights(self, edited: Mapping[str, Array]) -> None:
        """Slice every weight; where uses of a vector keep other indices, the rarer ones get copies."""
        for name in self.graph.stored:
            tensor = self.stored[name]
            uses = [use for use in self.uses.get(name, ()) if use not in self.given]
            if name in edited:
                _store(tensor, edited[name])
            if name in self.graph.uses and uses:
                self._slice_uses(name, uses)
            elif name not in self.graph.uses:
                self._slice_in_place(name, self.graph.axes[name])

    def _slice_in_place(self, name: str, axes: tuple[Ids, ...]) -> None:
        if not _whole(axes, self.keep):
            tensor = self.stored[name]
            _store(tensor, _slice(numpy_helper.to_array(tensor), axes, self.keep))
            self.changed.add(name)

    def _slice_uses(self, name: str, uses: list[Use]) -> None:
        array = numpy_helper.to_array(self.stored[name])
        axes = {use: self.graph.uses[name][use] for use in uses}
        kinds = {use: tuple(self.keep[ids].tobytes() for ids in axes[use]) for use in uses}
        main = None if name in self.captured else Counter(kinds.values()).most_common(1)[0][0]
        for use in uses:
            if kinds[use] == main or _whole(axes[use], self.keep):
                continue
            self.give(use, _slice(array, axes[use], self.keep), name)
        in_place = [use for use in uses if kinds[use] == main]
        if in_place and not _whole(axes[in_place[0]], self.keep):
            whole = [use for use in uses if _whole(axes[use], self.keep)]
            for use in whole:
                self.give(use, array, name)
            self._slice_in_place(name, axes[in_place[0]])

    def write_numbers(self, numbers: Numbers) -> None:
        """Write the numbers that spell channel counts."""
        for (index, name, place), number in numbers.attributes.items():
            for attribute in self.model.graph.node[index].attribute:
                if attribute.name != name:
                    continue
                if place is None:
                    attribute.i = number
                else:
                    attribute.ints[place] = number
        wanted: dict[str, dict[Use, Array]] = {}
        for use, array in numbers.inputs.items():
            name = self.model.graph.node[use[0]].input[use[1]]
            wanted.setdefault(name, {})[use] = array
        for name, arrays in wanted.items():
            self._write_inputs(name, arrays)
        for (name, position), number in numbers.elements.items():
            array = numpy_helper.to_array(self.stored[name]).copy()
            if array.ravel()[position] != number:
                array.reshape(-1)[position] = number
                _store(self.stored[name], array)

    def _write_inputs(self, name: str, arrays: Mapping[Use, Array]) -> None:
        """Write a tensor of numbers in place where all its readers want the same, else copies."""
        tensor = self.stored.get(name)
        first = next(iter(arrays.values()))
        agreed = all(np.array_equal(first, array) for array in arrays.values())
        alone = set(self.uses.get(name, ())) == set(arrays) and name not in self.captured
        if tensor is not None and agreed and alone:
            old = numpy_helper.to_array(tensor)
            if not np.array_equal(old, first):
                _store(tensor, first.astype(old.dtype))
                self.changed.add(name)
            return
        for use, array in arrays.items():
            old = self.graph.values[name]
            same = old.shape == array.shape and all(
                entry.value == new and not self._moves(entry)
                for entry, new in zip(old.ravel(), array.ravel(), strict=True)
            )
            if not same:
                dtype = np.int64 if tensor is None else numpy_helper.to_array(tensor).dtype
                self.give(use, array.astype(dtype), name)

    def _moves(self, entry: Entry) -> bool:
        """Whether a number is computed from the length of an axis that loses channels."""
        lengths = (leaf for leaf in leaves(entry) if isinstance(leaf, Dim))
        return any(not self.keep[self.graph.axes[leaf.tensor][leaf.axis]].all() for leaf in lengths)

    def _drop_orphans(self) -> None:
        """Drop what only served an input that reads a constant of its own now."""
        graph = self.model.graph
        listed = {info.name for info in graph.input}
        readers = reader_counts(graph) + Counter(output.name for output in graph.output)
        while self.replaced:
            name = self.replaced.pop()
            if not name or name in listed or readers[name]:
                continue
            for tensor in [t for t in graph.initializer if t.name == name]:
                graph.initializer.remove(tensor)
            for node in [n for n in graph.node if name in n.output]:
                if not any(readers[output] for output in node.output):
                    readers.subtract(node.input)
                    self.replaced.extend(node.input)
                    graph.node.remove(node)
            self.changed.add(name)

    def drop_stale(self) -> None:
        """Drop recorded shapes that are no longer true, and correct those of weights as inputs."""
        stale = self.changed | {name for name, axes in self.graph.axes.items() if not _whole(axes, self.keep)}
        infos = self.model.graph.value_info
        kept = [info for info in infos if info.name not in stale]
        if len(kept) < len(infos):
            del infos[:]
            infos.extend(kept)
        for info in self.model.graph.input:
            if info.name in self.changed and info.name in self.stored:
                dims = self.stored[info.name].dims
                for dim, size in zip(info.type.tensor_type.shape.dim, dims, strict=True):
                    dim.dim_value = size

    def finish(self) -> None:
        """Add the new constants: as initializers, or as nodes where those must be inputs (IR 3)."""
        self._drop_orphans()
        if self.model.ir_version >= 4:
            self.model.graph.initializer.extend(self.added)
            return
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in self.added]
        old = list(self.model.graph.node)
        del self.model.graph.node[:]
        self.model.graph.node.extend([*nodes, *old])


def _all_names(graph: GraphProto) -> set[str]:
    names = {t.name for t in graph.initializer} | {i.name for i in graph.input}
    for node in graph.node:
        names.update(node.output)
        names |= outer_names(node)
    return names
