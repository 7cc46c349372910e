"""Targets by quality: prune as much as what is asked of the output allows, and promise it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxpfp
from onnxpfp import errors
from onnxpfp.allocation.fixed_sequence import RUNGS, Descent, ShareTest
from onnxpfp.allocation.search import SearchResult
from onnxpfp.comparison.certificate import agreement_bound, mean_bound
from onnxpfp.comparison.evaluator import Comparison, Evaluator
from onnxpfp.comparison.outcomes import Outcomes
from onnxpfp.options import Options
from onnxpfp.pipeline import network_steps, quality_search
from onnxpfp.pipeline.calibration import Measured, RefitCalibration
from onnxpfp.pipeline.candidate import Candidate
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.network_steps import prune_network
from onnxpfp.pipeline.quality_search import FoundShare, confirm
from onnxpfp.pipeline.quality_target import QualityTarget, require_enough
from onnxpfp.pipeline.selector import Decision

DATA = nets.noise(1024, 3, 8, 8)
QUICK: dict[str, Any] = {"threads": 1, "score": "l2", "allocate": "uniform", "compensate": "none", "round_to": 1}


def pruned(model: ModelProto | None = None, **options: Any) -> onnxpfp.Result:
    """Prune in the fastest way."""
    return onnxpfp.prune(model or nets.chain(), calibration=DATA, **(QUICK | options))


def share_of(result: onnxpfp.Result) -> float:
    """Return the share of the MACs that is left."""
    return result.report.after.macs / result.report.before.macs


def outcomes(agree: Sequence[bool] | None = None, errors_of: Sequence[float] | None = None) -> Outcomes:
    return Outcomes(
        None if agree is None else np.array(agree, bool), None if errors_of is None else np.array(errors_of), None
    )


@pytest.mark.parametrize("bound", [0.4, 0.6, 0.9])
def test_the_drift_is_promised_of_what_is_written(bound: float) -> None:
    report = pruned(max_drift=bound).report
    assert report.target == {"max_drift": bound}
    assert report.certified is not None
    assert report.certified.passed
    assert report.certified.observed < report.certified.bound <= bound
    *passed, last = report.tests
    assert all(test.passed and test.bound <= bound for test in passed)
    assert last.passed == (last.bound <= bound)
    written = last if last.passed else passed[-1]
    assert (written.observed, written.bound) == (report.certified.observed, report.certified.bound)
    assert report.after.macs <= written.share * report.before.macs
    assert report.drift is not None
    assert not report.drift.held_out  # they tested the share
    assert report.drift.samples == report.certified.samples


def test_the_agreement_is_promised_of_what_is_written() -> None:
    report = pruned(min_agreement=0.7).report
    certified = report.certified
    assert certified is not None
    agree = round(certified.observed * certified.samples)
    assert certified.bound == pytest.approx(agreement_bound(agree, certified.samples, 0.05))
    assert certified.observed > certified.bound >= 0.7
    assert report.drift is not None
    assert report.drift.top1_agreement == certified.observed
    assert report.after.macs < report.before.macs
    document = report.to_dict()
    assert document["trials"][0].keys() == {"share", "value", "good"}
    assert document["tests"][0].keys() == {"share", "observed", "bound", "passed"}
    assert document["certified"].keys() == {"samples", "observed", "bound", "passed"}
    assert document["confidence"] == 0.95


def test_more_confidence_prunes_less() -> None:
    one, two = pruned(max_drift=0.55, confidence=0.6), pruned(max_drift=0.55, confidence=1 - 1e-9)
    assert one.report.certified is not None
    assert two.report.certified is not None
    assert two.report.certified.observed < one.report.certified.observed
    assert share_of(one) < share_of(two)


def test_the_result_is_that_of_the_share_that_passed_last() -> None:
    # They note other targets.
    result = pruned(max_drift=0.6, no_metadata=True)
    share = [test.share for test in result.report.tests if test.passed][-1]
    same = pruned(keep_macs=share, no_metadata=True)
    assert result.model.SerializeToString(deterministic=True) == same.model.SerializeToString(deterministic=True)
    assert (same.report.trials, same.report.tests, same.report.certified) == ((), (), None)


def test_held_out_samples_set_no_share_and_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the held-out samples say, the same shares are searched, and put into the same order."""
    orders: list[tuple[SearchResult, tuple[float, ...]]] = []
    real_order, compare, evaluators = quality_search.order_of, Evaluator.compare, quality_search.Evaluators

    def order_of(found: SearchResult, least: float) -> tuple[float, ...]:
        orders.append((found, real_order(found, least)))
        return orders[-1][1]

    monkeypatch.setattr(quality_search, "order_of", order_of)
    pruned(max_drift=0.6)
    far_off: list[Evaluator] = []

    def noted(tuning: Evaluator, held_out: Evaluator) -> quality_search.Evaluators:
        far_off.append(held_out)
        return evaluators(tuning, held_out)

    def disturbed(self: Evaluator, *arguments: Any) -> Comparison:
        made = compare(self, *arguments)
        if not any(self is each for each in far_off) or made.outcomes.errors is None:
            return made
        return Comparison(made.drift, replace(made.outcomes, errors=np.ones_like(made.outcomes.errors)))

    monkeypatch.setattr(quality_search, "Evaluators", noted)
    monkeypatch.setattr(Evaluator, "compare", disturbed)
    with pytest.raises(errors.TargetUnreachableError, match=r"the mean error of \d+ held-out samples is 1,"):
        pruned(max_drift=0.6)
    assert len(orders) == 2
    assert orders[0] == orders[1]


