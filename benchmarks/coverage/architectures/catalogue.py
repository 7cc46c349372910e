"""All networks of the benchmark."""

from __future__ import annotations

from benchmarks.coverage.architectures import from_timm, from_torchvision, from_transformers, written_here

__all__ = ["NETS"]

NETS = [*from_torchvision.NETS, *from_timm.NETS, *from_transformers.NETS, *written_here.NETS]
