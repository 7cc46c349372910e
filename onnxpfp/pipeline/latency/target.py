"""Targets of latency: widths by the measured times of ops, and a result whose latency is measured and corrected.

A share of the latency is asked of the allocation as one of the MACs would be; what it counts is the fitted latency of
the network (`op_latencies.py`). What comes of it is cut and run beside the original before anything is refitted, for
the numbers in weights take no time. As far as the measured share is off, another one is asked for.

Where a table is given it may be of another device: nothing is measured then, and the allocation has the last word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from onnx import ModelProto

from onnxpfp.channels import Analysis
from onnxpfp.errors import TargetUnreachableError
from onnxpfp.model.draws import without_record
from onnxpfp.model.names import node_name
from onnxpfp.options import UNKNOWN
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import QUANTITIES
from onnxpfp.pipeline.latency.op_latencies import MeasuredWidths, fit_latencies, measured_step, units_of
from onnxpfp.pipeline.latency.points import measure_part, measured_alignment
from onnxpfp.pipeline.latency.table import FEWEST, LatencyTable
from onnxpfp.pipeline.latency.turns import latency_feed, run_in_turns, samples_in_run
from onnxpfp.pipeline.network_steps import MeasuredPart, PrunedNetwork, keeps_all, least_share, single_share
from onnxpfp.pipeline.parts import Network, NetworkPart
from onnxpfp.runtime.machine import device_name
from onnxpfp.runtime.session import open_session

__all__ = [
    "WITHIN",
    "LatencyAim",
    "LatencyTry",
    "aim_at_latency",
    "latency_table_for",
    "measure_table",
    "points_of",
    "prune_to_latency",
]

CLOSE = 0.03
"""Relative error of the measured share that is good enough; repeated, it differs by a few percent."""
WITHIN = 0.05
"""Relative error that is let pass in the end."""
TRIES = 6
"""Prunings without refits that are measured."""
SECONDS = 3.0
"""Of runs for each of them; about half is used."""
FEWEST_RUNS = 8
"""Runs of both that SECONDS must have room for, where they are long."""
STEP = 0.05
"""Part of a share by which less is asked for, where a little less came out the same."""
FINEST = 1e-3
"""Difference of shares from which another pruning may come out otherwise."""
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
class LatencyAim:
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


def aim_at_latency(network: Network, table: LatencyTable) -> tuple[Network, LatencyAim]:
    """Give every part of a network the latencies of its ops.

    Args:
        network: The network; its options have a target of latency.
        table: What was measured.

    Returns:
        It with latencies, its target a share, and what is aimed at.

    Raises:
        LatencyTableError: The table is none of this network.
    """
    options = network.parts[0].context.options
    share = options.target[1]
    if share == UNKNOWN:
        share = min(1.0, (options.latency_ms or 0.0) / table.ms)
    whole, parts = QUANTITIES["latency"].whole, list[NetworkPart]()
    points = [points_of(network, number, table) for number in range(len(network.parts))]
    units = units_of(chain.from_iterable(points))
    for part, measured in zip(network.parts, points, strict=True):
        context = _fitted(part, table, measured, units)
        full = whole(context.whole, context.latencies)
        parts.append(replace(part, context=replace(context, full=full, options=options.keeping(share))))
    error = max(part.context.latencies.error for part in parts)
    aim = LatencyAim(
        share=share,
        ms=options.latency_ms,
        original_ms=table.ms,
        device=table.device,
        threads=table.threads,
        batch=table.batch,
        given=options.latency_table is not None,
        error=error,
    )
    return replace(network, parts=tuple(parts)), aim


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
    bodies = (part for part in network.parts if part.body is not None and part.outer == number)
    inside = sum(part.runs / outer.runs * table.part(part.place).points[0].ms for part in bodies)
    return [_without_bodies(point, analysis, inside) for point in points] if inside else points


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
    alignment = part.context.alignment
    if not alignment.asked:
        # What is known of this machine says nothing of another one.
        usual = 1 if part.context.options.latency_table else alignment.step
        step = measured_step(analysis, points, multiples, usual)
        alignment = measured_alignment(step)
    aligned = [point for point, multiple in zip(points, multiples, strict=True) if multiple % alignment.step == 0]
    latencies = fit_latencies(analysis, aligned if len(aligned) >= FEWEST else points, units=units)
    return replace(part.context, alignment=alignment, latencies=latencies)


def _without_bodies(point: MeasuredWidths, analysis: Analysis, inside: float) -> MeasuredWidths:
    """Leave out of a measurement what the bodies took; kernels of theirs are named like no node around them."""
    names = {node_name(node) for node in analysis.model.graph.node}
    ops = {name: ms for name, ms in point.ops.items() if name in names}
    return MeasuredWidths(point.kept, max(point.ms - inside, LEAST_OUTSIDE * point.ms), ops)


def prune_to_latency(
    aim: LatencyAim,
    context: RunContext,
    parts: Sequence[MeasuredPart],
    prune: Callable[[RunContext], PrunedNetwork],
    write: Callable[[PrunedNetwork], ModelProto],
) -> tuple[PrunedNetwork, LatencyAim]:
    """Prune to a share of the latency, and correct what is asked for until the measured share is that.

    Args:
        aim: What is asked for.
        context: The network, with the latencies of its ops.
        parts: What was measured on its parts.
        prune: Prunes as the options of a context say.
        write: Makes of what is left the model that would be written.

    Returns:
        The result, and what was measured on the way.

    Raises:
        TargetUnreachableError: The latency does not come down to the target.
        LatencyTableError: It cannot be measured.
    """
    least = least_share(parts)
    if least > aim.share:
        raise _unreachable(aim, least, "is the least that the latencies of its ops add up to", parts)
    if aim.given:
        pruned = prune(context)
        return pruned, replace(aim, foreseen=_foreseen(parts, pruned))
    options = context.options
    # With several steps widths hang on the refits between them.
    bare = replace(options, compensate="none") if options.steps == 1 else options

    def attempt(share: float) -> tuple[PrunedNetwork, LatencyTry]:
        pruned = prune(replace(context, options=bare.keeping(share)))
        # Where nothing goes the file stays as it is, even if it would be faster as it is rewritten.
        measured = 1.0 if keeps_all(parts, pruned) else _measured_share(context, write(pruned))
        return pruned, LatencyTry(share, _foreseen(parts, pruned), measured)

    tries = _correct(aim.share, least, attempt)
    fast = [each for each in tries if each[1].measured <= (1 + WITHIN) * aim.share]
    if not fast:
        raise _unreachable(aim, min(each.measured for _, each in tries), "is the least that was measured", parts)
    pruned, taken = min(fast, key=lambda each: each[1].error(aim.share))
    others = tuple(each for _, each in tries if each is not taken)
    if bare is not options:
        pruned = prune(replace(context, options=options.keeping(taken.share)))
    return pruned, replace(aim, foreseen=taken.foreseen, tries=(*others, taken))


Attempt = Callable[[float], tuple[PrunedNetwork, LatencyTry]]
"""Prunes to a share of the latency without refits, and measures it."""


def _correct(target: float, least: float, attempt: Attempt) -> list[tuple[PrunedNetwork, LatencyTry]]:
    """Ask for other shares until the measured one is close to the target, or nothing changes any more.

    Args:
        target: The share that is to be measured.
        least: The smallest share that can be asked for.
        attempt: Tries one.
    """
    tries = [attempt(target)]
    while len(tries) < TRIES and tries[-1][1].error(target) > CLOSE:
        share = max(least, _following(target, [each for _, each in tries]))
        if _nearly(share, tries):
            break
        tries.append(attempt(share))
    return tries


def _following(target: float, tries: Sequence[LatencyTry]) -> float:
    """Return the share to ask for next.

    It is in proportion to what was measured last, but not outside of what was too fast and what was too slow: where
    widths have steps, proportion leads from one to the other and back.
    """
    slow = [each.share for each in tries if each.measured > target]
    high = min(slow, default=1.0 + 2 * FINEST)
    low = max((each.share for each in tries if each.measured <= target and each.share < high), default=0.0)
    share = min(1.0, tries[-1].share * target / tries[-1].measured)
    if low + FINEST < share < high - FINEST:
        return share
    return (low + high) / 2 if low else (1 - STEP) * high


def _nearly(share: float, tries: Sequence[tuple[PrunedNetwork, LatencyTry]]) -> bool:
    """Tell whether a share has been tried, or one that is no other."""
    return any(abs(share - each.share) < FINEST for _, each in tries)


def _foreseen(parts: Sequence[MeasuredPart], pruned: PrunedNetwork) -> float:
    """Return the share of the latency that is left by the latencies of ops."""
    left = sum(each.cost_after(decision) for each, decision in zip(parts, pruned.decisions, strict=True))
    return left / max(sum(each.full for each in parts), 1.0)


def _measured_share(context: RunContext, model: ModelProto) -> float:
    """Run a pruned model in turns with the original; returns the ratio of their latencies.

    Raises:
        LatencyTableError: It cannot be measured.
    """
    source, threads = context.whole.source, context.options.threads
    original = source.rewritten_from or source.model
    with context.clock.phase("latency table"):
        one, two = (
            open_session(each, context.requests, threads=threads, resting=True)
            for each in (original, without_record(model))
        )
        feed = latency_feed(context)
        seconds = max(SECONDS, 2 * FEWEST_RUNS * one.timed(feed).wall)
        return run_in_turns(context, one, two, feed, seconds).ratio.median


def _unreachable(aim: LatencyAim, share: float, what: str, parts: Sequence[MeasuredPart]) -> TargetUnreachableError:
    """Say what latency was reached, and what can be asked for."""
    asked = f"{aim.share:.3g} of the latency" if aim.ms is None else f"{aim.ms:.3g} ms"
    least = math.ceil(1000 * share) / 1000
    ask = f"--keep-latency {least:g}"
    if aim.ms is not None:
        ask = f"--latency-ms {math.ceil(1000 * share * aim.original_ms) / 1000:g}"
    lower = "lower --round-to or --min-channels, or " if single_share(parts) < least_share(parts) else ""
    hint = f"{lower}ask for {ask} or more"
    if least >= 1:
        hint = "channels that may go take next to no time of it; `onnxpfp latency IN` says what does"
    return TargetUnreachableError(
        f"the target is {asked}, but {share:.3f} of the original's ({share * aim.original_ms:.3g} of "
        f"{aim.original_ms:.3g} ms) {what}",
        hint=hint,
    )
