"""Which share held-out samples promise: the order, the descent, and how often the promise is false."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from onnxpfp.allocation.fixed_sequence import NEAR, RUNGS, Descent, ShareTest, descend, order_of
from onnxpfp.allocation.search import GAP, SearchResult, Trial, search
from onnxpfp.comparison.certificate import agreement_bound

ALPHA = 0.05
ASKED = 0.95
SAMPLES = 256
RUNS = 1000
PERCENTAGES = np.arange(1, 100)


def found(good: Sequence[int], bad: Sequence[int]) -> SearchResult:
    """What a search would have found: the smallest good percentage."""
    trials = [Trial(percent / 100, 0.0, percent in good) for percent in (*good, *bad)]
    return SearchResult(min(good) / 100 if good else None, tuple(trials))


def percentages(order: Sequence[float]) -> list[int]:
    return [round(100 * share) for share in order]


def test_the_order_has_the_trials_and_rungs_around_what_was_found() -> None:
    order = percentages(order_of(found([80, 60, 50], [40, 45]), 0.0))
    assert order == [97, 80, 65, 60, 56, 53, 50, 47, 45, 40]


def test_an_order_that_begins_mildly_needs_no_milder_share() -> None:
    assert percentages(order_of(found([80], [60, 70]), 0.0))[:2] == [95, 90]
    assert percentages(order_of(found([80, 79], [60, 70]), 0.0))[:2] == [97, 94]
    assert 97 not in percentages(order_of(found([80, 60, 50], [40, 45]), 0.98))


def test_a_bad_trial_above_what_was_found_is_left_out_and_one_below_is_not() -> None:
    order = percentages(order_of(found([80, 40], [60, 20, 30, 35]), 0.0))
    assert 60 not in order
    assert {80, 40, 35, 30, 20} <= set(order)


def test_where_nothing_was_good_the_trials_are_tested_all_the_same() -> None:
    assert percentages(order_of(found([], [80, 60, 90, 95, 97, 98, 99]), 0.0)) == [99, 98, 97, 95, 90, 80, 60]
    assert order_of(SearchResult(None, ()), 1.0) == ()


@given(st.sets(st.integers(1, 99)), st.sets(st.integers(1, 99)), st.integers(0, 100))
def test_the_order_goes_from_mild_to_harsh_and_costs_few_prunings(good: set[int], bad: set[int], least: int) -> None:
    result = found(sorted(good, reverse=True), sorted(bad - good))
    order = percentages(order_of(result, least / 100))
    assert order == sorted(set(order), reverse=True)
    assert all(max(1, least) <= percent < 100 for percent in order)
    made = [percent for percent in order if percent not in good | bad]
    assert len(made) <= len(RUNGS) + 1
    tried = {p for p in good | bad if p in good or not good or p < min(good)}
    assert all(abs(percent - other) > NEAR for percent in made for other in tried)


def test_the_descent_ends_at_the_first_that_fails() -> None:
    asked: list[float] = []

    def test(share: float) -> ShareTest:
        asked.append(share)
        return ShareTest(share, 0.0, 0.0, share != 0.5)

    result = descend([0.9, 0.7, 0.5, 0.3], test)
    assert asked == [0.9, 0.7, 0.5]
    assert result.passed is not None
    assert result.passed.share == 0.7
    assert result.order == (0.9, 0.7, 0.5, 0.3)
    assert descend([0.5, 0.3], test).passed is None
    assert descend([], test) == Descent((), ())


@dataclass(frozen=True)
class World:
    """Inputs of which each loses its class at some shares: a latent number of its own and one of the share decide.

    Attributes:
        flips: Share of inputs that lose their class, by percentage.
        common: How much the latent numbers of two shares have in common: with 1 the prunings are nested.
    """

    flips: np.ndarray
    common: float

    def draw(self, rng: np.random.Generator, samples: int = SAMPLES) -> np.ndarray:
        """Return how many samples lose their class, by percentage."""
        if self.common == 0:
            return rng.binomial(samples, self.flips)
        own = rng.standard_normal((samples, 1), np.float32) * np.float32(np.sqrt(self.common))
        apart = np.zeros(1, np.float32)
        if self.common < 1:
            apart = rng.standard_normal((samples, PERCENTAGES.size), np.float32)
        latent = own + apart * np.float32(np.sqrt(1 - self.common))
        return (latent < special.ndtri(self.flips).astype(np.float32)).sum(axis=0)

    def holds(self, share: float) -> bool:
        """Whether what is asked for is true."""
        return bool(self.flips[round(100 * share) - 1] <= 1 - ASKED)


def nested() -> World:
    return World(0.05 * ((100 - PERCENTAGES) / 35) ** 2, 1.0)


def steep() -> World:
    return World(np.clip(0.05 * ((100 - PERCENTAGES) / 60) ** 5, 0, 0.9), 0.9)


def wavy() -> World:
    """The less stays, the better, here and there."""
    flips = 0.05 * ((100 - PERCENTAGES) / 35) ** 2 + 0.015 * np.sin(PERCENTAGES / 3)
    return World(np.clip(flips, 1e-4, 0.9), 0.5)


def flat() -> World:
    """Every share is a little worse than what is asked for, and all are independent."""
    return World(np.full(PERCENTAGES.size, 1.001 * (1 - ASKED)), 0.0)


def cliff() -> World:
    """All shares above 55 % are just good enough to pass, those below just not true."""
    return World(np.where(PERCENTAGES > 55, 0.01, 1.001 * (1 - ASKED)), 0.0)


WORLDS: dict[str, Callable[[], World]] = {f.__name__: f for f in (nested, steep, wavy, flat, cliff)}


@dataclass(frozen=True)
class Claim:
    """What one run claims: a share, or 1 where it claims nothing; and how many prunings it made."""

    share: float
    prunings: int


def certified(flips: np.ndarray, share: float) -> float:
    return agreement_bound(SAMPLES - int(flips[round(100 * share) - 1]), SAMPLES, ALPHA)


def observed(flips: np.ndarray, share: float) -> float:
    return 1 - flips[round(100 * share) - 1] / SAMPLES


def searched(flips: np.ndarray, good: Callable[[np.ndarray, float], bool]) -> SearchResult:
    return search(lambda share: Trial(share, observed(flips, share), good(flips, share)), 0.05)


def promised(tuning: np.ndarray, held_out: np.ndarray) -> Claim:
    """What the product does."""
    result = searched(tuning, lambda flips, share: certified(flips, share) >= ASKED)

    def test(share: float) -> ShareTest:
        bound = certified(held_out, share)
        return ShareTest(share, observed(held_out, share), bound, bound >= ASKED)

    order = order_of(result, 0.05)
    descent = descend(order, test)
    tried = {trial.share for trial in result.trials} | {each.share for each in descent.tests}
    return Claim(descent.passed.share if descent.passed else 1.0, len(tried))


def while_observed(_: np.ndarray, held_out: np.ndarray) -> Claim:
    """Prune while the observed agreement is what is asked for."""

    def test(share: float) -> ShareTest:
        return ShareTest(share, 0.0, 0.0, observed(held_out, share) >= ASKED)

    descent = descend([percent / 100 for percent in range(99, 4, -1)], test)
    return Claim(descent.passed.share if descent.passed else 1.0, len(descent.tests))


def one_final_test(tuning: np.ndarray, held_out: np.ndarray) -> Claim:
    """Search with a margin on tuning samples, and test the one share that it finds."""

    def good(flips: np.ndarray, share: float) -> bool:
        return agreement_bound(SAMPLES - int(flips[round(100 * share) - 1]), SAMPLES, 0.2) >= ASKED

    result = searched(tuning, good)
    passed = result.share is not None and certified(held_out, result.share) >= ASKED
    return Claim(result.share if passed and result.share is not None else 1.0, len(result.trials))


def every_percent(_: np.ndarray, held_out: np.ndarray) -> Claim:
    """Test all whole percentages: as far as fixed-sequence testing gets."""

    def test(share: float) -> ShareTest:
        return ShareTest(share, 0.0, 0.0, certified(held_out, share) >= ASKED)

    descent = descend([percent / 100 for percent in range(99, 4, -1)], test)
    return Claim(descent.passed.share if descent.passed else 1.0, len(descent.tests))


@functools.cache
def drawn(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what tuning and held-out samples do in many runs."""
    world, rng = WORLDS[name](), np.random.default_rng(0)
    return [(world.draw(rng), world.draw(rng)) for _ in range(RUNS)]


