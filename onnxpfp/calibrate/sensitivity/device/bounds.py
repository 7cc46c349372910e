"""Sums z of one linear op, and for every block a bound on its share at every (sample, position) pair.

With outputs of norm one, m[p] the least z of a position in a convolution group, A[j, p] the norm of block j's input:

    share[j, p] <= A[j, p] / m[p] (sum_i |W_ij|^16 (m[p] / z[i, p])^16)^(1/16)

as the tight bound of `calibrate.sensitivity.screening`. Unlike there the root is drawn: then bounds do not depend on
the largest shares so far, and one bound serves however often these rise. Data are scaled to a largest entry around
one, so
that squares vanish only of entries 1e19 times smaller; shares do not change by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, TensorProto

from onnxpfp.calibrate.sensitivity.device.arrangement import Arrangement
from onnxpfp.calibrate.sensitivity.device.graph import Graph
from onnxpfp.calibrate.sensitivity.settings import EPSILON, Kernel
from onnxpfp.calibrate.sensitivity.tight_bound import ORDER

__all__ = ["Bounds"]

_HUGE = 3e38
"""Takes the place of an infinite least sum: infinity over infinity is no number."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A graph that computes bounds of some samples.

    N samples, C channels in g groups, O/g outputs of a group, k taps, S input positions, P output positions, b blocks
    in equal numbers per group. Inputs besides those of the arrangement:

        data                the tensor that is read
        factor (1,)         what it is multiplied by; if negative, that brings forth the other sign
        table (k, P)        where taps read, S for nowhere; unless the arrangement is plain
        taps                V (g, O/g, C/g k) of norm one
        norm (g, 1, O/g, 1) what outputs were divided by
        powers (g, b/g, 2 O/g), weight (g, b/g, 1)    of the tight bound
        index (b,)          channel of every block, or members (b, C), 1 where a channel is of a block
        best (b,)           largest shares so far, infinite where a block needs no more
        by_group [0, g, C/g k, -1], by_sign [0, g, 2, O/g, -1], by_row [0, g, 2 O/g, -1],
        by_block [0, g, b/g, -1], flat [0, b, -1], rows [-1, 2 O/g], pairs [b, -1]    shapes

    Outputs: x (N, C, S), with a zero appended unless the arrangement is plain; z (N P g, 2 O/g), infinite where the
    guard fires; bounds (b, N P); above (b,), the number of bounds above `best`.

    Attributes:
        arrangement: Of the data.
        nonnegative: Whether they have no negative entry.
        kernel: "sum" or "max".
        several: Whether a block may have several channels of the input.
    """

    arrangement: Arrangement
    nonnegative: bool
    kernel: Kernel
    several: bool

    def model(self) -> ModelProto:
        """Return the graph."""
        graph = Graph()
        x = self._input(graph)
        u = x if self.arrangement.plain else graph.op("Gather", [x, graph.ints("table")], {"axis": 2})
        u_flat = graph.reshape(u, graph.ints("by_group"))
        sums = graph.op("MatMul", [graph.signed(graph.floats("taps"), 1), u_flat])
        z = graph.reshape(self._guarded(graph, sums), graph.ints("by_row"))
        least = graph.reduce("ReduceMin", z, [2])
        size = graph.reshape(self._magnitudes(graph, u), graph.ints("by_block"))
        size = graph.op("Mul", [graph.op("Div", [size, least]), graph.floats("weight")])
        bound = graph.op("Mul", [size, self._tightness(graph, z, least)])
        bound = graph.transpose(graph.reshape(bound, graph.ints("flat")), (1, 0, 2))
        graph.reshape(bound, graph.ints("pairs"), "bounds")
        graph.reshape(graph.transpose(z, (0, 3, 1, 2)), graph.ints("rows"), "z")
        graph.count_above("bounds", graph.floats("best"), "above")
        return graph.model(dict.fromkeys(("x", "z", "bounds", "above"), TensorProto.FLOAT))

    def _input(self, graph: Graph) -> str:
        """Append the nodes for one sign of the input."""
        x = graph.op("Mul", [self.arrangement.write_part(graph, graph.floats("data")), graph.floats("factor")])
        if not self.nonnegative:
            x = graph.op("Relu", [x])
        if self.arrangement.plain:
            return graph.op("Identity", [x], name="x")
        return graph.op("Pad", [x, graph.axes(0, 0, 0, 0, 0, 1)], name="x")

    def _guarded(self, graph: Graph, sums: str) -> str:
        """Append the nodes that make sums (N, g, 2 O/g, P) infinite which count as zero."""
        sums, norm = graph.reshape(sums, graph.ints("by_sign")), graph.floats("norm")
        # The largest sum of a sample and weight sign; where samples are the positions, of a position.
        highest = sums if self.arrangement.samples_last else graph.reduce("ReduceMax", sums, [4])
        highest = graph.reduce("ReduceMax", graph.op("Mul", [highest, norm]), [1, 3])
        limit = graph.op("Div", [graph.op("Mul", [highest, graph.number(EPSILON)]), norm])
        return graph.op("Where", [graph.op("Greater", [sums, limit]), sums, graph.number(float("inf"))])

    def _tightness(self, graph: Graph, z: str, least: str) -> str:
        """Append the nodes for what the tight bound is in parts of the coarse one, (N, g, b/g, P)."""
        ratio = graph.op("Div", [graph.op("Min", [least, graph.number(_HUGE)]), z])
        powers = graph.op("Pow", [ratio, graph.number(ORDER)])
        summed = graph.op("MatMul", [graph.floats("powers"), powers])
        return graph.op("Pow", [summed, graph.number(1 / ORDER)])

    def _magnitudes(self, graph: Graph, u: str) -> str:
        """Append the nodes for the norms of the blocks' inputs, (N, b, P); largest entries for single products."""
        plain = self.arrangement.plain
        if plain and not self.several:
            return graph.op("Gather", [u, graph.ints("index")], {"axis": 1})
        if self.kernel == "max":
            return graph.op("Gather", [self._over_taps(graph, u, "ReduceMax"), graph.ints("index")], {"axis": 1})
        squares = graph.op("Mul", [u, u])
        if not plain:
            squares = self._over_taps(graph, squares, "ReduceSum")
        if self.several:
            return graph.op("Sqrt", [graph.op("MatMul", [graph.floats("members"), squares])])
        return graph.op("Sqrt", [graph.op("Gather", [squares, graph.ints("index")], {"axis": 1})])

    def _over_taps(self, graph: Graph, u: str, kind: str) -> str:
        return graph.reduce(kind, u, [2], keep=False)
