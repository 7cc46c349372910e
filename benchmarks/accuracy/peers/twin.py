"""A network of torch modules that computes what an ONNX file computes, with the same weights.

Every op becomes one module, so that Torch-Pruning's tracing sees the layers that it knows; everything that does not
depend on the images (weights, shape arithmetic) is computed once by onnxruntime and becomes a constant.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from benchmarks.accuracy.peers.layers import layer

__all__ = ["Twin"]

SAMPLES, TOLERANCE = 8, 1e-4


class Twin(nn.Module):
    """The modules in the order of the nodes.

    Attributes:
        input_name: Input of the file.
        output_name: Its output.
        input_shape: Shape of one sample, (C, H, W).
        layers: One module a node.
        classifier: The layer whose outputs are the classes.
    """

    def __init__(self, model: Path) -> None:
        super().__init__()
        proto = onnx.load(model)
        entry = proto.graph.input[0]
        self.input_name, self.output_name = entry.name, proto.graph.output[0].name
        self.input_shape = tuple(dim.dim_value for dim in entry.type.tensor_type.shape.dim)[1:]
        constants, widths = _known(proto, (1, *self.input_shape))
        self.layers = nn.ModuleList()
        self._wires: list[tuple[list[str], str]] = []
        for node in proto.graph.node:
            if node.output[0] in constants:
                continue
            self.layers.append(layer(node, constants, widths))
            self._wires.append(([name for name in node.input if name and name not in constants], node.output[0]))
        self.eval()
        self._check(model)

    @property
    def classifier(self) -> nn.Module:
        """The layer whose outputs are the classes."""
        return self.layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output, (N, classes)."""
        values = {self.input_name: x}
        for module, (inputs, output) in zip(self.layers, self._wires, strict=True):
            values[output] = module(*(values[name] for name in inputs))
        return values[self.output_name]

    @torch.no_grad()
    def _check(self, model: Path) -> None:
        """Hold the twin against onnxruntime.

        Raises:
            ValueError: They differ.
        """
        x = np.random.default_rng(0).standard_normal((SAMPLES, *self.input_shape), dtype=np.float32)
        run = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        expected = np.asarray(run.run([self.output_name], {self.input_name: x})[0])
        difference = np.abs(expected - self(torch.from_numpy(x)).numpy()).max()
        if not difference <= TOLERANCE:
            raise ValueError(f"{model}: the torch twin differs by {difference:.2g}")


def _known(proto: ModelProto, shape: tuple[int, ...]) -> tuple[dict[str, NDArray[np.generic]], dict[str, int]]:
    """Compute what does not depend on the images, and the number of channels of everything."""
    known = {tensor.name for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Shape" or all(name in known for name in node.input if name):
            known.update(node.output)
    probe = ModelProto()
    probe.CopyFrom(proto)
    names = [node.output[0] for node in proto.graph.node]
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    # What is looked at must not be optimized away.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = run.run(names, {proto.graph.input[0].name: np.zeros(shape, np.float32)})
    found = {name: np.asarray(value) for name, value in zip(names, values, strict=True)}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    constants |= {name: value for name, value in found.items() if name in known}
    widths = {name: value.shape[1] for name, value in found.items() if value.ndim > 1}
    return constants, {proto.graph.input[0].name: shape[1], **widths}
