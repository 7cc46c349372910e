"""Sources of calibration samples: files, folders, scripts, arrays, iterables, readers of onnxruntime, or noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.data.axes import SampleAxes, sample_axes
from onnxpfp.data.inputs import InputSpec, input_specs, size_ref
from onnxpfp.data.noise import noise
from onnxpfp.data.samples import ArraySamples, Samples
from onnxpfp.data.source_reader import DataForm, DataReader, SampleSource, SourceReader
from onnxpfp.errors import CalibrationError
from onnxpfp.runtime.memory import amount_text, memory_limit

__all__ = [
    "DataForm",
    "DataReader",
    "InputSpec",
    "SampleSource",
    "Samples",
    "input_specs",
    "load_samples",
    "random_samples",
]

_WORDS = ("0", "1", "2", "3")
"""What text is made up of: digits, for it may be read as a number."""


def load_samples(
    source: SampleSource,
    specs: Sequence[InputSpec],
    *,
    count: int = 256,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    exact: bool = False,
    rng: np.random.Generator | int = 0,
    axes: SampleAxes | None = None,
    form: DataForm | None = None,
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
        form: How they are read.

    Raises:
        CalibrationError: The samples cannot be read or do not fit the inputs.
        OptionError: The user says a sample axis that there is not, or has to say more.
    """
    form = form or DataForm()
    reader = SourceReader(tuple(specs), form.carry.left(specs), axes, form)
    if isinstance(source, str) and source == "random":
        noisy = random_samples(reader.left, count, input_shapes=input_shapes, exact=exact, rng=rng, axes=reader.said)
        return reader.carried(noisy, {})
    found = reader.raw(source)
    return reader.of_arrays(found) if isinstance(found, dict) else reader.of_feeds(found)


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
