"""Statistics of maps: deviations and Gram matrices, merged over samples in any order."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxpfp.score.map_statistics import MapStatistics, cosines, mean_std

Floats = NDArray[np.float64]


def integers(seed: int, *shape: int) -> Floats:
    """Small whole numbers, whose sums and products are exact."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float64)


@pytest.mark.shared
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_oracle_in_batches_of_any_order(oracles: Any, order: list[int]) -> None:
    maps = np.array(oracles["B"]["F"]).reshape(2, 4, 4)
    statistics = MapStatistics.empty(4)
    for number in order:
        statistics = statistics.merge(MapStatistics.of(maps[number : number + 1]))
    np.testing.assert_allclose(statistics.mstd, oracles["B"]["mstd"], atol=2e-6)
    np.testing.assert_array_equal(statistics.gram, oracles["B"]["gram"])
    np.testing.assert_allclose(cosines([statistics])[1, 2], oracles["B"]["cos12"], atol=2e-6)
    assert statistics.samples == 2
    assert statistics.mstd[0] == 0


def test_by_definition() -> None:
    maps = np.random.default_rng(0).standard_normal((5, 3, 7))
    statistics = MapStatistics.of(maps)
    std = [[np.sqrt(np.mean((a - a.mean()) ** 2)) for a in sample] for sample in maps]
    np.testing.assert_allclose(statistics.mstd, np.mean(std, axis=0))
    gram = [
        [sum(one @ other for one, other in zip(maps[:, i], maps[:, j], strict=True)) for j in range(3)]
        for i in range(3)
    ]
    np.testing.assert_allclose(statistics.gram, gram)
    np.testing.assert_allclose(statistics.mean, maps.mean(axis=(0, 2)))


@given(
    st.integers(0, 10_000), st.lists(st.integers(1, 3), min_size=3, max_size=3), st.integers(1, 5), st.integers(1, 4)
)
def test_merging_is_associative_and_commutative(seed: int, sizes: list[int], channels: int, entries: int) -> None:
    parts = [MapStatistics.of(integers(seed + number, size, channels, entries)) for number, size in enumerate(sizes)]
    one, two, three = parts
    sides = [one.merge(two).merge(three), one.merge(two.merge(three)), three.merge(one).merge(two)]
    whole = MapStatistics.of(
        np.concatenate([integers(seed + n, size, channels, entries) for n, size in enumerate(sizes)])
    )
    for side in sides:
        # What is summed of whole numbers is exact; roots are not whole.
        for name in ("gram", "total", "square_sum", "samples", "entries"):
            np.testing.assert_array_equal(getattr(side, name), getattr(whole, name))
        np.testing.assert_allclose(side.mstd, whole.mstd, rtol=1e-14, atol=1e-14)


def test_nothing_is_the_identity() -> None:
    statistics = MapStatistics.of(integers(0, 3, 4, 5))
    for merged in (statistics.merge(MapStatistics.empty(4)), MapStatistics.empty(4).merge(statistics)):
        np.testing.assert_array_equal(merged.mstd, statistics.mstd)
        np.testing.assert_array_equal(merged.gram, statistics.gram)


def test_maps_of_one_entry_deviate_over_the_samples() -> None:
    maps = np.random.default_rng(0).standard_normal((6, 3, 1)) * [[1], [2], [0]] + [[0], [50], [0.1]]
    parts = [MapStatistics.of(part) for part in np.split(maps, 3)]
    for order in itertools.permutations(parts):
        statistics = MapStatistics.empty(3)
        for part in order:
            statistics = statistics.merge(part)
        np.testing.assert_allclose(statistics.mstd, maps[:, :, 0].std(axis=0), atol=1e-12)
        # Of numbers that are all 0.1 sums and means round.
        assert statistics.mstd[2] == 0


def test_equal_entries_do_not_deviate_whatever_their_mean_rounds_to() -> None:
    assert (MapStatistics.of(np.full((3, 2, 49), np.float32(0.1))).mstd == 0).all()


def test_maps_that_are_zero_are_like_none() -> None:
    maps = integers(0, 3, 4, 5)
    maps[:, 2] = 0
    statistics = MapStatistics.of(maps)
    assert statistics.mstd[2] == 0
    assert not cosines([statistics])[2].any()
    assert np.isfinite(cosines([statistics])).all()


def test_without_gram_matrices_deviations_are_the_same() -> None:
    maps = integers(3, 4, 5, 6)
    with_gram, without = MapStatistics.of(maps), MapStatistics.of(maps, gram=False)
    np.testing.assert_array_equal(with_gram.mstd, without.mstd)
    np.testing.assert_array_equal(with_gram.square_sum, without.square_sum)
    assert without.gram.size == 0
    assert without.merge(MapStatistics.empty(5, gram=False)).gram.size == 0


def test_a_group_read_at_several_tensors_has_all_its_maps() -> None:
    one, two = integers(0, 3, 4, 5), integers(1, 3, 4, 2)
    both = [MapStatistics.of(one), MapStatistics.of(two)]
    together = MapStatistics.of(np.concatenate([one, two], axis=2))
    np.testing.assert_allclose(cosines(both), cosines([together]))
    np.testing.assert_allclose(mean_std(both), (both[0].mstd + both[1].mstd) / 2)
