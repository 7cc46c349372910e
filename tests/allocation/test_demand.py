"""The rule "bound": one error for all groups, as small as the budget admits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxpfp.allocation.by_bound import Demand, allocate_by_bound
from onnxpfp.allocation.cost import CostModel
from onnxpfp.errors import TargetUnreachableError


def chain(widths: list[int], factors: list[int]) -> CostModel:
    """A chain of layers: cost = sum of factor * width * next width (the last one reads width * 1)."""
    groups = len(widths)
    per_channel = np.vstack([np.zeros((1, groups), np.int64), np.eye(groups, dtype=np.int64)])
    fixed = np.array([1] + [0] * groups)
    terms = np.array([[g + 1, g + 2 if g + 1 < groups else 0] for g in range(groups)])
    return CostModel(fixed, per_channel, terms, np.array(factors))


def widths_of(demand: Demand) -> list[int]:
    """All widths that are allowed."""
    size = demand.scores.size
    first = -(-demand.minimum // demand.step) * demand.step
    return sorted({*range(first, size + 1, demand.step), size})


def error(demand: Demand, width: int) -> float:
    """Bound of a group, summed over its consumers."""
    return demand.consumers * float(np.sort(demand.scores)[: demand.scores.size - width].sum())


def worst(demands: list[Demand], kept: tuple[int, ...]) -> float:
    return max(error(d, k) for d, k in zip(demands, kept, strict=True))


DEMANDS = st.lists(
    st.builds(
        Demand,
        st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=5).map(np.array),
        minimum=st.integers(1, 2),
        step=st.integers(1, 2),
        consumers=st.integers(1, 3),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150)
@given(DEMANDS, st.floats(0.05, 1.0), st.data())
def test_no_choice_of_widths_within_the_budget_has_a_smaller_worst_bound(
    demands: list[Demand], target: float, data: st.DataObject
) -> None:
    factors = data.draw(st.lists(st.integers(1, 9), min_size=len(demands), max_size=len(demands)))
    cost = chain([d.scores.size for d in demands], factors)
    full = cost.total(np.array([d.scores.size for d in demands]))
    choices = [c for c in itertools.product(*map(widths_of, demands)) if cost.total(np.array(c)) <= target * full]
    if not choices:
        with pytest.raises(TargetUnreachableError):
            allocate_by_bound(demands, cost, target, "bound")
        return
    kept = allocate_by_bound(demands, cost, target, "bound").kept
    assert cost.total(np.array(kept)) <= target * full + 1e-9
    assert all(k in widths_of(d) for k, d in zip(kept, demands, strict=True))
    assert worst(demands, kept) <= min(worst(demands, c) for c in choices) + 1e-12
    for group, demand in enumerate(demands):
        wider = [w for w in widths_of(demand) if w > kept[group]][:1]
        for width in wider:
            more = np.array(kept)
            more[group] = width
            assert cost.total(more) > target * full


def test_a_group_that_many_read_keeps_more() -> None:
    scores = np.linspace(0.1, 1.0, 10)
    cost = chain([10, 10], [1, 10])
    alone = allocate_by_bound([Demand(scores), Demand(scores)], cost, 0.6, "bound").kept
    shared = allocate_by_bound([Demand(scores), Demand(scores, consumers=5)], cost, 0.6, "bound").kept
    assert shared[1] > alone[1]
    assert shared[0] < alone[0]


def test_channels_without_sensitivity_go_first() -> None:
    scores = np.array([0.0, 0.5, 0.0, 0.7, 0.0, 0.9])
    assert allocate_by_bound([Demand(scores)], chain([6], [1]), 0.5, "bound").kept == (3,)
    assert allocate_by_bound([Demand(scores)], chain([6], [1]), 0.7, "bound").kept == (4,)


def test_many_groups_are_quick_and_within_one_step() -> None:
    rng = np.random.default_rng(0)
    demands = [Demand(rng.random(256), step=8, consumers=int(rng.integers(1, 9))) for _ in range(200)]
    cost = chain([256] * 200, [3] * 200)
    result = allocate_by_bound(demands, cost, 0.5, "bound")
    assert 0.499 < result.cost / result.full_cost <= 0.5
