"""Pruning to a share of the latency: what comes out is measured, and what is asked for is corrected.

A share of the latency is asked of the allocation as one of the MACs would be; what it counts is the fitted latency of
the network (`target.py`). What comes of it is cut and run beside the original before anything is refitted, for the
numbers in weights take no time. As far as the measured share is off, another one is asked for. What is refitted then is
run once more: a busy machine may have had a hand in the tries, and what is written has to be as fast as was asked.

Where a table is given it may be of another device: nothing is measured then, and the allocation has the last word.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from onnxpfp.errors import TargetUnreachableError
from onnxpfp.model.draws import without_record
from onnxpfp.options import Options
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.latency.interleaved import latency_feed, run_interleaved
from onnxpfp.pipeline.latency.target import LatencyTarget, LatencyTry
from onnxpfp.pipeline.network_steps import MeasuredPart, PrunedNetwork, keeps_all, least_share, single_share
from onnxpfp.runtime.session import open_session

__all__ = ["WITHIN", "Tried", "fast_enough", "measured_tries", "prune_to_latency", "without_refits"]

CLOSE = 0.03
"""Relative error of the measured share that is good enough; repeated, it differs by a few percent."""
WITHIN = 0.05
"""Relative error that is let pass in the end."""
TRIES = 6
"""Prunings without refits that are measured."""
REFITTED = 2
"""Prunings with refits that are measured: a second one where the first is too slow."""
SECONDS = 3.0
"""Of runs for each of them; about half is used."""
ROUNDS = 3
"""Of runs in turns, where one is short; their median counts. On a busy machine one alone is off by 2 %."""
FEWEST_RUNS = 8
"""Runs of both that SECONDS must have room for, where they are long."""
STEP = 0.05
"""Part of a share by which less is asked for, where a little less came out the same."""
FINEST = 1e-3
"""Difference of shares from which another pruning may come out otherwise."""


Tried = tuple[PrunedNetwork, LatencyTry]
"""A pruning, and what was measured of it."""


def prune_to_latency(
    target: LatencyTarget,
    context: RunContext,
    parts: Sequence[MeasuredPart],
    prune: Callable[[RunContext], PrunedNetwork],
    write: Callable[[PrunedNetwork], ModelProto],
    begun: Sequence[Tried] = (),
) -> tuple[PrunedNetwork, LatencyTarget]:
    """Prune to a share of the latency, and correct what is asked for until the measured share is that.

    Args:
        target: What is asked for.
        context: The network, with the latencies of its ops.
        parts: What was measured on its parts.
        prune: Prunes as the options of a context say.
        write: Makes of what is left the model that would be written.
        begun: Prunings without refits that were measured already.

    Returns:
        The result, and what was measured on the way.

    Raises:
        TargetUnreachableError: The latency does not come down to the target.
        LatencyTableError: It cannot be measured.
    """
    # The fit is that of the steps that were taken.
    target = replace(target, error=max(each.part.context.latencies.error for each in parts))
    least = least_share(parts)
    if least > target.share:
        raise _unreachable(target, least, "is the least that the latencies of its ops add up to", parts)
    if target.given:
        pruned = prune(context)
        return pruned, replace(target, foreseen=_foreseen(parts, pruned))
    options = context.options
    # With several steps widths hang on the refits between them.
    bare = without_refits(options) if options.steps == 1 else options
    bare_context = replace(context, options=bare)
    tries = measured_tries(target, bare_context, parts, prune, write, TRIES, begun=begun)
    pruned, taken = _taken(target, tries, parts)
    if bare is not options:
        # What was taken stands among the tries as it is written, with its refits.
        refitted = measured_tries(target, context, parts, prune, write, REFITTED, first=taken.share, enough=fast_enough)
        tries = [*(each for each in tries if each[1] is not taken), *refitted]
        pruned, taken = _taken(target, refitted, parts)
    others = tuple(each for _, each in tries if each is not taken)
    return pruned, replace(target, foreseen=taken.foreseen, tries=(*others, taken))


def without_refits(options: Options) -> Options:
    """Return the options by which what was measured is pruned to be timed, for the numbers in weights take no time.

    What may go, ranks among it, was settled when it was measured; to ask for ranks would ask for refits.
    """
    return replace(options, compensate="none", effort="low", structure="channels", steps=1)


def _taken(target: LatencyTarget, tries: Sequence[Tried], parts: Sequence[MeasuredPart]) -> Tried:
    """Return the try that is closest to the target, of those that are fast enough.

    Raises:
        TargetUnreachableError: There are none.
    """
    fast = [each for each in tries if fast_enough(each[1], target)]
    if not fast:
        raise _unreachable(target, min(each.measured for _, each in tries), "is the least that was measured", parts)
    return min(fast, key=lambda each: each[1].error(target.share))


def fast_enough(tried: LatencyTry, target: LatencyTarget) -> bool:
    """Tell whether a pruning takes no more than is let pass."""
    return tried.measured <= (1 + WITHIN) * target.share


def _close(tried: LatencyTry, target: LatencyTarget) -> bool:
    """Tell whether a pruning is neither slower nor faster than was asked for."""
    return tried.error(target.share) <= CLOSE


def measured_tries(
    target: LatencyTarget,
    context: RunContext,
    parts: Sequence[MeasuredPart],
    prune: Callable[[RunContext], PrunedNetwork],
    write: Callable[[PrunedNetwork], ModelProto],
    most: int,
    *,
    first: float | None = None,
    enough: Callable[[LatencyTry, LatencyTarget], bool] = _close,
    begun: Sequence[Tried] = (),
) -> list[Tried]:
    """Prune and measure, until what is measured is enough, or nothing changes any more.

    Args:
        target: What is asked for; it can be reached by the latencies of the ops.
        context: The network.
        parts: What was measured on its parts.
        prune: Prunes as the options of a context say.
        write: Makes of what is left the model that would be written.
        most: Prunings at most.
        first: Share that is asked for first; None is the target's.
        enough: Tells of what was measured last whether it meets the target.
        begun: Those that were measured already.

    Returns:
        At least one pruning and what was measured of it, in their order.

    Raises:
        LatencyTableError: It cannot be measured.
    """

    def attempt(share: float) -> Tried:
        pruned = prune(replace(context, options=context.options.keeping(share)))
        # Where nothing goes the file stays as it is, even if it would be faster as it is rewritten.
        measured = 1.0 if keeps_all(parts, pruned) else _measured_share(context, write(pruned))
        return pruned, LatencyTry(share, _foreseen(parts, pruned), measured)

    least = least_share(parts)
    tries = [*begun] or [attempt(target.share if first is None else first)]
    while len(tries) < most and not enough(tries[-1][1], target):
        share = max(least, _following(target.share, [each for _, each in tries]))
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


def _nearly(share: float, tries: Sequence[Tried]) -> bool:
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
        ratios, spent = list[float](), 0.0
        while len(ratios) < ROUNDS and spent <= SECONDS / 2:
            start = time.perf_counter()
            ratios.append(run_interleaved(context, one, two, feed, seconds).ratio.median)
            spent += time.perf_counter() - start
        return float(np.median(ratios))


def _unreachable(
    target: LatencyTarget, share: float, what: str, parts: Sequence[MeasuredPart]
) -> TargetUnreachableError:
    """Say what latency was reached, and what can be asked for."""
    asked = f"{target.share:.3g} of the latency" if target.ms is None else f"{target.ms:.3g} ms"
    least = math.ceil(1000 * share) / 1000
    ask = f"--keep-latency {least:g}"
    if target.ms is not None:
        ask = f"--latency-ms {math.ceil(1000 * share * target.original_ms) / 1000:g}"
    lower = "lower --round-to or --min-channels, or " if single_share(parts) < least_share(parts) else ""
    hint = f"{lower}ask for {ask} or more"
    if least >= 1:
        hint = "channels that may go take next to no time of it; `onnxpfp latency IN` says what does"
    return TargetUnreachableError(
        f"the target is {asked}, but {share:.3f} of the original's ({share * target.original_ms:.3g} of "
        f"{target.original_ms:.3g} ms) {what}",
        hint=hint,
    )
