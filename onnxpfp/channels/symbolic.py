"""Shape arithmetic: small tensors as expressions of constants and axis lengths.

A graph holds channel counts in many places: a Reshape target, a Split size, a product of Shape's
outputs. Every element of such a tensor is one of three entries: an element of a constant (which can be
patched), the length of an axis (which follows the axis by itself), or a computation on entries.

Some exporters compute lengths in floats (ceil(224 / stride)); such a number is a Python float here and is rounded
to float32 after each step, as onnxruntime does.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import FLOAT_TYPES

__all__ = [
    "Computed",
    "Const",
    "Dim",
    "Entry",
    "Value",
    "as_plain",
    "clip",
    "constant",
    "evaluate",
    "fold",
    "is_known",
    "is_real",
    "leaves",
    "product",
]

LARGEST = 4096
"""Elements; a larger integer tensor is data, not shape arithmetic."""


@dataclass(frozen=True, slots=True)
class Const:
    """An element of a constant tensor (`tensor` is empty for a number that stands nowhere)."""

    tensor: str
    position: int
    value: int | float


@dataclass(frozen=True, slots=True)
class Dim:
    """The length of an axis, from Shape or Size.

    Attributes:
        tensor: Whose axis it is.
        axis: The axis.
        value: Its length at the analysed shapes.
        constant: Whether the tensor depends on constants only.
        known: Whether the length is the same in every run.
    """

    tensor: str
    axis: int
    value: int
    constant: bool = False
    known: bool = False


@dataclass(frozen=True, slots=True)
class Computed:
    """The result of an operation on other entries."""

    op: str
    args: tuple[Const | Dim | Computed, ...]
    value: int | float


Entry = Const | Dim | Computed
Value = NDArray[np.object_]
"""Entries in the shape of the tensor."""

_OPS = frozenset(
    {"Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Neg", "Abs", "Ceil", "Floor", "Equal", "Less", "Greater"}
    | {"GreaterOrEqual", "LessOrEqual", "And", "Or", "Not", "Where"}
)
_REDUCTIONS = {"ReduceProd": "Product", "ReduceSum": "Sum", "ReduceMax": "Max", "ReduceMin": "Min"}

_REAL: Mapping[str, Callable[..., int | float]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Ceil": math.ceil,
    "Floor": math.floor,
    "Real": float,
}
_BINARY: Mapping[str, Callable[[float, float], bool]] = {
    "Equal": operator.eq,
    "Less": operator.lt,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "LessOrEqual": operator.le,
}


def _number(op: str, args: Sequence[int | float]) -> int | float:
    """Compute one number as ONNX does; a division by zero is 0, for it is never used."""
    real = op == "Real" or any(isinstance(arg, float) for arg in args)
    if op in _REAL:
        return _rounded(_REAL[op](*args), real)
    if op in _BINARY:
        return int(_BINARY[op](args[0], args[1]))
    match op:
        case "Div" if real:
            return _rounded(args[0] / args[1], real) if args[1] else 0.0
        case "Div":
            # ONNX cuts towards zero, Python rounds down.
            return int(math.copysign(abs(args[0]) // abs(args[1]), args[0] * args[1])) if args[1] else 0
        case "Whole":
            return int(args[0])
        case "Mod":
            return args[0] % args[1] if args[1] else 0
        case "Product":
            return math.prod(args)
        case "Sum":
            return sum(args)
        case "Min":
            return min(args)
        case "Max":
            return max(args)
        case "Neg":
            return -args[0]
        case "Abs":
            return abs(args[0])
        case "And":
            return int(bool(args[0]) and bool(args[1]))
        case "Or":
            return int(bool(args[0]) or bool(args[1]))
        case "Not":
            return int(not args[0])
        case "Where":
            return args[1] if args[0] else args[2]
        case _:
            raise KeyError(op)


def _rounded(number: float, real: bool) -> int | float:
    return float(np.float32(number)) if real else int(number)


def constant(tensor: str, array: NDArray[np.generic]) -> Value:
    """Wrap a constant tensor."""
    real = array.dtype.kind == "f"
    out = np.empty(array.shape, object)
    for position, number in enumerate(array.ravel().tolist()):
        out.ravel()[position] = Const(tensor, position, float(number) if real else int(number))
    return out


def is_real(value: Value) -> bool:
    """Whether a tensor holds floats."""
    return any(isinstance(entry.value, float) for entry in value.ravel())


def as_plain(value: Value) -> NDArray[np.int64]:
    """Return the numbers at the analysed shapes, int64."""
    return np.array([entry.value for entry in value.ravel()], np.int64).reshape(value.shape)


def leaves(entry: Entry) -> Iterator[Const | Dim]:
    """Yield the constants and lengths that an entry is made of."""
    if isinstance(entry, Computed):
        for arg in entry.args:
            yield from leaves(arg)
    else:
        yield entry


def is_known(entry: Entry) -> bool:
    """Whether a number is the same in every run."""
    return all(isinstance(leaf, Const) or leaf.known for leaf in leaves(entry))


def evaluate(entry: Entry, lookup: Callable[[Const | Dim], int | float]) -> int | float:
    """Compute an entry anew with `lookup` for its leaves."""
    if isinstance(entry, Computed):
        return _number(entry.op, [evaluate(arg, lookup) for arg in entry.args])
    return lookup(entry)


def _computed(op: str, args: tuple[Entry, ...]) -> Entry:
    value = _number(op, [arg.value for arg in args])
    if all(isinstance(arg, Const) and not arg.tensor for arg in args):
        return Const("", 0, value)
    return Computed(op, args, value)


def product(value: Value) -> Value:
    """Multiply all entries, as Size does."""
    return _tensor(_computed("Product", tuple(value.ravel())))


def _elementwise(op: str, inputs: Sequence[Value]) -> Value:
    arrays = np.broadcast_arrays(*inputs)
    out = np.empty(arrays[0].shape, object)
    for position in np.ndindex(out.shape):
        out[position] = _computed(op, tuple(cast("Entry", array[position]) for array in arrays))
    return out


def _list(inputs: Sequence[Value], position: int, attributes: Attributes, name: str) -> list[int] | None:
    """A list that older opsets keep as an attribute and newer ones as an input."""
    given = attributes.integers(name)
    if given is None and len(inputs) > position:
        given = [int(number) for number in as_plain(inputs[position]).ravel()]
    return given


def _slice(inputs: Sequence[Value], attributes: Attributes) -> Value:
    data = inputs[0]
    starts = _list(inputs, 1, attributes, "starts") or []
    ends = _list(inputs, 2, attributes, "ends") or []
    axes = _list(inputs, 3, attributes, "axes") or list(range(len(starts)))
    steps = _list(inputs, 4, attributes, "steps") or [1] * len(starts)
    index: list[slice] = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        stop = None if step < 0 and end < -data.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return data[tuple(index)]


def _reduce(op: str, inputs: Sequence[Value], attributes: Attributes) -> Value:
    data = inputs[0]
    axes = _list(inputs, 1, attributes, "axes") or list(range(data.ndim))
    axes = [axis % data.ndim for axis in axes]
    rest = [axis for axis in range(data.ndim) if axis not in axes]
    moved = data.transpose(*rest, *axes).reshape(*(data.shape[a] for a in rest), -1)
    out = np.empty(moved.shape[:-1], object)
    for position in np.ndindex(out.shape):
        out[position] = _computed(_REDUCTIONS[op], tuple(moved[position]))
    return np.expand_dims(out, axes) if attributes.integer("keepdims", 1) else out


def _restructure(op: str, inputs: Sequence[Value], attributes: Attributes) -> Value | None:
    """Move entries without computing on them."""
    data = inputs[0]
    match op:
        case "Identity":
            return data
        case "Cast":
            return _cast(data, attributes.integer("to", 0))
        case "Concat":
            return np.concatenate(inputs, axis=attributes.integer("axis", 0))
        case "Gather":
            return _tensor(np.take(data, as_plain(inputs[1]), axis=attributes.integer("axis", 0)))
        case "Slice":
            return _slice(inputs, attributes)
        case "Unsqueeze":
            return np.expand_dims(data, _list(inputs, 1, attributes, "axes") or [])
        case "Squeeze":
            axes = _list(inputs, 1, attributes, "axes")
            return _tensor(np.squeeze(data, None if axes is None else tuple(axes)))
        case "Reshape":
            return data.reshape(as_plain(inputs[1]).tolist())
        case "Flatten":
            axis = attributes.integer("axis", 1)
            return data.reshape(math.prod(data.shape[:axis]), -1)
        case "Transpose":
            return data.transpose(attributes.integers("perm"))
        case _:
            return None


def _cast(data: Value, to: int) -> Value:
    """Turn whole numbers into floats or back; other casts change nothing."""
    real = to in FLOAT_TYPES
    if real == is_real(data):
        return data
    out = np.empty(data.shape, object)
    for position, entry in np.ndenumerate(data):
        out[position] = _computed("Real" if real else "Whole", (cast("Entry", entry),))
    return out


def _tensor(entry: object) -> Value:
    """Undo numpy's habit of returning the object itself in place of a tensor of rank 0."""
    if isinstance(entry, np.ndarray):
        return cast("Value", entry)
    out = np.empty((), object)
    out[()] = entry
    return out


