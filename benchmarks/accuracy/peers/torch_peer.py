"""Torch-Pruning (DepGraph): groups of coupled layers found by tracing a torch module.

The module is a twin of the ONNX file. Importances and pruner are those of its documentation: `GroupMagnitudeImportance`
with p=1 and p=2, `FPGMImportance`, `BNScaleImportance`, and `GroupTaylorImportance` after one backward pass of the
loss on the calibration images with their labels (the only method here that sees labels). `BasePruner` prunes in one
step, with the same ratio for every layer (its default, "local") or by ranking all layers together ("global"); the
classifier is ignored.

A `Pad` of channels is no layer of Torch-Pruning, which would take it for an elementwise op; the twin's `ChannelPad` is
registered as a customized layer, whose inputs and outputs are pruned apart like those of a 1x1 convolution.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray

from benchmarks.accuracy.peers.layers import ChannelPad
from benchmarks.accuracy.peers.search import prune_to_share
from benchmarks.accuracy.peers.task import Task
from benchmarks.accuracy.peers.twin import Twin

__all__ = ["Method", "Ranking", "prune_torch", "write_torch"]

Method = Literal["l1", "l2", "fpgm", "bn_scale", "taylor"]
Ranking = Literal["local", "global"]
BATCH, OPSET = 64, 17


class ChannelPadPruner(tp.BasePruningFunc):
    """Tells Torch-Pruning how to cut a `ChannelPad`."""

    def prune_out_channels(self, layer: ChannelPad, idxs: Sequence[int]) -> ChannelPad:
        """Drop outputs."""
        layer.source = layer.source[_others(len(layer.source), idxs)]
        return layer

    def prune_in_channels(self, layer: ChannelPad, idxs: Sequence[int]) -> ChannelPad:
        """Drop inputs; the outputs that they fed are zero from then on."""
        kept = _others(layer.channels, idxs)
        place = torch.full((layer.channels + 1,), len(kept))
        place[kept] = torch.arange(len(kept))
        layer.source, layer.channels = place[layer.source], len(kept)
        return layer

    def get_out_channels(self, layer: ChannelPad) -> int:
        """Count the outputs."""
        return len(layer.source)

    def get_in_channels(self, layer: ChannelPad) -> int:
        """Count the inputs."""
        return layer.channels


def _others(count: int, removed: Sequence[int]) -> torch.Tensor:
    mask = torch.ones(count, dtype=torch.bool)
    mask[list(removed)] = False
    return mask.nonzero().flatten()


def prune_torch(task: Task, method: Method, ranking: Ranking) -> None:
    """Prune with Torch-Pruning.

    Args:
        task: What to prune.
        method: How channels are ranked; "taylor" needs labels, "bn_scale" a BatchNormalization that is not folded.
        ranking: Within each layer, or over all layers.
    """
    twin = Twin(task.model)
    if method == "taylor":
        if task.labels is None:
            raise ValueError("Taylor importance needs the labels of the calibration images")
        _backward(twin, task.images, task.labels)

    prune_to_share(task, lambda ratio, file: write_torch(twin, method, ranking, ratio, file))


def write_torch(
    twin: Twin, method: Method, ranking: Ranking, ratio: float, file: Path, *, round_to: int | None = None
) -> None:
    """Prune a copy of a network and write it.

    Args:
        twin: The network; "taylor" needs its gradients.
        method: How channels are ranked.
        ranking: Within each layer, or over all layers.
        ratio: Share of the channels to remove.
        file: Where to.
        round_to: Multiple of the widths that are left.
    """
    pruned = _copy(twin)
    pruner = tp.pruner.BasePruner(
        pruned,
        torch.zeros(1, *pruned.input_shape),
        importance=_importance(method),
        pruning_ratio=ratio,
        global_pruning=ranking == "global",
        round_to=round_to,
        ignored_layers=[pruned.classifier],
        customized_pruners={ChannelPad: ChannelPadPruner()},
    )
    pruner.step()
    _export(pruned, file)


def _importance(method: Method) -> tp.importance.Importance:
    match method:
        case "l1":
            return tp.importance.GroupMagnitudeImportance(p=1)
        case "l2":
            return tp.importance.GroupMagnitudeImportance(p=2)
        case "fpgm":
            return tp.importance.FPGMImportance()
        case "bn_scale":
            return tp.importance.BNScaleImportance()
        case "taylor":
            return tp.importance.GroupTaylorImportance()


def _backward(twin: Twin, images: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Leave the gradients of the mean loss over all images in the parameters."""
    for start in range(0, len(images), BATCH):
        x, y = (torch.from_numpy(array[start : start + BATCH]) for array in (images, labels))
        loss = torch.nn.functional.cross_entropy(twin(x), y, reduction="sum") / len(images)
        loss.backward()


def _copy(twin: Twin) -> Twin:
    """Copy the network together with its gradients, which a plain copy leaves behind."""
    fresh = copy.deepcopy(twin)
    for mine, theirs in zip(fresh.parameters(), twin.parameters(), strict=True):
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    return fresh


def _export(twin: Twin, file: Path) -> None:
    twin.zero_grad()
    with warnings.catch_warnings():
        # The exporter recommends the newer one, which takes more packages, and speaks of constants it does not know.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            twin,
            (torch.zeros(1, *twin.input_shape),),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[twin.input_name],
            output_names=[twin.output_name],
            dynamic_axes={twin.input_name: {0: "N"}, twin.output_name: {0: "N"}},
        )
