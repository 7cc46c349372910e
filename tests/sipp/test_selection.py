"""The choice of single weights: budgets, bounds, draws, and the oracle of SiPP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxpfp.sipp.bounds import bound_of_draws, bound_of_dropped
from onnxpfp.sipp.deterministic import select_deterministic
from onnxpfp.sipp.hybrid import select_hybrid
from onnxpfp.sipp.layer import LayerChoice, LayerWeights, Parts, log_term
from onnxpfp.sipp.sampled import draws_within, select_sampled

QUICK = settings(max_examples=80)
Select = Callable[[Sequence[LayerWeights], int], list[LayerChoice]]

WEIGHTS = np.array([[1, -2, 0.5, 0], [-0.5, 1, 2, 3]], np.float32)
SHARES = np.array([[1, 1, 0.137931, 0], [1, 0.4, 0.470588, 0.6]], np.float32)
ORACLE = LayerWeights(WEIGHTS.ravel(), SHARES.ravel(), np.repeat([0, 1], 4), 2, log_term(1, 1, 1e-16))


def select(name: str, seed: int = 0) -> Select:
    rng = np.random.default_rng(seed)
    drawn = {"sampled": select_sampled, "hybrid": select_hybrid}
    return select_deterministic if name == "deterministic" else partial(drawn[name], rng=rng)


@st.composite
def layers(draw: st.DrawFn) -> list[LayerWeights]:
    """Layers with zeros, ties, outputs that never fire, and outputs of one sign."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found: list[LayerWeights] = []
    for _ in range(draw(st.integers(1, 3))):
        outputs, inputs = draw(st.integers(1, 5)), draw(st.integers(1, 30))
        weights = rng.standard_normal((outputs, inputs)).astype(np.float32)
        weights[rng.random(weights.shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 0
        shares = rng.random(weights.shape).astype(np.float32) ** draw(st.sampled_from([1, 8]))
        if draw(st.booleans()):
            shares = np.round(shares, 1)
        shares[weights == 0] = 0
        shares[rng.random(outputs) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
        rows = np.repeat(np.arange(outputs), inputs)
        found.append(LayerWeights(weights.ravel(), shares.ravel(), rows, outputs, log_term(9, 9, 1e-3)))
    return found


def kept(choices: Sequence[LayerChoice], given_layers: Sequence[LayerWeights]) -> int:
    """Count the weights of the file that are not zero."""
    pairs = zip(choices, given_layers, strict=True)
    return sum(int(np.count_nonzero(choice.factors * layer.weights)) for choice, layer in pairs)


@pytest.mark.parametrize("name", ["deterministic", "sampled", "hybrid"])
def test_the_budget_is_never_exceeded(name: str) -> None:
    @QUICK
    @given(layers(), st.floats(0, 1), st.integers(0, 9))
    def check(some: list[LayerWeights], share: float, seed: int) -> None:
        whole = sum(layer.nonzero for layer in some)
        budget = math.floor(share * whole)
        choices = select(name, seed)(some, budget)
        assert kept(choices, some) == sum(choice.kept for choice in choices) <= budget
        if name == "deterministic":
            assert kept(choices, some) == budget
        for choice, layer in zip(choices, some, strict=True):
            assert (choice.factors >= 0).all()
            assert not choice.factors[layer.weights == 0].any()
            assert choice.bounds.shape == choice.drawn.shape == (2 * layer.count,)

    check()


@pytest.mark.parametrize("name", ["deterministic", "sampled", "hybrid"])
@QUICK
@given(some=layers())
def test_the_whole_budget_keeps_every_weight_as_it_is(name: str, some: list[LayerWeights]) -> None:
    choices = select(name)(some, sum(layer.nonzero for layer in some))
    for choice, layer in zip(choices, some, strict=True):
        np.testing.assert_array_equal(choice.factors, layer.weights != 0)
        assert not choice.drawn.any()
        # What is too small for a sum of sensitivities counts as gone.
        assert choice.bounds.max() < 1e-6


@QUICK
@given(layers(), st.floats(0, 1))
def test_deterministic_keeps_the_largest_of_the_whole_network(some: list[LayerWeights], share: float) -> None:
    budget = math.floor(share * sum(layer.nonzero for layer in some))
    choices = select_deterministic(some, budget)
    pairs = list(zip(choices, some, strict=True))
    stay = np.concatenate([layer.shares[choice.factors > 0] for choice, layer in pairs])
    go = np.concatenate([layer.shares[(choice.factors == 0) & (layer.weights != 0)] for choice, layer in pairs])
    assert stay.min(initial=1) >= go.max(initial=0)
    for choice, layer in pairs:
        dropped = np.where(choice.factors > 0, 0, layer.shares).astype(np.float64)
        for part in range(2 * layer.count):
            assert choice.bounds[part] == pytest.approx(min(1.0, 3 * dropped[layer.parts == part].sum()))


def test_among_equal_sensitivities_the_heavier_weight_stays() -> None:
    layer = LayerWeights(np.array([1, -3, 2], np.float32), np.full(3, 0.5, np.float32), np.zeros(3, int), 1, 40.0)
    (choice,) = select_deterministic([layer], 1)
    assert choice.factors.tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["sampled", "hybrid"])
def test_the_same_seed_draws_the_same(name: str) -> None:
    rng = np.random.default_rng(3)
    weights, shares = rng.standard_normal(200).astype(np.float32), rng.random(200).astype(np.float32)
    layer = LayerWeights(weights, shares, np.repeat(np.arange(4), 50), 4, log_term(1, 1, 0.5))
    one, two, other = (select(name, seed)([layer], 100)[0].factors for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert name == "hybrid" or not np.array_equal(one, other)


def test_draws_are_right_in_the_mean() -> None:
    rng = np.random.default_rng(5)
    weights, shares = rng.standard_normal(120).astype(np.float32), rng.uniform(0.1, 1, 120).astype(np.float32)
    layer = LayerWeights(weights, shares, np.repeat(np.arange(3), 40), 3, log_term(1, 1, 0.1))
    draws = np.array([select_sampled([layer], 60, rng)[0].factors for _ in range(300)])
    error = draws.std(0, ddof=1) / math.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - 1) < 4.5 * error + 1e-9).all()
    counts = (draws > 0).sum(1)
    assert counts.max() <= 60
    assert counts.mean() > 30


@pytest.mark.parametrize("delta", [0.2, 0.02])
def test_no_more_draws_than_allowed_are_further_off_than_the_bound(delta: float) -> None:
    """With K = 3 the bound of a sum whose shares reach three times the sensitivities, and no other, may be broken."""
    rng = np.random.default_rng(7)
    terms = rng.dirichlet(np.full(60, 0.3))
    shares = (terms / 3).astype(np.float32)
    shares[:20] = rng.uniform(0, 0.05, 20)
    shares = np.maximum(shares, (terms / 3).astype(np.float32) * np.float32(1.001))
    layer = LayerWeights(np.ones(60, np.float32), shares, np.zeros(60, np.int64), 1, math.log(4 / delta))
    choices = [select_sampled([layer], 40, rng)[0] for _ in range(200)]
    errors = np.array([abs((choice.factors * terms).sum() - 1) for choice in choices])
    bounds = np.array([choice.bounds[0] for choice in choices])
    assert np.isfinite(bounds).all()
    assert errors.max() > 0.01
    assert (errors > bounds).mean() <= delta


def test_the_oracle() -> None:
    parts = Parts.of([ORACLE])
    np.testing.assert_allclose(parts.totals[[0, 2]], [1.137931, 1.470588], atol=2e-6)
    np.testing.assert_allclose(parts.totals[[1, 3]], [1, 1], atol=2e-6)
    authors = 2 * 3 * ORACLE.log_term
    assert authors == pytest.approx(237.683701, abs=2e-6)
    # The authors' form has a / m under the root, the right one twice that.
    a = authors * parts.totals[2]
    assert (a / 9 + math.sqrt((a / 9) ** 2 + 2 * a / 3)) / 2 == pytest.approx(40.283357, abs=3e-5)
    right = bound_of_draws(parts.totals[2], 3, ORACLE.log_term)
    half = a / 2
    assert right == pytest.approx(half / 9 + math.sqrt((half / 9) ** 2 + 2 * half / 3))
    assert 1 < right / 40.283357 < math.sqrt(2)
    assert bound_of_draws(parts.totals[2], 1e9, ORACLE.log_term) == pytest.approx(
        math.sqrt(2) * (a / 3e9 + math.sqrt((a / 3e9) ** 2 + 2 * a / 1e9)) / 2, rel=1e-3
    )
    (choice,) = select_deterministic([ORACLE], 4)
    assert choice.factors.reshape(2, 4).tolist() == [[1, 1, 0, 0], [1, 0, 0, 1]]
    np.testing.assert_allclose(choice.bounds, bound_of_dropped([0.137931, 0, 0.870588, 0]), atol=2e-6)


@QUICK
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=30), st.floats(0, 1))
def test_as_many_draws_as_are_expected_to_stay_within_a_number(sizes: list[float], share: float) -> None:
    p = np.array(sizes) / np.sum(sizes)
    most = share * len(p) * 0.999
    draws = draws_within(p, most)

    def distinct(count: int) -> float:
        return float((1 - (1 - p) ** count).sum())

    assert draws >= math.floor(most)
    assert distinct(draws) <= most + 1e-6
    assert distinct(draws + 1) > most - 1e-6 or draws > 1 << 39
