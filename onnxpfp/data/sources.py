"""Sources of calibration samples: files, arrays, iterables, readers of onnxruntime, or noise."""

from __future__ import annotations

import difflib
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from onnxpfp.data.archive import read_arrays
from onnxpfp.data.axes import SampleAxes, sample_axes
from onnxpfp.data.feed_samples import FeedSamples
from onnxpfp.data.inputs import InputSpec, input_specs, size_ref
from onnxpfp.data.noise import noise
from onnxpfp.data.samples import ArraySamples, Samples
from onnxpfp.errors import CalibrationError
from onnxpfp.runtime.memory import amount_text, memory_limit

__all__ = [
    "DataReader",
    "InputSpec",
    "SampleSource",
    "Samples",
    "input_specs",
    "load_samples",
    "random_samples",
]

_LOG = logging.getLogger(__name__)

_WORDS = ("0", "1", "2", "3")
"""What text is made up of: digits, for it may be read as a number."""


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
"""A path of a `.npz` or `.npy` file, the word "random", an array, arrays by name, feeds, or a reader of feeds."""


def load_samples(
    source: SampleSource,
    specs: Sequence[InputSpec],
    *,
    count: int = 256,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    exact: bool = False,
    rng: np.random.Generator | int = 0,
    axes: SampleAxes | None = None,
) -> Samples:
    """Bring any source to the one form that the rest works on.

    Args:
        source: Where the samples are.
        specs: The model's inputs.
        count: Number of samples to draw where the source is "random".
        input_shapes: Full shapes of inputs with dynamic axes, for "random".
        exact: As in `random_samples`.
        rng: Generator or seed, for "random".
        axes: Sample axes that the user says.

    Raises:
        CalibrationError: The samples cannot be read or do not fit the inputs.
        OptionError: The user says a sample axis that there is not.
    """
    if isinstance(source, str) and source == "random":
        return random_samples(specs, count, input_shapes=input_shapes, exact=exact, rng=rng, axes=axes)
    if isinstance(source, str | os.PathLike):
        return ArraySamples.of(specs, _match(read_arrays(Path(source)), specs, str(source)), axes)
    if isinstance(source, np.ndarray):
        array = cast("NDArray[Any]", source)
        return ArraySamples.of(specs, {_only(specs, "an array").name: array}, axes)
    if isinstance(source, Mapping):
        given = cast("Mapping[str, NDArray[Any]]", source)
        arrays = {name: np.asarray(array) for name, array in given.items()}
        return ArraySamples.of(specs, _match(arrays, specs, "the data"), axes)
    return FeedSamples.of(specs, _collect(source), axes)


