"""The division of draws: within the budget, and no other division is better."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from onnxpfp.sipp.allocation import allocate_draws, whole_draws
from onnxpfp.sipp.bounds import bound_of_draws
from onnxpfp.sipp.layer import Parts

QUICK = settings(max_examples=200)


def parts_of(seed: int, count: int, spread: float, delta: float = 1e-16) -> Parts:
    rng = np.random.default_rng(seed)
    return Parts(
        rng.random(count) * 10.0 ** rng.uniform(-spread, spread, count),
        rng.integers(1, 200, count),
        np.log(8 * rng.integers(2, 1000, count) / delta),
        1 / rng.integers(1, 65, count),
    )


def objective(parts: Parts, draws: np.ndarray) -> float:
    return float((parts.weights * bound_of_draws(parts.totals, draws, parts.log_terms)).sum())


@QUICK
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([0.0, 2.0]), st.floats(0.001, 1.0))
def test_the_budget_is_used_and_no_part_gets_more_than_it_has(
    seed: int, count: int, spread: float, share: float
) -> None:
    parts = parts_of(seed, count, spread)
    budget = share * parts.counts.sum()
    draws = allocate_draws(parts, budget)
    assert draws.sum() <= budget * (1 + 1e-12)
    assert draws.sum() == pytest.approx(budget, rel=1e-9)
    assert (draws >= 0).all()
    assert (draws <= parts.counts).all()


@QUICK
@given(st.integers(0, 10**6), st.integers(2, 12), st.sampled_from([0.0, 2.0]), st.floats(0.05, 0.95))
def test_moving_draws_from_one_part_to_another_only_makes_it_worse(
    seed: int, count: int, spread: float, share: float
) -> None:
    parts = parts_of(seed, count, spread)
    draws = allocate_draws(parts, share * float(parts.counts.sum()))
    best = objective(parts, draws)
    for one in range(count):
        for other in range(count):
            step = 1e-3 * min(draws[one], parts.counts[other] - draws[other])
            if one != other and step > 0:
                moved = draws.copy()
                moved[one] -= step
                moved[other] += step
                assert objective(parts, moved) >= best * (1 - 1e-9)


def test_a_generic_solver_finds_the_same() -> None:
    parts = parts_of(3, 5, 0.5, 0.1)
    budget = 0.4 * float(parts.counts.sum())
    draws = allocate_draws(parts, budget)
    found = minimize(
        lambda m: objective(parts, m),
        np.full(5, budget / 5).clip(None, parts.counts),
        bounds=[(1e-6, count) for count in parts.counts],
        constraints={"type": "eq", "fun": lambda m: m.sum() - budget},
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    assert objective(parts, draws) <= found.fun * (1 + 1e-9)
    np.testing.assert_allclose(draws, found.x, rtol=1e-3)


def test_parts_without_a_sensitivity_get_nothing() -> None:
    parts = Parts(np.array([0.0, 1.0, 1e-9]), np.array([5, 5, 5]), np.full(3, 40.0), np.ones(3))
    np.testing.assert_allclose(allocate_draws(parts, 3), [0, 3, 0])
    np.testing.assert_allclose(allocate_draws(parts, 100), [0, 5, 0])
    assert not allocate_draws(parts, 0).any()


@QUICK
@given(st.lists(st.floats(0, 20), min_size=1, max_size=30))
def test_whole_numbers_add_up_to_no_more(given_draws: list[float]) -> None:
    draws = np.array(given_draws)
    whole = whole_draws(draws, np.ceil(draws).astype(np.int64))
    assert whole.sum() == math.floor(draws.sum() + 1e-6)
    assert (np.abs(whole - draws) <= 1).all()
