"""Numbers are brought to a type without its subnormal ones: to zero or the smallest normal number."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxpfp.model.subnormal import (
    count_subnormal,
    is_subnormal,
    smallest_normal,
    unit_roundoff,
    without_new_subnormal,
)

TYPES = [np.dtype(each) for each in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)]
SIZES = st.sampled_from(
    [2.0**-1040, 1e-46, 1e-42, 1e-39, 1.1754942e-38, 2e-38, 1e-8, 3e-5, 6.1e-5, 1e-3, 1.0, 1e4, 1e39]
)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_what_a_type_is_like(dtype: np.dtype[Any]) -> None:
    info = ml_dtypes.finfo(dtype)
    assert smallest_normal(dtype) == float(info.smallest_normal)
    assert unit_roundoff(dtype) == float(info.eps) / 2


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_subnormal_numbers_are_counted(dtype: np.dtype[Any]) -> None:
    smallest = smallest_normal(dtype)
    array = np.array([0.0, smallest, smallest / 2, -smallest / 4, 1.0, -smallest, np.inf, np.nan]).astype(dtype)
    np.testing.assert_array_equal(is_subnormal(array), [False, False, True, True, False, False, False, False])
    assert count_subnormal(array) == count_subnormal(array.reshape(2, 2, 2)) == 2
    assert count_subnormal(array[2]) == 1
    assert count_subnormal(array[:0]) == 0


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@given(
    numbers=arrays.arrays(np.float64, 20, elements=st.floats(-1, 1, width=64)),
    scale=arrays.arrays(np.float64, 20, elements=SIZES),
)
def test_new_numbers_are_never_subnormal_and_the_nearest_that_is_left(
    dtype: np.dtype[Any], numbers: np.ndarray[Any, np.dtype[np.float64]], scale: np.ndarray[Any, np.dtype[np.float64]]
) -> None:
    new, smallest = numbers * scale, smallest_normal(dtype)
    written = without_new_subnormal(new, np.ones(20).astype(dtype))
    assert written.dtype == dtype
    assert not is_subnormal(written).any()
    with np.errstate(over="ignore"):
        plain = new.astype(dtype)
    large = ~is_subnormal(plain)
    np.testing.assert_array_equal(written[large], plain[large])
    assert (np.abs(written.astype(np.float64) - new)[~large] <= smallest / 2).all()


def test_what_stays_the_same_stays_subnormal() -> None:
    before = np.array([1e-40, 1e-40, -1e-41, 1.0], np.float32)
    new = before.astype(np.float64) * [1, 2, 1, 1]
    np.testing.assert_array_equal(without_new_subnormal(new, before), np.array([1e-40, 0, -1e-41, 1], np.float32))
    np.testing.assert_array_equal(without_new_subnormal(new, np.zeros((), np.float32)), np.float32([0, 0, 0, 1]))
