"""Rows of what somebody reaches who has no target of latency: the share of the multiply-adds is tuned until it fits.

Every pruning is measured against the original, and the share is moved until the latency is that of the pruning with a
target of latency beside which the row stands.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.latency.product import Pruned, RefusedError, prune_to_macs
from benchmarks.latency.rows import ByHand, Ratios, Targeted
from benchmarks.latency.subjects import Places, Subject
from benchmarks.latency.turns import beside, feed_of
from benchmarks.speed.machine import machine

__all__ = ["by_hand", "tuned"]

MOST = 7
"""Prunings."""
NEAR = 0.015
"""Relative distance of the latency from which on no nearer one is looked for."""
NOT_NEAR = 0.05
"""Relative distance from which on a row says that nothing comes near."""
LEAST = 0.02
"""Smallest share that is tried."""

Try = Callable[[float], float | None]
"""Prunes to a share of the multiply-adds and returns the share of the latency; None where that is out of reach."""


@dataclass(frozen=True, slots=True)
class _Trial:
    share: float
    pruned: Pruned
    ratios: Ratios
    file: Path


def tuned(attempt: Try, goal: float) -> list[float]:
    """Look for the share of the multiply-adds at which the latency is the goal; return all that were tried.

    The next share is in the middle of the nearest on both sides, or, where there are none on one side, what the last
    would be if the latency were in proportion.
    """
    low, high, share, tried = 0.0, 1.0, goal, list[float]()
    while len(tried) < MOST and low < share < high:
        tried.append(share)
        found = attempt(share)
        if found is not None and abs(found / goal - 1) <= NEAR:
            break
        if found is None or found < goal:
            low = share
        else:
            high = share
        middle = (low + high) / 2
        proportional = middle if found is None else share * goal / found
        share = middle if low > 0 and high < 1 else min(max(proportional, LEAST), (share + 1) / 2)
    return tried


def by_hand(subject: Subject, places: Places, ours: Targeted, rounding: int) -> list[ByHand]:
    """Tune the share of the multiply-adds to the latency of one of our rows."""
    assert ours.ratios is not None
    original, goal = subject.file(places), ours.ratios[1]
    feed = feed_of(original, subject.calibration(places)[: ours.batch])
    trials: list[_Trial] = []
    with tempfile.TemporaryDirectory() as scratch:

        def attempt(share: float) -> float | None:
            out = Path(scratch) / f"{len(trials)}.onnx"
            try:
                pruned = prune_to_macs(subject, places, out, share, threads=ours.threads, round_to=rounding or None)
            except RefusedError:
                return None
            seen = beside(original, out, feed, ours.threads)
            trials.append(_Trial(share, pruned, seen.ratios, out))
            return seen.ratios[1]

        tried = len(tuned(attempt, goal))
        common = {
            "network": subject.name,
            "batch": ours.batch,
            "threads": ours.threads,
            "machine": machine(),
            "target": ours.target,
            "rounding": rounding,
            "goal": goal,
            "tried": tried,
            "seconds": round(sum(trial.pruned.seconds for trial in trials), 1),
        }
        best = min(trials, key=lambda trial: abs(trial.ratios[1] - goal), default=None)
        if best is None:
            return [ByHand(**common, refused="no share of the multiply-adds that was tried is within reach")]
        far = abs(best.ratios[1] / goal - 1) > NOT_NEAR
        return [
            ByHand(
                **common,
                refused=f"the nearest has {best.ratios[1]:.3f}" if far else "",
                keep_macs=round(best.share, 4),
                ratios=best.ratios,
                macs=best.pruned.macs,
                after=subject.right(best.file, places),
            )
        ]