def random_samples(
    specs: Sequence[InputSpec],
    count: int,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    exact: bool = False,
    rng: np.random.Generator | int = 0,
    axes: SampleAxes | None = None,
) -> Samples:
    """Draw noise: floats of mean square 1 (`noise.py`), integers and bools of 0 and 1, short words.

    Where samples lie along another axis than the first in some input, or the inputs do not agree on what that counts (a
    recurrent state has its layers there), every sample is a whole feed.

    Args:
        specs: The model's inputs.
        count: How many samples.
        input_shapes: Full shapes of inputs with dynamic axes.
        exact: Whether every sample is a whole feed of just these shapes.
        rng: Generator or seed.
        axes: Sample axes that the user says.

    Raises:
        CalibrationError: An axis other than the batch is dynamic and `input_shapes` does not say its size.
        OptionError: The user says a sample axis that there is not.
    """
    generator = np.random.default_rng(rng)
    shapes = input_shapes or {}
    leading = {spec.shape[0] if spec.shape else 1 for spec in specs}
    known = sample_axes(specs, axes)
    elsewhere = any(spec.shape and known.get(spec.name) != 0 for spec in specs)
    if exact or elsewhere or (len(leading) > 1 and leading != {None, 1}):
        first_of = {spec.name: (shapes.get(spec.name) or (spec.shape[0] or 1,))[:1] for spec in specs if spec.shape}
        return ArraySamples.of(
            specs,
            {
                spec.name: _noise(
                    spec, (count, *first_of.get(spec.name, ()), *_rest(spec, shapes.get(spec.name))), generator
                )
                for spec in specs
            },
            axes,
        )
    first = [spec.shape[0] or 1 for spec in specs if spec.shape]
    # A model with a fixed batch of N needs whole batches.
    total = -(-count // max(first, default=1)) * max(first, default=1)
    arrays = {spec.name: _noise(spec, (total, *_rest(spec, shapes.get(spec.name))), generator) for spec in specs}
    return ArraySamples.of(specs, arrays, axes)


def _rest(spec: InputSpec, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if not spec.shape:
        return ()
    if given is not None and len(given) != len(spec.shape):
        raise CalibrationError(
            f"input {spec.name!r} has {len(spec.shape)} axes, the given shape has {len(given)}",
            hint=f"it is {spec.describe()}",
        )
    rest: list[int] = []
    for axis, dim in list(enumerate(spec.shape))[1:]:
        size = dim if dim is not None or given is None else given[axis]
        if size is None:
            raise CalibrationError(
                f"axis {axis} of input {spec.name!r} is dynamic, so random data have no size there",
                hint=f"give its full shape, it is {spec.describe()}",
            )
        rest.append(size)
    return tuple(rest)


def _noise(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    size, limit = math.prod(shape) * spec.dtype.itemsize, memory_limit()
    if size > limit:
        raise CalibrationError(
            f"noise of shape {size_ref(shape)} for input {spec.name!r} takes {amount_text(size)}, and the memory is "
            f"{amount_text(limit)}",
            hint="take fewer samples (--calib-samples) or smaller inputs (--input-shape)",
        )
    if spec.dtype.kind == "f" or spec.dtype.name == "bfloat16":
        return noise(shape, rng).astype(spec.dtype)
    if spec.dtype.kind in "iub":
        return rng.integers(0, 2, size=shape).astype(spec.dtype)
    if spec.is_text:
        return rng.choice(np.array(_WORDS, object), size=shape)
    raise CalibrationError(
        f"input {spec.name!r} is {spec.dtype}: there is no random data of that kind",
        hint="give real data",
    )


def _only(specs: Sequence[InputSpec], what: str) -> InputSpec:
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise CalibrationError(
            f"{what} fits a model with one input, this one has {len(specs)}: {names}",
            hint="give one array per input name",
        )
    return specs[0]


def _match(arrays: Mapping[str, NDArray[Any]], specs: Sequence[InputSpec], where: str) -> dict[str, NDArray[Any]]:
    """Assign arrays to inputs by name; a single array needs none where there is one input."""
    names = [spec.name for spec in specs]
    if len(arrays) == 1 and set(names) != set(arrays) and (len(names) == 1 or "" in arrays):
        return {_only(specs, f"{where} with one array").name: next(iter(arrays.values()))}
    missing = [name for name in names if name not in arrays]
    if missing:
        given = ", ".join(sorted(arrays)) or "nothing"
        close = difflib.get_close_matches(missing[0], list(arrays), n=1)
        raise CalibrationError(
            f"{where} has no array for input {missing[0]!r}; it has {given}",
            hint=f"rename {close[0]!r} to {missing[0]!r}" if close else "name arrays like inputs",
        )
    extra = sorted(set(arrays) - set(names))
    if extra:
        _LOG.warning("%s: ignoring %s, no input has that name", where, ", ".join(extra))
    return {name: arrays[name] for name in names}


def _collect(source: Iterable[Mapping[str, NDArray[Any]]] | DataReader) -> list[dict[str, Any]]:
    """Read all feeds; copies, because some readers hand out one dict again and again."""
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
    return [_copy(feed, position) for position, feed in enumerate(feeds)]


def _copy(feed: object, position: int) -> dict[str, Any]:
    if not isinstance(feed, Mapping):
        raise CalibrationError(
            f"batch {position} is a {type(feed).__name__}, not a dict",
            hint="yield one dict per batch: {input name: array}",
        )
    return {str(name): np.array(array) for name, array in cast("Mapping[str, Any]", feed).items()}
