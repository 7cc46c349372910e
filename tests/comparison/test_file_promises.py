from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from onnxpfp.comparison.certificate import agreement_bound, mean_bound, tolerance_limit
from onnxpfp.comparison.outcomes import Outcomes
from onnxpfp.comparison.promises import Promises, promises_of
from onnxpfp.report.promises import promised

DRAWS = 400


def outcomes(rng: np.random.Generator, samples: int, agreement: float = 0.97) -> Outcomes:
    return Outcomes(rng.random(samples) < agreement, rng.lognormal(-2, 0.5, samples), None)


def test_promises_are_those_of_the_certificates() -> None:
    made = outcomes(np.random.default_rng(0), 128)
    promises = promises_of(made, 0.95, 128)
    assert made.agree is not None
    assert made.errors is not None
    assert promises.agreement is not None
    assert promises.mean_drift is not None
    kept = int(made.agree.sum())
    assert promises.agreement.at_least == agreement_bound(kept, 128, 1 - 0.95)
    assert (promises.agreement.agree, promises.agreement.samples) == (kept, 128)
    assert [limit.share for limit in promises.drift] == pytest.approx([0.5, 0.9, 0.95, 0.05 ** (1 / 128)])
    assert promises.drift[2].at_most == tolerance_limit(made.errors, 0.95, 0.05)
    assert promises.drift[-1].at_most == made.errors.max()
    assert promises.mean_drift.at_most == pytest.approx(mean_bound(np.minimum(made.errors, 1), 0.05))


def test_a_choice_among_candidates_costs_their_number() -> None:
    made = outcomes(np.random.default_rng(0), 200)
    one, many = promises_of(made, 0.95, 200), promises_of(made, 0.95, 200, candidates=99)
    assert many.agreement is not None
    assert one.agreement is not None
    assert many.agreement.at_least == pytest.approx(agreement_bound(many.agreement.agree, 200, 0.05 / 99))
    assert many.drift[-1].share == pytest.approx((0.05 / 99) ** (1 / 200))
    assert many.agreement.at_least < one.agreement.at_least
    assert many.drift[-1].share < one.drift[-1].share


def fails(promises: Promises, agreement: float, mean: float) -> tuple[bool, ...]:
    """Whether each kind of promise is false of the distribution that the samples are drawn from."""
    assert promises.agreement is not None
    assert promises.mean_drift is not None
    covered = [float(stats.lognorm.cdf(limit.at_most, 0.5, scale=np.exp(-2))) for limit in promises.drift]
    limits = tuple(true < limit.share for true, limit in zip(covered, promises.drift, strict=True))
    return promises.agreement.at_least > agreement, *limits, promises.mean_drift.at_most < mean


def test_each_promise_fails_as_seldom_as_it_says_and_the_best_of_several_files_too() -> None:
    rng, files = np.random.default_rng(1), 8
    mean = float(np.minimum(rng.lognormal(-2, 0.5, 10**6), 1).mean())
    rows: dict[str, list[tuple[bool, ...]]] = {"one": [], "best": [], "best, not counted": []}
    for _ in range(DRAWS):
        trials = [outcomes(rng, 128) for _ in range(files)]
        best = max(trials, key=agreeing)
        rows["one"].append(fails(promises_of(trials[0], 0.8, 128), 0.97, mean))
        rows["best"].append(fails(promises_of(best, 0.8, 128, candidates=files), 0.97, mean))
        rows["best, not counted"].append(fails(promises_of(best, 0.8, 128), 0.97, mean))
    allowed = stats.binom.ppf(1 - 1e-4, DRAWS, 0.2) / DRAWS
    shares = {name: np.mean(some, axis=0) for name, some in rows.items()}
    assert shares["one"].max() <= allowed
    assert shares["one"].max() > 0.05  # not far too weak
    assert shares["best"].max() <= allowed
    assert shares["best, not counted"][0] > allowed


def agreeing(made: Outcomes) -> int:
    return 0 if made.agree is None else int(made.agree.sum())


def test_the_words_round_to_the_safe_side() -> None:
    made = Outcomes(np.arange(128) >= 2, np.full(128, 0.12341), None)
    text = promised(promises_of(made, 0.95, 128), planned=False)
    assert "at least 95.1 % of inputs keep their top-1 class (126 of 128 do)" in text  # 95.16 %
    assert "in 90 % of inputs 0.124, in 95 % of inputs 0.124; its mean" in text
    few = promised(promises_of(Outcomes(None, np.full(20, 0.12341), None), 0.95, 20), planned=False)
    assert "at most, in 86 % of inputs 0.124; its mean" in few  # 86.09 %
    assert "each with a confidence of 95 %, for inputs like the 128 held-out samples" in text
    assert "chose among" not in text
    assert "chose among 99 files" in promised(promises_of(made, 0.95, 128, candidates=99), planned=False)


def test_what_no_sample_shows_is_not_promised() -> None:
    assert "keep" not in promised(promises_of(Outcomes(None, np.full(64, 0.1), None), 0.95, 64), planned=False)
    assert "error" not in promised(promises_of(Outcomes(np.ones(64, np.bool_), None, None), 0.95, 64), planned=False)
    assert promised(promises_of(Outcomes(None, None, None), 0.95, 64), planned=False).startswith("nothing")
