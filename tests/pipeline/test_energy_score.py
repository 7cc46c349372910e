"""`--score energy` through the whole pipeline."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import onnx
import pytest

import onnxpfp
from onnxpfp.errors import OptionError


def test_energy_keeps_what_carries_the_output() -> None:
    # Channel 0 fires rarely but then alone, so its sensitivity is 1; channel 1 carries nearly all energy.
    text = """g (float[N,3] x) => (float[N,2] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"""
    model = nets.build(text, {"w1": (3, 3), "w2": (3, 2)})
    w1 = np.eye(3, dtype=np.float32)
    w2 = np.array([[0.01, 0.01], [5, 5], [0.02, 0.02]], np.float32)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(w1 if tensor.name == "w1" else w2, tensor.name))
    data = np.abs(np.random.default_rng(0).standard_normal((32, 3))).astype(np.float32)
    data[::8] = [1, 0, 0]
    kept = {
        score: onnxpfp.prune(model, calibration=data, keep_macs=0.4, score=score, allocate="bound", compensate="none")
        for score in ("pfp", "energy")
    }
    assert kept["energy"].plan.initializers["w1"].keep[1] == (1,)
    assert kept["energy"].report.method == "energy"
    drift = {score: result.report.drift.relative_error for score, result in kept.items() if result.report.drift}
    assert drift["energy"] < 0.05


WITHOUT_BOUNDS = ("energy", "l1", "l2", "fpgm", "wanda", "hrank", "apoz", "reconstruction", "random")


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("score", WITHOUT_BOUNDS)
def test_scores_that_are_no_sensitivities_have_no_bound(score: str, data: bool) -> None:
    if not data and score in {"energy", "wanda", "hrank", "apoz", "reconstruction"}:
        pytest.skip("it needs data")
    options: dict[str, Any] = {"keep_macs": 0.7, "score": score, "allocate": "bound"}
    result = onnxpfp.prune(nets.chain(), calibration=nets.noise(64, 3, 8, 8) if data else None, **options)
    groups = [group for group in result.report.groups if group.kept < group.channels]
    assert groups
    assert {group.selection for group in groups} == {"deterministic"}
    assert {(group.epsilon, group.sensitivity_sum, group.ranked_by) for group in groups} == {(None, None, score)}
    assert {group.no_epsilon for group in groups} == {f"the scores of --score {score} are no sensitivities"}
    assert {group.assumption for group in groups} == {""}
    assert {group.choice_error is not None for group in groups} == {data}
    assert not any("vacuous" in note or "size formula" in note for note in result.report.notes)
    found = next(group for group in result.report.to_dict()["groups"] if group["kept"] < group["channels"])
    assert (found["epsilon"], found["no_epsilon"]) == (None, f"the scores of --score {score} are no sensitivities")


@pytest.mark.parametrize("select", ["sampled", "mixed"])
def test_draws_need_sensitivities(select: str) -> None:
    with pytest.raises(OptionError, match="needs score pfp"):
        onnxpfp.prune(nets.chain(), calibration=nets.noise(8, 3, 8, 8), select=select, score="energy")


def test_energy_needs_data() -> None:
    with pytest.raises(OptionError, match="none are given"):
        onnxpfp.prune(nets.chain(), score="energy")


def test_a_vacuous_bound_is_said() -> None:
    options: dict[str, Any] = {"keep_macs": 0.5, "allocate": "bound", "compensate": "bias"}
    notes = onnxpfp.prune(nets.network("resnet"), calibration=nets.CALIBRATION, **options).report.notes
    assert any("vacuous (eps = 1)" in note and "ranked by mean output energy" in note for note in notes)


@pytest.mark.parametrize(
    ("select", "eps"), [("deterministic", "eps = 1)"), ("sampled", "eps = 1 to "), ("mixed", "eps = 1")]
)
def test_only_what_was_ranked_by_energy_is_said_to_be(select: str, eps: str) -> None:
    options: dict[str, Any] = {"keep_macs": 0.5, "allocate": "bound", "compensate": "bias", "select": select}
    notes = onnxpfp.prune(nets.network("resnet"), calibration=nets.CALIBRATION, **options).report.notes
    assert any(f"vacuous ({eps}" in note for note in notes)
    assert not any("energy" in note for note in notes)
