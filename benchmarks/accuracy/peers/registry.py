"""The peers and their methods."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from benchmarks.accuracy.peers.task import Task

if TYPE_CHECKING:
    from benchmarks.accuracy.peers import onnxsim_peer, torch_peer

__all__ = ["PEERS", "Needs", "Peer"]

Needs = Literal["images", "labels"]
"""Calibration images alone, or with their labels."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One method of an installed pruner.

    Attributes:
        name: Short name, for the command line.
        package: What pip installs.
        modules: What has to be importable.
        method: The method, as tables show it.
        needs: What it needs beside the network; None for the weights alone.
        prune: Runs it. Raises UnreachableShareError where the peer cannot remove so much.
    """

    name: str
    package: str
    modules: tuple[str, ...]
    method: str
    needs: Needs | None
    prune: Callable[[Task], None]

    @property
    def label(self) -> str:
        """Package, installed version and method."""
        return f"{self.package} {importlib.metadata.version(self.package)}, {self.method}"

    def obstacle(self, *, labelled: bool) -> str | None:
        """Say why the peer cannot run; None where it can.

        Args:
            labelled: Whether the classes of the calibration images are known.
        """
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if absent:
            return f"{self.name}: {', '.join(absent)} not installed"
        if self.needs == "labels" and not labelled:
            return f"{self.name}: needs labels of the calibration images"
        return None


def _onnxsim(task: Task, method: onnxsim_peer.Method) -> None:
    # Not installed for everybody, like torch below.
    from benchmarks.accuracy.peers.onnxsim_peer import prune_onnxsim

    prune_onnxsim(task, method)


def _torch_pruning(task: Task, method: torch_peer.Method, ranking: torch_peer.Ranking) -> None:
    from benchmarks.accuracy.peers.torch_peer import prune_torch

    prune_torch(task, method, ranking)


def _of_onnxsim(method: onnxsim_peer.Method, title: str, needs: Needs | None = None) -> Peer:
    return Peer(f"onnxsim_{method}", "onnxsim", ("onnxsim",), title, needs, partial(_onnxsim, method=method))


def _of_torch_pruning(
    method: torch_peer.Method, ranking: torch_peer.Ranking, title: str, needs: Needs | None = None
) -> Peer:
    prune = partial(_torch_pruning, method=method, ranking=ranking)
    modules = ("torch", "torch_pruning")
    return Peer(f"tp_{method}_{ranking}", "torch-pruning", modules, f"{title}, {ranking}", needs, prune)


PEERS: tuple[Peer, ...] = (
    _of_onnxsim("l2", "L2"),
    _of_onnxsim("wanda", "Wanda", "images"),
    _of_torch_pruning("l1", "local", "L1"),
    _of_torch_pruning("l2", "local", "L2"),
    _of_torch_pruning("fpgm", "local", "FPGM"),
    _of_torch_pruning("bn_scale", "local", "BN scale"),
    _of_torch_pruning("taylor", "local", "Taylor (labels)", "labels"),
    _of_torch_pruning("l1", "global", "L1"),
    _of_torch_pruning("l2", "global", "L2"),
    _of_torch_pruning("fpgm", "global", "FPGM"),
    _of_torch_pruning("bn_scale", "global", "BN scale"),
    _of_torch_pruning("taylor", "global", "Taylor (labels)", "labels"),
)
"""All methods; "local" cuts all layers by the same ratio, "global" ranks all layers together."""
