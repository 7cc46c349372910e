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
from onnx import ModelProto, NodeProto

from onnxpfp.channels import ChannelGraph, Ids
from onnxpfp.channels.producers import producers_of
from onnxpfp.linear.weights import StoredAxis
from onnxpfp.model.constants import Constants

__all__ = ["Proof", "prove"]

LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """What weights show.

    Attributes:
        settled: Channels that do not depend on the input, (count + 1,).
        classes: Channels with the same number have equal weights, (count + 1,).
    """

    settled: NDArray[np.bool_]
    classes: NDArray[np.int64]


def prove(
    model: ModelProto, graph: ChannelGraph, constants: Constants, stored_axes: Sequence[StoredAxis | None]
) -> Proof:
    """Look for channels that are settled or equal by their weights.

    Args:
        model: The model.
        graph: Its channels.
        constants: Its constants.
        stored_axes: Where each consumer's weights are stored.
    """
    return Proof(_settled(model, graph, constants), _classes(graph, constants, stored_axes))


def _settled(model: ModelProto, graph: ChannelGraph, constants: Constants) -> NDArray[np.bool_]:
    still = np.zeros(graph.count + 1, np.int64)
    for producer in producers_of(model, graph, constants):
        still[np.unique(producer.ids[producer.squares == 0])] += 1
        still[np.unique(producer.ids[producer.squares != 0])] -= graph.count + len(model.graph.node)
    settled = np.ones(graph.count + 1, np.bool_)
    linear = np.zeros(graph.count + 1, np.int64)
    contracting = {consumer.node for consumer in graph.consumers}
    for index, node in enumerate(model.graph.node):
        made = _channels(graph, constants, node.output)
        if node.op_type.removeprefix("Fused") in LINEAR:
            linear[made] += 1
        elif index in contracting:
            settled[made] = False
        else:
            settled[np.setdiff1d(made, _carried(graph, constants, node))] = False
    settled &= (still == linear) & (linear > 0)
    settled[0] = False
    return settled


def _channels(graph: ChannelGraph, constants: Constants, names: Sequence[str]) -> Ids:
    """Return the channels on some activations, each once."""
    axes = [ids for name in names if name not in constants.names for ids in graph.axes.get(name, ())]
    ids = np.unique(np.concatenate([np.zeros(1, np.int64), *axes]))
    return ids[ids != 0]


def _carried(graph: ChannelGraph, constants: Constants, node: NodeProto) -> Ids:
    """Return the channels of which a node says nothing new: all activations that it makes them of carry them."""
    if node.op_type == "Concat":
        return _channels(graph, constants, node.input)
    read = [name for name in node.input if name and name not in constants.names and name not in graph.values]
    each = [_channels(graph, constants, [name]) for name in read]
    return reduce(np.intersect1d, each) if each else np.zeros(0, np.int64)


def _classes(graph: ChannelGraph, constants: Constants, stored_axes: Sequence[StoredAxis | None]) -> NDArray[np.int64]:
    digests: list[bytes] = [b""] * (graph.count + 1)
    contracted = {(number.tensor, number.axis) for number in stored_axes if number is not None}
    for name, axes in graph.stored_axes():
        for axis, ids in enumerate(axes):
            if (name, axis) not in contracted and ids.any():
                for channel, held in _slices(constants.value(name), axis, ids):
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
