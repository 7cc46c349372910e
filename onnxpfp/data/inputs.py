"""Input specifications: name, element type and shape of everything that a model must be fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper

from onnxpfp.errors import ModelError

__all__ = ["InputSpec", "input_specs"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: Its name.
        dtype: Its element type.
        shape: Its dims; None where a dim is dynamic.
        symbols: What the model calls its dims; empty where one has no name, and as a whole where none has.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    symbols: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_text(self) -> bool:
        """Whether it takes strings."""
        return self.dtype == object

    @property
    def type_name(self) -> str:
        """Its element type, for people."""
        return "text" if self.is_text else str(self.dtype)

    @property
    def free(self) -> tuple[int, ...]:
        """Its dynamic axes."""
        return tuple(axis for axis, dim in enumerate(self.shape) if dim is None)

    def symbol(self, axis: int) -> str:
        """Return what the model calls an axis."""
        return self.symbols[axis] if axis < len(self.symbols) else ""

    def describe(self) -> str:
        """Write type and shape for people, such as `float32 (?, 3, 32, 32)`."""
        return f"{self.type_name} {size_ref(self.shape)}"


def size_ref(shape: tuple[int | None, ...]) -> str:
    """Write a shape for people, dynamic dims as `?`."""
    inner = ", ".join("?" if dim is None else str(dim) for dim in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def input_specs(
    model: ModelProto, given: Mapping[str, tuple[int, ...]] = MappingProxyType({})
) -> tuple[InputSpec, ...]:
    """List the inputs that must be fed: graph inputs that are no initializers.

    Args:
        model: The model.
        given: Shapes that the user gives; they say the number of axes where the model does not.

    Raises:
        ModelError: An input is not a tensor of known type, or has no known number of axes.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return tuple(_spec(item, given.get(item.name)) for item in model.graph.input if item.name not in stored)


def _spec(item: ValueInfoProto, given: tuple[int, ...] | None) -> InputSpec:
    tensor = item.type.tensor_type
    if not item.type.HasField("tensor_type") or tensor.elem_type == 0:
        raise ModelError(f"input {item.name!r} is not a tensor of known type")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if not tensor.HasField("shape"):
        if given is None:
            raise ModelError(
                f"input {item.name!r} has no shape, not even a number of axes",
                hint=f"give one: --input-shape {item.name}:1,3,224,224",
            )
        return InputSpec(item.name, dtype, (None,) * len(given))
    dims = tuple(
        int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim
    )
    return InputSpec(item.name, dtype, dims, tuple(dim.dim_param for dim in tensor.shape.dim))
