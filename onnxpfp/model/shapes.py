"""Concrete shapes of every tensor: by shape inference where it suffices, else by one run."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxpfp.errors import ModelError, OptionError
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.edit import forget_axis_names
from onnxpfp.runtime import open_session
from onnxpfp.runtime.external_data import externalise
from onnxpfp.runtime.memory import amount_text, memory_limit

__all__ = ["Shapes", "concrete_shapes", "default_input_shapes", "static_lengths", "true_inputs"]

IMAGE_SIDE = 224
SEQUENCE = 16


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """Shape and element type of every tensor at the analysed input shapes.

    Attributes:
        shape: Shape by tensor name; tensors that are no dense tensors are missing.
        dtype: onnx element type by tensor name.
        inputs: The input shapes that were used.
        inferred: Tensors whose shapes follow from the input shapes alone; the shapes of the others were
            seen in a run and may depend on the data.
    """

    shape: Mapping[str, tuple[int, ...]]
    dtype: Mapping[str, int]
    inputs: Mapping[str, tuple[int, ...]]
    inferred: frozenset[str] = frozenset()


def _dims(info: ValueInfoProto) -> tuple[int | None, ...] | None:
    if not info.type.HasField("tensor_type") or not info.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in info.type.tensor_type.shape.dim
    )


def true_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """List the inputs that a user feeds: in old files the weights are listed among them."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in stored]


