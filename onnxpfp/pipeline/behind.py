"""The parameters and MACs that lie behind a group of channels, and behind the axes that stay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnxpfp.channels import Fixed
from onnxpfp.model.measure import mac_nodes
from onnxpfp.pipeline.cost import mac_model, param_model
from onnxpfp.pipeline.prepare import Prepared

__all__ = ["Amount", "Weight", "behind_axes", "behind_groups", "totals", "weigh"]


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of a model something is.

    Attributes:
        params: Stored numbers of weights.
        macs: Multiply-adds of one run.
    """

    params: int
    macs: int

    def share_of(self, total: Amount) -> float:
        """Return the share of the parameters plus the share of the MACs, to rank by."""
        return self.params / max(total.params, 1) + self.macs / max(total.macs, 1)


@dataclass(frozen=True, slots=True)
class Weight:
    """One stored weight.

    Attributes:
        shape: Its shape.
        all: Its numbers, and the MACs of the nodes that multiply by it.
        stuck: Those that lie in no channel.
    """

    shape: tuple[int, ...]
    all: Amount
    stuck: Amount


def totals(prepared: Prepared) -> tuple[Amount, Amount]:
    """Count the whole model, and what of it lies in at least one channel."""
    graph = prepared.graph
    reached, params = graph.reachable_params()
    macs = mac_model(prepared.source.model, graph, prepared.shapes)
    nothing = np.zeros(len(graph.groups), np.int64)
    every = macs.total(_widths(prepared))
    return Amount(params, every), Amount(reached, every - macs.total(nothing))


def _widths(prepared: Prepared) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([group.channels.size for group in prepared.graph.groups], np.int64)


def behind_groups(prepared: Prepared) -> list[Amount]:
    """Count for every group what would go if none of its channels stayed.

    A number lies in the groups of all its axes, so the groups add up to more than the model.
    """
    models = param_model(prepared.graph), mac_model(prepared.source.model, prepared.graph, prepared.shapes)
    widths = _widths(prepared)
    every = [model.total(widths) for model in models]
    found: list[Amount] = []
    for number in range(widths.size):
        without = widths.copy()
        without[number] = 0
        params, macs = (total - model.total(without) for model, total in zip(models, every, strict=True))
        found.append(Amount(params, macs))
    return found


def weigh(prepared: Prepared) -> dict[str, Weight]:
    """Count every stored weight, and the MACs of the nodes that multiply by it."""
    graph = prepared.graph
    macs, stuck_macs = Counter[str](), Counter[str]()
    for node, factors in mac_nodes(prepared.source.model, prepared.shapes.shape):
        weight = _weight_of(prepared, node, {name for name, _ in factors})
        axes = [graph.axes[name][axis] for name, axis in factors]
        macs[weight] += math.prod(ids.size for ids in axes)
        stuck_macs[weight] += math.prod(int((ids == 0).sum()) for ids in axes)
    weights: dict[str, Weight] = {}
    for name in graph.stored:
        axes = graph.axes[name]
        shape = tuple(ids.size for ids in axes)
        stuck = math.prod(int((ids == 0).sum()) for ids in axes)
        weights[name] = Weight(shape, Amount(math.prod(shape), macs[name]), Amount(stuck, stuck_macs[name]))
    return weights


def _weight_of(prepared: Prepared, node: NodeProto, factors: set[str]) -> str:
    """Return the largest stored weight behind a product's constants; an empty name where there is none.

    A recurrence has several products: its factors tell which weight is meant.
    """
    constants = prepared.constants
    behind = factors & constants.names or constants.names.intersection(node.input)
    for name in tuple(behind):
        behind |= {i for computing in constants.nodes_behind(name) for i in computing.input}
    weights = behind.intersection(prepared.graph.stored)
    return max(sorted(weights), key=lambda name: math.prod(constants.stored[name].dims), default="")


def behind_axes(axes: Iterable[Fixed], weights: Mapping[str, Weight]) -> tuple[Amount, Amount]:
    """Count what lies on indices that stay, and what of it lies in no channel either.

    The MACs of a node spread evenly over the numbers of its weight.
    """
    free: dict[str, list[int]] = {}
    for fixed in axes:
        left = free.setdefault(fixed.tensor, list(weights[fixed.tensor].shape))
        left[fixed.axis] -= fixed.count
    every, stuck = Amount(0, 0), Amount(0, 0)
    for name, left in free.items():
        weight = weights[name]
        params = weight.all.params - math.prod(left)
        macs = weight.all.macs * params // max(weight.all.params, 1)
        every = Amount(every.params + params, every.macs + macs)
        stuck = Amount(stuck.params + weight.stuck.params, stuck.macs + weight.stuck.macs)
    return every, stuck
