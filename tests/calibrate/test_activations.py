"""Streams of intermediate tensors, against a run that shows them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxpfp.calibrate import activations as activations_module
from onnxpfp.calibrate.activations import Bundle, channels_first, stream_activations
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Samples
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import CalibrationError
from onnxpfp.model import load as load_module
from onnxpfp.model.load import load

SHAPES: Bundle = {"r": (1, 8, 8, 8), "c": (1, 10, 8, 8), "f": (1, 10), "y": (1, 5)}
DATA = nets.noise(7, 3, 8, 8)


def samples_of(model: ModelProto, data: np.ndarray) -> Samples:
    return load_samples(data, input_specs(model))


def gather(model: ModelProto, bundles: list[Bundle], **options: Any) -> dict[str, np.ndarray]:
    """Put together what comes, once per bundle and batch."""
    found: dict[str, list[np.ndarray]] = {}
    given = {"batch_size": 3, "threads": 1} | options
    for run, values in stream_activations(model, bundles, samples_of(model, DATA), **given):
        assert set(values) == {name for position in run for name in bundles[position]}
        for name in values:
            found.setdefault(name, []).append(values[name])
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.mark.parametrize("workspace", [1, 4 * 640, 4 * 3 * 512, 1 << 20])
def test_every_tensor_comes_once_for_every_sample(workspace: int) -> None:
    model = nets.chain()
    found = gather(model, [{name: shape} for name, shape in SHAPES.items()], workspace_bytes=workspace)
    expected = nets.values(model, {"x": DATA})
    assert found.keys() == SHAPES.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("workspace", [4 * 640, 4 * 1300, 4 * 3 * 700, 1 << 20])
def test_no_more_comes_out_of_a_run_than_fits(workspace: int) -> None:
    model = nets.chain()
    bundles: list[Bundle] = [{name: shape} for name, shape in SHAPES.items()]
    seen: list[int] = []
    for _, values in stream_activations(
        model, bundles, samples_of(model, DATA), batch_size=3, workspace_bytes=workspace
    ):
        seen.append(sum(array.nbytes for array in values.values()))
    assert max(seen) <= workspace


def test_a_bundle_comes_together_and_a_shared_tensor_counts_once() -> None:
    bundles: list[Bundle] = [{"r": SHAPES["r"], "c": SHAPES["c"]}, {"r": SHAPES["r"]}, {"f": SHAPES["f"]}]
    runs = [
        (run, set(values))
        for run, values in stream_activations(
            nets.chain(), bundles, samples_of(nets.chain(), DATA), batch_size=7, workspace_bytes=4 * 7 * (512 + 640)
        )
    ]
    assert runs == [(range(2), {"r", "c"}), (range(2, 3), {"f"})]


def test_only_what_is_needed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[ModelProto] = []
    original = activations_module.open_session

    def spy(model: ModelProto, *args: Any, **options: Any) -> Any:
        opened.append(model)
        return original(model, *args, **options)

    monkeypatch.setattr(activations_module, "open_session", spy)
    model = nets.chain()
    before = model.SerializeToString()
    gather(model, [{"r": SHAPES["r"]}])
    (shown,) = opened
    assert [node.op_type for node in shown.graph.node] == ["Conv", "Relu"]
    assert {tensor.name for tensor in shown.graph.initializer} == {"w1", "b1"}
    assert model.SerializeToString() == before


def test_weights_in_files_stay_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(nets.chain(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    monkeypatch.setattr(load_module, "IN_MEMORY", 0)
    monkeypatch.setattr(load_module, "PART_FROM", 1)
    model = load(path).model
    assert any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    found = gather(model, [{"c": SHAPES["c"]}])
    np.testing.assert_allclose(found["c"], nets.values(nets.chain(), {"x": DATA})["c"], rtol=1e-4, atol=1e-5)


def test_a_fixed_batch_is_kept() -> None:
    model = nets.build(nets.CHAIN.replace("N,", "2,"), nets.CHAIN_SHAPES)
    sizes = [
        len(values["f"])
        for _, values in stream_activations(
            model, [{"f": (2, 10)}], samples_of(model, DATA[:6]), batch_size=2, workspace_bytes=1
        )
    ]
    assert sizes == [2, 2, 2]


def test_what_is_not_finite_is_named() -> None:
    model = nets.build(
        "g (float[N,3] x) => (float[N,2] y) { l = Log(x) h = MatMul(l, w1) y = Relu(h) }", {"w1": (3, 2)}
    )
    with pytest.raises(CalibrationError, match="NaN or infinity at 'l'"):
        list(stream_activations(model, [{"l": (1, 3)}], samples_of(model, nets.noise(4, 3)), batch_size=2))


def test_channels_first() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    assert channels_first(array, 1).shape == (2, 3, 4)
    np.testing.assert_array_equal(channels_first(array, 2)[1, 3], array[1, :, 3])
    assert channels_first(array, 0).shape == (1, 2, 3, 4)
    assert np.shares_memory(channels_first(array, 2), array)
