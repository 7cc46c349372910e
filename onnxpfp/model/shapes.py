"""Concrete shapes of every tensor: by shape inference where it suffices, else by one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxpfp.errors import ModelError
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.model.edit import copy_for_inference, copy_model_around, forget_records
from onnxpfp.model.input_shapes import declared_dims, default_input_shapes, shape_hint, true_inputs
from onnxpfp.runtime import open_session
from onnxpfp.runtime.external_data import externalise

__all__ = ["Shapes", "concrete_shapes", "default_input_shapes", "static_lengths", "true_inputs"]


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


def _lengths(info: ValueInfoProto) -> tuple[int | None, ...] | None:
    """Return the dims of a tensor at given input shapes, where 0 is a length like any other; None where one is free."""
    if not info.type.HasField("tensor_type") or not info.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
        for dim in info.type.tensor_type.shape.dim
    )


def _copy_for_inference(model: ModelProto) -> ModelProto:
    """Copy a model without any recorded intermediate shape, and without the numbers of large weights."""
    model = externalise(model)[0]
    return copy_model_around(model, copy_for_inference(model.graph))


def _with_inputs(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> ModelProto:
    """Copy the model with concrete inputs and without any recorded intermediate shape."""
    copy = _copy_for_inference(model)
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
    """Make one harmless set of inputs: unit noise for floats, zeros and ones for integers, digits for text."""
    feeds: dict[str, NDArray[np.generic]] = {}
    for info in true_inputs(model):
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        shape = shapes[info.name]
        if np.issubdtype(dtype, np.floating):
            feeds[info.name] = rng.standard_normal(shape).astype(dtype)
        elif dtype == np.dtype(object):
            feeds[info.name] = np.full(shape, "0", dtype)
        else:
            feeds[info.name] = rng.integers(0, 2, shape).astype(dtype)
    return feeds


def _by_running(
    model: ModelProto,
    names: list[str],
    shapes: Mapping[str, tuple[int, ...]],
    feed: Mapping[str, NDArray[Any]] | None,
) -> dict[str, NDArray[Any]]:
    def probe() -> ModelProto:
        probing = ModelProto()
        probing.CopyFrom(model)
        del probing.graph.output[:]
        probing.graph.output.extend(ValueInfoProto(name=name) for name in names)
        return with_fixed_draws(forget_records(probing))

    try:
        feed = feed or example_feeds(model, shapes, np.random.default_rng(0))
        # What the optimizer gets wrong in some models is not asked for here.
        return open_session(probe, optimize=False).run(feed)
    except ModelError as error:
        raise ModelError(
            f"the model does not run at the input shapes {dict(shapes)}: {error}",
            hint=f"give samples that it accepts, or shapes: {shape_hint(model, shapes)}",
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
        dims = _lengths(info)
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
    copy = _copy_for_inference(model)
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    infos = (*copy.graph.input, *copy.graph.value_info)
    return {
        (info.name, axis): length
        for info in infos
        for axis, length in enumerate(declared_dims(info) or ())
        if length is not None
    }
