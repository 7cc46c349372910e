"""The cost of channels and ranks, against networks counted one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.structure_cost import LayerTerms, StructureCost

FULL = np.array([5, 7])
OUTER, INNER = 6, 4
BLOCK, CALL = 4, 10
"""A pair computes ranks in blocks, and it costs something whatever its rank."""


def model(terms: list[list[int]], coefficients: list[int]) -> CostModel:
    """Two axes, each owned by one group; where the first keeps nothing the second layer goes, too."""
    behind = {"wholes": [1], "pairs": [3, 4, 5], "network": [1, 3]}
    kind = {2: "wholes", 6: "pairs", 4: "network"}[len(terms)]
    return CostModel(
        fixed=np.array([1, 0, 0]),
        per_channel=np.array([[0, 0], [1, 0], [0, 1]]),
        terms=np.array(terms),
        coefficients=np.array(coefficients),
        going={0: np.array(behind[kind])},
    )


def cost() -> StructureCost:
    """Two layers: 3 x 3 taps from group 0 to group 1, and back; the pair of the second one computes blocks."""
    wholes = LayerTerms(model([[1, 2], [2, 1]], [9, 9]), np.array([0, 1]), np.array([0, 0]))
    network = model([[1, 2], [2, 1], [1, 0], [2, 0]], [9, 9, 11, 2])
    pairs = LayerTerms(
        model([[1, 0], [2, 0], [0, 0], [2, 0], [1, 0], [0, 0]], [3, 3, 0, 9, 1, CALL]),
        np.array([0, 0, 0, 1, 1, 1]),
        np.array([1, 1, 0, BLOCK, BLOCK, 0]),
    )
    return StructureCost(network, wholes, pairs, FULL)


def of_layers(kept: tuple[int, ...]) -> list[tuple[int, int]]:
    """What each layer costs whole, and at its rank."""
    a, b, first, second = kept
    if a == 0:
        return [(0, first * 3 * b), (0, 0)]
    return [(9 * a * b, first * (3 * a + 3 * b)), (9 * a * b, -(-second // BLOCK) * BLOCK * (9 * b + a) + CALL)]


def counted(kept: tuple[int, ...]) -> int:
    layers = zip(of_layers(kept), kept[2:], FULL.tolist(), strict=True)
    chosen = [whole if rank == full else min(whole, pair) for (whole, pair), rank, full in layers]
    return sum(chosen) + 11 * kept[0] + 2 * kept[1] * (kept[0] > 0)


EVERY = list(itertools.product((0, 1, OUTER), (2, INNER), (1, 3, 5), (2, 7)))


@pytest.mark.parametrize("kept", EVERY)
def test_it_counts_what_every_layer_has(kept: tuple[int, ...]) -> None:
    assert cost().total(np.array(kept)) == counted(kept)


@pytest.mark.parametrize("kept", EVERY)
def test_moves_save_the_difference(kept: tuple[int, ...]) -> None:
    widths = ([0, 1, 3, 6], [1, 2, 4], [1, 2, 4, 5], [1, 3, 7])
    structure = cost()
    for group, others in enumerate(widths):
        if kept[group] == 0:
            # Only narrower widths are asked for.
            continue
        moved = [counted((*kept[:group], other, *kept[group + 1 :])) for other in others]
        saved = structure.saved_at(np.array(kept), group, np.array(others))
        np.testing.assert_array_equal(saved, counted(kept) - np.array(moved))


@pytest.mark.parametrize("kept", EVERY)
def test_a_rank_that_does_not_save_leaves_its_layer_whole(kept: tuple[int, ...]) -> None:
    layers = zip(of_layers(kept), kept[2:], FULL.tolist(), strict=True)
    expected = [rank < full and pair < whole for (whole, pair), rank, full in layers]
    np.testing.assert_array_equal(cost().saves(np.array(kept)), expected)


def test_both_happen() -> None:
    np.testing.assert_array_equal(cost().saves(np.array([OUTER, INNER, 4, 6])), [True, False])
    np.testing.assert_array_equal(cost().saves(np.array([OUTER, INNER, 5, 4])), [False, True])
    assert cost().n_groups == 4


def test_fewer_channels_and_smaller_ranks_never_cost_more() -> None:
    """What a search by moves relies on, also where pairs cost more than whole layers."""
    structure, ranges = cost(), [range(OUTER + 1), range(INNER + 1), range(1, 6), range(1, 8)]
    for kept in itertools.product(*ranges):
        for place, each in enumerate(ranges):
            if kept[place] + 1 in each:
                more = (*kept[:place], kept[place] + 1, *kept[place + 1 :])
                assert structure.total(np.array(kept)) <= structure.total(np.array(more))
