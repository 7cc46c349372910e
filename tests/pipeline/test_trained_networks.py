"""The three networks of `models/`: targets, counts, accuracy, the report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest

import onnxpfp

Prune = Callable[..., onnxpfp.Result]

ACCURACY = {
    ("resnet", 0.8): 0.934,
    ("resnet", 0.5): 0.918,
    ("densenet", 0.8): 0.929,
    ("densenet", 0.5): 0.914,
    ("mobilenet", 0.8): 0.915,
    ("mobilenet", 0.5): 0.9,
}
"""Measured on the first 1,000 test images at these shares of the MACs, less one point; whole they have 0.948, 0.946
and 0.928."""
PLAIN = {"allocate": "bound", "select": "deterministic"}
"""Settles what stays without a look at the output, so that only the compensation differs."""
PHASES = [
    "load",
    "shapes",
    "channels",
    "lossless",
    "calibration",
    "ranking",
    "allocation",
    "curves",
    "compensation",
    "rewrite",
    "verification",
    "latency",
]


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


@pytest.mark.parametrize("compensate", ["none", "bias", "lstsq"])
@pytest.mark.parametrize("name", nets.NETWORKS)
def test_params_meet_the_target(pruned: Prune, name: str, compensate: str) -> None:
    result = pruned(name, keep_params=0.6, allocate="bound", compensate=compensate)
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


@pytest.mark.parametrize(("name", "share"), ACCURACY)
def test_accuracy_has_a_floor(pruned: Prune, name: str, share: float) -> None:
    assert nets.top1(pruned(name, keep_macs=share).model) >= ACCURACY[name, share]


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_every_compensation_brings_more_than_the_one_before(pruned: Prune, name: str) -> None:
    plain, biased, refitted = (
        pruned(name, keep_macs=0.8, **PLAIN, compensate=how) for how in ("none", "bias", "lstsq")
    )
    assert (plain.report.compensated, plain.report.refits, biased.report.refits) == ((), (), ())
    assert biased.report.compensated
    assert plain.plan.initializers == biased.plan.initializers == refitted.plan.initializers
    drifts = [each.report.drift for each in (plain, biased, refitted)]
    errors = [drift.relative_error for drift in drifts if drift is not None]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[0] / 4
    accuracies = [nets.top1(each.model) for each in (plain, biased, refitted)]
    assert accuracies == sorted(accuracies)
    assert accuracies[2] > accuracies[1] + 0.05


def test_a_refit_is_only_taken_where_it_is_better_on_unseen_data(pruned: Prune) -> None:
    refits = pruned("resnet", keep_macs=0.8, **PLAIN, compensate="lstsq", effort="low").report.refits
    model = onnx.load(nets.network("resnet"))
    linear = [node.name or node.output[0] for node in model.graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
    assert sorted(refit.name for refit in refits) == sorted(linear)
    assert all(refit.after <= refit.before for refit in refits)
    # The first layer reads the image, which is whole: there is nothing to learn.
    assert refits[0].before == pytest.approx(0, abs=1e-9)
    assert any(refit.after < refit.before / 10 for refit in refits[1:])


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_without_data(name: str) -> None:
    result = onnxpfp.prune(nets.network(name), no_latency=True)
    before, after = nets.count_macs(onnx.load(nets.network(name)), image()), nets.count_macs(result.model, image())
    assert 0.67 <= after / before <= 0.7
    assert result.report.method == "coreset-share"
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
        assert set(report[side]) == {"params", "macs", "bytes", "activations"}
    assert list(report["seconds"]) == PHASES
    assert all(seconds >= 0 for seconds in report["seconds"].values())
    counts = {"not_finite", "lost", "gained"}
    named = {"relative_error", "differing", "top1_agreement", "samples", "held_out", "in_place"}
    assert set(report["drift"]) == named | counts
    latency = report["latency"]
    assert set(latency) == {
        "original",
        "pruned",
        "ratio",
        "waited",
        "on_cores",
        "threads",
        "samples",
        "unmeasured",
        "slow_ops",
        "note",
    }
    assert all(0 < value < math.inf for of in ("original", "pruned", "ratio") for value in latency[of].values())
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
        if group["ranked_by"]:
            assert "K = 3 times the largest of the 72 samples" in group["assumption"]
            assert "Of the choice alone, before the refit" in group["assumption"]
            assert (group["no_epsilon"], group["widths_by"]) == ("", "measured")
            assert (group["epsilon"] == 1) == (group["ranked_by"] == "energy")
            assert set(group["refitted"]) <= set(group["consumers"])
        else:
            assert (group["epsilon"], group["assumption"], group["widths_by"]) == (None, "", "")
            assert group["no_epsilon"] == "nothing was chosen to go"
    refitted = {name for group in report["groups"] for name in group["refitted"]}
    better = {refit["name"] for refit in report["refits"] if refit["after"] < refit["before"]}
    assert refitted == better & {name for group in report["groups"] for name in group["consumers"]}
    assert refitted


def test_kept_channels_are_multiples_of_eight_in_wide_groups(pruned: Prune) -> None:
    for group in pruned("resnet", keep_macs=0.5).report.groups:
        assert group.channels < 32 or group.kept % 8 == 0 or group.kept == group.channels


def test_random_data_are_announced_loudly() -> None:
    report = onnxpfp.prune(nets.network("resnet"), calibration="random", keep_macs=0.8).report
    assert report.samples > 0
    assert any(note.startswith("RANDOM data") and "never for a model that ships" in note for note in report.notes)


@pytest.mark.parametrize("enough", [False, True])
def test_the_size_of_s_is_said(enough: bool) -> None:
    options: dict[str, Any] = {"samples": None if enough else 16, "allocate": "bound", "compensate": "bias"}
    report = onnxpfp.prune(nets.network("resnet"), calibration=nets.CALIBRATION, **options).report
    # All that are neither held out nor decide between fits, more than the formula asks for.
    assert (report.samples, report.samples_wanted) == (192 if enough else 12, 176)
    assert (report.samples_failure is None) != enough
    assert report.drift is not None
    # An eighth is held out, and as many decide between fits.
    assert (report.drift.samples, report.drift.held_out) == (32 if enough else 2, True)
    assert any("12 samples; the size formula asks for 176" in note for note in report.notes) != enough
