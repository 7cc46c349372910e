"""Exact shares of some blocks at the pairs of their largest bounds.

share = max over outputs i and weight signs of  1 / z[i, p] * sum over c in block, q of V2[c, i, q] u[c, q, p];
with kernel="max" the largest single product takes the place of the sum (the two forms of PFP, ICLR 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, TensorProto

from onnxpfp.calibrate.sensitivity.device.graph import Graph

__all__ = ["Shares"]


@dataclass(frozen=True, slots=True)
class Shares:
    """A graph that computes shares of b' of the b blocks at T pairs each.

    Inputs, besides x, z and bounds of `Bounds`:

        which (b',)         the blocks
        size (1,)           T
        best (b',), full    largest shares so far, and what no share needs to be above
        channels (b, I)     channels of the blocks, any with weight 0 for those with fewer
        group (b,)          their convolution groups
        weights             V (b, I k, O/g) of norm one
        reads (P, k)        where taps read; unless plain
        positions, step, width, groups (1,)    P; entries of x per sample and per channel; g

    Outputs: found (b',), the largest shares now; left (b',), the number of bounds above them.

    Attributes:
        plain: Whether an output position sees the input at the same position.
        products: Whether single products count, of blocks with several.
    """

    plain: bool
    products: bool

    def model(self) -> ModelProto:
        """Return the graph."""
        graph = Graph()
        which, size = graph.ints("which"), graph.ints("size")
        bounds = graph.op("Gather", [graph.floats("bounds"), which])
        pairs = graph.op("TopK", [bounds, size], {"axis": 1, "sorted": 0})
        weights = graph.signed(graph.op("Gather", [graph.floats("weights"), which]), 2)
        made = self._made(graph, self._inputs(graph, pairs, which), weights)
        shares = graph.op("Div", [made, self._sums(graph, pairs)])
        largest = graph.reduce("ReduceMax", shares, [1, 2], keep=False)
        graph.op("Max", [largest, graph.floats("best")], name="found")
        enough = graph.op("Less", ["found", graph.floats("full")])
        limit = graph.op("Where", [enough, "found", graph.number(float("inf"))])
        graph.count_above(bounds, limit, "left")
        return graph.model({"found": TensorProto.FLOAT, "left": TensorProto.FLOAT})

    def _sums(self, graph: Graph, pairs: str) -> str:
        """Append the nodes that gather sums, (b', T, 2 O/g)."""
        group = graph.unsqueeze(graph.op("Gather", [graph.ints("group"), "which"]), 1)
        row = graph.op("Add", [graph.op("Mul", [pairs, graph.ints("groups")]), group])
        return graph.op("Gather", [graph.floats("z"), row])

    def _inputs(self, graph: Graph, pairs: str, which: str) -> str:
        """Append the nodes that gather the inputs of blocks, (b', T, I k)."""
        positions = graph.ints("positions")
        sample = graph.op("Div", [pairs, positions])
        place = graph.op("Sub", [pairs, graph.op("Mul", [sample, positions])])
        source = graph.unsqueeze(place, 2) if self.plain else graph.op("Gather", [graph.ints("reads"), place])
        first = graph.unsqueeze(graph.op("Mul", [sample, graph.ints("step")]), 2)
        channel = graph.op("Mul", [graph.op("Gather", [graph.ints("channels"), which]), graph.ints("width")])
        first = graph.op("Add", [first, graph.unsqueeze(channel, 1)])
        read = graph.op("Add", [graph.unsqueeze(first, 3), graph.unsqueeze(source, 2)])
        inputs = graph.op("Gather", [graph.reshape(graph.floats("x"), graph.axes(-1)), read])
        return graph.reshape(inputs, graph.axes(0, 0, -1))

    def _made(self, graph: Graph, inputs: str, weights: str) -> str:
        """Append the nodes for what blocks make of their inputs, (b', T, 2 O/g)."""
        if not self.products:
            return graph.op("MatMul", [inputs, weights])
        products = graph.op("Mul", [graph.unsqueeze(inputs, 3), graph.unsqueeze(weights, 1)])
        return graph.reduce("ReduceMax", products, [2], keep=False)
