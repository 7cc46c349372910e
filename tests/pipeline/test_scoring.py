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
from onnxpfp.pipeline.calibration import RefitCalibration
from onnxpfp.pipeline.context import open_run
from onnxpfp.pipeline.scoring import calibrate_and_score
from onnxpfp.progress import Clock


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many samples are fed."""
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
    assert sum(fed) == len(calibration.scored) == len(fit) == 64 - 2 * 8
    assert list(clock.seconds) == ["calibration", "ranking"]
    assert calibration.grams.keys() == {"c", "y"}
    assert calibration.grams["y"].count == len(fit)
    model = calibration.setup.problem.analysis.model
    ops = [layer.op for layer in calibration.setup.problem.layers if layer.output in calibration.grams]
    alone = calibrate(model, ops, fit)
    for number, op in enumerate(ops):
        here = calibration.statistics[op_key(number)]
        assert here.samples == len(fit)
        np.testing.assert_array_equal(here.sensitivity, alone[op.name].sensitivity)


@pytest.mark.parametrize("given", [{"allocate": "bound"}, {"compensate": "bias"}])
def test_what_nobody_asks_for_is_not_measured(fed: list[int], given: dict[str, Any]) -> None:
    calibration, fit, _ = gathered(nets.chain(), nets.noise(64, 3, 8, 8), fed, **given)
    assert not calibration.grams
    assert sum(fed) == len(fit)


def test_all_batches_count_where_they_are_fixed(fed: list[int]) -> None:
    model = nets.chain()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32
    calibration, fit, _ = gathered(model, nets.noise(512, 3, 8, 8), fed)
    assert len(calibration.scored) == len(fit) == 512 - 2 * 64
    assert {each.samples for each in calibration.statistics.values()} == {len(fit)}
    assert calibration.grams["y"].count == len(fit)


@pytest.mark.parametrize("fires_on", [3, 8])
def test_a_channel_that_rarely_fires_is_not_silent(fed: list[int], fires_on: int) -> None:
    text = "g (float[N,3] x) => (float[N,2] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
    model = nets.build(text, {"w1": np.eye(3), "w2": np.ones((3, 2))})
    data = np.abs(nets.noise(1024, 3)) + 0.1
    data[:, 2] = -1
    data[-fires_on:, 2] = 5  # late ones: the formula asks for 147 samples
    calibration, fit, _ = gathered(model, data, fed, seed=1)
    fed_values = next(fit.batches(len(fit)))["x"]
    assert (fed_values[:, 2] > 0).any(), "none of them is left to score on: the case tests nothing"
    (group,) = open_run(model, data, Options(), ()).whole.graph.groups
    share = np.maximum(fed_values, 0)
    expected = (share / share.sum(1, keepdims=True)).max(0)
    np.testing.assert_allclose(calibration.scores.values[group.channels], expected, rtol=1e-5)
    assert expected[2] > 0.3
