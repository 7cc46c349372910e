"""Costs that are sums of products of axis lengths, on the channels of a graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxpfp.allocation.cost import CostModel
from onnxpfp.arrays import Ids
from onnxpfp.channels import ChannelGraph

__all__ = ["Product", "assemble"]


class _Axes:
    """Numbers the axes of a cost model; equal ids are one axis, axis 0 has length 1."""

    def __init__(self, graph: ChannelGraph) -> None:
        self._group = np.full(graph.count + 1, -1, np.int64)
        for number, group in enumerate(graph.groups):
            self._group[group.channels] = number
        self._sizes = np.array([1] + [g.channels.size for g in graph.groups], np.int64)
        self._number: dict[tuple[bytes, int], int] = {}
        self.fixed, self.blocks = [1], [1]
        self.owned = [np.zeros(len(graph.groups), np.int64)]

    def number(self, ids: Ids, block: int) -> int:
        """Return the number of an axis; every channel of a group owns as many of its indices."""
        key = ids.tobytes(), block
        if key not in self._number:
            self._number[key] = len(self.fixed)
            groups = self._group[ids[ids != 0]]
            owned = np.bincount(groups, minlength=self.owned[0].size)
            self.fixed.append(int((ids == 0).sum()))
            self.blocks.append(block)
            self.owned.append(owned // self._sizes[1:])
        return self._number[key]

    def model(self, terms: list[list[int]], coefficients: list[int], going: Mapping[int, Sequence[int]]) -> CostModel:
        """Assemble the model from terms of axis numbers."""
        width = max((len(term) for term in terms), default=1)
        padded = [term + [0] * (width - len(term)) for term in terms]
        return CostModel(
            fixed=np.array(self.fixed, np.int64),
            per_channel=np.array(self.owned, np.int64),
            terms=np.array(padded, np.int64).reshape(len(terms), width),
            coefficients=np.array(coefficients, np.int64),
            blocks=np.array(self.blocks, np.int64) if max(self.blocks) > 1 else None,
            going={group: np.array(numbers, np.int64) for group, numbers in going.items()},
        )


class Product(NamedTuple):
    """One term of a cost: a factor times the lengths of axes.

    Attributes:
        axes: Channel ids of the axes.
        factor: What one entry costs.
        block: Multiple to which the lengths of axes with channels are rounded up.
        leaders: Groups that take it with them when they go entirely.
    """

    axes: Sequence[Ids]
    factor: float = 1
    block: int = 1
    leaders: frozenset[int] = frozenset()


def assemble(graph: ChannelGraph, products: Iterable[Product]) -> CostModel:
    """Make a cost model; axes that always stay go into the coefficient, which is a whole number."""
    axes = _Axes(graph)
    terms: list[list[int]] = []
    coefficients: list[int] = []
    going: dict[int, list[int]] = {}
    for number, product in enumerate(products):
        for leader in product.leaders:
            going.setdefault(leader, []).append(number)
        moving = [ids for ids in product.axes if (ids != 0).any()]
        terms.append([axes.number(ids, product.block) for ids in moving])
        fixed = math.prod(ids.size for ids in product.axes if not (ids != 0).any())
        coefficients.append(round(product.factor * fixed))
    return axes.model(terms, coefficients, going)
