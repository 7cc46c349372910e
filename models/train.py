"""Train the networks of this folder on Fashion-MNIST and export them to ONNX.

Writes, into the output folder, one ONNX file per network plus the calibration and test images.
"""

import argparse
import gzip
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from architectures import NETWORKS
from torch import Tensor, nn
from torch.nn import functional

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

DEBIAN_DATA = Path("/usr/share/datasets/fashion-mnist")
MEAN = 0.2860
STD = 0.3530
SIDE = 28
MAX_SHIFT = 2
BATCH = 256
EVALUATION_BATCH = 1000
CALIBRATION_IMAGES = 256
TEST_IMAGES = 1000
OPSET = 17
EPOCHS = {"fmnist_resnet": 14, "fmnist_densenet": 10, "fmnist_mobilenet": 4}


@dataclass(frozen=True)
class Split:
    """Images as stored, (N, 28, 28) grey levels, with their class numbers."""

    images: Bytes
    labels: Labels


def read_idx(path: Path) -> Bytes:
    """Read a gzipped IDX file of unsigned bytes.

    Args:
        path: The file.

    Returns:
        The array, in the shape that the header gives.

    Raises:
        ValueError: The file is not an IDX file of unsigned bytes.
    """
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    rank = raw[3]
    shape = np.frombuffer(raw, dtype=">u4", count=rank, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_split(folder: Path, prefix: str) -> Split:
    """Read the images and labels of one split.

    Args:
        folder: Folder with the four IDX files of Fashion-MNIST.
        prefix: ``train`` or ``t10k``.

    Returns:
        The split.
    """
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    return Split(images, labels.astype(np.int64))


def normalise(images: Bytes) -> Floats:
    """Turn grey levels into network inputs.

    Args:
        images: Grey levels of shape (N, 28, 28).

    Returns:
        Values of about zero mean and unit variance, of shape (N, 1, 28, 28).
    """
    scaled = (images[:, None].astype(np.float32) / 255 - MEAN) / STD
    return scaled.astype(np.float32)


def augment(images: Bytes, rng: np.random.Generator) -> Bytes:
    """Shift each image at random, filling with background, and mirror half of them.

    Args:
        images: Grey levels of shape (N, 28, 28).
        rng: Source of the shifts and flips.

    Returns:
        New images of the same shape.
    """
    margin = (MAX_SHIFT, MAX_SHIFT)
    padded = np.pad(images, ((0, 0), margin, margin))
    count = len(images)
    offsets = rng.integers(0, 2 * MAX_SHIFT + 1, size=(2, count, 1))
    rows = offsets[0] + np.arange(SIDE)
    columns = offsets[1] + np.arange(SIDE)
    flipped = rng.integers(0, 2, size=(count, 1)) == 1
    columns = np.where(flipped, columns[:, ::-1], columns)
    shifted: Bytes = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return shifted


def to_tensor(images: Bytes) -> Tensor:
    """Normalise images into a tensor laid out channels last, which is faster on a CPU."""
    return torch.from_numpy(normalise(images)).contiguous(memory_format=torch.channels_last)


def make_optimizer(network: nn.Module, max_rate: float) -> torch.optim.Optimizer:
    """Build AdamW with weight decay on convolution and linear weights only."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": 0.05},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=max_rate)


def train(network: nn.Module, data: Split, epochs: int, seed: int, max_rate: float) -> None:
    """Train a network in place with AdamW and a one-cycle learning rate.

    Args:
        network: The network; left in evaluation mode.
        data: The training split.
        epochs: Number of passes over the data.
        seed: Seed of the shuffling and of the augmentation.
        max_rate: Peak of the learning rate.
    """
    rng = np.random.default_rng(seed)
    network.train()
    steps = len(data.labels) // BATCH
    optimizer = make_optimizer(network, max_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=max_rate, total_steps=epochs * steps, pct_start=0.25
    )
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        # The incomplete last batch is dropped: it would weigh as much as a whole one.
        for batch in rng.permutation(len(data.labels))[: steps * BATCH].reshape(steps, BATCH):
            logits = network(to_tensor(augment(data.images[batch], rng)))
            loss = functional.cross_entropy(logits, torch.from_numpy(data.labels[batch]))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - start
        mean_loss = total / steps
        print(f"  epoch {epoch + 1}/{epochs}: loss {mean_loss:.4f}, {seconds:.0f} s", flush=True)
    network.eval()


def torch_logits(network: nn.Module, images: Bytes) -> Floats:
    """Run a network in PyTorch, in batches that bound the memory used."""
    with torch.no_grad():
        parts = [
            network(to_tensor(images[start : start + EVALUATION_BATCH])).numpy()
            for start in range(0, len(images), EVALUATION_BATCH)
        ]
    return np.concatenate(parts)


def onnx_logits(path: Path, images: Bytes) -> Floats:
    """Run an exported network in ONNX Runtime, in batches that bound the memory used."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [
        session.run(["logits"], {"images": normalise(images[start : start + EVALUATION_BATCH])})[0]
        for start in range(0, len(images), EVALUATION_BATCH)
    ]
    return np.concatenate(parts)


