"""What a measured latency table says: where the time goes, in what steps kernels work, and how well that is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import Ints
from onnxpfp.model.names import node_name
from onnxpfp.pipeline.costs import full_widths
from onnxpfp.pipeline.latency.kernel_steps import slower_in_multiples
from onnxpfp.pipeline.latency.table import LatencyTable
from onnxpfp.pipeline.latency.target import points_of
from onnxpfp.pipeline.network_steps import MeasuredPart, least_share, measure_whole
from onnxpfp.pipeline.parts import Network
from onnxpfp.pipeline.selector import selector_of
from onnxpfp.runtime.blocks import Alignment

__all__ = ["FittedPoint", "LatencySummary", "OpShare", "PartLatency", "summarize"]


@dataclass(frozen=True, slots=True)
class OpShare:
    """The latency of one op.

    Attributes:
        place: The body that it is in; empty for the main graph.
        name: The node's name; empty for what belongs to no op.
        op: Its op type; empty likewise.
        ms: Its fitted milliseconds in a run of the network, with all channels.
        least_ms: The same with as few as may be.
    """

    place: str
    name: str
    op: str
    ms: float
    least_ms: float


@dataclass(frozen=True, slots=True)
class FittedPoint:
    """One point of a table, and what the fit makes of it.

    Attributes:
        multiple: The number of which all widths are multiples; 0 for the whole part.
        kept: Share of the channels that stay.
        ms: Milliseconds of a run of the part that were measured.
        fitted_ms: Those that the fitted latencies of its ops add up to.
    """

    multiple: int
    kept: float
    ms: float
    fitted_ms: float


@dataclass(frozen=True, slots=True)
class PartLatency:
    """The latency of the main graph, or of a body.

    Attributes:
        place: Where it is; empty for the main graph.
        runs: How often it runs in a run of the network.
        ms: Milliseconds of one of its runs, without the bodies in it.
        alignment: The multiples in which `onnxpfp prune` would keep channels.
        slower: By multiple, how much slower widths in it were than those in the fastest, for what they do: 0.1 is a
            tenth. Empty where multiples were not compared.
        error: Largest relative error of the fit at the points that it was made of.
        points: What was measured.
    """

    place: str
    runs: float
    ms: float
    alignment: Alignment
    slower: Mapping[int, float]
    error: float
    points: tuple[FittedPoint, ...]


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """What is known of the latency of a network.

    Attributes:
        ms: Milliseconds of a run.
        least: The smallest share of it that the latencies of its ops add up to.
        ops: Its ops, those that take most first.
        parts: Its main graph, then its bodies.
    """

    ms: float
    least: float
    ops: tuple[OpShare, ...]
    parts: tuple[PartLatency, ...]


def summarize(network: Network, asked: Network, table: LatencyTable) -> LatencySummary:
    """Say what a table tells of a network.

    Args:
        network: The network, its parts with the latencies of their ops.
        asked: The same as it was before: its alignments say whether a multiple was asked for.
        table: What was measured.
    """
    parts = [measure_whole(part) for part in network.parts]
    ops = sorted((op for each in parts for op in _ops(each)), key=lambda op: -op.ms)
    return LatencySummary(
        ms=table.ms,
        least=least_share(parts),
        ops=tuple(ops),
        parts=tuple(
            _part(network, number, table, compared=not before.context.alignment.asked)
            for number, before in enumerate(asked.parts)
        ),
    )


def _ops(each: MeasuredPart) -> Iterator[OpShare]:
    """Yield the ops of a part."""
    part, context = each.part, each.part.context
    full = full_widths(context.whole)
    kinds = {node_name(node): node.op_type for node in context.whole.model.graph.node}
    widest = context.latencies.by_op(context.whole, full)
    least = context.latencies.by_op(context.whole, _narrowest(each) if part.prunable else full, each.measured.branches)
    for name, ms in widest.items():
        yield OpShare(part.place, name, kinds.get(name, ""), part.runs * ms, part.runs * least[name])


def _part(network: Network, number: int, table: LatencyTable, *, compared: bool) -> PartLatency:
    """Say what a table tells of one part."""
    part = network.parts[number]
    context, whole = part.context, part.context.whole
    points = points_of(network, number, table)
    multiples = [point.multiple for point in table.part(part.place).points]
    slower = slower_in_multiples(whole, points, multiples) if compared else {}
    cost = context.latencies.cost(whole)
    channels = max(int(full_widths(whole).sum()), 1)
    return PartLatency(
        place=part.place,
        runs=part.runs,
        ms=points[0].ms,
        alignment=context.alignment,
        slower={multiple: math.expm1(each.log) for multiple, each in slower.items()},
        error=context.latencies.error,
        points=tuple(
            FittedPoint(
                multiple,
                float(point.kept.sum()) / channels if part.prunable else 1.0,
                point.ms,
                cost.total(point.kept) / context.latencies.units,
            )
            for multiple, point in zip(multiples, points, strict=True)
        ),
    )


def _narrowest(each: MeasuredPart) -> Ints:
    """Return the smallest widths of the groups of a part, (groups,)."""
    return np.array(selector_of(each.part.context, each.measured).narrowest, np.int64)
