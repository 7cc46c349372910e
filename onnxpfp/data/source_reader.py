"""What a source of samples is, and how each is read: files, folders, scripts, arrays, iterables, readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from onnxpfp.data.archive import read_arrays
from onnxpfp.data.axes import SampleAxes, sample_axes
from onnxpfp.data.buckets import BucketedSamples
from onnxpfp.data.carry import Carry
from onnxpfp.data.feed_samples import FeedSamples
from onnxpfp.data.folders import array_feeds, files_by_kind, held, joined_feeds, named_arrays, spread
from onnxpfp.data.images import IMAGE_SUFFIXES, ImageReader
from onnxpfp.data.inputs import InputSpec, size_ref
from onnxpfp.data.matching import match_names, only_input
from onnxpfp.data.onnx_test_data import data_sets_in, read_test_data
from onnxpfp.data.sample_arrays import SampleArray, check_feed
from onnxpfp.data.samples import ArraySamples, Feed, Samples
from onnxpfp.data.script import script_of
from onnxpfp.errors import CalibrationError
from onnxpfp.runtime.file_kinds import ARRAYS, refuse_other_kinds

__all__ = ["DataForm", "DataReader", "SampleSource", "SourceReader"]

MOST_IMAGES = 512
"""Images of a folder that are taken where nobody says how many."""


@runtime_checkable
class DataReader(Protocol):
    """A reader of samples as onnxruntime's CalibrationDataReader has it."""

    def get_next(self) -> dict[str, Any] | None:
        """Return the next feed, or None at the end."""
        ...


SampleSource = (
    str
    | os.PathLike[str]
    | NDArray[Any]
    | Mapping[str, NDArray[Any]]
    | Iterable[Mapping[str, NDArray[Any]]]
    | DataReader
)
"""A path of a file or folder, `script.py:function`, the word "random", an array, arrays by name, feeds, or a reader."""


