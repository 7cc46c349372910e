"""Which axis counts the samples: by the declared axes and their names, by what the user says, and by the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxpfp.data.axes import sample_axes
from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import CalibrationError, OptionError

F32 = np.dtype(np.float32)
Dims = list[str | int]


def specs_of(inputs: dict[str, Dims]) -> tuple[InputSpec, ...]:
    """Declare inputs; "?" is a free axis without a name."""
    return tuple(
        InputSpec(
            name,
            F32,
            tuple(None if isinstance(dim, str) else dim for dim in dims),
            tuple("" if dim == "?" or isinstance(dim, int) else dim for dim in dims),
        )
        for name, dims in inputs.items()
    )


DECLARED: dict[str, tuple[dict[str, Dims], dict[str, int | None]]] = {
    "axis 0 is free": ({"x": ["N", 3, 8, 8]}, {"x": 0}),
    "several are free, axis 0 among them": ({"x": ["n", "c", "d"]}, {"x": 0}),
    "the only free one": ({"x": [10, "?", 20]}, {"x": 1}),
    "the only free one is the last": ({"x": [10, 20, "batch"]}, {"x": 2}),
    "called batch, behind a free axis": ({"x": ["seq", "batch_size", 80]}, {"x": 1}),
    "called batch, behind others": ({"x": [2, "layers", "B", "wide"]}, {"x": 2}),
    "N behind a length": ({"x": ["T", "N", 8]}, {"x": 1}),
    "n points": ({"x": ["clouds", "n", 3]}, {"x": 0}),
    "n points of a batch": ({"x": ["batch", "n", 3]}, {"x": 0}),
    "a free length in a batch of one": ({"x": [1, 80, "time"]}, {"x": 0}),
    "images of free size": ({"x": [1, 3, "?", "?"]}, {"x": 0}),
    "a fixed batch": ({"x": [4, 3]}, {"x": 0}),
    "a state is called like the input": ({"x": ["rows", 20, 16], "h": [1, "rows", "wide"]}, {"x": 0, "h": 1}),
    "the state comes first": ({"h": [1, "rows", "wide"], "x": ["rows", 20, 16]}, {"x": 0, "h": 1}),
    "positions are no samples": ({"ids": ["batch", "seq"], "at": ["seq"]}, {"ids": 0, "at": None}),
    "a square mask": ({"ids": ["batch", "seq"], "bias": ["seq", "seq"]}, {"ids": 0, "bias": None}),
    "a scalar": ({"x": ["batch", 5], "sr": []}, {"x": 0, "sr": None}),
    "nobody knows": ({"x": [10, "p", "q"]}, {}),
}


@pytest.mark.parametrize("name", DECLARED)
def test_the_declared_axes_say_it(name: str) -> None:
    inputs, expected = DECLARED[name]
    assert sample_axes(specs_of(inputs)) == expected


def test_the_user_says_it() -> None:
    specs = specs_of({"x": [10, "p", "q"], "h": [2, "p", "q"], "m": ["q", "q"]})
    assert sample_axes(specs, {"x": -1}) == {"x": 2, "h": 2, "m": 0}
    assert sample_axes(specs, {"x": 1, "m": None}) == {"x": 1, "h": 1, "m": None}
    with pytest.raises(OptionError, match="--sample-axis x:3 is no axis of it") as caught:
        sample_axes(specs, {"x": 3})
    assert caught.value.hint == "'x' is float32 (10, ?, ?)"
    with pytest.raises(OptionError, match="--sample-axis names 'y', which is not an input"):
        sample_axes(specs, {"y": 0})


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def feeds_of(inputs: dict[str, Dims], arrays: dict[str, np.ndarray], batch: int, axes: Any = None) -> Any:
    samples = load_samples(arrays, specs_of(inputs), axes=axes)
    return samples, list(samples.batches(batch))


@pytest.mark.parametrize(
    ("dims", "axis"),
    [
        ([10, "batch", 20], 1),
        ([10, 20, "?"], 2),
        ([1, "batch", 32], 1),
        (["seq", "batch", 8], 1),
        ([3, "b", "t"], 1),
        ([2, 2, "n", 3], 2),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_samples_are_cut_along_their_axis(dims: Dims, axis: int, batch: int) -> None:
    data = numbers(
        *(7 if position == axis else dim if isinstance(dim, int) else 4 for position, dim in enumerate(dims))
    )
    samples, feeds = feeds_of({"x": dims}, {"x": data}, batch)
    assert (len(samples), samples.fixed_batch) == (7, None)
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds], axis), data)
    assert [feed["x"].shape[axis] for feed in feeds] == ([1] * 7 if batch == 1 else [3, 3, 1])
    rest, held = samples.split(2, 0)
    both = np.concatenate([feed["x"] for part in (rest, held) for feed in part.batches(2)], axis)
    assert both.shape == data.shape
    np.testing.assert_array_equal(np.sort(both, axis), data)
    part = samples.part(next(samples.batches(5)), 5, 1, 3)
    np.testing.assert_array_equal(part["x"], np.take(data, [1, 2], axis))
    assert samples.notes == (f"samples of 'x' lie along axis {axis}",)


def test_whole_feeds_are_read_as_before() -> None:
    samples, feeds = feeds_of({"x": [10, "batch", 20]}, {"x": numbers(6, 10, 2, 20)}, 4)
    assert (len(samples), samples.fixed_batch, samples.notes) == (6, 1, ())
    assert [feed["x"].shape for feed in feeds] == [(10, 2, 20)] * 6


def test_a_batch_of_one_may_be_stacked() -> None:
    samples, feeds = feeds_of({"h": [1, "batch", 4]}, {"h": numbers(6, 1, 4)}, 4)
    assert [feed["h"].shape for feed in feeds] == [(1, 1, 4)] * 6
    assert samples.notes == ()


SHARED: dict[str, tuple[dict[str, Dims], dict[str, tuple[int, ...]], str]] = {
    "a scalar": ({"x": ["batch", 5], "y": []}, {"x": (7, 5), "y": ()}, "y"),
    "the one number of an array": ({"x": ["batch", 5], "y": []}, {"x": (7, 5), "y": (1,)}, "y"),
    "a mask of fixed size": ({"x": ["batch", 5], "y": [5, 5]}, {"x": (7, 5), "y": (5, 5)}, "y"),
    "a mask over positions": ({"x": ["batch", "seq"], "y": ["seq"]}, {"x": (7, 5), "y": (5,)}, "y"),
    "one sample of a free batch": ({"x": ["batch", 5], "y": ["batch", 2]}, {"x": (7, 5), "y": (1, 2)}, "y"),
    "one whole feed": ({"x": ["batch", 5], "y": [1, 2, "n"]}, {"x": (7, 5), "y": (1, 1, 2, 3)}, "y"),
    "a table beside a time-first input": ({"x": [4, "batch", 5], "y": [9, 2]}, {"x": (4, 7, 5), "y": (9, 2)}, "y"),
}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("batch", [1, 3])
def test_values_for_all_samples(name: str, batch: int) -> None:
    inputs, shapes, shared = SHARED[name]
    samples, feeds = feeds_of(inputs, {key: numbers(*shape) for key, shape in shapes.items()}, batch)
    assert (len(samples), samples.fixed_batch) == (7, None)
    assert f"the same for all samples: '{shared}'" in samples.notes
    whole = numbers(*shapes[shared])
    for feed in feeds:
        array = feed[shared]
        assert isinstance(array, np.ndarray)
        one = whole.reshape(array.shape) if whole.size == array.size else whole.reshape(whole.shape[-array.ndim :])
        np.testing.assert_array_equal(np.broadcast_to(one, array.shape), array)
    part = samples.part(feeds[0], batch, 0, 1)
    assert {key: array.shape for key, array in part.items()} == {
        key: array.shape for key, array in next(samples.batches(1)).items()
    }


def test_as_many_rows_as_samples_are_samples_unless_said() -> None:
    inputs: dict[str, Dims] = {"x": ["batch", 5], "m": [7, 7]}
    arrays = {"x": numbers(7, 5), "m": numbers(7, 7)}
    samples, _ = feeds_of(inputs, arrays, 7)
    assert samples.fixed_batch == 7
    assert "'m' (7, 7) is read as 7 samples along axis 0" in samples.notes[0]
    assert "--sample-axis m:none" in samples.notes[0]
    samples, feeds = feeds_of(inputs, arrays, 3, {"m": None})
    assert samples.fixed_batch is None
    assert [feed["m"].shape for feed in feeds] == [(7, 7)] * 3


REFUSED: dict[str, tuple[dict[str, Dims], dict[str, tuple[int, ...]], str, str]] = {
    "batch first into time first": (
        {"x": [10, "batch", 20]},
        {"x": (64, 10, 20)},
        r"'x' wants shape \(10, n, 20\), the data has \(64, 10, 20\)",
        "axis 1 counts the samples",
    ),
    "no axis is known": (
        {"x": [10, "p", "q"]},
        {"x": (10, 7, 5)},
        r"which of its free axes counts the samples is not known",
        "--sample-axis x:1 says that axis 1 does",
    ),
    "unequal": (
        {"x": [10, "batch", 20], "h": [1, "batch", 3]},
        {"x": (10, 7, 20), "h": (1, 6, 3)},
        "different numbers of samples: x has 7, h has 6",
        "--sample-axis",
    ),
    "not the shape of all": (
        {"x": ["batch", "seq"], "m": ["seq"]},
        {"x": (7, 5), "m": (3, 2, 5)},
        r"'m' wants shape \(\?\), the data has \(3, 2, 5\)",
        "check the axis order",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_do_not_fit_the_axes(name: str) -> None:
    inputs, shapes, says, hint = REFUSED[name]
    with pytest.raises(CalibrationError, match=says) as caught:
        feeds_of(inputs, {key: numbers(*shape) for key, shape in shapes.items()}, 1)
    assert hint in caught.value.hint


def test_a_sample_axis_that_is_said_is_not_read_otherwise() -> None:
    with pytest.raises(CalibrationError, match=r"wants shape \(1, n, 4\), the data has \(6, 1, 4\)"):
        feeds_of({"h": [1, "batch", 4]}, {"h": numbers(6, 1, 4)}, 1, {"h": 1})
    samples, _ = feeds_of({"x": [10, "p", "q"]}, {"x": numbers(10, 7, 5)}, 1, {"x": 2})
    assert len(samples) == 5


@pytest.mark.parametrize("dims", [["batch", 1], ["batch", 1, 1], [1, "batch"], [1, 1], [1, "batch", 1]])
def test_a_column_has_the_axes_of_1_that_it_lacks(dims: Dims) -> None:
    samples, feeds = feeds_of({"x": dims}, {"x": numbers(6)}, 2)
    assert len(samples) == 6
    assert all(feed["x"].ndim == len(dims) for feed in feeds)
    np.testing.assert_array_equal(np.concatenate([feed["x"].ravel() for feed in feeds]), numbers(6))


def test_feeds_count_their_samples_along_their_axis() -> None:
    specs = specs_of({"x": [10, "batch", 20], "m": ["batch", 3], "sr": []})
    feed = {"x": numbers(10, 4, 20), "m": numbers(1, 3), "sr": np.asarray(numbers(1)[0])}
    samples = load_samples([feed, feed], specs)
    assert (len(samples), samples.fixed_batch, samples.rows(feed)) == (8, 4, None)
    alone = samples.one_by_one()
    assert (len(alone), alone.fixed_batch) == (8, 1)
    shapes = [{name: array.shape for name, array in each.items()} for each in alone.batches()]
    assert shapes == [{"x": (10, 1, 20), "m": (1, 3), "sr": ()}] * 8
    np.testing.assert_array_equal(np.concatenate([each["x"] for each in alone.batches()][:4], 1), feed["x"])


@pytest.mark.parametrize(
    ("inputs", "shapes", "rows"),
    [
        ({"x": ["batch", 5], "m": [4]}, {"x": (7, 5), "m": (7, 4)}, 1),
        ({"x": ["batch", 5], "m": [4]}, {"x": (7, 5), "m": (4,)}, 3),
        ({"x": [6, "batch", 5]}, {"x": (7, 6, 1, 5)}, 1),
        ({"x": [6, 5]}, {"x": (7, 6, 5)}, 6),
        ({"x": [6, 5], "m": [4]}, {"x": (7, 6, 5), "m": (7, 4)}, None),
    ],
)
def test_rows_are_what_all_inputs_have_of(inputs: Any, shapes: Any, rows: int | None) -> None:
    samples, feeds = feeds_of(inputs, {name: numbers(*shape) for name, shape in shapes.items()}, 3)
    assert samples.rows(feeds[0]) == rows


def test_what_is_not_finite_is_named_along_the_axis() -> None:
    data = numbers(4, 7, 5)
    data[2, 5, 1] = np.nan
    samples, _ = feeds_of({"x": [4, "batch", 5]}, {"x": numbers(4, 7, 5)}, 3)
    assert len(list(samples.batches(3))) == 3
    with pytest.raises(CalibrationError, match="'x' has NaN or infinite values in sample 5"):
        feeds_of({"x": [4, "batch", 5]}, {"x": data}, 3)