def default_input_shapes(model: ModelProto, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Choose a concrete shape for every input: what is given, what is static, else a sensible size.

    A free first axis becomes one sample, free channels what the first Conv takes, other free axes of images 224, any
    other free axis 16.

    Raises:
        OptionError: `given` names no input, or contradicts a static axis.
        ModelError: An input has no rank and no shape was given.
    """
    inputs = {info.name: _dims(info) for info in true_inputs(model)}
    for name in given:
        if name not in inputs:
            close = difflib.get_close_matches(name, inputs, 1)
            known = ", ".join(inputs)
            raise OptionError(
                f"--input-shape names '{name}', which is not an input of the model",
                hint=f"did you mean '{close[0]}'?" if close else f"the inputs are: {known}",
            )
    chosen: dict[str, tuple[int, ...]] = {}
    channels = _channels_read(model)
    for name, dims in inputs.items():
        shape = given.get(name)
        if shape is not None:
            fits = dims is None or (
                len(dims) == len(shape) and all(d is None or d == s for d, s in zip(dims, shape, strict=True))
            )
            if not fits:
                typed, declared = ",".join(map(str, shape)), ",".join("?" if d is None else str(d) for d in dims or ())
                raise OptionError(f"--input-shape {name}:{typed} contradicts the model's {declared}")
            chosen[name] = shape
            continue
        if dims is None:
            raise ModelError(
                f"the input '{name}' has no shape",
                hint=f"give it: --input-shape {name}:1,3,224,224",
            )
        free = IMAGE_SIDE if len(dims) == 4 else SEQUENCE
        defaults = [1, channels.get(name, free)] + [free] * len(dims)
        chosen[name] = tuple(default if d is None else d for default, d in zip(defaults, dims, strict=False))
    for name, shape in chosen.items():
        _require_memory(name, shape)
    return chosen


def _require_memory(name: str, shape: tuple[int, ...]) -> None:
    """Refuse an input that no memory holds, in whatever type; nothing is made up then.

    Raises:
        ModelError: It is one.
    """
    size, limit = math.prod(shape), memory_limit()
    if size > limit:
        raise ModelError(
            f"the input '{name}' of shape {list(shape)} takes {amount_text(size)} or more, "
            f"and the memory is {amount_text(limit)}",
            hint=f"give a smaller shape, if its axes are free: --input-shape {name}:1,3,224,224",
        )


def _channels_read(model: ModelProto) -> dict[str, int]:
    """Return how many channels a Conv reads, by the name of what it reads."""
    filters = {t.name: t.dims for t in model.graph.initializer}
    return {
        node.input[0]: filters[node.input[1]][1] * Attributes(node).integer("group", 1)
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1] in filters
    }


def _with_inputs(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> ModelProto:
    """Copy the model with concrete inputs and without any recorded intermediate shape."""
    copy = ModelProto()
    copy.CopyFrom(externalise(model)[0])
    del copy.graph.value_info[:]
    for info in copy.graph.input:
        if info.name in shapes:
            elem = info.type.tensor_type.elem_type
            info.CopyFrom(helper.make_tensor_value_info(info.name, elem, shapes[info.name]))
    for info in copy.graph.output:
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
    return copy


def example_feeds(
    model: ModelProto, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator
) -> dict[str, NDArray[np.generic]]:
    """Make one harmless set of inputs: unit noise for floats, zeros and ones for integers."""
    feeds: dict[str, NDArray[np.generic]] = {}
    for info in true_inputs(model):
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        shape = shapes[info.name]
        if np.issubdtype(dtype, np.floating):
            feeds[info.name] = rng.standard_normal(shape).astype(dtype)
        elif dtype == np.dtype(object):
            feeds[info.name] = np.full(shape, "", dtype)
        else:
            feeds[info.name] = rng.integers(0, 2, shape).astype(dtype)
    return feeds


def _by_running(
    model: ModelProto,
    names: list[str],
    shapes: Mapping[str, tuple[int, ...]],
    feed: Mapping[str, NDArray[Any]] | None,
) -> dict[str, NDArray[Any]]:
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(ValueInfoProto(name=name) for name in names)
    try:
        feed = feed or example_feeds(model, shapes, np.random.default_rng(0))
        # What the optimizer gets wrong in some models is not asked for here.
        return open_session(forget_axis_names(probe), optimize=False).run(feed)
    except ModelError as error:
        raise ModelError(
            f"the model does not run at the input shapes {dict(shapes)}: {error}",
            hint="give shapes that it accepts (--input-shape NAME:1,3,224,224) or samples that it accepts",
        ) from error


def concrete_shapes(
    model: ModelProto, given: Mapping[str, tuple[int, ...]], feed: Mapping[str, NDArray[Any]] | None = None
) -> Shapes:
    """Find the shape of every tensor of the main graph.

    Args:
        model: The model.
        given: Input shapes that the user gives or the calibration data have.
        feed: Inputs of these shapes for the run, where there are any; else they are made up.

    Raises:
        ModelError: The model does not run at these shapes.
    """
    inputs = default_input_shapes(model, given)
    copy = _with_inputs(model, inputs)
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        # Inference gives up on what it does not know; the run below finds all shapes.
        del copy.graph.value_info[:]
    shape = {t.name: tuple(t.dims) for t in model.graph.initializer}
    dtype = {t.name: int(t.data_type) for t in model.graph.initializer}
    for info in (*copy.graph.input, *copy.graph.value_info, *copy.graph.output):
        dims = _dims(info)
        if dims is not None and None not in dims:
            shape[info.name] = tuple(d for d in dims if d is not None)
            dtype[info.name] = info.type.tensor_type.elem_type
    inferred = frozenset(shape)
    missing = [name for n in model.graph.node for name in n.output if name and name not in shape]
    if missing:
        for name, value in _by_running(model, missing, inputs, feed).items():
            shape[name] = value.shape
            dtype[name] = _element_type(value)
    return Shapes(shape, dtype, inputs, inferred)


def _element_type(value: NDArray[np.generic]) -> int:
    if value.dtype.kind in "OUS":
        return TensorProto.STRING
    return helper.np_dtype_to_tensor_dtype(value.dtype)


def static_lengths(model: ModelProto) -> dict[tuple[str, int], int]:
    """Find the axes whose length follows from the model alone, whatever is fed: tensor and axis, and the length."""
    copy = ModelProto()
    copy.CopyFrom(externalise(model)[0])
    del copy.graph.value_info[:]
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    infos = (*copy.graph.input, *copy.graph.value_info)
    return {
        (info.name, axis): length
        for info in infos
        for axis, length in enumerate(_dims(info) or ())
        if length is not None
    }
