"""Rows of what somebody reaches who has no target of latency: the share of the multiply-adds is tuned until it fits.

Every pruning is measured against the original, and the share is moved until the latency is that of the pruning with a
target of latency beside which the row stands.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.latency.product import Pruned, RefusedError, prune_to_macs
from benchmarks.latency.rows import ByHand, Ratios, Targeted
from benchmarks.latency.subjects import Places, Subject
from benchmarks.latency.turns import beside, feed_of
from benchmarks.speed.machine import commit, machine

__all__ = ["by_hand", "tuned"]

MOST = 7
"""Prunings."""
NEAR = 0.015
"""Relative distance of the latency from which on no nearer one is looked for."""
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


@dataclass(frozen=True, slots=True)
class _Tuning:
    """Prunes one network to shares of its multiply-adds and measures the files, all of which are kept."""

    subject: Subject
    places: Places
    ours: Targeted
    rounding: int
    folder: Path
    trials: list[_Trial] = field(default_factory=list[_Trial])

    def attempt(self, share: float) -> float | None:
        """Prune to a share and return that of the latency; None where it is out of reach."""
        out, threads = self.folder / f"{len(self.trials)}.onnx", self.ours.threads
        try:
            pruned = prune_to_macs(
                self.subject, self.places, out, share, threads=threads, round_to=self.rounding or None
            )
        except RefusedError:
            return None
        original, samples = self.subject.file(self.places), self.subject.calibration(self.places)
        seen = beside(original, out, feed_of(original, samples[: self.ours.batch]), threads)
        self.trials.append(_Trial(share, pruned, seen.ratios, out))
        return seen.ratios[1]


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
    """Tune the share of the multiply-adds to the latency of one of our rows; the nearest pruning is the row."""
    assert ours.ratios is not None
    goal = ours.ratios[1]
    with tempfile.TemporaryDirectory() as scratch:
        tuning = _Tuning(subject, places, ours, rounding, Path(scratch))
        tried = len(tuned(tuning.attempt, goal))
        row = ByHand(
            network=subject.name,
            batch=ours.batch,
            threads=ours.threads,
            machine=machine(),
            commit=commit(),
            target=ours.target,
            rounding=rounding,
            goal=goal,
            tried=tried,
            seconds=round(sum(trial.pruned.seconds for trial in tuning.trials), 1),
        )
        best = min(tuning.trials, key=lambda trial: abs(trial.ratios[1] - goal), default=None)
        if best is None:
            return [replace(row, refused="no share of the multiply-adds that was tried is within reach")]
        after = subject.right(best.file, places)
    return [replace(row, keep_macs=round(best.share, 4), ratios=best.ratios, macs=best.pruned.macs, after=after)]
