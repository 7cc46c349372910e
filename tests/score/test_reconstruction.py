"""Costs of removal against the oracle and against refits on what is left."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from onnxpfp.score.group_data import ConsumerGram
from onnxpfp.score.reconstruction import removal_costs


def gram(n: int, seed: int = 0, samples: int = 60) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((samples, n)) @ np.random.default_rng(seed + 1).standard_normal(
        (n, n)
    )
    return x.T @ x / samples


def weights(o: int, n: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((o, n))


def excess(consumer: ConsumerGram, gone: set[int], ridge: float) -> float:
    """Error that is left when channels are gone and the rest is refitted on H = G + ridge I, as a share."""
    n = len(consumer.covariance)
    h = consumer.covariance + ridge * np.trace(consumer.covariance) / n * np.eye(n)
    stays = ~np.isin(consumer.channel, list(gone))
    full = consumer.weights @ h
    fitted = np.zeros_like(consumer.weights)
    if stays.any():
        fitted[:, stays] = np.linalg.solve(h[np.ix_(stays, stays)], full[:, stays].T).T
    gap = consumer.weights - fitted
    return float(
        np.einsum("on,nm,om->", gap, h, gap)
        / np.einsum("on,nm,om->", consumer.weights, consumer.covariance, consumer.weights)
    )


def greedy(grams: list[ConsumerGram], count: int, ridge: float) -> list[tuple[int, float]]:
    """Take the channel whose removal leaves the least error, by refits from scratch."""
    gone: set[int] = set()
    order: list[tuple[int, float]] = []
    before = 0.0
    while len(gone) < count:
        errors = {
            c: sum(excess(consumer, gone | {c}, ridge) for consumer in grams) for c in range(count) if c not in gone
        }
        best = min(errors, key=lambda c: errors[c])
        order.append((best, errors[best] - before))
        before = errors[best]
        gone.add(best)
    return order


def check(grams: list[ConsumerGram], count: int, ridge: float = 1e-3) -> None:
    found = removal_costs(grams, count, ridge)
    wanted = greedy(grams, count, ridge)
    assert np.argsort(found, kind="stable").tolist() == [channel for channel, _ in wanted]
    rising = np.maximum.accumulate([cost for _, cost in wanted])
    np.testing.assert_allclose(np.sort(found), rising, rtol=1e-5, atol=1e-7)


def test_f1_the_first_channel_that_goes_costs_what_the_oracle_says(oracles: dict[str, Any]) -> None:
    case = oracles["F1"]
    g, w = np.array(case["G"], float), np.array(case["W"], float)
    ridge = 0.1 / (np.trace(g) / 4)
    found = removal_costs([ConsumerGram(g, w, np.arange(4))], 4, ridge)
    total = np.einsum("on,nm,om->", w, g, w)
    first = {channel: 0.572293 if channel == 0 else None for channel in range(4)}
    assert int(found.argmin()) == 0
    assert found[0] * total == pytest.approx(first[0], abs=2e-6)
    check([ConsumerGram(g, w, np.arange(4))], 4, ridge)


def test_single_columns_cost_what_their_refit_leaves() -> None:
    check([ConsumerGram(gram(7), weights(3, 7), np.arange(7))], 7)


def test_blocks_of_columns_go_together() -> None:
    check([ConsumerGram(gram(12), weights(4, 12), np.repeat(np.arange(4), 3))], 4)


def test_blocks_may_be_unequal_and_lie_anywhere() -> None:
    channel = np.array([2, 0, 1, 0, 2, 2, 3])
    check([ConsumerGram(gram(7), weights(2, 7), channel)], 4)


def test_columns_of_other_channels_help_and_never_go() -> None:
    channel = np.array([0, -1, 1, -1, 2])
    consumer = ConsumerGram(gram(5), weights(2, 5), channel)
    check([consumer], 3)


def test_costs_add_up_over_consumers_as_shares_of_their_variance() -> None:
    grams = [
        ConsumerGram(gram(6, 1), 100 * weights(3, 6, 1), np.repeat(np.arange(3), 2)),
        ConsumerGram(gram(3, 2), weights(2, 3, 2), np.array([1, 0, 2])),
    ]
    check(grams, 3)
    scaled = [ConsumerGram(grams[0].covariance, grams[0].weights / 50, grams[0].channel), grams[1]]
    np.testing.assert_allclose(removal_costs(grams, 3), removal_costs(scaled, 3))


def test_groups_of_a_convolution_are_consumers_of_their_own_channels() -> None:
    grams = [
        ConsumerGram(gram(4, 1), weights(2, 4, 1), np.array([0, 0, 1, 1])),
        ConsumerGram(gram(4, 2), weights(2, 4, 2), np.array([2, 2, 3, 3])),
    ]
    check(grams, 4)


def test_a_channel_made_of_others_goes_first_and_for_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((50, 4))
    x[:, 2] = 0.5 * x[:, 0] - 2 * x[:, 3]
    found = removal_costs([ConsumerGram(x.T @ x / 50, weights(3, 4), np.arange(4))], 4, 1e-9)
    # Whichever of the three goes, the other two are left to make it.
    cheapest = int(found.argmin())
    assert cheapest in {0, 2, 3}
    assert found[cheapest] < 1e-6 < np.sort(found)[1]


def test_a_channel_that_nothing_reads_costs_nothing() -> None:
    found = removal_costs([ConsumerGram(gram(2), weights(2, 2), np.array([0, 2]))], 3)
    assert int(found.argmin()) == 1
    assert found[1] < 1e-12


@pytest.mark.parametrize("dead", ["weights", "data"])
def test_a_dead_consumer_leaves_the_ranking_to_the_others(dead: str) -> None:
    alive = ConsumerGram(gram(4), weights(2, 4), np.arange(4))
    silent = ConsumerGram(gram(4) * (dead == "weights"), weights(2, 4) * (dead == "data"), np.arange(4))
    np.testing.assert_allclose(removal_costs([alive, silent], 4), removal_costs([alive], 4))
    assert np.isfinite(removal_costs([silent], 4)).all()


def test_costs_are_strictly_rising_so_that_no_tie_is_left() -> None:
    found = removal_costs([ConsumerGram(np.eye(6), np.ones((2, 6)), np.arange(6))], 6)
    assert len(set(found.tolist())) == 6


@pytest.mark.parametrize("left", [20, 50, 100, 150])
def test_a_wide_group_loses_several_channels_a_step_and_ends_up_nearly_as_well(left: int) -> None:
    n = 200
    consumer = ConsumerGram(gram(n, samples=1000), weights(20, n), np.arange(n))
    found = np.argsort(removal_costs([consumer], n)).tolist()
    exact = [channel for channel, _ in _quick_greedy(consumer, n)]
    assert excess(consumer, set(found[:left]), 1e-3) < 1.1 * excess(consumer, set(exact[:left]), 1e-3)


def test_channels_that_stand_in_for_each_other_do_not_go_together() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 100))
    x = np.hstack([x, x + 1e-3 * rng.standard_normal(x.shape)])
    consumer = ConsumerGram(x.T @ x / 2000, np.tile(rng.uniform(0.5, 2, 100), (5, 2)), np.arange(200))
    gone = np.argsort(removal_costs([consumer], 200))[:100]
    # One of every pair is enough.
    assert len(set((gone % 100).tolist())) == 100
    assert excess(consumer, set(gone.tolist()), 1e-3) < 1e-3


def _quick_greedy(consumer: ConsumerGram, n: int) -> list[tuple[int, float]]:
    """One by one, by the update of the inverse as the papers write it."""
    h = consumer.covariance + 1e-3 * np.trace(consumer.covariance) / n * np.eye(n)
    inverse, w = np.linalg.inv(h), consumer.weights.copy()
    alive = np.ones(n, bool)
    order = []
    for _ in range(n):
        cost = np.where(alive, np.square(w).sum(0) / np.maximum(np.diag(inverse), 1e-300), np.inf)
        c = int(cost.argmin())
        order.append((c, float(cost[c])))
        w -= np.outer(w[:, c], inverse[c]) / inverse[c, c]
        inverse -= np.outer(inverse[:, c], inverse[c]) / inverse[c, c]
        alive[c] = False
        w[:, c] = inverse[c] = inverse[:, c] = 0
    return order


def test_where_taps_count_alike_every_tap_is_an_output() -> None:
    covariance, apart = gram(4), weights(3, 4 * 2)
    channel = np.repeat(np.arange(4), 2)
    taps = apart.reshape(3, 4, 2)
    rows = np.concatenate([taps[:, :, 0], taps[:, :, 1]])
    found = removal_costs([ConsumerGram(covariance, apart, channel)], 4)
    np.testing.assert_allclose(found, removal_costs([ConsumerGram(covariance, rows, np.arange(4))], 4))


def test_the_order_of_the_consumers_does_not_matter() -> None:
    grams = [ConsumerGram(gram(4, seed), weights(2, 4, seed), np.arange(4)) for seed in range(3)]
    first = removal_costs(grams, 4)
    for order in itertools.permutations(grams):
        np.testing.assert_allclose(removal_costs(order, 4), first)
