"""Calibration samples that are whole feeds, as the user made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.data.axes import SampleAxes, sample_axes
from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.sample_arrays import check_feed
from onnxpfp.data.samples import Feed, Samples, all_finite, not_finite_input
from onnxpfp.errors import CalibrationError

__all__ = ["FeedSamples"]


@dataclass(frozen=True, slots=True, eq=False)
class FeedSamples(Samples):
    """Whole feeds as the user made them.

    Attributes:
        specs: The model's inputs.
        feeds: What is fed, one dict per run.
        counts: Number of samples in each.
        declared: Sample axes of the inputs.
    """

    specs: tuple[InputSpec, ...]
    feeds: tuple[Feed, ...]
    counts: tuple[int, ...]
    declared: SampleAxes

    @classmethod
    def of(
        cls, specs: Sequence[InputSpec], feeds: Sequence[Mapping[str, NDArray[Any]]], given: SampleAxes | None = None
    ) -> Self:
        """Check feeds against the inputs.

        Args:
            specs: The inputs.
            feeds: One array per input each.
            given: Sample axes that the user says.

        Raises:
            CalibrationError: No feed, a missing or unknown input, wrong dtype or shape.
            OptionError: The user says a sample axis that there is not.
        """
        if not feeds:
            raise CalibrationError("there are no samples", hint="give at least one")
        checked = tuple(check_feed(specs, feed, f"batch {position}") for position, feed in enumerate(feeds))
        axes = sample_axes(specs, given)
        return cls(tuple(specs), checked, tuple(_count(specs, feed, axes) for feed in checked), axes)

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def fixed_batch(self) -> int | None:
        """Samples in the largest feed."""
        return max(self.counts)

    @property
    def batched(self) -> bool:
        """Whether some feed has several samples along free axes."""
        return max(self.counts) > 1

    @property
    def axes(self) -> SampleAxes:
        """The sample axis by input."""
        return self.declared

    @property
    def notes(self) -> tuple[str, ...]:
        """Which axes count the samples of feeds with several, where that is not axis 0."""
        if max(self.counts) == 1:
            return ()
        return tuple(f"samples of '{name}' lie along axis {axis}" for name, axis in self.declared.items() if axis)

    def one_by_one(self) -> Self:
        """Return the same samples, of which no two are fed together."""
        feeds = [
            self.part(feed, count, first, first + 1) if count > 1 else feed
            for feed, count in zip(self.feeds, self.counts, strict=True)
            for first in range(count)
        ]
        return type(self)(self.specs, tuple(feeds), (1,) * len(feeds), self.declared)

    def runs(self, batch_size: int = 1) -> Iterator[tuple[Feed, int]]:
        """Yield (feed, number of samples in it), the feeds as they are."""
        for position, (feed, count) in enumerate(zip(self.feeds, self.counts, strict=True)):
            for name, array in feed.items():
                if not all_finite(array):
                    raise not_finite_input(name, f" in batch {position}")
            yield feed, count

    def _pick(self, order: NDArray[np.int64]) -> Self:
        positions: list[int] = order.tolist()
        feeds = tuple(self.feeds[index] for index in positions)
        counts = tuple(self.counts[index] for index in positions)
        if not feeds:
            raise CalibrationError("there are no samples", hint="give at least one")
        return type(self)(self.specs, feeds, counts, self.declared)

    def _items(self) -> int:
        return len(self.feeds)

    def _items_of_runs(self, batch_size: int) -> Sequence[NDArray[np.int64]]:
        return [np.array([item]) for item in range(self._items())]

    def _reach(self, count: int) -> int:
        return int(np.searchsorted(np.cumsum(self.counts), count)) + 1


def _count(specs: Sequence[InputSpec], feed: Feed, axes: SampleAxes) -> int:
    """Count the samples of a feed: the length of the sample axes that are free, else one.

    What is one long beside longer ones is for all samples; otherwise the shortest counts.
    """
    free = ((spec, axis) for spec in specs if (axis := axes.get(spec.name)) is not None and spec.shape[axis] is None)
    return min({feed[spec.name].shape[axis] for spec, axis in free} - {0, 1}, default=1)
