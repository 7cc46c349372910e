"""Single samples of several shapes: those of one shape are fed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.data.axes import SampleAxes
from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.samples import Feed, Samples, all_finite, not_finite_input
from onnxpfp.errors import CalibrationError

__all__ = ["BucketedSamples"]


@dataclass(frozen=True, slots=True, eq=False)
class BucketedSamples(Samples):
    """Feeds of one sample each, of which those of one shape form a bucket.

    Buckets come in the order of their first samples, whatever the batch size, so that runs with other batch sizes see
    the samples in the same order.

    Attributes:
        specs: The model's inputs.
        feeds: One sample each.
        declared: Sample axes of the inputs, all known; None where an input is the same for all samples of a run.
        single: Whether no two samples are fed together.
    """

    specs: tuple[InputSpec, ...]
    feeds: tuple[Feed, ...]
    declared: SampleAxes
    single: bool = False

    @classmethod
    def of(cls, specs: Sequence[InputSpec], feeds: Sequence[Feed], axes: SampleAxes) -> Self | None:
        """Take feeds that were checked; None where not every one is one sample, or no two can be fed together.

        Args:
            specs: The inputs.
            feeds: One array per input each.
            axes: Sample axes.
        """
        if not all(_joins(spec, axes) for spec in specs) or all(axis is None for axis in axes.values()):
            return None
        counted = [(name, axis) for name, axis in axes.items() if axis is not None]
        if any(feed[name].shape[axis] != 1 for feed in feeds for name, axis in counted):
            return None
        samples = cls(tuple(specs), tuple(feeds), axes)
        return samples if len(samples._buckets()) < len(feeds) else None

    def __len__(self) -> int:
        return len(self.feeds)

    @property
    def fixed_batch(self) -> int | None:
        """1 where no two samples are fed together."""
        return 1 if self.single else None

    @property
    def batched(self) -> bool:
        """Whether samples may be fed together."""
        return not self.single

    @property
    def axes(self) -> SampleAxes:
        """The sample axis by input."""
        return self.declared

    @property
    def notes(self) -> tuple[str, ...]:
        """Which axes count the samples where that is not axis 0, and how many shapes there are."""
        notes = [f"samples of '{name}' lie along axis {axis}" for name, axis in self.declared.items() if axis]
        buckets = len(self._buckets())
        if buckets > 1 and not self.single:
            notes.append(f"samples have {buckets} different shapes; those of one shape run together")
        return tuple(notes)

    def one_by_one(self) -> Self:
        """Return the same samples, of which no two are fed together."""
        return type(self)(self.specs, self.feeds, self.declared, single=True)

    def runs(self, batch_size: int = 1) -> Iterator[tuple[Feed, int]]:
        """Yield (feed, number of samples in it), bucket by bucket."""
        for items in self._items_of_runs(batch_size):
            numbers: list[int] = items.tolist()
            for number in numbers:
                for name, array in self.feeds[number].items():
                    if not all_finite(array):
                        raise not_finite_input(name, f" in sample {number}")
            yield self._joined(numbers), len(numbers)

    def _joined(self, numbers: Sequence[int]) -> Feed:
        first = self.feeds[numbers[0]]
        if len(numbers) == 1:
            return first
        return {
            name: array
            if (axis := self.declared[name]) is None
            else np.concatenate([self.feeds[number][name] for number in numbers], axis)
            for name, array in first.items()
        }

    def _buckets(self) -> list[list[int]]:
        """List the numbers of the samples of each bucket."""
        buckets: dict[tuple[Any, ...], list[int]] = {}
        for number, feed in enumerate(self.feeds):
            key = tuple((array.shape, self._shared(name, array)) for name, array in sorted(feed.items()))
            buckets.setdefault(key, []).append(number)
        return [*buckets.values()]

    def _shared(self, name: str, array: NDArray[Any]) -> Any:
        """Return what tells the values of an input that is one for a whole run; None of the others."""
        if self.declared[name] is not None:
            return None
        return tuple(array.ravel().tolist()) if array.dtype == object else array.tobytes()

    def _pick(self, order: NDArray[np.int64]) -> Self:
        positions: list[int] = order.tolist()
        if not positions:
            raise CalibrationError("there are no samples", hint="give at least one")
        return type(self)(self.specs, tuple(self.feeds[at] for at in positions), self.declared, self.single)

    def _items(self) -> int:
        return len(self.feeds)

    def _items_of_runs(self, batch_size: int) -> Sequence[NDArray[np.int64]]:
        size = 1 if self.single else batch_size
        return [
            np.array(bucket[start : start + size])
            for bucket in self._buckets()
            for start in range(0, len(bucket), size)
        ]


def _joins(spec: InputSpec, axes: SampleAxes) -> bool:
    """Whether an input takes any number of samples, or has none and is the same for those of a run."""
    if spec.name not in axes:
        return False
    axis = axes[spec.name]
    return axis is None or spec.shape[axis] is None
