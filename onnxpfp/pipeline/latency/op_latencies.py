"""Latencies of a network's ops: fitted to measured ones, and put together to a cost of widths.

An op is described by two counts, exact functions of the widths: the numbers that it reads and writes, and its
multiply-adds. What a fit makes of them (`onnxpfp.allocation.op_latency`) holds for every network in which the op
stands, so also for what is left of it in several steps, or once channels that cost nothing have gone. Time that
belongs to no op (changes of layout, what passes between ops) is fitted as that of one more op that touches all tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from onnx import NodeProto

from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.op_latency import OpCounts, OpLatency, fit_op, fit_total
from onnxpfp.arrays import Floats, Ids, Ints
from onnxpfp.channels import Analysis
from onnxpfp.channels.branches import NO_BRANCHES, Branches
from onnxpfp.channels.macs import mac_nodes
from onnxpfp.model.names import node_name
from onnxpfp.pipeline.products import Product, assemble

__all__ = [
    "REST",
    "MeasuredWidths",
    "OpLatencies",
    "fit_latencies",
    "units_of",
]

REST = ""
"""The op that has the time of no other."""
UNITS = 1e15
"""Of cost, in the longest run that was measured, whether its table has milliseconds or cycles. Costs are whole numbers:
sums of these stay far below 2**63, and one of ten billion multiply-adds still has a hundred thousand."""
BLOCKS = (8, 16, 32)
"""Multiples of channels in which kernels may compute."""


class MeasuredWidths(NamedTuple):
    """What was measured at one choice of widths.

    Attributes:
        kept: Channels that each group keeps, (groups,).
        ms: Latency of the network.
        ops: Those of its ops, by name; `REST` has what belongs to none. Empty where only the network was measured.
    """

    kept: Ints
    ms: float
    ops: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class OpLatencies:
    """The latencies of a network as functions of its widths.

    Attributes:
        ops: The ops by name.
        error: Largest relative error of the network's latency at the widths that were measured.
        units: Units of cost in a millisecond; those of all parts of a network must be the same.
    """

    ops: Mapping[str, OpLatency]
    error: float
    units: float

    @classmethod
    def unmeasured(cls) -> OpLatencies:
        """Make what is known before anything is measured: nothing takes any time."""
        return cls({}, 0.0, 1.0)

    def cost(self, analysis: Analysis, branches: Branches = NO_BRANCHES) -> CostModel:
        """Return the latency of a network with these ops, in `units`, as a function of the channels kept.

        Args:
            analysis: The network.
            branches: What may go entirely: no op is called there then.
        """
        every = (product for _, products in self.products(analysis, branches) for product in products)
        return assemble(analysis.graph, every)

    def by_op(self, analysis: Analysis, kept: Ints, branches: Branches = NO_BRANCHES) -> dict[str, float]:
        """Return the milliseconds of every op of a network at some widths."""
        return {
            name: assemble(analysis.graph, products).total(kept) / self.units
            for name, products in self.products(analysis, branches)
        }

    def products(self, analysis: Analysis, branches: Branches = NO_BRANCHES) -> Iterator[tuple[str, list[Product]]]:
        """Yield every op of a network and the terms of its latency, in `units`; arguments as those of `cost`."""
        for name, op in _ops(analysis).items():
            fitted = self.ops.get(name)
            if fitted is not None:
                goes = branches.leaders_of(op.output)
                tensors = [Product(axes, self.units * fitted.per_element, fitted.block, goes) for axes in op.tensors]
                macs = [Product(axes, self.units * fitted.per_mac, fitted.block, goes) for axes in op.macs]
                yield name, [Product((), self.units * fitted.constant, leaders=goes), *tensors, *macs]


class _Op(NamedTuple):
    """What an op does.

    Attributes:
        output: Its first output; empty of the rest.
        tensors: Axes of the tensors that it reads and writes, stored ones aside.
        macs: Axes of its multiply-adds.
    """

    output: str
    tensors: Sequence[Sequence[Ids]]
    macs: Sequence[Sequence[Ids]]


def _ops(analysis: Analysis) -> dict[str, _Op]:
    axes, constants = analysis.graph.axes, analysis.constants.names
    macs: dict[str, list[list[Ids]]] = {}
    for node, term in mac_nodes(analysis.model, analysis.shapes.shape):
        macs.setdefault(node_name(node), []).append([axes[name][axis] for name, axis in term])

    def tensors(node: NodeProto) -> list[Sequence[Ids]]:
        names = [name for name in (*node.input, *node.output) if name in axes and name not in constants]
        return [axes[name] for name in names]

    nodes = [node for node in analysis.model.graph.node if not constants.issuperset(node.output)]
    ops = {node_name(node): _Op(node.output[0], tensors(node), macs.get(node_name(node), ())) for node in nodes}
    written = [axes[name] for node in nodes for name in node.output if name in axes]
    return {**ops, REST: _Op("", written, [term for terms in macs.values() for term in terms])}


@dataclass(frozen=True, slots=True, eq=False)
class _Counter:
    """Counts what every op does at given widths.

    Attributes:
        names: The ops.
        terms: All their products.
        kind: Twice the number of the op, plus one for multiply-adds, (T,).
    """

    names: tuple[str, ...]
    terms: CostModel
    kind: Ints

    @classmethod
    def of(cls, analysis: Analysis, block: int) -> _Counter:
        products: list[Product] = []
        kinds: list[int] = []
        ops = _ops(analysis)
        for number, op in enumerate(ops.values()):
            for offset, terms in enumerate((op.tensors, op.macs)):
                products += (Product(axes, 1, block) for axes in terms)
                kinds += [2 * number + offset] * len(terms)
        return cls(tuple(ops), assemble(analysis.graph, products), np.array(kinds, np.int64))

    def at(self, kept: Ints) -> Floats:
        """Return elements and multiply-adds of every op, (ops, 2)."""
        sums = np.bincount(self.kind, weights=self.terms.terms_at(kept), minlength=2 * len(self.names))
        return sums.astype(np.float64).reshape(-1, 2)


def _counts(analysis: Analysis, points: Sequence[MeasuredWidths], block: int) -> dict[str, OpCounts]:
    counter = _Counter.of(analysis, block)
    counts = np.stack([counter.at(point.kept) for point in points])
    return {name: OpCounts(*counts[:, number].T) for number, name in enumerate(counter.names)}


def _times(points: Sequence[MeasuredWidths], known: Mapping[str, OpCounts]) -> dict[str, Floats]:
    """Return the milliseconds of every op at all points, (K,).

    Names that the network does not know count as rest, and so does all of a network of which no op was measured.
    """
    times = {name: np.zeros(len(points)) for name in known}
    for number, point in enumerate(points):
        for name, ms in (point.ops or {REST: point.ms}).items():
            times[name if name in known else REST][number] += ms
    return {name: ms for name, ms in times.items() if ms.any()}


def units_of(points: Iterable[MeasuredWidths]) -> float:
    """Return the units of cost in a millisecond that suit what was measured."""
    return UNITS / max(max(point.ms, sum(point.ops.values())) for point in points)


def fit_latencies(
    analysis: Analysis,
    points: Sequence[MeasuredWidths],
    blocks: Collection[int] = BLOCKS,
    units: float | None = None,
) -> OpLatencies:
    """Fit the latencies of all ops to measured ones.

    Args:
        analysis: The network that was measured.
        points: What was measured, the full widths among them.
        blocks: Multiples of channels in which kernels may compute.
        units: Units of cost in a millisecond; None takes what suits these points.
    """
    units = units or units_of(points)
    counts = {each: _counts(analysis, points, each) for each in {1, *blocks}}
    times = _times(points, counts[1])
    fitted = {name: fit_op(ms, {each: counts[each][name] for each in counts}) for name, ms in times.items()}
    varying = OpLatencies({name: op.scaled(1.0, 0.0) for name, op in fitted.items()}, 0.0, units).cost(analysis)
    totals = np.array([point.ms for point in points])
    sums = np.array([varying.total(point.kept) for point in points]) / units
    factor, constant = fit_total(totals, sums)
    # A profile adds as much to a call as a small op takes, so what calls take is told by the whole network.
    calls = sum(op.constant for op in fitted.values())
    share = min(constant / calls, 1.0) if calls else 0.0
    scaled = {name: op.scaled(factor, share) for name, op in fitted.items()}
    rest = scaled.get(REST, OpLatency(0.0, 0.0, 0.0, 1, 0.0))
    scaled[REST] = replace(rest, constant=rest.constant + constant - share * calls)
    return OpLatencies(scaled, float(np.abs((factor * sums + constant) / totals - 1).max()), units)
