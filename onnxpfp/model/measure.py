"""Parameters and MACs: of a file as it is, and as a function of how many channels stay.

One fused multiply-add of Conv, ConvTranspose, Gemm and MatMul is one MAC; everything else is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto

from onnxpfp.budget.cost import CostModel
from onnxpfp.channels import ChannelGraph, Ids
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import stored_tensors, weight_names
from onnxpfp.model.shapes import Shapes

__all__ = ["count_macs", "count_params", "mac_model", "param_model"]


def count_params(model: ModelProto) -> int:
    """Count the stored numbers of all weights (shape arithmetic is none)."""
    stored = stored_tensors(model.graph)
    return sum(math.prod(stored[name].dims) for name in weight_names(model.graph))


def _factors(node: NodeProto, rank: Mapping[str, int]) -> list[tuple[str, int]] | None:
    """Return the axes (tensor, axis) whose lengths multiply to the node's MACs."""
    x, w, y = node.input[0], node.input[1], node.output[0]
    if node.op_type == "Conv":
        return [*((y, a) for a in range(rank[y])), *((w, a) for a in range(1, rank[w]))]
    if node.op_type == "ConvTranspose":
        return [*((x, a) for a in range(rank[x])), *((w, a) for a in range(1, rank[w]))]
    if node.op_type == "Gemm":
        inner = 0 if Attributes(node).integer("transA", 0) else 1
        return [(y, 0), (y, 1), (x, inner)]
    if node.op_type == "MatMul":
        return [*((y, a) for a in range(rank[y])), (x, rank[x] - 1)]
    return None


def _mac_factors(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[tuple[str, int]]]:
    rank = {name: len(shape) for name, shape in shapes.items()}
    for node in model.graph.node:
        if node.domain in {"", "ai.onnx"} and len(node.input) > 1:
            factors = _factors(node, rank)
            if factors is not None:
                yield factors


def count_macs(model: ModelProto, shapes: Shapes) -> int:
    """Count the multiply-adds of one run at the analysed shapes (one sample on a free batch axis)."""
    return sum(
        math.prod(shapes.shape[name][axis] for name, axis in factors) for factors in _mac_factors(model, shapes.shape)
    )


class _Axes:
    """Numbers the axes of a cost model; equal ids are one axis, axis 0 has length 1."""

    def __init__(self, graph: ChannelGraph) -> None:
        self._group = np.full(graph.count + 1, -1, np.int64)
        for number, group in enumerate(graph.groups):
            self._group[group.channels] = number
        self._sizes = np.array([1] + [g.channels.size for g in graph.groups], np.int64)
        self._number: dict[bytes, int] = {}
        self.fixed = [1]
        self.owned = [np.zeros(len(graph.groups), np.int64)]

    def number(self, ids: Ids) -> int:
        """Return the number of an axis; every channel of a group owns as many of its indices."""
        key = ids.tobytes()
        if key not in self._number:
            self._number[key] = len(self.fixed)
            groups = self._group[ids[ids != 0]]
            owned = np.bincount(groups, minlength=self.owned[0].size)
            self.fixed.append(int((ids == 0).sum()))
            self.owned.append(owned // self._sizes[1:])
        return self._number[key]

    def model(self, terms: list[list[int]], coefficients: list[int]) -> CostModel:
        """Assemble the model from terms of axis numbers."""
        width = max((len(term) for term in terms), default=1)
        padded = [term + [0] * (width - len(term)) for term in terms]
        return CostModel(
            fixed=np.array(self.fixed, np.int64),
            per_channel=np.array(self.owned, np.int64),
            terms=np.array(padded, np.int64).reshape(len(terms), width),
            coefficients=np.array(coefficients, np.int64),
        )


def _assemble(graph: ChannelGraph, products: list[list[Ids]]) -> CostModel:
    """Make a cost model; axes that always stay go into the coefficient."""
    axes = _Axes(graph)
    terms: list[list[int]] = []
    coefficients: list[int] = []
    for product in products:
        moving = [ids for ids in product if (ids != 0).any()]
        terms.append([axes.number(ids) for ids in moving])
        coefficients.append(math.prod(ids.size for ids in product if not (ids != 0).any()))
    return axes.model(terms, coefficients)


def mac_model(model: ModelProto, graph: ChannelGraph, shapes: Shapes) -> CostModel:
    """MACs of one run as a function of the channels kept per group."""
    return _assemble(
        graph,
        [[graph.axes[name][axis] for name, axis in factors] for factors in _mac_factors(model, shapes.shape)],
    )


def param_model(graph: ChannelGraph, added: Sequence[tuple[Ids, ...]] = ()) -> CostModel:
    """Stored numbers as a function of the channels kept per group; `added` weights come on top."""
    return _assemble(graph, [list(axes) for axes in (*(axes for _, axes in graph.stored_axes()), *added)])
