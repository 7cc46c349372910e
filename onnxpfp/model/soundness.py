"""What a model must be before anything reads it: texts that are texts, tensors that have the numbers of their shapes.

onnxruntime checks a graph when it loads it, but models are read and rewritten before that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    helper,
)

from onnxpfp.errors import ModelError
from onnxpfp.model.constants import all_graphs

__all__ = ["all_tensors", "check_soundness", "misfit", "packed_size", "raw_size", "type_bits"]

MOST_NODES = 1_000_000
"""Nodes of a graph with the bodies of all local functions in place."""
LARGEST_DENSE = 2_000_000_000
"""Bytes of a sparse tensor that is filled up with zeros; protobuf cannot hold more."""

_PACKED = ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2")
_BITS: Mapping[int, int] = {
    TensorProto.DataType.Value(name): int(name.removeprefix("U").removeprefix("INT").removeprefix("FLOAT")[0])
    for name in _PACKED
    if name in TensorProto.DataType.keys()  # noqa: SIM118 (no mapping)
}
"""Bits of an element, where it has less than a byte."""


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of a model: the initializers of the main graph, then all others, wherever they stand."""
    yield from model.graph.initializer
    yield from (sparse_part for sparse in model.graph.sparse_initializer for sparse_part in _parts(sparse))
    yield from chain.from_iterable(map(_of_node, model.graph.node))
    for function in model.functions:
        yield from _of_function(function)
    for training in model.training_info:
        for graph in (training.initialization, training.algorithm):
            yield from _of_graph(graph)


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from (part for sparse in graph.sparse_initializer for part in _parts(sparse))
    yield from chain.from_iterable(map(_of_node, graph.node))


def _of_function(function: FunctionProto) -> Iterator[TensorProto]:
    yield from chain.from_iterable(map(_of_node, function.node))
    yield from chain.from_iterable(map(_of_attribute, function.attribute_proto))


def _of_node(node: NodeProto) -> Iterator[TensorProto]:
    yield from chain.from_iterable(map(_of_attribute, node.attribute))


