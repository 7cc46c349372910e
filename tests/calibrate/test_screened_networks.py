"""Whole networks: the screened path finds what the plain path finds, in every field of the statistics."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.drawn_readers import Array
from support.equal_statistics import assert_same

from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.sensitivity.settings import Kernel
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.describe import linear_ops
from onnxpfp.model.load import load
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze_at

KERNELS = ["sum", "max"]


def shuffled(model: ModelProto) -> ModelProto:
    """Put the entries of every weight in a random order: a network that nobody trained, of the same scale."""
    copy = ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(1)
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1:
            mixed = rng.permutation(array.reshape(-1)).reshape(array.shape)
            tensor.CopyFrom(numpy_helper.from_array(mixed, tensor.name))
    return copy


def check(source: Path | ModelProto, images: Array, kernel: Kernel) -> None:
    loaded = load(source)
    shapes = {spec.name: (1, *images.shape[1:]) for spec in input_specs(loaded.model)}
    analysis = analyze_at(loaded, shapes, Options())
    ops = linear_ops(analysis)
    model = analysis.source.model
    samples = load_samples(images, input_specs(model))
    plain = calibrate(model, ops, samples, kernel=kernel, method="plain", threads=1)
    assert_same(calibrate(model, ops, samples, kernel=kernel, threads=1), plain)
    assert any(plain[name].sensitivity.any() for name in plain)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", nets.NETWORKS)
def test_trained_networks(name: str, kernel: Kernel) -> None:
    check(nets.network(name), nets.fmnist("calibration", 4), kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", nets.NETWORKS)
def test_networks_with_random_weights(name: str, kernel: Kernel) -> None:
    check(shuffled(load(nets.network(name)).model), nets.fmnist("calibration", 4), kernel)


@pytest.mark.shared
@pytest.mark.skipif(not nets.SHARED.is_dir(), reason="needs the shared folder")
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_trained_resnet20(kernel: Kernel) -> None:
    images = np.load(nets.SHARED / "data" / "cifar10_calib1k.npz")["images"][:2].transpose(0, 3, 1, 2)
    data = ((images.astype(np.float32) / 255 - 0.5) * 4).astype(np.float32)
    check(nets.SHARED / "models" / "cifar10_resnet20_folded.onnx", np.ascontiguousarray(data), kernel)
