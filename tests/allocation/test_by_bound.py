from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxpfp.allocation.by_bound import Demand, allocate_by_bound
from onnxpfp.allocation.cost import CostModel
from onnxpfp.errors import TargetUnreachableError


def chain(sizes: list[int], coefficients: list[int], fixed: int = 0) -> CostModel:
    """Image (3) -> group 0 -> ... -> 10 classes; each layer is a product of two axes."""
    g = len(sizes)
    per_channel = np.zeros((g + 3, g), dtype=np.int64)
    per_channel[2 + np.arange(g), np.arange(g)] = 1
    lengths = np.array([1, 3, *[0] * g, 10])
    axes = [1, *range(2, g + 2), g + 2]
    terms = [*itertools.pairwise(axes), (0, 0)]
    return CostModel(lengths, per_channel, np.array(terms), np.array([*coefficients, fixed]))


def by_loop(kept: tuple[int, ...], coefficients: list[int], fixed: int) -> int:
    widths = [3, *kept, 10]
    return fixed + sum(c * a * b for c, a, b in zip(coefficients, widths, widths[1:], strict=False))


def allowed(demand: Demand) -> list[int]:
    n = demand.scores.shape[0]
    multiples = range(0, n + 1, demand.step)
    return sorted({w for w in multiples if w >= demand.minimum} | {n})


def width_at(demand: Demand, t: float) -> int:
    """The formulas of the module docstring, one group, no vectorisation."""
    s = demand.scores
    p = s / s.sum() if s.sum() > 0 else np.full(s.shape, 1 / s.size)
    m = max(1, math.ceil(t * s.sum() * demand.weight - 1e-9))
    n = math.ceil(np.sum(1 - (1 - p) ** m) - 1e-9)
    return min(allowed(demand), key=lambda w: (abs(w - n), -w))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Demand], list[int], int]:
    demands = []
    for _ in range(draw(st.integers(1, 3))):
        n = draw(st.integers(1, 6))
        # No score below 0.01 but 0, so that a grid of moderate t sees every step.
        score = st.one_of(st.just(0.0), st.floats(0.01, 1.0))
        scores = np.array(draw(st.lists(score, min_size=n, max_size=n)))
        minimum = draw(st.integers(1, 3))
        weight = draw(st.sampled_from([1.0, 40.0]))
        demands.append(Demand(scores, weight, minimum, draw(st.sampled_from([1, 1, 2, 4]))))
    coefficients = draw(st.lists(st.integers(0, 50), min_size=len(demands) + 1, max_size=len(demands) + 1))
    return demands, coefficients, draw(st.integers(0, 100))


@settings(max_examples=150)
@given(problems(), st.floats(0.05, 1.0))
def test_against_brute_force(problem, target):
    demands, coefficients, fixed = problem
    cost = chain([d.scores.shape[0] for d in demands], coefficients, fixed)
    full = by_loop(tuple(d.scores.shape[0] for d in demands), coefficients, fixed)
    budget = target * full * (1 + 1e-12)
    choices = list(itertools.product(*map(allowed, demands)))
    if all(by_loop(c, coefficients, fixed) > budget for c in choices):
        with pytest.raises(TargetUnreachableError):
            allocate_by_bound(demands, cost, target, "draws")
        return
    result = allocate_by_bound(demands, cost, target, "draws")
    assert result.full_cost == full
    assert result.cost == by_loop(result.kept, coefficients, fixed) <= budget
    assert result.kept in choices
    for t in np.geomspace(1e-3, 1e4, 400):
        point = tuple(width_at(d, t) for d in demands)
        price = by_loop(point, coefficients, fixed)
        if price <= budget:
            assert price <= result.cost
            assert all(a <= b for a, b in zip(point, result.kept, strict=True))
        # t itself is the largest that fits, up to rounding right at the step
        if t < result.t * (1 - 1e-9):
            assert price <= budget
        elif t > result.t * (1 + 1e-9):
            assert price > budget
    for g, d in enumerate(demands):
        wider = [w for w in allowed(d) if w > result.kept[g]]
        if wider:
            more = (*result.kept[:g], wider[0], *result.kept[g + 1 :])
            assert by_loop(more, coefficients, fixed) > budget


@settings(max_examples=100)
@given(problems(), st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6))
def test_cost_is_monotone_in_the_target(problem, targets):
    demands, coefficients, fixed = problem
    cost = chain([d.scores.shape[0] for d in demands], coefficients, fixed)
    costs = []
    for target in sorted(targets):
        try:
            costs.append(allocate_by_bound(demands, cost, target, "draws").cost)
        except TargetUnreachableError:
            assert not costs
    assert costs == sorted(costs)


def test_target_1_keeps_everything_also_dead_channels():
    demands = [Demand(np.array([0.0, 1.0, 0.0])), Demand(np.zeros(9), step=4)]
    result = allocate_by_bound(demands, chain([3, 9], [1, 1, 1]), 1.0, "draws")
    assert result.kept == (3, 9)
    assert result.cost == result.full_cost
    assert result.t == math.inf


def test_dead_channels_go_first_and_come_back_last():
    live = np.array([1.0, 0.9, 0.8, 0.7])
    demands = [Demand(np.r_[live, np.zeros(4)]), Demand(live)]
    cost = chain([8, 4], [0, 1, 0])  # 8 * 4
    assert allocate_by_bound(demands, cost, 0.5, "draws").kept == (4, 4)
    result = allocate_by_bound(demands, cost, 0.75, "draws")
    assert result.kept == (6, 4)
    assert result.t == math.inf


