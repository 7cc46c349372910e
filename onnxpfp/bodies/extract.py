"""A body as a model of its own: what it reads from outside becomes its inputs, or its constants where they are such.

Its interface is that of the body, so that what is made of the model can take the body's place (`bodies.insert`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxpfp.bodies.graphs import Body, captured_names
from onnxpfp.data.samples import Feed
from onnxpfp.errors import ModelError
from onnxpfp.model.constants import INTEGERS, Constants
from onnxpfp.model.edit import INITIALIZERS_ARE_FREE

__all__ = ["Lengths", "body_model", "inputs_of", "shared_constants"]

Lengths = Mapping[tuple[str, int], int]
"""Lengths of axes that are the same in every run, by tensor and axis."""


def shared_constants(body: Body, constants: Constants) -> list[str]:
    """Name the constants outside that a body reads, and that become constants of its model.

    These are the numbers and vectors, which are copied where the body needs others. A matrix or filter bank that others
    read too is one thing and stays: it is an input (one that the body alone reads has moved into it before).
    """
    return [name for name in captured_names(body.graph) if name in constants.names and _copied(name, constants)]


def _copied(name: str, constants: Constants) -> bool:
    if name in constants.apart:
        return False
    tensor = constants.stored.get(name)
    if tensor is not None and tensor.data_type in INTEGERS:
        return True
    shape = constants.value(name).shape if tensor is None else tensor.dims
    return sum(size > 1 for size in shape) <= 1


def inputs_of(body: Body, constants: Constants) -> list[str]:
    """Name the inputs of a body's model: those of the body, and what it reads from outside."""
    shared = {*shared_constants(body, constants)}
    outside = [name for name in captured_names(body.graph) if name not in shared]
    return [*(info.name for info in body.graph.input), *outside]


def body_model(
    outer: ModelProto, body: Body, constants: Constants, feeds: Sequence[Feed], lengths: Lengths
) -> ModelProto:
    """Make a model of a body.

    Args:
        outer: The model around it.
        body: The body.
        constants: The constants of `outer`.
        feeds: What it is fed, one dict a run; they tell the types of its inputs, and which axes are free.
        lengths: Lengths of what it reads from outside.

    Raises:
        ModelError: What it is fed is no tensor, or has another number of axes in other runs.
    """
    fixed = dict(lengths)
    for info in body.graph.input:
        dims = info.type.tensor_type.shape.dim
        fixed.update({(info.name, axis): dim.dim_value for axis, dim in enumerate(dims) if dim.dim_value > 0})
    inputs = [_input(name, feeds, fixed) for name in inputs_of(body, constants)]
    graph = GraphProto(name=body.graph.name or body.attribute, doc_string=body.graph.doc_string)
    graph.input.extend(inputs)
    graph.initializer.extend(_constant(name, constants) for name in shared_constants(body, constants))
    graph.initializer.extend(body.graph.initializer)
    graph.sparse_initializer.extend(body.graph.sparse_initializer)
    graph.node.extend(body.graph.node)
    graph.value_info.extend(body.graph.value_info)
    graph.quantization_annotation.extend(body.graph.quantization_annotation)
    graph.output.extend({output.name: _typed(output) for output in body.graph.output}.values())
    version = max(outer.ir_version, INITIALIZERS_ARE_FREE)
    model = ModelProto(ir_version=version, producer_name=outer.producer_name, graph=graph)
    model.opset_import.extend(outer.opset_import)
    return model


def _constant(name: str, constants: Constants) -> TensorProto:
    copy = TensorProto()
    stored = constants.stored.get(name)
    copy.CopyFrom(numpy_helper.from_array(constants.value(name)) if stored is None else stored)
    copy.name = name
    return copy


def _typed(output: ValueInfoProto) -> ValueInfoProto:
    """Take the element type of an output and leave its shape, which nobody has to have right in a body."""
    copy = ValueInfoProto(name=output.name)
    copy.type.CopyFrom(output.type)
    if copy.type.HasField("tensor_type"):
        copy.type.tensor_type.ClearField("shape")
    return copy


def _input(name: str, feeds: Sequence[Feed], fixed: Lengths) -> ValueInfoProto:
    """Describe an input by what it is fed; an axis has a length where that is known to be the same in every run."""
    arrays = [feed[name] for feed in feeds]
    first = arrays[0]
    if first.dtype.kind == "O" and not all(isinstance(item, str) for item in first.ravel()[:1]):
        raise ModelError(f"it reads '{name}', which is no tensor")
    if any(array.ndim != first.ndim for array in arrays):
        raise ModelError(f"it reads '{name}', which has another number of axes in other runs")
    element = TensorProto.STRING if first.dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(first.dtype)
    info = helper.make_tensor_value_info(name, element, [None] * first.ndim)
    for axis, dim in enumerate(info.type.tensor_type.shape.dim):
        length = fixed.get((name, axis))
        if length is not None and all(array.shape[axis] == length for array in arrays):
            dim.dim_value = length
    return info
