"""Prunability of a measured curve: the oracle D of `shared/oracles/oracles.json`."""

from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.allocation.prunability import read_curve

ALPHAS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
WEIGHTS = np.array([2, -1, 0.5, 0.25, 0.1])
ROWS = np.array(
    [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, -1, 0, 1, 1], [1, 0, -1, 0, 2], [-1, 0.5, 0, 1, 0]]
)
LABELS = np.array([1, 0, 1, 1, 1, 0])


def logistic_loss(alpha: float) -> float:
    """Cross-entropy of the logistic model that keeps a share of its weights, the largest first."""
    kept = WEIGHTS * (np.arange(WEIGHTS.size) < round(alpha * WEIGHTS.size))
    z = ROWS @ kept
    return float((np.log1p(np.exp(z)) - LABELS * z).mean())


def test_the_curve_of_oracle_d() -> None:
    losses = [logistic_loss(alpha) for alpha in ALPHAS]
    assert losses[0] == pytest.approx(0.190017, abs=1e-6)
    ratios = np.array(losses) / losses[0]
    oracle = np.array([1, 1.048283, 1.083381, 1.116153, 1.661257, 3.647810])
    np.testing.assert_allclose(ratios, oracle, atol=1e-5)
    found = read_curve(ALPHAS, losses, 4 * losses[0])
    area = 0.190017 * 0.2 * (oracle.sum() - (oracle[0] + oracle[-1]) / 2)
    assert (found.smallest, found.unbroken) == (0.0, 0.0)
    assert found.area == pytest.approx(area, abs=2e-6)


@pytest.mark.parametrize(("beta", "smallest"), [(0.02, 1.0), (0.05, 0.8), (0.1, 0.6), (0.2, 0.4), (0.5, 0.4)])
def test_the_smallest_shares_of_oracle_d(beta: float, smallest: float) -> None:
    losses = [logistic_loss(alpha) for alpha in ALPHAS]
    found = read_curve(ALPHAS, losses, (1 + beta) * losses[0])
    assert (found.smallest, found.unbroken) == (smallest, smallest)


def test_a_curve_that_is_not_monotone_has_two_readings() -> None:
    shares, ratios = [1, 0.8, 0.6, 0.4, 0.2], [1, 1.02, 1.15, 1.08, 1.5]
    found = read_curve(shares, ratios, 1.1)
    assert (found.smallest, found.unbroken) == (0.4, 0.8)
    assert read_curve(shares, ratios, 1.2).unbroken == 0.4
    assert read_curve(shares, ratios, 9.9).unbroken == 0.2


def test_the_area_is_that_of_the_trapezoids() -> None:
    found = read_curve([1.0, 0.5, 0.25], [0.0, 0.2, 1.0], 0.1)
    assert found.area == pytest.approx(0.5 * 0.1 + 0.25 * 0.6)
    assert read_curve([1.0], [0.0], 0.1).area == 0.0


def test_the_order_does_not_matter() -> None:
    shares, losses = np.array([1, 0.8, 0.6, 0.4, 0.2]), np.array([0, 0.01, 0.2, 0.05, 0.5])
    order = np.random.default_rng(0).permutation(5)
    assert read_curve(shares[order].tolist(), losses[order].tolist(), 0.1) == read_curve(
        shares.tolist(), losses.tolist(), 0.1
    )


def test_a_loss_that_is_no_number_is_no_good() -> None:
    found = read_curve([1.0, 0.5, 0.25], [0.0, float("nan"), 0.01], 0.1)
    assert (found.smallest, found.unbroken) == (0.25, 1.0)


def test_the_whole_must_be_within() -> None:
    for shares, losses in (([1.0, 0.5], [0.2, 0.0]), ([], []), ([1.0], [float("nan")])):
        with pytest.raises(ValueError, match=r"largest share is not within 0\.1"):
            read_curve(shares, losses, 0.1)
