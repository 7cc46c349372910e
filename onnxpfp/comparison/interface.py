"""The interface of two models: names, types and shapes of what a user feeds and reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxpfp.model.input_shapes import declared_dims, true_inputs

__all__ = ["interface_differences", "same_names_and_types"]


def interface_differences(original: ModelProto, other: ModelProto) -> tuple[str, ...]:
    """List how the interface of another model differs, in sentences; none where it is the same.

    1. An input or output is missing, new, or stands at another place.
    2. It has another type.
    3. It has another number of axes, or an axis of another length; names of free axes do not count, nor shapes that
       only one of the models declares.

    Args:
        original: The original.
        other: The other model.
    """
    pairs = (
        ("input", true_inputs(original), true_inputs(other)),
        ("output", list(original.graph.output), list(other.graph.output)),
    )
    return tuple(text for kind, one, two in pairs for text in _differences(kind, one, two))


def same_names_and_types(original: ModelProto, other: ModelProto) -> bool:
    """Tell whether what is fed to the one can be fed to the other, and read likewise, but for shapes."""

    def told(infos: Sequence[ValueInfoProto]) -> dict[str, str]:
        return {info.name: _type(info) for info in infos}

    inputs = told(true_inputs(original)) == told(true_inputs(other))
    return inputs and told(original.graph.output) == told(other.graph.output)


def _differences(kind: str, original: Sequence[ValueInfoProto], other: Sequence[ValueInfoProto]) -> Iterator[str]:
    one, two = ({info.name: info for info in infos} for infos in (original, other))
    yield from (f"the {kind} '{name}' is missing" for name in one if name not in two)
    yield from (f"the {kind} '{name}' is new" for name in two if name not in one)
    if one.keys() == two.keys() and [*one] != [*two]:
        yield f"the {kind}s stand in another order: {', '.join(two)}, not {', '.join(one)}"
    for name in (name for name in one if name in two):
        types = _type(one[name]), _type(two[name])
        if types[0] != types[1]:
            yield f"the {kind} '{name}' is {types[1]}, not {types[0]}"
            continue
        dims = declared_dims(one[name]), declared_dims(two[name])
        if dims[0] is not None and dims[1] is not None and dims[0] != dims[1]:
            yield f"the {kind} '{name}' has shape {_shape(dims[1])}, not {_shape(dims[0])}"


def _type(info: ValueInfoProto) -> str:
    """Write a type for people, such as `float tensor`."""
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return "of no type" if kind is None else f"{kind.removesuffix('_type').replace('_', ' ')}"
    return f"{TensorProto.DataType.Name(info.type.tensor_type.elem_type).lower()} tensor"


def _shape(dims: Sequence[int | None]) -> str:
    return f"({', '.join('?' if dim is None else str(dim) for dim in dims)})"
