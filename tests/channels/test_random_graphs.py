"""Random graphs out of ops with rules: the oracle, the identity, and a second analysis of the result."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.composer import compose
from support.oracle import check_identity, check_keep, random_keep, study

RUNS = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
LOOSE = 1e-4
"""Deep chains without normalization lose digits."""


@RUNS
@given(model=compose(), seed=st.integers(0, 99), fraction=st.sampled_from([0.3, 0.6, 0.9]))
def test_masked_original_is_pruned(model, seed, fraction):
    case = study(model)
    if case.graph.count:
        keep = random_keep(case.graph, np.random.default_rng(seed), fraction)
        check_keep(case, keep, tolerance=LOOSE, moves=False, seed=seed)
    else:
        assert case.reasons


@RUNS
@given(model=compose())
def test_keep_everything_gives_the_same_bytes(model):
    check_identity(study(model))


@RUNS
@given(model=compose(), seed=st.integers(0, 99))
def test_pruned_model_has_the_kept_channels(model, seed):
    """Three of every group stay: where fewer do, an op can change its kind.

    A depthwise Conv of one channel is a plain one, and a shuffle of 2 by 2 can carry either axis.
    """
    case = study(model)
    keep = random_keep(case.graph, np.random.default_rng(seed), 0.7, least=3)
    pruned = check_keep(case, keep, tolerance=LOOSE, moves=False, seed=seed)
    again = study(pruned.model)
    assert again.graph.count == int(keep.sum()) - 1


@RUNS
@given(model=compose())
def test_every_channel_is_in_one_group_and_read_by_its_consumers(model):
    graph = study(model).graph
    members = np.concatenate([group.channels for group in graph.groups] or [np.zeros(0, np.int64)])
    assert sorted(members) == list(range(1, graph.count + 1))
    for group in graph.groups:
        assert group.consumers
        for position in group.consumers:
            assert np.isin(group.channels, graph.consumers[position].channels).all()