def export(network: nn.Module, path: Path) -> None:
    """Export a network in evaluation mode, with its batch normalisations kept as nodes.

    Args:
        network: The trained network.
        path: The ONNX file to write.
    """
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, SIDE, SIDE),),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}},
        opset_version=OPSET,
        # The default mode folds batch normalisation into convolutions; a pruner should see both.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )
    onnx.checker.check_model(path, full_check=True)


def accuracy(logits: Floats, labels: Labels) -> float:
    """Give the share of rows whose largest logit is that of the label."""
    return float(np.mean(logits.argmax(axis=1) == labels))


def write_arrays(train_data: Split, test_data: Split, out: Path, seed: int) -> None:
    """Write the calibration images, drawn from the training split, and the first test images.

    Args:
        train_data: The training split.
        test_data: The test split.
        out: Folder to write into.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(train_data.labels), CALIBRATION_IMAGES, replace=False)
    np.savez_compressed(out / "fmnist_calibration.npz", images=normalise(train_data.images[drawn]))
    np.savez_compressed(
        out / "fmnist_test.npz",
        images=normalise(test_data.images[:TEST_IMAGES]),
        labels=test_data.labels[:TEST_IMAGES],
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEBIAN_DATA, help="folder of the IDX files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which to train")
    parser.add_argument("--epochs", type=int, help="instead of each network's own number")
    parser.add_argument("--max-rate", type=float, default=0.006, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of PyTorch")
    return parser.parse_args()


def train_and_export(name: str, data: Split, test: Split, arguments: argparse.Namespace) -> None:
    """Make one ONNX file and print its accuracy in PyTorch and in ONNX Runtime.

    Args:
        name: Name of the network and stem of the file.
        data: The training split.
        test: The test split.
        arguments: The command line.
    """
    torch.manual_seed(arguments.seed)
    network = NETWORKS[name]()
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{name}: {parameters} parameters", flush=True)
    epochs = arguments.epochs or EPOCHS[name]
    train(network, data, epochs, arguments.seed, arguments.max_rate)
    path = arguments.out / f"{name}.onnx"
    export(network, path)
    reference = torch_logits(network, test.images)
    exported = onnx_logits(path, test.images)
    print(
        f"  accuracy: torch {accuracy(reference, test.labels):.4f}, "
        f"onnxruntime {accuracy(exported, test.labels):.4f}; "
        f"largest difference of logits {np.abs(reference - exported).max():.1e}",
        flush=True,
    )


def main() -> None:
    """Write the image files, then train, export and measure the chosen networks."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    data = read_split(arguments.data, "train")
    test = read_split(arguments.data, "t10k")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_arrays(data, test, arguments.out, arguments.seed)
    for name in arguments.networks:
        train_and_export(name, data, test, arguments)


if __name__ == "__main__":
    main()