def claims(name: str, how: Callable[[np.ndarray, np.ndarray], Claim], runs: int = RUNS) -> list[Claim]:
    return [how(tuning, held_out) for tuning, held_out in drawn(name)[:runs]]


def false_share(name: str, made: Sequence[Claim]) -> float:
    world = WORLDS[name]()
    return float(np.mean([claim.share < 1 and not world.holds(claim.share) for claim in made]))


MOST = float(stats.binom.ppf(1 - 1e-4, RUNS, ALPHA) / RUNS)
"""Share of runs that may claim falsely, so that a method at alpha passes in all but one of 10,000 runs of this test."""


@pytest.mark.parametrize("name", WORLDS)
def test_the_promise_is_false_as_seldom_as_it_says(name: str) -> None:
    assert false_share(name, claims(name, promised)) <= MOST


def test_the_promise_is_no_weaker_than_it_has_to_be() -> None:
    """Where the first share in the order is not true, it is claimed as often as alpha allows."""
    assert false_share("flat", claims("flat", promised)) >= ALPHA / 3


@pytest.mark.parametrize("name", WORLDS)
def test_pruning_while_the_observed_agreement_is_good_fails_the_same_test(name: str) -> None:
    assert false_share(name, claims(name, while_observed)) > MOST


@pytest.mark.parametrize("name", ["nested", "steep", "wavy"])
def test_it_gets_further_than_one_final_test_and_nearly_as_far_as_testing_every_percent(name: str) -> None:
    reached, once, all_of_them = (
        float(np.mean([claim.share for claim in claims(name, how)]))
        for how in (promised, one_final_test, every_percent)
    )
    assert reached < once
    assert reached < all_of_them + 0.02


@pytest.mark.parametrize("name", ["nested", "steep", "wavy"])
def test_few_prunings_are_made(name: str) -> None:
    made, all_of_them = claims(name, promised), claims(name, every_percent)
    assert np.mean([claim.prunings for claim in made]) < 11
    assert max(claim.prunings for claim in made) <= 15
    assert np.mean([claim.prunings for claim in all_of_them]) > 2 * np.mean([claim.prunings for claim in made])


def test_the_gap_that_is_left_is_as_small_as_the_rungs() -> None:
    assert max(a - b for a, b in zip(sorted({*RUNGS, 0})[1:], sorted({*RUNGS, 0}), strict=False)) <= GAP
