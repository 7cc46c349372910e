"""The cost of channels and ranks, against networks counted one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.structure_cost import StructureCost

FULL = np.array([5, 7])
OUTER, INNER = 6, 4


def model(terms: list[list[int]], coefficients: list[int]) -> CostModel:
    """Two axes, each owned by one group."""
    return CostModel(
        fixed=np.array([1, 0, 0]),
        per_channel=np.array([[0, 0], [1, 0], [0, 1]]),
        terms=np.array(terms),
        coefficients=np.array(coefficients),
    )


def cost() -> StructureCost:
    """Two layers: 3 x 3 taps from group 0 to group 1, and back."""
    wholes = model([[1, 2], [2, 1]], [9, 9])
    network = model([[1, 2], [2, 1], [1, 0]], [9, 9, 11])
    units = model([[1, 0], [2, 0], [2, 0], [1, 0]], [3, 3, 9, 1])
    return StructureCost(network, wholes, units, FULL)


def counted(kept: tuple[int, ...]) -> int:
    a, b, first, second = kept
    one = 9 * a * b if first == FULL[0] else first * (3 * a + 3 * b)
    two = 9 * a * b if second == FULL[1] else second * (9 * b + a)
    return one + two + 11 * a


EVERY = list(itertools.product((1, OUTER), (2, INNER), (1, 3, 5), (2, 7)))


@pytest.mark.parametrize("kept", EVERY)
def test_it_counts_what_every_layer_has(kept: tuple[int, ...]) -> None:
    assert cost().total(np.array(kept)) == counted(kept)


@pytest.mark.parametrize("kept", EVERY)
def test_moves_save_the_difference(kept: tuple[int, ...]) -> None:
    widths = ([1, 3, 6], [1, 2, 4], [1, 2, 4, 5], [1, 3, 7])
    for group, others in enumerate(widths):
        moved = [counted((*kept[:group], other, *kept[group + 1 :])) for other in others]
        saved = cost().saved_at(np.array(kept), group, np.array(others))
        np.testing.assert_array_equal(saved, counted(kept) - np.array(moved))


def test_a_rank_that_costs_more_than_the_layer_saves_nothing() -> None:
    np.testing.assert_array_equal(cost().saves(np.array([OUTER, INNER, 4, 6])), [True, False])
    np.testing.assert_array_equal(cost().saves(np.array([OUTER, INNER, 5, 7])), [False, False])
    assert cost().n_groups == 4
