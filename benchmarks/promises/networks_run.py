"""Run networks and look inside: what layers read, and how far their outputs are off; nothing here is onnxpfp's code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from benchmarks.promises.sign_parts import Layer, Window

__all__ = ["Keep", "Nodes", "output_errors", "tensors"]

TOGETHER = 32
"""Inputs that are run at once, where the batch is free."""

Array = NDArray[Any]
Keep = Callable[[str, int, int], NDArray[np.int64]]
"""Returns the kept indices of a weight's axis of some length."""


@dataclass(frozen=True, slots=True, eq=False)
class Nodes:
    """The layers of a network: nodes that multiply by a stored weight.

    Attributes:
        layers: Those that contract channels of one group, by node.
        outputs: The tensor that each of all layers puts out, by node.
        weights: Weight, output axis and its length of each of all layers, by node.
        along: Axis of the outputs along which channels lie, by node.
    """

    layers: Mapping[str, Layer]
    outputs: Mapping[str, str]
    weights: Mapping[str, tuple[str, int, int]]
    along: Mapping[str, int]

    @classmethod
    def of(cls, model: ModelProto) -> Nodes:
        """Read a network of Conv, Gemm and MatMul.

        Raises:
            ValueError: A layer is of a form that the audit does not know.
        """
        shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        layers: dict[str, Layer] = {}
        outputs: dict[str, str] = {}
        weights: dict[str, tuple[str, int, int]] = {}
        along: dict[str, int] = {}
        for node in model.graph.node:
            if node.op_type not in {"Conv", "Gemm", "MatMul"}:
                continue
            layer, group = _layer(node, shapes)
            if group == 1:
                layers[node.name] = layer
            outputs[node.name] = node.output[0]
            _, out = layer.axes
            weights[node.name] = (layer.weight, out, shapes[layer.weight][out])
            along[node.name] = -1 if layer.window is None else 1
        return cls(layers, outputs, weights, along)


def _layer(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Layer, int]:
    """Read one node; return the layer and its number of convolution groups."""
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    data, weight = node.input[0], node.input[1]
    if weight not in shapes or attributes.get("transA") or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError(f"{node.op_type} '{node.name}' is of a form that the audit does not know")
    if node.op_type != "Conv":
        return Layer(data, weight, outputs_first=bool(attributes.get("transB"))), 1
    kernel = shapes[weight][2:]
    if len(kernel) != 2:
        raise ValueError(f"Conv '{node.name}' has a window of {len(kernel)} axes")
    window = Window(
        (kernel[0], kernel[1]),
        tuple(attributes.get("pads", (0, 0, 0, 0))),
        tuple(attributes.get("strides", (1, 1))),
        tuple(attributes.get("dilations", (1, 1))),
    )
    return Layer(data, weight, window), attributes.get("group", 1)


def tensors(model: ModelProto, inputs: Array, name: str, together: int) -> Iterator[Array]:
    """Yield a tensor of a network, some inputs at a time."""
    run = _open(model, [name])
    if name == run.get_inputs()[0].name:
        yield from (inputs[first : first + together] for first in range(0, len(inputs), together))
        return
    yield from (values[0] for values in _values(run, inputs, [name], together))


def output_errors(
    original: ModelProto, written: ModelProto, inputs: Array, nodes: Nodes, keep: Keep
) -> dict[str, NDArray[np.float64]]:
    """Return the relative error of the outputs of layers in a written network, |z - z'| / |z|, by node, (N,) each.

    Args:
        original: The original.
        written: The written network, in which nodes and tensors are called as they were; layers that it does not have
            are left out.
        inputs: What to feed, (N, ...).
        nodes: The layers of the original.
        keep: Which outputs of a weight the written network has.
    """
    there = {node.name for node in written.graph.node}
    names = [name for name in nodes.outputs if name in there]
    shown = [nodes.outputs[name] for name in names]
    errors: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    pairs = (_values(_open(model, shown), inputs, shown, TOGETHER) for model in (original, written))
    for wanted, given in zip(*pairs, strict=True):
        for name, z, other in zip(names, wanted, given, strict=True):
            z = z.take(keep(*nodes.weights[name]), nodes.along[name]).astype(np.float64)
            gap = np.linalg.norm((z - other).reshape(len(z), -1), axis=1)
            size = np.linalg.norm(z.reshape(len(z), -1), axis=1)
            where = size > 0
            errors[name].append(np.divide(gap, size, out=np.where(gap > 0, np.inf, 0.0), where=where))
    return {name: np.concatenate(each) for name, each in errors.items()}


def _open(model: ModelProto, names: Sequence[str]) -> ort.InferenceSession:
    """Open a network that shows some of its tensors."""
    copy = ModelProto()
    copy.CopyFrom(model)
    held = {info.name for info in (*copy.graph.output, *copy.graph.input)}
    copy.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in held)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _values(run: ort.InferenceSession, inputs: Array, names: Sequence[str], together: int) -> Iterator[list[Array]]:
    """Yield tensors for some inputs at a time: as many as a fixed batch takes, joined."""
    given = run.get_inputs()[0]
    size = together if isinstance(given.shape[0], str) else given.shape[0]
    for first in range(0, len(inputs), together):
        part = inputs[first : first + together]
        runs = [run.run(list(names), {given.name: part[i : i + size]}) for i in range(0, len(part), size)]
        yield [np.concatenate(values) for values in zip(*runs, strict=True)]
