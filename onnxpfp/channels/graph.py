"""The channel-dependency graph: channels, groups and consumers, and every axis in terms of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Bools, Ids, Keep
from onnxpfp.channels.labels import Components
from onnxpfp.channels.symbolic import Value
from onnxpfp.channels.types import Consumer, Fixed, Group, IndexRef, Mask, PinnedSize, SizeRef
from onnxpfp.channels.walk import Walk
from onnxpfp.model.index import Use

__all__ = ["UNREAD", "ChannelGraph", "Free", "Keep", "finish", "free_components", "renumbered"]


ASIDE = ("slides with it", "has its directions on it")
"""Ends of the reasons of axes on which no channel could ever lie: kernel taps, directions of a recurrence."""
UNREAD = "no Conv, Gemm, MatMul or other product contracts it"


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGraph:
    """Every index of every axis as a channel id; 0 is fixed.

    Attributes:
        count: Number of channels; ids run from 1 to `count`.
        axes: Channel ids of every dense tensor's axes, by tensor name.
        uses: Channel ids of stored vectors that several nodes read, by name and use (node, input):
            each use may keep other indices.
        values: Entries of tensors that are shape arithmetic.
        stored: Names of stored tensors (initializers and Constant nodes) that are weights.
        groups: Channels that compete with each other.
        consumers: Linear ops that contract channels.
        masks: Inputs at which zeros equal the removal of channels.
        size_refs: Numbers in the file that count channels.
        sources: The same declarations in labels, in the same order.
        fixed: Axes of weights that stay, with the reason.
        frozen: Numbers that stay although lengths behind them may change.
        number_types: Element type of tensors that are shape arithmetic.
    """

    count: int
    axes: Mapping[str, tuple[Ids, ...]]
    uses: Mapping[str, Mapping[Use, tuple[Ids, ...]]]
    values: Mapping[str, Value]
    stored: tuple[str, ...]
    groups: tuple[Group, ...]
    consumers: tuple[Consumer, ...]
    masks: tuple[Mask, ...]
    size_refs: tuple[SizeRef | IndexRef, ...]
    sources: tuple[SizeRef | IndexRef, ...]
    fixed: tuple[Fixed, ...]
    frozen: tuple[PinnedSize, ...]
    number_types: Mapping[str, int]

    def keep_all(self) -> Keep:
        """Return the choice that removes nothing."""
        return np.ones(self.count + 1, np.bool_)

    @property
    def may_go(self) -> Keep:
        """Whether each channel can go, (channels + 1,): of a group that is one unit, that one stays."""
        may_go = np.zeros(self.count + 1, np.bool_)
        for group in self.groups:
            may_go[group.channels] = group.channels.size > 1
        return may_go

    def reachable_params(self) -> tuple[int, int]:
        """Count the stored numbers of weights that lie in at least one channel that can go, and all of them."""
        may_go = self.may_go
        reached = total = 0
        for name in self.stored:
            axes = next(iter(self.uses.get(name, {}).values()), self.axes[name])
            sizes = [(ids.size, int(may_go[ids].sum())) for ids in axes]
            count = math.prod(size for size, _ in sizes)
            total += count
            reached += count - math.prod(size - free for size, free in sizes)
        return reached, total

    def stored_axes(self) -> Iterator[tuple[str, tuple[Ids, ...]]]:
        """Yield the weights as they will be stored: a vector once for each different set of ids."""
        for name in self.stored:
            axes_per_use = self.uses.get(name, {}).values()
            keys: set[bytes] = set()
            for axes in axes_per_use or [self.axes[name]]:
                key = b"|".join(axis.tobytes() for axis in axes)
                if key not in keys:
                    keys.add(key)
                    yield name, axes


Free = Callable[[Walk, Components], Bools]
"""Tells which components of a walk may go, (components,)."""


def free_components(labelled: Walk, parts: Components) -> Bools:
    """Tell which components may go: those that a consumer contracts and nothing keeps."""
    read = np.zeros(parts.fixed.size, np.bool_)
    for consumer in labelled.consumers:
        read[parts.of_label[consumer.channels]] = True
    return read & ~parts.fixed


def _channel_of_label(parts: Components, free: Bools) -> Ids:
    """Number the components that may go from 1 in the order of their first label; others are 0."""
    first = np.full(parts.fixed.size, parts.of_label.size, np.int64)
    np.minimum.at(first, parts.of_label, np.arange(parts.of_label.size))
    order = np.argsort(np.where(free, first, parts.of_label.size), kind="stable")[: free.sum()]
    channel = np.zeros(parts.fixed.size, np.int64)
    channel[order] = np.arange(1, order.size + 1)
    return channel[parts.of_label]


def _signatures(count: int, sites: list[Ids]) -> NDArray[np.uint64]:
    """Hash the places at which every channel occurs, (count + 1,): equal places, equal hash.

    Every place adds a random number for each time that a channel occurs there, modulo 2**64.
    """
    signature = np.zeros(count + 1, np.uint64)
    if sites:
        salts = np.random.default_rng(0).integers(1, 2**63, len(sites), np.uint64)
        np.add.at(signature, np.concatenate(sites), np.repeat(salts, [ids.size for ids in sites]))
    return signature


def _present(ids: Ids) -> list[int]:
    """Channels on an axis, each once."""
    return np.unique(ids[ids != 0]).tolist()


def _names(count: int, weights: list[tuple[str, tuple[Ids, ...]]], consumers: tuple[Consumer, ...]) -> list[str]:
    """Name every channel after the weight that brings it forth, else after any weight that has it."""
    contracted = {(c.weight, c.weight_axis) for c in consumers}
    owner = np.full(count + 1, len(weights), np.int64)
    # What is written last wins: the first weight that brings a channel forth.
    for bringing in (False, True):
        for position, (name, axes) in reversed([*enumerate(weights)]):
            for number, ids in enumerate(axes):
                if not bringing or (len(axes) > 1 and (name, number) not in contracted):
                    owner[ids] = position
    names = [*(name for name, _ in weights), ""]
    return [names[position] for position in owner]


def _groups(
    count: int,
    weights: list[tuple[str, tuple[Ids, ...]]],
    consumers: tuple[Consumer, ...],
    tensors: Iterable[tuple[Ids, ...]],
) -> tuple[Group, ...]:
    """Put channels together that occur at the same places, of weights and of all other tensors.

    So an axis of any tensor is made of whole groups, and where every group keeps a channel, no
    tensor gets empty.
    """
    sites = [axis for _, axes in weights for axis in axes] + [c.channels for c in consumers]
    sites += {axis.tobytes(): axis for axes in tensors for axis in axes if axis.any()}.values()
    signature = _signatures(count, sites)[1:]
    readers: dict[int, list[int]] = {}
    for position, consumer in enumerate(consumers):
        for channel in _present(consumer.channels):
            readers.setdefault(channel, []).append(position)
    names = _names(count, weights, consumers)
    members: dict[int, list[int]] = {}
    for channel, key in enumerate(signature.tolist(), 1):
        members.setdefault(key, []).append(channel)
    groups: list[Group] = []
    uses_of_name: Counter[str] = Counter()
    for channels in members.values():
        first = channels[0]
        name = names[first] or consumers[readers[first][0]].data
        uses_of_name[name] += 1
        title = name if uses_of_name[name] == 1 else f"{name} #{uses_of_name[name]}"
        groups.append(Group(title, np.array(channels, np.int64), tuple(readers.get(first, ()))))
    return tuple(groups)


def _fixed(
    labelled: Walk, parts: Components, channel: Ids, weights: tuple[str, ...], consumers: list[Consumer]
) -> tuple[Fixed, ...]:
    """Say for every axis of a matrix or filter bank that brings forth channels why it stays."""
    contracted = {(c.weight, c.weight_axis) for c in consumers}
    out: list[Fixed] = []
    for name in weights:
        axes = labelled.axes[name]
        if len(axes) < 2 or name in labelled.uses:
            continue
        for number, labels in enumerate(axes):
            stays = labels[(channel[labels] == 0)]
            if not stays.size or labels.size == 1 or (name, number) in contracted:
                continue
            cause = parts.reason[parts.of_label[stays]]
            cause = cause[cause >= 0]
            reason = parts.reasons[np.bincount(cause).argmax()] if cause.size else UNREAD
            if not reason.endswith(ASIDE):
                out.append(Fixed(name, number, int(stays.size), reason))
    return tuple(out)


def finish(labelled: Walk, weights: tuple[str, ...], free: Free = free_components) -> ChannelGraph:
    """Turn labels into channels.

    Args:
        labelled: The walk.
        weights: Names of stored tensors that are weights.
        free: Tells which components are channels, (components,).
    """
    parts = labelled.labels.components()
    channel = _channel_of_label(parts, free(labelled, parts))

    def ids(axes: tuple[Ids, ...]) -> tuple[Ids, ...]:
        return tuple(channel[axis] for axis in axes)

    graph = ChannelGraph(
        count=int(channel.max(initial=0)),
        axes={name: ids(axes) for name, axes in labelled.axes.items()},
        uses={name: {use: ids(axes) for use, axes in uses.items()} for name, uses in labelled.uses.items()},
        values=labelled.values,
        stored=weights,
        groups=(),
        consumers=_consumers(labelled.consumers, channel),
        masks=_masks(labelled.masks, channel),
        size_refs=tuple(_size_ref(s, channel) for s in labelled.size_refs),
        sources=tuple(labelled.size_refs),
        fixed=_fixed(labelled, parts, channel, weights, labelled.consumers),
        frozen=tuple(labelled.frozen),
        number_types=labelled.number_types,
    )
    return _grouped(graph)


def renumbered(graph: ChannelGraph, channel: Ids) -> ChannelGraph:
    """Give channels other numbers; those that get the same go together, those that get 0 stay.

    Args:
        graph: The channels.
        channel: New number of each, (channels + 1,): from 1 without gaps, and 0 for 0.
    """
    if np.array_equal(channel, np.arange(graph.count + 1)):
        return graph

    def ids(axes: tuple[Ids, ...]) -> tuple[Ids, ...]:
        return tuple(channel[axis] for axis in axes)

    other = replace(
        graph,
        count=int(channel.max()),
        axes={name: ids(axes) for name, axes in graph.axes.items()},
        uses={name: {use: ids(axes) for use, axes in uses.items()} for name, uses in graph.uses.items()},
        consumers=_consumers(graph.consumers, channel),
        masks=_masks(graph.masks, channel),
        size_refs=tuple(_size_ref(s, channel) for s in graph.size_refs),
    )
    return _grouped(other)


def _consumers(consumers: Iterable[Consumer], channel: Ids) -> tuple[Consumer, ...]:
    """Return what contracts channels, in their numbers."""
    numbered = (replace(c, channels=channel[c.channels]) for c in consumers)
    return tuple(c for c in numbered if (c.channels != 0).any())


def _masks(masks: Iterable[Mask], channel: Ids) -> tuple[Mask, ...]:
    """Return where channels are masked, in their numbers."""
    numbered = (replace(m, channels=channel[m.channels]) for m in masks)
    return tuple(m for m in numbered if (m.channels != 0).any())


def _grouped(graph: ChannelGraph) -> ChannelGraph:
    """Put the channels of a graph into groups."""
    groups = _groups(graph.count, list(graph.stored_axes()), graph.consumers, graph.axes.values())
    return replace(graph, groups=groups)


def _size_ref(s: SizeRef | IndexRef, channel: Ids) -> SizeRef | IndexRef:
    if isinstance(s, SizeRef):
        return SizeRef(s.node, s.where, s.place, channel[s.ids], s.sign)
    return IndexRef(s.node, s.where, channel[s.axis], tuple(channel[own] for own in s.own), s.truth)
