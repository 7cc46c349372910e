from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxpfp.allocation.select import Selection, select
from onnxpfp.score.pfp import draws_for, epsilon_deterministic, epsilon_sampled, stopped

S_A = np.array([5.0, 2.0, 4.0, 3.0])
W2 = np.array([[1, -2, 0.5, 0], [-0.5, 1, 2, 3]])


def run(scores, n, how="sampled", seed=0, **options) -> Selection:
    settings = {"n_outputs": 64, "delta": 1e-3, **options}
    return select(np.asarray(scores), n, how=how, rng=np.random.default_rng(seed), **settings)


def test_deterministic_keeps_the_largest_as_they_are():
    picked = run(S_A, 2, "deterministic")
    assert picked.keep.tolist() == [True, False, True, False]
    assert picked.factor.tolist() == [1, 0, 1, 0]
    assert (picked.variant, picked.requested, picked.draws) == ("deterministic",) * 2 + (0,)
    assert picked.total == 14.0


def test_ties_go_to_the_lower_index():
    assert run([1, 2, 2, 2, 1], 2, "deterministic").keep.tolist() == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert run(np.zeros(4), 3, "deterministic").keep.tolist() == [True, True, True, False]


def test_deterministic_leaves_the_generator_alone():
    rng = np.random.default_rng(3)
    select(S_A, 2, how="deterministic", rng=rng, n_outputs=1, delta=0.1)
    assert rng.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize("how", ["sampled", "mixed"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_factors_are_unbiased(how, n):
    # The estimate of W2 from 6000 selections, against its own standard error.
    rng = np.random.default_rng(11)
    factors = np.array([select(S_A, n, how=how, rng=rng, n_outputs=1, delta=0.1).factor for _ in range(6000)])
    mean, error = factors.mean(axis=0), factors.std(axis=0) / np.sqrt(len(factors))
    if how == "mixed" and n == 3:
        assert error[0] < 1e-12 < error[1]  # sure ones have no error at all
    assert np.all(np.abs(mean - 1.0) <= 4.5 * error + 1e-12)
    assert np.all(np.abs(W2 * mean - W2) <= 4.5 * np.abs(W2) * error + 1e-12)


def draw_one_by_one(p: np.ndarray, n: int, rng: np.random.Generator) -> tuple[int, list[bool]]:
    seen: set[int] = set()
    draws = 0
    for j in rng.choice(len(p), p=p, size=60).tolist():
        if j not in seen and len(seen) == n:
            break
        seen.add(j)
        draws += 1
    return draws, [j in seen for j in range(len(p))]


def test_a_draw_follows_the_law_of_drawing_one_by_one():
    rng, n, runs = np.random.default_rng(5), 2, 6000
    quick = [select(S_A, n, how="sampled", rng=rng, n_outputs=1, delta=0.1) for _ in range(runs)]
    slow = [draw_one_by_one(S_A / 14, n, rng) for _ in range(runs)]
    draws, expected = np.array([q.draws for q in quick]), np.array([d for d, _ in slow])
    assert draws.mean() == pytest.approx(expected.mean(), abs=0.1)
    assert draws.std() == pytest.approx(expected.std(), abs=0.15)
    keep = np.mean([q.keep for q in quick], axis=0)
    np.testing.assert_allclose(keep, np.mean([k for _, k in slow], axis=0), atol=0.035)


@pytest.mark.parametrize("how", ["deterministic", "sampled", "mixed", "auto"])
@pytest.mark.parametrize("scores", [S_A, np.zeros(4), np.array([0, 0, 1.0, 0])])
def test_the_full_width_changes_nothing(how, scores):
    picked = run(scores, 4, how)
    assert picked.factor.tolist() == [1, 1, 1, 1]
    assert picked.epsilon.deterministic == picked.epsilon.sampled == picked.epsilon.mixed == 0.0
    assert picked.draws == 0


def test_one_channel_is_weighted_by_its_chance():
    for seed in range(5):
        picked = run(S_A, 1, seed=seed)
        (j,) = np.flatnonzero(picked.keep)
        assert picked.factor[j] == pytest.approx(14.0 / S_A[j])


class TestZeros:
    scores = np.array([0.0, 3.0, 0.0, 1.0, 2.0, 0.0])

    @pytest.mark.parametrize("how", ["sampled", "mixed"])
    def test_zeros_are_never_drawn(self, how):
        for seed in range(50):
            assert not np.any(run(self.scores, 2, how, seed).keep[self.scores == 0])

    @pytest.mark.parametrize("how", ["sampled", "mixed"])
    def test_zeros_fill_up_what_is_asked_for_beyond(self, how):
        picked = run(self.scores, 4, how)
        assert picked.keep.tolist() == [True, True, False, True, True, False]
        assert set(picked.factor.tolist()) == {0.0, 1.0}
        assert picked.epsilon.of(how) == 0.0

    @pytest.mark.parametrize("how", ["deterministic", "sampled", "mixed", "auto"])
    def test_all_zero(self, how):
        picked = run(np.zeros(5), 2, how)
        assert picked.keep.sum() == 2
        assert np.all(np.isfinite(picked.factor))
        assert picked.epsilon.of(picked.variant) == 0.0

    def test_the_bound_counts_what_is_never_drawn(self):
        scores = np.array([1.0, 1.0, 1.0, 1e-8])
        draws = draws_for(np.full(3, 1 / 3), 2)
        expected = epsilon_sampled(3.0, draws, 64, stopped(1e-3, draws)) + 3e-8
        assert run(scores, 2).epsilon.sampled == pytest.approx(expected, rel=1e-12)


def test_mixed_keeps_the_sure_ones():
    scores = np.r_[1.0, np.full(30, 0.01)]
    for seed in range(20):
        picked = run(scores, 10, "mixed", seed)
        assert picked.factor[0] == 1.0
        assert picked.draws > 0
        assert picked.epsilon.mixed < picked.epsilon.sampled


class TestAuto:
    def test_takes_the_smallest_bound(self):
        rng = np.random.default_rng(0)
        seen = set()
        for _ in range(200):
            scores = rng.random(400) ** rng.integers(0, 4) * rng.choice([1e-4, 1e-2, 1])
            picked = run(scores, int(rng.integers(1, 400)), "auto", n_outputs=2, delta=0.5, k=1.0)
            bounds = picked.epsilon
            best = min(bounds.deterministic, bounds.sampled, bounds.mixed)
            assert bounds.of(picked.variant) == best
            seen.add(picked.variant)
        assert len(seen) > 1

    def test_ties_go_to_the_plain_one(self):
        assert run(S_A, 4, "auto").variant == "deterministic"

    def test_bounds_are_those_of_pfp(self):
        bounds = run(S_A / 14, 2, "auto").epsilon
        assert bounds.deterministic == epsilon_deterministic(S_A / 14, np.array([True, False, True, False]))
        draws = draws_for(S_A / 14, 2)
        assert bounds.sampled == epsilon_sampled(1.0, draws, 64, stopped(1e-3, draws))

    @pytest.mark.parametrize("how", ["sampled", "mixed"])
    def test_the_bound_is_of_the_draws_that_were_made(self, how):
        scores = np.r_[1.0, np.full(300, 0.01)]
        for seed in range(20):
            picked = run(scores, 100, how, seed)
            rest = scores.sum() if how == "sampled" else scores[1:].sum()
            at = stopped(1e-3, picked.draws)
            assert picked.bound == pytest.approx(epsilon_sampled(rest, picked.draws, 64, at), rel=1e-12)

    def test_scores_that_are_no_sensitivities_bound_nothing(self):
        picked = run(S_A / 14, 2, "auto", unbounded="they are norms", tie_break=S_A[::-1])
        assert (picked.epsilon, picked.bound, picked.unbounded) == (None, None, "they are norms")
        assert (picked.variant, picked.tie_broken) == ("deterministic", False)
        assert picked.keep.tolist() == [True, False, True, False]

    def test_the_bound_of_channels_that_energy_ranked_is_theirs(self):
        chosen = run([1.0, 0.9, 1.0, 0.8], 2, "auto", tie_break=np.array([0.1, 0.6, 0.2, 0.4]))
        assert (chosen.tie_broken, chosen.bound) == (True, 1.0)


class TestNotReweightable:
    def test_auto_is_deterministic(self):
        picked = run(np.full(400, 1e-2), 200, "auto", reweightable=False)
        assert picked.variant == "deterministic"
        assert picked.epsilon.sampled == picked.epsilon.mixed == math.inf

    @pytest.mark.parametrize("how", ["sampled", "mixed"])
    def test_sampling_is_refused(self, how):
        with pytest.raises(ValueError, match=f"columns cannot be scaled in this group.*{how}"):
            run(S_A, 2, how, reweightable=False)


@pytest.mark.parametrize("n", [-1, 5])
def test_refuses_widths_out_of_range(n):
    with pytest.raises(ValueError, match=f"cannot keep {n} of 4"):
        run(S_A, n)


@settings(max_examples=200)
@given(
    st.lists(st.one_of(st.just(0.0), st.floats(0.0, 1.0)), min_size=1, max_size=20),
    st.integers(1, 20),
    st.sampled_from(["deterministic", "sampled", "mixed", "auto"]),
    st.integers(0, 2**32 - 1),
)
def test_properties(scores, n, how, seed):
    n = min(n, len(scores))
    picked = run(scores, n, how, seed)
    assert picked.keep.sum() == n
    assert np.all(picked.factor[picked.keep] > 0)
    assert np.all(picked.factor[~picked.keep] == 0)
    assert np.all(np.isfinite(picked.factor))
    assert picked.epsilon.of(picked.variant) >= 0
    again = run(scores, n, how, seed)
    np.testing.assert_array_equal(picked.factor, again.factor)
    assert picked.draws == again.draws


class TestTieBreak:
    scores = np.array([1.0, 0.9, 1.0, 0.8])
    energy = np.array([0.1, 0.6, 0.2, 0.4])

    def choose(self, scores, how="auto", tie_break=None):
        rng = np.random.default_rng(0)
        return select(scores, 2, how=how, rng=rng, n_outputs=10, delta=1e-16, tie_break=tie_break)

    def test_ranks_where_no_bound_is_below_one(self):
        chosen = self.choose(self.scores, tie_break=self.energy)
        assert chosen.keep.tolist() == [False, True, False, True]
        assert (chosen.variant, chosen.tie_broken, chosen.epsilon.deterministic) == ("deterministic", True, 1.0)

    def test_leaves_a_bound_that_says_something_alone(self):
        chosen = self.choose(np.array([1.0, 0.01, 0.9, 0.02]), tie_break=self.energy)
        assert chosen.keep.tolist() == [True, False, True, False]
        assert not chosen.tie_broken
        assert chosen.epsilon.deterministic == pytest.approx(0.09)

    def test_leaves_an_explicit_choice_alone(self):
        chosen = self.choose(self.scores, how="deterministic", tie_break=self.energy)
        assert chosen.keep.tolist() == [True, False, True, False]
        assert not chosen.tie_broken
