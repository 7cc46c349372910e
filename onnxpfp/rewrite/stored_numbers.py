"""Put numbers into a stored tensor as it has them, and say how many bits they take there."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import TensorProto, numpy_helper

from onnxpfp.arrays import AnyArray
from onnxpfp.model.soundness import type_bits

__all__ = ["entry_bits", "store_numbers"]

_LISTED: Mapping[int, str] = {
    TensorProto.INT32: "int32_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
"""Fields in which small integers take fewer bytes than raw ones; a tensor that has them there keeps them there."""


def store_numbers(tensor: TensorProto, array: AnyArray) -> None:
    """Put numbers into a tensor and leave its name, doc string and metadata alone."""
    new = numpy_helper.from_array(np.asarray(array, order="C"), tensor.name)
    listed = _LISTED.get(tensor.data_type)
    if listed is not None and len(getattr(tensor, listed)):
        new.ClearField("raw_data")
        getattr(new, listed).extend(array.ravel().tolist())
    kept = {"name", "doc_string", "metadata_props"}
    for field_, _ in list(tensor.ListFields()):
        if field_.name not in kept:
            tensor.ClearField(field_.name)
    new.ClearField("name")
    tensor.MergeFrom(new)


def entry_bits(tensor: TensorProto) -> int:
    """Return the bits that an entry of a weight takes as it is stored when it is cut: in the mean, rounded up."""
    count = math.prod(tensor.dims)
    listed = _LISTED.get(tensor.data_type)
    if listed is not None and len(getattr(tensor, listed)):
        return -(-8 * tensor.ByteSize() // count)
    return type_bits(tensor.data_type)
