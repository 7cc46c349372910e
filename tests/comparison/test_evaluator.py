"""The evaluator runs the original once where its outputs fit, and says the same where they do not."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import pytest

from onnxpfp.comparison import evaluator as module
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.runtime.providers import ProviderRequest

REQUESTS = (ProviderRequest("CPUExecutionProvider", "cpu"),)


@pytest.fixture
def models() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    original = onnx.load(nets.ROOT / "models" / "fmnist_resnet.onnx")
    other = onnx.ModelProto()
    other.CopyFrom(original)
    for tensor in other.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array((array * 0.9).astype(np.float32), tensor.name))
    return original, other


def _evaluator(original: onnx.ModelProto, workspace: int) -> Evaluator:
    images = np.load(nets.ROOT / "models" / "fmnist_calibration.npz")
    arrays = {name: images[name][:40] for name in images.files}
    return Evaluator(original, load_samples(arrays, input_specs(original)), True, 16, REQUESTS, 1, workspace)


def _count_sessions(monkeypatch: pytest.MonkeyPatch) -> list[onnx.ModelProto]:
    opened: list[onnx.ModelProto] = []
    real = module.open_session

    def counting(make, *args, **options):
        opened.append(make())
        return real(opened[-1], *args, **options)

    monkeypatch.setattr(module, "open_session", counting)
    return opened


@pytest.mark.parametrize(("workspace", "runs"), [(1 << 20, 1), (100, 3)])
def test_the_original_runs_once_where_its_outputs_fit(models, monkeypatch, workspace: int, runs: int) -> None:
    original, other = models
    opened = _count_sessions(monkeypatch)
    evaluator = _evaluator(original, workspace)
    drifts = [evaluator.drift(other), evaluator.drift(other)]
    loss = evaluator.loss(other)
    assert sum(model is original for model in opened) == runs
    assert drifts[0] == drifts[1]
    assert drifts[0].samples == 40
    assert drifts[0].relative_error is not None
    assert drifts[0].relative_error > 0.01
    assert loss > 0
    reference = _evaluator(original, 1 << 30)
    assert reference.drift(other) == drifts[0]
    assert reference.loss(other) == loss


def test_the_original_has_no_drift(models) -> None:
    evaluator = _evaluator(models[0], 1 << 20)
    drift = evaluator.drift(models[0])
    assert (drift.relative_error, drift.top1_agreement) == (0.0, 1.0)
    assert evaluator.loss(models[0]) == 0.0
    assert evaluator.losses
    assert set(evaluator.losses.values()) == {"KL divergence"}
    assert evaluator.providers == ("CPUExecutionProvider",)
