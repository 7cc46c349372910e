"""The networks whose pruning is measured, with as many samples as somebody would prune them with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.accuracy.networks import MEAN, STD
from benchmarks.coverage.pypi_models import extract, fetch
from benchmarks.latency import recogniser
from benchmarks.latency.subjects import SUBJECTS, Places
from benchmarks.latency.text_lines import HEIGHT, WIDTH, draw_lines
from benchmarks.speed.networks import SIDE, noise
from benchmarks.whole_command import detector

__all__ = ["NETWORKS", "Network", "Places", "pages"]

PAGE = 640
"""Pixels of a side of what the detector of text reads."""
PAGE_LINES = (PAGE // HEIGHT, PAGE // WIDTH)
"""Lines of text on a page, from top to bottom and side by side."""
DETECTOR = replace(
    recogniser.MODEL, file="rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", does="finds lines of text"
)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Network:
    """What a command prunes.

    Attributes:
        name: As the command line knows it.
        title: What it is.
        images: How many samples there are.
        file: Finds the file, or makes it.
        draw: Returns so many samples, (N, ...).
    """

    name: str
    title: str
    images: int
    file: Callable[[Places], Path]
    draw: Callable[[Places, int], Floats]

    def samples(self, places: Places) -> Floats:
        """Return what it is pruned with, (images, ...).

        Raises:
            ValueError: There are not so many.
        """
        found = self.draw(places, self.images)
        if len(found) != self.images:
            raise ValueError(f"{self.name} has {len(found)} samples, {self.images} are asked for")
        return found


def pages(lines: Floats) -> Floats:
    """Put lines of text on pages for the detector, (N // 26, 3, 640, 640).

    Args:
        lines: As the recogniser reads them, -1 to 1, (N, 3, 48, 320); those that fill no page are left out.

    Returns:
        Normalized by the means and deviations of ImageNet, as rapidocr-onnxruntime 1.4.4 does before it.
    """
    rows, columns = PAGE_LINES
    count = len(lines) // (rows * columns)
    grid = lines[: count * rows * columns].reshape(count, rows, columns, 3, HEIGHT, WIDTH)
    tiled = grid.transpose(0, 3, 1, 4, 2, 5).reshape(count, 3, rows * HEIGHT, columns * WIDTH)
    paper = np.zeros((count, 3, PAGE, PAGE), np.float32)
    paper[:, :, : rows * HEIGHT, : columns * WIDTH] = tiled
    return ((paper + 1) / 2 - MEAN[:, None, None]) / STD[:, None, None]


def _known(name: str, images: int) -> Network:
    """Take a network of the latency benchmark with some of its samples."""
    subject = SUBJECTS[name]
    return Network(name, subject.title, images, subject.file, lambda places, count: subject.calibration(places)[:count])


def _shape(name: str, images: int) -> Network:
    """Take a network with random weights of the latency benchmark; it is fed noise."""
    subject = SUBJECTS[name]
    return Network(name, subject.title, images, subject.file, lambda _, count: noise(count, 3, SIDE, SIDE))


def _text_lines(places: Places, count: int) -> Floats:
    return draw_lines("calibration", count, places.fonts).x


def _text_pages(places: Places, count: int) -> Floats:
    rows, columns = PAGE_LINES
    return pages(_text_lines(places, count * rows * columns))


def _text_detector(places: Places) -> Path:
    return extract(DETECTOR, fetch(DETECTOR, places.cache))


def _yolo(places: Places) -> Path:
    made = places.cache / "yolo.onnx"
    if not made.exists():
        places.cache.mkdir(parents=True, exist_ok=True)
        half = made.with_suffix(".half")
        onnx.save(detector.yolo(), half)
        half.replace(made)
    return made


def _objects(_: Places, count: int) -> Floats:
    return noise(count, 3, detector.SIDE, detector.SIDE)


NETWORKS = {
    network.name: network
    for network in (
        Network("ocr", "text recogniser PP-OCRv4, 48 x 320", 128, SUBJECTS["ocr"].file, _text_lines),
        Network("ocr_detector", f"text detector PP-OCRv4, {PAGE} x {PAGE}", 32, _text_detector, _text_pages),
        _known("resnet20", 1024),
        _known("resnet56", 1024),
        _shape("resnet50", 64),
        _shape("mobilenet_v2", 64),
        _shape("vit_small", 64),
        Network("yolo", f"YOLOv5n shape, {detector.SIDE} x {detector.SIDE}, random weights", 64, _yolo, _objects),
        *(_known(name, 256) for name in ("fmnist_resnet", "fmnist_densenet", "fmnist_mobilenet")),
    )
}
