"""The inputs of a walk over a model, computed once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto

from onnxpfp.channels import symbolic as entries
from onnxpfp.channels.symbolic import Value
from onnxpfp.model.constants import Constants, outer_names, reader_counts
from onnxpfp.model.shapes import Shapes, true_inputs

__all__ = ["WalkInput", "domain_of"]


def domain_of(node: NodeProto) -> str:
    """The domain of a node's op; that of ONNX itself has two names."""
    return "" if node.domain == "ai.onnx" else node.domain


@dataclass(frozen=True, slots=True, eq=False)
class WalkInput:
    """A model that is to be walked.

    Attributes:
        proto: The model.
        shapes: Concrete shapes of its tensors.
        constants: Its constants.
        weights: Stored tensors that are weights.
        stored_shapes: Shapes of all stored tensors.
        numbers: Entries of the stored tensors with which shapes are computed.
        opsets: Version of every domain.
        readers: How often nodes read every tensor.
        read: The same with the graph's outputs.
        captures: What the subgraphs of a node read from outside, by its position.
        settled: Tensors that have the same shape in every run.
        ends: Why outputs stay that are none of the file's, by name.
        released: Whether the file's own outputs may lose indices (`onnxpfp.channels.class_axes`).
    """

    proto: ModelProto
    shapes: Shapes
    constants: Constants
    weights: frozenset[str]
    stored_shapes: Mapping[str, tuple[int, ...]]
    numbers: Mapping[str, Value]
    opsets: Mapping[str, int]
    readers: Counter[str]
    read: Counter[str]
    captures: Mapping[int, frozenset[str]]
    settled: frozenset[str]
    ends: Mapping[str, str]
    released: bool = False

    @classmethod
    def of(
        cls,
        proto: ModelProto,
        shapes: Shapes,
        constants: Constants,
        ends: Mapping[str, str],
        *,
        released: bool = False,
    ) -> WalkInput:
        """Look at a model once."""
        weights = frozenset(constants.weights)
        readers = reader_counts(proto.graph)
        captures = {index: frozenset(outer_names(node)) for index, node in enumerate(proto.graph.node)}
        return cls(
            proto,
            shapes,
            constants,
            weights,
            {name: tuple(tensor.dims) for name, tensor in constants.stored.items()},
            _numbers(constants, weights),
            {("" if o.domain == "ai.onnx" else o.domain): o.version for o in proto.opset_import},
            readers,
            readers + Counter(info.name for info in proto.graph.output),
            {index: names for index, names in captures.items() if names},
            _settled(proto, shapes),
            ends,
            released,
        )


def _numbers(constants: Constants, weights: frozenset[str]) -> dict[str, Value]:
    return {
        name: entries.constant(name, constants.value(name))
        for name, tensor in constants.stored.items()
        if name not in weights and tensor.data_type != TensorProto.STRING and math.prod(tensor.dims) <= entries.LARGEST
    }


def _settled(proto: ModelProto, shapes: Shapes) -> frozenset[str]:
    inputs = [info.type.tensor_type for info in true_inputs(proto)]
    static = all(
        tensor.HasField("shape") and all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in tensor.shape.dim)
        for tensor in inputs
    )
    return shapes.inferred if static else frozenset()
