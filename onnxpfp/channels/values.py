"""Shape arithmetic: small integer tensors as expressions of constants and axis lengths.

A graph spells channel counts in many places: a Reshape target, a Split size, a product of Shape's
outputs. Every element of such a tensor is one of three entries: an element of a constant (which can be
patched), the length of an axis (which follows the axis by itself), or a computation on entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Computed", "Const", "Dim", "Entry", "Value", "evaluate", "fold", "leaves", "plain"]

LARGEST = 4096
"""Elements; a larger integer tensor is data, not shape arithmetic."""


@dataclass(frozen=True, slots=True)
class Const:
    """An element of a constant tensor (`tensor` is empty for a number that stands nowhere)."""

    tensor: str
    position: int
    value: int


@dataclass(frozen=True, slots=True)
class Dim:
    """The length of an axis, from Shape or Size."""

    tensor: str
    axis: int
    value: int


@dataclass(frozen=True, slots=True)
class Computed:
    """The result of an operation on other entries."""

    op: str
    args: tuple[Const | Dim | Computed, ...]
    value: int


Entry = Const | Dim | Computed
Value = NDArray[np.object_]
"""Entries in the shape of the tensor."""

Number = Callable[..., int]


def _divide(a: int, b: int) -> int:
    return int(a / b) if b else 0


_NUMBERS: Mapping[str, Number] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Mod": lambda a, b: a % b if b else 0,
    "Min": lambda *a: min(a),
    "Max": lambda *a: max(a),
    "Neg": lambda a: -a,
    "Abs": abs,
    "Equal": lambda a, b: int(a == b),
    "Less": lambda a, b: int(a < b),
    "Greater": lambda a, b: int(a > b),
    "GreaterOrEqual": lambda a, b: int(a >= b),
    "LessOrEqual": lambda a, b: int(a <= b),
    "And": lambda a, b: int(bool(a) and bool(b)),
    "Or": lambda a, b: int(bool(a) or bool(b)),
    "Not": lambda a: int(not a),
    "Where": lambda c, a, b: a if c else b,
    "ReduceProd": lambda *a: math.prod(a),
    "ReduceSum": lambda *a: sum(a),
    "ReduceMax": lambda *a: max(a),
    "ReduceMin": lambda *a: min(a),
}


def constant(tensor: str, array: NDArray[np.generic]) -> Value:
    """Wrap a constant integer tensor."""
    out = np.empty(array.shape, object)
    for position, number in enumerate(array.ravel().tolist()):
        out.ravel()[position] = Const(tensor, position, int(number))
    return out


def plain(value: Value) -> NDArray[np.int64]:
    """Return the numbers at the analysed shapes, int64."""
    return np.array([entry.value for entry in value.ravel()], np.int64).reshape(value.shape)


def leaves(entry: Entry) -> Iterator[Const | Dim]:
    """Yield the constants and lengths that an entry is made of."""
    if isinstance(entry, Computed):
        for arg in entry.args:
            yield from leaves(arg)
    else:
        yield entry


def evaluate(entry: Entry, lookup: Callable[[Const | Dim], int]) -> int:
    """Compute an entry anew with `lookup` for its leaves."""
    if isinstance(entry, Computed):
        return _NUMBERS[entry.op](*(evaluate(arg, lookup) for arg in entry.args))
    return lookup(entry)


def _computed(op: str, args: tuple[Entry, ...]) -> Entry:
    value = _NUMBERS[op](*(arg.value for arg in args))
    if all(isinstance(arg, Const) and not arg.tensor for arg in args):
        return Const("", 0, value)
    return Computed(op, args, value)


def _elementwise(op: str, inputs: Sequence[Value]) -> Value:
    arrays = np.broadcast_arrays(*inputs)
    out = np.empty(arrays[0].shape, object)
    for position in np.ndindex(out.shape):
        out[position] = _computed(op, tuple(array[position] for array in arrays))
    return out


def _slice(inputs: Sequence[Value], attributes: Mapping[str, object]) -> Value:
    data = inputs[0]
    if len(inputs) > 1:
        parts = [plain(value).ravel().tolist() for value in inputs[1:]]
    else:
        parts = [list(attributes[key]) for key in ("starts", "ends", "axes") if key in attributes]  # type: ignore[call-overload]
    starts, ends = parts[0], parts[1]
    axes = parts[2] if len(parts) > 2 else list(range(len(starts)))
    steps = parts[3] if len(parts) > 3 else [1] * len(starts)
    index: list[slice] = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        stop = None if step < 0 and end < -data.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return data[tuple(index)]


def _axes(inputs: Sequence[Value], attributes: Mapping[str, object]) -> tuple[int, ...] | None:
    if len(inputs) > 1:
        return tuple(plain(inputs[1]).ravel().tolist())
    axes = attributes.get("axes")
    return None if axes is None else tuple(axes)  # type: ignore[arg-type]


def _reduce(op: str, inputs: Sequence[Value], attributes: Mapping[str, object]) -> Value:
    data = inputs[0]
    axes = _axes(inputs, attributes) or tuple(range(data.ndim))
    axes = tuple(axis % data.ndim for axis in axes)
    rest = [axis for axis in range(data.ndim) if axis not in axes]
    moved = data.transpose(*rest, *axes).reshape(*(data.shape[a] for a in rest), -1)
    out = np.empty(moved.shape[:-1], object)
    for position in np.ndindex(out.shape):
        out[position] = _computed(op, tuple(moved[position]))
    if attributes.get("keepdims", 1):
        out = np.expand_dims(out, axes)
    return out


def _restructure(op: str, inputs: Sequence[Value], attributes: Mapping[str, object]) -> Value | None:
    """Move entries without computing on them."""
    data = inputs[0]
    if op in {"Identity", "Cast"}:
        return data
    if op == "Concat":
        return np.concatenate(inputs, axis=int(attributes["axis"]))  # type: ignore[call-overload]
    if op == "Gather":
        axis = int(attributes.get("axis", 0))  # type: ignore[call-overload]
        return _tensor(np.take(data, plain(inputs[1]), axis=axis))
    if op == "Slice":
        return _slice(inputs, attributes)
    if op == "Unsqueeze":
        return np.expand_dims(data, _axes(inputs, attributes) or ())
    if op == "Squeeze":
        return _tensor(np.squeeze(data, _axes(inputs, attributes)))
    if op == "Reshape":
        return data.reshape(plain(inputs[1]).tolist())
    if op == "Flatten":
        axis = int(attributes.get("axis", 1))  # type: ignore[call-overload]
        return data.reshape(math.prod(data.shape[:axis]), -1)
    if op == "Transpose":
        return data.transpose(attributes.get("perm"))  # type: ignore[arg-type]
    return None


def _tensor(entry: object) -> Value:
    """Undo numpy's habit of returning the object itself in place of a tensor of rank 0."""
    if isinstance(entry, np.ndarray):
        return entry
    out = np.empty((), object)
    out[()] = entry
    return out


