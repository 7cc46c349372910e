"""All that is measured on the samples is measured in one pass over them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto

from onnxpfp.calibrate.collect import calibrate
from onnxpfp.data.samples import ArraySamples, Samples
from onnxpfp.linear.describe import linear_ops, op_key
from onnxpfp.options import Options
from onnxpfp.pipeline import scoring as scoring_module
from onnxpfp.pipeline.calibration import RefitCalibration
from onnxpfp.pipeline.context import open_run
from onnxpfp.pipeline.scoring import calibrate_and_score
from onnxpfp.progress import Clock

WANTED = 21


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many samples are fed."""
    monkeypatch.setattr(scoring_module, "_wanted_samples", lambda ops, delta: WANTED)
    counts: list[int] = []
    runs = ArraySamples.runs

    def noted(self: ArraySamples, batch_size: int = 1) -> Iterator[Any]:
        for feed, count in runs(self, batch_size):
            counts.append(count)
            yield feed, count

    monkeypatch.setattr(ArraySamples, "runs", noted)
    return counts


def gathered(
    model: ModelProto, data: np.ndarray, fed: list[int], **given: Any
) -> tuple[RefitCalibration, Samples, Clock]:
    context = replace(open_run(model, data, Options(threads=2, keep_macs=0.5, **given), ()), clock=Clock())
    analysis = context.whole
    ops = linear_ops(analysis)
    fed.clear()
    calibration = calibrate_and_score(context, analysis, ops)
    assert isinstance(calibration, RefitCalibration)
    return calibration, context.data.fit, context.clock


def test_sensitivities_and_gram_matrices_come_from_one_pass(fed: list[int]) -> None:
    calibration, fit, clock = gathered(nets.chain(), nets.noise(64, 3, 8, 8), fed)
    assert (sum(fed), len(calibration.scored)) == (len(fit), WANTED)
    assert list(clock.seconds) == ["calibration", "ranking"]
    assert calibration.grams.keys() == {"c", "y"}
    assert calibration.grams["y"].count == len(fit)
    model = calibration.setup.problem.analysis.model
    ops = [layer.op for layer in calibration.setup.problem.layers if layer.output in calibration.grams]
    alone = calibrate(model, ops, fit.take(WANTED))
    for number, op in enumerate(ops):
        here = calibration.statistics[op_key(number)]
        assert here.samples == WANTED
        np.testing.assert_array_equal(here.sensitivity, alone[op.name].sensitivity)


@pytest.mark.parametrize("given", [{"allocate": "bound"}, {"compensate": "bias"}])
def test_what_nobody_asks_for_is_not_measured(fed: list[int], given: dict[str, Any]) -> None:
    calibration, _, _ = gathered(nets.chain(), nets.noise(64, 3, 8, 8), fed, **given)
    assert not calibration.grams
    assert sum(fed) <= WANTED + 16


def test_a_fixed_batch_of_more_samples_than_are_wanted(fed: list[int]) -> None:
    model = nets.chain()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32
    calibration, fit, _ = gathered(model, nets.noise(512, 3, 8, 8), fed)
    assert len(calibration.scored) == 32
    assert {each.samples for each in calibration.statistics.values()} == {32}
    assert calibration.grams["y"].count == len(fit) == 512 - 2 * 64