@dataclass(frozen=True, slots=True, eq=False)
class DataForm:
    """How data are read.

    Attributes:
        images: Reads images, all in the same way.
        carry: The states that are recorded.
        most: How many samples are wanted; None is all, of a folder of images as many as `MOST_IMAGES`.
        every: Whether really all are wanted where `most` does not say it.
    """

    images: ImageReader = field(default_factory=ImageReader)
    carry: Carry = field(default_factory=Carry)
    most: int | None = None
    every: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class SourceReader:
    """Reads a source of samples for one model.

    Attributes:
        specs: The inputs.
        left: Those that are no states, which the data must have.
        axes: Sample axes that the user says.
        form: How data are read.
    """

    specs: tuple[InputSpec, ...]
    left: tuple[InputSpec, ...]
    axes: SampleAxes | None
    form: DataForm

    @property
    def said(self) -> SampleAxes:
        """What the user says of the inputs that the data must have."""
        names = {spec.name for spec in self.left}
        return {name: axis for name, axis in (self.axes or {}).items() if name in names or not self._states}

    @property
    def _states(self) -> list[str]:
        return [*self.form.carry.outputs]

    @property
    def _most(self) -> int | None:
        """How many feeds are read; a sequence is read from its beginning."""
        return self.form.most

    def raw(self, source: SampleSource) -> dict[str, Any] | list[Feed]:
        """Return what a source has: arrays of all samples by name, or feeds."""
        if script := script_of(source):
            return self.raw(script.source())
        if isinstance(source, str | os.PathLike):
            return self._of_path(Path(source))
        if isinstance(source, np.ndarray):
            return {only_input(self.left, "an array").name: cast("NDArray[Any]", source)}
        if isinstance(source, Mapping):
            given = cast("Mapping[str, NDArray[Any]]", source)
            arrays = {name: np.asarray(array) for name, array in given.items()}
            return match_names(arrays, self.left, "the data", self._states)
        return [*held(islice(_feeds(source), self._most))]

    def _of_path(self, path: Path) -> dict[str, Any] | list[Feed]:
        if path.is_dir():
            return self._of_folder(path)
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            return self._images([path])
        refuse_other_kinds(path, "samples", ARRAYS, CalibrationError)
        return match_names(read_arrays(path), self.left, str(path), self._states)

    def _of_folder(self, folder: Path) -> dict[str, Any] | list[Feed]:
        most = self._most
        if sets := data_sets_in(folder):
            return [*held(read_test_data(self._chosen(sets, most), [*self.left, *self._carried_specs()]))]
        images, arrays = files_by_kind(folder)
        if images:
            return self._images(images)
        if named := named_arrays(arrays, self.left):
            whole = {name: read_arrays(path)[""] for name, path in named.items()}
            return match_names(whole, self.left, str(folder))
        chosen = self._chosen(arrays, most)
        feeds = [*held(array_feeds(chosen, self.left, self.said, self._states))]
        if any(state in feed for feed in feeds for state in self._states):
            return feeds
        known = sample_axes(self.left, self.said)
        joined = joined_feeds(self.left, feeds, known)
        if joined is not None:
            return joined
        return [*FeedSamples.of(self.left, feeds, self.said).one_by_one().feeds]

    def _images(self, paths: Sequence[Path]) -> dict[str, Any] | list[Feed]:
        most = self._most or (None if self.form.every else MOST_IMAGES)
        return self.form.images.read(self._chosen(paths, most), self.left, len(paths), asked=self._most is not None)

    def _carried_specs(self) -> list[InputSpec]:
        return [spec for spec in self.specs if spec.name in self.form.carry.outputs]

    def _chosen(self, paths: Sequence[Path], most: int | None) -> list[Path]:
        """Return so many files: evenly spread, or those at the beginning of a sequence."""
        return [*paths[:most]] if self._states else spread(paths, most)

    def of_arrays(self, arrays: dict[str, Any]) -> Samples:
        """Make samples of one array an input."""
        initial = {name: np.asarray(arrays[name]) for name in self._states if name in arrays}
        given = {spec.name: arrays[spec.name] for spec in self.left}
        samples = ArraySamples.of(self.left, given, self.said)
        if self.form.most is not None:
            samples = samples.take(self.form.most)
        return self.carried(samples, initial)

    def of_feeds(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> Samples:
        """Make samples of feeds."""
        if not self._states:
            return _bucketed(FeedSamples.of(self.specs, feeds, self.axes))
        every = [self._split(feed, f"batch {number}") for number, feed in enumerate(feeds)]
        recorded = self.form.carry.record(self.specs, every, self.axes)
        whole = [{**feed, **states} for feed, states in zip(every, recorded, strict=True)]
        return _bucketed(FeedSamples.of(self.specs, whole, self.axes))

    def _split(self, feed: Mapping[str, NDArray[Any]], where: str) -> Feed:
        """Check a feed that may have states."""
        states = {name: feed[name] for name in self._states if name in feed}
        carried = [spec for spec in self._carried_specs() if spec.name in states]
        others = {name: array for name, array in feed.items() if name not in states}
        return check_feed(self.left, others, where) | check_feed(carried, states, where)

    def carried(self, samples: Samples, initial: Mapping[str, NDArray[Any]]) -> Samples:
        """Add the states to samples without.

        Args:
            samples: Samples of the other inputs.
            initial: States before the first sample.

        Raises:
            CalibrationError: States are given for every sample, or samples do not come one by one.
        """
        if not self._states:
            return samples
        assert isinstance(samples, ArraySamples)
        if samples.fixed_batch not in (None, 1):
            raise CalibrationError(
                f"--carry takes one sample after the other, and the model takes {samples.fixed_batch} at once",
                hint="give feeds: script.py:function that yields {input name: array}, for sequences side by side",
            )
        specs = {spec.name: spec for spec in self.specs}
        given = {name: _initial(specs[name], array, len(samples)) for name, array in initial.items()}
        feeds = [feed for feed, _ in samples.one_by_one().runs(1)]
        begun = [{**feed, **(given if not number else {})} for number, feed in enumerate(feeds)]
        recorded = self.form.carry.record(self.specs, begun, self.axes)
        known = sample_axes(self.specs, self.axes)
        readings = {name: _recorded([each[name] for each in recorded], known.get(name)) for name in self._states}
        found = {name: reading for name, reading in readings.items() if reading is not None}
        if len(found) < len(readings):
            whole = [{**feed, **states} for feed, states in zip(feeds, recorded, strict=True)]
            return _bucketed(FeedSamples.of(self.specs, whole, self.axes))
        # The states are numbered as the samples are that were taken.
        return replace(samples, specs=self.specs, readings={**samples.readings, **found})


def _initial(spec: InputSpec, array: NDArray[Any], samples: int) -> NDArray[Any]:
    """Return the state before the first sample, as the data have it."""
    if array.ndim == len(spec.shape) + 1 and len(array) == 1:
        array = array[0]
    if array.ndim != len(spec.shape) or (samples > 1 and samples in array.shape and samples not in spec.shape):
        raise CalibrationError(
            f"--carry feeds '{spec.name}' back, and the data have one for every sample: {size_ref(array.shape)}",
            hint="leave out --carry, or the states but for the first",
        )
    return check_feed((spec,), {spec.name: array}, "the data")[spec.name]


def _recorded(arrays: Sequence[NDArray[Any]], axis: int | None) -> SampleArray | None:
    """Join states; None where their shapes differ."""
    if len({array.shape for array in arrays}) > 1:
        return None
    if axis is not None and arrays[0].shape[axis] == 1:
        return SampleArray(np.concatenate(arrays, axis), "slices", axis)
    return SampleArray(np.stack(arrays), "whole", axis)


def _bucketed(samples: FeedSamples) -> Samples:
    """Let single samples of one shape be fed together where the inputs allow it."""
    return BucketedSamples.of(samples.specs, samples.feeds, samples.declared) or samples


def _feeds(source: Iterable[Mapping[str, NDArray[Any]]] | DataReader) -> Iterator[dict[str, Any]]:
    """Yield all feeds; copies, because some readers hand out one dict again and again."""
    get_next = cast("Callable[[], dict[str, Any] | None] | None", getattr(source, "get_next", None))
    feeds: Iterable[Any]
    if get_next is not None:
        feeds = iter(get_next, None)
    elif isinstance(source, Iterable):
        feeds = source
    else:
        raise CalibrationError(
            f"a {type(source).__name__} is no source of samples",
            hint="give a path, arrays, an iterable of dicts, or a CalibrationDataReader",
        )
    yield from (_copy(feed, position) for position, feed in enumerate(feeds))


def _copy(feed: object, position: int) -> dict[str, Any]:
    if not isinstance(feed, Mapping):
        raise CalibrationError(
            f"batch {position} is a {type(feed).__name__}, not a dict",
            hint="yield one dict per batch: {input name: array}",
        )
    return {str(name): np.array(array) for name, array in cast("Mapping[str, Any]", feed).items()}