def _is_fixed(value: Value) -> bool:
    return all(isinstance(leaf, Const) for entry in value.ravel() for leaf in leaves(entry))


def _generate(op: str, inputs: Sequence[Value], attributes: Mapping[str, object]) -> Value | None:
    """Make a tensor whose length its inputs spell: only where no axis length is among them."""
    if not all(_is_fixed(value) for value in inputs):
        return None
    numbers = [plain(value) for value in inputs]
    if op == "Range":
        made = np.arange(*(int(number.ravel()[0]) for number in numbers))
    elif op == "ConstantOfShape":
        fill = np.asarray(attributes.get("value", 0)).ravel()[0]
        made = np.full(numbers[0].tolist(), int(fill))
    elif op == "Expand":
        made = None
        shape = np.broadcast_shapes(numbers[0].shape, tuple(numbers[1].tolist()))
        return np.broadcast_to(inputs[0], shape) if math.prod(shape) <= LARGEST else None
    else:
        return None
    return constant("", made) if made.size <= LARGEST else None


def fold(op: str, inputs: Sequence[Value], attributes: Mapping[str, object]) -> Value | None:
    """Compute the entries of a node's output, or None where the op is not shape arithmetic.

    Args:
        op: Op type in the standard domain.
        inputs: Entries of every input.
        attributes: The node's attributes as Python values.
    """
    if op in {"Range", "ConstantOfShape", "Expand"}:
        return _generate(op, inputs, attributes)
    if op.startswith("Reduce") and op in _NUMBERS:
        return _reduce(op, inputs, attributes)
    if op in _NUMBERS:
        return _elementwise(op, inputs)
    out = _restructure(op, inputs, attributes)
    return out if out is None or out.size <= LARGEST else None
