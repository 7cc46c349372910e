from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.brute_shares import identity_model, measure

from onnxpfp.allocation.select import select
from onnxpfp.linear.ops import LinearOp
from onnxpfp.score.pfp import (
    draws_for,
    epsilon_deterministic,
    epsilon_mixed,
    epsilon_sampled,
    log_miss,
    probabilities,
    sample_failure,
    sample_size,
    stopped,
    upper_envelope,
)

P14 = np.array([5.0, 2.0, 4.0, 3.0]) / 14.0


def shares(w: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Shares of all products of same sign of a linear layer, (4 * outputs, channels)."""
    parts = [np.maximum(sw * w, 0.0) * np.maximum(sa * a, 0.0) for sw in (1, -1) for sa in (1, -1)]
    products = np.concatenate(parts)
    totals = products.sum(axis=1, keepdims=True)
    return np.divide(products, totals, out=np.zeros_like(products), where=totals > 0)


def sensitivity(w: np.ndarray, points: np.ndarray, kernel: Literal["sum", "max"] = "sum") -> np.ndarray:
    """Sensitivities of the channels of a linear layer (O, C), as they are measured for a pruning."""
    outputs, channels = w.shape
    weight = np.ascontiguousarray(w.T, dtype=np.float32)
    op = LinearOp("w", "matmul", "x", (1, channels), 1, np.arange(1, channels + 1), weight, (1, outputs))
    model = identity_model(("N", channels))
    return measure(model, op, points.astype(np.float32), kernel=kernel).sensitivity


def test_the_hand_made_layer_of_the_oracles():
    w = np.array([[1, -2, 0.5, 0], [-0.5, 1, 2, 3]])
    s = sensitivity(w, np.array([[5, 0.6, 1.6, 1], [1, 2, 0, 1]]))
    np.testing.assert_allclose(s, [1, 1, 0.470588, 0.6], atol=2e-6)
    assert s.sum() == pytest.approx(3.070588, abs=2e-6)
    picked = select(s, 2, how="deterministic", rng=np.random.default_rng(0), n_outputs=8, delta=0.1)
    assert picked.keep.tolist() == [True, True, False, False]
    assert (picked.total, picked.bound) == (pytest.approx(3.070588, abs=2e-6), 1.0)


class TestSampleFailure:
    stage = (16 * 1024,) * 7 + (32 * 256,) * 6 + (64 * 64,) * 6 + (10,)
    """Outputs of ResNet-20's layers."""

    def test_resnet20_is_promised_nothing_up_to_71_samples(self):
        assert sample_failure(self.stage, 71) > 1 > sample_failure(self.stage, 72)

    def test_is_what_the_size_formula_solves(self):
        outputs = np.array([10, 300, 7])
        for delta in (0.5, 1e-3, 1e-16):
            n = sample_size(outputs, delta)
            assert sample_failure(outputs, n) <= delta < sample_failure(outputs, n - 1)
        assert sample_failure(outputs, 60) == pytest.approx(8 * 317 * 300 * math.exp(-20), rel=1e-12)

    def test_neither_vanishes_nor_overflows(self):
        assert 0 < sample_failure([10], 10**7) < 1e-300
        assert math.isfinite(sample_failure([10**300], 0))


def test_stopping_when_it_suits_is_paid_for():
    paid = [stopped(0.1, m) for m in range(1, 20000)]
    assert 0.0999 < sum(paid) < 0.1
    assert paid == sorted(paid, reverse=True)


class TestSampleSize:
    def test_resnet20_on_cifar_needs_183(self):
        stage = {16: 32 * 32, 32: 16 * 16, 64: 8 * 8}
        convs = [16] * 7 + [32] * 7 + [64] * 7  # with 1x1 shortcuts
        assert sample_size([c * stage[c] for c in convs] + [10], 1e-16) == 183
        without = [16] * 7 + [32] * 6 + [64] * 6
        assert sample_size([c * stage[c] for c in without] + [10], 1e-16) == 183

    def test_takes_arrays_and_tiny_deltas(self):
        assert sample_size(np.array([10, 10]), 1e-300) == math.ceil(3 * (math.log(8 * 20 * 10) + 300 * math.log(10)))

    @pytest.mark.parametrize(("outputs", "delta"), [([], 0.1), ([0], 0.1), ([1], 0.0)])
    def test_refuses_nonsense(self, outputs, delta):
        with pytest.raises(ValueError, match=r"must be positive|need 0 < delta"):
            sample_size(outputs, delta)


def test_upper_envelope_takes_the_maximum_and_leaves_index_0():
    parts = [
        (np.array([1, 3]), np.array([0.5, 0.2])),
        (np.array([0, 3, 3]), np.array([0.9, 0.1, 0.4])),
    ]
    np.testing.assert_array_equal(upper_envelope(parts, 4), [0, 0.5, 0, 0.4, 0])
    np.testing.assert_array_equal(upper_envelope([], 2), [0, 0, 0])


class TestBounds:
    @pytest.mark.parametrize("seed", range(20))
    def test_deterministic_holds_exactly_on_the_same_data(self, seed):
        rng = np.random.default_rng(seed)
        w, points = rng.standard_normal((3, 6)), rng.standard_normal((4, 6))
        s = sensitivity(w, points)
        for _ in range(10):
            keep = rng.random(6) < 0.6
            bound = s[~keep].sum()
            for a in points:
                kept = shares(w, a)[:, keep].sum(axis=1)
                error = np.where(shares(w, a).any(axis=1), 1.0 - kept, 0.0)
                assert np.all(error <= bound + 1e-6)
                assert np.all(error <= epsilon_deterministic(s, keep, k=1.0) + 1e-6)

    def test_sampled_holds_far_more_often_than_it_promises(self):
        rng = np.random.default_rng(0)
        w, a = rng.random((3, 8)), rng.random((1, 8))
        s = sensitivity(w, a)
        p, m, z = s / s.sum(), 200, w @ a[0]
        eps = epsilon_sampled(s.sum(), m, 3, 0.1, k=1.0)
        counts = rng.multinomial(m, p, size=2000)
        zhat = (counts / (m * p) * a) @ w.T
        failed = np.any(np.abs(zhat - z) >= eps * z, axis=1).mean()
        assert eps < 1.0
        assert failed <= 0.1

    def test_sampled_inverts_bernstein(self):
        s, m, n, delta, k = 2.5, 400, 64, 1e-3, 3.0
        eps = epsilon_sampled(s, m, n, delta, k)
        tail = 2 * math.exp(-3 * eps**2 * m / (k * s * (6 + 2 * eps)))
        assert n * tail == pytest.approx(delta)

    def test_edges(self):
        s = np.array([0.5, 0.0, 0.25])
        none = np.zeros(3, dtype=bool)
        assert epsilon_deterministic(s, ~none) == 0.0
        assert epsilon_deterministic(s, none) == 1.0
        assert epsilon_deterministic(s, np.array([True, True, False]), k=2.0) == 0.5
        assert epsilon_sampled(0.0, 0, 1, 0.1) == 0.0
        assert epsilon_sampled(1.0, 0, 1, 0.1) == math.inf
        assert epsilon_mixed(s, np.array([True, False, True]), 0, 1, 0.1) == 0.0
        assert epsilon_mixed(s, none, 0, 1, 0.1) == math.inf
        assert epsilon_mixed(s, none, 9, 4, 0.1) == epsilon_sampled(0.75, 9, 4, 0.1)
        assert math.isfinite(epsilon_sampled(1.0, 5, 10**6, 1e-320))


class TestProbabilities:
    def test_shares(self):
        np.testing.assert_allclose(probabilities(np.array([5, 2, 4, 3.0])), P14)

    @pytest.mark.parametrize("scores", [[0.0, 0.0], [5e-324, 5e-324], [1e308, 1e308]])
    def test_no_nan(self, scores):
        np.testing.assert_array_equal(probabilities(np.array(scores)), [0.5, 0.5])

    def test_negligible_shares_are_zero(self):
        p = probabilities(np.array([1.0, 1e-8, 1.0]))
        np.testing.assert_array_equal(p, [0.5, 0, 0.5])

    @pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
    def test_refuses(self, bad):
        with pytest.raises(ValueError, match="finite and not negative"):
            probabilities(np.array([1.0, bad]))


def expected_distinct(p: np.ndarray, draws: float | np.ndarray) -> np.ndarray:
    """How many different channels m draws hit on average: sum_j 1 - (1 - p_j)^m."""
    return -np.expm1(np.asarray(draws)[..., None] * log_miss(p)).sum(axis=-1)


class TestDraws:
    def test_expected_distinct_of_the_oracles(self):
        assert expected_distinct(P14, 4) == pytest.approx(2.648011, abs=2e-6)
        np.testing.assert_allclose(expected_distinct(P14, np.array([[4], [8]])), [[2.648011], [3.466464]], atol=2e-6)

    def test_edges(self):
        assert expected_distinct(np.array([1.0, 0.0]), 5) == 1.0
        assert expected_distinct(P14, 0) == 0.0
        assert draws_for(P14, 0) == 0
        assert draws_for(P14, 1) == 1
        assert draws_for(np.array([1.0, 0.0]), 2) == 1

    def test_small_probabilities_keep_their_digits(self):
        p = np.array([1e-12, 1 - 1e-12])
        assert expected_distinct(p, 1) - 1.0 == pytest.approx(0.0, abs=1e-15)
        assert expected_distinct(p[:1], 3) == pytest.approx(3e-12, rel=1e-9)

    @given(st.lists(st.floats(1e-4, 1.0), min_size=2, max_size=12), st.integers(1, 12))
    def test_draws_for_is_the_smallest(self, scores, n):
        p = probabilities(np.array(scores))
        n = min(n, len(scores) - 1)
        m = draws_for(p, n)
        by_hand = next(i for i in range(1, 10**7) if math.ceil(np.sum(1 - (1 - p) ** i) - 1e-9) >= n) if m < 2000 else m
        assert m == by_hand
        assert math.ceil(expected_distinct(p, m) - 1e-9) >= n
        assert m == 1 or math.ceil(expected_distinct(p, m - 1) - 1e-9) < n
