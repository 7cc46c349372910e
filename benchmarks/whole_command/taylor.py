"""Prune once with Torch-Pruning by Taylor importances; runs in the environment of the peers, which may lack onnxpfp.

    python -m benchmarks.whole_command.taylor MODEL SAMPLES.npz OUT.json

The network is the torch twin of the file. Its gradients come from one pass forward and backward over the samples, whose
labels are the network's own answers. Then the dependency graph is traced, every channel ranked over all layers, and the
network cut once, without a search for a share of the multiply-adds. The file is not written.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp

from benchmarks.accuracy.peers.twin import Twin

BATCH = 16
"""Images in one run, as in the forward pass."""
RATIO = 0.2
"""Share of the channels that goes."""

Seconds = dict[str, float]


@contextmanager
def _counted(seconds: Seconds, phase: str) -> Generator[None]:
    """Count the processor seconds of what runs inside."""
    start = time.process_time()
    yield
    seconds[phase] = time.process_time() - start


def _backward(twin: Twin, samples: np.ndarray) -> None:
    """Leave the gradients of the mean loss over all samples in the parameters."""
    for start in range(0, len(samples), BATCH):
        scores = twin(torch.from_numpy(samples[start : start + BATCH]))
        loss = torch.nn.functional.cross_entropy(scores, scores.detach().argmax(1), reduction="sum") / len(samples)
        loss.backward()


def pruned(model: Path, samples: np.ndarray) -> Seconds:
    """Prune; return the processor seconds by phase."""
    seconds: Seconds = {}
    with _counted(seconds, "twin"):
        twin = Twin(model)
    with _counted(seconds, "gradients"):
        _backward(twin, samples)
    with _counted(seconds, "dependency graph"):
        pruner = tp.pruner.BasePruner(
            twin,
            torch.zeros(1, *twin.input_shape),
            importance=tp.importance.GroupTaylorImportance(),
            pruning_ratio=RATIO,
            global_pruning=True,
            ignored_layers=[twin.classifier],
        )
    with _counted(seconds, "pruning"):
        pruner.step()
    return seconds


def main() -> None:
    """Prune and write what it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    for name in ("model", "samples", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (samples,) = np.load(options.samples).values()
    seconds = pruned(options.model, samples)
    tool = f"Torch-Pruning {importlib.metadata.version('torch-pruning')}"
    options.out.write_text(json.dumps({"tool": tool, "seconds": seconds}), encoding="utf-8")


if __name__ == "__main__":
    main()
