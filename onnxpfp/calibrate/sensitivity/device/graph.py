"""Graphs from scratch: a thin typed layer over onnx.helper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxpfp.model.opset import model_of_graph

__all__ = ["Graph"]


class Graph:
    """A graph that is written node by node; tensors are their names."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._inputs: list[ValueInfoProto] = []
        self._constants: list[TensorProto] = []

    def floats(self, name: str) -> str:
        """Add an input of float32."""
        return self._input(name, TensorProto.FLOAT)

    def doubles(self, name: str) -> str:
        """Add an input of float64."""
        return self._input(name, TensorProto.DOUBLE)

    def ints(self, name: str) -> str:
        """Add an input of int64."""
        return self._input(name, TensorProto.INT64)

    def op(self, kind: str, inputs: Sequence[str], attributes: Mapping[str, Any] | None = None, name: str = "") -> str:
        """Append a node and return its first output; a name is for what leaves the graph."""
        output = name or f"t{len(self._nodes)}"
        outputs = [f"{output}_values", output] if kind == "TopK" else [output]
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, name=f"n_{output}", **dict(attributes or {})))
        return output

    def number(self, value: float) -> str:
        """Add a float32 constant."""
        return self._constant(np.array(value, np.float32))

    def axes(self, *values: int) -> str:
        """Add a vector of int64 as a constant."""
        return self._constant(np.array(values, np.int64))

    def reshape(self, tensor: str, shape: str, name: str = "") -> str:
        """Reshape to a shape that is fed: 0 copies a dim, -1 takes the rest."""
        return self.op("Reshape", [tensor, shape], name=name)

    def transpose(self, tensor: str, order: Sequence[int]) -> str:
        """Permute axes; the identity adds nothing."""
        if list(order) == list(range(len(order))):
            return tensor
        return self.op("Transpose", [tensor], {"perm": list(order)})

    def unsqueeze(self, tensor: str, *axes: int) -> str:
        """Insert axes of size one."""
        return self.op("Unsqueeze", [tensor, self.axes(*axes)])

    def reduce(self, kind: str, tensor: str, axes: Sequence[int], name: str = "", *, keep: bool = True) -> str:
        """Reduce over axes by ReduceMax, ReduceMin or ReduceSum."""
        if kind == "ReduceSum":
            return self.op(kind, [tensor, self.axes(*axes)], {"keepdims": int(keep)}, name)
        return self.op(kind, [tensor], {"axes": list(axes), "keepdims": int(keep)}, name)

    def signed(self, weights: str, axis: int) -> str:
        """Return W+ and W- side by side."""
        negative = self.op("Relu", [self.op("Neg", [weights])])
        return self.op("Concat", [self.op("Relu", [weights]), negative], {"axis": axis})

    def count_above(self, bounds: str, best: str, name: str) -> str:
        """Count in every row (b, M) the bounds above the best share (b,), as float32; `best` is infinite where none is.

        No whole number below 2^24 is lost by that, and more pairs than that no graph gets.
        """
        over = self.op("Greater", [bounds, self.unsqueeze(best, 1)])
        return self.reduce("ReduceSum", self.op("Cast", [over], {"to": TensorProto.FLOAT}), [1], name, keep=False)

    def model(self, outputs: Mapping[str, int]) -> ModelProto:
        """Return the model with these outputs and the types of their numbers."""
        graph = helper.make_graph(
            self._nodes,
            "device",
            self._inputs,
            [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
            self._constants,
        )
        return model_of_graph(graph)

    def _input(self, name: str, kind: int) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, None))
        return name

    def _constant(self, value: NDArray[Any]) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(value, name))
        return name
