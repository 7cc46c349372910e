from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxpfp.calibrate.statistics import OpStatistics, SampleSum, Statistics, merged, statistic_arrays, statistics_of
from onnxpfp.errors import CalibrationError

IDS = np.array([2, 5, 9])
SHARES = st.floats(0, 1)
SUMS = st.floats(-1e6, 1e6)


@st.composite
def entries(draw: st.DrawFn) -> OpStatistics:
    return OpStatistics(
        IDS,
        draw(arrays(np.float64, 3, elements=SHARES)),
        draw(arrays(np.float64, (4, 2), elements=SUMS)),
        draw(arrays(np.float64, 4, elements=SUMS)),
        patches=draw(st.integers(0, 10**9)),
        negative=draw(st.booleans()),
        samples=draw(st.integers(0, 10**6)),
    )


SHARDS = st.dictionaries(st.sampled_from(["a", "b", "c"]), entries())


def assert_same(left: Statistics, right: Statistics) -> None:
    assert set(left) == set(right)
    for name in left:
        one, two = left[name], right[name]
        np.testing.assert_array_equal(one.sensitivity, two.sensitivity)
        np.testing.assert_allclose(one.patch_sum, two.patch_sum, rtol=1e-12, atol=1e-6)
        np.testing.assert_allclose(one.square_sum, two.square_sum, rtol=1e-12, atol=1e-6)
        assert (one.patches, one.negative, one.samples) == (two.patches, two.negative, two.samples)


@given(SHARDS, SHARDS, SHARDS)
def test_merge_is_associative(a: Statistics, b: Statistics, c: Statistics) -> None:
    assert_same(merged(merged(a, b), c), merged(a, merged(b, c)))


@given(SHARDS, SHARDS)
def test_merge_is_commutative(a: Statistics, b: Statistics) -> None:
    assert_same(merged(a, b), merged(b, a))


@given(SHARDS)
def test_the_empty_statistics_are_the_identity(a: Statistics) -> None:
    assert_same(merged(a, {}), a)
    assert_same(merged({}, a), a)


@given(entries())
def test_the_empty_entry_is_the_identity(a: OpStatistics) -> None:
    empty = OpStatistics.empty(IDS, 4, 2)
    assert_same({"r": a.merge(empty)}, {"r": a})


def example() -> Statistics:
    rng = np.random.default_rng(0)
    entry = OpStatistics(IDS, rng.random(3), rng.random((4, 2)), rng.random(4), 12, True, 3)
    return {"conv/1": entry, "weird: name.npz": entry}


def test_their_arrays_make_them_again() -> None:
    assert_same(statistics_of(statistic_arrays(example()), list(example()), OpStatistics), example())
    assert statistics_of({}, [], OpStatistics) == {}
    with pytest.raises(KeyError):
        statistics_of({}, list(example()), OpStatistics)


def test_different_networks_do_not_merge() -> None:
    one = OpStatistics.empty(IDS, 4, 2)
    for other in (OpStatistics.empty(IDS + 1, 4, 2), OpStatistics.empty(IDS, 4, 9)):
        with pytest.raises(CalibrationError, match="two different networks"):
            one.merge(other)
    with pytest.raises(CalibrationError, match="two different networks"):
        merged({"r": one}, {"r": OpStatistics.empty(IDS, 4, 9)})


def test_means() -> None:
    assert not OpStatistics.empty(IDS, 4, 2).patch_mean.any()
    np.testing.assert_allclose(example()["conv/1"].patch_mean * 12, example()["conv/1"].patch_sum)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_means_merge_in_any_order(sizes: list[int]) -> None:
    values = np.random.default_rng(0).random((sum(sizes), 3))
    parts = [SampleSum(part.sum(0), len(part)) for part in np.split(values, np.cumsum(sizes)[:-1])]
    forth, back = parts[0], parts[-1]
    for part in parts[1:]:
        forth = forth.merge(part)
    for part in reversed(parts[:-1]):
        back = back.merge(part)
    np.testing.assert_allclose(forth.mean, values.mean(0))
    np.testing.assert_allclose(back.mean, values.mean(0))
