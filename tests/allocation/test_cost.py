from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.allocation.cost import CostModel


def model(per_channel=None, **changes) -> CostModel:
    """Two convs 3x3 on a 5x5 map: image (3) -> group 0 -> group 1 and a flatten of 4 a channel."""
    fields = {
        "fixed": np.array([1, 3, 0, 2, 0, 10]),
        "per_channel": np.array([[0, 0], [0, 0], [1, 0], [0, 1], [0, 4], [0, 0]]),
        "terms": np.array([[2, 1, 0], [3, 2, 0], [5, 4, 0], [5, 0, 0]]),
        "coefficients": np.array([9 * 25, 9 * 25, 1, 1]),
    }
    if per_channel is not None:
        fields["per_channel"] = per_channel
    return CostModel(**{**fields, **changes})


def test_total_against_a_loop():
    cost = model()
    for a in range(8):
        for b in range(6):
            kept = np.array([a, b])
            want = 225 * a * 3 + 225 * (b + 2) * a + 10 * 4 * b + 10
            assert cost.total(kept) == want
            assert cost.lengths(kept).tolist() == [1, 3, a, b + 2, 4 * b, 10]


def test_is_exact_beyond_float64():
    cost = CostModel(
        fixed=np.array([1, 0]),
        per_channel=np.array([[0], [1]]),
        terms=np.array([[1, 0], [0, 0]]),
        coefficients=np.array([2**53, 1]),
    )
    assert cost.total(np.array([3])) == 3 * 2**53 + 1


def test_no_groups_and_no_terms():
    cost = model(np.zeros((6, 0), dtype=np.int64))
    assert cost.n_groups == 0
    assert cost.total(np.zeros(0, dtype=np.int64)) == 10
    empty = model(terms=np.zeros((0, 3), dtype=np.int64), coefficients=np.zeros(0, dtype=np.int64))
    assert empty.total(np.array([1, 1])) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed": np.array([1, 2])}, "2 axes, but per_channel is"),
        ({"terms": np.array([[6, 0, 0]] * 4)}, r"outside 0\.\.5"),
        ({"coefficients": np.array([1])}, "do not fit"),
        ({"fixed": np.array([2, 3, 0, 2, 0, 10])}, "constant length 1"),
        ({"coefficients": np.array([1, 1, 1, -1])}, "must not be negative"),
    ],
)
def test_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        model(**changes)


def test_what_is_saved_against_totals():
    rng = np.random.default_rng(0)
    for blocks in (None, np.array([1, 4, 4, 2, 8, 1])):
        cost = model(blocks=blocks)
        for _ in range(50):
            kept, group, widths = rng.integers(1, 9, 2), int(rng.integers(2)), rng.integers(1, 20, 5)
            others = [np.where(np.arange(2) == group, width, kept) for width in widths]
            wanted = [cost.total(kept) - cost.total(other) for other in others]
            assert cost.saved_at(kept, group, widths).tolist() == wanted


def test_blocks_are_counted_whole():
    cost = model(blocks=np.array([1, 1, 16, 1, 1, 1]))
    assert cost.lengths(np.array([17, 2])).tolist() == [1, 3, 32, 4, 8, 10]
    assert cost.total(np.array([17, 2])) == cost.total(np.array([32, 2]))
    for blocks in ([1, 1, 0, 1, 1, 1], [1, 1]):
        with pytest.raises(ValueError, match="blocks"):
            model(blocks=np.array(blocks))


def test_what_goes_with_a_group_costs_nothing_without_it():
    """Without group 1 the first conv, which has no channel of it, is not there either; group 0 takes nothing along."""
    cost = model(going={1: np.array([0, 3])})
    for a in range(4):
        assert cost.total(np.array([a, 2])) == model().total(np.array([a, 2]))
        assert cost.total(np.array([a, 0])) == 225 * 2 * a
    rng = np.random.default_rng(0)
    for _ in range(100):
        kept, group, widths = rng.integers(0, 4, 2), int(rng.integers(2)), rng.integers(0, 6, 5)
        others = [np.where(np.arange(2) == group, width, kept) for width in widths]
        wanted = [cost.total(kept) - cost.total(other) for other in others]
        if kept[group] > 0:
            assert cost.saved_at(kept, group, widths).tolist() == wanted


@pytest.mark.parametrize("blocks", [None, np.array([1, 2, 3, 1, 4, 1])])
def test_terms_over_widths_are_those_at_each(blocks):
    cost = model(blocks=blocks, going={0: np.array([1]), 1: np.array([3])})
    for group, widths in ((0, [0, 1, 4, 7]), (1, [0, 2, 5])):
        for kept in ([3, 2], [0, 2], [3, 0]):
            each = []
            for width in widths:
                moved = np.array(kept)
                moved[group] = width
                each.append(cost.terms_at(moved))
            np.testing.assert_array_equal(cost.terms_over(np.array(kept), group, np.array(widths)), np.stack(each, 1))


def test_some_terms_cost_what_they_cost_among_all():
    cost = model(going={0: np.array([1, 3])})
    numbers = np.array([3, 1])
    for kept in ([0, 2], [5, 2], [5, 0]):
        np.testing.assert_array_equal(
            cost.only(numbers).terms_at(np.array(kept)), cost.terms_at(np.array(kept))[numbers]
        )


def test_terms_of_a_group_are_all_that_change_with_it():
    cost = model(going={0: np.array([3])})
    assert cost.of_group(0).tolist() == [0, 1, 3]
    assert cost.of_group(1).tolist() == [1, 2]


def test_with_some_widths_held_the_others_cost_the_same():
    cost = model(going={0: np.array([1]), 1: np.array([2])})
    for a in range(1, 8):
        held = cost.holding({0: a})
        assert held.n_groups == 1
        for b in range(6):
            assert held.total(np.array([b])) == cost.total(np.array([a, b]))
            other = cost.holding({1: b + 1})
            assert other.total(np.array([a])) == cost.total(np.array([a, b + 1]))
    assert cost.holding({1: 2, 0: 3}).total(np.zeros(0, np.int64)) == cost.total(np.array([3, 2]))
    assert cost.holding({}).total(np.array([3, 2])) == cost.total(np.array([3, 2]))
