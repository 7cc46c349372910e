"""What a peer is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["CountMacs", "Task"]

CountMacs = Callable[[Path], int]
"""Counts the multiply-adds of a file for one sample."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Prune a file so that it keeps a share of its multiply-adds.

    Attributes:
        model: The dense network; its BatchNormalization is best not folded, peers that want it so fold it themselves.
        out: Where the pruned one goes.
        target: Share of the multiply-adds of `model`.
        macs: Counts them in a file.
        images: Calibration images as the network takes them, (N, C, H, W); a method that needs none ignores them.
        labels: Their classes, (N,); only a method that needs them looks at them.
    """

    model: Path
    out: Path
    target: float
    macs: CountMacs
    images: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None
