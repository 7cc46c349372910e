from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onnxpfp.comparison.certificate import (
    agreement_bound,
    largest_coverage,
    mean_bound,
    samples_needed,
    tolerance_limit,
)

ALPHA = 0.05
DRAWS = 4000


def allowed(draws: int, alpha: float = ALPHA) -> float:
    """Share of draws in which a promise at alpha may fail, so that a true one passes in all but one of 10,000 runs."""
    return float(stats.binom.ppf(1 - 1e-4, draws, alpha) / draws)


@pytest.mark.parametrize(("agree", "samples", "percent"), [(63, 64, 92.8), (126, 128, 95.2), (128, 128, 97.7)])
def test_agreement_is_the_figure_of_the_books(agree: int, samples: int, percent: float) -> None:
    assert 100 * agreement_bound(agree, samples, ALPHA) == pytest.approx(percent, abs=0.05)


@given(st.integers(1, 400), st.data())
def test_agreement_is_the_exact_binomial_bound(samples: int, data: st.DataObject) -> None:
    agree = data.draw(st.integers(1, samples))
    bound = agreement_bound(agree, samples, ALPHA)
    assert bound == pytest.approx(stats.beta.ppf(ALPHA, agree, samples - agree + 1), rel=1e-9)
    assert stats.binom.sf(agree - 1, samples, bound) == pytest.approx(ALPHA, rel=1e-6)


def test_nothing_is_promised_where_none_agrees_and_counts_that_cannot_be_are_refused() -> None:
    assert agreement_bound(0, 100, ALPHA) == 0
    for agree, samples in ((-1, 10), (11, 10), (0, 0)):
        with pytest.raises(ValueError, match="no count"):
            agreement_bound(agree, samples, ALPHA)


@pytest.mark.parametrize(
    ("share", "misses", "samples"),
    [(0.95, 0, 59), (0.95, 1, 93), (0.95, 2, 124), (0.99, 0, 299), (0.99, 1, 473), (0.99, 2, 628)],
)
def test_a_promise_takes_so_many_samples(share: float, misses: int, samples: int) -> None:
    assert samples_needed(share, ALPHA, misses) == samples
    assert agreement_bound(samples - misses, samples, ALPHA) >= share
    assert agreement_bound(samples - 1 - misses, samples - 1, ALPHA) < share


@pytest.mark.parametrize("share", [0.0, 1.0, 1 - 1e-15])
def test_no_number_of_samples_promises_everything_or_nothing(share: float) -> None:
    with pytest.raises(ValueError, match="no number of samples"):
        samples_needed(share, ALPHA)


@pytest.mark.parametrize(("samples", "rank"), [(128, 126), (512, 495)])
def test_the_order_statistic_is_that_of_wilks(samples: int, rank: int) -> None:
    sizes = np.random.default_rng(0).permutation(np.arange(1.0, samples + 1))
    assert tolerance_limit(sizes, 0.95, ALPHA) == rank


@given(st.integers(1, 300), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.sampled_from([0.001, 0.05, 0.3]))
def test_the_order_statistic_is_the_smallest_that_may_be_promised(samples: int, share: float, alpha: float) -> None:
    limit = tolerance_limit(np.arange(1.0, samples + 1), share, alpha)
    ranks = [r for r in range(1, samples + 1) if stats.binom.cdf(r - 1, samples, share) >= 1 - alpha]
    assert limit == (min(ranks) if ranks else None)
    assert (limit is None) == (largest_coverage(samples, alpha) < share)


def test_a_share_of_inputs_stays_within_the_limit_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.lognormal(size=(DRAWS, 100))
    limits = np.array([tolerance_limit(row, 0.9, ALPHA) for row in sizes])
    failures = (stats.lognorm.cdf(limits, 1.0) < 0.9).mean()
    assert ALPHA / 4 < failures <= allowed(DRAWS)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_agreement_is_above_its_bound_as_often_as_promised(share: float) -> None:
    agree = np.random.default_rng(2).binomial(200, share, DRAWS)
    bounds = np.array([agreement_bound(int(k), 200, ALPHA) for k in agree])
    assert ALPHA / 4 < (bounds > share).mean() <= allowed(DRAWS)


@pytest.mark.parametrize("mean", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["two points", "beta"])
def test_a_mean_is_below_its_bound_as_often_as_promised(mean: float, kind: str) -> None:
    rng, draws = np.random.default_rng(3), 500
    shape = (draws, 150)
    losses = rng.binomial(1, mean, shape).astype(float) if kind == "two points" else rng.beta(mean, 1 - mean, shape)
    bounds = np.array([mean_bound(row, ALPHA) for row in losses])
    assert (bounds < mean).mean() <= allowed(draws)
    assert bounds.max() <= 1


def test_the_bound_of_a_mean_is_tighter_than_those_that_were_there_before() -> None:
    losses = np.random.default_rng(4).beta(0.3, 9.7, (200, 512))
    betting = np.mean([mean_bound(row, ALPHA) for row in losses])
    spread = losses.var(axis=1, ddof=1)
    log = np.log(2 / ALPHA)
    bernstein = np.mean(losses.mean(1) + np.sqrt(2 * spread * log / 512) + 7 * log / (3 * 511))
    assert losses.mean() < betting < 0.04 < bernstein


def test_a_few_samples_promise_nothing_of_a_mean_and_losses_are_shares() -> None:
    assert mean_bound(np.zeros(0), ALPHA) == 1
    assert mean_bound(np.zeros(1), ALPHA) == 1
    assert mean_bound(np.ones(50), ALPHA) == 1
    assert mean_bound(np.zeros(100), ALPHA) < 0.05
    with pytest.raises(ValueError, match="losses"):
        mean_bound(np.array([0.5, 1.5]), ALPHA)
