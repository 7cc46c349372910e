"""Constants in one form: sparse tensors and the short forms of Constant become dense tensors, which can be cut.

What was not cut then gets its own form back.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from onnxpfp.errors import ModelError
from onnxpfp.model.edit import drop_initializers
from onnxpfp.runtime.external_data import is_reference

__all__ = ["with_own_constants", "with_plain_constants", "with_sparse_initializers"]

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


def with_own_constants(model: ModelProto, given: ModelProto) -> ModelProto:
    """Give the constants of the main graph the form that they had: all that are what they were, and what is sparse yet.

    Args:
        model: A model that was made from a plain one; it is not changed.
        given: The model as it was before its constants were made plain.

    Returns:
        A model that computes the same; the model itself where no constant had another form.
    """
    dense = {tensor.name: tensor for tensor in model.graph.initializer}
    of_name = {tensor.values.name: tensor for tensor in given.graph.sparse_initializer if tensor.values.name in dense}
    sparse = {name: _again(dense[name], tensor) for name, tensor in of_name.items()}
    forms = {node.output[0]: node.attribute[0] for node in given.graph.node if _plain(node)}
    if not any(sparse.values()) and not any(node.output[0] in forms for node in model.graph.node):
        return model
    out = ModelProto()
    out.CopyFrom(model)
    drop_initializers(out.graph, {name for name, tensor in sparse.items() if tensor is not None})
    out.graph.sparse_initializer.extend(tensor for tensor in sparse.values() if tensor is not None)
    for node in out.graph.node:
        form = forms.get(node.output[0])
        attribute = None if form is None or node.op_type != "Constant" else _with_form(node.attribute[0], form)
        if attribute is not None:
            del node.attribute[:]
            node.attribute.append(attribute)
    return out


def _with_form(now: AttributeProto, form: AttributeProto) -> AttributeProto | None:
    """Return what a Constant node holds in the form that it had; None where it cannot have it any more."""
    if form.name == "sparse_value":
        tensor = _again(now.t, form.sparse_tensor)
        return None if tensor is None else helper.make_attribute("sparse_value", tensor)
    return form if now == _plain(helper.make_node("Constant", [], ["c"], **{form.name: _value(form)})) else None


def _value(attribute: AttributeProto) -> Any:
    return helper.get_attribute_value(attribute)


def _again(dense: TensorProto, sparse: SparseTensorProto) -> SparseTensorProto | None:
    """Make a tensor sparse that was it, the same if it is what it was; None where that takes more by now."""
    if dense == _dense(sparse, dense.name):
        return sparse
    return sparse_form(dense, sparse.values.name)


def sparse_form(dense: TensorProto, name: str) -> SparseTensorProto | None:
    """Return a tensor in its sparse form, an index for every number; None where that takes as many bytes or more."""
    array = numpy_helper.to_array(dense)
    places = np.flatnonzero(array)
    if places.size * (array.itemsize + places.itemsize) >= array.nbytes:
        return None
    values = numpy_helper.from_array(array.ravel()[places], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(places.astype(np.int64)), list(dense.dims))


def with_sparse_initializers(model: ModelProto, names: Collection[str]) -> tuple[ModelProto, tuple[str, ...]]:
    """Store initializers in their sparse form where that takes fewer bytes.

    Those that a caller may feed, that lie in other files, or that are no initializers stay dense.

    Args:
        model: The model; it is not changed.
        names: The initializers in question.

    Returns:
        The model, and the names of those that are sparse in it.
    """
    listed = {info.name for info in model.graph.input}
    dense = [tensor for tensor in model.graph.initializer if tensor.name in names and tensor.name not in listed]
    forms = {tensor.name: sparse_form(tensor, tensor.name) for tensor in dense if not is_reference(tensor)}
    sparse = {name: form for name, form in forms.items() if form is not None}
    if not sparse:
        return model, ()
    out = ModelProto()
    out.CopyFrom(model)
    drop_initializers(out.graph, sparse.keys())
    out.graph.sparse_initializer.extend(sparse.values())
    return out, tuple(sparse)


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
