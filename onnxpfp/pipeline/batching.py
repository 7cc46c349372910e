"""Batches: as many samples in one run as the model takes, if that gives what single runs give.

Many exports promise a free batch and have a Reshape inside that fixes it: a batch fails, or its samples run together
into one sequence and change each other's outputs. So do the samples of a BatchNormalization in training mode, and of a
dynamic quantization, whose range is that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto

from onnxpfp.channels.ops import facts_of
from onnxpfp.data.samples import Feed, Samples
from onnxpfp.errors import ModelError
from onnxpfp.model.constants import FLOAT_TYPES
from onnxpfp.model.edit import forget_records
from onnxpfp.runtime.session import Session

__all__ = ["Batching", "choose_batching", "with_scores"]

MOST_SCORES = 16
"""Most tensors that are compared beside the outputs."""
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
_LENGTHS = "outputs change their length, so what belongs to which sample of a batch is not known"
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


def choose_batching(session: Session, samples: Samples, wanted: int, scores: Callable[[], Session | None]) -> Batching:
    """Find out how many samples can run at once.

    Args:
        session: What runs the model.
        samples: The samples.
        wanted: The most that run at once, where the model and its feeds leave it free.
        scores: Opens the model with more outputs (`with_scores`), which are compared where its own agree; None where
            it needs no more.

    Raises:
        ModelError: The model does not run on one feed.
    """
    runs = samples.runs(min(wanted, len(samples)))
    feed, count = next((run for run in runs if run[1] > 1 or not samples.batched), None) or next(samples.runs(1))
    if not samples.batched or count == 1:
        session.run(feed)
        return Batching(samples, samples.fixed_batch or count, "")
    reason = _reason(session, samples, feed, count)
    if not reason and (shown := scores()) is not None and _reason(shown, samples, feed, count) == _MIXES:
        reason = _MIXES
    if not reason:
        return Batching(samples, samples.fixed_batch or count, "")
    samples = samples.one_by_one()
    # A model that fails on any feed says why here.
    session.run(next(samples.batches(1)))
    return Batching(samples, 1, reason)


def with_scores(model: ModelProto) -> ModelProto | None:
    """Copy a model with more outputs: what its last linear ops make, where its own outputs hide that.

    Classes and boxes that are kept do not tell what changed before them, nor do saturated numbers.

    Returns:
        None where no output hides anything.
    """
    producer = {name: node for node in model.graph.node for name in node.output if name}
    names = [info.name for info in model.graph.output if _hides(info, producer)]
    seen = set[str]()
    scores: list[str] = []
    while names and len(scores) < MOST_SCORES:
        name = names.pop()
        node = producer.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if facts_of(node).mac_terms is None:
            names.extend(node.input)
        else:
            scores.append(name)
    if not scores:
        return None
    shown = ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(ValueInfoProto(name=name) for name in scores)
    return forget_records(shown)


def _hides(info: ValueInfoProto, producer: Mapping[str, NodeProto]) -> bool:
    """Whether an output is no float, or made by an op that saturates."""
    node = producer.get(info.name)
    return info.type.tensor_type.elem_type not in FLOAT_TYPES or (node is not None and facts_of(node).saturates)


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
    except ModelError:
        # It takes batches and no single samples: there is nothing to compare with.
        return ""
    tensors = [name for name, value in together.items() if not _is_box(value)]
    pairs = [(together[name], [one[name] for one in alone]) for name in tensors]
    comparable = [(batch, ones) for batch, ones in pairs if _can_be_told_apart(batch, ones, count)]
    if any(_mixes(batch, ones, numbers, count) for batch, ones in comparable):
        reason = _MIXES
    elif len(comparable) < len(pairs):
        reason = _LENGTHS
    elif any(_has_columns(batch, ones[0]) for batch, ones in pairs):
        reason = _COLUMNS
    else:
        return ""
    again = session.run(feeds[0])
    # Random ops draw anew in every run, so that no two runs are alike.
    return "" if any(_differs(again[name], alone[0][name]) for name in tensors) else reason


def _is_box(value: NDArray[Any]) -> bool:
    """Whether an output is no tensor, but a sequence or a map."""
    return value.dtype.hasobject and not value.ndim and not isinstance(value.item(), str)


def _can_be_told_apart(together: NDArray[Any], alone: Sequence[NDArray[Any]], count: int) -> bool:
    """Whether the parts of an output that belong to single samples are known, or it is one for all of them."""
    shapes = {one.shape for one in alone}
    return len(shapes) == 1 and (together.shape in shapes or bool(_grown_axes(together, alone[0], count)))


def _mixes(together: NDArray[Any], alone: Sequence[NDArray[Any]], numbers: Sequence[int], count: int) -> bool:
    """Whether an output of a batch is not what single runs give.

    Args:
        together: The output of the batch.
        alone: That of single samples.
        numbers: Their positions in the batch.
        count: Samples in the batch.
    """
    if together.shape == alone[0].shape:
        return any(_differs(together, one) for one in alone)
    axis = _grown_axes(together, alone[0], count)[0]
    length = alone[0].shape[axis]
    # Samples stand behind each other, or all samples of one step do, where time comes first and axes are merged.
    orders = (
        [range(number * length, (number + 1) * length) for number in numbers],
        [range(number, count * length, count) for number in numbers],
    )
    return all(
        any(_differs(together.take(part, axis), one) for part, one in zip(parts, alone, strict=True))
        for parts in orders
    )


def _grown_axes(together: NDArray[Any], alone: NDArray[Any], count: int) -> list[int]:
    """List the axes that are longer by as much as there are more samples, while no other one is."""
    if together.ndim != alone.ndim:
        return []
    grown = ([size * (count if a == axis else 1) for a, size in enumerate(alone.shape)] for axis in range(alone.ndim))
    return [axis for axis, shape in enumerate(grown) if together.shape == tuple(shape)]


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
