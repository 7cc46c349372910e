"""The most bytes that a network's activations take at once, if nothing is clever about them.

    1. Nodes run in the order of the file, one at a time.
    2. An input of the network is there from the first node on, an output of a node from its node on.
    3. Each stays until its last reader has run, and one that nobody reads until the node has run at which it came.
       What its bodies capture, a node reads. Outputs of the network stay to the end.
    4. What follows from weights alone is no activation: it can be computed before the first run.

So a node has its inputs and all its outputs at once. Nothing is computed in place, a Reshape or Identity makes a copy,
no nodes are fused, and neither workspaces of kernels nor gaps between tensors are counted. TensorFlow Lite Micro plans
its arena with the same lifetimes (tensorflow/lite/micro/micro_allocation_info.cc), of what its converter fused before.

Only the main graph is counted: what a body of If, Loop or Scan holds while it runs comes on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxpfp.model.constants import Constants, outer_names, subgraphs
from onnxpfp.model.input_shapes import true_inputs
from onnxpfp.model.names import node_name
from onnxpfp.model.shapes import Shapes
from onnxpfp.model.soundness import packed_size

__all__ = ["ActivationPeak", "LiveTensor", "activation_peak"]

UNSIZED = frozenset({TensorProto.UNDEFINED, TensorProto.STRING})
"""Types whose elements have no size of their own; sequences and maps count as one text."""


@dataclass(frozen=True, slots=True)
class LiveTensor:
    """An activation.

    Attributes:
        name: Its name.
        bytes: Its size.
    """

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ActivationPeak:
    """Where the activations of one run take most memory.

    Attributes:
        bytes: How much that is.
        op: Op of the first node at which it is so; empty for a network without nodes.
        node: Its name, or its first output where it has none.
        tensors: The activations that are there then, the largest first.
        unsized: Activations that have no known size, and are not counted: text, sequences, maps.
        bodies: Nodes with bodies, whose own activations are not counted.
    """

    bytes: int
    op: str
    node: str
    tensors: tuple[LiveTensor, ...]
    unsized: tuple[str, ...] = ()
    bodies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Lifetime:
    """Positions of the first and the last node at which an activation is there."""

    first: int
    last: int


def activation_peak(model: ModelProto, shapes: Shapes) -> ActivationPeak:
    """Find the peak of the main graph's activations in one run.

    Args:
        model: The model.
        shapes: Shapes of its tensors; where they depend on the data they are those of one run.
    """
    constants = Constants.of(model).names
    nodes = [node for node in model.graph.node if not constants.issuperset(filter(None, node.output))]
    lifetimes = _lifetimes(model, nodes, constants)
    sizes = {name: size for name in lifetimes if (size := _size(name, shapes)) is not None}
    step = _fullest(lifetimes, sizes)
    live = [LiveTensor(name, size) for name, size in sizes.items() if _there(lifetimes[name], step) and size]
    at = nodes[step] if nodes else None
    return ActivationPeak(
        sum(tensor.bytes for tensor in live),
        at.op_type if at else "",
        node_name(at) if at else "",
        tuple(sorted(live, key=lambda tensor: -tensor.bytes)),
        tuple(name for name in lifetimes if name not in sizes),
        tuple(node_name(node) for node in nodes if any(True for _ in subgraphs(node))),
    )


def _lifetimes(model: ModelProto, nodes: Sequence[NodeProto], constants: AbstractSet[str]) -> dict[str, _Lifetime]:
    """Find from where to where each activation is there, by name."""
    end = max(len(nodes) - 1, 0)
    first = dict.fromkeys((info.name for info in true_inputs(model)), 0)
    last = dict(first)
    for position, node in enumerate(nodes):
        for name in _read(node):
            if name in first:
                last[name] = position
        for name in filter(None, node.output):
            if name not in constants:
                first[name] = last[name] = position
    for info in model.graph.output:
        if info.name in first:
            last[info.name] = end
    return {name: _Lifetime(first[name], last[name]) for name in first}


def _read(node: NodeProto) -> Iterator[str]:
    yield from node.input
    yield from outer_names(node)


def _size(name: str, shapes: Shapes) -> int | None:
    """Return the bytes of an activation; None where they are not known."""
    if name not in shapes.shape or shapes.dtype[name] in UNSIZED:
        return None
    return packed_size(shapes.shape[name], shapes.dtype[name])


def _fullest(lifetimes: Mapping[str, _Lifetime], sizes: Mapping[str, int]) -> int:
    """Return the position of the first node at which the activations take most."""
    steps = max((lifetime.last for lifetime in lifetimes.values()), default=0) + 1
    change = np.zeros(steps + 1, np.int64)
    for name, size in sizes.items():
        change[lifetimes[name].first] += size
        change[lifetimes[name].last + 1] -= size
    return int(np.cumsum(change)[:steps].argmax())


def _there(lifetime: _Lifetime, step: int) -> bool:
    return lifetime.first <= step <= lifetime.last
