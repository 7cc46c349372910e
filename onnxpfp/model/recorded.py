"""Recorded shapes that are not those of the tensors: tools that narrow weights leave them behind.

A file records shapes in `value_info`, in the types of its outputs, at weights that are listed as inputs, and in the
graphs inside of nodes. onnxruntime plans memory by them and may refuse what contradicts. What is computed wins: a
record that contradicts it is dropped, and corrected where the format wants one (outputs and inputs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, TensorShapeProto, TypeProto, ValueInfoProto, helper

from onnxpfp.model.constants import all_graphs, subgraphs
from onnxpfp.model.edit import copy_for_inference, copy_model_around, forget_shapes

__all__ = ["StaleShape", "drop_contradicted", "drop_stale_shapes", "inferred_types", "stale_note"]

Types = Mapping[str, TypeProto]


@dataclass(frozen=True, slots=True)
class StaleShape:
    """A record that is not true.

    Attributes:
        tensor: Name of the tensor.
        recorded: The shape in the file, with the element type where that is wrong too.
        computed: The same of what is computed.
    """

    tensor: str
    recorded: str
    computed: str


def drop_stale_shapes(model: ModelProto) -> tuple[ModelProto, tuple[StaleShape, ...]]:
    """Drop the records that contradict what follows from the inputs and the weights.

    Args:
        model: The model; it is not changed.

    Returns:
        A copy, and what was dropped; the model itself where nothing was.
    """
    stored = {tensor.name: helper.make_tensor_type_proto(tensor.data_type, tensor.dims) for tensor in _listed(model)}
    if not stored and not any(_recorded(graph) for graph in all_graphs(model)):
        return model, ()
    inferred = _inferred(model)
    types: list[Types] = [_types(graph) for graph in all_graphs(inferred)] if inferred is not None else [{}]
    # What is fed is nobody's result.
    fed = {info.name for info in model.graph.input}
    types[0] = {**{name: kind for name, kind in types[0].items() if name not in fed}, **stored}
    return _drop(model, types, constant=True)


def drop_contradicted(
    model: ModelProto, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, int]
) -> tuple[ModelProto, tuple[StaleShape, ...]]:
    """Drop the records of the main graph that contradict the shapes of a run.

    Args:
        model: The model; it is not changed.
        shapes: Shape by tensor name.
        dtypes: onnx element type by tensor name.

    Returns:
        As `drop_stale_shapes`.
    """
    fed = {info.name for info in model.graph.input}
    infos = (info for info in (*model.graph.value_info, *model.graph.output) if info.name in shapes.keys() - fed)
    types = {info.name: helper.make_tensor_type_proto(dtypes[info.name], shapes[info.name]) for info in infos}
    return _drop(model, [types], constant=False)


def stale_note(stale: Sequence[StaleShape]) -> str:
    """Say which recorded shapes were wrong."""
    shown = ", ".join(f"'{one.tensor}' {one.recorded} where it is {one.computed}" for one in stale[:2])
    rest = f" and {len(stale) - 2} more" if len(stale) > 2 else ""
    return f"the file recorded shapes that its tensors do not have, and these records were dropped: {shown}{rest}"


def inferred_types(model: ModelProto) -> Types:
    """Infer the types of the main graph's tensors; none where inference gives up."""
    inferred = _inferred(model)
    return {} if inferred is None else _types(inferred.graph)


def _listed(model: ModelProto) -> list[onnx.TensorProto]:
    """Return the weights that are listed as inputs, as old files have them all."""
    listed = {info.name for info in model.graph.input}
    return [tensor for tensor in model.graph.initializer if tensor.name in listed]


def _recorded(graph: GraphProto) -> bool:
    return bool(graph.value_info) or any(info.type.tensor_type.shape.dim for info in graph.output)


def _types(graph: GraphProto) -> Types:
    return {info.name: info.type for info in (*graph.input, *graph.value_info, *graph.output)}


def _inferred(model: ModelProto) -> ModelProto | None:
    """Infer all shapes from inputs and weights alone; None where inference gives up."""
    bare = _bare(model)
    try:
        return onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return None


