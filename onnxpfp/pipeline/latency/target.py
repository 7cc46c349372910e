"""A target of latency, and what every width of a network costs in terms of it.

The latencies of ops are fitted to a table (`op_latencies.py`), which is measured here or given, for every part of the
network; a body's time is no part of what is around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from onnxpfp.channels import Analysis
from onnxpfp.model.names import node_name
from onnxpfp.options import UNKNOWN, Options
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import QUANTITIES
from onnxpfp.pipeline.latency.interleaved import samples_in_run
from onnxpfp.pipeline.latency.kernel_steps import (
    StepCandidate,
    aligned,
    in_question,
    measured_alignment,
    slower_in_multiples,
    step_candidates,
)
from onnxpfp.pipeline.latency.op_latencies import MeasuredWidths, fit_latencies, units_of
from onnxpfp.pipeline.latency.pairs import measure_pairs
from onnxpfp.pipeline.latency.points import measure_part
from onnxpfp.pipeline.latency.table import LatencyTable
from onnxpfp.pipeline.parts import Network, NetworkPart
from onnxpfp.runtime.machine import device_name

__all__ = [
    "LatencyTarget",
    "LatencyTry",
    "aimed_latency",
    "latency_table_for",
    "measure_table",
    "points_of",
    "with_latencies",
]

LEAST_OUTSIDE = 0.05
"""Share of a run that is left to what is around bodies at least, however the two were disturbed."""


@dataclass(frozen=True, slots=True)
class LatencyTry:
    """A pruning that was measured.

    Attributes:
        share: Share of the latency that the allocation was asked for.
        foreseen: What the latencies of ops add up to, as a share of the original's.
        measured: Latency over the original's.
    """

    share: float
    foreseen: float
    measured: float

    def error(self, target: float) -> float:
        """Return how far the measured share is from the target, in the logarithm."""
        return abs(math.log(self.measured / target))


@dataclass(frozen=True, slots=True)
class LatencyTarget:
    """What is asked for, and what is known about the latency.

    Attributes:
        share: Share of the latency.
        ms: Milliseconds that were asked for; None where a share was.
        original_ms: Latency of the original in the table.
        device: What the table was measured on; empty where it does not say.
        threads: Of onnxruntime, as the table says; None where it does not, or where they were onnxruntime's own choice.
        batch: Samples in a run.
        given: Whether the table was given, and not measured here and now.
        error: Largest relative error of the fitted latency at the points of the table, bodies included.
        foreseen: What the latencies of ops of the written model add up to, as a share of the original's; None where
            nothing was pruned.
        tries: Prunings that were measured, in their order, but for the last: that is the one that was taken. Empty
            where the table was given, for it may be of another device.
    """

    share: float
    ms: float | None
    original_ms: float
    device: str
    threads: int | None
    batch: int
    given: bool
    error: float
    foreseen: float | None = None
    tries: tuple[LatencyTry, ...] = ()


def measure_table(network: Network) -> LatencyTable:
    """Measure the latencies of all parts of a network on this machine.

    Raises:
        CalibrationError: There are too few samples for a run.
        LatencyTableError: It cannot be measured.
    """
    context = network.parts[0].context
    with context.clock.phase("latency table") as progress:
        parts = {part.place: measure_part(part.context, progress, prunable=part.prunable) for part in network.parts}
    sha256, threads = context.whole.source.sha256, context.options.threads
    return LatencyTable(sha256, device_name(), context.providers, threads, samples_in_run(context), parts)


def latency_table_for(network: Network) -> LatencyTable:
    """Read the latency table that was given with a target of latency, or measure one here.

    Raises:
        CalibrationError: There are too few samples for a run.
        LatencyTableError: It cannot be read, or measured.
    """
    given = network.parts[0].context.options.latency_table
    return measure_table(network) if given is None else LatencyTable.read(Path(given))


def with_latencies(network: Network, table: LatencyTable) -> tuple[Network, LatencyTarget]:
    """Give every part of a network the latencies of its ops, and measure those of pairs of low rank if ranks may go.

    Args:
        network: The network; its options have a target of latency.
        table: What was measured.

    Returns:
        It with latencies, its target a share, and that target.

    Raises:
        CalibrationError: There are too few samples for a run.
        LatencyTableError: The table is none of this network, or pairs of low rank cannot be measured.
    """
    options = network.parts[0].context.options
    share = _share_of(options, table.ms)
    full_of, parts = QUANTITIES["latency"].whole, list[NetworkPart]()
    points = [points_of(network, number, table) for number in range(len(network.parts))]
    units = units_of(chain.from_iterable(points))
    for part, measured in zip(network.parts, points, strict=True):
        context = _fitted(part, table, measured, units)
        if options.ranked and part.body is None and part.prunable:
            with context.clock.phase("latency table") as progress:
                whole, inside = table.part(part.place).points[0].ms, _inside(network, 0, table)
                context = replace(context, pairs=measure_pairs(context, whole, inside, progress))
        full = full_of(context.whole, context.latencies)
        parts.append(replace(part, context=replace(context, full=full, options=options.keeping(share))))
    error = max(part.context.latencies.error for part in parts)
    target = LatencyTarget(
        share=share,
        ms=options.latency_ms,
        original_ms=table.ms,
        device=table.device,
        threads=table.threads,
        batch=table.batch,
        given=options.latency_table is not None,
        error=error,
    )
    return replace(network, parts=tuple(parts)), target


def aimed_latency(target: LatencyTarget, options: Options) -> LatencyTarget:
    """Return a target of latency as other options ask for it, of the same network and table."""
    return replace(target, share=_share_of(options, target.original_ms), ms=options.latency_ms)


def _share_of(options: Options, original_ms: float) -> float:
    """Return the share of the latency that is asked for."""
    share = options.target[1]
    return min(1.0, (options.latency_ms or 0.0) / original_ms) if share == UNKNOWN else share


def points_of(network: Network, number: int, table: LatencyTable) -> list[MeasuredWidths]:
    """Return what a table says of a part, without what belongs to the bodies in it.

    Args:
        network: The network.
        number: Of the part.
        table: What was measured.

    Raises:
        LatencyTableError: The table is of other groups.
    """
    outer = network.parts[number]
    analysis = outer.context.whole
    points = table.part(outer.place).measured(analysis.graph)
    inside = _inside(network, number, table)
    return [_without_bodies(point, analysis, inside) for point in points] if inside else points


def _inside(network: Network, number: int, table: LatencyTable) -> float:
    """Return the milliseconds that the bodies in a part take in one of its runs."""
    bodies = (part for part in network.parts if part.body is not None and part.outer == number)
    return sum(part.runs / network.parts[number].runs * table.part(part.place).points[0].ms for part in bodies)


def _fitted(part: NetworkPart, table: LatencyTable, points: Sequence[MeasuredWidths], units: float) -> RunContext:
    """Fit the latencies of the ops of a part, and find in what steps its kernels work.

    Args:
        part: The part.
        table: What was measured.
        points: What of it belongs to the part.
        units: Units of cost in a millisecond.

    Returns:
        The context of the part with both.
    """
    known, analysis = table.part(part.place), part.context.whole
    multiples = [point.multiple for point in known.points]
    alignment, candidates = part.context.alignment, tuple[StepCandidate, ...]()
    if not alignment.asked:
        # What is known of this machine says nothing of another one.
        usual = 1 if part.context.options.latency_table else alignment.step
        slower = slower_in_multiples(analysis, points, multiples)
        alignment = measured_alignment(slower, usual)
        candidates = step_candidates(analysis, points, multiples, in_question(slower), units)
    step = alignment.step if alignment.asked else alignment.finest
    latencies = fit_latencies(analysis, aligned(points, multiples, step), units=units)
    return replace(part.context, alignment=alignment, latencies=latencies, candidates=candidates)


def _without_bodies(point: MeasuredWidths, analysis: Analysis, inside: float) -> MeasuredWidths:
    """Leave out of a measurement what the bodies took; kernels of theirs are named like no node around them."""
    names = {node_name(node) for node in analysis.model.graph.node}
    ops = {name: ms for name, ms in point.ops.items() if name in names}
    return MeasuredWidths(point.kept, max(point.ms - inside, LEAST_OUTSIDE * point.ms), ops)
