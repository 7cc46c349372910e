"""Make the networks of the speed benchmark: shapes of torchvision at 224 x 224, a free batch axis, random weights.

    pip install torch==2.13.0 torchvision==0.28.0
    python -m benchmarks.speed.exports DIR [NAME ...]

Batch normalizations have random gains and shifts, and the statistics of a batch of noise, so that activations spread as
those of a trained network do. Files that are there stay as they are.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from torch import nn
from torchvision import models

from benchmarks.coverage.architectures.export import export
from benchmarks.coverage.architectures.net import Net, image
from benchmarks.speed.networks import EXPORTED, SIDE

SHIFT = 0.3
"""Standard deviation of the shifts, in those of the activations."""


def _shifted(name: str) -> nn.Module:
    """Build a network whose normalizations do not centre on zero: how often a ReLU cuts differs by channel."""
    module = models.get_model(name, weights=None)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.bias, 0, SHIFT)
    return module


def main() -> None:
    """Export the networks that lack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the exported files")
    parser.add_argument("names", nargs="*", default=list(EXPORTED))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        file = options.out / f"{name}.onnx"
        if not file.exists():
            net = Net(name, "torchvision", partial(_shifted, name), image(SIDE), dynamic=True)
            export(net, "torchscript", file)
            print(file)


if __name__ == "__main__":
    main()
