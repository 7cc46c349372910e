"""The text recogniser that the wheel of rapidocr-onnxruntime brings along, and how much of what it reads is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.coverage.pypi_models import Model, extract, fetch
from benchmarks.latency.text_lines import Lines

__all__ = ["decode", "dictionary", "file_of", "read_right"]

MODEL = Model(
    package="rapidocr-onnxruntime",
    version="1.4.4",
    file="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
    does="reads text",
    inputs="",
)
DICTIONARY = "character"
"""Entry of the metadata, one character a line."""
BATCH = 10


def file_of(cache: Path) -> Path:
    """Return the file of the network; its wheel is downloaded into the folder once."""
    return extract(MODEL, fetch(MODEL, cache))


def dictionary(file: Path) -> list[str]:
    """Return what every class stands for: nothing for the first, then the file's own characters, then a space."""
    run = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    stored = run.get_modelmeta().custom_metadata_map[DICTIONARY]
    return ["", *stored.splitlines(), " "]


def decode(classes: NDArray[np.int64], characters: list[str]) -> list[str]:
    """Read the likeliest class of every place: repetitions count once, and the blank (0) parts (greedy CTC).

    Args:
        classes: (N, places).
        characters: What each class stands for.
    """
    texts: list[str] = []
    for row in classes:
        first = np.append(True, row[1:] != row[:-1])
        texts.append("".join(characters[i] for i in row[first & (row != 0)]))
    return texts


def read_right(file: Path, lines: Lines, characters: list[str]) -> float:
    """Return the percentage of lines that are read without a mistake; spaces at the ends are none.

    Args:
        file: The network.
        lines: What it reads.
        characters: The dictionary of the original: not every tool leaves it in the file.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    run = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (entry,) = run.get_inputs()
    texts: list[str] = []
    for start in range(0, len(lines.x), BATCH):
        scores = np.asarray(run.run(None, {entry.name: lines.x[start : start + BATCH]})[0])
        texts += decode(scores.argmax(2), characters)
    right = sum(found.strip() == written for found, written in zip(texts, lines.texts, strict=True))
    return round(100 * right / len(texts), 2)
