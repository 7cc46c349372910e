"""Channel counts that are written in the file: what each must become, and whether it can.

A number is replaced together with its whole input where all of that input is known before the run. Else it is
patched in place where one constant holds it, follows by itself where it is computed from the right lengths, and is
overridden where neither is so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.arrays import Ids, Keep
from onnxpfp.channels.symbolic import Const, Dim, Entry, Value, as_plain, evaluate, is_known, is_real
from onnxpfp.channels.types import IndexRef, PinnedSize, SizeRef
from onnxpfp.model.index import Use

__all__ = ["SizeEdits", "SizeValues", "UnmetSize", "renumber"]

Integers = NDArray[np.int64] | NDArray[np.bool_]

Number = int | float

BEHIND = 2**31 - 1
"""A bound that lies behind every axis, also as int32."""


@dataclass(frozen=True, slots=True)
class UnmetSize:
    """A number written in the file that would be wrong after pruning."""

    size_ref: SizeRef
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class SizeValues:
    """The numbers that the file must hold after pruning, in place of its channel counts and indices.

    Attributes:
        attributes: New value by (node, attribute, place).
        inputs: New tensor by (node, input), int64, float64 or bool; to be stored as a constant of that use alone
            wherever another use wants other numbers.
        elements: New value by (stored tensor, position), for constants inside shape arithmetic.
        overrides: New values by (node, input) and place, where the rest of the input is known at run time only.
    """

    attributes: Mapping[tuple[int, str, int | None], int]
    inputs: Mapping[Use, NDArray[np.generic]]
    elements: Mapping[tuple[str, int], int]
    overrides: Mapping[Use, Mapping[int, Number]]


@dataclass(frozen=True, slots=True, eq=False)
class SizeEdits:
    """The channel counts written in a model, ready to be computed for any choice of channels.

    Attributes:
        model: The model.
        size_refs: The declarations.
        frozen: Numbers that must stay what they are.
        values: Entries of shape arithmetic by tensor.
        axes: Ids (or labels) of every tensor's axes.
        readers: How often nodes, subgraphs and the graph's outputs read each tensor.
        can_override: Whether single numbers of an input can be chosen at run time (Where is there).
        shown: Whether a graph output or a subgraph shows computed numbers, which must not change.
    """

    model: ModelProto
    size_refs: tuple[SizeRef | IndexRef, ...]
    frozen: tuple[PinnedSize, ...]
    values: Mapping[str, Value]
    axes: Mapping[str, tuple[Ids, ...]]
    readers: Mapping[str, int]
    can_override: bool
    shown: bool

    def size_values(self, keep: Keep) -> tuple[SizeValues, list[UnmetSize]]:
        """Compute what the file must say when `keep` stays.

        Args:
            keep: Whether each id stays; entry 0 is true.

        Returns:
            The numbers, and the size references that cannot be met.
        """
        attributes: dict[tuple[int, str, int | None], int] = {}
        inputs: dict[Use, NDArray[np.generic]] = {}
        for size_ref in self.size_refs:
            if isinstance(size_ref, IndexRef):
                old = as_plain(self.values[self._tensor(size_ref.node, size_ref.where)])
                inputs[size_ref.node, size_ref.where] = renumber(old, size_ref, keep)
            elif isinstance(size_ref.where, str):
                attributes[size_ref.node, size_ref.where, size_ref.place] = _count(size_ref, keep)
        numbers, unmet = self._wanted(keep)
        follows = self._lookup(keep, {})
        computed: dict[Use, Mapping[int, Number]] = {}
        for use, entries in numbers.items():
            value = self.values[self._tensor(*use)]
            if all(is_known(entry) for entry in value.ravel()):
                inputs[use] = _replaced(value, entries, follows)
            else:
                computed[use] = entries
        elements = self._elements(computed)
        lookup = self._lookup(keep, elements)
        overrides: dict[Use, dict[int, Number]] = {}
        for use, entries in computed.items():
            value = self.values[self._tensor(*use)].ravel()
            wrong = {position: new for position, new in entries.items() if evaluate(value[position], lookup) != new}
            if wrong:
                overrides[use] = wrong
        if overrides and not self.can_override:
            unmet += [UnmetSize(s, "the number is computed at run time") for s in self.size_refs_at(overrides)]
        return SizeValues(attributes, inputs, elements, overrides), unmet

    def size_refs_at(self, uses: Iterable[Use]) -> Iterator[SizeRef]:
        """Yield the declarations about some inputs."""
        at = set(uses)
        yield from (s for s in self.size_refs if isinstance(s, SizeRef) and (s.node, s.where) in at)

    def _tensor(self, node: int, where: int) -> str:
        return self.model.graph.node[node].input[where]

    def _wanted(self, keep: Keep) -> tuple[dict[Use, dict[int, Number]], list[UnmetSize]]:
        """Collect what numbers must be: counts of what stays, and what is frozen."""
        numbers: dict[Use, dict[int, Number]] = {}
        unmet: list[UnmetSize] = []
        for size_ref in self.size_refs:
            if isinstance(size_ref, IndexRef) or isinstance(size_ref.where, str):
                continue
            if self._tensor(size_ref.node, size_ref.where) in self.values:
                numbers.setdefault((size_ref.node, size_ref.where), {})[size_ref.place or 0] = _count(size_ref, keep)
            elif size_ref.ids.any():
                unmet.append(UnmetSize(size_ref, "the number is not known"))
        for frozen in self.frozen:
            entry: Entry = self.values[self._tensor(frozen.node, frozen.where)].ravel()[frozen.place]
            numbers.setdefault((frozen.node, frozen.where), {})[frozen.place] = entry.value
        return numbers, unmet

    def _elements(self, computed: Mapping[Use, Mapping[int, Number]]) -> dict[tuple[str, int], int]:
        """Choose the constants behind single numbers that can be patched in place: nothing else reads them."""
        elements: dict[tuple[str, int], int] = {}
        if self.shown and self.can_override:
            return elements
        for use, entries in computed.items():
            value = self.values[self._tensor(*use)].ravel()
            for position, new in entries.items():
                entry: Entry = value[position]
                alone = isinstance(entry, Const) and entry.tensor and self.readers[entry.tensor] == 1
                if isinstance(entry, Const) and alone and new != entry.value:
                    elements.setdefault((entry.tensor, entry.position), int(new))
        return elements

    def _lookup(self, keep: Keep, elements: Mapping[tuple[str, int], int]) -> Callable[[Const | Dim], Number]:
        def length(leaf: Const | Dim) -> Number:
            if isinstance(leaf, Const):
                return elements.get((leaf.tensor, leaf.position), leaf.value)
            return int(keep[self.axes[leaf.tensor][leaf.axis]].sum())

        return length


def _replaced(
    value: Value, entries: Mapping[int, Number], lookup: Callable[[Const | Dim], Number]
) -> NDArray[np.generic]:
    """Compute all numbers of an input anew, some of which are given."""
    dtype = np.float64 if is_real(value) else np.int64
    new = np.array([entries.get(i, evaluate(entry, lookup)) for i, entry in enumerate(value.ravel())], dtype)
    return new.reshape(value.shape)


def _count(size_ref: SizeRef, keep: Keep) -> int:
    """Count what stays; from the end, none is written as a bound behind the axis, for -0 is its start."""
    count = int(keep[size_ref.ids].sum())
    return size_ref.sign * count if count or size_ref.sign > 0 else BEHIND


def renumber(old: NDArray[np.int64], size_ref: IndexRef, keep: Keep) -> Integers:
    """Move indices up by the number of removed indices before them, and drop those that went.

    Negative indices stay negative: they count from the end.
    """
    new = old
    if size_ref.axis.size:
        stays = keep[size_ref.axis]
        rank = np.cumsum(stays) - 1
        new = np.asarray(rank[old % size_ref.axis.size] - np.where(old < 0, stays.sum(), 0))
    for number, own in enumerate(size_ref.own):
        new = np.compress(keep[own], new, axis=number)
    return new.astype(np.bool_) if size_ref.truth else new
