"""Numbers that spell channel counts: what each must become, and whether it can.

A number is patched in place where one constant holds it, replaced together with its whole input where
all of that input is known before the run, and must follow by itself where it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.channels.types import Ids, IndexSpell, Spell
from onnxpfp.channels.values import Const, Dim, Value, evaluate, leaves, plain

__all__ = ["Misfit", "Numbers", "Spelling", "renumber"]

Keep = NDArray[np.bool_]
Integers = NDArray[np.int64] | NDArray[np.bool_]

BEHIND = 2**31 - 1
"""A bound that lies behind every axis, also as int32."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A spelt number that would be wrong after pruning."""

    spell: Spell
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """What the file must say after pruning.

    Attributes:
        attributes: New value by (node, attribute, place).
        inputs: New tensor by (node, input), int64 or bool; to be stored as a constant of that use alone
            wherever another use wants other numbers.
        elements: New value by (stored tensor, position), for constants inside shape arithmetic.
    """

    attributes: Mapping[tuple[int, str, int | None], int]
    inputs: Mapping[tuple[int, int], Integers]
    elements: Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True, eq=False)
class Spelling:
    """The spelt numbers of a model, ready to be computed for any choice of channels.

    Attributes:
        model: The model.
        spells: The declarations.
        values: Entries of shape arithmetic by tensor.
        axes: Ids (or labels) of every tensor's axes.
        readers: How often nodes, subgraphs and the graph's outputs read each tensor.
        settled: Tensors whose shape is the same in every run.
    """

    model: ModelProto
    spells: tuple[Spell | IndexSpell, ...]
    values: Mapping[str, Value]
    axes: Mapping[str, tuple[Ids, ...]]
    readers: Mapping[str, int]
    settled: frozenset[str]

    def _replaceable(self, value: Value) -> bool:
        """Whether all numbers of a tensor are known before the run."""
        return all(
            isinstance(leaf, Const) or leaf.tensor in self.settled or (self.axes[leaf.tensor][leaf.axis] != 0).any()
            for entry in value.ravel()
            for leaf in leaves(entry)
        )

    def numbers(self, keep: Keep) -> tuple[Numbers, list[Misfit]]:
        """Compute what the file must say when `keep` stays.

        Args:
            keep: Whether each id stays; entry 0 is true.

        Returns:
            The numbers, and the spells that cannot be met.
        """
        attributes: dict[tuple[int, str, int | None], int] = {}
        inputs: dict[tuple[int, int], Integers] = {}
        wanted: dict[tuple[int, int], dict[int, Spell]] = {}
        for spell in self.spells:
            if isinstance(spell, IndexSpell):
                old = plain(self.values[self._tensor(spell.node, spell.where)])
                inputs[spell.node, spell.where] = renumber(old, spell, keep)
            elif isinstance(spell.where, str):
                attributes[spell.node, spell.where, spell.place] = _count(spell, keep)
            else:
                wanted.setdefault((spell.node, spell.where), {})[spell.place or 0] = spell
        elements: dict[tuple[str, int], tuple[int, Spell]] = {}
        later: list[tuple[Value, dict[int, Spell]]] = []
        misfits: list[Misfit] = []
        for (node, where), spells in wanted.items():
            value = self.values.get(self._tensor(node, where))
            if value is None:
                misfits += [Misfit(s, "the number is not known") for s in spells.values() if s.ids.any()]
            elif self._replaceable(value):
                inputs[node, where] = self._new_input(value, spells, keep)
            else:
                later.append((value, spells))
                self._patch(value, spells, keep, elements, misfits)
        patched = {key: number for key, (number, _) in elements.items()}
        lookup = self._lookup(keep, patched)
        for value, spells in later:
            for place, spell in spells.items():
                if evaluate(value.ravel()[place], lookup) != _count(spell, keep):
                    misfits.append(Misfit(spell, "the number is computed at run time"))
        return Numbers(attributes, inputs, patched), misfits

    def _tensor(self, node: int, where: int) -> str:
        return self.model.graph.node[node].input[where]

    def _new_input(self, value: Value, spells: Mapping[int, Spell], keep: Keep) -> NDArray[np.int64]:
        lookup = self._lookup(keep, {})
        new = np.array([evaluate(entry, lookup) for entry in value.ravel()], np.int64)
        for place, spell in spells.items():
            new[place] = _count(spell, keep)
        return new.reshape(value.shape)

    def _patch(
        self,
        value: Value,
        spells: Mapping[int, Spell],
        keep: Keep,
        elements: dict[tuple[str, int], tuple[int, Spell]],
        misfits: list[Misfit],
    ) -> None:
        """Patch the constants behind single numbers of a tensor that is computed."""
        for place, spell in spells.items():
            entry = value.ravel()[place]
            if not isinstance(entry, Const):
                continue
            new = _count(spell, keep)
            key = (entry.tensor, entry.position)
            if new != entry.value and (not entry.tensor or self.readers[entry.tensor] > 1):
                misfits.append(Misfit(spell, "other nodes read the same number"))
                continue
            number, first = elements.setdefault(key, (new, spell))
            if number != new:
                misfits += [Misfit(s, "two axes share the same number") for s in (first, spell)]

    def _lookup(self, keep: Keep, elements: Mapping[tuple[str, int], int]) -> Callable[[Const | Dim], int | float]:
        def length(leaf: Const | Dim) -> int | float:
            if isinstance(leaf, Const):
                return elements.get((leaf.tensor, leaf.position), leaf.value)
            return int(keep[self.axes[leaf.tensor][leaf.axis]].sum())

        return length


def _count(spell: Spell, keep: Keep) -> int:
    """Count what stays; from the end, none is written as a bound behind the axis, for -0 is its start."""
    count = int(keep[spell.ids].sum())
    return spell.sign * count if count or spell.sign > 0 else BEHIND


def renumber(old: NDArray[np.int64], spell: IndexSpell, keep: Keep) -> Integers:
    """Move indices up by the number of removed indices before them, and drop those that went.

    Negative indices stay negative: they count from the end.
    """
    new = old
    if spell.axis.size:
        stays = keep[spell.axis]
        rank = np.cumsum(stays) - 1
        new = np.asarray(rank[old % spell.axis.size] - np.where(old < 0, stays.sum(), 0))
    for number, own in enumerate(spell.own):
        new = np.compress(keep[own], new, axis=number)
    return new.astype(np.bool_) if spell.truth else new
