"""Calibration samples in one form, whatever they came from.

`ArraySamples` cuts whole feeds out of one array per input and reads them when they are asked for; `FeedSamples` holds
feeds that the user made.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.data.inputs import InputSpec, size_ref
from onnxpfp.errors import CalibrationError

__all__ = ["ArraySamples", "Feed", "FeedSamples", "Samples", "check_feed"]

_LOG = logging.getLogger(__name__)

Feed = dict[str, NDArray[Any]]
"""One array per input name."""


class Samples(ABC):
    """Samples that can be counted, split and run over as often as needed."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @property
    @abstractmethod
    def fixed_batch(self) -> int | None:
        """Samples in one feed where that is not free to choose, else None."""

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

    def _reach(self, count: int) -> int:
        """Return how many items it takes to have `count` samples."""
        return count

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
                f"cannot hold out {held_out} of {len(self)} calibration samples",
                hint="give more samples or hold out fewer",
            )
        order = np.random.default_rng(rng).permutation(items)
        # Sorted: reading a memory-mapped file in order is faster, and a maximum does not care.
        return self._pick(np.sort(order[taken:])), self._pick(np.sort(order[:taken]))


@dataclass(frozen=True, slots=True, eq=False)
class ArraySamples(Samples):
    """One array per input, axis 0 being the samples.

    Rule per input: where its axis 0 is dynamic or 1, or fixed to N > 1 and the data are (n, *rest), slices of axis 0
    are fed; where the data have one axis more than the input, every `data[i]` is a whole feed.

    Attributes:
        specs: The model's inputs.
        arrays: Data by input name, each (n, ...).
        whole: Names of the inputs whose `data[i]` is a whole feed.
        order: Positions of the samples in use.
    """

    specs: tuple[InputSpec, ...]
    arrays: Mapping[str, NDArray[Any]]
    whole: frozenset[str]
    order: NDArray[np.int64]

    @classmethod
    def of(cls, specs: Sequence[InputSpec], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Check arrays against the inputs.

        Raises:
            CalibrationError: Wrong dtype, wrong shape, unequal or too small numbers of samples.
        """
        whole = frozenset(spec.name for spec in specs if _check_array(spec, arrays[spec.name]))
        counts = {spec.name: len(arrays[spec.name]) for spec in specs}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise CalibrationError(
                f"the inputs have different numbers of samples: {listed}",
                hint="axis 0 of every array must count the same samples",
            )
        samples = cls(tuple(specs), arrays, whole, np.arange(next(iter(counts.values()), 0)))
        samples._check_count()
        return samples

    def __len__(self) -> int:
        fixed = self.fixed_batch
        return len(self.order) if fixed is None else len(self.order) // fixed * fixed

    @property
    def fixed_batch(self) -> int | None:
        """Samples in one feed: 1 or N where an input fixes its axis 0, None where all leave it free."""
        sizes = {1 if spec.name in self.whole or not spec.shape else spec.shape[0] for spec in self.specs} - {None}
        if len(sizes) > 1:
            raise CalibrationError(
                f"the inputs have different fixed batch sizes: {sorted(size or 0 for size in sizes)}",
                hint="make every sample a whole feed: one axis more than the input has, (n, 2, 1, 128) for (2, 1, 128)",
            )
        return next(iter(sizes), None)

    def runs(self, batch_size: int = 1) -> Iterator[tuple[Feed, int]]:
        """Yield (feed, number of samples in it); samples that do not fill a fixed batch are left out."""
        fixed = self.fixed_batch
        size = batch_size if fixed is None else fixed
        if len(self) < len(self.order):
            remainder = len(self.order) - len(self)
            _LOG.info("%d samples do not fill a batch of %d and are left out", remainder, size)
        for start in range(0, len(self), size):
            chosen = self.order[start : start + size]
            feed = {spec.name: self._cut(spec, chosen) for spec in self.specs}
            _check_finite(feed, chosen.tolist())
            yield feed, len(chosen)

    def _cut(self, spec: InputSpec, chosen: NDArray[np.int64]) -> NDArray[Any]:
        array = self.arrays[spec.name]
        if not spec.shape or spec.name in self.whole:
            return np.ascontiguousarray(array[int(chosen[0])]).reshape(array.shape[1:])
        return np.ascontiguousarray(array[chosen])

    def _pick(self, order: NDArray[np.int64]) -> Self:
        picked = type(self)(self.specs, self.arrays, self.whole, self.order[order])
        picked._check_count()
        return picked

    def _items(self) -> int:
        return len(self.order)

    def _check_count(self) -> None:
        if not len(self.order):
            raise CalibrationError("there are no calibration samples", hint="give at least one")
        if not len(self):
            raise CalibrationError(
                f"the model takes {self.fixed_batch} samples at a time and only {len(self.order)} are given",
                hint="give more samples, or export the model with a free batch axis",
            )


@dataclass(frozen=True, slots=True, eq=False)
class FeedSamples(Samples):
    """Whole feeds as the user made them.

    Attributes:
        specs: The model's inputs.
        feeds: What is fed, one dict per run.
        counts: Number of samples in each.
    """

    specs: tuple[InputSpec, ...]
    feeds: tuple[Feed, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, specs: Sequence[InputSpec], feeds: Sequence[Mapping[str, NDArray[Any]]]) -> Self:
        """Check feeds against the inputs.

        Raises:
            CalibrationError: No feed, a missing or unknown input, wrong dtype or shape.
        """
        if not feeds:
            raise CalibrationError("there are no calibration samples", hint="give at least one")
        for position, feed in enumerate(feeds):
            check_feed(specs, feed, f"calibration batch {position}")
        plain = tuple({spec.name: feed[spec.name] for spec in specs} for feed in feeds)
        return cls(tuple(specs), plain, tuple(_count(specs, feed) for feed in plain))

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def fixed_batch(self) -> int | None:
        """Samples in the largest feed."""
        return max(self.counts)

    def runs(self, batch_size: int = 1) -> Iterator[tuple[Feed, int]]:
        """Yield (feed, number of samples in it), the feeds as they are."""
        for position, (feed, count) in enumerate(zip(self.feeds, self.counts, strict=True)):
            _check_finite(feed, [], f" in calibration batch {position}")
            yield feed, count

    def _pick(self, order: NDArray[np.int64]) -> Self:
        positions: list[int] = order.tolist()
        feeds = tuple(self.feeds[index] for index in positions)
        counts = tuple(self.counts[index] for index in positions)
        if not feeds:
            raise CalibrationError("there are no calibration samples", hint="give at least one")
        return type(self)(self.specs, feeds, counts)

    def _items(self) -> int:
        return len(self.feeds)

    def _reach(self, count: int) -> int:
        return int(np.searchsorted(np.cumsum(self.counts), count)) + 1


def check_feed(specs: Sequence[InputSpec], feed: Mapping[str, NDArray[Any]], where: str) -> None:
    """Check the names, dtypes and shapes of one whole feed.

    Raises:
        CalibrationError: They do not fit the inputs.
    """
    names = {spec.name for spec in specs}
    if names != set(feed):
        raise CalibrationError(
            f"{where} has the inputs {sorted(feed)}, the model wants {sorted(names)}",
            hint="give one array per input of the model",
        )
    for spec in specs:
        check_dtype(spec, feed[spec.name])
        if not _fits(feed[spec.name].shape, spec.shape):
            raise _shape_error(spec, feed[spec.name].shape, where)


def check_dtype(spec: InputSpec, array: NDArray[Any]) -> None:
    """Require exactly the input's dtype: converting silently would hide a wrong preparation."""
    if array.dtype != spec.dtype:
        raise CalibrationError(
            f"input {spec.name!r} wants {spec.dtype}, the data are {array.dtype}",
            hint=f"convert with data.astype(np.{spec.dtype}) after any scaling",
        )


def _check_array(spec: InputSpec, array: NDArray[Any]) -> bool:
    """Check an array of many samples; return whether every `array[i]` is a whole feed."""
    check_dtype(spec, array)
    shape = array.shape
    if not spec.shape:
        if len(shape) != 1:
            raise _shape_error(spec, shape, "the data")
        return False
    if len(shape) == len(spec.shape) and _fits(shape[1:], spec.shape[1:]):
        return False
    if len(shape) == len(spec.shape) + 1 and _fits(shape[1:], spec.shape):
        return True
    raise _shape_error(spec, shape, "the data")


def _shape_error(spec: InputSpec, got: tuple[int, ...], where: str) -> CalibrationError:
    expected = ("n",) if not spec.shape else (*("n",), *spec.shape[1:])
    text = "(" + ", ".join("?" if dim is None else str(dim) for dim in expected) + ")"
    if where != "the data":
        text = size_ref(spec.shape)
    return CalibrationError(
        f"input {spec.name!r} wants shape {text}, {where} has {size_ref(got)}",
        hint="axis 0 counts the samples; check the axis order (NCHW or NHWC) and the size",
    )


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        dim is None or size == dim for size, dim in zip(shape, expected, strict=True)
    )


def _count(specs: Sequence[InputSpec], feed: Feed) -> int:
    """Count the samples of a feed: the length of a dynamic axis 0, else one."""
    sizes = [len(feed[spec.name]) for spec in specs if spec.shape and spec.shape[0] is None]
    return max(1, min(sizes, default=1))


def _check_finite(feed: Feed, samples: list[int], where: str = "") -> None:
    """Refuse NaN and infinity.

    Args:
        feed: One feed.
        samples: Numbers of the samples in it, where they are known.
        where: What to say about the place where they are not.
    """
    for name, array in feed.items():
        is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
        if not is_float or np.isfinite(array).all():
            continue
        if samples:
            bad = [i for i, part in zip(samples, array, strict=False) if not np.isfinite(part).all()]
            where = f" in sample {bad[0] if len(samples) == len(array) and bad else samples[0]}"
        raise CalibrationError(
            f"input {name!r} has NaN or infinite values{where}",
            hint="clean the data, or check a division by zero in their preparation",
        )
