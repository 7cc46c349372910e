"""Swaps against least squares by brute force, and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.score.group_data import ConsumerGram
from onnxpfp.score.swaps import RIDGE, swapped


def gram(rng: np.random.Generator, channels: int, taps: int, others: int = 0) -> ConsumerGram:
    columns = channels * taps + others
    mixed = rng.standard_normal((4 * columns, columns)) @ rng.standard_normal((columns, columns))
    channel = np.concatenate([np.repeat(np.arange(channels), taps), np.full(others, -1)])
    return ConsumerGram(mixed.T @ mixed / len(mixed), rng.standard_normal((5, columns)), channel)


def error(grams: list[ConsumerGram], keep: np.ndarray) -> float:
    """Return what least squares leave, as a share of each consumer's energy."""
    total = 0.0
    for each in grams:
        covariance = each.covariance + RIDGE * np.trace(each.covariance) / len(each.covariance) * np.eye(
            len(each.covariance)
        )
        root, weights = np.linalg.cholesky(covariance).T, each.weights.T
        stays = (each.channel < 0) | keep[each.channel]
        fit = np.linalg.lstsq(root[:, stays], root @ weights)[0]
        total += np.square(root @ weights - root[:, stays] @ fit).sum() / np.square(root @ weights).sum()
    return total


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("taps", [1, 3])
def test_no_single_swap_of_the_best_candidates_is_left(seed: int, taps: int) -> None:
    rng = np.random.default_rng(seed)
    grams = [gram(rng, 8, taps), gram(rng, 8, taps, others=4)]
    keep = np.arange(8) < 4
    found = swapped(grams, keep)
    assert found.sum() == 4
    assert error(grams, found) <= error(grams, keep)
    # The channel of most gain is added, and the one of least loss dropped: neither does better once more.
    gains = {i: error(grams, found | (np.arange(8) == i)) for i in np.flatnonzero(~found)}
    added = found | (np.arange(8) == min(gains, key=gains.__getitem__))
    losses = [error(grams, added & (np.arange(8) != j)) for j in np.flatnonzero(found)]
    assert min(losses) >= (1 - 2e-4) * error(grams, found)


def test_one_of_two_equal_channels_makes_room() -> None:
    """Channels 0 and 1 are nearly the same; 2, which stands alone, was dropped."""
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((500, 3))
    samples[:, 1] = samples[:, 0] + 0.01 * rng.standard_normal(500)
    one = ConsumerGram(samples.T @ samples / 500, np.ones((2, 3)), np.arange(3))
    found = swapped([one], np.array([True, True, False]))
    assert found[2]
    assert found.sum() == 2


def test_what_nobody_reads_or_nothing_varies_stays_as_it_is() -> None:
    keep = np.array([True, False])
    still = ConsumerGram(np.zeros((2, 2)), np.ones((1, 2)), np.arange(2))
    for grams in ([], [still]):
        np.testing.assert_array_equal(swapped(grams, keep), keep)
