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
    }.items():
        onnx.save(network, folder / f"{name}.onnx")
    np.savez(folder / "photos.npz", images=nets.noise(SAMPLES, 3, 64, 64))
    np.savez(folder / "lines.npz", x=nets.noise(SAMPLES, 3, 32, 96))
    _pictures(folder / "images", images)
    _test_data(folder / "test_data_set_0", images)
    (folder / "models").mkdir()
    for path in (nets.ROOT / "models").glob("*.[on]*"):
        (folder / "models" / path.name).symlink_to(path)


def pruned_network() -> bytes:
    """Prune the network of the pages by its weights alone."""
    result = onnxpfp.prune(str(nets.network("resnet")), keep_macs=0.7, no_latency=True)
    return result.model.SerializeToString()


def _pictures(folder: Path, images: np.ndarray) -> None:
    """Write images as grey PNG files."""
    folder.mkdir()
    levels = np.rint((images[:, 0] * DEVIATION + MEAN) * 255).clip(0, 255).astype(np.uint8)
    for number, rows in enumerate(levels):
        (folder / f"{number:03}.png").write_bytes(_png(rows))


def _png(rows: np.ndarray) -> bytes:
    """Encode 8-bit grey levels (H, W) (https://www.w3.org/TR/png-3/)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = rows.shape
    unfiltered = b"".join(b"\0" + row.tobytes() for row in rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(unfiltered)) + chunk(b"IEND", b"")


def _test_data(folder: Path, images: np.ndarray) -> None:
    """Write the first sample as the test data of ONNX's backend suite."""
    folder.mkdir()
    (folder / "input_0.pb").write_bytes(onnx.numpy_helper.from_array(images[:1], "images").SerializeToString())
