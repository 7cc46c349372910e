"""What is said of arrays that do not fit: what to transpose, to add, to convert."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.misfits import shape_advice, type_advice
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import CalibrationError

F32 = np.dtype(np.float32)
NCHW = InputSpec("x", F32, (None, 3, 224, 224))


@pytest.mark.parametrize(
    ("shape", "got", "axis", "says"),
    [
        ((None, 3, 224, 224), (8, 224, 224, 3), 0, "data.transpose(0, 3, 1, 2) has shape (8, 3, 224, 224)"),
        ((None, 224, 224, 3), (8, 3, 224, 224), 0, "data.transpose(0, 2, 3, 1) has shape (8, 224, 224, 3)"),
        ((4, 3, 24, 32), (8, 24, 32, 3), 0, "data.transpose(0, 3, 1, 2)"),
        ((None, 3, 224, 224), (3, 224, 224), 0, "one sample without its batch axis: data[None] has one"),
        ((10, None, 20), (10, 20), 1, "one sample without its batch axis: data[:, None] has one"),
        ((None, 3, 224, 224), (8, 3, 256, 256), 0, "axis 2 must be 224, not 256, axis 3 must be 224, not 256: check"),
        ((None, 3, 8), (8, 9), 0, ""),
        ((None, 3), (8, 3, 1, 1), 0, ""),
    ],
)
def test_shapes(shape: Any, got: Any, axis: int | None, says: str) -> None:
    advice = shape_advice(InputSpec("x", F32, shape), got, axis)
    assert says in advice
    assert bool(says) == bool(advice)


def test_the_order_of_axes_that_is_advised_fits() -> None:
    given = np.zeros((5, 7, 3, 6), np.float32)
    for shape in [(None, 3, 6, 7), (None, 6, 3, 7), (6, None, 7, 3)]:
        axis = shape.index(None)
        spec = InputSpec("x", F32, shape)
        advice = shape_advice(spec, given.shape, axis)
        order = tuple(int(number) for number in advice.partition("transpose(")[2].partition(")")[0].split(","))
        assert load_samples(given.transpose(order), (spec,), axes={"x": axis})


@pytest.mark.parametrize(
    ("wanted", "given", "says"),
    [
        (np.float32, np.uint8, "(data / 255).astype(np.float32), less the mean, by the deviation"),
        (np.float32, np.float64, "convert with data.astype(np.float32) after any scaling"),
        (np.int64, np.int32, "convert with data.astype(np.int64) after any scaling"),
        (np.uint8, np.float32, "data.astype(np.uint8) drops fractions: check the range that the model expects"),
        (np.int32, np.int64, "if all numbers are from -2147483648 to 2147483647"),
    ],
)
def test_types(wanted: Any, given: Any, says: str) -> None:
    assert says in type_advice(InputSpec("x", np.dtype(wanted), (None, 3)), np.zeros((2, 3), given))


def test_errors_end_with_the_advice() -> None:
    with pytest.raises(CalibrationError) as caught:
        load_samples(np.zeros((2, 224, 224, 3), np.float32), (NCHW,))
    assert caught.value.hint.endswith(
        "another order of axes fits: data.transpose(0, 3, 1, 2) has shape (2, 3, 224, 224)"
    )
    with pytest.raises(CalibrationError) as caught:
        load_samples([{"images": np.zeros((2, 3, 224, 224), np.float32)}], (InputSpec("image", F32, NCHW.shape),))
    assert caught.value.hint == "rename 'images' to 'image'"


def test_a_value_that_every_sample_repeats_is_one_for_all() -> None:
    specs = (InputSpec("x", F32, (None, 3)), InputSpec("rate", np.dtype(np.int64), ()))
    x = np.zeros((6, 3), np.float32)
    same = load_samples({"x": x, "rate": np.full(6, 16000)}, specs)
    assert (same.fixed_batch, same.notes) == (None, ("the same for all samples: 'rate'",))
    assert next(same.batches(6))["rate"].shape == ()
    other = load_samples({"x": x, "rate": np.array([8000] + [16000] * 5)}, specs)
    assert other.fixed_batch == 1
    assert [feed["rate"].item() for feed in other.batches(6)] == [8000] + [16000] * 5
    with pytest.raises(CalibrationError, match="different numbers of samples: x has 6, rate has 5"):
        load_samples({"x": x, "rate": np.full(5, 16000)}, specs)


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_token_ids(dtype: Any) -> None:
    spec = InputSpec("ids", np.dtype(dtype), (None, None), ("batch", "seq"))
    ids = np.arange(40, dtype=dtype).reshape(8, 5)
    np.testing.assert_array_equal(next(load_samples(ids, (spec,)).batches(8))["ids"], ids)
