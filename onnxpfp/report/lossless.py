"""What the report of a pruning says of channels that cost nothing, and of subnormal weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from onnxpfp.counted import counted
from onnxpfp.lossless import Removal
from onnxpfp.lossless.subnormal import SubnormalWeights

__all__ = ["cost_nothing"]


def cost_nothing(removed: Sequence[Removal], fillers: int, subnormal: SubnormalWeights) -> str:
    """Say what went without a loss; empty where nothing did.

    Args:
        removed: Channels that went before, for they cost nothing.
        fillers: How many such channels stayed then.
        subnormal: Subnormal numbers among the weights.
    """
    return "; ".join([*_removed(removed), *_fillers(fillers), *_subnormal(subnormal)])


def _removed(removed: Sequence[Removal]) -> Iterator[str]:
    """Count the channels that went for free, by kind and by how that is known."""
    if not removed:
        return
    counts: Counter[tuple[str, str, int]] = Counter()
    for removal in removed:
        counts[removal.kind, removal.source, removal.samples] += len(removal.channels)
    parts: list[str] = []
    for (what, source, samples), count in counts.items():
        where = "by the weights" if source == "weights" else f"on {_all_of(samples)} not held out"
        parts.append(f"{count} {what} {where}")
    yield f"channels removed first: {', '.join(parts)}"


def _all_of(samples: int) -> str:
    """Name the samples that are not held out."""
    return "the 1 sample that is" if samples == 1 else f"all {samples} samples that are"


def _fillers(count: int) -> Iterator[str]:
    """Count the channels that could have gone for free."""
    if count:
        yield f"{counted(count, 'such channel')} left at first, to fill groups up to a multiple"


def _subnormal(found: SubnormalWeights) -> Iterator[str]:
    """Say what became of subnormal weights."""
    if found.weights:
        weights = counted(found.weights, "subnormal weight")
        yield f"the original has {weights}, {f'{found.zeroed:,}' if found.zeroed else 'none'} written as zero"