def test_more_sensitive_groups_keep_more():
    flat, peaked = np.full(16, 0.6), np.r_[1.0, np.full(15, 0.02)]
    kept = allocate_by_bound([Demand(flat), Demand(peaked)], chain([16, 16], [1, 0, 1]), 0.6, "draws").kept
    assert kept[0] > kept[1]


def test_fill_uses_what_a_coarse_step_leaves_over():
    # Group 0 moves by 16 channels, 300 each; group 1 by single channels of 10 each.
    demands = [Demand(np.full(32, 0.5), 40.0, step=16), Demand(np.linspace(0.1, 1, 600))]
    cost = chain([32, 600], [100, 0, 1])
    result = allocate_by_bound(demands, cost, 0.6, "draws")
    before = [width_at(d, result.t * (1 - 1e-9)) for d in demands]
    assert before[0] == result.kept[0] == 16  # its second step came first, and did not fit
    assert before[1] < result.kept[1] - 100  # many steps of one group
    assert result.cost <= 0.6 * result.full_cost < result.cost + 10


@pytest.mark.parametrize(
    ("n", "step", "minimum", "expected"),
    [
        (20, 8, 1, {8, 16, 20}),
        (16, 8, 1, {8, 16}),
        (20, 8, 9, {16, 20}),
        (6, 8, 1, {6}),
        (6, 1, 9, {6}),
        (5, 2, 3, {4, 5}),
    ],
)
def test_only_allowed_widths_occur(n, step, minimum, expected):
    demands = [
        Demand(np.linspace(0.1, 1, n), step=step, minimum=minimum),
        Demand(np.linspace(0.1, 1, 7)),
    ]
    cost = chain([n, 7], [1, 1, 1])
    seen = set()
    for target in np.linspace(0.02, 1, 99):
        try:
            seen.add(allocate_by_bound(demands, cost, float(target), "draws").kept[0])
        except TargetUnreachableError:
            continue
    assert seen == expected


def test_decimal_targets_admit_what_they_say():
    demand = Demand(np.linspace(0.5, 1, 100))
    cost = chain([100], [0, 1])
    for percent in range(1, 101):
        assert allocate_by_bound([demand], cost, percent / 100, "draws").kept == (percent,)


class TestUnreachable:
    def test_says_how_far_one_can_go(self):
        cost = chain([16], [1, 0], fixed=52)  # 48 of 100 can move, in halves
        with pytest.raises(TargetUnreachableError) as caught:
            allocate_by_bound([Demand(np.ones(16), step=8)], cost, 0.5, "draws")
        assert str(caught.value) == (
            "the target is 50.0% of the full cost, but 76.0% is the least that can be reached (76 of 100)"
        )
        assert caught.value.hint == "lower --round-to or --min-channels, or ask for a target of at least 0.760"
        assert caught.value.exit_code == 3
        assert allocate_by_bound([Demand(np.ones(16), step=8)], cost, 0.76, "draws").kept == (8,)

    def test_nothing_to_prune(self):
        cost = chain([], [7])
        assert allocate_by_bound([], cost, 1.0, "draws").kept == ()
        with pytest.raises(TargetUnreachableError, match="nothing in this network can go"):
            allocate_by_bound([], cost, 0.9, "draws")


@pytest.mark.parametrize("target", [0.0, -1.0, 1.1, math.nan])
def test_refuses_targets_out_of_range(target):
    with pytest.raises(ValueError, match="target must be in"):
        allocate_by_bound([], chain([], [7]), target, "draws")


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="1 demands for 2 groups"):
        allocate_by_bound([Demand(np.ones(3))], chain([3, 3], [1, 1, 1]), 0.5, "draws")
    for bad in (
        {"scores": np.ones((2, 2))},
        {"scores": np.ones(0)},
        {"scores": np.ones(2), "step": 0},
        {"scores": np.ones(2), "weight": 0.0},
        {"scores": np.full(2, 1e308), "weight": 40.0},
    ):
        with pytest.raises(ValueError, match="must be"), np.errstate(over="ignore"):
            Demand(**bad)
    with pytest.raises(ValueError, match="finite and not negative"):
        allocate_by_bound([Demand(np.array([1.0, -1.0]))], chain([2], [1, 1]), 0.5, "draws")


def test_subnormal_scores_count_as_dead():
    demands = [Demand(np.full(4, 5e-324)), Demand(np.ones(4))]
    assert allocate_by_bound(demands, chain([4, 4], [1, 0, 1]), 0.85, "draws").kept == (1, 4)


def test_a_large_network_is_fast():
    rng = np.random.default_rng(0)
    groups, n = 500, 2000
    demands = [Demand(rng.random(n) ** 3, 40.0, step=int(rng.choice([1, 8]))) for _ in range(groups)]
    # One coarse stream on top, which is a tenth of the cost: a long fill.
    demands[0] = Demand(np.ones(32), 40.0, step=16)
    coefficients = [1] * (groups + 1)
    coefficients[0] = 4_000_000
    cost = chain([d.scores.shape[0] for d in demands], coefficients)
    begin = time.process_time()
    result = allocate_by_bound(demands, cost, 0.5, "draws")
    assert time.process_time() - begin < 6.0  # about 0.3 s on an idle core
    assert 0.499 * result.full_cost < result.cost <= 0.5 * result.full_cost
