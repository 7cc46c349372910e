"""How many of the tuning samples groups are tried on: as few as tell what they do to the output.

How far an output drifts differs more between samples in some networks than in others: a detector compares thousands of
boxes of each image, a classifier one row of scores. Where the samples run in several pieces, the first groups are tried
on all of them, and how much these drifts differ from piece to piece says how many pieces are enough for the others.
All groups see the same pieces, so part of what differs between pieces is the same for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Arrays
from onnxpfp.channels.macs import count_macs
from onnxpfp.comparison.metrics import divergence
from onnxpfp.refit.problem import RefitProblem

__all__ = ["PILOTS", "can_be_fewer", "drift_spread", "enough_pieces", "piece_size"]

PILOTS = 3
"""Groups that are tried on all pieces."""
PIECES = 4
"""Pieces of the tuning samples, where one batch would hold all of them."""
PIECE_WORK = 1e7
"""Multiply-adds of one op on a piece from which on runs of pieces take no longer than a run of all samples."""
ERROR = 0.2
"""Standard error of a drift, as a share of it, that is small beside what drifts of groups differ by.

Of YOLOv5n's shape it leaves 2 of 8 noise images; by these the drifts of groups are within 9 to 13 % of those by all
eight (standard deviation, up to a factor that all have in common). On the trained networks of the benchmark of accuracy
no piece is left out.
"""


def piece_size(problem: RefitProblem, samples: int, size: int) -> int:
    """Return how many samples run at once.

    Args:
        problem: The network.
        samples: Number of samples.
        size: Most that run at once.
    """
    piece = -(-samples // PIECES)
    work = piece * count_macs(problem.analysis.model, problem.analysis.shapes)
    return min(size, piece) if work >= PIECE_WORK * max(1, len(problem.layers)) else size


def can_be_fewer(feeds: Sequence[Arrays]) -> bool:
    """Tell whether some pieces may stand for all: there are several, of samples of the same shapes."""
    shapes = {tuple((name, np.shape(feed[name])[1:]) for name in sorted(feed)) for feed in feeds}
    return len(feeds) >= PIECES and len(shapes) == 1


def drift_spread(
    wanted: Sequence[Arrays],
    given: Sequence[Arrays],
    temperature: float,
    rows: frozenset[str],
    sizes: Sequence[Mapping[str, float]],
) -> float:
    """Return the standard deviation of the drifts of single pieces over their mean; arguments as of `divergence`.

    It is infinite where nothing drifts.
    """
    pieces = zip(wanted, given, sizes, strict=True)
    drifts: NDArray[Any] = np.array([divergence([a], [b], temperature, rows, [size]) for a, b, size in pieces])
    mean = float(drifts.mean())
    return float(drifts.std(ddof=1)) / mean if mean > 0.0 else math.inf


def enough_pieces(spreads: Sequence[float], pieces: int) -> int:
    """Return the number of pieces on which drifts are known well enough.

    Args:
        spreads: Of the groups that were tried on all of them, as `drift_spread` gives them.
        pieces: How many there are.
    """
    share = float(np.mean(spreads)) / ERROR if spreads else math.inf
    return max(1, math.ceil(share * share)) if share * share < pieces else pieces
