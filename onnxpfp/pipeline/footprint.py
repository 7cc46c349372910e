"""The parameters and MACs that lie behind a group of channels, and behind the axes that stay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnxpfp.channels import Analysis, ChannelGraph, Fixed
from onnxpfp.channels.macs import count_params, mac_nodes
from onnxpfp.pipeline.costs import full_widths, mac_model, param_model

__all__ = [
    "Footprint",
    "WeightFootprint",
    "axis_footprint",
    "group_footprints",
    "reachable_params",
    "staying_axes",
    "totals",
    "weight_footprints",
]


@dataclass(frozen=True, slots=True)
class Footprint:
    """A share of a model's MACs and parameters.

    Attributes:
        params: Stored numbers of weights.
        macs: Multiply-adds of one run.
    """

    params: int
    macs: int

    def share_of(self, total: Footprint) -> float:
        """Return the share of the parameters plus the share of the MACs, to rank by."""
        return self.params / max(total.params, 1) + self.macs / max(total.macs, 1)


@dataclass(frozen=True, slots=True)
class WeightFootprint:
    """One stored weight.

    Attributes:
        shape: Its shape.
        all: Its numbers, and the MACs of the nodes that multiply by it.
        stuck: Those that lie in no channel that can go.
    """

    shape: tuple[int, ...]
    all: Footprint
    stuck: Footprint


def totals(analysis: Analysis) -> tuple[Footprint, Footprint]:
    """Count the whole model, and what of it lies in at least one channel that can go."""
    reached, params = reachable_params(analysis)
    macs = mac_model(analysis)
    widths = full_widths(analysis)
    every = macs.total(widths)
    return Footprint(params, every), Footprint(reached, every - macs.total(np.where(widths > 1, 0, widths)))


def reachable_params(analysis: Analysis) -> tuple[int, int]:
    """Count the stored numbers of weights that lie in at least one channel that can go, and all of them."""
    return analysis.graph.reachable_params()[0], count_params(analysis.source.whole)


def staying_axes(analysis: Analysis) -> tuple[Fixed, ...]:
    """Return the axes of matrices and filter banks that stay, with the reason.

    1. Their indices are tied to something that stays.
    2. All of their indices are tied together: they are one unit, and a group keeps one at least.
    3. The weight is only read behind ops that onnxruntime lacks.
    """
    return (*analysis.graph.fixed, *_single_units(analysis.graph), *_unrun_weights(analysis))


def _single_units(graph: ChannelGraph) -> Iterator[Fixed]:
    single = np.zeros(graph.count + 1, np.bool_)
    single[1:] = ~graph.may_go[1:]
    contracted = {(consumer.weight, consumer.weight_axis) for consumer in graph.consumers}
    for name in graph.stored:
        axes = graph.axes[name]
        for axis, ids in enumerate(axes if len(axes) > 1 and name not in graph.uses else ()):
            count = int(single[ids].sum())
            if count > 1 and (name, axis) not in contracted:
                yield Fixed(name, axis, count, "its channels can only go all together, and one unit must stay")


def _unrun_weights(analysis: Analysis) -> Iterator[Fixed]:
    tail = analysis.source.tail
    for name, shape in tail.weights.items() if tail else ():
        if tail and len(shape) > 1:
            yield Fixed(name, 0, shape[0], f"it is read behind {tail.lacking[0].title}, an op that onnxruntime lacks")


def group_footprints(analysis: Analysis) -> list[Footprint]:
    """Count for every group what would go if none of its channels stayed.

    A number lies in the groups of all its axes, so the groups add up to more than the model.
    """
    models = param_model(analysis.graph), mac_model(analysis)
    widths = full_widths(analysis)
    every = [model.total(widths) for model in models]
    footprints: list[Footprint] = []
    for number in range(widths.size):
        without = widths.copy()
        without[number] = 0
        params, macs = (total - model.total(without) for model, total in zip(models, every, strict=True))
        footprints.append(Footprint(params, macs))
    return footprints


def weight_footprints(analysis: Analysis) -> dict[str, WeightFootprint]:
    """Count every stored weight, and the MACs of the nodes that multiply by it."""
    graph, may_go = analysis.graph, analysis.graph.may_go
    macs, stuck_macs = Counter[str](), Counter[str]()
    for node, term in mac_nodes(analysis.source.model, analysis.shapes.shape):
        weight = _weight_of(analysis, node, {name for name, _ in term})
        axes = [graph.axes[name][axis] for name, axis in term]
        macs[weight] += math.prod(ids.size for ids in axes)
        stuck_macs[weight] += math.prod(int((~may_go[ids]).sum()) for ids in axes)
    weights: dict[str, WeightFootprint] = {}
    for name in graph.stored:
        axes = graph.axes[name]
        shape = tuple(ids.size for ids in axes)
        stuck = math.prod(int((~may_go[ids]).sum()) for ids in axes)
        weights[name] = WeightFootprint(
            shape, Footprint(math.prod(shape), macs[name]), Footprint(stuck, stuck_macs[name])
        )
    tail = analysis.source.tail
    for name, shape in tail.weights.items() if tail else ():
        # How often it is multiplied is not known.
        count = Footprint(math.prod(shape), 0)
        weights[name] = WeightFootprint(shape, count, count)
    return weights


def _weight_of(analysis: Analysis, node: NodeProto, term_tensors: set[str]) -> str:
    """Return the largest stored weight behind a MAC term's constants; an empty name where there is none.

    A recurrence has several MAC terms: the tensors of the term tell which weight is meant.
    """
    constants = analysis.constants
    behind = term_tensors & constants.names or constants.names.intersection(node.input)
    for name in tuple(behind):
        behind |= {i for computing in constants.nodes_behind(name) for i in computing.input}
    weights = behind.intersection(analysis.graph.stored)
    return max(sorted(weights), key=lambda name: math.prod(constants.stored[name].dims), default="")


def axis_footprint(axes: Iterable[Fixed], weights: Mapping[str, WeightFootprint]) -> tuple[Footprint, Footprint]:
    """Count what lies on indices that stay, and what of it lies in no channel either.

    The MACs of a node spread evenly over the numbers of its weight.
    """
    free: dict[str, list[int]] = {}
    for fixed in axes:
        left = free.setdefault(fixed.tensor, list(weights[fixed.tensor].shape))
        left[fixed.axis] -= fixed.count
    every, stuck = Footprint(0, 0), Footprint(0, 0)
    for name, left in free.items():
        weight = weights[name]
        params = weight.all.params - math.prod(left)
        macs = weight.all.macs * params // max(weight.all.params, 1)
        every = Footprint(every.params + params, every.macs + macs)
        stuck = Footprint(stuck.params + weight.stuck.params, stuck.macs + weight.stuck.macs)
    return every, stuck