def _is_fixed(value: Value) -> bool:
    return all(isinstance(leaf, Const) for entry in value.ravel() for leaf in leaves(entry))


def _generate(op: str, inputs: Sequence[Value], attributes: Attributes) -> Value | None:
    """Make a tensor whose length its inputs give: only where no axis length is among them."""
    if not all(_is_fixed(value) for value in inputs):
        return None
    numbers = [as_plain(value) for value in inputs]
    if op == "Expand":
        shape = np.broadcast_shapes(numbers[0].shape, tuple(numbers[1].tolist()))
        return np.broadcast_to(inputs[0], shape) if math.prod(shape) <= LARGEST else None
    if op == "Range":
        made = np.arange(*(int(number.ravel()[0]) for number in numbers))
    else:
        fill = attributes.tensor("value")
        made = np.full(numbers[0].tolist(), 0 if fill is None else int(fill.ravel()[0]))
    return constant("", made) if made.size <= LARGEST else None


def clip(data: Value, low: Value | None, high: Value | None) -> Value:
    """Keep numbers within bounds, of which either may be missing."""
    for op, bound in (("Max", low), ("Min", high)):
        data = data if bound is None else _elementwise(op, [data, bound])
    return data


def fold(op: str, inputs: Sequence[Value], attributes: Attributes) -> Value | None:
    """Compute the entries of a node's output, or None where the op is not shape arithmetic.

    Args:
        op: Op type in the standard domain.
        inputs: Entries of every input.
        attributes: The node's attributes.
    """
    if op in {"Range", "ConstantOfShape", "Expand"}:
        return _generate(op, inputs, attributes)
    if op in _REDUCTIONS:
        # The largest of nothing is no length.
        return _reduce(op, inputs, attributes) if inputs[0].size else None
    if op in _OPS:
        return _elementwise(op, inputs)
    out = _restructure(op, inputs, attributes)
    return out if out is None or out.size <= LARGEST else None
