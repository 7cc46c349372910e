"""The 24 networks of torchvision that the other pruners were measured on, and one of each other family."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from benchmarks.coverage.architectures.net import Net, image

__all__ = ["NETS"]

FAILS = math.nan
PEERS = {
    "resnet18": 0.27,
    "resnet50": 0.26,
    "wide_resnet50_2": 0.25,
    "resnext50_32x4d": 0.26,
    "vgg11_bn": 0.25,
    "alexnet": 0.28,
    "squeezenet1_1": 0.33,
    "googlenet": 0.27,
    "inception_v3": 0.25,
    "densenet121": 0.26,
    "mobilenet_v2": 0.29,
    "mobilenet_v3_small": 0.33,
    "mnasnet0_5": 0.33,
    "efficientnet_b0": 0.29,
    "efficientnet_v2_s": 0.26,
    "regnet_x_400mf": 0.26,
    "regnet_y_400mf": 0.27,
    "shufflenet_v2_x1_0": FAILS,
    "convnext_tiny": 0.26,
    "vit_b_32": 0.68,
    "swin_t": FAILS,
    "fcn_resnet50": 0.25,
    "deeplabv3_mobilenet_v3_large": 0.26,
    "lraspp_mobilenet_v3_large": 0.28,
}
"""MACs that Torch-Pruning 1.6.1 keeps at 50 % of the channels (measured: random weights, images of 96 pixels)."""
SIDES = {
    "alexnet": 224,
    "vgg11_bn": 224,
    "inception_v3": 299,
    "vit_b_32": 224,
    "swin_t": 224,
    "swin_v2_t": 224,
    "maxvit_t": 224,
}
"""Those that need more than 96 pixels."""
OTHERS = ("swin_v2_t", "maxvit_t")
SEGMENTATION = {"fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"}


def _builder(name: str) -> Callable[[], nn.Module]:
    options: dict[str, Any] = {"weights": None}
    if name in SEGMENTATION:
        options["weights_backbone"] = None
    if name in {"googlenet", "inception_v3"}:
        options |= {"aux_logits": False, "init_weights": False}
    return lambda: models.get_model(name, **options)


def _segmentation(out: dict[str, Tensor]) -> Tensor:
    return out["out"]


def _net(name: str) -> Net:
    outputs = {"outputs": _segmentation} if name in SEGMENTATION else {}
    return Net(name, "torchvision", _builder(name), image(SIDES.get(name, 96)), peer=PEERS.get(name), **outputs)


VIDEO = Net(
    "r3d_18",
    "torchvision",
    lambda: models.get_model("r3d_18", weights=None),
    {"video": torch.zeros(1, 3, 8, 64, 64)},
)
NETS = [*map(_net, PEERS), *map(_net, OTHERS), VIDEO]
