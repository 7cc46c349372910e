"""Targets by quality: prune as much as what is asked of the output allows."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto

import onnxpfp
from onnxpfp import errors
from onnxpfp.comparison.drift import Drift
from onnxpfp.options import Options
from onnxpfp.pipeline.quality_search import QualityTarget

DATA = nets.noise(64, 3, 8, 8)
QUICK: dict[str, Any] = {"threads": 1, "score": "l2", "allocate": "uniform", "compensate": "none", "round_to": 1}


def pruned(model: ModelProto | None = None, **options: Any) -> onnxpfp.Result:
    """Prune in the fastest way."""
    return onnxpfp.prune(model or nets.chain(), calibration=DATA, **(QUICK | options))


def share_of(result: onnxpfp.Result) -> float:
    """Return the share of the MACs that is left."""
    return result.report.after.macs / result.report.before.macs


@pytest.mark.parametrize("bound", [0.35, 0.5, 0.8])
def test_the_drift_stays_within_and_one_percent_less_does_not(bound: float) -> None:
    result = pruned(max_drift=bound)
    report = result.report
    assert report.drift is not None
    assert not report.drift.held_out  # they chose the share
    assert report.drift.relative_error is not None
    assert report.drift.relative_error <= bound
    assert report.target == {"max_drift": bound}
    good = [trial for trial in report.trials if trial.good]
    best = min(good, key=lambda trial: trial.share)
    assert best.value == report.drift.relative_error
    assert share_of(result) <= best.share
    # Nothing was tried between the best and the next that fails but one whole percentage.
    below = max(trial.share for trial in report.trials if not trial.good and trial.share < best.share)
    assert below == pytest.approx(best.share - 0.01)
    less = pruned(keep_macs=below).report.drift
    assert less is not None
    assert less.relative_error is not None
    assert less.relative_error > bound


def test_the_agreement_is_kept() -> None:
    result = pruned(min_agreement=0.8)
    report = result.report
    assert report.drift is not None
    assert report.drift.top1_agreement is not None
    assert report.drift.top1_agreement >= 0.8
    assert share_of(result) < 1
    assert report.to_dict()["trials"][0].keys() == {"share", "value", "good"}


def test_the_result_is_that_of_the_share_it_found() -> None:
    result = pruned(max_drift=0.6)
    share = min(trial.share for trial in result.report.trials if trial.good)
    same = pruned(keep_macs=share)
    assert result.model.SerializeToString(deterministic=True) == same.model.SerializeToString(deterministic=True)
    assert same.report.trials == ()


def test_a_looser_bound_prunes_no_less() -> None:
    shares = [share_of(pruned(max_drift=bound)) for bound in (0.35, 0.5, 0.8)]
    assert shares == sorted(shares, reverse=True)


def test_everything_within_leaves_the_smallest_model() -> None:
    result = pruned(max_drift=1e9)
    kept = [group.kept for group in result.report.groups]
    assert kept == [1, 1]
    assert all(trial.good for trial in result.report.trials)


def test_the_defaults_refit_and_measure() -> None:
    report = onnxpfp.prune(nets.chain(), calibration=DATA, max_drift=0.2, threads=1).report
    assert (report.allocation, report.compensation) == ("measured", "lstsq")
    assert report.drift is not None
    assert report.drift.relative_error is not None
    assert report.drift.relative_error <= 0.2


def test_nothing_within_says_how_near_it_came() -> None:
    with pytest.raises(errors.TargetUnreachableError, match=r"within max_drift 1e-06: with 99 % of the MACs") as caught:
        pruned(max_drift=1e-6)
    asked = float(caught.value.hint.split("max_drift ")[1].split(",")[0])
    assert share_of(pruned(max_drift=asked)) < 1


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


def test_it_takes_data_and_enough_of_them() -> None:
    with pytest.raises(errors.OptionError, match="max_drift measures the data, and none are given"):
        onnxpfp.prune(nets.chain(), max_drift=0.1)
    with pytest.raises(errors.CalibrationError, match=r"min_agreement holds samples out .* 8 samples, and 7 are given"):
        onnxpfp.prune(nets.chain(), calibration=DATA[:7], min_agreement=0.9)


def test_what_a_limit_is() -> None:
    drift = Drift(0.1, None, 0.98, 50, held_out=True)
    nothing = Drift(None, 0.5, None, 50, held_out=True)
    most, least = QualityTarget.of(Options(max_drift=0.1)), QualityTarget.of(Options(min_agreement=0.98))
    assert most == QualityTarget("drift", 0.1)
    assert least == QualityTarget("agreement", 0.98)
    assert QualityTarget.of(Options()) is None
    for limit, worse in ((most, 0.1000001), (least, 0.9799999)):
        assert limit is not None
        assert limit.holds(limit.value(drift))
        assert not limit.holds(worse)
        assert not limit.holds(limit.value(nothing))
        assert np.isnan(limit.value(nothing))