def test_few_prunings_are_made_and_none_twice_but_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []

    def counting(context: Any, **parts: Any) -> Any:
        made.append(context.options.keep_macs)
        return prune_network(context, **parts)

    monkeypatch.setattr("onnxpfp.api.prune.prune_network", counting)
    report = pruned(max_drift=0.6).report
    tried = {trial.share for trial in report.trials} | {test.share for test in report.tests}
    assert set(made) == tried
    assert len(made) - len(tried) <= 1
    assert len(made) <= len(report.trials) + len(RUNGS) + 2


def test_a_network_with_its_data() -> None:
    """Of the images that nothing has seen, as many as promised keep their class."""
    images = nets.fmnist("calibration")
    options: dict[str, Any] = {"score": "energy", "allocate": "bound", "compensate": "bias", "threads": 1}
    result = onnxpfp.prune(nets.network("resnet"), calibration=images, min_agreement=0.8, **options)
    assert share_of(result) < 1
    assert result.report.certified is not None
    assert result.report.certified.bound >= 0.8
    test = nets.fmnist("test")
    one, two = (nets.run(model, test) for model in (onnx.load(nets.network("resnet")), result.model))
    assert (one.argmax(1) == two.argmax(1)).mean() >= 0.8


def test_the_defaults_refit_and_measure() -> None:
    report = onnxpfp.prune(nets.chain(), calibration=DATA[:256], max_drift=0.4, threads=1).report
    assert (report.allocation, report.compensation) == ("measured", "lstsq")
    assert report.certified is not None
    assert report.certified.bound <= 0.4


def test_gram_matrices_are_gone_once_the_curves_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Measured] = []
    real = network_steps.prune_in_steps

    def call(context: RunContext, first: Measured) -> tuple[Decision, Candidate]:
        measured.append(first)
        return real(context, first)

    monkeypatch.setattr(network_steps, "prune_in_steps", call)
    onnxpfp.prune(nets.chain(), calibration=DATA[:256], keep_macs=0.6, threads=1)
    (first,) = measured
    assert first.curves
    assert isinstance(first.calibration, RefitCalibration)
    assert not first.calibration.grams


def test_nothing_within_says_how_near_it_came() -> None:
    with pytest.raises(errors.TargetUnreachableError) as caught:
        pruned(max_drift=0.05)
    assert str(caught.value).startswith(
        "nothing can be pruned within max_drift 0.05 with a confidence of 95 %: with 99 % of the MACs the mean error of"
    )
    assert ", which promises 0." in str(caught.value)
    asked = float(caught.value.hint.split("max_drift ")[1].split(" ")[0])
    assert share_of(pruned(max_drift=asked)) < 1


