"""onnxsim's structured pruning: chains of convolutions found by matching patterns in the ONNX graph.

`apply_structured_pruning` ranks filters by their L2 norm, `apply_structured_wanda_pruning` by that norm times the
norm of the channel over calibration data. Both expect BatchNormalization to be folded, which `onnxsim.simplify` does,
and take one ratio for all chains. (`global_sparsity=True` would leave out all residual and concatenated chains.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxsim
from numpy.typing import NDArray

from benchmarks.accuracy.peers.search import prune_to_share
from benchmarks.accuracy.peers.task import Task

__all__ = ["Method", "prune_onnxsim", "write_onnxsim", "write_simplified"]

Method = Literal["l2", "wanda"]
Feeds = list[dict[str, NDArray[np.float32]]]
BATCH = 64


def prune_onnxsim(task: Task, method: Method) -> None:
    """Prune with onnxsim.

    Args:
        task: What to prune.
        method: How channels are ranked; only "wanda" looks at the images.
    """
    simple, _ = onnxsim.simplify(onnx.load(task.model))
    feeds = _feeds(simple, task.images)
    prune_to_share(task, lambda ratio, file: _write(simple, feeds, method, ratio, file))


def write_simplified(model: Path, file: Path) -> None:
    """Simplify only."""
    simple, _ = onnxsim.simplify(onnx.load(model))
    onnx.save(simple, file)


def write_onnxsim(model: Path, images: NDArray[np.float32], method: Method, ratio: float, file: Path) -> None:
    """Simplify, prune by a ratio and write."""
    simple, _ = onnxsim.simplify(onnx.load(model))
    _write(simple, _feeds(simple, images), method, ratio, file)


def _write(simple: onnx.ModelProto, feeds: Feeds, method: Method, ratio: float, file: Path) -> None:
    if method == "l2":
        pruned = onnxsim.apply_structured_pruning(simple, sparsity=ratio)
    else:
        pruned = onnxsim.apply_structured_wanda_pruning(
            simple, calibration_data=feeds, sparsity=ratio, providers=["CPUExecutionProvider"]
        )
    # Shapes of before the pruning can be left there.
    del pruned.graph.value_info[:]
    onnx.save(pruned, file)


def _feeds(model: onnx.ModelProto, images: NDArray[np.float32]) -> Feeds:
    name = model.graph.input[0].name
    return [{name: images[start : start + BATCH]} for start in range(0, len(images), BATCH)]
