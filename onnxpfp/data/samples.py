"""Calibration samples in one form, whatever they came from.

`ArraySamples` cuts whole feeds out of one array per input and reads them when they are asked for; those that the user
made stand in `onnxpfp.data.feed_samples`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.counted import counted
from onnxpfp.data.axes import SampleAxes, sample_axes
from onnxpfp.data.inputs import InputSpec, size_ref
from onnxpfp.data.rows import LazyRows
from onnxpfp.data.sample_arrays import SampleArray, read_sample_arrays
from onnxpfp.errors import CalibrationError

__all__ = ["ArraySamples", "Feed", "Samples", "all_finite", "not_finite_input"]

_LOG = logging.getLogger(__name__)

Feed = dict[str, NDArray[Any]]
"""One array per input name."""


class Samples(ABC):
    """Samples that can be counted, split and run over as often as needed.

    Attributes:
        specs: The model's inputs.
    """

    specs: tuple[InputSpec, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @property
    @abstractmethod
    def fixed_batch(self) -> int | None:
        """Samples in one feed where that is not free to choose, else None."""

    @property
    @abstractmethod
    def batched(self) -> bool:
        """Whether several samples may be fed together that the model would also take one by one."""

    @property
    @abstractmethod
    def axes(self) -> SampleAxes:
        """The sample axis of what is fed, by input: None where there is none; inputs of unknown axis are missing."""

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """How the data are read, where that is not slices along axis 0."""

    @abstractmethod
    def one_by_one(self) -> Self:
        """Return the same samples, of which no two are ever fed together; feeds of a fixed batch stay as they are."""

    @abstractmethod
    def runs(self, batch_size: int = 1) -> Iterator[tuple[Feed, int]]:
        """Yield (feed, number of samples in it).

        Raises:
            CalibrationError: A value is NaN or infinite.
        """

    @abstractmethod
    def _pick(self, order: NDArray[np.int64]) -> Self:
        """Return the items at these positions."""

    @abstractmethod
    def _items(self) -> int:
        """Return how many items a split can tell apart."""

    @abstractmethod
    def _items_of_runs(self, batch_size: int) -> Sequence[NDArray[np.int64]]:
        """Return which items each of the feeds has that `runs` yields."""

    def run_count(self, batch_size: int) -> int:
        """Return how many feeds `runs` yields."""
        return len(self._items_of_runs(batch_size))

    def of_runs(self, batch_size: int, first: int, last: int) -> tuple[Self, int]:
        """Return the samples of some of the feeds that `runs` yields, and how many samples come before them."""
        runs = self._items_of_runs(batch_size)
        return self._pick(np.concatenate(runs[first:last])), (
            len(self._pick(np.concatenate(runs[:first]))) if first else 0
        )

    def _reach(self, count: int) -> int:
        """Return how many items it takes to have `count` samples."""
        return count

    def part(self, feed: Feed, count: int, first: int, last: int) -> Feed:
        """Return the feed of some of the `count` samples of one with a free batch."""
        axes = {name: axis for name, axis in self.axes.items() if axis is not None}
        return {
            name: np.take(array, range(first, last), axes[name])
            if name in axes and array.shape[axes[name]] == count
            else array
            for name, array in feed.items()
        }

    def rows(self, feed: Feed) -> int | None:
        """Return how long all inputs of a feed are along their sample axes; None where they differ.

        Where some of these axes are free, only they count.
        """
        lengths = {
            (spec.shape[axis] is None, feed[spec.name].shape[axis])
            for spec in self.specs
            if (axis := self.axes.get(spec.name)) is not None
        }
        telling = {length for free, length in lengths if free} or {length for _, length in lengths}
        return next(iter(telling)) if len(telling) == 1 else None

    def batches(self, batch_size: int = 1) -> Iterator[Feed]:
        """Yield feeds of `batch_size` samples where the model leaves that free."""
        for feed, _ in self.runs(batch_size):
            yield feed

    def take(self, count: int) -> Self:
        """Return the first `count` samples (so many whole feeds as they fill), or all where there are fewer."""
        return self._pick(np.arange(min(self._reach(count), self._items())))

    def split(self, held_out: int, rng: np.random.Generator | int = 0) -> tuple[Self, Self]:
        """Draw `held_out` samples (so many whole feeds as they fill); return (the others, the held-out ones).

        Raises:
            CalibrationError: Nothing would be left on one of the sides.
        """
        items, taken = self._items(), self._reach(held_out)
        if held_out <= 0 or taken >= items:
            raise CalibrationError(
                f"cannot hold out {held_out} of {counted(len(self), 'calibration sample')}",
                hint="give more samples or hold out fewer",
            )
        order = np.random.default_rng(rng).permutation(items)
        # Sorted: reading a memory-mapped file in order is faster, and a maximum does not care.
        return self._pick(np.sort(order[taken:])), self._pick(np.sort(order[:taken]))


@dataclass(frozen=True, slots=True, eq=False)
class ArraySamples(Samples):
    """One array per input, from which feeds are cut (`onnxpfp.data.sample_arrays`).

    Attributes:
        specs: The model's inputs.
        readings: The arrays and where the samples lie in them, by input.
        order: Positions of the samples in use.
        single: Whether no two samples are fed together.
    """

    specs: tuple[InputSpec, ...]
    readings: Mapping[str, SampleArray]
    order: NDArray[np.int64]
    single: bool = False

    @classmethod
    def of(
        cls, specs: Sequence[InputSpec], arrays: Mapping[str, NDArray[Any] | LazyRows], given: SampleAxes | None = None
    ) -> Self:
        """Check arrays against the inputs.

        Args:
            specs: The inputs.
            arrays: Data by input.
            given: Sample axes that the user says.

        Raises:
            CalibrationError: Wrong dtype, wrong shape, unequal or too small numbers of samples.
            OptionError: The user says a sample axis that there is not.
        """
        readings = read_sample_arrays(specs, arrays, sample_axes(specs, given), given or {})
        counts = {reading.count for reading in readings.values()} - {None}
        samples = cls(tuple(specs), readings, np.arange(next(iter(counts), 1 if specs else 0) or 0))
        samples._check_count()
        return samples

    def __len__(self) -> int:
        fixed = self.fixed_batch
        return len(self.order) if fixed is None else len(self.order) // fixed * fixed

    @property
    def arrays(self) -> dict[str, NDArray[Any] | LazyRows]:
        """The data by input."""
        return {name: reading.array for name, reading in self.readings.items()}

    @property
    def batched(self) -> bool:
        """Whether no input fixes how many samples are fed together."""
        return self.fixed_batch is None

    @property
    def axes(self) -> SampleAxes:
        """The sample axis of what is fed by input."""
        return {name: self._axis(reading) for name, reading in self.readings.items()}

    def _axis(self, reading: SampleArray) -> int | None:
        """Return the axis that gets longer with every sample, or would; None for what is the same for all."""
        stays = reading.form == "shared" and reading.axis is not None and reading.array.shape[reading.axis] != 1
        return None if stays else reading.axis

    @property
    def fixed_batch(self) -> int | None:
        """Samples in one feed: 1 or N where an input fixes its sample axis, None where all leave it free."""
        sizes = {self._fixed(spec) for spec in self.specs} - {None}
        if len(sizes) > 1:
            raise CalibrationError(
                f"the inputs have different fixed batch sizes: {sorted(size or 0 for size in sizes)}",
                hint="make every sample a whole feed: one axis more than the input has, (n, 2, 1, 128) for (2, 1, 128)",
            )
        return next(iter(sizes), 1 if self.single else None)

    def _fixed(self, spec: InputSpec) -> int | None:
        """Return how many samples one input wants together; None where it does not care."""
        reading = self.readings[spec.name]
        if reading.form == "whole":
            return 1
        return None if reading.form == "shared" or reading.axis is None else spec.shape[reading.axis]

    @property
    def notes(self) -> tuple[str, ...]:
        """How the data are read, where that is not slices along axis 0."""
        notes = [
            f"samples of '{name}' lie along axis {reading.axis}"
            for name, reading in self.readings.items()
            if reading.form == "slices" and reading.axis
        ]
        shared = [f"'{name}'" for name, reading in self.readings.items() if reading.form == "shared"]
        if shared and len(shared) < len(self.readings):
            notes.append(f"the same for all samples: {', '.join(shared)}")
        for spec in self.specs if self.fixed_batch not in {None, 1} else ():
            one = self.readings[spec.name]
            others = [self.readings[other.name] for other in self.specs if self._fixed(other) is None]
            if one.array.shape == spec.shape and any(other.form == "slices" for other in others):
                notes.append(
                    f"'{spec.name}' {size_ref(spec.shape)} is read as {counted(one.count or 0, 'sample')} along axis "
                    f"{one.axis}, all in one run; --sample-axis {spec.name}:none makes it one value for all samples"
                )
        return tuple(notes)

    def one_by_one(self) -> Self:
        """Return the same samples, of which no two are fed together."""
        return type(self)(self.specs, self.readings, self.order, single=True)

    def runs(self, batch_size: int = 1) -> Iterator[tuple[Feed, int]]:
        """Yield (feed, number of samples in it); samples that do not fill a fixed batch are left out."""
        fixed = self.fixed_batch
        size = batch_size if fixed is None else fixed
        if len(self) < len(self.order):
            remainder = len(self.order) - len(self)
            _LOG.info("%d samples do not fill a batch of %d and are left out", remainder, size)
        for start in range(0, len(self), size):
            chosen = self.order[start : start + size]
            feed = {spec.name: self.readings[spec.name].feed(chosen, self._length(spec)) for spec in self.specs}
            self._check_finite(feed, chosen.tolist())
            yield feed, len(chosen)

    def _length(self, spec: InputSpec) -> int | None:
        """Return the length of an input's sample axis where it fixes that."""
        axis = self.readings[spec.name].axis
        return None if axis is None else spec.shape[axis]

    def _check_finite(self, feed: Feed, samples: list[int]) -> None:
        """Refuse NaN and infinity, and say in which sample."""
        for name, array in feed.items():
            if all_finite(array):
                continue
            reading = self.readings[name]
            where = "" if reading.form == "shared" else f" in sample {samples[0]}"
            if reading.form == "slices" and reading.axis is not None:
                slices = (array.take(i, reading.axis) for i in range(len(samples)))
                where = f" in sample {next(s for s, part in zip(samples, slices, strict=True) if not all_finite(part))}"
            raise not_finite_input(name, where)

    def _pick(self, order: NDArray[np.int64]) -> Self:
        picked = type(self)(self.specs, self.readings, self.order[order], self.single)
        picked._check_count()
        return picked

    def _items(self) -> int:
        return len(self.order)

    def _items_of_runs(self, batch_size: int) -> Sequence[NDArray[np.int64]]:
        size, items = self.fixed_batch or batch_size, np.arange(self._items())
        return [items[start : start + size] for start in range(0, len(items), size)]

    def _check_count(self) -> None:
        if not len(self.order):
            raise CalibrationError("there are no samples", hint="give at least one")
        if not len(self):
            raise CalibrationError(
                f"the model takes {self.fixed_batch} samples at a time and only {len(self.order)} are given",
                hint="give more samples, or export the model with a free batch axis",
            )


def all_finite(array: NDArray[Any]) -> bool:
    """Whether an array of floats has neither NaN nor infinity; other arrays have none."""
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return not is_float or bool(np.isfinite(array).all())


def not_finite_input(name: str, where: str) -> CalibrationError:
    """Return the error of an input that has NaN or infinity somewhere."""
    return CalibrationError(
        f"input {name!r} has NaN or infinite values{where}",
        hint="clean the data, or check a division by zero in their preparation",
    )
