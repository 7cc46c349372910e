"""The stored tensors behind the weights of consumers, and the axes that hold the channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyFloats, Ids, chunks
from onnxpfp.channels import Analysis, ChannelGraph
from onnxpfp.channels.ops import facts_of
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import FLOAT_TYPES, Constants
from onnxpfp.model.index import ModelIndex
from onnxpfp.model.subnormal import without_new_subnormal
from onnxpfp.rewrite.edits import Edits

__all__ = [
    "StoredAxis",
    "has_quantized_weight",
    "linear_weights",
    "own_weights",
    "reweight",
    "reweightable",
    "scale_columns",
    "stored_axes_of",
    "stored_form",
    "weight_readers",
]


@dataclass(frozen=True, slots=True)
class StoredAxis:
    """The axis of a stored tensor along which a consumer reads its channels."""

    tensor: str
    axis: int


def _trace(analysis: Analysis, name: str, axis: int) -> StoredAxis | None:
    """Follow a weight back through Identity, Cast and Transpose to where it is stored."""
    index, constants = analysis.index, analysis.constants
    while name not in constants.stored:
        node = index.producer(name)
        if node is None or node.op_type not in {"Identity", "Cast", "Transpose"}:
            return None
        if node.op_type == "Transpose":
            perm = Attributes(node).integers("perm")
            # Without perm it reverses the axes.
            axis = constants.value(name).ndim - 1 - axis if perm is None else perm[axis]
        name = node.input[0]
    return StoredAxis(name, axis) if constants.stored[name].data_type in FLOAT_TYPES else None


def stored_axes_of(analysis: Analysis) -> tuple[StoredAxis | None, ...]:
    """Find for every consumer the stored axis of its channels, or None where it cannot be scaled.

    A stored tensor can be scaled along an axis when all that reads it are consumers along that
    axis; a tied embedding, for one, is also looked up.
    """
    leaves = _Leaves(analysis.index)
    traced = [
        _trace(analysis, consumer.weight, consumer.weight_axis) if consumer.constant else None
        for consumer in analysis.graph.consumers
    ]
    ops: dict[StoredAxis, int] = {}
    for stored_axis in traced:
        if stored_axis is not None:
            ops[stored_axis] = ops.get(stored_axis, 0) + 1
    return tuple(
        stored_axis if stored_axis is not None and leaves.count(stored_axis.tensor) == ops[stored_axis] else None
        for stored_axis in traced
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Leaves:
    """Counts what reads a stored tensor, behind Identity, Cast and Transpose."""

    index: ModelIndex

    def count(self, name: str) -> int:
        nodes = (self.index.model.graph.node[node] for node, _ in self.index.uses.get(name, ()))
        return sum(self.count(n.output[0]) if n.op_type in {"Identity", "Cast", "Transpose"} else 1 for n in nodes)


def linear_weights(analysis: Analysis) -> tuple[str, ...]:
    """Name the stored tensors of floating-point numbers that are weights of linear ops, each once."""
    names: dict[str, None] = {}
    for node in analysis.model.graph.node:
        if facts_of(node).layout is not None and len(node.input) > 1 and node.input[1] in analysis.constants.names:
            stored_axis = _trace(analysis, node.input[1], 0)
            names |= {} if stored_axis is None else {stored_axis.tensor: None}
    return tuple(names)


def has_quantized_weight(analysis: Analysis, name: str) -> bool:
    """Tell whether a weight is stored as whole numbers, dequantized before it is read or not."""
    while name not in analysis.constants.stored:
        node = analysis.index.producer(name)
        if node is None or node.op_type not in {"Identity", "Transpose", "DequantizeLinear"}:
            return False
        name = node.input[0]
    return analysis.constants.stored[name].data_type not in FLOAT_TYPES


def weight_readers(analysis: Analysis) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Find the floating-point weights that nodes read as their second input, and nothing reads otherwise.

    Returns:
        By the tensor that the nodes read: the stored tensor that it comes from, and the positions of the nodes.
    """
    leaves, elsewhere = _Leaves(analysis.index), analysis.index.read_elsewhere
    nodes: dict[str, list[int]] = {}
    for index, node in enumerate(analysis.model.graph.node):
        if len(node.input) > 1 and node.input[1] in analysis.constants.names:
            nodes.setdefault(node.input[1], []).append(index)
    readers: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, positions in nodes.items():
        stored_axis = _trace(analysis, name, 0)
        if (
            stored_axis is not None
            and stored_axis.tensor not in elsewhere
            and leaves.count(stored_axis.tensor) == len(positions)
        ):
            readers[name] = stored_axis.tensor, tuple(positions)
    return readers


