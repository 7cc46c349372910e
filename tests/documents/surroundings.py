"""The files that pages of the documentation take for granted, by the names that they use."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import nets
import numpy as np
import onnx
from documents import networks

import onnxpfp

SAMPLES = 96
ORIGINALS = ("in.onnx", "original.onnx")
PRUNED = ("pruned.onnx",)
MEAN, DEVIATION = 0.2860, 0.3530
GREY, RGB = 0, 2
"""Kinds of colours in the header of a PNG file."""
SCRIPT = """import numpy as np


def feeds():
    for image in np.load("photos.npz")["images"]:
        yield {"images": image[None]}
"""


def prepare(folder: Path, pruned: bytes) -> None:
    """Lay out a network, what was pruned from it, its data in every form, and the networks of `models/`."""
    original = nets.network("resnet").read_bytes()
    for name in ORIGINALS:
        (folder / name).write_bytes(original)
    for name in PRUNED:
        (folder / name).write_bytes(pruned)
    with np.load(nets.ROOT / "models" / "fmnist_test.npz") as test:
        images, labels = test["images"][:SAMPLES], test["labels"][:SAMPLES]
    for name in ("inputs", "calibration"):
        np.savez(folder / f"{name}.npz", images=images)
        np.save(folder / f"{name}.npy", images)
    np.save(folder / "labels.npy", labels)
    for name, network in {
        "yolo": networks.detector(),
        "recogniser": networks.recogniser(),
        "vit": networks.transformer(),
        "text": networks.text(),
        "recurrent": networks.recurrent(),
    }.items():
        onnx.save(network, folder / f"{name}.onnx")
    photos = nets.noise(SAMPLES, 3, 64, 64)
    np.savez(folder / "photos.npz", images=photos)
    np.savez(folder / "lines.npz", x=nets.noise(SAMPLES, 3, 32, 96))
    np.savez(folder / "steps.npz", x=nets.noise(SAMPLES, 1, 8))
    _pictures(folder / "images", images * DEVIATION + MEAN)
    _pictures(folder / "photos", photos / 4 + 0.5)
    _folders(folder, photos)
    (folder / "script.py").write_text(SCRIPT)
    (folder / "models").mkdir()
    for path in (nets.ROOT / "models").glob("*.[on]*"):
        (folder / "models" / path.name).symlink_to(path)


def pruned_network() -> bytes:
    """Prune the network of the pages by its weights alone."""
    result = onnxpfp.prune(str(nets.network("resnet")), keep_macs=0.7, no_latency=True)
    return result.model.SerializeToString()


def _pictures(folder: Path, images: np.ndarray) -> None:
    """Write images (N, C, H, W) of levels 0 to 1 as PNG files, grey ones or RGB."""
    folder.mkdir()
    levels = np.rint(images * 255).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    for number, pixels in enumerate(levels):
        (folder / f"{number:03}.png").write_bytes(_png(pixels))


def _folders(folder: Path, photos: np.ndarray) -> None:
    """Write what a folder holds: arrays, sentences of tokens, test data as that of ONNX's backend suite."""
    for name in ("arrays", "tokens"):
        (folder / name).mkdir()
    for number, photo in enumerate(photos):
        np.save(folder / "arrays" / f"{number:03}.npy", photo)
        np.save(folder / "tokens" / f"{number:03}.npy", np.arange(number, number + 8) % 50)
        run = folder / "test_data" / f"test_data_set_{number}"
        run.mkdir(parents=True)
        tensor = onnx.numpy_helper.from_array(photo[None], "images")
        (run / "input_0.pb").write_bytes(tensor.SerializeToString())


def _png(pixels: np.ndarray) -> bytes:
    """Encode 8-bit levels (H, W, 1 or 3) (https://www.w3.org/TR/png-3/)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    unfiltered = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, {1: GREY, 3: RGB}[channels], 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(unfiltered)) + chunk(b"IEND", b"")
