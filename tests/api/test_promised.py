"""What a run promises is what held-out samples show of the written file, counted here without the product's code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from nets import fmnist, network

import onnxpfp
from onnxpfp.comparison.promises import Promises

SAMPLES, SEPARATE = 128, 200


def run(file: Path, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0], np.float64)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return fmnist("test", SEPARATE)


@pytest.fixture(scope="module")
def result(images: np.ndarray) -> onnxpfp.Result:
    calibration = fmnist("calibration", SAMPLES)
    return onnxpfp.prune(network("mobilenet"), calibration=calibration, certification=images, compensate="bias")


def promises_of(result: onnxpfp.Result) -> Promises:
    promises = result.report.promises
    assert promises is not None
    return promises


def test_counts_and_limits_are_those_of_the_written_file(
    result: onnxpfp.Result, images: np.ndarray, tmp_path: Path
) -> None:
    onnxpfp.save_result(result, tmp_path / "pruned.onnx")
    before, after = run(network("mobilenet"), images), run(tmp_path / "pruned.onnx", images)
    agree = int((before.argmax(1) == after.argmax(1)).sum())
    errors = np.sort(np.linalg.norm(before - after, axis=1) / np.linalg.norm(before, axis=1))
    promises = promises_of(result)
    assert promises.agreement is not None
    assert promises.mean_drift is not None
    assert 0 < agree < SEPARATE
    assert (promises.agreement.agree, promises.agreement.samples, promises.samples) == (agree, SEPARATE, SEPARATE)
    assert promises.agreement.at_least < agree / SEPARATE
    assert promises.drift[-1].at_most == pytest.approx(errors[-1], rel=1e-4)
    limits = {limit.share: limit.at_most for limit in promises.drift}
    assert limits[0.9] == pytest.approx(errors[187], rel=1e-4)  # the 188th of 200: binom.cdf(187, 200, 0.9) = 0.957
    assert promises.mean_drift.observed == pytest.approx(np.minimum(errors, 1).mean(), rel=1e-4)
    assert promises.mean_drift.observed < promises.mean_drift.at_most <= 1


def test_more_confidence_promises_less(images: np.ndarray) -> None:
    calibration = fmnist("calibration", SAMPLES)
    sure, less = (
        promises_of(
            onnxpfp.prune(
                *(network("mobilenet"),),
                calibration=calibration,
                certification=images,
                compensate="none",
                allocate="uniform",
                confidence=confidence,
            )
        )
        for confidence in (0.999, 0.6)
    )
    assert sure.agreement is not None
    assert less.agreement is not None
    assert sure.agreement.agree == less.agreement.agree
    assert sure.agreement.at_least < less.agreement.at_least
    assert (sure.confidence, less.confidence) == (0.999, 0.6)


@pytest.mark.parametrize("calibration", ["random", None, "few"])
def test_noise_and_samples_that_decided_promise_nothing(calibration: str | None) -> None:
    given = fmnist("calibration", 5) if calibration == "few" else calibration
    result = onnxpfp.prune(network("mobilenet"), calibration=given, allocate="uniform", compensate="auto")
    assert result.report.promises is None
