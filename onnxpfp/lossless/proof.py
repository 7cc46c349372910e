"""Proofs by the weights alone that channels are dead, constant or equal, for networks without data.

1. A channel is settled if nothing that depends on the input enters it: every filter that brings it forth is zero
   (BatchNormalization folded). It is constant then, up to what windows do at borders, and any input shows its value.
2. Two channels are equal if every stored number that belongs to one is equal to that of the other: filters, biases,
   norms. Noise of several scales has to confirm it, for an op between could tell channels apart by their position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxpfp.arrays import Ids
from onnxpfp.channels import Analysis
from onnxpfp.channels.ops import facts_of
from onnxpfp.linear.producers import producers_of
from onnxpfp.linear.weights import StoredAxis

__all__ = ["Proof", "prove"]


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """Channels that the weights alone prove to be constant or equal.

    Attributes:
        settled: Channels that do not depend on the input, (count + 1,).
        classes: Channels with the same number have equal weights, (count + 1,).
    """

    settled: NDArray[np.bool_]
    classes: NDArray[np.int64]


def prove(analysis: Analysis, stored_axes: Sequence[StoredAxis | None]) -> Proof:
    """Look for channels that are settled or equal by their weights.

    Args:
        analysis: The model.
        stored_axes: Where each consumer's weights are stored.
    """
    return Proof(_settled(analysis), _classes(analysis, stored_axes))


def _settled(analysis: Analysis) -> NDArray[np.bool_]:
    model, graph = analysis.model, analysis.graph
    still = np.zeros(graph.count + 1, np.int64)
    for producer in producers_of(analysis):
        still[np.unique(producer.ids[producer.squares == 0])] += 1
        still[np.unique(producer.ids[producer.squares != 0])] -= graph.count + len(model.graph.node)
    settled = np.ones(graph.count + 1, np.bool_)
    linear = np.zeros(graph.count + 1, np.int64)
    contracting = {consumer.node for consumer in graph.consumers}
    for index, node in enumerate(model.graph.node):
        made = _channels(analysis, node.output)
        if facts_of(node).layout is not None:
            linear[made] += 1
        elif index in contracting:
            settled[made] = False
        else:
            settled[np.setdiff1d(made, _carried(analysis, node))] = False
    settled &= (still == linear) & (linear > 0)
    settled[0] = False
    return settled


def _channels(analysis: Analysis, names: Sequence[str]) -> Ids:
    """Return the channels on some activations, each once."""
    activations = (name for name in names if name not in analysis.constants.names)
    axes = [ids for name in activations for ids in analysis.graph.axes.get(name, ())]
    ids = np.unique(np.concatenate([np.zeros(1, np.int64), *axes]))
    return ids[ids != 0]


def _carried(analysis: Analysis, node: NodeProto) -> Ids:
    """Return the channels of which a node says nothing new: all activations that it makes them of carry them."""
    if node.op_type == "Concat":
        return _channels(analysis, node.input)
    known = (analysis.constants.names, analysis.graph.values)
    read = [name for name in node.input if name and not any(name in names for names in known)]
    each = [_channels(analysis, [name]) for name in read]
    return reduce(np.intersect1d, each) if each else np.zeros(0, np.int64)


def _classes(analysis: Analysis, stored_axes: Sequence[StoredAxis | None]) -> NDArray[np.int64]:
    graph = analysis.graph
    digests: list[bytes] = [b""] * (graph.count + 1)
    contracted = {(number.tensor, number.axis) for number in stored_axes if number is not None}
    for name, axes in graph.stored_axes():
        for axis, ids in enumerate(axes):
            if (name, axis) not in contracted and ids.any():
                for channel, held in _slices(analysis.constants.value(name), axis, ids):
                    digest = digests[channel] + f"{name} {axis} ".encode() + held
                    digests[channel] = hashlib.blake2b(digest, digest_size=16).digest()
    numbers: dict[tuple[int, bytes], int] = {}
    classes = np.zeros(graph.count + 1, np.int64)
    for number, group in enumerate(graph.groups):
        members: list[int] = group.channels.tolist()
        for member in members:
            classes[member] = numbers.setdefault((number, digests[member]), len(numbers))
    return classes


def _slices(array: NDArray[np.generic], axis: int, ids: Ids) -> Iterator[tuple[int, bytes]]:
    moved = np.moveaxis(array, axis, 0)
    for index, channel in enumerate(ids.tolist()):
        if channel:
            yield channel, np.ascontiguousarray(moved[index]).tobytes()