def _bare(model: ModelProto) -> ModelProto:
    """Copy a model without records and without the numbers of its weights."""
    graph = copy_for_inference(model.graph)
    for info in graph.output:
        info.ClearField("type")
    bare = copy_model_around(model, graph)
    for node in (node for outer in all_graphs(bare) for node in outer.node):
        for inner in subgraphs(node):
            del inner.value_info[:]
            # What a Loop carries may change its shape from turn to turn, so the file alone says what it is.
            infos = inner.output if node.op_type == "Loop" else (*inner.output, *inner.input)
            for info in infos:
                info.type.tensor_type.ClearField("shape")
    return bare


def _drop(model: ModelProto, types: Sequence[Types], *, constant: bool) -> tuple[ModelProto, tuple[StaleShape, ...]]:
    """Drop what contradicts.

    Args:
        model: The model.
        types: What is computed, for the graphs of the model in the order of `all_graphs`.
        constant: Whether it is so in every run.
    """
    found = {
        info.name: StaleShape(info.name, _text(info.type, right), _text(right, info.type))
        for graph, known in zip(all_graphs(model), types, strict=False)
        for info, right in _contradicted(graph, known)
    }
    if not found:
        return model, ()
    copy = ModelProto()
    copy.CopyFrom(model)
    for graph, known in zip(all_graphs(copy), types, strict=False):
        stale = list(_contradicted(graph, known))
        for info, right in stale:
            info.type.CopyFrom(_corrected(info.type, right, constant=constant))
        forget_shapes(graph, {info.name for info, _ in stale})
    return copy, tuple(found.values())


def _contradicted(graph: GraphProto, types: Types) -> Iterator[tuple[ValueInfoProto, TypeProto]]:
    """Yield the records that cannot be true together with what is computed, and that."""
    for info in (*graph.input, *graph.output, *graph.value_info):
        right = types.get(info.name)
        if right is not None and _contradicts(info.type, right):
            yield info, right


def _contradicts(one: TypeProto, two: TypeProto) -> bool:
    kinds = {one.WhichOneof("value"), two.WhichOneof("value")}
    if None in kinds or kinds != {"tensor_type"}:
        return len(kinds - {None}) > 1
    a, b = one.tensor_type, two.tensor_type
    if a.elem_type and b.elem_type and a.elem_type != b.elem_type:
        return True
    if not (a.HasField("shape") and b.HasField("shape")):
        return False
    pairs = zip(a.shape.dim, b.shape.dim, strict=False)
    return len(a.shape.dim) != len(b.shape.dim) or any(_differ(*pair) for pair in pairs)


def _differ(one: TensorShapeProto.Dimension, two: TensorShapeProto.Dimension) -> bool:
    """Tell whether two lengths are known and not equal; some exporters write 0 or -1 for what is free."""
    return one.dim_value > 0 and two.dim_value > 0 and one.dim_value != two.dim_value


def _corrected(recorded: TypeProto, right: TypeProto, *, constant: bool) -> TypeProto:
    """Return what a record that is wrong should be; where it is wrong in one axis, the others prove nothing.

    The lengths of one run are not those of every run, so they are not written down.
    """
    new = TypeProto()
    new.CopyFrom(right)
    old = recorded.tensor_type.shape.dim
    names = [dim.dim_param for dim in old] if len(old) == len(right.tensor_type.shape.dim) else []
    for number, dim in enumerate(new.tensor_type.shape.dim):
        agreed = names and old[number].dim_value == dim.dim_value
        if not dim.dim_value or not (constant or agreed):
            dim.Clear()
            if names and names[number]:
                dim.dim_param = names[number]
    return new


def _text(kind: TypeProto, other: TypeProto) -> str:
    """Write a type as people do; the element type where it is not the other's."""
    if kind.WhichOneof("value") != "tensor_type":
        return "no tensor"
    tensor = kind.tensor_type
    lengths = (str(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or "?" for dim in tensor.shape.dim)
    shape = "x".join(lengths) or "scalar"
    same = tensor.elem_type == other.tensor_type.elem_type
    # A file may record any number as a type.
    types = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    return shape if same else f"{shape} {types.get(tensor.elem_type, f'type {tensor.elem_type}')}"
