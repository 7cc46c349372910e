"""Arrays of samples: where in an array the samples of an input lie.

Cases, the first that fits:

    1. One axis more than the input has: every `array[i]` is a whole feed; where the input has no sample axis and all
       are the same, one value for all samples.
    2. A column, (n,), for an input with one number per sample, such as (batch, 1).
    3. As many axes as the input has: slices along its sample axis (`onnxpfp.data.axes`), or along an axis 0 that the
       input fixes to 1.
    4. The input's own shape, while other inputs have another number of samples: one value for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from onnxpfp.data.axes import SampleAxes
from onnxpfp.data.inputs import InputSpec, size_ref
from onnxpfp.data.matching import rename_hint
from onnxpfp.data.misfits import shape_advice, type_advice
from onnxpfp.data.rows import LazyRows
from onnxpfp.errors import CalibrationError

__all__ = ["SampleArray", "check_feed", "read_sample_arrays"]


@dataclass(frozen=True, slots=True, eq=False)
class SampleArray:
    """Where the samples of one input lie.

    Attributes:
        array: Its data.
        form: Whether `array[i]` is a whole feed, samples are slices along an axis, or the array is for all of them.
        axis: The input's sample axis; None where it has none.
    """

    array: NDArray[Any] | LazyRows
    form: Literal["whole", "slices", "shared"]
    axis: int | None

    @property
    def count(self) -> int | None:
        """Samples in it; None where it is for any number."""
        if self.form == "slices" and self.axis is not None:
            return self.array.shape[self.axis]
        return len(self.array) if self.form == "whole" else None

    def feed(self, chosen: NDArray[np.int64], fixed: int | None) -> NDArray[Any]:
        """Return what is fed for some samples, one where `array[i]` is a whole feed.

        Args:
            chosen: Their positions.
            fixed: Length of the sample axis where the input fixes it.
        """
        if self.form == "whole":
            # A slice, for the one entry of an array of text is no array.
            return np.ascontiguousarray(self.array[int(chosen[0]) :][:1]).reshape(self.array.shape[1:])
        if self.form == "slices":
            return np.ascontiguousarray(
                np.take(np.asarray(self.array), chosen, axis=self.axis) if self.axis else self.array[chosen]
            )
        array = np.asarray(self.array)
        if self.axis is None or fixed is not None or array.shape[self.axis] != 1:
            return array
        return np.repeat(array, len(chosen), axis=self.axis)


def read_sample_arrays(
    specs: Sequence[InputSpec],
    arrays: Mapping[str, NDArray[Any] | LazyRows],
    axes: SampleAxes,
    said: Collection[str] = (),
) -> dict[str, SampleArray]:
    """Find the samples in the array of every input.

    Args:
        specs: The inputs.
        arrays: Their data.
        axes: Their sample axes.
        said: Inputs whose sample axis the user says.

    Raises:
        CalibrationError: Wrong dtype or shape, unequal numbers of samples, or a sample axis that is not known.
    """
    readings = {spec.name: _reading(spec, arrays[spec.name], axes, spec.name in said) for spec in specs}
    counts = {name: reading.count for name, reading in readings.items() if reading.count is not None}
    for name, one in [*readings.items()]:
        # One value for each sample that is the same in all of them: so several may be fed together.
        if len(counts) > 1 and one.form == "whole" and one.axis is None and name in axes and _is_constant(one):
            readings[name] = replace(one, form="shared", array=np.asarray(one.array)[0])
            if counts.pop(name) not in counts.values():
                raise _unequal(counts | {name: len(one.array)})
    if len(set(counts.values())) > 1:
        sharable = {spec.name for spec in specs if spec.name in counts and _is_sharable(spec, readings[spec.name])}
        # What is no value for all tells how many samples there are; else a single one that the others belong to.
        telling = {count for name, count in counts.items() if name not in sharable} or {1}
        count = next(iter(telling))
        others = {name for name in sharable if counts[name] != count}
        if len(telling) > 1 or others == counts.keys():
            raise _unequal(counts)
        for name in others:
            one = readings[name]
            array = np.asarray(one.array)
            array = array.reshape(array.shape[1:]) if one.form == "whole" else array
            readings[name] = replace(one, form="shared", array=array)
    return readings


def _reading(spec: InputSpec, given: NDArray[Any] | LazyRows, axes: SampleAxes, said: bool) -> SampleArray:
    array = given if isinstance(given, LazyRows) else _as_declared(spec, given)
    axis = axes.get(spec.name)
    shape, known = array.shape, spec.name in axes
    if len(shape) == len(spec.shape) + 1 and _fits(shape[1:], spec.shape):
        return SampleArray(array, "whole", axis)
    if known and axis is None and _fits(shape, spec.shape):
        return SampleArray(array, "shared", None)
    if known and axis is not None:
        if len(shape) == 1 < len(spec.shape) and all(d == 1 for a, d in enumerate(spec.shape) if a != axis):
            array = np.asarray(array).reshape([-1 if a == axis else 1 for a in range(len(spec.shape))])
            return SampleArray(array, "slices", axis)
        if _fits(shape, _freed(spec.shape, axis)):
            return SampleArray(array, "slices", axis)
    # Whatever an axis of 1 means in the model, an array that is longer there has its samples there.
    if not said and spec.shape and spec.shape[0] == 1 and _fits(shape, _freed(spec.shape, 0)):
        return SampleArray(array, "slices", 0)
    if not known and _fits(shape, spec.shape):
        raise CalibrationError(
            f"input {spec.name!r} is {spec.describe()}: which of its free axes counts the samples is not known",
            hint=f"--sample-axis {spec.name}:{spec.free[0]} says that axis {spec.free[0]} does, "
            f"and an array with one axis more, (n, {size_ref(spec.shape)[1:]}, has whole feeds",
        )
    raise _shape_error(spec, shape, "the data", axis if known else 0)


def _is_sharable(spec: InputSpec, reading: SampleArray) -> bool:
    """Whether an array can be meant for all samples: it has exactly the input's own shape, or one sample."""
    if reading.form == "whole":
        return reading.count == 1
    if reading.form != "slices" or reading.axis is None or not _fits(reading.array.shape, spec.shape):
        return False
    return spec.shape[reading.axis] is not None or reading.count == 1


