"""DFS and SFS: what they let go, in which order, and how that ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxpfp.score.feature_statistics import (
    FeatureStatistics,
    dropped_by_dfs,
    dropped_by_sfs,
    removal_scores,
)
from onnxpfp.score.group_data import GroupData
from onnxpfp.score.map_statistics import MapStatistics, cosines, mean_std

Floats = NDArray[np.float64]


def statistics_of(maps: Any) -> list[MapStatistics]:
    return [MapStatistics.of(np.asarray(maps, np.float64))]


def clusters(seed: int, sizes: list[int]) -> Floats:
    """Maps (3, n, 8) of channels in clusters: within one they are near multiples of each other."""
    rng = np.random.default_rng(seed)
    centres = [rng.standard_normal((3, 1, 8)) for _ in sizes]
    parts = [
        centre * rng.uniform(0.5, 2.0, (1, size, 1)) + 0.01 * rng.standard_normal((3, size, 8))
        for centre, size in zip(centres, sizes, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def stays(maps: Any, **settings: Any) -> list[int]:
    """What is left of the channels."""
    removal = FeatureStatistics(**settings).removal(statistics_of(maps))
    return sorted(set(range(maps.shape[1])) - set(removal.order))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"dfs": 0.25, "sfs": 0.95}, "keep_dfs25_sfs95"),
        ({"dfs": 0.25, "sfs": 0.44}, "keep_dfs25_sfs44"),
        ({"sfs": 0.95}, [0, 2, 3]),
        ({"dfs": 0, "sfs": 0.95}, [0, 2, 3]),
    ],
)
def test_the_oracle(oracles: Any, settings: dict[str, float], kept: str | list[int]) -> None:
    maps = np.array(oracles["B"]["F"]).reshape(2, 4, 4)
    assert stays(maps, **settings) == (oracles["B"][kept] if isinstance(kept, str) else kept)


def test_a_share_of_a_group_goes_rounded_down_the_least_varied_first() -> None:
    mstd = np.array([3.0, 1.0, 2.0, 1.0, 5.0])
    assert dropped_by_dfs(mstd, ratio=0.19) == []
    assert dropped_by_dfs(mstd, ratio=0.2) == [3]
    assert dropped_by_dfs(mstd, ratio=0.7) == [3, 1, 2]
    assert dropped_by_dfs(mstd, ratio=0.99, least=3) == [3, 1]


def test_a_share_that_is_a_whole_number_counts_as_one() -> None:
    assert len(dropped_by_dfs(np.arange(100.0), ratio=0.29)) == 29


def test_a_threshold_is_a_multiple_of_the_mean_of_the_group() -> None:
    mstd = np.array([1.0, 2.0, 3.0, 6.0])
    assert dropped_by_dfs(mstd, threshold=1.0) == [0, 1]
    assert dropped_by_dfs(1e-3 * mstd, threshold=1.0) == [0, 1]
    assert dropped_by_dfs(mstd, threshold=100.0) == [0, 1, 2]
    assert dropped_by_dfs(np.zeros(4), threshold=0.5) == []


def test_of_the_most_similar_pair_the_one_goes_that_varies_less() -> None:
    cosine = np.array([[1, 0.9, 0.96, 0], [0.9, 1, 0.97, 0], [0.96, 0.97, 1, 0], [0, 0, 0, 1]])
    # First 1 and 2, of which 2 goes; then 0 and 1.
    assert dropped_by_sfs(cosine, np.array([3.0, 2.0, 1.0, 0.0]), 0.9) == [(2, 1), (1, 0)]
    # First 1 and 2 again, of which 1 goes; then 0 and 2.
    assert dropped_by_sfs(cosine, np.array([3.0, 1.0, 2.0, 0.0]), 0.9) == [(1, 2), (2, 0)]
    assert dropped_by_sfs(cosine, np.array([3.0, 1.0, 2.0, 0.0]), 0.97) == [(1, 2)]
    assert dropped_by_sfs(cosine, np.ones(4), 0.98) == []


def test_of_channels_that_vary_alike_the_larger_index_goes() -> None:
    assert dropped_by_sfs(np.ones((3, 3)), np.ones(3), 1.0) == [(1, 0), (2, 0)]


def test_what_went_before_is_like_nothing_any_more() -> None:
    assert dropped_by_sfs(np.ones((3, 3)), np.array([1.0, 2.0, 3.0]), 0.9, gone=[2]) == [(0, 1)]
    assert dropped_by_sfs(np.ones((3, 3)), np.ones(3), 0.9, least=2) == [(1, 0)]


def test_a_copy_is_alike_at_a_cosine_of_one() -> None:
    maps = np.random.default_rng(0).standard_normal((4, 1, 30)) * np.array([[1.0], [0.3], [7.0]])
    assert stays(maps, sfs=1.0) == [2]


@given(st.integers(0, 10_000), st.lists(st.integers(1, 5), min_size=1, max_size=5), st.floats(0.3, 0.99))
def test_no_cluster_goes_entirely(seed: int, sizes: list[int], tau: float) -> None:
    maps = clusters(seed, sizes)
    cosine = cosines(statistics_of(maps))
    left = stays(maps, sfs=tau)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    # Every channel that goes was like one that stayed then; no two are alike of those that stay in the end.
    assert not np.triu(cosine[np.ix_(left, left)] >= tau, 1).any()
    alike = cosine >= tau
    reachable = alike
    for _ in range(len(owner)):
        reachable = reachable.astype(np.int64) @ alike > 0
    for channel in range(len(owner)):
        assert reachable[channel, left].any()


def test_one_of_every_cluster_stays_where_clusters_are_apart() -> None:
    maps = clusters(1, [4, 3, 5])
    left = stays(maps, sfs=0.95)
    assert np.searchsorted(np.cumsum([4, 3, 5]), left, side="right").tolist() == [0, 1, 2]


@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.floats(0.0, 0.9),
    st.floats(0.3, 0.99),
)
def test_the_order_of_channels_does_not_matter_where_there_are_no_ties(
    seed: int, sizes: list[int], ratio: float, tau: float
) -> None:
    maps = clusters(seed, sizes)
    order = np.random.default_rng(seed).permutation(maps.shape[1])
    group, permuted = statistics_of(maps), statistics_of(maps[:, order])
    criterion = FeatureStatistics(dfs=ratio, sfs=tau)
    assert [int(order[channel]) for channel in criterion.removal(permuted).order] == criterion.removal(group).order
    np.testing.assert_allclose(criterion.score(data(permuted)), criterion.score(data(group))[order], rtol=1e-9)


def data(tensors: list[MapStatistics]) -> GroupData:
    size = tensors[0].std_sum.size
    return GroupData("group", np.arange(1, size + 1), map_statistics=tuple(tensors))


@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.floats(0.0, 0.9),
    st.floats(0.3, 0.99),
)
def test_what_goes_ranks_below_what_stays_in_its_order(seed: int, sizes: list[int], ratio: float, tau: float) -> None:
    group = statistics_of(clusters(seed, sizes))
    criterion = FeatureStatistics(dfs=ratio, sfs=tau)
    scores, gone = criterion.score(data(group)), criterion.removal(group).order
    left = np.setdiff1d(np.arange(scores.size), gone)
    assert (np.argsort(scores, kind="stable")[: len(gone)] == gone).all()
    assert (scores > 0).all()
    np.testing.assert_array_equal(np.argsort(scores[left]), np.argsort(mean_std(group)[left]))


def test_constant_maps_that_stay_rank_above_what_goes() -> None:
    scores = removal_scores(np.array([0.0, 2.0, 3.0, 0.0]), [2, 1])
    assert scores[2] < scores[1] < scores[0] == scores[3]
    scores = removal_scores(np.zeros(3), [1])
    assert scores[1] < scores[0]


def test_without_settings_it_ranks_by_deviation_alone() -> None:
    group = statistics_of(clusters(0, [3, 2]))
    np.testing.assert_array_equal(FeatureStatistics().score(data(group)), mean_std(group))
    assert FeatureStatistics().removal(group).order == []


def test_so_many_channels_stay() -> None:
    maps = np.repeat(np.random.default_rng(0).standard_normal((2, 1, 9)), 6, axis=1)
    assert stays(maps, dfs=0.9, sfs=0.5, least=4) == [0, 1, 2, 3]
    assert stays(maps, dfs=0.9, sfs=0.5, least=40) == [0, 1, 2, 3, 4, 5]