def test_nothing_keeps_enough_classes() -> None:
    says = r"with 99 % of the MACs \d+\.\d % of \d+ held-out samples keep their class, which promises 0\."
    text = "g (float[N,10] x) => (float[N,6] y) { a = MatMul(x, w1) b = Relu(a) y = MatMul(b, w2) }"
    model = nets.build(text, {"w1": (10, 12), "w2": (12, 6)})
    with pytest.raises(errors.TargetUnreachableError, match=says):
        onnxpfp.prune(model, calibration=nets.noise(1024, 10), min_agreement=0.97, **QUICK)


@pytest.mark.parametrize(
    ("options", "count", "says", "most"),
    [
        (
            {"min_agreement": 0.99},
            800,
            r"min_agreement 0\.99 with a confidence of 95 % takes 299 held-out samples that all keep their class "
            r"\(473 with one that does not, 628 with two\); of 800 given, \d+ are held out",
            r"these can promise min_agreement 0\.9\d+ at the most",
        ),
        (
            {"min_agreement": 0.95},
            100,
            r"takes 59 held-out samples that all keep their class \(93 with one that does not, 124 with two\)",
            "at the most",
        ),
        (
            {"max_drift": 0.001},
            800,
            r"max_drift 0\.001 with a confidence of 95 % takes \S+ held-out samples without any error",
            r"these can promise max_drift 0\.0\d+ at the least",
        ),
        ({"max_drift": 1e-9}, 800, "takes more than a million held-out samples without any error", "at the least"),
        ({"max_drift": 0.5}, 8, "held-out samples without any error; of 8 given", "these can promise nothing"),
        ({"min_agreement": 1 - 1e-15}, 800, "takes more than a million million held-out samples", "at the most"),
        ({"min_agreement": 0.95, "confidence": 0.999}, 400, r"takes 135 held-out samples", "at the most"),
    ],
)
def test_too_few_held_out_samples_for_the_promise_are_noticed_before_anything_is_measured(
    options: dict[str, float], count: int, says: str, most: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxpfp.api.prune.measure_parts", lambda _: pytest.fail("something was measured"))
    with pytest.raises(errors.CalibrationError, match=says) as caught:
        onnxpfp.prune(nets.chain(), calibration=DATA[:count], **(QUICK | options))
    assert re.search(most, caught.value.hint)


def test_what_is_said_to_be_enough_is() -> None:
    for target in (QualityTarget("agreement", 0.9, 0.95), QualityTarget("drift", 0.2, 0.95)):
        fewest = next(n for n in range(1, 400) if target.certify(np.zeros(n)).passed)
        require_enough(target, DATA[:fewest], 1000)  # type: ignore[arg-type]
        with pytest.raises(errors.CalibrationError, match=f"takes {fewest} held-out samples"):
            require_enough(target, DATA[: fewest - 1], 1000)  # type: ignore[arg-type]


def test_nothing_can_go_at_all() -> None:
    with pytest.raises(
        errors.TargetUnreachableError, match=r"nothing can be pruned: 100\.0 % of the MACs is the least"
    ):
        pruned(max_drift=0.5, min_channels=64)


def test_an_output_that_does_not_look_like_class_scores() -> None:
    model = nets.build(
        "g (float[N,3,8,8] x) => (float[N,4,8,8] y) { a = Conv(x, w1) y = Conv(a, w2) }",
        {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1)},
    )
    with pytest.raises(errors.OptionError, match="the model: min_agreement compares the largest class") as caught:
        pruned(model, min_agreement=0.9)
    assert caught.value.hint.startswith("max_drift X")
    assert share_of(pruned(model, max_drift=0.9)) < 1


def test_an_output_that_is_no_float() -> None:
    text = "g (float[N,3,8,8] x) => (int64[N,1,8,8] y) { a = Conv(x, w1) b = Conv(a, w2) y = ArgMax <axis = 1> (b) }"
    model = nets.build(text, {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1)})
    with pytest.raises(errors.OptionError, match="max_drift looks at float outputs, and the model has none"):
        pruned(model, max_drift=0.1)


