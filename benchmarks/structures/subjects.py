"""What is made smaller: the trained networks, and shapes with random weights."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.latency.subjects import SUBJECTS as MEASURED
from benchmarks.latency.subjects import Places, Subject, shape
from benchmarks.structures.convnext import convnext

__all__ = ["FAST", "SUBJECTS", "Places", "Subject"]

SUBJECTS: Mapping[str, Subject] = {
    "ocr": MEASURED["ocr"],
    **{name: MEASURED[name] for name in ("mobilenet_v2", "vit_small")},
    "convnext": shape("convnext", "ConvNeXt shape", convnext),
}

FAST: Mapping[str, Subject] = {name: MEASURED[name] for name in ("resnet20", "resnet56", "fmnist_resnet", "ocr")}
"""Those that are pruned to a share of their latency."""