def own_weights(analysis: Analysis) -> dict[int, str]:
    """Find the nodes whose second input is a floating-point weight that nothing else reads.

    Returns:
        The stored tensor by position of the node.
    """
    readers = weight_readers(analysis).values()
    return {positions[0]: stored for stored, positions in readers if len(positions) == 1}


def stored_form(analysis: Analysis, name: str, array: AnyFloats) -> NDArray[np.generic]:
    """Bring new numbers of a weight to where it is stored, back through Identity, Cast and Transpose.

    Args:
        analysis: The model.
        name: A weight that `own_weights` knows.
        array: Its new numbers.

    Returns:
        The numbers in the type that is stored, none of them subnormal that is new.
    """
    constants = analysis.constants
    while name not in constants.stored:
        node = analysis.index.producer(name)
        assert node is not None, name
        if node.op_type == "Transpose":
            perm = Attributes(node).integers("perm")
            array = array.transpose(None if perm is None else np.argsort(perm))
        name = node.input[0]
    return without_new_subnormal(array.astype(np.float64), constants.value(name))


def reweightable(graph: ChannelGraph, stored_axes: tuple[StoredAxis | None, ...]) -> NDArray[np.bool_]:
    """Tell for every group whether all its consumers' weights can be scaled, (groups,)."""
    return np.array([all(stored_axes[c] is not None for c in group.consumers) for group in graph.groups], np.bool_)


def scale_columns(array: NDArray[np.generic], ids: Ids, axis: int, factor: NDArray[np.float64]) -> NDArray[np.generic]:
    """Multiply a tensor along an axis by its channels' factors."""
    shape = [1] * array.ndim
    shape[axis] = ids.size
    factors = np.broadcast_to(factor[ids].reshape(shape), array.shape)
    scaled = np.empty(array.shape, array.dtype)
    for run in chunks(len(array), 8 * array.size // len(array)):
        scaled[run] = without_new_subnormal(array[run].astype(np.float64) * factors[run], array[run])
    return scaled


@dataclass(frozen=True, slots=True, eq=False)
class _Scaled(Mapping[str, NDArray[np.generic]]):
    """Stored weights times the factors of their channels, computed when they are asked for.

    Attributes:
        graph: The channels.
        constants: The model's constants.
        axes: By stored tensor, the axes along which it is scaled.
        factor: Factor by channel id.
    """

    graph: ChannelGraph
    constants: Constants
    axes: Mapping[str, tuple[int, ...]]
    factor: NDArray[np.float64]

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        array: NDArray[np.generic] | None = None
        for axis in self.axes[name]:
            array = self.constants.value(name) if array is None else array
            array = scale_columns(array, self.graph.axes[name][axis], axis, self.factor)
        assert array is not None
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.axes)

    def __len__(self) -> int:
        return len(self.axes)


def reweight(analysis: Analysis, stored_axes: tuple[StoredAxis | None, ...], factor: NDArray[np.float64]) -> Edits:
    """Multiply the consumers' weights of sampled channels (PFP, the estimator's 1/(m p_j)).

    Args:
        analysis: The model.
        stored_axes: Where each consumer's weights are stored.
        factor: Factor by channel id, (channels + 1,); 1 where nothing is to be done. Dropped
            channels count as 1 here: they are cut off anyway.
    """
    scaled: dict[str, tuple[int, ...]] = {}
    for consumer, stored_axis in zip(analysis.graph.consumers, stored_axes, strict=True):
        changes = factor[consumer.channels] != 1
        if stored_axis is None or stored_axis.axis in scaled.get(stored_axis.tensor, ()) or not changes.any():
            continue
        scaled[stored_axis.tensor] = (*scaled.get(stored_axis.tensor, ()), stored_axis.axis)
    return Edits(tensors=_Scaled(analysis.graph, analysis.constants, scaled, factor))