def test_an_output_of_all_samples_together() -> None:
    text = "g (float[%s,10] x) => (float[6,%s] y) { a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) y = Transpose(c) }"
    four, one = (nets.build(text % (n, n), {"w1": (10, 24), "w2": (24, 6)}) for n in (4, 1))
    data, options = nets.noise(1024, 10), {**QUICK, "max_drift": 0.8}
    with pytest.raises(errors.OptionError, match="max_drift is a mean over inputs, and an output does not") as caught:
        onnxpfp.prune(four, calibration=data, **options)
    assert caught.value.hint.startswith("export the model with one sample")
    assert share_of(onnxpfp.prune(one, calibration=data, **options)) < 1


def test_it_takes_data_and_enough_of_them() -> None:
    with pytest.raises(errors.OptionError, match="max_drift measures the data, and none are given"):
        onnxpfp.prune(nets.chain(), max_drift=0.1)
    with pytest.raises(errors.CalibrationError, match=r"min_agreement holds samples out .* 8 samples, and 7 are given"):
        onnxpfp.prune(nets.chain(), calibration=DATA[:7], min_agreement=0.9)


def test_what_a_target_promises() -> None:
    drift, agreement = QualityTarget.of(Options(max_drift=0.1)), QualityTarget.of(Options(min_agreement=0.9))
    assert drift == QualityTarget("drift", 0.1, 0.95)
    assert agreement == QualityTarget("agreement", 0.9, 0.95)
    assert QualityTarget.of(Options()) is None
    assert drift is not None
    assert agreement is not None
    losses = drift.losses(outcomes(errors_of=[0.0, 0.5, np.inf, 2.0]))
    assert losses is not None
    assert sorted(losses) == [0.0, 0.5, 1.0, 1.0]
    assert drift.losses(outcomes(agree=[True])) is None
    kept = agreement.losses(outcomes(agree=[True] * 97 + [False] * 3))
    assert kept is not None
    assert agreement.certify(kept).bound == agreement_bound(97, 100, 1 - 0.95)
    assert agreement.certify(kept).passed
    assert agreement.losses(outcomes(errors_of=[0.1])) is None
    assert not agreement.certify(np.zeros(0)).passed
    assert not drift.certify(np.zeros(0)).passed


def test_errors_come_in_an_order_that_says_nothing() -> None:
    """Bets in the order of a sorted file would win: its mean is 0.5, and the second half is all ones."""
    sizes = np.repeat([0.0, 1.0], 200)
    assert mean_bound(sizes, 0.05) > 0.5
    losses = QualityTarget("drift", 0.4, 0.95).losses(outcomes(errors_of=sizes.tolist()))
    assert losses is not None
    assert QualityTarget("drift", 0.4, 0.95).certify(losses).bound > 0.5


def test_what_other_samples_foresee() -> None:
    agreement, drift = QualityTarget("agreement", 0.9, 0.95), QualityTarget("drift", 0.9, 0.95)
    some = np.array([1.0] + [0.0] * 39)
    assert agreement.foresee(some, 200).bound == agreement_bound(195, 200, 1 - 0.95)
    assert agreement.foresee(some, 10).bound == agreement_bound(9, 10, 1 - 0.95)
    assert drift.foresee(some, 120).bound == mean_bound(np.tile(some, 3), 1 - 0.95)
    assert not agreement.foresee(np.zeros(0), 10).passed


def test_what_does_not_keep_its_promise_is_not_written() -> None:
    target = QualityTarget("agreement", 0.9, 0.95)
    found = FoundShare(target, SearchResult(0.5, ()), Descent((0.5,), (ShareTest(0.5, 0.96, 0.91, True),)))
    assert confirm(found, outcomes(agree=[True] * 100)).passed
    with pytest.raises(errors.VerificationError, match=r"--min-agreement 0\.9 .* was promised, but measured again"):
        confirm(found, outcomes(agree=[True] * 90 + [False] * 10))
