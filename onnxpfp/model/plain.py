"""Constants in one form: sparse tensors and the short forms of Constant become dense tensors, which can be cut."""

from __future__ import annotations

import math

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from onnxpfp.errors import ModelError

__all__ = ["with_plain_constants"]

_SHORT = {
    "value_float": (TensorProto.FLOAT, AttributeProto.FLOAT),
    "value_floats": (TensorProto.FLOAT, AttributeProto.FLOATS),
    "value_int": (TensorProto.INT64, AttributeProto.INT),
    "value_ints": (TensorProto.INT64, AttributeProto.INTS),
}
"""Types of element and attribute by short form."""


def with_plain_constants(model: ModelProto) -> ModelProto:
    """Store every constant of the main graph as a dense tensor; a model that does so is returned as it is.

    Args:
        model: The model; it is not changed.

    Raises:
        ModelError: One holds no number, or one outside its shape.
    """
    if not model.graph.sparse_initializer and not any(_plain(node) for node in model.graph.node):
        return model
    out = ModelProto()
    out.CopyFrom(model)
    out.graph.initializer.extend(_dense(tensor, tensor.values.name) for tensor in out.graph.sparse_initializer)
    del out.graph.sparse_initializer[:]
    for node in out.graph.node:
        attribute = _plain(node)
        if attribute is not None:
            del node.attribute[:]
            node.attribute.append(attribute)
    return out


def _plain(node: NodeProto) -> AttributeProto | None:
    """Return the dense tensor of a Constant that has another form, as its attribute `value`; else None."""
    if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"}:
        return None
    for attribute in node.attribute:
        if attribute.name == "sparse_value":
            return helper.make_attribute("value", _dense(attribute.sparse_tensor, ""))
        if attribute.name in _SHORT:
            element, form = _SHORT[attribute.name]
            if attribute.type != form or attribute.ref_attr_name:
                raise ModelError(f"the Constant '{node.name or node.output[0]}' has no number in {attribute.name}")
            numbers: object = helper.get_attribute_value(attribute)
            dtype = helper.tensor_dtype_to_np_dtype(element)
            return helper.make_attribute("value", numpy_helper.from_array(np.array(numbers, dtype)))
    return None


def _dense(sparse: SparseTensorProto, name: str) -> TensorProto:
    """Fill a sparse tensor up with zeros; its indices are positions in the flat tensor, or one per axis.

    Raises:
        ModelError: One lies outside the tensor.
    """
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    sizes = tuple(sparse.dims)
    ends = math.prod(sizes) if indices.ndim == 1 else np.array(sizes)
    if values.ndim != 1 or ((indices < 0) | (indices >= ends)).any():
        raise ModelError(f"the sparse weight '{sparse.values.name}' has numbers outside its shape {list(sizes)}")
    out = np.zeros(sizes, values.dtype)
    if indices.ndim == 1:
        out.reshape(-1)[indices] = values
    else:
        out[tuple(indices.T)] = values
    return numpy_helper.from_array(out, name)
