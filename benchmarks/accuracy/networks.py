"""The networks of the accuracy benchmark and their images.

Calibration images are training images; the test files hold none of them. Labels of calibration images are only read for
the peer that needs them.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["NETWORKS", "Folders", "Images", "Network"]

MODELS = Path(__file__).parents[2] / "models"
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
GREY_MEAN, GREY_STD = 0.2860, 0.3530
IDX_IMAGES, IDX_LABELS = 16, 8
"""Bytes before the data in the files of Fashion-MNIST."""

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Folders:
    """Where things are that the project does not hold.

    Attributes:
        shared: `models/cifar10_*.onnx` and `data/cifar10_{calib1k,test5k}.npz`.
        fmnist: The four original files of Fashion-MNIST, for the labels of its calibration images.
    """

    shared: Path
    fmnist: Path


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Images as a network takes them, (N, C, H, W) float32, with their classes (N,), where those are known."""

    x: NDArray[np.float32]
    labels: Labels | None

    @property
    def known(self) -> Labels:
        """The classes of images that have them, as those of the test files."""
        assert self.labels is not None
        return self.labels

    def drawn(self, seed: int, most: int | None) -> Images:
        """Draw some of the images, or all of them, in an order of the seed."""
        order = np.random.default_rng(seed).permutation(len(self.x))[:most]
        return Images(self.x[order], None if self.labels is None else self.labels[order])


@dataclass(frozen=True, slots=True)
class Network:
    """One trained network and its data.

    Attributes:
        name: As tables show it.
        title: What it is, and on what it is measured.
        stems: Names of the files without their ending, by the kind of export.
        folder: Where they are.
        usual: The export of which most rows are.
        with_norm: The export in which BatchNormalization is not folded.
        calibration: Reads the images to prune with.
        test: Reads the images to measure on.
    """

    name: str
    title: str
    stems: dict[str, str]
    folder: Callable[[Folders], Path]
    usual: str
    with_norm: str
    calibration: Callable[[Folders], Images]
    test: Callable[[Folders], Images]

    def file(self, at: Folders, kind: str) -> Path:
        """Return the file of an export."""
        return self.folder(at) / f"{self.stems[kind]}.onnx"


def _of_cifar(name: str, title: str, kinds: tuple[str, ...]) -> Network:
    stems = {kind: f"cifar10_{name}_{kind}" for kind in kinds}

    def folder(at: Folders) -> Path:
        return at.shared / "models"

    def calibration(at: Folders) -> Images:
        return _cifar_images(at.shared / "data" / "cifar10_calib1k.npz")

    def test(at: Folders) -> Images:
        return _cifar_images(at.shared / "data" / "cifar10_test5k.npz")

    return Network(name, f"{title}, CIFAR-10", stems, folder, "folded", "bn", calibration, test)


def _of_fmnist(name: str, title: str) -> Network:
    def folder(_: Folders) -> Path:
        return MODELS

    return Network(name, f"{title}, Fashion-MNIST", {"bn": name}, folder, "bn", "bn", _fmnist_calibration, _fmnist_test)


@cache
def _cifar_images(file: Path) -> Images:
    data = np.load(file)
    x = ((data["images"].astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    return Images(np.ascontiguousarray(x), data["labels"].astype(np.int64))


@cache
def _fmnist_calibration(at: Folders) -> Images:
    x = np.load(MODELS / "fmnist_calibration.npz")["images"]
    return Images(x, _fmnist_labels(x, at.fmnist) if at.fmnist.is_dir() else None)


@cache
def _fmnist_test(_: Folders) -> Images:
    data = np.load(MODELS / "fmnist_test.npz")
    return Images(data["images"], data["labels"])


def _fmnist_labels(x: NDArray[np.float32], folder: Path) -> Labels:
    """Look the images up in the training set, whose labels `models/` leaves out."""
    grey = np.rint((x * GREY_STD + GREY_MEAN) * 255).astype(np.uint8).reshape(len(x), -1)
    stored = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())[IDX_IMAGES:]
    labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())[IDX_LABELS:]
    size = grey.shape[1]
    classes = {stored[size * i : size * (i + 1)]: label for i, label in enumerate(labels)}
    return np.array([classes[image.tobytes()] for image in grey], np.int64)


NETWORKS = {
    network.name: network
    for network in (
        _of_cifar("resnet20", "ResNet-20", ("folded", "bn", "dynamo")),
        _of_cifar("resnet56", "ResNet-56", ("folded", "bn")),
        _of_fmnist("fmnist_resnet", "small ResNet"),
        _of_fmnist("fmnist_densenet", "small DenseNet"),
        _of_fmnist("fmnist_mobilenet", "small MobileNet"),
    )
}