def _of_attribute(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    yield from (part for tensor in (*sparse, *attribute.sparse_tensors) for part in _parts(tensor))
    graphs = [attribute.g] if attribute.HasField("g") else []
    for graph in (*graphs, *attribute.graphs):
        yield from _of_graph(graph)


def _parts(sparse: SparseTensorProto) -> Iterator[TensorProto]:
    yield sparse.values
    yield sparse.indices


def check_soundness(title: str, model: ModelProto) -> None:
    """Make sure that a model can be read without surprises.

    Args:
        title: What messages call it.
        model: The model; its weights may lie in other files.

    Raises:
        ModelError: It cannot.
    """
    graph = model.graph
    if not graph.node:
        raise ModelError(f"{title}: the graph is empty: it has no nodes")
    if not graph.output:
        raise ModelError(f"{title}: the graph has no outputs")
    _check_names(title, model)
    for tensor in all_tensors(model):
        _check_tensor(title, tensor)
    for inner in all_graphs(model):
        for sparse in inner.sparse_initializer:
            _check_sparse(title, sparse)
        for node in inner.node:
            _check_constant(title, node)
    for function in model.functions:
        for node in function.node:
            _check_constant(title, node)
    _check_functions(title, model)


def _check_names(title: str, model: ModelProto) -> None:
    """Refuse names that are no text: protobuf hands out the bytes of what is not UTF-8."""
    _require_texts(title, (opset.domain for opset in model.opset_import))
    for graph in (*all_graphs(model), *model.functions):
        names: list[object] = [graph.name, *(text for node in graph.node for text in _names_of(node))]
        if isinstance(graph, GraphProto):
            names += [info.name for info in chain(graph.input, graph.output, graph.value_info)]
        else:
            names += [graph.domain, graph.overload, *graph.input, *graph.output, *graph.attribute]
            names += [opset.domain for opset in graph.opset_import]
        _require_texts(title, names)


def _require_texts(title: str, names: Iterable[object]) -> None:
    bad = next((name for name in names if not isinstance(name, str)), None)
    if bad is not None:
        raise ModelError(f"{title}: the name {bad!r} is not text in UTF-8", hint="export the model again")


def _names_of(node: NodeProto) -> Iterator[str]:
    yield from (node.name, node.op_type, node.domain, node.overload, *node.input, *node.output)
    yield from (attribute.name for attribute in node.attribute)


def _check_tensor(title: str, tensor: TensorProto) -> None:
    """Make sure that a tensor has a type, a shape, and the numbers of that shape, unless these lie in a file."""
    texts: tuple[object, ...] = (tensor.name, *chain.from_iterable((e.key, e.value) for e in tensor.external_data))
    _require_texts(title, texts)
    name = f"{title}: the weight '{tensor.name}'"
    if tensor.data_type not in helper.get_all_tensor_dtypes():
        raise ModelError(f"{name} has the unknown element type {tensor.data_type}", hint="export the model again")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{name} has the impossible shape {list(tensor.dims)}", hint="export the model again")
    if tensor.HasField("segment"):
        raise ModelError(f"{name} is stored in segments, which nobody reads", hint="export the model again")
    if tensor.data_location == TensorProto.EXTERNAL:
        if tensor.data_type == TensorProto.STRING:
            raise ModelError(f"{name} is text in another file, which ONNX does not have", hint="export it again")
        return
    if tensor.HasField("raw_data"):
        fits = tensor.data_type != TensorProto.STRING and len(tensor.raw_data) == raw_size(tensor)
    else:
        fits = _stored_numbers(tensor) in _numbers_expected(tensor)
    if not fits:
        raise misfit(title, tensor)


def _stored_numbers(tensor: TensorProto) -> int:
    field = helper.tensor_dtype_to_field(tensor.data_type)
    return len(getattr(tensor, field))


def _numbers_expected(tensor: TensorProto) -> tuple[int, ...]:
    """Return how many entries the field of a tensor may have: complex numbers take two, small ones share one."""
    count = math.prod(tensor.dims)
    if tensor.data_type in {TensorProto.COMPLEX64, TensorProto.COMPLEX128}:
        return (2 * count,)
    return (raw_size(tensor),) if tensor.data_type in _BITS else (count,)


def misfit(title: str, tensor: TensorProto) -> ModelError:
    """Return the error of a tensor whose numbers do not fill its shape."""
    return ModelError(
        f"{title}: the weight '{tensor.name}' does not have the numbers that its shape {list(tensor.dims)} says"
    )


def raw_size(tensor: TensorProto) -> int:
    """Return the bytes of raw data that a tensor of its type and shape has."""
    return packed_size(tensor.dims, tensor.data_type)


def packed_size(shape: Sequence[int], data_type: int) -> int:
    """Return the bytes of an array of a type, where elements of a few bits share a byte."""
    return -(-math.prod(shape) * type_bits(data_type) // 8)


def type_bits(data_type: int) -> int:
    """Return the bits that an element of a type has in raw data."""
    return _BITS.get(data_type) or 8 * helper.tensor_dtype_to_np_dtype(data_type).itemsize


def _check_sparse(title: str, sparse: SparseTensorProto) -> None:
    """Make sure that a sparse tensor can be filled up with zeros, and that its indices lie in it."""
    values, indices = sparse.values, sparse.indices
    dims, count = list(sparse.dims), math.prod(sparse.dims)
    name = f"{title}: the sparse weight '{values.name}'"
    if any(dim < 0 for dim in dims):
        raise ModelError(f"{name} has the impossible shape {dims}", hint="export the model again")
    dtype = helper.tensor_dtype_to_np_dtype(values.data_type)
    if count * dtype.itemsize > LARGEST_DENSE:
        raise ModelError(f"{name} of shape {dims} takes more than 2 GB with its zeros", hint="export it dense")
    one_each, given = math.prod(values.dims), tuple(indices.dims)
    if indices.data_type != TensorProto.INT64 or given not in {(one_each,), (one_each, len(dims))}:
        raise misfit(title, values)


def _check_constant(title: str, node: NodeProto) -> None:
    """Make sure that a Constant gives something, and that what is sparse in it can be filled up."""
    if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"}:
        return
    if not node.output or not node.output[0]:
        raise ModelError(f"{title}: the Constant '{node.name}' has no output", hint="export the model again")
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor"):
            _check_sparse(title, attribute.sparse_tensor)


def _check_functions(title: str, model: ModelProto) -> None:
    """Make sure that the bodies of local functions end, and are not too large together when they are in place."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    if len(functions) < len(model.functions):
        raise ModelError(f"{title}: two of its local functions have one name", hint="export the model again")
    sizes: dict[tuple[str, str, str], int] = {}
    open_calls: set[tuple[str, str, str]] = set()

    def size_of(graph: GraphProto | FunctionProto) -> int:
        nodes = 0
        for node in graph.node:
            key = (node.domain, node.op_type, node.overload)
            nodes += called(key) if key in functions else 1
            for attribute in node.attribute:
                inner = [attribute.g] if attribute.HasField("g") else []
                nodes += sum(map(size_of, (*inner, *attribute.graphs)))
        return nodes

    def called(key: tuple[str, str, str]) -> int:
        if key in open_calls:
            raise ModelError(f"{title}: its local function '{key[1]}' calls itself", hint="export the model again")
        if key not in sizes:
            open_calls.add(key)
            sizes[key] = size_of(functions[key])
            open_calls.remove(key)
        return sizes[key]

    try:
        nodes = size_of(model.graph) if functions else len(model.graph.node)
    except RecursionError as error:
        raise ModelError(f"{title}: its local functions call each other too deep", hint="inline them") from error
    if nodes > MOST_NODES:
        raise ModelError(
            f"{title}: has {nodes:,} nodes with the bodies of its functions in place, at most {MOST_NODES:,} are read",
            hint="export a smaller part of it",
        )
