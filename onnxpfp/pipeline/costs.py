"""What a target can count: MACs and parameters, as exact functions of how many channels each group keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxpfp.allocation.cost import CostModel
from onnxpfp.arrays import Ids
from onnxpfp.channels import Analysis, ChannelGraph
from onnxpfp.channels.macs import count_params, mac_terms

__all__ = ["QUANTITIES", "Quantity", "mac_model", "param_model"]

Biases = Sequence[tuple[Ids, ...]]
"""Channel ids of the axes of weights that pruning adds."""


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


def mac_model(analysis: Analysis) -> CostModel:
    """MACs of one run as a function of the channels kept per group."""
    axes = analysis.graph.axes
    terms = mac_terms(analysis.model, analysis.shapes.shape)
    return _assemble(analysis.graph, [[axes[name][axis] for name, axis in term] for term in terms])


def param_model(graph: ChannelGraph, added: Biases = ()) -> CostModel:
    """Stored numbers as a function of the channels kept per group; `added` weights come on top."""
    return _assemble(graph, [list(axes) for axes in (*(axes for _, axes in graph.stored_axes()), *added)])


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a target counts.

    Attributes:
        title: What the report calls it.
        whole: Counts it in a model as it is.
        model: Makes it a function of the channels kept; asks for the biases that are added where these count.
        per_run: Whether a body of If, Loop or Scan costs it every time that it runs.
    """

    title: str
    whole: Callable[[Analysis], int]
    model: Callable[[Analysis, Callable[[], Biases]], CostModel]
    per_run: bool = False


def _unrun(analysis: Analysis) -> Iterator[tuple[Ids, ...]]:
    """Yield the axes of the weights behind ops that onnxruntime lacks: all of them stay."""
    tail = analysis.source.tail
    for shape in tail.weights.values() if tail else ():
        yield tuple(np.zeros(size, np.int64) for size in shape)


def _all_macs(analysis: Analysis) -> int:
    return mac_model(analysis).total(np.array([group.channels.size for group in analysis.graph.groups], np.int64))


QUANTITIES: Mapping[str, Quantity] = {
    "macs": Quantity("MACs", _all_macs, lambda analysis, _: mac_model(analysis), per_run=True),
    "params": Quantity(
        "parameters",
        lambda analysis: count_params(analysis.source.whole),
        lambda analysis, biases: param_model(analysis.graph, (*biases(), *_unrun(analysis))),
    ),
}
"""By the X of the option keep_X."""
