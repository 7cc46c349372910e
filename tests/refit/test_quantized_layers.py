"""Layers of quantized files are refitted: new integers, new scales, and biases at the scale that goes with these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from support.stacks import conv_stack

import onnxpfp
from onnxpfp.linear.quantized import QuantizedWeight

DATA = nets.noise(96, 3, 8, 8)
QUICK: dict[str, Any] = {"threads": 1, "no_latency": True, "round_to": 1}


class Samples(CalibrationDataReader):
    """Calibration data as onnxruntime's quantizer reads them."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.feeds = iter([{name: array[i : i + 16]} for i in range(0, len(array), 16)])

    def get_next(self) -> Any:
        return next(self.feeds, None)


def quantized(model: ModelProto, folder: Path, data: np.ndarray, **options: Any) -> ModelProto:
    onnx.save(model, folder / "in.onnx")
    name = model.graph.input[0].name
    quantize_static(folder / "in.onnx", folder / "out.onnx", Samples(name, data), **options)
    return onnx.load(folder / "out.onnx")


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def assert_scales_agree(model: ModelProto) -> int:
    """Hold the scale of every bias of integers against those of the inputs and weights; return how many there are."""
    numbers, makers = constants(model), {name: node for node in model.graph.node for name in node.output}
    found = 0
    for node in model.graph.node:
        if node.op_type not in {"Conv", "Gemm"} or len(node.input) < 3:
            continue
        assert makers[node.input[2]].op_type == "DequantizeLinear", node.name
        data, weight, bias = (makers[name].input for name in node.input)
        assert numbers[weight[0]].dtype == np.int8
        assert numbers[bias[0]].dtype == np.int32
        wanted = numbers[data[1]].astype(np.float64) * numbers[weight[1]]
        np.testing.assert_allclose(numbers[bias[1]].ravel(), wanted.ravel(), rtol=1e-5)
        found += 1
    return found


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_layers_are_refitted(per_channel: bool, tmp_path: Path) -> None:
    model = quantized(conv_stack(3), tmp_path, DATA, per_channel=per_channel)
    biases = assert_scales_agree(model)
    results = {
        how: onnxpfp.prune(model, calibration=DATA, keep_macs=0.5, compensate=how, **QUICK) for how in ("auto", "none")
    }
    result = results["auto"]
    assert {record.name for record in result.report.refits} == {"node_a", "node_c", "node_h", "node_y"}
    assert assert_scales_agree(result.model) == biases == 2
    assert [node.op_type for node in result.model.graph.node] == [node.op_type for node in model.graph.node]
    before, after = ({t.name: t.data_type for t in m.graph.initializer} for m in (model, result.model))
    assert before == after
    errors = {how: each.report.drift.relative_error for how, each in results.items() if each.report.drift}
    assert errors["auto"] < 0.6 * errors["none"]
    notes = {how: [note for note in each.report.notes if "quantized weights" in note] for how, each in results.items()}
    assert (len(notes["auto"]), len(notes["none"])) == (0, 1)


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_that_no_rank_goes_is_said(form: QuantFormat, tmp_path: Path) -> None:
    model = quantized(
        conv_stack(3), tmp_path, DATA, per_channel=True, quant_format=form, activation_type=QuantType.QUInt8
    )

    def notes(of: ModelProto, structure: str) -> list[str]:
        result = onnxpfp.prune(of, calibration=DATA, keep_macs=0.6, structure=structure, effort="low", **QUICK)
        return [note for note in result.report.notes if "low rank" in note]

    (note,) = notes(model, "channels,rank")
    assert note.startswith("of 3 layers that read channels 3 have quantized weights and can become no two ops of low")
    assert not notes(model, "channels")
    assert not notes(onnx.load(tmp_path / "in.onnx"), "channels,rank")


def test_what_stays_whole_keeps_its_bytes(tmp_path: Path) -> None:
    model = quantized(conv_stack(3), tmp_path, DATA, per_channel=True)
    whole = onnxpfp.prune(tmp_path / "out.onnx", calibration=DATA, keep_macs=1.0, **QUICK)
    assert whole.unchanged == (tmp_path / "out.onnx").read_bytes()
    assert assert_scales_agree(model) == 2


@pytest.mark.parametrize("how", ["weights of uint8", "a bias in floating point"])
def test_other_forms_are_left_and_named(how: str, tmp_path: Path) -> None:
    model = quantized(conv_stack(3), tmp_path, DATA, per_channel=True)
    weight = next(node for node in model.graph.node if node.op_type == "DequantizeLinear" and "w2" in node.input[0])
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    layer = "node_c" if how == "weights of uint8" else "node_h"
    if how == "weights of uint8":
        for name, zero in ((weight.input[0], 128), (weight.input[2], 128)):
            array = numpy_helper.to_array(tensors[name]).astype(np.int16) + zero
            tensors[name].CopyFrom(numpy_helper.from_array(array.astype(np.uint8), name))
    else:
        model.graph.initializer.append(numpy_helper.from_array(np.ones(40, np.float32), "bias"))
        next(node for node in model.graph.node if node.name == layer).input[2] = "bias"
    result = onnxpfp.prune(model, calibration=DATA, keep_macs=0.6, **QUICK)
    assert {record.name for record in result.report.refits} == {"node_a", "node_c", "node_h", "node_y"} - {layer}
    (note,) = (note for note in result.report.notes if "quantized weights" in note)
    assert " channels 1 has quantized weights" in note


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_new_scales_are_the_smallest_that_cut_nothing_off(axis: int | None) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 5, 3)) * [[[0.1]], [[10.0]], [[1.0]], [[0.0]]]
    size = () if axis is None else (weight.shape[axis],)
    scales = np.full(size, 0.5, np.float32)
    new = QuantizedWeight("w", "s", axis, scales, None).of(weight)
    shape = [1] * 3
    if axis is not None:
        shape[axis] = -1
    scale = new.scale.astype(np.float64).reshape(shape) if size else new.scale.astype(np.float64)
    assert (new.steps.dtype, new.scale.dtype, new.scale.shape) == (np.int8, np.float32, size)
    assert (np.abs(new.steps * scale - weight) <= 0.5000001 * scale).all()
    others = tuple(each for each in range(3) if each != axis)
    largest = np.abs(new.steps.astype(int)).max(axis=others if size else None)
    empty = ~weight.any(axis=others) if size else np.array(False)
    assert (np.where(empty, 127, largest) == 127).all()
    np.testing.assert_allclose(np.where(empty, new.scale, 0.5), 0.5)
    np.testing.assert_allclose(new.ratio, new.scale / scales.astype(np.float64))


def test_a_trained_network_keeps_most_of_its_classes(tmp_path: Path) -> None:
    images = nets.fmnist("calibration", 256)
    model = quantized(onnx.load(nets.network("resnet")), tmp_path, images, per_channel=True)
    result = onnxpfp.prune(model, calibration=images, keep_macs=0.5, threads=1, no_latency=True)
    assert result.report.drift is not None
    assert result.report.drift.top1_agreement is not None
    assert result.report.drift.top1_agreement > 0.8
    assert not any("quantized weights" in note for note in result.report.notes)
    assert_scales_agree(result.model)
