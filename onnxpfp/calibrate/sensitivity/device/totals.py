"""Sums and squares of what a family reads, and its smallest and largest entry."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, TensorProto

from onnxpfp.calibrate.sensitivity.device.arrangement import Arrangement
from onnxpfp.calibrate.sensitivity.device.graph import Graph

__all__ = ["Totals"]


@dataclass(frozen=True, slots=True)
class Totals:
    """A graph that counts one batch in.

    Inputs: data, arranged, and so far total (C, S) and squares (C,), float64; S = 1 for a plain arrangement.
    Outputs: new_total, new_squares, lowest and highest (1, 1, 1), and check (1, 1), which is finite if the data are.

    Attributes:
        arrangement: Of the data.
    """

    arrangement: Arrangement

    def model(self) -> ModelProto:
        """Return the graph."""
        graph = Graph()
        x = self.arrangement.write(graph, graph.floats("data"))
        added = self._precise(graph, graph.reduce("ReduceSum", x, [0], keep=False))
        if self.arrangement.plain:
            added = graph.reduce("ReduceSum", added, [1])
        squares = graph.reduce("ReduceSum", graph.op("Mul", [x, x]), [2], keep=False)
        squares = graph.reduce("ReduceSum", self._precise(graph, squares), [0], keep=False)
        graph.op("Add", [graph.doubles("total"), added], name="new_total")
        graph.op("Add", [graph.doubles("squares"), squares], name="new_squares")
        graph.reduce("ReduceMin", x, [0, 1, 2], "lowest")
        graph.reduce("ReduceMax", x, [0, 1, 2], "highest")
        graph.reduce("ReduceSum", added, [0, 1], "check")
        floats = dict.fromkeys(("lowest", "highest"), TensorProto.FLOAT)
        return graph.model({**dict.fromkeys(("new_total", "new_squares", "check"), TensorProto.DOUBLE), **floats})

    def _precise(self, graph: Graph, tensor: str) -> str:
        return graph.op("Cast", [tensor], {"to": TensorProto.DOUBLE})
