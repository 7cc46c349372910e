"""A note where the original looks trained on the samples that measure the result."""

from __future__ import annotations

from functools import cache
from typing import Any

import nets
import numpy as np
import pytest

import onnxpfp
from onnxpfp.report.trained import FEWEST, FEWEST_FOR_MEAN, trained_note

SIGN = "a sign that it was trained on them"


def top(share: float, count: int, others: float = 0.5) -> nets.Array:
    """Probabilities of so many samples, of which a share is sure."""
    return np.where(np.arange(count) < round(share * count), 0.999, others)


def test_nearly_all_sure_is_a_sign() -> None:
    assert SIGN in trained_note(top(0.96, 100))
    assert "above 0.99 on 96 % of them, 0.979 on average" in trained_note(top(0.96, 100))
    assert trained_note(top(0.95, 100)) == ""
    assert trained_note(None) == ""
    assert trained_note(top(1.0, FEWEST - 1)) == ""
    assert SIGN in trained_note(top(1.0, FEWEST))


def test_sure_on_average_is_a_sign_of_many_samples() -> None:
    assert SIGN in trained_note(top(0.9, FEWEST_FOR_MEAN, others=0.98))
    assert trained_note(top(0.9, FEWEST_FOR_MEAN - 1, others=0.98)) == ""
    assert trained_note(top(0.9, FEWEST_FOR_MEAN, others=0.9)) == ""


def scaled(factor: float) -> Any:
    """A chain with scores so many times as large, and with their softmax behind them."""
    model = nets.build(
        nets.CHAIN.replace("y = Gemm", "l = Gemm").replace("\n}", "\n y = Softmax(l) }"), nets.CHAIN_SHAPES
    )
    for tensor in model.graph.initializer:
        if tensor.name in {"w3", "b3"}:
            array = nets.numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(nets.numpy_helper.from_array(array, tensor.name))
    return model


def noted(model: Any, calibration: Any, **given: Any) -> list[str]:
    asked = {"keep_macs": 0.8, "threads": 1, "allocate": "uniform", "compensate": "none"} | given
    report = onnxpfp.prune(model, calibration=calibration, **asked).report
    return [note for note in report.notes if SIGN in note]


def test_the_report_has_it_of_probabilities_too() -> None:
    samples = nets.noise(8 * FEWEST, 3, 8, 8)
    (note,) = noted(scaled(1e4), samples)
    assert f"of the {FEWEST} held-out samples" in note
    assert note.endswith("--certify-data FILE.npz")
    assert not noted(scaled(0.01), samples)
    assert not noted(scaled(1e4), samples[:-1])  # one held-out sample too few
    assert noted(scaled(1e4), samples[:-1], certification=nets.noise(FEWEST, 3, 8, 8, seed=7))
    assert not noted(scaled(1e4), "random", samples=8 * FEWEST)


@cache
def cifar(name: str) -> nets.Array:
    images = np.load(nets.SHARED / "data" / f"cifar10_{name}.npz")["images"][:1024].astype(np.float32) / 255
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return np.ascontiguousarray(((images - mean) / std).transpose(0, 3, 1, 2))


@pytest.mark.slow
@pytest.mark.skipif(not nets.SHARED.is_dir(), reason="needs the shared folder")
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
@pytest.mark.parametrize(("images", "trained"), [("calib1k", True), ("test5k", False)])
def test_training_images_are_noticed_and_test_images_are_not(name: str, images: str, trained: bool) -> None:
    model = nets.SHARED / "models" / f"cifar10_{name}_folded.onnx"
    data = cifar(images)
    # Nothing goes: the note is about the original alone.
    few = {"keep_macs": 1.0}
    assert bool(noted(model, data[:64], certification=data[64:], **few)) == trained
    # An eighth of them is what is held out.
    assert bool(noted(model, data, **few)) == trained
