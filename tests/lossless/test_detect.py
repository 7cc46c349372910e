"""The choice within one group, on plain arrays."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxpfp.linear.columns import samples_first
from onnxpfp.lossless.detect import NEAR, Trace, View, choose_removals, largest_gaps, trace

Floats = NDArray[np.float64]


def view(data: Floats, *, folds: bool = False, merges: bool = True) -> View:
    """What a consumer with one index per channel sees of (samples, channels)."""
    seen = trace(data, 1, (0,), 0)
    alive = (seen.low != 0) | (seen.high != 0)
    return View(
        ~alive | (seen.constant & folds), alive[:, None], seen.scale[:, None], seen.projections[:, None], NEAR, merges
    )


def chosen(*views: View, classes: list[int] | None = None) -> tuple[list[int], dict[int, int]]:
    count = len(views[0].free)
    found = choose_removals(views, np.zeros(count, np.int64) if classes is None else np.array(classes))
    partners = {int(j): int(found.partner[j]) for j in np.flatnonzero(found.partner >= 0)}
    return np.flatnonzero(found.gone).tolist(), partners


@pytest.fixture
def data() -> Floats:
    return np.random.default_rng(1).standard_normal((50, 6))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint8])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_trace_adds_up_over_batches(dtype: type, axis: int) -> None:
    array = (np.random.default_rng(0).standard_normal((6, 5, 4)) * 20).astype(dtype)
    array[(slice(None),) * axis + (2,)] = 3
    seen = trace(*samples_first(array, axis), (0,), 0)
    others = tuple(number for number in range(3) if number != axis)
    np.testing.assert_array_equal(seen.low, array.min(others))
    np.testing.assert_array_equal(seen.high, array.max(others))
    assert seen.constant.tolist() == [index == 2 for index in range(array.shape[axis])]
    other = trace(*samples_first(array * 0 + 5, axis), (1,), 0)
    both = seen.merge(other)
    np.testing.assert_array_equal(both.high, np.maximum(seen.high, 5))
    np.testing.assert_array_equal(both.low, np.minimum(seen.low, 5))
    np.testing.assert_array_equal(both.projections, seen.projections + other.projections)
    assert not both.constant[2]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("cuts", [(1,), (3, 4), (1, 2, 3, 4, 5)])
def test_projections_follow_the_number_of_a_sample(axis: int, cuts: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).standard_normal((5, 6, 4) if axis == 0 else (6, 5, 4))
    whole, _ = samples_first(array, axis)
    axis = axis or 1
    parts = [trace(part, axis, (7,), 20 + start) for start, part in zip((0, *cuts), np.split(whole, cuts), strict=True)]
    together = trace(whole, axis, (7,), 20)
    np.testing.assert_allclose(reduce(Trace.merge, parts).projections, together.projections, rtol=1e-12, atol=1e-12)
    for other in (trace(whole, axis, (8,), 20), trace(whole, axis, (7,), 21)):
        assert (other.projections != together.projections).all()


def test_directions_are_normal() -> None:
    """The projections of unit vectors, one per (sample, position) pair, are the directions."""
    units = np.eye(400).reshape(20, 20, 400).swapaxes(1, 2)
    drawn = trace(units, 1, (3,), 0).projections
    assert abs(drawn.mean()) < 0.15
    assert 0.7 < drawn.var() < 1.4
    factors = np.abs(np.corrcoef(drawn.T) - np.eye(4)).max()
    assert factors < 0.25


def test_pieces_do_not_matter() -> None:
    array = np.random.default_rng(0).standard_normal((9, 3, 100, 100)).astype(np.float32)
    seen = trace(array, 1, (0,), 0)
    np.testing.assert_array_equal(seen.high, array.max((0, 2, 3)))
    doubled = trace(np.concatenate([array, 2 * array], 1), 1, (0,), 0)
    np.testing.assert_allclose(doubled.projections[3:], 2 * doubled.projections[:3], rtol=1e-12)
    gaps = largest_gaps(array, 1, np.array([0, 1]), np.array([2, 2]), np.array([0.5, -1.0]))
    expected = [np.abs(array[:, 0] - 0.5 * array[:, 2]).max(), np.abs(array[:, 1] + array[:, 2].astype(float)).max()]
    np.testing.assert_allclose(gaps, expected, rtol=1e-6)


def test_nothing_goes_where_nothing_is_special(data: Floats) -> None:
    assert chosen(view(data, folds=True)) == ([], {})


def test_dead_and_constant_channels(data: Floats) -> None:
    data[:, 1], data[:, [3, 4]] = 0, [2.0, 5.0]
    assert chosen(view(data, folds=True)) == ([1, 3, 4], {})
    # Without a bias that takes them one constant stays for the others.
    assert chosen(view(data)) == ([1], {3: 4})
    assert chosen(view(data, merges=False)) == ([1], {})


def test_a_group_never_gets_empty() -> None:
    assert chosen(view(np.zeros((5, 3)))) == ([1, 2], {})


@pytest.mark.parametrize("factor", [-3.0, 0.25, 1.0])
def test_of_multiples_the_largest_stays(data: Floats, factor: float) -> None:
    data[:, 4] = factor * data[:, 0]
    assert chosen(view(data)) == ([], {0: 4} if abs(factor) > 1 else {4: 0})


def test_almost_a_multiple_is_none(data: Floats) -> None:
    data[:, 4] = data[:, 0] + 0.01 * data[:, 1]
    assert chosen(view(data)) == ([], {})


def test_all_consumers_have_to_agree(data: Floats) -> None:
    data[:, 4] = data[:, 0]
    other = np.random.default_rng(2).standard_normal(data.shape)
    assert chosen(view(data), view(other)) == ([], {})
    other[:, 4] = -2 * other[:, 0]
    # One factor per consumer; the channel with the larger magnitude anywhere stays.
    assert chosen(view(data), view(other)) == ([], {0: 4})
    # Where a channel is dead at one consumer, only the other one counts, and only in that direction.
    other[:, 0] = 0
    assert chosen(view(data), view(other)) == ([], {0: 4})
    other[:, 4], other[:, 0] = 0, data[:, 1]
    assert chosen(view(data), view(other)) == ([], {4: 0})


def test_ranks_have_factors_of_their_own(data: Floats) -> None:
    one = view(np.stack([data[:, 0], data[:, 1], 2 * data[:, 0]], 1))
    two = view(np.stack([data[:, 2], data[:, 3], -data[:, 2]], 1))
    both = View(
        one.free & two.free,
        np.concatenate([one.alive, two.alive], 1),
        np.concatenate([one.scale, two.scale], 1),
        np.concatenate([one.projections, two.projections], 1),
        NEAR,
        merges=True,
    )
    assert chosen(both) == ([], {0: 2})
    fits, factors = both.factors(0, np.array([1, 2]))
    assert fits.tolist() == [False, True]
    np.testing.assert_allclose(factors[1], [0.5, -1])


def test_classes_keep_multiples_apart(data: Floats) -> None:
    data[:, 4] = data[:, 5] = data[:, 0]
    assert chosen(view(data), classes=[0, 0, 0, 0, 1, 0]) == ([], {5: 0})


def test_what_is_not_finite_stays(data: Floats) -> None:
    data[3, 1], data[3, 2] = np.nan, np.inf
    data[:, 4] = data[:, 1]
    assert chosen(view(data, folds=True)) == ([], {})


def test_many_channels_are_compared_in_little_time() -> None:
    data = np.random.default_rng(0).standard_normal((60, 3000))
    data[:, 2500:] = data[:, :500] * 0.5
    gone, partners = chosen(view(data))
    assert gone == []
    assert partners == {2500 + place: place for place in range(500)}


def test_traces_know_the_rounding_of_their_numbers() -> None:
    grains: dict[type, float] = {}
    for dtype in (np.float64, np.float32, np.float16, np.int8):
        seen: Trace = trace(np.zeros((2, 3), dtype), 1, (0,), 0)
        grains[dtype] = seen.grain
    assert grains == {np.float64: 1e-6, np.float32: 1e-6, np.float16: float(np.finfo(np.float16).eps), np.int8: 0.0}
