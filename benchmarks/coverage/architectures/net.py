"""One network: how it is built, what it reads, and how its random weights are made to tell something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Net", "Wrapped", "enliven", "image"]

SMALL = 0.1
"""Layer scales and gains start at 1e-6 or 0: their branches would add nothing, and a wrong channel would not show."""


@dataclass(frozen=True)
class Net:
    """A network of the list.

    Attributes:
        name: As its library calls it.
        source: The library, or "here".
        build: Makes it with random weights.
        inputs: Example inputs by name.
        outputs: Takes the tensors out of what it returns.
        peer: MACs that Torch-Pruning keeps of it; NaN where it fails; None where it was not measured.
        dynamic: Whether the first axis of the inputs is free in the TorchScript export.
        exporters: The exporters of torch that can export it.
    """

    name: str
    source: str
    build: Callable[[], nn.Module]
    inputs: Mapping[str, Tensor]
    outputs: Callable[[Any], Any] = field(default=lambda out: out)
    peer: float | None = None
    dynamic: bool = False
    exporters: tuple[str, ...] = ("torchscript", "dynamo")


def image(side: int, channels: int = 3) -> dict[str, Tensor]:
    """One image of noise."""
    return {"image": torch.zeros(1, channels, side, side)}


class Wrapped(nn.Module):
    """A network that takes its inputs by position and returns tensors only."""

    def __init__(self, net: Net, module: nn.Module) -> None:
        """Wrap a module."""
        super().__init__()
        self.module = module
        self.names = tuple(net.inputs)
        self.outputs = net.outputs
        self.by_name = net.source == "transformers"

    def forward(self, *given: Tensor) -> Any:
        """Call it."""
        if self.by_name:
            return self.outputs(self.module(**dict(zip(self.names, given, strict=True))))
        return self.outputs(self.module(*given))


def enliven(net: Net, module: nn.Module, *, biases: bool) -> None:
    """Make random weights show what pruning does wrong.

    Gains that start at (nearly) zero become about one, weights that are all zero become noise, and BatchNormalization
    gets the statistics of a batch of noise.

    Args:
        net: The network.
        module: Its module, in eval mode.
        biases: Whether biases that start at zero become noise too. Exporters merge equal vectors, so zero ones are a
            test of their own.
    """
    for name, parameter in module.named_parameters():
        if parameter.numel() and float(parameter.detach().min()) == float(parameter.detach().max()):
            _randomise(name, parameter.detach(), biases=biases)
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.train()
        norm.momentum = None
    feeds = [torch.randn(8, *x.shape[1:]) if x.is_floating_point() else x.expand(8, *x.shape[1:]) for x in _feeds(net)]
    with torch.no_grad():
        Wrapped(net, module)(*feeds)
    for norm in norms:
        norm.eval()


def _feeds(net: Net) -> list[Tensor]:
    return list(net.inputs.values())


def _randomise(name: str, values: Tensor, *, biases: bool) -> None:
    level = float(values.min())
    if name.endswith("bias"):
        if biases and level == 0:
            values.normal_(0, 0.1)
    elif values.numel() > max(values.shape, default=1):
        values.normal_(0, (values.numel() / values.shape[0]) ** -0.5)
    else:
        gain = level if abs(level) > SMALL else 1.0
        values.uniform_(0.5 * gain, 1.5 * gain)
