"""The three networks of `models/`: targets, counts, accuracy, the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest

import onnxpfp

Prune = Callable[..., onnxpfp.Result]

ACCURACY = {"resnet": 0.86, "densenet": 0.83, "mobilenet": 0.14}
"""Measured on the 1,000 test images at 80 % of the MACs (0.899, 0.867, 0.176), less 3 points."""
PHASES = ["load", "graph", "calibration", "allocation", "rewrite", "verification"]


def image() -> dict[str, np.ndarray]:
    return {"images": nets.fmnist("test", 1)}


@pytest.mark.parametrize("share", [0.8, 0.5])
@pytest.mark.parametrize("name", nets.NETWORKS)
def test_macs_meet_the_target(pruned: Prune, name: str, share: float) -> None:
    result = pruned(name, keep_macs=share)
    before, after = nets.count_macs(onnx.load(nets.network(name)), image()), nets.count_macs(result.model, image())
    assert share - 0.03 <= after / before <= share
    assert (result.report.before.macs, result.report.after.macs) == (before, after)
    assert result.report.target == {"macs": share}


@pytest.mark.parametrize("compensate", ["none", "bias"])
@pytest.mark.parametrize("name", nets.NETWORKS)
def test_params_meet_the_target(pruned: Prune, name: str, compensate: str) -> None:
    result = pruned(name, keep_params=0.6, compensate=compensate)
    before, after = nets.count_params(onnx.load(nets.network(name))), nets.count_params(result.model)
    assert 0.57 <= after / before <= 0.6
    assert (result.report.before.params, result.report.after.params) == (before, after)


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_bytes_are_those_of_the_files(pruned: Prune, name: str, tmp_path: Path) -> None:
    result = pruned(name, keep_macs=0.5)
    written = onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert result.report.before.bytes == nets.network(name).stat().st_size
    assert result.report.after.bytes == written == (tmp_path / "out.onnx").stat().st_size
    assert onnx.load(tmp_path / "out.onnx") == result.model


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_accuracy_has_a_floor(pruned: Prune, name: str) -> None:
    assert nets.top1(pruned(name, keep_macs=0.8).model) >= ACCURACY[name]


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_compensation_does_not_lower_the_accuracy(pruned: Prune, name: str) -> None:
    compensated = pruned(name, keep_macs=0.8, select="deterministic")
    plain = pruned(name, keep_macs=0.8, select="deterministic", compensate="none")
    assert compensated.report.compensated
    assert not plain.report.compensated
    assert compensated.plan.initializers == plain.plan.initializers
    assert nets.top1(compensated.model) >= nets.top1(plain.model)
    assert compensated.report.drift is not None
    assert plain.report.drift is not None
    assert compensated.report.drift.relative_error < plain.report.drift.relative_error


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_without_data(name: str) -> None:
    result = onnxpfp.prune(nets.network(name))
    before, after = nets.count_macs(onnx.load(nets.network(name)), image()), nets.count_macs(result.model, image())
    assert 0.67 <= after / before <= 0.7
    assert result.report.method == "coreset"
    assert (result.report.samples, result.report.drift, result.report.compensated) == (0, None, ())
    (note,) = result.report.notes
    assert note.startswith("no data: channels were chosen by weights alone")
    assert "--calib-data FILE.npz" in note
    # Twice the chance of one in ten at least: the choice is not arbitrary.
    assert nets.top1(result.model) > (0.15 if name == "mobilenet" else 0.5)


def test_report_is_json_with_everything_that_programs_need(pruned: Prune) -> None:
    report = pruned("resnet", keep_macs=0.5).report.to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    for side in ("before", "after"):
        assert set(report[side]) == {"params", "macs", "bytes"}
    assert list(report["seconds"]) == PHASES
    assert all(seconds >= 0 for seconds in report["seconds"].values())
    assert set(report["drift"]) == {"relative_error", "differing", "top1_agreement", "samples", "held_out"}
    assert {"onnxpfp", "python", "onnx", "numpy", "scipy"} <= set(report["versions"])
    assert report["versions"]["onnxpfp"] == onnxpfp.__version__
    assert {"onnxruntime", "onnxruntime-gpu"} & set(report["versions"])
    assert report["providers"] == ["CPUExecutionProvider"]
    assert all(skip["reason"] and skip["count"] > 0 for skip in report["skipped"])
    assert {skip["tensor"] for skip in report["skipped"]} <= set(nets.weights(onnx.load(nets.network("resnet"))))
    for group in report["groups"]:
        assert {"name", "channels", "kept", "sensitivity_sum", "selection", "assumption"} <= set(group)
        assert 1 <= group["kept"] <= group["channels"]
        # A channel whose share is the whole of some output: S is between 1 and the number of channels.
        assert 1 <= group["sensitivity_sum"] <= group["channels"] * (1 + 1e-6)
        assert "K = 3" in group["assumption"]
        assert group["epsilon_deterministic"] <= 1


def test_kept_channels_are_multiples_of_eight_in_wide_groups(pruned: Prune) -> None:
    for group in pruned("resnet", keep_macs=0.5).report.groups:
        assert group.channels < 32 or group.kept % 8 == 0 or group.kept == group.channels


def test_random_data_are_announced_loudly() -> None:
    report = onnxpfp.prune(nets.network("resnet"), calibration="random", keep_macs=0.8).report
    assert report.samples > 0
    assert any(note.startswith("RANDOM data") and "never for a model that ships" in note for note in report.notes)


@pytest.mark.parametrize("enough", [False, True])
def test_the_size_of_s_is_said(enough: bool) -> None:
    report = onnxpfp.prune(nets.network("resnet"), calibration=nets.CALIBRATION, samples=None if enough else 16).report
    assert (report.samples, report.samples_wanted) == (176 if enough else 12, 176)
    assert report.drift is not None
    assert (report.drift.samples, report.drift.held_out) == (64 if enough else 4, True)
    assert any("12 samples; the size formula asks for 176" in note for note in report.notes) != enough