def _is_constant(reading: SampleArray) -> bool:
    """Whether all samples have the same value."""
    array = np.asarray(reading.array)
    return len(array) > 1 and bool((array == array[0]).all())


def _unequal(counts: Mapping[str, int]) -> CalibrationError:
    listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
    return CalibrationError(
        f"the inputs have different numbers of samples: {listed}",
        hint="axis 0 of every array must count the same samples, or the axis that --sample-axis NAME:1 says; "
        "--sample-axis NAME:none says that an array of the input's own shape is for all samples",
    )


def _as_declared(spec: InputSpec, array: NDArray[Any]) -> NDArray[Any]:
    """Require exactly the input's dtype: converting silently would hide a wrong preparation. Text may have any form."""
    if spec.is_text:
        return _as_text(spec, array)
    if array.dtype != spec.dtype:
        raise CalibrationError(
            f"input {spec.name!r} wants {spec.dtype}, the data are {array.dtype}",
            hint=type_advice(spec, array),
        )
    return array


def _as_text(spec: InputSpec, array: NDArray[Any]) -> NDArray[Any]:
    """Bring text to the form in which onnxruntime takes it: Python strings; bytes are UTF-8."""
    if array.dtype.kind in "UT":
        return array.astype(object)
    if array.dtype.kind in "SO":
        words = [_word(item) for item in cast("list[object]", array.ravel().tolist())]
        if None not in words:
            text = np.empty(len(words), object)
            text[:] = words
            return text.reshape(array.shape)
    what = "Python objects that are no text" if array.dtype.kind == "O" else str(array.dtype)
    raise CalibrationError(
        f"input {spec.name!r} wants text, the data are {what}",
        hint="store text as np.array(list_of_str), which has a dtype such as <U8",
    )


def _word(item: object) -> str | None:
    if isinstance(item, bytes):
        try:
            return item.decode()
        except UnicodeDecodeError:
            return None
    return item if isinstance(item, str) else None


def check_feed(specs: Sequence[InputSpec], feed: Mapping[str, NDArray[Any]], where: str) -> dict[str, NDArray[Any]]:
    """Check the names, dtypes and shapes of one whole feed, and return it as it is fed.

    Raises:
        CalibrationError: They do not fit the inputs.
    """
    names = {spec.name for spec in specs}
    if names != set(feed):
        hints = (rename_hint(name, set(feed) - names) for name in sorted(names - set(feed)))
        raise CalibrationError(
            f"{where} has the inputs {sorted(feed)}, the model wants {sorted(names)}",
            hint=next(filter(None, hints), "give one array per input of the model"),
        )
    checked = {spec.name: _as_declared(spec, feed[spec.name]) for spec in specs}
    for spec in specs:
        if not _fits(checked[spec.name].shape, spec.shape):
            raise _shape_error(spec, checked[spec.name].shape, where, None)
    return checked


def _shape_error(spec: InputSpec, got: tuple[int, ...], where: str, axis: int | None) -> CalibrationError:
    text = size_ref(spec.shape)
    if where == "the data":
        sizes = ["?" if dim is None else str(dim) for dim in spec.shape] or ["n"]
        if axis is not None and spec.shape:
            sizes[axis] = "n"
        text = f"({', '.join(sizes)})"
    counting = f"axis {axis or 0} counts the samples"
    if axis:
        counting += f" (--sample-axis {spec.name}:0 says another one)"
    return CalibrationError(
        f"input {spec.name!r} wants shape {text}, {where} has {size_ref(got)}",
        hint=f"{counting}; {shape_advice(spec, got, axis) or 'check the axis order (NCHW or NHWC) and the size'}",
    )


def _freed(shape: tuple[int | None, ...], axis: int) -> tuple[int | None, ...]:
    return (*shape[:axis], None, *shape[axis + 1 :])


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        dim is None or size == dim for size, dim in zip(shape, expected, strict=True)
    )
