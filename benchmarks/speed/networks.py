"""The networks of the speed benchmark, their images, and what a sensitivity pass needs of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.accuracy import networks as accuracy_networks
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Samples
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.ops import LinearOp
from onnxpfp.model.load import load
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze_at

__all__ = [
    "CIFAR",
    "EXPORTED",
    "NETWORKS",
    "SIDE",
    "Places",
    "Subject",
    "file_of",
    "images_of",
    "noise",
    "subject_at",
    "subject_of",
]

SIDE = 224
EXPORTED = {
    "resnet18": "ResNet-18 shape, 224",
    "resnet34": "ResNet-34 shape, 224",
    "resnet50": "ResNet-50 shape, 224",
    "mobilenet_v2": "MobileNetV2 shape, 224",
}
"""Titles of the networks with random weights; their images are noise."""
CIFAR = {name: accuracy_networks.NETWORKS[name] for name in ("resnet20", "resnet56")}
"""Trained networks with images of CIFAR-10."""
NETWORKS = {**EXPORTED, **{name: network.title for name, network in CIFAR.items()}}
SEED = 0


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files are.

    Attributes:
        shared: `models/cifar10_*.onnx` and `data/cifar10_calib1k.npz`.
        networks: What `benchmarks.speed.exports` wrote.
    """

    shared: Path
    networks: Path

    @property
    def cifar(self) -> accuracy_networks.Folders:
        """The folders as the accuracy benchmark knows them; nothing of Fashion-MNIST is read."""
        return accuracy_networks.Folders(self.shared, self.shared)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What sensitivities are measured on.

    Attributes:
        model: The network as the pipeline prepares it.
        ops: Everything in it that reads channels.
        samples: What is fed.
    """

    model: ModelProto
    ops: tuple[LinearOp, ...]
    samples: Samples


def file_of(name: str, places: Places) -> Path:
    """Return the file of a network.

    Raises:
        FileNotFoundError: It is not there.
    """
    if name in CIFAR:
        network = CIFAR[name]
        file = network.file(places.cifar, network.usual)
        hint = "--shared is the folder with models/ and data/"
    else:
        file = places.networks / f"{name}.onnx"
        hint = f"make it: python -m benchmarks.speed.exports {places.networks} {name}"
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; {hint}")
    return file


def images_of(name: str, count: int, places: Places) -> NDArray[np.float32]:
    """Return images for a network, (count, 3, H, W)."""
    if name not in CIFAR:
        return noise(count, 3, SIDE, SIDE)
    images = CIFAR[name].calibration(places.cifar).x
    if count > len(images):
        raise ValueError(f"{name} has {len(images)} images, {count} are asked for")
    return images[:count]


def noise(*shape: int) -> NDArray[np.float32]:
    """Draw standard normal numbers, the same in every run."""
    return np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)


def subject_of(name: str, images: NDArray[np.float32], places: Places) -> Subject:
    """Read a network and find its linear ops."""
    return subject_at(file_of(name, places), images)


def subject_at(file: Path, images: NDArray[np.float32]) -> Subject:
    """Read the network of a file and find its linear ops."""
    source = load(file)
    samples = load_samples(images, input_specs(source.model))
    shapes = {spec.name: (1, *images.shape[1:]) for spec in input_specs(source.model)}
    analysis = analyze_at(source, shapes, Options())
    ops = linear_ops(analysis)
    return Subject(analysis.source.model, ops, samples)
