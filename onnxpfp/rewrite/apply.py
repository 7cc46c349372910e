"""Apply a choice of channels to the file: slice weights, correct numbers, drop what went stale.

The model is patched, never rebuilt: what is not touched here stays as it was, to the byte. New numbers of a weight
that lies in a file go to a file too, a piece at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxpfp.arrays import AnyArray, Ids, Keep, chunks
from onnxpfp.channels import ChannelGraph, size_edits_of
from onnxpfp.channels.branch_graph import one_of_each, removal_of
from onnxpfp.channels.size_edits import Number, SizeValues
from onnxpfp.channels.symbolic import Dim, Entry, leaves
from onnxpfp.errors import VerificationError
from onnxpfp.model.constants import all_names, stored_tensors
from onnxpfp.model.draws import record_kept_draws
from onnxpfp.model.edit import add_constants, drop_unread, replace_nodes
from onnxpfp.model.index import ModelIndex, Use
from onnxpfp.model.names import free_name
from onnxpfp.rewrite.branches import drop_branches
from onnxpfp.rewrite.edits import Edits
from onnxpfp.rewrite.slices import sliced
from onnxpfp.rewrite.stored_numbers import store_numbers
from onnxpfp.runtime.external_data import WeightFile, is_reference, numbers

__all__ = ["apply", "renew", "what_stays"]


def apply(
    model: ModelProto, graph: ChannelGraph, keep: Keep, edits: Edits, scratch: WeightFile | None = None
) -> ModelProto:
    """Return a copy of the model without the channels that go, and without the branches that go with all of theirs.

    Args:
        model: The original; it is not changed.
        graph: Its channels.
        keep: Whether each channel stays, (channels + 1,).
        edits: Changes of weights at full size.
        scratch: Where new numbers go in place of those that lie in files; None is into the model.

    Raises:
        VerificationError: A number that counts channels cannot be made right, or a group goes entirely that cannot.
    """
    # What goes with a branch keeps a channel until then, so that no axis is ever empty.
    held, removal = one_of_each(graph, keep), removal_of(model, graph, keep)
    sizes, unmet = size_edits_of(model, graph).size_values(held)
    if unmet:
        node = model.graph.node[unmet[0].size_ref.node]
        raise VerificationError(f"{node.op_type} '{node.name}' cannot be rewritten: {unmet[0].why}")
    pruned = ModelProto()
    pruned.CopyFrom(model)
    patch = _Patch.of(pruned, graph, held, scratch)
    for use, new in edits.inputs.items():
        patch.give(use, sliced(new.array, new.axes, held), new.name)
    patch.slice_weights(edits.tensors)
    patch.write_size_values(sizes)
    patch.finish()
    patch.drop_stale()
    if removal is not None:
        drop_branches(pruned, model, graph, keep, removal)
    record_kept_draws(pruned, graph.axes, held)
    return pruned


def renew(pruned: ModelProto, graph: ChannelGraph, keep: Keep, edits: Edits, nodes: Mapping[int, str]) -> None:
    """Put other numbers into a model that `apply` made with edits of the same tensors and inputs, in place.

    Args:
        pruned: The model.
        graph: The channels of the original.
        keep: Whether each channel stays.
        edits: The new numbers, at full size.
        nodes: An output by position, of the original's nodes: they stand elsewhere in the pruned model.
    """
    stored = stored_tensors(pruned.graph)
    for name, array in edits.tensors.items():
        axes = next(iter(graph.uses.get(name, {}).values()), graph.axes[name])
        store_numbers(stored[name], sliced(array, axes, keep))
    nodes_by_output = {name: node for node in pruned.graph.node for name in node.output if name}
    for (index, position), new in edits.inputs.items():
        store_numbers(stored[nodes_by_output[nodes[index]].input[position]], sliced(new.array, new.axes, keep))


def what_stays(graph: ChannelGraph, keep: Keep, name: str, array: AnyArray) -> AnyArray:
    """Return what the pruned model has of a tensor of the original.

    Args:
        graph: The channels.
        keep: Whether each channel stays.
        name: Name of the tensor.
        array: Its numbers in a run of the original.
    """
    return sliced(array, graph.axes.get(name, ()), keep)


def _pieces(array: AnyArray, axes: Sequence[Ids], keep: Keep) -> Iterator[AnyArray]:
    """Slice a large array, some indices of its first axis at a time."""
    rows = np.flatnonzero(keep[axes[0]])
    for run in chunks(rows.size, array.nbytes // len(array)):
        part = array[rows[run]]
        for number, ids in enumerate(axes[1:], 1):
            part = np.compress(keep[ids], part, axis=number)
        yield part


def _whole(axes: Iterable[Ids], keep: Keep) -> bool:
    return all(keep[ids].all() for ids in axes)


_Key = tuple[str, tuple[int, ...], bytes]


def _key(array: AnyArray) -> _Key:
    """Return what arrays that hold the same numbers have in common."""
    return str(array.dtype), array.shape, array.tobytes()


@dataclass(slots=True, eq=False)
class _Patch:
    """The copy while it is being changed."""

    model: ModelProto
    graph: ChannelGraph
    keep: Keep
    scratch: WeightFile | None
    stored: Mapping[str, TensorProto]
    uses: Mapping[str, tuple[Use, ...]]
    captured: frozenset[str]
    changed: set[str] = field(default_factory=set[str])
    added: list[TensorProto] = field(default_factory=list[TensorProto])
    given: set[Use] = field(default_factory=set[Use])
    replaced: list[str] = field(default_factory=list[str])
    inserted: dict[str, NodeProto] = field(default_factory=dict[str, NodeProto])
    names: set[str] = field(default_factory=set[str])
    shared: dict[_Key, str] = field(default_factory=dict[tuple[str, tuple[int, ...], bytes], str])

    @classmethod
    def of(cls, model: ModelProto, graph: ChannelGraph, keep: Keep, scratch: WeightFile | None) -> _Patch:
        index = ModelIndex.of(model)
        return cls(
            model,
            graph,
            keep,
            scratch,
            stored_tensors(model.graph),
            index.uses,
            index.read_elsewhere,
            names=all_names(model.graph),
        )

    def give(self, use: Use, array: AnyArray, stem: str) -> None:
        """Let one node read a constant of its own."""
        self._read(use, self._add(array, stem))

    def _share(self, use: Use, array: AnyArray, stem: str) -> None:
        """Let one node read a constant, the same as others that read the same numbers."""
        self._read(use, self._add_once(array, stem))

    def _add(self, array: AnyArray, stem: str) -> str:
        name = free_name(stem, self.names)
        self.added.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def _add_once(self, array: AnyArray, stem: str) -> str:
        key = _key(array)
        if key not in self.shared:
            self.shared[key] = self._add(array, stem)
        return self.shared[key]

    def _read(self, use: Use, name: str) -> None:
        node = self.model.graph.node[use[0]]
        while len(node.input) <= use[1]:
            node.input.append("")
        self.replaced.append(node.input[use[1]])
        node.input[use[1]] = name
        self.given.add(use)

    def slice_weights(self, edited: Mapping[str, AnyArray]) -> None:
        """Slice every weight; where uses of a vector keep other indices, the rarer ones get copies."""
        for name in self.graph.stored:
            uses = [use for use in self.uses.get(name, ()) if use not in self.given]
            edit = edited.get(name)
            if name not in self.graph.uses:
                self._slice_in_place(name, self.graph.axes[name], edit)
                continue
            if edit is not None:
                store_numbers(self.stored[name], edit)
            if uses:
                self._slice_uses(name, uses)

    def _slice_in_place(self, name: str, axes: tuple[Ids, ...], edit: AnyArray | None = None) -> None:
        whole = _whole(axes, self.keep)
        if whole and edit is None:
            return
        tensor = self.stored[name]
        array = numbers(tensor) if edit is None else edit
        if self.scratch is not None and is_reference(tensor):
            shape = tuple(int(np.count_nonzero(self.keep[ids])) for ids in axes)
            self.scratch.put(tensor, shape, _pieces(array, axes, self.keep))
        else:
            store_numbers(tensor, sliced(array, axes, self.keep))
        if not whole:
            self.changed.add(name)

    def _slice_uses(self, name: str, uses: list[Use]) -> None:
        array = numbers(self.stored[name])
        axes = {use: self.graph.uses[name][use] for use in uses}
        pieces = {use: sliced(array, axes[use], self.keep) for use in uses}
        # What keeps other indices may still hold the same numbers: biases that are all zero, for one.
        kinds = {use: _key(piece) for use, piece in pieces.items()}
        whole = _key(array)
        main = whole if name in self.captured else Counter(kinds.values()).most_common(1)[0][0]
        for use in uses:
            if kinds[use] != main:
                self._share(use, pieces[use], name)
        if main != whole:
            self._slice_in_place(name, next(axes[use] for use in uses if kinds[use] == main))

    def write_size_values(self, sizes: SizeValues) -> None:
        """Write the numbers that count channels."""
        for (index, name, position), number in sizes.attributes.items():
            for attribute in self.model.graph.node[index].attribute:
                if attribute.name != name:
                    continue
                if position is None:
                    attribute.i = number
                else:
                    attribute.ints[position] = number
        arrays_by_name: dict[str, dict[Use, AnyArray]] = {}
        for use, array in sizes.inputs.items():
            name = self.model.graph.node[use[0]].input[use[1]]
            arrays_by_name.setdefault(name, {})[use] = array
        for name, arrays in arrays_by_name.items():
            self._write_inputs(name, arrays)
        for use, entries in sizes.overrides.items():
            self._override(use, entries)
        for (name, position), number in sizes.elements.items():
            array = numbers(self.stored[name]).copy()
            if array.ravel()[position] != number:
                array.reshape(-1)[position] = number
                store_numbers(self.stored[name], array)

    def _write_inputs(self, name: str, arrays: Mapping[Use, AnyArray]) -> None:
        """Write a tensor of numbers in place where all its readers want the same, else copies."""
        tensor = self.stored.get(name)
        first = next(iter(arrays.values()))
        agreed = all(np.array_equal(first, array) for array in arrays.values())
        alone = set(self.uses.get(name, ())) == set(arrays) and name not in self.captured
        if tensor is not None and agreed and alone:
            old = numbers(tensor)
            if not np.array_equal(old, first):
                store_numbers(tensor, first.astype(old.dtype))
                self.changed.add(name)
            return
        for use, array in arrays.items():
            old = self.graph.values[name]
            same = old.shape == array.shape and all(
                entry.value == new and not self._moves(entry)
                for entry, new in zip(old.ravel(), array.ravel(), strict=True)
            )
            if not same:
                dtype = self._number_type(name) if tensor is None else numbers(tensor).dtype
                self._share(use, array.astype(dtype), name)

    def _override(self, use: Use, entries: Mapping[int, Number]) -> None:
        """Put known numbers in the place of some that are computed: Where(known, numbers, computed)."""
        node = self.model.graph.node[use[0]]
        computed = node.input[use[1]]
        value = self.graph.values[computed]
        known = np.zeros(value.size, np.bool_)
        known[list(entries)] = True
        new = np.zeros(value.size, self._number_type(computed))
        new[list(entries)] = list(entries.values())
        choice, given = (
            self._add_once(array.reshape(value.shape), f"{computed}_{part}")
            for part, array in (("known", known), ("new", new))
        )
        patched = free_name(f"{computed}_patched", self.names)
        self.inserted[patched] = helper.make_node("Where", [choice, given, computed], [patched])
        node.input[use[1]] = patched

    def _number_type(self, name: str) -> np.dtype[np.generic]:
        return helper.tensor_dtype_to_np_dtype(self.graph.number_types[name])

    def _moves(self, entry: Entry) -> bool:
        """Whether a number is computed from the length of an axis that loses channels."""
        lengths = (leaf for leaf in leaves(entry) if isinstance(leaf, Dim))
        return any(not self.keep[self.graph.axes[leaf.tensor][leaf.axis]].all() for leaf in lengths)

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
        """Add the new constants and nodes, and drop what only served an input that reads another tensor now."""
        graph = self.model.graph
        if self.inserted:
            nodes: list[NodeProto] = []
            for node in graph.node:
                nodes += [self.inserted[name] for name in node.input if name in self.inserted]
                nodes.append(node)
            replace_nodes(graph, nodes)
        self.changed |= drop_unread(graph, self.replaced)
        add_constants(self.model, self.added)
