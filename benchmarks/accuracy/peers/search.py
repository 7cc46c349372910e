"""Find the pruning ratio of a peer at which the file that it writes has the wanted multiply-adds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.accuracy.peers.task import Task

__all__ = ["UnreachableShareError", "prune_to_share"]

STEPS = 12
EXCESS, NEAR = 0.005, 0.001
"""How far above the target a file may lie, and how near it no better one is looked for; relative to the target."""


class UnreachableShareError(Exception):
    """A peer does not come down to the share of multiply-adds that is asked for."""

    def __init__(self, target: float, least: float) -> None:
        super().__init__(f"does not reach {target:g} of the MACs, {least:.3f} at least")
        self.target = target
        self.least = least


def prune_to_share(task: Task, write: Callable[[float, Path], None]) -> None:
    """Bisect the ratio and keep the largest file that is not above the target.

    Args:
        task: The target, and where the chosen file goes.
        write: Prunes at a ratio (0 removes nothing, 1 all there is) and writes the file.

    Raises:
        UnreachableShareError: No file is small enough.
    """
    dense = task.macs(task.model)
    goal = task.target * dense
    best, least = 0, dense
    low, high = 0.0, 1.0
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch) / "trial.onnx"
        for _ in range(STEPS):
            ratio = (low + high) / 2
            write(ratio, trial)
            count = task.macs(trial)
            least = min(least, count)
            if count > goal * (1 + EXCESS):
                low = ratio
                continue
            high = ratio
            if count > best:
                best = count
                shutil.copyfile(trial, task.out)
            if best >= goal * (1 - NEAR):
                return
    if not best:
        raise UnreachableShareError(task.target, least / dense)
