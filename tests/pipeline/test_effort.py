"""How much is refitted: the networks of `models/` by every effort."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import pytest
from rich.console import Console

import onnxpfp
from onnxpfp.errors import CalibrationError, OptionError
from onnxpfp.options import Options
from onnxpfp.pipeline.swaps import SWAPPED
from onnxpfp.report.page import ReportView
from onnxpfp.report.text import as_text


def pruned(name: str, effort: str, **more: object) -> onnxpfp.Result:
    images = nets.fmnist("calibration", 160)
    return onnxpfp.prune(nets.network(name), calibration=images, keep_macs=0.4, effort=effort, no_latency=True, **more)


def error(name: str, result: onnxpfp.Result, feed: np.ndarray) -> float:
    whole, less = (nets.run(model, feed) for model in (onnx.load(nets.network(name)), result.model))
    return float(np.linalg.norm(whole - less) / np.linalg.norm(whole))


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_more_effort_refits_producers_and_leaves_a_smaller_error(name: str) -> None:
    images = nets.fmnist("test", 500)
    results = {effort: pruned(name, effort) for effort in ("low", "normal", "high")}
    joint = {effort: [r.name for r in result.report.refits if r.joint] for effort, result in results.items()}
    assert not joint["low"]
    assert joint["normal"]
    assert joint["high"]
    errors = {effort: error(name, result, images) for effort, result in results.items()}
    assert errors["normal"] < errors["low"]
    assert errors["high"] < errors["low"]
    for result in results.values():
        # The oracle has passed on all, or nothing would have come back.
        assert len({record.name for record in result.report.refits}) == len(result.report.refits)
    assert all(record.after < record.before for record in results["normal"].report.refits if record.joint)
    layers = {layer.name: layer for layer in results["normal"].report.layers.layers}
    assert all(layers[name].refit_after is None for name in joint["normal"] if name in layers)


def test_the_most_effort_exchanges_channels_and_leaves_widths() -> None:
    normal, high = (pruned("resnet", effort, steps=1).report.groups for effort in ("normal", "high"))
    assert [group.kept for group in high] == [group.kept for group in normal]
    exchanged = [group for group in high if group.no_epsilon == SWAPPED]
    assert exchanged
    assert all(group.epsilon is None and 0 < group.kept < group.channels for group in exchanged)
    assert not any(group.no_epsilon == SWAPPED for group in normal)


def test_beside_ranks_less_effort_exchanges_channels_too() -> None:
    low, normal = (pruned("resnet", effort, structure="channels,rank").report for effort in ("low", "normal"))
    assert low.ranked
    assert normal.ranked
    assert not any(group.no_epsilon == SWAPPED for group in low.groups)
    assert any(group.no_epsilon == SWAPPED for group in normal.groups)


def test_normal_is_the_default_and_the_same_seed_gives_the_same_bytes() -> None:
    assert Options().effort == "normal"
    one, other = (pruned("resnet", "high", threads=threads) for threads in (1, 2))
    assert one.model.SerializeToString() == other.model.SerializeToString()


@pytest.mark.parametrize("compensate", ["none", "bias"])
def test_the_most_effort_is_nothing_without_a_refit(compensate: str) -> None:
    with pytest.raises(
        OptionError, match=f"effort high refits layers by least squares: not with compensate {compensate}"
    ):
        pruned("resnet", "high", compensate=compensate)


@pytest.mark.parametrize("images", [None, np.zeros((3, 1, 28, 28), np.float32)], ids=["none", "few"])
def test_the_most_effort_takes_data_to_refit_on(images: np.ndarray | None) -> None:
    with pytest.raises(CalibrationError, match="effort high"):
        onnxpfp.prune(nets.network("resnet"), calibration=images, effort="high", no_latency=True)
    assert not onnxpfp.prune(nets.network("resnet"), calibration=images, no_latency=True).report.refits


def test_a_target_of_latency_takes_effort() -> None:
    images = nets.fmnist("calibration", 160)
    result = onnxpfp.prune(nets.network("resnet"), calibration=images, keep_latency=0.7, effort="normal", threads=1)
    # Its tries are prunings without compensation, which go with no effort.
    assert result.report.latency_target is not None
    assert result.report.compensation == "lstsq"


def test_the_page_tells_what_was_refitted_together() -> None:
    report = pruned("resnet", "normal").report
    page = as_text(report, ReportView(Console(width=400), None, full=True))
    assert "with its readers" in page
    assert "refitted together with those that read them" in page
