"""Batches: as many samples in one run as the model takes, if that gives what single runs give.

Many exports promise a free batch and have a Reshape inside that fixes it: a batch fails, or its samples run together
into one sequence and change each other's outputs. So do the samples of a BatchNormalization in training mode, and of a
dynamic quantization, whose range is that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.data.samples import Feed, Samples
from onnxpfp.errors import ModelError
from onnxpfp.runtime.session import Session

__all__ = ["Batching", "choose_batching"]

COMPARED = 3
"""Samples of a batch that are run alone, too: the first two and the last."""
ROUNDING = 1e-3
"""Largest difference that is rounding, as a share of the largest output."""
HALF_ROUNDING = 2e-2
"""The same in half precision."""
FLIPS = 0.01
"""Largest share of the numbers of an integer output that may differ: near ties."""
MATRIX = 2
"""Axes of an output whose rows count as classes of a sample."""

_FAILS = "the model fails on several at once"
_MIXES = "in a batch they change each other's outputs"
_COLUMNS = "an output has one column per sample"


@dataclass(frozen=True, slots=True, eq=False)
class Batching:
    """How samples are run.

    Attributes:
        samples: The samples, one by one where they must be.
        size: Samples in one run.
        single: Why they run one by one; empty where they need not.
    """

    samples: Samples
    size: int
    single: str


def choose_batching(session: Session, samples: Samples, wanted: int) -> Batching:
    """Find out how many samples can run at once.

    Args:
        session: What runs the model.
        samples: The samples.
        wanted: The most that run at once, where the model and its feeds leave it free.

    Raises:
        ModelError: The model does not run on one feed.
    """
    runs = samples.runs(min(wanted, len(samples)))
    feed, count = next((run for run in runs if run[1] > 1 or not samples.batched), None) or next(samples.runs(1))
    if not samples.batched or count == 1:
        session.run(feed)
        return Batching(samples, samples.fixed_batch or count, "")
    reason = _reason(session, samples, feed, count)
    if not reason:
        return Batching(samples, samples.fixed_batch or count, "")
    samples = samples.one_by_one()
    # A model that fails on any feed says why here.
    session.run(next(samples.batches(1)))
    return Batching(samples, 1, reason)


def _reason(session: Session, samples: Samples, feed: Feed, count: int) -> str:
    """Return why the samples of a feed have to run one by one; empty where they need not."""
    try:
        together = session.run(feed)
    except ModelError:
        return _FAILS
    numbers = sorted({*range(COMPARED - 1), count - 1})
    feeds = [samples.part(feed, count, number, number + 1) for number in numbers]
    try:
        alone = [session.run(one) for one in feeds]
        again = session.run(feeds[0])
    except ModelError:
        # It takes batches and no single samples: there is nothing to compare with.
        return ""
    if any(_differs(again[name], alone[0][name]) for name in again):
        # Random ops draw anew in every run, so that no two runs are alike.
        return ""
    if any(_mixes(together[name], [one[name] for one in alone], numbers, count) for name in together):
        return _MIXES
    return _COLUMNS if any(_has_columns(together[name], alone[0][name]) for name in together) else ""


def _mixes(together: NDArray[Any], alone: Sequence[NDArray[Any]], numbers: Sequence[int], count: int) -> bool:
    """Whether an output of a batch is not what single runs give.

    Args:
        together: The output of the batch.
        alone: That of single samples.
        numbers: Their positions in the batch.
        count: Samples in the batch.
    """
    if all(one.shape == together.shape for one in alone):
        return any(_differs(together, one) for one in alone)
    axes = [axis for axis in range(together.ndim) if _grows_along(axis, together, alone[0], count)]
    if not axes or any(one.shape != alone[0].shape for one in alone):
        return True
    length = alone[0].shape[axes[0]]
    parts = (together.take(range(number * length, (number + 1) * length), axes[0]) for number in numbers)
    return any(_differs(part, one) for part, one in zip(parts, alone, strict=True))


def _grows_along(axis: int, together: NDArray[Any], alone: NDArray[Any], count: int) -> bool:
    """Whether an axis, and no other one, is longer by as much as there are more samples."""
    if together.ndim != alone.ndim:
        return False
    grown = [size * (count if other == axis else 1) for other, size in enumerate(alone.shape)]
    return together.shape == tuple(grown)


def _differs(one: NDArray[Any], two: NDArray[Any]) -> bool:
    """Whether two outputs differ by more than rounding."""
    if one.shape != two.shape:
        return True
    if not one.size:
        return False
    if one.dtype.kind != "f":
        return bool(np.count_nonzero(np.not_equal(one, two)) > FLIPS * one.size)
    a, b = one.astype(np.float64), two.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if np.any((a != b) & ~finite & ~(np.isnan(a) & np.isnan(b))):
        return True
    allowed = HALF_ROUNDING if one.dtype.itemsize < np.dtype(np.float32).itemsize else ROUNDING
    gaps = np.abs(np.where(finite, a, 0.0) - np.where(finite, b, 0.0))
    return float(gaps.max()) > allowed * float(np.abs(np.where(finite, a, 0.0)).max())


def _has_columns(together: NDArray[Any], alone: NDArray[Any]) -> bool:
    """Whether samples are the columns of a matrix, whose rows would be taken for class scores of samples."""
    return together.ndim == MATRIX and together.shape[0] == alone.shape[0] and together.shape[1] > alone.shape[1]
