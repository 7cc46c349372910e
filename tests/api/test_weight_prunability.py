"""`onnxpfp.prunability` of single weights and with labels (Kuhn et al., arXiv 2103.06002)."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxpfp
from onnxpfp.allocation.prunability import read_curve
from onnxpfp.allocation.weight_order import at_random, by_magnitude, by_sensitivity, kept_counts, masks
from onnxpfp.comparison.labelled import cross_entropies
from onnxpfp.errors import ModelError, OptionError
from onnxpfp.report.prunability import PrunabilityReport
from onnxpfp.report.weight_prunability import WeightPrunabilityReport

ORACLES = nets.SHARED / "oracles" / "oracles.json"
LINE = "g (float[N,5] x) => (float[N,1] y) { y = MatMul(x, w) }"
SHARES = {"0.02", "0.05", "0.1", "0.2", "0.5"}


def measured(model: ModelProto, **given: Any) -> WeightPrunabilityReport:
    report = onnxpfp.prunability(model, measure="weights", threads=1, **given)
    assert isinstance(report, WeightPrunabilityReport)
    return report


@pytest.mark.shared
@pytest.mark.parametrize("beta", sorted(SHARES))
def test_oracle_d(beta: str) -> None:
    if not ORACLES.exists():
        pytest.skip(f"{ORACLES} is not there")
    d = json.loads(ORACLES.read_text())["D"]
    assert set(d["prunability"]) == SHARES
    model = nets.build(LINE, {"w": np.array(d["w"])[:, None]})
    report = measured(model, calibration=np.array(d["X"], np.float32), labels=d["y"], beta=float(beta))
    (curve,) = report.curves
    assert report.loss == pytest.approx(d["L0"], abs=1e-6)
    np.testing.assert_allclose(curve.shares, d["alpha"])
    np.testing.assert_allclose(np.array(curve.losses) / report.loss, d["ratio"], atol=2e-6)
    assert report.smallest == pytest.approx(d["prunability"][beta])


def test_a_curve_that_is_not_monotone_has_two_readings() -> None:
    found = read_curve([1, 0.8, 0.6, 0.4, 0.2], [1, 1.02, 1.15, 1.08, 1.5], 1.1)
    assert (found.smallest, found.unbroken) == (0.4, 0.8)


def test_masks_are_nested_and_of_the_largest() -> None:
    weights = [np.array([[3.0, -1.0], [0.5, 2.0]]), np.array([-4.0, 0.1, 1.0])]
    order = by_magnitude(weights)
    assert order.tolist() == [4, 0, 3, 1, 6, 2, 5]
    kept = [np.concatenate([mask.ravel() for mask in masks(weights, order, count)]) for count in range(8)]
    for few, more in pairwise(kept):
        assert (few <= more).all()
        assert more.sum() == few.sum() + 1
    assert sorted(at_random(weights, np.random.default_rng(0)).tolist()) == list(range(7))
    assert kept_counts(5, [1.0, 0.9, 0.5, 0.3, 0.0]) == [5, 4, 2, 1, 0]


def test_the_written_zeros_are_the_smallest_over_all_layers() -> None:
    model, data = nets.chain(), nets.noise(64, 3, 8, 8)
    report = measured(model, calibration=data, tolerance=0.05)
    weights = {name: value for name, value in nets.weights(model).items() if value.ndim > 1}
    assert report.weights == sum(value.size for value in weights.values())
    (curve,) = report.curves
    share = curve.shares[2]
    magnitudes = np.sort(np.abs(np.concatenate([value.ravel() for value in weights.values()])))[::-1]
    limit = magnitudes[round(share * report.weights) - 1]
    masked = ModelProto()
    masked.CopyFrom(model)
    for tensor in masked.graph.initializer:
        if tensor.name in weights:
            value = weights[tensor.name]
            zeroed = np.where(np.abs(value) >= limit, value, np.float32(0))
            tensor.CopyFrom(numpy_helper.from_array(zeroed, tensor.name))
    output = model.graph.output[0].name
    wanted, found = (nets.values(one, {model.graph.input[0].name: data})[output] for one in (model, masked))
    logs = [value - np.log(np.exp(value).sum(1, keepdims=True)) for value in (wanted, found)]
    assert curve.losses[2] == pytest.approx((np.exp(logs[0]) * (logs[0] - logs[1])).sum(1).mean(), rel=1e-4)


def test_by_sipp_the_largest_sensitivities_stay() -> None:
    # The weights, inputs and sensitivities of the shared methods page (SiPP).
    weights = np.array([[1, -2, 0.5, 0], [-0.5, 1, 2, 3]], np.float32)
    inputs = np.array([[5, 0.6, 1.6, 1], [1, 2, 0, 1]], np.float32)
    shares = np.array([[1, 1, 4 / 29, 0], [1, 0.4, 8 / 17, 0.6]])
    model = nets.build("g (float[N,4] x) => (float[N,2] y) { y = MatMul(x, w) }", {"w": weights.T})
    (curve,) = measured(model, calibration=inputs, by="sipp").curves
    order = np.argsort(-shares.T.ravel(), kind="stable")

    def log_softmax(matrix: Any) -> Any:
        scores = inputs @ matrix
        return scores - np.log(np.exp(scores).sum(1, keepdims=True))

    wanted = log_softmax(weights.T)
    for share, loss in zip(curve.shares, curve.losses, strict=True):
        kept = np.zeros(8, np.float32)
        kept[order[: round(8 * share)]] = 1
        found = log_softmax(weights.T * kept.reshape(4, 2))
        assert loss == pytest.approx((np.exp(wanted) * (wanted - found)).sum(1).mean(), abs=1e-6)


def test_weights_without_sensitivities_stay_longest() -> None:
    order = by_sensitivity([np.ones(2), np.ones(3)], [np.array([0.5, 0.1], np.float32), None])
    assert order.tolist() == [2, 3, 4, 0, 1]


def test_draws_are_averaged_and_follow_the_seed() -> None:
    model, data = nets.chain(), nets.noise(32, 3, 8, 8)
    one, two = (measured(model, calibration=data, by="random", draws=3, seed=seed) for seed in (1, 1))
    other = measured(model, calibration=data, by="random", draws=3, seed=2)
    assert len(one.curves) == 3
    assert one.curves == two.curves != other.curves
    assert one.smallest == pytest.approx(np.mean([curve.prunability.smallest for curve in one.curves]))
    assert one.median == np.median([curve.prunability.smallest for curve in one.curves])
    assert one.to_dict()["median"] == one.median


def test_channels_with_labels() -> None:
    model, data = nets.chain(), nets.noise(64, 3, 8, 8)
    scores = nets.values(model, {model.graph.input[0].name: data})[model.graph.output[0].name]
    report = onnxpfp.prunability(model, calibration=data, labels=scores.argmax(1), beta=0.2, threads=1)
    assert isinstance(report, PrunabilityReport)
    assert list(report.network_losses.values()) == ["cross-entropy"]
    assert list(report.losses.values()) == ["KL divergence"]
    # Of the samples that measure the network, the held-out ones.
    losses = cross_entropies(scores, scores.argmax(1))
    assert losses.min() <= report.curve[0].loss <= losses.max()
    assert report.network_limit == pytest.approx(max(1.2 * report.curve[0].loss, report.curve[0].loss + 1e-3))


def test_cross_entropies() -> None:
    logits = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [np.nan, 0.0, 0.0]])
    found = cross_entropies(logits, np.array([1, 2, 0]))
    assert found[0] == pytest.approx(np.log(np.exp([1.0, 2.0, 0.5]).sum()) - 2.0)
    assert found[1] == pytest.approx(np.log(3))
    assert found[2] == np.inf
    binary = cross_entropies(np.array([[0.7], [-0.3]]), np.array([1, 0]))
    np.testing.assert_allclose(binary, [np.log1p(np.exp(-0.7)), np.log1p(np.exp(-0.3))])
    probabilities = cross_entropies(np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([0, 1]))
    np.testing.assert_allclose(probabilities, -np.log([0.25, 0.5]))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "too few labels": ({"labels": [0, 1]}, "2 for 32 samples"),
    "no whole numbers": ({"labels": np.full(32, 0.5)}, "whole numbers from 0 on"),
    "negative": ({"labels": [-1] * 32}, "whole numbers from 0 on"),
    "no such class": ({"labels": [1000] * 32}, "1000 is none of the"),
    "a file that is not there": ({"labels": "nowhere.npy"}, "nowhere.npy does not exist"),
    "by without weights": ({"measure": "channels", "by": "random"}, "measure weights"),
    "a score": ({"score": "l1"}, "score says how channels go"),
    "a scope": ({"exclude": ["w1"]}, "exclude says how channels go"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused(name: str) -> None:
    given, message = REFUSED[name]
    with pytest.raises(OptionError, match=message):
        onnxpfp.prunability(nets.chain(), calibration=nets.noise(32, 3, 8, 8), **{"measure": "weights", **given})


def test_a_model_without_weights_is_refused() -> None:
    model = nets.build("g (float[N,5] x) => (float[N,5] y) { y = Relu(x) }", {})
    with pytest.raises(ModelError, match="no float weights"):
        measured(model, calibration=nets.noise(8, 5))
