"""Small models from onnx.parser text: every tensor that is declared and never computed is a weight."""

from __future__ import annotations

import math
import warnings

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper, parser

from onnxpfp.model.shapes import concrete_shapes

POSITIVE = ("s", "v")
"""First letters of the names of scales and variances."""


def _draw(info: ValueInfoProto, rng: np.random.Generator) -> TensorProto:
    kind = info.type.tensor_type
    shape = [dim.dim_value for dim in kind.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    array: NDArray[np.generic]
    if kind.elem_type in {TensorProto.INT4, TensorProto.UINT4}:
        array = rng.integers(0, 8, shape).astype(dtype)
    elif np.issubdtype(dtype, np.integer):
        array = rng.integers(-9 if np.issubdtype(dtype, np.signedinteger) else 0, 9, shape).astype(dtype)
    elif info.name.startswith(POSITIVE):
        array = rng.uniform(0.5, 1.5, shape).astype(dtype)
    else:
        fan = max(math.prod(shape[1:]), 1) if len(shape) > 1 else 1
        array = (rng.standard_normal(shape) / math.sqrt(fan)).astype(dtype)
    return numpy_helper.from_array(np.asarray(array), info.name)


def fill(graph: GraphProto, seed: int) -> None:
    """Turn declared tensors that no node computes into initializers of random numbers."""
    rng = np.random.default_rng(seed)
    made = {name for node in graph.node for name in node.output}
    infos = list(graph.value_info)
    del graph.value_info[:]
    for info in infos:
        if info.name in made:
            graph.value_info.append(info)
        else:
            graph.initializer.append(_draw(info, rng))


def _type_outputs(model: ModelProto) -> None:
    """Give outputs that the text leaves bare their inferred types, and record all shapes."""
    for info in model.graph.output:
        if not info.type.HasField("tensor_type"):
            info.type.tensor_type.SetInParent()
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    if not all(info.type.tensor_type.elem_type for info in model.graph.output):
        _type_outputs_by_running(model)


def _type_outputs_by_running(model: ModelProto) -> None:
    shapes = concrete_shapes(model, {})
    for info in model.graph.output:
        info.CopyFrom(helper.make_tensor_value_info(info.name, shapes.dtype[info.name], shapes.shape[info.name]))


def build(text: str, *, opset: int = 17, seed: int = 0, ir: int | None = None) -> ModelProto:
    """Parse a graph and fill in its weights and output types."""
    graph = parser.parse_graph(text)
    fill(graph, seed)
    domains = {node.domain for node in graph.node} - {"", "ai.onnx"}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in sorted(domains))]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir or (10 if opset >= 21 else 8))
    _type_outputs(model)
    return model


def weights_as_inputs(model: ModelProto) -> ModelProto:
    """Return the model as IR 3 wants it: every initializer is listed as a graph input too."""
    old = ModelProto()
    old.CopyFrom(model)
    old.ir_version = 3
    for tensor in old.graph.initializer:
        old.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.checker.check_model(old)
    return old
